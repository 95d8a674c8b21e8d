"""What is thought of peers is written down before anybody goes by it, and is there afterwards."""

from __future__ import annotations

import os
import sqlite3
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Final

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import standings
from meshkit.audit.containment import MAX_CONTAINED, Contained, ContainedShare
from meshkit.audit.standing import Results, Standing, StandingConfig, judge, recorded, results_of
from meshkit.audit.standings import PeerStandings
from meshkit.audit.values import Outcome, ShareOutcome
from meshkit.errors import NotFound, NotReady, Overloaded, StorageFailed
from meshkit.identity.keys import PublicKey
from meshkit.sim.disk import PowerLost
from meshkit.storage.custody import FULL_WEIGHT, Judgement
from meshkit.testing.identities import make_identity
from tests.audit.machines import Machine

#: Where syncing costs nothing, if there is such a place.
FAST: Final = "/dev/shm" if os.path.isdir("/dev/shm") else None
NOW = 1_800_000_000
DAY = 86_400
TRUSTING = StandingConfig(vetting_audits=0, vetting_days=0)
HERON, EGRET, CRANE = (make_identity(number).public for number in range(3))


def outcomes(peer: PublicKey, of: Outcome, count: int = 1) -> list[ShareOutcome]:
    reason = None if of == "success" else f"it was a {of}"
    return [ShareOutcome(peer, b"c" * 32, number, of, reason) for number in range(count)]


def note(peer: PublicKey = HERON, number: int = 1, tries: int = 1, size: int = 10) -> Contained:
    share = ContainedShare(b"c" * 32, 0, b"r" * 32, 4096, NOW)
    return Contained(
        peer,
        number.to_bytes(16, "big"),
        b"o" * size,
        b"answer",
        b"s" * 32,
        NOW * 1000 + number,
        (share,),
        tries,
    )


class StandingsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.machine.start()
        self.addCleanup(self.machine.stop)
        self.now = NOW
        self.peers = self.begin()

    def begin(self, config: StandingConfig = TRUSTING, **limits: int) -> PeerStandings:
        """@return: those of a process that begins now."""
        peers = PeerStandings(self.machine.database, lambda: float(self.now), config, **limits)
        self.machine.wait(peers.start())
        return peers

    def record(self, *found: list[ShareOutcome]) -> None:
        self.machine.wait(self.peers.record(sum(found, []), self.now))

    def weights(self) -> dict[PublicKey, int]:
        return {each.peer: each.judgement.weight for each in self.peers.known()}

    def look(self, sql: str) -> list[Any]:
        return self.machine.backing.look(sql)


