"""What is asked for twice is published once, and answered twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    FeedReadOnly,
    InvalidRequest,
    KeyReused,
    LimitReached,
    NotFound,
    SchemaMismatch,
    StorageFailed,
)
from meshkit.feed import repeats, retention, store
from meshkit.feed.message import Message
from meshkit.feed.part import Config
from meshkit.feed.repeats import MAX_AGE_NS, MAX_KEYS, Before, Named
from meshkit.operations import Advised
from meshkit.testing.identities import DAY_NS, Author
from meshkit.testing.nodes import make_context, run_clock
from meshkit.web.requests import RequestReader
from tests.feed.test_part import PartCase

NOW_NS = DAY_NS
ME = Author("me")
ME.write_many(5)

names = st.text(min_size=1, max_size=20)
texts = st.binary(max_size=50)


class NamedTests(SynchronousTestCase):
    @given(names, texts, names, texts)
    def test_it_is_the_same_for_the_same_and_for_nothing_else(
        self, key: str, text: bytes, other_key: str, other_text: bytes
    ) -> None:
        one, other = Named.of(key, text), Named.of(other_key, other_text)
        self.assertEqual(one.key == other.key, key == other_key)
        self.assertEqual(one == other, (key, text) == (other_key, other_text))
        self.assertEqual((len(one.key), len(one.request)), (32, 32))

    def test_without_the_key_nothing_can_be_guessed_from_what_is_kept(self) -> None:
        one, other = Named.of("a", b"sealed"), Named.of("b", b"sealed")
        self.assertNotEqual(one.request, other.request)


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        self.connection.executescript(repeats.MIGRATION)

    def remember(self, key: str, now_ns: int = NOW_NS, *, messages: Sequence[Message] = ()) -> None:
        named = Named.of(key, b"request")
        repeats.remember(self.connection, named, messages or ME.messages[:1], ["w"], now_ns)

    def find(self, key: str, now_ns: int = NOW_NS, request: bytes = b"request") -> Before | None:
        return repeats.find(self.connection, Named.of(key, request), now_ns)

    def count(self) -> int:
        (count,) = self.connection.execute("SELECT count(*) FROM feed_keys").fetchone()
        assert isinstance(count, int)
        return count

    def test_what_was_remembered_is_found(self) -> None:
        self.assertIsNone(self.find("a"))
        self.remember("a", messages=ME.messages[1:4])
        last = ME.messages[3]
        self.assertEqual(self.find("a"), Before(3, last.sequence, bytes.fromhex(last.hash), ["w"]))
        self.assertIsNone(self.find("b"))

    def test_a_key_is_for_one_request(self) -> None:
        self.remember("a")
        self.assertRaises(KeyReused, self.find, "a", request=b"another")

    def test_a_key_is_kept_for_a_day_and_no_longer(self) -> None:
        self.remember("a")
        self.assertIsNotNone(self.find("a", NOW_NS + MAX_AGE_NS - 1))
        self.assertIsNone(self.find("a", NOW_NS + MAX_AGE_NS))
        self.assertIsNone(self.find("a", NOW_NS + MAX_AGE_NS, request=b"another"))
        self.remember("b", NOW_NS + MAX_AGE_NS - 1)
        self.assertEqual(self.count(), 2)
        self.remember("c", NOW_NS + MAX_AGE_NS)
        self.assertEqual(self.count(), 2)
        self.assertIsNone(self.find("a"))

    def test_an_old_key_can_be_used_anew(self) -> None:
        self.remember("a")
        self.remember("a", NOW_NS + MAX_AGE_NS)
        self.assertIsNotNone(self.find("a", NOW_NS + MAX_AGE_NS))
        self.assertEqual(self.count(), 1)

    def test_a_clock_that_is_set_back_forgets_nothing(self) -> None:
        self.remember("a", NOW_NS + 10 * MAX_AGE_NS)
        self.remember("b")
        self.assertIsNotNone(self.find("a"))

    def test_there_are_never_more_than_so_many_and_the_oldest_go_first(self) -> None:
        self.connection.execute("BEGIN")
        for number in range(MAX_KEYS + 3):
            self.remember(str(number))
        self.assertEqual(self.count(), MAX_KEYS)
        self.assertIsNone(self.find("2"))
        self.assertIsNotNone(self.find("3"))
        self.assertIsNotNone(self.find(str(MAX_KEYS + 2)))


class PublishingTests(PartCase):
    def published(self) -> list[Any]:
        return [msgspec.json.decode(raw)["content"] for raw in self.own()]

    def publish(self, content: Any, key: str | None = "k", /, **more: Any) -> Any:
        text = msgspec.Raw(content if isinstance(content, bytes) else msgspec.json.encode(content))
        return self.answer("feed_publish", content=text, idempotency_key=key, **more)

    def batch(self, *contents: Any, key: str = "k") -> Any:
        raws = [msgspec.Raw(msgspec.json.encode(content)) for content in contents]
        return self.answer("feed_publish_batch", contents=raws, idempotency_key=key)

    def test_the_first_answer_comes_again_and_nothing_is_published(self) -> None:
        first = self.done(self.publish("a"))
        self.done(self.publish("b", "other"))
        self.assertEqual(bytes(self.done(self.publish("a"))), bytes(first))
        self.assertEqual(self.published(), ["a", "b"])
        self.assertEqual([event.contiguous for event in self.events], [1, 2])

    def test_without_a_key_everything_is_published(self) -> None:
        for _ in range(2):
            self.done(self.publish("a", None))
        self.assertEqual(self.published(), ["a", "a"])

    def test_another_request_may_not_use_the_key(self) -> None:
        self.done(self.publish("a"))
        for content, more in (
            ("b", {}),
            (b'"a" ', {"tags": ["t"]}),
            ("a", {"relates": "0" * 64}),
            ("a", {"schema_id": "s"}),
        ):
            error = self.failed(self.publish(content, **more), KeyReused)
            self.assertEqual((error.code, error.status), ("IDEMPOTENCY_KEY_REUSED", 422))
        self.failed(self.batch("a"), KeyReused)
        self.assertEqual(self.published(), ["a"])

    def test_several_at_the_same_moment_get_one_message(self) -> None:
        self.publish_later = [Deferred.fromCoroutine(self.publish("a")) for _ in range(5)]
        other = Deferred.fromCoroutine(self.publish("b"))
        run_clock(self.clock)
        answers = {bytes(self.successResultOf(waiting)) for waiting in self.publish_later}
        self.assertEqual(len(answers), 1)
        self.failureResultOf(other, KeyReused)
        self.assertEqual(self.published(), ["a"])

    def test_it_holds_over_a_restart(self) -> None:
        first = self.done(self.publish("a"))
        batch = self.done(self.batch("b", "c", key="batch"))
        file = self.context.database._backing
        self.done(self.context.database.stopService())
        self.use(
            make_context(
                self.clock, "me", config=Config(), migrations=self.migrations(), backing=file
            )
        )
        self.assertEqual(bytes(self.done(self.publish("a"))), bytes(first))
        self.assertEqual(self.done(self.batch("b", "c", key="batch")), batch)
        self.assertEqual(self.published(), ["a", "b", "c"])

    def test_what_failed_is_tried_anew(self) -> None:
        write = self.context.database.write

        def refuse(job: Any) -> Any:
            def failing(connection: Any) -> None:
                job(connection)
                raise StorageFailed("the disk is full")

            return write(failing)

        patch = self.patch(self.context.database, "write", refuse)
        self.failed(self.publish("a"), StorageFailed)
        self.failed(self.batch("a"), StorageFailed)
        patch.restore()
        self.done(self.publish("a"))
        self.assertEqual(self.published(), ["a"])

    def test_so_is_that_for_which_there_was_no_room(self) -> None:
        self.use(
            make_context(
                self.clock,
                "full",
                config=Config(max_messages=1),
                migrations=self.migrations(),
            )
        )
        self.done(self.publish("a"))
        self.failed(self.publish("b", "2"), LimitReached)
        self.failed(self.publish("c", "2"), LimitReached)
        self.assertEqual(bytes(self.done(self.publish("a")))[:1], b"{")

    def test_what_keeps_others_from_being_published_does_not_matter(self) -> None:
        first = self.done(self.publish("a"))
        self.done(self.part.note_own_seen(Author("peer").key, 5))
        self.failed(self.publish("b", "other"), FeedReadOnly)
        self.assertEqual(bytes(self.done(self.publish("a"))), bytes(first))

    def test_a_batch_is_published_once(self) -> None:
        first = self.done(self.batch("a", "b"))
        self.done(self.publish("c", None))
        self.assertEqual(self.done(self.batch("a", "b")), first)
        waiting = [Deferred.fromCoroutine(self.batch("x", "y", key="2")) for _ in range(3)]
        run_clock(self.clock)
        (last,) = {msgspec.json.encode(self.successResultOf(each)) for each in waiting}
        self.assertEqual(msgspec.json.decode(last)["first"], 4)
        self.failed(self.batch("b", "a"), KeyReused)
        self.assertEqual(self.published(), ["a", "b", "c", "x", "y"])

    def test_warnings_come_again_as_well(self) -> None:
        self.ok("feed_schema_add", name="note/v1", schema=msgspec.Raw(b'{"required": ["text"]}'))
        self.part.advise(lambda raw: "nobody will read it", lambda count: None)
        bad = {"type": "note", "version": 1}
        for ask in (
            lambda: self.publish({"$schema": "note/v1", **bad}, schema_id="note/v1"),
            lambda: self.batch({"text": "x"}, key="batch"),
        ):
            first, again = self.done(ask()), self.done(ask())
            assert isinstance(first, Advised) and isinstance(again, Advised)
            self.assertEqual(again.warnings, first.warnings)
            self.assertIn("nobody will read it", first.warnings[-1])
        self.assertEqual(len(self.published()), 2)

    def test_a_sealed_message_is_the_same_one_though_it_would_be_sealed_anew(self) -> None:
        to = Author("reader").identity.public.text
        first = self.done(self.publish("secret", recipients=[to]))
        self.assertEqual(bytes(self.done(self.publish("secret", recipients=[to]))), bytes(first))
        self.assertEqual(len(self.own()), 1)

    def test_if_the_message_is_gone_meanwhile_that_is_said(self) -> None:
        self.done(self.publish("a"))
        self.done(self.batch("b", "c", key="batch"))
        self.done(
            self.context.database.write(lambda connection: retention.empty(connection, [1, 2, 3]))
        )
        error = self.failed(self.publish("a"), NotFound)
        self.assertIn("is not kept any more", str(error))
        self.assertEqual(self.done(self.batch("b", "c", key="batch")).count, 2)
        self.assertEqual(self.part.status().messages, 3)

    def test_what_a_key_may_be(self) -> None:
        (operation,) = (
            bound.operation
            for bound in self.part.operations()
            if bound.operation.name == "feed_publish"
        )
        reader = RequestReader(operation)
        for key in ("x", "~" * 255, "8e03978e-40d5-43dd-bc93-6894a57f9324"):
            found: Any = reader.from_json({}, b'{"content": 1}', {"idempotency_key": key})
            self.assertEqual(found.idempotency_key, key)
        for key in ("", "x" * 256, "a b", "\u00e9"):
            self.assertRaises(
                InvalidRequest, reader.from_json, {}, b'{"content": 1}', {"idempotency_key": key}
            )


class StrictTests(PartCase):
    def test_a_schema_that_was_added_later_is_not_asked(self) -> None:
        self.use(
            make_context(
                self.clock,
                "strict",
                config=Config(schemas="strict"),
                migrations=self.migrations(),
            )
        )
        fields: Any = {"content": msgspec.Raw(b'{"n": 1}'), "schema_id": "note/v1"}
        first = self.ok("feed_publish", **fields, idempotency_key="k")
        self.ok("feed_schema_add", name="note/v1", schema=msgspec.Raw(b'{"required": ["text"]}'))
        self.failed(self.answer("feed_publish", **fields), SchemaMismatch)
        again = self.ok("feed_publish", **fields, idempotency_key="k")
        # What is known of it now is shown, as of every message.
        self.assertEqual(
            msgspec.json.decode(again) | {"schema_valid": None},
            msgspec.json.decode(first) | {"schema_valid": None},
        )


class MigrationTests(SynchronousTestCase):
    def test_a_database_of_the_last_version_gets_the_table(self) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        for script in store.MIGRATIONS[:-1]:
            connection.executescript(script)
        store.append_own(connection, ME.messages[:2], NOW_NS)
        connection.executescript(store.MIGRATIONS[-1])
        named = Named.of("k", b"r")
        self.assertIsNone(repeats.find(connection, named, NOW_NS))
