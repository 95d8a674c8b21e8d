"""Tests of C{meshkit dht}, and of C{meshkit peer dial} by key, against nodes in memory."""

from __future__ import annotations

import hashlib
import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli import dht as verb
from meshkit.errors import RecordNotPlaced
from meshkit.kademlia.operations import MAX_VALUE
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.cli.memory import Done, run_command
from tests.runtime.support import scratch

#: All nodes of these tests are ours, and on the same /24.
OWN = '[dht]\nown_blocks = ["10.0.0.0/8"]'
STRANGER = make_identity("nobody's")
#: Bytes that are no text.
BYTES = bytes(range(256))


class DHTCase(SynchronousTestCase):
    """Ada is known to all; the others know of one another by her."""

    names: tuple[str, ...] = ("bob", "eve")

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.ada = self.node("ada")
        self.others = [self.node(name, self.ada) for name in self.names]
        self.mesh.run(10)

    def node(self, name: str, begins_at: MemoryNode | None = None, more: str = "") -> MemoryNode:
        peers = "" if begins_at is None else f'peers = ["{begins_at.address}"]\n'
        node = self.mesh.node(name, f"{peers}{OWN}\n{more}")
        node.start()
        return node

    def run_dht(self, node: MemoryNode, *arguments: str, stdin: bytes = b"") -> Done:
        return run_command(self.mesh, node, "dht", *arguments, stdin=stdin)

    def good(self, node: MemoryNode, *arguments: str, stdin: bytes = b"") -> list[str]:
        """@return: the lines of a command that has to succeed, and must not complain."""
        done = self.run_dht(node, *arguments, stdin=stdin)
        self.assertEqual((done.code, done.err), (0, ""), done)
        return done.out.decode("utf-8").splitlines()

    def json(self, node: MemoryNode, *arguments: str) -> Any:
        return json.loads("\n".join(self.good(node, *arguments, "--json")))

    def refused(self, node: MemoryNode, code: str, *arguments: str, stdin: bytes = b"") -> str:
        """@return: the line of a command that the node refuses."""
        done = self.run_dht(node, *arguments, stdin=stdin)
        self.assertEqual((done.code, done.out), (1, b""), done)
        (said,) = done.err.splitlines()
        self.assertTrue(said.startswith("meshkit: ") and said.endswith(f"[{code}]"), said)
        return said

    def misused(self, node: MemoryNode, *arguments: str) -> str:
        done = self.run_dht(node, *arguments)
        self.assertEqual((done.code, done.out), (2, b""), done)
        return done.err


