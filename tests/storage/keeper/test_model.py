"""A keeper and a simple model of it go through the same things."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError

from meshkit.errors import (
    LeaseUnknown,
    MeshkitError,
    QuotaReached,
    ShareMismatch,
    ShareUnknown,
    UploadUnknown,
)
from meshkit.identity.keys import PublicKey
from meshkit.storage.keeper.capacity import KeeperConfig, room_for
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.keeper.reading import file_bytes
from meshkit.storage.scheme import Scheme
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import GRACE_SECONDS, LEASE_SECONDS, lease_hash
from meshkit.testing.identities import make_identity
from tests.storage.keeper.keepers import Keeping, shelf
from tests.storage.shelves import Shelf

TINY = Scheme(1, 2, 4096)
OBJECTS = [shelf(length, seed=length, scheme=TINY) for length in (100, 5_000, 9_000)]
CALLERS = [make_identity(name).public for name in ("ada", "bea", "cyd")]
SECRETS = [bytes([number]) * 32 for number in range(4)]
#: A few of the larger shares.
QUOTA = 90_000

objects = st.sampled_from(OBJECTS)
numbers = st.integers(0, 1)
callers = st.sampled_from(CALLERS)
secrets = st.sampled_from(SECRETS)


@define
class Lease:
    account: bytes
    end: int


@define
class Share:
    size: int
    leases: dict[bytes, Lease] = field(factory=dict)

    @property
    def accounts(self) -> set[bytes]:
        return {lease.account for lease in self.leases.values()}


@define
class Open:
    lease: bytes
    charge: int
    complete: bool
    next: int = 0


class KeeperMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.keeping = Keeping(KeeperConfig(10**7, quota=QUOTA, scrub_rate=0)).start()
        self.shares: dict[bytes, Share] = {}
        self.open: dict[tuple[bytes, bytes], Open] = {}

    # --- the model

    def charged(self, account: bytes) -> int:
        kept = sum(share.size for share in self.shares.values() if account in share.accounts)
        return kept + sum(each.charge for key, each in self.open.items() if key[0] == account)

    def brought(self, name: bytes) -> bool:
        return any(key[1] == name and not each.complete for key, each in self.open.items())

    def give(self, share: Share, account: bytes, lease: bytes) -> int:
        """@return: the end of the lease that is given or renewed."""
        end = self.keeping.now() + LEASE_SECONDS
        there = share.leases.setdefault(lease, Lease(account, end))
        there.end = max(there.end, end)
        return there.end

    def outcome(self, deferred: Any) -> Any:
        try:
            return self.keeping.done(deferred)
        except MeshkitError as e:
            return e

    def learn(self) -> None:
        """Of one step it is not known whether it was taken: look."""
        self.open.clear()
        found = {}
        for shard in self.keeping.store.open():
            note = ShardNote.decode(shard.note)
            leases = {each.lease: Lease(each.account, each.end) for each in note.leases}
            found[shard.name] = Share(shard.size, leases)
        self.shares = found

    # --- what happens

    @rule(of=objects, number=numbers, caller=callers, secret=secrets)
    def reserve(self, of: Shelf, number: int, caller: PublicKey, secret: bytes) -> None:
        name, lease = of.header.share_id(number), lease_hash(secret)
        key, size = (caller.raw, name), len(of.shares[number])
        result = self.outcome(self.keeping.reserve(of, number, caller, secret))
        share, there = self.shares.get(name), self.open.get(key)
        if there is not None and there.complete != (share is not None):
            # It came, or went, since it was reserved.
            there = None
            if share is None or not isinstance(result, QuotaReached):
                del self.open[key]
        if there is None and share is None and self.brought(name):
            assert isinstance(result, ShareMismatch), result
            return
        if there is None:
            charge = room_for(size)
            if share is not None:
                charge = 0 if caller.raw in share.accounts else share.size
            before = self.charged(caller.raw)
            if key in self.open:
                before -= self.open[key].charge
            if charge and before + charge > QUOTA:
                assert isinstance(result, QuotaReached), result
                return
            there = self.open[key] = Open(lease, charge, share is not None)
            if share is not None:
                there.next = -1
        there.lease = lease
        assert result.complete == there.complete
        if not result.complete:
            assert result.next_segment == there.next

    @rule(of=objects, number=numbers, caller=callers)
    def write(self, of: Shelf, number: int, caller: PublicKey) -> None:
        there = self.open.get((caller.raw, of.header.share_id(number)))
        segment = 0 if there is None else max(0, there.next)
        if segment == of.layout.segments:
            segment -= 1
        result = self.outcome(self.keeping.write(of, segment, number, caller))
        if there is None:
            assert isinstance(result, UploadUnknown), result
        elif there.complete:
            assert isinstance(result, MeshkitError)
        else:
            assert result is None, result
            there.next = segment + 1

    @rule(of=objects, number=numbers, caller=callers)
    def close(self, of: Shelf, number: int, caller: PublicKey) -> None:
        name = of.header.share_id(number)
        there = self.open.pop((caller.raw, name), None)
        result = self.outcome(self.keeping.close(of, number, caller))
        share = self.shares.get(name)
        whole = there is not None and there.next == of.layout.segments
        if there is None or not (whole or (there.complete and share is not None)):
            assert isinstance(result, MeshkitError), result
            return
        if share is None:
            size = file_bytes(len(of.shares[number]), len(of.manifest.raw))
            share = self.shares[name] = Share(size)
        end = self.give(share, caller.raw, there.lease)
        receipt = Receipt.open(result, self.keeping.keeper.key)
        assert (receipt.share, receipt.lease, receipt.lease_end) == (name, there.lease, end)
        assert receipt.root == of.manifest.shares[number]

    @rule(of=objects, number=numbers, caller=callers)
    def abort(self, of: Shelf, number: int, caller: PublicKey) -> None:
        assert self.outcome(self.keeping.peer(caller).abort(of.header.upload, number)) is None
        self.open.pop((caller.raw, of.header.share_id(number)), None)

    @rule(of=objects, number=numbers, caller=callers, secret=secrets)
    def renew(self, of: Shelf, number: int, caller: PublicKey, secret: bytes) -> None:
        name, lease = of.header.share_id(number), lease_hash(secret)
        result = self.outcome(self.keeping.peer(caller).renew(name, secret))
        share = self.shares.get(name)
        if share is None:
            assert isinstance(result, ShareUnknown), result
            return
        new = lease not in share.leases and caller.raw not in share.accounts
        if new and self.charged(caller.raw) + share.size > QUOTA:
            assert isinstance(result, QuotaReached), result
            return
        end = self.give(share, caller.raw, lease)
        assert Receipt.open(result, self.keeping.keeper.key).lease_end == end

    @rule(of=objects, number=numbers, secret=secrets)
    def release(self, of: Shelf, number: int, secret: bytes) -> None:
        name = of.header.share_id(number)
        result = self.outcome(self.keeping.peer().release(name, secret))
        share = self.shares.get(name)
        if share is None:
            assert isinstance(result, ShareUnknown), result
        elif lease_hash(secret) not in share.leases:
            assert isinstance(result, LeaseUnknown), result
        else:
            assert result is None, result
            del share.leases[lease_hash(secret)]
            if not share.leases:
                del self.shares[name]

    @rule(days=st.sampled_from([0.1, 5, 20]))
    def time_passes(self, days: float) -> None:
        """Long enough for reservations to end, and for what is due to be done."""
        self.keeping.advance(days * 86_400, step=3_500)
        self.keeping.advance(60)
        self.open.clear()
        now = self.keeping.now()
        for name, share in list(self.shares.items()):
            for lease, given in list(share.leases.items()):
                if given.end + GRACE_SECONDS <= now:
                    del share.leases[lease]
            if not share.leases:
                del self.shares[name]

    @rule()
    def crash(self) -> None:
        self.keeping.crash()
        self.open.clear()
        # Leases that were forgotten in memory are in the notes until something else changes.
        self.time_passes(0.1)

    @rule(
        of=objects,
        number=numbers,
        caller=callers,
        secret=secrets,
        turns=st.integers(0, 4),
        what=st.sampled_from(["write", "close", "renew", "release", "abort"]),
        end=st.sampled_from(["cancel", "crash", "stop"]),
    )
    def interrupted(
        self,
        of: Shelf,
        number: int,
        caller: PublicKey,
        secret: bytes,
        turns: int,
        what: str,
        end: str,
    ) -> None:
        """Something is begun, and whether it comes to its end is left to chance."""
        peer, name = self.keeping.peer(caller), of.header.share_id(number)
        before = self.shares
        deferred = {
            "write": lambda: self.keeping.write(of, 0, number, caller),
            "close": lambda: self.keeping.close(of, number, caller),
            "renew": lambda: peer.renew(name, secret),
            "release": lambda: peer.release(name, secret),
            "abort": lambda: peer.abort(of.header.upload, number),
        }[what]()
        deferred.addErrback(lambda failure: failure.trap(CancelledError, MeshkitError))
        for _ in range(turns):
            self.keeping.tick()
        if end == "cancel":
            deferred.cancel()
            self.keeping.run()
        elif end == "stop":
            self.keeping.stop()
        self.keeping.crash()
        self.learn()
        self.time_passes(0.1)
        for other, share in before.items():
            if other != name:
                for lease, given in share.leases.items():
                    if given.end > self.keeping.now():
                        assert self.shares[other].leases[lease] == given

    # --- what is always true

    @invariant()
    def what_is_there_is_what_should_be(self) -> None:
        assert set(self.keeping.keeper.names()) == set(self.shares)
        figures = self.keeping.keeper.figures()
        assert figures.uploads == len(self.open)
        assert figures.blocks == 0
        owners: Counter[bytes] = Counter()
        for caller in CALLERS:
            owners[caller.raw] = self.charged(caller.raw)
            assert self.keeping.keeper.charged(caller) == owners[caller.raw], caller
        assert figures.owners == sum(amount > 0 for amount in owners.values())
        assert figures.stored == sum(share.size for share in self.shares.values())

    @invariant()
    @precondition(lambda self: not self.open)
    def nothing_is_reserved_that_nobody_asked_for(self) -> None:
        figures = self.keeping.keeper.figures()
        assert figures.promised == 0
        assert not self.keeping.store._writers


TestKeeper = KeeperMachine.TestCase
TestKeeper.settings = settings(stateful_step_count=20)
