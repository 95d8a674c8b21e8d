"""
Crowds at the door of a real node: a thousand that wait, some that never read, never end
their requests, or bring more than there is room for.  Others are served all the while.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from base64 import b64encode
from pathlib import Path
from random import Random
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.open_files import allow_files
from tests.process.mesh import PATIENCE, Mesh, Node, connect, read_answer, wait_for

MIB: Final = 1024 * 1024
IDLE: Final = 1_000
#: KiB that the node may need for each client that waits; about 18 were seen.
MAX_PER_STREAM: Final = 40
#: KiB that a flood may cost a node beyond what its limits say; freed memory is not all given
#: back to the system.
SLACK: Final = 96 * 1024


def memory(node: Node) -> int:
    """@return: KiB that the node's process has in memory."""
    assert node.process is not None
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError("VmRSS")


class CrowdCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_NOFILE)
        allow_files(object(), IDLE + 500)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, self.before)
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.opened = contextlib.ExitStack()
        self.addCleanup(self.opened.close)
        self.node = self.mesh.node("a")

    def connect(self, wire: bytes = b"") -> socket.socket:
        sock = self.opened.enter_context(connect(self.node.door))
        sock.sendall(wire)
        return sock

    def assert_served(self, seconds: float = 5.0) -> None:
        """Whoever comes now is answered, and soon."""
        began = time.monotonic()
        self.assertTrue(self.node.status["ready"])
        self.assertLess(time.monotonic() - began, seconds)


class StreamTests(CrowdCase):
    def test_a_thousand_that_wait_for_events(self) -> None:
        # The usual limit of a shell or a service, which is not enough for them.
        self.node.prefix = ("sh", "-c", 'ulimit -Sn 512; exec "$@"', "sh")
        self.node.start()
        self.node.publish("before")
        before = memory(self.node)
        wire = self.node.request("GET", "/v1/events")
        waiting = [self.connect(wire) for _ in range(IDLE)]
        for sock in waiting:
            self.read_until(sock, b":\n\n")
        each = (memory(self.node) - before) / IDLE
        self.assertLess(each, MAX_PER_STREAM)
        self.assert_served()
        # All of them hear of what happens.
        began = time.monotonic()
        self.node.publish("to a thousand")
        for sock in waiting:
            self.read_until(sock, b"to a thousand")
        print(f"{each:.0f} KiB each; told all in {time.monotonic() - began:.2f} s")
        self.assertLess(time.monotonic() - began, 20)
        # One token can have 1,024.
        more = [self.connect(wire) for _ in range(24)]
        for sock in more:
            self.read_until(sock, b":\n\n")
        refused = read_answer(self.connect(wire))
        self.assertEqual((refused.status, refused.code), (503, "OVERLOADED"))
        self.assertEqual(refused.headers["retry-after"], "1")
        # Who goes makes room.
        more.pop().close()
        wait_for("room", lambda: b" 200 " in self.connect(wire).recv(64))
        self.node.stop()
        for sock in waiting:
            self.read_until(sock, b"0\r\n\r\n")

    def read_until(self, sock: socket.socket, end: bytes) -> None:
        received = b""
        # Comments come all the while, so the socket's own limit is none.
        last = time.monotonic() + PATIENCE
        while end not in received:
            piece = sock.recv(65_536)
            if not piece or time.monotonic() > last:
                raise AssertionError(f"no {end!r} came, only {received!r}")
            received += piece


