"""
Tests of L{meshkit.gossip.reconcile}.

Two windows talk to each other until they are silent; then what each found is compared
with what a plain look at both sets gives.  Liars are made by changing what one says.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from random import Random

from attrs import define, evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame
from meshkit.gossip import reconcile
from meshkit.gossip.reconcile import (
    END,
    FIRST,
    LIST,
    MAX_OPEN,
    MAX_ROUNDS,
    SPLIT,
    STEP_BYTES,
    WINDOW,
    Entries,
    Entry,
    Step,
    Window,
    asked_window,
    make_salt,
)

SALT = make_salt(b"d" * 16, b"l" * 16)

Heads = Mapping[bytes, Entry]


def entry(author: bytes, sequence: int, *, branch: int = 0, forked: int | None = None) -> Entry:
    if sequence == 0:
        return Entry(author, 0, None, forked)
    head = hashlib.sha256(author + sequence.to_bytes(8, "big") + bytes([branch])).digest()
    return Entry(author, sequence, head, forked)


def authors(count: int, seed: int = 0) -> list[bytes]:
    rng = Random(seed)
    return sorted(rng.randbytes(32) for _ in range(count))


def heads(keys: list[bytes], sequence: int = 1) -> dict[bytes, Entry]:
    return {key: entry(key, sequence) for key in keys}


def filled(known: Heads, lower: bytes = FIRST, upper: bytes = END) -> Entries:
    entries = Entries(SALT)
    entries.add(known[key] for key in sorted(known) if lower <= key < upper)
    return entries


@define
class Met:
    """
    What came of one window.

    @ivar sizes: bytes of the ranges of each message.
    @ivar frames: the largest of them.
    """

    sizes: list[int]
    largest: int
    dialler: Window
    listener: Window

    @property
    def trips(self) -> int:
        """How often there and back."""
        return (len(self.sizes) + 1) // 2


Change = Callable[[int, list[Step]], list[Step]]


def meet(ours: Heads, theirs: Heads, lower: bytes = FIRST, change: Change | None = None) -> Met:
    """Reconcile one window.  @param change: what becomes of a message on its way."""
    entries = filled(ours, lower)
    dialler = Window(entries, lower, entries.cut(), begins=True)
    steps = dialler.begin()
    begin, upper = asked_window(steps[0])
    entries = filled(theirs, begin, upper)
    end = min(upper, entries.cut())
    listener = Window(entries, begin, end, begins=False)
    turn = [listener, dialler]
    sizes: list[int] = []
    largest = 0
    while steps:
        if change is not None:
            steps = change(len(sizes), steps)
        sizes.append(sum(len(step.body) for step in steps))
        largest = max(largest, *(len(step.body) for step in steps))
        steps = [answer for step in steps for answer in turn[(len(sizes) - 1) % 2].receive(step)]
    return Met(sizes, largest, dialler, listener)


def found(window: Window) -> dict[bytes, tuple[Entry | None, Entry | None]]:
    differences = window.take_differences()
    each = {d.author: (d.ours, d.theirs) for d in differences}
    assert len(each) == len(differences), "a feed was named twice"
    return each


def turned(
    each: Mapping[bytes, tuple[Entry | None, Entry | None]],
) -> dict[bytes, tuple[Entry | None, Entry | None]]:
    return {author: (theirs, ours) for author, (ours, theirs) in each.items()}


def plainly(ours: Heads, theirs: Heads) -> dict[bytes, tuple[Entry | None, Entry | None]]:
    return {
        key: (ours.get(key), theirs.get(key))
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    }


#: Few bytes, so that keys share beginnings and ends in zeros.
keys = st.binary(min_size=1, max_size=3).map(lambda start: start.ljust(32, b"\0"))
entries_of = st.builds(
    lambda key, sequence, branch, ahead: entry(
        key,
        sequence,
        branch=branch,
        forked=sequence + ahead if ahead else (1 if sequence == 0 else None),
    ),
    keys,
    st.integers(0, 300),
    st.integers(0, 1),
    st.integers(0, 2),
)
sets = st.lists(entries_of, max_size=120).map(lambda es: {e.author: e for e in es})


class Differences(SynchronousTestCase):
    def check(self, ours: Heads, theirs: Heads) -> Met:
        met = meet(ours, theirs)
        self.assertTrue(met.dialler.finished and met.listener.finished)
        self.assertEqual(met.dialler.upper, END)
        by_dialler = found(met.dialler)
        self.assertEqual(by_dialler, plainly(ours, theirs))
        self.assertEqual(turned(found(met.listener)), by_dialler)
        self.assertLessEqual(len(met.sizes), MAX_ROUNDS)
        self.assertLessEqual(met.largest, STEP_BYTES)
        return met

    @given(sets, sets)
    def test_any_two_sets_end_with_both_knowing_exactly_what_differs(
        self, ours: dict[bytes, Entry], theirs: dict[bytes, Entry]
    ) -> None:
        self.check(ours, theirs)

    @given(sets, sets)
    def test_also_if_most_is_the_same(
        self, base: dict[bytes, Entry], changed: dict[bytes, Entry]
    ) -> None:
        self.check(base, {**base, **changed})
        self.check({**base, **changed}, base)

    def test_all_against_nothing_and_nothing_against_all(self) -> None:
        some = heads(authors(2_000))
        self.assertEqual(self.check(some, {}).trips, 2)
        self.assertEqual(self.check({}, some).trips, 2)
        self.check({}, {})

    def test_all_of_it_differs(self) -> None:
        some = authors(2_000)
        self.check(heads(some), heads(some, 2))
        self.check(heads(some), heads(authors(2_000, seed=1)))

    def test_at_the_numbers_where_lists_and_parts_begin(self) -> None:
        for count in (1, LIST, LIST + 1, SPLIT, SPLIT + 1, SPLIT * LIST, SPLIT * LIST + 1):
            for other in (0, 1, count - 1, count, count + 1):
                some, others = heads(authors(count)), heads(authors(other))
                self.check(some, others)
                self.check(some, {key: entry(key, 2) for key in others})

    def test_sets_that_lie_together_and_apart_stay_within_the_rounds_and_ranges(self) -> None:
        """... whichever side has the many that the other splits badly."""
        many = heads([n.to_bytes(32, "big") for n in range(1, 5_001)])
        few = heads([(n << 200).to_bytes(32, "big") for n in range(1, 5_001)])
        for ours, theirs in ((many, few), (few, many)):
            self.check(ours, theirs)

    def test_two_branches_and_two_forks_are_differences(self) -> None:
        (key,) = authors(1)
        for one, other in (
            (entry(key, 3), entry(key, 3, branch=1)),
            (entry(key, 3), entry(key, 3, forked=4)),
            (entry(key, 3, forked=5), entry(key, 3, forked=4)),
            (entry(key, 3, forked=4), entry(key, 3, branch=1, forked=4)),
            (entry(key, 0, forked=1), entry(key, 0, forked=2)),
        ):
            self.check({key: one}, {key: other})


class Cost(SynchronousTestCase):
    """What it costs among ten thousand feeds; the figures are those of the document."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.all = heads(authors(10_000))

    def changed(self, count: int) -> dict[bytes, Entry]:
        rng = Random(1)
        return {**self.all, **heads(rng.sample(sorted(self.all), count), 2)}

    def test_in_step_it_is_one_small_frame_each_way(self) -> None:
        met = meet(self.all, self.all)
        self.assertEqual(len(met.sizes), 2)
        self.assertLess(max(met.sizes), 30)
        self.assertEqual(found(met.dialler), {})

    def test_one_change_costs_less_than_two_thousand_bytes(self) -> None:
        met = meet(self.all, self.changed(1))
        self.assertEqual(len(found(met.dialler)), 1)
        self.assertLess(sum(met.sizes), 2_000)
        self.assertLessEqual(met.trips, 4)

    def test_a_hundred_changes_cost_less_than_sixty_thousand(self) -> None:
        met = meet(self.all, self.changed(100))
        self.assertEqual(len(found(met.dialler)), 100)
        self.assertLess(sum(met.sizes), 60_000)
        self.assertLessEqual(met.trips, 4)


