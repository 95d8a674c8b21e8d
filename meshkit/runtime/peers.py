"""
The peer book: which addresses this node may dial, and what it knows of them.

Addresses come from the configuration or are added at the door; the added ones are
kept in the database.  Others are I{heard}: a part passes on what nodes say of themselves,
for as long as they say it.  They are dialled likewise, and nothing follows from being
heard.  What happened with an address (connected, failed, in step) is kept in memory, for
C{peer list} and C{status}.

For a bare C{HOST:PORT} the key that was first seen there is I{pinned}: kept in the
database, and used from then on.  A pin outlives its address in the book, so that
removing and adding an address is no way to trust another key; only L{PeerBook.repin}
replaces it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    UnknownHostError,
)
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.errors import (
    ConfigError,
    HostUnknown,
    NotFound,
    Overloaded,
    PeerKeyChanged,
    PeerKeyRefused,
    PeerUnreachable,
)
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IPeerBook
from meshkit.parts import shield
from meshkit.runtime.ledger import MIGRATIONS as LEDGER_MIGRATIONS
from meshkit.runtime.ledger import Ledger

#: How many addresses may be added by hand.
MAX_ADDED: Final = 1_000
#: How many addresses may be heard at a time, from each source.
MAX_HEARD: Final = 256
#: How many pins are kept.  Those that no address in the book uses make room, oldest first.
MAX_PINS: Final = 2_000

#: How the pinned key came to be trusted: nobody had vouched for it, or a person did.
FIRST_USE: Final = "first use"
BY_HAND: Final = "by hand"

#: Sources of addresses that the operator has named.
CONFIG: Final = "config"
MANUAL: Final = "manual"
_NAMED: Final = (CONFIG, MANUAL)

#: Of the node itself, in L{meshkit.runtime.tables}.
MIGRATIONS: Final = (
    """
    CREATE TABLE node_peers (
        address TEXT PRIMARY KEY,
        added_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE node_pins (
        place TEXT PRIMARY KEY,
        key BLOB NOT NULL,
        pinned_ns INTEGER NOT NULL,
        how TEXT NOT NULL
    ) STRICT;
    """,
    *LEDGER_MIGRATIONS,
)


@frozen
class Pin:
    """
    The key that is expected at a bare address.

    @ivar pinned_ns: wall clock.
    @ivar how: L{FIRST_USE} or L{BY_HAND}.
    """

    key: PublicKey
    pinned_ns: int
    how: str


@define
class Unknown:
    """
    A configured C{HOST:PORT} whose key nobody has told yet.

    @ivar last_error: C{"CODE: sentence"} of the last attempt to ask.
    @ivar failures: attempts that failed.
    """

    place: HostPort
    last_error: str | None = None
    failures: int = 0

    def note_failed(self, error: BaseException) -> None:
        """Record why the key could not be had."""
        self.failures += 1
        self.last_error = _describe(error)


@define
class PeerEntry:
    """
    One address and what this node knows of it.

    @ivar source: C{config}, C{manual}, or from where it was heard.
    @ivar connected: a channel to it is open now.
    @ivar last_connected_ns: wall clock, when the last channel was opened.
    @ivar last_error: C{"CODE: sentence"} of the last failure, until it works again.
    @ivar failures: failures since it last worked.
    @ivar pin: how its key came to be expected there; L{None} if it stood in the address
        that was given.
    @ivar changed: another key was found there, which is why the pinned one is refused.
    """

    address: MeshAddress
    source: str
    connected: bool = False
    last_connected_ns: int | None = None
    last_error: str | None = None
    failures: int = 0
    pin: Pin | None = None
    changed: PeerKeyChanged | None = None


def changed_key(place: HostPort, pinned: PublicKey, told: PublicKey) -> PeerKeyChanged:
    """The error for a place where another key answers than the one that is pinned."""
    return PeerKeyChanged(
        f"the key at {place} has changed: {pinned.text} is pinned, {told.text} answers; if its "
        f"owner confirms the new one, accept it with 'meshkit peer repin {place}'"
    )


def _code(error: BaseException) -> str:
    code: str = getattr(error, "code", type(error).__name__)
    return code


def _is_refusal(error: BaseException) -> bool:
    """Did the handshake fail at the peer's key?"""
    return isinstance(error, PeerKeyRefused)


def _describe(error: BaseException) -> str:
    return f"{_code(error)}: {error}"


def named_error(place: HostPort, error: BaseException) -> BaseException:
    """An error of ours in place of what Twisted says about a connection that was not made."""
    reason = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, (DNSLookupError, UnknownHostError)):
        return HostUnknown(
            f"{place.host} does not resolve ({reason}): check its spelling, and the DNS here"
        )
    if isinstance(error, (ConnectError, ConnectionClosed, OSError)):
        return PeerUnreachable(
            f"{place} cannot be reached ({reason}): check the address, and that the "
            f"node there is running"
        )
    return error


