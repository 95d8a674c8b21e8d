"""Tests of L{meshkit.storage.objects.part}: files given away, and got back."""

from __future__ import annotations

import os
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail
from zope.interface.verify import verifyObject

from meshkit.errors import (
    CapabilityInvalid,
    ConfigError,
    InvalidRequest,
    NotFound,
    NotReady,
    ObjectAmbiguous,
    ObjectKeyWrong,
    ObjectRemoved,
    SchemeInvalid,
    StorageFailed,
    StoragePeerError,
    TargetExists,
)
from meshkit.identity.addresses import MeshAddress, Via
from meshkit.interfaces import IMeshPart
from meshkit.storage.capability import ReadCapability, VerifyCapability, expect_capability
from meshkit.storage.objects import ledger
from meshkit.storage.objects.config import Config
from meshkit.storage.objects.part import StoragePart
from meshkit.storage.objects.upkeep import REMEMBER_SECONDS, RETRY_SECONDS
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.placement_record import KIND
from meshkit.storage.terms import GRACE_SECONDS, LEASE_SECONDS
from meshkit.testing.identities import make_identity
from tests.storage.client.peers import hang
from tests.storage.objects.support import HERON, Answered, LateDisk, ObjectsCase, lie

TEXT = bytes(range(256)) * 100


