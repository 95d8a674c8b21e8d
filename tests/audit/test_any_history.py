"""Passes in a world in which anything may happen."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshkit.audit import state
from meshkit.audit.decisions import Policy
from meshkit.audit.passing import Pace
from meshkit.audit.replay import replay
from meshkit.runtime.container import MemoryFile
from meshkit.storage.custody import TrackedObject
from tests.audit.fakes import World
from tests.audit.passes import PassesCase

PEERS = 14
OBJECTS = 3
_names = count()

PEER = st.integers(0, PEERS - 1)
OBJECT = st.integers(0, OBJECTS - 1)
ACTIONS = st.one_of(
    st.tuples(st.just("away"), PEER),
    st.tuples(st.just("hangs"), PEER),
    st.tuples(st.just("back"), PEER),
    st.tuples(st.just("lies"), PEER),
    st.tuples(st.just("leaves"), PEER),
    # Two at once: one alone is left as it is.
    st.tuples(st.just("loses"), OBJECT, st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("loses"), OBJECT, st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("full"), st.integers(0, 2)),
    st.tuples(st.just("time"), st.sampled_from([60, 900, 7_200, 100_000])),
    st.tuples(st.just("pass")),
    st.tuples(st.just("stopped"), st.integers(1, 12)),
)


class HistoryTests(PassesCase):
    """No pass makes anything worse, and each is explained by what it has written down."""

    policy = Policy(every=3_600, cooldown=60, backoff=60, max_repairs=3, peer_life=1e6)

    def begin_anew(self) -> None:
        self.backing = MemoryFile(f"{self.id()}-{next(_names)}")
        self.world = World(self.clock, PEERS)
        self.world.pass_time(-self.clock.seconds())
        self.database = self.open()
        self.scheduler = self.make(pace=Pace(page=3, audit_seconds=5.0))
        self.objects = [self.world.put(3 * seed) for seed in range(OBJECTS)]

    def kept(self, tracked: TrackedObject) -> int:
        """@return: how many shares of an object are where they should be, whoever is away."""
        now = self.world.tracked.objects[tracked.content_id].document
        return sum(
            placed is not None
            and (tracked.content_id, number) in self.world.by_key[placed.peer].shares
            for number, placed in enumerate(now.shares)
        )

    def step(self) -> None:
        calls = self.clock.getDelayedCalls()
        if calls:
            self.clock.advance(
                max(0.0, min(each.getTime() for each in calls) - self.clock.seconds())
            )

    def act(self, action: tuple[Any, ...]) -> None:
        kind, *rest = action
        world = self.world
        if kind in ("away", "hangs", "back", "lies", "leaves"):
            holder = world.holders[rest[0]]
            holder.says = "offline" if kind == "away" else None
            holder.delay = None if kind == "hangs" else 0.0
            holder.lies, holder.leaving = kind == "lies", kind == "leaves"
        elif kind == "loses":
            tracked = self.objects[rest[0]]
            for number in rest[1:]:
                world.holder_of(tracked, number).shares.discard((tracked.content_id, number))
        elif kind == "full":
            world.repairing.room = rest[0] if rest[0] < 2 else None
        elif kind == "time":
            world.pass_time(rest[0])
        elif kind == "pass":
            self.check(self.pass_by_itself)
        else:
            self.check(lambda: self.stop_after(rest[0]))

    def stop_after(self, steps: int) -> Any:
        self.scheduler._begin(None, False, self.scheduler.policy)
        for _ in range(steps):
            self.step()
        self.done(self.scheduler.stop())
        return self.ended()

    def check(self, make_pass: Any) -> None:
        before = [self.kept(each) for each in self.objects]
        recorded = self.world.tracked.swaps
        run = make_pass()
        self.assertIn(run.state, ("done", "stopped"))
        for was, each in zip(before, self.objects, strict=True):
            self.assertGreaterEqual(self.kept(each), was)
        found = replay(self.read(state.trace, run.id))
        self.assertEqual(found.differences, ())
        if run.state == "done":
            self.assertEqual(found.decisions, run.metrics.due)
            self.assertEqual(found.figures["placed"], run.metrics.placed)
            self.assertEqual(run.metrics.repaired, self.world.tracked.swaps - recorded)
        self.assertLessEqual(run.metrics.placed, self.policy.max_repairs)
        written = self.read(state.find_run)
        self.assertEqual((written.id, written.state), (run.id, run.state))

    @given(st.lists(ACTIONS, min_size=6, max_size=16))
    def test_whatever_happens(self, actions: list[tuple[Any, ...]]) -> None:
        self.begin_anew()
        for number in range(OBJECTS):
            self.act(("loses", number, 0, 1))
        for action in actions:
            self.act(action)
        # Then all is well again, and so are all objects that can be.
        self.world.repairing.room = None
        for holder in self.world.holders:
            holder.says, holder.delay, holder.lies, holder.leaving = None, 0.0, False, False
        for _ in range(6):
            self.world.pass_time(25_000)
            self.check(self.pass_by_itself)
        for each in self.objects:
            known = self.state_of(each)
            if self.kept(each) < 4:
                self.assertEqual(known.code, "lost")
            else:
                # Lazy: one of two to spare may be lost.
                self.assertIn(known.code, ("healthy", "spare"))
                self.assertGreaterEqual(self.kept(each), 5)
        self.done(self.database.stopService())
        self.backing.close()
