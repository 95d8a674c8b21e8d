"""
A real relay with 5,000 members who only wait, one who floods it with all there is, and one who asks
for much and reads nothing.  Its memory is bounded, and the others are served.

All of them come from this machine, which to a relay is one address: so its limits for an address
are raised, and those for a key are what they always are.
"""

from __future__ import annotations

import json
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final
from urllib.parse import quote

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.bench.children import Child, ChildFailed, child
from tests.bench.nodes import cpu_seconds, memory_bytes
from tests.process.mesh import Mesh, Node, wait_for
from tests.process.relays import RelayNode

MIB: Final = 2**20
KIB: Final = 2**10
MEMBERS: Final = 5_000
#: Files of a relay beside its members': those of its door and its own, and for handshakes.
OTHERS: Final = 2_304 + 768 + 512 + 256
#: What one who waits may take of the relay's memory, about 9 KiB were seen; and by how much it may
#: grow by the two who are at odds with it: of one key 8 MiB are held that it does not read, at the
#: HTTP door 16 MiB.  Without these limits it was 73 MiB after fifteen seconds, and went on.
EACH: Final = 16 * KIB
GROWTH: Final = 64 * MIB
#: Seconds before and while there is a flood.
QUIET: Final = 2.0
FLOOD: Final = 10.0
#: Seconds that anything which a member asks for may take in a flood, at most and in the middle; the
#: latter also as a multiple of what it took before.
MOST: Final = 30.0
MIDDLE: Final = 5.0
TIMES: Final = 100
#: Open files of a relay that has few, and members who want to be there.
FEW_FILES: Final = 512
TOO_MANY: Final = 300
_PATIENCE: Final = 240.0


class CrowdCase(SynchronousTestCase):
    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.record = record_property

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.threads = self.stack.enter_context(ThreadPoolExecutor())
        self.relay = self.mesh.node(
            "relay", "--mailboxes-mailboxes-of-origin=20000", kind=RelayNode
        )

    def crowd(self, name: str) -> Child:
        return self.stack.enter_context(child(name, [sys.executable, "-m", "tests.process.crowd"]))

    def begin(self, *crowds: Child) -> None:
        for seed, each in enumerate(crowds):
            each.ask(
                "begin", seed=seed, relay=self.relay.address, network=self.relay.network_secret
            )

    def memory(self) -> int:
        assert self.relay.process is not None
        return memory_bytes(self.relay.process.pid)

    def log(self) -> list[dict[str, str]]:
        lines = self.relay.log.read_text().splitlines()
        return [json.loads(line) for line in lines]

    def warnings(self) -> list[str]:
        """@return: what the relay has to say to its operator."""
        return [each["message"] for each in self.log() if each["level"] not in ("info", "debug")]


class RelayCrowdTests(CrowdCase):
    def test_five_thousand_wait_one_floods_and_one_never_reads(self) -> None:
        began = time.monotonic()
        members = how_many()
        # Its limit is that of a shell or a service, which it raises itself.
        self.relay.prefix = ("sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh")
        good, bad = self.crowd("members"), self.crowd("flooders")
        self.relay.start()
        self.begin(good, bad)
        assert self.relay.process is not None
        # It may want more than this system gives, and says so.
        self.few_files = len(self.warnings())
        empty = self.memory()
        coming = self.threads.submit(good.ask, "wait", number=members, patience=_PATIENCE)
        ada, mallory = self.writers()
        targets = coming.result()
        each = (self.memory() - empty) / members
        came = time.monotonic()
        spent = [cpu_seconds(self.relay.process.pid), good.ask("cpu")]
        # Those two nodes wait too.
        self.assertEqual(good.ask("waiting"), members)
        self.assertGreaterEqual(self.relay.status["parts"]["mailboxes"]["online"], members)
        self.assertLess(each, EACH)

        (url,) = self.relay.status["parts"]["relay_door"]["urls"]
        port = int(url.rpartition(":")[2])
        good.ask("ordinary", port=port)
        served = Served(good, ada, port)
        quiet = served.during(QUIET)
        before = self.memory()
        bad.ask("stare", port=port)
        wait_for("end of one that never reads", lambda: self.cut(served), step=0.1)
        bad.ask("flood", targets=targets, port=port)
        with self.publishing_without_end(mallory):
            flooded = served.during(FLOOD, self.memory)
        counts = bad.ask("stop")
        growth = max(served.memory) - before
        self.record(
            "figures",
            f"{few(members)}{members:,} members of {each / KIB:.1f} KiB each came in "
            f"{came - began:.0f} s, CPU seconds {spent[0]:.1f} of the relay and {spent[1]:.1f} of "
            f"theirs; {growth / MIB:.0f} MiB more in a flood; before it, and in it: "
            + "; ".join(f"{name} {spread(quiet[name])}, {spread(flooded[name])}" for name in quiet)
            + f"; all in {time.monotonic() - began:.0f} s",
        )
        print(counts)
        self.assertLess(growth, GROWTH)
        for name, seconds in flooded.items():
            self.assertLess(max(seconds), MOST, name)
            bound = max(MIDDLE, TIMES * statistics.median(quiet[name]))
            self.assertLess(statistics.median(seconds), bound, name)
        # Nobody who waits was disturbed.
        self.assertEqual(good.ask("waiting"), members)
        # It was a flood, of all kinds, and the relay has held it off.
        for what in (
            *("deposit calls", "register: OVER_RATE", "relay.reserve calls", "ping pieces"),
            *("gossip pieces", "relay-circuit silent", "door 429"),
        ):
            self.assertGreater(counts.get(what, 0), 0, what)
        self.assertTrue(self.cut(served))
        self.assertIn("PEER_FLOODS", self.relay.status["parts"]["gossip"]["broken"])
        # It is well, and goes in good order, however many there are.
        self.assertEqual(self.warnings()[self.few_files :], [])
        self.assertIn(self.relay.stop(), (0, -signal.SIGTERM))

    def cut(self, served: Served) -> bool:
        """@return: has somebody lost a connection who did not read?"""
        served.memory.append(self.memory())
        return any("bytes unread" in each["message"] for each in self.log())

    def writers(self) -> tuple[Node, Node]:
        """@return: nodes whose feeds the relay has."""
        nodes = [
            self.mesh.node(name, "--relays-use", self.relay.address, network=self.relay)
            for name in ("ada", "mallory")
        ]
        for node in nodes:
            node.spawn()
        for node in nodes:
            node.wait_ready()
            node.publish("the first")
        wait_for("feeds", lambda: self.relay.status["parts"]["feed"]["messages"] >= len(nodes))
        return nodes[0], nodes[1]

    @contextmanager
    def publishing_without_end(self, node: Node) -> Iterator[None]:
        contents = [{"type": "note", "text": f"{n} " + 2_000 * "x"} for n in range(200)]
        body = json.dumps({"contents": contents}).encode()
        going = True

        def publish() -> None:
            while going:
                node.ask("POST", "/v1/publish/batch", body)

        done: Future[None] = self.threads.submit(publish)
        try:
            yield
        finally:
            going = False
            done.result()