class RecordTests(StandingsCase):
    def test_a_peer_that_fails_again_and_again_is_refused_and_the_others_are_not(self) -> None:
        for _ in range(5):
            self.record(outcomes(HERON, "failure"), outcomes(EGRET, "success"))
        self.assertIsNone(self.peers.judge(HERON).refused)
        self.record(outcomes(HERON, "failure"), outcomes(EGRET, "success"))
        self.assertIn("audits failed", str(self.peers.judge(HERON).refused))
        self.assertEqual(self.peers.judge(EGRET), Judgement(FULL_WEIGHT))
        self.assertEqual(self.peers.judge(CRANE), Judgement(FULL_WEIGHT))

    def test_who_begins_anew_with_the_same_key_is_who_it_was(self) -> None:
        self.record(outcomes(HERON, "failure", 6), outcomes(EGRET, "unknown", 10))
        self.record(outcomes(CRANE, "success", 30))
        before = self.peers.known()
        self.machine.kill()
        self.peers = self.begin()
        self.assertEqual(self.peers.known(), before)
        self.assertEqual(self.weights(), {HERON: 0, EGRET: 0, CRANE: FULL_WEIGHT})

    def test_nobody_goes_by_what_is_not_on_the_disk(self) -> None:
        self.machine.backing.fail("COMMIT", sqlite3.SQLITE_FULL)
        with self.assertRaises(StorageFailed):
            self.record(outcomes(HERON, "failure", 6))
        self.assertIsNone(self.peers.judge(HERON).refused)
        self.assertEqual(self.peers.known(), [])
        self.machine.backing.mend()
        doing = self.peers.record(outcomes(HERON, "failure", 6), NOW)
        self.assertIsNone(self.peers.judge(HERON).refused)
        self.machine.wait(doing)
        self.assertIsNotNone(self.peers.judge(HERON).refused)

    def test_two_who_record_at_once_lose_nothing_of_each_other(self) -> None:
        first = self.peers.record(outcomes(HERON, "failure", 3), NOW)
        second = self.peers.record(outcomes(HERON, "failure", 3), NOW)
        self.machine.wait(first)
        self.machine.wait(second)
        self.assertIsNotNone(self.peers.judge(HERON).refused)
        self.assertEqual(self.look("SELECT failures FROM audit_peers"), [(6,)])

    def test_who_does_not_wait_any_more_changes_nothing_of_what_is_thought(self) -> None:
        doing = self.peers.record(outcomes(HERON, "failure", 6), NOW)
        doing.cancel()
        self.failureResultOf(doing, CancelledError)
        self.machine.clock.advance(0)
        self.assertIsNotNone(self.peers.judge(HERON).refused)
        self.assertEqual(self.look("SELECT failures FROM audit_peers"), [(6,)])

    def test_a_standing_comes_back_from_the_disk_as_it_was(self) -> None:
        wanted = None
        for results, of in (
            (Results(successes=4), "success"),
            (Results(failures=4, problem="it was a failure"), "failure"),
            (Results(offlines=4, problem="it was a offline", excused=True), "offline"),
            (Results(unknowns=4, problem="it was a unknown"), "unknown"),
            (Results(contained=4, problem="it was a contained"), "contained"),
        ):
            self.now += DAY
            wanted = recorded(wanted, results, self.now, TRUSTING)
            self.record(outcomes(HERON, of, 4))  # type: ignore[arg-type]
        self.machine.kill()
        found = self.machine.wait(
            self.machine.database.read(lambda db: standings.find_peer(db, HERON))
        )
        self.assertEqual(found, wanted)
        self.assertEqual(self.begin().find(HERON).standing, wanted)

    def test_what_is_held_against_a_peer_fades_while_nobody_records_anything(self) -> None:
        self.record(outcomes(HERON, "failure", 6))
        days = TRUSTING.audits.returning_days(TRUSTING.audits.after(TRUSTING.audits.new, 0, 6))
        self.now += (days - 1) * DAY
        self.assertIsNotNone(self.peers.judge(HERON).refused)
        self.now += DAY
        self.assertIsNone(self.peers.judge(HERON).refused)

    def test_nothing_is_given_or_taken_before_what_is_known_was_read(self) -> None:
        self.record(outcomes(HERON, "failure", 6))
        early = PeerStandings(self.machine.database, lambda: float(NOW), TRUSTING)
        for peer in (HERON, EGRET):
            self.assertIn("not been read", str(early.judge(peer).refused))
        self.failureResultOf(early.record(outcomes(HERON, "success"), NOW), NotReady)
        self.failureResultOf(early.put(note()), NotReady)
        self.failureResultOf(early.of(HERON), NotReady)
        self.failureResultOf(early.forgive(HERON), NotReady)
        self.machine.wait(early.start())
        self.assertEqual(early.judge(EGRET), Judgement(FULL_WEIGHT))


