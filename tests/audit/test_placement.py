"""
Whoever has a bad name is given nothing, or less: from what audits come to, over the database, to
where shares go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from meshkit.audit.standing import StandingConfig
from meshkit.audit.standings import PeerStandings
from meshkit.audit.targets import Targets
from meshkit.audit.values import Outcome, ShareOutcome
from meshkit.errors import NotEnoughPeers
from meshkit.identity.keys import PublicKey
from meshkit.storage.objects.finding import StoragePeers
from meshkit.storage.rendezvous import Candidate, place
from meshkit.storage.scheme import Scheme
from tests.audit.machines import Machine
from tests.audit.passes import EAGER, PassesCase
from tests.audit.test_standings import note
from tests.storage.objects.test_finding import FindingCase, identity

SIZE = 100
TRUSTING = StandingConfig(vetting_audits=0, vetting_days=0)
SCHEME = Scheme.parse("4+2")


def key(number: int) -> PublicKey:
    """@return: of a peer."""
    found: PublicKey = identity(number).public
    return found


def upload(number: int) -> bytes:
    return number.to_bytes(32, "big")


class PlacementCase(FindingCase):
    """
    Peers that are all alike, and what is thought of them.

    @cvar count: how many there are.
    """

    config = TRUSTING
    count = 10

    def setUp(self) -> None:
        super().setUp()
        self.machine = Machine()
        self.machine.start()
        self.addCleanup(self.machine.stop)
        self.known = self.peers(*range(self.count))
        self.answer(*range(self.count))
        self.refresh(self.known)
        self.begin()

    def begin(self) -> None:
        """A process begins, and reads what is thought of peers."""
        self.standings = PeerStandings(self.machine.database, self.now, self.config)
        self.known.judged_by(self.standings.judge)
        self.machine.wait(self.standings.start())

    def hear(self, peer: PublicKey, of: Outcome, count: int = 1) -> None:
        found = [ShareOutcome(peer, b"c" * 32, number, of) for number in range(count)]
        self.machine.wait(self.standings.record(found, int(self.now())))

    def ranked(self, repair: bool = False) -> set[PublicKey]:
        return {PublicKey(each.key) for each in self.known.candidates(SIZE, repair)}

    def shares_of(self, number: int) -> dict[int, PublicKey]:
        """@return: who gets which share when an object is put."""
        placed, _ = place(upload(number), 4, 6, self.known.candidates(SIZE))
        return {share: PublicKey(each.key) for share, each in placed.items()}

    def given(self, objects: int) -> Counter[PublicKey]:
        """@return: how many of so many objects each peer gets the share of, if each has one."""
        ranked = self.known.candidates(SIZE)
        placed = [place(upload(number), 1, 1, ranked)[0][0] for number in range(objects)]
        return Counter(PublicKey(each.key) for each in placed)

    def repaired(self, number: int, lost: Sequence[int]) -> dict[int, PublicKey]:
        """@return: who is asked for the lost shares of an object, as repair asks."""
        held = {
            share: self.known.describe(peer)
            for share, peer in self.shares_of(number).items()
            if share not in lost
        }
        targets = Targets(
            upload(number), SCHEME, self.known.candidates(SIZE, repair=True), held, lost
        )
        return {share: PublicKey(each.key) for share, each in targets.ask().items()}


class RankingTests(PlacementCase):
    def test_a_peer_of_bad_standing_is_ranked_neither_for_puts_nor_for_repairs(self) -> None:
        everybody = {key(number) for number in range(self.count)}
        self.assertEqual((self.ranked(), self.ranked(repair=True)), (everybody, everybody))
        for _ in range(5):
            self.hear(key(3), "failure")
        self.assertEqual(self.ranked(), everybody)
        self.hear(key(3), "failure")
        others = everybody - {key(3)}
        self.assertEqual((self.ranked(), self.ranked(repair=True)), (others, others))
        for number in range(200):
            self.assertNotIn(key(3), self.shares_of(number).values())
        # The owner says that it is all right.
        self.machine.wait(self.standings.forgive(key(3)))
        self.assertEqual(self.ranked(), everybody)

    def test_one_that_owes_an_answer_is_not_ranked_until_it_has_given_it(self) -> None:
        owed = note(key(3))
        self.machine.wait(self.standings.put(owed))
        self.assertNotIn(key(3), self.ranked())
        self.assertNotIn(key(3), self.ranked(repair=True))
        self.machine.wait(self.standings.remove(key(3), owed.audit_id))
        self.assertIn(key(3), self.ranked())

    def test_a_peer_that_has_failed_gets_less_the_more_it_has(self) -> None:
        before = self.given(1_000)
        self.assertTrue(all(75 <= before[key(number)] <= 125 for number in range(10)), before)
        seen = [before[key(3)]]
        self.hear(key(3), "failure", 3)
        for _ in range(2):
            seen.append(self.given(1_000)[key(3)])
            self.hear(key(3), "failure")
        # Its weight is a half, and then a quarter, of that of each of nine others.
        for found, weight in zip(seen[1:], (1 / 2, 1 / 4), strict=True):
            self.assertLess(abs(found - 1_000 * weight / (9 + weight)), 20, seen)

    def test_what_the_others_have_stays_where_it_is(self) -> None:
        before = [self.shares_of(number) for number in range(100)]
        self.hear(key(3), "failure", 6)
        for number, placed in enumerate(before):
            after = self.shares_of(number)
            moved = {share for share, peer in after.items() if peer != placed[share]}
            if key(3) not in placed.values():
                self.assertEqual(moved, set())

    def test_if_too_few_are_left_it_is_said_and_no_refused_one_is_taken(self) -> None:
        for number in range(5):
            self.hear(key(number), "failure", 6)
        self.assertEqual(self.ranked(), {key(number) for number in range(5, 10)})
        self.assertRaises(NotEnoughPeers, self.shares_of, 1)

    def test_what_is_known_is_gone_by_after_a_restart_and_nobody_is_ranked_before(self) -> None:
        self.hear(key(3), "failure", 6)
        self.machine.kill()
        self.known.judged_by(PeerStandings(self.machine.database, self.now, TRUSTING).judge)
        self.assertEqual(self.ranked(), set())
        self.begin()
        self.assertEqual(self.ranked(), {key(number) for number in range(10)} - {key(3)})


class VettingTests(PlacementCase):
    config = StandingConfig()

    def test_where_all_are_new_all_are_equal(self) -> None:
        found = self.given(1_000)
        self.assertTrue(all(75 <= found[key(number)] <= 125 for number in range(10)), found)

    def test_a_new_one_among_others_gets_a_quarter(self) -> None:
        for number in range(1, 10):
            self.hear(key(number), "success", 50)
        self.clock.advance(7 * 86_400)
        self.answer(*range(10))
        self.refresh(self.known)
        found = self.given(1_000)[key(0)]
        self.assertLess(abs(found - 1_000 * 0.25 / 9.25), 25)


class RepairTests(PlacementCase):
    """Kryden's placement tests, of repairs."""

    def domains(self) -> dict[bytes, str | None]:
        return {each.key: each.declared for each in self.known.candidates(SIZE)}

    def test_repairs_go_where_lots_and_weights_say(self) -> None:
        """The share of a peer that is gone goes to one that has none, in an unused domain."""
        for number in range(50):
            shares = self.shares_of(number)
            found = self.repaired(number, [2])
            used = {self.domains()[shares[share].raw] for share in shares if share != 2}
            self.assertNotIn(self.domains()[found[2].raw], used)

    def test_a_bad_name_that_was_written_down_keeps_a_peer_from_getting_the_repair(self) -> None:
        """Whichever peer would have been asked first fails seven times, and the node restarts."""
        for number in range(8):
            chosen = self.repaired(number, [0])[0]
            lost_by = self.shares_of(number)[0]
            # Who has lost the share is out, as repair does not ask him while there are others.
            if chosen == lost_by:
                continue
            self.hear(chosen, "failure", 7)
            self.machine.kill()
            self.begin()
            again = self.repaired(number, [0])[0]
            self.assertNotEqual(again, chosen)
            self.assertIsNone(self.standings.judge(again).refused)
            self.machine.wait(self.standings.forgive(chosen))

    def test_it_gets_none_even_if_it_is_the_only_one_with_room(self) -> None:
        for number in range(6):
            self.hear(key(number), "success")
        self.machine.wait(self.standings.record(self.failures(range(6, 10)), int(self.now())))
        held = {share: self.known.describe(key(share)) for share in range(5)}
        targets = Targets(upload(1), SCHEME, self.known.candidates(SIZE, True), held, [5])
        self.assertEqual(targets.ask()[5].key, key(5).raw)
        targets.refuse(5)
        self.assertEqual(targets.ask(), {})

    def failures(self, numbers: range) -> list[ShareOutcome]:
        return [
            ShareOutcome(key(number), b"c" * 32, share, "failure")
            for number in numbers
            for share in range(6)
        ]


