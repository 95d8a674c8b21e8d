"""Keepers over memory, under virtual time, and callers who have objects to be kept."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, Final, TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from meshkit.identity.keys import PublicKey
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import lease_hash
from meshkit.testing.identities import DAY_NS, make_identity
from tests.storage.objects import SMALL, make_header
from tests.storage.shelves import Shelf, text_of

T = TypeVar("T")

NETWORK: Final = bytes(16)
ALICE: Final = make_identity("alice").public
BOB: Final = make_identity("bob").public
SECRET: Final = bytes(range(32))
OTHER_SECRET: Final = bytes(32)


@cache
def shelf(length: int = 50_000, seed: int = 1, scheme: Scheme = SMALL) -> Shelf:
    """An object of its own for each seed.  It is the same one each time: do not change it."""
    return Shelf(text_of(length, seed), scheme, header=make_header(scheme, seed))


class Keeping:
    """
    A keeper, its store and its time.

    @ivar store: what outlives the keeper.
    @ivar keeper: the one that runs now.
    @ivar offset: seconds by which the wall clock is ahead of the reactor's.
    """

    def __init__(self, config: KeeperConfig | None = None, store: Any = None, **more: Any) -> None:
        self.clock = Clock()
        self.offset = 0
        self.store = MemoryShardStore() if store is None else store
        self.config = KeeperConfig(10_000_000, scrub_rate=0) if config is None else config
        self.more = more
        self.workers = InlineWorkers(self.clock, 2, name="test")
        self.workers.startService()
        self.keeper = self.make()

    def make(self) -> Keeper:
        return Keeper(
            self.store,
            make_identity("keeper"),
            NETWORK,
            reactor=self.clock,
            workers=self.workers,
            wall_clock=self.wall_ns,
            config=self.config,
            **self.more,
        )

    def wall_ns(self) -> int:
        return DAY_NS + int((self.clock.seconds() + self.offset) * 1e9)

    def now(self) -> int:
        return self.wall_ns() // 10**9

    def start(self) -> Keeping:
        self.done(self.keeper.start())
        return self

    def run(self) -> None:
        """Let everything happen that can without time passing."""
        self.clock.advance(0)

    def tick(self) -> None:
        """Let one thing happen, such as one call of a thread."""
        calls = self.clock.calls
        calls.sort(key=lambda call: call.getTime())
        if calls and calls[0].getTime() <= self.clock.seconds():
            call = calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)

    def advance(self, seconds: float, step: float | None = None) -> None:
        """
        Let time pass, and what comes with it.

        @param step: seconds that pass at once; by default as many as nothing happens in.
        """
        until = self.clock.seconds() + seconds
        while (left := until - self.clock.seconds()) > 1e-6:
            if step is not None:
                self.clock.advance(min(step, left))
                self.run()
                continue
            calls = [call.getTime() for call in self.clock.getDelayedCalls()]
            self.clock.advance(max(0, min([*calls, until]) - self.clock.seconds()))
        self.run()

    def done(self, deferred: Deferred[T]) -> T:
        """@return: what comes of it without time passing."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.run()
        if not results:
            raise AssertionError("nothing came of it")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def fails(self, deferred: Deferred[Any], *kinds: type[Exception]) -> Any:
        """@return: the error it fails with, which is one of these."""
        try:
            result = self.done(deferred)
        except kinds as e:
            return e
        raise AssertionError(f"it came to {result!r}")

    def crash(self) -> None:
        """The process is killed; what the store says that is durable is there."""
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()
        self.store.close()
        self.workers = InlineWorkers(self.clock, 2, name="test")
        self.workers.startService()
        self.keeper = self.make()
        self.start()

    def stop(self) -> None:
        self.done(self.keeper.stop())

    def peer(self, caller: PublicKey = ALICE) -> Any:
        return self.keeper.for_caller(caller)

    def problems(self, idle: bool = True) -> list[str]:
        """
        @param idle: nothing is under way, and nothing is open.
        @return: where what the keeper counts is not what is there.
        """
        figures, shards = self.keeper.figures(), self.store.open()
        notes = [(shard.size, ShardNote.decode(shard.note)) for shard in shards]
        owed: Counter[bytes] = Counter()
        for size, note in notes:
            for account in note.accounts:
                owed[account] += size
        facts = {
            "shares": (figures.shares, len(shards)),
            "stored": (figures.stored, sum(size for size, _ in notes)),
        }
        if idle:
            facts |= {
                "promised": (figures.promised, 0),
                "uploads": (figures.uploads, 0),
                "blocks": (figures.blocks, 0),
                "owners": (figures.owners, len(owed)),
                "writers": (len(self.store._writers), 0),
            }
            for account, amount in owed.items():
                facts[f"charged {account.hex()[:8]}"] = (
                    self.keeper.charged(PublicKey(account)),
                    amount,
                )
        return [f"{what}: {said}, not {is_}" for what, (said, is_) in facts.items() if said != is_]

    # --- what callers do

    def reserve(
        self,
        of: Shelf,
        number: int = 0,
        caller: PublicKey = ALICE,
        secret: bytes = SECRET,
        **more: Any,
    ) -> Any:
        size = more.pop("size", len(of.shares[number]))
        lease = lease_hash(secret)
        return self.peer(caller).reserve(of.header.upload, number, size, lease, **more)

    def send(
        self, of: Shelf, number: int = 0, caller: PublicKey = ALICE, blocks: range | None = None
    ) -> None:
        """Send the blocks of a share, all of them by default."""
        for segment in range(of.layout.segments) if blocks is None else blocks:
            self.done(self.write(of, segment, number, caller))

    def write(
        self, of: Shelf, segment: int, number: int = 0, caller: PublicKey = ALICE
    ) -> Deferred[None]:
        return self.peer(caller).write(  # type: ignore[no-any-return]
            of.header.upload, number, segment, block_of(of, segment, number)
        )

    def close(
        self, of: Shelf, number: int = 0, caller: PublicKey = ALICE, manifest: bytes | None = None
    ) -> Deferred[bytes]:
        raw = of.manifest.raw if manifest is None else manifest
        return self.peer(caller).close(of.header.upload, number, raw)  # type: ignore[no-any-return]

    def put(
        self,
        of: Shelf,
        number: int = 0,
        caller: PublicKey = ALICE,
        secret: bytes = SECRET,
        **more: Any,
    ) -> Receipt:
        """Have a share kept."""
        reservation = self.done(self.reserve(of, number, caller, secret, **more))
        if not reservation.complete:
            self.send(of, number, caller)
        return Receipt.open(self.done(self.close(of, number, caller)), self.keeper.key)

    def put_on(self, of: Shelf, number: int) -> None:
        """Have a share kept, from wherever that has come to."""
        reservation = self.done(self.reserve(of, number))
        if not reservation.complete:
            blocks = range(reservation.next_segment, of.layout.segments)
            self.send(of, number, blocks=blocks)
        self.done(self.close(of, number))

    def reconfigure(self, **changes: Any) -> None:
        self.config = evolve(self.config, **changes)
        self.keeper.reconfigure(self.config)


def block_of(of: Shelf, segment: int, number: int = 0) -> bytes:
    at, length = of.layout.block_at(segment), of.layout.block_bytes(segment)
    return bytes(of.shares[number][at : at + length])