class RecordTests(DHTCase):
    def test_each_says_something_under_a_topic(self) -> None:
        bob, eve = self.others
        self.assertEqual(
            self.good(bob, "put", "topic", "the birds", "a grey heron"),
            ["Published; kept by 3 of 3 nodes.", "Found with: meshkit dht get topic 'the birds'"],
        )
        self.good(eve, "put", "topic", "the birds", "an egret\n\x1b[2J")
        shown = self.good(self.ada, "get", "topic", "the birds")
        by_author = {
            line.split("  until ")[0]: position
            for position, line in enumerate(shown)
            if line.startswith("@")
        }
        self.assertEqual(sorted(by_author), sorted(n.identity.public.text for n in (bob, eve)))
        of_bob, of_eve = (by_author[n.identity.public.text] for n in (bob, eve))
        self.assertEqual(shown[of_bob + 1], "  a grey heron")
        self.assertEqual(shown[of_eve + 1 : of_eve + 3], ["  an egret", "  \\x1b[2J"])
        self.assertEqual(len(shown), 5)

    def test_an_item_that_is_replaced(self) -> None:
        bob, eve = self.others
        me = bob.identity.public.text
        published = self.good(bob, "put", "mutable", "at home", "--salt", "my status")
        self.assertEqual(
            published[1], f"Found with: meshkit dht get mutable {me} --salt 'my status'"
        )
        (about, value) = self.good(eve, "get", "mutable", me, "--salt", "my status")
        self.assertEqual(value, "  at home")
        found = re.fullmatch(
            rf"{re.escape(me)}  salt my status  until \S+Z  version (\d+:[0-9a-f]{{64}})", about
        )
        assert found is not None, about
        # One's own is found without a name; another salt is another item.
        self.assertEqual(self.good(bob, "get", "mutable", "--salt", "my status"), [about, value])
        self.assertIn("Nothing found (", self.good(bob, "get", "mutable")[0])
        swap = ("put", "mutable", "out", "--salt", "my status", "--if-unchanged", found[1])
        self.assertEqual(self.good(bob, *swap)[0], "Published; kept by 3 of 3 nodes.")
        self.assertEqual(self.good(eve, "get", "mutable", me, "--salt", "my status")[1], "  out")
        self.assertIn("get it again", self.refused(bob, "RECORD_CHANGED", *swap))

    def test_an_item_where_there_is_none(self) -> None:
        bob, _ = self.others
        first = ("put", "mutable", "first", "--if-unchanged", "none")
        self.good(bob, *first)
        self.refused(bob, "RECORD_CHANGED", *first)

    def test_bytes_are_found_as_they_were(self) -> None:
        bob, eve = self.others
        folder = Path(scratch(self))
        (folder / "photo.jpg").write_bytes(BYTES)
        digest = hashlib.sha256(BYTES).hexdigest()
        shown = self.good(bob, "put", "immutable", "--file", str(folder / "photo.jpg"))
        self.assertEqual(shown[1], f"Found with: meshkit dht get immutable {digest}")
        self.assertIn("256 bytes that are no text", self.good(eve, "get", "immutable", digest)[1])
        copy = folder / "copy.jpg"
        self.assertEqual(
            self.good(eve, "get", "immutable", digest, "-o", str(copy)),
            [f"256 bytes are in {copy}"],
        )
        self.assertEqual(copy.read_bytes(), BYTES)
        done = self.run_dht(eve, "get", "immutable", digest, "-o", "-")
        self.assertEqual((done.code, done.out), (0, BYTES))

    def test_what_is_written_into_the_command(self) -> None:
        bob, eve = self.others
        for given in (("put", "immutable", "-"), ("put", "immutable", "--file", "-")):
            shown = self.good(bob, *given, stdin=b"out of a pipe")
            digest = hashlib.sha256(b"out of a pipe").hexdigest()
            self.assertTrue(shown[1].endswith(digest), shown)
        self.assertEqual(self.good(eve, "get", "immutable", digest)[1], "  out of a pipe")
        # A name that is right may be given.
        self.good(bob, "put", "immutable", digest, "out of a pipe")
        self.refused(bob, "INVALID_REQUEST", "put", "immutable", digest, "something else")
        self.good(bob, "put", "topic", "empty", "")
        self.assertEqual(self.good(eve, "get", "topic", "empty")[1], "  (empty)")

    def test_what_fits_into_no_record(self) -> None:
        bob, _ = self.others
        said = self.refused(
            bob, "RECORD_TOO_LARGE", "put", "immutable", "-", stdin=bytes(2 * MAX_VALUE)
        )
        self.assertIn("put it elsewhere, and publish where it is", said)
        self.good(bob, "put", "immutable", "-", stdin=bytes(MAX_VALUE))
        self.refused(bob, "RECORD_TOO_LARGE", "put", "topic", "t", "-", stdin=bytes(4097))

    def test_several_values_do_not_go_into_one_file(self) -> None:
        bob, eve = self.others
        for node in (bob, eve):
            self.good(node, "put", "topic", "birds", node.name)
        self.assertIn(
            "there are 2 records",
            self.refused(bob, "INVALID_REQUEST", "get", "topic", "birds", "-o", "-"),
        )
        self.refused(bob, "NOT_FOUND", "get", "topic", "fish", "-o", "-")

    def test_taking_back(self) -> None:
        bob, eve = self.others
        self.good(bob, "put", "topic", "birds", "a heron")
        self.assertEqual(
            self.good(bob, "withdraw", "topic", "birds"),
            ["Withdrawn: 3 of 3 nodes heard of it, and let it go within a minute."],
        )
        self.mesh.run(61)
        self.assertIn("Nothing found", self.good(eve, "get", "topic", "birds")[0])
        self.refused(bob, "NOT_FOUND", "withdraw", "topic", "birds")
        self.good(bob, "put", "mutable", "at home", "--salt", "status")
        self.refused(bob, "NOT_FOUND", "withdraw", "mutable")
        self.good(bob, "withdraw", "mutable", "--salt", "status")

    def test_only_for_a_while(self) -> None:
        bob, eve = self.others
        self.good(bob, "put", "topic", "birds", "a heron", "--expires", "2m")
        self.assertEqual(len(self.good(eve, "get", "topic", "birds")), 2)
        self.mesh.run(121)
        self.assertIn("Nothing found", self.good(eve, "get", "topic", "birds")[0])
        self.refused(bob, "INVALID_REQUEST", "put", "topic", "birds", "x", "--expires", "1s")

    def test_programs_are_told_all_of_it(self) -> None:
        bob, eve = self.others
        placed = self.json(bob, "put", "topic", "birds", "a heron")
        self.assertEqual((placed["accepted"], placed["asked"], placed["refused"]), (3, 3, {}))
        found = self.json(eve, "get", "topic", "birds")
        (record,) = found["records"]
        self.assertEqual((record["owner"], record["text"]), (bob.identity.public.text, "a heron"))
        self.assertEqual(record["sequence"], placed["sequence"])
        self.assertEqual(found["lookup"]["crowded"], False)
        withdrawn = self.json(bob, "withdraw", "topic", "birds")
        self.assertGreater(withdrawn["sequence"], placed["sequence"])

    def test_who_has_some_content(self) -> None:
        bob, eve = self.others
        content = hashlib.sha256(b"a photo").hexdigest()
        self.assertEqual(
            self.good(bob, "provide", content)[1],
            f"Found with: meshkit dht providers {content}",
        )
        (shown,) = self.good(eve, "providers", content)
        self.assertTrue(shown.startswith(f"{bob.identity.public.text}  until "), shown)
        self.assertEqual(
            [each["public_id"] for each in self.json(eve, "providers", content)["providers"]],
            [bob.identity.public.text],
        )
        # The same in the general way.
        self.good(eve, "put", "provider", content)
        self.assertEqual(len(self.good(self.ada, "providers", content)), 2)
        self.good(bob, "withdraw", "provider", content)
        self.assertIn("Nobody says", self.good(eve, "providers", "ab")[0])
        self.refused(eve, "INVALID_REQUEST", "providers", "photo")

    def test_commands_that_say_too_little_or_too_much(self) -> None:
        bob, _ = self.others
        for arguments, said in (
            (("put", "topic"), "Give the NAME"),
            (("put", "topic", "birds"), "Give a VALUE as well"),
            (("put", "mutable"), "Give a VALUE,"),
            (("put", "topic", "a", "b", "c"), "a NAME and a VALUE"),
            (("put", "topic", "a", "b", "--file", __file__), "a NAME and --file"),
            (("put", "mutable", "x", "--if-unchanged", "5"), "no version"),
            (("put", "mutable", "x", "--if-unchanged", "x:ab"), "no version"),
            (("put", "mutable", "x", "--expires", "soon"), "no length of time"),
            (("get", "topic"), "Give the NAME"),
            (("withdraw", "immutable"), "Give the NAME"),
        ):
            with self.subTest(arguments):
                self.assertIn(said, self.misused(bob, *arguments))
        self.assertEqual(self.json(bob, "stats")["publications"], 1)
        self.refused(bob, "RECORD_WRONG_KIND", "get", "nonsense", "x")
        self.refused(bob, "INVALID_PUBLIC_KEY", "get", "mutable", "bob")
        self.refused(bob, "INVALID_REQUEST", "put", "address", "x", "y")
        self.refused(
            bob, "INVALID_REQUEST", "put", "mutable", self.ada.identity.public.text, "not mine"
        )


