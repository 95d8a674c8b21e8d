"""A storage peer that is audited over a secure channel in memory, and who audits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.audit.auditor import Auditor, AuditorLimits
from meshkit.audit.containment import MemoryContainments
from meshkit.audit.factory import AuditFactory, AuditLimits
from meshkit.audit.transcript import Examined, examine
from meshkit.audit.values import AskedShare, ShareOutcome
from meshkit.audit.wire import LABEL
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.storage.custody import TrackedObject
from meshkit.storage.placement_document import Placed, PlacementDocument
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import MemoryNetwork
from tests.storage.keeper.keepers import NETWORK, Keeping, shelf
from tests.storage.objects import PLACEMENT
from tests.storage.shelves import Shelf

T = TypeVar("T")

_PORT: Final = 7655
_MONTH: Final = 31 * 86_400


@frozen
class KeptFile:
    """A receipt that was kept."""

    audit_id: bytes
    peer: PublicKey
    judged: int
    outcomes: Mapping[str, int]
    body: bytes

    @property
    def examined(self) -> Examined:
        """What anybody makes of it."""
        return examine(self.body)


class Receipts(list[KeptFile]):
    """L{meshkit.audit.auditor.ReceiptSink}."""

    def keep(
        self,
        audit_id: bytes,
        peer: PublicKey,
        judged: int,
        outcomes: Mapping[str, int],
        body: bytes,
    ) -> Deferred[None]:
        self.append(KeptFile(audit_id, peer, judged, dict(outcomes), body))
        return succeed(None)


@implementer(IProtocolFactory)
class World:
    """
    See the module.

    @ivar keeping: the keeper of the peer that is audited, and its time.
    @ivar factory: how it is audited.
    @ivar auditor: who asks.
    @ivar dialled: how often it was dialled.
    @ivar reachable: can it be?
    """

    def __init__(
        self,
        *,
        limits: AuditLimits | None = None,
        auditing: AuditorLimits | None = None,
        asker: str = "alice",
        sampler: Any = None,
        latency: float = 0.0,
    ) -> None:
        self.keeping = Keeping().start()
        self.clock: Clock = self.keeping.clock
        self.peer = self.keeping.keeper.key
        self.limits = limits
        self.asker = make_identity(asker)
        self.receipts = Receipts()
        self.containments = MemoryContainments()
        self.settled: list[ShareOutcome] = []
        self.dialled = 0
        self.reachable = True
        self.sampler = self.keeping.keeper.sampler if sampler is None else sampler
        self._rng = Random("audits")
        self._capability = Capability(
            LABEL, 1, NetworkSecret.generate(self._rng).key().capability(LABEL)
        )
        self.network = MemoryNetwork(self.clock, latency=latency)
        self._listener = SecureListener(self.clock, make_identity("keeper"), self._rng)
        self.factory = self.make_factory()
        self._listener.register(self._capability, self)
        self.network.server_endpoint(_PORT).listen(self._listener)
        self.auditor = self.make_auditor(auditing)

    def make_factory(self, kind: type[AuditFactory] = AuditFactory, **more: Any) -> Any:
        """The peer is started anew, as far as audits are concerned."""
        return kind(
            self.clock,
            more.pop("identity", make_identity("keeper")),
            more.pop("network", NETWORK),
            more.pop("sampler", self.sampler),
            rng=self._rng,
            wall_clock=self.keeping.wall_ns,
            workers=self.keeping.workers,
            limits=self.limits,
        )

    def make_auditor(
        self, limits: AuditorLimits | None = None, asker: Identity | None = None, **more: Any
    ) -> Auditor:
        """Somebody who asks."""
        asker = self.asker if asker is None else asker
        return Auditor(
            asker,
            more.pop("network", NETWORK),
            self,
            _Connections(self, asker),
            more.pop("containments", self.containments),
            more.pop("receipts", self.receipts),
            reactor=self.clock,
            rng=self._rng,
            wall_clock=more.pop("wall_clock", self.keeping.wall_ns),
            workers=self.keeping.workers,
            settled=self._note_settled,
            kept=more.pop("kept", None),
            limits=limits,
        )

    def _note_settled(self, outcomes: Sequence[ShareOutcome]) -> Deferred[None]:
        self.settled += outcomes
        return succeed(None)

    # IProtocolFactory of the listener: whichever factory there is now.

    def doStart(self) -> None:
        """Nothing."""

    def doStop(self) -> None:
        """Nothing."""

    def buildProtocol(self, addr: Any) -> Any:
        return self.factory.buildProtocol(addr)

    # IStoragePeers, as far as it is asked.

    def address_of(self, key: PublicKey) -> Deferred[PublicKey]:
        return succeed(key)

    def dial(self, asker: Identity, key: PublicKey) -> Any:
        """@return: an endpoint of the peer."""
        self.dialled += 1
        return wrap_client(
            self.clock,
            self.network.client_endpoint(_PORT if self.reachable else _PORT + 1),
            identity=asker,
            capability=self._capability,
            peer=key,
            rng=self._rng,
        )

    # what tests do

    def connect(self, asker: Identity | None = None) -> RPCProtocol:
        """@return: a connection to the peer, for calls as one likes."""
        endpoint = self.dial(self.asker if asker is None else asker, self.peer)
        connection: RPCProtocol = self.done(endpoint.connect(RPCFactory(self.clock)))
        return connection

    def put(self, of: Shelf, number: int = 0, **more: Any) -> AskedShare:
        """Have a share kept.  @return: what to ask about it."""
        self.keeping.put(of, number, **more)
        return self.ask_for(of, number)

    def ask_for(
        self, of: Shelf, number: int = 0, *, lease_end: int | None = None, own: bool = True
    ) -> AskedShare:
        """@return: a share as its owner knows it."""
        end = self.keeping.now() + _MONTH if lease_end is None else lease_end
        placed: list[Placed | None] = [None] * len(of.shares)
        placed[number] = Placed(self.peer, end)
        document = PlacementDocument(of.manifest.content_id, 1, tuple(placed))
        tracked = TrackedObject(
            of.manifest, document, document.sign(PLACEMENT), PLACEMENT, bytes(32), own
        )
        return AskedShare(tracked, number)

    def objects(self, count: int, length: int = 9_000) -> list[AskedShare]:
        """So many objects, of each of which the peer has a share."""
        return [self.put(shelf(length, seed)) for seed in range(1, count + 1)]

    def audit(
        self, shares: Sequence[AskedShare], auditor: Auditor | None = None
    ) -> list[ShareOutcome]:
        """@return: what comes of it."""
        chosen = self.auditor if auditor is None else auditor
        outcomes: Deferred[Sequence[ShareOutcome]] = chosen.audit(self.peer, shares)
        found = self.done(outcomes)
        return list(found)

    def outcomes(self, shares: Sequence[AskedShare], auditor: Auditor | None = None) -> list[str]:
        """@return: what comes of it, in words."""
        return [each.outcome for each in self.audit(shares, auditor)]

    def done(self, deferred: Deferred[T], seconds: float = 3_600.0) -> T:
        """@return: what comes of it, as time passes."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        end = self.clock.seconds() + seconds
        self.until(lambda: bool(results) or self.clock.seconds() > end)
        if not results:
            raise AssertionError("nothing came of it")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def until(self, reached: Callable[[], bool], most: int = 100_000) -> None:
        """Let one thing happen after the other."""
        for _ in range(most):
            if reached() or not self.step():
                return

    def step(self) -> bool:
        """
        Let the next thing happen.

        @return: was there any?
        """
        calls = self.clock.getDelayedCalls()
        if not calls:
            return False
        self.clock.advance(max(0.0, min(each.getTime() for each in calls) - self.clock.seconds()))
        return True

    def tick(self) -> None:
        """Let one thing happen, and nothing else that is due at the same moment."""
        due = min((each.getTime() for each in self.clock.getDelayedCalls()), default=0.0)
        self.clock.rightNow = max(self.clock.rightNow, due)
        self.keeping.tick()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        run_clock(self.clock, seconds)


class _Connections:
    """IConnections, as far as it is asked."""

    def __init__(self, world: World, asker: Identity) -> None:
        self._world = world
        self._asker = asker

    def endpoint(self, address: PublicKey, label: str, version: int = 1) -> Any:
        return self._world.dial(self._asker, address)
