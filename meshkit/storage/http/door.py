"""
A port of a storage peer for those who are in no mesh with it: TLS beneath, and signed requests
(L{meshkit.runtime.signed.signatures}).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.ssl import CertificateOptions

from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import IStoragePeer
from meshkit.runtime.signed.mark import StoredMark
from meshkit.runtime.signed.signing import Signatures
from meshkit.runtime.signed.tls import wrap_tls_factory
from meshkit.runtime.workers import Workers
from meshkit.storage.http.server import StorageSite, storage_factory

#: Seconds that a stop waits for answers that are owed.
CLOSE_GRACE: Final = 5.0


class SignedDoor:
    """
    Serves a storage peer at a port of its own::

        door = SignedDoor(reactor, serverFromString(reactor, "tcp:7671"), options, ...)
        await door.start()
        ...
        await door.stop()
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        options: CertificateOptions,
        *,
        identity: Identity,
        network_id: bytes,
        workers: Workers,
        files: Any,
        mark_path: str,
        wall_clock: Callable[[], int],
        for_caller: Callable[[PublicKey], IStoragePeer],
        record: Callable[[], Any],
    ) -> None:
        """
        @param endpoint: where it listens, without TLS.
        @param options: what it shows; see L{load_certificate
            <meshkit.runtime.signed.tls.load_certificate>}.
        @param identity: of the storage peer; it signs the answers.
        @param network_id: of the network, 16 bytes.
        @param workers: in which the mark is read and written.
        @param files: L{meshkit.interfaces.IFiles}.
        @param mark_path: of the file that keeps requests from being taken twice over a restart.
        @param wall_clock: nanoseconds since 1970.
        @param for_caller: see L{storage_factory}.
        @param record: see L{storage_factory}.
        """
        self._reactor = reactor
        self._endpoint = endpoint
        self._options = options
        self._identity = identity
        self._network = network_id
        self._wall_clock = wall_clock
        self._for_caller = for_caller
        self._record = record
        self._mark = StoredMark(reactor, workers, files, mark_path, wall_clock)
        self._site: StorageSite | None = None
        self._port: IListeningPort | None = None

    @property
    def address(self) -> IAddress | None:
        """Where it listens; L{None} if it does not."""
        return None if self._port is None else self._port.getHost()

    @property
    def connections(self) -> int:
        """How many are open."""
        return 0 if self._site is None else self._site.connections

    def start(self) -> Deferred[None]:
        """
        @return: Deferred that fires when it listens.  Fails with L{OSError} if the mark cannot
            be read or written, and with what the endpoint says.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        replays = await self._mark.start()
        signatures = Signatures(self._identity, self._network, replays, self._wall_clock)
        self._site = storage_factory(
            self._reactor, self._for_caller, self._record, signatures=signatures
        )
        factory = wrap_tls_factory(self._reactor, self._options, self._site)
        try:
            self._port = await self._endpoint.listen(factory)
        except BaseException:
            await self._mark.stop()
            raise

    def stop(self) -> Deferred[None]:
        """
        Give the answers that are owed, and close.

        @return: Deferred that fires when nothing is open and the mark is stored.  It does not
            fail.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        if self._site is not None:
            await self._site.close(CLOSE_GRACE)
        await self._mark.stop()
