"""Tests of L{meshkit.storage.keeper.part}: a storage peer in whole nodes, in memory."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.crypto.samples import leads_to
from meshkit.errors import (
    ConfigError,
    HandshakeError,
    NotReady,
    ShareDamaged,
    ShareUnknown,
    StartError,
    StorageDraining,
    StorageRefused,
)
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.interfaces import IAdvisesAgents, IMeshPart, IShareSampler
from meshkit.runtime.whereabouts import Whereabouts
from meshkit.storage.header import share_id
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.keeper.part import CLOSE_GRACE, Config, KeeperPart
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.statements import Receipt, StorageRecord, peers_content
from meshkit.storage.terms import LEASE_SECONDS, lease_hash
from meshkit.testing.identities import DAY_NS
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.storage.keeper.keepers import SECRET, shelf
from tests.storage.shelves import Shelf

T = TypeVar("T")

GB = 10**9
LENDS = "[keeper]\nmax_storage = 10_000_000\nscrub_rate = 0\n"


class PartCase(SynchronousTestCase):
    """Nodes of one mesh: who keeps something, and those who want it kept."""

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.peers: list[HTTPStoragePeer] = []
        self.addCleanup(self.end)

    def end(self) -> None:
        for peer in self.peers:
            self.done(peer.stop())
        self.mesh.stop()
        self.mesh.run(CLOSE_GRACE)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def node(self, name: str, config: str = "", **options: Any) -> MemoryNode:
        node = self.mesh.node(name, config, **options)
        node.start()
        return node

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

    def connect(self, node: MemoryNode, size: int | None = None) -> Any:
        return self.ok(node, "POST", "/v1/storage/connect", {"max_storage": size})

    def disconnect(self, node: MemoryNode, now: bool = False) -> Any:
        return self.ok(node, "POST", "/v1/storage/disconnect", {"now": now})

    def status(self, node: MemoryNode) -> Any:
        return self.ok(node, "GET", "/v1/storage")

    def part(self, node: MemoryNode) -> KeeperPart:
        part = node.service._parts["keeper"]
        assert isinstance(part, KeeperPart)
        return part

    def peer(self, of: MemoryNode, by: MemoryNode) -> HTTPStoragePeer:
        """A storage peer, as another node reaches it over the network."""
        address = MeshAddress.parse(of.address)
        connections = self.part(by)._context.connections
        endpoint = connections.endpoint(address, LABEL, VERSION)
        self.peers.append(HTTPStoragePeer(by.host, endpoint, address.key))  # type: ignore[arg-type]
        return self.peers[-1]

    def done(self, deferred: Deferred[T]) -> T:
        """@return: what comes of it."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.mesh.until(lambda: bool(results), "an answer")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def fails(self, kind: type[Exception], deferred: Deferred[Any]) -> Exception:
        with self.assertRaises(kind) as raised:
            self.done(deferred)
        return raised.exception

    def put(self, peer: HTTPStoragePeer, of: Shelf, number: int = 0) -> Receipt:
        """Have a share kept."""
        upload, share = of.header.upload, of.shares[number]
        self.done(peer.reserve(upload, number, len(share), lease_hash(SECRET)))
        block = of.layout.block_bytes(0)
        for segment in range(of.layout.segments):
            piece = share[segment * block : (segment + 1) * block]
            self.done(peer.write(upload, number, segment, bytes(piece)))
        raw = self.done(peer.close(upload, number, of.manifest.raw))
        receipt = Receipt.open(raw, peer.key)
        receipt.check(
            share_id(upload, number),
            of.manifest.shares[number],
            len(share),
            lease_hash(SECRET),
        )
        return receipt

    def check_readable(self, peer: HTTPStoragePeer, of: Shelf, number: int = 0) -> None:
        piece = self.done(peer.read(share_id(of.header.upload, number), 0))
        length = of.layout.block_bytes(0)
        self.assertEqual(bytes(piece.block), bytes(of.shares[number][:length]))