class NodeTests(DHTCase):
    def test_the_table(self) -> None:
        bob, eve = self.others
        heading, *rows = self.good(bob, "table")
        self.assertEqual(
            heading.split("  ")[0:1] + heading.split()[-1:], ["bits shared", "addresses"]
        )
        keys = [row.split()[3] for row in rows]
        self.assertEqual(
            sorted(keys), sorted(each.identity.public.text for each in (self.ada, eve))
        )
        shown = self.json(bob, "table")
        self.assertEqual([each["public_id"] for each in shown], keys)
        # The nearest first.
        bits = [each["shared_bits"] for each in shown]
        self.assertEqual(bits, sorted(bits, reverse=True))
        (row,) = [row for row in rows if eve.identity.public.text in row]
        self.assertIn(eve.address.partition("~")[0].removeprefix("net:"), row)

    def test_how_it_is_doing(self) -> None:
        bob, _ = self.others
        lines = self.good(bob, "stats")
        shown = self.json(bob, "stats")
        self.assertEqual(lines[0], f"place         {shown['id']}")
        self.assertEqual(lines[1].split()[-1], "10.0.0.2:7655")
        self.assertIn("table         2 nodes; the whole network: not known yet", lines)
        self.assertTrue(any(re.match(r"kept +\d+ records?, \d+ bytes", each) for each in lines))
        self.assertTrue(any(re.match(r"asked +\d+ find_node", each) for each in lines))

    def test_a_client_says_what_it_is(self) -> None:
        client = self.node("client", self.ada, "client = true")
        self.mesh.run(10)
        self.assertIn("nobody's table", self.good(client, "stats")[1])
        self.good(client, "put", "topic", "birds", "from afar")
        self.assertEqual(self.good(self.ada, "get", "topic", "birds")[1], "  from afar")

    def test_the_nearest_of_a_node(self) -> None:
        bob, eve = self.others
        rows = self.good(bob, "find-node", eve.identity.public.text)
        self.assertEqual(rows[1].split()[1], eve.identity.public.text)
        self.assertRegex(rows[-1], r"\A\d+ questions?, \d+ hops?\Z")
        found = self.json(bob, "find-node", "00" * 32)["contacts"]
        places = [each["id"] for each in found]
        self.assertEqual(places, sorted(places))
        self.refused(bob, "INVALID_REQUEST", "find-node", "00")
        self.refused(bob, "INVALID_PUBLIC_KEY", "find-node", "@eve")

    def test_where_a_peer_is(self) -> None:
        bob, eve = self.others
        self.assertEqual(self.good(bob, "find-peer", eve.identity.public.text), [eve.address])
        shown = self.good(bob, "get", "address", eve.identity.public.text)
        self.assertEqual(shown[1], "  (where it can be reached: see find-peer)")
        said = self.refused(bob, "NOT_FOUND", "find-peer", STRANGER.public.text)
        self.assertIn(STRANGER.public.short, said)


