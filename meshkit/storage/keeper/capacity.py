"""
How much a storage peer lends, to whom, and how much of it is taken.  Pure.

::

    capacity = reserved | headroom | room for all shares
    room for shares that replace lost ones = capacity - reserved

Room is counted from the reservation on, as the bytes that the file of a share will have at
most, and from its commit on as those that it has.  Whoever has a lease on a share is charged
for all of it, once, however many leases he has; so is everybody else who has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

from meshkit.crypto.merkle import LEAF_BYTES, Shape
from meshkit.errors import CapacityReached, ConfigError, QuotaReached
from meshkit.identity.keys import PublicKey
from meshkit.storage.manifest import MAX_MANIFEST
from meshkit.storage.statements import MAX_NUMBER, check_domain

#: Shares at most, as each is remembered: some 800 bytes of memory.
MAX_SHARES: Final = 1_000_000
#: There are no more shares than there is room for shares of so many bytes.  One of a single byte
#: has two files, of a block of the disk each, and would else have the peer lend much more than
#: it said.
LEAST_SHARE: Final = 32 * 1024
#: Without other words, one part of so many is kept for shares that replace lost ones.
HEADROOM_PART: Final = 10
#: Keys of an allow-list.
MAX_ALLOWED: Final = 10_000
#: How fast shares are read to see whether they are what they were, in bytes per second.
SCRUB_RATE: Final = 4 * 1024 * 1024

OPEN: Final = "open"
ALLOW_LIST: Final = "allow-list"

#: What stands behind a share and its nodes, at most: manifest, and the end of the file.
_BEHIND: Final = MAX_MANIFEST + 64


def _keys(keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    return tuple(keys)


@frozen
class KeeperConfig:
    """
    What a storage peer lends, and on what conditions.

    @ivar capacity: bytes in all; 0 lends nothing.
    @ivar reserved: those of them that are not lent.
    @ivar headroom: those that only shares may have that replace lost ones.  L{None} is a tenth
        of the capacity.
    @ivar quota: bytes that one owner may have; L{None} sets no limit.
    @ivar admission: C{open} to all that reach it, or C{allow-list}.
    @ivar allow: whom the list names.
    @ivar domain: what the peer may be lost together with, as it says itself.
    @ivar scrub_rate: bytes that are read again per second, to see whether they are what they
        were; 0 reads none.
    """

    capacity: int = 0
    reserved: int = 0
    headroom: int | None = None
    quota: int | None = None
    admission: str = OPEN
    allow: tuple[PublicKey, ...] = field(default=(), converter=_keys)
    domain: str | None = None
    scrub_rate: int = SCRUB_RATE

    def __attrs_post_init__(self) -> None:
        """@raise ConfigError: if these cannot be kept together."""
        for name in ("capacity", "reserved", "headroom", "quota", "scrub_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_NUMBER:
                raise ConfigError(f"{name} is {value}: it is a number of bytes, not below 0")
        if self.capacity and self.reserved + self.headroom_bytes >= self.capacity:
            raise ConfigError(
                f"of {self.capacity} bytes nothing is lent if {self.reserved} are reserved and "
                f"{self.headroom_bytes} kept for repair: raise max_storage, or lower these"
            )
        if self.admission not in (OPEN, ALLOW_LIST):
            raise ConfigError(
                f"admission is {self.admission[:32]!r}: it is {OPEN!r} or {ALLOW_LIST!r}"
            )
        if len(self.allow) > MAX_ALLOWED:
            raise ConfigError(f"allow names {len(self.allow)} keys, over the limit {MAX_ALLOWED}")
        if self.domain is not None:
            try:
                check_domain(self.domain)
            except ValueError as e:
                raise ConfigError(str(e)) from None

    @property
    def headroom_bytes(self) -> int:
        """Bytes that are kept for shares that replace lost ones."""
        return self.capacity // HEADROOM_PART if self.headroom is None else self.headroom

    def limit(self, repair: bool) -> int:
        """@return: bytes that all shares together may have."""
        spared = self.reserved if repair else self.reserved + self.headroom_bytes
        return max(0, self.capacity - spared)


def check_count(config: KeeperConfig, shares: int) -> None:
    """
    May there be one more share?

    @param shares: that are there, and those that are on their way.
    @raise CapacityReached: if not.
    """
    most = min(MAX_SHARES, max(1, config.capacity // LEAST_SHARE))
    if shares >= most:
        raise CapacityReached(f"there are {shares} shares here already, and {most} are the most")


def room_for(size: int) -> int:
    """
    @param size: bytes of a share.
    @return: what its file may have in all.
    """
    return size + Shape(size, LEAF_BYTES).kept_bytes + _BEHIND


class Room:
    """
    What is taken, and by whom.

    @ivar config: what is lent.  When less is lent than before, what is there stays.
    @ivar stored: bytes of the shares that are there.
    @ivar promised: bytes of those that are on their way.
    """

    def __init__(self, config: KeeperConfig) -> None:
        self.config = config
        self.stored = 0
        self.promised = 0
        # Who has nothing is not in it.
        self._charged: dict[bytes, int] = {}

    @property
    def used(self) -> int:
        """Bytes that nobody else can have."""
        return self.stored + self.promised

    @property
    def owners(self) -> int:
        """How many have something here."""
        return len(self._charged)

    def free(self, repair: bool = False) -> int:
        """@return: bytes that are left."""
        return max(0, self.config.limit(repair) - self.used)

    def charged(self, account: bytes) -> int:
        """@return: bytes that an owner has."""
        return self._charged.get(account, 0)

    def check(self, size: int, repair: bool) -> None:
        """
        Is there so much more room?

        @raise CapacityReached: if not.
        """
        if size > self.free(repair):
            raise CapacityReached(
                f"there is no room for {size} bytes more: {self.free(repair)} are left"
            )

    def check_quota(self, account: bytes, amount: int) -> None:
        """
        May an owner have so much more?

        @raise QuotaReached: if not.
        """
        quota, has = self.config.quota, self.charged(account)
        if quota is not None and amount and has + amount > quota:
            raise QuotaReached(
                f"{has} bytes are kept for this owner, and {amount} more would be over the "
                f"{quota} that one may have: remove objects, or ask the operator"
            )

    def promise(self, size: int) -> None:
        """Room is reserved."""
        self.promised += size

    def take_back(self, size: int) -> None:
        """Room is not reserved any more."""
        self.promised -= _at_most(size, self.promised)

    def add(self, size: int) -> None:
        """A share is there."""
        self.stored += size

    def remove(self, size: int) -> None:
        """A share is not there any more."""
        self.stored -= _at_most(size, self.stored)

    def charge(self, account: bytes, amount: int) -> None:
        """An owner has so much more."""
        if amount:
            self._charged[account] = self.charged(account) + amount

    def discharge(self, account: bytes, amount: int) -> None:
        """An owner has so much less."""
        left = self.charged(account) - _at_most(amount, self.charged(account))
        if left:
            self._charged[account] = left
        else:
            self._charged.pop(account, None)


def _at_most(amount: int, there: int) -> int:
    if amount > there:
        raise ValueError(f"{amount} bytes are given back, and {there} were taken")
    return amount
