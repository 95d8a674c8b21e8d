"""
The ten tools of Egregore's nodes (version 0.1), on our operations.

Names, arguments and the form of the answers are theirs: one text that holds indented JSON.
What differs, because it is the operation that answers:

 - a filter beside C{search} counts, which theirs passes over in silence;
 - an argument that does not exist is refused;
 - a peer is asked for its key before it is added, and removing one that is not there is an
   error;
 - messages have a few more members (C{chain_valid}, C{snippet}).
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from meshkit.aliases import Alias, Way

#: Messages that C{egregore_query} gives at most.
MAX_LIMIT: Final = 200


class _None(msgspec.Struct, forbid_unknown_fields=True):
    """No arguments."""


class _Publish(msgspec.Struct, forbid_unknown_fields=True):
    content: Annotated[msgspec.Raw, Meta(description="JSON content to publish")]


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[str, Meta(description="public id of the author")] | UnsetType = UNSET
    search: Annotated[str, Meta(description="full-text search")] | UnsetType = UNSET
    content_type: (
        Annotated[str, Meta(description="type of content, such as insight")] | UnsetType
    ) = UNSET
    limit: (
        Annotated[int, Meta(ge=1, description="most results (default 50, at most 200)")] | UnsetType
    ) = UNSET
    offset: Annotated[int, Meta(ge=0, description="how many to skip")] | UnsetType = UNSET

    def __post_init__(self) -> None:
        # A larger number means as many as there may be.
        if self.limit is not UNSET:
            self.limit = min(self.limit, MAX_LIMIT)


class _Address(msgspec.Struct, forbid_unknown_fields=True):
    address: Annotated[str, Meta(description="HOST:PORT, or net:HOST:PORT~shs:KEY")]


class _Author(msgspec.Struct, forbid_unknown_fields=True):
    author: Annotated[str, Meta(description="public id: @<base64>.ed25519")]


def _status(data: Any, arguments: _None) -> Any:
    """Counters of parts that this node does not have are left out."""
    feed, gossip = data["parts"].get("feed", {}), data["parts"].get("gossip", {})
    shown = {
        "version": data["version"],
        "identity": data["identity"],
        "port": next((urlsplit(url).port for url in data["api"] if "://" in url), None),
        "gossip_port": next((_mesh_port(address) for address in data["mesh"]), None),
        "peer_count": data["peer_count"],
        "message_count": feed.get("messages"),
        "feed_count": feed.get("feeds"),
        "follow_count": gossip.get("follows"),
        "uptime_secs": int(data["uptime_secs"]),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _mesh_port(address: str) -> int:
    return int(address.partition("~")[0].rpartition(":")[2])


def _identity(data: Any, arguments: _None) -> Any:
    return {"public_id": data["public_id"]}


_SOURCES: Final = {"config": "cli"}


def _peers(data: Any, arguments: _None) -> Any:
    return [
        {
            "address": peer["address"],
            "public_id": peer["public_id"],
            "source": _SOURCES.get(peer["source"], peer["source"]),
        }
        for peer in data
    ]


def _follows(data: Any, arguments: _None) -> Any:
    return [followed["author"] for followed in data]


def _alias(name: str, doc: str, arguments: Any, *ways: Way, answer: Any = None) -> Alias:
    # What is picked out of an answer here are numbers, keys and addresses.
    own_words = answer is not None
    return Alias("egregore", f"egregore_{name}", doc, arguments, ways, answer, own_words)


_FILTERS: Final = {"content_type": "content_type", "limit": "limit", "offset": "offset"}

EGREGORE: Final = (
    _alias(
        "status",
        "Status of the node: version, identity, and how many feeds, messages, peers and follows.",
        _None,
        Way("node_status"),
        answer=_status,
    ),
    _alias(
        "identity",
        "The public identity of this node.",
        _None,
        Way("node_identity"),
        answer=_identity,
    ),
    _alias(
        "publish",
        "Publish content to this node's feed.",
        _Publish,
        Way("feed_publish", {"content": "content"}),
    ),
    _alias(
        "query",
        "Query messages by author, search text or content type; this node's own among them.",
        _Query,
        Way("feed_search", {"search": "q", "author": "author", **_FILTERS}, given="search"),
        Way("feed_author", {"author": "author", **_FILTERS}, given="author"),
        Way("feed_list", _FILTERS, fixed={"include_self": True}),
    ),
    _alias("peers", "List the peers from all sources.", _None, Way("peers_list"), answer=_peers),
    _alias(
        "add_peer",
        "Add a peer by its address.",
        _Address,
        Way("peers_add", {"address": "address"}),
        answer=lambda data, arguments: {"added": arguments.address},
    ),
    _alias(
        "remove_peer",
        "Remove a peer by its address.",
        _Address,
        Way("peers_remove", {"address": "address"}),
        answer=lambda data, arguments: {"removed": arguments.address},
    ),
    _alias(
        "follows",
        "List the authors that are followed.",
        _None,
        Way("follows_list"),
        answer=_follows,
    ),
    _alias(
        "follow",
        "Follow an author: replicate the author's feed.",
        _Author,
        Way("follows_add", {"author": "author"}),
        answer=lambda data, arguments: {"followed": arguments.author},
    ),
    _alias(
        "unfollow",
        "Follow an author no more.",
        _Author,
        Way("follows_remove", {"author": "author"}),
        answer=lambda data, arguments: {"unfollowed": arguments.author},
    ),
)
