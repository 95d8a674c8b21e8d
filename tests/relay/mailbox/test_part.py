"""Whole nodes that write to each other by way of whole relays."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import meshkit_plugins
from meshkit.interfaces import IAdvisesAgents, IMeshPart, NodeWoke
from meshkit.relay.mailbox import operations as offered
from meshkit.relay.mailbox import part as module
from meshkit.relay.mailbox import prekeys
from meshkit.relay.mailbox.collecting import Collected
from meshkit.relay.mailbox.keeping import FILE
from meshkit.relay.mailbox.part import Config, MailboxPart
from meshkit.relay.mailbox.prekeys import MAX_TTL
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.sealing import MAX_BODY
from meshkit.runtime.registry import discover_parts
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode

#: Others cost time, and are not needed here.
PARTS = ("mailbox", "mailboxes", "relays", "feed")
DAY = 86_400


class MailCase(SynchronousTestCase):
    """Two who write to each other, and a relay of their network."""

    role = "member"

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.relay = self.make_relay("relay", self.role)
        self.relay.start()

    def make_relay(self, name: str, role: str = "member", more: str = "") -> MemoryNode:
        return self.mesh.node(
            name, f'role = "{role}"\n{more}', makers=self.makers(), program=MESH_RELAY
        )

    def makers(self) -> list[Any]:
        return [each for each in discover_parts(meshkit_plugins) if each.name in PARTS]

    def make(self, name: str, *relays: MemoryNode, more: str = "") -> MemoryNode:
        """@return: a node that uses these relays, not started."""
        use = "blind" if self.role == "blind" else "use"
        places = ", ".join(f'"{relay.address}"' for relay in relays)
        config = f"[relays]\n{use} = [{places}]\n{more}"
        return self.mesh.node(name, config, makers=self.makers())

    def begin(self, name: str, *relays: MemoryNode, more: str = "") -> MemoryNode:
        node = self.make(name, *relays, more=more)
        node.start()
        self.mesh.run(1)
        return node

    def send(self, node: MemoryNode, to: MemoryNode, text: str = "come home", **more: Any) -> Any:
        body = {"to": to.identity.public.text, "text": text, **more}
        answer = node.ask("POST", "/v1/mailbox/send", body)
        self.assertEqual(answer.status, 202, answer.json)
        return answer.json["data"]

    def sent(self, node: MemoryNode) -> list[Any]:
        found: list[Any] = node.ask("GET", "/v1/mailbox/sent").json["data"]
        return found

    def letters(self, node: MemoryNode, query: str = "") -> list[Any]:
        found: list[Any] = node.ask("GET", f"/v1/mailbox/letters{query}").json["data"]
        return found

    def texts(self, node: MemoryNode) -> list[str]:
        return [each["preview"] for each in self.letters(node)]

    def status(self, node: MemoryNode, part: str = "mailbox") -> Any:
        return node.ask("GET", "/v1/status").json["data"]["parts"][part]

    def error(self, node: MemoryNode, method: str, path: str, body: Any = None) -> str:
        return str(node.ask(method, path, body).json["error"]["code"])


class ComparingTests(MailCase):
    """Bob has mailboxes at two relays, of which one may lose what it has signed for."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.make_relay("other")
        self.other.start()
        self.bob = self.begin("bob", self.relay, self.other)
        self.ada = self.begin("ada", self.relay)
        self.mesh.run(1)

    def lacks(self) -> dict[str, int]:
        shown = self.status(self.bob)["relays"]
        return {each["address"]: each["lacks"] for each in shown}

    def write(self) -> None:
        self.send(self.ada, self.bob)
        self.mesh.run(5)
        (sent,) = self.sent(self.ada)
        self.assertEqual([each["relay"] for each in sent["copies"]], [self.name(self.other)])

    def name(self, relay: MemoryNode) -> str:
        return relay.identity.public.text

    def test_it_comes_once_by_both_and_nothing_is_lacking(self) -> None:
        self.bob.stop()
        self.write()
        self.bob.start()
        self.mesh.run(300)
        self.assertEqual(len(self.letters(self.bob)), 1)
        self.assertEqual([*self.lacks().values()], [0, 0])

    def test_one_that_loses_it_is_found_out_and_it_comes_all_the_same(self) -> None:
        self.bob.stop()
        self.write()
        dropped = self.other.service._database.write(
            lambda db: db.execute("DELETE FROM mailbox_messages") and None
        )
        self.mesh.run(1)
        self.successResultOf(dropped)
        self.bob.start()
        self.mesh.run(30)
        self.assertEqual(len(self.letters(self.bob)), 1)
        self.assertEqual([*self.lacks().values()], [0, 0])
        with capturedLogs() as logs:
            self.mesh.run(300)
        self.assertEqual(self.lacks(), {self.relay.address: 0, self.other.address: 1})
        said = [each for each in logs if "came by another" in each.get("log_format", "")]
        self.assertEqual([each["relay"] for each in said], [self.other.address])
        # A restart is no amnesty.
        self.bob.stop()
        self.bob.start()
        self.mesh.run(5)
        self.assertEqual(self.lacks(), {self.relay.address: 0, self.other.address: 1})


