"""
Real storage peers: C{twistd mesh-storage} in processes of their own, which are killed.

A client in this process has shares kept by them, over the secure channel.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from random import SystemRandom
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from attrs import define
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from meshkit.errors import CapacityReached, ShareDamaged, SignatureRetry, StorageDraining
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.signed.signing import Signer
from meshkit.runtime.signed.tls import wrap_tls_client
from meshkit.shs import Capability, wrap_client
from meshkit.storage.capability import ReadCapability
from meshkit.storage.encoding import SegmentReader
from meshkit.storage.header import share_id
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.manifest import Manifest
from meshkit.storage.share_files import SUFFIX
from meshkit.storage.statements import Receipt, StorageRecord
from meshkit.storage.terms import lease_hash
from meshkit.testing.identities import make_identity
from tests.process.mesh import MESHKIT, Done, Mesh, Node, run, wait_for
from tests.process.test_full_disk import SmallNode
from tests.storage.keeper.keepers import SECRET, shelf
from tests.storage.shelves import Shelf

CLIENT = make_identity("a client of storage peers")


@define(eq=False)
class StorageNode(Node):
    """A storage peer."""

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        return ["mesh-storage", *command[1:]]

    @property
    def shards(self) -> list[Path]:
        """The files of its shares."""
        return sorted((self.data / "keeper" / "shards").rglob(f"*{SUFFIX}"))

    @property
    def lending(self) -> Any:
        return self.good("storage", "status", "--json").json


class PeerCase(TestCase):
    """Storage peers, and a client of theirs in the reactor of the tests."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.clients: list[HTTPStoragePeer] = []

    def tearDown(self) -> Deferred[Any]:
        return gatherResults([client.stop() for client in self.clients])

    def node(self, *arguments: str, name: str = "peer", **more: Any) -> Any:
        more.setdefault("kind", StorageNode)
        return self.mesh.node(name, *arguments, **more)

    def client(self, node: Node) -> HTTPStoragePeer:
        address = MeshAddress.parse(node.address)
        endpoint = wrap_client(
            reactor,
            HostnameEndpoint(reactor, address.host, address.port),
            identity=CLIENT,
            capability=Capability.of(
                NetworkSecret.from_setting(node.network_secret).key(), LABEL, VERSION
            ),
            peer=address.key,
            rng=SystemRandom(),
        )
        self.clients.append(HTTPStoragePeer(reactor, endpoint, address.key))  # type: ignore[arg-type]
        return self.clients[-1]

    async def send(self, peer: HTTPStoragePeer, of: Shelf, number: int = 0) -> None:
        """Send all blocks of a share, and leave it at that."""
        upload, share = of.header.upload, of.shares[number]
        await peer.reserve(upload, number, len(share), lease_hash(SECRET))
        length = of.layout.block_bytes(0)
        for segment in range(of.layout.segments):
            block = bytes(share[segment * length : (segment + 1) * length])
            await peer.write(upload, number, segment, block)

    async def put(self, peer: HTTPStoragePeer, of: Shelf, number: int = 0) -> Receipt:
        """Have a share kept, and check the receipt."""
        await self.send(peer, of, number)
        raw = await peer.close(of.header.upload, number, of.manifest.raw)
        receipt = Receipt.open(raw, peer.key)
        name, share = share_id(of.header.upload, number), of.shares[number]
        receipt.check(name, of.manifest.shares[number], len(share), lease_hash(SECRET))
        return receipt

    async def check_whole(self, peer: HTTPStoragePeer, of: Shelf, number: int = 0) -> None:
        """Every block of the share is there, and is proved."""
        name = share_id(of.header.upload, number)
        manifest = Manifest.decode(await peer.manifest(name))
        self.assertEqual(manifest.content_id, of.manifest.content_id)
        reader = SegmentReader(manifest, of.codec)
        read = b""
        for segment in range(of.layout.segments):
            piece = await peer.read(name, segment)
            reader.check(segment, number, piece)
            read += bytes(piece.block)
        self.assertEqual(read, bytes(of.shares[number]))


