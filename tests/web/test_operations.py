"""Declarations that cannot be served are refused when they are made."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.operations import Nothing, Operation


class One(msgspec.Struct):
    author: str
    renamed: int = msgspec.field(name="other", default=0)


def declare(**change: Any) -> Operation:
    fields: dict[str, Any] = {
        "name": "feed_by_author",
        "method": "GET",
        "path": "/v1/feed/{author}",
        "request": One,
        "answer": None,
        "doc": "One author's messages.",
    }
    return Operation(**(fields | change))


class DeclarationTests(SynchronousTestCase):
    def test_the_fields_of_the_path_are_known_in_order(self) -> None:
        self.assertEqual(declare(path="/v1/{other}/x/{author}").path_fields, ("other", "author"))
        self.assertEqual(declare(path="/v1/feed", request=Nothing).path_fields, ())

    def test_what_cannot_be_served_is_refused(self) -> None:
        table: list[tuple[dict[str, Any], str]] = [
            ({"name": "feedByAuthor"}, "snake_case"),
            ({"name": ""}, "snake_case"),
            ({"path": "v1/feed"}, "not a path"),
            ({"path": "/v1/feed/"}, "not a path"),
            ({"path": "/"}, "not a path"),
            ({"path": "/v1/<author>"}, "not a path"),
            ({"path": "/v1/x{author}"}, "not a path"),
            ({"path": "/v1/../feed"}, "not a path"),
            ({"path": "/v1/{writer}"}, "no field 'writer'"),
            ({"path": "/v1/{renamed}"}, "no field 'renamed'"),
            ({"path": "/v1/{author}/{author}"}, "twice"),
            ({"permission": "write"}, "GET cannot"),
            ({"success": 302}, "302"),
            ({"success": 204, "paged": True}, "paged"),
            ({"key": "other"}, "POST's request"),
            ({"key": "none", "method": "POST"}, "POST's request"),
            ({"sends": "text/plain", "paged": True}, "raw bytes"),
            ({"sends": "text/plain", "stream": True}, "raw bytes"),
            ({"sends": "text/plain", "method": "DELETE", "success": 204}, "raw bytes"),
            ({"takes": "other"}, "POST's request"),
            ({"takes": "none", "method": "POST"}, "POST's request"),
            ({"takes": "author", "method": "POST"}, "path"),
            ({"public": True, "method": "POST"}, "public"),
            ({"public": True, "permission": "admin"}, "public"),
            ({"granted": True, "method": "DELETE"}, "granted"),
        ]
        for change, word in table:
            with self.assertRaises(ValueError, msg=str(change)) as caught:
                declare(**change)
            self.assertIn(word, str(caught.exception), change)

    def test_what_writes_may_be_posted_and_deleted(self) -> None:
        for method in ("POST", "DELETE"):
            self.assertEqual(declare(method=method, permission="write").method, method)