class OutageTests(StandingsCase):
    def offline(self, *peers: PublicKey) -> None:
        for peer in peers:
            self.record(outcomes(peer, "offline"))

    def pass_days(self, days: int, reached: bool) -> None:
        for _ in range(24 * days):
            if reached:
                self.record(outcomes(CRANE, "success"))
            self.offline(HERON, EGRET)
            self.now += 3_600

    def test_a_peer_that_is_away_while_others_are_there_is_refused_in_the_end(self) -> None:
        self.pass_days(8, reached=True)
        self.assertEqual(self.weights(), {HERON: 0, EGRET: 0, CRANE: FULL_WEIGHT})
        self.assertIn("too seldom", str(self.peers.judge(HERON).refused))

    def test_nobody_is_refused_as_we_were_not_there_ourselves(self) -> None:
        self.record(outcomes(HERON, "success"), outcomes(EGRET, "success"))
        self.now += 2 * standings.OUTAGE_SECONDS
        self.pass_days(20, reached=False)
        # A node that begins in an outage knows of nobody whom it has reached.
        self.machine.kill()
        self.peers = self.begin()
        self.pass_days(10, reached=False)
        self.assertEqual(self.weights(), {HERON: FULL_WEIGHT, EGRET: FULL_WEIGHT})
        found = self.peers.find(HERON).standing
        assert found is not None
        self.assertEqual((found.offlines, len(found.windows)), (30 * 24, 1))

    def test_for_an_hour_after_somebody_was_reached_it_is_the_others_who_are_not_there(
        self,
    ) -> None:
        self.record(outcomes(CRANE, "success"))
        for seconds in (standings.OUTAGE_SECONDS, standings.OUTAGE_SECONDS + 1):
            self.now = NOW + seconds
            self.offline(HERON)
        found = self.peers.find(HERON).standing
        assert found is not None
        self.assertEqual([window.total for window in found.windows], [1])


class LimitTests(StandingsCase):
    def test_of_too_many_peers_those_without_history_are_forgotten_first(self) -> None:
        self.peers = self.begin(max_peers=10)
        self.record(outcomes(HERON, "failure", 6))
        self.record(outcomes(EGRET, "success", 50))
        crowd = [make_identity(number).public for number in range(10, 60)]
        for peer in crowd:
            self.now += 1
            self.record(outcomes(peer, "success"))
            self.assertIsNotNone(self.peers.find(peer).standing)
        self.assertEqual(len(self.peers.known()), 10)
        self.assertEqual(self.look("SELECT count(*) FROM audit_peers"), [(10,)])
        kept = {HERON, EGRET, *crowd[-8:]}
        self.assertEqual({each.peer for each in self.peers.known()}, kept)
        self.assertIsNotNone(self.peers.judge(HERON).refused)

    def test_a_bad_name_is_not_washed_away_by_many_good_ones(self) -> None:
        self.peers = self.begin(max_peers=5)
        self.record(outcomes(HERON, "failure", 6))
        crowd = [make_identity(number).public for number in range(10, 20)]
        for peer in crowd:
            self.record(outcomes(peer, "success", 500))
        self.assertIsNotNone(self.peers.judge(HERON).refused)

    def test_who_is_new_has_a_chance_to_become_known(self) -> None:
        self.peers = self.begin(max_peers=3)
        for peer, count in ((HERON, 50), (EGRET, 40), (CRANE, 60)):
            self.record(outcomes(peer, "success", count))
        new = make_identity(10).public
        self.record(outcomes(new, "success"))
        self.assertEqual({each.peer for each in self.peers.known()}, {HERON, CRANE, new})

    def test_more_at_once_than_there_is_room_for_are_forgotten_at_once(self) -> None:
        self.peers = self.begin(max_peers=3)
        crowd = [make_identity(number).public for number in range(10, 20)]
        self.record(*[outcomes(peer, "success") for peer in crowd])
        self.assertEqual(len(self.peers.known()), 3)
        self.assertEqual(self.look("SELECT count(*) FROM audit_peers"), [(3,)])

    def test_the_limits_are_those_that_are_documented(self) -> None:
        self.assertEqual(standings.MAX_PEERS, 10_000)
        self.assertEqual(standings.MAX_NOTES, 4_096)
        self.assertEqual(standings.MAX_NOTE_BYTES, 256 * 2**20)


