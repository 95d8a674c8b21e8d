"""
What differs between two sets of heads, in few bytes: range-based set reconciliation.

One side tells a fingerprint of all it has in a window of the authors' keys.  If the
other finds the same, that was all.  If not, it splits what it has there into sixteen
parts and tells their fingerprints, and so on; of small parts it tells the entries, and
is told in turn what is different about them.  In the end both know exactly what differs.
After A. Meyer, "Range-Based Set Reconciliation", SRDS 2023; the bytes are described in
C{docs/protocol/gossip.md}.

Pure.  The cost is bounded whatever the other side says: a window has at most
L{WINDOW} entries of each side, at most L{MAX_OPEN} ranges wait for an answer, and it
ends after L{MAX_ROUNDS} messages.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from attrs import define, field, frozen

from meshkit.errors import MalformedFrame

#: Parts into which what differs is split.
SPLIT: Final = 16
#: So many entries or fewer are told, not split.
LIST: Final = 8
#: Messages of a window, both ways together.
MAX_ROUNDS: Final = 12
#: From this message on nothing is split any more, so that an honest pair never needs more
#: than L{MAX_ROUNDS}.
LAST_SPLIT: Final = 8
#: Ranges that wait for an answer at the same time.
MAX_OPEN: Final = 4_096
#: Entries of one side in a window.
WINDOW: Final = 16_384
#: Bytes of the ranges in one frame, which has 64 KiB with what is around them.
STEP_BYTES: Final = 65_000

NONCE_BYTES: Final = 16
KEY_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16
MAX_SEQUENCE: Final = 2**63 - 1

_SKIP: Final = 0
_FINGERPRINT: Final = 1
_LIST: Final = 2
_DIFFERENCE: Final = 3

# Flags of an entry; above them, how many bytes the sequence has.
_FORKED: Final = 1
_SIZE_SHIFT: Final = 1

# Bytes of the entries of one range, and how many ranges a window may have more because of
# it: an entry has up to 81 bytes.
_PIECE: Final = STEP_BYTES // 2
_PIECES: Final = WINDOW * 81 // (_PIECE - 81) + 1

# The first byte of a range: its mode, and above it how many bytes its upper bound has.
_MODE_BITS: Final = 2
_INFINITY: Final = 63
_MODULUS: Final = 2**256
_NO_HEAD: Final = bytes(32)

#: Lower bound of everything.
FIRST: Final = b""
#: Upper bound of everything: longer than any key, so that it sorts behind them all.
END: Final = b"\xff" * (KEY_BYTES + 1)


@frozen
class Entry:
    """
    How far one feed is complete.

    @ivar author: its key, 32 bytes.
    @ivar sequence: the last up to which nothing is missing; 0 if there is none.
    @ivar head: the hash there, 32 bytes; L{None} at 0.
    @ivar forked: the lowest sequence of which a fork is proven, if one is.
    """

    author: bytes
    sequence: int
    head: bytes | None
    forked: int | None = None

    @property
    def empty(self) -> bool:
        """Is there nothing of this feed, not even a proof?"""
        return self.sequence == 0 and self.forked is None

    def item(self) -> bytes:
        """The bytes that stand for it in a fingerprint."""
        head = _NO_HEAD if self.head is None else self.head
        sequence = self.sequence.to_bytes(8, "big")
        if self.forked is None:
            return self.author + sequence + head
        mark = b"fork" + self.author + self.forked.to_bytes(8, "big") + head
        return self.author + sequence + hashlib.sha256(mark).digest()


@frozen
class Difference:
    """A feed of which the two sides have different entries; one has none, maybe."""

    author: bytes
    ours: Entry | None
    theirs: Entry | None


@frozen
class Step:
    """
    One frame of a message.

    @ivar round: number of the message, from 0 on.
    @ivar more: the message goes on in the next frame.
    @ivar body: its ranges.
    """

    round: int
    more: bool
    body: bytes


def make_salt(dialler: bytes, listener: bytes) -> bytes:
    """@return: the key of a connection's fingerprints, from the nonces of both sides."""
    return hashlib.sha256(dialler + listener).digest()


