"""Tests of L{meshkit.feed.sealing}, and of sealed messages at the doors."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import sealed
from meshkit.errors import (
    ContentTooLarge,
    InvalidPublicKey,
    InvalidRequest,
    PrivateBoxInvalid,
    SealedInvalid,
)
from meshkit.feed.acceptance import refusal
from meshkit.feed.canonical import MAX_CONTENT_BYTES, prepare_content
from meshkit.feed.message import Message, content_text, parse_message, sign_message
from meshkit.feed.operations import Publish
from meshkit.feed.part import Config, make_part
from meshkit.feed.sealing import MAX_BOX, MAX_RECIPIENTS, Form, Sealed, open_message, seal_content
from meshkit.identity.keys import Identity
from meshkit.testing.identities import DAY_NS, Author, make_identity
from meshkit.testing.nodes import make_context
from meshkit.testing.strategies import contents
from tests.feed.test_lookups import LookupCase
from tests.feed.test_part import PartCase

ADA, BOB, CAT, EVE = map(make_identity, ("ada", "bob", "cat", "eve"))
SECRET = {"type": "message", "text": "between us"}


def write(
    content: Any,
    *recipients: Identity,
    author: Identity = ADA,
    schema_id: str | None = None,
    form: Form = "own",
) -> Message:
    outer, outer_schema = seal_content(
        author,
        [recipient.public.text for recipient in recipients],
        prepare_content(content),
        schema_id,
        form,
        Random(1),
    )
    return signed(outer, author, schema_id=outer_schema)


def signed(content: Any, author: Identity = ADA, **fields: Any) -> Message:
    return sign_message(
        author, sequence=1, previous=None, timestamp_ns=DAY_NS, content=content, **fields
    )


def opened(reader: Identity, message: Message) -> Sealed:
    found = open_message(reader, message.raw)
    assert found is not None
    return found


class Forms(SynchronousTestCase):
    @given(content=contents(), count=st.integers(1, 5))
    def test_recipients_and_author_open_it_and_nobody_else(self, content: Any, count: int) -> None:
        prepared = prepare_content(content)
        there = [make_identity(n) for n in range(count)]
        for form in ("own", "egregore"):
            message = write(content, *there, form=form)  # type: ignore[arg-type]
            for reader in (*there, ADA):
                self.assertEqual(opened(reader, message).content, prepared)
            self.assertEqual(opened(EVE, message), Sealed())

    def test_ours_names_recipients_and_schema_inside(self) -> None:
        message = write(SECRET, BOB, CAT, schema_id="message/v1")
        found = opened(BOB, message)
        self.assertEqual(found.recipients, (BOB.public.text, CAT.public.text))
        self.assertEqual(found.schema_id, "message/v1")
        self.assertIsNone(message.schema_id)
        self.assertEqual(set(message.content), {"type", "box"})
        for word in (b"between", b"message/v1", BOB.public.base64.encode()):
            self.assertNotIn(word, message.raw)

    def test_egregores_is_as_its_nodes_take_it(self) -> None:
        message = write(SECRET, BOB, schema_id="message/v1", form="egregore")
        self.assertEqual(message.schema_id, "private_box/v1")
        self.assertEqual(message.content["inner_schema_id"], "message/v1")
        self.assertIsNone(refusal(message.raw))
        found = opened(BOB, message)
        self.assertEqual((found.recipients, found.schema_id), (None, "message/v1"))

    def test_ours_is_none_that_egregores_nodes_refuse(self) -> None:
        self.assertIsNone(refusal(write(SECRET, BOB).raw))

    def test_the_author_may_be_named_too(self) -> None:
        for recipients in ((ADA,), (ADA, BOB)):
            for form in ("own", "egregore"):
                message = write(SECRET, *recipients, form=form)  # type: ignore[arg-type]
                self.assertIsNotNone(opened(ADA, message).content)
        self.assertEqual(opened(ADA, write(SECRET, ADA)).recipients, (ADA.public.text,))

    def test_whom_it_cannot_be_sealed_for(self) -> None:
        many = [make_identity(n) for n in range(MAX_RECIPIENTS + 1)]
        for form, error in (("own", SealedInvalid), ("egregore", PrivateBoxInvalid)):
            with self.assertRaises(error):
                write(SECRET, BOB, BOB, form=form)  # type: ignore[arg-type]
            with self.assertRaises(SealedInvalid):
                write(SECRET, *many, form=form)  # type: ignore[arg-type]
            write(SECRET, *many[1:], form=form)  # type: ignore[arg-type]
        with self.assertRaises(InvalidPublicKey):
            seal_content(ADA, ["bob"], prepare_content(SECRET), None, "own", Random(1))

    def test_the_largest_content(self) -> None:
        """A full box fits a content to the byte, and no more does."""
        for recipients in ([BOB], [make_identity(n) for n in range(MAX_RECIPIENTS)]):
            overhead = len(
                msgspec.json.encode(
                    {
                        "content": "",
                        "recipients": [recipient.public.text for recipient in recipients],
                        "schema_id": None,
                    }
                )
            )
            room = sealed.capacity(len(recipients) + 1, MAX_BOX) - overhead
            message = write("x" * room, *recipients)
            size = len(json.dumps(message.content, separators=(",", ":")))
            self.assertTrue(MAX_CONTENT_BYTES - 4 < size <= MAX_CONTENT_BYTES, size)
            self.assertEqual(opened(recipients[0], message).content, prepare_content("x" * room))
            with self.assertRaises(SealedInvalid):
                write("x" * (room + 1), *recipients)


class Reading(SynchronousTestCase):
    def problem(self, message: Message, reader: Identity = BOB) -> str:
        found = opened(reader, message)
        self.assertIsNone(found.content)
        assert found.problem is not None
        return found.problem.code

    def test_a_copy_by_another_author_opens_for_nobody(self) -> None:
        """Egregore's S7: whose content it is, the box says as well as the signature."""
        for form in ("own", "egregore"):
            copy = signed(write(SECRET, BOB, EVE, form=form).content, EVE)  # type: ignore[arg-type]
            for reader in (BOB, EVE, ADA):
                self.assertIsNone(opened(reader, copy).content)
        self.assertEqual(self.problem(copy), "PRIVATE_BOX_INVALID")

    def test_what_is_no_box(self) -> None:
        good = write(SECRET, BOB).content["box"]
        for box in ("", "?", None, 5, good[:-8], good[:400], "B" + good[1:]):
            self.assertEqual(self.problem(signed({"type": "sealed", "box": box})), "SEALED_INVALID")

    def test_a_box_with_something_else_in_it(self) -> None:
        for text in (
            b"",
            b"{",
            b"[]",
            b'{"content":1}',
            b'{"content":1,"recipients":["bob"]}',
            b'{"content":1,"recipients":"@"}',
            b'{"content":"\xff","recipients":[]}',
            b'{"content":NaN,"recipients":[]}',
            b'{"content":{"a":1,"a":2},"recipients":[]}',
            b'{"content":' + b"[" * 500 + b"]" * 500 + b',"recipients":[]}',
        ):
            box = sealed.seal(ADA.public, [BOB.public], text, Random(1), MAX_BOX)
            message = signed({"type": "sealed", "box": base64.b64encode(box).decode()})
            self.assertIn(
                self.problem(message),
                ("SEALED_INVALID", "MALFORMED_MESSAGE", "NESTED_TOO_DEEP"),
                text,
            )

    def test_what_is_not_sealed(self) -> None:
        for content in (
            SECRET,
            '"type":"sealed"',
            {"a": {"type": "sealed"}},
            {"type": "sealedish"},
            None,
            ["sealed"],
        ):
            self.assertIsNone(open_message(BOB, signed(content).raw))

    def test_there_is_nothing_in_it_for_the_index(self) -> None:
        self.assertEqual(content_text(write(SECRET, BOB).content), "")
        self.assertEqual(content_text({"type": "sealed", "box": "a", "c": "d"}), "sealed\na\nd")