class Windows(SynchronousTestCase):
    def walk(self, ours: Heads, theirs: Heads) -> list[Met]:
        """All windows, one after the other."""
        lower, mets = FIRST, []
        while lower != END:
            met = meet(ours, theirs, lower)
            self.assertTrue(met.dialler.finished and met.listener.finished)
            self.assertEqual(met.dialler.upper, met.listener.upper)
            self.assertGreater(met.dialler.upper, lower)
            lower = met.dialler.upper
            mets.append(met)
        return mets

    def check(self, ours: Heads, theirs: Heads) -> list[Met]:
        mets = self.walk(ours, theirs)
        by_dialler: dict[bytes, tuple[Entry | None, Entry | None]] = {}
        by_listener: dict[bytes, tuple[Entry | None, Entry | None]] = {}
        for met in mets:
            by_dialler |= found(met.dialler)
            by_listener |= found(met.listener)
        self.assertEqual(by_dialler, plainly(ours, theirs))
        self.assertEqual(by_dialler, turned(by_listener))
        return mets

    def test_whoever_has_more_than_goes_into_a_window_ends_it(self) -> None:
        self.patch(reconcile, "WINDOW", 100)
        few, many = heads(authors(30)), heads(authors(730, seed=2))
        both = {**few, **many}
        begin = {key: many[key] for key in sorted(many)[:100]}
        for ours, theirs in (
            (few, many),
            (many, few),
            (both, many),
            ({}, many),
            (many, {}),
            (begin, many),
            (many, begin),
        ):
            mets = self.check(ours, theirs)
            self.assertGreaterEqual(len(mets), 8)

    def test_the_fullest_window_of_two_that_share_nothing(self) -> None:
        """The most ranges and bytes that an honest pair can come to."""
        self.patch(reconcile, "WINDOW", 1_600)
        self.patch(reconcile, "MAX_OPEN", 400)
        self.check(heads(authors(1_600)), heads(authors(1_600, seed=1)))
        near = [n.to_bytes(32, "big") for n in range(1, 1_601)]
        self.check(heads(near), heads(authors(1_600)))
        # Nine of theirs in each of our parts: each would be split again.
        ours = heads([(n << 240).to_bytes(32, "big") for n in range(1, 1_601)])
        theirs = heads(
            [(n * 9 + k << 233).to_bytes(32, "big") for n in range(170) for k in range(9)]
        )
        self.check(ours, theirs)
        self.check(theirs, ours)

    def test_the_window_that_is_asked_for_is_one_fingerprint(self) -> None:
        (step,) = Window(filled({}), b"a", b"b", begins=True).begin()
        self.assertEqual(asked_window(step), (b"a", b"b"))
        two = step.body + step.body[2:].replace(b"b", b"c")
        for wrong in (
            evolve(step, round=1),
            evolve(step, more=True),
            evolve(step, body=two),
            evolve(step, body=step.body[:2]),
            evolve(step, body=b"\x01a" + bytes([1 << 2]) + b"b"),
        ):
            self.assertRaises(MalformedFrame, asked_window, wrong)


