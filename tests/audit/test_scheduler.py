"""Passes: what is asked, what is repaired, and what is written down of it."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred

from meshkit.audit import passing, state
from meshkit.audit.decisions import Policy
from meshkit.audit.passing import Pace
from meshkit.audit.replay import replay
from meshkit.errors import (
    LeadLost,
    LeadTaken,
    MeshkitError,
    NotEnoughShares,
    NotFound,
    ObjectRemoved,
    PassUnderWay,
    PlacementConflict,
    StorageFailed,
)
from meshkit.runtime.transactions import COMMIT, WriterConnection
from meshkit.storage.custody import Judgement, TrackedObject
from tests.audit.fakes import Holder
from tests.audit.passes import EAGER, PassesCase

HOUR = 3_600


class Case(PassesCase):
    def lose(self, tracked: TrackedObject, *numbers: int) -> list[Holder]:
        """@return: the holders of these shares, which have them no more."""
        holders = [self.world.holder_of(tracked, number) for number in numbers]
        for number, holder in zip(numbers, holders, strict=True):
            holder.shares.discard((tracked.content_id, number))
        return holders

    def replayed(self, run: int) -> int:
        """@return: decisions of a pass, which all come out the same again."""
        found = replay(self.read(state.trace, run))
        self.assertEqual(found.differences, ())
        return found.decisions


class PassTests(Case):
    """What one pass does."""

    def test_a_pass_over_healthy_objects_asks_about_every_share_and_repairs_nothing(self) -> None:
        objects = [self.world.put(seed) for seed in range(20)]
        run = self.run_pass()
        self.assertEqual((run.state, run.error), ("done", None))
        self.assertEqual(run.metrics.objects, 20)
        self.assertEqual(run.metrics.asked, 120)
        self.assertEqual(run.metrics.outcomes, {"success": 120})
        self.assertEqual(run.metrics.codes, {"healthy": 20})
        self.assertEqual(self.world.repairing.asked, [])
        self.assertEqual({self.state_of(each).code for each in objects}, {"healthy"})
        self.assertEqual([each.times for each in self.world.holders], [1] * 10)
        self.assertEqual(len(self.world.standings.recorded), 120)
        self.assertEqual(self.replayed(run.id), 20)

    def test_what_is_lost_is_made_anew_elsewhere(self) -> None:
        tracked = self.world.put()
        self.world.put(2)
        self.lose(tracked, 0, 3)
        run = self.run_pass()
        self.assertEqual((run.state, run.metrics.placed, run.metrics.repaired), ("done", 2, 1))
        (asked,) = self.world.repairing.asked
        self.assertEqual((asked.object, asked.lost), (tracked.content_id, (0, 3)))
        self.assertEqual(
            (self.state_of(tracked).code, self.state_of(tracked).version), ("healthy", 2)
        )
        self.assertEqual(self.run_pass().metrics.codes, {"healthy": 2})
        self.assertEqual(self.replayed(run.id), 2)

    def test_a_pass_without_repair_says_what_it_would_do(self) -> None:
        tracked = self.world.put()
        self.lose(tracked, 0, 3)
        run = self.run_pass(repair=False)
        self.assertEqual(run.metrics.codes, {"off": 1})
        self.assertEqual(self.world.repairing.asked, [])

    def test_only_the_objects_that_were_named_are_looked_at(self) -> None:
        one, _ = self.world.put(1), self.world.put(2)
        run = self.run_pass(objects=[one])
        self.assertEqual((run.metrics.objects, run.metrics.asked), (1, 6))

    def test_an_object_that_is_named_twice_is_looked_at_once(self) -> None:
        one = self.world.put(1)
        self.assertEqual(self.run_pass(objects=[one, one]).metrics.asked, 6)

    def test_an_object_that_is_not_looked_after_is_said_to_be_unknown(self) -> None:
        one = self.world.put(1)
        self.world.tracked.objects.clear()
        run = self.run_pass(objects=[one])
        self.assertIn("object.unknown", self.kinds(run.id))
        self.assertEqual(run.metrics.objects, 0)

    def test_objects_are_taken_in_pages(self) -> None:
        for seed in range(25):
            self.world.put(seed)
        scheduler = self.make(pace=Pace(page=10))
        run = self.run_pass(scheduler)
        self.assertEqual(self.world.tracked.pages, [10, 10, 5])
        self.assertEqual(run.metrics.asked, 150)
        self.assertEqual(len(self.read(state.all_objects)), 25)

    def test_only_so_many_peers_are_asked_at_the_same_time(self) -> None:
        for seed in range(10):
            self.world.put(seed)
        for holder in self.world.holders:
            holder.delay = 1.0
        self.run_pass(self.make(pace=Pace(peers_at_once=3)))
        self.assertEqual(self.world.auditing.most, 3)
        self.assertEqual(self.clock.seconds(), 4.0)

    def test_a_peer_that_hangs_costs_one_deadline_however_many_pages_there_are(self) -> None:
        for seed in range(40):
            self.world.put(seed)
        self.world.holders[3].delay = None
        scheduler = self.make(pace=Pace(page=10, audit_seconds=20), offline_grace=HOUR)
        run = self.run_pass(scheduler)
        self.assertEqual((run.state, self.world.holders[3].times), ("done", 1))
        self.assertEqual(self.clock.seconds(), 20)
        self.assertEqual(run.metrics.codes, {"grace": 24, "healthy": 16})
        (quiet,) = [each for each in self.events(run.id) if each.kind == "peer.unknown"]
        self.assertEqual(quiet.peer, self.world.holders[3].key.raw)
        self.assertIn("no answer within 20 seconds", quiet.text)

    def test_an_audit_that_fails_by_a_fault_of_ours_ends_no_pass(self) -> None:
        self.world.put()
        self.world.auditing.problem = ZeroDivisionError("oh")
        run = self.run_pass(self.make(offline_grace=HOUR))
        self.assertEqual((run.state, run.metrics.codes), ("done", {"unreachable": 1}))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 6)

    def test_what_is_looked_after_no_more_is_forgotten(self) -> None:
        objects = [self.world.put(seed) for seed in range(30)]
        scheduler = self.make(pace=Pace(page=7))
        self.run_pass(scheduler)
        for each in objects[::2]:
            del self.world.tracked.objects[each.content_id]
        self.run_pass(scheduler)
        self.assertEqual(
            [each.content_id for each in self.read(state.all_objects)],
            sorted(each.content_id for each in objects[1::2]),
        )
        self.world.tracked.objects.clear()
        self.run_pass(scheduler)
        self.assertEqual(self.read(state.all_objects), [])


class DueTests(Case):
    """When what is looked at."""

    policy = Policy()

    def test_what_was_looked_at_is_left_alone_until_its_time_has_come(self) -> None:
        self.world.put(1)
        run = self.pass_by_itself()
        self.assertEqual((run.metrics.due, run.metrics.skipped), (1, 0))
        self.world.put(2)
        run = self.pass_by_itself()
        self.assertEqual((run.metrics.due, run.metrics.skipped, run.metrics.asked), (1, 1, 6))
        self.assertIn("objects.skipped", self.kinds(run.id))
        self.world.pass_time(86_400)
        self.assertEqual(self.pass_by_itself().metrics.due, 2)

    def test_what_is_asked_for_is_done_at_once(self) -> None:
        self.world.put(1)
        self.run_pass()
        self.assertEqual(self.run_pass().metrics.asked, 6)

    def test_a_clock_that_was_set_back_holds_nothing_up(self) -> None:
        self.world.put(1)
        self.world.pass_time(50 * 86_400)
        self.pass_by_itself()
        self.world.pass_time(-49 * 86_400)
        self.assertEqual(self.pass_by_itself().metrics.asked, 6)

    def test_of_an_absent_peer_alone_is_asked_again_soon(self) -> None:
        tracked = self.world.put(1)
        away = self.world.holder_of(tracked, 2)
        away.says = "offline"
        self.assertEqual(self.pass_by_itself().metrics.codes, {"grace": 1})
        self.world.pass_time(900)
        run = self.pass_by_itself()
        self.assertEqual((run.metrics.asked, run.metrics.outcomes), (1, {"offline": 1}))
        away.says = None
        self.world.pass_time(900)
        self.assertEqual(self.pass_by_itself().metrics.codes, {"healthy": 1})

    def test_after_its_time_an_absent_peer_has_lost_its_shares(self) -> None:
        tracked = self.world.put(1)
        for number in (1, 2):
            self.world.holder_of(tracked, number).says = "offline"
        for _ in range(16):
            self.assertEqual(self.pass_by_itself().metrics.codes, {"grace": 1})
            self.world.pass_time(900)
        run = self.pass_by_itself()
        self.assertEqual((run.metrics.placed, run.metrics.codes), (2, {"critical": 1}))
        self.assertEqual(self.replayed(run.id), 1)

    def test_it_is_asked_once_more_just_before_a_repair(self) -> None:
        """What was found out long ago, in a long pass, may not be so any more."""
        tracked, other = self.world.put(1, "2+3"), self.world.put(5, "2+3")
        away = [self.world.holder_of(tracked, number) for number in (0, 1)]
        for each in away:
            each.says = "offline"
        self.pass_by_itself()
        self.world.pass_time(25 * HOUR)
        self.lose(other, 0, 1, 2)
        self.world.repairing.delay = 600.0
        scheduler = self.make(pace=Pace(repairs_at_once=1), cooldown=0, backoff=0)
        self.done(scheduler._begin(None, False, scheduler.policy))
        self.until(lambda: bool(self.world.repairing.asked))
        for each in away:
            each.says = None
        run = self.ended(scheduler)
        self.assertEqual([each.object for each in self.world.repairing.asked], [other.content_id])
        self.assertEqual(self.state_of(tracked).code, "healthy")
        self.assertEqual(self.replayed(run.id), 2)


class RepairTests(Case):
    """What is repaired, and what comes of it."""

    def test_the_most_urgent_come_first(self) -> None:
        self.policy = EAGER
        objects = [self.world.put(seed, "3+4") for seed in range(4)]
        for each, count in zip(objects, (2, 4, 3, 1), strict=True):
            self.lose(each, *range(count))
        self.run_pass(self.make(pace=Pace(repairs_at_once=1)))
        self.assertEqual(
            [each.object for each in self.world.repairing.asked],
            [
                objects[1].content_id,
                objects[2].content_id,
            ],
        )

    def test_only_so_many_are_repaired_at_the_same_time(self) -> None:
        for seed in range(6):
            self.lose(self.world.put(seed), 0, 1)
        self.world.repairing.delay = 5.0
        self.run_pass(self.make(pace=Pace(repairs_at_once=3)))
        self.assertEqual((self.world.repairing.most, self.clock.seconds()), (3, 10.0))

    def test_a_cap_puts_off_and_is_no_failure(self) -> None:
        """10 peers, 4+2, two holders gone, one repair in a pass: Kryden backs off here."""
        tracked = self.world.put()
        for number in (0, 1):
            self.world.holder_of(tracked, number).says = "offline"
        scheduler = self.make(max_repairs=1, backoff=60, repair_below=6)
        run = self.pass_by_itself(scheduler)
        self.assertEqual((run.metrics.placed, run.metrics.deferred), (1, 1))
        self.assertEqual(run.metrics.not_repaired, 0)
        known = self.state_of(tracked)
        self.assertEqual((known.failures, known.code), (0, "capped"))
        self.assertEqual(known.due_at, self.world.now())
        run = self.pass_by_itself(scheduler)
        self.assertEqual((run.metrics.placed, run.metrics.deferred), (1, 0))
        self.assertEqual(self.state_of(tracked).code, "healthy")

    def test_a_cap_of_none_puts_everything_off_and_decodes_nothing(self) -> None:
        tracked = self.world.put()
        self.lose(tracked, 0, 1)
        run = self.run_pass(self.make(max_repairs=0))
        self.assertEqual((run.metrics.codes, run.metrics.deferred), ({"capped": 1}, 2))
        self.assertEqual(self.world.repairing.asked, [])
        self.assertEqual(self.state_of(tracked).failures, 0)

    def test_with_more_candidates_than_are_kept_in_mind_the_least_urgent_wait(self) -> None:
        self.patch(passing, "MAX_CANDIDATES", 3)
        objects = [self.world.put(seed, "3+4") for seed in range(6)]
        for each, count in zip(objects, (3, 4, 3, 4, 3, 4), strict=True):
            self.lose(each, *range(count))
        run = self.run_pass()
        self.assertEqual(
            {each.object for each in self.world.repairing.asked},
            {each.content_id for each in objects[1::2]},
        )
        self.assertEqual(run.metrics.codes, {"capped": 3, "critical": 3})
        self.assertEqual(self.replayed(run.id), 6)
        self.assertEqual({self.state_of(each).code for each in objects[::2]}, {"capped"})

    def test_no_repair_is_begun_when_enough_bytes_were_moved(self) -> None:
        for seed in range(5):
            self.lose(self.world.put(seed), 0, 1)
        scheduler = self.make(max_repair_bytes=50_000, pace=Pace(repairs_at_once=1))
        run = self.run_pass(scheduler)
        # Each reads 4 shares of 6 KiB and writes 2: it takes two to reach that.
        self.assertEqual(len(self.world.repairing.asked), 2)
        self.assertEqual(run.metrics.read + run.metrics.written, 2 * 6 * 6148)
        self.assertEqual(run.metrics.codes, {"capped": 3, "critical": 2})

    def test_failures_put_an_object_off_for_longer_each_time_across_restarts(self) -> None:
        """base 60 s, at most 120 s."""
        tracked = self.world.put()
        self.lose(tracked, 0, 1)
        self.world.repairing.room = 0
        scheduler = self.make(backoff=60, max_backoff=120)
        begun = self.world.now()
        self.assertEqual(self.pass_by_itself(scheduler).metrics.not_repaired, 1)
        known = self.state_of(tracked)
        self.assertEqual((known.failures, known.due_at, known.code), (1, begun + 60, "backoff"))
        self.done(self.database.stopService())
        self.database = self.open()
        scheduler = self.make(backoff=60, max_backoff=120)
        self.world.pass_time(30)
        self.assertEqual(self.pass_by_itself(scheduler).metrics.due, 0)
        self.world.pass_time(30)
        self.assertEqual(self.pass_by_itself(scheduler).metrics.not_repaired, 1)
        known = self.state_of(tracked)
        self.assertEqual((known.failures, known.due_at), (2, begun + 180))
        self.world.pass_time(120)
        self.pass_by_itself(scheduler)
        self.assertEqual(self.state_of(tracked).due_at, begun + 300)
        self.world.pass_time(120)
        self.world.repairing.room = None
        self.assertEqual(self.pass_by_itself(scheduler).metrics.placed, 2)
        self.assertEqual(self.state_of(tracked).failures, 0)

    def test_an_object_is_left_alone_after_a_repair(self) -> None:
        """Passes at 0, 30 and 61 s look at 1, 0 and 1 objects."""
        tracked = self.world.put()
        self.lose(tracked, 0, 1)
        scheduler = self.make(cooldown=60)
        looked = [self.pass_by_itself(scheduler).metrics.due]
        for seconds in (30, 31):
            self.world.pass_time(seconds)
            looked.append(self.pass_by_itself(scheduler).metrics.due)
        self.assertEqual(looked, [1, 0, 1])
        self.assertEqual(self.state_of(tracked).code, "healthy")
        self.assertLessEqual(self.state_of(tracked).due_at, self.world.now())

    def test_where_shares_are_changes_when_a_repair_is_done_and_not_before(self) -> None:
        tracked = self.world.put()
        self.lose(tracked, 0, 1)
        self.world.repairing.delay = 10.0
        self.done(self.scheduler.run())
        self.until(lambda: bool(self.world.repairing.asked))
        self.assertEqual(self.world.tracked.objects[tracked.content_id].document.version, 1)
        self.assertEqual(self.read(state.find_run).state, "running")
        self.ended()
        self.assertEqual(self.world.tracked.objects[tracked.content_id].document.version, 2)

    def test_a_share_that_stays_spoilt_is_a_failure_each_time(self) -> None:
        """Cap 0, no back-off, 6 passes at steps of a minute."""
        tracked = self.world.put()
        (holder,) = self.lose(tracked, 0)
        scheduler = self.make(max_repairs=0)
        failed = 0
        for _ in range(6):
            failed += self.run_pass(scheduler).metrics.outcomes["failure"]
            self.world.pass_time(60)
        told = [each for each in self.world.standings.recorded if each.outcome == "failure"]
        self.assertEqual((failed, {each.peer for each in told}), (6, {holder.key}))
        self.assertEqual(len(told), 6)

    def test_a_liar_is_named_and_held_against_it_and_others_are_repaired(self) -> None:
        tracked, other = self.world.put(1, "3+3"), self.world.put(2, "3+3")
        for each in (tracked, other):
            self.lose(each, 0, 1)
        liar = self.world.holder_of(tracked, 5)
        liar.lies = True
        run = self.run_pass()
        self.assertEqual((run.state, run.metrics.repaired), ("done", 2))
        lied = {each.peer for each in self.events(run.id) if each.kind == "peer.lied"}
        self.assertEqual(lied, {liar.key.raw})
        blamed = [each for each in self.world.standings.recorded if each.peer == liar.key]
        self.assertIn("failure", [each.outcome for each in blamed])
        self.assertEqual(self.state_of(tracked).shares[5].outcome, "failure")

    def test_liars_are_named_and_held_against_them_though_the_repair_failed(self) -> None:
        tracked = self.world.put(1)
        self.lose(tracked, 0, 1)
        liar = self.world.holder_of(tracked, 4)
        self.world.repairing.problems[tracked.content_id] = [
            NotEnoughShares("3 of 4 were found", wrong=(4,), liars=(liar.key.text,))
        ]
        run = self.run_pass()
        self.assertEqual(run.metrics.not_repaired, 1)
        (lied,) = [each for each in self.events(run.id) if each.kind == "peer.lied"]
        self.assertEqual((lied.peer, lied.share), (liar.key.raw, 4))
        last = self.world.standings.recorded[-1]
        self.assertEqual((last.peer, last.number, last.outcome), (liar.key, 4, "failure"))
        self.assertEqual(self.state_of(tracked).shares[4].outcome, "failure")
        self.assertEqual(self.state_of(tracked).code, "lost")

    def test_a_repair_that_fails_ends_no_pass(self) -> None:
        bad, good = self.world.put(1), self.world.put(2)
        for each in (bad, good):
            self.lose(each, 0, 1)
        for error in (NotEnoughShares("3 of 4 shares are good"), ZeroDivisionError("oh")):
            self.world.repairing.problems[bad.content_id] = [error]
            run = self.run_pass()
            self.assertEqual((run.state, run.metrics.not_repaired), ("done", 1))
            (told,) = [each for each in self.events(run.id) if each.kind == "object.not_repaired"]
            self.assertIn(str(error), told.text)
        self.assertEqual(self.state_of(bad).failures, 2)
        self.assertEqual(self.state_of(good).code, "healthy")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_what_a_repair_that_failed_has_not_used_is_there_for_others(self) -> None:
        objects = [self.world.put(seed) for seed in range(3)]
        for each in objects:
            self.lose(each, 0, 1)
            self.world.repairing.problems[each.content_id] = [NotEnoughShares("too few")]
        scheduler = self.make(max_repairs=2, pace=Pace(repairs_at_once=1))
        self.assertEqual(self.run_pass(scheduler).metrics.not_repaired, 3)
        run = self.run_pass(scheduler)
        self.assertEqual((run.metrics.placed, run.metrics.codes), (2, {"capped": 2, "critical": 1}))

    def test_somebody_else_who_was_quicker_is_no_failure(self) -> None:
        tracked = self.world.put(1)
        self.lose(tracked, 0, 1)
        self.world.repairing.problems[tracked.content_id] = [PlacementConflict("it was changed")]
        run = self.pass_by_itself()
        self.assertIn("object.conflict", self.kinds(run.id))
        known = self.state_of(tracked)
        self.assertEqual((known.failures, known.due_at), (0, self.world.now()))
        self.assertEqual(self.pass_by_itself().metrics.placed, 2)

    def test_what_somebody_else_has_repaired_is_not_repaired_again(self) -> None:
        tracked = self.world.put(1)
        self.lose(tracked, 0, 1)
        document = tracked.document
        for number, holder in ((0, self.world.holders[8]), (1, self.world.holders[9])):
            placed = document.shares[number]
            assert placed is not None
            holder.shares.add((tracked.content_id, number))
            document = document.moved(number, type(placed)(holder.key, placed.lease_end))
        self.world.tracked.elsewhere[tracked.content_id] = tracked.with_document(document)
        run = self.run_pass()
        self.assertEqual((self.world.repairing.asked, run.metrics.codes), ([], {"healthy": 1}))
        self.assertEqual(self.state_of(tracked).version, 3)

    def test_what_its_owner_has_removed_is_not_repaired(self) -> None:
        for problem in (ObjectRemoved("it is removed"), NotFound("it is gone")):
            tracked = self.world.put(1)
            self.hand_over(tracked)
            self.lose(tracked, 0, 1)
            if isinstance(problem, ObjectRemoved):
                self.world.tracked.elsewhere[tracked.content_id] = problem
            else:
                self.patch(self.world.tracked, "find", lambda _, e=problem: self.failing(e))
            run = self.run_pass()
            self.assertIn("object.gone", self.kinds(run.id))
        self.assertEqual(self.world.repairing.asked, [])

    def test_of_what_its_owner_has_removed_no_peer_is_asked(self) -> None:
        """Its owner has given up the leases of this node too, and that is no fault of theirs."""
        gone, there = self.world.put(1), self.world.put(2)
        for each in (gone, there):
            self.world.tracked.add(evolve(each, own=False))
            self.lose(each, *range(6))
        self.world.tracked.elsewhere[gone.content_id] = ObjectRemoved("it is removed")
        self.world.tracked.elsewhere[there.content_id] = MeshkitError("no network")
        run = self.run_pass()
        self.assertEqual((run.metrics.asked, run.metrics.codes), (6, {"lost": 1}))
        self.assertIn("object.gone", self.kinds(run.id))

    def hand_over(self, tracked: TrackedObject) -> None:
        """It is somebody else's object."""
        self.world.tracked.objects[tracked.content_id] = evolve(tracked, own=False)

    def test_nobody_is_blamed_for_what_its_owner_has_removed_here_while_it_was_asked(self) -> None:
        tracked = self.world.put(1)
        for holder in self.world.holders:
            holder.delay = 1.0
        self.lose(tracked, *range(6))
        self.done(self.scheduler.run())
        del self.world.tracked.objects[tracked.content_id]
        self.ended()
        found = [each for each in self.world.standings.recorded if each.outcome == "failure"]
        self.assertEqual((len(found), all(each.blameless for each in found)), (6, True))

    def test_who_repairs_cannot_end_the_repair_of_what_is_the_owners(self) -> None:
        tracked = self.world.put(1)
        self.lose(tracked, 0, 1)
        said = ObjectRemoved("somebody says it is removed")
        self.patch(self.world.tracked, "newest", lambda _: self.failing(said))
        run = self.run_pass()
        self.assertEqual((len(self.world.repairing.asked), run.metrics.placed), (1, 2))

    @staticmethod
    def failing(error: Exception) -> Deferred[Any]:
        failed: Deferred[Any] = Deferred()
        failed.errback(error)
        return failed

    def test_a_hash_table_that_does_not_answer_keeps_nobody_from_repairing(self) -> None:
        tracked = self.world.put(1)
        self.lose(tracked, 0, 1)
        self.world.tracked.elsewhere[tracked.content_id] = MeshkitError("no network")
        self.assertEqual(self.run_pass().metrics.placed, 2)

    def test_the_shares_of_a_peer_that_goes_are_moved(self) -> None:
        tracked = self.world.put(1)
        self.world.holder_of(tracked, 3).leaving = True
        run = self.run_pass()
        (asked,) = self.world.repairing.asked
        self.assertEqual((asked.lost, asked.leaving), ((), (3,)))
        self.assertEqual(run.metrics.codes, {"leaving": 1})
        self.assertEqual(self.state_of(tracked).code, "healthy")

    def test_a_peer_that_is_not_trusted_is_counted_out_and_one_that_owes_an_answer_is_not(
        self,
    ) -> None:
        tracked = self.world.put(1)
        self.lose(tracked, 0)
        holder = self.world.holder_of(tracked, 3)
        self.world.standings.judgements[holder.key] = Judgement(0, "it owes one", passing=True)
        self.assertEqual(self.run_pass().metrics.codes, {"spare": 1})
        self.world.standings.judgements[holder.key] = Judgement(0, "too many have failed")
        self.assertEqual(self.run_pass().metrics.codes, {"below": 1})
        (asked,) = self.world.repairing.asked
        self.assertEqual((asked.lost, asked.leaving), ((0,), (3,)))

    def test_too_few_good_shares_are_given_up_by_name(self) -> None:
        tracked = self.world.put(1)
        self.lose(tracked, 0, 1, 2)
        run = self.run_pass()
        self.assertEqual((run.metrics.codes, self.world.repairing.asked), ({"lost": 1}, []))
        self.assertIn("object.lost", self.kinds(run.id))