class LendingTests(PartCase):
    """A node lends what its owner has said, and nothing before that."""

    def test_it_is_a_part(self) -> None:
        part = self.part(self.node("ada"))
        for interface in (IMeshPart, IAdvisesAgents, IShareSampler):
            self.assertTrue(verifyObject(interface, part))
        self.assertEqual(part.advice(), ())

    def test_a_node_lends_nothing_until_it_is_told_to_and_nobody_can_tell(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        status = self.status(ada)
        self.assertEqual((status["state"], status["max_storage"]), ("none", 0))
        self.assertNotIn("keeper", self.ok(ada, "GET", "/v1/status")["parts"])
        self.assertEqual(self.part(ada)._store().open(), [])
        self.fails(HandshakeError, self.peer(ada, bob).statement())
        self.mesh.run(600)
        self.assertEqual(self.ok(ada, "GET", "/v1/dht/stats")["publications"], 0)

    def test_what_is_kept_is_looked_at_as_long_as_something_is_lent(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        part, name = self.part(ada), shelf().header.share_id(0)
        account = bob.identity.public.raw
        for asked in (part.kept([name]), part.placements_of([name]), part.leaves([(name, [0])])):
            self.fails(NotReady, asked)
        self.assertFalse(part.may_audit(account, name))
        self.connect(ada, 10 * GB)
        self.put(self.peer(ada, bob), shelf())
        (stat,) = self.done(part.kept([name]))
        (placement,) = self.done(part.placements_of([name]))
        (found,) = self.done(part.leaves([(name, [0])]))
        self.assertTrue(part.may_audit(account, name))
        self.assertEqual(stat.root, shelf().manifest.shares[0])
        self.assertEqual(placement[1], shelf().manifest.content_id)
        self.assertIsNotNone(leads_to(stat.root, stat.size, 0, found.samples[0]))
        self.disconnect(ada, now=True)
        self.fails(NotReady, part.kept([name]))

    def test_who_is_told_to_lends_and_goes_on_after_a_restart(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        said = self.refused(ada, "INVALID_REQUEST", "POST", "/v1/storage/connect", {})
        self.assertIn("how many bytes", said)
        shown = self.connect(ada, 10 * GB)
        self.assertEqual(
            (shown["state"], shown["source"], shown["max_storage"], shown["free"]),
            ("lending", "connect", 10 * GB, 9 * GB),
        )
        self.put(self.peer(ada, bob), shelf())
        for _ in range(2):
            ada.stop()
            ada.start()
            again = self.status(ada)
            self.assertEqual((again["state"], again["max_storage"]), ("lending", 10 * GB))

    def test_more_or_less_may_be_lent_later_and_what_is_there_stays(self) -> None:
        ada, bob = self.node("ada"), self.node("bob")
        self.connect(ada, 10_000_000)
        of = shelf()
        self.put(self.peer(ada, bob), of)
        less = self.connect(ada, 2**20)
        self.assertEqual((less["max_storage"], less["shares"]), (2**20, 1))
        record = StorageRecord.open(self.done(self.peer(ada, bob).statement()))
        self.assertEqual(record.capacity, 2**20)
        self.check_readable(self.peer(ada, bob), of)
        self.assertEqual(self.connect(ada, 3 * GB)["max_storage"], 3 * GB)
        self.assertEqual(self.connect(ada)["max_storage"], 3 * GB)

    def test_the_configuration_goes_first(self) -> None:
        ada = self.node("ada", LENDS)
        shown = self.status(ada)
        self.assertEqual((shown["state"], shown["source"]), ("lending", "config"))
        body = {"max_storage": 20 * GB}
        said = self.refused(ada, "STORAGE_CONFIGURED", "POST", "/v1/storage/connect", body)
        self.assertIn("change it there", said)
        self.assertEqual(self.status(ada)["max_storage"], 10_000_000)

    def test_what_cannot_be_lent_is_refused_and_nothing_changes(self) -> None:
        ada = self.node("ada", "[keeper]\nreserved = 5_000_000\n")
        body = {"max_storage": 5_000_000}
        said = self.refused(ada, "INVALID_REQUEST", "POST", "/v1/storage/connect", body)
        self.assertIn("nothing is lent if 5000000 are reserved", said)
        self.assertEqual(self.status(ada)["state"], "none")
        ada.stop()
        ada.start()

    def test_a_disk_that_does_not_take_shares_is_named_and_nothing_changes(self) -> None:
        ada = self.node("ada")

        class Broken(MemoryShardStore):
            def open(self) -> Any:
                raise OSError(errno.EROFS, "Read-only file system", "/ada/keeper")

        self.patch(self.part(ada), "_memory", Broken())
        body = {"max_storage": 5_000_000}
        said = self.refused(ada, "STORAGE_FAILED", "POST", "/v1/storage/connect", body)
        self.assertIn("/ada/keeper: Read-only file system", said)
        self.assertEqual(self.status(ada)["state"], "none")
        # It is not what the node fails to start with.
        ada.stop()
        ada.start()
        self.assertEqual(self.status(ada)["state"], "none")

    def test_a_node_whose_shares_are_on_a_broken_disk_does_not_start_and_says_why(self) -> None:
        ada = self.mesh.node("ada", LENDS)

        def broken(store: Any) -> Any:
            raise OSError(errno.EIO, "Input/output error", "/ada/keeper/shards")

        self.patch(MemoryShardStore, "open", broken)
        with self.assertRaisesRegex(StartError, "/ada/keeper/shards: Input/output error"):
            ada.start()

    def test_more_than_the_disk_has_is_lent_with_a_warning(self) -> None:
        ada = self.node("ada")
        self.patch(self.part(ada), "_memory", MemoryShardStore(5_000_000))
        answer = ada.ask("POST", "/v1/storage/connect", {"max_storage": 10 * GB})
        (warning,) = answer.json["metadata"]["warnings"]
        self.assertIn("the disk has 5000000 bytes left", warning)
        self.assertEqual(answer.json["data"]["state"], "lending")

    def test_two_who_say_something_at_once_are_heard_one_after_the_other(self) -> None:
        ada = self.node("ada")
        part = self.part(ada)
        asked = [
            part._one_at_a_time(lambda: part._connect(GB)),
            part._one_at_a_time(part._leave),
            part._one_at_a_time(lambda: part._connect(None)),
        ]
        for each in asked:
            self.done(each)
        self.assertEqual(self.status(ada)["state"], "lending")
        self.assertTrue(part.keeper is not None and part.keeper.figures().running)

    def test_what_is_said_while_the_node_stops_is_not_done(self) -> None:
        ada = self.node("ada")
        part = self.part(ada)
        ada.stop()
        self.failureResultOf(part._one_at_a_time(lambda: part._connect(GB)), NotReady)
        self.assertIsNone(part.keeper)


class KeepingTests(PartCase):
    """Members of the network have shares kept."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.node("ada", LENDS)
        self.bob = self.node("bob", f'peers = ["{self.ada.address}"]')

    def test_a_share_is_kept_and_given(self) -> None:
        of, peer = shelf(), self.peer(self.ada, self.bob)
        receipt = self.put(peer, of)
        self.assertEqual(receipt.peer, self.ada.identity.public)
        self.check_readable(peer, of)
        shown = self.status(self.ada)
        self.assertEqual((shown["shares"], shown["owners"], shown["uploads"]), (1, 1, 0))
        self.assertGreater(shown["used"], len(of.shares[0]))
        end = DAY_NS // 10**9 + LEASE_SECONDS
        self.assertEqual(shown["last_lease_end"][:7], "2026-02")
        self.assertLessEqual(abs(receipt.lease_end - end), 60)
        figures = self.ok(self.ada, "GET", "/v1/status")["parts"]["keeper"]
        self.assertEqual(figures["shares"], 1)

    def test_it_says_where_it_is_and_never_names_a_wildcard(self) -> None:
        record = StorageRecord.open(self.done(self.peer(self.ada, self.bob).statement()))
        (place,) = record.addresses
        self.assertEqual(place.text, MeshAddress.parse(self.ada.address).place.text)
        part = self.part(self.ada)
        self.assertEqual([each.text for each in part._addresses()], [place.text])
        listening = [HostPort("0.0.0.0", 7655), HostPort("::", 7655), place]
        whereabouts = Whereabouts((), lambda: listening)
        self.patch(part, "_context", evolve(part._context, whereabouts=whereabouts))
        self.assertEqual(part._addresses(), [place])
        wildcard = self.node("cyd", LENDS + 'addresses = ["cyd.example:7670"]\n')
        self.assertEqual(self.status(wildcard)["addresses"], ["cyd.example:7670"])

    def test_it_is_found_by_the_hash_table_as_long_as_it_lends(self) -> None:
        content = peers_content(self.mesh.network_secret.key().net_id).hex()

        def providers() -> list[str]:
            found = self.ok(self.bob, "GET", f"/v1/dht/providers/{content}")["providers"]
            return [each["public_id"] for each in found]

        self.mesh.run(30)
        self.assertEqual(providers(), [self.ada.identity.public.text])
        self.assertGreater(self.status(self.ada)["announced"], 0)
        self.disconnect(self.ada)
        self.assertIsNone(self.status(self.ada)["announced"])
        self.mesh.run(120)
        self.assertEqual(providers(), [])
        self.connect(self.ada)
        self.mesh.run(30)
        self.assertEqual(providers(), [self.ada.identity.public.text])

    def test_whom_the_owner_has_blocked_does_not_come_in(self) -> None:
        peer = self.peer(self.ada, self.bob)
        self.done(peer.statement())
        bob = quote(self.bob.identity.public.text, safe="@")
        self.ok(self.ada, "POST", f"/v1/blocks/{bob}", {})
        # Also over the connection that is there.
        self.fails(StorageRefused, peer.stat(b"s" * 32))
        self.fails(HandshakeError, self.peer(self.ada, self.bob).statement())

    def test_its_allow_list_is_kept(self) -> None:
        config = LENDS + f'admission = "allow-list"\nallow = ["{self.bob.identity.public.text}"]\n'
        cyd, dan = self.node("cyd", config), self.node("dan")
        self.assertEqual(self.status(cyd)["admission"], "allow-list")
        self.put(self.peer(cyd, self.bob), shelf())
        of = shelf()
        refused = self.peer(cyd, dan).reserve(of.header.upload, 1, 4096, lease_hash(SECRET))
        self.fails(StorageRefused, refused)

    def test_damage_is_told_at_the_door_and_to_who_watches(self) -> None:
        of, peer = shelf(), self.peer(self.ada, self.bob)
        self.put(peer, of)
        store, name = self.part(self.ada)._memory, share_id(of.header.upload, 0)
        held = store._held[name]
        store._held[name] = type(held)(held.data[:100], held.note)
        self.fails(ShareDamaged, peer.read(name, 0))
        self.assertEqual(self.status(self.ada)["damaged"], 1)
        (said,) = self.part(self.ada).advice()
        self.assertIn("found damaged", said)
        self.assertEqual(self.part(self.bob).advice(), ())
        metrics = self.ada.ask("GET", "/metrics").body.decode()
        self.assertIn("meshkit_keeper_damaged_total 1.0", metrics)
        self.assertIn('meshkit_keeper_refused_total{code="SHARE_DAMAGED"} 1.0', metrics)

    def test_it_counts_what_it_does(self) -> None:
        of = shelf()
        self.put(self.peer(self.ada, self.bob), of)
        metrics = dict(
            line.rsplit(" ", 1)
            for line in self.ada.ask("GET", "/metrics").body.decode().splitlines()
            if line.startswith("meshkit_keeper_")
        )
        self.assertEqual(metrics["meshkit_keeper_shares"], "1.0")
        self.assertEqual(metrics["meshkit_keeper_owners"], "1.0")
        self.assertEqual(metrics["meshkit_keeper_receipts_total"], "1.0")
        self.assertEqual(metrics["meshkit_keeper_capacity_bytes"], "1e+07")
        self.assertEqual(float(metrics["meshkit_keeper_written_bytes_total"]), len(of.shares[0]))


class LeavingTests(PartCase):
    """Who does not want to lend any more lets others take what is theirs, or says what is lost."""

    def setUp(self) -> None:
        super().setUp()
        self.ada, self.bob = self.node("ada"), self.node("bob")
        self.connect(self.ada, 10_000_000)
        self.of = shelf()
        self.there = self.peer(self.ada, self.bob)
        self.put(self.there, self.of)

    def restart(self) -> None:
        """Its memory is the disk, and as such outlives the process."""
        kept = self.part(self.ada)._memory
        self.ada.stop()
        make: Callable[[], Any] = self.ada.make

        def make_on_the_same_disk() -> Any:
            service = make()
            prepare = service._prepare

            def prepared() -> None:
                prepare()
                service._parts["keeper"]._memory = kept

            service._prepare = prepared
            return service

        self.patch(self.ada, "make", make_on_the_same_disk)
        self.ada.start()

    def check_drains(self) -> None:
        shown = self.status(self.ada)
        self.assertEqual((shown["state"], shown["free"], shown["shares"]), ("draining", 0, 1))
        there = self.peer(self.ada, self.bob)
        self.check_readable(there, self.of)
        new = there.reserve(shelf(seed=2).header.upload, 0, 4096, lease_hash(SECRET))
        self.fails(StorageDraining, new)
        record = StorageRecord.open(self.done(there.statement()))
        self.assertEqual((record.accepts, record.leaving), (False, True))

    def test_it_takes_nothing_new_and_gives_what_it_has_also_after_a_restart(self) -> None:
        left = self.disconnect(self.ada)
        self.assertEqual((left["lost_shares"], left["status"]["state"]), (0, "draining"))
        self.check_drains()
        self.restart()
        self.check_drains()
        # Said again, nothing changes.
        self.assertEqual(self.disconnect(self.ada)["status"]["state"], "draining")

    def test_it_can_think_better_of_it(self) -> None:
        self.disconnect(self.ada)
        self.assertEqual(self.connect(self.ada)["state"], "lending")
        self.put(self.peer(self.ada, self.bob), shelf(seed=2))

    def test_when_the_leases_have_ended_nothing_is_left(self) -> None:
        self.disconnect(self.ada)
        keeper = self.part(self.ada).keeper
        assert keeper is not None
        for name in keeper.names():
            self.done(self.there.release(name, SECRET))
        shown = self.status(self.ada)
        self.assertEqual((shown["shares"], shown["used"], shown["last_lease_end"]), (0, 0, None))

    def test_it_is_found_by_the_hash_table_until_nothing_is_left(self) -> None:
        # Those whose shares it has are to hear that it leaves.
        self.disconnect(self.ada)
        self.mesh.run(60)
        self.assertIsNotNone(self.status(self.ada)["announced"])
        with capturedLogs() as events:
            self.done(self.there.release(share_id(self.of.header.upload, 0), SECRET))
            self.mesh.run(1)
        self.assertIsNone(self.status(self.ada)["announced"])
        said = [formatEvent(event) for event in events]
        self.assertIn("nothing is kept for others any more", "\n".join(map(str, said)))
        self.restart()
        self.assertIsNone(self.status(self.ada)["announced"])
        self.connect(self.ada)
        self.assertIsNotNone(self.status(self.ada)["announced"])

    def test_all_of_it_can_go_at_once_and_what_was_lost_is_said(self) -> None:
        self.put(self.there, shelf(seed=2))
        stored = self.status(self.ada)["used"]
        left = self.disconnect(self.ada, now=True)
        self.assertEqual(
            (left["lost_shares"], left["lost_bytes"], left["lost_owners"]), (2, stored, 1)
        )
        self.assertEqual(left["status"]["state"], "left")
        self.assertEqual(self.part(self.ada)._memory.open(), [])
        self.fails(HandshakeError, self.peer(self.ada, self.bob).statement())
        self.restart()
        self.assertEqual(self.status(self.ada)["state"], "left")
        # It may lend again, and has nothing of what it had.
        self.connect(self.ada)
        name = share_id(self.of.header.upload, 0)
        self.fails(ShareUnknown, self.peer(self.ada, self.bob).stat(name))
        self.assertEqual(self.disconnect(self.ada, now=True)["lost_shares"], 0)

    def test_who_was_killed_while_all_was_removed_goes_on_with_it(self) -> None:
        part = self.part(self.ada)
        self.done(Deferred.fromCoroutine(part._change(part._lending.left())))
        self.restart()
        self.assertEqual(self.part(self.ada)._memory.open(), [])

    def test_a_fault_in_the_middle_leaves_it_to_the_next_start(self) -> None:
        def broken(name: bytes) -> None:
            raise OSError(errno.EIO, "Input/output error", "/ada/keeper/shards")

        memory = self.part(self.ada)._memory
        with_fault = self.patch(memory, "remove", broken)
        answer = self.ada.ask("POST", "/v1/storage/disconnect", {"now": True})
        self.assertEqual(answer.code, "STORAGE_FAILED")
        self.assertIn("/ada/keeper/shards: Input/output error", answer.json["error"]["message"])
        self.assertEqual(self.status(self.ada)["state"], "left")
        with_fault.restore()
        self.restart()
        self.assertEqual(self.part(self.ada)._memory.open(), [])


class SettingsTests(PartCase):
    def test_what_cannot_be_used_is_named(self) -> None:
        for config, named in (
            (Config(addresses=("0.0.0.0:7670",)), "nobody can be reached at 0.0.0.0:7670"),
            (Config(addresses=("[::]:7670",)), r"nobody can be reached at \[::\]:7670"),
            (Config(addresses=("nowhere",)), "keeper.addresses: 'nowhere' is not of the form"),
            (Config(addresses=tuple(f"a{i}:1" for i in range(9))), "8 addresses are the limit"),
        ):
            with self.subTest(named), self.assertRaisesRegex(ConfigError, named):
                config.places()
        for config, named in (
            (Config(allow=("nobody",)), "keeper.allow: "),
            (Config(domain="-rack"), "keeper: .*cannot be a failure domain"),
            (Config(reserved=2 * GB), "keeper: .*nothing is lent if"),
            (Config(headroom=2 * GB), "keeper: .*nothing is lent if"),
        ):
            with self.subTest(named), self.assertRaisesRegex(ConfigError, named):
                config.terms(GB)

    def test_a_node_with_such_settings_does_not_start(self) -> None:
        ada = self.mesh.node("ada", '[keeper]\naddresses = ["0.0.0.0:7670"]\n')
        with self.assertRaisesRegex(ConfigError, "nobody can be reached"):
            ada.start()

    def test_what_is_lent_on_what_terms_is_what_the_settings_say(self) -> None:
        ada = self.node(
            "ada", LENDS + 'reserved = 1_000_000\nheadroom = 2_000_000\ndomain = "rack-3"\n'
        )
        shown = self.status(ada)
        self.assertEqual(
            (shown["reserved"], shown["headroom"], shown["free"], shown["domain"]),
            (1_000_000, 2_000_000, 7_000_000, "rack-3"),
        )

    def test_shares_that_nobody_can_get_any_more_are_warned_of(self) -> None:
        ada = self.mesh.node("ada")
        ada.files.make_folder("/ada/keeper/shards")
        with capturedLogs() as logged:
            ada.start()
        (said,) = [each for each in logged if each.get("folder") == "/ada/keeper/shards"]
        self.assertIn("may have shares of others", formatEvent(said))
