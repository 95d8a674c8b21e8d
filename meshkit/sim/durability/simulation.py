"""
Peers and shares over years of virtual time, event by event.

What decides is the code that nodes run: L{meshkit.storage.rendezvous.place} says who gets a
share, L{meshkit.audit.decisions} what is done for an object and when, L{meshkit.audit.standing}
what is thought of a peer.  What is left out are bytes and sockets:

  - A peer is asked about all its shares at once.  An honest one that is there has them; one that
    lies is found out with the chance that some of the leaves that are asked for are among those
    that it has dropped.
  - An object is looked at when something about it has changed or will have, by what is known of
    its peers, and not in each pass; in between the decision would be the same.
  - A repair takes as long as its bytes need.  It reads from peers that are there; who lies is
    found out by what it gives.  Reading, sending and the change of the placement have their
    effect at one moment, when it ends.
  - Leases are always renewed, placements never lost.

Everything follows from the seed.  Time is in whole seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import ceil, comb, log
from random import Random
from typing import Any, Final

from attrs import define, field

from meshkit.audit.challenge import SAMPLED
from meshkit.audit.decisions import (
    Budget,
    Decision,
    ObjectFacts,
    ShareFacts,
    Sight,
    cost_of,
    decide,
    settle,
)
from meshkit.audit.standing import Results, Standing, judge, recorded
from meshkit.errors import NotEnoughPeers
from meshkit.sim.durability.findings import SUMS, Findings, Month
from meshkit.sim.durability.setting import YEAR, Setting
from meshkit.sim.seeds import Seeds
from meshkit.storage.custody import Judgement
from meshkit.storage.rendezvous import Candidate, place

__all__ = ["Simulation", "Watch", "chance_to_find"]

#: Hears of each decision: on what grounds it was made, and what it is.
Watch = Callable[[ObjectFacts, Sight, Budget, Decision], object]

# Good shares of an object that is lost.
_LOST: Final = -1
# For how long peers promise to keep a share; it is renewed.
_LEASE: Final = 31 * 86_400
#: Parts of the time for which figures are kept.
MAX_MONTHS: Final = 240


def chance_to_find(leaves: int, kept: float, sampled: int = SAMPLED) -> float:
    """
    @param leaves: of a share.
    @param kept: which part of them is still there; of a few leaves, a whole number of them.
    @param sampled: how many different ones an audit asks for.
    @return: the chance that one of them is not there.
    """
    there = int(leaves * kept)
    asked = min(leaves, sampled)
    return 1.0 - comb(there, asked) / comb(leaves, asked)


@define(eq=False)
class _Peer:
    """
    @ivar alive: it is not gone for good.
    @ivar causes: why it is away at present: so many outages.
    @ivar since: when it was first found to be away; L{None} if it was there when it was last
        asked.
    @ivar shares: the slots that it is to have, see L{Simulation}.
    """

    number: int
    key: bytes = field(repr=False)
    domain: int
    lies: bool
    rng: Random = field(repr=False)
    alive: bool = True
    causes: int = 0
    since: int | None = None
    asked: int = 0
    shares: dict[int, None] = field(factory=dict, repr=False)
    standing: Standing | None = None
    judgement: Judgement = field(factory=Judgement)
    found_out: bool = False
    candidate: Candidate | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"peer-{self.number}"

    @property
    def there(self) -> bool:
        return self.alive and not self.causes


class Simulation:
    """
    See the module.  A share is a I{slot}: number of the object times shares of an object, plus
    number of the share.
    """

    def __init__(self, setting: Setting, seed: int = 0, watch: Watch | None = None) -> None:
        """
        @param watch: hears of each decision.
        """
        self.setting = setting
        self.seed = seed
        self._watch = watch
        self._seeds = Seeds(seed)
        self._k, self._n = setting.scheme.required, setting.scheme.total
        self._share = setting.share_bytes
        self._found_by_audit = chance_to_find(setting.leaves, setting.kept)
        self._now = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = 0
        # All that there ever were, by number; those of them that are alive; those that were away
        # when they were asked last, and have shares.
        self._peers: list[_Peer] = []
        self._living: dict[int, _Peer] = {}
        self._away: dict[int, None] = {}
        self._by_key: dict[bytes, _Peer] = {}
        self._joined = 0
        self._broken = False
        # By slot: who is to have it; those whose last audit failed; those that are not there.
        self._holder: dict[int, _Peer] = {}
        self._failed: set[int] = set()
        self._hollow: set[int] = set()
        # By object.
        self._uploads = [
            self._seeds.stream("upload", str(number)).getrandbits(256).to_bytes(32, "big")
            for number in range(setting.objects)
        ]
        self._whole = [0] * setting.objects
        self._failures = [0] * setting.objects
        self._not_before = [0] * setting.objects
        self._repaired_at: list[int | None] = [None] * setting.objects
        # Objects: that have become fewer just now; that are repaired; that wait for a peer; that
        # the next pass looks at.
        self._shrunk: dict[int, None] = {}
        self._busy: set[int] = set()
        self._waiting: dict[int, None] = {}
        self._due: dict[int, None] = {}
        self._next_pass: int | None = None
        self._busy_until = 0
        self._codes: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._counts: Counter[int] = Counter()
        self._lost_at: dict[int, int] = {}
        self._lost_seconds = 0
        self._months: list[Month] = []
        self._found_after: list[int] = []

    # --- running

    def run(self, progress: Callable[[float], object] | None = None) -> Findings:
        """
        All of it.

        @param progress: told now and then which part is over, 0 to 1.
        @raise NotEnoughPeers: if there is no room for all objects.
        """
        setting = self.setting
        self._begin()
        step = max(setting.seconds // MAX_MONTHS, int(YEAR / 12))
        for at in range(step, setting.seconds, step):
            self._at(at, self._look)
        while self._heap and self._heap[0][0] <= setting.seconds:
            self._now, _, call, args = heappop(self._heap)
            call(*args)
            if progress is not None and call == self._look:
                progress(self._now / setting.seconds)
        self._now = setting.seconds
        self._look()
        return self._findings()

    def _at(self, when: float, call: Callable[..., object], *args: Any) -> None:
        self._order += 1
        heappush(self._heap, (max(ceil(when), self._now), self._order, call, args))

    def _after_mean(
        self, rng: Random, mean: float | None, call: Callable[..., object], *args: Any
    ) -> None:
        """Call something once, after an exponential time; never, if the mean is L{None}."""
        if mean is not None:
            self._at(self._now + max(1.0, -mean * log(1.0 - rng.random())), call, *args)

    def _grid(self, when: float) -> int:
        """@return: the moment of the first pass from then on."""
        every = self.setting.every_pass
        return -(-ceil(when) // every) * every

    @property
    def _every(self) -> float:
        return max(self.setting.policy.every, float(self.setting.every_pass))

    def _begin(self) -> None:
        setting = self.setting
        for number in range(setting.peers):
            self._join(number % setting.domains)
        for number in range(setting.objects):
            self._put(number)
        self._drop_lost()
        rng = self._seeds.stream("domains")
        for domain in range(min(setting.domains, setting.peers)):
            self._after_mean(rng, setting.domain_lifetime, self._lose_domain, domain, rng)
            self._after_mean(rng, setting.domain_outage_every, self._break_domain, domain, rng)
        if setting.fail:
            self._at(setting.fail_at, self._fail)
        if setting.gone:
            self._at(setting.gone_at, self._take_away)

    # --- what becomes of peers

    def _join(self, domain: int) -> None:
        setting, number = self.setting, self._joined
        rng = self._seeds.stream("peer", str(number))
        key = rng.getrandbits(256).to_bytes(32, "big")
        # As many liars as wanted, evenly among those who come.
        lies = int((number + 1) * setting.liars) > int(number * setting.liars)
        peer = self._by_key[key] = self._living[number] = _Peer(number, key, domain, lies, rng)
        self._joined += 1
        self._peers.append(peer)
        self._after_mean(rng, setting.lifetime, self._die, peer)
        self._after_mean(rng, setting.outage_every, self._leave, peer)
        self._at(self._grid(self._now + rng.random() * self._every), self._audit, peer)

    def _die(self, peer: _Peer, replaced: bool = True) -> None:
        if not peer.alive:
            return
        peer.alive = False
        del self._living[peer.number]
        self._sums["peers_lost"] += 1
        for slot in peer.shares:
            if slot not in self._hollow:
                self._whole[slot // self._n] -= 1
                self._shrunk[slot // self._n] = None
        self._drop_lost()
        if replaced:
            self._join(peer.domain)

    def _leave(self, peer: _Peer) -> None:
        if peer.alive:
            self._sums["outages"] += 1
            peer.causes += 1
            self._after_mean(peer.rng, self.setting.outage, self._return, peer)
            self._after_mean(peer.rng, self.setting.outage_every, self._leave, peer)

    def _return(self, peer: _Peer) -> None:
        peer.causes -= 1
        if peer.there and peer.since is not None:
            # Who is away is asked in each pass.
            self._at(self._grid(self._now), self._recheck, peer)

    def _of_domain(self, domain: int) -> list[_Peer]:
        return [peer for peer in self._living.values() if peer.domain == domain]

    def _lose_domain(self, domain: int, rng: Random) -> None:
        self._sums["domains_lost"] += 1
        for peer in self._of_domain(domain):
            self._die(peer)
        self._after_mean(rng, self.setting.domain_lifetime, self._lose_domain, domain, rng)

    def _break_domain(self, domain: int, rng: Random) -> None:
        self._sums["domain_outages"] += 1
        seconds = -self.setting.domain_outage * log(1.0 - rng.random())
        self._take(self._of_domain(domain), seconds)
        self._after_mean(rng, self.setting.domain_outage_every, self._break_domain, domain, rng)

    def _fail(self) -> None:
        for peer in self._drawn("fail", self.setting.fail):
            self._die(peer, replaced=False)

    def _take_away(self) -> None:
        count = round(self.setting.gone * self.setting.peers)
        self._take(self._drawn("gone", count), self.setting.gone_for)

    def _drawn(self, what: str, count: int) -> list[_Peer]:
        there = [*self._living.values()]
        rng = self._seeds.stream(what)
        return [there.pop(int(rng.random() * len(there))) for _ in range(min(count, len(there)))]

    def _take(self, peers: Iterable[_Peer], seconds: float) -> None:
        for peer in peers:
            peer.causes += 1
            self._at(self._now + seconds, self._return, peer)

    # --- audits

    def _audit(self, peer: _Peer) -> None:
        """Once in C{every}."""
        if peer.there:
            self._hear(peer)
        elif peer.since is None and peer.shares:
            self._miss(peer)
        if peer.alive:
            self._at(self._grid(self._now + self._every), self._audit, peer)

    def _recheck(self, peer: _Peer) -> None:
        if peer.there and peer.since is not None:
            self._hear(peer)

    def _hear(self, peer: _Peer) -> None:
        """It is there, and is asked about all its shares."""
        if peer.since is not None:
            self._count_absence(peer, peer.since)
            peer.since = None
            self._away.pop(peer.number, None)
            self._see_whether_broken()
        peer.asked = self._now
        count = len(peer.shares)
        self._sums["audits"] += count
        failed = self._fails(peer) if peer.lies else {}
        for slot in failed:
            if slot not in self._failed:
                self._failed.add(slot)
                self._want(slot // self._n)
        if peer.lies and self._failed:
            # A failure stands until there is a success.
            self._failed.difference_update([slot for slot in peer.shares if slot not in failed])
        if count:
            self._record(peer, Results(successes=count - len(failed), failures=len(failed)))
        if self._waiting:
            for slot in peer.shares:
                if slot // self._n in self._waiting:
                    self._want(slot // self._n)

    def _fails(self, peer: _Peer) -> dict[int, None]:
        """@return: the slots of a liar that its audit finds out."""
        chance, rng = self._found_by_audit, peer.rng
        return {
            slot: None for slot in peer.shares if slot in self._hollow and rng.random() < chance
        }

    def _miss(self, peer: _Peer) -> None:
        """It is not there, for the first time."""
        peer.since = peer.asked = self._now
        self._away[peer.number] = None
        self._record(peer, Results(offlines=len(peer.shares)))
        policy = self.setting.policy
        for grace in sorted({policy.offline_grace, max(policy.outage_grace, policy.offline_grace)}):
            self._at(self._grid(self._now + grace), self._expire, peer, self._now)
        self._see_whether_broken()

    def _count_absence(self, peer: _Peer, since: int) -> None:
        """It was asked all the while, and each window counts once."""
        judging = self.setting.judging
        window = judging.window_hours * 3600
        first = max(since, self._now - judging.windows * window)
        for at in range((first // window + 1) * window, self._now, window):
            self._record(peer, Results(offlines=max(1, len(peer.shares))), at)

    def _expire(self, peer: _Peer, since: int) -> None:
        if peer.since == since:
            self._see_whether_broken()
            for slot in peer.shares:
                self._want(slot // self._n)

    def _record(self, peer: _Peer, results: Results, now: int | None = None) -> None:
        now = self._now if now is None else now
        config = self.setting.judging
        peer.standing = recorded(peer.standing, results, now, config)
        before, peer.judgement = peer.judgement, judge(peer.standing, now, config)
        if (before.refused is None) == (peer.judgement.refused is None):
            return
        for slot in peer.shares:
            self._want(slot // self._n)
        if peer.judgement.refused is not None:
            self._sums["refused"] += 1
            if peer.lies and not peer.found_out:
                peer.found_out = True
                self._found_after.append(now - peer.standing.since)

    def _sight(self) -> Sight:
        grace = self.setting.policy.outage_grace
        recent = absent = 0
        for number in self._away:
            peer = self._peers[number]
            absent += peer.alive
            recent += peer.since is not None and self._now - peer.since < grace
        return Sight(self._now, len(self._living) - absent + len(self._away), recent)

    def _see_whether_broken(self) -> None:
        """When an outage ends, those who are still away may have been for too long."""
        before, self._broken = self._broken, self._sight().outage(self.setting.policy)
        if before and not self._broken:
            for number in self._away:
                for slot in self._peers[number].shares:
                    self._want(slot // self._n)

    # --- objects

    def _candidates(self, repair: bool) -> list[Candidate]:
        """@return: those who would take a share if they were asked."""
        found = []
        lent = self.setting.lent
        for peer in self._living.values():
            if peer.causes or peer.since is not None or peer.judgement.refused is not None:
                continue
            weight = peer.judgement.weight
            if lent is not None:
                room = lent.limit(repair) - len(peer.shares) * self._share
                if room < max(1, self._share):
                    continue
                weight *= room >> 10
            found.append(self._candidate(peer, max(1, weight)))
        return found

    def _candidate(self, peer: _Peer, weight: int = 1) -> Candidate:
        found = peer.candidate
        if found is None or found.weight != weight:
            found = Candidate(peer.key, weight, declared=f"domain-{peer.domain}")
            peer.candidate = found
        return found

    def _put(self, number: int) -> None:
        try:
            placed, _ = place(
                self._uploads[number], self._k, self._n, self._candidates(repair=False)
            )
        except NotEnoughPeers as e:
            raise NotEnoughPeers(f"object {number + 1} of {self.setting.objects}: {e}") from None
        for share, candidate in placed.items():
            self._give(number * self._n + share, self._by_key[candidate.key])
        self._shrunk[number] = None

    def _give(self, slot: int, peer: _Peer) -> None:
        self._holder[slot] = peer
        peer.shares[slot] = None
        if peer.lies and self.setting.kept < 1.0:
            self._hollow.add(slot)
        else:
            self._whole[slot // self._n] += 1

    def _take_from(self, slot: int) -> None:
        """Whoever had a share has it no more."""
        peer = self._holder[slot]
        del peer.shares[slot]
        if slot in self._hollow:
            self._hollow.discard(slot)
        elif peer.alive:
            self._whole[slot // self._n] -= 1
        self._failed.discard(slot)
        if not peer.alive and not peer.shares:
            # Nobody asks it for anything any more.
            self._away.pop(peer.number, None)

    def _drop_lost(self) -> None:
        """See which of the objects that have fewer good shares now are lost."""
        for number in self._shrunk:
            if 0 <= self._whole[number] < self._k:
                self._lost_at[self._now] = self._lost_at.get(self._now, 0) + 1
                self._lost_seconds += self._now
                for slot in range(number * self._n, (number + 1) * self._n):
                    self._take_from(slot)
                self._whole[number] = _LOST
                self._due.pop(number, None)
                self._waiting.pop(number, None)
        self._shrunk.clear()

    def _want(self, number: int) -> None:
        """Look at an object in the next pass."""
        if self._whole[number] == _LOST:
            return
        self._due[number] = None
        self._waiting.pop(number, None)
        if self._next_pass is None:
            self._next_pass = self._grid(max(self._now, self._busy_until))
            self._at(self._next_pass, self._pass)

    def _pass(self) -> None:
        self._next_pass = None
        if self._now < self._busy_until:
            for number in [*self._due][:1]:
                self._want(number)
            return
        setting, sight = self.setting, self._sight()
        budget = whole = Budget.of(setting.policy)
        due, self._due = sorted(set(self._due) - self._busy), {}
        acting = []
        for number in due:
            facts = self._facts(number)
            decision = decide(facts, setting.policy, sight, whole)
            if decision.acts:
                acting.append((decision.urgency, number, facts))
            else:
                self._stand(number, facts, sight, whole, decision)
        end = float(self._now)
        for _, number, facts in sorted(acting, key=lambda each: each[:2]):
            decision = decide(facts, setting.policy, sight, budget)
            if not decision.acts:
                self._stand(number, facts, sight, budget, decision)
                continue
            self._heard(facts, sight, budget, decision)
            cost = cost_of(facts, len(decision.repair), len(decision.move))
            budget = budget.without(len(decision.repair) + len(decision.move), cost)
            end += cost / setting.bandwidth
            self._busy.add(number)
            self._at(end, self._finish, number, facts, decision)
        self._busy_until = ceil(end)

    def _heard(self, facts: ObjectFacts, sight: Sight, budget: Budget, decision: Decision) -> None:
        self._codes[decision.code] += 1
        if self._watch is not None:
            self._watch(facts, sight, budget, decision)

    def _stand(
        self, number: int, facts: ObjectFacts, sight: Sight, budget: Budget, decision: Decision
    ) -> None:
        """Nothing is done about it at present."""
        self._heard(facts, sight, budget, decision)
        self._settle(number, facts, decision, placed=0, failed=False)
        if decision.code in ("backoff", "cooldown"):
            self._at(decision.retry_at, self._want, number)
        elif decision.code == "capped":
            self._at(self._now + 1, self._want, number)
        elif decision.code == "unreachable":
            self._waiting[number] = None

    def _settle(
        self, number: int, facts: ObjectFacts, decision: Decision, placed: int, failed: bool
    ) -> int:
        """@return: when it is to be looked at again, if something was done."""
        policy = self.setting.policy
        settled = settle(facts, decision, policy, self._now, placed=placed, failed=failed)
        self._failures[number] = settled.failures
        self._not_before[number] = settled.not_before
        return settled.due_at

    def _facts(self, number: int) -> ObjectFacts:
        shares = []
        for share in range(self._n):
            slot = number * self._n + share
            peer = self._holder[slot]
            failed = slot in self._failed
            away = peer.since is not None and not failed
            shares.append(
                ShareFacts(
                    number=share,
                    peer=peer.name,
                    lease_end=self._now + _LEASE,
                    domain=f"domain-{peer.domain}",
                    outcome="failure" if failed else "offline" if away else "success",
                    at=peer.asked,
                    good_at=peer.asked,
                    since=peer.since if away else None,
                    refused=peer.judgement.refused is not None,
                )
            )
        return ObjectFacts(
            object=self._uploads[number].hex(),
            version=1,
            required=self._k,
            share_bytes=self._share,
            shares=tuple(shares),
            failures=self._failures[number],
            not_before=self._not_before[number],
            repaired_at=self._repaired_at[number],
        )

    # --- repairs

    def _finish(self, number: int, facts: ObjectFacts, decision: Decision) -> None:
        """What a decision said was done, as far as it could be."""
        self._busy.discard(number)
        if self._whole[number] == _LOST:
            return
        base, before, lying = number * self._n, self._whole[number], len(self._hollow)
        copied = [share for share in decision.move if self._is_good(base + share)]
        made = [*decision.repair, *(share for share in decision.move if share not in copied)]
        blamed: list[int] = []
        if made and not self._read(number, made, blamed):
            copied, made = [], []
        read = len(copied) + len(blamed) + (self._k if made else 0)
        placed = self._place(number, copied, made)
        self._sums["read"] += read * self._share
        self._sums["written"] += len(placed) * self._share
        new = sum(share in made for share in placed)
        self._sums["rebuilt"] += new
        self._sums["copied"] += len(placed) - new
        self._sums["least"] += self._share * (
            (self._k + new if new else 0) + 2 * (len(placed) - new)
        )
        self._sums["repairs"] += bool(placed)
        left = len(decision.repair) + len(decision.move) - len(placed)
        self._sums["repairs_failed"] += bool(left)
        if placed:
            self._repaired_at[number] = self._now
        if self._whole[number] < before and len(self._hollow) <= lying:
            self._sums["lowered"] += 1
        for slot in blamed:
            self._failed.add(slot)
            self._record(self._holder[slot], Results(failures=1))
        due = self._settle(number, facts, decision, placed=len(placed), failed=bool(left))
        self._at(due, self._want, number)
        self._shrunk[number] = None
        self._drop_lost()

    def _is_good(self, slot: int) -> bool:
        """@return: is it there, and what it should be?"""
        return self._holder[slot].there and slot not in self._hollow

    def _read(self, number: int, made: Iterable[int], blamed: list[int]) -> bool:
        """
        Fetch as many shares as are required.

        @param blamed: slots that were fetched and are not what they should be are added here.
        @return: were there enough?
        """
        spared, good = set(made), 0
        for share in range(self._n):
            slot = number * self._n + share
            if share in spared or slot in self._failed or not self._holder[slot].there:
                continue
            if slot in self._hollow:
                blamed.append(slot)
            else:
                good += 1
                if good == self._k:
                    return True
        return False

    def _place(self, number: int, copied: list[int], made: list[int]) -> list[int]:
        """@return: the shares that were given to somebody else."""
        wanted = sorted({*copied, *made})
        if not wanted:
            return []
        base = number * self._n
        # Nobody gets two, and those who have lost one or are not trusted with it none again.
        holders = {self._holder[base + share].key for share in range(self._n)}
        candidates = [each for each in self._candidates(repair=True) if each.key not in holders]
        held = {
            share: Candidate(peer.key, declared=f"domain-{peer.domain}")
            for share in range(self._n)
            if share not in wanted
            for peer in (self._holder[base + share],)
        }
        upload = self._uploads[number]
        try:
            found, _ = place(upload, self._k, self._n, candidates, held=held, repeat=True)
        except NotEnoughPeers:
            return []
        placed = []
        for share in wanted:
            peer = self._by_key[found[share].key]
            if peer.key in holders:
                continue  # there are too few
            holders.add(peer.key)
            slot = base + share
            if share in made and self._holder[slot].alive and slot not in self._hollow:
                self._sums["needless"] += 1
            self._take_from(slot)
            self._give(slot, peer)
            placed.append(share)
        return placed

    # --- what came of it

    def _look(self) -> None:
        whole = Counter(each for each in self._whole if each != _LOST)
        sums = self._sums
        self._months.append(
            Month(
                at=self._now,
                lost=sum(self._lost_at.values()),
                shares=sum(count * each for count, each in whole.items()),
                objects=sum(whole.values()),
                read=sums["read"],
                written=sums["written"],
                least=sums["least"],
            )
        )
        self._counts.update(whole)

    def _findings(self) -> Findings:
        left = sum(each != _LOST for each in self._whole)
        return Findings(
            setting=self.setting,
            seed=self.seed,
            object_seconds=self._lost_seconds + left * self.setting.seconds,
            lost_at=dict(sorted(self._lost_at.items())),
            sums={name: self._sums[name] for name in SUMS},
            codes=dict(sorted(self._codes.items())),
            months=tuple(self._months),
            counts=dict(sorted(self._counts.items())),
            liars=sum(peer.lies for peer in self._peers),
            found_after=tuple(sorted(self._found_after)),
            chance_to_find=self._found_by_audit,
        )
