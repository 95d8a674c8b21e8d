"""
SIGKILL at bad moments.

This shows what happens to a process, not to a machine: what the kernel was given is on
the disk in the end.  That it was synced before it was acknowledged is shown by
L{tests.process.test_durable}.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests import PROFILE
from tests.process.mesh import Mesh, Node, read_answer, wait_for
from tests.process.mesh import connect as connect_to

#: How often a node is killed in the middle of a sync.
KILLS: Final = int(os.environ.get("MESHKIT_KILLS") or (20 if PROFILE == "dev" else 200))
#: Messages of a sync: enough that it takes a second or two.
MANY: Final = 10_000


class _Publishers:
    """Threads that publish one message after the other, and note what was acknowledged."""

    def __init__(self, node: Node, count: int) -> None:
        self._node = node
        # (sequence, hash), in the order in which the answers came.
        self.acknowledged: list[tuple[int, str]] = []
        self.surprises: list[str] = []
        # Read while it runs: the files may be gone by the time a thread wants them.
        self._door = node.door
        self._requests = [
            [node.request("POST", "/v1/publish", self._body(each, n)) for n in range(2)]
            for each in range(count)
        ]
        self._threads = [
            threading.Thread(target=self._publish, args=(requests,), daemon=True)
            for requests in self._requests
        ]

    @staticmethod
    def _body(publisher: int, number: int) -> bytes:
        return json.dumps({"content": {"publisher": publisher, "number": number}}).encode()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all have noticed that the node is gone."""
        for thread in self._threads:
            thread.join(30)
            if thread.is_alive():
                raise AssertionError("a publisher waits for a node that is dead")

    def _publish(self, requests: list[bytes]) -> None:
        number = 0
        try:
            with connect_to(self._door) as sock:
                while True:
                    sock.sendall(requests[number % 2])
                    number += 1
                    answer = read_answer(sock)
                    if answer.status != 201:
                        self.surprises.append(f"{answer.status} {answer.body!r}")
                        return
                    data = answer.json["data"]
                    self.acknowledged.append((data["sequence"], data["hash"]))
        except OSError:
            return  # the node was killed, as it had to be


