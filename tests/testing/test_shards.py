"""Tests of L{meshkit.testing.shards}."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from meshkit.errors import ShareDamaged
from meshkit.interfaces import IScatteredReads, IShardStore
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.share_files import Trailer
from meshkit.storage.terms import Shard
from meshkit.testing.shards import shard_end, shard_store_problems


class Worse:
    """The store in memory, of which a test does some methods differently."""

    def __init__(self, good: MemoryShardStore, **methods: Any) -> None:
        self.good = good
        for name in IShardStore:
            method = methods.get(name)
            bound = getattr(good, name) if method is None else self._bind(method)
            setattr(self, name, bound)
        directlyProvides(self, IShardStore)

    def _bind(self, method: Any) -> Any:
        return lambda *arguments: method(self.good, *arguments)


class WorseWriter:
    """The same for a writer."""

    def __init__(self, good: Any, **methods: Any) -> None:
        self.good = good
        self.methods = methods

    def __getattr__(self, name: str) -> Any:
        if name in self.methods:
            return lambda *arguments: self.methods[name](self.good, *arguments)
        return getattr(self.good, name)


class ProblemTests(SynchronousTestCase):
    """Each mistake is found, and named."""

    def problems(self, **methods: Any) -> list[str]:
        good = MemoryShardStore()
        return shard_store_problems(lambda: Worse(good, **methods))

    def found(self, problem: str, **methods: Any) -> None:
        self.assertIn(problem, "\n".join(self.problems(**methods)))

    def found_in_writer(self, problem: str, **methods: Any) -> None:
        self.found(problem, begin=lambda good, name: WorseWriter(good.begin(name), **methods))

    def test_a_good_one_has_none(self) -> None:
        self.assertEqual(self.problems(), [])

    def test_one_that_is_not_empty_at_first(self) -> None:
        good = MemoryShardStore()
        good.begin(bytes(32)).commit(shard_end(), b"")
        self.assertEqual(
            shard_store_problems(lambda: good), ["open() of an empty place finds shards"]
        )

    def test_one_that_is_no_store(self) -> None:
        class NoStore(MemoryShardStore):
            free = None  # type: ignore[assignment]

        store = NoStore()
        self.assertIn("it is no IShardStore", "\n".join(shard_store_problems(lambda: store)))

    def test_one_that_forgets(self) -> None:
        found = "\n".join(shard_store_problems(MemoryShardStore))
        self.assertIn("open() does not give a shard that was committed", found)
        self.assertIn("shards or notes that are written at once", found)

    def test_ends_that_come_in_another_order(self) -> None:
        def keep(good: Any, data: bytes) -> None:
            good.append(data)

        self.found_in_writer("is not what was appended, then what was kept", keep=keep)

    def test_bytes_that_change_when_the_buffer_is_used_again(self) -> None:
        waiting: dict[int, list[Any]] = {}

        def append(good: Any, data: Any) -> None:
            waiting.setdefault(id(good), []).append(data)

        def commit(good: Any, tail: bytes, note: bytes) -> None:
            for data in waiting.pop(id(good), []):
                good.append(data)
            good.commit(tail, note)

        self.found_in_writer("is not what was appended", append=append, commit=commit)

    def scattered(self, read: Any) -> str:
        """What is found of one that reads scattered pieces in this way."""
        good = MemoryShardStore()

        def make() -> Any:
            store: Any = Worse(good)
            store.read_scattered = lambda name, ranges: read(good, name, ranges)
            directlyProvides(store, IShardStore, IScatteredReads)
            return store

        return "\n".join(shard_store_problems(make))

    def test_scattered_pieces_that_are_others(self) -> None:
        def in_order(good: Any, name: bytes, ranges: Any) -> list[bytes]:
            return [good.read(name, *place) for place in sorted(ranges)]

        self.assertIn("does not give the pieces", self.scattered(in_order))

        def right(good: Any, name: bytes, ranges: Any) -> list[bytes]:
            return [good.read(name, *place) for place in ranges]

        self.assertEqual(self.scattered(right), "")

    def test_scattered_pieces_that_are_not_there(self) -> None:
        def short(good: Any, name: bytes, ranges: Any) -> list[bytes]:
            data = good._held[name].data if name in good._held else b""
            return [data[at : at + length] for at, length in ranges]

        found = self.scattered(short)
        self.assertIn("does not raise ShareDamaged", found)
        self.assertIn("does not raise ShareUnknown", found)

    def test_scattered_reads_with_other_arguments(self) -> None:
        def read(name: bytes) -> list[bytes]:
            return [name]

        good = MemoryShardStore()
        store: Any = Worse(good)
        store.read_scattered = read
        directlyProvides(store, IShardStore, IScatteredReads)
        self.assertIn("it is no IScatteredReads", "\n".join(shard_store_problems(lambda: store)))

    def test_shards_that_are_there_too_early(self) -> None:
        def append(good: Any, data: Any) -> None:
            good.append(data)
            early = good._store.begin(good.name)
            early.append(good._data)
            early.commit(b"", b"")

        self.found_in_writer("can be read before it is committed", append=append)
        self.found_in_writer("though it was not committed", append=append)
        self.found_in_writer("though its writer was discarded", append=append)
        self.found_in_writer("is not there while another is written", append=append)

    def test_shards_that_stay_when_another_is_committed(self) -> None:
        def commit(good: Any, tail: bytes, note: bytes) -> None:
            if good.name in good._store._held:
                good.discard()
            else:
                good.commit(tail, note)

        self.found_in_writer("commit() does not replace the shard", commit=commit)

    def test_notes_that_are_lost(self) -> None:
        def set_note(good: Any, name: bytes, note: bytes) -> None:
            good.read(name, 0, 0)

        self.found("open() does not give the newest note", set_note=set_note)

    def test_notes_that_are_cut(self) -> None:
        def commit(good: Any, tail: bytes, note: bytes) -> None:
            good.commit(tail, note[:1000])

        self.found_in_writer("large shard with its size and its note", commit=commit)

    def test_reads_that_end_early_or_late(self) -> None:
        def short(good: Any, name: bytes, offset: int, length: int) -> bytes:
            try:
                return bytes(good.read(name, offset, length))
            except ShareDamaged:
                return b""

        def late(good: Any, name: bytes, offset: int, length: int) -> bytes:
            return bytes(good.read(name, offset and offset - 1, length))

        self.found("behind the end of a shard does not raise ShareDamaged", read=short)
        self.found("read() does not give the bytes that were asked for", read=late)

    def test_sizes_that_are_wrong(self) -> None:
        def opened(good: Any) -> list[Shard]:
            return [Shard(each.name, each.size - 13, each.note) for each in good.open()]

        self.found("open() does not give the size", open=opened)

    def test_shards_that_are_given_twice(self) -> None:
        self.found("open() gives a shard twice", open=lambda good: good.open() * 2)

    def test_shards_that_are_put_aside_for_nothing(self) -> None:
        def opened(good: Any) -> list[Shard]:
            return [evolve(shard, set_aside="there") for shard in good.open()]

        self.found("open() puts a shard aside that nothing is wrong with", open=opened)

    def test_shards_that_cannot_be_got_rid_of(self) -> None:
        self.found("can be read after remove()", remove=lambda good, name: None)
        self.found("is there after a restart", remove=lambda good, name: None)
        self.found("can be read after set_aside()", set_aside=lambda good, name, reason: "there")

    def test_more_is_removed_than_was_named(self) -> None:
        self.found("takes another shard away", remove=lambda good, name: good._held.clear())

    def test_a_removal_that_minds_when_there_is_nothing(self) -> None:
        def remove(good: Any, name: bytes) -> None:
            del good._held[name]

        self.found("shards are removed: KeyError", remove=remove)

    def test_damaged_shards_that_lie_on_top_of_each_other(self) -> None:
        def set_aside(good: Any, name: bytes, reason: str) -> str:
            good.set_aside(name, reason)
            return name.hex()

        self.found("over another that was set aside before", set_aside=set_aside)

    def test_nobody_says_where_a_damaged_shard_is(self) -> None:
        def set_aside(good: Any, name: bytes, reason: str) -> None:
            good.set_aside(name, reason)

        self.found("does not say where the shard is", set_aside=set_aside)

    def test_shards_that_are_made_by_asking_for_them(self) -> None:
        def set_note(good: Any, name: bytes, note: bytes) -> None:
            if name not in good._held:
                good.begin(name).commit(b"", b"")
            good.set_note(name, note)

        self.found("set_note() of a shard that is not there", set_note=set_note)
        self.found("a shard is there that was never written", set_note=set_note)

    def test_room_that_is_no_number(self) -> None:
        self.found("free() is neither", free=lambda good: -1)
        self.found("free() is neither", free=lambda good: "much")

    def test_writers_of_several_names_that_share_something(self) -> None:
        shared = bytearray()

        class Sharing(MemoryShardStore):
            def begin(self, name: bytes) -> Any:
                writer = super().begin(name)
                writer._data = shared
                return writer

        store = Sharing()
        found = "\n".join(shard_store_problems(lambda: store))
        self.assertIn("in several threads", found)

    def test_writers_of_one_name_that_share_something(self) -> None:
        parts: dict[bytes, bytearray] = {}

        class Sharing(MemoryShardStore):
            def begin(self, name: bytes) -> Any:
                writer = super().begin(name)
                writer._kept = parts.setdefault(name, writer._kept)
                return writer

        store = Sharing()
        found = "\n".join(shard_store_problems(lambda: store))
        self.assertIn("begun under one name are mixed up", found)

    def test_the_end_that_it_writes_is_one_that_a_share_may_have(self) -> None:
        end = shard_end(7, b"manifest")
        self.assertEqual(Trailer.decode(end[-13:], len(end)), Trailer(7, 8))
