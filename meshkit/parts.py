"""
How a part of a node is declared and what it is given.

A plugin module in C{meshkit_plugins} holds one L{PartMaker} and imports nothing but
this module and C{meshkit.interfaces}::

    from meshkit.interfaces import IFeedStore
    from meshkit.parts import PartMaker

    feed = PartMaker("feed", "meshkit.feed.part", provides=(IFeedStore,))

The module it names is imported when a node is made.  It offers C{Config}, a
C{msgspec.Struct} whose fields all have defaults; C{MIGRATIONS}, a tuple of SQL
scripts; and C{make_part(context)}, which returns an L{meshkit.interfaces.IMeshPart}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from functools import cache
from importlib import import_module
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_type_hints

import msgspec
from attrs import field, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError
from meshkit.interfaces import (
    IConnections,
    IFiles,
    IMeshPart,
    IMeshProtocol,
    IMetrics,
    IPeerBook,
    IWhereabouts,
)
from meshkit.operations import BoundOperation

if TYPE_CHECKING:
    from meshkit.identity.addresses import HostPort
    from meshkit.identity.keys import Identity, PublicKey, Verify
    from meshkit.identity.network import NetworkKey, NetworkSecret

T = TypeVar("T")

_log = Logger()

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


@implementer(IMeshProtocol, IPlugin)
@frozen
class PartMaker:
    """
    A part declared by the dotted name of its module.

    @ivar name: see L{IMeshProtocol}.
    @ivar module: dotted name of the module with C{Config}, C{MIGRATIONS} and
        C{make_part}.
    @ivar compat: see L{IMeshProtocol}.
    @ivar defaults: settings that have another default than C{Config} says, and that.
    """

    name: str = field()
    module: str = field()
    provides: tuple[Any, ...] = field(default=(), kw_only=True)
    requires: tuple[Any, ...] = field(default=(), kw_only=True)
    wants: tuple[Any, ...] = field(default=(), kw_only=True)
    compat: bool = field(default=False, kw_only=True)
    defaults: tuple[tuple[str, Any], ...] = field(default=(), kw_only=True)

    @name.validator
    def _check_name(self, _attribute: object, value: str) -> None:
        if not _NAME.fullmatch(value):
            raise ValueError(f"part name {value!r} is not of the form {_NAME.pattern}")

    def config_type(self) -> Any:
        config = import_module(self.module).Config
        return _with_defaults(config, self.defaults) if self.defaults else config

    def migrations(self) -> Sequence[str]:
        return tuple(import_module(self.module).MIGRATIONS)

    def create(self, context: PartContext) -> Any:
        return import_module(self.module).make_part(context)


@cache
def _with_defaults(config: Any, defaults: tuple[tuple[str, Any], ...]) -> Any:
    hints = get_type_hints(config, include_extras=True)
    return msgspec.defstruct(
        config.__name__,
        [(name, hints[name], default) for name, default in defaults],
        bases=(config,),
        module=config.__module__,
        frozen=True,
        forbid_unknown_fields=True,
    )


@implementer(IMetrics)
class _Uncounted:
    """Where nobody watches: all that is counted is forgotten."""

    def counter(self, name: str, doc: str, /, **labels: Container[str]) -> _Uncounted:
        return self

    def histogram(
        self, name: str, doc: str, bounds: Sequence[float] = (), /, **labels: Container[str]
    ) -> _Uncounted:
        return self

    def count(
        self, name: str, doc: str, read: Callable[[], Any], /, **labels: Container[str]
    ) -> None:
        """Nobody looks."""

    def gauge(
        self, name: str, doc: str, read: Callable[[], Any], /, **labels: Container[str]
    ) -> None:
        """Nobody looks."""

    def add(self, *values: str, by: float = 1) -> None:
        """Nobody counts."""

    def observe(self, value: float, *values: str) -> None:
        """Nobody measures."""


@implementer(IWhereabouts)
class _Nowhere:
    """Where nobody can reach the node."""

    advertised: tuple[HostPort, ...] = ()

    def listening(self) -> list[HostPort]:
        return []

    def places(self) -> tuple[HostPort, ...]:
        return ()

    def mapped(self, source: str, places: Iterable[HostPort]) -> None:
        """Nobody is told."""

    def ask(self, source: str, callback: Callable[[], Iterable[HostPort]]) -> Callable[[], None]:
        return _nothing

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return _nothing


def _nothing() -> None:
    """There is nothing to end."""


@frozen
class PartContext:
    """
    What a part may use of its node.  Nothing else is handed out.

    @ivar reactor: clock, sockets and threads, as Twisted's interfaces name them.
    @ivar rng: all randomness; C{random.SystemRandom} in a daemon, seeded in a
        simulation.
    @ivar wall_clock: nanoseconds since 1970, for what is shown to people and signed.
        Intervals and deadlines use C{reactor} instead.
    @ivar config: this part's own section, of the type it declared.
    @ivar identity: the node's key pair.
    @ivar network: the network's key, for capabilities and derived keys.
    @ivar secret: what that follows from: for who hands it to a new member, and nobody else.
    @ivar previous: the one before C{meshkit network rotate}, as long as the node answers for
        that, too.
    @ivar database: L{meshkit.runtime.database.Database}.
    @ivar workers: L{meshkit.runtime.workers.WorkerPool}, for CPU work that releases
        the GIL.
    @ivar files: L{IFiles}.
    @ivar data_folder: where the part may keep files, in a folder of its name.
    @ivar connections: how to dial other nodes.
    @ivar peers: whom there is to dial.
    @ivar events: L{meshkit.runtime.events.EventBus} of the node.
    @ivar metrics: where it counts for those who watch the node.
    @ivar find: gives the part that provides an interface, or what that part gives for it
        (C{__conform__}: two interfaces may have methods of one name); L{None} for one that
        is only wanted and not there.
    @ivar verify: L{PublicKey.verifies}, for what many nodes verify.
    @ivar listening: gives where the node listens for others, a list of
        L{meshkit.identity.addresses.HostPort}; a host may be a wildcard, C{0.0.0.0} or C{::}.
    @ivar whereabouts: where others reach it, as far as anybody knows.
    @ivar accept: builds the protocol of a connection that has come another way than by the node's
        port, such as out of a relay, as if it had come there; gets the address of the peer's
        transport, and gives L{None} while none is taken.
    """

    reactor: Any
    rng: Random
    wall_clock: Callable[[], int]
    config: Any
    identity: Identity
    network: NetworkKey
    secret: NetworkSecret
    database: Any
    workers: Any
    files: IFiles
    data_folder: str
    connections: IConnections
    peers: IPeerBook
    events: Any
    find: Callable[[Any], Any]
    verify: Verify
    metrics: IMetrics = field(factory=_Uncounted)
    listening: Callable[[], Sequence[HostPort]] = tuple
    previous: NetworkKey | None = None
    whereabouts: IWhereabouts = field(factory=_Nowhere)
    accept: Callable[[IAddress | None], IProtocol | None] = lambda _address: None


@implementer(IMeshPart)
class Part(Service):
    """A part that offers nothing: inherit and override what yours does offer."""

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {}

    def authorize(self, peer: PublicKey, label: str) -> Any:
        return True

    def operations(self) -> Sequence[BoundOperation]:
        return ()

    def status(self) -> Any:
        return None


def shield(work: Coroutine[Deferred[Any], Any, T] | Deferred[T]) -> Deferred[T]:
    """
    Have something done to its end, even if nobody waits for it any more.

    A caller who goes away cancels what an operation waits for.  A write that has begun
    cannot be called back, and what follows it here (a counter, an event, an entry in
    memory) must not be left out.

    @param work: a coroutine, which is begun, or a Deferred, which nobody else waits for.
    @return: Deferred of what C{work} returns.  Cancelling it does not touch C{work}; if
        that fails afterwards, it is logged.
    """
    waiting: Deferred[T] = Deferred()

    def failed(failure: Failure) -> None:
        if not waiting.called:
            waiting.errback(failure)
        elif isinstance(failure.value, MeshkitError):
            _log.info("what nobody waits for any more failed: {error}", error=str(failure.value))
        else:
            _log.failure("what nobody waits for any more failed", failure)

    begun = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
    # Once cancelled, it ignores a result that comes later.
    begun.addCallbacks(waiting.callback, failed)
    return waiting