class ForgivingTests(StandingsCase):
    def test_a_peer_that_is_forgiven_begins_anew_and_owes_nothing(self) -> None:
        self.peers = self.begin(StandingConfig())
        self.record(outcomes(HERON, "failure", 500))
        self.machine.wait(self.peers.put(note()))
        self.machine.wait(self.peers.forgive(HERON))
        self.assertEqual(self.peers.judge(HERON), Judgement(StandingConfig().vetting_weight))
        self.assertEqual(self.machine.wait(self.peers.of(HERON)), ())
        # It was on the disk before that was said.
        self.machine.kill()
        self.peers = self.begin(StandingConfig())
        self.assertEqual(self.peers.judge(HERON), Judgement(StandingConfig().vetting_weight))
        self.assertEqual(self.look("SELECT failures FROM audit_peers"), [(500,)])

    def test_one_that_owes_its_very_first_answer_can_be_forgiven(self) -> None:
        self.machine.wait(self.peers.put(note()))
        self.assertIsNotNone(self.peers.judge(HERON).refused)
        self.machine.wait(self.peers.forgive(HERON))
        self.assertEqual(self.peers.judge(HERON), Judgement(FULL_WEIGHT))
        self.assertEqual(self.peers.known(), [])

    def test_one_that_nobody_knows_cannot(self) -> None:
        with self.assertRaisesRegex(NotFound, "has not been audited"):
            self.machine.wait(self.peers.forgive(CRANE))


class TotalsTests(StandingsCase):
    def totals(self) -> tuple[int, int]:
        found = self.peers.totals()
        return found.refused, found.contained

    def test_they_are_those_of_all_that_are_known_whenever_something_is_written_down(self) -> None:
        self.assertEqual(self.totals(), (0, 0))
        self.record(outcomes(HERON, "failure", 6), outcomes(EGRET, "success"))
        self.assertEqual(self.totals(), (1, 0))
        self.machine.wait(self.peers.put(note(CRANE)))
        self.assertEqual(self.totals(), (2, 1))
        self.machine.wait(self.peers.remove(CRANE, note().audit_id))
        self.assertEqual(self.totals(), (1, 0))
        self.machine.wait(self.peers.forgive(HERON))
        self.assertEqual(self.totals(), (0, 0))

    def test_they_are_counted_again_when_time_has_passed(self) -> None:
        self.record(outcomes(HERON, "failure", 6))
        days = TRUSTING.audits.returning_days(TRUSTING.audits.after(TRUSTING.audits.new, 0, 6))
        self.now += (days - 1) * DAY
        self.assertEqual(self.totals(), (1, 0))
        self.now += DAY
        self.assertEqual(self.totals(), (0, 0))

    def test_nobody_is_judged_again_for_who_asks_again(self) -> None:
        self.record(outcomes(HERON, "failure", 6))
        self.totals()
        judged: list[PublicKey] = []
        self.patch(self.peers, "judge", judged.append)
        for _ in range(9):
            self.assertEqual(self.totals(), (1, 0))
        self.now += standings.TOTALS_SECONDS - 1
        self.assertEqual(self.totals(), (1, 0))
        self.assertEqual(judged, [])


