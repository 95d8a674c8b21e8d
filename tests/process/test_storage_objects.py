"""Objects of a real node at real storage peers, with kills at bad moments."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, Shared, wait_for

#: Bytes of a file that takes long enough to be interrupted.
LARGE: Final = 96 * 1024 * 1024
COUNT: Final = 4


def make(mesh: Mesh) -> tuple[Node, list[Node]]:
    """An owner who knows four storage peers, which are nodes that lend space."""
    first = mesh.node("peer-0", "--keeper-max-storage", "2GB", "--keeper-domain", "rack-0").start()
    peers = [first]
    for number in range(1, COUNT):
        domain = f"rack-{number}"
        node = mesh.node(
            f"peer-{number}",
            *("--keeper-max-storage", "2GB", "--keeper-domain", domain),
            network=first,
        )
        peers.append(node.start())
    known = [word for peer in peers for word in ("--storage-peer", peer.address)]
    owner = mesh.node(
        "owner", "--storage-scheme", "2+1", "--no-storage-discover", *known, network=first
    )
    return owner.start(), peers


_shared = Shared(make)


def tearDownModule() -> None:
    _shared.close()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class KillTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.owner, self.peers = _shared.get()
        self.file = self.owner.home / "large.bin"
        if not self.file.exists():
            with self.file.open("wb") as file:
                for number in range(LARGE // 1_000_000 + 1):
                    file.write(hashlib.sha256(b"%d" % number).digest() * 31_250)
                file.truncate(LARGE)
        self.wanted = digest(self.file)

    def door(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        return self.owner.ask(method, path, data).data

    def transfer(self, transfer: Any) -> Any:
        return self.door("GET", f"/v1/transfers/{transfer['id']}")

    def ended(self, transfer: Any) -> Any:
        def look() -> Any:
            found = self.transfer(transfer)
            return found if found["ended"] else None

        return wait_for("end of the transfer", look, step=0.1)

    def check(self, object_id: str) -> str:
        """@return: what was said of peers that were done without."""
        copy = self.owner.home / "copy.bin"
        done = self.owner.cli("get", object_id, "-o", copy, "--force")
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(digest(copy), self.wanted)
        copy.unlink()
        return done.err

    def test_a_put_goes_on_after_the_node_was_killed_in_the_middle(self) -> None:
        begun = self.door("POST", "/v1/objects", {"path": str(self.file)})
        wait_for(
            "something on its way",
            lambda: self.transfer(begun)["done"] > 4 * 1024 * 1024,
            step=0.002,
        )
        self.owner.kill()
        uploads = self.owner.data / "storage" / "uploads"
        (sealed,) = uploads.glob("*.sealed")
        before = sealed.name
        self.assertTrue(sealed.stat().st_size > 4 * 1024 * 1024)
        self.owner.start()
        names = {path.name for path in uploads.glob("*.sealed")}
        # It is the same upload: nothing is sealed under another key.
        self.assertLessEqual(names, {before})
        ended = self.ended(begun)
        self.assertEqual((ended["state"], ended["result"]["missing"]), ("done", []))
        self.assertEqual(list(uploads.iterdir()), [])
        self.assertEqual(self.check(ended["object"]), "")

    def test_a_holder_is_stopped_and_the_file_is_equal(self) -> None:
        put = self.owner.good("put", self.file, "--json").json
        stat = self.owner.good("object", "stat", put["object"], "--json").json
        holder = stat["shares"][0]["peer"]
        (stopped,) = [peer for peer in self.peers if self.key(peer) == holder]
        stopped.stop()
        try:
            self.assertIn(f"Done without {holder}, which failed", self.check(put["object"]))
            # And what is put now has nothing at the dead one.
            other = self.owner.good("put", self.file, "--json").json
            stat = self.owner.good("object", "stat", other["object"], "--json").json
            self.assertEqual(other["result"]["missing"], [])
            self.assertNotIn(holder, [each["peer"] for each in stat["shares"]])
        finally:
            stopped.start("--listen", self.ports[stopped.home.name])

    @property
    def ports(self) -> dict[str, str]:
        """Where the owner expects each peer."""
        found = {}
        for peer in self.peers:
            words = list(self.owner.arguments)
            (address,) = [w for w in words if w.endswith(self.key(peer)[1 : -len(".ed25519")])]
            port = address.partition("~")[0].rpartition(":")[2]
            found[peer.home.name] = f"tcp:{port}:interface=127.0.0.1"
        return found

    def key(self, peer: Node) -> str:
        return peer.good("id").lines[0]

    def test_secrets_are_for_the_owner_alone(self) -> None:
        for path in (self.owner.database, self.owner.data / "storage.secret"):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)
