"""
How each operation of a node is called so that it answers, and what it refuses.

Whoever adds an operation adds a line here; without one L{tests.services.test_four_doors}
fails.  What an operation needs is prepared by other operations, through REST.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
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
#: A file that does not change meanwhile.
OBJECT_FILE: Final = str(Path(__file__).resolve())
#: Of a transfer that was just accepted.
_UNDER_WAY: Final = ("id", "state", "begun", "done", "total")
#: None is under way any more.
_NO_PASS: Final = (("audit_run_show", {"run": "latest", "wait": 30}),)
#: Of a pass that has ended.
_PASS: Final = ("begun", "seconds")


def _relay(facts: Facts) -> Fields:
    return {"relay": facts["relay_address"]}


def _listed(facts: Facts) -> Fields:
    return {**_relay(facts), "listed": True, "nickname": "Ada"}


_NO_RELAY: Final[tuple[tuple[Given, str], ...]] = (
    ({"relay": "nowhere"}, "INVALID_ADDRESS"),
    ({"relay": STRANGER}, "NOT_REGISTERED"),
)
_NO_HOOK: Final[tuple[tuple[Given, str], ...]] = (({"name": "none"}, "NOT_FOUND"),)

CALLS: Final[dict[str, Call]] = {
    # --- the node ---
    # When the hash table looks after itself is drawn by lot.
    "node_status": Call(
        differs=("uptime_secs", "channels", "transports"),
        compared=lambda status: {
            **status,
            "parts": {
                name: part
                for name, part in status["parts"].items()
                if name not in ("dht", "exchange")
            },
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
    "peers_list": Call(differs=("failures", "last_heard")),
    "peers_ledger": Call({"limit": 5}, differs=("last_heard",)),
    # They come and go by themselves.
    "peers_connections": Call({"limit": 5}, compared=lambda _: None),
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
    # Which port the web server has is drawn by lot, where there are real ones.
    "peers_discover": Call(
        lambda facts: {"domain": facts["domain"]},
        refused=(
            ({"domain": "https://example.org/"}, "INVALID_ADDRESS"),
            ({"domain": "10.0.0.77"}, "DISCOVERY_FAILED"),
        ),
    ),
    "wellknown_document": Call(),
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
    # --- relays ---
    "relay_list": Call(compared=len),
    "relay_register": Call(_listed, refused=_NO_RELAY, differs=("said_at", "peers")),
    "relay_settings": Call(
        lambda facts: {**_relay(facts), "nickname": "Ada Lovelace"},
        before=(("relay_register", _listed),),
        refused=_NO_RELAY,
        differs=("said_at", "peers"),
    ),
    "relay_directory": Call(
        _relay,
        refused=_NO_RELAY,
        compared=lambda entries: [{**each, "said_at": None} for each in entries],
    ),
    "relay_leave": Call(
        _relay,
        before=(("relay_register", _listed),),
        refused=_NO_RELAY,
        differs=("said_at", "peers"),
    ),
    # --- invites ---
    "invites_list": Call(differs=("id", "created", "expires")),
    "invites_make": Call(
        {"uses": 2, "expires_secs": 60, "addresses": ["192.0.2.7", "mesh.example:80"]},
        refused=(
            ({"addresses": ["0.0.0.0"]}, "INVALID_ADDRESS"),
            ({"uses": 0}, "INVALID_REQUEST"),
        ),
        differs=("id", "created", "expires", "invite"),
    ),
    "invites_make_open": Call(
        {"addresses": ["192.0.2.7"]},
        refused=(({"addresses": ["no host"]}, "INVALID_ADDRESS"),),
        differs=("invite",),
    ),
    "invites_revoke": Call(
        lambda facts: {"id": facts["invite"]}, refused=(({"id": "0" * 16}, "NOT_FOUND"),)
    ),
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
        differs=(
            *("asked", "served", "connections", "accepted", "dialled", "records"),
            *("record_bytes", "size"),
        )
    ),
    # --- who is where ---
    # A peer is looked at when that is drawn by lot.
    "exchange_links": Call(differs=("last_heard", "next_look_secs", "round_trip_ms")),
    "exchange_records": Call(differs=("sequence", "expires")),
    "exchange_find": Call(
        lambda facts: {"public_id": facts["bob"]},
        refused=(
            ({"public_id": STRANGER}, "NOT_FOUND"),
            ({"public_id": "nobody"}, "INVALID_PUBLIC_KEY"),
        ),
        differs=("sequence", "expires"),
    ),
    # --- the space that is lent ---
    "storage_status": Call(),
    "storage_connect": Call(
        {"max_storage": 10**9},
        refused=(({"max_storage": 5}, "INVALID_REQUEST"),),
        differs=("disk_free", "announced"),
        after=(("storage_disconnect", {"now": True}),),
    ),
    "storage_disconnect": Call(
        {"now": False},
        before=(("storage_connect", {"max_storage": 10**9}),),
        after=(("storage_disconnect", {"now": True}),),
    ),
    # --- objects: tests/services/test_four_doors.py has put two ---
    "object_put": Call(
        {"path": OBJECT_FILE},
        refused=(
            ({"path": "calls.py"}, "INVALID_REQUEST"),
            ({"path": f"{OBJECT_FILE}.none"}, "INVALID_REQUEST"),
            ({"path": OBJECT_FILE, "scheme": "six of nine"}, "SCHEME_INVALID"),
        ),
        differs=_UNDER_WAY,
    ),
    "object_get": Call(
        lambda facts: {"object": facts["object"], "path": facts["copy"], "force": True},
        refused=(
            ({"object": "0" * 64, "path": "/nowhere/x"}, "NOT_FOUND"),
            ({"object": "mkread1-x", "path": "/nowhere/x"}, "CAPABILITY_INVALID"),
            ({"path": OBJECT_FILE, "force": False}, "TARGET_EXISTS"),
        ),
        differs=_UNDER_WAY,
    ),
    "object_list": Call({"limit": 1, "removed": True}, differs=("object", "added", "lease_end")),
    "object_stat": Call(
        lambda facts: {"object": facts["object"][:20]},
        refused=(
            ({"object": "no hex"}, "INVALID_REQUEST"),
            ({"object": "0" * 64}, "NOT_FOUND"),
        ),
        differs=("added", "renew_at", "lease_end"),
    ),
    "object_capabilities": Call(
        lambda facts: {"object": facts["object"]}, refused=(({"object": "0" * 8}, "NOT_FOUND"),)
    ),
    "object_check": Call(
        lambda facts: {"object": facts["object"], "depth": "full"},
        refused=(({"object": "0" * 64}, "NOT_FOUND"),),
        differs=("lease_end",),
    ),
    "object_remove": Call(
        lambda facts: {"object": facts["doomed"]},
        refused=(({"object": "0" * 64}, "NOT_FOUND"),),
    ),
    "transfers": Call(
        {"limit": 1000}, compared=lambda answer: sorted({each["kind"] for each in answer})
    ),
    "transfer": Call(
        lambda facts: {"id": facts["transfer"]},
        refused=(({"id": "0" * 16}, "NOT_FOUND"), ({"id": "x"}, "INVALID_REQUEST")),
        differs=("begun", "ended"),
    ),
    "transfer_cancel": Call(
        lambda facts: {"id": facts["transfer"]},
        refused=(({"id": "0" * 16}, "NOT_FOUND"),),
        differs=("begun", "ended"),
    ),
    "storage_peers": Call(differs=("heard", "free")),
    # --- audits: of the objects that were put ---
    "audit_run": Call(
        lambda facts: {"objects": [facts["object"]], "repair": False},
        before=_NO_PASS,
        refused=(
            ({"objects": ["no hex"]}, "INVALID_REQUEST"),
            ({"objects": ["0" * 64]}, "NOT_FOUND"),
        ),
        differs=("begun",),
    ),
    "audit_runs": Call(
        {"limit": 1},
        before=_NO_PASS,
        differs=(*_PASS, "run", "ended"),
    ),
    "audit_run_show": Call(
        lambda facts: {"run": facts["run"], "wait": 1},
        refused=(({"run": "1000000"}, "NOT_FOUND"), ({"run": "first"}, "INVALID_REQUEST")),
        differs=(*_PASS, "ended", "object", "audited"),
    ),
    "audit_receipts": Call(
        lambda facts: {"peer": facts["bob"], "limit": 1},
        refused=(({"peer": "nobody"}, "INVALID_PUBLIC_KEY"),),
        differs=("id", "judged", "bytes"),
    ),
    "audit_receipt": Call(
        lambda facts: {"id": facts["audit"]},
        refused=(({"id": "0" * 32}, "NOT_FOUND"), ({"id": "x"}, "INVALID_REQUEST")),
        compared=lambda data: len(data) > 100,
    ),
    "audit_peers": Call(differs=("successes", "online", "audited")),
    "audit_forgive": Call(
        lambda facts: {"peer": facts["bob"]}, refused=(({"peer": STRANGER}, "NOT_FOUND"),)
    ),
    "audit_watched": Call({"limit": 1}),
    "audit_watch": Call(
        lambda facts: {"capability": facts["repair"]},
        refused=(({"capability": "mkrepair1-x"}, "CAPABILITY_INVALID"),),
    ),
    "audit_unwatch": Call(
        lambda facts: {"object": facts["watched"]},
        before=(("audit_watch", lambda facts: {"capability": facts["repair"]}),),
        refused=(({"object": "0" * 64}, "NOT_FOUND"),),
    ),
    "object_repair": Call(
        lambda facts: {"object": facts["object"]},
        before=_NO_PASS,
        refused=(({"object": "0" * 64}, "NOT_FOUND"),),
        differs=("begun",),
    ),
    # --- mailboxes: a stranger has none, and the node wrote two messages to itself ---
    "mailbox_send": Call(
        {"to": STRANGER, "text": "come home"},
        refused=(
            ({"to": "nobody"}, "INVALID_PUBLIC_KEY"),
            ({"body": "?"}, "INVALID_REQUEST"),
            ({"relay": "nowhere"}, "INVALID_ADDRESS"),
        ),
        differs=("number", "id", "created", "expires"),
    ),
    "mailbox_list": Call({"unread": True, "limit": 1}, differs=("id", "created", "taken")),
    "mailbox_read": Call(
        lambda facts: {"number": facts["letter"]},
        refused=(({"number": 99}, "NOT_FOUND"),),
        differs=("id", "created", "taken"),
    ),
    "mailbox_remove": Call(
        lambda facts: {"number": facts["doomed_letter"]}, refused=(({"number": 99}, "NOT_FOUND"),)
    ),
    "mailbox_sent": Call(
        {"waiting": True, "limit": 1},
        before=(("mailbox_send", {"to": STRANGER, "text": "come home"}),),
        differs=("number", "id", "created", "expires", "attempts", "last_error"),
    ),
    "mailbox_forget": Call(
        lambda facts: {"id": facts["posted"]}, refused=(({"id": "0" * 32}, "NOT_FOUND"),)
    ),
    "mailbox_check": Call(differs=("letters", "unread", "letter_bytes", "waiting", "relays")),
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
