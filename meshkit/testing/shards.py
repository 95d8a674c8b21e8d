"""
Trying a store of shards of one's own.

What it gives back has to be what it was given, also to the process that is started next, or
a storage peer has signed for shares that it does not have::

    def test_the_store_keeps_what_it_is_given(self):
        self.assertEqual(shard_store_problems(lambda: MyStore(self.folder)), [])

What is not tried is whether it is durable: for that somebody has to pull the plug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final

from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from meshkit.errors import ShareDamaged, ShareUnknown
from meshkit.interfaces import IScatteredReads, IShardStore, IShardWriter
from meshkit.storage.share_files import Trailer
from meshkit.storage.terms import MAX_BLOCK, MAX_NOTE, Shard

__all__ = ["shard_end", "shard_store_problems"]

_MANIFEST: Final = b"a manifest, as far as a store is concerned"
#: Names that are written to at once.
_AT_ONCE: Final = 8


def shard_end(number: int = 0, manifest: bytes = _MANIFEST) -> bytes:
    """@return: what a share ends with, so that a store may look at that."""
    return manifest + Trailer(number, len(manifest)).encode()


def shard_store_problems(make_store: Callable[[], Any]) -> list[str]:
    """
    What is wrong with a store of shards, as far as it can be seen from outside.  Blocks.

    @param make_store: called more than once, for a L{IShardStore} each time, none of which is
        open.  All are of the same place, as though a process had ended and the next one had
        started: empty the first time, and later with what was committed before.
    @return: sentences; empty if all is well.
    """
    place = _Place(make_store)
    problems = list(place.start())
    for check in _CHECKS:
        try:
            problems += check(place)
        except Exception as e:
            doing = check.__name__.strip("_").replace("_", " ")
            problems.append(f"{doing}: {type(e).__name__}: {e}")
    with suppress(OSError):
        place.store.close()
    return list(dict.fromkeys(problems))


class _Place:
    """
    Where the shards are.

    @ivar store: opened.
    """

    def __init__(self, make_store: Callable[[], Any]) -> None:
        self._make_store = make_store
        self._names = 0
        self.store: Any = None

    def start(self) -> Iterator[str]:
        self.store = self._make_store()
        try:
            verifyObject(IShardStore, self.store)
        except Invalid as e:
            yield f"it is no IShardStore: {e}"
        if list(self.store.open()):
            yield "open() of an empty place finds shards"

    def reopen(self) -> dict[bytes, Shard]:
        """@return: the shards that the next process finds."""
        self.store.close()
        self.store = self._make_store()
        found = list(self.store.open())
        shards = {shard.name: shard for shard in found}
        if len(shards) != len(found):
            raise ValueError("open() gives a shard twice")
        if any(shard.set_aside for shard in found):
            raise ValueError("open() puts a shard aside that nothing is wrong with")
        return shards

    def name(self) -> bytes:
        """@return: one that was not used."""
        self._names += 1
        return sha256(b"%d" % self._names).digest()

    def put(self, name: bytes, body: bytes, note: bytes = b"a note") -> bytes:
        """@return: all bytes of a shard that was committed just now."""
        writer = self.store.begin(name)
        writer.append(body)
        writer.commit(shard_end(), note)
        return body + shard_end()

    def gives(self, name: bytes, whole: bytes) -> bool:
        """@return: whether a shard is there, and is this one."""
        try:
            return bool(self.store.read(name, 0, len(whole)) == whole)
        except (ShareUnknown, ShareDamaged):
            return False

    def has(self, name: bytes) -> bool:
        try:
            self.store.read(name, 0, 1)
        except ShareUnknown:
            return False
        return True


def _shards_are_read_in_any_pieces(place: _Place) -> Iterator[str]:
    name = place.name()
    writer = place.store.begin(name)
    try:
        verifyObject(IShardWriter, writer)
    except Invalid as e:
        yield f"begin() gives no IShardWriter: {e}"
    reused = bytearray(b"first")
    writer.append(reused)
    reused[:] = b"other"
    writer.keep(b"[kept ")
    writer.append(memoryview(b" second"))
    writer.keep(b"later]")
    writer.append(b"")
    if place.has(name):
        yield "a shard can be read before it is committed"
    writer.commit(shard_end(), b"a note")
    writer.discard()
    whole = b"first second[kept later]" + shard_end()
    if not place.gives(name, whole):
        yield "a shard is not what was appended, then what was kept, then the tail"
        return
    for start, length in ((0, 0), (3, 9), (len(whole) - 1, 1), (len(whole), 0)):
        if place.store.read(name, start, length) != whole[start : start + length]:
            yield "read() does not give the bytes that were asked for"
    for start, length in ((0, len(whole) + 1), (len(whole) - 1, 2), (len(whole) + 9, 1)):
        try:
            place.store.read(name, start, length)
        except ShareDamaged:
            continue
        yield "read() behind the end of a shard does not raise ShareDamaged"


def _scattered_pieces_are_read_in_order(place: _Place) -> Iterator[str]:
    if not IScatteredReads.providedBy(place.store):
        return
    try:
        verifyObject(IScatteredReads, place.store)
    except Invalid as e:
        yield f"it is no IScatteredReads: {e}"
        return
    name = place.name()
    whole = place.put(name, bytes(range(256)), b"")
    ranges = [(200, 10), (0, 1), (len(whole) - 1, 1), (7, 0), (5, 250)]
    found = place.store.read_scattered(name, ranges)
    if list(found) != [whole[at : at + length] for at, length in ranges]:
        yield "read_scattered() does not give the pieces that were asked for"
    for wanted, error in ((name, ShareDamaged), (place.name(), ShareUnknown)):
        try:
            place.store.read_scattered(wanted, [(0, 1), (len(whole), 1)])
        except error:
            continue
        yield f"read_scattered() does not raise {error.__name__} where read() does"


def _large_shards_come_back_whole(place: _Place) -> Iterator[str]:
    name = place.name()
    writer = place.store.begin(name)
    digest = sha256()
    for number in range(3):
        block = bytes([number]) * (MAX_BLOCK - number)
        digest.update(block)
        writer.append(block)
        writer.append(b"")
    kept = b""
    for number in range(40):
        nodes = bytes([number]) * 16 * 1024
        writer.keep(nodes)
        kept += nodes
    end = kept + shard_end(1, b"x" * 9000)
    digest.update(end)
    writer.commit(shard_end(1, b"x" * 9000), bytes(MAX_NOTE))
    size = sum(MAX_BLOCK - number for number in range(3)) + len(end)
    found = place.reopen().get(name)
    if found != Shard(name, size, bytes(MAX_NOTE)):
        yield "open() does not give a large shard with its size and its note"
    if sha256(place.store.read(name, 0, size)).digest() != digest.digest():
        yield "a large shard is not what was written"


def _shards_and_notes_are_there_after_a_restart(place: _Place) -> Iterator[str]:
    one, other, empty = place.name(), place.name(), place.name()
    bodies = {name: place.put(name, name.hex().encode()) for name in (one, other)}
    bodies[empty] = place.put(empty, b"", b"")
    place.store.set_note(one, b"a newer note")
    place.store.set_note(other, b"")
    found = place.reopen()
    for name, note in ((one, b"a newer note"), (other, b""), (empty, b"")):
        shard = found.get(name)
        if shard is None:
            yield "open() does not give a shard that was committed"
            continue
        if shard.note != note:
            yield "open() does not give the newest note of a shard"
        if shard.size != len(bodies[name]):
            yield "open() does not give the size of a shard"
        if not place.gives(name, bodies[name]):
            yield "a shard is another one after a restart"


def _what_is_not_committed_is_gone(place: _Place) -> Iterator[str]:
    given_up, left, replaced = place.name(), place.name(), place.name()
    old = place.put(replaced, b"old", b"old note")
    for name in (given_up, left, replaced):
        writer = place.store.begin(name)
        writer.append(b"half of a shard")
        writer.keep(b"kept")
        if name == given_up:
            writer.discard()
            writer.discard()
    if not place.gives(replaced, old):
        yield "a shard is not there while another is written in its place"
    found = place.reopen()
    if given_up in found or place.has(given_up):
        yield "a shard is there though its writer was discarded"
    if left in found or place.has(left):
        yield "a shard is there though it was not committed"
    if found.get(replaced) != Shard(replaced, len(old), b"old note"):
        yield "a shard is lost, or another one, since another was begun in its place"


def _a_shard_takes_the_place_of_another(place: _Place) -> Iterator[str]:
    name = place.name()
    for body, note in ((b"x" * 5000, b"a long note" * 9), (b"y", b"short"), (b"z" * 99, b"")):
        whole = place.put(name, body, note)
        if not place.gives(name, whole):
            yield "commit() does not replace the shard that had the name"
        if place.reopen().get(name) != Shard(name, len(whole), note):
            yield "open() does not give the shard and the note that were committed last"


def _shards_are_removed(place: _Place) -> Iterator[str]:
    name, other = place.name(), place.name()
    place.put(name, b"to be removed")
    place.put(other, b"to stay")
    place.store.remove(name)
    place.store.remove(name)
    if place.has(name):
        yield "a shard can be read after remove()"
    found = place.reopen()
    if name in found:
        yield "a shard that was removed is there after a restart"
    if other not in found:
        yield "remove() takes another shard away"
    place.put(name, b"again")
    if not place.has(name):
        yield "a shard that was removed cannot be written again"


def _shards_are_set_aside(place: _Place) -> Iterator[str]:
    name = place.name()
    places = set()
    for body in (b"damaged", b"damaged again"):
        place.put(name, body)
        where = place.store.set_aside(name, "its block 7 is not what it was")
        if not isinstance(where, str) or not where:
            yield "set_aside() does not say where the shard is now"
        if place.has(name):
            yield "a shard can be read after set_aside()"
        if name in place.reopen():
            yield "a shard that was set aside is there after a restart"
        places.add(where)
    if len(places) != 2:
        yield "set_aside() puts one shard over another that was set aside before"


def _unknown_shards_are_named_as_such(place: _Place) -> Iterator[str]:
    name = place.name()
    for method, arguments in (
        ("read", (0, 1)),
        ("read", (0, 0)),
        ("set_aside", ("a reason",)),
        ("set_note", (b"a note",)),
    ):
        try:
            getattr(place.store, method)(name, *arguments)
        except ShareUnknown:
            continue
        yield f"{method}() of a shard that is not there does not raise ShareUnknown"
    if name in place.reopen():
        yield "a shard is there that was never written"


def _room_that_is_left_is_a_number(place: _Place) -> Iterator[str]:
    free = place.store.free()
    if free is not None and (not isinstance(free, int) or free < 0):
        yield "free() is neither a number of bytes nor None"


def _several_names_at_once(place: _Place) -> Iterator[str]:
    names = [place.name() for _ in range(_AT_ONCE)]

    def use(name: bytes) -> bool:
        writer = place.store.begin(name)
        for number in range(8):
            writer.append(name * 1000)
            writer.keep(bytes([number]))
        writer.commit(shard_end(), name)
        whole = name * 8000 + bytes(range(8)) + shard_end()
        place.store.set_note(name, name[::-1])
        return place.gives(name, whole)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        if not all(threads.map(use, names)):
            yield "shards that are written at once, in several threads, are mixed up"
    found = place.reopen()
    if any(name not in found or found[name].note != name[::-1] for name in names):
        yield "shards or notes that are written at once, in several threads, are lost"


def _one_name_many_times_at_once(place: _Place) -> Iterator[str]:
    name = place.name()
    writers = [place.store.begin(name) for _ in range(3)]
    for turn in range(4):
        for number, writer in enumerate(writers):
            writer.append(b"%d" % number * 1000)
            writer.keep(b"%d" % turn)
    writers[0].discard()
    for number, writer in list(enumerate(writers))[1:]:
        writer.commit(shard_end(), b"%d" % number)
        whole = b"%d" % number * 4000 + b"0123" + shard_end()
        if not place.gives(name, whole):
            yield "several shards that are begun under one name are mixed up"
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        pieces = list(threads.map(lambda at: place.store.read(name, at, 100), range(0, 3900, 13)))
    if any(piece != b"2" * 100 for piece in pieces):
        yield "read() of one shard, in several threads, gives other bytes"
    if place.reopen().get(name) != Shard(name, len(whole), b"2"):
        yield "of several shards that are begun under one name, the last to be committed is lost"


_CHECKS: Final[tuple[Callable[[_Place], Iterator[str]], ...]] = (
    _shards_are_read_in_any_pieces,
    _scattered_pieces_are_read_in_order,
    _large_shards_come_back_whole,
    _shards_and_notes_are_there_after_a_restart,
    _what_is_not_committed_is_gone,
    _a_shard_takes_the_place_of_another,
    _shards_are_removed,
    _shards_are_set_aside,
    _unknown_shards_are_named_as_such,
    _room_that_is_left_is_a_number,
    _several_names_at_once,
    _one_name_many_times_at_once,
)
