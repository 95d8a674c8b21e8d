"""Tests of L{meshkit.feed.threads}, and of the operation that reads a thread."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CursorExpired, InvalidRequest, MalformedMessage, NotFound
from meshkit.feed.message import Message
from meshkit.feed.operations import Publish, ReadThread
from meshkit.feed.threads import MAX_DEPTH, MAX_REPLIES, Thread, find_start, read_thread
from meshkit.testing.identities import DAY_NS, Author
from tests.feed.test_lookups import LookupCase
from tests.feed.test_store import NOW_NS, fresh, ingest

NOWHERE = "ab" * 32


def reply(author: Author, to: Message | str | None, at: int = 0, **fields: Any) -> Message:
    about = to.hash if isinstance(to, Message) else to
    fields.setdefault("timestamp_ns", DAY_NS + at)
    return author.write(relates=about, **fields)


class Reading(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()
        self.ada, self.bob = Author("ada"), Author("bob")

    def store(self, *messages: Message) -> None:
        for verdict in ingest(self.connection, *(m.raw for m in messages), now_ns=NOW_NS):
            self.assertEqual(verdict.status, "accepted")

    def read(
        self, digest: str, climb: bool = True, depth: int = MAX_DEPTH, limit: int = 100
    ) -> Thread:
        start = find_start(self.connection, digest, climb)
        assert start is not None
        return read_thread(self.connection, start, depth, limit)

    def outline(self, thread: Thread) -> list[tuple[int, str]]:
        return [(entry.depth, entry.hash) for entry in thread.entries]

    def family(self) -> tuple[Message, ...]:
        """A root, two replies, and two replies to the first of these."""
        root = reply(self.ada, None, 1)
        second = reply(self.bob, root, 5)
        first = reply(self.ada, root, 3)
        younger = reply(self.bob, first, 9)
        older = reply(self.bob, first, 7)
        self.store(root, second, first, younger, older)
        return root, first, older, younger, second

    def test_each_message_is_followed_by_its_replies_the_oldest_first(self) -> None:
        root, first, older, younger, second = self.family()
        expected = [(0, root), (1, first), (2, older), (2, younger), (1, second)]
        for message in (root, first, older, younger, second):
            thread = self.read(message.hash)
            self.assertEqual(self.outline(thread), [(d, m.hash) for d, m in expected])
            self.assertEqual([e.replies for e in thread.entries], [2, 2, 0, 0, 0])
            self.assertEqual((thread.total, thread.counted, thread.more), (5, True, False))
        raws = [entry.row.raw for entry in thread.entries if entry.row is not None]
        self.assertEqual(raws, [message.raw for _, message in expected])

    def test_it_can_begin_with_any_message(self) -> None:
        _, first, older, younger, _ = self.family()
        thread = self.read(first.hash, climb=False)
        self.assertEqual(
            self.outline(thread), [(0, first.hash), (1, older.hash), (1, younger.hash)]
        )
        self.assertEqual(thread.start.earlier, first.relates)

    def test_replies_are_followed_as_far_as_asked(self) -> None:
        root, first, _, _, second = self.family()
        thread = self.read(root.hash, depth=1)
        self.assertEqual(
            [entry.hash for entry in thread.entries], [root.hash, first.hash, second.hash]
        )
        self.assertEqual([entry.replies for entry in thread.entries], [2, 2, 0])
        self.assertEqual(thread.total, 3)
        self.assertEqual(self.outline(self.read(root.hash, depth=0)), [(0, root.hash)])

    def test_what_is_not_stored_is_named(self) -> None:
        one, two = reply(self.ada, NOWHERE, 1), reply(self.bob, NOWHERE, 2)
        self.store(one, two, deep := reply(self.ada, two, 3))
        for digest in (NOWHERE, one.hash, deep.hash):
            thread = self.read(digest)
            self.assertEqual(
                self.outline(thread), [(0, NOWHERE), (1, one.hash), (1, two.hash), (2, deep.hash)]
            )
            self.assertIsNone(thread.entries[0].row)
            self.assertFalse(thread.start.stored)
            self.assertEqual((thread.entries[0].replies, thread.total), (2, 3))

    def test_nobody_knows_of_it(self) -> None:
        self.assertIsNone(find_start(self.connection, NOWHERE, True))

    def test_others_may_relate_to_any_text(self) -> None:
        root = reply(self.ada, None)
        odd = [root.hash.upper(), "", "a tree", " ".join(["ab"] * 32)]
        messages = [reply(self.bob, text, n, content=n) for n, text in enumerate(odd)]
        self.store(root, *messages)
        for text, message in zip(odd, messages, strict=True):
            thread = self.read(message.hash)
            # An empty text names nothing.
            start = message.hash if text == "" else text
            self.assertEqual(thread.start.hash, start)
        self.assertEqual(self.outline(self.read(root.hash)), [(0, root.hash)])

    def test_parents_are_followed_so_far_and_the_next_is_named(self) -> None:
        chain = [reply(self.ada, None)]
        for at in range(MAX_DEPTH + 2):
            chain.append(reply(self.bob, chain[-1], at))
        self.store(*chain)
        thread = self.read(chain[-1].hash)
        self.assertEqual(thread.start.hash, chain[2].hash)
        self.assertEqual(thread.start.earlier, chain[1].hash)
        self.assertEqual(thread.entries[-1].hash, chain[-1].hash)
        # From the first message on, what is deeper than that is counted, not shown.
        from_root = self.read(chain[0].hash)
        self.assertEqual(len(from_root.entries), MAX_DEPTH + 1)
        self.assertEqual(from_root.entries[-1].replies, 1)

    def test_replies_are_counted_so_far(self) -> None:
        root = reply(self.ada, None)
        self.store(root, *(reply(self.bob, root, n, content=n) for n in range(MAX_REPLIES + 1)))
        thread = self.read(root.hash, limit=1)
        self.assertEqual(thread.entries[0].replies, MAX_REPLIES)
        self.assertEqual(thread.total, MAX_REPLIES + 2)

    def test_a_page_that_begins_after_what_is_gone_says_so(self) -> None:
        root, *_ = self.family()
        start = find_start(self.connection, root.hash, True)
        assert start is not None
        for after in (99, -1):
            with self.assertRaises(CursorExpired):
                read_thread(self.connection, start, MAX_DEPTH, 3, after)
        stray = reply(self.ada, None, 9)
        self.store(stray)
        row = self.connection.execute("SELECT max(id) FROM feed_messages").fetchone()
        with self.assertRaises(CursorExpired):
            read_thread(self.connection, start, MAX_DEPTH, 3, row[0])

    @given(
        parents=st.lists(st.integers(-2, 30), min_size=1, max_size=31),
        times=st.lists(st.integers(0, 3), min_size=31, max_size=31),
        depth=st.integers(0, 5),
        limit=st.integers(1, 5),
    )
    def test_pages_are_the_whole_and_the_whole_is_every_descendant(
        self, parents: list[int], times: list[int], depth: int, limit: int
    ) -> None:
        self.connection = fresh()
        ada = Author("ada")
        tree: list[Message] = []
        for number, parent in enumerate(parents):
            about = tree[parent % number] if number and parent >= 0 else NOWHERE
            tree.append(reply(ada, about, times[number]))
        self.store(*tree)

        def walk(digest: str, level: int) -> list[tuple[int, str]]:
            found = [(level, digest)]
            children = [
                (m.timestamp_ns, n, m.hash) for n, m in enumerate(tree) if m.relates == digest
            ]
            if level < depth:
                for _, _, child in sorted(children):
                    found += walk(child, level + 1)
            return found

        whole = walk(NOWHERE, 0)
        self.assertEqual(self.outline(self.read(NOWHERE, depth=depth)), whole)
        start = find_start(self.connection, NOWHERE, True)
        assert start is not None
        pages: list[tuple[int, str]] = []
        after = None
        while True:
            page = read_thread(self.connection, start, depth, limit, after)
            self.assertEqual(page.total, len(whole) - 1)
            pages += self.outline(page)
            if not page.more:
                break
            self.assertEqual(len(page.entries), limit)
            after = page.entries[-1].position
        self.assertEqual(pages, whole)


class Asking(LookupCase):
    def thread(self, digest: str, **fields: Any) -> Any:
        return self.ok("feed_thread", hash=digest, **fields)

    def test_a_thread_as_the_door_shows_it(self) -> None:
        mine = self.done(self.part.publish({"type": "query", "question": "Heron?"}))
        self.put(self.ada, "grey", relates=mine.hash)
        page = self.thread(self.ada.messages[0].hash)
        first, second = map(msgspec.json.decode, page.items)
        self.assertEqual((first["depth"], first["replies"], first["hash"]), (0, 1, mine.hash))
        self.assertEqual((second["depth"], second["replies"], second["content"]), (1, 0, "grey"))
        self.assertEqual((page.total, page.counted, page.next_cursor), (2, True, None))
        self.assertEqual(page.notes, {"root": mine.hash})
        self.assertTrue(bytes(page.items[0]).startswith(mine.raw[:-1]))

    def test_what_is_missing_is_named(self) -> None:
        self.put(self.ada, "grey", relates=NOWHERE)
        page = self.thread(NOWHERE)
        self.assertEqual(
            msgspec.json.decode(page.items[0]),
            {"hash": NOWHERE, "missing": True, "depth": 0, "replies": 1},
        )
        self.assertEqual(page.total, 1)
        below = self.thread(self.ada.messages[0].hash, from_root=False)
        self.assertEqual(below.notes, {"root": self.ada.messages[0].hash, "earlier": NOWHERE})
        self.failed(self.answer("feed_thread", hash="cd" * 32), NotFound)

    def test_pages_repeat_nothing_whatever_comes_in_between(self) -> None:
        """And miss nothing that comes after where they are."""
        for n in range(4):
            self.put(self.ada, n, relates=NOWHERE, timestamp_ns=DAY_NS + n)
        seen = self.pages(
            "feed_thread",
            lambda: self.put(
                self.bob, "late", relates=self.ada.messages[3].hash, timestamp_ns=DAY_NS
            ),
            hash=NOWHERE,
            limit=2,
        )
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(seen[:5], [NOWHERE, *(m.hash for m in self.ada.messages)])
        self.assertGreater(len(seen), 5)

    def test_a_cursor_belongs_to_its_thread(self) -> None:
        for n in range(4):
            self.put(self.ada, n, relates=NOWHERE)
        cursor = self.thread(NOWHERE, limit=2).next_cursor
        for fields in ({"depth": 3}, {"from_root": False}):
            self.failed(
                self.answer("feed_thread", hash=NOWHERE, cursor=cursor, **fields), InvalidRequest
            )
        digest = self.ada.messages[0].hash
        self.failed(self.answer("feed_thread", hash=digest, cursor=cursor), InvalidRequest)


class Publishing(LookupCase):
    def test_what_a_message_is_about_is_a_hash(self) -> None:
        for wrong in ("", "no", NOWHERE[1:], NOWHERE.upper(), f"{NOWHERE}\n"):
            self.failed(self.part.publish("x", relates=wrong), MalformedMessage)
        self.assertEqual(self.own(), [])
        # Whether there is such a message is not asked.
        self.assertEqual(self.done(self.part.publish("x", relates=NOWHERE)).relates, NOWHERE)

    def test_the_door_says_which_field_it_was(self) -> None:
        with self.assertRaisesRegex(msgspec.ValidationError, "relates"):
            msgspec.json.decode(b'{"content":1,"relates":"no"}', type=Publish)

    def test_the_door_knows_how_deep_it_goes(self) -> None:
        msgspec.convert({"hash": NOWHERE, "depth": MAX_DEPTH}, ReadThread)
        with self.assertRaisesRegex(msgspec.ValidationError, "depth"):
            msgspec.convert({"hash": NOWHERE, "depth": MAX_DEPTH + 1}, ReadThread)