class DialTests(DHTCase):
    """C{meshkit peer dial KEY}."""

    def dial(self, node: MemoryNode, *arguments: str) -> Done:
        return run_command(self.mesh, node, "peer", *arguments)

    def test_a_peer_that_only_another_knows(self) -> None:
        bob, eve = self.others
        key = eve.identity.public
        done = self.dial(bob, "dial", key.text)
        self.assertEqual((done.code, done.err), (0, ""))
        said, found, handshake = done.out.decode().splitlines()
        self.assertEqual(said, f"{key.text} answers at {eve.address}")
        self.assertEqual(found, "found       by the part dht")
        self.assertRegex(handshake, r"\Ahandshake   \d+\.\d ms\Z")
        shown = json.loads(self.dial(bob, "dial", key.text, "--json").out)
        self.assertEqual((shown["address"], shown["found_by"]), (eve.address, "dht"))
        pinged = self.dial(bob, "ping", key.text, "--count", "2").out.decode()
        self.assertEqual(pinged.count("round trip "), 2)

    def test_one_that_is_known_is_not_looked_up(self) -> None:
        bob, _ = self.others
        asked = self.json(bob, "stats")["asked"]
        done = self.dial(bob, "dial", self.ada.identity.public.text)
        self.assertIn("found       among the peers to dial\n", done.out.decode())
        self.assertEqual(self.json(bob, "stats")["asked"], asked)

    def test_an_address_is_not_said_to_have_been_found(self) -> None:
        bob, eve = self.others
        done = self.dial(bob, "dial", eve.address)
        self.assertNotIn("found", done.out.decode())
        self.assertIsNone(json.loads(self.dial(bob, "dial", eve.address, "--json").out)["found_by"])

    def test_one_that_nobody_knows(self) -> None:
        done = self.dial(self.others[0], "dial", STRANGER.public.text)
        self.assertEqual((done.code, done.out), (1, b""))
        self.assertTrue(done.err.endswith("[NOT_FOUND]\n"), done.err)


