"""
How each operation of a node is called so that it answers, and what it refuses.

Whoever adds an operation adds a line here; without one L{tests.services.test_four_doors}
fails.  What an operation needs is prepared by other operations, through REST.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import field, frozen

from meshkit.testing.identities import make_identity

#: Field -> value; bytes for a field that takes them as they are.
Fields = Mapping[str, Any]
#: What is known of the node and its peer before a call, by name.
Facts = Mapping[str, Any]
Given = Fields | Callable[[Facts], Fields]

#: Somebody whom no node has ever heard of.
STRANGER: Final = make_identity("stranger").public.text
NO_HASH: Final = "0" * 64
SCHEMA: Final = {"type": "object", "required": ["text"]}


@frozen
class Call:
    """
    @ivar fields: with which it answers.
    @ivar before: operations that are called first, with their fields.
    @ivar after: operations that undo it, so that it can be done again.
    @ivar meanwhile: of a stream, what is called while it is open.
    @ivar items: of a stream, how many are waited for.
    @ivar refused: fields with which it refuses, and the code with which it does; beside what
        is tried of every operation.
    @ivar differs: members of the answer that are drawn by lot, or tell how long something took:
        they need to be there, not to be equal.
    @ivar compared: what of an answer has to be equal.
    """

    fields: Given = {}
    before: tuple[tuple[str, Given], ...] = ()
    after: tuple[tuple[str, Given], ...] = ()
    meanwhile: tuple[str, Given] | None = None
    items: int = 1
    refused: tuple[tuple[Given, str], ...] = ()
    differs: tuple[str, ...] = ()
    compared: Callable[[Any], Any] = field(default=lambda answer: answer)


def given(fields: Given, facts: Facts) -> dict[str, Any]:
    """@return: the fields for one node."""
    return dict(fields(facts) if callable(fields) else fields)


def _bob(facts: Facts) -> Fields:
    return {"author": facts["bob"]}


def _bobs_address(facts: Facts) -> Fields:
    return {"address": facts["bob_address"]}


_NOBODY: Final[tuple[tuple[Given, str], ...]] = (({"author": "nobody"}, "INVALID_PUBLIC_KEY"),)
_NOTE: Final = {"content": {"type": "note", "text": "a grey heron", "n": 1.5}, "tags": ["a", "b"]}
_NOWHERE: Final = {"address": f"net:127.0.0.1:1~shs:{STRANGER[1 : -len('.ed25519')]}"}
_TOPIC: Final = {"kind": "topic", "name": "herons and owls", "text": "they fly"}
_PARKED: Final[Given] = {"name": "web"}
_NO_HOOK: Final[tuple[tuple[Given, str], ...]] = (({"name": "none"}, "NOT_FOUND"),)

CALLS: Final[dict[str, Call]] = {
    # --- the node ---
    # When the hash table looks after itself is drawn by lot.
    "node_status": Call(
        differs=("uptime_secs", "channels"),
        compared=lambda status: {
            **status,
            "parts": {name: part for name, part in status["parts"].items() if name != "dht"},
        },
    ),
    "node_identity": Call(),
    "node_openapi": Call(),
    "node_health": Call(),
    "node_ready": Call(),
    # The doors are told apart in what is counted.
    "metrics": Call(compared=lambda text: [x for x in text.splitlines() if x[:1] == b"#"]),
    "operations_list": Call(),
    # A stream lasts longer as a tool, and one of the peers is dialled again meanwhile.
    "peers_list": Call(differs=("failures",)),
    "peers_ledger": Call({"limit": 5}),
    "peers_add": Call(_NOWHERE, refused=(({"address": "nowhere"}, "INVALID_ADDRESS"),)),
    "peers_remove": Call(
        _NOWHERE,
        before=(("peers_add", _NOWHERE),),
        refused=(({"address": "127.0.0.1:9"}, "NOT_FOUND"),),
    ),
    "peers_dial": Call(
        lambda facts: {**_bobs_address(facts), "pings": 2},
        refused=((_NOWHERE, "PEER_UNREACHABLE"),),
        differs=("handshake_ms", "round_trips_ms"),
    ),
    "peers_repin": Call(_bobs_address, refused=((_NOWHERE, "PEER_UNREACHABLE"),)),
    # --- the tokens of the door ---
    "tokens_list": Call(differs=("id",)),
    "tokens_add": Call(
        {"name": "new", "scopes": ["read:feed_*", "write:feed_publish"], "expires_secs": 3600},
        refused=(
            ({"name": "other"}, "TOKEN_EXISTS"),
            ({"scopes": ["everything"]}, "INVALID_REQUEST"),
        ),
        after=(("tokens_remove", {"name": "new"}),),
        differs=("id", "token"),
    ),
    "tokens_remove": Call(
        {"name": "old"},
        before=(("tokens_add", {"name": "old", "scopes": ["read"]}),),
        refused=(({"name": "none"}, "NOT_FOUND"),),
    ),
    "tokens_rotate": Call(),
    # --- feeds ---
    "feed_publish": Call(_NOTE, refused=(({"content": {"n": 2**70}}, "NUMBER_NOT_PORTABLE"),)),
    "feed_publish_batch": Call({"contents": [{"type": "note"}, 1.5, "text"]}),
    "feed_list": Call(
        {"include_self": True, "tag": "heron", "limit": 1},
        refused=(({"cursor": "nowhere"}, "INVALID_REQUEST"),),
    ),
    "feed_author": Call(lambda facts: {**_bob(facts), "limit": 1}, refused=_NOBODY),
    "feed_insights": Call({"limit": 2}),
    "feed_search": Call({"q": '"grey heron"', "order": "newest", "limit": 1}),
    "feed_message": Call(
        lambda facts: {"hash": facts["message"]}, refused=(({"hash": NO_HASH}, "NOT_FOUND"),)
    ),
    "feed_thread": Call(
        lambda facts: {"hash": facts["message"], "depth": 3},
        refused=(({"hash": NO_HASH}, "NOT_FOUND"),),
    ),
    "feed_schemas": Call(before=(("feed_schema_add", {"name": "a/v1", "schema": SCHEMA}),)),
    "feed_schema": Call(
        {"name": "a/v1"},
        before=(("feed_schema_add", {"name": "a/v1", "schema": SCHEMA}),),
        refused=(({"name": "none/v1"}, "NOT_FOUND"),),
    ),
    "feed_schema_add": Call(
        {"name": "b/v1", "schema": SCHEMA},
        refused=(({"name": "b/v1", "schema": {"type": 7}}, "SCHEMA_INVALID"),),
    ),
    "feed_schema_remove": Call(
        {"name": "c/v1"},
        before=(("feed_schema_add", {"name": "c/v1", "schema": SCHEMA}),),
        refused=(({"name": "none/v1"}, "NOT_FOUND"),),
    ),
    "feed_own": Call(),
    "feed_unlock": Call(),
    "feed_events": Call({"after": 0, "tag": "heron"}, items=2, refused=_NOBODY),
    "feed_export": Call(_bob, refused=_NOBODY),
    "feed_import": Call(lambda facts: {"messages": facts["exported"]}),
    "blocks_list": Call(before=(("blocks_add", {"author": STRANGER}),)),
    "blocks_add": Call({"author": STRANGER}, refused=_NOBODY),
    "blocks_remove": Call(
        {"author": STRANGER}, before=(("blocks_add", {"author": STRANGER}),), refused=_NOBODY
    ),
    "retention_plan": Call(),
    "retention_run": Call(),
    "feed_forget": Call(
        {"author": STRANGER},
        before=(("blocks_add", {"author": STRANGER}),),
        refused=((_bob, "INVALID_REQUEST"), *_NOBODY),
    ),
    # --- gossip ---
    "follows_list": Call(),
    "follows_add": Call(_bob, refused=_NOBODY),
    "follows_remove": Call(_bob, before=(("follows_add", _bob),), refused=_NOBODY),
    "topics_list": Call(before=(("topics_add", {"topic": "herons and owls"}),)),
    "topics_add": Call({"topic": "a/b?c=%2F&d"}),
    "topics_remove": Call({"topic": "x y"}, before=(("topics_add", {"topic": "x y"}),)),
    # --- the hash table ---
    "dht_get": Call(
        {"kind": "topic", "name": "herons and owls"},
        before=(("dht_put", _TOPIC),),
        refused=(
            ({"kind": "dream", "name": "a"}, "RECORD_WRONG_KIND"),
            ({"kind": "immutable", "name": "no hex"}, "INVALID_REQUEST"),
            ({"kind": "address", "name": "nobody"}, "INVALID_PUBLIC_KEY"),
            ({"kind": "topic", "name": "a", "salt": "b"}, "INVALID_REQUEST"),
        ),
    ),
    "dht_put": Call(
        {"kind": "mutable", "value": "/wA="},
        before=(("dht_put", {"kind": "mutable", "text": "x", "salt": "a/b"}),),
        refused=(
            ({"kind": "topic", "name": "a", "value": "AAAA" * 1366}, "RECORD_TOO_LARGE"),
            ({"kind": "topic"}, "INVALID_REQUEST"),
            ({"kind": "address"}, "INVALID_REQUEST"),
            ({"value": "?"}, "INVALID_REQUEST"),
            ({"text": "x"}, "INVALID_REQUEST"),
        ),
    ),
    "dht_withdraw": Call(
        {"kind": "topic", "name": "herons and owls"},
        before=(("dht_put", _TOPIC),),
        refused=(({"kind": "topic", "name": "none"}, "NOT_FOUND"),),
    ),
    "dht_find_node": Call(
        lambda facts: {"target": facts["bob"]},
        refused=(({"target": "aa"}, "INVALID_REQUEST"), ({"target": "@a"}, "INVALID_PUBLIC_KEY")),
    ),
    "dht_find_peer": Call(
        lambda facts: {"public_id": facts["bob"]},
        refused=(({"public_id": STRANGER}, "NOT_FOUND"),),
    ),
    "dht_providers": Call(
        {"content": "C0FFEE"},
        before=(("dht_provide", {"content": "c0ffee"}),),
        refused=(({"content": "coffee"}, "INVALID_REQUEST"),),
    ),
    "dht_provide": Call({"content": "c0ffee"}, refused=(({"content": "c"}, "INVALID_REQUEST"),)),
    "dht_table": Call(differs=("heard",)),
    "dht_stats": Call(
        differs=("asked", "served", "connections", "accepted", "dialled", "records", "record_bytes")
    ),
    # --- hooks ---
    "hooks_list": Call(),
    "hooks_parked": Call({**_PARKED, "limit": 1}, refused=_NO_HOOK),
    "hooks_retry": Call(_PARKED, refused=_NO_HOOK),
    "hooks_discard": Call(_PARKED, refused=_NO_HOOK),
    # --- somebody else's part: examples/custom_part ---
    "roundtrip_measure": Call(
        lambda facts: {"peer": facts["bob"]},
        refused=(({"peer": STRANGER}, "NOT_FOUND"), ({"peer": "nobody"}, "INVALID_PUBLIC_KEY")),
        differs=("measured_at", "fastest_ms", "median_ms"),
    ),
    "roundtrip_results": Call(),
    "roundtrip_watch": Call(
        meanwhile=("roundtrip_measure", lambda facts: {"peer": facts["bob"]}),
        differs=("measured_at", "fastest_ms", "median_ms"),
    ),
    "roundtrip_export": Call(),
    "roundtrip_import": Call(
        {
            "table": "peer,measured_at,probes,fastest_ms,median_ms\r\n"
            f"{STRANGER},1,2,3.0,4.5\r\n".encode()
        },
        refused=(({"table": b"\xff"}, "INVALID_REQUEST"),),
    ),
}


def prepare(ask: Callable[[str, Fields], Any]) -> None:
    """
    What a node has before its operations are compared, beside what its peer wrote.

    @param ask: calls an operation of the node.
    """
    for number in range(3):
        content = {"type": "insight", "text": f"a grey heron, {number}", "n": number}
        ask("feed_publish", {"content": content, "tags": ["heron"]})


#: What the peer writes first.
PEERS_MESSAGES: Final = tuple(
    json.dumps({"content": {"type": "note", "text": text}, "tags": ["heron", "owl"]}).encode()
    for text in ("a grey heron by the lake", "an owl, \u202e and what is\u0007 hidden")
)
