"""
What is simulated: peers, what becomes of them, objects, and how these are looked after.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, Final

from attrs import asdict, field, frozen

from meshkit.audit.decisions import Policy
from meshkit.audit.standing import StandingConfig
from meshkit.crypto.merkle import LEAF_BYTES
from meshkit.sim.durability.model import StorageModel, phases_for
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.rendezvous import MAX_CANDIDATES
from meshkit.storage.scheme import Layout, Scheme

__all__ = ["DAY", "MAX_OBJECTS", "MAX_YEARS", "YEAR", "Setting"]

DAY: Final = 86_400.0
YEAR: Final = 365.25 * DAY
#: Objects of one simulation: some kilobytes of memory each.
MAX_OBJECTS: Final = 100_000
MAX_YEARS: Final = 1_000.0


def _between(low: float, high: float) -> Callable[[Any, Any, Any], None]:
    def check(_instance: object, attribute: Any, value: float | None) -> None:
        if value is not None and not low <= value <= high:
            raise ValueError(f"{attribute.name} is {low:g} to {high:g}, not {value:g}")

    return check


_TIME: Final = _between(1.0, MAX_YEARS * YEAR)
_PART: Final = _between(0.0, 1.0)


@frozen
class Setting:
    """
    Times are in seconds, and exponential where they are means.

    @ivar years: for so long it goes on.
    @ivar peers: how many there are at every moment: for one that is gone a new one comes.
    @ivar objects: that are stored at the beginning.  One that is lost is not put anew.
    @ivar scheme: of all objects.
    @ivar size: bytes of each.
    @ivar lifetime: mean time until a peer is gone for good; L{None} is never.
    @ivar outage_every: mean time for which a peer is there; L{None} is always.
    @ivar outage: mean time for which it is away then.
    @ivar domains: how many failure domains there are; peers are spread over them evenly.
    @ivar domain_lifetime: mean time until all peers of a domain are gone for good, at once.
    @ivar domain_outage_every: mean time until all of them are away at once.
    @ivar domain_outage: mean time for which they are.
    @ivar liars: which part of the peers lies: 0 to 1.
    @ivar kept: which part of the leaves of each share a liar keeps, 0 to 1.  It goes on
        answering.  With less than all of them the share does not count as a good one.
    @ivar capacity: bytes that each peer lends; L{None} is as many as are wanted.
    @ivar reserved: those of them that are not lent: L{KeeperConfig.reserved}.
    @ivar headroom: those that are kept for repairs: L{KeeperConfig.headroom}.
    @ivar bandwidth: bytes that are read and written for repairs in a second.
    @ivar every_pass: how often it is decided what to do.
    @ivar fail_at: when C{fail} happens.
    @ivar fail: so many peers are gone for good then, and nobody comes for them.
    @ivar gone_at: when C{gone} happens.
    @ivar gone: which part of the peers is away then, all at once.
    @ivar gone_for: for how long.
    @ivar policy: how objects are looked after.
    @ivar judging: how peers are judged.
    """

    years: float = field(default=5.0, validator=_between(0.001, MAX_YEARS))
    peers: int = field(default=60, validator=_between(1, MAX_CANDIDATES))
    objects: int = field(default=500, validator=_between(1, MAX_OBJECTS))
    scheme: Scheme = field(factory=lambda: Scheme(6, 9))
    size: int = field(default=64 * 2**20, validator=_between(0, 2**50))
    lifetime: float | None = field(default=YEAR, validator=_TIME)
    outage_every: float | None = field(default=30 * DAY, validator=_TIME)
    outage: float = field(default=2 * 3600.0, validator=_TIME)
    domains: int = field(default=12, validator=_between(1, MAX_CANDIDATES))
    domain_lifetime: float | None = field(default=None, validator=_TIME)
    domain_outage_every: float | None = field(default=None, validator=_TIME)
    domain_outage: float = field(default=2 * 3600.0, validator=_TIME)
    liars: float = field(default=0.0, validator=_PART)
    kept: float = field(default=0.95, validator=_PART)
    capacity: int | None = field(default=None, validator=_between(1, 2**60))
    reserved: int = 0
    headroom: int | None = None
    bandwidth: float = field(default=12.5e6, validator=_between(1.0, 1e15))
    every_pass: int = field(default=3600, validator=_between(1, 30 * DAY))
    fail_at: float = DAY
    fail: int = field(default=0, validator=_between(0, MAX_CANDIDATES))
    gone_at: float = DAY
    gone: float = field(default=0.0, validator=_PART)
    gone_for: float = field(default=3600.0, validator=_TIME)
    policy: Policy = field(factory=Policy)
    judging: StandingConfig = field(factory=StandingConfig)

    def __attrs_post_init__(self) -> None:
        """
        @raise ValueError: if there are fewer peers than shares, or fewer than fail.
        @raise ConfigError: if a peer lends nothing.
        """
        if self.peers < self.scheme.total:
            raise ValueError(
                f"an object has {self.scheme.total} shares, and there are {self.peers} peers: "
                f"each share is at another one"
            )
        if self.fail > self.peers:
            raise ValueError(f"of {self.peers} peers {self.fail} cannot fail")
        if self.capacity is not None:
            _ = self.lent

    @property
    def lent(self) -> KeeperConfig | None:
        """What each peer lends; L{None} if that has no limit."""
        if self.capacity is None:
            return None
        return KeeperConfig(self.capacity, self.reserved, self.headroom)

    @property
    def seconds(self) -> int:
        """For so long it goes on."""
        return ceil(self.years * YEAR)

    @property
    def share_bytes(self) -> int:
        """Of each share."""
        return Layout(self.scheme, self.size).share_bytes

    @property
    def leaves(self) -> int:
        """Of each share, that an audit may ask for."""
        return max(1, -(-self.share_bytes // LEAF_BYTES))

    @property
    def threshold(self) -> int:
        """Good shares below which lost ones are made anew."""
        return self.policy.threshold(self.scheme.required, self.scheme.total)

    @property
    def repair_seconds(self) -> float:
        """How long it takes to make all shares anew that are missing when a repair begins."""
        missing = self.scheme.total - self.threshold + 1
        return (self.scheme.required + missing) * self.share_bytes / self.bandwidth

    @property
    def delay(self) -> tuple[float, float]:
        """
        From the loss of a share that is one too many until the new ones are there: mean and
        variance.  The peer's next audit finds that it is away, and it may be for the grace; then
        the next pass decides.
        """
        every = max(self.policy.every, float(self.every_pass))
        grace = ceil(self.policy.offline_grace / self.every_pass) * self.every_pass
        return every / 2 + grace + self.repair_seconds, every**2 / 12

    def model(self, lifetime: float | None = None) -> StorageModel[float]:
        """
        @param lifetime: of peers; that of the setting, if not given.
        @return: the model of an object, in seconds.
        @raise ValueError: if it cannot be lost one share after the other.
        """
        lifetime = lifetime or self.lifetime
        if lifetime is None and self.domain_lifetime is None:
            raise ValueError("where nothing is lost, there is nothing to model")
        required, total = self.scheme.required, self.scheme.total
        if required == total:
            raise ValueError("an object without a share to spare is not repaired")
        mean, variance = self.delay
        used = min(self.domains, total)
        sizes = tuple(total // used + (number < total % used) for number in range(used))
        domain_rate = None if self.domain_lifetime is None else 1.0 / self.domain_lifetime
        return StorageModel(
            required=required,
            total=total,
            threshold=self.threshold,
            # Of what never happens the chain wants a rate all the same.
            loss_rate=1.0 / (lifetime or MAX_YEARS**3 * YEAR),
            delay=mean if self.policy.repair else None,
            phases=phases_for(mean, variance, self.threshold - required),
            domains=sizes if domain_rate is not None else (),
            domain_rate=domain_rate,
        )

    def as_json(self) -> dict[str, Any]:
        """@return: all of it, such that C{msgspec} can write it."""
        found = asdict(self, recurse=False)
        return {**found, "scheme": self.scheme.text}