class Entries:
    """
    What one side has in a window, ascending.  It is filled page by page, as the store
    gives them.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._entries: list[Entry] = []
        self._authors: list[bytes] = []
        # Sums of the hashes before each entry: a range is a difference of two.
        self._sums = [0]

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: Iterable[Entry]) -> None:
        """
        Append entries.

        @raise ValueError: if they do not ascend.
        """
        total = self._sums[-1]
        for entry in entries:
            if self._authors and entry.author <= self._authors[-1]:
                raise ValueError("the entries of a window have to ascend by author")
            if (entry.head is None) is not (entry.sequence == 0):
                raise ValueError("an entry has a head exactly if it has messages")
            digest = hashlib.blake2b(entry.item(), digest_size=32, key=self._salt).digest()
            total = (total + int.from_bytes(digest, "big")) % _MODULUS
            self._entries.append(entry)
            self._authors.append(entry.author)
            self._sums.append(total)

    def cut(self) -> bytes:
        """
        Keep no more than L{WINDOW} entries.

        @return: the upper bound of what is left: L{END} if nothing had to go.
        """
        if len(self._entries) <= WINDOW:
            return END
        upper = self.bound(WINDOW)
        del self._entries[WINDOW:], self._authors[WINDOW:], self._sums[WINDOW + 1 :]
        return upper

    def at(self, bound: bytes) -> int:
        """@return: index of the first entry at or above a bound."""
        return bisect_left(self._authors, bound)

    def between(self, start: int, end: int) -> list[Entry]:
        return self._entries[start:end]

    def fingerprint(self, start: int, end: int) -> bytes:
        total = (self._sums[end] - self._sums[start]) % _MODULUS
        data = total.to_bytes(32, "big") + (end - start).to_bytes(8, "big")
        return hashlib.sha256(data).digest()[:FINGERPRINT_BYTES]

    def bound(self, index: int) -> bytes:
        """@return: the shortest bound between an entry and the one before it."""
        before, here = self._authors[index - 1], self._authors[index]
        same = next(n for n, (a, b) in enumerate(zip(before, here, strict=True)) if a != b)
        return here[: same + 1]


@frozen
class _Range:
    """@ivar fingerprint: for that mode.  @ivar entries: for the two with entries."""

    lower: bytes
    upper: bytes
    mode: int
    fingerprint: bytes = b""
    entries: tuple[Entry, ...] = ()


class _Reader:
    """Takes bytes from the front of a body."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._body)

    def take(self, size: int) -> bytes:
        data = self._body[self._at : self._at + size]
        if len(data) != size:
            raise MalformedFrame("the ranges of a frame are cut off")
        self._at += size
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def bound(self, size: int) -> bytes:
        if size > KEY_BYTES:
            raise MalformedFrame(f"a bound of {size} bytes is longer than a key")
        bound = self.take(size)
        if bound.endswith(b"\0"):
            # Zeros follow by themselves; so every bound has one form.
            raise MalformedFrame("a bound ends in a zero byte")
        return bound

    def entry(self) -> Entry:
        author = self.take(KEY_BYTES)
        flags = self.number(1)
        size = flags >> _SIZE_SHIFT
        sequence, head, forked = 0, None, None
        if size:
            sequence, head = self.number(size), self.take(32)
            if sequence >> 8 * (size - 1) == 0 or sequence > MAX_SEQUENCE:
                raise MalformedFrame(f"the sequence {sequence} in {size} bytes")
        if flags & _FORKED:
            forked = self.number(8)
            if not sequence < forked <= MAX_SEQUENCE:
                raise MalformedFrame(f"an entry of {sequence} messages, forked at {forked}")
        return Entry(author, sequence, head, forked)

    def entries(self, lower: bytes, upper: bytes) -> tuple[Entry, ...]:
        entries: list[Entry] = []
        previous: bytes | None = None
        for _ in range(self.number(2)):
            entry = self.entry()
            if previous is not None and entry.author <= previous:
                raise MalformedFrame("the entries of a range do not ascend")
            previous = entry.author
            if not lower <= entry.author < upper:
                raise MalformedFrame("an entry lies outside its range")
            entries.append(entry)
        return tuple(entries)