class KillTests(SynchronousTestCase):
    """A node dies without warning."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        seed = random.SystemRandom().randrange(2**32)
        # Shown with a failure; the moments within a process are its own all the same.
        self.rng = random.Random(seed)
        self.seed = seed

    def check_feed(self, stored: list[tuple[int, str, bool]]) -> int:
        """
        What lies on the disk after a kill is a whole feed up to somewhere.

        @return: how many messages of it there are.
        """
        self.assertEqual(
            [sequence for sequence, _, _ in stored],
            list(range(1, len(stored) + 1)),
            f"seed {self.seed}",
        )
        self.assertTrue(all(valid for _, _, valid in stored))
        return len(stored)

    def let_run(self, seconds: float, look: Callable[[], None] | None = None) -> None:
        """Let a moment pass, looking all the while: what is random is when it ends."""
        if look is None:
            time.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            look()

    def test_killed_while_it_catches_up(self) -> None:
        a = self.mesh.node("a").start()
        file = Path(a.home / "many.jsonl")
        file.write_text("".join(f'{{"type":"n","text":"t{n}"}}\n' for n in range(MANY)))
        a.good("publish", "--lines", file)
        author = a.get("/v1/identity")["public_id"]
        b = self.mesh.node("b", "--peer", a.address, network=a)
        # Of all authors: B's former selves come back to it from A.
        seen = middle = 0
        mine: dict[int, str] = {}
        own = ""

        def look() -> None:
            nonlocal seen
            count = b.status["parts"]["feed"]["messages"]
            self.assertGreaterEqual(count, seen)
            seen = count

        for _ in range(KILLS):
            b.spawn()
            if self.rng.random() < 0.25:
                # Anywhere in its start: keys, schema, sockets, threads.
                self.let_run(self.rng.uniform(0, 0.4))
            else:
                b.wait_ready()
                message = b.publish({"text": "mine"})
                self.assertNotIn(message["sequence"], mine)
                mine[message["sequence"]] = message["hash"]
                self.let_run(self.rng.uniform(0, 0.4), look)
            b.kill()
            stored = b.stored_by_author()
            count = self.check_feed(stored.get(author, []))
            middle += 0 < count < MANY
            total = sum(map(len, stored.values()))
            self.assertGreaterEqual(total, seen, f"seed {self.seed}")
            seen = total
            if mine:
                own = own or b.good("id", "--json").json["public_id"]
                kept = {sequence: digest for sequence, digest, _ in stored.get(own, [])}
                self.assertEqual(kept, mine, f"seed {self.seed}")
            if count == MANY:
                # Begin anew, else nothing would be in the middle of anything.  As another
                # author: a feed that begins twice is a fork.
                for path in sorted(b.data.glob("node.db*")):
                    path.unlink()
                (b.data / "secret.key").unlink()
                seen, mine, own = 0, {}, ""
        # The kills did hit it in the middle, not just before and after.
        self.assertGreater(middle, KILLS // 10, f"seed {self.seed}")
        b.start()
        wait_for(
            "all of A's messages",
            lambda: b.status["parts"]["feed"]["messages"] == a.status["parts"]["feed"]["messages"],
            step=0.05,
        )
        self.assertEqual(b.status["parts"]["feed"]["refused"], {})
        self.assertEqual(b.status["parts"]["gossip"]["refused"], {})
        b.stop()
        self.assertEqual(b.stored(author), a.stored(author))
        self.assertEqual(self.check_feed(b.stored(author)), MANY)

    def test_killed_while_it_publishes(self) -> None:
        a = self.mesh.node("a", "--listen", "tcp:0:interface=127.0.0.1")
        a.start()
        port = a.mesh_port[1]
        # The same port each time, so that B finds it again.
        a.arguments = ("--listen", f"tcp:{port}:interface=127.0.0.1")
        b = self.mesh.node("b", "--peer", a.address, "--gossip-retry-max=1", network=a).start()
        acknowledged: dict[int, str] = {}
        for _ in range(max(KILLS // 4, 3)):
            if a.process is None:
                a.start()
            publishers = _Publishers(a, 4)
            before = len(acknowledged)
            publishers.start()
            wait_for("first answer", partial(len, publishers.acknowledged))
            self.let_run(self.rng.uniform(0, 0.3))
            a.kill()
            publishers.join()
            self.assertEqual(publishers.surprises, [])
            for sequence, digest in publishers.acknowledged:
                self.assertNotIn(sequence, acknowledged, "a number was given twice")
                acknowledged[sequence] = digest
            self.assertGreater(len(acknowledged), before)
            stored = a.stored()
            self.assertEqual(
                [sequence for sequence, _, _ in stored], list(range(1, len(stored) + 1))
            )
            kept = {sequence: digest for sequence, digest, _ in stored}
            self.assertLessEqual(acknowledged.items(), kept.items(), f"seed {self.seed}")
        a.start()
        wait_for(
            "all on B",
            lambda: b.status["parts"]["feed"]["messages"] == len(kept),
        )
        # What was sent to B was what A still had after the kill: no fork came of it.
        self.assertEqual(b.status["parts"]["feed"]["refused"], {})
        a.stop()
        b.stop()
        self.assertEqual(a.stored(), b.stored())


class RepetitionTests(SynchronousTestCase):
    """A client whose node is killed asks again with the same key, and publishes once."""

    def test_it_is_published_once_wherever_the_node_was_killed(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        node = mesh.node("a").start()
        for number in range(5):
            body = json.dumps({"content": number}).encode()
            key = f"request-{number}"
            with connect_to(node.door) as sock:
                sock.sendall(node.request("POST", "/v1/publish", body, Idempotency_Key=key))
                time.sleep(random.uniform(0, 0.02))
                node.kill()
            node.start()
            answers = [node.ask("POST", "/v1/publish", body, Idempotency_Key=key) for _ in range(2)]
            self.assertEqual([answer.status for answer in answers], [201, 201])
            self.assertEqual(answers[0].body, answers[1].body)
            self.assertEqual(answers[0].data["sequence"], number + 1)
            other = node.ask("POST", "/v1/publish", b'{"content": "x"}', Idempotency_Key=key)
            self.assertEqual((other.status, other.code), (422, "IDEMPOTENCY_KEY_REUSED"))
        self.assertEqual(len(node.stored()), 5)
