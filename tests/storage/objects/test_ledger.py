"""What a node has written down of its objects."""

from __future__ import annotations

import sqlite3
from random import Random
from shutil import rmtree
from tempfile import mkdtemp

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotFound, ObjectAmbiguous, Overloaded, PlacementConflict
from meshkit.identity.keys import Identity
from meshkit.storage.header import Header
from meshkit.storage.manifest import Manifest
from meshkit.storage.objects import ledger
from meshkit.storage.objects.ledger import Entry, Release, Transfer
from meshkit.storage.placement_document import Placed, PlacementDocument, placement_seed
from meshkit.storage.scheme import Scheme
from meshkit.storage.terms import LEASE_SECONDS
from meshkit.testing.identities import make_identity

SECRET = b"s" * 32
KEY = b"k" * 32
NOW = 1_800_000_000
SCHEME = Scheme(2, 3, 4096)
PEERS = [make_identity(number).public for number in range(3)]


def signer(upload: bytes) -> Identity:
    return Identity(placement_seed(SECRET, upload))


def entry(number: int = 1, renew_at: int | None = NOW + 100) -> Entry:
    upload = bytes([number]) * 32
    key = signer(upload)
    header = Header.new(SCHEME, upload, key.public, KEY, Random(number))
    manifest = Manifest(header, 10_000, b"r" * 32, (b"0" * 32, b"1" * 32, b"2" * 32))
    document = PlacementDocument(
        manifest.content_id, 1, tuple(Placed(peer, NOW + 1_000) for peer in PEERS)
    )
    return Entry(f"file {number}", number, manifest, KEY, document, document.sign(key), renew_at)


def moved(found: Entry) -> tuple[PlacementDocument, bytes]:
    document = found.document.moved(0, None)
    return document, document.sign(signer(found.manifest.header.upload))


class LedgerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.db = sqlite3.connect(":memory:")
        self.addCleanup(self.db.close)
        for script in ledger.MIGRATIONS:
            self.db.executescript(script)

    def found(self, content_id: bytes) -> Entry:
        result = ledger.find(self.db, content_id)
        assert result is not None
        return result


