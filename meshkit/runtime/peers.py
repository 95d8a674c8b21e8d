"""
The peer book: which addresses this node may dial, and what it knows of them.

Addresses come from the configuration or are added at the door; the added ones are
kept in the database.  What happened with an address (connected, failed, in step) is
kept in memory, for C{peer list} and C{status}.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshkit.errors import ConfigError, NotFound, Overloaded
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import IPeerBook
from meshkit.parts import shield

#: How many addresses may be added by hand.
MAX_ADDED: Final = 1_000

#: The tables of the node itself.
MIGRATIONS: Final = (
    """
    CREATE TABLE node_peers (
        address TEXT PRIMARY KEY,
        added_ns INTEGER NOT NULL
    ) STRICT;
    """,
)


@define
class PeerEntry:
    """
    One address and what this node knows of it.

    @ivar source: C{config} or C{manual}.
    @ivar connected: a channel to it is open now.
    @ivar last_connected_ns: wall clock, when the last channel was opened.
    @ivar last_error: C{"CODE: sentence"} of the last failure, until it works again.
    @ivar failures: failures since it last worked.
    """

    address: MeshAddress
    source: str
    connected: bool = False
    last_connected_ns: int | None = None
    last_error: str | None = None
    failures: int = 0


@implementer(IPeerBook)
@define
class PeerBook:
    """
    See the module.  Call L{load} once the database runs.

    @ivar database: L{meshkit.runtime.database.Database}.
    @ivar wall_clock: nanoseconds since 1970.
    """

    database: Any
    wall_clock: Callable[[], int]
    _entries: dict[str, PeerEntry] = field(factory=dict, init=False)
    _watchers: list[Callable[[], None]] = field(factory=list, init=False)

    def configure(self, addresses: Iterable[MeshAddress]) -> None:
        """Take over the addresses of the configuration."""
        for address in addresses:
            self._entries[address.text] = PeerEntry(address, "config")

    def load(self) -> Deferred[None]:
        """@return: Deferred that fires when the addresses in the database are known."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        rows = await self.database.read(_all_addresses)
        for (text,) in rows:
            if text not in self._entries:
                self._entries[text] = PeerEntry(MeshAddress.parse(text), "manual")
        self._changed()

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back whenever the set of addresses may have changed."""
        self._watchers.append(callback)

    def entries(self) -> list[PeerEntry]:
        """Every address, sorted by its text."""
        return [self._entries[text] for text in sorted(self._entries)]

    def dialable(self) -> list[MeshAddress]:
        return [entry.address for entry in self.entries()]

    def add(self, address: MeshAddress) -> Deferred[PeerEntry]:
        """
        Add an address by hand.  Adding one that is known changes nothing.

        @return: Deferred of its entry, fired when it is on the disk; fails with
            L{Overloaded} when the book is full.
        """
        return shield(self._add(address))

    async def _add(self, address: MeshAddress) -> PeerEntry:
        known = self._entries.get(address.text)
        if known is not None:
            return known
        now = self.wall_clock()
        await self.database.write(lambda connection: _insert(connection, address.text, now))
        entry = self._entries.setdefault(address.text, PeerEntry(address, "manual"))
        self._changed()
        return entry

    def remove(self, address: MeshAddress) -> Deferred[None]:
        """
        Forget an address.

        @return: Deferred fired when that is on the disk; fails with L{NotFound}, or with
            L{ConfigError} for one that the next start would bring back.
        """
        return shield(self._remove(address))

    async def _remove(self, address: MeshAddress) -> None:
        known = self._entries.get(address.text)
        if known is None:
            raise NotFound(f"{address.text} is not in the peer book: see 'meshkit peer list'")
        if known.source == "config":
            raise ConfigError(
                f"{address.text} is one of the configured peers: take it out of the setting "
                f"'peers' and restart the node"
            )
        await self.database.write(lambda connection: _delete(connection, address.text))
        self._entries.pop(address.text, None)
        self._changed()

    def note_connected(self, address: MeshAddress) -> None:
        entry = self._entries.get(address.text)
        if entry is not None:
            entry.connected = True
            entry.last_connected_ns = self.wall_clock()
            entry.last_error = None
            entry.failures = 0

    def note_disconnected(self, address: MeshAddress) -> None:
        entry = self._entries.get(address.text)
        if entry is not None:
            entry.connected = False

    def note_failed(self, address: MeshAddress, error: BaseException) -> None:
        entry = self._entries.get(address.text)
        if entry is not None:
            code = getattr(error, "code", type(error).__name__)
            entry.connected = False
            entry.failures += 1
            entry.last_error = f"{code}: {error}"

    def _changed(self) -> None:
        for watcher in list(self._watchers):
            watcher()


def _all_addresses(connection: sqlite3.Connection) -> list[tuple[str]]:
    return connection.execute("SELECT address FROM node_peers ORDER BY address").fetchall()


def _insert(connection: sqlite3.Connection, text: str, now_ns: int) -> None:
    # Counted here, where nobody else can add one at the same moment.
    (count,) = connection.execute("SELECT count(*) FROM node_peers").fetchone()
    if count >= MAX_ADDED:
        raise Overloaded(
            f"the peer book is full ({MAX_ADDED} addresses): remove one with 'meshkit peer rm'"
        )
    connection.execute("INSERT OR IGNORE INTO node_peers VALUES (?, ?)", (text, now_ns))


def _delete(connection: sqlite3.Connection, text: str) -> None:
    connection.execute("DELETE FROM node_peers WHERE address = ?", (text,))
