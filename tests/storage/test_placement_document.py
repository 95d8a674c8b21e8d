"""Tests of L{meshkit.storage.placement_document}."""

from __future__ import annotations

import msgpack
from attrs import evolve
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ObjectMalformed, ObjectMismatch, PlacementConflict
from meshkit.identity.contexts import PLACEMENT, ROTATION, Context, signing_input
from meshkit.identity.envelope import Envelope
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import (
    MAX_DOCUMENT,
    MAX_NUMBER,
    Placed,
    PlacementDocument,
    placement_seed,
)
from meshkit.storage.scheme import Scheme
from meshkit.testing.identities import make_identity
from tests.storage.objects import PLACEMENT as OWNER
from tests.storage.objects import make_manifest

MANIFEST = make_manifest()
SECRET = b"s" * 32


def make_document(version: int = 1, manifest: Manifest = MANIFEST) -> PlacementDocument:
    shares = tuple(
        None if n % 4 == 3 else Placed(make_identity(n % 5).public, 1_800_000_000 + n)
        for n in range(manifest.header.scheme.total)
    )
    return PlacementDocument(manifest.content_id, version, shares)


class Documents(SynchronousTestCase):
    def refused(self, raw: bytes, why: str = ".") -> None:
        with self.assertRaisesRegex(ObjectMalformed, why):
            PlacementDocument.open(raw, OWNER.public)

    @given(
        st.integers(1, MAX_NUMBER),
        st.lists(st.none() | st.tuples(st.integers(0, 9), st.integers(0, MAX_NUMBER)), min_size=1),
        st.sampled_from(["live", "deleted"]),
    )
    def test_what_is_read_is_what_was_written(
        self, version: int, shares: list[tuple[int, int] | None], status: str
    ) -> None:
        document = PlacementDocument(
            MANIFEST.content_id,
            version,
            tuple(each and Placed(make_identity(each[0]).public, each[1]) for each in shares),
            "live" if status == "live" else "deleted",
        )
        raw = document.sign(OWNER)
        self.assertEqual(PlacementDocument.open(raw, OWNER.public), document)
        self.assertEqual(document.sign(OWNER), raw)

    def test_from_the_page_alone(self) -> None:
        """Written from the description, with nothing of ours but the signature's form."""
        document = make_document(7)
        context, signer, payload, signature = msgpack.unpackb(document.sign(OWNER))
        self.assertEqual((context, signer), ("placement/1", OWNER.public.raw))
        self.assertTrue(OWNER.public.verifies(signing_input(PLACEMENT, payload), signature))
        self.assertEqual(
            msgpack.unpackb(payload),
            [
                "placement/1",
                MANIFEST.content_id,
                7,
                "live",
                [each and [each.peer.raw, each.lease_end] for each in document.shares],
            ],
        )

    def test_the_key_of_an_object(self) -> None:
        upload = MANIFEST.header.upload
        info = b"meshkit/placement-key/1" + upload
        self.assertEqual(
            placement_seed(SECRET, upload), HKDF(SECRET, 32, b"", SHA256, context=info)
        )
        seeds = {
            placement_seed(secret, each)
            for secret in (SECRET, b"t" * 32)
            for each in (upload, bytes(32))
        }
        self.assertEqual(len(seeds), 4)
        for secret, each in ((SECRET[1:], upload), (SECRET, upload[1:]), (b"", upload)):
            with self.assertRaises(ValueError):
                placement_seed(secret, each)

    def test_every_truncation(self) -> None:
        raw = make_document().sign(OWNER)
        for length in range(len(raw)):
            self.refused(raw[:length])
        self.refused(raw + b"\x00")

    def test_every_bit_counts(self) -> None:
        raw = make_document(manifest=make_manifest(scheme=Scheme(1, 2, 4096))).sign(OWNER)
        for bit in range(8 * len(raw)):
            changed = bytearray(raw)
            changed[bit // 8] ^= 1 << bit % 8
            self.refused(bytes(changed))

    def test_who_signed_it(self) -> None:
        eve = make_identity("eve")
        raw = make_document().sign(eve)
        with self.assertRaisesRegex(ObjectMismatch, "not the key of the object"):
            PlacementDocument.open(raw, OWNER.public)
        context, _, payload, signature = msgpack.unpackb(raw)
        self.refused(
            msgpack.packb([context, OWNER.public.raw, payload, signature]), "was not signed by"
        )

    def test_what_was_kept_is_read_without_its_signature(self) -> None:
        raw = make_document().sign(OWNER)
        self.assertEqual(PlacementDocument.reopen(raw), make_document())
        spoiled = raw[:-1] + bytes([raw[-1] ^ 1])
        self.assertEqual(PlacementDocument.reopen(spoiled), make_document())
        for each in (raw[:-1], b"", Envelope.seal(OWNER, ROTATION, b"x").raw):
            self.assertRaises(ObjectMalformed, PlacementDocument.reopen, each)

    def test_statements_of_other_kinds(self) -> None:
        payload = Envelope.open(make_document().sign(OWNER), PLACEMENT).payload
        self.refused(Envelope.seal(OWNER, ROTATION, payload).raw, "kind 'rotation/1'")
        self.refused(Envelope.seal(OWNER, PLACEMENT, MANIFEST.raw).raw, "'manifest/1' was given")

    def test_payloads_of_another_form(self) -> None:
        good = ["placement/1", MANIFEST.content_id, 1, "live", [None, [bytes(32), 5]]]

        def raw(at: int, value: object) -> bytes:
            payload = msgpack.packb([*good[:at], value, *good[at + 1 :]])
            return Envelope.seal(OWNER, PLACEMENT, payload).raw

        PlacementDocument.open(raw(2, 1), OWNER.public)
        for at, value in (
            (1, bytes(31)),
            (2, 0),
            (2, -1),
            (2, MAX_NUMBER + 1),
            (2, "1"),
            (3, "lost"),
            (3, 1),
            (4, []),
            (4, [None] * 256),
            (4, [[bytes(31), 5]]),
            (4, [[bytes(32), -1]]),
            (4, [[bytes(32), MAX_NUMBER + 1]]),
            (4, [[bytes(32)]]),
            (4, [[bytes(32), 5, 5]]),
            (4, [False]),
        ):
            self.refused(raw(at, value))
        # A number that is longer than it has to be, though properly signed.
        payload = msgpack.packb(good).replace(b"\x01\xa4live", b"\xcc\x01\xa4live")
        self.refused(Envelope.seal(OWNER, PLACEMENT, payload).raw, "one form")

    def test_the_largest(self) -> None:
        shares = (Placed(OWNER.public, MAX_NUMBER),) * 255
        document = PlacementDocument(MANIFEST.content_id, MAX_NUMBER, shares, "deleted")
        raw = document.sign(OWNER)
        self.assertEqual(len(raw), 11_403)
        self.assertLess(len(raw), MAX_DOCUMENT)
        self.refused(bytes(MAX_DOCUMENT + 1), str(MAX_DOCUMENT))

    def test_values_that_are_none(self) -> None:
        document = make_document()
        for changes in (
            {"content_id": b"short"},
            {"version": 0},
            {"version": MAX_NUMBER + 1},
            {"shares": ()},
            {"shares": (None,) * 256},
        ):
            with self.assertRaises(ValueError):
                evolve(document, **changes)
        for lease_end in (-1, MAX_NUMBER + 1):
            with self.assertRaises(ValueError):
                Placed(OWNER.public, lease_end)

    def test_the_context_is_in_the_table(self) -> None:
        self.assertEqual(PLACEMENT, Context("placement/1"))
        signing_input(PLACEMENT, b"")


class Manifests(SynchronousTestCase):
    """A document is about one object."""

    def test_which(self) -> None:
        make_document().check(MANIFEST)
        with self.assertRaisesRegex(ObjectMismatch, "another object"):
            make_document().check(make_manifest(seed=2))

    def test_how_many_shares(self) -> None:
        document = evolve(make_document(), shares=(None,) * 8)
        with self.assertRaisesRegex(ObjectMismatch, "8 shares, and the object 9"):
            document.check(MANIFEST)


class Successors(SynchronousTestCase):
    def test_a_share_moves(self) -> None:
        one = make_document(3)
        placed = Placed(make_identity("new").public, 5)
        two = one.moved(3, placed)
        one.check_successor(two)
        self.assertEqual((two.version, two.shares[3]), (4, placed))
        self.assertEqual([*two.shares[:3], *two.shares[4:]], [*one.shares[:3], *one.shares[4:]])
        self.assertIsNone(two.moved(0, None).shares[0])
        for number in (-1, 9):
            with self.assertRaises(ValueError):
                one.moved(number, placed)

    def test_only_what_is_newer(self) -> None:
        one = make_document(3)
        for version in (1, 2, 3):
            with self.assertRaisesRegex(PlacementConflict, "does not follow version 3"):
                one.check_successor(make_document(version))
        one.check_successor(make_document(99))

    def test_two_at_once(self) -> None:
        """Of two who change the same version one has to begin anew."""
        one = make_document(3)
        kept, late = one.moved(0, None), one.moved(1, None)
        one.check_successor(kept)
        with self.assertRaises(PlacementConflict):
            kept.check_successor(late)

    def test_the_object_stays_the_same(self) -> None:
        one = make_document()
        for other in (
            make_document(2, make_manifest(seed=2)),
            evolve(make_document(2), shares=(None,) * 8),
        ):
            with self.assertRaisesRegex(PlacementConflict, "does not change"):
                one.check_successor(other)

    def test_what_is_deleted_stays_so(self) -> None:
        one = make_document()
        gone = one.deleted()
        one.check_successor(gone)
        self.assertEqual((gone.status, gone.version, set(gone.shares)), ("deleted", 2, {None}))
        with self.assertRaisesRegex(PlacementConflict, "deleted"):
            gone.check_successor(make_document(3))
        gone.check_successor(evolve(gone, version=3))