class FloodTests(CrowdCase):
    def test_with_few_files_the_door_takes_fewer_and_who_is_slow_makes_room(self) -> None:
        self.node.prefix = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
        self.node.start()
        self.assertIn("256 files open, so the door takes 128 connections", self.node.log_tail())
        # Heads that never end, and connections that say nothing.
        slow = [self.connect(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: ") for _ in range(200)]
        silent = [self.connect() for _ in range(200)]
        for _ in range(3):
            self.assert_served()
        # They drip, and come back when they are cut off.
        for sock in slow:
            with contextlib.suppress(OSError):
                sock.sendall(b"x")
        for sock in silent:
            sock.close()
        self.assert_served()

    def test_heads_without_an_end(self) -> None:
        self.node.start()
        before = memory(self.node)
        start = b"GET /v1/status HTTP/1.1\r\n" + b"X: " + b"x" * 16_000
        flood = [self.connect(start) for _ in range(500)]
        self.assert_served()
        self.assertLess(memory(self.node) - before, 500 * 64 + SLACK)
        for sock in flood:
            sock.sendall(b"x" * 1_000)
            answer = read_answer(sock)
            self.assertEqual((answer.status, answer.code), (431, "HEADERS_TOO_LARGE"))
        self.assert_served()

    def test_more_bodies_than_there_is_memory_for(self) -> None:
        self.node.start()
        before = memory(self.node)
        size = 16 * MIB
        # Nothing can be published by them: the last byte is never sent.
        piece = b" " * MIB
        head = self.node.request(
            "POST",
            "/v1/publish/batch",
            Content_Type="application/json",
            Content_Length=str(size),
        )
        codes = []
        for _ in range(8):
            sock = self.connect(head)
            with contextlib.suppress(ConnectionError):
                for _ in range(size // MIB - 1):
                    sock.sendall(piece)
            self.assert_served()
            # Who was refused has its answer by now.
            sock.settimeout(0.3)
            with contextlib.suppress(TimeoutError, ConnectionError):
                answer = read_answer(sock)
                codes.append((answer.status, answer.code))
        # 64 MiB for all, 32 for one token: two of these, and no third.
        self.assertEqual(set(codes), {(503, "OVERLOADED")})
        self.assertGreaterEqual(len(codes), 5)
        self.assertLess(memory(self.node) - before, 64 * 1024 + SLACK)
        # What is small goes in between.
        self.assertEqual(self.node.publish("small")["sequence"], 1)

    def test_clients_that_never_read(self) -> None:
        self.flood_unread(64 * 1024 + SLACK)

    def test_clients_that_never_read_what_is_compressed_for_them(self) -> None:
        # Five answers can wait for a thread that compresses; for each that has one, the
        # compressed bytes are there twice while it ends.
        self.flood_unread(64 * 1024 + 2 * SLACK, Accept_Encoding="gzip")

    def flood_unread(self, limit: int, **headers: str) -> None:
        """@param limit: of what the node may need for it; KiB."""
        self.node.start()
        # Of what does not get shorter by being compressed.
        rng = Random(5)
        texts = [b64encode(rng.randbytes(48 * 1024 - 12)).decode() for _ in range(200)]
        body = json.dumps({"contents": texts}).encode()
        self.assertEqual(self.node.ask("POST", "/v1/publish/batch", body).status, 201)
        wire = self.node.request("GET", "/v1/feed?include_self=true&limit=200", **headers)
        self.node.ask("GET", "/v1/feed?include_self=true&limit=200", **headers)
        before = memory(self.node)
        # Each asks for 12 MiB, again and again, and takes nothing.
        flood = []
        for _ in range(60):
            sock = self.opened.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(PATIENCE)
            sock.connect(self.node.door)
            sock.sendall(wire * 20)
            flood.append(sock)
        most = 0

        def cut() -> bool:
            nonlocal most
            # Answers come while others wait, or say when to ask again.
            answer = self.node.ask("GET", "/v1/status")
            if answer.status != 200:
                self.assertEqual((answer.status, answer.code), (503, "OVERLOADED"))
                self.assertIn(answer.headers["retry-after"], ("1", "2"))
            # 720 MiB are asked for at once; one token has room for 64.
            most = max(most, memory(self.node) - before)
            self.assertLess(most, limit)
            return "its connection is cut" in self.node.log_tail(200)

        wait_for("end of one of them", cut)
        print(f"{most // 1024} MiB of {limit // 1024}")
        for sock in flood:
            sock.close()
        wait_for("answer", lambda: self.node.ask("GET", "/v1/status").status == 200)
        self.assert_served()
