"""The stream of events of a real node, over its restarts."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.web.sse import Event, EventReader
from tests.process.mesh import MESHKIT, PATIENCE, Mesh, Node, connect, environment, wait_for


@contextlib.contextmanager
def opened(node: Node, path: str = "/v1/events", **headers: str) -> Iterator[socket.socket]:
    """A connection that has asked for the stream and seen the head of its answer."""
    with connect(node.door) as sock:
        sock.sendall(node.request("GET", path, **headers))
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(1)
        head = received.decode("latin-1").lower()
        if " 200 " not in head or "text/event-stream" not in head:
            raise AssertionError(head)
        yield sock


class Stream:
    """Reads events off a socket, within chunked HTTP."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")
        self._reader = EventReader()
        self._events: list[Event] = []
        self.ended = False

    def next(self) -> Event | None:
        """@return: L{None} if the stream has ended."""
        while not self._events:
            size = int(self._file.readline().strip() or b"0", 16)
            if not size:
                self.ended = True
                return None
            self._events += self._reader.feed(self._file.read(size))
            self._file.readline()
        return self._events.pop(0)

    def take(self, count: int) -> list[Event]:
        taken = []
        for _ in range(count):
            event = self.next()
            assert event is not None, "the stream ended"
            taken.append(event)
        return taken


def contents(events: list[Event]) -> list[Any]:
    return [json.loads(event.data)["content"] for event in events]


class EventTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a").start()

    def test_a_reader_that_comes_back_after_a_restart_misses_nothing(self) -> None:
        self.node.publish("before")
        with opened(self.node, "/v1/events?after=0") as sock:
            stream = Stream(sock)
            for number in range(3):
                self.node.publish(number)
            events = stream.take(4)
            self.assertEqual(contents(events), ["before", 0, 1, 2])
            self.node.stop()
            # In good order: the last chunk has come.
            self.assertIsNone(stream.next())
        self.node.start()
        for number in range(3, 6):
            self.node.publish(number)
        with opened(self.node, Last_Event_ID=events[1].id) as sock:
            stream = Stream(sock)
            self.assertEqual(contents(stream.take(5)), [1, 2, 3, 4, 5])
            self.node.publish("live")
            (live,) = stream.take(1)
            self.assertEqual(contents([live]), ["live"])
        self.node.kill()
        self.node.start()
        with opened(self.node, Last_Event_ID=live.id) as sock:
            self.node.publish("last")
            self.assertEqual(contents(Stream(sock).take(1)), ["last"])

    def test_watching_goes_on_over_kills(self) -> None:
        out, err = self.node.home / "watch.out", self.node.home / "watch.err"
        with out.open("wb") as standard, err.open("wb") as errors:
            child = subprocess.Popen(
                [
                    *MESHKIT,
                    "--data-dir",
                    str(self.node.data),
                    "feed",
                    "watch",
                    "--after",
                    "0",
                    "--json",
                ],
                cwd=self.node.home,
                env=environment(self.node.home),
                stdout=standard,
                stderr=errors,
            )
        self.addCleanup(child.wait, PATIENCE)
        self.addCleanup(child.kill)

        def seen() -> list[Any]:
            # The last line may be there in part.
            *lines, _ = out.read_text("utf-8").split("\n")
            return [json.loads(line)["message"]["content"] for line in lines]

        expected: list[Any] = []
        for ending in (self.node.kill, self.node.stop, self.node.kill):
            for _ in range(3):
                expected.append(len(expected))
                self.node.publish(expected[-1])
            wait_for("what was published", lambda: len(seen()) >= len(expected))
            ending()
            self.node.start()
        self.node.publish("last")
        wait_for("the last one", lambda: "last" in seen())
        self.assertEqual(seen(), [*expected, "last"])
        self.assertIsNone(child.poll(), err.read_text())
        child.send_signal(signal.SIGINT)
        child.wait(PATIENCE)
        self.assertEqual(err.read_text().strip(), "")
