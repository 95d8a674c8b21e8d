"""
Which of our messages the nodes of Egregore would refuse, and why.  Pure.

Its nodes since version 1.0 judge a message by more than its signature:

  - the content is an object with a C{type}, unless the message names a C{schema_id};
  - where the schema is one of the eleven that every node brings along, chosen by
    C{schema_id} or else as the first version for the C{type}, the content has to fit it,
    and nearly all of them forbid members that they do not name;
  - a number with a fraction or an exponent has to be one that their reader, which is
    inexact, and their writer give back as it is spelled (L{meshkit.feed.floats}).

What they refuse leaves a gap at their side: the messages behind it are stored there, but
the feed no longer counts as whole.  Schemas that an operator has added to a node of
theirs are not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from meshkit.errors import MalformedMessage
from meshkit.feed.floats import MAX_INTEGER, MIN_INTEGER, read_number, write_float

#: What is wrong with a value, given what the value is called; L{None} if nothing is.
Check = Callable[[str, Any], str | None]


def refusal(raw: bytes) -> str | None:
    """
    Why a node of Egregore refuses a message.

    @param raw: L{meshkit.feed.message.Message.raw} of a message in good form.
    @return: what its author should change; L{None} if it is not refused.
    """
    odd: list[str] = []

    def number(token: str, kind: Callable[[str], Any]) -> Any:
        if not _survives(token):
            odd.append(token)
        return kind(token)

    message = json.loads(raw, parse_float=partial(number, kind=float), parse_int=_integer(odd))
    if odd:
        return f"they would read the number {odd[0][:40]} as another one: publish it as a string"
    content, schema_id = message["content"], message.get("schema_id")
    if schema_id is None:
        kind = content.get("type") if isinstance(content, dict) else None
        if not isinstance(kind, str):
            return "the content has no 'type': give it one, such as \"note\""
        schema_id = f"{kind}/v1"
    check = _SCHEMAS.get(schema_id)
    return None if check is None else check(f"a content of the type {schema_id}", content)


def _survives(token: str) -> bool:
    try:
        return write_float(read_number(token)) == token
    except MalformedMessage:
        return False


def _integer(odd: list[str]) -> Callable[[str], int]:
    def read(token: str) -> int:
        # They read these as floats.
        if token == "-0" or not MIN_INTEGER <= int(token) <= MAX_INTEGER:
            odd.append(token)
        return int(token)

    return read


# --- the schemas that their nodes bring along --------------------------------------


def _text(
    at_least: int = 0, at_most: int | None = None, form: re.Pattern[str] | None = None
) -> Check:
    def check(name: str, value: Any) -> str | None:
        if not isinstance(value, str):
            return f"{name} has to be a string"
        if len(value) < at_least or (at_most is not None and len(value) > at_most):
            limit = "" if at_most is None else f" and at most {at_most}"
            return f"{name} has to have at least {at_least} characters{limit}"
        if form is not None and not form.search(value):
            return f"{name} has to be of the form {form.pattern}"
        return None

    return check


def _one_of(*values: str) -> Check:
    def check(name: str, value: Any) -> str | None:
        if isinstance(value, str) and value in values:
            return None
        return f"{name} has to be one of {', '.join(values)}"

    return check


def _share(name: str, value: Any) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return None
    return f"{name} has to be a number from 0 to 1"


def _count(name: str, value: Any) -> str | None:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if whole and not isinstance(value, bool) and value >= 0:
        return None
    return f"{name} has to be a whole number from 0 on"


def _flag(name: str, value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{name} has to be true or false"


def _any_object(name: str, value: Any) -> str | None:
    return None if isinstance(value, dict) else f"{name} has to be an object"


def _or_null(inner: Check) -> Check:
    def check(name: str, value: Any) -> str | None:
        return None if value is None else inner(name, value)

    return check


def _list_of(inner: Check) -> Check:
    def check(name: str, value: Any) -> str | None:
        if not isinstance(value, list):
            return f"{name} has to be an array"
        return next(filter(None, (inner(f"an item of {name}", item) for item in value)), None)

    return check


def _object(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these members and no others."""
    known = {**needed, **(optional or {})}

    def check(name: str, value: Any) -> str | None:
        if not isinstance(value, dict):
            return f"{name} has to be an object"
        for member in needed:
            if member not in value:
                return f"{name} needs the member {member!r}"
        for member in value:
            if member not in known:
                return f"{name} may not have the member {member[:40]!r}"
            wrong = known[member](f"{member!r} in {name}", value[member])
            if wrong is not None:
                return wrong
        return None

    return check


def _transport_health(name: str, value: Any) -> str | None:
    # It holds itself: as deep as a message may be nested.
    return _TRANSPORT_HEALTH(name, value)