class Doors(LookupCase):
    """What readers of a node see."""

    def seal(self, *recipients: Identity, author: Author | None = None, **fields: Any) -> Message:
        author = author or self.ada
        outer, schema_id = seal_content(
            author.identity,
            [recipient.public.text for recipient in recipients],
            prepare_content({**SECRET, **fields}),
            None,
            "own",
            Random(len(author.messages)),
        )
        message = author.write(outer, schema_id=schema_id)
        (verdict,) = self.done(self.part.ingest([message.raw]))
        self.assertEqual(verdict.status, "accepted")
        return message

    def shown(self, items: Sequence[Any]) -> list[Any]:
        return [msgspec.json.decode(item) for item in items]

    def test_every_list_shows_what_is_for_this_node(self) -> None:
        me = self.context.identity
        mine = self.seal(me, BOB)
        theirs = self.seal(BOB)
        stream = self.answer("feed_events", after=0)
        for name, fields in (
            ("feed_list", {}),
            ("feed_author", {"author": self.ada.identity.public.text}),
        ):
            other, message = self.shown(self.ok(name, **fields).items)
            self.assertEqual((other["hash"], message["hash"]), (theirs.hash, mine.hash))
            self.check(message, other)
        (message,) = self.shown(self.ok("feed_thread", hash=mine.hash).items)
        single = msgspec.json.decode(self.ok("feed_message", hash=mine.hash))
        streamed = [self.done(_next(stream)) for _ in range(2)]
        self.done(stream.aclose())
        self.check(single, self.shown([streamed[1].data])[0])
        self.check(self.shown([streamed[0].data])[0], other)
        self.check(message, other)

    def check(self, message: Any, other: Any) -> None:
        self.assertEqual(message["opened"], SECRET)
        me = self.context.identity.public.text
        self.assertEqual(message["recipients"], [me, BOB.public.text])
        self.assertIs(message["sealed"], True)
        # As its author signed it.
        self.assertEqual(set(message["content"]), {"type", "box"})
        self.assertIs(other["sealed"], True)
        self.assertFalse({"opened", "recipients", "problem"} & set(other))

    def test_what_cannot_be_opened_says_why(self) -> None:
        message = self.ada.write({"type": "sealed", "box": "AAAA"})
        self.done(self.part.ingest([message.raw]))
        (shown,) = self.shown(self.ok("feed_list").items)
        self.assertTrue(shown["problem"].startswith("SEALED_INVALID: "), shown["problem"])

    def test_a_search_finds_nothing_of_it(self) -> None:
        self.seal(self.context.identity, word="heron")
        for word in ("between", "heron", "sealed"):
            self.assertEqual(self.ok("feed_search", q=word).items, [])