class PutAndGetTests(ObjectsCase):
    def test_it_is_a_part(self) -> None:
        verifyObject(IMeshPart, self.part)

    def test_a_file_is_put_and_got_back(self) -> None:
        put = self.put(TEXT)
        result = put.result
        self.assertEqual((result.bytes, result.scheme), (25_600, "2+2"))
        self.assertEqual((result.shares, result.missing), ([0, 1, 2, 3], []))
        self.assertEqual((result.flags, result.problems), ([], []))
        self.assertEqual((put.done, put.total, put.object), (25_600, 25_600, result.object))
        self.assertEqual(sorted(self.kept), [0, 0, 1, 1, 1, 1])
        self.assertEqual(self.get(result.object), TEXT)
        self.assertEqual(self.get(result.object[:8].upper(), "another"), TEXT)
        self.assertEqual(self.part.status().objects, 1)

    def test_a_relay_is_asked_for_one_circuit_to_each_peer(self) -> None:
        """All peers of an object may be behind one, which leads to so many at a time."""
        connecting: list[Deferred[Any]] = []

        class Connections:
            def endpoint(self, address: MeshAddress, label: str, version: int) -> Any:
                return self

            def connect(self, factory: Any) -> Deferred[Any]:
                connecting.append(Deferred())
                return connecting[-1]

        context = evolve(self.context, connections=Connections(), config=Config())
        part = StoragePart(context)
        via = Via(make_identity("relay").public, "member")
        for address, most in ((self.address(0), 4), (evolve(self.address(0), via=via), 1)):
            connecting.clear()
            peer = part._make_peer(address)
            asked = [peer.statement() for _ in range(6)]
            self.assertEqual(len(connecting), most)
            for each in asked:
                each.addErrback(lambda failure: failure.trap(CancelledError, StoragePeerError))
                each.cancel()
            self.done(peer.stop())

    def test_files_of_any_length(self) -> None:
        for length in (0, 1, 4_095, 4_096, 70_001):
            data = (b"%d" % length * (length + 1))[:length]
            put = self.put(data, f"{length}.bin")
            self.assertEqual(self.get(put.object, f"{length}.copy"), data)

    def test_who_has_come_since_the_hash_table_was_asked_is_found_by_a_put(self) -> None:
        part = self.start(peers=())
        self.done(part.peers.refresh())
        self.assertEqual(part.peers.peers(), [])
        self.table.provided = [
            Answered(key=self.address(number).key, places=(self.place(number),))
            for number in range(self.count)
        ]
        begun = self.ask("object_put", part, path=self.write("heron.txt", HERON))
        self.assertEqual(self.ended(begun, part).state, "done")
        # Where there are enough, nobody is asked again.
        asked = self.table.asked
        begun = self.ask("object_put", part, path=self.write("owl.txt", HERON))
        self.assertEqual(self.ended(begun, part).state, "done")
        self.assertEqual(self.table.asked, asked)

    def test_any_two_holders_may_be_gone(self) -> None:
        put = self.put()
        holders = [number for number, count in enumerate(self.kept) if count]
        for number in holders[:2]:
            self.fronts[number].down = True
        self.assertEqual(self.get(put.object), HERON)
        self.fronts[holders[2]].down = True
        path = os.path.join(self.folder, "none")
        failed = self.ended(self.ask("object_get", object=put.object, path=path))
        self.assertEqual((failed.state, failed.error.code), ("failed", "NOT_ENOUGH_SHARES"))
        self.assertFalse(os.path.exists(path))
        self.assertEqual([n for n in os.listdir(self.folder) if "part" in n], [])

    def test_one_who_lies_is_named_and_the_file_is_right(self) -> None:
        put = self.put(scheme="1+1")
        (liar,) = [
            front
            for number, front in enumerate(self.fronts)
            if self.kept[number] and front.key.text == self.places(put.object)[0]
        ]
        liar.rule = lie
        path = os.path.join(self.folder, "copy")
        got = self.ended(self.ask("object_get", object=put.object, path=path))
        self.assertEqual(self.read("copy"), HERON)
        (problem,) = got.result.problems
        self.assertEqual((problem.peer, problem.lied), (liar.key.text, True))
        self.assertEqual(self.part._failures, {"failed": 0, "lied": 1})

    def places(self, object_id: str) -> list[Any]:
        return [each.peer for each in self.ask("object_stat", object=object_id).shares]

    def test_through_a_stale_registry_nothing_is_placed_on_the_dead(self) -> None:
        # Kryden's test 7: five peers, all heard of, one stops, and four shares are placed.
        self.ask("storage_peers")
        self.assertEqual(self.part.status().members, 6)
        dead, self.fronts[1].down = self.fronts[0], True
        dead.down = True
        put = self.put(scheme="3+1")
        self.assertEqual(len(put.result.shares), 4)
        self.assertNotIn(dead.key.text, self.places(put.object))

    def test_one_that_hangs_costs_one_deadline_and_is_replaced(self) -> None:
        self.ask("storage_peers")
        self.fronts[0].rule = hang("reserve", "statement")
        before = self.clock.seconds()
        put = self.put(scheme="2+2")
        self.assertEqual(put.result.missing, [])
        self.assertLess(self.clock.seconds() - before, 15)
        self.assertEqual(self.kept[0], 0)

    def test_where_there_are_too_few_peers_it_is_said(self) -> None:
        ended = self.ended(self.ask("object_put", path=self.write("x", b"x"), scheme="5+5"))
        self.assertEqual((ended.state, ended.error.code), ("failed", "NOT_ENOUGH_PEERS"))
        self.assertEqual(sum(self.kept), 0)
        self.assertEqual(self.part.status().objects, 0)

    def test_unless_one_may_have_several(self) -> None:
        self.stop()
        part = self.start(repeat=True)
        shown = self.ask("object_put", part, path=self.write("x", b"x"), scheme="5+5")
        ended = self.ended(shown, part)
        self.assertEqual(len(ended.result.shares), 10)
        self.assertIn("several-shares-at-one-peer", ended.result.flags)

    def test_a_file_that_is_there_is_replaced_only_if_that_is_said(self) -> None:
        put = self.put()
        path = self.write("there", b"precious")
        self.assertRaises(TargetExists, self.ask, "object_get", object=put.object, path=path)
        self.assertEqual(self.read("there"), b"precious")
        self.assertEqual(self.get(put.object, "there", force=True), HERON)

    def test_one_that_is_made_meanwhile_is_not_replaced_either(self) -> None:
        put = self.put()
        path = os.path.join(self.folder, "there")
        for front in self.fronts:
            front.delay = 1.0
        begun = self.ask("object_get", object=put.object, path=path)
        self.write("there", b"precious")
        ended = self.ended(begun)
        self.assertEqual((ended.state, ended.error.code), ("failed", "TARGET_EXISTS"))
        self.assertEqual(self.read("there"), b"precious")

    def test_what_cannot_be_asked_for_is_refused_at_once(self) -> None:
        put = self.put()
        folder, absent = self.folder, os.path.join(self.folder, "none")
        table: list[tuple[type[Exception], str, dict[str, Any]]] = [
            (InvalidRequest, "object_put", {"path": "relative"}),
            (InvalidRequest, "object_put", {"path": absent}),
            (InvalidRequest, "object_put", {"path": folder}),
            (SchemeInvalid, "object_put", {"path": absent, "scheme": "3of5"}),
            (InvalidRequest, "object_get", {"object": put.object, "path": "relative"}),
            (InvalidRequest, "object_get", {"object": put.object, "path": f"{absent}/x"}),
            (InvalidRequest, "object_get", {"object": put.object[:7], "path": absent}),
            (NotFound, "object_get", {"object": "0" * 64, "path": absent}),
            (NotFound, "object_get", {"object": "0" * 9, "path": absent}),
            (CapabilityInvalid, "object_get", {"object": "mkread1-x", "path": absent}),
            (InvalidRequest, "transfer", {"id": "xyz"}),
            (NotFound, "transfer", {"id": "0" * 16}),
            (NotFound, "transfer_cancel", {"id": "0" * 16}),
            (NotFound, "object_remove", {"object": "0" * 64}),
            (NotFound, "object_capabilities", {"object": "0" * 64}),
        ]
        for error, operation, fields in table:
            with self.subTest(operation, **fields):
                self.assertRaises(error, self.ask, operation, **fields)
        verify = self.ask("object_stat", object=put.object).verify
        self.assertRaises(InvalidRequest, self.ask, "object_get", object=verify, path=absent)

    def test_a_put_that_is_cancelled_leaves_nothing_anywhere(self) -> None:
        for front in self.fronts:
            front.delay = 1.0
        begun = self.ask("object_put", path=self.write("x", TEXT))
        self.clock.advance(1.5)
        shown = self.ask("transfer_cancel", id=begun.id)
        self.assertEqual(shown.state, "cancelled")
        self.clock.pump([1] * 30)
        self.assertEqual(sum(self.kept), 0)
        self.assertTrue(all(keeper.figures().promised == 0 for keeper in self.keepers))

    def test_transfers_are_listed(self) -> None:
        one, two = self.put(name="one"), self.put(name="two")
        listed = self.ask("transfers")
        self.assertEqual([each.id for each in listed], [two.id, one.id])
        self.assertEqual(len(self.ask("transfers", limit=1)), 1)