_ANY: Final = _text()
_FULL: Final = _text(1)
_MAYBE: Final = _or_null(_ANY)
_TAGS: Final = _list_of(_ANY)
_HASH: Final = _text(form=re.compile(r"\A[a-f0-9]{64}\Z"))
_WHO: Final = _text(12, 128, re.compile(r"\A@.+\.ed25519\Z"))
_STANDING: Final = _or_null(_one_of("informational", "advisory", "approved_directive"))

_BRIDGE_QUEUES: Final = _object(
    {
        "destination": _FULL,
        **dict.fromkeys(
            (
                "depth_total",
                "authors_backpressured",
                "authors_active",
                "backpressure_events_total",
                "self_echo_total",
                "ack_on_error_total",
                "nats_redelivery_total",
            ),
            _count,
        ),
    },
    {
        "oldest_queued_age_secs": _count,
        "publish_in_flight_age_secs": _count,
        "last_error": _ANY,
    },
)
_TRANSPORT_HEALTH: Final = _object(
    {
        "connected": _flag,
        "backend": _FULL,
        "unreplicated_count": _count,
        "inflight_publishes": _count,
    },
    {
        "last_successful_publish": _ANY,
        "last_peer_contact": _ANY,
        "last_error": _ANY,
        "children": _list_of(_transport_health),
        "bridge_queues": _BRIDGE_QUEUES,
    },
)
_PEER_HEALTH: Final = _object(
    {"peer": _FULL, "status": _FULL, "lag_msgs": _count}, {"profile_expired": _flag}
)


def _schema(
    kind: str, needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None
) -> tuple[str, Check]:
    return f"{kind}/v1", _object({"type": _one_of(kind), **needed}, optional)


#: C{schema_id} -> what a content has to be.
_SCHEMAS: Final[Mapping[str, Check]] = MappingProxyType(
    dict(
        (
            _schema(
                "message",
                {"text": _FULL},
                {
                    "title": _MAYBE,
                    "format": _or_null(_one_of("plain", "markdown", "html")),
                    "metadata": _or_null(_any_object),
                },
            ),
            _schema(
                "insight",
                {"title": _FULL, "observation": _FULL},
                {
                    "context": _MAYBE,
                    "evidence": _MAYBE,
                    "guidance": _MAYBE,
                    "confidence": _or_null(_share),
                    "tags": _TAGS,
                },
            ),
            _schema("endorsement", {"message_hash": _HASH}, {"comment": _MAYBE}),
            _schema("dispute", {"message_hash": _HASH, "reason": _FULL}, {"evidence": _MAYBE}),
            _schema("query", {"question": _FULL}, {"tags": _TAGS, "execution_context": _STANDING}),
            _schema(
                "response",
                {"query_hash": _HASH, "answer": _FULL},
                {"confidence": _or_null(_share), "execution_context": _STANDING},
            ),
            _schema(
                "profile",
                {"name": _FULL},
                {
                    "description": _MAYBE,
                    "capabilities": _TAGS,
                    "broker": _or_null(
                        _object(
                            dict.fromkeys(
                                (
                                    "operator_name",
                                    "jurisdiction",
                                    "disclosure_policy",
                                    "tenancy",
                                    "broker_endpoint",
                                    "backend",
                                ),
                                _FULL,
                            )
                        )
                    ),
                    "valid_from": _MAYBE,
                    "valid_until": _MAYBE,
                },
            ),
            _schema(
                "private_box",
                {"sender": _text(form=re.compile(r"\A@.+\.ed25519\Z")), "box": _FULL},
                {"inner_schema_id": _MAYBE},
            ),
            _schema(
                "assign_task",
                {
                    "task_id": _text(1, 256),
                    "task_hash": _HASH,
                    "offer_hash": _HASH,
                    "executor": _WHO,
                    "assigner": _WHO,
                    "command_id": _text(1, 128),
                    "attempt_id": _text(1, 128),
                    "expires_at": _ANY,
                },
                {"predecessor": _or_null(_HASH)},
            ),
            _schema(
                "assign_task_result",
                {
                    "command_id": _text(1, 128),
                    "status": _one_of("accepted", "rejected", "superseded"),
                    "task_id": _text(1, 256),
                },
                {
                    "reason": _text(1, 128),
                    "lifecycle_hash": _HASH,
                    "task_state": _text(1, 64),
                },
            ),
            _schema(
                "node_status",
                {
                    "node": _FULL,
                    "ts": _ANY,
                    "version": _FULL,
                    "uptime_secs": _count,
                    "peers": _object(
                        {
                            "connected": _count,
                            "known": _count,
                            "health": _list_of(_PEER_HEALTH),
                        }
                    ),
                    "storage": _object(
                        {"bytes": _count, "message_count": _count, "feed_count": _count}
                    ),
                    "throughput": _object(
                        {"msgs_in_last_hour": _count, "msgs_out_last_hour": _count}
                    ),
                },
                {"transport_health": _transport_health},
            ),
        )
    )
)
