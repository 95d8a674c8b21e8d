"""Tests of L{meshkit.feed.blocking}, in the part C{feed}."""

from __future__ import annotations

from typing import Any

import msgspec

from meshkit.errors import AuthorBlocked, ConfigError, InvalidRequest, SelectionConfigured
from meshkit.feed import blocking
from meshkit.feed import operations as offered
from meshkit.feed.part import Config, make_part
from meshkit.interfaces import BlocksChanged
from meshkit.testing.identities import Author
from meshkit.testing.nodes import make_context
from tests.feed.test_part import PartCase
from tests.feed.test_store import branch

ADA, BOB = Author("ada"), Author("bob")
for _author in (ADA, BOB):
    for _n in range(5):
        _author.write({"type": "note", "text": f"heron {_n}"}, tags=["a"])
ADA_TEXT, BOB_TEXT = ADA.identity.public.text, BOB.identity.public.text


class BlockingCase(PartCase):
    def setUp(self) -> None:
        super().setUp()
        self.changes: list[BlocksChanged] = []
        self.context.events.subscribe(BlocksChanged, self.changes.append)

    def put(self, *raws: bytes) -> list[Any]:
        return [v.error for v in self.done(self.part.ingest(raws))]

    def total(self, name: str, **fields: Any) -> int:
        total: int = self.ok(name, **fields).total
        return total


class Blocking(BlockingCase):
    def test_nothing_of_a_blocked_feed_is_taken(self) -> None:
        self.put(*ADA.raws[:2])
        self.ok("blocks_add", author=ADA_TEXT)
        errors = self.put(*ADA.raws, *BOB.raws)
        self.assertEqual([type(e) for e in errors], [AuthorBlocked] * 5 + [type(None)] * 5)
        self.assertEqual(self.part.status().refused, {"AUTHOR_BLOCKED": 5})

    def test_nothing_of_a_blocked_feed_is_told_or_served(self) -> None:
        self.put(*ADA.raws, *BOB.raws, branch(ADA, 3, 1, "other")[0].raw)
        part = self.part
        self.assertIsNotNone(self.done(part.fork_proof(ADA.key)))
        self.ok("blocks_add", author=ADA_TEXT)
        for authors in (None, [ADA.key, BOB.key]):
            self.assertEqual(self.done(part.heads(authors)), [(BOB.key, 5)])
            self.assertEqual([f.author for f in self.done(part.frontier(authors))], [BOB.key])
        self.assertEqual(self.done(part.read(ADA.key, 0, 9**9, 99)), [])
        self.assertIsNone(self.done(part.gone_until(ADA.key, 0)))
        self.assertIsNone(self.done(part.fork_proof(ADA.key)))
        self.assertEqual(self.done(part.authors_with_tags(["a"])), [BOB.key])
        self.assertIsNone(self.done(part.tagged_message(ADA.key, ["a"])))
        self.assertEqual(self.done(part.tagged_message(BOB.key, ["b", "a"])), BOB.raws[4])
        self.assertTrue(part.is_blocked(ADA.key))
        self.assertFalse(part.is_blocked(BOB.key))

    def test_lists_show_a_blocked_author_to_who_asks_for_it_only(self) -> None:
        self.put(*ADA.raws, *BOB.raws)
        self.ok("blocks_add", author=ADA_TEXT)
        for name, fields in (
            ("feed_list", {}),
            ("feed_list", {"tag": "a"}),
            ("feed_list", {"content_type": "note"}),
            ("feed_search", {"q": "heron"}),
            ("feed_search", {"q": "heron", "order": "newest"}),
        ):
            with self.subTest(name, **fields):
                self.assertEqual(self.total(name, **fields), 5)
        self.assertEqual(self.total("feed_author", author=ADA_TEXT), 5)
        self.assertEqual(self.total("feed_search", q="heron", author=ADA_TEXT), 5)
        shown = self.ok("feed_message", hash=ADA.messages[0].hash)
        self.assertEqual(msgspec.json.decode(shown)["author"], ADA_TEXT)

    def test_who_is_blocked_no_more_is_shown_served_and_taken_again(self) -> None:
        self.put(*ADA.raws[:2])
        self.ok("blocks_add", author=ADA_TEXT)
        self.done(self.answer("blocks_remove", author=ADA_TEXT))
        self.assertEqual(self.put(*ADA.raws[2:]), [None] * 3)
        self.assertEqual(self.done(self.part.heads()), [(ADA.key, 5)])
        self.assertEqual(self.total("feed_list"), 5)

    def test_changes_are_told_once(self) -> None:
        for name in ("blocks_add", "blocks_add", "blocks_remove", "blocks_remove"):
            self.done(self.answer(name, author=ADA_TEXT))
        self.assertEqual(
            self.changes, [BlocksChanged(ADA.key, True), BlocksChanged(ADA.key, False)]
        )

    def test_a_node_does_not_block_itself(self) -> None:
        own = self.context.identity.public.text
        self.failed(self.answer("blocks_add", author=own), InvalidRequest)

    def test_there_is_a_limit(self) -> None:
        self.patch(blocking, "MAX_BLOCKS", 1)
        self.ok("blocks_add", author=ADA_TEXT)
        self.failed(self.answer("blocks_add", author=BOB_TEXT), InvalidRequest)
        self.ok("blocks_add", author=ADA_TEXT)


class Configured(BlockingCase):
    def restart(self, *block: str) -> None:
        backing = self.context.database._backing
        self.done(self.part.stopService())
        self.done(self.context.database.stopService())
        self.use(
            make_context(
                self.clock,
                "me",
                config=Config(retention_expiry=False, block=block),
                migrations=self.migrations(),
                backing=backing,
            )
        )

    def listed(self) -> list[tuple[str, str]]:
        found: list[offered.Blocked] = self.done(self.answer_list())
        return [(each.author, each.origin) for each in found]

    async def answer_list(self) -> Any:
        return self.answer("blocks_list")

    def test_what_the_file_blocks_is_shown_as_such_and_only_the_file_takes_it_back(self) -> None:
        self.ok("blocks_add", author=BOB_TEXT)
        self.restart(ADA_TEXT)
        expected = sorted([(ADA_TEXT, "config"), (BOB_TEXT, "added")])
        self.assertEqual(sorted(self.listed()), expected)
        error = self.failed(self.answer("blocks_remove", author=ADA_TEXT), SelectionConfigured)
        self.assertIn("feed.block", str(error))
        self.assertEqual(type(self.put(ADA.raws[0])[0]), AuthorBlocked)
        self.assertEqual(self.ok("blocks_add", author=ADA_TEXT).origin, "config")
        self.restart()
        self.assertEqual(self.listed(), [(BOB_TEXT, "added")])
        self.assertEqual(self.put(ADA.raws[0]), [None])

    def test_a_value_that_is_no_id_is_named_at_the_start(self) -> None:
        context = make_context(self.clock, "me", config=Config(block=("@ada",)))
        error = self.assertRaises(ConfigError, make_part, context)
        self.assertIn("feed.block", str(error))