class AloneTests(DHTCase):
    names = ()

    def setUp(self) -> None:
        super().setUp()
        self.hermit = self.node("hermit", more="client = true")

    def test_what_nobody_keeps_is_published_all_the_same(self) -> None:
        said = self.refused(self.hermit, "RECORD_NOT_PLACED", "put", "topic", "birds", "a heron")
        self.assertIn("it is published, but no other node is known", said)
        self.assertIn("every hour", said)
        self.assertEqual(self.json(self.hermit, "stats")["publications"], 1)
        # Programs are told in full, and by the exit code.
        done = self.run_dht(self.hermit, "put", "topic", "birds", "a heron", "--json")
        self.assertEqual(done.code, 1)
        self.assertEqual(json.loads(done.out)["accepted"], 0)
        # As soon as there is somebody, it is there.
        added = run_command(self.mesh, self.hermit, "peer", "add", self.ada.address)
        self.assertEqual(added.code, 0, added)
        self.mesh.run(90)
        self.assertEqual(self.good(self.ada, "get", "topic", "birds")[1], "  a heron")

    def test_where_nobody_can_compare_nothing_is_published(self) -> None:
        said = self.refused(
            self.hermit, "NOT_READY", "put", "mutable", "first", "--if-unchanged", "none"
        )
        self.assertIn("nothing is published", said)
        self.assertEqual(self.json(self.hermit, "stats")["publications"], 0)

    def test_finding_nobody(self) -> None:
        alone = "No other node is known. Give this one a peer: meshkit peer add ADDRESS"
        self.assertEqual(self.good(self.hermit, "table"), [alone])
        self.assertEqual(
            self.good(self.hermit, "get", "topic", "birds"), [f"Nothing found. {alone}"]
        )
        self.assertEqual(self.good(self.hermit, "find-node", "00" * 32), [f"Nobody found. {alone}"])
        self.assertEqual(
            self.good(self.hermit, "providers", "00"), [f"Nobody says that he has it. {alone}"]
        )

    def test_why_nobody_keeps_it_is_told(self) -> None:
        lookup = {"questions": 5, "hops": 1, "crowded": False}
        placed = {"kind": "topic", "name": "birds", "accepted": 0, "asked": 5, "lookup": lookup}
        placed["refused"] = {"": 2, "RECORD_QUOTA": 3}
        with patch.object(verb, "ask", lambda flag, job: placed):
            error = self.assertRaises(
                RecordNotPlaced, verb.dht.main, ["put", "topic", "birds", "x"], "meshkit"
            )
        self.assertIn(
            "none of the 5 nodes asked keeps it (2 x no answer, 3 x RECORD_QUOTA)", str(error)
        )

    def test_who_does_not_keep_it_is_told_beside_those_who_do(self) -> None:
        lookup = {"questions": 5, "hops": 1, "crowded": False}
        placed = {"kind": "topic", "name": "birds", "accepted": 2, "asked": 5, "lookup": lookup}
        placed["refused"] = {"": 2, "RECORD_STALE": 1}
        for arguments, said in (
            (["put", "topic", "birds", "x"], "Not kept: 2 x no answer, 1 x RECORD_STALE."),
            (["withdraw", "topic", "birds"], "Not told: 2 x no answer, 1 x RECORD_STALE. What"),
        ):
            out = io.StringIO()
            with patch.object(verb, "ask", return_value=placed), redirect_stdout(out):
                verb.dht.main(arguments, "meshkit", standalone_mode=False)
            self.assertIn("2 of 5 nodes", out.getvalue())
            self.assertIn(said, out.getvalue())

    def test_a_crowd_is_warned_of(self) -> None:
        lookup = {"questions": 200, "hops": 3, "crowded": True}
        found = {"records": [], "lookup": lookup}
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.object(verb, "ask", lambda flag, job: found),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            verb.dht.main(["get", "topic", "birds"], "meshkit", standalone_mode=False)
        self.assertEqual(out.getvalue(), "Nothing found (200 questions, 3 hops).\n")
        self.assertIn("somebody may want to hide what is there", err.getvalue())


class HelpTests(SynchronousTestCase):
    def test_each_verb_shows_an_example_that_is_one_of_its_own(self) -> None:
        self.assertEqual(len(verb.dht.commands), 9)
        for name, command in verb.dht.commands.items():
            with self.subTest(name):
                text = command.help or ""
                self.assertRegex(text, rf"Examples?:\s+(.*\s+)?meshkit dht {name} ?")
                shown = command.get_help(click.Context(command, info_name=name))
                self.assertIn(f"meshkit dht {name}", shown)
