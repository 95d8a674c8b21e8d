"""
What the hash table has taken is kept, and found by everybody.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from attrs import define, field, frozen

from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.liars.flooding import Flooding

if TYPE_CHECKING:
    from meshkit.sim.node import Said, SimNode
    from meshkit.sim.running import Run

__all__ = ["ASKED", "PROMISE", "Found"]

#: Seconds after everything was mended within which all that was acknowledged is found by all:
#: a node looks for those of its peers whom it does not know every five minutes.
PROMISE: Final = 600.0
#: Questions at the end of a run, at most.
ASKED: Final = 1_000

_RECORDS: Final = "/v1/dht/records"
_PROVIDERS: Final = "/v1/dht/providers"

#: Kind, key and owner.
_Place = tuple[str, bytes, bytes]


@frozen(order=True)
class _Name:
    """
    What is found.

    @ivar owner: name of the node that has published it; of what anybody may publish, empty.
    """

    kind: str
    name: str
    salt: str
    owner: str


@define
class _Item:
    """
    What was promised of it.

    @ivar key: where it is.
    @ivar sequence: of the newest that was acknowledged while somebody had it who can be
        reached; 0, if there is none.
    @ivar value: of that, base64.
    @ivar expires: of that, milliseconds since 1970.
    @ivar tried: values that calls have asked to be published there, answered or not.
    @ivar withdrawn: somebody has asked for it to be taken back, and perhaps was not heard.
    """

    key: bytes = b""
    sequence: int = 0
    value: str = ""
    expires: int = 0
    tried: set[str] = field(factory=set)
    withdrawn: bool = False


class Found(Invariant):
    """
    What a door has said to be accepted by so many nodes is on the disks of so many at that
    moment, and stays there until it expires or something newer takes its place, whatever
    happens to these nodes.  Some time after everything was mended every node finds it, or
    something newer that was asked for, unless none of those that had it can be reached from
    outside; and every node finds all others that can be.  Who cannot be reached is in no table.

    Those who lie may say that they have accepted something, and flood a topic.
    """

    name = "found"

    def __init__(self) -> None:
        self._items: dict[_Name, _Item] = {}
        # Node -> place -> sequence and expiry of what it has promised to keep.
        self._kept: dict[str, dict[_Place, tuple[int, int]]] = {}
        self._told: set[tuple[str, _Place]] = set()
        self._next = 0

    # --- what was asked for

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind != "door.call":
            return
        method, target, body = details["method"], details["target"], details["body"]
        named = _named(run, host, method, target, body)
        if named is None:
            return
        item = self._items.setdefault(named, _Item())
        if method == "DELETE":
            item.withdrawn = True
        else:
            item.tried.add(_value(body))

    def said(self, run: Run, said: Said) -> None:
        if said.method != "POST" or said.answer.status != 201:
            return
        name = _named(run, said.node, said.method, said.target, said.body)
        if name is None:
            return
        placed = said.answer.json["data"]
        item = self._items[name]
        item.key = bytes.fromhex(placed["key"])
        sequence, expires = placed["sequence"], _milliseconds(placed["expires"])
        owner = run.nodes[said.node].identity.public.raw
        holders, unknown = self._holders(run, name.kind, item.key, owner, sequence)
        missing = placed["accepted"] - len(holders) - unknown - len(run.liars)
        if missing > 0 and name.owner:
            text = f"{name.kind} {name.name[:16]} is said to be accepted by {placed['accepted']} "
            text += f"nodes, and is on the disks of {', '.join(holders) or 'nobody'}"
            run.violated(self.name, said.node, text)
        flooded = name.name in _flooded(run)
        if placed["accepted"] == len(holders) and not unknown and name.owner and not flooded:
            for holder in holders:
                kept = self._kept.setdefault(holder, {})
                place = name.kind, item.key, owner
                kept[place] = max((sequence, expires), kept.get(place, (0, 0)))
        reachable = any(not _behind(run, holder) for holder in holders)
        if reachable and sequence >= item.sequence:
            item.sequence, item.expires, item.value = sequence, expires, _value(said.body)

    def _holders(
        self, run: Run, kind: str, key: bytes, owner: bytes, sequence: int
    ) -> tuple[list[str], int]:
        """@return: on whose disks a record is, or a newer one; and of how many that is unknown."""
        found, unknown = [], 0
        for name, node in run.nodes.items():
            try:
                there = _stored(node, kind, key, owner)
            except sqlite3.Error:
                unknown += 1
                continue
            if there >= sequence:
                found.append(name)
        return found, unknown

    # --- what is kept

    def sampled(self, run: Run) -> None:
        names = list(self._kept)
        if names:
            self._look(run, names[self._next % len(names)])
            self._next += 1

    def _look(self, run: Run, name: str) -> None:
        node = run.nodes[name]
        if not node.ready:
            return
        now = node.host.wall_clock() // 1_000_000
        for place, (sequence, expires) in list(self._kept[name].items()):
            if expires <= now:
                del self._kept[name][place]
            elif not _kept(node, place, sequence) and (name, place) not in self._told:
                self._told.add((name, place))
                what = f"the {place[0]} record of {run.name_of(place[2])} that it has accepted"
                run.violated(self.name, name, f"{what} is not on its disk any more")

    # --- what is found

    def settled(self, run: Run) -> None:
        for name in self._kept:
            self._look(run, name)
        for name, node in run.nodes.items():
            if node.ready:
                self._tables(run, name, node)
        if not self._items:
            return
        askers = [name for name, node in run.nodes.items() if node.ready]
        missing = [(name, what) for name in askers for what in self._due(run)]
        # Of a thousand nodes each looks for something else.
        step = max(1, len(missing) // ASKED)
        missing = missing[::step]
        missing = [each for each in missing if not self._finds(run, *each)]
        if missing:
            # They may yet find together.  From then on every lookup has to succeed.
            run.world.run(PROMISE)
            missing = [each for each in missing if not self._finds(run, *each)]
        for name, what in missing:
            run.violated(self.name, name, self._lacks(what))

    def _tables(self, run: Run, name: str, node: SimNode) -> None:
        """Is anybody in a table who cannot be reached from there?"""
        service: Any = node.service
        part = service._parts.get("dht")
        boxes = {member.name: member.behind for member in run.plan.members}
        for contact in () if part is None else part.node.table:
            other = run.name_of(contact.key.raw)
            if other not in run.nodes:
                continue
            hidden = boxes[other] and boxes[other] != boxes[name]
            if hidden or _asks_only(run.nodes[other]):
                text = f"its table has {other}, which nobody reaches from there"
                run.violated(self.name, name, text)

    def _due(self, run: Run) -> Iterator[_Name]:
        """@return: what everybody has to find, records and nodes."""
        flooded = _flooded(run)
        for what in sorted(self._items):
            if self._items[what].sequence and what.name not in flooded:
                yield what
        for name, node in run.nodes.items():
            if node.ready and not _behind(run, name) and not _asks_only(node):
                yield _Name("", name, "", name)

    def _finds(self, run: Run, node: str, what: _Name) -> bool:
        asker = run.nodes[node]
        if not what.kind:
            if what.name == node:
                return True
            answer = asker.ask("GET", f"/v1/dht/peers/{quote(run.key_of(what.name).text, safe='')}")
            return (
                answer.status == 200
                and run.address_of(what.name) in (answer.json["data"]["addresses"])
            )
        item = self._items[what]
        if item.withdrawn or item.expires <= asker.host.wall_clock() // 1_000_000:
            return True
        return any(self._counts(run, item, what, found) for found in _get(run, asker, what))

    def _counts(self, run: Run, item: _Item, what: _Name, found: dict[str, Any]) -> bool:
        if not what.owner:
            return bool(found["value"] == item.value)
        if found["owner"] != run.key_of(what.owner).text or found["sequence"] < item.sequence:
            return False
        if what.kind == "provider":
            # The node says by itself where it can be reached.
            return True
        expected = {item.value} if found["sequence"] == item.sequence else item.tried
        # Signed anew, it may be newer and the same.
        return found["value"] in expected or found["value"] == item.value

    def _lacks(self, what: _Name) -> str:
        if not what.kind:
            return f"it does not find {what.name}, which can be reached"
        of = f" of {what.owner}" if what.owner else ""
        return f"it does not find the {what.kind} record {what.name[:16]} {what.salt}{of}"


def _get(run: Run, asker: SimNode, what: _Name) -> list[dict[str, Any]]:
    salt = f"?salt={quote(what.salt, safe='')}" if what.salt else ""
    target = f"{_RECORDS}/{what.kind}/{quote(what.name, safe='')}{salt}"
    answer = asker.ask("GET", target)
    found: list[dict[str, Any]] = answer.json["data"]["records"] if answer.status == 200 else []
    return found


def _stored(node: SimNode, kind: str, key: bytes, owner: bytes) -> int:
    """@return: the sequence of what a disk has at a key of one owner."""
    rows = node.look(
        "SELECT sequence FROM kademlia_records WHERE kind = ? AND key = ? AND owner = ? "
        "AND length(raw) > 0",
        (kind, key, owner),
    )
    return max((sequence for (sequence,) in rows), default=0)


def _kept(node: SimNode, place: _Place, sequence: int) -> bool:
    """@return: a disk has a record, or has had a newer one there."""
    rows = node.look(
        "SELECT sequence, length(raw) > 0 FROM kademlia_records WHERE kind = ? AND key = ? "
        "AND owner = ?",
        place,
    )
    return any(there > sequence or (there == sequence and full) for there, full in rows)


def _named(run: Run, node: str, method: str, target: str, body: Any) -> _Name | None:
    """@return: what a call publishes or takes back, if it is one of ours."""
    split = urlsplit(target)
    path, own = split.path, run.nodes[node].identity.public.text if node in run.nodes else ""
    if method == "POST" and path == _RECORDS and isinstance(body, dict):
        kind, salt = body["kind"], body.get("salt", "")
        if kind == "immutable":
            return None if "text" not in body else _Name(kind, _digest(body["text"]), "", "")
        return _Name(kind, own if kind == "mutable" else body["name"], salt, node)
    if method == "POST" and path.startswith(f"{_PROVIDERS}/"):
        return _Name("provider", unquote(path[len(_PROVIDERS) + 1 :]), "", node)
    if method == "DELETE" and path.startswith(f"{_RECORDS}/"):
        kind, _, name = path[len(_RECORDS) + 1 :].partition("/")
        (salt,) = parse_qs(split.query).get("salt", [""])
        return _Name(kind, unquote(name), salt, "" if kind == "immutable" else node)
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _value(body: Any) -> str:
    """@return: what a call publishes, base64."""
    if not isinstance(body, dict):
        return ""
    if "text" in body:
        return base64.b64encode(body["text"].encode("utf-8")).decode("ascii")
    return str(body.get("value", ""))


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _flooded(run: Run) -> set[str]:
    """@return: topics in which others may be pushed out by so many, which is no fault."""
    return {liar.topic.decode() for liar in run.liars.values() if isinstance(liar, Flooding)}


def _behind(run: Run, name: str) -> bool:
    """Is a member behind a box, where others do not reach it?"""
    return any(each.behind for each in run.plan.members if each.name == name)


def _asks_only(node: SimNode) -> bool:
    """Is it set to be in nobody's table?"""
    service: Any = node.service if node.running else None
    part = None if service is None else service._parts.get("dht")
    return part is not None and bool(part._config.client)
