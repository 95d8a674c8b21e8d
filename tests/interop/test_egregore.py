"""
Daemons of ours beside nodes of Egregore: an independent peer written from the wire sheet,
and Egregore's own program where C{MESHKIT_EGREGORE} names one.
"""

from __future__ import annotations

import json
from time import monotonic
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed.acceptance import refusal
from meshkit.feed.private_box import content_of, open_content, seal
from meshkit.identity.keyfile import decode_identity
from meshkit.identity.keys import Identity, PublicKey
from tests.feed.test_acceptance import ALSO, BAD, GOOD, changed, text
from tests.interop.egregore_nodes import KINDS
from tests.process.mesh import Mesh, Node, wait_for

NETWORK = "a network of theirs"


class _Beside:
    """The tests; C{kind} makes the other node."""

    kind: Any

    def setUp(self: Any) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.count = 0

    def theirs(self: Any, *peers: str) -> Any:
        self.count += 1
        node = self.kind(self.mesh.folder / f"theirs-{self.count}", NETWORK, list(peers))
        self.addCleanup(node.stop)
        return node

    def ours(self: Any, *places: str) -> Node:
        self.count += 1
        node: Node = self.mesh.node(f"ours-{self.count}", "--compat", "egregore")
        for place in places:
            node.arguments = (*node.arguments, "--egregore-peer", place)
        (node.data / "meshkit.toml").write_text(
            f'[egregore]\nnetwork = "{NETWORK}"\ninterval = 5\n'
        )
        node.start()
        self.addCleanup(lambda: node.process and node.stop())
        return node

    def place(self: Any, node: Node) -> str:
        return "{}:{}".format(*node.mesh_port)

    def who(self: Any, node: Node) -> str:
        return str(node.status["identity"])

    def has(self: Any, node: Any, author: str, last: int, seconds: float = 60) -> dict[int, Any]:
        """Wait until a node, of either kind, has a feed up to a sequence."""

        def look() -> Any:
            found = self.feed(node, author)
            return found if last in found else None

        found: dict[int, Any] = wait_for(f"message {last}", look, seconds, 0.05)
        return found

    def feed(self: Any, node: Any, author: str) -> dict[int, Any]:
        if not isinstance(node, Node):
            found: dict[int, Any] = node.feed(author)
            return found
        found = {}
        for offset in range(0, 1000, 200):
            page = node.get(f"/v1/feed/{quote(author, safe='')}?limit=200&offset={offset}")
            found |= {message["sequence"]: message["content"] for message in page}
            if len(page) < 200:
                break
        return found

    def live(self: Any, node: Node) -> None:
        def look() -> bool:
            links = node.status["parts"]["egregore"]["links"]
            return any(link["phase"] == "live" for link in links)

        wait_for("a live connection", look)

    # --- the tests ---------------------------------------------------------------------

    def test_we_dial_and_both_have_everything(self: Any) -> None:
        theirs = self.theirs()
        for n in range(120):
            # The first of a real node is its profile.
            last = theirs.publish({"type": "note", "n": n, "text": "x" * 100})
        ours = self.ours(theirs.place)
        ours.publish({"type": "note", "text": "ours, with a float", "x": 0.47274908866546683})
        found = self.has(ours, theirs.id, last)
        self.assertEqual((found[last]["n"], len(found)), (119, last))
        self.assertIn("float", self.has(theirs, self.who(ours), 1)[1]["text"])

    def test_they_dial_and_both_have_everything(self: Any) -> None:
        ours = self.ours()
        for n in range(30):
            ours.publish({"type": "note", "n": n, "text": "x" * 5000})
        theirs = self.theirs(self.place(ours))
        last = theirs.publish({"type": "note", "text": "theirs"})
        found = self.has(theirs, self.who(ours), 30)
        self.assertEqual((found[30]["n"], len(found)), (29, 30))
        self.assertEqual(self.has(ours, theirs.id, last)[last]["text"], "theirs")

    def test_more_than_a_hundred_pushes_each_way_and_after_a_silence(self: Any) -> None:
        theirs = self.theirs()
        ours = self.ours(theirs.place)
        self.live(ours)
        for n in range(160):
            ours.publish({"type": "note", "n": n})
        self.has(theirs, self.who(ours), 160)
        for n in range(160):
            last = theirs.publish({"type": "note", "n": n})
        # Their sender leaves some out when its credits or its rate run low: they are fetched.
        wait_for("all of theirs", lambda: len(self.feed(ours, theirs.id)) == last, 60, 0.1)
        before = [link["peer"] for link in self.links(ours)]
        # Longer than they wait for a byte.
        end = monotonic() + 20
        wait_for("the end of the silence", lambda: monotonic() > end, 30, 0.5)
        self.assertEqual([link["peer"] for link in self.links(ours)], before)
        start = monotonic()
        ours.publish({"type": "note", "text": "after the silence"})
        self.has(theirs, self.who(ours), 161, 3)
        last = theirs.publish({"type": "note", "text": "likewise"})
        self.has(ours, theirs.id, last, 3)
        self.assertLess(monotonic() - start, 4.5)

    def links(self: Any, node: Node) -> list[Any]:
        links = node.status["parts"]["egregore"]["links"]
        return [link for link in links if link["phase"] == "live"]

    def test_their_follow_filter_and_ours(self: Any) -> None:
        hub = self.theirs()
        one, other = self.theirs(hub.place), self.theirs(hub.place)
        last = one.publish({"type": "note", "text": "one"})
        self.has(hub, one.id, last)
        self.has(hub, other.id, other.publish({"type": "note", "text": "other"}))
        ours = self.ours()
        ours.ask("POST", f"/v1/follows/{quote(one.id, safe='')}", b"{}")
        ours.stop()
        ours.arguments = (*ours.arguments, "--egregore-peer", hub.place)
        ours.start()
        ours.publish({"type": "note", "text": "ours"})
        self.has(ours, one.id, last)
        self.has(hub, self.who(ours), 1)
        self.assertEqual(self.feed(ours, other.id), {})
        # And a node of theirs that follows us alone gets nobody else's.
        follower = self.theirs()
        follower.follow(self.who(ours))
        both = self.ours(follower.place, hub.place)
        self.has(both, one.id, last)
        self.has(both, self.who(ours), 1)
        self.has(follower, self.who(ours), 1)
        self.assertEqual(self.feed(follower, one.id), {})

    def test_their_topics(self: Any) -> None:
        theirs = self.theirs()
        theirs.subscribe("wanted")
        ours = self.ours()
        for n, tags in enumerate((["wanted"], ["other"], [], ["other", "wanted"]), 1):
            ours.good("publish", f"message {n}", *(f"--tag={tag}" for tag in tags))
        ours.stop()
        ours.arguments = (*ours.arguments, "--egregore-peer", theirs.place)
        ours.start()
        found = self.has(theirs, self.who(ours), 4)
        self.assertEqual(sorted(found), [1, 4])
        self.live(ours)
        ours.good("publish", "message 5", "--tag=other")
        ours.good("publish", "message 6", "--tag=wanted")
        self.assertEqual(sorted(self.has(theirs, self.who(ours), 6)), [1, 4, 6])

    def test_what_they_refuse_is_not_sent_and_the_publisher_knows(self: Any) -> None:
        theirs = self.theirs()
        ours = self.ours(theirs.place)
        bodies = [
            {"type": "note"},
            {"no": "type"},
            {"type": "insight", "title": "t"},
            {"type": "x"},
        ]
        warnings = []
        for content in bodies:
            body = json.dumps({"content": content}).encode()
            answer = ours.ask("POST", "/v1/publish", body).json
            warnings.append(bool(answer.get("metadata", {}).get("warnings")))
        self.assertEqual(warnings, [False, True, True, False])
        self.assertEqual(sorted(self.has(theirs, self.who(ours), 4)), [1, 4])
        shown = ours.good("publish", "--content", '{"type": "note"}')
        self.assertEqual(shown.err, "")
        told = ours.cli("publish", "--content", '{"type": "insight"}')
        self.assertIn("Egregore", told.err)
        self.assertEqual(ours.status["parts"]["egregore"]["warned"], 3)

    def test_private_boxes(self: Any) -> None:
        theirs = self.theirs()
        ours = self.ours(theirs.place)
        identity = decode_identity((ours.data / "secret.key").read_bytes(), "")
        them = PublicKey.parse(theirs.id)
        box = seal(
            identity,
            [them, identity.public],
            b'{"type":"note","text":"psst"}',
            b"n" * 12,
            b"k" * 32,
        )
        ours.publish(content_of(identity.public, box))
        self.has(theirs, self.who(ours), 1)
        self.opened_by_them(theirs, self.who(ours))
        last = self.seal_to(theirs, identity)
        content = self.has(ours, theirs.id, last)[last]
        opened = open_content(identity, them, content)
        assert opened is not None
        self.assertEqual(json.loads(opened)["text"], "for you")
        self.assertIsNone(open_content(Identity(bytes(32)), them, content))

    def opened_by_them(self: Any, theirs: Any, author: str) -> None:
        """See that they can read what we sealed."""
        raise NotImplementedError

    def seal_to(self: Any, theirs: Any, identity: Identity) -> int:
        """Have them seal something for us.  @return: its sequence."""
        raise NotImplementedError


