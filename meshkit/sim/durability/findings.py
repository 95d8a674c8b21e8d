"""
What came of a simulation, beside what the model says of the same setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import median
from typing import Any, Final

from attrs import define, frozen

from meshkit.crypto.merkle import HASH_BYTES, LEAF_BYTES
from meshkit.sim.durability.intervals import Rate, rate_of
from meshkit.sim.durability.model import ASSUMPTIONS, Forecast, forecast
from meshkit.sim.durability.setting import DAY, YEAR, Setting

__all__ = ["REAL_LIFETIMES", "SUMS", "Beyond", "Findings", "Month"]

#: What is counted, in the order in which it is told.  C{read}, C{written} and C{least} are bytes;
#: C{least} is what the repairs that were made would have moved at least.
SUMS: Final = (
    "peers_lost",
    "domains_lost",
    "outages",
    "domain_outages",
    "refused",
    "audits",
    "repairs",
    "repairs_failed",
    "rebuilt",
    "copied",
    "needless",
    "lowered",
    "read",
    "written",
    "least",
)

#: Lifetimes of peers for which the model is asked, in years.
REAL_LIFETIMES: Final = (0.5, 1.0, 2.0, 5.0)


@frozen
class Month:
    """
    How things stood at a moment.

    @ivar at: seconds since the beginning.
    @ivar lost: objects, until then.
    @ivar shares: good ones, of all objects that were left.
    @ivar objects: that were left.
    @ivar read: bytes, until then.
    @ivar written: likewise.
    @ivar least: likewise, see L{SUMS}.
    """

    at: int
    lost: int
    shares: int
    objects: int
    read: int
    written: int
    least: int


@frozen
class Beyond:
    """
    What the model says of other lifetimes of peers.

    @ivar lifetime: in years.
    @ivar rate: losses per object and year.
    @ivar moved: bytes that repairs move, likewise.
    """

    lifetime: float
    rate: float
    moved: float


@define(eq=False, slots=False)
class Findings:
    """
    See the module.

    @ivar setting: that was simulated.
    @ivar seed: likewise.
    @ivar object_seconds: for how long all objects were watched, together.
    @ivar lost_at: how many objects were lost, by the second.
    @ivar sums: see L{SUMS}.
    @ivar codes: how often each decision was made, by L{meshkit.audit.decisions.Code}.
    @ivar months: the state of things, in order.
    @ivar counts: at these moments together, how many objects had so many good shares.
    @ivar liars: peers that lied.
    @ivar found_after: seconds from the first audit of a liar until it was refused, ascending.
    @ivar chance_to_find: that one audit of one share of a liar finds it out.
    """

    setting: Setting
    seed: int
    object_seconds: int
    lost_at: Mapping[int, int]
    sums: Mapping[str, int]
    codes: Mapping[str, int]
    months: Sequence[Month]
    counts: Mapping[int, int]
    liars: int
    found_after: Sequence[int]
    chance_to_find: float

    @property
    def object_years(self) -> float:
        """For how long objects were watched, together."""
        return self.object_seconds / YEAR

    @property
    def lost(self) -> int:
        """Objects."""
        return sum(self.lost_at.values())

    @cached_property
    def observed(self) -> Rate:
        """Losses per object and year."""
        return rate_of([*self.lost_at.values()], max(self.object_years, 1e-9))

    @cached_property
    def model(self) -> Forecast | None:
        """What the model says of a year; L{None} if it says nothing of such a setting."""
        try:
            found = forecast(self.setting.model())
        except ValueError:
            return None
        return Forecast(
            found.mean_time / YEAR,
            found.repairs * YEAR,
            found.rebuilt * YEAR,
            found.moved * YEAR,
        )

    @cached_property
    def expected(self) -> float | None:
        """How many of the objects are lost in that time, as the model has it."""
        if self.model is None:
            return None
        chance = self.setting.model().chain.chance_of_end(self.setting.seconds)
        return chance * self.setting.objects

    def beyond(self, lifetimes: Sequence[float] = REAL_LIFETIMES) -> list[Beyond]:
        """
        @param lifetimes: of peers, in years.
        @return: what the model says of them; nothing, if it says nothing of such a setting.
        """
        if self.model is None:
            return []
        found = []
        for each in lifetimes:
            told = forecast(self.setting.model(each * YEAR))
            moved = told.moved * YEAR * self.setting.share_bytes
            found.append(Beyond(each, told.rate * YEAR, moved))
        return found

    # --- traffic

    @property
    def moved(self) -> float:
        """Bytes that repairs have read and written, per object and year."""
        return (self.sums["read"] + self.sums["written"]) / max(self.object_years, 1e-9)

    @property
    def least(self) -> float:
        """What the same repairs move at least, likewise."""
        return self.sums["least"] / max(self.object_years, 1e-9)

    @property
    def model_moved(self) -> float | None:
        """What the model says of that."""
        return None if self.model is None else self.model.moved * self.setting.share_bytes

    @property
    def audited(self) -> float:
        """Bytes of leaves and proofs that audits take, at most, per object and year."""
        depth = max(0, self.setting.leaves - 1).bit_length()
        sampled = min(self.setting.leaves, 4) * (LEAF_BYTES + depth * HASH_BYTES)
        return self.sums["audits"] * sampled / max(self.object_years, 1e-9)

    @property
    def days_to_refuse(self) -> float | None:
        """Median of the days after which a liar was refused."""
        return median(self.found_after) / DAY if self.found_after else None

    def as_json(self) -> dict[str, Any]:
        """@return: all of it, such that C{msgspec} can write it."""
        observed, model = self.observed, self.model
        return {
            "setting": self.setting.as_json(),
            "seed": self.seed,
            "object_years": self.object_years,
            "lost": self.lost,
            "lost_at": [[at / YEAR, count] for at, count in self.lost_at.items()],
            "losses_per_object_year": {
                "observed": observed.value,
                "low": observed.low,
                "high": observed.high,
                "model": None if model is None else model.rate,
            },
            "expected_losses": self.expected,
            "repair_bytes_per_object_year": {
                "observed": self.moved,
                "least": self.least,
                "model": self.model_moved,
            },
            "repairs_per_object_year": {
                "observed": self.sums["repairs"] / max(self.object_years, 1e-9),
                "model": None if model is None else model.repairs,
            },
            "audit_bytes_per_object_year": self.audited,
            "sums": dict(self.sums),
            "decisions": dict(self.codes),
            "good_shares": {str(count): number for count, number in self.counts.items()},
            "liars": {
                "count": self.liars,
                "refused": len(self.found_after),
                "days_to_refuse": self.days_to_refuse,
                "chance_to_find": self.chance_to_find,
            },
            "model": {
                "assumptions": ASSUMPTIONS,
                "beyond": [
                    {
                        "peer_lifetime_years": each.lifetime,
                        "losses_per_object_year": each.rate,
                        "repair_bytes_per_object_year": each.moved,
                    }
                    for each in self.beyond()
                ],
            },
        }