class SleepingTests(MailCase):
    def test_two_who_are_never_there_together_write_to_each_other(self) -> None:
        bob = self.begin("bob", self.relay)
        bob.stop()
        ada = self.begin("ada", self.relay)
        self.send(ada, bob)
        self.mesh.run(5)
        (sent,) = self.sent(ada)
        self.assertEqual((sent["state"], sent["forward_secret"]), ("kept", True))
        ada.stop()
        bob.start()
        self.mesh.run(5)
        (letter,) = self.letters(bob)
        self.assertEqual(
            (letter["preview"], letter["sender"], letter["relay"], letter["forward_secret"]),
            ("come home", ada.identity.public.text, self.relay.identity.public.text, True),
        )
        self.assertEqual(self.status(self.relay, "mailboxes")["messages"], 0)

    def test_who_is_there_is_told_at_once(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        self.mesh.run(30)
        self.send(ada, bob)
        self.mesh.run(0.2)
        self.assertEqual(self.texts(bob), ["come home"])

    def test_the_receipt_proves_that_the_relay_has_it(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        self.send(ada, bob, ttl_secs=DAY)
        self.mesh.run(1)
        (sent,) = self.sent(ada)
        self.assertEqual(sent["relay"], self.relay.identity.public.text)
        receipt = MailboxReceipt.open(base64.b64decode(sent["receipt"]), self.relay.identity.public)
        self.assertEqual(receipt.recipient, bob.identity.public)
        self.assertEqual(receipt.until, receipt.taken + DAY)

    def test_after_a_sleep_it_is_asked_at_once_what_has_come(self) -> None:
        bob = self.begin("bob", self.relay)
        # The router has forgotten the connection, and neither side knows.
        for wire in self.mesh.network.wires:
            wire.intercept = lambda _sender, _data: b""
        ada = self.begin("ada", self.relay)
        self.send(ada, bob)
        self.mesh.run(2)
        self.assertEqual(self.texts(bob), [])
        bob.service.events.publish(NodeWoke(3_600.0))
        self.mesh.run(3)
        self.assertEqual(self.texts(bob), ["come home"])

    def test_a_connection_that_is_dead_is_noticed(self) -> None:
        bob = self.begin("bob", self.relay)
        for wire in self.mesh.network.wires:
            wire.intercept = lambda _sender, _data: b""
        ada = self.begin("ada", self.relay)
        self.send(ada, bob)
        self.mesh.run(140)
        self.assertEqual(self.texts(bob), ["come home"])


class BlindTests(SleepingTests):
    """The same, at a relay that is in no network."""

    role = "blind"


class OutboxTests(MailCase):
    def test_what_is_handed_over_survives_a_restart_and_leaves_in_time(
        self,
    ) -> None:
        ada, bob = self.make("ada", self.relay), self.begin("bob", self.relay)
        self.relay.stop()
        ada.start()
        sent = self.send(ada, bob)
        self.assertEqual(sent["state"], "waiting")
        self.mesh.run(60)
        (waiting,) = self.sent(ada)
        self.assertEqual(waiting["state"], "waiting")
        self.assertGreater(waiting["attempts"], 1)
        self.assertIn("PEER_UNREACHABLE", waiting["last_error"])
        ada.stop()
        ada.start()
        self.relay.start()
        self.mesh.run(300)
        self.assertEqual(self.sent(ada)[0]["state"], "kept")
        self.assertEqual(self.texts(bob), ["come home"])

    def test_what_waits_leaves_as_soon_as_our_relay_is_there_again(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        self.relay.stop()
        self.send(ada, bob)
        # By now the next attempt to leave it is many minutes away.
        self.mesh.run(4_000)
        self.relay.start()
        self.mesh.run(310)
        self.assertEqual(self.texts(bob), ["come home"])

    def test_who_has_no_mailbox_gets_it_when_he_opens_one(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.make("bob", self.relay)
        self.send(ada, bob)
        self.mesh.run(20)
        self.assertIn("MAILBOX_UNKNOWN", self.sent(ada)[0]["last_error"])
        bob.start()
        self.mesh.run(120)
        self.assertEqual(self.texts(bob), ["come home"])

    def test_what_nobody_takes_is_given_up_at_its_end(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.make("bob")
        self.send(ada, bob, ttl_secs=60)
        self.mesh.run(61)
        (sent,) = self.sent(ada)
        self.assertEqual(sent["state"], "given up")
        self.assertEqual(self.sent(ada) and self.status(ada)["waiting"], 0)
        bob.start()
        self.mesh.run(120)
        self.assertEqual(self.letters(bob), [])

    def test_one_relay_that_is_gone_does_not_keep_it_from_another(self) -> None:
        other = self.make_relay("other")
        other.start()
        ada, bob = self.begin("ada", self.relay, other), self.begin("bob", self.relay, other)
        self.mesh.run(5)
        self.relay.stop()
        self.send(ada, bob)
        self.mesh.run(5)
        (sent,) = self.sent(ada)
        self.assertEqual((sent["state"], sent["relay"]), ("kept", other.identity.public.text))
        self.assertEqual(self.texts(bob), ["come home"])

    def test_the_sender_can_name_the_relay(self) -> None:
        ada, bob = self.begin("ada"), self.begin("bob", self.relay)
        self.send(ada, bob)
        self.mesh.run(20)
        self.assertIn("it is not known where", self.sent(ada)[0]["last_error"])
        self.send(ada, bob, "by your relay", relay=self.relay.address)
        self.mesh.run(60)
        # From there it is known where he has a mailbox.
        self.assertEqual([each["state"] for each in self.sent(ada)], ["kept", "kept"])
        self.assertEqual(sorted(self.texts(bob)), ["by your relay", "come home"])

    def test_a_request_with_a_key_sends_once(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        first = self.send(ada, bob, idempotency_key="k")
        self.mesh.run(5)
        again = self.send(ada, bob, idempotency_key="k")
        self.assertEqual((first["id"], again["state"]), (again["id"], "kept"))
        self.assertEqual(self.texts(bob), ["come home"])
        body = {"to": bob.identity.public.text, "text": "another", "idempotency_key": "k"}
        self.assertEqual(
            self.error(ada, "POST", "/v1/mailbox/send", body), "IDEMPOTENCY_KEY_REUSED"
        )

    def test_what_is_forgotten_in_time_is_not_sent(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.make("bob", self.relay)
        sent = self.send(ada, bob)
        path = f"/v1/mailbox/sent/{sent['id']}"
        self.assertEqual(ada.ask("DELETE", path).status, 204)
        self.assertEqual(self.error(ada, "DELETE", path), "NOT_FOUND")
        self.assertEqual(self.error(ada, "DELETE", "/v1/mailbox/sent/x"), "NOT_FOUND")
        bob.start()
        self.mesh.run(3_600)
        self.assertEqual(self.letters(bob), [])

    def test_what_cannot_be_sent_is_refused_at_once(self) -> None:
        ada = self.begin("ada", self.relay)
        bob = make_identity("bob").public.text
        for code, body in (
            ("INVALID_PUBLIC_KEY", {"to": "bob", "text": "x"}),
            # The neutral element: nothing can be sealed for it.
            ("MAILBOX_MESSAGE_INVALID", {"to": f"@AQ{'A' * 41}=.ed25519", "text": "x"}),
            ("INVALID_REQUEST", {"to": bob}),
            ("INVALID_REQUEST", {"to": bob, "text": "x", "body": "eA=="}),
            ("INVALID_REQUEST", {"to": bob, "body": "?"}),
            ("INVALID_REQUEST", {"to": bob, "text": "x", "ttl_secs": MAX_TTL + 1}),
            ("INVALID_ADDRESS", {"to": bob, "text": "x", "relay": "relay.example:7661"}),
            ("MAILBOX_MESSAGE_INVALID", {"to": bob, "text": "\u00e9" * (MAX_BODY // 2 + 1)}),
        ):
            self.assertEqual(self.error(ada, "POST", "/v1/mailbox/send", body), code, body)
        self.assertEqual(self.sent(ada), [])

    def test_the_longest_message_arrives(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        body = bytes(range(256)) * (MAX_BODY // 256 + 1)
        encoded = base64.b64encode(body[:MAX_BODY]).decode()
        request = {"to": bob.identity.public.text, "body": encoded}
        self.assertEqual(ada.ask("POST", "/v1/mailbox/send", request).status, 202)
        self.mesh.run(5)
        (letter,) = self.letters(bob)
        self.assertEqual((letter["size"], letter["preview"]), (MAX_BODY, None))
        read = bob.ask("POST", f"/v1/mailbox/letters/{letter['number']}/read").json["data"]
        self.assertEqual((read["body"], read["text"]), (encoded, None))


class LettersTests(MailCase):
    def test_they_are_read_and_removed(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        for text in ("one", "two \u00e9" * 100):
            self.send(ada, bob, text)
        self.mesh.run(2)
        self.assertEqual(self.status(bob)["unread"], 2)
        one, two = self.letters(bob)
        self.assertEqual((one["preview"], len(two["preview"])), ("one", 100))
        path = f"/v1/mailbox/letters/{one['number']}"
        for before in (False, True):
            read = bob.ask("POST", f"{path}/read").json["data"]
            self.assertEqual((read["text"], read["read"]), ("one", before))
        self.assertEqual(self.status(bob)["unread"], 1)
        self.assertEqual([each["number"] for each in self.letters(bob, "?unread=true")], [2])
        self.assertEqual([each["number"] for each in self.letters(bob, "?after=1")], [2])
        self.assertEqual([each["number"] for each in self.letters(bob, "?limit=1")], [1])
        self.assertEqual(bob.ask("DELETE", path).status, 204)
        for method, where in (("DELETE", path), ("POST", f"{path}/read")):
            self.assertEqual(self.error(bob, method, where), "NOT_FOUND")
        self.assertEqual(self.status(bob)["letters"], 1)

    def test_when_there_is_no_room_they_wait_at_the_relay_and_none_is_lost(self) -> None:
        ada = self.begin("ada", self.relay)
        bob = self.begin("bob", self.relay, more="[mailbox]\nmax_letters = 2\n")
        for text in ("one", "two", "three"):
            self.send(ada, bob, text)
        self.mesh.run(5)
        self.assertEqual(self.texts(bob), ["one", "two"])
        (relay,) = self.status(bob)["relays"]
        self.assertIn("MAILBOX_FULL", relay["last_error"])
        part = bob.service._parts["mailbox"]
        self.assertTrue(any("is full" in each for each in part.advice()))
        self.assertEqual(self.status(self.relay, "mailboxes")["deposited"], 3)
        bob.ask("DELETE", "/v1/mailbox/letters/1")
        self.mesh.run(5)
        self.assertEqual(self.texts(bob), ["two", "three"])

    def test_those_of_who_is_blocked_are_thrown_away_unread(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        author = quote(ada.identity.public.text, safe="")
        self.assertLess(bob.ask("POST", f"/v1/blocks/{author}", {}).status, 300)
        self.send(ada, bob)
        self.mesh.run(20)
        self.assertEqual(self.letters(bob), [])
        self.assertEqual(self.status(self.relay, "mailboxes")["collected"], 1)


class PrekeyTests(MailCase):
    def test_it_is_turned_each_week_and_what_was_sealed_before_is_read(self) -> None:
        self.patch(prekeys, "ROTATED", 600)
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        made = self.status(bob)["prekey_made"]
        self.send(ada, bob, "before")
        self.mesh.run(800)
        self.assertNotEqual(self.status(bob)["prekey_made"], made)
        self.send(ada, bob, "after")
        self.mesh.run(5)
        self.assertEqual(self.texts(bob), ["before", "after"])
        self.assertEqual([each["forward_secret"] for each in self.letters(bob)], [True, True])

    def test_there_is_none_where_nothing_can_come(self) -> None:
        ada = self.begin("ada")
        self.assertEqual(self.status(ada)["relays"], [])
        self.assertNotIn(f"/ada/{FILE}", ada.files.content)

    def test_it_is_in_a_file_of_its_own_that_nobody_else_reads(self) -> None:
        bob = self.begin("bob", self.relay)
        self.assertEqual(bob.files.modes[f"/bob/{FILE}"], 0o600)

    def test_without_its_secret_a_message_is_told_of_and_dropped(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        bob.stop()
        self.send(ada, bob)
        self.mesh.run(5)
        # As after a restore from a backup.
        bob.files.remove(f"/bob/{FILE}")
        bob.start()
        self.mesh.run(5)
        self.assertEqual(self.letters(bob), [])
        self.assertEqual(self.status(self.relay, "mailboxes")["messages"], 0)
        part = bob.service._parts["mailbox"]
        self.assertEqual(part._refused, {"MAILBOX_MESSAGE_UNREADABLE": 1})


class PartTests(MailCase):
    def test_it_is_a_part(self) -> None:
        part = self.begin("ada", self.relay).service._parts["mailbox"]
        self.assertIsInstance(part, MailboxPart)
        verifyObject(IMeshPart, part)
        verifyObject(IAdvisesAgents, part)
        self.assertEqual(list(part.advice()), [])

    def test_numbers_of_the_doors_are_those_of_the_protocol(self) -> None:
        self.assertEqual((offered.MAX_TTL, offered.MAX_BODY), (MAX_TTL, MAX_BODY))

    def test_its_defaults_are_those_of_what_it_is_for(self) -> None:
        limits = Config().limits()
        self.assertEqual((limits.letters, limits.bytes), (10_000, 64 * 2**20))

    def test_what_is_dropped_again_and_again_is_told_once_an_hour(self) -> None:
        part = self.begin("ada", self.relay).service._parts["mailbox"]
        (station,) = part.stations
        station.stop()

        async def filled(*_: object, **__: object) -> Collected:
            return Collected(0, 0, {"MAILBOX_MESSAGE_INVALID": 2}, False, early=1)

        self.patch(module, "collect", filled)

        def collect(times: int) -> None:
            for _ in range(times):
                Deferred.fromCoroutine(part._collect(None, station.relay))
                self.mesh.run(1)

        with capturedLogs() as logs:
            collect(5)
            self.mesh.clock.advance(3_600)
            self.mesh.run(0.5)
            collect(1)
        told = [
            (event["count"], event.get("code"))
            for event in logs
            if event["log_level"] is LogLevel.warn and event["log_source"] is part
        ]
        code = "MAILBOX_MESSAGE_INVALID"
        self.assertEqual(told, [(1, None), (2, code), (8, code), (1, None)])

    def test_it_can_be_stopped_and_started_again(self) -> None:
        bob, ada = self.begin("bob", self.relay), self.begin("ada", self.relay)
        for number in range(3):
            bob.stop()
            self.send(ada, bob, f"{number}")
            bob.start()
            self.mesh.run(5)
        self.assertEqual(self.texts(bob), ["0", "1", "2"])


class OperatorTests(MailCase):
    def test_who_runs_a_relay_sees_where_most_waits_and_removes_a_mailbox(self) -> None:
        ada, bob = self.begin("ada", self.relay), self.begin("bob", self.relay)
        bob.stop()
        self.send(ada, bob)
        self.mesh.run(1)
        answer = self.relay.ask("GET", "/v1/mailboxes?limit=1")
        (first,) = answer.json["data"]
        key = bob.identity.public.text
        self.assertEqual((first["public_id"], first["messages"], first["bytes"]), (key, 1, 256))
        self.assertEqual(answer.json["metadata"]["total"], 2)
        self.assertTrue(first["origin"].startswith("10."), first)
        path = f"/v1/mailboxes/{quote(key, safe='')}"
        self.assertEqual(self.relay.ask("DELETE", path).status, 204)
        self.assertEqual(self.error(self.relay, "DELETE", path), "MAILBOX_UNKNOWN")
        self.assertEqual(
            self.error(self.relay, "DELETE", "/v1/mailboxes/bob"), "INVALID_PUBLIC_KEY"
        )

    def test_an_owner_who_is_there_opens_it_again(self) -> None:
        bob = self.begin("bob", self.relay)
        path = f"/v1/mailboxes/{quote(bob.identity.public.text, safe='')}"
        self.assertEqual(self.relay.ask("DELETE", path).status, 204)
        self.mesh.run(300)
        (there,) = self.relay.ask("GET", "/v1/mailboxes").json["data"]
        self.assertEqual(there["public_id"], bob.identity.public.text)


class HashTableTests(MailCase):
    """Where somebody has a mailbox stands in the hash table."""

    def makers(self) -> list[Any]:
        wanted = (*PARTS, "dht")
        return [each for each in discover_parts(meshkit_plugins) if each.name in wanted]

    def begin(self, name: str, *relays: MemoryNode, more: str = "") -> MemoryNode:
        first = "" if name == "eve" else f'peers = ["{self.eve.address}"]\n'
        places = ", ".join(f'"{relay.address}"' for relay in relays)
        config = f'{first}[relays]\nuse = [{places}]\n[dht]\nown_blocks = ["10.0.0.0/8"]\n{more}'
        node = self.mesh.node(name, config, makers=self.makers())
        node.start()
        return node

    def test_who_uses_other_relays_finds_it_there(self) -> None:
        other = self.make_relay("other")
        other.start()
        self.eve = self.begin("eve")
        ada, bob = self.begin("ada", other), self.begin("bob", self.relay)
        self.mesh.run(30)
        bob.stop()
        self.send(ada, bob)
        self.mesh.run(10)
        (sent,) = self.sent(ada)
        self.assertEqual(
            (sent["state"], sent["relay"], sent["forward_secret"]),
            ("kept", self.relay.identity.public.text, True),
        )
        bob.start()
        self.mesh.run(5)
        self.assertEqual(self.texts(bob), ["come home"])