class KilledTests(PeerCase):
    """SIGKILL at any moment loses nothing that a receipt was given for."""

    async def test_who_comes_back_is_the_same_and_has_what_it_promised(self) -> None:
        node = self.node("--keeper-max-storage", "50 MB")
        node.start()
        before = node.good("id").lines
        kept = [shelf(300_000, seed) for seed in range(1, 6)]
        for of in kept:
            await self.put(self.client(node), of)
        for _ in range(3):
            node.kill()
            node.start()
            self.assertEqual(node.good("id").lines[0], before[0])
            self.assertEqual(node.lending["shares"], len(kept))
            peer = self.client(node)
            for of in kept:
                await self.check_whole(peer, of)
            kept.append(shelf(300_000, len(kept) + 1))
            await self.put(peer, kept[-1])

    async def test_what_was_not_complete_is_gone_and_can_be_sent_again(self) -> None:
        node = self.node("--keeper-max-storage", "50 MB")
        node.start()
        of = shelf(300_000)
        await self.send(self.client(node), of)
        wait_for("what is being written", lambda: os.listdir(node.data / "keeper/incoming"))
        node.kill()
        self.assertEqual(node.shards, [])
        node.start()
        self.assertEqual(os.listdir(node.data / "keeper/incoming"), [])
        self.assertEqual((node.lending["shares"], node.lending["used"]), (0, 0))
        peer = self.client(node)
        await self.put(peer, of)
        await self.check_whole(peer, of)

    async def test_a_peer_killed_as_soon_as_it_has_signed_has_the_share(self) -> None:
        node = self.node("--keeper-max-storage", "50 MB")
        for seed in range(1, 6):
            node.start()
            of = shelf(100_000, seed)
            await self.put(self.client(node), of)
            node.kill()
            (path,) = [each for each in node.shards if each.name.startswith(self.name(of))]
            self.assertGreater(path.stat().st_size, len(of.shares[0]))
        node.start()
        self.assertEqual(node.lending["shares"], 5)

    def name(self, of: Shelf, number: int = 0) -> str:
        return share_id(of.header.upload, number).hex()

    async def test_its_folder_is_read_like_any_other(self) -> None:
        """Without the daemon, with the key: C{meshkit object decode}."""
        node = self.node("--keeper-max-storage", "50 MB")
        node.start()
        of = shelf(300_000)
        peer = self.client(node)
        for number in range(of.manifest.header.scheme.required):
            await self.put(peer, of, number)
        node.stop()
        key = node.home / "object.key"
        key.write_text(ReadCapability(of.manifest.content_id, of.key).text)
        key.chmod(0o600)
        node.good("object", "decode", *node.shards, "--key-file", key, "-o", "whole")
        self.assertEqual((node.home / "whole").read_bytes(), of.text)

    async def test_damage_on_its_disk_is_found_set_aside_and_told(self) -> None:
        node = self.node("--keeper-max-storage", "50 MB", "--keeper-scrub-rate", "0")
        node.start()
        of, other = shelf(300_000), shelf(300_000, 2)
        await self.put(self.client(node), of)
        await self.put(self.client(node), other)
        node.stop()
        path = node.data / "keeper/shards" / self.name(of)[:2] / f"{self.name(of)}{SUFFIX}"
        with path.open("r+b") as file:
            file.seek(len(of.shares[0]) // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        node.start("--keeper-scrub-rate", "50 MB")
        wait_for("word of the damage", lambda: node.lending["damaged"] == 1)
        peer = self.client(node)
        with self.assertRaises(ShareDamaged):
            await peer.read(share_id(of.header.upload, 0), 0)
        await self.check_whole(peer, other)
        aside = os.listdir(node.data / "keeper/damaged")
        self.assertEqual(len(aside), len([each for each in aside if self.name(of) in each]))
        self.assertTrue(any(each.endswith(".reason") for each in aside))
        self.assertIn("was found damaged", node.log_tail(200))
        exposed = node.ask("GET", "/metrics").body.decode()
        self.assertIn("meshkit_keeper_damaged_total 1.0", exposed)


class AddressTests(PeerCase):
    async def test_no_wildcard_is_ever_told_to_others(self) -> None:
        """A13 of the seeds: what is advertised can be dialled."""
        node = self.node("--keeper-max-storage", "50 MB", "--listen", "tcp:0")
        node.start()
        self.assertEqual(node.endpoints["mesh"][0][:14], "net:127.0.0.1:")
        record = StorageRecord.open(await self.client(node).statement())
        self.assertEqual(record.addresses, ())
        node.stop()
        node.start("--keeper-address", "storage.example:7670")
        record = StorageRecord.open(await self.client(node).statement())
        self.assertEqual([place.text for place in record.addresses], ["storage.example:7670"])
        node.stop()
        node.spawn("--keeper-address", "0.0.0.0:7670")
        assert node.process is not None
        self.assertEqual(node.process.wait(60), 1)
        node.process = None
        self.assertIn("nobody can be reached at 0.0.0.0:7670", node.log_tail())

    async def test_records_are_fresh_and_their_numbers_grow_over_restarts(self) -> None:
        node = self.node("--keeper-max-storage", "50 MB", "--keeper-domain", "rack-3")
        node.start()
        seen = []
        for _ in range(3):
            for _ in range(2):
                seen.append(StorageRecord.open(await self.client(node).statement()))
            node.kill()
            node.start()
        self.assertEqual({record.peer for record in seen}, {seen[0].peer})
        numbers = [record.sequence for record in seen]
        self.assertEqual(numbers, sorted(set(numbers)))
        for record in seen:
            self.assertEqual(
                (record.capacity, record.headroom, record.domain, record.accepts),
                (50_000_000, 5_000_000, "rack-3", True),
            )


class TLSTests(PeerCase):
    """Who cannot speak the secure channel comes over TLS, and signs."""

    def certificate(self, home: Path) -> tuple[Path, Path]:
        """@return: a certificate that openssl made for 127.0.0.1, and its key."""
        if shutil.which("openssl") is None:
            raise SkipTest("there is no openssl on this machine, and only root can install it")
        certificate, key = home / "tls.pem", home / "tls.key"
        done = run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=storage", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
            home=home,
        )
        self.assertEqual(done.code, 0, done.err)
        return certificate, key

    def signing(self, node: Node, place: str, by: Identity = CLIENT) -> HTTPStoragePeer:
        host, _, port = place.rpartition(":")
        network = NetworkSecret.from_setting(node.network_secret).key().net_id
        signer = Signer(by, network, place, SystemRandom(), time.time_ns)
        endpoint = wrap_tls_client(HostnameEndpoint(reactor, host, int(port)))
        key = MeshAddress.parse(node.address).key
        self.clients.append(HTTPStoragePeer(reactor, endpoint, key, signer=signer))  # type: ignore[arg-type]
        return self.clients[-1]

    async def test_a_share_is_put_and_read_and_what_is_public_needs_no_signature(self) -> None:
        node = self.node()
        certificate, key = self.certificate(node.home)
        flags = (
            *("--keeper-max-storage", "50 MB"),
            *("--keeper-tls-listen", "tcp:0:interface=127.0.0.1"),
            *("--keeper-tls-certificate", str(certificate), "--keeper-tls-key", str(key)),
        )
        node.start(*flags)
        (place,) = node.lending["tls"]
        trusting = ssl.create_default_context(cafile=str(certificate))

        def fetch(path: str) -> bytes:
            with urlopen(f"https://{place}{path}", context=trusting, timeout=60) as answer:
                return bytes(answer.read())

        health = json.loads(fetch("/v1/health"))
        self.assertTrue(health["success"], health)
        record = StorageRecord.open(fetch("/v1/heartbeat"), MeshAddress.parse(node.address).key)
        record.check_time(int(time.time()))
        self.assertEqual(json.loads(fetch("/v1/record"))["data"]["capacity"], 50_000_000)
        with self.assertRaises(HTTPError) as refused:
            fetch(f"/v1/shares/{'0' * 64}")
        with refused.exception as answer:
            self.assertEqual(answer.code, 401)
            self.assertIn(b"SIGNATURE_REFUSED", answer.read())
        of = shelf(300_000)
        peer = self.signing(node, place)
        await self.put(peer, of)
        await self.check_whole(peer, of)
        # It is one peer, whichever way one comes.
        await self.check_whole(self.client(node), of)
        self.assertEqual(node.lending["owners"], 1)
        mark = int((node.data / "keeper/signed-until").read_text())
        self.assertGreater(mark, time.time() - 60)
        # After a crash it does not know what it has taken, and takes nothing signed before then.
        node.kill()
        node.start(*flags)
        (place,) = node.lending["tls"]
        peer = self.signing(node, place)
        end = time.monotonic() + 60
        while (refusal := await self.refusal(peer, of)) is not None:
            self.assertIn("may have been made before", str(refusal))
            self.assertLess(time.monotonic(), end)
            await deferLater(reactor, 1)
        await self.check_whole(peer, of)
        # Who stopped in good order does know.
        node.stop()
        node.start(*flags)
        (place,) = node.lending["tls"]
        await self.check_whole(self.signing(node, place), of)

    async def refusal(self, peer: HTTPStoragePeer, of: Shelf) -> SignatureRetry | None:
        try:
            await peer.stat(share_id(of.header.upload, 0))
        except SignatureRetry as e:
            return e
        return None

    def test_what_is_wrong_with_its_files_is_one_line_on_the_shell(self) -> None:
        node = self.node()
        certificate, key = self.certificate(node.home)
        listen = ("--keeper-tls-listen", "tcp:0:interface=127.0.0.1")
        files = ("--keeper-tls-certificate", str(certificate), "--keeper-tls-key", str(key))
        nothing = ("--keeper-tls-certificate", str(key), "--keeper-tls-key", str(key))
        key.chmod(0o640)
        for flags, said in (
            (listen, "keeper.tls_listen needs keeper.tls_certificate and keeper.tls_key"),
            ((*listen, *files), f"run chmod 600 {key}"),
            ((*listen, *nothing), f"{key} and {key}: the certificate and its key cannot be used"),
            (("--keeper-tls-listen", "nowhere:1", *files), "which is no Twisted endpoint"),
            ((*listen[:1], f"tcp:{self.taken()}:interface=127.0.0.1", *files), "cannot listen on"),
        ):
            with self.subTest(said):
                node.spawn(*flags)
                assert node.process is not None
                self.assertEqual(node.process.wait(60), 1)
                node.process = None
                self.assertIn(said, node.log_tail(60))
            key.chmod(0o600 if said.startswith("run") else key.stat().st_mode)

    def taken(self) -> int:
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        return int(taken.getsockname()[1])