class FewFilesTests(CrowdCase):
    def test_a_relay_with_few_files_says_so_is_full_and_serves_those_who_are_there(self) -> None:
        self.relay.prefix = ("sh", "-c", f'ulimit -n {FEW_FILES}; exec "$@"', "sh")
        good, many = self.crowd("members"), self.crowd("too many")
        self.relay.start()
        self.begin(good, many)
        (said,) = self.warnings()
        self.assertIn(f"{FEW_FILES} files open, so the door takes 128 connections", said)
        self.assertIn("256 peers can be connected: for more, raise the limit (ulimit -n", said)
        # All have one address here, so nobody has to go for a newcomer.
        with self.assertRaisesRegex(ChildFailed, "did not do 'wait' in time"):
            many.ask("wait", number=TOO_MANY, patience=8.0)
        status = self.relay.status
        self.assertGreater(status["refused"]["TOO_MANY_CONNECTIONS"], 0)
        # One in four is for handshakes.
        self.assertLessEqual(status["parts"]["mailboxes"]["online"], 192)
        self.assertGreater(status["parts"]["mailboxes"]["online"], 100)
        (_, full, *_) = self.warnings()
        self.assertIn("TOO_MANY_CONNECTIONS: 192 peers are connected already", full)
        self.assertIn("raise the limit of open files", full)
        # Who goes makes room.
        many._process.kill()
        good.ask("wait", number=10)
        self.assertEqual(good.ask("waiting"), 10)
        self.assertIn(self.relay.stop(), (0, -signal.SIGTERM))


class Served:
    """
    Members who leave and fetch mail, publish and read feeds.

    @ivar memory: of the relay in between.
    """

    def __init__(self, good: Child, ada: Node, port: int) -> None:
        self._good = good
        self._ada = ada
        self._port = port
        self._author = quote(str(ada.status["identity"]), safe="")
        self._reached = 1
        self.memory: list[int] = []

    def during(
        self, seconds: float, memory: Callable[[], int] | None = None
    ) -> dict[str, list[float]]:
        """@return: how many seconds each took, while it lasts, three times at least."""
        found: dict[str, list[float]] = {"mail": [], "feed": [], "one request at the door": []}
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(found["feed"]) < 3:
            found["mail"].append(self._good.ask("mail_round"))
            begun = time.monotonic()
            self._ada.publish("news")
            *requests, self._reached = self._good.ask(
                "read", port=self._port, author=self._author, after=self._reached
            )
            found["feed"].append(time.monotonic() - begun)
            found["one request at the door"] += requests
            if memory is not None:
                self.memory.append(memory())
        return found


def how_many() -> int:
    """@return: members for whom this system gives the relay files enough."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= MEMBERS + OTHERS:
        return MEMBERS
    members = (hard - OTHERS) // 2
    if members < 100:
        raise AssertionError(f"with {hard} open files there is no crowd: raise ulimit -Hn")
    return members


def few(members: int) -> str:
    """@return: a warning, if these are fewer than there should be."""
    return "" if members == MEMBERS else "FEWER than wanted, as a process has so few files: "


def spread(seconds: list[float]) -> str:
    times = sorted(1_000 * each for each in seconds)
    return f"{statistics.median(times):.0f} [{times[0]:.0f}..{times[-1]:.0f}] ms"