class Publishing(PartCase):
    def test_published_for_some(self) -> None:
        other = make_context(
            self.clock, "bob", config=Config(retention_expiry=False), migrations=self.migrations()
        )
        there = make_part(other)
        self.done(there.startService())
        self.addCleanup(lambda: self.done(other.database.stopService()))
        for form in ("own", "egregore"):
            message = self.done(
                self.part.publish(SECRET, recipients=[other.identity.public.text], form=form)
            )
            found = open_message(other.identity, message.raw)
            assert found is not None and found.content is not None
            self.assertEqual(found.content.value, SECRET)
            self.done(there.ingest([message.raw]))

    def test_the_answer_shows_the_author_what_was_sealed(self) -> None:
        answer = self.ok(
            "feed_publish",
            content=msgspec.Raw(b'{"n":1.50,"type":"note"}'),
            recipients=[BOB.public.text],
            tags=["x"],
        )
        shown = msgspec.json.decode(answer)
        self.assertEqual(shown["opened"], {"n": 1.5, "type": "note"})
        self.assertEqual(shown["recipients"], [BOB.public.text])
        self.assertEqual(shown["tags"], ["x"])
        parse_message(self.own()[0])

    def test_two_of_one_content_differ(self) -> None:
        one, two = [
            self.done(self.part.publish(SECRET, recipients=[BOB.public.text])) for _ in range(2)
        ]
        self.assertNotEqual(one.content["box"], two.content["box"])

    def test_nothing_is_published_if_it_cannot_be_sealed(self) -> None:
        for recipients, content, error in (
            (["bob"], SECRET, InvalidPublicKey),
            ([BOB.public.text] * 2, SECRET, SealedInvalid),
            ([BOB.public.text], "x" * 50_000, SealedInvalid),
            ([BOB.public.text], "x" * 70_000, ContentTooLarge),
        ):
            self.failed(self.part.publish(content, recipients=recipients), error)
        content = msgspec.Raw(b"1")
        self.failed(self.answer("feed_publish", content=content, form="egregore"), InvalidRequest)
        self.assertEqual(self.own(), [])

    def test_the_door_refuses_more_recipients_than_there_may_be(self) -> None:
        ids = [make_identity(n).public.text for n in range(MAX_RECIPIENTS + 1)]
        msgspec.convert({"content": msgspec.Raw(b"1"), "recipients": ids[1:]}, Publish)
        with self.assertRaisesRegex(msgspec.ValidationError, "recipients"):
            msgspec.convert({"content": msgspec.Raw(b"1"), "recipients": ids}, Publish)


async def _next(stream: Any) -> Any:
    return await anext(stream)
