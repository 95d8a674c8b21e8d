"""
Nothing that was acknowledged is lost.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

import msgspec
from attrs import define, field, frozen

from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import Said, SimNode
    from meshkit.sim.running import Run

__all__ = ["Durable", "brief"]


@frozen
class _Kind:
    """
    Something that calls of a door put into a node, or take out of it.

    @ivar path: of these calls, and of the one that lists what is there.
    @ivar key: what such a call is about, given what follows the path and the body.
    @ivar listed: the same, given an entry of the list.
    """

    path: str
    key: Callable[[str, Any], str]
    listed: str


def _in_path(rest: str, body: Any) -> str:
    return rest


def _in_body(name: str) -> Callable[[str, Any], str]:
    def key(rest: str, body: Any) -> str:
        return rest or str(body[name])

    return key


_KINDS: Final = (
    _Kind("/v1/follows", _in_path, "author"),
    _Kind("/v1/blocks", _in_path, "author"),
    _Kind("/v1/topics", _in_path, "topic"),
    _Kind("/v1/peers", _in_body("address"), "address"),
    _Kind("/v1/tokens", _in_body("name"), "name"),
    _Kind("/v1/schema", _in_body("name"), "name"),
)
#: Where the list is another path than that of the changes.
_LISTS: Final = {"/v1/schema": "/v1/schemas"}
#: Calls below these paths change something else.
_OTHERS: Final = frozenset({"/v1/peers/dial", "/v1/peers/repin", "/v1/tokens/rotate"})


@define
class _Change:
    """
    A call that has not been answered.

    @ivar present: what it wants: that something is there, or is not.
    @ivar others: what calls want that were on their way together with it.
    """

    present: bool
    others: set[bool] = field(factory=set)


@define
class _State:
    """
    Whether one thing is in a node, as far as its door has said.

    @ivar known: what may be, but for calls that are on their way.
    @ivar open: these, by their number.
    @ivar changed_ns: when any of that has changed.
    """

    known: set[bool] = field(factory=lambda: {False})
    open: dict[int, _Change] = field(factory=dict)
    changed_ns: int = 0

    @property
    def possible(self) -> set[bool]:
        return self.known | {change.present for change in self.open.values()}


class Durable(Invariant):
    """
    What a door has acknowledged is there, whatever happened since.

    Of messages: each has the sequence and the hash that were told, no two have one sequence,
    and the feed of a node has no gap in its own node.  That is looked up in the database when
    the node is ready again after each start, and asked for at the door at the end.

    What was asked for with an idempotency key is there once, however often it was asked for;
    contents of such requests have to differ.

    Of all other changes that a door takes (follows, blocks, topics, peers, tokens, schemas):
    the door lists what was added, and does not list what was taken away, after each start and
    at the end.  A call that was cut off, or failed by the node's fault, may have had its
    effect or not; of two that were on their way at once, either may have come last.  But what
    was seen after a start is so from then on.
    """

    name = "durable"

    def __init__(self) -> None:
        # Node -> sequence -> hash; empty if that was not told.
        self._published: dict[str, dict[int, str]] = {}
        self._taken = 0
        # Node -> path and key -> what is known of it.
        self._states: dict[str, dict[tuple[str, str], _State]] = {}
        # Node -> number of a call -> when it was made.
        self._asked: dict[str, dict[int, int]] = {}
        # Node -> content -> the key with which it was to be published once.
        self._keyed: dict[str, dict[str, str]] = {}
        # Node -> the process that was looked at last.
        self._seen: dict[str, int] = {}

    # --- what is acknowledged

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind == "door.call":
            self._begun(run, host, details)
        elif kind in ("process.end", "host.crash"):
            # What was on its way has had its effect, or will never have it.
            self._asked.pop(host, None)
            for state in self._states.get(host, {}).values():
                state.known = state.possible
                state.open.clear()

    def _begun(self, run: Run, host: str, details: dict[str, Any]) -> None:
        number, method, now_ns = details["number"], details["method"], run.world.clock.ns
        found = _changes(method, details["target"], details["body"])
        if found is not None:
            state = self._states.setdefault(host, {}).setdefault(found, _State())
            change = _Change(method == "POST")
            for other in state.open.values():
                other.others.add(change.present)
                change.others.add(other.present)
            state.open[number] = change
            state.changed_ns = now_ns
        elif method == "POST" and "idempotency_key" in (details["body"] or {}):
            content = _text(details["body"].get("content"))
            self._keyed.setdefault(host, {})[content] = details["body"]["idempotency_key"]
        elif method == "GET":
            self._asked.setdefault(host, {})[number] = now_ns

    def said(self, run: Run, said: Said) -> None:
        found = _changes(said.method, said.target, said.body)
        if found is not None:
            self._ended(run, said, self._states[said.node][found])
        elif said.method == "GET":
            asked_ns = self._asked.get(said.node, {}).pop(said.number, None)
            if asked_ns is not None and said.answer.status == 200:
                path = urlsplit(said.target).path
                self._listed(run, said.node, path, said.answer, asked_ns)

    def _take_acknowledged(self, run: Run) -> None:
        """It was said that these messages are stored."""
        for said in run.world.acknowledged[self._taken :]:
            self._taken += 1
            published = self._published.setdefault(said.node, {})
            before = published.get(said.sequence)
            if before and said.hash and before != said.hash:
                what = f"{before} and {said.hash}"
                text = f"two messages {said.sequence} were acknowledged: {what}"
                run.violated(self.name, said.node, text)
            published[said.sequence] = said.hash or before or ""

    def _ended(self, run: Run, said: Said, state: _State) -> None:
        """A call that changes something was answered."""
        change = state.open.pop(said.number, None)
        if change is None:
            # It was answered by a process that has ended meanwhile.
            return
        state.changed_ns = run.world.clock.ns
        if said.answer.status < 300:
            state.known = {change.present} | change.others
        elif said.answer.status >= 500:
            state.known.add(change.present)

    # --- whether it is there

    def sampled(self, run: Run) -> None:
        self._take_acknowledged(run)
        for node in run.nodes.values():
            if node.ready and self._seen.get(node.name) != node.process.pid:
                self._seen[node.name] = node.process.pid
                self._look(run, node)
                for path in self._paths(node):
                    node.call("GET", path)

    def settled(self, run: Run) -> None:
        self._take_acknowledged(run)
        for node in run.nodes.values():
            if node.ready:
                self._look(run, node)
                for path in self._paths(node):
                    node.ask("GET", path)
                self._read_feed(run, node)

    def _paths(self, node: SimNode) -> list[str]:
        """The lists in which something is to be looked for."""
        paths = dict.fromkeys(path for path, _ in self._states.get(node.name, ()))
        return [_LISTS.get(path, path) for path in paths]

    def _look(self, run: Run, node: SimNode) -> None:
        """Compare the node's own feed in its database with what was acknowledged."""
        try:
            rows = node.look(
                "SELECT m.sequence, m.hash FROM feed_messages m JOIN feed_authors a "
                "ON a.id = m.author WHERE a.key = ? ORDER BY m.sequence",
                (node.identity.public.raw,),
            )
        except sqlite3.Error as e:
            run.violated(self.name, node.name, f"the database cannot be read: {e}")
            return
        self._compare(run, node, [(sequence, digest.hex()) for sequence, digest in rows], "stored")

    def _read_feed(self, run: Run, node: SimNode) -> None:
        """Compare the node's own feed, as its door shows it, with what was acknowledged."""
        author = quote(node.identity.public.text, safe="")
        shown: list[tuple[int, str]] = []
        keyed: Counter[str] = Counter()
        keys = self._keyed.get(node.name, {})
        cursor = ""
        while True:
            answer = node.ask("GET", f"/v1/feed/{author}?limit=200{cursor}")
            if answer.status != 200:
                text = f"its own feed is not shown: {answer.status} {answer.code}"
                run.violated(self.name, node.name, text)
                return
            page = answer.json
            shown += [(each["sequence"], each["hash"]) for each in page["data"]]
            keyed.update(text for each in page["data"] if (text := _text(each["content"])) in keys)
            following = page["metadata"].get("next_cursor")
            if following is None:
                break
            cursor = f"&cursor={quote(following, safe='')}"
        self._compare(run, node, sorted(shown), "shown")
        for text, count in keyed.items():
            if count > 1:
                what = f"the request with the key {keys[text]} was published {count} times"
                run.violated(self.name, node.name, what)

    def _compare(self, run: Run, node: SimNode, found: list[tuple[int, str]], how: str) -> None:
        sequences = [sequence for sequence, _ in found]
        if sequences != [*range(1, len(found) + 1)]:
            text = f"its own feed has gaps or numbers twice as it is {how}: {brief(sequences)}"
            run.violated(self.name, node.name, text)
        there = dict(found)
        for sequence, digest in self._published.get(node.name, {}).items():
            if sequence not in there:
                text = f"message {sequence} was acknowledged and is not {how}"
                run.violated(self.name, node.name, text)
                return
            if digest and there[sequence] != digest:
                text = f"message {sequence} is {how} as {there[sequence]}, acknowledged as {digest}"
                run.violated(self.name, node.name, text)
                return

    def _listed(self, run: Run, node: str, path: str, answer: Any, asked_ns: int) -> None:
        """A door has listed what is there."""
        for kind in _KINDS:
            if _LISTS.get(kind.path, kind.path) != path:
                continue
            entries = answer.json["data"]
            there = {entry[kind.listed] for entry in entries}
            # What the file says is there after each start, whatever was said in between.
            told = {
                entry[kind.listed]
                for entry in entries
                if "config" in (entry.get("origin"), entry.get("source"))
            }
            for (of, key), state in self._states.get(node, {}).items():
                if of != kind.path or key in told or state.changed_ns >= asked_ns:
                    continue
                if (key in there) not in state.possible:
                    what = "is not there any more" if key not in there else "is there again"
                    run.violated(self.name, node, f"{key} of {path} {what}")
                if not state.open:
                    state.known = {key in there}


def _changes(method: str, target: str, body: Any) -> tuple[str, str] | None:
    """@return: the path and the key of what a call changes, if it is one of ours."""
    if method not in ("POST", "DELETE"):
        return None
    split = urlsplit(target)
    if split.path in _OTHERS:
        return None
    for kind in _KINDS:
        if split.path == kind.path or split.path.startswith(f"{kind.path}/"):
            rest = unquote(split.path[len(kind.path) + 1 :])
            named = parse_qs(split.query).get("name")
            return kind.path, named[0] if named else kind.key(rest, body)
    return None


def _text(content: Any) -> str:
    return msgspec.json.encode(content, order="sorted").decode()


def brief(numbers: list[int]) -> str:
    """Numbers as runs, such as C{1-4, 6}."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in runs[:8]]
    return ", ".join(shown) + (", …" if len(runs) > 8 else "")
