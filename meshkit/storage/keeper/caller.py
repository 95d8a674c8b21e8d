"""A storage peer of this process, as one caller sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import ILocalStoragePeer
from meshkit.storage.encoding import Piece
from meshkit.storage.erasure import Block
from meshkit.storage.keeper.intake import Intake
from meshkit.storage.keeper.kept import KeptShares
from meshkit.storage.terms import Reservation, ShareStat

T = TypeVar("T")


@implementer(ILocalStoragePeer)
class PeerForCaller:
    """
    See the module.

    @ivar key: of the storage peer.
    @ivar caller: who calls.
    """

    def __init__(
        self,
        key: PublicKey,
        caller: PublicKey,
        record: Callable[[], bytes],
        intake: Intake,
        kept: KeptShares,
        refused: Counter[str],
    ) -> None:
        """
        @param record: makes a fresh record.
        @param refused: counts calls that fail, by code.
        """
        self.key = key
        self.caller = caller
        self._record = record
        self._intake = intake
        self._kept = kept
        self._refused = refused

    def statement(self) -> Deferred[bytes]:
        return self._answer(_at_once(self._record))

    def reserve(
        self, upload: bytes, number: int, size: int, lease: bytes, repair: bool = False
    ) -> Deferred[Reservation]:
        reserve = self._intake.reserve
        return self._answer(reserve(self.caller, upload, number, size, lease, repair))

    def expect(self, upload: bytes, number: int, segment: int, size: int) -> None:
        self._intake.expect(self.caller, upload, number, segment, size)

    def write(self, upload: bytes, number: int, segment: int, block: Block) -> Deferred[None]:
        return self._answer(self._intake.write(self.caller, upload, number, segment, block))

    def close(self, upload: bytes, number: int, manifest: bytes) -> Deferred[bytes]:
        return self._answer(self._intake.close(self.caller, upload, number, manifest))

    def abort(self, upload: bytes, number: int) -> Deferred[None]:
        return self._answer(self._intake.abort(self.caller, upload, number))

    def stat(self, share: bytes) -> Deferred[ShareStat]:
        return self._answer(_at_once(self._kept.stat, share))

    def manifest(self, share: bytes) -> Deferred[bytes]:
        return self._answer(self._kept.manifest(share))

    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        return self._answer(self._kept.read(share, segment))

    def renew(self, share: bytes, secret: bytes) -> Deferred[bytes]:
        return self._answer(self._kept.renew(self.caller, share, secret))

    def release(self, share: bytes, secret: bytes) -> Deferred[None]:
        return self._answer(self._kept.release(share, secret))

    def _answer(self, work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        answer = Deferred.fromCoroutine(work)

        def refused(failure: Failure) -> Failure:
            if isinstance(failure.value, MeshkitError):
                self._refused[failure.value.code] += 1
            return failure

        return answer.addErrback(refused)


async def _at_once(call: Callable[..., T], *args: Any) -> T:
    return call(*args)