class HistoryTests(Case):
    """What is written down of a pass."""

    def limit(self, **limits: int) -> None:
        """Have less be remembered."""
        usual: dict[str, int] = state.forget_old.__kwdefaults__ or {}
        self.patch(state.forget_old, "__kwdefaults__", {**usual, **limits})

    def test_the_events_of_a_pass_are_numbered_and_their_times_grow(self) -> None:
        tracked = self.world.put()
        self.lose(tracked, 0, 1)
        run = self.run_pass()
        events = self.events(run.id)
        self.assertEqual([each.number for each in events], list(range(1, len(events) + 1)))
        times = [each.at_ns for each in events]
        self.assertEqual(times, sorted(set(times)))
        self.assertEqual(
            [each.kind for each in events],
            [
                "run.begun",
                "share.failed",
                "share.failed",
                "share.placed",
                "share.placed",
                "object.repaired",
                "run.done",
            ],
        )
        self.assertEqual(
            {each.object for each in events if each.kind != "run.begun"} - {None},
            {tracked.content_id},
        )

    def test_a_pass_takes_time(self) -> None:
        run = self.run_pass()
        written = self.read(state.find_run)
        assert written.ended_ns is not None
        self.assertGreater(written.ended_ns, written.begun_ns)
        self.assertGreater(run.metrics.seconds, 0)
        self.assertEqual(written.metrics, run.metrics)

    def test_only_the_last_passes_are_remembered(self) -> None:
        self.patch(
            state.forget_old, "__kwdefaults__", {**state.forget_old.__kwdefaults__, "runs": 3}
        )
        self.world.put()
        for _ in range(5):
            self.run_pass()
        self.assertEqual([each.id for each in self.read(state.runs, 100)], [5, 4, 3])
        self.assertEqual(self.events(2), [])
        self.assertEqual(self.read(state.trace, 2), [])
        self.assertRaises(NotFound, self.read, state.find_run, 2)

    def test_the_traces_of_old_passes_make_room(self) -> None:
        for seed in range(20):
            self.world.put(seed)
        self.run_pass()
        size = sum(map(len, self.read(self.bodies)))
        self.limit(trace_bytes=2 * size + size // 2)
        for _ in range(4):
            self.run_pass()
        self.assertEqual(
            [bool(self.read(state.trace, run)) for run in (3, 4, 5)], [False, True, True]
        )

    def test_the_events_of_old_passes_make_room(self) -> None:
        self.limit(all_events=5)
        for _ in range(4):
            self.run_pass()  # begun, done
        self.assertEqual([run for run in range(1, 5) if self.events(run)], [3, 4])
        self.assertEqual(len(self.read(state.runs, 9)), 4)

    def test_what_is_said_of_a_peer_is_kept_short(self) -> None:
        tracked = self.world.put()
        self.lose(tracked, 0, 1)
        long = "x" * 100_000
        self.world.repairing.problems[tracked.content_id] = [MeshkitError(long)]
        run = self.run_pass()
        self.assertEqual(
            {len(each.text) for each in self.events(run.id) if "x" in each.text}, {500}
        )
        self.assertLess(max(map(len, self.read(state.trace, run.id))), 4_000)

    @staticmethod
    def bodies(connection: sqlite3.Connection) -> list[bytes]:
        return [row[0] for row in connection.execute("SELECT body FROM audit_traces")]

    def test_only_so_many_events_are_kept_and_the_others_are_counted(self) -> None:
        self.patch(state, "MAX_EVENTS", 5)
        for seed in range(5):
            self.lose(self.world.put(seed), 0)
        run = self.run_pass()
        self.assertEqual(len(self.events(run.id)), 5)
        # begun, 5 failures, 5 objects that can spare it, done
        self.assertEqual(self.read(state.find_run).metrics.unwritten, 12 - 5)

    def test_peers_that_nobody_asks_are_forgotten(self) -> None:
        self.world.put()
        self.run_pass()
        self.assertEqual(len(self.read(state.seen)), 6)
        self.world.tracked.objects.clear()
        self.world.pass_time(31 * 86_400)
        self.run_pass()
        self.assertEqual(self.read(state.seen), [])


class LeadTests(Case):
    """Two schedulers on one database."""

    def setUp(self) -> None:
        super().setUp()
        self.tracked = self.world.put()
        self.other = self.make(self.open(), seed=2)

    def test_a_second_one_is_refused_while_the_first_makes_a_pass(self) -> None:
        self.lose(self.tracked, 0, 1)
        self.world.repairing.delay = 10.0
        self.done(self.scheduler.run())
        self.until(lambda: bool(self.world.repairing.asked))
        error = self.failureOf(self.other.run(), LeadTaken)
        self.assertIn(self.scheduler.holder.hex(), str(error))
        self.assertIn("until 2026-01-01T00:01:", str(error))
        self.assertEqual(self.ended().state, "done")
        self.assertEqual([each.state for each in self.read(state.runs, 9)], ["done"])
        run = self.run_pass(self.other)
        self.assertEqual((run.id, run.state, run.holder), (2, "done", self.other.holder))

    def failureOf(self, deferred: Deferred[Any], kind: type[Exception]) -> Exception:
        self.until(lambda: bool(deferred.called and not deferred.paused))
        return self.failureResultOf(deferred, kind).value  # type: ignore[no-any-return]

    def test_the_lead_is_prolonged_for_as_long_as_a_pass_takes(self) -> None:
        self.lose(self.tracked, 0, 1)
        self.world.repairing.delay = 1_000.0
        self.done(self.scheduler.run())
        for _ in range(9):
            self.clock.pump([1.0] * 100)
            self.failureOf(self.other.run(), LeadTaken)
        self.assertEqual(self.ended().state, "done")

    def test_one_that_is_dead_is_taken_over_from_when_its_time_is_over(self) -> None:
        def die(connection: sqlite3.Connection) -> None:
            lead = state.take_lead(connection, b"deadbeef", self.world.wall_clock(), 60)
            state.begin_run(connection, lead, self.world.wall_clock(), EAGER, False)

        self.done(self.database.write(die))
        self.world.pass_time(59)
        self.failureOf(self.scheduler.run(), LeadTaken)
        self.assertEqual(self.read(state.find_run).state, "running")
        self.world.pass_time(1)
        run = self.run_pass()
        self.assertEqual((run.state, run.metrics.recovered), ("done", 1))
        self.assertIn("run.recovered", self.kinds(run.id))
        states = [(each.id, each.state) for each in self.read(state.runs, 9)]
        self.assertEqual(states, [(2, "done"), (1, "abandoned")])
        abandoned = self.read(state.find_run, 1)
        self.assertGreater(abandoned.ended_ns, abandoned.begun_ns)

    def test_one_that_was_killed_is_taken_over_from_at_once_by_one_of_its_name(self) -> None:
        def die(connection: sqlite3.Connection) -> None:
            lead = state.take_lead(connection, b"deadbeef", self.world.wall_clock(), 60)
            state.begin_run(connection, lead, self.world.wall_clock(), EAGER, False)

        self.done(self.database.write(die))
        again = self.make(holder=b"deadbeef")
        self.assertEqual(again.holder, b"deadbeef")
        self.failureOf(self.scheduler.run(), LeadTaken)
        self.assertEqual(self.run_pass(again).state, "done")
        self.assertEqual(self.read(state.find_run, 1).state, "abandoned")
        self.assertEqual(self.read(state.find_run, 2).fence, 2)

    def test_a_clock_that_was_set_back_does_not_keep_the_dead_in_the_lead(self) -> None:
        def die(connection: sqlite3.Connection) -> None:
            state.take_lead(connection, b"deadbeef", self.world.wall_clock(), 60)

        self.done(self.database.write(die))
        self.world.pass_time(-86_400)
        self.assertEqual(self.run_pass().state, "done")

    def test_one_that_has_lost_the_lead_stops_at_once_and_writes_nothing(self) -> None:
        self.lose(self.tracked, 0, 1)
        self.world.repairing.delay = 500.0
        self.done(self.scheduler.run())
        self.until(lambda: bool(self.world.repairing.asked))
        # It is held up, as a machine that sleeps is: its timers do not run.
        self.world.pass_time(100)
        self.world.repairing.delay = 0.0
        second = self.run_pass(self.other)
        self.assertEqual((second.state, second.metrics.recovered), ("done", 1))
        before = self.read(state.events, second.id)
        first = self.ended()
        self.assertEqual((first.state, self.world.repairing.cancelled), ("failed", 1))
        self.assertIn("has taken over", str(first.error))
        self.assertLess(self.clock.seconds(), 100)
        self.assertEqual(self.read(state.find_run, first.id).state, "abandoned")
        self.assertEqual(self.read(state.events, second.id), before)

    def test_every_write_of_a_pass_fails_without_the_lead(self) -> None:
        now = self.world.wall_clock()

        def write(connection: sqlite3.Connection) -> None:
            mine = state.take_lead(connection, b"deadbeef", now, 60)
            run = state.begin_run(connection, mine, now, EAGER, False)
            state.take_lead(connection, b"goodbeef", now + 60 * 10**9, 60)
            step = state.Step()
            for attempt in (
                lambda: state.write_step(connection, mine, run.id, step),
                lambda: state.end_run(connection, mine, run.id, "done", now, step),
                lambda: state.begin_run(connection, mine, now, EAGER, False),
                lambda: state.keep_lead(connection, mine, now + 10**12),
                lambda: state.leave_lead(connection, mine),
                lambda: state.forget(connection, mine, [bytes(32)]),
            ):
                self.assertRaises(LeadLost, attempt)

        self.done(self.database.write(write))

    def test_the_fence_grows_each_time(self) -> None:
        fences = []
        for scheduler in (self.scheduler, self.other, self.scheduler):
            fences.append(self.run_pass(scheduler).fence)
        self.assertEqual(fences, [1, 2, 3])

    def test_a_lead_that_cannot_be_prolonged_ends_the_pass(self) -> None:
        self.lose(self.tracked, 0, 1)
        self.world.repairing.delay = 500.0
        self.done(self.scheduler.run())
        self.until(lambda: bool(self.world.repairing.asked))
        stuck: list[Deferred[Any]] = []

        def write(_job: Any) -> Deferred[Any]:
            stuck.append(Deferred())
            return stuck[-1]

        self.patch(self.database, "write", write)
        self.clock.pump([1.0] * 61)
        self.assertEqual(self.world.repairing.cancelled, 1)
        self.assertEqual(len(stuck), 1)
        stuck[0].errback(StorageFailed("the disk is stuck"))
        self.clock.advance(0)
        stuck[1].errback(StorageFailed("the disk is stuck"))
        run = self.ended()
        self.assertEqual(run.state, "failed")
        self.assertIn("could not be prolonged", str(run.error))


class TimingTests(Case):
    """When passes are made by themselves."""

    def test_passes_are_made_again_and_again(self) -> None:
        self.world.put()
        scheduler = self.make(pace=Pace(interval=100))
        scheduler.start()
        self.clock.pump([1.0] * 1_000)
        count = len(self.read(state.runs, 99))
        self.assertIn(count, range(8, 14))
        self.done(scheduler.stop())
        self.clock.pump([1.0] * 1_000)
        self.assertEqual(len(self.read(state.runs, 99)), count)
        self.assertIsNone(scheduler.next_pass)

    def test_a_pass_that_takes_longer_than_the_interval_never_overlaps_with_another(self) -> None:
        for seed in range(3):
            self.world.put(seed)
        self.world.holders[2].delay = 350.0
        scheduler = self.make(pace=Pace(interval=100, audit_seconds=1_000))
        scheduler.start()
        self.clock.pump([5.0] * 400)
        self.done(scheduler.stop())
        runs = self.read(state.runs, 99)[::-1]
        self.assertGreater(len(runs), 3)
        self.assertEqual({each.state for each in runs[:-1]}, {"done"})
        for one, next_ in zip(runs, runs[1:], strict=False):
            self.assertGreater(next_.begun_ns, one.ended_ns)
        self.assertEqual({each.metrics.recovered for each in runs}, {0})

    def test_one_that_is_asked_for_meanwhile_is_refused_by_name(self) -> None:
        tracked = self.world.put()
        self.lose(tracked, 0, 1)
        self.world.repairing.delay = 10.0
        self.done(self.scheduler.run())
        error = self.failureResultOf(self.scheduler.run(), PassUnderWay).value
        self.assertIn("pass 1 is under way", str(error))
        self.assertEqual(self.scheduler.running, 1)
        self.ended()
        self.assertIsNone(self.scheduler.running)

    def test_who_waits_for_the_lead_tries_again_by_itself(self) -> None:
        def take(connection: sqlite3.Connection) -> None:
            state.take_lead(connection, b"deadbeef", self.world.wall_clock(), 300)

        self.done(self.database.write(take))
        self.world.put()
        scheduler = self.make(pace=Pace(interval=100, lead_seconds=300))
        scheduler.start()
        self.clock.pump([1.0] * 250)
        self.assertEqual(self.read(state.runs, 9), [])
        self.clock.pump([1.0] * 250)
        self.assertGreater(len(self.read(state.runs, 9)), 0)
        self.done(scheduler.stop())


class StopTests(Case):
    """A pass that is stopped."""

    policy = Policy()

    def setUp(self) -> None:
        super().setUp()
        self.tracked = self.world.put()
        self.lose(self.tracked, 0, 1)

    def stopped(self) -> None:
        begun = self.clock.seconds()
        self.done(self.scheduler.stop())
        self.assertLess(self.clock.seconds() - begun, 1)
        run = self.read(state.find_run)
        self.assertEqual((run.state, run.error), ("stopped", None))
        # Nobody has to wait for the lead.
        other = self.make(self.open(), seed=2)
        self.world.repairing.delay = 0.0
        for each in self.world.holders:
            each.delay = 0.0
        run = self.pass_by_itself(other)
        self.assertEqual((run.state, run.metrics.recovered, run.metrics.placed), ("done", 0, 2))

    def test_while_peers_are_asked(self) -> None:
        self.world.holders[3].delay = None
        self.done(self.scheduler.run())
        self.stopped()

    def test_while_something_is_repaired(self) -> None:
        self.world.repairing.delay = 500.0
        self.done(self.scheduler.run())
        self.until(lambda: bool(self.world.repairing.asked))
        self.stopped()
        self.assertEqual(self.world.repairing.cancelled, 1)

    def test_before_it_is_begun(self) -> None:
        begun = self.scheduler.run()
        self.stopped()
        self.assertEqual(self.successResultOf(begun), 1)

    def test_when_nothing_is_going_on(self) -> None:
        self.successResultOf(self.scheduler.stop())
        self.scheduler.start()
        self.successResultOf(self.scheduler.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def step(self) -> None:
        """Make one call of those that are due, and no more."""
        if self.clock.getDelayedCalls()[0].getTime() <= self.clock.seconds():
            call = self.clock.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)

    def test_at_any_moment(self) -> None:
        """Stop it after each step of the clock, until it is through."""
        for steps in range(1, 60):
            world, scheduler = self.world, self.make(self.database, seed=steps)
            tracked = world.put(100 + steps)
            self.lose(tracked, 0, 1)
            scheduler._begin([tracked.content_id], True, scheduler.policy)
            for _ in range(steps):
                self.step()
            self.done(scheduler.stop())
            run = self.read(state.find_run)
            self.assertIn(run.state, ("stopped", "done"))
            final = self.run_pass(scheduler, objects=[tracked])
            self.assertEqual((final.state, final.metrics.recovered), ("done", 0))
            self.assertEqual(self.state_of(tracked).code, "healthy")
            if run.state == "done":
                break
        else:
            self.fail("it never came to its end")
        self.assertGreater(steps, 8)

    def test_a_stop_does_not_wait_for_ever(self) -> None:
        """Something that is being repaired cannot be interrupted."""
        for_ever: Deferred[Any] = Deferred()

        async def work() -> None:
            with contextlib.suppress(CancelledError):
                await Deferred()
            await for_ever

        self.patch(self.world.repairing, "repair", lambda *_, **__: Deferred.fromCoroutine(work()))
        begun = self.done(self.scheduler.run())
        self.clock.pump([0.0] * 50)
        moment = self.clock.seconds()
        self.done(self.scheduler.stop())
        self.assertEqual(self.clock.seconds() - moment, 15.0)
        for_ever.callback(None)
        self.assertEqual(self.ended().state, "failed")
        self.assertEqual(self.read(state.find_run, begun).state, "failed")
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)


