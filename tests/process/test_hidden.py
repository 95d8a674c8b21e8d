"""Real nodes behind a relay, as at home: what they do for others who cannot dial them."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.process.audits import OWN_BLOCK
from tests.process.mesh import Mesh, Node, Shared, wait_for
from tests.process.relays import RelayNode
from tests.process.test_storage import StorageNode

#: Of an owner of files for whom one storage peer is enough.
ONE_PEER: Final = ("--storage-scheme", "1+1", "--storage-repeat", "--no-audit-enabled", *OWN_BLOCK)


class _Home:
    """A relay, and a node of its network that listens where nobody else can dial it."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.relay = mesh.node("relay", *OWN_BLOCK, kind=RelayNode).start()
        self.hides = ("--listen", "unix:mesh.sock", "--relays-use", self.relay.address)
        self.ada = mesh.node("ada", *self.hides, *ONE_PEER, network=self.relay).start()
        self.wait_reached(self.ada)

    def wait_reached(self, node: Node) -> str:
        """@return: the address that leads through the relay to a node."""

        def look() -> str:
            (shown,) = node.status["parts"]["tunnel"]["relays"]
            return str(shown["address"]) if shown["reachable"] else ""

        return wait_for(f"a reservation of {node.home.name}", look)

    def restart_relay(self, *nodes: Node) -> None:
        """Start the relay again where it was, and wait until it leads to all of these."""
        host, port = self.where
        self.relay.start("--listen", f"tcp:{port}:interface={host}")
        for node in nodes:
            self.wait_reached(node)

    def kill_relay(self) -> None:
        self.where = self.relay.mesh_port
        self.relay.kill()

    def newcomer(self, name: str) -> Node:
        """Somebody with nothing at all."""
        home = self.mesh.folder / name
        home.mkdir()
        node = Node(home)
        self.mesh._nodes.append(node)
        return node


shared = Shared(_Home)


def tearDownModule() -> None:
    shared.close()


class HiddenTests(SynchronousTestCase):
    """
    They share a relay, which each of them kills once all has been found in the hash table: only the
    first one, by its name, needs that.
    """

    def setUp(self) -> None:
        self.home: _Home = shared.get()
        self.ada = self.home.ada

    def refused(self, node: Node, invite: str, code: str) -> str:
        done = node.cli("join", invite)
        self.assertEqual((done.code, done.out), (1, ""), done.err)
        self.assertIn(f"[{code}]", done.err)
        self.assertFalse((node.data / "network.secret").exists())
        return done.err

    def state(self, made: Any) -> str:
        """How it stands with an invite."""
        known = {each["id"]: each["state"] for each in self.ada.get("/v1/invites")}
        return str(known[made["id"]])

    def test_newcomers_join_at_a_node_that_nobody_can_dial(self) -> None:
        behind = self.home.wait_reached(self.ada)
        shown = self.ada.cli("invite", "--qr")
        self.assertEqual(shown.code, 0, shown.err)
        self.assertIn("here through the relay at 127.0.0.1:", shown.err)
        self.assertLessEqual(max(map(len, shown.lines[1:])), 80)
        code = shown.lines[0]
        bob = self.home.newcomer("bob")
        joined = bob.good("join", "-", "--json", stdin=code.encode()).json
        self.assertEqual((joined["peers"], joined["answered"]), ([behind], behind))
        self.ada.publish({"type": "note", "text": "welcome"})
        bob.start()
        wait_for("her feed", lambda: bob.stored(self.ada.status["identity"]))
        eve = self.home.newcomer("eve")
        self.refused(eve, code, "INVITE_USED")

        # A relay that is away uses nothing up.
        made = self.ada.good("invite", "--json").json
        self.assertEqual((made["addresses"], made["relays"]), ([], [behind]))
        self.home.kill_relay()
        host, port = self.home.where
        why = self.refused(eve, made["invite"], "PEER_UNREACHABLE")
        self.assertIn(f"the relay at {host}:{port} cannot be reached", why)
        self.assertIn("not used up", why)
        answer = self.ada.ask("POST", "/v1/invites", b"{}")
        self.assertEqual(answer.code, "OWN_ADDRESS_UNKNOWN")
        self.assertIn(
            "none of the relays of this node leads to it", answer.json["error"]["message"]
        )
        self.assertEqual(self.state(made), "open")
        self.home.restart_relay(self.ada)
        self.assertEqual(eve.good("join", made["invite"], "--json").json["answered"], behind)
        self.assertEqual(self.state(made), "used")

    def test_a_storage_peer_that_nobody_can_dial_keeps_the_files_of_another(self) -> None:
        lends = ("--keeper-max-storage", "50MB", "--keeper-domain", "cellar", *OWN_BLOCK)
        peer = self.home.mesh.node(
            "cellar", *self.home.hides, *lends, network=self.home.relay, kind=StorageNode
        )
        peer.start()
        behind = self.home.wait_reached(peer)
        # Who looks before it is announced does not look again for minutes.
        lent = wait_for(
            "a record in the hash table",
            lambda: (got := peer.get("/v1/storage"))["announced"] and got,
        )
        self.assertEqual(lent["addresses"], [behind])

        def member() -> Any:
            known = self.ada.get("/v1/storage/peers?refresh=true")
            return next((each for each in known if each["member"]), None)

        found = wait_for("a storage peer that the hash table names", member, step=0.3)
        self.assertEqual((found["source"], found["addresses"]), ("dht", [behind]))
        path, copy = self.ada.home / "file", self.ada.home / "copy"
        path.write_bytes(Random(0).randbytes(300_000))
        put = self.ada.good("put", path, "--json").json
        self.assertEqual(len(peer.shards), 2)
        self.home.kill_relay()
        self.home.restart_relay(peer)
        self.ada.good("get", put["object"], "-o", copy)
        self.assertEqual(copy.read_bytes(), path.read_bytes())
        ways = {
            (each["public_id"], each["transport"])
            for each in self.ada.get("/v1/peers/connections")
            if each["label"] == "storage"
        }
        self.assertEqual(ways, {(peer.status["identity"], "relay")})