class ObjectTests(LedgerCase):
    def test_an_object_is_found_as_it_was_added_and_added_once(self) -> None:
        one = entry()
        ledger.add(self.db, one, None)
        ledger.add(self.db, evolve(one, name="again"), NOW)
        self.assertEqual(self.found(one.content_id), one)
        self.assertIsNone(ledger.find(self.db, b"?" * 32))
        capability = one.capability
        assert capability is not None
        self.assertEqual(capability.key, KEY)

    def test_the_newest_are_listed_first_page_by_page(self) -> None:
        entries = [entry(number) for number in range(5)]
        for each in entries:
            ledger.add(self.db, each, None)
        first, total = ledger.page(self.db, 2, 0, False)
        rest, _ = ledger.page(self.db, 10, 2, False)
        self.assertEqual((total, [*first, *rest]), (5, entries[::-1]))

    def test_the_beginning_of_an_id_calls_an_object_if_it_is_the_only_one(self) -> None:
        some = [entry(number) for number in range(40)]
        for each in some:
            ledger.add(self.db, each, None)
        for each in some:
            text = each.content_id.hex()
            for digits in (8, 9, 63, 64):
                self.assertEqual(ledger.resolve(self.db, text[:digits]), each.content_id)
        firsts = [each.content_id.hex()[0] for each in some]
        shared = next(digit for digit in firsts if firsts.count(digit) > 1)
        self.assertRaises(ObjectAmbiguous, ledger.resolve, self.db, shared)
        alone = [digit for digit in firsts if firsts.count(digit) == 1]
        for digit in alone:
            wanted = some[firsts.index(digit)].content_id
            self.assertEqual(ledger.resolve(self.db, digit), wanted)
        absent = next(f"{n:08x}" for n in range(99) if f"{n:08x}" not in str(some))
        self.assertRaises(NotFound, ledger.resolve, self.db, absent)

    def test_of_two_who_change_one_version_one_is_refused(self) -> None:
        one = entry()
        ledger.add(self.db, one, None)
        document, signed = moved(one)
        ledger.swap(self.db, one, document, signed, renew_at=NOW, publish_at=NOW)
        with self.assertRaisesRegex(PlacementConflict, "changed meanwhile"):
            ledger.swap(self.db, one, document, signed, renew_at=None, publish_at=None)
        again = self.found(one.content_id)
        self.assertEqual((again.document, again.signed, again.renew_at), (document, signed, NOW))
        # And what does not follow is refused whoever writes.
        self.assertRaises(
            PlacementConflict,
            ledger.swap,
            self.db,
            again,
            document,
            signed,
            renew_at=None,
            publish_at=None,
        )

    def remove(self, one: Entry) -> None:
        document = one.document.deleted()
        signed = document.sign(signer(one.manifest.header.upload))
        ledger.remove(self.db, one, document, signed, NOW, NOW)

    def test_what_is_removed_has_no_key_any_more_and_leases_to_give_up(self) -> None:
        one, other = entry(1), entry(2)
        ledger.add(self.db, one, None)
        ledger.add(self.db, other, None)
        self.remove(one)
        gone = self.found(one.content_id)
        self.assertEqual((gone.key, gone.capability, gone.status), (None, None, "deleted"))
        self.assertIsNone(gone.renew_at)
        self.assertEqual(ledger.page(self.db, 9, 0, False), ([other], 1))
        self.assertEqual(ledger.page(self.db, 9, 0, True), ([other, gone], 2))
        upload = one.manifest.header.upload
        wanted = [Release(upload, n, peer.raw, NOW + 1_000) for n, peer in enumerate(PEERS)]
        self.assertEqual(ledger.due_releases(self.db, NOW, 9), wanted)
        self.assertEqual(ledger.due_releases(self.db, NOW - 1, 9), [])
        self.assertRaises(PlacementConflict, self.remove, one)
        # It is the key of this object alone that is gone.
        self.assertEqual(self.found(other.content_id).key, KEY)

    def test_the_key_of_what_is_removed_is_nowhere_in_the_file(self) -> None:
        folder = mkdtemp()
        self.addCleanup(rmtree, folder)
        path = f"{folder}/ledger.db"
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA secure_delete = OFF")
        for script in ledger.MIGRATIONS:
            connection.executescript(script)
        one = evolve(entry(), key=b"the key that opens it, 32 bytes.")
        ledger.add(connection, one, None)
        connection.commit()
        with open(path, "rb") as file:
            self.assertIn(one.key, file.read())
        self.db = connection
        self.remove(one)
        connection.commit()
        self.assertEqual(connection.execute("PRAGMA secure_delete").fetchone(), (0,))
        connection.close()
        with open(path, "rb") as file:
            self.assertNotIn(one.key, file.read())

    def test_what_was_removed_long_ago_is_forgotten_and_nothing_else(self) -> None:
        one = entry()
        ledger.add(self.db, one, None)
        ledger.forget(self.db, one.content_id)
        self.assertEqual(ledger.forgettable(self.db, NOW + 10**9, 9), [])
        self.remove(self.found(one.content_id))
        self.assertEqual(ledger.forgettable(self.db, NOW, 9), [])
        (old,) = ledger.forgettable(self.db, NOW + 1, 9)
        ledger.forget(self.db, old.content_id)
        self.assertIsNone(ledger.find(self.db, one.content_id))


