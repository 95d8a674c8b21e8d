"""What was promised is there after any crash: keepers over files on a disk that loses power."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import LeaseUnknown, MeshkitError, ShareUnknown
from meshkit.sim.disk import PowerLost, SimSystem
from meshkit.storage.encoding import SegmentReader
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.files import FileShardStore
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import lease_hash
from tests.storage.keeper.keepers import ALICE, BOB, OTHER_SECRET, SECRET, Keeping, shelf
from tests.storage.shelves import Shelf

TINY = Scheme(1, 2, 4096)
OBJECTS = [shelf(9_000, seed=seed, scheme=TINY) for seed in (1, 2)]
WHO = ((ALICE, SECRET), (BOB, OTHER_SECRET))
CONFIG = KeeperConfig(10**7, scrub_rate=0)


class Life:
    """
    A storage peer whose machine stops at a moment, and starts again.

    @ivar promised: the leases that it has given receipts for and nobody has given up, by share
        and hash: their ends.
    @ivar problems: what is wrong, in sentences.
    """

    def __init__(self, seed: int, store: Any = FileShardStore) -> None:
        self.draw = Random(seed)
        self.system = SimSystem(Random(seed + 1))
        self.promised: dict[tuple[bytes, bytes], int] = {}
        self.problems: list[str] = []
        self._store = store
        self.keeping = self.keep()

    def keep(self) -> Keeping:
        return Keeping(CONFIG, self._store("/peer", self.system))

    def live(self, verbs: Sequence[str], calls: int) -> bool:
        """
        @param verbs: what is done, one after the other, with what is drawn.
        @param calls: of the system, after which the machine stops.
        @return: whether it stopped.
        """
        self.system.stop_before(calls)
        try:
            self.keeping.start()
            for verb in verbs:
                self.step(verb)
        except PowerLost:
            self.system.crash()
            return True
        self.system.crash()
        return False

    def step(self, verb: str) -> None:
        of = self.draw.choice(OBJECTS)
        number = self.draw.randrange(2)
        caller, secret = self.draw.choice(WHO)
        name = of.header.share_id(number)
        peer = self.keeping.peer(caller)
        try:
            if verb == "put":
                self.put(of, number, caller, secret)
            elif verb == "renew":
                self.note(Receipt.open(self.keeping.done(peer.renew(name, secret)), peer.key))
            elif verb == "release":
                for lease in [key for key in self.promised if key[0] == name]:
                    # From here on it may be gone.
                    if lease[1] == lease_hash(secret):
                        del self.promised[lease]
                self.keeping.done(peer.release(name, secret))
            else:
                self.keeping.done(self.keeping.reserve(of, number, caller, secret))
                self.keeping.done(peer.abort(of.header.upload, number))
        except (ShareUnknown, LeaseUnknown):
            pass
        self.keeping.clock.advance(60)
        self.keeping.run()

    def put(self, of: Shelf, number: int, caller: Any, secret: bytes) -> None:
        self.note(self.keeping.put(of, number, caller, secret))

    def note(self, receipt: Receipt) -> None:
        self.promised[receipt.share, receipt.lease] = receipt.lease_end

    def check(self) -> None:
        """Start once more, and see whether all that was promised is there."""
        self.system.mend()
        clock = self.keeping.clock
        self.keeping = self.keep()
        self.keeping.offset = int(clock.seconds())
        self.keeping.start()
        keeper = self.keeping.keeper
        for (share, lease), end in self.promised.items():
            try:
                self.keeping.done(self.keeping.peer().stat(share))
            except MeshkitError as e:
                self.problems.append(f"{share[:4]!r} was promised: {e}")
                continue
            given = keeper._index.get(share).note.find(lease)
            if given is None or given.end < end:
                self.problems.append(f"{share[:4]!r} has not the lease that was promised")
            self.read(share)
        for share in keeper.names():
            self.read(share)
        self.problems += self.keeping.problems()
        if keeper.figures().damaged:
            self.problems.append("something was put aside")

    def read(self, share: bytes) -> None:
        of, number = next(
            (of, n) for of in OBJECTS for n in range(2) if of.header.share_id(n) == share
        )
        for segment in range(of.layout.segments):
            piece = self.keeping.done(self.keeping.peer().read(share, segment))
            SegmentReader(of.manifest, of.codec).check(segment, number, piece)


def verbs(draw: Random) -> list[str]:
    """@return: what somebody might do."""
    return [draw.choice(["put", "put", "put", "renew", "release", "abort"]) for _ in range(6)]


#: With the seed 3 each of them has something to do.
VERBS = ["put", "put", "put", "renew", "release", "abort", "put"]


class CrashTests(SynchronousTestCase):
    def check(
        self, seed: int, what: Sequence[str], calls: int, store: Any = FileShardStore
    ) -> Life:
        life = Life(seed, store)
        life.live(what, calls)
        life.check()
        self.flushLoggedErrors(PowerLost)
        return life

    def test_whatever_was_promised_is_there_whenever_the_machine_stops(self) -> None:
        life = Life(3)
        self.assertFalse(life.live(VERBS, 1 << 30))
        promised = set()
        for calls in range(1, life.system.calls):
            life = self.check(3, VERBS, calls)
            self.assertEqual(life.problems, [], f"before call {calls}")
            promised.add(len(life.promised))
        self.assertGreaterEqual(promised, {0, 1, 2, 3})

    def test_any_life_may_end_at_any_moment(self) -> None:
        draw, promised = Random(7), 0
        for seed in range(60):
            life = self.check(seed, verbs(draw), draw.randrange(250))
            self.assertEqual(life.problems, [], f"seed {seed}")
            promised += len(life.promised)
        self.assertGreater(promised, 60)

    def test_a_store_that_does_not_sync_is_found_out(self) -> None:
        """So that the tests above say something."""

        class Hasty(FileShardStore):
            def commit(self, writer: Any, share: Any, note: bytes) -> None:
                with_sync, self._system.fsync = self._system.fsync, lambda _: None
                try:
                    super().commit(writer, share, note)
                finally:
                    self._system.fsync = with_sync

        wrong = 0
        for seed in range(20):
            wrong += bool(self.check(seed, VERBS, 200, Hasty).problems)
        self.assertGreater(wrong, 0)
