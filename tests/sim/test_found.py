"""
What must be so of a hash table is seen to be missed, in worlds that somebody tampers with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import succeed

from meshkit.identity.keys import Identity
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.records import Record
from meshkit.sim.invariants import Found, Owned
from meshkit.sim.liars import Lie
from meshkit.sim.running import Run
from meshkit.sim.schedule import Action, Member, Plan
from tests.sim import test_invariants as support
from tests.sim.test_invariants import call, change, tampering

PAIR = Plan("", 3, 40.0, 30.0, members=(Member("ada"), Member("bob", ("ada",))))


def put(seconds: float, name: str, text: str = "x", **more: Any) -> Action:
    body = {"kind": "topic", "name": "birds", "text": text, **more}
    return call(seconds, name, "POST", "/v1/dht/records", body=body)


def record(run: Run, owner: Identity, text: bytes, *, network: bytes = b"") -> Record:
    """A record of the topic, made now."""
    now = run.nodes["ada"].host.wall_clock() // 1_000_000
    return Record.seal(
        owner,
        network or run.world.network_secret.key().net_id,
        "topic",
        _key(run),
        text,
        sequence=now,
        expires=now + 3_600_000,
    )


def _key(run: Run) -> bytes:
    ((key,),) = run.nodes["ada"].look("SELECT key FROM kademlia_records WHERE kind = 'topic'")
    return bytes(key)


def hash_table(run: Run, name: str) -> KademliaNode:
    service: Any = run.nodes[name].service
    node: KademliaNode = service._parts["dht"].node
    return node


def overwrite(name: str, raw: bytes) -> Any:
    def tamper(run: Run) -> None:
        change(run.nodes[name], "UPDATE kademlia_records SET raw = ? WHERE kind = 'topic'", raw)

    return tamper


class FoundTests(support.InvariantTests):
    def test_what_is_kept_and_found(self) -> None:
        actions = [put(1, "ada"), put(2, "bob"), Action.after(5, "swap", "ada", salt="", text="y")]
        self.assertEqual(self.play(Found, support.Invariant, actions, PAIR).violations, ())

    def test_what_is_said_to_be_kept_and_is_on_no_disk(self) -> None:
        self.patch(KademliaNode, "written", lambda node: succeed(None))
        violations = self.play(Found, support.Invariant, [put(3, "ada")], PAIR).violations
        self.assertEqual(
            violations[0].text,
            "topic birds is said to be accepted by 2 nodes, and is on the disks of nobody",
        )

    def test_what_was_kept_and_is_gone(self) -> None:
        tamper = tampering(
            "sampled", support.tables("bob", "DELETE FROM kademlia_records WHERE kind = 'topic'"), 9
        )
        violation = self.found(Found, tamper, [put(3, "ada")], PAIR)
        text = "the topic record of ada that it has accepted is not on its disk any more"
        self.assertEqual((violation.node, violation.text), ("bob", text))

    def test_what_has_expired_or_was_replaced_may_be_gone(self) -> None:
        target = "/v1/dht/records/topic/birds"
        actions = [
            put(3, "ada"),
            put(5, "ada", "y", expires_secs=60),
            put(6, "bob"),
            call(7, "bob", "DELETE", target),
        ]
        plan = Plan("", 3, 100.0, 30.0, members=PAIR.members)
        self.assertEqual(self.play(Found, support.Invariant, actions, plan).violations, ())

    def test_what_is_kept_and_not_found(self) -> None:
        def lose(run: Run) -> None:
            # The disks have it, but nobody tells.
            self.patch(KademliaNode, "_counting", lambda node, records: [])

        violations = self.play(Found, tampering("settled", lose), [put(3, "ada")], PAIR).violations
        found = {(each.node, each.text) for each in violations}
        lacks = "it does not find the topic record birds  of ada"
        self.assertLessEqual({("ada", lacks), ("bob", lacks)}, found)

    def test_an_older_value_than_the_one_that_was_accepted(self) -> None:
        old: list[Any] = []

        def remember(run: Run) -> None:
            old.extend(hash_table(run, "bob").holdings._entries.values())

        def bring_back(run: Run) -> None:
            raw = next(entry.raw for entry in old if Record.reopen(entry.raw).kind == "topic")

            def counting(node: KademliaNode, records: Iterable[Record]) -> list[Record]:
                found = list(records)
                return [Record.reopen(raw)] if found and found[0].kind == "topic" else found

            self.patch(KademliaNode, "_counting", counting)

        class Both(tampering("settled", bring_back)):  # type: ignore[misc]
            def sampled(self, run: Run) -> None:
                if 4 <= run.seconds <= 5:
                    remember(run)

        actions = [put(3, "ada"), put(6, "ada", "new")]
        violations = self.play(Found, Both, actions, PAIR).violations
        self.assertIn("it does not find the topic record", violations[0].text)

    def test_a_node_that_is_not_found(self) -> None:
        def move(run: Run) -> None:
            for node in run.nodes.values():
                node.address = node.address.replace("10.", "11.")

        violations = self.play(Found, tampering("settled", move), [put(3, "ada")], PAIR).violations
        texts = [f"{each.node}: {each.text}" for each in violations]
        self.assertEqual(
            texts,
            [
                "ada: it does not find bob, which can be reached",
                "bob: it does not find ada, which can be reached",
            ],
        )


class OwnedTests(support.InvariantTests):
    def found_by(self, tamper: Any, actions: Any = None) -> list[str]:
        actions = [put(3, "ada")] if actions is None else actions
        violations = self.play(Owned, tampering("sampled", tamper, 9), actions, PAIR).violations
        return [each.text for each in violations]

    def test_nothing_is_found_where_nothing_is_wrong(self) -> None:
        self.assertEqual(self.found_by(lambda run: None), [])

    def test_a_signature_of_somebody_else(self) -> None:
        def tamper(run: Run) -> None:
            raw = record(run, run.nodes["ada"].identity, b"true").raw
            overwrite("bob", raw.replace(b"true", b"lies"))(run)

        self.assertEqual(
            self.found_by(tamper), ["a topic record is stored, but its owner has not signed it"]
        )

    def test_a_record_of_another_network(self) -> None:
        def tamper(run: Run) -> None:
            overwrite("bob", record(run, run.nodes["ada"].identity, b"x", network=bytes(16)).raw)(
                run
            )

        self.assertEqual(
            self.found_by(tamper)[0],
            "a topic record is stored, but it is meant for another network",
        )

    def test_a_record_in_another_place(self) -> None:
        def tamper(run: Run) -> None:
            change(
                run.nodes["bob"],
                "UPDATE kademlia_records SET key = ? WHERE kind = 'topic'",
                bytes(32),
            )

        texts = self.found_by(tamper)
        self.assertIn("a topic record is stored, but it is of another place", texts)

    def test_a_key_that_is_not_that_of_the_owner(self) -> None:
        def tamper(run: Run) -> None:
            owner, now = run.nodes["ada"].identity, run.nodes["ada"].host.wall_clock() // 1_000_000
            raw = Record.seal(
                owner,
                run.world.network_secret.key().net_id,
                "mutable",
                _key(run),
                b"",
                sequence=now,
                expires=now + 3_600_000,
            ).raw
            overwrite("bob", raw)(run)

        self.assertEqual(
            self.found_by(tamper)[0],
            "a topic record is stored, but it is a record of the kind mutable, and its key is "
            "not that of one",
        )

    def test_a_lie_that_somebody_has_told(self) -> None:
        def tamper(run: Run) -> None:
            eve = Identity(bytes(32))
            raw = record(run, eve, b"x").raw
            run.liars["eve"].told.forge(Lie(0, "way", eve.public.raw, 1, "", raw))
            overwrite("bob", raw)(run)

        plan = Plan("", 3, 15.0, 5.0, members=(*PAIR.members, Member("eve", liar="silent")))
        found = self.play(Owned, tampering("sampled", tamper, 9), [put(3, "ada")], plan).violations
        self.assertTrue(
            any(v.text == "a topic record is stored, but it is a lie of eve" for v in found)
        )

    def test_a_record_that_is_shown_and_that_its_owner_has_not_published(self) -> None:
        def tamper(run: Run) -> None:
            forged = record(run, run.nodes["ada"].identity, b"never published")
            self.patch(KademliaNode, "_counting", lambda node, records: [forged])

        target = f"/v1/dht/records/topic/{quote('birds')}"
        actions = [put(3, "ada"), call(12, "bob", "GET", target)]
        self.assertEqual(
            self.found_by(tamper, actions),
            ["a topic record of ada is shown that it has not published"],
        )
