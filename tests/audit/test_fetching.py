"""
A peer that has kept nothing, and has somebody else send him what he is asked for.

It gives true answers, so nothing but time can tell, and here is how far that goes: whoever is
slower than twice what he mostly is, and two seconds, is found out, and whoever is not, is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.audit.audits import World


@define(eq=False)
class Fetching:
    """
    What looks at shares, for a peer that has only the roots and knows who has the rest.

    @ivar holder: looks at the shares of who has them.
    @ivar seconds: until all that is asked for has come from there.
    """

    holder: Any
    clock: IReactorTime
    seconds: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.holder, name)

    def leaves(self, wanted: Sequence[tuple[bytes, Sequence[int]]]) -> Deferred[list[Any]]:
        fetched: Deferred[list[Any]] = deferLater(
            self.clock, self.seconds, self.holder.leaves, wanted
        )
        return fetched


class Fetched(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(latency=0.02)
        self.asked = self.world.objects(3, 200_000)
        self.fetching = Fetching(self.world.keeping.keeper.sampler, self.world.clock)
        self.world.factory.stop()
        self.world.factory = self.world.make_factory(sampler=self.fetching)

    def audited(self, seconds: float) -> list[str]:
        """@param seconds: that it takes to fetch the leaves."""
        self.fetching.seconds = seconds
        # What a peer allows its auditors in a minute is not what is tried here.
        self.world.advance(10)
        return self.world.outcomes(self.asked)

    def quick_once(self) -> None:
        """It has had its shares, and was as quick as the network is."""
        for _ in range(9):
            self.assertEqual(self.audited(0.0), ["success"] * 3)

    def test_one_that_was_quick_and_has_to_fetch_for_longer_is_contained(self) -> None:
        self.quick_once()
        deadline = self.world.auditor.deadline(self.world.peer, len(self.asked))
        self.assertLess(deadline, 2.2)
        self.assertEqual(self.audited(deadline), ["contained"] * 3)

    def test_asked_again_it_has_to_answer_within_the_longest_time_or_has_failed(self) -> None:
        self.quick_once()
        self.assertEqual(self.audited(self.world.auditor.limits.longest), ["contained"] * 3)
        for _ in range(2):
            self.world.advance(600)
            self.world.outcomes(self.asked)
        self.assertEqual([each.outcome for each in self.world.settled], ["failure"] * 3)
        self.assertIn("never given a valid answer", str(self.world.settled[0].reason))

    def test_one_that_fetches_within_its_time_is_not_found_out(self) -> None:
        # The limit of what audits can do: docs/howto/audits.md says so.
        self.quick_once()
        self.assertEqual(self.audited(1.9), ["success"] * 3)

    def test_one_that_was_always_slow_has_more_time_and_never_more_than_the_longest(self) -> None:
        for _ in range(40):
            self.assertEqual(self.audited(5.0), ["success"] * 3)
        limits, deadline = self.world.auditor.limits, self.world.auditor.deadline
        self.assertAlmostEqual(deadline(self.world.peer, 3), 2 * 5.04 + limits.grace, places=1)
        self.assertEqual(self.audited(11.0), ["success"] * 3)
        self.assertEqual(self.audited(limits.longest), ["contained"] * 3)
