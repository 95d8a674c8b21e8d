"""Tests of L{meshkit.feed.acceptance}: what Egregore's nodes would refuse."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed.acceptance import refusal
from meshkit.feed.message import sign_message
from meshkit.testing.identities import make_identity

HASH = "0123456789abcdef" * 4
WHO = make_identity("somebody").public.text

#: One content of each built-in type with all that it needs, as their nodes accept it.
GOOD: dict[str, dict[str, Any]] = {
    "message": {"text": "hello"},
    "insight": {"title": "t", "observation": "o"},
    "endorsement": {"message_hash": HASH},
    "dispute": {"message_hash": HASH, "reason": "r"},
    "query": {"question": "q"},
    "response": {"query_hash": HASH, "answer": "a"},
    "profile": {"name": "n"},
    "private_box": {"sender": WHO, "box": "AA=="},
    "assign_task": {
        "task_id": "t",
        "task_hash": HASH,
        "offer_hash": HASH,
        "executor": WHO,
        "assigner": WHO,
        "command_id": "c",
        "attempt_id": "a",
        "expires_at": "2030-01-01T00:00:00Z",
    },
    "assign_task_result": {"command_id": "c", "status": "accepted", "task_id": "t"},
    "node_status": {
        "node": "n",
        "ts": "2030-01-01T00:00:00Z",
        "version": "1",
        "uptime_secs": 1,
        "peers": {
            "connected": 0,
            "known": 1,
            "health": [{"peer": "p", "status": "ok", "lag_msgs": 0}],
        },
        "storage": {"bytes": 1, "message_count": 2, "feed_count": 3},
        "throughput": {"msgs_in_last_hour": 0, "msgs_out_last_hour": 0},
    },
}

HEALTH = {
    "connected": True,
    "backend": "nats",
    "unreplicated_count": 0,
    "inflight_publishes": 0,
}

#: Optional members that they accept.
ALSO: list[tuple[str, dict[str, Any]]] = [
    ("message", {"title": None, "format": "markdown", "metadata": {"any": [1, 2.5]}}),
    ("message", {"format": None, "metadata": None}),
    ("insight", {"context": None, "evidence": "e", "confidence": 1, "tags": ["a"]}),
    ("insight", {"confidence": 0.5}),
    ("query", {"execution_context": "advisory", "tags": []}),
    ("response", {"execution_context": None, "confidence": None}),
    ("profile", {"capabilities": ["x"], "valid_from": "whenever", "broker": None}),
    (
        "profile",
        {
            "broker": {
                "operator_name": "o",
                "jurisdiction": "j",
                "disclosure_policy": "d",
                "tenancy": "t",
                "broker_endpoint": "e",
                "backend": "b",
            }
        },
    ),
    ("private_box", {"inner_schema_id": "note/v1"}),
    ("assign_task", {"predecessor": None}),
    ("assign_task_result", {"reason": "r", "lifecycle_hash": HASH, "task_state": "s"}),
    ("node_status", {"uptime_secs": 1.0, "transport_health": HEALTH | {"children": [HEALTH]}}),
]

#: A type, what is changed in a good content (C{...} takes a member away), and a word of
#: the reason.
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("message", {"text": ""}, "1 characters"),
    ("message", {"text": ...}, "needs the member 'text'"),
    ("message", {"format": "rtf"}, "one of"),
    ("message", {"metadata": []}, "object"),
    ("message", {"extra": 1}, "may not have the member 'extra'"),
    ("insight", {"confidence": 1.5}, "0 to 1"),
    ("insight", {"confidence": True}, "0 to 1"),
    ("insight", {"tags": None}, "array"),
    ("insight", {"tags": [1]}, "string"),
    ("insight", {"observation": None}, "string"),
    ("endorsement", {"message_hash": HASH.upper()}, "form"),
    ("endorsement", {"message_hash": HASH + "\n"}, "form"),
    ("dispute", {"reason": ...}, "reason"),
    ("query", {"execution_context": "order"}, "one of"),
    ("response", {"confidence": "high"}, "number"),
    ("profile", {"broker": {}}, "operator_name"),
    ("profile", {"broker": 1}, "object"),
    ("private_box", {"box": ""}, "1 characters"),
    ("private_box", {"sender": "bob"}, "form"),
    ("assign_task", {"task_id": "x" * 257}, "at most 256"),
    ("assign_task", {"executor": "@.ed25519"}, "at least 12"),
    ("assign_task", {"predecessor": "x"}, "form"),
    ("assign_task_result", {"status": "maybe"}, "one of"),
    ("node_status", {"uptime_secs": -1}, "whole number"),
    ("node_status", {"uptime_secs": 1.5}, "whole number"),
    ("node_status", {"uptime_secs": True}, "whole number"),
    ("node_status", {"transport_health": HEALTH | {"connected": 1}}, "true or false"),
    ("node_status", {"transport_health": HEALTH | {"children": [{}]}}, "needs the member"),
]


def text(content: Any, **fields: Any) -> bytes:
    """A message with a content that need not be publishable here."""
    return json.dumps({"author": "@", "sequence": 1, "content": content, **fields}).encode()


def changed(kind: str, change: dict[str, Any]) -> dict[str, Any]:
    content = {"type": kind, **GOOD[kind], **change}
    return {key: value for key, value in content.items() if value is not ...}


class SchemaTests(SynchronousTestCase):
    """The eleven built-in types."""

    def test_what_is_needed_is_enough(self) -> None:
        for kind in GOOD:
            self.assertIsNone(refusal(text(changed(kind, {}))), kind)

    def test_what_may_stand_there_as_well(self) -> None:
        for kind, more in ALSO:
            self.assertIsNone(refusal(text(changed(kind, more))), (kind, more))

    def test_what_may_not(self) -> None:
        for kind, change, word in BAD:
            self.assertIn(word, refusal(text(changed(kind, change))) or "", (kind, change))

    def test_every_member_that_is_needed_is(self) -> None:
        for kind, content in GOOD.items():
            for member in content:
                self.assertIn(member, refusal(text(changed(kind, {member: ...}))) or "", kind)

    def test_a_schema_id_decides_over_the_type(self) -> None:
        self.assertIsNone(refusal(text({"type": "insight"}, schema_id="insight/v2")))
        self.assertIsNone(refusal(text({"type": "note"}, schema_id="of/v1")))
        insight = changed("insight", {"type": "note"})
        self.assertIn("one of", refusal(text(insight, schema_id="insight/v1")) or "")
        self.assertIsNone(refusal(text(insight)))
        self.assertIn("object", refusal(text([], schema_id="insight/v1")) or "")

    def test_a_type_that_they_do_not_know_is_free(self) -> None:
        self.assertIsNone(refusal(text({"type": "note", "anything": {"at": ["all"]}})))

    def test_a_content_without_a_type_needs_a_schema_id(self) -> None:
        for content in ({}, {"type": 7}, [], "text", 7, None):
            self.assertIn("type", refusal(text(content)) or "", content)
            self.assertIsNone(refusal(text(content, schema_id="own/v1")), content)


class NumberTests(SynchronousTestCase):
    """Numbers that their reader changes."""

    def test_floats_that_a_node_of_theirs_misread(self) -> None:
        for token in ("0.36995516654807925", "0.47274908866546683"):
            raw = text({"type": "note", "x": 0}).replace(b": 0}", b": " + token.encode() + b"}")
            self.assertIn(token, refusal(raw) or "")

    def test_other_spellings(self) -> None:
        for token, fine in (
            ("1.0", True),
            ("1e+16", True),
            ("1e16", False),
            ("1e-6", True),
            ("1.50", False),
            ("1e400", False),
            ("-0", False),
            ("-0.0", True),
            (str(2**64 - 1), True),
            (str(2**64), False),
            (str(-(2**63)), True),
            (str(-(2**63) - 1), False),
        ):
            raw = text({"type": "note", "x": 0}).replace(b": 0}", b": " + token.encode() + b"}")
            self.assertEqual(refusal(raw) is None, fine, token)

    @given(st.floats(allow_nan=False, allow_infinity=False, max_value=9e15, min_value=-9e15))
    def test_what_is_published_here_is_never_one(self, x: float) -> None:
        message = sign_message(
            make_identity("a"),
            sequence=1,
            previous=None,
            timestamp_ns=0,
            content={"type": "note", "x": x},
        )
        self.assertIsNone(refusal(message.raw))