class KnownTests(ObjectsCase):
    def test_objects_are_listed_with_what_is_known(self) -> None:
        one = self.put(name="one")
        self.pass_time(1)
        two = self.put(TEXT, name="two")
        page = self.ask("object_list")
        self.assertEqual((page.total, [each.name for each in page.items]), (2, ["two", "one"]))
        shown = page.items[0]
        self.assertEqual((shown.object, shown.bytes, shown.placed), (two.object, 25_600, 4))
        self.assertEqual(shown.status, "live")
        self.assertEqual(self.ask("object_list", limit=1, offset=1).items[0].object, one.object)

    def test_where_its_shares_are_can_be_seen(self) -> None:
        put = self.put()
        details = self.ask("object_stat", object=put.object)
        self.assertEqual((details.own, details.name, details.version), (True, "heron.txt", 1))
        peers = {make_identity(f"keeper-{n}").public.text for n, c in enumerate(self.kept) if c}
        self.assertEqual({each.peer for each in details.shares}, peers)
        self.assertEqual(details.flags, [])

    def test_peers_are_shown_with_what_they_say(self) -> None:
        self.fronts[0].down = True
        quiet = self.ask("storage_peers", refresh=False)
        self.assertEqual([each.member for each in quiet], [False] * 6)
        shown = {each.peer: each for each in self.ask("storage_peers")}
        down = shown[self.fronts[0].key.text]
        self.assertEqual((down.member, down.problem), (False, "connection refused"))
        up = shown[self.fronts[1].key.text]
        self.assertEqual((up.member, up.accepts, up.declared), (True, True, "rack-1"))
        self.assertEqual((up.domain, up.source), ("declared:rack-1", "config"))
        self.assertEqual(up.addresses, [self.address(1).text])

    def test_whoever_wants_them_refreshed_sees_who_has_come_a_moment_ago(self) -> None:
        part = self.start(peers=())
        self.assertEqual(self.ask("storage_peers", part), [])
        for count in (1, 2):
            self.table.provided = [
                Answered(key=front.key, places=(self.address(number).place,))
                for number, front in enumerate(self.fronts[:count])
            ]
            self.assertEqual(len(self.ask("storage_peers", part, refresh=False)), count - 1)
            self.assertEqual([p.member for p in self.ask("storage_peers", part)], [True] * count)

    def test_a_peer_whose_key_changed_is_no_member(self) -> None:
        other = make_identity("somebody else").public
        self.fronts[2].key = other
        self.stop()
        part = self.start()
        shown = {each.peer: each for each in self.ask("storage_peers", part)}
        self.assertFalse(shown[self.address(2).key.text].member)
        self.assertNotIn(other.text, shown)

    def test_shares_are_checked(self) -> None:
        put = self.put()
        fine = self.ask("object_check", object=put.object, depth="full")
        self.assertEqual((fine.health, fine.good, fine.required), ("healthy", 4, 2))
        places = [each.peer for each in fine.shares]
        by_key = {front.key.text: front for front in self.fronts}
        by_key[places[0]].down = True
        by_key[places[1]].rule = lie
        some = self.ask("object_check", object=put.object)
        self.assertEqual((some.health, some.good), ("degraded", 2))
        states = [each.state for each in some.shares]
        self.assertEqual(states, ["unreachable", "damaged", "good", "good"])
        believed = self.ask("object_check", object=put.object, depth="stat")
        self.assertEqual(believed.good, 3)
        by_key[places[2]].down = True
        self.assertEqual(self.ask("object_check", object=put.object).health, "lost")

    def test_one_domain_is_told_if_it_could_kill_the_object(self) -> None:
        self.stop()
        everything = tuple(f"{self.address(n).key.text}=cellar" for n in range(6))
        part = self.start(domains=everything)
        shown = self.ask("object_put", part, path=self.write("x", b"x"))
        self.assertIn("one-domain-is-fatal", self.ended(shown, part).result.flags)

    def test_two_objects_that_begin_alike_are_told_apart(self) -> None:
        put = self.put()
        entry = self.done(
            self.context.database.read(lambda it: ledger.find(it, bytes.fromhex(put.object)))
        )
        like = entry.content_id[:30] + bytes(2)

        def copy(connection: Any) -> None:
            columns = "name, added_ns, manifest, content_key, status, version, document"
            connection.execute(
                f"INSERT INTO storage_objects (content_id, {columns}) "
                f"SELECT ?, {columns} FROM storage_objects",
                (like,),
            )

        self.done(self.context.database.write(copy))
        self.assertRaises(ObjectAmbiguous, self.ask, "object_stat", object=put.object[:12])
        self.assertEqual(self.ask("object_stat", object=put.object).object, put.object)