class LendingTests(PeerCase):
    """A person lends space, and takes it back."""

    async def test_a_node_lends_a_corner_of_its_disk_also_after_a_crash(self) -> None:
        node = self.node(kind=Node)
        node.start()
        self.assertFalse((node.data / "keeper").exists())
        shown = node.good("storage", "status").out
        self.assertIn("nothing is lent: meshkit storage connect --max-storage 10GB", shown)
        refused = node.cli("storage", "connect")
        self.assertEqual(refused.code, 1)
        self.assertIn("[INVALID_REQUEST]", refused.err)
        self.assertEqual(node.cli("storage", "connect", "--max-storage", "10").code, 1)
        self.assertEqual(node.cli("storage", "connect", "--max-storage", "much").code, 2)
        lent = node.good("storage", "connect", "--max-storage", "20MB").lines
        self.assertIn("lent        20 MB, as 'meshkit storage connect' says", lent)
        of = shelf(300_000)
        await self.put(self.client(node), of)
        node.kill()
        node.start()
        status = node.good("storage", "status", "--json").json
        self.assertEqual((status["state"], status["max_storage"]), ("lending", 20_000_000))
        await self.check_whole(self.client(node), of)
        # It drains over a crash, too.
        node.good("storage", "disconnect")
        node.kill()
        node.start()
        peer = self.client(node)
        await self.check_whole(peer, of)
        with self.assertRaises(StorageDraining):
            await self.put(peer, shelf(seed=2))
        self.assertIn("draining: nothing new is taken", node.good("storage", "status").out)
        unsure = node.cli("storage", "disconnect", "--now")
        self.assertEqual(unsure.code, 1)
        self.assertIn("1 share, ", unsure.err)
        self.assertIn("of 1 owner would be lost: say --yes", unsure.err)
        await self.check_whole(peer, of)
        gone = node.good("storage", "disconnect", "--now", "--yes").lines
        self.assertRegex(gone[0], r"Removed 1 share, [0-9.]+ kB, of 1 owner\.")
        node.stop()
        left = [each for each in (node.data / "keeper/shards").rglob("*") if each.is_file()]
        self.assertEqual(left, [])
        node.start()
        self.assertEqual(node.good("storage", "status", "--json").json["state"], "left")

    async def test_both_daemons_run_on_one_machine_with_what_they_choose_themselves(self) -> None:
        """Every verb finds the folder of the storage peer by itself."""
        home = self.mesh.folder / "both"
        home.mkdir()

        def meshkit(*arguments: str) -> Done:
            done = run(*MESHKIT, *arguments, home=home)
            self.assertEqual(done.code, 0, done.err)
            return done

        made = meshkit("-s", "init", "--json").json
        data = home / ".local/share/meshkit-storage"
        self.assertEqual(made["data_dir"], str(data))
        mesh = ("--network-key", made["network_secret"])
        beside = meshkit("init", *mesh, "--json").json
        node, other = DefaultNode(home), DefaultNode(home, name="mesh-node")
        self.mesh._nodes += [node, other]
        node.spawn("--keeper-max-storage", "50 MB")
        node.wait_ready()
        other.spawn("--peer", node.address)
        other.wait_ready()
        # Each is found by what it is, and they are two members of one network.
        self.assertEqual(meshkit("id").lines[0], beside["public_id"])
        self.assertNotEqual(beside["public_id"], made["public_id"])
        meshkit("peer", "dial", made["public_id"])
        other.stop()
        self.assertEqual(meshkit("-s", "id").lines[0], made["public_id"])
        status = meshkit("-s", "status", "--json").json
        self.assertEqual(sorted(status["parts"]), ["audit", "dht", "keeper", "lan", "wellknown"])
        self.assertTrue(status["ready"])
        shown = meshkit("-s", "config", "show", "--origin", "--json").json
        listen = next(row for row in shown if row["key"] == "listen")
        self.assertEqual((listen["value"], listen["origin"]), ("tcp:7670", "default"))
        meshkit("-s", "backup", "kept")
        self.assertEqual(meshkit("-s", "call", "storage_status").json["state"], "lending")
        node.stop()
        self.assertIn("Everything is as it should be", meshkit("-s", "doctor").out)
        stopped = run(*MESHKIT, "-s", "status", home=home)
        self.assertIn(f"twistd -n mesh-storage --data-dir {data}", stopped.err)