class StandInTests(_Beside, SynchronousTestCase):
    """Beside the independent peer."""

    kind = KINDS["StandIn"]

    def opened_by_them(self, theirs: Any, author: str) -> None:
        content = theirs.feed(author)[1]
        opened = open_content(Identity(theirs.seed), PublicKey.parse(author), content)
        assert opened is not None
        self.assertEqual(json.loads(opened)["text"], "psst")

    def seal_to(self, theirs: Any, identity: Identity) -> int:
        them = Identity(theirs.seed)
        text = json.dumps({"type": "note", "text": "for you"}).encode()
        box = seal(them, [identity.public, them.public], text, b"m" * 12, b"l" * 32)
        return int(theirs.publish(content_of(them.public, box)))


if "Real" in KINDS:

    class RealTests(_Beside, SynchronousTestCase):
        """Beside Egregore's own program."""

        kind = KINDS["Real"]

        def opened_by_them(self, theirs: Any, author: str) -> None:
            # Its door opens what it can.
            self.assertEqual(theirs.feed(author)[1]["text"], "psst")

        def seal_to(self, theirs: Any, identity: Identity) -> int:
            sealed = {"type": "note", "text": "for you", "encrypt_for": [identity.public.text]}
            return int(theirs.publish(sealed))

        def test_what_they_refuse_is_what_we_say(self) -> None:
            theirs = self.theirs()
            cases = [changed(kind, {}) for kind in GOOD]
            cases += [changed(kind, more) for kind, more in ALSO]
            cases += [changed(kind, change) for kind, change, _ in BAD]
            cases += [changed(kind, {member: ...}) for kind in GOOD for member in GOOD[kind]]
            cases += [{"type": "note"}, {"no": "type"}, {"type": 7}, [], "text", None]
            wrong = []
            for content in cases:
                try:
                    theirs.publish(content)
                    taken = True
                except HTTPError:
                    taken = False
                if taken is not (refusal(text(content)) is None):
                    wrong.append((content, taken))
            self.assertEqual(wrong, [])
