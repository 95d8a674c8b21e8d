"""
A storage peer without any network: it keeps shares for others in an L{IShardStore
<meshkit.interfaces.IShardStore>}, and proves what it says with its signature::

    keeper = Keeper(store, identity, network_id, reactor=reactor, workers=workers,
                    wall_clock=time.time_ns, config=KeeperConfig(capacity=10**10))
    await keeper.start()
    peer = keeper.for_caller(key)          # IStoragePeer
    await peer.reserve(upload, 0, size, lease_hash(secret))
    await peer.write(upload, 0, 0, block)
    receipt = await peer.close(upload, 0, manifest)

B{What is true at every moment.}  A receipt is signed when the store has said that the share is
durable, and says the root that was computed here of the bytes that came.  What is known about
shares follows from the store alone, and is read from it at the start; reservations, and what
was written under them, are gone then.

B{One thing at a time.}  An upload is written by one thread at a time, and a share is changed
(committed, given leases, taken away) by one, while several may read it.  C{Turns} sees to
that.

B{Who goes away.}  Every Deferred can be cancelled.  A step that touches the disk is then taken
to its end, with all that follows from it here, so that what is counted is what is there.
L{Keeper.stop} waits for these steps.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from meshkit.errors import MeshkitError
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.records import MAX_ADDRESSES
from meshkit.runtime.workers import Workers
from meshkit.storage.header import without_names
from meshkit.storage.keeper.admission import Reception
from meshkit.storage.keeper.caller import PeerForCaller
from meshkit.storage.keeper.capacity import KeeperConfig, Room
from meshkit.storage.keeper.disk import Disk
from meshkit.storage.keeper.index import Index
from meshkit.storage.keeper.intake import Intake
from meshkit.storage.keeper.kept import KeptShares
from meshkit.storage.keeper.locks import Turns
from meshkit.storage.keeper.sampling import KeptSampler
from meshkit.storage.keeper.scrubbing import ROUND_SECONDS, Scrubber
from meshkit.storage.keeper.uploads import Assembly
from meshkit.storage.keeper.works import Works
from meshkit.storage.statements import RECORD_SECONDS, StorageRecord, is_reachable

__all__ = ["Keeper", "KeeperFigures"]

#: Seconds between two looks at what is over: reservations, leases, room on the disk.
UPKEEP_SECONDS: Final = 30.0
#: Nothing is taken away so soon after the start: a peer that was away for long lets its owners
#: come first, and a machine may set its clock only now.
QUIET_SECONDS: Final = 3_600.0
#: Shares that one look takes away, at most.
MAX_COLLECTED: Final = 256
#: A wall clock that went on by so much more than the reactor's was set, and is not believed yet.
MAX_LEAP: Final = 3_600.0


@frozen
class KeeperFigures:
    """
    How a storage peer is doing.

    @ivar config: what it lends.
    @ivar running: it was started, and not stopped.
    @ivar draining: it takes nothing new.
    @ivar shares: that are there.
    @ivar stored: bytes of their files.
    @ivar promised: bytes that are reserved for others.
    @ivar free: bytes that are left for new shares.
    @ivar free_for_repair: those for shares that replace lost ones.
    @ivar disk_free: bytes that the disk has left, if that can be said.
    @ivar owners: how many have something here.
    @ivar uploads: that are open.
    @ivar blocks: bytes of blocks in memory.
    @ivar damaged: shares that were found damaged since the start.
    @ivar collected: those that were taken away as nobody had a lease on them.
    @ivar expired: uploads whose time was over.
    @ivar written: bytes of blocks that were taken.
    @ivar read: bytes of blocks that were given.
    @ivar receipts: that were signed.
    @ivar refused: calls that failed, by code.
    @ivar scrub_rounds: how often all shares were read again.
    @ivar scrubbed: shares that were read again.
    @ivar scrubbed_bytes: bytes of them.
    """

    config: KeeperConfig
    running: bool
    draining: bool
    shares: int
    stored: int
    promised: int
    free: int
    free_for_repair: int
    disk_free: int | None
    owners: int
    uploads: int
    blocks: int
    damaged: int
    collected: int
    expired: int
    written: int
    read: int
    receipts: int
    refused: Mapping[str, int]
    scrub_rounds: int
    scrubbed: int
    scrubbed_bytes: int


class Keeper:
    """
    See the module.

    @ivar key: who signs.
    """

    _log = Logger()

    def __init__(
        self,
        store: Any,
        identity: Identity,
        network_id: bytes,
        *,
        reactor: IReactorTime,
        workers: Workers,
        wall_clock: Callable[[], int],
        config: KeeperConfig | None = None,
        addresses: Callable[[], Sequence[HostPort]] = tuple,
        admission: Any = None,
    ) -> None:
        """
        @param store: L{meshkit.interfaces.IShardStore}; it is opened and closed here.
        @param network_id: of the network, 16 bytes.
        @param workers: are running as long as the keeper does.
        @param wall_clock: nanoseconds since 1970.
        @param config: what is lent; without it nothing.
        @param addresses: asked where we can be reached.
        @param admission: L{meshkit.interfaces.IAdmission}, in place of what the configuration
            says.
        """
        self.key = identity.public
        self._identity = identity
        self._network = network_id
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._addresses = addresses
        self._config = KeeperConfig() if config is None else config
        self._works = Works()
        self._reception = Reception(self._config, admission)
        self._disk = Disk(store, workers)
        self._room = Room(self._config)
        self._index = Index(self._room)
        self._kept, self._intake, self._sampler = self._make()
        self._refused: Counter[str] = Counter()
        self._upkeep = LoopingCall(self._look_after)
        self._upkeep.clock = reactor
        self._scrubber: Scrubber | None = None
        self._sequence = 0
        self._begun = False
        self._opened = False
        self._stopping = False
        self._drained: list[Deferred[None]] = []
        self._left: list[Deferred[None]] = []
        self._quiet_until = 0.0
        # Of the reactor and of the wall, when they were last compared.
        self._clocks = (0.0, 0)

    def _make(self) -> tuple[KeptShares, Intake, KeptSampler]:
        common = self._disk, self._index, Turns(), self._works, self._reception
        kept = KeptShares(*common, self._identity, self._now, self._tell_drained)
        intake = Intake(*common, kept, self._reactor, self._now, self._tell_drained)
        return kept, intake, KeptSampler(*common, kept, self._now)

    # --- its life

    def start(self) -> Deferred[None]:
        """
        Read what is there.

        @return: Deferred that fires when callers may come.  Fails with C{OSError} if the store
            cannot be opened.
        """
        if self._begun:
            raise ValueError("a keeper is started once")
        self._begun = True
        return self._works.finish(self._start())

    async def _start(self) -> None:
        await self._kept.open()
        self._opened = True
        await self._disk.measure()
        if self._stopping:
            return
        now = self._reactor.seconds()
        self._quiet_until = now + QUIET_SECONDS
        self._clocks = now, self._now()
        self._reception.open = True
        self._upkeep.start(UPKEEP_SECONDS, now=False)
        self._scrubber = self._new_scrubber()
        self._scrubber.start()

    def _new_scrubber(self) -> Scrubber:
        marks = ((entry.note.checked, name) for name, entry in self._index.items())
        checked, position = max(marks, default=(0, b""))
        rest = 0
        if not checked:
            position = b""
        elif position == max(self._index):
            # The round was at its end.
            position = b""
            rest = min(ROUND_SECONDS, max(0, checked + ROUND_SECONDS - self._now()))
        return Scrubber(self._reactor, self._kept, lambda: self._config.scrub_rate, position, rest)

    def stop(self) -> Deferred[None]:
        """
        Take what was begun to the end of its step, and nothing more.  What was uploaded and not
        closed is given up.

        @return: Deferred that fires when the store is closed.  It does not fail.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping, self._reception.open = True, False
        if self._upkeep.running:
            self._upkeep.stop()
        if self._scrubber is not None:
            self._scrubber.stop()
        await self._works.settle()
        if self._opened:
            self._opened = False
            try:
                await self._disk.call(self._close_store, self._intake.give_up_all())
            except (MeshkitError, OSError) as e:
                self._log.warn(
                    "the shard store could not be closed: {error}", error=without_names(e)
                )
        self._tell_drained()

    def _close_store(self, left: Sequence[Assembly]) -> None:
        """In a thread."""
        for assembly in left:
            assembly.discard()
        self._disk.store.close()

    def drain(self) -> None:
        """Take nothing new.  What is open may be finished, and what is here can be read."""
        self._reception.draining = True
        self._tell_drained()

    def undrain(self) -> None:
        """Take new shares again."""
        self._reception.draining = False

    def when_drained(self) -> Deferred[None]:
        """@return: Deferred that fires when it takes nothing new, and nothing is open."""
        if self._reception.draining and not self._intake.uploads:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda _: self._drained.remove(waiting))
        self._drained.append(waiting)
        return waiting

    def when_empty(self) -> Deferred[None]:
        """
        @return: Deferred that fires when it takes nothing new, and nothing is here any more; or
            when it has stopped.
        """
        if self._reception.draining and self._empty:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda _: self._left.remove(waiting))
        self._left.append(waiting)
        return waiting

    @property
    def _empty(self) -> bool:
        return self._opened and not self._intake.uploads and not len(self._index)

    def _tell_drained(self) -> None:
        reception, waiting = self._reception, []
        if reception.draining or not reception.open:
            if not self._intake.uploads:
                waiting, self._drained = self._drained, []
            if self._empty or not reception.open:
                waiting, self._left = [*waiting, *self._left], []
        for each in waiting:
            each.callback(None)

    def reconfigure(self, config: KeeperConfig) -> None:
        """Lend something else from now on.  What is kept already stays."""
        self._config = self._room.config = config
        self._reception.configure(config)

    @property
    def config(self) -> KeeperConfig:
        """What is lent."""
        return self._config

    # --- for others

    def for_caller(self, key: PublicKey) -> PeerForCaller:
        """
        @param key: who calls, as the channel or a signature has proved.
        @return: L{meshkit.interfaces.ILocalStoragePeer}.
        """
        return PeerForCaller(self.key, key, self.record, self._intake, self._kept, self._refused)

    @property
    def sampler(self) -> KeptSampler:
        """What is kept, as audits look at it: L{meshkit.interfaces.IShareSampler}."""
        return self._sampler

    def record(self) -> bytes:
        """@return: a fresh L{StorageRecord}, signed, which holds for L{RECORD_SECONDS}."""
        now_ms = self._wall_clock() // 1_000_000
        self._sequence = max(self._sequence + 1, now_ms)
        config, used, free = self._config, self._room.used, self._disk.free
        # What is set aside of nothing is nothing.
        reserved = config.reserved if config.capacity else 0
        headroom = config.headroom_bytes if config.capacity else 0
        capacity = config.capacity
        if free is not None:
            # What the disk does not have is not offered.
            left = max(0, free - self._intake.uploads.to_come)
            capacity = min(capacity, reserved + headroom + used + left)
        places = tuple(place for place in self._addresses() if is_reachable(place))
        now = now_ms // 1000
        return StorageRecord(
            peer=self.key,
            network=self._network,
            sequence=self._sequence,
            issued=now,
            expires=now + RECORD_SECONDS,
            addresses=places[:MAX_ADDRESSES],
            capacity=capacity,
            reserved=reserved,
            headroom=headroom,
            used=used,
            domain=config.domain,
            accepts=self.accepts,
            leaving=self._reception.draining,
        ).sign(self._identity)

    @property
    def accepts(self) -> bool:
        """Does it take new shares?"""
        reception = self._reception
        return reception.open and not reception.draining and self._config.limit(True) > 0

    @property
    def damaged(self) -> OrderedDict[bytes, str]:
        """Shares that were found damaged since the start, by name: where they are now."""
        return self._index.damaged

    def names(self) -> list[bytes]:
        """@return: the names of all shares, sorted."""
        return self._kept.names()

    def figures(self) -> KeeperFigures:
        """@return: how it is doing."""
        room, kept, intake, scrubber = self._room, self._kept, self._intake, self._scrubber
        return KeeperFigures(
            config=self._config,
            running=self._reception.open,
            draining=self._reception.draining,
            shares=len(self._index),
            stored=room.stored,
            promised=room.promised,
            free=room.free(),
            free_for_repair=room.free(True),
            disk_free=self._disk.free,
            owners=room.owners,
            uploads=len(intake.uploads),
            blocks=intake.block_bytes,
            damaged=kept.damaged,
            collected=kept.collected,
            expired=intake.expired,
            written=intake.written_bytes,
            read=kept.read_bytes,
            receipts=kept.receipts,
            refused=dict(self._refused),
            scrub_rounds=scrubber.rounds if scrubber else 0,
            scrubbed=scrubber.checked if scrubber else 0,
            scrubbed_bytes=scrubber.read if scrubber else 0,
        )

    def last_lease_end(self) -> int:
        """
        All notes are looked at: some 0.1 s for a million of shares.

        @return: when the last lease on any of the shares ends, in seconds of Unix time, as
            things are; 0 if there is none.
        """
        now = self._now()
        return max((entry.note.lease_end(now) for _, entry in self._index.items()), default=0)

    def charged(self, key: PublicKey) -> int:
        """@return: bytes that an owner is charged for."""
        return self._room.charged(key.raw)

    # --- upkeep

    async def _look_after(self) -> None:
        self._intake.give_up_expired()
        try:
            await self._works.finish(self._disk.measure())
            if self._reactor.seconds() >= self._quiet_until and self._clocks_agree():
                await self._works.finish(self._kept.collect(MAX_COLLECTED))
        except (MeshkitError, OSError) as e:
            self._log.warn(
                "the shard store cannot be looked after: {error}", error=without_names(e)
            )
        except Exception:
            self._log.failure("looking after the shard store failed")

    def _clocks_agree(self) -> bool:
        """Was the wall clock not set forward since the last look?"""
        (then, wall_then), now, wall = self._clocks, self._reactor.seconds(), self._now()
        self._clocks = now, wall
        ahead = (wall - wall_then) - (now - then)
        if ahead <= MAX_LEAP:
            return True
        self._log.warn(
            "the clock was set forward by {seconds} seconds: no share is taken away now",
            seconds=int(ahead),
        )
        self._quiet_until = now + QUIET_SECONDS
        return False

    def _now(self) -> int:
        """Seconds of Unix time."""
        return self._wall_clock() // 1_000_000_000
