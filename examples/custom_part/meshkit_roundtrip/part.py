"""The part: its settings, its table, and what ties them to the protocol."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from statistics import median
from typing import Annotated, Any, Final

import msgspec
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.aliases import Alias
from meshkit.errors import MeshkitError, NotFound
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IAdvisesAgents, IToolAliases
from meshkit.operations import BoundOperation, Item, Nothing
from meshkit.parts import Part, PartContext
from meshkit_roundtrip import operations as offered
from meshkit_roundtrip.agents import ALIASES, NOTHING_MEASURED
from meshkit_roundtrip.protocol import MAX_PROBES, Answerer, Prober
from meshkit_roundtrip.table import read_table, write_table

#: Results that wait for somebody who watches.  Who reads slower misses what comes then.
MAX_UNREAD: Final = 100

#: The label of our capability: a dotted name that we own, so that nobody else has it.
LABEL: Final = "org.example.roundtrip"

#: Our table begins with our name, as the database is the whole node's.
MIGRATIONS: Final = (
    """
    CREATE TABLE roundtrip_results (
        peer BLOB PRIMARY KEY,
        measured_at INTEGER NOT NULL,
        probes INTEGER NOT NULL,
        fastest_ms REAL NOT NULL,
        median_ms REAL NOT NULL
    ) STRICT;
    """,
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[roundtrip]}."""

    probes: Annotated[
        int, msgspec.Meta(ge=1, le=MAX_PROBES, description="probes of one measurement")
    ] = 5
    timeout: Annotated[
        float, msgspec.Meta(ge=0.1, le=600, description="seconds that a measurement may take")
    ] = 10.0


class _Answerers(Factory):
    noisy = False

    def __init__(self, part: RoundtripPart) -> None:
        self._part = part

    def buildProtocol(self, addr: IAddress | None) -> Answerer:
        return Answerer(self._part.reactor, self._part.count_answer)


@implementer(IAdvisesAgents, IToolAliases)
class RoundtripPart(Part):
    """See the module."""

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        self.reactor = context.reactor
        self._config: Config = context.config
        self._rng = context.rng
        self._wall_clock = context.wall_clock
        self._database = context.database
        self._connections = context.connections
        self._peers = context.peers
        self._measured = 0
        self._failed = 0
        self._answered = 0
        # A dict, for its order.
        self._watchers: dict[DeferredQueue[offered.Measured], None] = {}

    # --- what the node asks of a part ---

    def capabilities(self) -> dict[str, IProtocolFactory]:
        return {LABEL: _Answerers(self)}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        return bool(self.running)  # every member of the network

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.MEASURE, self._answer_measure),
            BoundOperation(offered.RESULTS, self._answer_results),
            BoundOperation(offered.WATCH, self._answer_watch),
            BoundOperation(offered.EXPORT, self._answer_export),
            BoundOperation(offered.IMPORT, self._answer_import),
        )

    def status(self) -> offered.RoundtripStatus:
        return offered.RoundtripStatus(self._measured, self._failed, self._answered)

    def advice(self) -> Sequence[str]:
        return () if self._measured else (NOTHING_MEASURED,)

    def aliases(self) -> Sequence[Alias]:
        return ALIASES

    # --- answering others ---

    def count_answer(self) -> None:
        """A probe was sent back."""
        self._answered += 1

    # --- measuring ---

    async def _answer_measure(self, request: offered.Measure) -> offered.Measured:
        key = PublicKey.parse(request.peer)
        address = next((each for each in self._peers.dialable() if each.key == key), None)
        if address is None:
            raise NotFound(
                f"no address of {key.text} is in the book: add one with 'meshkit peer add'"
            )
        try:
            seconds = await self._measure(address)
        except MeshkitError as error:
            self._failed += 1
            self._log.info("{address}: {error}", address=address.text, error=str(error))
            raise
        self._measured += 1
        result = offered.Measured(
            peer=key.text,
            measured_at=self._wall_clock() // 10**9,
            probes=len(seconds),
            fastest_ms=round(min(seconds) * 1000, 3),
            median_ms=round(median(seconds) * 1000, 3),
        )
        await self._database.write(lambda connection: _store(connection, [result]))
        # Who is told may go at once.
        for watcher in list(self._watchers):
            if len(watcher.pending) < MAX_UNREAD:
                watcher.put(result)
        return result

    async def _measure(self, address: MeshAddress) -> list[float]:
        measuring = Deferred.fromCoroutine(self._probe(address))
        measuring.addTimeout(self._config.timeout, self.reactor)
        try:
            return await measuring
        except (DeferredTimeout, ConnectingCancelledError):
            raise offered.NoAnswer(
                f"{address.text} did not answer {self._config.probes} probes within "
                f"{self._config.timeout:g} s"
            ) from None
        except (ConnectError, ConnectionClosed, DNSLookupError) as error:
            raise offered.NoAnswer(f"{address.text} cannot be reached: {error}") from None

    async def _probe(self, address: MeshAddress) -> list[float]:
        prober = Prober(self.reactor, self._rng, self._config.probes)
        endpoint = self._connections.endpoint(address, LABEL)
        # Connected means authenticated: whoever answers owns the key in the address.
        await endpoint.connect(Factory.forProtocol(lambda: prober))
        return await prober.done

    async def _answer_results(self, request: Nothing) -> list[offered.Measured]:
        results: list[offered.Measured] = await self._database.read(_stored)
        return results

    async def _answer_watch(self, request: Nothing) -> AsyncIterator[Item]:
        unread: DeferredQueue[offered.Measured] = DeferredQueue()
        self._watchers[unread] = None
        try:
            while True:
                yield Item(await unread.get())
        finally:
            # Whoever watched has gone.
            del self._watchers[unread]

    async def _answer_export(self, request: Nothing) -> bytes:
        return write_table(await self._database.read(_stored))

    async def _answer_import(self, request: offered.Import) -> offered.Imported:
        results = read_table(request.table)
        await self._database.write(lambda connection: _store(connection, results))
        return offered.Imported(len(results))


def _store(connection: sqlite3.Connection, results: Sequence[offered.Measured]) -> None:
    connection.executemany(
        "INSERT INTO roundtrip_results VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (peer) DO UPDATE SET measured_at = excluded.measured_at,"
        " probes = excluded.probes, fastest_ms = excluded.fastest_ms,"
        " median_ms = excluded.median_ms WHERE excluded.measured_at >= measured_at",
        [(PublicKey.parse(each.peer).raw, *msgspec.structs.astuple(each)[1:]) for each in results],
    )


def _stored(connection: sqlite3.Connection) -> list[offered.Measured]:
    rows: list[Any] = connection.execute(
        "SELECT * FROM roundtrip_results ORDER BY median_ms, peer"
    ).fetchall()
    return [offered.Measured(PublicKey(peer).text, *rest) for peer, *rest in rows]


def make_part(context: PartContext) -> RoundtripPart:
    """Called by the node once."""
    return RoundtripPart(context)
