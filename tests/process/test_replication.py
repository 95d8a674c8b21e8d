"""Two real nodes: what is published on one is on the other, at once and after the fact."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, Shared, wait_for

#: Messages that the one who joins late finds.
MANY = 10_000


def make(mesh: Mesh) -> tuple[Node, Node]:
    """Two nodes that are connected."""
    a = mesh.node("a").start()
    b = mesh.node("b", "--peer", a.address, network=a).start()
    wait_for("link", lambda: a.links() == 1 and b.links() == 1)
    return a, b


_shared = Shared(make)


def tearDownModule() -> None:
    _shared.close()


def found(node: Node, word: str) -> list[Any]:
    page: list[Any] = node.get(f"/v1/insights/search?q={word}")
    return page


class ConnectedTests(SynchronousTestCase):
    """Both run and are connected."""

    def setUp(self) -> None:
        self.a, self.b = _shared.get()

    def check_arrival(self, source: Node, target: Node, word: str) -> float:
        start = time.monotonic()
        message = source.publish({"type": "insight", "text": f"the word is {word}"})
        (arrived,) = wait_for(word, lambda: found(target, word), seconds=1.0, step=0.002)
        took = time.monotonic() - start
        self.assertEqual(arrived["hash"], message["hash"])
        self.assertEqual(arrived["signature"], message["signature"])
        self.assertTrue(arrived["chain_valid"])
        return took

    def test_what_is_published_is_found_on_the_other_within_a_second(self) -> None:
        # Either way: from the one that was dialled, and from the one that dialled.
        for number in range(5):
            self.check_arrival(self.a, self.b, f"marmalade{number}")
            self.check_arrival(self.b, self.a, f"gooseberry{number}")

    def test_an_author_can_be_read_on_the_other(self) -> None:
        self.check_arrival(self.a, self.b, "quince")
        author = self.a.get("/v1/identity")["public_id"]
        page = self.b.get(f"/v1/feed/{quote(author, safe='@')}?limit=200")
        sequences = [message["sequence"] for message in page]
        self.assertEqual(sequences, sorted(sequences, reverse=True))
        self.assertIn(
            {"type": "insight", "text": "the word is quince"},
            [message["content"] for message in page],
        )

    def test_both_tell_of_the_link(self) -> None:
        (link,) = self.a.status["parts"]["gossip"]["links"]
        self.assertEqual(link["peer"], self.b.get("/v1/identity")["public_id"])
        self.assertFalse(link["dialled"])
        (peer,) = self.b.get("/v1/peers")
        self.assertEqual(
            (peer["address"], peer["source"], peer["connected"], peer["last_error"]),
            (self.a.address, "config", True, None),
        )

    def test_a_link_that_broke_is_made_again(self) -> None:
        self.b.stop()
        wait_for("loss of the link", lambda: self.a.links() == 0)
        self.a.publish("while you were out: elderberry")
        self.b.start()
        wait_for("elderberry", lambda: found(self.b, "elderberry"))
        wait_for("link", lambda: self.a.links() == 1)


class LateTests(SynchronousTestCase):
    """One node has published much before the other knows of it."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def test_who_joins_late_gets_everything_in_one_sync(self) -> None:
        a = self.mesh.node("a").start()
        file = Path(a.home / "many.jsonl")
        file.write_text(
            "".join(json.dumps({"type": "n", "text": f"t{n}"}) + "\n" for n in range(MANY))
        )
        done = a.good("publish", "--lines", file, "--json").json
        self.assertEqual((done["count"], done["batches"][-1]["last"]), (MANY, MANY))
        b = self.mesh.node("b", "--peer", a.address, network=a).start()
        wait_for(
            f"{MANY} messages",
            lambda: b.status["parts"]["feed"]["messages"] == MANY,
            step=0.05,
        )
        # One connection and one request brought all of it: nothing was asked for twice.
        (link,) = b.status["parts"]["gossip"]["links"]
        self.assertEqual(link["received"], MANY)
        wait_for("end", lambda: b.status["parts"]["gossip"]["links"][0]["fetching"] == 0)
        (given,) = a.status["parts"]["gossip"]["links"]
        self.assertEqual(given["sent"], MANY)
        for node in (a, b):
            self.assertEqual(node.status["parts"]["gossip"]["refused"], {})
            self.assertEqual(node.status["parts"]["gossip"]["broken"], {})
            self.assertEqual(node.status["parts"]["feed"]["refused"], {})
        self.assertEqual(b.stop(), -15)
        theirs = a.stored()
        self.assertEqual([sequence for sequence, _, _ in theirs], list(range(1, MANY + 1)))
        self.assertEqual(b.stored(), theirs)
        self.assertTrue(all(valid for _, _, valid in theirs))