class SharedTests(ObjectsCase):
    """Somebody else, who is given a string."""

    def setUp(self) -> None:
        super().setUp()
        self.put_done = self.put(TEXT)
        self.run_upkeep()
        capabilities = self.ask("object_capabilities", object=self.put_done.object)
        self.read_cap, self.verify_cap = capabilities.read, capabilities.verify
        self.repair_cap = capabilities.repair
        self.reader = self.new_reader()

    def new_reader(self) -> Any:
        context = evolve(
            self.new_context_of("reader"),
            data_folder=os.path.join(self.folder, "reader", "storage"),
        )
        os.makedirs(os.path.join(self.folder, "reader"), 0o700)
        for number in range(self.count):
            self.table.places[self.address(number).key] = self.address(number)
        return self.start(context, peers=())

    def tearDown(self) -> None:
        super().tearDown()
        self.done(self.reader_context.database.stopService())

    def new_context_of(self, name: str) -> Any:
        self.reader_context = self.new_context(name)
        return self.reader_context

    def test_a_read_capability_is_enough(self) -> None:
        self.assertEqual(self.get(self.read_cap, part=self.reader), TEXT)
        details = self.ask("object_stat", self.reader, object=self.read_cap)
        self.assertEqual((details.own, details.name, details.bytes), (False, None, 25_600))
        self.assertEqual(self.ask("object_list", self.reader).total, 0)

    def test_checking_needs_no_key(self) -> None:
        for capability in (self.verify_cap, self.repair_cap, self.put_done.object):
            checked = self.ask("object_check", self.reader, object=capability)
            self.assertEqual(checked.health, "healthy")
        self.assertRaises(
            NotFound,
            self.ask,
            "object_get",
            self.reader,
            object=self.put_done.object,
            path=f"{self.folder}/x",
        )

    def failing(self, capability: str) -> str:
        path = os.path.join(self.folder, "none")
        shown = self.ask("object_get", self.reader, object=capability, path=path)
        ended = self.ended(shown, self.reader)
        self.assertEqual(ended.state, "failed")
        return str(ended.error.code)

    def test_a_wrong_key_reads_nothing(self) -> None:
        right = expect_capability(self.read_cap, ReadCapability)
        wrong = ReadCapability(right.content_id, b"w" * 32).text
        self.assertEqual(self.failing(wrong), ObjectKeyWrong.code)

    def test_what_nobody_has_published_is_not_found(self) -> None:
        self.table.records.clear()
        self.assertEqual(self.failing(self.read_cap), NotFound.code)

    def test_a_manifest_of_something_else_is_refused(self) -> None:
        (key,) = [key for key in self.table.records if key[0] == "immutable"]
        self.table.records[key] = self.table.records[key][:-1] + b"?"
        self.assertEqual(self.failing(self.read_cap), "OBJECT_MISMATCH")

    def test_a_placement_that_another_key_has_signed_is_refused(self) -> None:
        (key,) = [key for key in self.table.records if key[0] == KIND]
        document = PlacementDocument(bytes.fromhex(self.put_done.object), 9, (None,) * 4)
        self.table.records[key] = document.sign(make_identity("mallory"))
        self.assertEqual(self.failing(self.read_cap), "OBJECT_MISMATCH")

    def test_a_verify_capability_with_another_key_is_refused(self) -> None:
        forged = VerifyCapability(bytes.fromhex(self.put_done.object), b"f" * 32).text
        self.assertRaises(InvalidRequest, self.ask, "object_check", self.reader, object=forged)

    def test_where_the_hash_table_is_not_there_yet_that_is_said(self) -> None:
        self.table.problem = NotReady("not yet")
        self.assertEqual(self.failing(self.read_cap), "NOT_READY")

    def test_what_was_removed_is_not_to_be_had(self) -> None:
        self.ask("object_remove", object=self.put_done.object)
        self.run_upkeep()
        self.assertEqual(self.failing(self.read_cap), ObjectRemoved.code)
        self.assertRaises(
            ObjectRemoved, self.ask, "object_check", self.reader, object=self.verify_cap
        )
        details = self.ask("object_stat", self.reader, object=self.verify_cap)
        self.assertEqual(details.status, "deleted")