@define(eq=False)
class DefaultNode(Node):
    """A daemon that is told nothing of its folder; only its ports are any that are free."""

    name: str = "mesh-storage"

    @property
    def data(self) -> Path:
        folder = "meshkit" if self.name == "mesh-node" else "meshkit-storage"
        return self.home / ".local/share" / folder

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        return [self.name, *command[3:]]


@define(eq=False)
class SmallStorageNode(SmallNode, StorageNode):
    """A storage peer on a small disk."""

    @property
    def shards(self) -> list[Path]:
        return sorted((self.data / "keeper" / "shards").rglob(f"*{SUFFIX}"))


class FullDiskTests(PeerCase):
    """More is lent than the disk has: what does not fit is refused, and nothing else is harmed."""

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
            raise SkipTest("only root can mount a small disk, with the unshare of util-linux")

    def small(self) -> SmallStorageNode:
        node = self.node("--keeper-max-storage", "1 GB", kind=SmallStorageNode)
        assert isinstance(node, SmallStorageNode)
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", HOLD, "sh", str(node.place), str(16 * 2**20)],
            stdout=subprocess.PIPE,
        )
        self.addCleanup(holder.communicate)
        self.addCleanup(holder.kill)
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise SkipTest("only root can mount a small disk, with the unshare of util-linux")
        node.prefix = ["nsenter", "--target", str(holder.pid), "--mount"]
        node.holder = holder.pid
        return node

    async def test_what_does_not_fit_is_refused_and_what_is_there_is_given(self) -> None:
        node = self.small()
        node.start()
        peer = self.client(node)
        kept, seed = [], 0
        with self.assertRaises(CapacityReached):
            while True:
                seed += 1
                of = shelf(6_000_000, seed)
                await self.put(peer, of)
                kept.append(of)
        self.assertGreater(len(kept), 2)
        # The disk fills up under a share that was begun, too.
        of = shelf(600_000, 100)
        node.fill()
        with self.assertRaises(CapacityReached):
            await self.put(peer, of)
        for each in kept:
            await self.check_whole(peer, each)
        self.assertEqual(len(node.shards), len(kept))
        node.kill()
        node.make_room()
        node.start()
        peer = self.client(node)
        for each in kept:
            await self.check_whole(peer, each)
        await self.put(peer, of)
        self.assertEqual(node.ask("GET", "/v1/storage").data["shares"], len(kept) + 1)


HOLD = """
cp -a "$1" "$1.kept" && mount -t tmpfs -o "size=$2,mode=700" none "$1" &&
cp -a "$1.kept/." "$1" && echo ready && exec sleep 600
"""
