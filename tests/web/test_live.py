"""What agents are told of the node before they ask."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.web.live import LOOK, MAX_ADVICE, MAX_SENTENCE, LiveStatus


class LiveStatusTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.ready = True
        self.advice: list[str] = []
        self.changes = 0
        self.live = LiveStatus(self.clock, lambda: self.ready, lambda: self.advice, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def test_it_says_whether_the_node_is_ready_and_what_is_to_be_done(self) -> None:
        self.assertIn("nothing has to be done", self.live.text())
        self.advice = ["Add a peer.", "Free some\n  disk."]
        self.assertEqual(
            self.live.text(),
            "Now: the node is ready.\nACTION: Add a peer.\nACTION: Free some disk.",
        )
        self.ready = False
        self.assertIn("starting", self.live.text())
        self.live.stop()

    def test_nobody_is_told_of_anything_before_somebody_has_read_it(self) -> None:
        self.advice = ["Add a peer."]
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(10 * LOOK)
        self.assertEqual(self.changes, 0)

    def test_all_are_told_once_of_what_changed_and_of_nothing_else(self) -> None:
        self.live.text()
        self.clock.pump([LOOK] * 5)
        self.assertEqual(self.changes, 0)
        self.advice = ["Add a peer."]
        self.clock.pump([LOOK] * 5)
        self.assertEqual(self.changes, 1)
        self.advice = []
        self.clock.pump([LOOK] * 5)
        self.assertEqual(self.changes, 2)
        self.live.stop()

    def test_what_was_so_for_a_moment_only_is_not_told(self) -> None:
        self.live.text()
        self.advice = ["Add a peer."]
        self.clock.advance(LOOK / 2)
        self.advice = []
        self.clock.advance(LOOK)
        self.assertEqual(self.changes, 0)
        self.live.stop()

    def test_a_part_that_cannot_say_does_not_end_it(self) -> None:
        self.live.text()

        def broken() -> list[str]:
            raise ZeroDivisionError

        good, self.live._advice = self.live._advice, broken
        self.clock.advance(LOOK)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.live._advice = good
        self.advice = ["Add a peer."]
        self.clock.advance(LOOK)
        self.assertEqual(self.changes, 1)
        self.live.stop()

    def test_it_is_bounded(self) -> None:
        self.advice = ["x" * 5000] * 5000
        lines = self.live.text().splitlines()
        self.assertEqual(len(lines), 1 + MAX_ADVICE)
        self.assertEqual({len(line) for line in lines[1:]}, {MAX_SENTENCE + len("ACTION: ")})
        self.live.stop()

    def test_once_stopped_it_leaves_nothing_behind(self) -> None:
        self.live.text()
        self.live.stop()
        self.live.stop()
        self.assertIn("ready", self.live.text())
        self.assertEqual(self.clock.getDelayedCalls(), [])