class RemoveTests(ObjectsCase):
    def test_what_is_removed_is_gone_everywhere(self) -> None:
        put = self.put()
        removed = self.ask("object_remove", object=put.object)
        self.assertEqual((removed.released, removed.pending), (4, 0))
        self.assertEqual(sum(self.kept), 0)
        self.assertEqual(self.ask("object_list").total, 0)
        (left,) = self.ask("object_list", removed=True).items
        self.assertEqual((left.status, left.placed, left.lease_end), ("deleted", 0, None))
        self.assertRaises(ObjectRemoved, self.ask, "object_capabilities", object=put.object)
        self.assertRaises(
            ObjectRemoved, self.ask, "object_get", object=put.object, path=f"{self.folder}/x"
        )
        # And again: nothing is left to do.
        again = self.ask("object_remove", object=put.object)
        self.assertEqual((again.released, again.pending), (0, 0))

    def test_a_peer_that_is_away_is_told_when_it_is_back(self) -> None:
        put = self.put()
        away = next(f for f, count in zip(self.fronts, self.kept, strict=True) if count)
        away.down = True
        removed = self.ask("object_remove", object=put.object)
        self.assertEqual((removed.released, removed.pending), (3, 1))
        self.run_upkeep()
        self.assertEqual(self.part.status().releases, 1)
        away.down = False
        # It is not asked again at once, and not by another process either.
        self.stop()
        self.part = self.start()
        self.run_upkeep()
        self.assertEqual(sum(self.kept), 1)
        self.pass_time(RETRY_SECONDS + 1)
        self.run_upkeep()
        self.assertEqual((sum(self.kept), self.part.status().releases), (0, 0))

    def test_others_hear_of_it_for_as_long_as_anything_may_be_left(self) -> None:
        put = self.put()
        self.run_upkeep()
        self.ask("object_remove", object=put.object)
        self.run_upkeep()
        (key,) = [key for key in self.table.records if key[0] == KIND]
        until = self.table.until[key]
        self.assertAlmostEqual(until or 0, (self.now() + REMEMBER_SECONDS) * 1000, delta=60_000)
        self.pass_time(REMEMBER_SECONDS - 10 * 86_400)
        self.run_upkeep()
        self.assertEqual(self.ask("object_list", removed=True).total, 1)
        self.pass_time(11 * 86_400)
        self.run_upkeep()
        self.assertEqual(self.ask("object_list", removed=True).total, 0)