class Filling(SynchronousTestCase):
    def test_page_by_page_is_the_same_as_all_at_once(self) -> None:
        some = heads(authors(500))
        pages = Entries(SALT)
        ordered = [some[key] for key in sorted(some)]
        for start in range(0, 500, 70):
            pages.add(ordered[start : start + 70])
        self.assertEqual(pages.fingerprint(0, 500), filled(some).fingerprint(0, 500))

    def test_the_fingerprint_is_that_of_the_document(self) -> None:
        one, other = entry(b"a" * 32, 1), entry(b"b" * 32, 2, forked=5)
        frozen = hashlib.sha256(
            b"fork" + b"b" * 32 + (5).to_bytes(8, "big") + (other.head or b"")
        ).digest()
        items = [
            b"a" * 32 + (1).to_bytes(8, "big") + (one.head or b""),
            b"b" * 32 + (2).to_bytes(8, "big") + frozen,
        ]
        total = sum(
            int.from_bytes(hashlib.blake2b(i, digest_size=32, key=SALT).digest(), "big")
            for i in items
        )
        data = (total % 2**256).to_bytes(32, "big") + (2).to_bytes(8, "big")
        expected = hashlib.sha256(data).digest()[:16]
        self.assertEqual(filled({e.author: e for e in (one, other)}).fingerprint(0, 2), expected)
        self.assertEqual(SALT, hashlib.sha256(b"d" * 16 + b"l" * 16).digest())

    def test_what_does_not_ascend_or_has_no_head_is_refused(self) -> None:
        entries = Entries(SALT)
        entries.add([entry(b"b" * 32, 1)])
        for wrong in (entry(b"b" * 32, 2), entry(b"a" * 32, 1), Entry(b"c" * 32, 3, None)):
            self.assertRaises(ValueError, entries.add, [wrong])

    def test_the_surplus_is_cut_at_a_bound_between(self) -> None:
        self.patch(reconcile, "WINDOW", 3)
        entries = Entries(SALT)
        entries.add([entry(bytes([n, 7]) + bytes(30), 1) for n in (1, 2, 3)])
        self.assertEqual(entries.cut(), END)
        entries.add([entry(bytes([3, 8]) + bytes(30), 1)])
        self.assertEqual(entries.cut(), bytes([3, 8]))
        self.assertEqual(len(entries), 3)


