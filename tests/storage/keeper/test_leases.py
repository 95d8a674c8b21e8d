"""Tests of L{meshkit.storage.keeper.leases}."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CapacityReached, LeaseUnknown, ObjectMalformed, QuotaReached
from meshkit.storage.keeper.leases import (
    MAX_LEASES,
    MAX_LEASES_EACH,
    Deadlines,
    Lease,
    ShardNote,
    changed_accounts,
)
from meshkit.storage.statements import MAX_NUMBER
from meshkit.storage.terms import GRACE_SECONDS, LEASE_SECONDS, MAX_NOTE

NOW = 1_800_000_000
A, B = b"a" * 32, b"b" * 32
NOTE = ShardNote(b"c" * 32, b"r" * 32, 1000, NOW)

bytes_32 = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, MAX_NUMBER)
notes = st.builds(
    ShardNote,
    bytes_32,
    bytes_32,
    numbers,
    numbers,
    numbers,
    st.lists(st.builds(Lease, bytes_32, bytes_32, numbers), max_size=4).map(tuple),
)


def of(number: int) -> bytes:
    """The hash of a secret."""
    return number.to_bytes(32, "big")


class NoteTests(SynchronousTestCase):
    @given(notes)
    def test_a_note_is_read_as_it_was_written(self, note: ShardNote) -> None:
        self.assertEqual(ShardNote.decode(note.encode()), note)

    def test_the_largest_note_has_room_in_a_store(self) -> None:
        leases = tuple(Lease(A, of(n), MAX_NUMBER) for n in range(MAX_LEASES))
        raw = evolve(NOTE, size=MAX_NUMBER, checked=MAX_NUMBER, leases=leases).encode()
        self.assertLessEqual(len(raw), MAX_NOTE)

    @given(st.binary(max_size=300))
    def test_garbage_is_no_note(self, raw: bytes) -> None:
        self.assertRaises(ObjectMalformed, ShardNote.decode, raw)

    def test_no_note_ends_early_or_goes_on(self) -> None:
        raw = NOTE.with_lease(A, of(1), NOW).encode()
        for wrong in (*(raw[:end] for end in range(len(raw))), raw + b"\x00"):
            self.assertRaises(ObjectMalformed, ShardNote.decode, wrong)

    def test_more_leases_than_there_can_be_are_refused(self) -> None:
        leases = tuple(Lease(A, of(n), NOW) for n in range(MAX_LEASES + 1))
        self.assertRaises(ObjectMalformed, ShardNote.decode, evolve(NOTE, leases=leases).encode())


class LeaseTests(SynchronousTestCase):
    def test_a_lease_lasts_its_time_from_each_renewal(self) -> None:
        note = NOTE.with_lease(A, of(1), NOW).with_lease(B, of(1), NOW + 1000)
        self.assertEqual(note.leases, (Lease(A, of(1), NOW + 1000 + LEASE_SECONDS),))

    def test_a_lease_never_ends_earlier_because_it_was_renewed(self) -> None:
        note = NOTE.with_lease(A, of(1), NOW)
        self.assertEqual(note.with_lease(A, of(1), NOW - 500), note)

    def test_one_owner_has_a_few_leases_on_a_share(self) -> None:
        note = NOTE
        for number in range(MAX_LEASES_EACH):
            note = note.with_lease(A, of(number), NOW)
        self.assertRaises(QuotaReached, note.with_lease, A, of(99), NOW)
        note.with_lease(A, of(0), NOW)
        self.assertEqual(note.with_lease(B, of(99), NOW).accounts, (A, B))

    def test_a_share_has_as_many_leases_as_its_note_can_hold(self) -> None:
        note = NOTE
        for number in range(MAX_LEASES):
            note = note.with_lease(of(number), of(number), NOW)
        self.assertRaises(CapacityReached, note.with_lease, A, of(99), NOW)
        self.assertEqual(len(note.with_lease(A, of(3), NOW).leases), MAX_LEASES)
        later = NOW + LEASE_SECONDS + GRACE_SECONDS
        self.assertEqual(len(note.with_lease(A, of(99), later).leases), 1)

    def test_only_the_right_secret_gives_a_lease_up(self) -> None:
        note = NOTE.with_lease(A, of(1), NOW).with_lease(B, of(2), NOW)
        self.assertRaises(LeaseUnknown, note.without_lease, of(3), NOW)
        self.assertEqual(note.without_lease(of(1), NOW).accounts, (B,))

    def test_a_lease_is_remembered_for_its_grace(self) -> None:
        note = NOTE.with_lease(A, of(1), NOW)
        end = NOW + LEASE_SECONDS
        self.assertEqual(note.lease_end(end - 1), end)
        self.assertEqual(note.lease_end(end), 0)
        self.assertEqual(note.pruned(end + GRACE_SECONDS - 1), note)
        self.assertEqual(note.pruned(end + GRACE_SECONDS).leases, ())
        self.assertEqual(note.keep_until, end + GRACE_SECONDS)

    def test_a_share_whose_leases_were_lost_is_kept_as_if_it_had_one(self) -> None:
        self.assertEqual(NOTE.keep_until, NOW + LEASE_SECONDS + GRACE_SECONDS)
        self.assertEqual(NOTE.next_change, NOTE.keep_until)

    def test_an_owner_is_charged_once_for_all_leases(self) -> None:
        before = NOTE.with_lease(A, of(1), NOW).with_lease(A, of(2), NOW)
        after = before.with_lease(B, of(3), NOW)
        self.assertEqual(changed_accounts(before.accounts, after.accounts), ((B,), ()))
        less = after.without_lease(of(1), NOW)
        self.assertEqual(changed_accounts(after.accounts, less.accounts), ((), ()))
        none = less.without_lease(of(2), NOW)
        self.assertEqual(changed_accounts(less.accounts, none.accounts), ((), (A,)))


class DeadlineTests(SynchronousTestCase):
    def test_what_comes_up_earlier_is_first_and_comes_once(self) -> None:
        deadlines = Deadlines()
        for name, when in ((b"c", 3), (b"a", 1), (b"b", 2), (b"a", 5)):
            deadlines.add(name, when)
        self.assertEqual(deadlines.due(2, 9), [b"a", b"b"])
        self.assertEqual(deadlines.due(9, 9), [b"c"])
        self.assertEqual(deadlines.due(9, 9), [])

    def test_only_so_many_come_up_at_a_time(self) -> None:
        deadlines = Deadlines()
        for number in range(5):
            deadlines.add(bytes([number]), number)
        self.assertEqual(len(deadlines.due(9, 3)), 3)
        self.assertEqual(len(deadlines.due(9, 3)), 2)

    def test_what_is_gone_does_not_come_up(self) -> None:
        deadlines = Deadlines()
        deadlines.add(b"a", 1)
        deadlines.discard(b"a")
        deadlines.discard(b"a")
        self.assertEqual(deadlines.due(9, 9), [])
        deadlines.add(b"a", 4)
        self.assertEqual((deadlines.due(3, 9), deadlines.due(4, 9)), ([], [b"a"]))

    def test_what_comes_and_goes_does_not_pile_up(self) -> None:
        deadlines = Deadlines()
        deadlines.add(b"stays", 7)
        for number in range(10_000):
            name = number.to_bytes(4, "big")
            deadlines.add(name, 10**9)
            deadlines.discard(name)
        self.assertLessEqual(deadlines.entries, Deadlines.FEW + 2)
        self.assertEqual(deadlines.due(7, 9), [b"stays"])

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.booleans())))
    def test_each_has_the_earliest_of_its_times(self, steps: list[tuple[int, int, bool]]) -> None:
        deadlines, model = Deadlines(), dict[bytes, int]()
        for number, when, gone in steps:
            name = bytes([number])
            if gone:
                deadlines.discard(name)
                model.pop(name, None)
            else:
                deadlines.add(name, when)
                model[name] = min(when, model.get(name, when))
        self.assertEqual(len(deadlines), len(model))
        for now in range(21):
            expected = sorted(name for name, when in model.items() if when == now)
            self.assertEqual(sorted(deadlines.due(now, 99)), expected)
