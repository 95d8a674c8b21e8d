"""Tests of L{meshkit.hooks.command}, with processes that exist here only."""

from __future__ import annotations

import signal
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.hooks.command import (
    GONE_SECONDS,
    MAX_FIELD,
    STOP_GRACE,
    Commands,
    environment,
    kill_session,
    shown_output,
)
from meshkit.hooks.config import CommandHook
from meshkit.hooks.retries import Failed
from meshkit.testing.identities import make_identity
from tests.hooks.support import make_arrival

ADA = make_identity("ada").public


class FakeProcess:
    """
    A process: what C{spawnProcess} gives.

    @ivar written: what came on its standard input.
    """

    def __init__(self, pid: int, protocol: Any, arguments: list[str], options: Any) -> None:
        self.pid = pid
        self.protocol = protocol
        self.arguments = arguments
        self.options = options
        self.written = b""
        self.stdin_open = True
        self.lost = False

    def write(self, data: bytes) -> None:
        self.written += data

    def closeStdin(self) -> None:
        self.stdin_open = False

    def loseConnection(self) -> None:
        self.lost = True

    def exit(self, code: int = 0, number: int | None = None, *, closed: bool = True) -> None:
        """It ends; and so do its pipes, unless somebody else holds them open."""
        good = code == 0 and number is None
        self.reason = Failure(ProcessDone(0) if good else ProcessTerminated(code, number, 0))
        self.protocol.processExited(self.reason)
        if closed:
            self.close()

    def close(self) -> None:
        self.protocol.processEnded(self.reason)


class CommandCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.processes: list[FakeProcess] = []
        self.killed: list[tuple[int, int]] = []
        self.refuse: OSError | None = None

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def spawn(self, protocol: Any, executable: str, arguments: list[str], **options: Any) -> Any:
        if self.refuse is not None:
            raise self.refuse
        self.assertEqual(executable, arguments[0])
        process = FakeProcess(100 + len(self.processes), protocol, arguments, options)
        self.processes.append(process)
        protocol.makeConnection(process)
        return process

    def commands(self, *, at_a_time: int | DeferredSemaphore = 1, **fields: Any) -> Commands:
        running = DeferredSemaphore(at_a_time) if isinstance(at_a_time, int) else at_a_time
        return Commands(
            self.clock,
            CommandHook(**{"name": "a", "run": ("prog", "-x"), "timeout": 30.0, **fields}),
            "/folder",
            running,
            100,
            spawn=self.spawn,
            kill=lambda target, number: self.killed.append((target, number)),
        )

    def failed(self, waiting: Deferred[Failed | None]) -> str:
        outcome = self.successResultOf(waiting)
        assert outcome is not None
        return outcome.error


