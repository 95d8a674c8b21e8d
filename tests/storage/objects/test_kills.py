"""
A node that is killed before and after each of its commits, while shares of its objects are
moved, taken over and given up: started again, it comes to the same end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from meshkit.errors import NotFound, ObjectRemoved
from tests.storage.objects.test_guarding import GuardCase


class Mortal:
    """
    A database whose process is killed at one of its commits.

    @ivar writes: how many there were.
    @ivar dead: it was killed.
    """

    def __init__(self, database: Any, at: int, after: bool) -> None:
        """
        @param at: the number of the commit.
        @param after: it is durable, and nobody hears of it any more.
        """
        self._database = database
        self._at = at
        self._after = after
        self.writes = 0
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def read(self, job: Any) -> Deferred[Any]:
        if self.dead:
            return Deferred()
        found: Deferred[Any] = self._database.read(job)
        return found

    def write(self, job: Any) -> Deferred[Any]:
        if self.dead:
            return Deferred()
        self.writes += 1
        if self.writes <= self._at:
            found: Deferred[Any] = self._database.write(job)
            return found
        self.dead = True
        if self._after:
            self._database.write(job)
        return Deferred()


class KillCase(GuardCase):
    """
    What is played is played once for each commit, each time with another object.

    @cvar after: the node is killed after its commits, not before.
    """

    after: bool

    def setUp(self) -> None:
        super().setUp()
        self.played = 0

    def killed_everywhere(
        self,
        prepare: Callable[[], Any],
        play: Callable[[Any], object],
        check: Callable[[Any], None],
        *,
        owner: bool = True,
    ) -> None:
        """
        @param prepare: makes an object.
        @param play: is to be done by the node that is killed, and again when it is started
            again, as whoever asked for it has heard nothing.
        @param check: whether it came to what it should.
        @param owner: is the owner killed, or the repairer?
        """
        alive = False
        while not alive:
            at = self.played
            self.assertLess(at, 30)
            put = prepare()
            mortal = Mortal(self.database(owner), at, self.after)
            self.restart(owner, mortal)
            self.attempt(lambda put=put: play(put), mortal)  # type: ignore[misc]
            alive = not mortal.dead
            self.restart(owner, self.database(owner))
            play(put)
            for _ in range(2):
                self.pass_time(3_700)
                self.settle()
            check(put)
            self.leave_nothing(put)
            self.played += 1

    def database(self, owner: bool) -> Any:
        return (self.context if owner else self.repairer_context).database

    def restart(self, owner: bool, database: Any) -> None:
        """Start the node again, with this database."""
        if owner:
            self.stop(self.part)
            self.part = self.start(evolve(self.context, database=database))
            return
        self.stop(self.repairer)
        context = self.repairer_context
        self.repairer_context = evolve(context, database=database)
        self.repairer = self.start_repairer()
        self.repairer_context = context

    def attempt(self, work: Callable[[], object], mortal: Mortal) -> None:
        """Do something, or as much of it as is done before the kill."""
        try:
            work()
            self.run_upkeep()
            self.run_upkeep(self.repairer)
        except AssertionError:
            # Nobody answers any more.
            if not mortal.dead:
                raise

    def leave_nothing(self, put: Any) -> None:
        self.ask("object_remove", object=put.object)
        self.settle()
        self.hear(put)
        self.settle()
        self.assertEqual(sum(self.kept), 0)
        self.assertEqual(self.part.status().releases + self.repairer.status().releases, 0)

    def hear(self, put: Any) -> None:
        """The repairer hears that it was removed, if he looks after it."""
        with contextlib.suppress(NotFound, ObjectRemoved):
            self.newest(self.watched(put), self.repairer.tracking)

    # --- what is played ----------------------------------------------------------------------

    def handed_over(self) -> Any:
        put = self.put_and_publish()
        self.watch(put)
        self.settle()
        self.target = self.spare(self.tracked(put))
        return put

    def check_moved(self, put: Any) -> None:
        self.newest(self.tracked(put))
        self.newest(self.watched(put), self.repairer.tracking)
        self.settle()
        self.check_whole(put)
        self.assertEqual(self.holder(self.tracked(put), 1), self.target)


class _Plays(KillCase):
    def test_an_owner_who_moves_a_share(self) -> None:
        def move(put: Any) -> None:
            tracked = self.tracked(put)
            if self.holder(tracked, 1) != self.target:
                self.move(tracked, 1, self.target)

        self.killed_everywhere(self.handed_over, move, self.check_moved)
        # The move, what is published, and what is given up.
        self.assertGreaterEqual(self.played, 4)

    def test_a_repairer_who_moves_a_share(self) -> None:
        def move(put: Any) -> None:
            watched = self.watched(put)
            if self.holder(watched, 1) != self.target:
                self.repair(watched, 1, self.target)

        self.killed_everywhere(self.handed_over, move, self.check_moved, owner=False)
        self.assertGreaterEqual(self.played, 4)

    def moved_by_the_other(self) -> Any:
        put = self.handed_over()
        self.repair(self.watched(put), 1, self.target)
        self.run_upkeep(self.repairer)
        return put

    def test_an_owner_who_takes_over_what_was_moved(self) -> None:
        self.killed_everywhere(
            self.moved_by_the_other, lambda put: self.newest(self.tracked(put)), self.check_moved
        )
        self.assertGreaterEqual(self.played, 5)

    def test_somebody_to_whom_an_object_is_handed_over(self) -> None:
        def check(put: Any) -> None:
            self.check_whole(put)

        self.killed_everywhere(self.put_and_publish, self.watch, check, owner=False)
        self.assertGreaterEqual(self.played, 3)

    def test_an_owner_who_removes_an_object(self) -> None:
        def check(put: Any) -> None:
            self.hear(put)
            self.settle()
            self.assertEqual(sum(self.kept), 0)
            self.assertRaises(NotFound, self.watched, put)

        self.killed_everywhere(
            self.moved_by_the_other,
            lambda put: self.ask("object_remove", object=put.object),
            check,
        )
        self.assertGreaterEqual(self.played, 4)

    def test_a_repairer_who_hears_that_it_was_removed(self) -> None:
        def removed() -> Any:
            put = self.handed_over()
            self.repair(self.watched(put), 1, self.target)
            self.ask("object_remove", object=put.object)
            self.run_upkeep()
            return put

        def check(put: Any) -> None:
            self.assertRaises(NotFound, self.watched, put)

        self.killed_everywhere(removed, self.hear, check, owner=False)
        self.assertGreaterEqual(self.played, 3)


class KilledBeforeACommitTests(_Plays):
    after = False


class KilledAfterACommitTests(_Plays):
    after = True


del _Plays
