"""Notes on audits that a peer has not answered."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.containment import (
    MAX_CONTAINED,
    MAX_SHARES,
    Contained,
    ContainedShare,
    MemoryContainments,
)
from meshkit.errors import ObjectMalformed
from meshkit.identity.envelope import MAX_ENVELOPE
from meshkit.identity.keys import Identity

PEER = Identity(bytes(32)).public
OTHER = Identity(bytes([1]) * 32).public


def note(number: int = 1, shares: int = 1, statement: int = 40) -> Contained:
    """A note like those that are kept."""
    return Contained(
        PEER,
        bytes([number]) * 16,
        b"o" * statement,
        b"a" * statement,
        b"s" * 32,
        1_000 - number,
        tuple(
            ContainedShare(b"c" * 32, at % 255, b"r" * 32, 2**40 + at, 1_800_000_000)
            for at in range(shares)
        ),
    )


class Notes(SynchronousTestCase):
    def test_a_note_is_read_as_it_was_written(self) -> None:
        for each in (note(), note(2, 7), evolve(note(3), tries=2, tried=7)):
            self.assertEqual(Contained.decode(each.encode()), each)

    def test_the_largest_audit_fits(self) -> None:
        largest = note(1, MAX_SHARES, MAX_ENVELOPE)
        raw = largest.encode()
        self.assertLessEqual(len(raw), MAX_CONTAINED)
        self.assertEqual(Contained.decode(raw), largest)

    def test_an_audit_of_nothing_or_of_too_much_is_none(self) -> None:
        for shares in (0, MAX_SHARES + 1):
            with self.assertRaises(ObjectMalformed):
                Contained.decode(note(1, shares).encode())

    @given(st.integers(0), st.integers(0, 255))
    def test_a_changed_byte_is_another_note_or_none(self, at: int, byte: int) -> None:
        raw = bytearray(note().encode())
        at %= len(raw)
        if raw[at] == byte:
            return
        raw[at] = byte
        try:
            read = Contained.decode(bytes(raw))
        except ObjectMalformed:
            return
        self.assertNotEqual(read, note())
        self.assertEqual(read.encode(), bytes(raw))


class InMemory(SynchronousTestCase):
    def setUp(self) -> None:
        self.kept = MemoryContainments()

    def of(self, peer: object = PEER) -> list[Contained]:
        return list(self.successResultOf(self.kept.of(peer)))  # type: ignore[arg-type]

    def test_the_notes_on_a_peer_come_oldest_first(self) -> None:
        for number in (1, 3, 2):
            self.successResultOf(self.kept.put(note(number)))
        self.successResultOf(self.kept.put(evolve(note(4), peer=OTHER)))
        self.assertEqual(self.of(), [note(3), note(2), note(1)])

    def test_a_note_takes_the_place_of_the_one_on_the_same_audit(self) -> None:
        self.successResultOf(self.kept.put(note()))
        again = evolve(note(), tries=1)
        self.successResultOf(self.kept.put(again))
        self.assertEqual(self.of(), [again])

    def test_what_is_removed_is_gone_and_may_be_gone_before(self) -> None:
        self.successResultOf(self.kept.put(note()))
        self.successResultOf(self.kept.remove(OTHER, note().audit_id))
        self.assertEqual(self.of(), [note()])
        for _ in range(2):
            self.successResultOf(self.kept.remove(PEER, note().audit_id))
            self.assertEqual(self.of(), [])