class FullDisk(WriterConnection):
    """
    A connection to a disk that is full from some commit on, for a while.

    @cvar left: commits that still work; L{None} for ever.
    @cvar refused: how many did not.
    """

    left: int | None = None
    length = 1
    refused = 0
    commits = 0

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == COMMIT:
            FullDisk.commits += 1
            if FullDisk.left is not None:
                FullDisk.left -= 1
                if -FullDisk.length <= FullDisk.left < 0:
                    FullDisk.refused += 1
                    error = sqlite3.OperationalError("database or disk is full")
                    error.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise error
        return super().execute(sql, *args)


class FullDiskTests(Case):
    """A disk that is full at any commit of a pass."""

    def make_backing(self) -> Any:
        FullDisk.left, FullDisk.refused, FullDisk.commits = None, 0, 0
        backing = super().make_backing()
        backing.connection = FullDisk  # type: ignore[attr-defined]
        return backing

    def commits_of_a_pass(self) -> int:
        before = FullDisk.commits
        self.pass_by_itself()
        return FullDisk.commits - before

    def test_nothing_is_lost_and_the_next_pass_does_the_rest(self) -> None:
        objects = [self.world.put(seed) for seed in range(6)]
        for length in (1, 100):
            for each in objects[:3]:
                self.lose(each, 0, 1)
            count = self.commits_of_a_pass()
            self.assertGreater(count, 5)
            for commit in range(count):
                for each in objects[:3]:
                    self.lose(each, 0, 1)
                FullDisk.left, FullDisk.length, FullDisk.refused = commit, length, 0
                scheduler = self.make(seed=commit)
                begun: list[Any] = []
                scheduler._begin(None, False, scheduler.policy).addBoth(begun.append)
                run = self.ended(scheduler)
                self.assertGreater(FullDisk.refused, 0, commit)
                if run is None:
                    begun[0].trap(StorageFailed)
                elif run.state != "done":
                    self.assertEqual(run.state, "failed")
                    self.assertIn("the disk refused", str(run.error))
                FullDisk.left = None
                self.world.pass_time(60)  # if it could not be given up, the lead ends by itself
                after = self.pass_by_itself(scheduler)
                self.assertEqual(after.state, "done")
                self.assertEqual({self.state_of(each).code for each in objects}, {"healthy"})
                for each in objects:
                    now = self.world.tracked.objects[each.content_id].document
                    self.assertEqual(self.state_of(each).version, now.version)
                states = {each.state for each in self.read(state.runs, 1_000)}
                self.assertNotIn("running", states)
                self.replayed(after.id)


