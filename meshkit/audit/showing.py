"""
What passes and peers are, as the doors show them.

Functions, of what is in the database and in its traces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import frozen

from meshkit.audit import operations as offered
from meshkit.audit.decisions import ShareFacts
from meshkit.audit.receipts import KeptReceipt
from meshkit.audit.replay import Line
from meshkit.audit.standings import KnownPeer
from meshkit.audit.state import Event, Run
from meshkit.identity.keys import PublicKey
from meshkit.runtime.moments import rfc3339
from meshkit.storage.capability import VerifyCapability
from meshkit.storage.custody import TrackedObject

_SECONDS: Final = 10**9


def moment(seconds: int) -> str:
    """@return: seconds of Unix time, in RFC 3339."""
    return rfc3339(seconds * _SECONDS)


def _maybe(seconds: int | None) -> str | None:
    return None if seconds is None else moment(seconds)


def run_shown(run: Run) -> offered.RunShown:
    """@return: a pass."""
    return offered.RunShown(**_fields_of(run))


def _fields_of(run: Run) -> dict[str, Any]:
    did = run.metrics
    return {
        "run": str(run.id),
        "state": run.state,
        "asked_for": run.forced,
        "begun": rfc3339(run.begun_ns),
        "ended": None if run.ended_ns is None else rfc3339(run.ended_ns),
        "seconds": did.seconds,
        "objects": did.due,
        "shares": did.asked,
        "outcomes": did.outcomes,
        "decisions": did.codes,
        "repaired": did.repaired,
        "not_repaired": did.not_repaired,
        "placed": did.placed,
        "deferred": did.deferred,
        "read": did.read,
        "written": did.written,
        "error": run.error,
    }


@frozen
class _Reasons:
    """
    Why shares are not there.

    @ivar shares: what was found of one, by object and number.
    @ivar peers: what was found of a peer, by key.
    """

    shares: Mapping[tuple[bytes | None, int | None], str]
    peers: Mapping[bytes | None, str]

    @classmethod
    def of(cls, events: Iterable[Event]) -> _Reasons:
        """@param events: of a pass."""
        shares: dict[tuple[bytes | None, int | None], str] = {}
        peers: dict[bytes | None, str] = {}
        for each in events:
            if each.kind == "share.failed":
                shares[each.object, each.share] = each.text
            elif each.kind.startswith("peer.") and each.object is None:
                peers[each.peer] = each.text
        return cls(shares, peers)

    def why(self, object_: bytes, share: ShareFacts) -> str | None:
        """@return: why a share is not there; L{None} if it is, or nothing was said."""
        if share.peer is None or _present(share):
            return None
        of_peer = self.peers.get(PublicKey.parse(share.peer).raw)
        return self.shares.get((object_, share.number), of_peer)


def run_details(run: Run, lines: Iterable[Line], events: Iterable[Event]) -> offered.RunDetails:
    """
    @param lines: of its trace, which are read once.
    @param events: what happened in it.
    @return: a pass, with what it found.
    """
    reasons = _Reasons.of(events)
    healths: Counter[str] = Counter()
    worst: list[offered.ObjectSeen] = []
    others: list[offered.ObjectSeen] = []
    for line in lines:
        health = health_of(line)
        healths[health] += 1
        kept = others if health == "healthy" and not line.decision.acts else worst
        if len(kept) < offered.MAX_SEEN:
            kept.append(_object_seen(line, health, reasons))
    # The order of a trace is that in which they were written down.
    worst.sort(key=lambda each: _RANKS[each.health])
    return offered.RunDetails(
        **_fields_of(run),
        degraded=healths["degraded"],
        lost=healths["lost"],
        seen=[*worst, *others][: offered.MAX_SEEN],
    )


_RANKS: Final = {"lost": 0, "degraded": 1, "healthy": 2}


def _present(share: ShareFacts) -> bool:
    """Is it there, as far as is known?"""
    return share.peer is not None and share.since is None and share.outcome != "failure"


def _good(line: Line) -> int:
    placed: Mapping[int, str] = {} if line.happened is None else line.happened.placed
    return sum(_present(share) or share.number in placed for share in line.facts.shares)


def health_of(line: Line) -> offered.Health:
    """@return: how an object is doing, after what was done."""
    good = _good(line)
    if good < line.facts.required:
        return "lost"
    return "healthy" if good == line.facts.total else "degraded"


def _object_seen(line: Line, health: offered.Health, reasons: _Reasons) -> offered.ObjectSeen:
    facts, decision, happened = line.facts, line.decision, line.happened
    name = bytes.fromhex(facts.object)
    return offered.ObjectSeen(
        object=facts.object,
        health=health,
        required=facts.required,
        good=_good(line),
        action=decision.action,
        code=decision.code,
        reason=decision.reason,
        shares=[
            offered.ShareSeen(
                share=share.number,
                peer=share.peer,
                outcome=share.outcome,
                audited=_maybe(share.at),
                away_since=_maybe(share.since),
                reason=reasons.why(name, share),
            )
            for share in facts.shares
        ],
        placed=[
            offered.SharePlaced(number, peer)
            for number, peer in sorted(({} if happened is None else happened.placed).items())
        ],
        left=[
            offered.ShareLeft(number, problem)
            for number, problem in sorted(({} if happened is None else happened.left).items())
        ],
        problem=None if happened is None else happened.error,
    )


def peer_shown(known: KnownPeer, online: float | None, vetted: bool) -> offered.PeerStanding:
    """
    @param online: how often it is there.
    @param vetted: it counts fully.
    @return: what is thought of a peer.
    """
    standing = known.standing
    return offered.PeerStanding(
        peer=known.peer.text,
        score=1.0 if standing is None else standing.audits.score,
        answers=1.0 if standing is None else standing.answers.score,
        online=online,
        weight=known.judgement.weight,
        refused=known.judgement.refused,
        vetted=vetted,
        successes=0 if standing is None else standing.successes,
        failures=0 if standing is None else standing.failures,
        unknowns=0 if standing is None else standing.unknowns,
        offlines=0 if standing is None else standing.offlines,
        owes=known.owes,
        offline_since=None if standing is None else _maybe(standing.offline_since),
        audited=None if standing is None else _maybe(standing.updated),
        problem=None if standing is None else standing.problem,
    )


def receipt_shown(kept: KeptReceipt) -> offered.ReceiptShown:
    """@return: that there is a receipt."""
    return offered.ReceiptShown(
        id=kept.audit_id.hex(),
        peer=kept.peer.text,
        judged=moment(kept.judged),
        shares=sum(kept.outcomes.values()),
        outcomes=dict(kept.outcomes),
        bytes=kept.size,
    )


def watched_shown(tracked: TrackedObject) -> offered.WatchedObject:
    """@return: an object of somebody else's."""
    manifest = tracked.manifest
    return offered.WatchedObject(
        object=tracked.content_id.hex(),
        bytes=manifest.length,
        scheme=manifest.header.scheme.text,
        placed=sum(each is not None for each in tracked.document.shares),
        version=tracked.document.version,
        verify=VerifyCapability(tracked.content_id, manifest.header.placement.raw).text,
    )
