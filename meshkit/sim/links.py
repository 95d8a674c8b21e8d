"""
One direction between two hosts: how long what is sent takes, and whether it arrives.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from attrs import frozen

from meshkit.sim.clock import SECOND, nanoseconds

if TYPE_CHECKING:
    from meshkit.sim.network import NetHost, SimNetwork


@frozen
class Quality:
    latency_ns: int
    jitter_ns: int
    bandwidth: float | None
    loss: float
    duplicates: float = 0.0

    def changed(
        self,
        latency: float | None,
        jitter: float | None,
        bandwidth: float | None,
        loss: float | None,
        duplicates: float | None = None,
    ) -> Quality:
        """
        The same, but for what is given.

        @raise ValueError: if no link can be like that.
        """
        chances = (loss or 0, duplicates or 0)
        if not all(0 <= chance <= 1 for chance in chances) or min(latency or 0, jitter or 0) < 0:
            raise ValueError("latencies are not negative, and chances lie between 0 and 1")
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError("a link carries some bytes in a second: block it to stop it")
        return Quality(
            self.latency_ns if latency is None else nanoseconds(latency),
            self.jitter_ns if jitter is None else nanoseconds(jitter),
            self.bandwidth if bandwidth is None else bandwidth,
            self.loss if loss is None else loss,
            self.duplicates if duplicates is None else duplicates,
        )


_LOOPBACK_QUALITY: Final = Quality(20_000, 0, None, 0.0)


class Link:
    """
    One direction between two hosts.

    @ivar bytes: that arrived over it in segments.
    """

    __slots__ = (
        "_draws",
        "_free_ns",
        "_quality",
        "bandwidth",
        "blocked",
        "bytes",
        "duplicates",
        "jitter_ns",
        "latency_ns",
        "loss",
        "network",
        "sink",
        "source",
    )

    def __init__(self, network: SimNetwork, source: NetHost, sink: NetHost) -> None:
        self.network = network
        self.source = source
        self.sink = sink
        self.blocked = False
        self.bytes = 0
        self._free_ns = 0
        self._draws: dict[str, Random] = {}
        self.become(_LOOPBACK_QUALITY if source is sink else network._usual)

    def become(self, quality: Quality) -> None:
        """Be like that from now on; what is on its way arrives when it would have."""
        self._quality = quality
        # Asked for with every segment.
        self.latency_ns = quality.latency_ns
        self.jitter_ns = quality.jitter_ns
        self.bandwidth = quality.bandwidth
        self.loss = quality.loss
        self.duplicates = quality.duplicates

    def change(self, **changes: float | None) -> None:
        """See L{Quality.changed}."""
        self.become(self._quality.changed(**changes))

    def draws(self, purpose: str) -> Random:
        """The stream of one purpose on this link."""
        if purpose not in self._draws:
            self._draws[purpose] = self.network.seeds.stream(
                "network", purpose, self.source.name, self.sink.name
            )
        return self._draws[purpose]

    def passes(self) -> bool:
        """Does what arrives now arrive?"""
        source, sink = self.source, self.sink
        if source is sink:
            return sink.up
        if self.blocked or source.mute or sink.mute:
            return False
        return source.group == sink.group or source.group is None or sink.group is None

    def loses(self) -> bool:
        """Is the next packet lost?"""
        return self.loss > 0 and self.draws("loss").random() < self.loss

    def transit(self, size: int, begin_ns: int) -> int:
        """
        @return: when so many bytes arrive, if they are sent at that moment.  Those that are
            sent later than now, as they were lost, do not keep others waiting.
        """
        if self.bandwidth is not None:
            needed = round(size * SECOND / self.bandwidth)
            if begin_ns <= self.network.clock.ns:
                begin_ns = max(begin_ns, self._free_ns)
                self._free_ns = begin_ns + needed
            begin_ns += needed
        if self.jitter_ns:
            begin_ns += int(self.jitter_ns * self.draws("jitter").random())
        return begin_ns + self.latency_ns