class OutageTests(PassesCase):
    """A third of the peers goes, and comes back an hour later."""

    policy = Policy(every=HOUR)
    peers = 30

    def test_there_is_no_storm_and_no_needless_repair(self) -> None:
        objects = [self.world.put(seed, "6+3") for seed in range(60)]
        self.pass_by_itself()
        gone = self.world.holders[:10]
        for each in gone:
            each.says = "offline"
        for _ in range(4):
            self.world.pass_time(900)
            self.pass_by_itself()
        for each in gone:
            each.says = None
        self.world.pass_time(900)
        self.pass_by_itself()
        self.assertEqual({self.state_of(each).code for each in objects}, {"healthy"})
        self.assertEqual(self.world.repairing.asked, [])
        self.assertEqual(self.world.tracked.swaps, 0)
        for each in gone:
            # Not one by one for each object.
            self.assertLess(each.times, 8)
        self.assertEqual({self.state_of(each).good for each in objects}, {9})

    def test_even_beyond_the_usual_time_only_what_has_nothing_to_spare_is_repaired(self) -> None:
        objects = [self.world.put(seed, "6+3") for seed in range(60)]
        self.pass_by_itself()
        for each in self.world.holders[:10]:
            each.says = "offline"
        for _ in range(20):
            self.world.pass_time(900)
            self.pass_by_itself()
        asked = {each.object for each in self.world.repairing.asked}
        few = set()
        for tracked in objects:
            held = [placed.peer for placed in tracked.document.shares if placed is not None]
            left = sum(self.world.by_key[key].says is None for key in held)
            if left == 6:
                few.add(tracked.content_id)
        self.assertEqual(asked, few)
        self.assertGreater(len(objects) - len(few), 20)