class UpkeepTests(ObjectsCase):
    def leases(self, object_id: str) -> set[str]:
        return {each.lease_end for each in self.ask("object_stat", object=object_id).shares}

    def test_leases_are_renewed_when_half_of_them_is_over(self) -> None:
        put = self.put()
        before = self.leases(put.object)
        self.pass_time(LEASE_SECONDS // 2 - 86_400)
        self.run_upkeep()
        self.assertEqual(self.leases(put.object), before)
        self.pass_time(2 * 86_400)
        self.run_upkeep()
        after = self.leases(put.object)
        self.assertTrue(min(after) > max(before))
        self.assertEqual(self.ask("object_stat", object=put.object).version, 2)
        # What was signed anew is published, and the object is there long after the first lease.
        self.run_upkeep()
        (key,) = [key for key in self.table.records if key[0] == KIND]
        entry = self.done(
            self.context.database.read(lambda it: ledger.find(it, bytes.fromhex(put.object)))
        )
        self.assertEqual(self.table.records[key], entry.signed)
        for _ in range(6):
            self.pass_time(LEASE_SECONDS // 4)
            self.run_upkeep()
        self.assertEqual(self.get(put.object), HERON)
        self.assertGreater(self.part.upkeep.renewed, 8)

    def test_a_node_that_was_off_renews_when_it_is_started(self) -> None:
        put = self.put()
        before = self.leases(put.object)
        self.stop()
        self.pass_time(LEASE_SECONDS - 86_400)
        self.part = self.start()
        self.run_upkeep()
        self.assertTrue(min(self.leases(put.object)) > max(before))

    def test_a_peer_that_is_away_is_asked_again_more_often_as_the_end_comes_near(self) -> None:
        put = self.put()
        away = next(f for f, count in zip(self.fronts, self.kept, strict=True) if count)
        away.down = True
        self.pass_time(LEASE_SECONDS // 2 + 1)
        self.run_upkeep()
        first = self.renew_at(put.object) - self.now()
        self.assertTrue(RETRY_SECONDS < first < 3 * 86_400)
        self.pass_time(first + 1)
        self.run_upkeep()
        second = self.renew_at(put.object) - self.now()
        self.assertLess(second, first)
        away.down = False
        self.pass_time(second + 1)
        self.run_upkeep()
        self.assertGreater(self.renew_at(put.object) - self.now(), 10 * 86_400)

    def test_one_that_hangs_does_not_hold_up_the_leases_of_many_objects(self) -> None:
        puts = [self.put(name=f"{number}.txt") for number in range(5)]
        before = {put.object: self.leases(put.object) for put in puts}
        self.pass_time(LEASE_SECONDS // 2 + 1)
        self.fronts[0].rule = hang("renew")
        began = self.clock.seconds()
        self.part.upkeep.wake()
        self.clock.advance(0)
        self.until(lambda: self.part.upkeep._running is None)
        self.assertLess(self.clock.seconds() - began, 2 * self.part.upkeep._deadline)
        for put in puts:
            self.assertGreater(max(self.leases(put.object)), max(before[put.object]))

    def renew_at(self, object_id: str) -> int:
        entry = self.done(
            self.context.database.read(lambda it: ledger.find(it, bytes.fromhex(object_id)))
        )
        return int(entry.renew_at or 0)

    def test_a_share_whose_lease_ended_long_ago_is_nowhere(self) -> None:
        put = self.put()
        away = next(f for f, count in zip(self.fronts, self.kept, strict=True) if count)
        away.down = True
        for _ in range(2 * (LEASE_SECONDS + GRACE_SECONDS) // (4 * 86_400)):
            self.pass_time(4 * 86_400)
            self.run_upkeep()
        places = [each.peer for each in self.ask("object_stat", object=put.object).shares]
        self.assertEqual(places.count(None), 1)
        self.assertNotIn(away.key.text, places)

    def test_an_owner_who_was_away_for_months_and_reaches_nobody_at_first_forgets_no_share(
        self,
    ) -> None:
        put = self.put()
        before = [each.peer for each in self.ask("object_stat", object=put.object).shares]
        self.assertNotIn(None, before)
        leases = self.leases(put.object)
        self.stop()
        self.pass_time(LEASE_SECONDS + GRACE_SECONDS + 86_400)
        for front in self.fronts:
            front.down = True
        self.part = self.start()
        self.run_upkeep()
        after = [each.peer for each in self.ask("object_stat", object=put.object).shares]
        self.assertEqual(after, before)
        # Their clocks go by this one too, but none has looked yet for what it need not keep.
        for front in self.fronts:
            front.down = False
        self.pass_time(RETRY_SECONDS + 1)
        self.run_upkeep()
        self.assertGreater(min(self.leases(put.object)), max(leases))
        self.assertEqual(self.get(put.object), HERON)

    def test_what_was_put_is_published_at_once_however_long_the_disk_takes(self) -> None:
        late = LateDisk(self.context.database, self.clock, 0.5)
        part = self.start(evolve(self.context, database=late))
        put = self.ask("object_put", part, path=self.write("heron.txt", HERON))
        self.assertEqual(self.ended(put, part).state, "done")
        # As soon as it is said that it was put, it is said that it is not published yet.
        self.assertEqual(part.status().publishing, 1)
        self.until(lambda: not part.status().publishing, 5)
        self.assertEqual(len(self.table.records), 2)

    def test_what_the_hash_table_does_not_take_is_published_later(self) -> None:
        self.table.problem = NotReady("not yet")
        self.put()
        self.run_upkeep()
        self.assertEqual((self.part.status().publishing, self.table.records), (1, {}))
        self.table.problem = None
        self.pass_time(600)
        self.run_upkeep()
        self.assertEqual((self.part.status().publishing, len(self.table.records)), (0, 2))

    def test_that_is_soon_tried_again_at_first_and_less_often_later(self) -> None:
        self.table.problem = NotReady("nobody is known")
        tried: list[float] = []
        put = self.table.put

        def counted(*arguments: Any, **more: Any) -> Any:
            tried.append(self.clock.seconds())
            return put(*arguments, **more)

        self.patch(self.table, "put", counted)
        began = self.clock.seconds()
        self.put()
        self.until(lambda: self.clock.seconds() - began > 60, 100)
        self.assertTrue(3 <= len(tried) <= 5, tried)
        self.until(lambda: self.clock.seconds() - began > 3_600, 4_000)
        self.assertTrue(12 <= len(tried) <= 20, tried)
        self.table.problem = None
        self.until(lambda: not self.part.upkeep.totals.publishing)
        self.assertEqual(len(self.table.records), 2)

    def test_what_nobody_else_can_find_is_not_published_yet(self) -> None:
        self.table.others = 0
        tried: list[float] = []
        put = self.table.put

        def counted(*arguments: Any, **more: Any) -> Any:
            tried.append(self.clock.seconds())
            return put(*arguments, **more)

        self.patch(self.table, "put", counted)
        began = self.clock.seconds()
        self.put()
        self.until(lambda: self.clock.seconds() - began > 60, 100)
        self.assertEqual(self.part.status().publishing, 1)
        # Twice each time: what it is, and where its shares are.
        self.assertTrue(6 <= len(tried) <= 10, tried)
        # It stays so for a day, and is tried each hour then.
        self.until(lambda: self.clock.seconds() - began > 86_400, 90_000)
        self.assertTrue(2 * 24 <= len(tried) <= 2 * 36, tried)
        self.assertEqual(self.part.status().publishing, 1)
        self.table.others = 1
        self.until(lambda: not self.part.status().publishing, 4_000)
        self.assertEqual(len(self.table.records), 2)

    def test_nothing_is_published_if_that_is_not_wanted(self) -> None:
        self.stop()
        part = self.start(publish=False)
        shown = self.ask("object_put", part, path=self.write("x", b"x"))
        self.assertEqual(self.ended(shown, part).state, "done")
        self.run_upkeep(part)
        self.assertEqual((self.table.records, part.status().publishing), ({}, 0))
        self.assertIn(KIND, self.table.kinds)


class RestartTests(ObjectsCase):
    big = 20 * 1024 * 1024

    def begin(self, size: int) -> Any:
        for front in self.fronts:
            front.delay = 0.5
        self.data = bytes(range(256)) * (size // 256)
        return self.ask("object_put", path=self.write("big", self.data), scheme="2+2")

    def spooled(self) -> list[str]:
        folder = os.path.join(self.context.data_folder, "uploads")
        return sorted(os.path.splitext(name)[1] for name in os.listdir(folder))

    def sent(self) -> int:
        return sum(front.calls.count("write") for front in self.fronts)

    def test_a_put_goes_on_where_it_was_after_a_stop(self) -> None:
        begun = self.begin(self.big)
        self.until(lambda: self.sent() >= 16)
        self.assertEqual(self.spooled(), [".journal", ".sealed"])
        self.stop()
        self.part = self.start()
        ended = self.ended(begun)
        self.assertEqual((ended.state, ended.result.missing), ("done", []))
        self.assertEqual(self.spooled(), [])
        self.assertEqual(self.get(ended.object), self.data)
        # All but what was on its way was sent once.
        self.assertLess(self.sent(), 10 * 4 + 4 + 8)

    def test_a_small_one_begins_anew_and_nothing_of_the_first_is_left(self) -> None:
        begun = self.begin(1024 * 1024)
        self.until(lambda: self.sent() >= 1)
        self.stop()
        self.assertEqual(self.spooled(), [])
        self.part = self.start()
        ended = self.ended(begun)
        self.assertEqual(ended.state, "done")
        self.assertEqual(sum(self.kept), 4)
        self.assertEqual(self.get(ended.object), self.data)

    def test_a_put_that_was_done_and_not_written_down_is_finished_and_counted_once(self) -> None:
        begun = self.begin(self.big)
        write, lost = self.context.database.write, []

        def lose(job: Any) -> Deferred[Any]:
            # The peers have it all, and the disk with the ledger is full.
            lost.append(job)
            return fail(StorageFailed("no space left"))

        self.until(lambda: any("close" in front.calls for front in self.fronts))
        self.context.database.write = lose
        self.until(lambda: bool(lost) and sum(self.kept) == 4)
        self.context.database.write = write
        self.assertEqual(self.spooled(), [".journal", ".sealed"])
        self.flushLoggedErrors()
        self.stop()
        self.part = self.start()
        ended = self.ended(begun)
        self.assertEqual((ended.state, sum(self.kept)), ("done", 4))
        self.assertEqual(self.ask("object_list").total, 1)
        self.assertEqual(self.get(ended.object), self.data)

    def test_what_is_left_of_a_transfer_that_has_ended_is_taken_away(self) -> None:
        begun = self.begin(self.big)
        self.until(lambda: self.sent() >= 8)
        self.stop()
        transfer = bytes.fromhex(begun.id)
        self.done(
            self.context.database.write(
                lambda it: ledger.end_transfer(it, transfer, "cancelled", 1)
            )
        )
        self.assertEqual(self.spooled(), [".journal", ".sealed"])
        self.part = self.start()
        self.assertEqual(self.spooled(), [])

    def test_sealed_segments_that_no_journal_speaks_of_are_taken_away(self) -> None:
        begun = self.begin(self.big)
        self.until(lambda: self.sent() >= 8)
        self.stop()
        folder = os.path.join(self.context.data_folder, "uploads")
        with open(os.path.join(folder, "ab" * 32 + ".sealed"), "wb") as file:
            file.write(b"left by a kill")
        self.part = self.start()
        self.assertEqual(self.spooled(), [".journal", ".sealed"])
        self.assertEqual(self.ended(begun).state, "done")
        # It went on with what the journal speaks of.
        self.assertLess(self.sent(), 10 * 4 + 4 + 8)

    def test_a_get_begins_anew_and_leaves_nothing_beside_it(self) -> None:
        put = self.put(bytes(2 * 1024 * 1024))
        for front in self.fronts:
            front.delay = 0.5
        path = os.path.join(self.folder, "copy")
        begun = self.ask("object_get", object=put.object, path=path)
        self.clock.advance(0.1)
        self.stop()
        self.part = self.start()
        self.assertEqual(self.ended(begun).state, "done")
        self.assertEqual(self.read("copy"), bytes(2 * 1024 * 1024))
        self.assertEqual([n for n in os.listdir(self.folder) if n.startswith(".")], [])


class ConfigTests(ObjectsCase):
    count = 0

    def test_what_cannot_be_used_is_refused_with_its_name(self) -> None:
        key = make_identity("peer").public.text
        table: list[tuple[dict[str, Any], str]] = [
            ({"scheme": "6of9"}, "storage.scheme"),
            ({"peers": ("127.0.0.1:7670",)}, "storage.peers"),
            ({"peers": (self.address(1).text,) * 2}, "storage.peers.*twice"),
            ({"domains": ("rack-1",)}, "storage.domains"),
            ({"domains": (f"{key}=",)}, "storage.domains"),
            ({"domains": (f"{key}=a", f"{key}=b")}, "has two"),
        ]
        for config, what in table:
            with self.subTest(what), self.assertRaisesRegex(ConfigError, what):
                self.start(**config)

    def test_a_domain_is_given_to_a_key_whatever_signs_are_in_it(self) -> None:
        key = make_identity("peer").public
        config = Config(domains=(f" {key.text} = rack-1 ", f"{key.text}=rack-1"))
        self.assertEqual(config.decided(), {key: "rack-1"})
