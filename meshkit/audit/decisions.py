"""
What is to be done for an object, of what is known of its shares.  Pure.

All that a decision depends on is an argument, so that it can be written down with its decision
(L{meshkit.audit.replay}) and be computed again later, by this code or another::

    decide(facts, policy, sight, budget) -> Decision

Times are seconds of Unix time.

A share is, in the order in which that is asked:

  - I{lost}: it is nowhere; or the last verdict on it was a failure; or nobody has to keep it any
    more, as its lease ended; or its peer has been away for longer than is put up with
    (L{Policy.offline_grace}).
  - I{away}: no verdict is to be had at present, as its peer is offline, contained, or answers
    nothing that says anything.  It may well be there.
  - I{doubtful}: it is there, at a peer that is not trusted any more.
  - I{leaving}: it is there, at a peer that goes.
  - I{good}: otherwise, also if nobody has asked so far: its peer has signed for it.

Repair is lazy.  Nothing is made anew before the good shares and those that are away are fewer
than L{Policy.threshold}; then all that is lost is.  What is at a peer that goes is moved at once.

If many peers go away at the same time, the network is broken, and not the peers: then they have
longer to come back (L{Policy.outage_grace}), except for objects that have no share to spare.

How urgent that is, is the expected time until the object is lost if nobody did anything.  The
model is small and knows what the object has left, and no more: each of I{s} shares is lost
independently, at the rate C{1 / peer_life}, so that the time until less than I{k} are left is the
sum of C{peer_life / i} for i = k to s, and all shares of a failure domain are lost together at
the rate C{1 / domain_life}; if the object does not survive that, both causes compete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from meshkit.audit.values import Outcome
from meshkit.storage.terms import GRACE_SECONDS

__all__ = [
    "Action",
    "Budget",
    "Code",
    "Decision",
    "ObjectFacts",
    "Policy",
    "Settled",
    "ShareFacts",
    "Sight",
    "State",
    "backoff_seconds",
    "cost_of",
    "decide",
    "expected_seconds_to_loss",
    "heard",
    "settle",
    "shares_to_ask",
    "state_of",
]

_DAY: Final = 86_400.0
_YEAR: Final = 365.25 * _DAY

#: A share is asked about a little before its time if the others of the object are, so that all
#: keep being asked about together.
_TOGETHER: Final = 0.9

#: How a share is: see the module.
State = Literal["good", "leaving", "doubtful", "away", "lost"]

#: What is done.
#: One of these:
#:
#:   - C{none}: nothing is wrong, or not enough to do anything.
#:   - C{wait}: something is, and nothing is done about it now.
#:   - C{repair}: lost shares are made anew, and others moved.
#:   - C{move}: shares are moved that are there.
#:   - C{lost}: it is given up; nobody can make it anew.
Action = Literal["none", "wait", "repair", "move", "lost"]

#: Why.
#: One of these:
#:
#:   - C{healthy}: all shares are good, as far as is known.
#:   - C{spare}: some are lost, and enough to spare are left.
#:   - C{grace}: some are away, not for long.
#:   - C{outage}: the same, while many peers are away.
#:   - C{below}: fewer good ones than L{Policy.threshold}.
#:   - C{critical}: one more that is lost, and the object may be.
#:   - C{leaving}: a peer goes.
#:   - C{unreachable}: too few can be read at present, and the others may come back.
#:   - C{lost}: too few are left, for good.
#:   - C{cooldown}: it was repaired a short time ago.
#:   - C{backoff}: a repair has failed a short time ago.
#:   - C{capped}: so much was repaired in this pass that it has to wait for the next one.
#:   - C{off}: repair is turned off.
Code = Literal[
    "healthy",
    "spare",
    "grace",
    "outage",
    "below",
    "critical",
    "leaving",
    "unreachable",
    "lost",
    "cooldown",
    "backoff",
    "capped",
    "off",
]

_Seconds = Annotated[float, Meta(ge=0)]
_Life = Annotated[float, Meta(gt=0)]


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """
    How objects are looked after.  Times are in seconds.

    @ivar repair: lost shares are made anew at all.
    @ivar every: after so long a share is asked about again.
    @ivar recheck: the same, of one of which there was no verdict.
    @ivar repair_below: good shares below which lost ones are made anew; 0 is as many as are
        required and half of the others, rounded up.
    @ivar offline_grace: for so long a peer may be away before its shares count as lost.
    @ivar outage_part: if at least this part of all peers is away, there is an outage,
    @ivar outage_peers: and at least so many.
    @ivar outage_grace: for so long they may be away then; who is for longer is not part of it.
    @ivar max_repairs: so many shares are made anew or moved in one pass.
    @ivar max_repair_bytes: no repair is begun in a pass once so many bytes were moved.
    @ivar cooldown: after a repair an object is left alone for so long.
    @ivar backoff: after a repair that failed it is for so long, doubled each time,
    @ivar max_backoff: and never longer than that.
    @ivar peer_life: after so long a peer is gone for good, on average.
    @ivar domain_life: the same of a whole failure domain.
    """

    repair: bool = True
    every: _Seconds = _DAY
    recheck: _Seconds = 900.0
    repair_below: Annotated[int, Meta(ge=0, le=255)] = 0
    offline_grace: _Seconds = 4 * 3600.0
    outage_part: Annotated[float, Meta(gt=0, le=1)] = 0.25
    outage_peers: Annotated[int, Meta(ge=1)] = 3
    outage_grace: _Seconds = _DAY
    max_repairs: Annotated[int, Meta(ge=0)] = 500
    max_repair_bytes: Annotated[int, Meta(ge=0)] = 16 * 2**30
    cooldown: _Seconds = 600.0
    backoff: _Seconds = 300.0
    max_backoff: _Seconds = 6 * 3600.0
    peer_life: _Life = 2 * _YEAR
    domain_life: _Life = 20 * _YEAR

    def threshold(self, required: int, total: int) -> int:
        """
        @return: good shares below which lost ones are made anew: one more than are required
            at least, as a repair needs time, and never more than there are.
        """
        wanted = self.repair_below or required + (total - required + 1) // 2
        return min(total, max(required + 1, wanted))


class ShareFacts(Struct, frozen=True, omit_defaults=True):
    """
    What is known of a share.

    @ivar number: of the share.
    @ivar peer: who has it, as text; L{None} if it is nowhere.
    @ivar lease_end: until when that was promised.
    @ivar domain: the failure domain of the peer.
    @ivar outcome: the last verdict; a failure stands until there is a success.
    @ivar at: when it was asked about last; L{None} if it never was.
    @ivar good_at: when it was seen last.
    @ivar since: from when on there was no verdict to be had; L{None} if there is one.
    @ivar leaving: the peer goes.
    @ivar refused: the peer is not trusted any more.
    """

    number: int
    peer: str | None = None
    lease_end: int = 0
    domain: str = "unknown"
    outcome: Outcome | None = None
    at: int | None = None
    good_at: int | None = None
    since: int | None = None
    leaving: bool = False
    refused: bool = False


class ObjectFacts(Struct, frozen=True, omit_defaults=True):
    """
    What is known of an object.

    @ivar object: its content id, in hex.
    @ivar version: of the document that says where its shares are.
    @ivar required: how many shares suffice.
    @ivar share_bytes: of each share.
    @ivar shares: all of them, in order.
    @ivar failures: how many repairs have failed in a row.
    @ivar not_before: nothing is repaired before that.
    @ivar repaired_at: when it was repaired last.
    """

    object: str
    version: int
    required: int
    share_bytes: int
    shares: tuple[ShareFacts, ...]
    failures: int = 0
    not_before: int = 0
    repaired_at: int | None = None

    @property
    def total(self) -> int:
        """How many shares there are."""
        return len(self.shares)


class Sight(Struct, frozen=True, omit_defaults=True):
    """
    What is known beyond the object.

    @ivar now: seconds of Unix time.
    @ivar peers: that were asked lately.
    @ivar away: those of them that were not reached, and were, less than
        L{Policy.outage_grace} ago.
    @ivar forced: an operator asks for it: nothing is put off.
    """

    now: int
    peers: int = 0
    away: int = 0
    forced: bool = False

    def outage(self, policy: Policy) -> bool:
        """Are so many away that it is not their fault?"""
        return self.away >= max(policy.outage_peers, policy.outage_part * self.peers)


class Budget(Struct, frozen=True):
    """
    What may still be done in a pass.

    @ivar shares: that are made anew or moved.
    @ivar bytes: that are read and written for that.  It is not asked before whether they
        suffice for an object, as else a large one would never be repaired.
    """

    shares: int
    bytes: int

    @classmethod
    def of(cls, policy: Policy) -> Budget:
        """@return: that of a whole pass."""
        return cls(policy.max_repairs, policy.max_repair_bytes)

    def without(self, shares: int, moved: int) -> Budget:
        """@return: what is left when so many shares and bytes were moved."""
        return Budget(max(0, self.shares - shares), max(0, self.bytes - moved))


class Decision(Struct, frozen=True, omit_defaults=True):
    """
    What is to be done for an object, and why.

    @ivar action: see L{Action}.
    @ivar code: see L{Code}.
    @ivar reason: the same, in a sentence.
    @ivar good: shares that are good, leaving ones among them.
    @ivar retry_at: when it is to be looked at again.
    @ivar urgency: expected seconds until it is lost if nothing is done; 0 if it may be now.
    @ivar repair: the shares to be made anew, in this order.
    @ivar move: those to be copied from where they are.
    @ivar deferred: those that should be, and have to wait as too many others are.
    """

    action: Action
    code: Code
    reason: str
    good: int
    retry_at: int
    urgency: float
    repair: tuple[int, ...] = ()
    move: tuple[int, ...] = ()
    deferred: tuple[int, ...] = ()

    @property
    def acts(self) -> bool:
        """Is anything done about it?"""
        return self.action in ("repair", "move")


# --- shares --------------------------------------------------------------------------


def heard(share: ShareFacts, outcome: Outcome, now: int) -> ShareFacts:
    """@return: what is known of a share when it was asked about."""
    if outcome == "success":
        return msgspec.structs.replace(share, outcome=outcome, at=now, good_at=now, since=None)
    if outcome == "failure" or share.outcome == "failure":
        return msgspec.structs.replace(share, outcome="failure", at=now, since=None)
    since = now if share.since is None else share.since
    return msgspec.structs.replace(share, outcome=outcome, at=now, since=since)


def shares_to_ask(
    shares: Iterable[ShareFacts], policy: Policy, now: int, *, every_one: bool = False
) -> list[int]:
    """
    @param every_one: whenever they were asked about last.
    @return: the numbers of the shares that are to be asked about now.
    """
    together = policy.every * _TOGETHER
    return [
        share.number
        for share in shares
        if share.peer is not None
        and (
            every_one
            or share.at is None
            or share.since is not None
            or now - share.at >= together
            or now < share.at  # the clock was set back
        )
    ]


def state_of(share: ShareFacts, now: int, grace: float) -> State:
    """
    @param grace: seconds for which a peer may be away.
    @return: how the share is; see the module.
    """
    if share.peer is None or share.outcome == "failure":
        return "lost"
    ended = share.lease_end + GRACE_SECONDS
    if ended <= now and (share.good_at is None or share.good_at < ended):
        return "lost"
    if share.since is not None:
        return "lost" if now - share.since >= grace else "away"
    if share.refused:
        return "doubtful"
    return "leaving" if share.leaving else "good"


# --- how urgent it is ----------------------------------------------------------------


def expected_seconds_to_loss(
    left: int, required: int, domains: Sequence[int], policy: Policy
) -> float:
    """
    See the module.

    @param left: shares that are left.
    @param required: how many suffice.
    @param domains: how many of them each failure domain has.
    @return: expected seconds until fewer are left; 0 if that is so already.
    """
    if left < required:
        return 0.0
    alone = policy.peer_life * sum(1.0 / i for i in range(required, left + 1))
    fatal = sum(left - count < required for count in domains)
    return 1.0 / (1.0 / alone + fatal / policy.domain_life)


def backoff_seconds(failures: int, policy: Policy) -> float:
    """@return: for how long an object is left alone after so many failures in a row."""
    if failures < 1:
        return 0.0
    # Beyond that a float may not hold it, and no limit is so large.
    return float(min(policy.max_backoff, policy.backoff * 2.0 ** min(failures - 1, 64)))


def cost_of(facts: ObjectFacts, repaired: int, moved: int) -> int:
    """@return: the bytes that it takes at least to make shares anew and to move others."""
    read = facts.required + repaired if repaired else 0
    return (read + 2 * moved) * facts.share_bytes


# --- deciding ------------------------------------------------------------------------


class _Found:
    """The shares of an object, by how they are."""

    def __init__(self, facts: ObjectFacts, now: int, grace: float) -> None:
        states = [state_of(share, now, grace) for share in facts.shares]

        def those(*wanted: State) -> list[ShareFacts]:
            return [
                share for share, state in zip(facts.shares, states, strict=True) if state in wanted
            ]

        self.lost = sorted(those("lost"), key=_gone_first)
        self.away = those("away")
        self.doubtful = those("doubtful")
        self.leaving = those("leaving")
        self.good = len(those("good", "leaving"))
        self.domains = sorted(
            Counter(
                share.domain
                for share, state in zip(facts.shares, states, strict=True)
                if state != "lost"
            ).values()
        )

    @property
    def readable(self) -> int:
        return self.good + len(self.doubtful)

    @property
    def believed(self) -> int:
        return self.good + len(self.away)

    @property
    def gone(self) -> int:
        """Lost shares that will not come back with their peers."""
        return sum(share.since is None for share in self.lost)


def _gone_first(share: ShareFacts) -> tuple[bool, int, int]:
    """Those that will not come back, then those that are away for longest."""
    return (share.since is not None, share.since or 0, share.number)


def _numbers(shares: Iterable[ShareFacts]) -> tuple[int, ...]:
    return tuple(share.number for share in shares)


def _count(count: int, what: str = "share") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _is(count: int) -> str:
    return f"{_count(count)} is" if count == 1 else f"{_count(count)} are"


def decide(facts: ObjectFacts, policy: Policy, sight: Sight, budget: Budget) -> Decision:
    """
    @param facts: what is known of the object.
    @param policy: how objects are looked after.
    @param sight: what is known beyond it.
    @param budget: what may still be done in this pass.
    @return: what is to be done.  It depends on nothing else.
    """
    now, required, total = sight.now, facts.required, facts.total
    found = _Found(facts, now, policy.offline_grace)
    outage = sight.outage(policy) and found.readable > required
    if outage:
        found = _Found(facts, now, max(policy.outage_grace, policy.offline_grace))
    urgency = expected_seconds_to_loss(
        found.readable + len(found.away), required, found.domains, policy
    )

    def decision(action: Action, code: Code, reason: str, retry_at: float, **more: Any) -> Decision:
        return Decision(action, code, reason, found.good, int(retry_at), urgency, **more)

    if total - found.gone < required:
        return decision(
            "lost",
            "lost",
            f"{_is(found.gone)} lost, and {required} of {total} are required: it cannot be made "
            f"anew",
            now + policy.every,
        )
    too_few = found.readable < required
    read = f"{_count(found.readable)} can be read, and {required} of {total} are required"
    if too_few and not found.leaving:
        return decision(
            "wait", "unreachable", f"{read}: peers have to come back", now + policy.recheck
        )

    threshold = policy.threshold(required, total)
    # Where too few can be read, what leaves can still be copied.
    below = found.believed < threshold and not too_few
    wanted = _numbers(found.lost) if below else ()
    moving = _numbers(found.leaving) + (_numbers(found.doubtful) if below else ())
    if not wanted and not moving:
        next_at = _next_at(facts, policy, now)
        if found.away:
            code: Code = "outage" if outage else "grace"
            why = "many peers are" if outage else "that may pass"
            return decision("wait", code, f"{_is(len(found.away))} away, and {why}", next_at)
        if found.lost:
            return decision(
                "none",
                "spare",
                f"{_is(len(found.lost))} lost, and {found.believed} of {total} suffice",
                next_at,
            )
        return decision("none", "healthy", "nothing is known to be wrong", next_at)

    needed = _needed(len(wanted), len(moving))
    if not policy.repair:
        return decision(
            "wait", "off", f"{needed}, and repair is turned off", _next_at(facts, policy, now)
        )
    if facts.not_before > now and not sight.forced:
        if facts.failures:
            failed = _count(facts.failures, "repair")
            return decision(
                "wait", "backoff", f"{needed}, and {failed} failed just now", facts.not_before
            )
        return decision(
            "wait", "cooldown", f"{needed}, and it was repaired just now", facts.not_before
        )
    room = budget.shares if budget.bytes > 0 else 0
    repair, move = wanted[:room], moving[: max(0, room - len(wanted))]
    deferred = wanted[len(repair) :] + moving[len(move) :]
    if not repair and not move:
        return decision(
            "wait",
            "capped",
            f"{needed}, and as much was done in this pass as may be",
            now,
            deferred=deferred,
        )
    reason = f"{needed}, as a peer goes"
    if too_few:
        reason += f"; {read}"
    elif below:
        reason = f"{needed}, as {found.believed} of {total} are good and {threshold} should be"
    if deferred:
        reason += f"; {_count(len(deferred))} of them in the next pass"
    return decision(
        "repair" if repair else "move",
        "leaving" if not below else "critical" if found.readable <= required else "below",
        reason,
        now,
        repair=repair,
        move=move,
        deferred=deferred,
    )


def _needed(repair: int, move: int) -> str:
    said = []
    if repair:
        said.append(f"{_is(repair)} to be made anew")
    if move:
        said.append(f"{_is(move)} to be moved")
    return " and ".join(said)


def _next_at(facts: ObjectFacts, policy: Policy, now: int) -> float:
    """@return: when the next share of an object is to be asked about."""
    placed = [share for share in facts.shares if share.peer is not None]
    if any(share.since is not None for share in placed):
        return now + policy.recheck
    asked = [share.at for share in placed if share.at is not None]
    return max(min(asked, default=now) + policy.every, now)


# --- afterwards ----------------------------------------------------------------------


class Settled(Struct, frozen=True):
    """
    What stands after a decision was carried out, or not.

    @ivar failures: repairs that have failed in a row.
    @ivar not_before: nothing is repaired before that.
    @ivar due_at: when the object is looked at again.
    """

    failures: int
    not_before: int
    due_at: int


def settle(
    facts: ObjectFacts,
    decision: Decision,
    policy: Policy,
    now: int,
    *,
    placed: int = 0,
    failed: bool = False,
) -> Settled:
    """
    @param now: when it was done.
    @param placed: shares that were made anew or moved.
    @param failed: something that was to be done was not, and not because it had to wait.
    @return: what comes of it.  An object is left alone after a repair that failed, for longer
        each time, and after one that worked; not if something of it had to wait.
    """
    if not decision.acts:
        failures = 0 if decision.code in ("healthy", "spare") else facts.failures
        return Settled(failures, facts.not_before, decision.retry_at)
    if failed:
        failures = facts.failures + 1
        until = now + int(backoff_seconds(failures, policy))
        return Settled(failures, until, until)
    if decision.deferred:
        return Settled(0, now, now)
    if placed:
        until = now + int(policy.cooldown)
        return Settled(0, until, until)
    return Settled(0, now, now)
