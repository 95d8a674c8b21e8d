"""
Who keeps which share.  Pure.

Weighted rendezvous hashing (Thaler and Ravishankar, 1998; the weights after Schindelhauer and
Schomaker, 2005): a share goes to the peer that draws the shortest lot, a number that anybody
can compute from the upload, the share and the peer's key::

    u   = first 8 bytes of SHA-256("meshkit/placement/1" | upload | u32be share | peer) + 1
    lot = -ln(u / 2^64) / weight

so a peer is chosen as often as its weight says, and who joins or leaves moves no shares but
its own.  All of it is computed in whole numbers: two machines never differ.

Beyond that the shares are spread evenly over failure domains, that is what may be lost at
once.  No domain gets more than ceil(shares / domains), unless others have too few peers; and
no peer gets two, unless the caller asks for it.

Domains are declared by the peers themselves, who may lie: see L{domains_of}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final

from attrs import field, frozen

from meshkit.errors import NotEnoughPeers, SharesInvalid
from meshkit.storage.erasure import check_shape

__all__ = [
    "MAX_CANDIDATES",
    "MAX_WEIGHT",
    "Candidate",
    "Spread",
    "domains_of",
    "lot",
    "place",
    "spread_of",
]

#: How many peers are looked at for one object; some 10 microseconds for each and each share.
MAX_CANDIDATES: Final = 10_000
#: A weight may be a number of bytes.
MAX_WEIGHT: Final = 2**63

_CONTEXT: Final = b"meshkit/placement/1"

_ONE: Final = 1 << 64
#: ln 2, in units of 2^-64.
_LN2: Final = 0xB17217F7D1CF79AC
#: 1, 1/3, 1/5 ...: the series of atanh; with 20 of them less than 2^-64 is left out.
_ODD: Final = tuple(_ONE // (2 * power + 1) for power in reversed(range(20)))


def _minus_logarithm(u: int) -> int:
    """
    @param u: 1 to 2^64.
    @return: C{-ln(u / 2^64)} in units of 2^-64.
    """
    halvings = 64 - (u - 1).bit_length()
    # 1/2 < m <= 1, so 0 <= t < 1/3, and -ln m = 2 atanh t.
    m = u << halvings
    t = ((_ONE - m) << 64) // (_ONE + m)
    square = t * t >> 64
    total = 0
    for coefficient in _ODD:
        total = (total * square >> 64) + coefficient
    return halvings * _LN2 + (total * t >> 63)


def _check_weight(_instance: object, _attribute: object, weight: int) -> None:
    if not 1 <= weight <= MAX_WEIGHT:
        raise ValueError(f"a weight is 1 to 2^63, not {weight}")


@frozen
class Candidate:
    """
    A peer that may keep a share.

    @ivar key: its public key, 32 bytes.
    @ivar weight: how much it is to get, compared with the others: 1 to L{MAX_WEIGHT}.
    @ivar declared: the failure domain that its record names.
    @ivar observed: the block of addresses in which it was reached, in any form.
    @ivar decided: the failure domain that the owner of the object has set for it.
    """

    key: bytes
    weight: int = field(default=1, validator=_check_weight)
    declared: str | None = None
    observed: str | None = None
    decided: str | None = None


def domains_of(candidates: Iterable[Candidate]) -> dict[bytes, str]:
    """
    In which failure domain each peer is.

      - What the owner has decided holds, C{owner:NAME}.
      - Else the domain that the peer declares, C{declared:NAME}.  But peers of one block of
        addresses that declare different domains are one domain, C{block:BLOCK}: whoever
        runs them all could declare anything.  Others that declare these domains, in other
        blocks, are not drawn into it.
      - A peer that declares none is in the domain of its block.
      - Those of which nothing is known are one domain, C{unknown}.

    @return: by key; the domains of a key that comes twice are those of the last.
    """
    candidates = list(candidates)
    declared: dict[str, str | None] = {}
    contradicted: dict[str, bool] = {}
    for each in candidates:
        if each.decided is None and each.observed is not None:
            first = declared.setdefault(each.observed, each.declared)
            if first != each.declared:
                contradicted[each.observed] = True
    found = {}
    for each in candidates:
        if each.decided is not None:
            domain = f"owner:{each.decided}"
        elif each.observed is not None and (each.declared is None or each.observed in contradicted):
            domain = f"block:{each.observed}"
        elif each.declared is not None:
            domain = f"declared:{each.declared}"
        else:
            domain = "unknown"
        found[each.key] = domain
    return found


def lot(upload: bytes, share: int, candidate: Candidate) -> int:
    """@return: what the peer draws for a share, in units of 2^-128; the shortest wins."""
    digest = sha256(b"".join([_CONTEXT, upload, share.to_bytes(4, "big"), candidate.key])).digest()
    u = int.from_bytes(digest[:8], "big") + 1
    return (_minus_logarithm(u) << 64) // candidate.weight


@frozen
class Spread:
    """
    How the shares of an object are spread.

    @ivar counts: how many shares each failure domain has, by name, sorted; none has 0.
    @ivar fatal: the domains without which less than the required shares would be left.
    @ivar uneven: a domain has more than ceil(shares / domains), as others have too few peers.
    @ivar doubled: the peers that have more than one share, sorted.
    """

    counts: Mapping[str, int]
    fatal: tuple[str, ...]
    uneven: bool
    doubled: tuple[bytes, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """What is not as it should be, for people and programs; empty if all is."""
        found = {
            "one-domain-is-fatal": bool(self.fatal),
            "uneven-domains": self.uneven,
            "several-shares-at-one-peer": bool(self.doubled),
        }
        return tuple(name for name, holds in found.items() if holds)


def spread_of(required: int, held: Mapping[int, Candidate], domains: Mapping[bytes, str]) -> Spread:
    """
    Judge where shares are.

    @param required: how many shares suffice.
    @param held: who keeps which share.
    @param domains: of at least these peers, and of the others that could have shares.
    """
    counts = Counter(domains[each.key] for each in held.values())
    peers = Counter(each.key for each in held.values())
    fair = -(-len(held) // max(1, len(set(domains.values()))))
    return Spread(
        counts=dict(sorted(counts.items())),
        fatal=tuple(
            domain for domain, count in sorted(counts.items()) if len(held) - count < required
        ),
        uneven=any(count > fair for count in counts.values()),
        doubled=tuple(sorted(key for key, count in peers.items() if count > 1)),
    )


def place(
    upload: bytes,
    required: int,
    total: int,
    candidates: Sequence[Candidate],
    *,
    held: Mapping[int, Candidate] | None = None,
    repeat: bool = False,
) -> tuple[dict[int, Candidate], Spread]:
    """
    Choose a peer for every share that has none.

    Of equal candidates the choice is the same whatever their order.

    @param upload: the object's random 32 bytes.
    @param candidates: those that have room for a share, at most L{MAX_CANDIDATES}.
    @param held: who keeps shares already, and goes on with it.
    @param repeat: if there are too few peers, give one more than one share.
    @return: who keeps which share, all of them, by number; and how good that is.
    @raise NotEnoughPeers: if there are fewer than shares, and C{repeat} is not set; or none.
    @raise SharesInvalid: if C{held} has a share that does not exist.
    @raise ValueError: if there are too many candidates.
    """
    check_shape(required, total)
    if len(candidates) > MAX_CANDIDATES:
        raise ValueError(f"{len(candidates)} candidates, and at most {MAX_CANDIDATES} are compared")
    placed = dict(sorted((held or {}).items()))
    if any(not 0 <= share < total for share in placed):
        raise SharesInvalid(f"there are {total} shares, and no share {max(placed)}")
    domains = domains_of([*candidates, *placed.values()])
    shares_at = Counter(each.key for each in placed.values())
    free = {each.key: each for each in sorted(candidates, key=lambda one: (one.key, one.weight))}
    missing = [share for share in range(total) if share not in placed]
    at_most = 1
    while sum(max(0, at_most - shares_at[key]) for key in free) < len(missing):
        if not free or not repeat:
            raise NotEnoughPeers(
                f"{len(missing)} shares need a peer each, and too few of {len(free)} have room "
                f"for one: find more peers, or make fewer shares"
            )
        at_most += 1
    room: Counter[str] = Counter()
    for key in free:
        room[domains[key]] += max(0, at_most - shares_at[key])
    taken = Counter(domains[each.key] for each in placed.values())
    level, beyond = _level(room, taken, len(missing))
    for share in missing:
        _, _, best = min(
            (shares_at[key], lot(upload, share, each), key)
            for key, each in free.items()
            if shares_at[key] < at_most
            and (taken[domains[key]] < level or (taken[domains[key]] == level and beyond))
        )
        placed[share] = free[best]
        shares_at[best] += 1
        beyond -= taken[domains[best]] == level
        taken[domains[best]] += 1
    placed = dict(sorted(placed.items()))
    return placed, spread_of(required, placed, domains)


def _level(room: Mapping[str, int], taken: Mapping[str, int], missing: int) -> tuple[int, int]:
    """
    Up to where the domains are filled, as water fills basins of different depth.

    @param room: how many more shares each domain can take.
    @param taken: how many it has.
    @return: how many shares every domain may have, if it has the room; and how many domains
        may have one more.
    """

    def fits(level: int) -> int:
        return sum(
            min(room[domain], max(0, level - taken.get(domain, 0))) for domain in sorted(room)
        )

    level = 0
    while fits(level + 1) < missing:
        level += 1
    return level, missing - fits(level)
