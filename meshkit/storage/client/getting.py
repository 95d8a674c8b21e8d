"""
Reading an object, whole or a piece of it.

Some segments are asked for at a time, each of as many peers as are needed
(L{meshkit.storage.hedging}).  What comes is checked and opened in a worker, while those
behind it are under way, and given out in order.  A piece that is wrong is replaced by one of
somebody else, and its peer is asked last from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshkit.errors import NotEnoughShares
from meshkit.identity.keys import PublicKey
from meshkit.runtime.racing import Racing
from meshkit.runtime.waiting import ask, problem_of
from meshkit.storage.client.streams import Sink
from meshkit.storage.client.values import Fetched, Problem, Progress, Tools
from meshkit.storage.encoding import Decoded, Decoder, Piece, WholeDecoder
from meshkit.storage.hedging import Race, Runner
from meshkit.storage.manifest import Manifest

__all__ = ["Get", "Holders"]

#: The L{meshkit.interfaces.IStoragePeer}s that have, or may have, each share, by its number.
Holders = Mapping[int, Sequence[Any]]

#: Peers that an error names.
_NAMED: Final = 4


class Get:
    """One object that is read.  See the module."""

    def __init__(
        self,
        tools: Tools,
        manifest: Manifest,
        content_key: bytes,
        holders: Holders,
        sink: Sink,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> None:
        """
        @param manifest: checked against the object's id.
        @param start: the first byte that is read.
        @param length: how many are; L{None} for all that follow.
        @param progress: is called whenever a segment was given out.
        @raise ObjectKeyWrong: if the key is not that of the object.
        """
        layout = manifest.layout
        self._tools = tools
        self._manifest = manifest
        self._layout = layout
        self._decoder = Decoder(manifest, content_key, tools.codec)
        end = layout.length if length is None else min(layout.length, start + length)
        self._start, self._end = start, max(start, end)
        whole = start == 0 and end == layout.length
        # Also of no bytes there is one segment, which says so.
        self._range = range(layout.segments) if whole else layout.segments_with(start, end - start)
        self._whole = WholeDecoder(manifest, self._decoder) if whole else None
        self._sink = sink
        self._progress = progress
        self._runners: dict[Runner, Any] = {}
        for share, peers in sorted(holders.items()):
            for peer in peers:
                self._runners[Runner(share, peer.key)] = peer
        scheme = manifest.header.scheme
        self._needed = scheme.required
        # One is opened while others come.
        self._window = max(2, tools.config.segments(scheme.segment_bytes))
        self._problems: dict[Runner, Problem] = {}
        self._used: set[int] = set()
        self._shunned: dict[PublicKey, None] = {}
        self._segments: dict[int, Racing] = {}

    async def run(self) -> Fetched:
        """
        @return: what was given out.
        @raise NotEnoughShares: if a segment cannot be read; it names why.
        @raise ObjectDamaged: if the shares are good, and the object is not.
        @raise ObjectMismatch: if what was read is not what all read.
        """
        given, opening = 0, None
        try:
            for number in self._range:
                if opening is None:
                    opening = self._open_next(number)
                decoded = await opening
                # While this one is given out, the next one is opened.
                opening = self._open_next(number + 1) if number + 1 in self._range else None
                self._used.update(decoded.used)
                text = self._decoder.within(number, decoded.text, self._start, self._end)
                del decoded
                if text:
                    await self._sink.write(text)
                    given += len(text)
                if self._progress is not None:
                    self._progress(Progress(given, self._end - self._start))
                del text
            if self._whole is not None:
                self._whole.finish()
        except GeneratorExit:
            # All of it is thrown away together, and in what order nobody knows.
            opening = None
            self._segments.clear()
            raise
        finally:
            if opening is not None:
                self._tools.background.add(opening)
                opening.cancel()
            segments, self._segments = self._segments, {}
            for racing in segments.values():
                racing.leave()
        problems = sorted(self._problems.values(), key=lambda one: one.share)
        return Fetched(given, tuple(sorted(self._used)), tuple(problems))

    def _open_next(self, number: int) -> Deferred[Decoded]:
        for ahead in range(number, min(number + self._window, self._range.stop)):
            if ahead not in self._segments:
                self._begin(ahead)
        return Deferred.fromCoroutine(self._open(number, self._segments[number]))

    def _begin(self, number: int) -> None:
        tools = self._tools
        race = Race(self._needed, tuple(self._runners), tools.latencies, self._shunned)

        def read(runner: Runner) -> Deferred[Any]:
            name = self._manifest.header.share_id(runner.share)
            call = self._runners[runner].read
            return ask(tools.reactor, tools.config.request_seconds, call, name, number)

        def failed(runner: Runner, failure: Failure) -> None:
            self._blame(runner, problem_of(failure), False)

        self._segments[number] = Racing(tools.reactor, race, read, failed)

    # --- opening ---------------------------------------------------------------------------

    async def _open(self, number: int, racing: Racing) -> Decoded:
        while True:
            chosen = await racing.chosen()
            if chosen is None:
                raise NotEnoughShares(self._why(number, racing), wrong=self._wrong())
            pieces = {share: racing.pieces[runner] for share, runner in chosen.items()}
            try:
                decoded = await self._tools.workers.run(self._decode, number, pieces)
            except NotEnoughShares as e:
                bad = [chosen[share] for share in e.wrong]
                self._blame_liars(number, bad)
                racing.wrong(bad)
                continue
            self._blame_liars(number, [chosen[share] for share in decoded.wrong])
            # No more of it is needed.
            del self._segments[number]
            racing.leave()
            return decoded

    def _decode(self, number: int, pieces: Mapping[int, Piece]) -> Decoded:
        """In a worker."""
        if self._whole is not None:
            return self._whole.decode(pieces)
        return self._decoder.decode(number, pieces)

    def _blame_liars(self, number: int, runners: Sequence[Runner]) -> None:
        for each in runners:
            text = f"what it gave of share {each.share} is wrong, in segment {number}"
            self._blame(each, text, True)

    def _blame(self, runner: Runner, text: str, lied: bool) -> None:
        peer = self._runners[runner].key
        self._shunned[peer] = None
        # That it lied is worth more than that it was away.
        if runner not in self._problems or (lied and not self._problems[runner].lied):
            self._problems[runner] = Problem(peer, runner.share, text, lied)

    def _wrong(self) -> list[int]:
        return sorted({each.share for each in self._problems.values() if each.lied})

    def _why(self, number: int, racing: Racing) -> str:
        good = len({each.share for each in racing.pieces})
        problems = list(self._problems.values())
        named = "; ".join(f"{each.peer.text}: {each.text}" for each in problems[:_NAMED])
        more = "" if len(problems) <= _NAMED else f"; and {len(problems) - _NAMED} more"
        return (
            f"the object cannot be read: {self._needed} shares are needed, and {good} of "
            f"segment {number} were found" + (f" ({named}{more})" if named else "")
        )
