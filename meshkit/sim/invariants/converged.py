"""
Those who can reach one another agree.
"""

from __future__ import annotations

from collections.abc import Sequence
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
# Feeds beyond which all of a store are read.
_MANY: Final = 16


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


@frozen
class _Group:
    """Nodes that can reach one another, and the feeds about which they have to agree."""

    names: tuple[str, ...]
    authors: tuple[bytes, ...]


@define
class _Wants:
    """
    What a node replicates, by what is in its database and configuration.

    @ivar authors: whom it follows, or keeps for others; everybody, if L{None}.
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
        self._groups: list[_Group] = []
        # Where the last difference was found: it is looked at first.
        self._suspect: tuple[_Group, bytes] | None = None
        self._acknowledged: dict[bytes, int] = {}

    # --- who has to agree

    def healed(self, run: Run) -> None:
        for said in run.world.acknowledged:
            author = run.nodes[said.node].identity.public.raw
            self._acknowledged[author] = max(self._acknowledged.get(author, 0), said.sequence)

    def agrees(self, run: Run) -> bool:
        if self._suspect is not None and self._details(run, *self._suspect):
            return False
        self._groups = _find_groups(run)
        for group in self._groups:
            author = self._difference(run, group)
            if author is not None:
                self._suspect = group, author
                return False
        return True

    def settled(self, run: Run) -> None:
        for name, node in run.nodes.items():
            if not node.ready:
                text = "it is not ready, though nothing is wrong any more"
                run.violated(self.name, name, text)
        if run.agreed:
            # Somebody who lies may have gone on with his feed since then.
            return
        found = [
            difference
            for group in _find_groups(run)
            if self._difference(run, group) is not None
            for author in group.authors
            for difference in self._details(run, group, author)
        ]
        for name, text in found[:_NAMED]:
            run.violated(self.name, name, text)
        if len(found) > _NAMED:
            run.violated(self.name, "", f"and {len(found) - _NAMED} more differences")

    # --- whether they do

    def _difference(self, run: Run, group: _Group) -> bytes | None:
        """@return: the first feed in which not all nodes of a group have the same, and all."""
        first = _heads(run.nodes[group.names[0]], group.authors)
        for author in group.authors:
            if first[author].contiguous < self._least(run, group, author):
                return author
        for name in group.names[1:]:
            heads = _heads(run.nodes[name], group.authors)
            if heads != first:
                return next(author for author in group.authors if heads[author] != first[author])
        return None

    def _least(self, run: Run, group: _Group, author: bytes) -> int:
        """@return: how many messages of a feed have to be there."""
        there = run.name_of(author) in group.names
        return self._acknowledged.get(author, 0) if there else 0

    def _details(self, run: Run, group: _Group, author: bytes) -> list[tuple[str, str]]:
        """@return: (node, what it lacks), for one feed."""
        heads = {name: _heads(run.nodes[name], [author])[author] for name in group.names}
        owner, least = run.name_of(author), self._least(run, group, author)
        best = max(heads.values(), key=lambda each: each.contiguous)
        best = heads.get(owner, best)
        found = []
        for name, head in heads.items():
            if head.contiguous < least:
                what = f"{least} messages of it were acknowledged"
            elif head != best:
                holder = next(each for each in group.names if heads[each] == best)
                what = f"{holder} has {best}"
            else:
                continue
            found.append((name, f"it has {head} of {owner}, and {what}"))
        return found


def _heads(node: SimNode, authors: Sequence[bytes]) -> dict[bytes, _Head]:
    """@return: how far a node has some feeds."""
    columns = "SELECT key, contiguous, head, forked FROM feed_authors"
    found = dict.fromkeys(authors, _NOTHING)
    if not node.ready:
        return found
    if len(authors) > _MANY:
        rows = node.look(columns)
    else:
        marks = ", ".join("?" * len(authors))
        rows = node.look(f"{columns} WHERE key IN ({marks})", tuple(authors))
    found.update((key, _Head(*head)) for key, *head in rows if key in found)
    return found


def _find_groups(run: Run) -> list[_Group]:
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
    # Those who replicate a feed -> the feeds.
    willing: dict[tuple[str, ...], list[bytes]] = {}
    for author in sorted(authors):
        names = tuple(name for name in nodes if wants[name].want(author, tags))
        willing.setdefault(names, []).append(author)
    return [
        _Group(tuple(group), tuple(feeds))
        for names, feeds in willing.items()
        for group in _connected(names, ways)
        if len(group) > 1
    ]


def _wants(node: SimNode) -> _Wants:
    follows = {author for (author,) in node.look("SELECT author FROM gossip_follows")}
    topics = {topic for (topic,) in node.look("SELECT topic FROM gossip_topics")}
    gossip = node.given["settings"].section("gossip")
    follows.update(gossip.followed())
    kept = any(each.name == "forwarding" for each in node.given["composition"].order)
    if kept:
        # A relay has the feeds of those who are registered, and of nobody else.
        follows.update(
            peer for (peer,) in node.look("SELECT peer FROM registrations WHERE stays = 1")
        )
    topics.update(gossip.subscribed())
    blocked = {author for (author,) in node.look("SELECT author FROM feed_blocks")}
    return _Wants(
        node.identity.public.raw,
        frozenset(follows) if follows or topics or kept else None,
        frozenset(topics),
        frozenset(blocked),
    )


def _ways(run: Run, wants: dict[str, _Wants]) -> dict[str, dict[str, None]]:
    """@return: with whom each node can have a link."""
    behind = {member.name: member.behind for member in run.plan.members}
    known = {member.name: dict.fromkeys(member.peers) for member in run.plan.members}
    for name in wants:
        for (text,) in run.nodes[name].look("SELECT address FROM node_peers"):
            known[name][run.name_of(MeshAddress.parse(text).key.raw)] = None
    ways: dict[str, dict[str, None]] = {name: {} for name in wants}
    for name in wants:
        for other in known[name]:
            if other not in wants or other == name:
                continue
            reachable = not behind[other] or behind[other] == behind[name]
            blocked = (
                wants[other].own in wants[name].blocked or wants[name].own in wants[other].blocked
            )
            if reachable and not blocked:
                ways[name][other] = ways[other][name] = None
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


def _connected(names: Sequence[str], ways: dict[str, dict[str, None]]) -> list[list[str]]:
    """@return: these names, by what can be reached over them alone."""
    left = dict.fromkeys(names)
    groups = []
    while left:
        group = [next(iter(left))]
        del left[group[0]]
        for name in group:
            for other in ways[name]:
                if other in left:
                    del left[other]
                    group.append(other)
        groups.append(group)
    return groups