@implementer(IPeerBook)
@define
class PeerBook:
    """
    See the module.  Call L{load} once the database runs.

    @ivar database: L{meshkit.runtime.database.Database}.
    @ivar wall_clock: nanoseconds since 1970.
    @ivar ledger: how the peers behave.
    @ivar on_key_refused: called with the entry of a pinned key that was refused: there
        may be another one by now.
    """

    _log: ClassVar[Logger] = Logger()

    database: Any
    wall_clock: Callable[[], int]
    on_key_refused: Callable[[PeerEntry], None] | None = field(default=None, init=False)
    ledger: Ledger = field(init=False)
    _entries: dict[str, PeerEntry] = field(factory=dict, init=False)
    _pins: dict[str, Pin] = field(factory=dict, init=False)
    _unknown: dict[str, Unknown] = field(factory=dict, init=False)
    # Source -> text of an address -> the address.
    _heard: dict[str, dict[str, MeshAddress]] = field(factory=dict, init=False)
    _watchers: list[Callable[[], None]] = field(factory=list, init=False)
    _link_watchers: list[Callable[[PeerEntry], None]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = Ledger(self.database, self.wall_clock)

    def configure(self, addresses: Iterable[MeshAddress]) -> None:
        """Take over the addresses of the configuration."""
        for address in addresses:
            self._entries[address.text] = PeerEntry(address, CONFIG)

    def configure_bare(self, places: Iterable[HostPort]) -> None:
        """Take over the addresses of the configuration that name no key."""
        for place in places:
            self._unknown[place.text] = Unknown(place)

    def load(self) -> Deferred[None]:
        """@return: Deferred that fires when the addresses in the database are known."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        await self.ledger.load()
        for place, key, pinned_ns, how in await self.database.read(_all_pins):
            self._pins[place] = Pin(PublicKey(key), pinned_ns, how)
        rows = await self.database.read(_all_addresses)
        for (text,) in rows:
            if not self._is_named(text):
                self._enter(MeshAddress.parse(text), MANUAL)
        for unknown in list(self._unknown.values()):
            pin = self._pins.get(unknown.place.text)
            if pin is not None:
                self._known(unknown.place, pin.key)
        self._changed()

    def _enter(self, address: MeshAddress, source: str) -> PeerEntry:
        # At a relay's place the relay is pinned, if anybody is.
        pin = None if address.via is not None else self._pins.get(address.place.text)
        if pin is not None and pin.key != address.key:
            pin = None
        known = self._entries.get(address.text)
        if known is not None:
            # It was heard, and is named now, or the other way round.
            known.source, known.pin = source, pin
            return known
        entry = self._entries[address.text] = PeerEntry(address, source, pin=pin)
        return entry

    def _is_named(self, text: str) -> bool:
        entry = self._entries.get(text)
        return entry is not None and entry.source in _NAMED

    def _heard_from(self, text: str) -> str | None:
        """@return: the first source that has told an address, of those that still tell it."""
        return next((source for source, told in self._heard.items() if text in told), None)

    def _let_go(self, text: str) -> None:
        """Nobody names this address any more: keep it only if it is heard."""
        entry = self._entries[text]
        source = self._heard_from(text)
        if source is None:
            del self._entries[text]
        else:
            entry.source = source

    def _known(self, place: HostPort, key: PublicKey) -> PeerEntry:
        """A configured place has a key now."""
        del self._unknown[place.text]
        return self._enter(MeshAddress(place.host, place.port, key), CONFIG)

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back whenever the set of addresses may have changed."""
        self._watchers.append(callback)

    def watch_links(self, callback: Callable[[PeerEntry], None]) -> None:
        self._link_watchers.append(callback)

    def entries(self) -> list[PeerEntry]:
        """Every address, sorted by its text."""
        return [self._entries[text] for text in sorted(self._entries)]

    def unknown(self) -> list[Unknown]:
        """The configured places whose key nobody has told yet, sorted by their text."""
        return [self._unknown[text] for text in sorted(self._unknown)]

    def pin(self, place: HostPort) -> Pin | None:
        """What is pinned at a place."""
        return self._pins.get(place.text)

    def find(self, address: MeshAddress | HostPort) -> MeshAddress | None:
        """@return: the address in the book that is meant; for a bare one, the pinned one."""
        if isinstance(address, HostPort):
            pin = self._pins.get(address.text)
            if pin is None:
                return None
            address = MeshAddress(address.host, address.port, pin.key)
        return address if address.text in self._entries else None

    def dialable(self) -> list[MeshAddress]:
        return [entry.address for entry in self.entries()]

    def named(self) -> list[MeshAddress]:
        return [entry.address for entry in self.entries() if entry.source in _NAMED]

    def hear(self, source: str, addresses: Iterable[MeshAddress]) -> None:
        told = {address.text: address for address in addresses}
        if len(told) > MAX_HEARD:
            told = {text: told[text] for text in sorted(told)[:MAX_HEARD]}
        before = self._heard.pop(source, {})
        if told:
            self._heard[source] = told
        for text in before:
            if text not in told and not self._is_named(text):
                self._let_go(text)
        for text, address in told.items():
            if text not in self._entries:
                self._enter(address, source)
        if told != before:
            self._changed()

    def add(self, address: MeshAddress) -> Deferred[PeerEntry]:
        """
        Add an address by hand.  Adding one that is known changes nothing.

        @return: Deferred of its entry, fired when it is on the disk; fails with
            L{Overloaded} when the book is full.
        """
        return shield(self._add(address))

    async def _add(self, address: MeshAddress) -> PeerEntry:
        if self._is_named(address.text):
            return self._entries[address.text]
        self._check_pin(address)
        now = self.wall_clock()
        await self.database.write(lambda connection: _insert(connection, address.text, now))
        if not self._is_named(address.text):
            self._enter(address, MANUAL)
        self._changed()
        return self._entries[address.text]

    def _check_pin(self, address: MeshAddress) -> None:
        pin = None if address.via is not None else self._pins.get(address.place.text)
        if pin is not None and pin.key != address.key:
            raise changed_key(address.place, pin.key, address.key)

    def add_pinned(self, address: MeshAddress) -> Deferred[PeerEntry]:
        """
        Add an address whose key is trusted because it was the first to be seen there.
        One that was configured without a key is no longer unknown after that.

        @return: Deferred of its entry, fired when it is on the disk; fails with
            L{PeerKeyChanged} if another key is pinned there, or with L{Overloaded}.
        """
        return shield(self._add_pinned(address))

    async def _add_pinned(self, address: MeshAddress) -> PeerEntry:
        self._check_pin(address)
        configured = address.place.text in self._unknown
        in_use = self._places_in_use()
        pin = Pin(address.key, self.wall_clock(), FIRST_USE)

        def job(connection: sqlite3.Connection) -> str | None:
            # Somebody else may be doing the same at this moment.
            rows = connection.execute(
                "SELECT key FROM node_pins WHERE place = ?", (address.place.text,)
            ).fetchall()
            if rows and rows[0][0] != address.key.raw:
                raise changed_key(address.place, PublicKey(rows[0][0]), address.key)
            if not configured and not self._is_named(address.text):
                _insert(connection, address.text, pin.pinned_ns)
            return None if rows else _pin(connection, address.place.text, pin, in_use)

        if address.place.text not in self._pins:
            forgotten = await self.database.write(job)
            self._pins.setdefault(address.place.text, pin)
            self._pins.pop(forgotten, None)
        elif not configured:
            return await self._add(address)
        if address.place.text in self._unknown:
            self._known(address.place, address.key)
        if not self._is_named(address.text):
            self._enter(address, MANUAL)
        self._changed()
        return self._entries[address.text]

    def repin(self, address: MeshAddress) -> Deferred[PublicKey | None]:
        """
        Expect another key at a place from now on.  An address of the book with the pinned
        key is replaced.

        @return: Deferred of the key that was pinned, fired when the change is on the disk.
        """
        return shield(self._repin(address))

    async def _repin(self, address: MeshAddress) -> PublicKey | None:
        place = address.place
        before = self._pins.get(place.text)
        old = None if before is None else MeshAddress(place.host, place.port, before.key)
        entry = self._entries.get(old.text) if old and self._is_named(old.text) else None
        source = None if entry is None else entry.source
        in_use = self._places_in_use()
        pin = Pin(address.key, self.wall_clock(), BY_HAND)

        def job(connection: sqlite3.Connection) -> str | None:
            if old is not None and source == MANUAL:
                _delete(connection, old.text)
                _insert(connection, address.text, pin.pinned_ns)
            return _pin(connection, place.text, pin, in_use)

        forgotten = await self.database.write(job)
        self._pins[place.text] = pin
        self._pins.pop(forgotten, None)
        if place.text in self._unknown:
            self._known(place, address.key)
        elif old is not None and source is not None:
            if self._is_named(old.text):
                self._let_go(old.text)
            self._enter(address, source)
        elif address.text in self._entries:
            self._entries[address.text].pin = pin
        self._changed()
        return None if before is None else before.key

    def _places_in_use(self) -> list[str]:
        return [entry.address.place.text for entry in self._entries.values()]

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
        if known.source not in _NAMED:
            raise ConfigError(
                f"{address.text} is heard from {known.source!r} and dialled for as long as it "
                f"is: to have nothing to do with that peer, block its key"
            )
        if known.source == CONFIG:
            raise ConfigError(
                f"{address.text} is one of the configured peers: take it out of the setting "
                f"'peers' and restart the node"
            )
        await self.database.write(lambda connection: _delete(connection, address.text))
        if address.text in self._entries:
            self._let_go(address.text)
        self._changed()

    def note_connected(self, address: MeshAddress) -> None:
        entry = self._entries.get(address.text)
        if entry is not None:
            entry.connected = True
            entry.last_connected_ns = self.wall_clock()
            entry.last_error = None
            entry.changed = None
            entry.failures = 0
            self.ledger.heard(address.key)
            self._link_changed(entry)

    def note_disconnected(self, address: MeshAddress) -> None:
        entry = self._entries.get(address.text)
        if entry is not None:
            entry.connected = False
            self._link_changed(entry)

    def note_failed(self, address: MeshAddress, error: BaseException) -> None:
        entry = self._entries.get(address.text)
        if entry is not None:
            entry.connected = False
            entry.failures += 1
            named = named_error(address.place, error)
            if _is_refusal(error) and entry.changed is not None:
                named = entry.changed
            before, entry.last_error = entry.last_error, _describe(named)
            if before is None or before.partition(":")[0] != _code(named):
                # Once, and not at every attempt.
                self._log.info(
                    "{address} failed: {code}: {error}",
                    address=address.text,
                    code=_code(named),
                    error=str(named),
                )
            if entry.pin is not None and _is_refusal(error) and self.on_key_refused is not None:
                self.on_key_refused(entry)
            self._link_changed(entry)

    def note_changed(self, entry: PeerEntry, error: PeerKeyChanged) -> None:
        """Record that another key answers where one is pinned, until it works again."""
        entry.changed = error
        entry.last_error = _describe(error)

    def _changed(self) -> None:
        for watcher in list(self._watchers):
            watcher()

    def _link_changed(self, entry: PeerEntry) -> None:
        for watcher in list(self._link_watchers):
            watcher(entry)


def _all_addresses(connection: sqlite3.Connection) -> list[tuple[str]]:
    return connection.execute("SELECT address FROM node_peers ORDER BY address").fetchall()


def remember(connection: sqlite3.Connection, address: MeshAddress, now_ns: int) -> None:
    """
    Have an address dialled from the next start on, as one that was added by hand.

    @raise Overloaded: if the book is full.
    """
    _insert(connection, address.text, now_ns)


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


def _all_pins(connection: sqlite3.Connection) -> list[tuple[str, bytes, int, str]]:
    return connection.execute(
        "SELECT place, key, pinned_ns, how FROM node_pins ORDER BY place"
    ).fetchall()


def _pin(connection: sqlite3.Connection, place: str, pin: Pin, in_use: list[str]) -> str | None:
    """@return: the place whose pin made room for this one."""
    connection.execute(
        "INSERT INTO node_pins VALUES (?, ?, ?, ?) ON CONFLICT (place) DO UPDATE SET"
        " key = excluded.key, pinned_ns = excluded.pinned_ns, how = excluded.how",
        (place, pin.key.raw, pin.pinned_ns, pin.how),
    )
    (count,) = connection.execute("SELECT count(*) FROM node_pins").fetchone()
    if count <= MAX_PINS:
        return None
    kept = {*in_use, place}
    rows = connection.execute("SELECT place FROM node_pins ORDER BY pinned_ns, place").fetchall()
    for (other,) in rows:
        if other not in kept:
            connection.execute("DELETE FROM node_pins WHERE place = ?", (other,))
            return str(other)
    raise Overloaded(
        f"{MAX_PINS} addresses are pinned already: write the whole address, as 'meshkit id' "
        f"prints it there"
    )
