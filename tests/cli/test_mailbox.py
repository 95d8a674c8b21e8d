"""Tests of C{meshkit mailbox}, against two nodes and a relay in memory."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.relay.mailbox.operations import MAX_BODY
from meshkit.runtime.registry import discover_parts
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.cli.memory import Done, run_command
from tests.runtime.support import scratch

PARTS = ("mailbox", "mailboxes", "relays")
#: Bytes that are no text.
BYTES = bytes(range(256))


class MailboxCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        makers = [each for each in discover_parts(meshkit_plugins) if each.name in PARTS]
        self.relay = self.mesh.node("relay", makers=makers, program=MESH_RELAY)
        self.relay.start()
        config = f'[relays]\nuse = ["{self.relay.address}"]\n'
        self.ada, self.bob = (self.mesh.node(n, config, makers=makers) for n in ("ada", "bob"))
        self.alone = self.mesh.node("alone", makers=makers)
        for node in (self.ada, self.bob, self.alone):
            node.start()
        self.mesh.run(1)
        self.to = self.bob.identity.public.text

    def run_it(self, node: MemoryNode, *arguments: str, stdin: bytes = b"") -> Done:
        done = run_command(self.mesh, node, "mailbox", *arguments, stdin=stdin)
        self.mesh.run(1)
        return done

    def good(self, node: MemoryNode, *arguments: str, stdin: bytes = b"") -> list[str]:
        """@return: the lines of a command that has to succeed, and must not complain."""
        done = self.run_it(node, *arguments, stdin=stdin)
        self.assertEqual((done.code, done.err), (0, ""), done)
        return done.out.decode("utf-8").splitlines()

    def json(self, node: MemoryNode, *arguments: str) -> Any:
        return json.loads("\n".join(self.good(node, *arguments, "--json")))

    def refused(self, node: MemoryNode, code: str, *arguments: str) -> str:
        done = self.run_it(node, *arguments)
        self.assertEqual((done.code, done.out), (1, b""), done)
        self.assertTrue(done.err.endswith(f"[{code}]\n"), done.err)
        return done.err

    def misused(self, node: MemoryNode, *arguments: str) -> str:
        done = self.run_it(node, *arguments)
        self.assertEqual(done.code, 2, done)
        return done.err


class WritingTests(MailboxCase):
    def test_a_message_is_sent_listed_read_and_removed(self) -> None:
        (said,) = self.good(self.ada, "send", self.to, "come home")
        self.assertRegex(said, r"^Taken over: [0-9a-f]{32}\. How it goes: meshkit mailbox sent$")
        _, row = self.good(self.bob, "list", "--unread")
        self.assertTrue(row.endswith("come home"), row)
        self.assertIn("new", row)
        from_whom, empty, text = self.good(self.bob, "read", "1")
        self.assertTrue(from_whom.startswith(f"From {self.ada.identity.public.text}, sealed 2026"))
        self.assertEqual((empty, text), ("", "come home"))
        self.assertEqual(self.good(self.bob, "list", "--unread"), ["No message that was not read."])
        self.assertEqual(self.good(self.bob, "rm", "1"), ["Removed: 1"])
        self.assertEqual(self.good(self.bob, "list"), ["No messages."])
        self.refused(self.bob, "NOT_FOUND", "rm", "1")

    def test_what_was_sent_is_shown_with_its_fate(self) -> None:
        self.assertEqual(self.good(self.ada, "sent"), ["No messages."])
        self.good(self.ada, "send", self.to, "come home", "--ttl", "12h")
        _, row = self.good(self.ada, "sent")
        self.assertIn("  kept  ", row)
        self.assertIn("2026-01-01T12:00:0", row)
        (shown,) = self.json(self.ada, "sent")
        self.assertTrue(shown["receipt"])
        self.assertEqual(self.good(self.ada, "sent", "--waiting"), ["No messages."])
        self.assertEqual(self.good(self.ada, "forget", shown["id"]), [f"Forgotten: {shown['id']}"])
        self.assertEqual(self.json(self.ada, "sent"), [])

    def test_a_file_goes_byte_for_byte(self) -> None:
        folder = scratch(self)
        path, out = os.path.join(folder, "letter"), os.path.join(folder, "got")
        with open(path, "wb") as file:
            file.write(BYTES)
        self.good(self.ada, "send", self.to, "--file", path)
        self.good(self.ada, "send", self.to, "--file", "-", stdin=b"from stdin")
        self.assertIn("(no text)", self.good(self.bob, "list")[1])
        self.assertIn("It is no text", self.good(self.bob, "read", "1")[-1])
        self.good(self.bob, "read", "1", "--out", out)
        with open(out, "rb") as file:
            self.assertEqual(file.read(), BYTES)
        self.assertEqual(self.run_it(self.bob, "read", "2", "--out", "-").out, b"from stdin")
        # What is there is not written over, and the message does not count as read for it.
        self.good(self.ada, "send", self.to, "third")
        self.refused(self.bob, "INVALID_REQUEST", "read", "3", "--out", out)
        self.assertEqual([e["number"] for e in self.json(self.bob, "list", "--unread")], [3])

    def test_what_is_too_long_is_refused(self) -> None:
        path = os.path.join(scratch(self), "long")
        with open(path, "wb") as file:
            file.write(bytes(MAX_BODY * 2))
        self.refused(self.ada, "MAILBOX_MESSAGE_INVALID", "send", self.to, "--file", path)

    def test_a_relay_can_be_named(self) -> None:
        self.good(self.alone, "send", self.to, "come home", "--relay", self.relay.address)
        self.assertEqual([each["preview"] for each in self.json(self.bob, "list")], ["come home"])
        self.refused(self.ada, "INVALID_ADDRESS", "send", self.to, "x", "--relay", "nowhere")

    def test_what_makes_no_sense_is_misuse(self) -> None:
        self.assertIn("a TEXT or a --file", self.misused(self.ada, "send", self.to))
        self.misused(self.ada, "send", self.to, "x", "--file", "-")
        self.assertIn("--blind says", self.misused(self.ada, "send", self.to, "x", "--blind"))
        self.misused(self.ada, "send", self.to, "x", "--ttl", "soon")
        self.refused(self.ada, "INVALID_PUBLIC_KEY", "send", "bob", "x")

    def test_what_a_stranger_writes_does_not_move_the_cursor(self) -> None:
        self.good(self.ada, "send", self.to, "\x1b[2J\u202eevil")
        for arguments in (("list",), ("read", "1")):
            shown = "\n".join(self.good(self.bob, *arguments))
            self.assertNotIn("\x1b", shown)
            self.assertNotIn("\u202e", shown)


class StatusTests(MailboxCase):
    def test_it_says_where_mailboxes_are(self) -> None:
        self.good(self.ada, "send", self.to, "come home")
        here, to_send, prekey, _, heads, row = self.good(self.bob, "status")
        self.assertEqual(here, "here      1 messages, 1 of them not read")
        self.assertEqual(to_send, "to send   0 messages that no relay has yet")
        self.assertIn("made 2026-01-01", prekey)
        self.assertEqual(heads.split("  ")[0], "relay")
        self.assertIn(self.relay.address, row)
        self.assertIn("  member  connected  2026-03-02", row)
        self.assertEqual(self.json(self.bob, "check"), self.json(self.bob, "status"))

    def test_without_a_relay_it_says_what_to_do(self) -> None:
        self.assertIn("Name some in the settings", self.good(self.alone, "status")[-1])
        self.good(self.alone, "send", self.to, "x")
        self.assertIn("1 messages that no relay has", self.good(self.alone, "check")[1])
