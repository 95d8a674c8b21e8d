"""Tests of L{meshkit.storage.client.streams}."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.files import LOCAL
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.client.streams import (
    CHUNK,
    AsyncSource,
    BytesSink,
    CallSink,
    FileIdentity,
    FileSink,
    FileSource,
    IteratorSource,
    PathSource,
    Text,
    Texts,
)
from meshkit.storage.scheme import Scheme
from tests.runtime.support import scratch
from tests.storage.client.peers import run_until
from tests.storage.shelves import cut_at, text_of

TINY = Scheme(2, 3, 4096)


class StreamCase(SynchronousTestCase):
    files = 0

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = InlineWorkers(self.clock, 1)
        self.workers.startService()

    def wait(self, awaitable: Any) -> Any:
        async def run() -> Any:
            return await awaitable

        return run_until(self.clock, Deferred.fromCoroutine(run()))

    def read_all(self, source: Any) -> bytes:
        chunks = []
        while chunk := self.wait(source.read(1_000)):
            chunks.append(bytes(chunk))
        return b"".join(chunks)

    def file(self, data: bytes) -> str:
        self.files += 1
        path = f"{scratch(self)}/{self.files}"
        Path(path).write_bytes(data)
        return path


class Sources(StreamCase):
    def test_an_iterator_may_give_empty_chunks_in_between(self) -> None:
        source = IteratorSource(self.workers, [b"", b"a", b"", b"", b"bc", b""])
        self.assertEqual(self.read_all(source), b"abc")

    def test_an_asynchronous_one_likewise(self) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for each in (b"", b"a", b"", b"bc"):
                yield each

        self.assertEqual(self.read_all(AsyncSource(chunks(), 3)), b"abc")

    def test_a_file_is_read_from_where_it_stands(self) -> None:
        text = text_of(CHUNK + 100)
        file = io.BytesIO(text)
        file.seek(7)
        source = FileSource(self.workers, file)
        self.assertEqual(self.read_all(source), text[7:])
        source.close()
        self.assertFalse(file.closed)

    def test_a_path_knows_its_length_when_it_is_open(self) -> None:
        text = text_of(2 * CHUNK + 5)
        source = PathSource(self.workers, self.file(text))
        self.assertIsNone(source.length)
        identity = self.wait(source.open())
        self.assertEqual((source.length, identity.size), (len(text), len(text)))
        self.wait(source.skip(CHUNK + 3))
        self.assertEqual(self.read_all(source), text[CHUNK + 3 :])
        self.wait(source.close())
        self.wait(source.close())
        self.assertRaises(ValueError, self.wait, source.read(1_000))

    def test_a_path_sees_that_the_file_was_written_to(self) -> None:
        path = self.file(b"one")
        source = PathSource(self.workers, path)
        self.wait(source.open())
        self.assertTrue(self.wait(source.unchanged()))
        Path(path).write_bytes(b"two")
        os.utime(path, ns=(1, 1))
        self.assertFalse(self.wait(source.unchanged()))
        self.wait(source.close())

    def test_a_path_that_leads_nowhere_is_an_error_that_names_it(self) -> None:
        source = PathSource(self.workers, "/nowhere/at/all")
        error = self.assertRaises(FileNotFoundError, self.wait, source.open())
        self.assertEqual(error.filename, "/nowhere/at/all")
        self.wait(source.close())

    def test_files_are_told_apart(self) -> None:
        one, other = self.file(b"same"), self.file(b"same")
        first = FileIdentity.of(LOCAL.stat(one))
        self.assertEqual(first, FileIdentity.of(LOCAL.stat(one)))
        self.assertNotEqual(first, FileIdentity.of(LOCAL.stat(other)))
        os.utime(one, ns=(5, 5))
        self.assertNotEqual(first, FileIdentity.of(LOCAL.stat(one)))


def _drain(chunks: list[bytes]) -> Iterator[bytes]:
    while chunks:
        yield chunks.pop(0)


class TextTests(StreamCase):
    @given(
        length=st.integers(0, 4 * TINY.text_bytes + 3),
        places=st.lists(st.integers(0, 4 * TINY.text_bytes + 3), max_size=8),
    )
    def test_they_are_the_segments_whatever_the_chunks(
        self, length: int, places: list[int]
    ) -> None:
        self.setUp()
        text = text_of(length)
        texts = Texts(IteratorSource(self.workers, cut_at(text, places)), TINY)
        found: list[Text] = []
        while not found or not found[-1].last:
            found.append(self.wait(texts.next()))
        self.assertEqual(b"".join(each.data for each in found), text)
        self.assertEqual({len(each.data) for each in found[:-1]} - {TINY.text_bytes}, set())
        self.assertTrue(len(found) == 1 or len(found[-1].data) > 0)

    def test_what_is_whole_is_not_copied_and_given_when_more_has_to_come(self) -> None:
        width = TINY.text_bytes
        chunks = [text_of(width, seed) for seed in (1, 2)]
        for length in (None, 2 * width):
            left = list(chunks)
            source = IteratorSource(self.workers, _drain(left))
            source.length = length
            texts = Texts(source, TINY)
            first = self.wait(texts.next())
            self.assertIs(first.data, chunks[0])
            self.assertFalse(first.last)
            self.assertEqual(len(left), 0 if length is None else 1)
            second = self.wait(texts.next())
            self.assertIs(second.data, chunks[1])
            self.assertTrue(second.last)


class Sinks(StreamCase):
    def test_a_file_is_written_where_it_stands(self) -> None:
        file = io.BytesIO(b"abcdef")
        file.seek(2)
        sink = FileSink(self.workers, file)
        self.wait(sink.write(b"XY"))
        self.wait(sink.write(b"Z"))
        self.assertEqual(file.getvalue(), b"abXYZf")

    def test_a_function_may_let_one_wait(self) -> None:
        waiting: Deferred[None] = Deferred()
        taken: list[bytes] = []

        def take(data: bytes) -> Any:
            taken.append(data)
            return None if len(taken) == 1 else waiting

        sink = CallSink(take)
        self.wait(sink.write(b"a"))
        writing = Deferred.fromCoroutine(sink.write(b"b"))
        self.assertNoResult(writing)
        waiting.callback(None)
        self.successResultOf(writing)
        self.assertEqual(taken, [b"a", b"b"])

    def test_memory_holds_all_of_it(self) -> None:
        sink = BytesSink()
        self.wait(sink.write(b"a"))
        self.wait(sink.write(b"bc"))
        self.assertEqual(bytes(sink.data), b"abc")
