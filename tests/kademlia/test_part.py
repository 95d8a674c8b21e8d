"""Tests of L{meshkit.kademlia.part}: the hash table in whole nodes, in memory."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import meshkit_plugins
from meshkit.errors import ConfigError
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.interfaces import IHashTable, IMeshPart, IPeerFinder
from meshkit.kademlia.kinds import Kind
from meshkit.kademlia.node import MAX_BOOTSTRAP
from meshkit.kademlia.operations import MAX_VALUE
from meshkit.kademlia.part import FIRST_PAUSE, LAST_PAUSE, Config, DHTPart
from meshkit.kademlia.records import MAX_VALUE as MOST_OF_A_RECORD
from meshkit.parts import Part, PartMaker
from meshkit.runtime.registry import discover_parts
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode

STRANGER = make_identity("stranger").public


class PartCase(SynchronousTestCase):
    """Some nodes of one mesh."""

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.end)

    def end(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def node(self, name: str, config: str = "", **options: Any) -> MemoryNode:
        node = self.mesh.node(name, config, **options)
        node.start()
        return node

    def friends(self, *names: str, config: str = "") -> list[MemoryNode]:
        """The first one, and others that know nobody but the first."""
        first = self.node(names[0], config)
        found = [first]
        for name in names[1:]:
            found.append(self.node(name, f'peers = ["{first.address}"]\n{config}'))
        self.mesh.run(5)
        return found

    def ok(self, node: MemoryNode, method: str, target: str, body: Any = None) -> Any:
        answer = node.ask(method, target, body)
        self.assertLess(answer.status, 300, answer.body)
        return answer.json["data"]

    def refused(
        self, node: MemoryNode, code: str, method: str, target: str, body: Any = None
    ) -> str:
        answer = node.ask(method, target, body)
        self.assertEqual(answer.code, code, answer.body)
        message: str = answer.json["error"]["message"]
        return message

    def known(self, node: MemoryNode) -> set[str]:
        return {each["public_id"] for each in self.ok(node, "GET", "/v1/dht/table")}

    def part(self, node: MemoryNode) -> DHTPart:
        part = node.service._parts["dht"]
        assert isinstance(part, DHTPart)
        return part


class Finding(PartCase):
    """Others are found, and where they are."""

    def test_it_provides_what_its_maker_says(self) -> None:
        part = self.part(self.node("ada"))
        for interface in (IMeshPart, IHashTable, IPeerFinder):
            self.assertTrue(verifyObject(interface, part))

    def test_all_come_to_know_each_other_through_one(self) -> None:
        # Four of one /24.
        own = '[dht]\nown_blocks = ["10.0.0.0/24"]'
        nodes = self.friends("ada", "bob", "cyd", "dan", config=own)
        # Who starts at the same moment is found a minute later.
        self.mesh.run(120)
        everybody = {node.identity.public.text for node in nodes}
        for node in nodes:
            self.assertEqual(self.known(node), everybody - {node.identity.public.text})
        stats = self.ok(nodes[3], "GET", "/v1/dht/stats")
        self.assertEqual((stats["contacts"], stats["reachable"]), (3, True))
        self.assertEqual(stats["addresses"], [nodes[3].address])
        status = self.ok(nodes[3], "GET", "/v1/status")
        self.assertEqual(status["parts"]["dht"]["contacts"], 3)

    def test_a_peer_is_dialled_by_its_key_alone(self) -> None:
        ada, bob, cyd = self.friends("ada", "bob", "cyd")
        body = {"address": cyd.identity.public.text, "pings": 2}
        done = self.ok(bob, "POST", "/v1/peers/dial", body)
        self.assertEqual(done["address"], cyd.address)
        self.assertEqual(done["public_id"], cyd.identity.public.text)
        self.assertEqual(len(done["round_trips_ms"]), 2)
        shown = self.ok(bob, "GET", f"/v1/dht/peers/{cyd.identity.public.text.replace('/', '%2F')}")
        self.assertEqual(shown["addresses"], [cyd.address])

    def test_a_peer_that_has_moved_is_found_where_it_is_now(self) -> None:
        _, bob, cyd = self.friends("ada", "bob", "cyd")
        cyd.stop()
        cyd._config = cyd._config + f'\nlisten = "tcp:7700:interface={cyd.host.address}"'
        cyd.start()
        # At once: she tells it, though she knows everybody still.
        self.mesh.run(5)
        done = self.ok(bob, "POST", "/v1/peers/dial", {"address": cyd.identity.public.text})
        self.assertEqual(done["address"], cyd.address.replace(":7655~", ":7700~"))

    def test_nobody_is_found_who_is_not_there(self) -> None:
        _, bob = self.friends("ada", "bob")
        said = self.refused(bob, "NOT_FOUND", "POST", "/v1/peers/dial", {"address": STRANGER.text})
        self.assertIn("nobody in the hash table knows", said)
        own = {"address": bob.identity.public.text}
        self.refused(bob, "CONFIG_INVALID", "POST", "/v1/peers/dial", own)
        self.refused(bob, "INVALID_PUBLIC_KEY", "POST", "/v1/peers/dial", {"address": "@bob"})

    def test_without_it_only_configured_peers_are_dialled_by_their_keys(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", f'disable = ["dht"]\npeers = ["{ada.address}"]')
        done = self.ok(bob, "POST", "/v1/peers/dial", {"address": ada.identity.public.text})
        self.assertEqual(done["address"], ada.address)
        said = self.refused(bob, "NOT_FOUND", "POST", "/v1/peers/dial", {"address": STRANGER.text})
        self.assertIn("enable the part 'dht'", said)

    def test_a_client_finds_and_is_not_found(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", f'peers = ["{ada.address}"]\n[dht]\nclient = true')
        self.mesh.run(5)
        self.assertEqual(self.known(bob), {ada.identity.public.text})
        self.assertEqual(self.known(ada), set())
        stats = self.ok(bob, "GET", "/v1/dht/stats")
        self.assertEqual((stats["reachable"], stats["addresses"]), (False, []))
        put = {"kind": "topic", "name": "birds", "text": "a heron"}
        placed = self.ok(bob, "POST", "/v1/dht/records", put)
        self.assertEqual((placed["accepted"], placed["asked"]), (1, 1))
        found = self.ok(ada, "GET", "/v1/dht/records/topic/birds")
        self.assertEqual([each["text"] for each in found["records"]], ["a heron"])

    def test_a_node_that_knows_nobody_goes_on_looking(self) -> None:
        ada = self.mesh.node("ada")
        bob = self.node("bob", f'peers = ["{ada.address}"]')
        self.mesh.run(3 * FIRST_PAUSE)
        self.assertEqual(self.known(bob), set())
        ada.start()
        self.mesh.run(4 * FIRST_PAUSE)
        self.assertEqual(self.known(bob), {ada.identity.public.text})

    def test_of_many_peers_others_are_tried_each_time(self) -> None:
        there = self.node("ada")
        gone = []
        for n in range(MAX_BOOTSTRAP):
            key = make_identity(f"gone {n}").public
            gone.append(f'"{MeshAddress(f"1.9.{n}.1", 7655, key).text}"')
        bob = self.node("bob", f'peers = [{", ".join(gone)}, "{there.address}"]')
        self.mesh.run(300)
        self.assertEqual(self.known(bob), {there.identity.public.text})

    def test_a_peer_that_is_added_is_asked(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        self.mesh.run(10)
        self.assertEqual(self.known(bob), set())
        self.ok(bob, "POST", "/v1/peers", {"address": ada.address})
        self.mesh.run(2)
        self.assertEqual(self.known(bob), {ada.identity.public.text})

    def test_a_peer_that_is_heard_is_asked_and_not_trusted(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        ada.service.peers.hear("lan", [MeshAddress.parse(bob.address)])
        self.mesh.run(5)
        self.assertEqual(self.known(ada), {bob.identity.public.text})
        trusted = self.part(ada).node._trusted
        self.assertNotIn(bob.identity.public, trusted)
        self.ok(ada, "POST", "/v1/peers", {"address": bob.address})
        self.assertIn(bob.identity.public, trusted)

    def test_two_that_others_lead_elsewhere_find_together_at_a_configured_peer(self) -> None:
        ada, bob = self.mesh.node("ada"), self.node("bob")
        cyd = self.node("cyd", f'peers = ["{bob.address}", "{ada.address}"]')
        self.mesh.run(5)
        # She was not there when cyd was started; and who knows somebody does not stop looking.
        ada.start()
        self.mesh.run(LAST_PAUSE + 10)
        self.assertIn(ada.identity.public.text, self.known(cyd))
        self.assertIn(ada.identity.public.text, self.known(bob) | self.known(cyd))

    def test_who_is_blocked_is_not_known_and_does_not_come_in(self) -> None:
        ada, bob, cyd = self.friends("ada", "bob", "cyd")
        blocked = bob.identity.public.text
        self.ok(ada, "POST", f"/v1/blocks/{blocked.replace('/', '%2F')}")
        self.mesh.run(1)
        self.assertEqual(self.known(ada), {cyd.identity.public.text})
        self.mesh.run(120)
        self.assertEqual(self.known(ada), {cyd.identity.public.text})
        peers = self.part(ada).node.server._by_peer
        self.assertNotIn(bob.identity.public, peers)

    def test_what_it_knows_outlives_a_restart(self) -> None:
        ada, bob, cyd = self.friends("ada", "bob", "cyd")
        self.ok(cyd, "POST", "/v1/dht/records", {"kind": "topic", "name": "a", "text": "b"})
        bob.stop()
        ada.stop()
        bob.start()
        self.mesh.run(5)
        # Ada, its only peer, is gone.
        self.assertIn(cyd.identity.public.text, self.known(bob))
        cyd.stop()
        found = self.ok(bob, "GET", "/v1/dht/records/topic/a")
        self.assertEqual([each["text"] for each in found["records"]], ["b"])


class Doors(PartCase):
    """Records are published, found and taken back by operations."""

    def setUp(self) -> None:
        super().setUp()
        self.ada, self.bob, self.cyd = self.friends("ada", "bob", "cyd")

    def put(self, node: MemoryNode, kind: str, **fields: Any) -> Any:
        return self.ok(node, "POST", "/v1/dht/records", {"kind": kind, **fields})

    def found(self, node: MemoryNode, kind: str, name: str, query: str = "") -> list[Any]:
        target = f"/v1/dht/records/{kind}/{name.replace('/', '%2F')}{query}"
        records: list[Any] = self.ok(node, "GET", target)["records"]
        return records

    def test_limits_are_those_of_records(self) -> None:
        self.assertEqual(MAX_VALUE, MOST_OF_A_RECORD)

    def test_two_who_write_under_one_topic_are_both_found(self) -> None:
        placed = self.put(self.ada, "topic", name="birds/b", text="a heron")
        self.assertEqual((placed["accepted"], placed["asked"], placed["refused"]), (3, 3, {}))
        self.put(self.bob, "topic", name="birds/b", value=base64.b64encode(b"\xff").decode())
        found = {each["owner"]: each for each in self.found(self.cyd, "topic", "birds/b")}
        heron = found[self.ada.identity.public.text]
        self.assertEqual((heron["text"], heron["sequence"]), ("a heron", placed["sequence"]))
        self.assertEqual((heron["key"], heron["expires"]), (placed["key"], placed["expires"]))
        other = found[self.bob.identity.public.text]
        self.assertEqual((other["text"], other["value"]), (None, "/w=="))

    def test_what_is_immutable_is_found_by_its_hash(self) -> None:
        placed = self.put(self.ada, "immutable", text="for ever")
        (found,) = self.found(self.bob, "immutable", placed["name"])
        self.assertEqual(found["text"], "for ever")
        largest = "x" * MAX_VALUE
        placed = self.put(self.ada, "immutable", text=largest)
        (found,) = self.found(self.bob, "immutable", placed["name"].upper())
        self.assertEqual(found["text"], largest)
        wrong = {"kind": "immutable", "name": "00" * 32, "text": "for ever"}
        said = self.refused(self.ada, "INVALID_REQUEST", "POST", "/v1/dht/records", wrong)
        self.assertIn("leave the name out", said)

    def test_of_two_who_swap_the_same_one_is_told(self) -> None:
        own = self.ada.identity.public.text
        self.put(self.ada, "mutable", text="1", swap_sequence=0)
        (first,) = self.found(self.bob, "mutable", own)
        was = {"swap_sequence": first["sequence"], "swap_digest": first["digest"]}
        self.mesh.run(0.1)
        self.put(self.ada, "mutable", text="2", **was)
        self.mesh.run(0.1)
        body = {"kind": "mutable", "text": "3", **was}
        self.refused(self.ada, "RECORD_CHANGED", "POST", "/v1/dht/records", body)
        body = {"kind": "mutable", "text": "4", "swap_sequence": 0}
        self.refused(self.ada, "RECORD_CHANGED", "POST", "/v1/dht/records", body)
        self.assertEqual([each["text"] for each in self.found(self.cyd, "mutable", own)], ["2"])

    def test_nobody_writes_what_is_somebody_elses(self) -> None:
        body = {"kind": "mutable", "name": self.bob.identity.public.text, "text": "x"}
        said = self.refused(self.ada, "INVALID_REQUEST", "POST", "/v1/dht/records", body)
        self.assertIn("can only write its own", said)
        body = {"kind": "address", "text": "x"}
        self.refused(self.ada, "INVALID_REQUEST", "POST", "/v1/dht/records", body)

    def test_salts_tell_the_items_of_one_owner_apart(self) -> None:
        for salt in ("", "a", "ä/b"):
            self.put(self.ada, "mutable", text=f"of {salt}", salt=salt)
        own = self.ada.identity.public.text
        for query, text in (("", "of "), ("?salt=a", "of a"), ("?salt=%C3%A4%2Fb", "of ä/b")):
            (found,) = self.found(self.bob, "mutable", own, query)
            self.assertEqual(found["text"], text)

    def test_whatever_the_name_is_what_is_published_is_found_and_taken_back(self) -> None:
        names = ("/", "a/b", "..", ".", " ", "?#%", "a+b", "%2F", "x" * 1024, "é" * 1024)
        for name in names:
            self.put(self.ada, "topic", name=name, text="here")
            target = f"/v1/dht/records/topic/{quote(name, safe='')}"
            (record,) = self.ok(self.bob, "GET", target)["records"]
            self.assertEqual(record["text"], "here", name)
            self.ok(self.ada, "DELETE", target)
        for name in ("", "\0", "a\0b", "é" * 2049, "語" * 1366, "🐦" * 1025):
            body = {"kind": "topic", "name": name, "text": "here"}
            said = self.refused(self.ada, "INVALID_REQUEST", "POST", "/v1/dht/records", body)
            self.assertIn("name", said)

    def test_what_is_no_hex_no_base64_or_too_large_is_named(self) -> None:
        for text in ("abc", "zz", "0x12", "a b", "é"):
            for target in ("records/provider", "providers", "nodes"):
                self.refused(
                    self.ada, "INVALID_REQUEST", "GET", f"/v1/dht/{target}/{quote(text, safe='')}"
                )
        for value in ("AA", "AA=", "A A=", "AA==\n", "-_8=", "é", "====", "AA==AA=="):
            body = {"kind": "immutable", "value": value}
            self.refused(self.ada, "INVALID_REQUEST", "POST", "/v1/dht/records", body)
        body = {"kind": "mutable", "text": "", "salt": "é" * 33}
        said = self.refused(self.ada, "RECORD_TOO_LARGE", "POST", "/v1/dht/records", body)
        self.assertIn("66 bytes", said)
        swap = {"kind": "mutable", "swap_digest": "ab" * 32, "swap_sequence": 2**63 - 1}
        self.refused(self.ada, "INVALID_REQUEST", "POST", "/v1/dht/records", swap)

    def test_what_is_withdrawn_is_not_found_a_minute_later(self) -> None:
        self.put(self.ada, "topic", name="birds", text="a heron")
        self.mesh.run(1)
        self.ok(self.ada, "DELETE", "/v1/dht/records/topic/birds")
        self.mesh.run(61)
        self.assertEqual(self.found(self.bob, "topic", "birds"), [])
        self.refused(self.ada, "NOT_FOUND", "DELETE", "/v1/dht/records/topic/birds")

    def test_what_is_to_end_ends(self) -> None:
        self.put(self.ada, "topic", name="birds", text="a heron", expires_secs=100)
        self.mesh.run(99)
        self.assertEqual(len(self.found(self.bob, "topic", "birds")), 1)
        self.mesh.run(2)
        self.assertEqual(self.found(self.bob, "topic", "birds"), [])

    def test_who_has_some_content_is_found_with_where_it_is(self) -> None:
        for node in (self.ada, self.bob):
            self.ok(node, "POST", "/v1/dht/providers/c0ffee")
        found = self.ok(self.cyd, "GET", "/v1/dht/providers/C0FFEE")["providers"]
        self.assertEqual(
            {each["public_id"] for each in found},
            {node.identity.public.text for node in (self.ada, self.bob)},
        )

    def test_nodes_are_found_by_key_and_by_place(self) -> None:
        key = self.bob.identity.public.text.replace("/", "%2F")
        first = self.ok(self.cyd, "GET", f"/v1/dht/nodes/{key}")
        self.assertEqual(first["contacts"][0]["public_id"], self.bob.identity.public.text)
        self.assertEqual(first["contacts"][0]["addresses"], [self.bob.address])
        place = first["contacts"][0]["id"]
        self.assertEqual(self.ok(self.cyd, "GET", f"/v1/dht/nodes/{place}"), first)

    def test_it_counts_what_it_does(self) -> None:
        self.put(self.ada, "topic", name="birds", text="a heron")
        self.mesh.run(90)
        metrics = self.ada.ask("GET", "/metrics").body.decode()
        lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
        self.assertEqual(float(lines["meshkit_dht_contacts"]), 2)
        self.assertEqual(float(lines["meshkit_dht_publications"]), 2)  # her address as well
        self.assertGreater(float(lines['meshkit_dht_asked_total{method="store"}']), 1)


class Settings(PartCase):
    """The section C{[dht]}."""

    def test_what_cannot_be_used_is_named(self) -> None:
        for config, named in (
            (Config(addresses=("nowhere",)), "dht.addresses"),
            (Config(addresses=("example.org:7655",)), "by IP addresses only"),
            (Config(addresses=tuple(f"192.0.2.{n}:7655" for n in range(9))), "8 addresses"),
            (Config(addresses=("192.0.2.7:7655", "net:192.0.2.7:7655")), "twice"),
            (Config(addresses=("0.0.0.0:7655",)), "no host can be reached at 0.0.0.0:7655"),
            (Config(addresses=("[::]:7655",)), "no host can be reached"),
        ):
            with self.assertRaisesRegex(ConfigError, named):
                config.places()
        for text in ("10.0.0.0", "10.0.0.1/8", "lan"):
            with self.subTest(text), self.assertRaises(ConfigError):
                if Config(own_blocks=(text,)).blocks()[0].num_addresses == 1:
                    raise ConfigError("one address is a block of its own")

    def test_addresses_that_are_configured_are_published(self) -> None:
        ada = self.node("ada", '[dht]\naddresses = ["192.0.2.7:443", "10.0.0.1:7655"]')
        stats = self.ok(ada, "GET", "/v1/dht/stats")
        self.assertEqual(
            [text.split("~")[0] for text in stats["addresses"]],
            [
                "net:192.0.2.7:443",
                "net:10.0.0.1:7655",
            ],
        )
        finder = ada.service._parts["dht"]
        self.assertEqual(
            [place.text for place in finder.own_places()], ["192.0.2.7:443", "10.0.0.1:7655"]
        )

    def test_what_the_operator_says_of_the_whole_node_holds_here_if_it_is_no_name(self) -> None:
        ada = self.node("ada", advertise := 'advertise = ["mesh.example:443", "192.0.2.7:443"]')
        part = ada.service._parts["dht"]
        self.assertEqual([place.text for place in part.own_places()], ["192.0.2.7:443"])
        bob = self.node("bob", f'{advertise}\n[dht]\naddresses = ["192.0.2.8:443"]')
        part = bob.service._parts["dht"]
        self.assertEqual([place.text for place in part.own_places()], ["192.0.2.8:443"])

    def test_what_a_router_passes_on_is_published(self) -> None:
        ada = self.node("ada")
        whereabouts = ada.service._whereabouts
        before = whereabouts.places()
        mapped = HostPort("192.0.2.7", 40_000)
        whereabouts.mapped("mapping", [mapped])
        self.assertEqual(ada.service._parts["dht"].own_places(), (*before, mapped))
        self.assertEqual(whereabouts.places(), (*before, mapped))
        whereabouts.mapped("mapping", [])
        self.assertEqual(whereabouts.places(), before)

    def test_a_client_tells_nobody_where_it_is(self) -> None:
        ada = self.node("ada", "[dht]\nclient = true")
        self.assertEqual(ada.service._parts["dht"].own_places(), ())


# --- a part of somebody else's, with a kind of its own ---------------------------------------


class ChessConfig(msgspec.Struct, frozen=True):
    """It has no settings."""


class Chess(Part):
    """Who would like to play."""

    def __init__(self, table: Any) -> None:
        table.register_kind(Kind("example.chess", max_value=16))
        self.table = table


class KindsOfParts(PartCase):
    """Parts bring kinds of records."""

    def makers(self) -> list[Any]:
        return [
            *discover_parts(meshkit_plugins),
            _ChessMaker("chess", __name__, requires=(IHashTable,)),
        ]

    def test_records_of_a_part_are_kept_where_there_is_the_same_part(self) -> None:
        ada = self.node("ada", makers=self.makers())
        peers = f'peers = ["{ada.address}"]'
        bob = self.node("bob", peers, makers=self.makers())
        cyd = self.node("cyd", peers)
        self.mesh.run(5)
        body = {"kind": "example.chess", "name": "now", "text": "e4"}
        placed = self.ok(bob, "POST", "/v1/dht/records", body)
        self.assertEqual((placed["accepted"], placed["asked"]), (2, 3))
        self.assertEqual(placed["refused"], {"RECORD_WRONG_KIND": 1})
        found = self.ok(ada, "GET", "/v1/dht/records/example.chess/now")
        self.assertEqual([each["text"] for each in found["records"]], ["e4"])
        self.refused(cyd, "RECORD_WRONG_KIND", "GET", "/v1/dht/records/example.chess/now")
        body["text"] = "x" * 17
        self.refused(bob, "RECORD_TOO_LARGE", "POST", "/v1/dht/records", body)


class _ChessMaker(PartMaker):
    def config_type(self) -> Any:
        return ChessConfig

    def migrations(self) -> Any:
        return ()

    def create(self, context: Any) -> Any:
        return Chess(context.find(IHashTable))
