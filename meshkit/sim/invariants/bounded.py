"""
What peers and programs can make grow has limits, and keeps them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from meshkit.gossip import digestion, link, spread, telling
from meshkit.gossip.codec import MAX_FRAME
from meshkit.gossip.part import MAX_INTEREST, MAX_LINKS_PER_PEER
from meshkit.kademlia import contacts, holdings, protocol, publications, routing, upkeep
from meshkit.kademlia import node as kademlia
from meshkit.runtime import database, ledger, limits, peers, workers
from meshkit.shs import hellos, listener
from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = [
    "CONNECTIONS",
    "REST",
    "TIMERS",
    "TIMERS_PER_CONNECTION",
    "TIMERS_PER_DIAL",
    "Bounded",
    "sizes",
]

#: Timers of a node, for each of its connections, and for each that it tries to make.
TIMERS: Final = 32
TIMERS_PER_CONNECTION: Final = 12
TIMERS_PER_DIAL: Final = 4
#: Connections of the hash table of a machine with that of one other: each may have dialled
#: one, and one more that is being closed.
_HASH_TABLES: Final = 2 * (1 + protocol.MAX_ACCEPTED_PER_PEER)
#: Connections of a machine with one other, in whatever state.
CONNECTIONS: Final = 2 * MAX_LINKS_PER_PEER + _HASH_TABLES + listener.MAX_UNAUTHENTICATED_PER_ORIGIN
# Seconds that a sign of life may take.
_SLACK: Final = 5.0
#: Seconds in which nodes that have agreed come to rest: each hears of the peers that are there,
#: and gives up what somebody has promised whose words are still on their way.
REST: Final = max(link.IDLE, spread.MADE_GOOD) + 2 * _SLACK
#: Nodes that are looked at at a time.
_AT_A_TIME: Final = 20

_Size = tuple[str, int, int]


def sizes(node: SimNode) -> Iterator[_Size]:
    """
    @param node: it runs.
    @return: what can grow in it, how much of it there is, and how much there may be.
    """
    service: Any = node.service
    transports = node.host.net.transports
    yield (
        "timers",
        len(node.process.getDelayedCalls()),
        TIMERS
        + TIMERS_PER_CONNECTION * len(transports)
        + TIMERS_PER_DIAL * node.process.dialling
        + _patience(service._parts.get("dht")),
    )
    machines = Counter(each.connection.other(each).machine.name for each in transports)
    for name, count in machines.items():
        yield f"connections with {name}", count, CONNECTIONS
    status = service._database.status()
    yield "jobs for the database", status.waiting_writes, database.MAX_WAITING
    yield "readers of the database", status.waiting_reads, database.MAX_WAITING
    yield (
        "calls of workers",
        service._workers.outstanding,
        service._workers.size + workers.MAX_WAITING,
    )
    yield "peers in the ledger", len(service.peers.ledger.accounts()), ledger.MAX_ACCOUNTS
    added = [entry for entry in service.peers.entries() if entry.source == "manual"]
    yield "peers that were added", len(added), peers.MAX_ADDED
    for source, told in service.peers._heard.items():
        yield f"peers heard from {source}", len(told), peers.MAX_HEARD
    yield "handshakes", len(service._listener._waiting), listener.MAX_UNAUTHENTICATED
    yield "hellos", len(service._listener._replays), hellos.MAX_REMEMBERED_HELLOS
    gossip = service._parts.get("gossip")
    if gossip is not None:
        yield from _gossip_sizes(gossip)
    hashing = service._parts.get("dht")
    if hashing is not None:
        yield from _hash_table_sizes(hashing.node)


def _gossip_sizes(part: Any) -> Iterator[_Size]:
    links = part._links
    yield "links", len(links), part._config.max_links
    by_peer = Counter(each.connected_to.text for each in links)
    for peer, count in by_peer.items():
        yield f"links with {peer}", count, MAX_LINKS_PER_PEER
    # A frame more is handled when there is room for a byte.
    yield "bytes in hand", part.digestion.in_all, digestion.MAX_IN_ALL + 2 * MAX_FRAME
    interest = sum(len(each.interest) for each in links)
    yield "authors of interests", interest, MAX_INTEREST + 1_000 * len(links)
    claims = sum(len(partner.claims) for partner in part.spread.partners)
    yield "claims in all", claims, spread.MAX_CLAIMS_IN_ALL
    for each in links:
        partner, peer = each.partner, each.connected_to.text
        yield f"feeds on from {peer}", len(partner.on), spread.MAX_ON
        yield f"feeds wanted by {peer}", len(partner.wanted), spread.MAX_ON
        yield f"feeds fetched from {peer}", len(partner.due), spread.MAX_CATCHING
        yield f"claims of {peer}", len(partner.claims), spread.MAX_CLAIMS
        yield f"feeds told to {peer}", len(partner.told), spread.MAX_TOLD
        yield f"news for {peer}", len(each.telling._news), link.MAX_NEWS
        lacks = max(len(each.telling._lacking), len(each.telling._lacks_now))
        yield f"feeds that {peer} lacks", lacks, telling.MAX_LACKING


def _patience(part: Any) -> int:
    """@return: timers of what a hash table waits for without a connection; all has limits."""
    if part is None:
        return 0
    asking = part.node.connections
    waiting = sum(len(link.waiting) for link in asking._links.values())
    return int(waiting + asking.dialling + len(part.node._searches))


def _hash_table_sizes(node: Any) -> Iterator[_Size]:
    table, kept, quota = node.table, node.holdings, node.holdings.quota
    yield "nodes in a bucket", max(table.sizes().values(), default=0), routing.K
    waiting = max((len(each.waiting) for each in table._buckets.values()), default=0)
    yield "nodes that wait for a bucket", waiting, routing.MAX_WAITING
    yield "nodes that are gone", len(table._lost), routing.MAX_LOST
    yield "nodes that are pinged", len(table._checks), routing.MAX_CHECKS
    yield "lookups", len(node._searches), kademlia.MAX_LOOKUPS
    yield "records", len(kept), quota.records
    yield "bytes of records", kept.size, quota.size
    owners = Counter(entry.account for entry in kept._entries.values())
    most = max(owners.values(), default=0)
    yield "records of one owner", most, quota.each_records
    yield "places of old records", kept.floors, holdings.MAX_FLOORS
    yield "records of its own", len(node.publications), publications.MAX_PUBLICATIONS
    yield "newcomers", len(node.upkeep._newcomers), upkeep.MAX_NEWCOMERS
    asking, served = node.connections, node.server
    yield "hash tables connected", len(asking), asking.limits.connections
    yield "hash tables dialled", asking.dialling, asking.limits.dials
    yield "hash tables to be dialled", asking.queued, asking.limits.waiting
    yield "hosts that do not answer", len(asking.failed_dials), contacts.MAX_FAILED_HOSTS
    # Those that are being closed are counted by neither.
    yield "hash tables accepted", len(served._callers), protocol.MAX_ACCEPTED
    by_peer = max(map(len, served._by_peer.values()), default=0)
    yield "hash tables accepted of one peer", by_peer, protocol.MAX_ACCEPTED_PER_PEER
    yield "peers of whom calls are counted", len(served.buckets), limits.MAX_PEERS
    yield "address records", len(node.client._reader), protocol.MAX_READ


def _left(node: SimNode, calm: bool) -> Iterator[tuple[str, int]]:
    """
    What has to be nothing in a node that has nothing to do.

    @param calm: nobody lies, who would give it something to do.
    """
    service: Any = node.service
    gossip = service._parts.get("gossip")
    if gossip is not None:
        used = sum(room.limit - room.tokens for room in (gossip.rooms.begun, gossip.rooms.answered))
        ways = [each.comparing for each in gossip._links]
        under_way = sum(each._running + each._answering for each in ways)
        yield "room for comparisons that are over", max(0, used - under_way)
    if not calm:
        return
    status = service._database.status()
    yield "jobs for the database", status.waiting_writes + status.waiting_reads
    yield "calls of workers", service._workers.outstanding
    if gossip is None:
        return
    yield "bytes in hand", gossip.digestion.in_all
    for each in gossip._links:
        peer = each.connected_to.text
        # The others are dead, and this node has yet to find that out.
        if each._now - each._heard < link.IDLE + _SLACK:
            yield f"feeds fetched from {peer}", len(each.partner.due)
            yield f"news for {peer}", len(each.telling._news)


def _lookups(node: SimNode) -> set[Any]:
    """@return: those that are under way in its hash table."""
    service: Any = node.service
    part = service._parts.get("dht")
    return set() if part is None else {*part.node._searches}


class Bounded(Invariant):
    """
    While a run goes on, no table and no queue of a node is over its limit: those that peers
    and callers can make grow, by the limits that stand in the code and in docs/protocol, and
    the timers and connections of the process.  When all have agreed and some seconds have
    passed, nothing is waiting in any of them, unless somebody lies and goes on; and no lookup
    of the hash table is under way any more that was when they began.

    The innards of a node are read for that, as no door shows all of them.
    """

    name = "bounded"

    def __init__(self) -> None:
        self._next = 0
        self._told: set[tuple[str, str]] = set()

    def sampled(self, run: Run) -> None:
        # In turn: there may be a thousand of them.
        names = list(run.nodes)
        for _ in range(min(len(names), _AT_A_TIME)):
            node = run.nodes[names[self._next % len(names)]]
            self._next += 1
            if node.ready:
                self._check(run, node)

    def _check(self, run: Run, node: SimNode) -> None:
        for what, size, limit in sizes(node):
            if size > limit and (node.name, what) not in self._told:
                self._told.add((node.name, what))
                run.violated(self.name, node.name, f"{what}: {size}, and the limit is {limit}")

    def settled(self, run: Run) -> None:
        nodes = [node for node in run.nodes.values() if node.ready]
        lookups = {node.name: _lookups(node) for node in nodes}
        run.world.run(REST)
        for node in run.nodes.values():
            if node.ready:
                self._check(run, node)
                left = [f"{what}: {size}" for what, size in _left(node, not run.liars) if size]
                endless = lookups.get(node.name, set()) & _lookups(node)
                if endless:
                    left.append(f"lookups that do not end: {len(endless)}")
                if left:
                    text = f"it has nothing to do, and there is still {', '.join(left)}"
                    run.violated(self.name, node.name, text)
