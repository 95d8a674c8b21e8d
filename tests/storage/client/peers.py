"""
Storage peers in memory, and such that do harm.

L{MemoryPeer} keeps what it is given and proves it, as a keeper does.  L{Unruly} stands before
any peer, and does something else when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from meshkit.crypto.merkle import LEAF_BYTES, Prover, TreeBuilder
from meshkit.errors import (
    CapacityReached,
    LeaseUnknown,
    ReservationExceeded,
    ShareMismatch,
    ShareUnknown,
    UploadOutOfStep,
    UploadUnknown,
)
from meshkit.identity.keys import Identity
from meshkit.interfaces import IStoragePeer
from meshkit.storage.client.values import Offer
from meshkit.storage.encoding import Piece
from meshkit.storage.header import share_id
from meshkit.storage.manifest import Manifest
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import LEASE_SECONDS, Reservation, ShareStat, lease_hash
from meshkit.testing.identities import make_identity

#: When everything happens, in seconds of Unix time.
NOW = 1_800_000_000


def at_now() -> int:
    """The wall clock of tests."""
    return NOW * 1_000_000_000


@define
class _Upload:
    lease: bytes
    size: int
    data: bytearray = field(factory=bytearray)
    next_segment: int = 0
    last: tuple[int, bytes] | None = None


@define
class Kept:
    """
    A share that is kept.

    @ivar data: its bytes, which may be spoiled.
    @ivar nodes: of its tree.
    @ivar manifest: that came with it.
    @ivar leases: hashes of secrets.
    """

    data: bytearray
    nodes: bytearray
    manifest: Manifest
    root: bytes
    leases: dict[bytes, int]


@implementer(IStoragePeer)
class MemoryPeer:
    """
    A peer that does what it should.

    @ivar uploads: what was reserved, by upload and number.
    @ivar shares: what is kept, by name.
    """

    def __init__(self, identity: Identity, room: int | None = None) -> None:
        """@param room: how many shares it takes."""
        self.key = identity.public
        self.identity = identity
        self.room = room
        self.uploads: dict[tuple[bytes, int], _Upload] = {}
        self.shares: dict[bytes, Kept] = {}

    def statement(self) -> Any:
        raise NotImplementedError

    def reserve(
        self, upload: bytes, number: int, size: int, lease: bytes, repair: bool = False
    ) -> Any:
        expires = NOW + 3600
        if share_id(upload, number) in self.shares:
            return succeed(Reservation(0, size, expires, complete=True))
        found = self.uploads.get((upload, number))
        if found is None:
            if self.room is not None and len(self.shares) + len(self.uploads) >= self.room:
                return fail(CapacityReached())
            found = self.uploads[upload, number] = _Upload(lease, size)
        found.size, found.lease = max(found.size, size), lease
        return succeed(Reservation(found.next_segment, found.size, expires))

    def write(self, upload: bytes, number: int, segment: int, block: Any) -> Any:
        found = self.uploads.get((upload, number))
        if found is None:
            return fail(UploadUnknown())
        data = bytes(block)
        if (segment, data) == found.last:
            return succeed(None)
        if segment != found.next_segment:
            return fail(UploadOutOfStep("no", next_segment=found.next_segment))
        if len(found.data) + len(data) > found.size:
            return fail(ReservationExceeded())
        found.data += data
        found.next_segment += 1
        found.last = segment, data
        return succeed(None)

    def close(self, upload: bytes, number: int, manifest: bytes) -> Any:
        it, name = Manifest.decode(manifest), share_id(upload, number)
        found = self.uploads.get((upload, number))
        if name not in self.shares:
            if found is None:
                return fail(UploadUnknown())
            nodes = bytearray()
            tree = TreeBuilder(LEAF_BYTES, nodes.extend)
            tree.update(found.data)
            root = tree.finish()
            if root != it.shares[number]:
                return fail(ShareMismatch())
            del self.uploads[upload, number]
            self.shares[name] = Kept(
                found.data, nodes, it, root, {found.lease: NOW + LEASE_SECONDS}
            )
        kept = self.shares[name]
        lease = next(iter(kept.leases)) if found is None else found.lease
        return succeed(self._receipt(name, lease))

    def _receipt(self, name: bytes, lease: bytes) -> bytes:
        kept = self.shares[name]
        end = kept.leases[lease]
        receipt = Receipt(self.key, name, kept.root, len(kept.data), lease, end, NOW)
        return receipt.sign(self.identity)

    def abort(self, upload: bytes, number: int) -> Any:
        self.uploads.pop((upload, number), None)
        return succeed(None)

    def _kept(self, share: bytes) -> Kept:
        try:
            return self.shares[share]
        except KeyError:
            raise ShareUnknown() from None

    def stat(self, share: bytes) -> Any:
        kept = self._kept(share)
        return succeed(ShareStat(len(kept.data), kept.root, max(kept.leases.values())))

    def manifest(self, share: bytes) -> Any:
        return succeed(self._kept(share).manifest.raw)

    def read(self, share: bytes, segment: int) -> Any:
        kept = self._kept(share)
        layout = kept.manifest.layout

        def nodes(offset: int, length: int) -> bytes:
            return bytes(kept.nodes[offset : offset + length])

        def data(offset: int, length: int) -> bytes:
            return bytes(kept.data[offset : offset + length])

        at, length = layout.block_at(segment), layout.block_bytes(segment)
        leaves = at // LEAF_BYTES, -(-length // LEAF_BYTES)
        branch = Prover(layout.share_shape, nodes, data).branch(*leaves)
        return succeed(Piece(data(at, length), branch))

    def renew(self, share: bytes, secret: bytes) -> Any:
        lease = lease_hash(secret)
        self._kept(share).leases[lease] = NOW + LEASE_SECONDS
        return succeed(self._receipt(share, lease))

    def release(self, share: bytes, secret: bytes) -> Any:
        kept, lease = self._kept(share), lease_hash(secret)
        if kept.leases.pop(lease, None) is None:
            return fail(LeaseUnknown())
        if not kept.leases:
            del self.shares[share]
        return succeed(None)

    @property
    def empty(self) -> bool:
        """Is nothing reserved, and nothing kept?"""
        return not self.uploads and not self.shares


#: Is given the name of a method, the peer behind, and the arguments; gives what comes of it,
#: or L{None} to have done what was asked for.
Rule = Callable[[str, Any, tuple[Any, ...]], Any]


@implementer(IStoragePeer)
class Unruly:
    """
    Stands before a peer.

    @ivar calls: names of the methods that were called.
    @ivar rule: may do something else.
    @ivar delay: seconds that each answer takes.
    """

    def __init__(self, peer: Any, clock: Clock, delay: float = 0.0) -> None:
        self.key = peer.key
        self.peer = peer
        self.clock = clock
        self.delay = delay
        self.calls: list[str] = []
        self.rule: Rule | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            self.calls.append(name)
            if self.rule is not None:
                answer = self.rule(name, self.peer, args)
                if answer is not None:
                    return answer
            return self._later(lambda: getattr(self.peer, name)(*args))

        return call

    def _later(self, call: Callable[[], Any]) -> Deferred[Any]:
        called: list[Deferred[Any]] = []

        def cancel(_: Deferred[Any]) -> None:
            if delayed.active():
                delayed.cancel()
            for each in called:
                each.cancel()

        answer: Deferred[Any] = Deferred(cancel)

        def deliver() -> None:
            try:
                called.append(call())
            except Exception as e:
                answer.errback(e)
                return
            called[0].chainDeferred(answer)

        delayed = self.clock.callLater(self.delay, deliver)
        return answer


def hang(*names: str) -> Rule:
    """These calls are taken, and never answered."""
    return lambda name, _peer, _args: Deferred() if name in names else None


def refuse(error: Exception, *names: str) -> Rule:
    """These calls fail."""
    return lambda name, _peer, _args: fail(error) if name in names else None


def lie(_name: str, peer: Any, args: tuple[Any, ...]) -> Any:
    """What is read has one bit changed."""
    if _name != "read":
        return None
    piece = peer.read(*args).result
    spoiled = bytearray(piece.block)
    spoiled[len(spoiled) // 2] ^= 1
    return succeed(evolve(piece, block=bytes(spoiled)))


class Crowd:
    """
    Some peers, each behind something that may be unruly.

    @ivar peers: the unruly fronts.
    @ivar clock: of all of them.
    """

    def __init__(self, clock: Clock, count: int, *, room: int | None = None) -> None:
        self.clock = clock
        self.peers = [
            Unruly(MemoryPeer(make_identity(f"storage-{number}"), room), clock)
            for number in range(count)
        ]

    def offers(self) -> list[Offer]:
        """All of them, each in a domain of its own."""
        return [
            Offer(Candidate(each.key.raw, decided=f"d{number}"), each)
            for number, each in enumerate(self.peers)
        ]

    def find(self, key: Any) -> Any:
        """The peer with a key."""
        return next((each for each in self.peers if each.key == key), None)

    def find_raw(self, key: bytes) -> Unruly:
        """The peer with the bytes of a key."""
        return next(each for each in self.peers if each.key.raw == key)

    @property
    def untouched(self) -> bool:
        """Is nothing kept anywhere, and nothing reserved?"""
        return all(each.peer.empty for each in self.peers)

    @property
    def kept(self) -> int:
        """How many shares are kept."""
        return sum(len(each.peer.shares) for each in self.peers)


def run_until(clock: Clock, deferred: Deferred[Any], seconds: float = 1_000) -> Any:
    """
    Let time go on until something has happened.

    @return: what came of it; what it failed with is raised.
    """
    results: list[Any] = []
    deferred.addBoth(results.append)
    end = clock.seconds() + seconds
    while not results:
        pending = clock.getDelayedCalls()
        if not pending:
            raise AssertionError("nothing happens any more")
        step = max(0.0, min(call.getTime() for call in pending) - clock.seconds())
        if clock.seconds() + step > end:
            raise AssertionError(f"it has not happened within {seconds} seconds")
        clock.advance(step)
    result = results[0]
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


def names_of(calls: Sequence[str]) -> dict[str, int]:
    """How often each was called."""
    return {name: calls.count(name) for name in sorted(set(calls))}