class Liars(SynchronousTestCase):
    """Whatever one says, the other ends: with an error, or within its bounds."""

    def setUp(self) -> None:
        some = authors(300)
        self.ours, self.theirs = heads(some), {**heads(some[:290]), **heads(some[::3], 2)}

    def refused(self, change: Change) -> None:
        self.assertRaises(MalformedFrame, meet, self.ours, self.theirs, FIRST, change)

    def replaced(self, at: int, **changes: object) -> Change:
        return lambda n, steps: [evolve(s, **changes) for s in steps] if n == at else steps  # type: ignore[arg-type]

    def test_every_truncation_of_every_message(self) -> None:
        sizes = meet(self.ours, self.theirs).sizes
        self.assertEqual(len(sizes), 5)
        for at, size in enumerate(sizes):
            for cut in {0, 1, 2, *range(3, size, 201), size - 1}:

                def change(n: int, steps: list[Step], at: int = at, cut: int = cut) -> list[Step]:
                    return [evolve(s, body=s.body[:cut]) for s in steps] if n == at else steps

                with self.subTest(at=at, cut=cut):
                    self.refused(change)

    def test_rounds_out_of_turn(self) -> None:
        for at in range(1, 5):
            for wrong in (at - 1, at + 1, at + 2, 99):
                self.refused(self.replaced(at, round=wrong))

    def test_a_message_twice(self) -> None:
        for at in range(5):
            self.refused(lambda n, steps, at=at: steps * 2 if n == at else steps)  # type: ignore[misc]

    def test_bounds_that_do_not_ascend_or_lie_outside(self) -> None:
        for body in (
            b"\0\x10\x01a" + bytes(16),  # not of this form at all
            _body(b"", (b"b", 1), (b"a", 1), (END, 1)),
            _body(b"", (b"a", 1), (b"a", 1), (END, 1)),
            _body(b"", (b"a", 0), (b"b", 0), (END, 1)),
            _body(b"", (b"a\0", 1), (END, 1)),
            _body(b"a", (END, 1)),
            _body(b"", (b"a", 1)),
            _body(b"") + b"\xfc" + bytes(16),
        ):
            for at in (1, 2, 3):
                self.refused(self.replaced(at, body=body))

    def test_ranges_nobody_asked_for(self) -> None:
        """... of the next step before the last is answered, or beside what is open."""
        everything = _body(b"", (END, 1))
        for at in (2, 3, 4):
            self.refused(self.replaced(at, body=everything))
        self.refused(self.replaced(1, body=_body(b"", (END, 3))))
        self.refused(self.replaced(4, body=_body(b"", (END, 2))))

    def test_entries_that_cannot_be(self) -> None:
        key = b"k" * 32
        good = b"\0\1" + key + b"\x02\x05" + bytes(32)
        _hear(_listed(good))
        for wrong in (
            b"\0\2" + key + b"\x02\x05" + bytes(32) + key + b"\x02\x05" + bytes(32),
            b"\0\1" + key + b"\x04\x00\x05" + bytes(32),  # a zero in front
            b"\0\1" + key + b"\x02\x00" + bytes(32),
            b"\0\1" + key + b"\x10" + b"\xff" * 8 + bytes(32),
            b"\0\1" + key + b"\x12" + b"\x01" + bytes(8) + bytes(32),  # nine bytes
            b"\0\1" + key + b"\x00",  # a list of what is not there
            b"\0\1" + key + b"\x03\x05" + bytes(32) + (5).to_bytes(8, "big"),  # forked below
            b"\0\1" + key + b"\x01" + bytes(8),
            b"\0\2" + key + b"\x02\x05" + bytes(32),
        ):
            with self.subTest(wrong=wrong.hex()):
                self.assertRaises(MalformedFrame, _hear, _listed(wrong))
        outside = b"\0\1" + key + b"\x02\x05" + bytes(32)
        body = _body(b"", (b"a", 2, outside), (END, 0))
        self.assertRaises(MalformedFrame, _hear, body)

    def test_a_difference_that_is_none(self) -> None:
        key = b"k" * 32
        same = {key: entry(key, 1)}
        told = reconcile._encode_entry(same[key])
        for wrong in (told, b"x" * 32 + b"\0"):
            body = _body(b"", (END, 3, b"\0\1" + wrong))
            self.assertRaises(
                MalformedFrame,
                meet,
                {key: entry(key, 2)},
                same,
                FIRST,
                lambda n, steps, body=body: (
                    [evolve(steps[0], body=body)] if n == 2 else steps  # type: ignore[misc]
                ),
            )

    def test_a_window_that_is_made_longer(self) -> None:
        self.patch(reconcile, "WINDOW", 100)
        self.refused(
            lambda n, steps: [evolve(steps[-1], body=_body(b"", (END, 1)))] if n == 1 else steps
        )

    def test_fingerprints_that_never_agree_end_within_the_rounds(self) -> None:
        """A peer that answers every fingerprint with another one."""
        entries = filled(self.ours)
        window = Window(entries, FIRST, END, begins=True)
        steps = window.begin()
        rng = Random(3)
        for number in range(1, 99, 2):
            ranges = [r for step in steps for r in reconcile._read(step.body)[1]]
            body = b"\0" + b"".join(
                reconcile._encode_upper(r.upper, r.mode if r.mode == 0 else 1) + rng.randbytes(16)
                for r in ranges
                if r.mode != 0
            )
            try:
                steps = window.receive(Step(number, False, body))
            except MalformedFrame:
                break
            self.assertTrue(steps)
        self.assertLessEqual(number, MAX_ROUNDS)

    def test_at_most_so_many_ranges_and_entries(self) -> None:
        self.patch(reconcile, "WINDOW", 50)
        self.patch(reconcile, "MAX_OPEN", 20)
        many = heads(authors(51))

        def listing(count: int) -> bytes:
            packed = [reconcile._encode_entry(many[key]) for key in sorted(many)[:count]]
            return _listed(count.to_bytes(2, "big") + b"".join(packed))

        _hear(listing(50))
        self.assertRaises(MalformedFrame, _hear, listing(51))
        most = 20 + reconcile._PIECES

        def parts(count: int) -> bytes:
            return _body(
                b"", *[((n + 1).to_bytes(2, "big") + b"x", 1) for n in range(count)], (END, 0)
            )

        _hear(parts(most))
        self.assertRaises(MalformedFrame, _hear, parts(most + 1))
        # Frame after frame of one message, without end.
        window = Window(filled({}), FIRST, END, begins=True)
        window.begin()
        with self.assertRaises(MalformedFrame):
            lower = b""
            for n in range(1, 10_000):
                upper = n.to_bytes(2, "big") + b"x"
                window.receive(Step(1, True, _body(lower, (upper, 1))))
                lower = upper
        self.assertLess(n, 4 * most)

    @given(st.integers(0, 4), st.data())
    def test_any_byte_changed_is_an_error_or_an_end(self, at: int, data: st.DataObject) -> None:
        def change(n: int, steps: list[Step]) -> list[Step]:
            if n != at:
                return steps
            body = bytearray(steps[0].body)
            place = data.draw(st.integers(0, len(body) - 1))
            body[place] ^= data.draw(st.integers(1, 255))
            return [evolve(steps[0], body=bytes(body)), *steps[1:]]

        try:
            met = meet(self.ours, self.theirs, FIRST, change)
        except MalformedFrame:
            return
        self.assertLessEqual(len(met.sizes), MAX_ROUNDS)

    @given(st.binary(max_size=200), st.integers(0, 12), st.booleans())
    def test_no_bytes_raise_anything_else(self, body: bytes, number: int, more: bool) -> None:
        for begins in (True, False):
            window = Window(filled(self.ours), FIRST, END, begins=begins)
            if begins:
                window.begin()
            with contextlib.suppress(MalformedFrame):
                window.receive(Step(number, more, body))