class Running(CommandCase):
    def test_the_message_is_what_it_reads_and_then_nothing(self) -> None:
        arrival = make_arrival()
        waiting = self.commands().deliver(arrival, 2)
        (process,) = self.processes
        self.assertEqual(process.written, arrival.text)
        self.assertFalse(process.stdin_open)
        self.assertEqual(process.arguments[0], sys.executable)
        self.assertEqual(process.arguments[-3:], ["/folder", "prog", "-x"])
        self.assertEqual(process.options["childFDs"], {0: "w", 1: "r", 2: "r"})
        self.assertEqual(process.options["env"], environment("a", arrival, 2))
        self.assertNoResult(waiting)
        process.exit()
        self.assertIsNone(self.successResultOf(waiting))

    def test_an_exit_code_is_a_failure_with_what_it_said(self) -> None:
        waiting = self.commands().deliver(make_arrival(), 1)
        self.processes[0].protocol.outReceived(b"trying\n")
        self.processes[0].protocol.errReceived(b"no \x1b[2Jluck\xff\n")
        self.processes[0].exit(3)
        self.assertEqual(
            self.failed(waiting), "it exited with code 3, saying: trying no \ufffd[2Jluck\ufffd"
        )

    def test_a_signal_is_a_failure(self) -> None:
        waiting = self.commands().deliver(make_arrival(), 1)
        self.processes[0].exit(number=11)
        self.assertIn("signal 11", self.failed(waiting))

    def test_without_a_process_it_fails(self) -> None:
        self.refuse = OSError(11, "Resource temporarily unavailable")
        commands = self.commands()
        self.assertIn("temporarily", self.failed(commands.deliver(make_arrival(), 1)))
        # Its turn was given back.
        self.refuse = None
        commands.deliver(make_arrival(), 1)
        self.processes[0].exit()

    def test_output_is_read_to_its_end_and_kept_up_to_a_limit(self) -> None:
        waiting = self.commands().deliver(make_arrival(), 1)
        protocol = self.processes[0].protocol
        for _ in range(1000):
            protocol.outReceived(b"o" * 60)
            protocol.errReceived(b"e" * 60)
        self.assertEqual(len(protocol.output), 100)
        self.assertEqual(protocol.dropped, 1000 * 120 - 100)
        self.processes[0].exit()
        self.assertIsNone(self.successResultOf(waiting))

    def test_only_so_many_run_at_a_time_over_all_hooks(self) -> None:
        running = DeferredSemaphore(2)
        every = [self.commands(at_a_time=running, name=f"h{number}") for number in range(4)]
        waiting = [each.deliver(make_arrival(), 1) for each in every]
        self.assertEqual(len(self.processes), 2)
        self.processes[1].exit()
        self.assertEqual(len(self.processes), 3)
        self.processes[0].exit(1)
        self.assertEqual(len(self.processes), 4)
        for process in self.processes[2:]:
            process.exit()
        self.assertEqual(
            [bool(self.successResultOf(each)) for each in waiting], [True] + 3 * [False]
        )


class Ending(CommandCase):
    def test_at_its_time_limit_the_whole_session_is_told_and_then_killed(self) -> None:
        waiting = self.commands(timeout=30.0, kill_after=5.0).deliver(make_arrival(), 1)
        self.clock.advance(29.9)
        self.assertEqual(self.killed, [])
        self.clock.advance(0.1)
        self.assertEqual(self.killed, [(-100, signal.SIGTERM)])
        self.clock.advance(4.9)
        self.assertEqual(len(self.killed), 1)
        self.clock.advance(0.1)
        self.assertEqual(self.killed[1:], [(-100, signal.SIGKILL)])
        self.processes[0].exit(number=9)
        self.assertIn("not done after 30 s", self.failed(waiting))

    def test_one_that_heeds_the_signal_has_failed_all_the_same(self) -> None:
        waiting = self.commands().deliver(make_arrival(), 1)
        self.clock.advance(30)
        self.processes[0].exit(0)
        self.assertIn("not done after 30 s", self.failed(waiting))

    def test_what_it_leaves_running_is_killed_when_it_ends(self) -> None:
        waiting = self.commands().deliver(make_arrival(), 1)
        self.processes[0].exit()
        self.assertEqual(self.killed, [(-100, signal.SIGKILL)])
        self.assertIsNone(self.successResultOf(waiting))

    def test_who_left_the_session_cannot_hold_it_up_by_an_open_pipe(self) -> None:
        waiting = self.commands().deliver(make_arrival(), 1)
        self.processes[0].exit(closed=False)
        self.assertNoResult(waiting)
        self.clock.advance(GONE_SECONDS)
        self.assertTrue(self.processes[0].lost)
        self.processes[0].close()
        self.assertIsNone(self.successResultOf(waiting))

    def test_one_that_cannot_be_killed_is_left_behind(self) -> None:
        waiting = self.commands(kill_after=5.0).deliver(make_arrival(), 1)
        for seconds in (30, 5, GONE_SECONDS):
            self.clock.advance(seconds)
        self.assertIn("cannot be killed", self.failed(waiting))
        self.assertTrue(self.processes[0].lost)
        # It ends at last, long after.
        self.processes[0].exit(number=9)

    def test_when_the_node_stops_it_has_less_time(self) -> None:
        commands = self.commands(kill_after=60.0)
        waiting = commands.deliver(make_arrival(), 1)
        commands.stop()
        self.assertEqual(self.killed, [(-100, signal.SIGTERM)])
        self.clock.advance(STOP_GRACE)
        self.assertEqual(self.killed[1:], [(-100, signal.SIGKILL)])
        self.processes[0].exit(number=9)
        self.assertIsNotNone(self.successResultOf(waiting))
        self.assertIn("stopped", self.failed(commands.deliver(make_arrival(), 1)))
        self.assertEqual(len(self.processes), 1)

    def test_when_the_node_stops_nobody_waits_for_a_turn_any_more(self) -> None:
        running = DeferredSemaphore(1)
        one, two = self.commands(at_a_time=running), self.commands(at_a_time=running)
        first = one.deliver(make_arrival(), 1)
        second = two.deliver(make_arrival(), 1)
        two.stop()
        self.assertIn("stopped", self.failed(second))
        self.processes[0].exit()
        self.assertIsNone(self.successResultOf(first))
        self.assertEqual((len(self.processes), running.tokens), (1, 1))

    def test_a_session_that_is_not_made_yet_is_one_process(self) -> None:
        sent: list[int] = []

        def kill(target: int, number: int) -> None:
            if target < 0:
                raise ProcessLookupError
            sent.append(target)

        kill_session(7, signal.SIGTERM, kill)
        self.assertEqual(sent, [7])

    def test_a_session_that_is_gone_or_anothers_is_no_error(self) -> None:
        for error in (ProcessLookupError, PermissionError):

            def kill(target: int, number: int, error: type[OSError] = error) -> None:
                raise error

            kill_session(7, signal.SIGTERM, kill)