class NoteTests(StandingsCase):
    def test_who_owes_an_answer_gets_nothing_until_it_is_given(self) -> None:
        self.record(outcomes(HERON, "success", 50))
        self.machine.wait(self.peers.put(note()))
        self.assertIn("has not answered", str(self.peers.judge(HERON).refused))
        self.assertEqual(self.peers.find(HERON).owes, 1)
        self.machine.wait(self.peers.remove(HERON, note().audit_id))
        self.assertEqual(self.peers.judge(HERON), Judgement(FULL_WEIGHT))
        # It may be taken away twice.
        self.machine.wait(self.peers.remove(HERON, note().audit_id))

    def test_an_audit_that_is_under_way_is_held_against_nobody(self) -> None:
        self.machine.wait(self.peers.put(note(tries=0)))
        self.assertIsNone(self.peers.judge(HERON).refused)
        self.machine.kill()
        self.peers = self.begin()
        self.assertIsNone(self.peers.judge(HERON).refused)
        self.assertEqual(self.machine.wait(self.peers.of(HERON)), [note(tries=0)])
        self.machine.wait(self.peers.put(note(tries=1)))
        self.assertIsNotNone(self.peers.judge(HERON).refused)

    def test_they_are_given_back_as_they_were_the_oldest_first(self) -> None:
        wanted = [note(number=number, tries=number) for number in range(4)]
        for each in reversed(wanted):
            self.machine.wait(self.peers.put(each))
        self.machine.wait(self.peers.put(note(EGRET)))
        self.assertEqual(self.machine.wait(self.peers.of(HERON)), wanted)
        again = evolve(wanted[2], tries=9)
        self.machine.wait(self.peers.put(again))
        self.assertEqual(self.machine.wait(self.peers.of(HERON)), [*wanted[:2], again, *wanted[3:]])
        self.machine.kill()
        self.peers = self.begin()
        self.assertEqual(self.machine.wait(self.peers.of(HERON)), [*wanted[:2], again, *wanted[3:]])
        self.assertEqual([each.owes for each in map(self.peers.find, (HERON, EGRET))], [3, 1])

    def test_there_is_room_for_so_many_and_for_so_many_bytes(self) -> None:
        self.peers = self.begin(max_notes=3)
        for number in range(3):
            self.machine.wait(self.peers.put(note(number=number)))
        with self.assertRaisesRegex(Overloaded, "3 may"):
            self.machine.wait(self.peers.put(note(EGRET)))
        self.assertIsNone(self.peers.judge(EGRET).refused)
        # One that is there may be written again.
        self.machine.wait(self.peers.put(note(number=1, tries=2)))
        size = len(note(size=40_000).encode())
        self.peers = self.begin(max_note_bytes=3 * len(note().encode()) + size)
        self.machine.wait(self.peers.put(note(EGRET, size=40_000)))
        with self.assertRaises(Overloaded):
            self.machine.wait(self.peers.put(note(EGRET, 2)))

    def test_the_largest_note_there_may_be_is_kept(self) -> None:
        share = ContainedShare(b"c" * 32, 254, b"r" * 32, 2**53 - 1, 2**53 - 1)
        large = evolve(note(size=60_000), answer=b"a" * 60_000, shares=1_024 * (share,))
        self.assertLess(len(large.encode()), MAX_CONTAINED)
        self.machine.wait(self.peers.put(large))
        self.assertEqual(self.machine.wait(self.peers.of(HERON)), [large])


PEERS: Final = (HERON, EGRET, CRANE)
_peer = st.sampled_from(PEERS)
_outcomes = st.lists(
    st.tuples(_peer, st.sampled_from(["success", "failure", "offline", "unknown", "contained"])),
    max_size=12,
)
#: What happens, one after the other, to standings and to a model of them.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), _outcomes),
        st.tuples(st.just("put"), st.tuples(_peer, st.integers(0, 3), st.integers(0, 2))),
        st.tuples(st.just("remove"), st.tuples(_peer, st.integers(0, 3))),
        st.tuples(st.just("forgive"), _peer),
        st.tuples(st.just("wait"), st.integers(0, 20 * DAY)),
        st.tuples(st.just("kill"), st.just(None)),
    ),
    max_size=25,
)