class EmptierTests(FindingCase):
    """That a peer is emptier counts, and what is thought of it counts beside that."""

    def test_an_emptier_peer_gets_more_and_less_of_that_with_a_bad_name(self) -> None:
        machine = Machine()
        machine.start()
        self.addCleanup(machine.stop)
        standings = PeerStandings(machine.database, self.now, TRUSTING)
        machine.wait(standings.start())
        known: StoragePeers = self.peers(*range(5))
        self.answer(1, 2, 3, 4, capacity=10_000, headroom=0)
        self.answer(0, capacity=40_000, headroom=0)
        self.refresh(known)
        known.judged_by(standings.judge)

        def weights() -> list[float]:
            found: list[Candidate] = sorted(known.candidates(SIZE), key=lambda each: -each.weight)
            return [each.weight / found[-1].weight for each in found]

        self.assertEqual(weights(), [4, 1, 1, 1, 1])
        found = [ShareOutcome(key(0), b"c" * 32, number, "failure") for number in range(4)]
        machine.wait(standings.record(found, int(self.now())))
        self.assertEqual(weights(), [1, 1, 1, 1, 1])


class PassTests(PassesCase):
    """Passes of the scheduler tell what they found to whoever judges."""

    policy = msgspec.structs.replace(EAGER, max_repairs=0)

    def make(self, *args: Any, **more: Any) -> Any:
        self.standings = PeerStandings(self.database, self.world.now, TRUSTING)
        self.done(self.standings.start())
        self.world.standings = self.standings  # type: ignore[assignment]
        return super().make(*args, **more)

    def test_a_peer_that_has_lost_a_share_is_refused_by_six_passes_in_which_nothing_is_repaired(
        self,
    ) -> None:
        """Kryden's scheduler test of a corrupt shard, six runs at steps of a minute."""
        tracked = self.world.put()
        holder = self.world.holder_of(tracked, 0)
        holder.shares.discard((tracked.content_id, 0))
        for _ in range(6):
            self.assertIsNone(self.standings.judge(holder.key).refused)
            self.run_pass()
            self.world.pass_time(60)
        standing = self.standings.find(holder.key).standing
        assert standing is not None
        self.assertEqual((standing.failures, standing.successes), (6, 0))
        self.assertIn("audits failed", str(self.standings.judge(holder.key).refused))
        for number in range(1, 6):
            other = self.standings.find(self.world.holder_of(tracked, number).key)
            assert other.standing is not None
            self.assertEqual((other.standing.successes, other.judgement.refused), (6, None))
        # The next process knows it.
        again = PeerStandings(self.open(), self.world.now, TRUSTING)
        self.done(again.start())
        self.assertIsNotNone(again.judge(holder.key).refused)
