"""The section C{[audit]}.  Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.audit.decisions import Policy
from meshkit.audit.standing import StandingConfig
from meshkit.errors import ConfigError

_DAY: Final = 86_400.0
_YEAR: Final = 366 * _DAY

#: A time, in seconds.
_Seconds = Annotated[float, Meta(ge=0, le=_YEAR)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The section C{[audit]}: how often shares are audited, when lost ones are made anew, and what
    is thought of peers for what their audits come to.
    """

    enabled: Annotated[
        bool,
        Meta(
            description="audit the objects that are looked after by itself; without it only when "
            "asked to. Audits of what is kept here are answered either way"
        ),
    ] = True
    interval: Annotated[
        float, Meta(ge=1, le=_YEAR, description="seconds between passes over what is due")
    ] = 900.0
    every: Annotated[
        _Seconds, Meta(description="seconds after which a share is asked about again")
    ] = _DAY
    recheck: Annotated[
        _Seconds, Meta(description="the same, of one of which there was no verdict")
    ] = 900.0
    peers_at_once: Annotated[
        int, Meta(ge=1, le=1024, description="peers that are audited at the same time")
    ] = 16

    repair: Annotated[bool, Meta(description="make lost shares anew where that is called for")] = (
        True
    )
    repair_below: Annotated[
        int,
        Meta(
            ge=0,
            le=255,
            description="good shares of an object below which lost ones are made anew; 0 is those "
            "that suffice and half of the others, rounded up",
        ),
    ] = 0
    offline_grace: Annotated[
        _Seconds,
        Meta(description="seconds for which a peer may be away before its shares count as lost"),
    ] = 14_400.0
    outage_part: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="if at least this part of the peers is away, and three at least, the "
            "network is to blame",
        ),
    ] = 0.25
    outage_grace: Annotated[
        _Seconds, Meta(description="seconds for which they may be away then")
    ] = _DAY
    max_repairs: Annotated[
        int, Meta(ge=0, le=100_000, description="shares that are made anew or moved in one pass")
    ] = 500
    max_repair_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**53 - 1,
            description="bytes moved by the repairs of a pass after which no other one is begun",
            extra={"size": True},
        ),
    ] = 16 * 2**30
    repairs_at_once: Annotated[
        int, Meta(ge=1, le=64, description="repairs that run at the same time")
    ] = 2
    cooldown: Annotated[
        _Seconds, Meta(description="seconds for which an object is left alone after a repair")
    ] = 600.0
    backoff: Annotated[
        _Seconds, Meta(description="the same after a repair that failed, doubled each time")
    ] = 300.0
    max_backoff: Annotated[_Seconds, Meta(description="and never more than that")] = 21_600.0
    peer_life: Annotated[
        float,
        Meta(gt=0, description="seconds after which a peer is gone for good, on average"),
    ] = 2 * 365.25 * _DAY
    domain_life: Annotated[
        float, Meta(gt=0, description="the same of all peers of a failure domain together")
    ] = 20 * 365.25 * _DAY

    score_forgetting: Annotated[
        float,
        Meta(
            gt=0, lt=1, description="what the result of an audit counts for once there is another"
        ),
    ] = 0.99
    score_start: Annotated[
        float, Meta(gt=0, lt=1e6, description="good results that a peer is given in advance")
    ] = 100.0
    score_refuse_at: Annotated[
        float,
        Meta(gt=0, lt=1, description="a peer with this score or a lower one gets no new shares"),
    ] = 0.95
    score_fade_days: Annotated[
        float,
        Meta(
            gt=0,
            lt=1e4,
            description="days in which half of what is held against a refused peer fades",
        ),
    ] = 30.0
    unknown_forgetting: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="as score_forgetting, of answers that say nothing of a share",
        ),
    ] = 0.95
    unknown_start: Annotated[float, Meta(gt=0, lt=1e6, description="as score_start, likewise")] = (
        20.0
    )
    unknown_refuse_at: Annotated[
        float, Meta(gt=0, lt=1, description="as score_refuse_at, likewise")
    ] = 0.6
    unknown_fade_days: Annotated[
        float, Meta(gt=0, lt=1e4, description="as score_fade_days, likewise")
    ] = 3.0
    online_window_hours: Annotated[
        int,
        Meta(ge=1, le=168, description="hours in which it is counted how often a peer is there"),
    ] = 12
    online_window_days: Annotated[
        int, Meta(ge=1, le=90, description="days for which that counts")
    ] = 30
    online_refuse_at: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="a peer that is there as seldom as that, or less often, gets no new shares",
        ),
    ] = 0.6
    online_grace_days: Annotated[
        int, Meta(ge=0, le=90, description="days that have to be counted before")
    ] = 7
    vetting_audits: Annotated[
        int, Meta(ge=0, lt=10**6, description="good results after which a new peer counts fully")
    ] = 50
    vetting_days: Annotated[
        int, Meta(ge=0, le=365, description="and days since its first audit")
    ] = 7
    vetting_weight: Annotated[
        int, Meta(ge=1, le=1000, description="what it weighs until then, of 1000")
    ] = 250

    def policy(self) -> Policy:
        """@return: how objects are looked after."""
        return Policy(
            **{
                name: getattr(self, name)
                for name in Policy.__struct_fields__
                if name in self.__struct_fields__
            }
        )

    def standing(self) -> StandingConfig:
        """
        @return: how peers are judged.
        @raise ConfigError: if that cannot be done under these settings.
        """
        try:
            return StandingConfig(
                forgetting=self.score_forgetting,
                start=self.score_start,
                refuse_at=self.score_refuse_at,
                fade_days=self.score_fade_days,
                unknown_forgetting=self.unknown_forgetting,
                unknown_start=self.unknown_start,
                unknown_refuse_at=self.unknown_refuse_at,
                unknown_fade_days=self.unknown_fade_days,
                window_hours=self.online_window_hours,
                window_days=self.online_window_days,
                online_refuse_at=self.online_refuse_at,
                online_grace_days=self.online_grace_days,
                vetting_audits=self.vetting_audits,
                vetting_days=self.vetting_days,
                vetting_weight=self.vetting_weight,
            )
        except ValueError as e:
            raise ConfigError(f"audit: {e}") from None