def _read(body: bytes) -> tuple[bytes, Iterator[_Range]]:
    """@return: the lower bound of a body, and its ranges one by one."""
    reader = _Reader(body)
    lower = reader.bound(reader.number(1))
    return lower, _read_ranges(reader, lower)


def _read_ranges(reader: _Reader, lower: bytes) -> Iterator[_Range]:
    while not reader.at_end:
        first = reader.number(1)
        mode, size = first & ((1 << _MODE_BITS) - 1), first >> _MODE_BITS
        upper = END if size == _INFINITY else reader.bound(size)
        if upper <= lower:
            raise MalformedFrame("the ranges of a frame do not ascend")
        if mode == _SKIP:
            yield _Range(lower, upper, mode)
        elif mode == _FINGERPRINT:
            yield _Range(lower, upper, mode, fingerprint=reader.take(FINGERPRINT_BYTES))
        else:
            yield _Range(lower, upper, mode, entries=reader.entries(lower, upper))
        lower = upper


def _encode_lower(bound: bytes) -> bytes:
    bound = bound.rstrip(b"\0")
    return bytes([len(bound)]) + bound


def _encode_upper(bound: bytes, mode: int) -> bytes:
    if bound == END:
        return bytes([_INFINITY << _MODE_BITS | mode])
    bound = bound.rstrip(b"\0")
    return bytes([len(bound) << _MODE_BITS | mode]) + bound


def _encode_entry(entry: Entry) -> bytes:
    size = (entry.sequence.bit_length() + 7) // 8
    flags = size << _SIZE_SHIFT
    parts = b""
    if entry.head is not None:
        parts += entry.sequence.to_bytes(size, "big") + entry.head
    if entry.forked is not None:
        flags |= _FORKED
        parts += entry.forked.to_bytes(8, "big")
    return entry.author + bytes([flags]) + parts


@define
class _Writer:
    """Makes the frames of one message.  Its ranges are given ascending."""

    round: int
    _steps: list[Step] = field(factory=list)
    _body: bytearray = field(factory=bytearray)
    # Where the range begins that is written next, and whether it is all skipped so far.
    _lower: bytes = FIRST
    _skipped: bool = False

    def begin(self, lower: bytes) -> None:
        self._body += _encode_lower(lower)
        self._lower = lower

    def skip(self, upper: bytes) -> None:
        """Nothing to say up to here; what is skipped in a row is one range."""
        self._lower = upper
        self._skipped = True

    def _flush_skip(self) -> None:
        if self._skipped:
            self._skipped = False
            self._body += _encode_upper(self._lower, _SKIP)

    def _range(self, upper: bytes, mode: int, payload: bytes) -> None:
        self._flush_skip()
        data = _encode_upper(upper, mode) + payload
        if len(self._body) + len(data) > STEP_BYTES:
            self._steps.append(Step(self.round, True, bytes(self._body)))
            self._body = bytearray(_encode_lower(self._lower))
        self._body += data
        self._lower = upper

    def fingerprint(self, upper: bytes, fingerprint: bytes) -> None:
        self._range(upper, _FINGERPRINT, fingerprint)

    def entries(self, upper: bytes, mode: int, entries: list[Entry]) -> None:
        """In several ranges, if they are too much for one."""
        size = 0
        packed: list[bytes] = []
        for entry in entries:
            data = _encode_entry(entry)
            if size + len(data) > _PIECE:
                self._range(entry.author, mode, _count(packed) + b"".join(packed))
                packed, size = [], 0
            packed.append(data)
            size += len(data)
        self._range(upper, mode, _count(packed) + b"".join(packed))

    def finish(self) -> list[Step]:
        self._flush_skip()
        return [*self._steps, Step(self.round, False, bytes(self._body))]


def _count(packed: list[bytes]) -> bytes:
    return len(packed).to_bytes(2, "big")