class Environments(CommandCase):
    def test_it_holds_the_fields_of_the_message_and_nothing_of_ours(self) -> None:
        arrival = make_arrival(author=ADA.raw, content_type="note", tags=("b", "a"))
        self.assertEqual(
            environment("name", arrival, 3),
            {
                "LANG": "C.UTF-8",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "MESHKIT_ATTEMPT": "3",
                "MESHKIT_AUTHOR": ADA.text,
                "MESHKIT_CHAIN_VALID": "true",
                "MESHKIT_HASH": (b"h" * 32).hex(),
                "MESHKIT_HOOK": "name",
                "MESHKIT_POSITION": "7",
                "MESHKIT_SEQUENCE": "3",
                "MESHKIT_TAGS": "b,a",
                "MESHKIT_TYPE": "note",
            },
        )

    def test_what_an_author_chose_is_plain_or_left_out(self) -> None:
        for odd in ("a\0b", "a\nb", "\x1b[2J", "\u00fc", "\ud800", "x" * (MAX_FIELD + 1)):
            fields = environment("a", make_arrival(content_type=odd, tags=(odd,)), 1)
            self.assertNotIn("MESHKIT_TYPE", fields)
            self.assertNotIn("MESHKIT_TAGS", fields)
        tags = ("one", "two,three", "f\u00fcnf", "six")
        self.assertEqual(environment("a", make_arrival(tags=tags), 1)["MESHKIT_TAGS"], "one,six")
        many = tuple(f"tag{number}" for number in range(100))
        self.assertNotIn("MESHKIT_TAGS", environment("a", make_arrival(tags=many), 1))
        self.assertNotIn("MESHKIT_TYPE", environment("a", make_arrival(content_type=None), 1))

    @given(st.text(), st.lists(st.text()))
    def test_whatever_an_author_chose_can_be_given_to_a_process(
        self, content_type: str, tags: list[str]
    ) -> None:
        arrival = make_arrival(content_type=content_type, tags=tuple(tags))
        for name, value in environment("a", arrival, 1).items():
            self.assertTrue(value.isascii() and value.isprintable(), (name, value))
            self.assertLessEqual(len(value), MAX_FIELD)

    @given(st.binary(), st.integers(1, 50))
    def test_whatever_it_prints_can_be_shown(self, output: bytes, most: int) -> None:
        shown = shown_output(output, most)
        self.assertTrue(shown.isprintable())
        self.assertLessEqual(len(shown), most + 3)
