"""Tests of L{meshkit.feed.schema_registry}: contents and schemas at the doors."""

from __future__ import annotations

from typing import Any

import msgspec

from meshkit.errors import NotFound, SchemaInvalid, SchemaMismatch
from meshkit.feed.advice import MAX_WARNINGS
from meshkit.feed.operations import AddSchema
from meshkit.feed.part import Config
from meshkit.feed.schema_registry import MAX_SCHEMAS
from meshkit.operations import Advised
from meshkit.testing.nodes import make_context
from tests.feed.test_lookups import LookupCase

NOTE = msgspec.Raw(b'{"properties":{"n": {"type":"integer"}}, "required":["n"]}')
NEVER = msgspec.Raw(b'{"not":{}}')
#: It refers to itself: no number of steps is enough.
ENDLESS = msgspec.Raw(b'{"$ref":"#"}')


class RegistryCase(LookupCase):
    def add(self, name: str = "note/v1", text: msgspec.Raw = NOTE) -> Any:
        return self.ok("feed_schema_add", name=name, schema=text)

    def restart(self) -> None:
        """Another part on the same database."""
        self.done(self.part.stopService())
        self.use(self.context)


class Keeping(RegistryCase):
    def test_what_was_added_is_kept(self) -> None:
        self.assertEqual(self.ok("feed_schemas"), [])
        self.add()
        self.add("a.b-c_d/v10", NEVER)
        for _ in range(2):
            listed = [(each.name, each.bytes) for each in self.ok("feed_schemas")]
            self.assertEqual(
                listed, [("a.b-c_d/v10", len(bytes(NEVER))), ("note/v1", len(bytes(NOTE)))]
            )
            self.assertEqual(self.ok("feed_schema", name="note/v1"), NOTE)
            self.restart()
        self.assertEqual(self.ok("feed_schemas")[0].added, "2026-01-01T00:00:00Z")

    def test_one_is_replaced_and_removed(self) -> None:
        self.add()
        self.add(text=NEVER)
        self.assertEqual(self.ok("feed_schema", name="note/v1"), NEVER)
        self.ok("feed_schema_remove", name="note/v1")
        for _ in range(2):
            self.assertEqual(self.ok("feed_schemas"), [])
            for name in ("feed_schema", "feed_schema_remove"):
                self.failed(self.answer(name, name="note/v1"), NotFound)
            self.restart()

    def test_what_cannot_be_used_is_not_kept(self) -> None:
        bad = msgspec.Raw(b'{"$ref":"http://example.com/"}')
        self.failed(self.answer("feed_schema_add", name="note/v1", schema=bad), SchemaInvalid)
        self.assertEqual(self.ok("feed_schemas"), [])

    def test_there_is_a_limit(self) -> None:
        for n in range(1, MAX_SCHEMAS + 1):
            self.add(f"note/v{n}", msgspec.Raw(b"{}"))
        self.failed(self.answer("feed_schema_add", name="other/v1", schema=NOTE), SchemaInvalid)
        self.add("note/v1", NOTE)

    def test_one_that_this_version_refuses_is_passed_over(self) -> None:
        self.add()
        self.add("other/v1")
        self.done(
            self.context.database.write(
                lambda connection: (
                    connection.execute(
                        "UPDATE feed_schemas SET text = ? WHERE name = 'note/v1'", (b'{"$id":"x"}',)
                    ).rowcount
                )
            )
        )
        self.restart()
        self.assertEqual([each.name for each in self.ok("feed_schemas")], ["other/v1"])

    def test_names(self) -> None:
        for name in ("note", "note/1", "note/v0", "Note/v1", "/v1", "a b/v1", "a/b/v1", "é/v1"):
            with self.assertRaisesRegex(msgspec.ValidationError, "name"):
                msgspec.convert({"name": name, "schema": NOTE}, AddSchema)


