"""
What ten thousand nodes on the pure cores (L{tests.kademlia.network}) stand, measured::

    python -m tests.kademlia.swarm lookups churn apart liars eclipse

prints it at full size, which takes half an hour; C{tests/slow/test_kademlia.py} tries the
same in less.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from random import Random
from statistics import mean
from typing import Final

from attrs import define, field, frozen

from meshkit.kademlia.lookup import PATHS, SAFE_PATHS
from meshkit.kademlia.routing import K
from tests.kademlia.network import HOUR, Found, Item, Lie, Swarm

#: Seconds that the slowest of many lookups may take.
_LOOKUPS: Final = 120.0
#: What is stored where nodes leave.
_KINDS: Final = ("mutable", "immutable", "topic", "provider")
#: Paths that are compared.
_PATHS: Final = (1, PATHS, SAFE_PATHS)
#: Lookups to refresh a table, as many as the shell does: one for each bucket.
_ALL: Final = 256
#: Nodes that were there before an attack.
_VANISHED: Final = 300


@frozen
class Lookups:
    """
    Lookups of what is stored, in a network of honest nodes.

    @ivar found: how many found it.
    @ivar hops: nodes that told of one another until the nearest was found.
    @ivar asked: questions of a lookup.
    """

    size: int
    paths: int
    lookups: int
    found: int
    hops: float
    asked: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.size:6} nodes (log2 {math.log2(self.size):4.1f})  {self.paths} paths  "
            f"found {self.found} of {self.lookups}  {self.hops:.2f} hops  "
            f"{self.asked:.1f} questions  {self.seconds:.2f} s"
        )


def measure_lookups(size: int, lookups: int, seed: int = 1) -> list[Lookups]:
    """Store so many records, and look each of them up with one path, and three, and eight."""
    swarm = Swarm(seed)
    swarm.build(size)
    items = [swarm.item() for _ in range(lookups)]
    for item in items:
        swarm.store(swarm.any_node(), item)
    swarm.run()
    figures = []
    for paths in _PATHS:
        all_found = _look_for(swarm, items, paths)
        outcomes = [found for _, found in all_found]
        figures.append(
            Lookups(
                size,
                paths,
                len(outcomes),
                sum(found.has(item) for item, found in all_found),
                mean(each.lookup.hops for each in outcomes),
                mean(each.lookup.asked for each in outcomes),
                mean(each.seconds for each in outcomes),
            )
        )
    return figures


def _look_for(
    swarm: Swarm, items: list[Item], paths: int = PATHS, half: int | None = None
) -> list[tuple[Item, Found]]:
    """
    Have somebody look for each of them, from now on.

    @return: what came of it, without the lookups of nodes that left meanwhile.
    """
    all_found: list[tuple[Item, Found]] = []
    for item in items:

        def done(found: Found, item: Item = item) -> None:
            all_found.append((item, found))

        swarm.get(swarm.any_node(half), item, done, paths=paths)
    swarm.run(_LOOKUPS)
    return all_found


# --- nodes that leave -----------------------------------------------------------------


@frozen
class Churn:
    """
    A network of which nodes leave all the time.

    @ivar left: how many nodes left in all.
    @ivar records: how many there are, of which nobody but those who keep them takes care; and
        of as many more the authors do, too.
    @ivar lookups: of all records, each hour.
    @ivar missed: how many of these did not find it.
    @ivar lost: records that nobody found in the last hour, and nobody keeps.
    @ivar fewest: copies that there are in the end of the record of which there are fewest.
    @ivar over: records that are found after the last hour that they were good for.
    @ivar dead: part of the contacts in the tables that are gone.
    @ivar asked: questions of a node in an hour.
    @ivar others: pings and stores of a node in an hour.
    @ivar refused: records that a node did not want, in all.
    @ivar looked_at: signatures that were verified.
    """

    size: int
    hours: int
    left: int
    records: int
    lookups: int
    missed: int
    lost: int
    fewest: int
    over: int
    dead: float
    asked: float
    others: float
    seconds: float
    refused: dict[str, int]
    looked_at: int

    def __str__(self) -> str:
        return (
            f"{self.size:6} nodes  {self.hours} hours  {self.left} left  "
            f"found {self.lookups - self.missed} of {self.lookups}, "
            f"in the end {self.records - self.lost} of {self.records} records  "
            f"at least {self.fewest} copies  {self.over} outlived their time  "
            f"{100 * self.dead:.0f} % of contacts gone  {self.seconds:.1f} s a lookup  "
            f"{self.asked:.0f} questions and {self.others:.0f} pings and stores an hour and node  "
            f"refused {self.refused}  {self.looked_at} signatures"
        )


def measure_churn(
    size: int, hours: int, records: int, refreshes: float = 0.1, seed: int = 1
) -> Churn:
    """
    Store records of several kinds; then each hour three in ten nodes leave and as many come.
    Of half of them nobody takes care any more but those who keep them, until half an hour
    after the end; the authors of the others stay, and go on publishing them.

    @param refreshes: lookups of a node in an hour to refresh its table.  The fewer, the
        harder; the shell does one for each bucket.
    """
    swarm = Swarm(seed)
    swarm.build(size)
    alone: list[Item] = []
    for n in range(records // 2):
        kind = _KINDS[n % len(_KINDS)]
        several = kind in ("topic", "provider")
        authors = [swarm.author() for _ in range(2 if several else 1)]
        alone.append(swarm.item(kind, authors, (hours + 0.5) * HOUR))
        swarm.store(swarm.any_node(), alone[-1])
    items = alone + [swarm.publish(("mutable", "topic")[n % 2]) for n in range(records // 2)]
    swarm.run()
    for node in list(swarm.nodes.values()):
        swarm.live(node, refreshes)
    swarm.churn(refreshes)
    all_found: list[tuple[Item, Found]] = []
    lookups = missed = 0
    for _ in range(hours):
        swarm.run(HOUR - _LOOKUPS)
        # A lookup of a node that leaves has no end.
        all_found = _look_for(swarm, items)
        lookups += len(all_found)
        missed += sum(not found.has(item) for item, found in all_found)
    copies = {item.key: swarm.holders(item) for item in items}
    seen = {item.key for item, found in all_found if found.has(item)}
    some = swarm.rng.sample(list(swarm.nodes.values()), min(size, 200))
    contacts = [contact for node in some for contact in node.table]
    asked, others, left = swarm.asked, swarm.others, swarm.left
    swarm.run(HOUR)
    over = _look_for(swarm, alone)
    return Churn(
        size,
        hours,
        left,
        len(items),
        lookups,
        missed,
        sum(item.key not in seen and not copies[item.key] for item in items),
        min(copies.values()),
        sum(bool(found.records) for _, found in over) + sum(map(swarm.holders, alone)),
        mean(contact.id not in swarm.nodes for contact in contacts),
        asked / size / hours,
        others / size / hours,
        mean(found.seconds for _, found in all_found),
        dict(sorted(swarm.refused.items())),
        swarm.kinds.looked_at,
    )


# --- two halves -----------------------------------------------------------------------


@frozen
class Apart:
    """
    A network that was cut in two.

    @ivar knew: part of the twenty nearest nodes, of both halves, that lookups find at the
        end of the time apart, and after the healing.
    @ivar newest: records of which both halves find the newest, after the healing; and topics
        of which both find the entries of both.
    @ivar hours: from the healing on.
    """

    size: int
    apart: float
    hours: float
    knew: tuple[float, float]
    records: int
    newest: int
    topics: int

    def __str__(self) -> str:
        return (
            f"{self.size:6} nodes  {self.apart:g} hours apart  of the nearest nodes are found "
            f"{100 * self.knew[0]:.0f} % then, {100 * self.knew[1]:.1f} % "
            f"{self.hours:g} hours after  both halves find the newest {self.newest}, and the "
            f"entries of both {self.topics} of {self.records}"
        )


def measure_apart(size: int, records: int, apart: float = 6, after: float = 2) -> Apart:
    """
    Two halves do not reach each other for some hours, in which each stores new versions of
    all records, the one of some that are the newest, the other of the others; and an entry
    of its own under all topics.
    """
    swarm = Swarm(1)
    swarm.build(size)
    authors = [swarm.author() for _ in range(records)]
    first = [swarm.item(authors=[author]) for author in authors]
    for item in first:
        swarm.store(swarm.any_node(), item)
    swarm.run()
    for node in list(swarm.nodes.values()):
        swarm.live(node, 1)
    swarm.part()
    swarm.run(apart * HOUR / 2)
    newest: list[Item] = []
    topics: list[Item] = []
    for n, item in enumerate(first):
        topic = swarm.item("topic", [swarm.author(), swarm.author()])
        topics.append(topic)
        for side in (0, 1):
            newer = (n + side) % 2
            value = b"newest" if newer else b"newer"
            new = swarm.version(item.kind, item.key, [authors[n]], value, sequence=newer)
            if newer:
                newest.append(new)
            swarm.store(swarm.any_node(side), new)
            entry = Item(topic.kind, topic.key, (topic.records[side],))
            swarm.store(swarm.any_node(side), entry)
    swarm.run(apart * HOUR / 2)
    then = _known(swarm)
    swarm.heal()
    swarm.run(after * HOUR)
    right = []
    for items in (newest, topics):
        halves = [_look_for(swarm, items, half=side) for side in (0, 1)]
        missed = {item.key for half in halves for item, found in half if not found.has(item)}
        assert all(len(half) == records for half in halves)
        right.append(records - len(missed))
    return Apart(size, apart, after, (then, _known(swarm)), records, *right)


def _known(swarm: Swarm) -> float:
    """How many of the nearest there are a lookup finds."""
    parts: list[float] = []
    for _ in range(50):
        place = swarm.rng.randbytes(32)
        nearest = {contact.id for contact in swarm.index.nearest(place)}

        def done(found: Found, nearest: set[bytes] = nearest) -> None:
            parts.append(len(nearest & {each.id for each in found.lookup.closest()}) / K)

        swarm.look_up(swarm.any_node(), place, done)
    swarm.run(_LOOKUPS)
    return mean(parts)


# --- those who lie --------------------------------------------------------------------


@frozen
class Plan:
    """
    An attack on lookups of one record at a time.

    @ivar part: of the nodes that lie; those that were made for the attack come on top.
    @ivar made: nodes whose keys were made to be nearer to it than any honest one.
    @ivar lie: what they all do.
    @ivar spread: all but twenty of those made are anywhere in the region.
    @ivar providers: how many /16 these have; by default any number.
    @ivar regions: crowded places are looked through.
    @ivar before: the record was stored before the attack began.
    """

    part: float
    made: int = K
    lie: Lie = Lie.COLLUDE
    spread: bool = field(default=False, kw_only=True)
    providers: int | None = field(default=None, kw_only=True)
    regions: bool = field(default=True, kw_only=True)
    before: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        made = f"{self.made:3} made{' over the region' if self.spread else ''}"
        if self.providers is not None:
            made += f" in {self.providers} /16"
        return (
            f"{100 * self.part:2.0f} % {self.lie.value:8} {made}  "
            f"{'regions' if self.regions else 'no regions':10}  "
            f"stored {'before' if self.before else 'during':6}"
        )


@frozen
class Liars:
    """
    Lookups of records that are attacked: stored on eight paths, and looked up by others.

    @ivar holders: honest nodes that kept it, on average.
    @ivar found: paths -> how many lookups found the newest.
    @ivar asked: paths -> questions of a lookup.
    """

    size: int
    plan: Plan
    trials: int
    holders: float
    found: dict[int, int]
    asked: dict[int, float]

    def __str__(self) -> str:
        found = "  ".join(
            f"{paths}: {100 * self.found[paths] / self.trials:5.1f} % ({self.asked[paths]:.0f})"
            for paths in self.found
        )
        return (
            f"{self.size:6} nodes  {self.plan}  {self.trials} places  {self.holders:4.1f} keep it  "
            f"found with paths (questions) {found}"
        )


@define(eq=False)
class Stage:
    """A network, built once, for attacks one after the other."""

    size: int
    swarm: Swarm = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.swarm = Swarm(1)
        self.swarm.build(self.size)
        self.swarm.vanish(_VANISHED)

    def measure(self, plan: Plan, trials: int, paths: tuple[int, ...] = _PATHS) -> Liars:
        """Attack so many places, one after the other."""
        swarm = self.swarm
        # So that what comes of it does not hang on what was measured before.
        swarm.rng = Random(str(plan))
        swarm.have_lie(plan.part)
        swarm.lie, swarm.regions = plan.lie, plan.regions
        holders = 0
        all_found: dict[int, list[tuple[Item, Found]]] = {each: [] for each in paths}
        for _ in range(trials):
            author = swarm.author()
            old = swarm.item(authors=[author])
            new = swarm.version(old.kind, old.key, [author], b"the newest", sequence=1)
            if not plan.before:
                self._attack(plan, old)
            swarm.store(swarm.any_node(), new)
            swarm.run()
            if plan.before:
                self._attack(plan, old)
            holders += swarm.holders(new)
            for each in paths:
                all_found[each] += _look_for(swarm, [new], each)
            swarm.retreat()
        return Liars(
            self.size,
            plan,
            trials,
            holders / trials,
            {each: sum(found.has(item) for item, found in all_found[each]) for each in paths},
            {each: mean(found.lookup.asked for _, found in all_found[each]) for each in paths},
        )

    def _attack(self, plan: Plan, old: Item) -> None:
        self.swarm.attack(old, plan.made, spread=plan.spread, providers=plan.providers)


@frozen
class Eclipse:
    """
    Records that are attacked for hours, while nodes leave.

    @ivar made: nodes with keys nearer to each of them than any honest one.
    @ivar hushed: somebody stores each where it is kept, and nowhere else.
    @ivar found: how many are found on three and on eight paths after each hour.
    @ivar holders: honest nodes that keep one in the end, on average.
    """

    size: int
    part: float
    made: int
    hushed: bool
    records: int
    found: list[tuple[int, int]]
    holders: float

    def __str__(self) -> str:
        found = "  ".join(f"{few} {many}" for few, many in self.found)
        return (
            f"{self.size:6} nodes  {100 * self.part:2.0f} % collude  {self.made:3} made  "
            f"{'hushed' if self.hushed else '':6}  {self.holders:4.1f} keep it in the end  "
            f"of {self.records} are found each hour on {PATHS} and {SAFE_PATHS} paths {found}"
        )


def measure_eclipse(
    size: int, part: float, made: int, records: int, hours: int, *, hushed: bool = False
) -> Eclipse:
    """
    Attack some records at the same time, of which nobody takes care but those who keep them,
    while three in ten honest nodes leave each hour.
    """
    swarm = Swarm(1)
    swarm.build(size)
    swarm.have_lie(part)
    items: list[Item] = []
    for _ in range(records):
        author = swarm.author()
        old = swarm.item(authors=[author])
        new = swarm.version(old.kind, old.key, [author], b"the newest", sequence=1)
        swarm.store(swarm.any_node(), new)
        swarm.run()
        swarm.attack(old, made)
        items.append(new)
    for item in items if hushed else ():
        swarm.hush(item)
    for node in list(swarm.nodes.values()):
        swarm.live(node, _ALL)
    swarm.churn(_ALL)
    found: list[tuple[int, int]] = []
    for _ in range(hours):
        swarm.run(HOUR - 2 * _LOOKUPS)
        few, many = (
            sum(each.has(item) for item, each in _look_for(swarm, items, paths))
            for paths in (PATHS, SAFE_PATHS)
        )
        found.append((few, many))
    holders = mean(swarm.holders(item) for item in items)
    return Eclipse(size, part, made, hushed, records, found, holders)


# --- the command ----------------------------------------------------------------------


def _lookups() -> Iterator[object]:
    for size in (100, 1_000, 10_000):
        yield from measure_lookups(size, 1_000)


def _churn() -> Iterator[object]:
    yield measure_churn(10_000, 24, 200)


def _apart() -> Iterator[object]:
    yield measure_apart(2_000, 200)


def _liars() -> Iterator[object]:
    stage = Stage(10_000)
    # How many paths would be needed if they were all there is.
    for part in (0.1, 0.2, 0.3):
        for before in (True, False):
            yield stage.measure(Plan(part, regions=False, before=before), 200)
    for part in (0.1, 0.2, 0.3):
        for made in (0, 12, 13, 14, K, 60):
            yield stage.measure(Plan(part, made), 200)
        yield stage.measure(Plan(part, before=True), 200)
    for lie in (Lie.SILENT, Lie.NONSENSE, Lie.STALE):
        for part in (0.1, 0.2, 0.3):
            yield stage.measure(Plan(part, lie=lie), 100)
    for made in (100, 200, 400):
        yield stage.measure(Plan(0.2, made, spread=True), 50)
        yield stage.measure(Plan(0.2, made, spread=True, providers=4), 50)


def _eclipse() -> Iterator[object]:
    for hushed in (False, True):
        yield measure_eclipse(2_000, 0.2, K, 20, 12, hushed=hushed)


#: What can be measured.
MEASURES: Final = {
    "lookups": _lookups,
    "churn": _churn,
    "apart": _apart,
    "liars": _liars,
    "eclipse": _eclipse,
}


def main(names: list[str]) -> None:
    """Measure at full size, and print; with the time that the processor took for it."""
    unknown = sorted(set(names) - MEASURES.keys())
    if unknown or not names:
        sys.exit(f"usage: python -m tests.kademlia.swarm [{' | '.join(MEASURES)}]...")
    for name in names:
        for figures in MEASURES[name]():
            print(f"{figures}  [{time.process_time():.0f} s]", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
