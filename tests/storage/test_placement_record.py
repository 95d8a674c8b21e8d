"""Documents in the hash table: whose they are, and which one counts."""

from __future__ import annotations

from random import Random

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import RecordForeignOwner, RecordInvalid, RecordTooLarge
from meshkit.identity.contexts import STORAGE_RECEIPT
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity
from meshkit.interfaces import IRecordKind
from meshkit.kademlia.distance import record_key
from meshkit.kademlia.kinds import Kinds
from meshkit.kademlia.records import Record
from meshkit.storage.placement_document import (
    MAX_DOCUMENT,
    Placed,
    PlacementDocument,
)
from meshkit.storage.placement_record import KIND, PLACEMENT_KIND, placement_record_key
from meshkit.testing.identities import make_identity
from meshkit.testing.kinds import kind_problems
from tests.kademlia.recording import HOUR, NOW
from tests.kademlia.recording import seal as record

ADA, BOB = make_identity("ada"), make_identity("bob")
OBJECT = make_identity("the key of an object")
PLACED = Placed(make_identity("peer").public, 2_000_000_000)
DOCUMENT = PlacementDocument(b"c" * 32, 1, (PLACED, None, PLACED))


def seal(
    value: bytes,
    by: Identity = ADA,
    sequence: int = NOW,
    expires: int = NOW + HOUR,
    key: bytes | None = None,
    salt: bytes = b"",
) -> Record:
    key = placement_record_key(OBJECT.public) if key is None else key
    return record(by, KIND, key, value, sequence=sequence, expires=expires, salt=salt)


def version(number: int) -> PlacementDocument:
    return evolve(DOCUMENT, version=number)


class PlacementKindTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.kinds = Kinds()
        self.kinds.register(PLACEMENT_KIND)

    def test_it_is_a_kind_of_records(self) -> None:
        verifyObject(IRecordKind, PLACEMENT_KIND)

    def test_a_document_is_found_by_the_key_that_signed_it(self) -> None:
        wanted = record_key(KIND, OBJECT.public.raw)
        self.assertEqual(placement_record_key(OBJECT.public), wanted)
        self.assertIs(self.kinds.check(seal(DOCUMENT.sign(OBJECT)), NOW), PLACEMENT_KIND)

    def test_one_under_another_objects_key_is_refused(self) -> None:
        with self.assertRaises(RecordForeignOwner):
            self.kinds.check(seal(DOCUMENT.sign(BOB)), NOW)

    def test_what_is_no_document_is_refused(self) -> None:
        signed = DOCUMENT.sign(OBJECT)
        changed = bytearray(signed)
        changed[-1] ^= 1
        foreign = Envelope.seal(OBJECT, STORAGE_RECEIPT, DOCUMENT.payload).raw
        # The envelope itself in another form: what is signed in it is the same.
        longer = b"\xdc\x00\x04" + signed[1:]
        for value in (b"", b"anything", bytes(changed), foreign, longer):
            with self.subTest(value[:16]), self.assertRaises(RecordInvalid):
                self.kinds.check(seal(value), NOW)
        with self.assertRaises(RecordInvalid):
            self.kinds.check(seal(signed, salt=b"salt"), NOW)
        with self.assertRaises(RecordTooLarge):
            self.kinds.check(seal(bytes(MAX_DOCUMENT + 1)), NOW)

    def test_the_largest_document_fits(self) -> None:
        most = evolve(DOCUMENT, shares=(PLACED,) * 255, version=2**63 - 1)
        self.kinds.check(seal(most.sign(OBJECT)), NOW)

    def test_the_higher_version_counts_whoever_brings_it_and_whenever(self) -> None:
        old = seal(version(1).sign(OBJECT), ADA, NOW + 9, NOW + 2 * HOUR)
        new = seal(version(2).sign(OBJECT), BOB)
        self.assertIs(PLACEMENT_KIND.merge(old, new), new)
        self.assertIs(PLACEMENT_KIND.merge(new, old), new)
        for lease_end in range(20):
            # Whatever the hashes are.
            placed = Placed(PLACED.peer, lease_end)
            later = seal(evolve(version(2), shares=(placed,)).sign(OBJECT), BOB)
            self.assertIs(PLACEMENT_KIND.merge(old, later), later)
            self.assertIs(PLACEMENT_KIND.merge(later, old), later)
        (kept,) = self.kinds.merged([new, old])
        self.assertIs(kept, new)

    def test_of_two_documents_of_one_version_the_same_stays_however_often_they_come(self) -> None:
        one = version(2).sign(OBJECT)
        other = evolve(version(2), shares=(None, None, PLACED)).sign(OBJECT)
        first = PLACEMENT_KIND.merge(seal(one), seal(other)).value
        for sequence in range(4):
            later = seal(one, ADA, NOW + sequence, NOW + HOUR + sequence)
            self.assertEqual(PLACEMENT_KIND.merge(seal(other), later).value, first)

    def test_it_is_lawful(self) -> None:
        rng = Random(5)
        records = [
            seal(
                evolve(version(number), shares=(PLACED,) * shares).sign(OBJECT),
                rng.choice((ADA, BOB)),
                NOW + rng.randrange(2),
                NOW + HOUR + rng.randrange(2),
            )
            for number in (1, 2)
            for shares in (2, 3)
            for _ in range(2)
        ]
        self.assertEqual(kind_problems(PLACEMENT_KIND, records, NOW), [])