class Lenient(RegistryCase):
    def test_the_publisher_is_warned(self) -> None:
        self.add()
        answer = self.ok("feed_publish", content=msgspec.Raw(b'{"type":"note"}'))
        assert isinstance(answer, Advised)
        (warning,) = answer.warnings
        self.assertIn("note/v1", warning)
        self.assertIs(msgspec.json.decode(answer.answer)["schema_valid"], False)
        good = self.ok("feed_publish", content=msgspec.Raw(b'{"n":1,"type":"note"}'))
        self.assertIs(msgspec.json.decode(good)["schema_valid"], True)

    def test_a_batch_is_warned_of_so_many(self) -> None:
        self.add()
        contents = [msgspec.Raw(b'{"type":"note"}')] * (MAX_WARNINGS + 2)
        answer = self.ok("feed_publish_batch", contents=[msgspec.Raw(b"1"), *contents])
        self.assertEqual(len(answer.warnings), MAX_WARNINGS + 1)
        self.assertTrue(answer.warnings[0].startswith("message 2: the content does not fit"))
        self.assertEqual(answer.warnings[-1], "and 2 more of this kind")

    def test_which_schema_it_is(self) -> None:
        self.add()
        self.add("other/v2", NEVER)
        for content, schema_id, warned in (
            (b'{"type":"note"}', None, True),
            (b'{"type":"note"}', "other/v2", True),
            (b'{"n":1,"type":"note"}', "other/v2", True),
            (b'{"n":1,"type":"note"}', "note/v1", False),
            # One that is not known here is not checked; nor is a later version by type.
            (b'{"type":"note"}', "note/v9", False),
            (b'{"type":"other"}', None, False),
            (b'{"type":["note"]}', None, False),
            (b'"note"', None, False),
        ):
            answer = self.ok("feed_publish", content=msgspec.Raw(content), schema_id=schema_id)
            self.assertEqual(isinstance(answer, Advised), warned, (content, schema_id))

    def test_what_others_wrote_is_shown_with_it_and_never_refused(self) -> None:
        self.put(self.ada, {"type": "note"})
        self.put(self.ada, {"type": "note", "n": 1})
        self.put(self.ada, {"type": "other"})
        self.put(self.ada, {"type": "endless"})
        self.assertEqual(self.flags(), [None] * 4)
        self.add()
        self.add("endless/v1", ENDLESS)
        # What takes too long is not said to be wrong.
        self.assertEqual(self.flags(), [None, None, True, False])
        self.put(self.ada, {"type": "note"})
        self.assertEqual(self.flags(), [False, None, None, True, False])
        self.ok("feed_schema_remove", name="note/v1")
        self.assertEqual(self.flags(), [None] * 5)

    def flags(self) -> list[Any]:
        items = self.ok("feed_list").items
        return [msgspec.json.decode(item).get("schema_valid") for item in items]

    def test_what_was_sealed_is_checked_and_the_seal_is_not(self) -> None:
        self.add()
        self.add("sealed/v1", NEVER)
        me = [self.context.identity.public.text]
        for content, schema_id, valid in (
            (b'{"type":"note"}', None, False),
            (b'{"n":1,"type":"note"}', None, True),
            (b"1", "note/v1", True),
            (b"{}", "note/v1", False),
            (b"1", None, None),
        ):
            answer = self.ok(
                "feed_publish", content=msgspec.Raw(content), schema_id=schema_id, recipients=me
            )
            warned = isinstance(answer, Advised)
            shown = msgspec.json.decode(answer.answer if isinstance(answer, Advised) else answer)
            self.assertEqual(shown.get("schema_valid"), valid, content)
            self.assertEqual(warned, valid is False)


class Strict(RegistryCase):
    def setUp(self) -> None:
        super().setUp()
        self.done(self.context.database.stopService())
        config = Config(schemas="strict")
        self.use(make_context(self.clock, "me", config=config, migrations=self.migrations()))
        self.add()

    def test_what_does_not_fit_is_not_published(self) -> None:
        bad = msgspec.Raw(b'{"n":1.5,"type":"note"}')
        me = [self.context.identity.public.text]
        batch = [msgspec.Raw(b"1"), bad]
        for failing in (
            self.answer("feed_publish", content=bad),
            self.answer("feed_publish", content=bad, recipients=me),
            self.answer("feed_publish_batch", contents=batch),
            self.part.publish({"type": "note", "n": 1.5}),
        ):
            error = self.failed(failing, SchemaMismatch)
            self.assertEqual(
                error.details,
                {"schema": "note/v1", "pointer": "/n", "rule": "#/properties/n/type"},
            )
            self.assertIn("/n", str(error))
        self.assertTrue(
            str(
                self.failed(self.answer("feed_publish_batch", contents=batch), SchemaMismatch)
            ).startswith("message 2 of the batch")
        )
        self.assertEqual(self.own(), [])

    def test_what_fits_or_has_no_schema_is(self) -> None:
        self.done(self.part.publish({"type": "note", "n": 1}))
        self.done(self.part.publish({"type": "other"}))
        self.done(self.part.publish(5))
        self.assertEqual(len(self.own()), 3)

    def test_what_takes_too_long_to_check_is_not_published(self) -> None:
        self.add("endless/v1", ENDLESS)
        error = self.failed(self.part.publish({"type": "endless"}), SchemaMismatch)
        self.assertIn("too long", str(error))

    def test_what_others_wrote_is_stored_all_the_same(self) -> None:
        self.put(self.ada, {"type": "note"})
        (item,) = self.ok("feed_list").items
        self.assertIs(msgspec.json.decode(item)["schema_valid"], False)
