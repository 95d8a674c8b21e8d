"""Tests of L{meshkit.discovery.part}: parts at networks in memory, and whole nodes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Interface
from random import Random
from typing import Any

import ifaddr
from attrs import evolve
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.beacon import LABEL, MAX_OF_HOST, MAX_OPENED, Beacon, seal
from meshkit.discovery.interfaces import find_interfaces
from meshkit.discovery.part import Config, LanPart
from meshkit.errors import CannotListen, ConfigError
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.network import NetworkKey, NetworkSecret
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.peers import PeerBook
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, make_context
from tests.discovery.wires import Host, Wire
from tests.runtime.support import scratch

ANYWHERE = (HostPort("0.0.0.0", 7655),)
OTHER = NetworkSecret(bytes(32)).key()


class PartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = Wire()
        self.rng = Random(10)

    def make(
        self,
        name: str,
        config: Config | None = None,
        *,
        interfaces: Sequence[str] = ("192.0.2.1",),
        host: Host | None = None,
        listening: Sequence[HostPort] = ANYWHERE,
        network: NetworkKey | None = None,
        **changes: Any,
    ) -> LanPart:
        context = make_context(self.wire.clock, name, config=config or Config(beacons=True))
        self.addCleanup(context.database.stopService)
        host = host or Host(self.wire, *interfaces)
        context = evolve(
            context,
            reactor=host,
            network=network or context.network,
            listening=lambda: listening,
            **changes,
        )
        return LanPart(context, lambda: [IPv4Interface(f"{each}/24") for each in interfaces])

    def start(self, name: str, *interfaces: str, **options: Any) -> LanPart:
        """One that has these interfaces."""
        if interfaces:
            options["interfaces"] = interfaces
        part = self.make(name, **options)
        part.startService()
        self.addCleanup(self.stop, part)
        self.advance(7)
        return part

    def stop(self, part: LanPart) -> None:
        if part.running:
            stopping = part.stopService()
            self.wire.clock.advance(0)
            self.successResultOf(stopping)

    def advance(self, seconds: int) -> None:
        self.wire.clock.pump([1.0] * seconds)

    def book(self, part: LanPart) -> PeerBook:
        book = part._peers
        assert isinstance(book, PeerBook)
        return book

    def at(self, name: str, host: str, port: int = 7655) -> MeshAddress:
        return MeshAddress(host, port, make_identity(name).public)

    # --- beacons ---

    def test_nodes_of_a_local_network_dial_each_other_for_as_long_as_they_are_there(self) -> None:
        ada = self.start("ada", "192.0.2.1")
        bob = self.start("bob", "192.0.2.2")
        for one, other in ((ada, self.at("bob", "192.0.2.2")), (bob, self.at("ada", "192.0.2.1"))):
            (entry,) = self.book(one).entries()
            self.assertEqual((entry.address, entry.source), (other, "lan"))
            self.assertEqual(self.book(one).named(), [])
        self.stop(bob)
        self.advance(80)
        self.assertEqual(len(self.book(ada).entries()), 1)
        self.advance(20)
        self.assertEqual(self.book(ada).entries(), [])

    def test_a_host_where_nobody_is_rests_after_three_dials(self) -> None:
        ada = self.start("ada")
        book = self.book(ada)
        self.start("bob", "192.0.2.2")
        bob = self.at("bob", "192.0.2.2")
        for _ in range(3):
            self.assertEqual(book.dialable(), [bob])
            book.note_failed(bob, ConnectionRefusedError())
            self.advance(1)
        self.assertEqual((book.dialable(), len(ada.status().near)), ([], 1))
        self.advance(50)
        self.assertEqual(book.dialable(), [])
        self.advance(20)
        self.assertEqual(book.dialable(), [bob])
        book.note_connected(bob)
        for _ in range(9):
            book.note_failed(bob, ConnectionRefusedError())
            self.advance(1)
        self.assertEqual(book.dialable(), [bob])

    def test_nothing_is_opened_unless_it_is_asked_for(self) -> None:
        host = Host(self.wire, "192.0.2.1")
        part = self.start("ada", host=host, config=Config())
        self.assertEqual((host.sockets, self.wire.clock.getDelayedCalls()), ([], []))
        self.assertIn("lan.beacons", part.status().idle or "")
        self.stop(part)

    def test_other_networks_are_neither_heard_nor_dialled(self) -> None:
        ada = self.start("ada", "192.0.2.1")
        eve = self.start("eve", "192.0.2.2", network=OTHER)
        self.advance(60)
        self.assertEqual(self.book(ada).entries() + self.book(eve).entries(), [])
        self.assertGreater(ada.status().heard["foreign"], 1)

    def test_it_calls_out_where_it_can_be_dialled(self) -> None:
        both = ("192.0.2.1", "198.51.100.1")
        cases: list[tuple[Sequence[HostPort], list[str], int]] = [
            (ANYWHERE, [*both], 7655),
            ((HostPort("::", 7700),), [*both], 7700),
            ((HostPort("198.51.100.1", 7701),), ["198.51.100.1"], 7701),
        ]
        for listening, called, port in cases:
            host = Host(self.wire, *both)
            part = self.start(f"node {port}", *both, host=host, listening=listening)
            self.assertEqual(part.status().interfaces, called)
            self.assertEqual({address for _, address, _, _ in host.sent}, set(called))
            self.assertEqual((part._own_port(), part.status().silent), (port, None))
            self.stop(part)

    def test_a_node_that_listens_for_nobody_else_only_hears(self) -> None:
        ada = self.start("ada", "192.0.2.1")
        for name, listening in (("bob", (HostPort("127.0.0.1", 7655),)), ("cem", ())):
            host = Host(self.wire, "192.0.2.2")
            part = self.start(name, "192.0.2.2", host=host, listening=listening)
            self.advance(35)
            self.assertEqual(host.sent, [])
            self.assertIn("listen", part.status().silent or "")
            self.assertEqual(self.book(part).dialable(), [self.at("ada", "192.0.2.1")])
        self.assertEqual(self.book(ada).dialable(), [])

    def test_interfaces_can_be_chosen(self) -> None:
        config = Config(beacons=True, interfaces=("198.51.100.1",))
        host = Host(self.wire, "192.0.2.1", "198.51.100.1")
        part = self.start("ada", "192.0.2.1", "198.51.100.1", host=host, config=config)
        self.assertEqual(part.status().interfaces, ["198.51.100.1"])

    def test_where_interfaces_cannot_be_listed_the_system_chooses(self) -> None:
        def fail() -> list[str]:
            raise OSError(1, "not permitted")

        part = self.make("ada")
        part._find_networks = fail
        part.startService()
        self.addCleanup(self.stop, part)
        self.assertEqual(part.status().interfaces, [""])
        self.assertIn("not permitted", part.status().faults[""])

    def test_a_port_that_is_taken_is_an_error_that_says_so(self) -> None:
        class Taken(Host):
            def listenMulticast(self, port: int, *args: Any, **options: Any) -> Any:
                raise CannotListenError("", port, OSError(98, "Address already in use"))

        part = self.make("ada", host=Taken(self.wire, "192.0.2.1"))
        error = self.assertRaises(CannotListen, part.startService)
        for word in ("7656", "already in use", "lan.port", "Egregore"):
            self.assertIn(word, str(error))
        self.successResultOf(part.stopService())

    def test_nothing_is_left_when_it_is_stopped(self) -> None:
        host = Host(self.wire, "192.0.2.1")
        ada = self.start("ada", host=host)
        bob = self.start("bob", "192.0.2.2")
        self.assertEqual(len(self.book(ada).entries()), 1)
        self.stop(ada)
        self.stop(bob)
        self.assertEqual((host.sockets, self.wire.clock.getDelayedCalls()), ([], []))
        self.assertEqual(self.book(ada).entries(), [])

    # --- floods ---

    def flood(self, part: LanPart, count: int, hosts: int = 250) -> list[bytes]:
        """A member makes so many nodes up, in one second, from so many hosts."""
        rng, key = self.rng, part._context.network.beacon(LABEL)
        unix = part._context.wall_clock() // 10**9
        sent = []
        for n in range(count):
            made_up = make_identity(f"made up {n}").public
            datagram = seal(key, Beacon(made_up, 7655, unix, rng.randbytes(16)), rng.randbytes(24))
            sent.append(datagram)
            part._network.received(datagram, f"192.0.2.{n % hosts}")
        return sent

    def test_a_flood_has_a_bounded_number_of_places_dialled(self) -> None:
        ada = self.start("ada", config=Config(beacons=True, max_peers=10))
        bob = self.at("bob", "192.0.2.2")
        self.start("bob", "192.0.2.2")
        for _ in range(20):
            self.flood(ada, 120)
            self.assertIn(bob, self.book(ada).dialable())
            self.assertLessEqual(len(self.book(ada).dialable()), 10)
            self.advance(1)
        heard = ada.status().heard
        self.assertLessEqual(heard["new"], 1 + 20 * MAX_OPENED)
        self.assertGreater(heard["over_rate"], 500)
        self.assertLessEqual(len(self.wire.clock.getDelayedCalls()), 10)
        shown = ada.status()
        self.assertEqual(sum(each.dialled for each in shown.near), 10)
        self.assertGreater(len(shown.near), 50)

    def test_a_host_that_floods_does_not_keep_others_from_being_heard(self) -> None:
        ada = self.start("ada", config=Config(beacons=True, max_peers=256))
        for _ in range(5):
            self.flood(ada, 200, hosts=1)
            self.advance(1)
        self.start("bob", "192.0.2.2")
        self.assertIn(self.at("bob", "192.0.2.2"), self.book(ada).dialable())
        self.assertLessEqual(len(self.book(ada).dialable()), MAX_OF_HOST + 1)

    def test_garbage_from_anywhere_changes_nothing(self) -> None:
        ada = self.start("ada")
        rng = Random(7)
        before = len(self.wire.clock.getDelayedCalls())
        for _ in range(2_000):
            ada._network.received(
                rng.randbytes(rng.choice((0, 1, 159, 160, 161, 1024))), "10.0.0.1"
            )
        self.assertEqual(self.book(ada).dialable(), [])
        self.assertEqual(len(self.wire.clock.getDelayedCalls()), before)

    # --- one machine ---

    def folder(self, path: str) -> DataFolder:
        folder = DataFolder(os.path.abspath(path), LocalFiles())
        folder.lock(1)
        self.addCleanup(folder.unlock)
        return folder

    def test_nodes_of_one_machine_are_found_without_a_network(self) -> None:
        beside = scratch(self)
        own, other = self.folder(f"{beside}/own"), self.folder(f"{beside}/other")
        bob = self.at("bob", "127.0.0.1")
        part = self.start(
            "ada",
            config=Config(machine=True),
            files=LocalFiles(),
            data_folder=own.file("lan"),
        )
        self.assertEqual(self.book(part).entries(), [])
        network = part._context.network.net_id.hex()
        other.write_endpoints({"mesh": [bob.text], "network": [network]})
        self.advance(30)
        (entry,) = self.book(part).entries()
        self.assertEqual((entry.address, entry.source), (bob, "machine"))
        (near,) = part.status().machine
        self.assertEqual((near.address, near.dialled), (bob.text, True))
        self.assertEqual((part.status().port, part.status().idle), (None, None))
        other.unlock()
        self.advance(30)
        self.assertEqual(self.book(part).entries(), [])

    def test_who_is_on_this_machine_is_not_dialled_over_the_network_besides(self) -> None:
        beside = scratch(self)
        own, other = self.folder(f"{beside}/own"), self.folder(f"{beside}/other")
        here, there = self.at("bob", "127.0.0.1"), self.at("bob", "192.0.2.2")
        ada = self.start(
            "ada",
            config=Config(machine=True, beacons=True),
            files=LocalFiles(),
            data_folder=own.file("lan"),
        )
        self.start("bob", "192.0.2.2")
        self.assertEqual(self.book(ada).dialable(), [there])
        network = ada._context.network.net_id.hex()
        other.write_endpoints({"mesh": [here.text], "network": [network]})
        self.advance(30)
        self.assertEqual(self.book(ada).dialable(), [here])
        self.assertEqual([each.dialled for each in ada.status().near], [False])
        other.unlock()
        self.advance(30)
        self.assertEqual(self.book(ada).dialable(), [there])

    def test_folders_elsewhere_are_looked_at_where_they_are_named(self) -> None:
        own, other = self.folder(f"{scratch(self)}/own"), self.folder(f"{scratch(self)}/other")
        bob = self.at("bob", "127.0.0.1")
        config = Config(folders=(other.path,))
        part = self.make("ada", config, files=LocalFiles(), data_folder=own.file("lan"))
        network = part._context.network.net_id.hex()
        other.write_endpoints({"mesh": [bob.text], "network": [network]})
        part.startService()
        self.addCleanup(self.stop, part)
        self.advance(1)
        self.assertEqual(self.book(part).dialable(), [bob])

    # --- settings ---

    def test_what_does_not_go_together_is_refused(self) -> None:
        for config, word in (
            (Config(interval=60, forgotten_after=90), "lan.forgotten_after"),
            (Config(interfaces=("eth0",)), "'eth0'"),
            (Config(interfaces=("fe80::1",)), "IPv4"),
        ):
            self.assertIn(word, str(self.assertRaises(ConfigError, self.make, "ada", config)))


class NodeTests(SynchronousTestCase):
    def test_whole_nodes_that_hear_each_other_are_connected(self) -> None:
        """Beacons are between sockets in memory; the rest is two whole nodes."""
        mesh, wire = MemoryMesh(), Wire()
        self.addCleanup(mesh.stop)
        ips = [ifaddr.IP("10.0.0.1", 24, "x")]
        self.patch(ifaddr, "get_adapters", lambda: [ifaddr.Adapter("x", "x", ips)])
        nodes = []
        for number, name in enumerate(("ada", "bob"), 1):
            node = mesh.node(
                name,
                'disable = ["audit", "dht", "hooks", "keeper", "storage"]\n'
                f'[lan]\nbeacons = true\ninterfaces = ["10.0.0.{number}"]\n',
            )
            host = Host(wire, node.host.address)
            host.clock = mesh.clock
            # What a host of the mesh does not have.
            node.host.listenMulticast = host.listenMulticast
            node.start()
            nodes.append(node)
        mesh.run(8)
        for node, other in (nodes, nodes[::-1]):
            (peer,) = node.ask("GET", "/v1/peers").json["data"]
            self.assertEqual(peer["source"], "lan")
            self.assertEqual((peer["address"], peer["connected"]), (other.address, True))
            lan = node.ask("GET", "/v1/status").json["data"]["parts"]["lan"]
            self.assertEqual(lan["near"], [{"address": other.address, "dialled": True}])
            metrics = node.ask("GET", "/metrics").body.decode()
            self.assertIn('meshkit_lan_neighbours{found="lan"} 1.0', metrics)


class InterfaceTests(SynchronousTestCase):
    def found(self, *addresses: tuple[Any, int]) -> list[str]:
        ips = [ifaddr.IP(address, prefix, "x") for address, prefix in addresses]
        self.patch(ifaddr, "get_adapters", lambda: [ifaddr.Adapter("x", "x", ips)])
        return find_interfaces()

    def test_addresses_in_networks_with_others_are_found(self) -> None:
        self.assertEqual(
            self.found(
                ("192.0.2.10", 24),
                ("192.0.2.9", 24),
                ("127.0.0.1", 8),
                (("fe80::1", 0, 2), 64),
                ("10.8.0.2", 32),
                ("10.9.0.1", 31),
                ("192.0.2.9", 24),
            ),
            ["192.0.2.9", "192.0.2.10"],
        )

    def test_those_of_this_machine_can_be_asked_for(self) -> None:
        for each in find_interfaces():
            self.assertRegex(each, r"^\d+\.\d+\.\d+\.\d+$")

    def test_there_are_only_so_many(self) -> None:
        found = self.found(*((f"10.{n}.0.1", 24) for n in range(200)))
        self.assertEqual(len(found), 32)
