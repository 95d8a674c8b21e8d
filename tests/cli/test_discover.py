"""Tests of C{meshkit peer discover} and C{meshkit id --well-known}, against nodes in memory."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.wellknown import PATH, Document, read, write
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.network import PUBLIC_RELAYS
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.cli.memory import Done, run_command
from tests.servers import Names, authority, options_for, pem

WEB = "93.184.216.34"
CONFIG = """
disable = ["audit", "dht", "hooks", "keeper", "storage"]
advertise = ["mesh.example.org:7655", "10.0.0.1:7655"]

[wellknown]
ca_file = "/ca.pem"
"""
KEY = make_identity("somebody").public


class _Page(Protocol):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self._body))
        self.transport.write(self._body)


class DiscoverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.ada = self.node("ada")

    def node(self, name: str, more: str = "") -> MemoryNode:
        node = self.mesh.node(name, CONFIG + more)
        self.names = Names(mesh_example_org=[[WEB]], fritz_box=[["192.168.178.1"]])
        self.names.answers |= {host: [[host]] for host in (WEB, "8.8.8.8")}
        node.host.installNameResolver(self.names)
        node.files.write_atomic("/ca.pem", pem(authority("ours")[0]))
        node.start()
        return node

    def serve(self, body: bytes) -> None:
        factory = Factory.forProtocol(lambda: _Page(body))
        secure = TLSMemoryBIOFactory(options_for(WEB), False, factory, clock=self.mesh.clock)
        self.mesh.network.server_endpoint(443, WEB).listen(secure)

    def serve_node(self, *hosts: str, network: str | None = None) -> None:
        network = self.ada.service._network.net_id.hex() if network is None else network
        addresses = tuple(MeshAddress(host, 7655, KEY) for host in hosts)
        self.serve(write(Document(KEY, network, addresses)))

    def run_cli(self, *arguments: str) -> Done:
        return run_command(self.mesh, self.ada, *arguments)

    def good(self, *arguments: str) -> str:
        done = self.run_cli(*arguments)
        self.assertEqual((done.code, done.err), (0, ""), done)
        return done.out.decode()

    def peers(self) -> list[tuple[str, str]]:
        shown = self.ada.ask("GET", "/v1/peers").json["data"]
        return [(each["source"], each["address"]) for each in shown]

    def test_a_node_is_shown_and_not_dialled(self) -> None:
        self.serve_node("mesh.example.org")
        said = self.good("peer", "discover", WEB)
        self.assertIn(f"{KEY.text} is the node of {WEB}", said)
        self.assertIn(f"https://{WEB}{PATH}", said)
        self.assertIn(f"net:mesh.example.org:7655~shs:{KEY.base64}", said)
        self.assertIn("this node's own", said)
        self.assertIn(f"meshkit peer discover {WEB} --add", said)
        self.assertEqual(self.peers(), [])

    def test_it_is_dialled_from_now_on_if_that_is_wanted(self) -> None:
        self.serve_node("mesh.example.org", "10.0.0.7")
        said = self.good("peer", "discover", WEB, "--add")
        added = f"net:mesh.example.org:7655~shs:{KEY.base64}"
        self.assertEqual(self.peers(), [("manual", added)])
        self.assertIn("meshkit peer list", said)
        self.assertIn("left out  net:10.0.0.7:7655", said)
        shown = json.loads(self.good("peer", "discover", WEB, "--add", "--json"))
        self.assertEqual((shown["added"], shown["member_of"]), ([added], "ours"))
        self.assertEqual(json.loads(self.good("peer", "discover", WEB, "--json"))["added"], [])

    def test_a_node_of_another_network_is_not_added(self) -> None:
        for network, word in (("00" * 16, "another"), (_relays(), "relays.blind")):
            self.mesh.stop()
            self.setUp()
            self.serve_node("mesh.example.org", network=network)
            done = self.run_cli("peer", "discover", WEB, "--add")
            self.assertEqual(done.code, 1)
            self.assertIn("NOT_FOUND", done.err)
            self.assertIn(word, done.out.decode())
            self.assertEqual(self.peers(), [])

    def test_one_that_leads_into_our_own_network_is_not_added(self) -> None:
        self.serve_node("127.0.0.1", "localhost", "fritz.box", "unknown.example")
        done = self.run_cli("peer", "discover", WEB, "--add")
        self.assertEqual((done.code, self.peers()), (1, []))

    def test_what_is_there_has_to_be_a_document(self) -> None:
        self.serve(b"<html>")
        self.assertIn("WELL_KNOWN_INVALID", self.run_cli("peer", "discover", WEB).err)
        self.assertIn("DISCOVERY_FAILED", self.run_cli("peer", "discover", "8.8.8.8").err)
        self.assertIn("INVALID_ADDRESS", self.run_cli("peer", "discover", "https://x.org").err)


class PublishTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)

    def node(self, name: str, settings: str) -> MemoryNode:
        node = self.mesh.node(name, f'disable = ["audit", "keeper", "storage"]\n{settings}')
        node.start()
        return node

    def status(self, node: MemoryNode) -> Any:
        return node.ask("GET", "/v1/status").json["data"]["parts"]["wellknown"]

    def test_the_document_is_for_whoever_asks(self) -> None:
        node = self.node(
            "ada", 'advertise = ["mesh.example.org:7655"]\n[wellknown]\npublish = true\n'
        )
        answer = node.ask("GET", PATH, Authorization=None)
        self.assertEqual(answer.status, 200, answer.body)
        key = node.identity.public
        address = MeshAddress("mesh.example.org", 7655, key)
        network = node.service._network.net_id.hex()
        self.assertEqual(read(answer.body), Document(key, network, (address,)))
        self.assertEqual(self.status(node), {"published": [address.text], "idle": None})
        done = run_command(self.mesh, node, "id", "--well-known")
        self.assertEqual((done.code, read(done.out)), (0, read(answer.body)))

    def test_there_is_none_unless_it_is_asked_for(self) -> None:
        node = self.node("ada", 'advertise = ["mesh.example.org:7655"]\n')
        self.assertEqual(node.ask("GET", PATH, Authorization=None).status, 404)
        self.assertIn("wellknown.publish", self.status(node)["idle"])
        done = run_command(self.mesh, node, "id", "--well-known")
        self.assertEqual(done.code, 1)
        self.assertIn("wellknown.publish", done.err)

    def test_there_is_none_of_a_node_that_others_cannot_reach(self) -> None:
        node = self.node("ada", "[wellknown]\npublish = true\n")
        self.assertEqual(node.ask("GET", PATH, Authorization=None).code, "NOT_FOUND")
        self.assertIn("advertise", self.status(node)["idle"])

    def test_settings_that_cannot_be_used_are_named(self) -> None:
        for settings, word in (
            ('allow_addresses = ["everywhere"]', "wellknown.allow_addresses"),
            ('ca_file = "/nowhere"', "wellknown.ca_file"),
        ):
            node = self.mesh.node(f"node {word}", f"[wellknown]\n{settings}\n")
            with self.assertRaises(Exception) as caught:
                node.start()
            self.assertIn(word, str(caught.exception))


def _relays() -> str:
    return PUBLIC_RELAYS.key().net_id.hex()
