"""Tests of L{meshkit.feed.transfer}."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidPublicKey
from meshkit.feed import retention, store, transfer
from meshkit.feed.part import check_texts
from meshkit.feed.transfer import Place, export_page
from meshkit.testing.identities import Author
from tests.feed.test_part import PartCase
from tests.feed.test_store import NOW_NS, branch, fresh, ingest

AUTHORS = [Author(f"author {number}") for number in range(4)]
for _author in AUTHORS:
    _author.write_many(9)
AUTHORS.sort(key=lambda author: author.key)


def pages(
    connection: sqlite3.Connection,
    author: bytes | None = None,
    max_bytes: int = 10**9,
    max_messages: int = 10**9,
) -> list[list[bytes]]:
    """Every page of an export."""
    found: list[list[bytes]] = []
    after: Place | None = None
    while True:
        page = export_page(connection, author, after, max_bytes, max_messages)
        found.append(page.texts)
        after = page.end
        if after is None:
            return found


class Pages(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()

    def put(self, *raws: bytes) -> None:
        ingest(self.connection, *raws)

    def test_all_feeds_by_author_and_number(self) -> None:
        for author in reversed(AUTHORS):
            self.put(*author.raws[::-1])
        (page,) = pages(self.connection)
        self.assertEqual(page, [raw for author in AUTHORS for raw in author.raws])
        (page,) = pages(self.connection, AUTHORS[2].key)
        self.assertEqual(page, AUTHORS[2].raws)
        self.assertEqual(pages(self.connection, bytes(32)), [[]])

    def test_an_empty_store(self) -> None:
        self.assertEqual(pages(self.connection), [[]])

    def test_a_page_ends_when_it_is_full(self) -> None:
        self.put(*(raw for author in AUTHORS for raw in author.raws))
        everything = [raw for author in AUTHORS for raw in author.raws]
        found = pages(self.connection, max_messages=5)
        self.assertEqual([raw for page in found for raw in page], everything)
        self.assertEqual({len(page) for page in found[:-1]}, {5})
        two = len(everything[0]) * 2
        found = pages(self.connection, max_bytes=two)
        self.assertEqual([raw for page in found for raw in page], everything)
        self.assertLessEqual(max(len(page) for page in found), 3)

    def test_what_is_gone_is_counted_and_left_out(self) -> None:
        eve = Author("eve")
        eve.write_many(5)
        connection = fresh()
        store.store_batch(connection, check_texts(eve.raws), NOW_NS)
        retention.empty(connection, [1, 2, 4])
        page = export_page(connection, None, None, 10**9, 1)
        self.assertEqual((page.texts, page.gone), ([eve.raws[2]], 2))
        page = export_page(connection, None, page.end, 10**9, 99)
        self.assertEqual((page.texts, page.gone, page.end), ([eve.raws[4]], 1, None))

    def test_what_stands_beyond_a_gap_is_exported(self) -> None:
        self.put(AUTHORS[0].raws[0], AUTHORS[0].raws[5])
        self.assertEqual(pages(self.connection), [[AUTHORS[0].raws[0], AUTHORS[0].raws[5]]])

    @given(
        st.lists(st.integers(0, 9), min_size=4, max_size=4),
        st.lists(st.none() | st.integers(0, 8), min_size=4, max_size=4),
        st.integers(1, 12),
    )
    def test_an_import_of_an_export_is_the_same_store(
        self, lengths: list[int], forks: list[int | None], size: int
    ) -> None:
        """... with the proofs, and without anything that came after a fork."""
        connection, other = fresh(), fresh()
        for author, length, fork in zip(AUTHORS, lengths, forks, strict=True):
            ingest(connection, *author.raws[:length])
            if fork is not None and fork < length:
                ingest(connection, *(m.raw for m in branch(author, fork, 1, "other")))
        for page in pages(connection, max_messages=size):
            store.store_batch(other, check_texts(page), NOW_NS)
        for each in AUTHORS:
            self.assertEqual(
                store.fork_proof(other, each.key), store.fork_proof(connection, each.key)
            )
        self.assertEqual(
            [(f.author, f.sequence, f.head, f.forked) for f in self.frontier(other)],
            [(f.author, f.sequence, f.head, f.forked) for f in self.frontier(connection)],
        )
        self.assertEqual(pages(other)[0], pages(connection)[0])

    def frontier(self, connection: sqlite3.Connection) -> Any:
        return store.list_frontier(connection, None, b"", 99)


class Operations(PartCase):
    def exported(self, **fields: Any) -> list[bytes]:
        found: list[bytes] = []
        while True:
            page = self.ok("feed_export", **fields)
            found.extend(bytes(raw) for raw in page.messages)
            if page.next is None:
                return found
            fields |= msgspec.to_builtins(page.next)

    def imported(self, *texts: bytes) -> Any:
        return self.ok("feed_import", messages=[msgspec.Raw(text) for text in texts])

    def test_texts_come_out_as_they_went_in(self) -> None:
        self.patch(transfer, "PAGE_MESSAGES", 2)
        ada, bob = AUTHORS[0], AUTHORS[1]
        answer = self.imported(*ada.raws, *bob.raws)
        self.assertEqual((answer.accepted, answer.duplicate, answer.refused), (18, 0, {}))
        self.assertEqual(self.exported(), ada.raws + bob.raws)
        self.assertEqual(self.exported(author=bob.identity.public.text), bob.raws)
        self.assertEqual(self.exported(author=bob.identity.public.text, after=4), bob.raws[4:])
        self.failed(self.answer("feed_export", author="nobody"), InvalidPublicKey)

    def test_every_message_is_counted(self) -> None:
        ada = AUTHORS[0]
        altered = ada.raws[1].replace(b"number 2", b"number 3")
        (fork,) = branch(ada, 0, 1, "other")
        answer = self.imported(ada.raws[0], altered, b"{}", ada.raws[0], fork.raw)
        self.assertEqual((answer.accepted, answer.duplicate), (1, 1))
        self.assertEqual(
            answer.refused, {"FORK_REFUSED": 1, "HASH_MISMATCH": 1, "MALFORMED_MESSAGE": 1}
        )
        self.assertEqual(
            [(error.index, error.code) for error in answer.errors],
            [(1, "HASH_MISMATCH"), (2, "MALFORMED_MESSAGE"), (4, "FORK_REFUSED")],
        )

    def test_only_the_first_of_many_are_told(self) -> None:
        answer = self.imported(*[b"{}"] * 100)
        self.assertEqual(answer.refused, {"MALFORMED_MESSAGE": 100})
        self.assertEqual(len(answer.errors), transfer.TOLD)

    def test_ones_own_messages_from_an_export_guard_the_feed(self) -> None:
        mine = Author("mine")
        mine.identity = self.context.identity
        self.imported(*mine.write_many(3))
        self.assertIn("missing here", self.ok("feed_own").read_only)
