"""A storage peer that answers what it was told to, and a client and a server about it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.interfaces import ILocalStoragePeer
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.storage.encoding import Piece
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.http.server import StorageSite, storage_factory
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.terms import Reservation, ShareStat
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import Chunker, MemoryNetwork

UPLOAD: Final = bytes(range(32))
SHARE: Final = bytes(range(32, 64))
SECRET: Final = bytes(range(64, 96))
PORT: Final = 7670

#: What each method gives, unless it is told otherwise.
ANSWERS: Final[dict[str, Any]] = {
    "statement": b"a signed record",
    "reserve": Reservation(3, 4_000, 5_000, True),
    "write": None,
    "close": b"a receipt",
    "abort": None,
    "stat": ShareStat(12, b"r" * 32, 99),
    "manifest": b"a manifest",
    "read": Piece(b"a block", [b"h" * 32, b"i" * 32]),
    "renew": b"another receipt",
    "release": None,
    "expect": None,
}


@implementer(ILocalStoragePeer)
class ToldPeer:
    """
    Answers what it was told, which may be an exception or a Deferred.

    @ivar calls: of all callers: who, which method, with what.
    @ivar answers: by method.
    """

    def __init__(self) -> None:
        self.key = make_identity("server").public
        self.calls: list[tuple[PublicKey | None, str, tuple[Any, ...]]] = []
        self.answers = dict(ANSWERS)
        self.caller: PublicKey | None = None

    def for_caller(self, key: PublicKey) -> ToldPeer:
        """@return: the same, that knows who calls."""
        seen = ToldPeer()
        seen.calls, seen.answers, seen.caller = self.calls, self.answers, key
        return seen

    def record(self) -> Any:
        """@return: what C{statement} gives."""
        return self._told("statement")

    def expect(self, upload: bytes, number: int, segment: int, size: int) -> None:
        answer = self.answers["expect"]
        self.calls.append((self.caller, "expect", (upload, number, segment, size)))
        if answer is not None:
            raise answer

    def _told(self, name: str, *args: Any) -> Deferred[Any]:
        self.calls.append((self.caller, name, args))

        def give() -> Any:
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return maybeDeferred(give)

    def statement(self) -> Any:
        return self._told("statement")

    def reserve(
        self, upload: bytes, number: int, size: int, lease: bytes, repair: bool = False
    ) -> Any:
        return self._told("reserve", upload, number, size, lease, repair)

    def write(self, upload: bytes, number: int, segment: int, block: Any) -> Any:
        return self._told("write", upload, number, segment, bytes(block))

    def close(self, upload: bytes, number: int, manifest: bytes) -> Any:
        return self._told("close", upload, number, manifest)

    def abort(self, upload: bytes, number: int) -> Any:
        return self._told("abort", upload, number)

    def stat(self, share: bytes) -> Any:
        return self._told("stat", share)

    def manifest(self, share: bytes) -> Any:
        return self._told("manifest", share)

    def read(self, share: bytes, segment: int) -> Any:
        return self._told("read", share, segment)

    def renew(self, share: bytes, secret: bytes) -> Any:
        return self._told("renew", share, secret)

    def release(self, share: bytes, secret: bytes) -> Any:
        return self._told("release", share, secret)


@define
class Served:
    """
    A peer that is served over a secure channel, and somebody who asks it.

    @ivar told: the peer.
    @ivar site: the server.
    @ivar client: who asks.
    """

    clock: Clock
    told: ToldPeer
    site: StorageSite
    network: MemoryNetwork
    endpoint: Any
    client: HTTPStoragePeer
    outcomes: list[Any] = field(factory=list)

    def ask(self, asked: Deferred[Any], seconds: float = 0.0) -> Any:
        """
        @return: what comes of it, an exception too.
        @raise AssertionError: if nothing does.
        """
        outcomes: list[Any] = []
        asked.addBoth(outcomes.append)
        self.run(seconds)
        (outcome,) = outcomes
        return outcome.value if isinstance(outcome, Failure) else outcome

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        run_clock(self.clock, seconds)
        run_clock(self.clock, 0.0)


def serve(
    chunk: Chunker | None = None,
    make_client: Callable[..., HTTPStoragePeer] = HTTPStoragePeer,
    client: dict[str, Any] | None = None,
    **limits: Any,
) -> Served:
    """
    @param chunk: how the encrypted stream is cut into pieces.
    @param client: further arguments of the client.
    @param limits: of the server.
    """
    clock = Clock()
    clock.advance(1_000_000)
    told = ToldPeer()
    rng = Random("meshkit/tests/storage/http")
    capability = Capability(LABEL, VERSION, NetworkSecret.generate(rng).key().capability(LABEL))
    server = make_identity("server")
    listener = SecureListener(clock, server, rng)
    site = storage_factory(clock, told.for_caller, told.record, **limits)
    listener.register(capability, site)
    network = MemoryNetwork(clock, chunk=chunk)
    network.server_endpoint(PORT).listen(listener)
    endpoint = wrap_client(
        clock,
        network.client_endpoint(PORT),
        identity=make_identity("client"),
        capability=capability,
        peer=server.public,
        rng=rng,
    )
    asking = make_client(clock, endpoint, server.public, **(client or {}))
    return Served(clock, told, site, network, endpoint, asking)