class ModelTests(SynchronousTestCase):
    """Over any history it is as if all was kept in a dictionary."""

    @given(steps)
    @settings(max_examples=40)
    def test_database_and_memory_say_what_the_pure_half_says(self, history: list[Any]) -> None:
        machine = Machine()
        machine.start()
        now = NOW
        model: dict[PublicKey, Standing] = {}
        owed: dict[PublicKey, dict[int, int]] = {peer: {} for peer in PEERS}

        def begin() -> PeerStandings:
            peers = PeerStandings(machine.database, lambda: float(now), StandingConfig())
            machine.wait(peers.start())
            return peers

        peers = begin()
        for verb, value in history:
            if verb == "record":
                # There is always somebody who is there, or it would be our own outage.
                found = [ShareOutcome(peer, b"c" * 32, 0, of) for peer, of in value]
                found += outcomes(CRANE, "success")
                machine.wait(peers.record(found, now))
                for peer, results in results_of(found).items():
                    model[peer] = recorded(model.get(peer), results, now, StandingConfig())
            elif verb == "put":
                peer, number, tries = value
                machine.wait(peers.put(note(peer, number, tries)))
                owed[peer][number] = tries
            elif verb == "remove":
                peer, number = value
                machine.wait(peers.remove(peer, note(peer, number).audit_id))
                owed[peer].pop(number, None)
            elif verb == "forgive":
                if value in model:
                    model[value] = model[value].forgiven(now, StandingConfig())
                if value in model or owed[value]:
                    machine.wait(peers.forgive(value))
                else:
                    self.assertRaises(NotFound, machine.wait, peers.forgive(value))
                owed[value] = {}
            elif verb == "wait":
                now += value
            else:
                machine.kill()
                peers = begin()
            for peer in PEERS:
                owes = sum(tries > 0 for tries in owed[peer].values())
                standing = model.get(peer)
                found_one = peers.find(peer)
                self.assertEqual(found_one.owes, owes)
                self.assertEqual(
                    found_one.standing,
                    None if standing is None else standing.at(now, StandingConfig()),
                )
                self.assertEqual(
                    peers.judge(peer), judge(standing, now, StandingConfig(), owes=owes)
                )
                notes = [note(peer, number, tries) for number, tries in owed[peer].items()]
                notes.sort(key=lambda each: each.since)
                self.assertEqual(list(machine.wait(peers.of(peer))), notes)
        machine.stop()


class CrashTests(SynchronousTestCase):
    """Whatever was said to be written down is, wherever the machine stops; nothing is by half."""

    def live(self, statements: int, path: str | None = None) -> bool:
        """@return: whether the machine stopped before all was done."""
        machine = Machine(statements, path)
        machine.start()
        peers = PeerStandings(machine.database, lambda: float(NOW), TRUSTING)
        machine.wait(peers.start())
        said: list[str] = []
        machine.backing.stop_before(statements)
        stopped = False
        try:
            for step in range(4):
                doing = peers.record(
                    [*outcomes(HERON, "failure", 2), *outcomes(EGRET, "success", 3)], NOW
                )
                machine.wait(doing)
                said.append("recorded")
                machine.wait(peers.put(note(number=step)))
                said.append("put")
                if step == 2:
                    machine.wait(peers.remove(HERON, note(number=0).audit_id))
                    said.append("removed")
        except PowerLost:
            stopped = True
        machine.crash()
        after = PeerStandings(machine.database, lambda: float(NOW), TRUSTING)
        machine.wait(after.start())
        heron, egret = after.find(HERON).standing, after.find(EGRET).standing
        failures = 0 if heron is None else heron.failures
        successes = 0 if egret is None else egret.successes
        # Of a batch that was not said to be written either all is there, or nothing.
        self.assertIn(failures // 2, (said.count("recorded"), said.count("recorded") + 1))
        self.assertEqual(successes, failures // 2 * 3)
        owes = after.find(HERON).owes
        self.assertEqual(after.judge(HERON).refused is None, failures < 6 and not owes)
        owed = said.count("put") - said.count("removed")
        self.assertIn(owes, (owed - 1, owed, owed + 1))
        if not stopped:
            self.assertEqual((failures, owes), (8, 3))
        machine.stop()
        return stopped

    def test_at_every_statement(self) -> None:
        statements = 0
        while self.live(statements):
            statements += 1
        self.assertGreater(statements, 40)

    def test_on_a_disk_that_loses_what_was_not_synced(self) -> None:
        stopped = []
        for statements in range(1, 100, 9):
            folder = mkdtemp(dir=FAST)
            self.addCleanup(rmtree, folder)
            stopped.append(self.live(statements, f"{folder}/mesh.db"))
        self.assertEqual((stopped[0], stopped[-1]), (True, False))