@frozen
class _Open:
    """A range that waits for an answer.  @ivar mode: what we said of it."""

    lower: bytes
    upper: bytes
    mode: int


def asked_window(step: Step) -> tuple[bytes, bytes]:
    """
    @param step: the first frame of a window.
    @return: its lower and its upper bound.
    @raise MalformedFrame: it is not one fingerprint.
    """
    lower, ranges = _read(step.body)
    said = [*islice(ranges, 2)]
    if step.round or step.more or [each.mode for each in said] != [_FINGERPRINT]:
        raise MalformedFrame("a window has to begin with one fingerprint")
    return lower, said[0].upper


class Window:
    """
    The reconciliation of one window, as one side sees it.

    Who begins makes it with all its entries of the window and sends what L{begin} gives.
    The other asks L{asked_window} for the bounds when the first frame comes, and makes it
    with its entries.  Each frame goes to L{receive}; what that gives is sent.

    @ivar upper: where the window ends; known for sure when it is finished.
    @ivar finished: both sides know all that differs.
    @ivar rounds: messages so far, both ways.
    """

    def __init__(self, entries: Entries, lower: bytes, upper: bytes, *, begins: bool) -> None:
        """
        @param entries: what we have in it.
        @param upper: where we end it; who does not begin may end it before the other would,
            if there is more than goes into a window.
        @param begins: we begin.
        """
        self._entries = entries
        self._lower = lower
        self.upper = upper
        self.finished = False
        self.rounds = 0
        # The number of the next message of the other side.
        self._expected = 1 if begins else 0
        self._open: list[_Open] = []
        self._listed = 0
        # What came of the present message.
        self._received: list[_Range] = []
        self._at = lower
        self._differences: list[Difference] = []

    def begin(self) -> list[Step]:
        """@return: the first message."""
        writer = _Writer(0)
        writer.begin(self._lower)
        writer.fingerprint(self.upper, self._entries.fingerprint(0, len(self._entries)))
        self._open = [_Open(self._lower, self.upper, _FINGERPRINT)]
        self.rounds = 1
        return writer.finish()

    def take_differences(self) -> list[Difference]:
        """@return: what was found to differ since the last call."""
        found, self._differences = self._differences, []
        return found

    def receive(self, step: Step) -> list[Step]:
        """
        @return: what has to be sent.
        @raise MalformedFrame: the other side does not keep to the protocol.  The window is
            of no use any more.
        """
        if self.finished or step.round != self._expected:
            raise MalformedFrame(f"round {step.round} of a reconciliation came out of turn")
        if step.round >= MAX_ROUNDS:
            raise MalformedFrame(f"a reconciliation did not end within {MAX_ROUNDS} rounds")
        lower, ranges = _read(step.body)
        if lower != self._at:
            raise MalformedFrame("the ranges of a message do not follow one another")
        for each in ranges:
            if each.mode == _SKIP and self._received and self._received[-1].mode == _SKIP:
                raise MalformedFrame("two ranges in a row are skipped")
            self._listed += len(each.entries)
            if self._listed > WINDOW + len(self._entries):
                raise MalformedFrame(f"a window has more than {WINDOW} entries")
            self._received.append(each)
            self._at = each.upper
        if len(self._received) > 2 * (MAX_OPEN + _PIECES):
            raise MalformedFrame(f"more than {MAX_OPEN} ranges are open")
        if self._at == lower:
            raise MalformedFrame("a frame has no ranges")
        return [] if step.more else self._message_ended(step.round)

    def _message_ended(self, number: int) -> list[Step]:
        if number == 1:
            # The other may have more than goes into a window, and end it earlier.
            if self._at > self.upper:
                raise MalformedFrame("a window was made longer than it was asked for")
            self.upper = self._at
        elif number > 1 and self._at != self.upper:
            raise MalformedFrame("a message does not cover its window")
        received, self._received = self._received, []
        self._at = self._lower
        if number:
            self._check_asked(received)
        asked = sum(each.mode in (_FINGERPRINT, _LIST) for each in received)
        if asked > MAX_OPEN + _PIECES:
            raise MalformedFrame(f"more than {MAX_OPEN} ranges are open")
        writer = _Writer(number + 1)
        writer.begin(self._lower)
        self._open = []
        self._expected = number + 2
        self.rounds = number + 1
        for each in received:
            asked -= each.mode in (_FINGERPRINT, _LIST)
            self._answer(each, writer, MAX_OPEN - asked)
        if _needs_no_answer(received):
            self.finished = True
            return []
        self.rounds = number + 2
        self.finished = not self._open
        return writer.finish()

    # --- answering a range --------------------------------------------------------------

    def _check_asked(self, received: list[_Range]) -> None:
        """Is everything an answer to something that we said?"""
        at = 0
        for each in received:
            if each.mode == _SKIP:
                continue
            while at < len(self._open) and self._open[at].upper <= each.lower:
                at += 1
            waiting = self._open[at] if at < len(self._open) else None
            if (
                waiting is None
                or (each.mode == _DIFFERENCE) is not (waiting.mode == _LIST)
                or not waiting.lower <= each.lower < each.upper <= waiting.upper
            ):
                raise MalformedFrame("a range of a reconciliation answers nothing that was asked")

    def _answer(self, each: _Range, writer: _Writer, most: int) -> None:
        """@param most: ranges that may be open after it."""
        if each.mode == _FINGERPRINT:
            self._compare(each, writer, most)
        elif each.mode == _LIST:
            self._differ(each, writer)
        else:
            if each.mode == _DIFFERENCE:
                self._learn(each)
            writer.skip(each.upper)

    def _compare(self, each: _Range, writer: _Writer, most: int) -> None:
        entries = self._entries
        upper = min(each.upper, self.upper)
        start, end = entries.at(each.lower), entries.at(upper)
        if entries.fingerprint(start, end) == each.fingerprint:
            writer.skip(upper)
            return
        count = end - start
        parts = min(SPLIT, count)
        if count <= LIST or writer.round >= LAST_SPLIT or len(self._open) + parts > most:
            self._open.append(_Open(each.lower, upper, _LIST))
            writer.entries(upper, _LIST, entries.between(start, end))
            return
        lower = each.lower
        for part in range(parts):
            begin = start + count * part // parts
            stop = start + count * (part + 1) // parts
            bound = upper if part == parts - 1 else entries.bound(stop)
            self._open.append(_Open(lower, bound, _FINGERPRINT))
            writer.fingerprint(bound, entries.fingerprint(begin, stop))
            lower = bound

    def _differ(self, each: _Range, writer: _Writer) -> None:
        entries = self._entries
        start, end = entries.at(each.lower), entries.at(each.upper)
        ours = {entry.author: entry for entry in entries.between(start, end)}
        told: list[Entry] = []
        for theirs in each.entries:
            if theirs.empty:
                raise MalformedFrame("a list tells of a feed that is not there")
            mine = ours.pop(theirs.author, None)
            if mine != theirs:
                self._differences.append(Difference(theirs.author, mine, theirs))
                told.append(Entry(theirs.author, 0, None) if mine is None else mine)
        for mine in ours.values():
            self._differences.append(Difference(mine.author, mine, None))
            told.append(mine)
        if told:
            told.sort(key=_by_author)
            writer.entries(each.upper, _DIFFERENCE, told)
        else:
            writer.skip(each.upper)

    def _learn(self, each: _Range) -> None:
        entries = self._entries
        for theirs in each.entries:
            at = entries.at(theirs.author)
            found = entries.between(at, at + 1)
            ours = found[0] if found and found[0].author == theirs.author else None
            if ours == theirs or (ours is None and theirs.empty):
                raise MalformedFrame("a difference names what does not differ")
            self._differences.append(
                Difference(theirs.author, ours, None if theirs.empty else theirs)
            )


def _needs_no_answer(received: list[_Range]) -> bool:
    """Does a message need no answer?"""
    return all(each.mode in (_SKIP, _DIFFERENCE) for each in received)


def _by_author(entry: Entry) -> bytes:
    return entry.author