class DueTests(LedgerCase):
    def test_what_is_due_first_comes_first(self) -> None:
        entries = [entry(number, NOW + 9 - number) for number in range(5)]
        for each in entries:
            ledger.add(self.db, each, NOW + each.added_ns)
        self.assertEqual(ledger.due_to_renew(self.db, NOW + 6, 9), entries[:2:-1])
        self.assertEqual(ledger.due_to_publish(self.db, NOW + 1, 9), entries[:2])
        self.assertEqual(len(ledger.due_to_renew(self.db, NOW + 99, 3)), 3)

    def test_a_renewal_is_put_off_unless_another_version_is_there(self) -> None:
        one = entry()
        ledger.add(self.db, one, None)
        newer = evolve(one, document=evolve(one.document, version=2))
        self.assertRaises(PlacementConflict, ledger.set_renewal, self.db, newer, NOW + 7)
        self.assertEqual(self.found(one.content_id).renew_at, NOW + 100)
        ledger.set_renewal(self.db, one, NOW + 7)
        self.assertEqual(self.found(one.content_id).renew_at, NOW + 7)

    def test_a_lease_is_kept_until_there_is_one_where_the_share_is_now(self) -> None:
        one = entry()
        upload = one.manifest.header.upload
        there = make_identity("there").public
        after = one.document.moved(1, Placed(there, NOW + 1_000))

        def due() -> list[int]:
            return [each.number for each in ledger.due_releases(self.db, NOW, 9)]

        def move(by_us: bool, back: bool = False) -> None:
            before, then = (after, one.document) if back else (one.document, after)
            ledger.release_moved(self.db, one.manifest, before, then, b"r" * 32, NOW, by_us=by_us)

        move(by_us=False)
        self.assertEqual(due(), [])
        ledger.hasten(self.db, upload, (0, 2), NOW)
        self.assertEqual(due(), [])
        ledger.hasten(self.db, upload, (1,), NOW)
        (release,) = ledger.due_releases(self.db, NOW, 9)
        self.assertEqual(release, Release(upload, 1, PEERS[1].raw, NOW + LEASE_SECONDS, b"r" * 32))
        # It comes back, and nothing is given up where it is then.
        move(by_us=True, back=True)
        (release,) = ledger.due_releases(self.db, NOW, 9)
        self.assertEqual((release.peer, release.lease_end), (there.raw, NOW + 1_000))

    def test_only_what_was_published_is_not_due_any_more(self) -> None:
        one = entry()
        ledger.add(self.db, one, NOW)
        document, signed = moved(one)
        ledger.swap(self.db, one, document, signed, renew_at=None, publish_at=NOW)
        # Version 1 was on its way meanwhile.
        ledger.set_publish(self.db, one.content_id, 1, None)
        (due,) = ledger.due_to_publish(self.db, NOW, 9)
        ledger.set_publish(self.db, one.content_id, due.document.version, None)
        self.assertEqual(ledger.due_to_publish(self.db, NOW + 10**9, 9), [])

    def test_what_is_to_be_published_next_is_known(self) -> None:
        self.assertIsNone(ledger.next_to_publish(self.db, NOW))
        for n, when in enumerate((NOW - 5, NOW, NOW + 40, NOW + 30, None)):
            ledger.add(self.db, entry(n), when)
        self.assertEqual(ledger.next_to_publish(self.db, NOW), NOW + 30)
        self.assertEqual(ledger.next_to_publish(self.db, NOW - 1), NOW)
        self.assertIsNone(ledger.next_to_publish(self.db, NOW + 40))

    def test_a_release_waits_and_is_done_once(self) -> None:
        one, two = (Release(b"u" * 32, n, b"p" * 32, NOW + n) for n in (0, 1))
        ledger.release(self.db, [one, two], NOW)
        ledger.release(self.db, [two], NOW + 60)
        self.assertEqual(ledger.due_releases(self.db, NOW, 9), [one])
        ledger.released(self.db, [one])
        self.assertEqual(ledger.due_releases(self.db, NOW + 60, 9), [two])
        self.assertEqual(ledger.totals(self.db, NOW).releases, 1)

    def test_totals_tell_what_is_still_to_be_done(self) -> None:
        ledger.add(self.db, entry(1, NOW), NOW)
        ledger.add(self.db, entry(2, NOW + 1), None)
        self.assertEqual(ledger.totals(self.db, NOW), ledger.Totals(2, 1, 1, 0))


class TransferTests(LedgerCase):
    def begin(self, number: int, limit: int = 100, **more: object) -> Transfer:
        made = Transfer(bytes([number]) * 8, 0, "put", "done", f"/file {number}")
        return ledger.begin_transfer(self.db, evolve(made, **more), limit)  # type: ignore[arg-type]

    def test_a_transfer_waits_and_is_numbered(self) -> None:
        one, two = self.begin(1), self.begin(2, scheme="2+1")
        self.assertEqual((one.number, two.number, one.state), (1, 2, "waiting"))
        self.assertEqual(ledger.open_transfers(self.db), [one, two])
        self.assertEqual(ledger.list_transfers(self.db, 1), [two])
        self.assertEqual(ledger.find_transfer(self.db, two.id), two)
        self.assertIsNone(ledger.find_transfer(self.db, b"?" * 8))

    def test_only_so_many_wait(self) -> None:
        self.begin(1, 2)
        self.begin(2, 2)
        self.assertRaises(Overloaded, self.begin, 3, 2)
        ledger.end_transfer(self.db, bytes([1]) * 8, "failed", 5)
        self.begin(3, 2)

    def test_what_has_ended_stays_so_and_forgets_its_key(self) -> None:
        one = self.begin(1, kind="get", key=KEY, content_id=b"o" * 32, replace=True)
        self.assertTrue(one.replace)
        ledger.end_transfer(self.db, one.id, "done", 7, result=b"{}")
        ledger.end_transfer(self.db, one.id, "failed", 8, error_code="X", error="x")
        found = ledger.find_transfer(self.db, one.id)
        wanted = evolve(one, state="done", ended_ns=7, result=b"{}", key=None)
        self.assertEqual(found, wanted)
        self.assertTrue(wanted.ended)
        self.assertEqual(ledger.open_transfers(self.db), [])

    def test_only_the_last_that_have_ended_are_remembered(self) -> None:
        waiting = self.begin(0)
        self.patch(ledger, "MAX_ENDED", 3)
        for number in range(1, 9):
            ledger.end_transfer(self.db, self.begin(number).id, "done", number)
        left = [each.number for each in ledger.list_transfers(self.db, 99)]
        self.assertEqual(left, [9, 8, 7, 1])
        self.assertEqual(ledger.open_transfers(self.db), [waiting])