class Constants(SynchronousTestCase):
    def test_an_honest_pair_stays_within_the_rounds(self) -> None:
        """A fingerprint, splits up to the last, a list and a difference."""
        self.assertLessEqual(reconcile.LAST_SPLIT + 2, MAX_ROUNDS)
        self.assertGreaterEqual(SPLIT ** (reconcile.LAST_SPLIT // 2 - 1) * LIST, WINDOW)

    def test_a_frame_has_sixty_four_kibibytes(self) -> None:
        self.assertLess(STEP_BYTES + 64, 64 * 1024)

    def test_the_ranges_of_a_window_can_all_be_open(self) -> None:
        self.assertEqual(MAX_OPEN, SPLIT**3)


def _body(lower: bytes, *ranges: tuple[bytes, int] | tuple[bytes, int, bytes]) -> bytes:
    """Ranges written by hand: upper bound, mode, and what follows it."""
    body = bytes([len(lower)]) + lower
    for upper, mode, *rest in ranges:
        size = 63 if upper == END else len(upper)
        body += bytes([size << 2 | mode]) + (b"" if upper == END else upper)
        if rest:
            body += rest[0]  # type: ignore[operator]
        elif mode == 1:
            body += bytes(16)
        elif mode in (2, 3):
            body += b"\0\0"
    return body


def _listed(payload: bytes) -> bytes:
    return _body(b"", (END, 2, payload))


def _hear(body: bytes) -> None:
    """Have somebody who has nothing hear an answer."""
    window = Window(filled({}), FIRST, END, begins=True)
    window.begin()
    window.receive(Step(1, False, body))
