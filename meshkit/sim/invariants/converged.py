"""
Those who can reach one another agree.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

from meshkit.identity.addresses import MeshAddress
from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["Converged"]

#: Differences of which each is a violation of its own; the others are counted.
_NAMED: Final = 10


@frozen
class _Head:
    """How far a node has a feed; it is the same as that of another who agrees."""

    contiguous: int
    head: bytes | None
    forked: int | None

    def __str__(self) -> str:
        forked = "" if self.forked is None else f", forked at {self.forked}"
        return f"{self.contiguous}{forked}"


_NOTHING: Final = _Head(0, None, None)


@define
class _Wants:
    """
    What a node replicates, by what is in its database and configuration.

    @ivar authors: whom it follows; everybody, if L{None}.
    @ivar topics: tags whose authors it follows.
    @ivar blocked: nothing of these.
    """

    own: bytes
    authors: frozenset[bytes] | None
    topics: frozenset[str]
    blocked: frozenset[bytes]

    def want(self, author: bytes, tags: dict[bytes, frozenset[str]]) -> bool:
        if author == self.own:
            return True
        if author in self.blocked:
            return False
        if self.authors is None:
            return True
        return author in self.authors or bool(self.topics & tags.get(author, frozenset()))


class Converged(Invariant):
    """
    Some time after everything was mended, honest nodes have the same of each feed that they
    replicate, and of honest authors all that was acknowledged.

    Nodes have to agree about a feed if there is a way between them over honest nodes that
    replicate it: each of a pair on it runs, and one has the address of the other, does not
    block it, and can reach it.  What a node replicates, whom it dials and blocks is read from
    its configuration and its database.  C{plan.settle} seconds are the time for all that.
    """

    name = "converged"

    def __init__(self) -> None:
        # (author, holders): who have to agree.
        self._groups: list[tuple[bytes, list[str]]] = []
        # Where the last difference was found.
        self._suspect = 0
        self._acknowledged: dict[bytes, int] = {}

    # --- who has to agree

    def healed(self, run: Run) -> None:
        self._groups = []
        for said in run.world.acknowledged:
            author = run.nodes[said.node].identity.public.raw
            self._acknowledged[author] = max(self._acknowledged.get(author, 0), said.sequence)

    def agrees(self, run: Run) -> bool:
        if not self._groups:
            self._groups = self._find_groups(run)
        count = len(self._groups)
        for number in range(count):
            at = (self._suspect + number) % count
            if self._differences(run, *self._groups[at], {}):
                self._suspect = at
                return False
        # Topics, follows and addresses can have changed with the last messages.
        self._groups = self._find_groups(run)
        return not any(self._differences(run, *group, {}) for group in self._groups)

    def settled(self, run: Run) -> None:
        missing = [name for name, node in run.nodes.items() if not node.ready]
        for name in missing:
            run.violated(self.name, name, "it is not ready, though nothing is wrong any more")
        heads: dict[str, dict[bytes, _Head]] = {}
        found = [
            difference
            for group in self._find_groups(run)
            for difference in self._differences(run, *group, heads)
        ]
        for name, text in found[:_NAMED]:
            run.violated(self.name, name, text)
        if len(found) > _NAMED:
            run.violated(self.name, "", f"and {len(found) - _NAMED} more differences")

    def _find_groups(self, run: Run) -> list[tuple[bytes, list[str]]]:
        nodes = {name: node for name, node in run.nodes.items() if node.ready}
        wants = {name: _wants(node) for name, node in nodes.items()}
        ways = _ways(run, wants)
        tags: dict[bytes, frozenset[str]] = {}
        if any(each.topics for each in wants.values()):
            tags = _tags(nodes)
        authors: dict[bytes, None] = {}
        for node in nodes.values():
            authors[node.identity.public.raw] = None
            authors.update((key, None) for (key,) in node.look("SELECT key FROM feed_authors"))
        groups = []
        for author in sorted(authors):
            willing = [name for name in nodes if wants[name].want(author, tags)]
            groups += [(author, group) for group in _connected(willing, ways) if len(group) > 1]
        return groups

    # --- whether they do

    def _differences(
        self, run: Run, author: bytes, group: list[str], cache: dict[str, dict[bytes, _Head]]
    ) -> list[tuple[str, str]]:
        """@return: (node, what it lacks), for one feed."""
        heads = {name: _head(run.nodes[name], author, cache) for name in group}
        owner = run.name_of(author)
        least = self._acknowledged.get(author, 0) if owner in group else 0
        best = max(heads.values(), key=lambda each: each.contiguous)
        if owner in heads:
            best = heads[owner]
        found = []
        for name, head in heads.items():
            if head.contiguous < least:
                what = f"{least} messages of it were acknowledged"
            elif head != best:
                holder = next(each for each in group if heads[each] == best)
                what = f"{holder} has {best}"
            else:
                continue
            found.append((name, f"it has {head} of {owner}, and {what}"))
        return found


def _head(node: SimNode, author: bytes, cache: dict[str, dict[bytes, _Head]]) -> _Head:
    if node.name in cache:
        return cache[node.name].get(author, _NOTHING)
    try:
        rows = node.look(
            "SELECT contiguous, head, forked FROM feed_authors WHERE key = ?", (author,)
        )
    except sqlite3.Error:
        return _NOTHING
    return _Head(*rows[0]) if rows else _NOTHING


def _wants(node: SimNode) -> _Wants:
    follows = {author for (author,) in node.look("SELECT author FROM gossip_follows")}
    topics = {topic for (topic,) in node.look("SELECT topic FROM gossip_topics")}
    gossip = node.given["settings"].section("gossip")
    follows.update(gossip.followed())
    topics.update(gossip.subscribed())
    blocked = {author for (author,) in node.look("SELECT author FROM feed_blocks")}
    return _Wants(
        node.identity.public.raw,
        frozenset(follows) if follows or topics else None,
        frozenset(topics),
        frozenset(blocked),
    )


def _ways(run: Run, wants: dict[str, _Wants]) -> dict[str, set[str]]:
    """@return: with whom each node can have a link."""
    behind = {member.name: member.behind for member in run.plan.members}
    known = {member.name: {*member.peers} for member in run.plan.members}
    for name in wants:
        for (text,) in run.nodes[name].look("SELECT address FROM node_peers"):
            known[name].add(run.name_of(MeshAddress.parse(text).key.raw))
    ways: dict[str, set[str]] = {name: set() for name in wants}
    for name in wants:
        for other in known[name]:
            if other not in wants or other == name:
                continue
            reachable = not behind[other] or behind[other] == behind[name]
            blocked = (
                wants[other].own in wants[name].blocked or wants[name].own in wants[other].blocked
            )
            if reachable and not blocked:
                ways[name].add(other)
                ways[other].add(name)
    return ways


def _tags(nodes: dict[str, SimNode]) -> dict[bytes, frozenset[str]]:
    """@return: which tags each author has used, by what any node has of the feed."""
    found: dict[bytes, set[str]] = {}
    for node in nodes.values():
        rows = node.look(
            "SELECT DISTINCT a.key, t.tag FROM feed_tags t JOIN feed_authors a ON a.id = t.author"
        )
        for author, tag in rows:
            found.setdefault(author, set()).add(tag)
    return {author: frozenset(tags) for author, tags in found.items()}


def _connected(names: list[str], ways: dict[str, set[str]]) -> list[list[str]]:
    """@return: these names, by what can be reached over them alone."""
    left = dict.fromkeys(names)
    groups = []
    while left:
        first = next(iter(left))
        del left[first]
        group = [first]
        for name in group:
            near = [other for other in left if other in ways[name]]
            group += near
            for other in near:
                del left[other]
        groups.append(group)
    return groups
