"""Tests of L{meshkit.storage.manifest}."""

from __future__ import annotations

from hashlib import sha256

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto.stream import MAX_TEXT, StreamKeys
from meshkit.errors import ObjectMalformed, ObjectMismatch, ObjectTooLarge
from meshkit.storage.manifest import MAX_MANIFEST, Manifest
from meshkit.storage.scheme import Layout, Scheme
from tests.storage.objects import SMALL, make_header, make_manifest, seal_text


class Manifests(SynchronousTestCase):
    @given(st.integers(0, MAX_TEXT), st.integers(1, 16), st.integers(0, 200), st.integers(0, 99))
    def test_what_is_read_is_what_was_written(
        self, length: int, required: int, more: int, seed: int
    ) -> None:
        manifest = make_manifest(length, Scheme(required, required + more), seed)
        again = Manifest.decode(manifest.raw)
        self.assertEqual(again, manifest)
        self.assertEqual((again.raw, again.content_id), (manifest.raw, manifest.content_id))
        again.check(manifest.content_id)

    def test_from_the_page_alone(self) -> None:
        """Written from the description, with nothing of ours but the root of the tree."""
        header, key = make_header()
        text = bytes(range(250)) * 200
        _, root = seal_text(header, key, text)
        manifest = Manifest(header, len(text), root, tuple(bytes([n]) * 32 for n in range(9)))
        self.assertEqual(
            msgpack.unpackb(manifest.raw),
            ["manifest/1", header.raw, 50_000, root, [bytes([n]) * 32 for n in range(9)]],
        )
        self.assertEqual(manifest.content_id, sha256(manifest.raw).digest())
        self.assertEqual(manifest.layout, Layout(SMALL, 50_000))

    def test_it_is_that_of_one_object(self) -> None:
        manifest = make_manifest()
        roots = (bytes(32),) * 9
        for other in (
            make_manifest(99_999),
            make_manifest(seed=2),
            Manifest(manifest.header, manifest.length, bytes(32), manifest.shares),
            Manifest(manifest.header, manifest.length, manifest.root, roots),
        ):
            with self.assertRaisesRegex(ObjectMismatch, manifest.content_id.hex()[:16]):
                manifest.check(other.content_id)
        for other_id in (b"", manifest.content_id[:-1]):
            with self.assertRaises(ObjectMismatch):
                manifest.check(other_id)

    def test_every_truncation(self) -> None:
        raw = make_manifest().raw
        for length in range(len(raw)):
            with self.assertRaises(ObjectMalformed):
                Manifest.decode(raw[:length])
        with self.assertRaises(ObjectMalformed):
            Manifest.decode(raw + b"\x00")

    def test_every_bit_counts(self) -> None:
        manifest = make_manifest(scheme=Scheme(1, 2, 4096))
        for bit in range(8 * len(manifest.raw)):
            changed = bytearray(manifest.raw)
            changed[bit // 8] ^= 1 << bit % 8
            try:
                other = Manifest.decode(bytes(changed))
            except ObjectMalformed:
                continue
            with self.assertRaises(ObjectMismatch):
                other.check(manifest.content_id)

    def test_as_many_roots_as_shares(self) -> None:
        manifest = make_manifest()
        for shares in (manifest.shares[:-1], (*manifest.shares, bytes(32)), ()):
            with self.assertRaisesRegex(ObjectMalformed, f"{len(shares)} shares"):
                Manifest(manifest.header, 1, manifest.root, shares)
            raw = msgpack.packb(["manifest/1", manifest.header.raw, 1, manifest.root, list(shares)])
            with self.assertRaisesRegex(ObjectMalformed, f"{len(shares)} shares"):
                Manifest.decode(raw)
        for root, share in ((b"", bytes(32)), (bytes(32), b"short")):
            with self.assertRaises(ObjectMalformed):
                Manifest(manifest.header, 1, root, (share,) * 9)

    def test_lengths_that_no_object_has(self) -> None:
        manifest = make_manifest(MAX_TEXT, Scheme(6, 9))
        with self.assertRaises(ObjectTooLarge):
            Manifest(manifest.header, MAX_TEXT + 1, manifest.root, manifest.shares)
        fields = msgpack.unpackb(manifest.raw)
        for length in (MAX_TEXT + 1, -1, 2**64 - 1, 1.0, None, "1"):
            with self.assertRaises(ObjectMalformed):
                Manifest.decode(msgpack.packb([*fields[:2], length, *fields[3:]]))

    def test_a_header_that_is_none(self) -> None:
        fields = msgpack.unpackb(make_manifest().raw)
        for header in (b"", fields[1][:-1], fields[1] + b"\x00", bytes(300), fields[0]):
            with self.assertRaises(ObjectMalformed):
                Manifest.decode(msgpack.packb([fields[0], header, *fields[2:]]))

    def test_the_largest(self) -> None:
        manifest = make_manifest(MAX_TEXT, Scheme(64, 255))
        self.assertEqual(len(manifest.raw), 8_893)
        self.assertLess(len(manifest.raw), MAX_MANIFEST)
        with self.assertRaisesRegex(ObjectMalformed, str(MAX_MANIFEST)):
            Manifest.decode(bytes(MAX_MANIFEST + 1))

    def test_no_key_is_in_it(self) -> None:
        header, key = make_header()
        manifest = Manifest(header, 0, bytes(32), (bytes(32),) * 9)
        self.assertNotIn(key, manifest.raw)
        self.assertNotIn(StreamKeys.derive(key, header.salt, b"meshkit/object/1").key, manifest.raw)
