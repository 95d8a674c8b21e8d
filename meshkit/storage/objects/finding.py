"""
The storage peers of a node: who there is, and how each is asked for something.

There are those of the configuration, and those that say in the hash table that they keep
shares for this network (L{peers_content}).  Each is asked for its record when there is
something to do, not all the time: a node that stores nothing costs the others nothing.  Whose
record holds is a L{Member <meshkit.storage.membership.Member>}; those are offered shares.

Where an address comes from strangers, it is from a record that the peer itself has signed, and
was passed by the rules of dialling of whoever gives it here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from statistics import median_low
from typing import Any, Final, Literal

from attrs import define, evolve, frozen
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredSemaphore,
    gatherResults,
    maybeDeferred,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import NotFound, NotReady, StatementStale
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import (
    IHashTable,
    IPeerFinder,
    IShareKeeper,
    IStoragePeer,
    IStoragePeers,
)
from meshkit.storage.custody import FULL_WEIGHT, Judgement
from meshkit.storage.membership import MAX_MEMBERS, Member, Membership
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.statements import StorageRecord, peers_content

#: Peers that are asked for their records at the same time.
ASKED_AT_ONCE: Final = 32
#: Seconds for which what the hash table has said about storage peers is good.
LOOKUP_SECONDS: Final = 300.0
#: And if it has named nobody: a node that has just started may have asked before it knew whom
#: to ask, and others announce themselves a moment later.
NOBODY_SECONDS: Final = 10.0
#: Seconds after which a peer that said that it leaves, and stays after all, is given what was lost
#: elsewhere or is moved.
RETURN_SECONDS: Final = 86_400
#: Addresses of one peer that are kept.
MAX_PLACES: Final = 8
#: Nobody whom nobody here has named weighs more than so many times the usual, whatever room he
#: says that he has: who can make keys could have all shares of an object otherwise.
MAX_TIMES: Final = 4
#: Characters of what went wrong that are kept.
MAX_PROBLEM: Final = 200

#: Makes the L{IStoragePeer} behind an address; C{stop()} closes its connections, and gives a
#: Deferred that fires when they are.
MakePeer = Callable[[MeshAddress], Any]
Source = Literal["config", "dht"]
#: Says what is thought of a peer.
Judge = Callable[[PublicKey], Judgement]

_UNJUDGED: Final = Judgement()


def block_of(host: str) -> str | None:
    """@return: the /24 or /48 that an IP address is in; L{None} for a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    length = 24 if address.version == 4 else 48
    return str(ip_network((address.packed, length), strict=False))


def weight_of(free: int) -> int:
    """
    How much a peer gets, compared with others, by the room that it has.

    The largest power of two that fits: it hardly ever changes, so shares are looked for where
    they were put.
    """
    return 1 << max(0, free.bit_length() - 1)


@define
class _Known:
    """
    A peer that there is, or was.

    @ivar places: where it may be dialled, the best first.
    @ivar left: when it said last that it leaves, in seconds of Unix time.
    @ivar relayed: the address that leads to it through a relay, if it has no other, or the
        configuration says so.
    """

    key: PublicKey
    source: Source
    places: tuple[HostPort, ...]
    problem: str | None = None
    left: int | None = None
    relayed: MeshAddress | None = None

    @property
    def addresses(self) -> tuple[MeshAddress, ...]:
        """Where it is dialled, the best first."""
        direct = [MeshAddress(place.host, place.port, self.key) for place in self.places]
        return tuple(direct) if self.relayed is None else (*direct, self.relayed)

    @property
    def block(self) -> str | None:
        """
        The block of addresses that it is in.  Of one behind a relay that is the relay's: whoever
        runs many behind one could be taken for as many others, and all of them are gone when that
        is.
        """
        first = next(iter(self.addresses), None)
        return None if first is None else block_of(first.host)


@frozen
class KnownPeer:
    """
    A storage peer, as this node knows it.

    @ivar source: who named it: C{config} or C{dht}.
    @ivar addresses: where it is dialled, the best first; one may lead through a relay.
    @ivar member: what it said last, if that still holds.
    @ivar problem: why it was not reached, when it was asked last.
    @ivar refused: why it gets no new shares, by what audits have found.
    """

    key: PublicKey
    source: Source
    addresses: tuple[MeshAddress, ...]
    member: Member | None
    problem: str | None
    refused: str | None = None


@implementer(IStoragePeer)
class ReachedPeer:
    """
    A peer that is found when it is asked for the first time, wherever it then is.

    @ivar key: who.
    """

    def __init__(self, key: PublicKey, reach: Callable[[], Deferred[Any]]) -> None:
        """@param reach: gives a Deferred of the L{IStoragePeer}, each time it is to be asked."""
        self.key = key
        self._reach = reach

    async def _ask(self, method: str, *arguments: Any) -> Any:
        peer = await self._reach()
        return await getattr(peer, method)(*arguments)

    def _begin(self, method: str, *arguments: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._ask(method, *arguments))

    def statement(self) -> Deferred[bytes]:
        return self._begin("statement")

    def reserve(
        self, upload: bytes, number: int, size: int, lease: bytes, repair: bool = False
    ) -> Deferred[Any]:
        return self._begin("reserve", upload, number, size, lease, repair)

    def write(self, upload: bytes, number: int, segment: int, block: Any) -> Deferred[None]:
        return self._begin("write", upload, number, segment, block)

    def close(self, upload: bytes, number: int, manifest: bytes) -> Deferred[bytes]:
        return self._begin("close", upload, number, manifest)

    def abort(self, upload: bytes, number: int) -> Deferred[None]:
        return self._begin("abort", upload, number)

    def stat(self, share: bytes) -> Deferred[Any]:
        return self._begin("stat", share)

    def manifest(self, share: bytes) -> Deferred[bytes]:
        return self._begin("manifest", share)

    def read(self, share: bytes, segment: int) -> Deferred[Any]:
        return self._begin("read", share, segment)

    def renew(self, share: bytes, secret: bytes) -> Deferred[bytes]:
        return self._begin("renew", share, secret)

    def release(self, share: bytes, secret: bytes) -> Deferred[None]:
        return self._begin("release", share, secret)


@implementer(IStoragePeers)
class StoragePeers:
    """
    See the module.  For the reactor's thread.

    @ivar membership: whose record holds.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        network: bytes,
        own: PublicKey,
        make_peer: MakePeer,
        wall_clock: Callable[[], float],
        *,
        configured: Sequence[MeshAddress] = (),
        decided: Mapping[PublicKey, str] | None = None,
        table: IHashTable | None = None,
        finder: IPeerFinder | None = None,
        keeper: IShareKeeper | None = None,
        shunned: Callable[[PublicKey], bool] = lambda _key: False,
        deadline: float = 10.0,
        limit: int = MAX_MEMBERS,
    ) -> None:
        """
        @param network: id of the network.
        @param own: who we are: nobody keeps shares for himself.
        @param wall_clock: seconds of Unix time.
        @param configured: peers that are always known.
        @param decided: failure domains of peers, as the owner of the objects says.
        @param table: where others are found; L{None} to do without.
        @param finder: where it is found out where a peer is that keeps shares.
        @param keeper: what this process keeps for others.
        @param shunned: who is neither asked nor offered anything.
        @param deadline: seconds in which a peer has to say its record, all of them in parallel.
        @param limit: peers that are known beside those that are configured.
        """
        self._reactor = reactor
        self._network = network
        self._own = own
        self._make_peer = make_peer
        self._wall_clock = wall_clock
        self._decided = dict(decided or {})
        self._table = table
        self._finder = finder
        self._keeper = keeper
        self._shunned = shunned
        self._deadline = deadline
        self._limit = limit
        self._known: dict[PublicKey, _Known] = {}
        self._peers: OrderedDict[MeshAddress, Any] = OrderedDict()
        self._asking = DeferredSemaphore(ASKED_AT_ONCE)
        self._refreshing: Deferred[None] | None = None
        #: When the hash table may be asked again.
        self._look_at = 0.0
        self._stopped = False
        self._lookup_problem: str | None = None
        self._judge: Judge = lambda _key: _UNJUDGED
        for address in configured:
            self._learn(address.key, "config", [] if address.via is not None else [address.place])
            if address.via is not None and address.key in self._known:
                self._known[address.key].relayed = address
        self.membership = Membership(network, limit, list(self._known))
        # Whoever is asked for something has connections of his own.
        self._most = limit + len(self._known)

    def _now(self) -> int:
        return int(self._wall_clock())

    # --- who there is ------------------------------------------------------------------

    def _learn(self, key: PublicKey, source: Source, places: Iterable[HostPort]) -> None:
        if key == self._own:
            return
        known = self._known.get(key)
        if known is None:
            if source == "dht" and self._strangers() >= self._limit and not self._forget_one():
                return
            known = self._known[key] = _Known(key, source, ())
        if source == "dht" and known.source == "config" and known.relayed is not None:
            return  # the operator knows better by which way it is reached
        # What was said last comes first, behind what the operator has said.
        if source == "config" or known.source == "dht":
            merged = [*places, *known.places]
        else:
            merged = [*known.places, *places]
        known.places = tuple(dict.fromkeys(merged))[:MAX_PLACES]

    def _forget_one(self) -> bool:
        """@return: whether there was a stranger that is not there, and is known no more."""
        for key, known in self._known.items():
            if known.source == "dht" and known.problem is not None:
                del self._known[key]
                return True
        return False

    def _strangers(self) -> int:
        return sum(known.source == "dht" for known in self._known.values())

    def peers(self) -> list[KnownPeer]:
        """@return: all that are known, in the order of their keys."""
        now = self._now()
        return [
            KnownPeer(
                known.key,
                known.source,
                known.addresses,
                self.membership.find(known.key, now),
                known.problem,
                self._judge(known.key).refused,
            )
            for known in sorted(self._known.values(), key=lambda each: each.key.raw)
        ]

    def judged_by(self, judge: Judge) -> None:
        """
        From now on, give peers new shares as somebody thinks of them.

        @param judge: says what is thought of a peer.  It is asked for all of them each time
            that candidates are looked for, and so has to have it in memory.
        """
        self._judge = judge

    def record_of(self, key: PublicKey) -> StorageRecord | None:
        """@return: the record of a peer, if it holds now."""
        member = self.membership.find(key, self._now())
        return None if member is None else member.record

    def candidates(self, size: int, repair: bool = False) -> list[Candidate]:
        """
        Who may be offered a share.

        @param size: bytes of the share.
        @param repair: it replaces one that was lost, so that the room kept for that counts.
        @return: members that take shares and have room for it, in the order of their keys.
            Those that are found in the hash table weigh at most L{MAX_TIMES} times the median;
            then each weighs as much of that as is thought of it (L{judged_by}), and whoever is
            refused or weighs nothing is left out.  So is, of repairs, who has said within
            L{RETURN_SECONDS} that it leaves.
        """
        found, judgements = [], []
        for member in self.membership.members(self._now()):
            if not self._may_take(member, size, repair):
                continue
            judgement = self._judge(member.key)
            if judgement.refused is None and judgement.weight > 0:
                found.append(self._candidate(member))
                judgements.append(judgement)
        if not found:
            return found
        most = MAX_TIMES * median_low(each.weight for each in found)
        return [
            evolve(each, weight=self._weight(each, most, judgement))
            for each, judgement in zip(found, judgements, strict=True)
        ]

    def _may_take(self, member: Member, size: int, repair: bool) -> bool:
        record = member.record
        if repair and self._has_left(member.key):
            return False
        room = record.free_for_repair if repair else record.free
        return (
            record.accepts
            and room >= size
            and member.key in self._known
            and not self._shunned(member.key)
        )

    def _has_left(self, key: PublicKey) -> bool:
        """Two that say in turn that they leave could have what they hold moved without end."""
        known = self._known.get(key)
        if known is None or known.left is None:
            return False
        return 0 <= self._now() - known.left < RETURN_SECONDS

    def _weight(self, candidate: Candidate, most: int, judgement: Judgement) -> int:
        weight = candidate.weight
        if self._known[PublicKey(candidate.key)].source == "dht":
            weight = min(weight, most)
        return max(1, weight * min(judgement.weight, FULL_WEIGHT) // FULL_WEIGHT)

    def _candidate(self, member: Member) -> Candidate:
        return Candidate(
            member.key.raw,
            weight_of(member.record.free),
            declared=member.record.domain,
            observed=self._known[member.key].block,
            decided=self._decided.get(member.key),
        )

    def describe(self, key: PublicKey) -> Candidate:
        """@return: what is known of where a peer is, whether it is a member or not."""
        member = self.membership.find(key, self._now())
        if member is not None and key in self._known:
            return self._candidate(member)
        known = self._known.get(key)
        block = None if known is None else known.block
        return Candidate(key.raw, 1, observed=block, decided=self._decided.get(key))

    # --- asking around -----------------------------------------------------------------

    def refresh(
        self, *, look: bool = True, everybody: bool = False, again: bool = False
    ) -> Deferred[None]:
        """
        Ask those whose records do not hold any more for new ones, and the hash table for
        others.  Who calls while that is done waits for the same.

        @param look: ask the hash table, unless it was asked a short time ago.
        @param everybody: ask those as well whose records hold: they may have gone since.
        @param again: ask all of them even so, as somebody waits who has changed something.
        @return: Deferred that fires when all have answered or their time is up, which is after
            two deadlines however many they are; it does not fail because of them.
        """
        waiting: Deferred[None] = Deferred()
        if self._refreshing is None:
            refreshing = Deferred.fromCoroutine(self._refresh(look, everybody, again))
            self._refreshing = refreshing
            refreshing.addBoth(self._refreshed)
            if refreshing.called:
                # All of it happened at once.
                return refreshing.addCallback(lambda _: None)
        self._refreshing.addBoth(_pass_on, waiting)
        return waiting

    def _refreshed(self, result: Any) -> Any:
        self._refreshing = None
        return result

    async def _refresh(self, look: bool, everybody: bool, again: bool) -> None:
        now = self._now()
        for gone in self.membership.prune(now):
            self._log.debug("the record of {peer} has expired", peer=gone.text)
        asked = [self._ask(key) for key in self._to_ask(now, everybody or again)]
        if look:
            asked.append(Deferred.fromCoroutine(self._look(again)))
        asking: Deferred[Any] = gatherResults(asked, consumeErrors=True)
        # The table is given one deadline, and those whom it names another.  Whoever has not
        # had his turn by then is not waited for: anybody may name any number of peers.
        await asking.addTimeout(
            2 * self._deadline, self._reactor, onTimeoutCancel=lambda _result, _timeout: None
        )

    def _to_ask(self, now: int, everybody: bool) -> list[PublicKey]:
        def turn(key: PublicKey) -> tuple[bool, bool, bytes]:
            known = self._known[key]
            return known.source == "dht", known.problem is not None, key.raw

        return [
            key
            for key in sorted(self._known, key=turn)
            if (everybody or self.membership.find(key, now) is None) and not self._shunned(key)
        ]

    async def _look(self, again: bool) -> None:
        """Ask the hash table for storage peers, and those that are new for their records."""
        if self._table is None:
            return
        now = self._reactor.seconds()
        if now < self._look_at and not again:
            return
        self._look_at = now + LOOKUP_SECONDS
        looking: Deferred[Any] = maybeDeferred(self._table.providers, peers_content(self._network))
        try:
            found = await looking.addTimeout(self._deadline, self._reactor)
        except CancelledError:
            raise
        except Exception as e:
            # Whatever it is, those of the configuration are there without it.
            self._look_at = now
            self._lookup_problem = _text_of(e)
            self._log.info(
                "the hash table names no storage peers: {problem}", problem=self._lookup_problem
            )
            return
        self._lookup_problem = None
        if all(each.key == self._own for each in found):
            self._look_at = now + NOBODY_SECONDS
        new = [each.key for each in found if each.key not in self._known]
        for provider in found:
            self._learn(provider.key, "dht", provider.places)
        ask = [key for key in new if key in self._known and not self._shunned(key)]
        await gatherResults([self._ask(key) for key in ask], consumeErrors=True)

    def _ask(self, key: PublicKey) -> Deferred[None]:
        return self._asking.run(lambda: Deferred.fromCoroutine(self._ask_now(key)))

    async def _ask_now(self, key: PublicKey) -> None:
        known = self._known.get(key)
        if known is None:
            return  # another one came in its place
        asking: Deferred[bytes] = Deferred.fromCoroutine(self._statement(key))
        try:
            raw = await asking.addTimeout(self._deadline, self._reactor)
            member = self.membership.take(raw, self._now(), key)
        except StatementStale as e:
            # Somebody else has asked meanwhile, and the answers have overtaken each other.
            if self.membership.find(key, self._now()) is None:
                self._missed(known, e)
            return
        except CancelledError:
            raise
        except Exception as e:
            self._missed(known, e)
            return
        known.problem = None
        if member.record.leaving:
            known.left = self._now()

    async def _statement(self, key: PublicKey) -> bytes:
        peer = await self._reach(key)
        raw: bytes = await peer.statement()
        return raw

    def _missed(self, known: _Known, error: Exception) -> None:
        text = _text_of(error)
        if text != known.problem:
            self._log.info(
                "the storage peer {peer} is no member: {problem}",
                peer=known.key.text,
                problem=text,
            )
        known.problem = text
        self.membership.leave(known.key)
        self.moved(known.key)

    # --- one of them ---------------------------------------------------------------------

    def find(self, key: PublicKey) -> ReachedPeer:
        """
        @return: an L{IStoragePeer}, whoever it is.  Where it is, is found out when it is asked
            for something; if nobody knows, what it is asked for fails with L{NotFound}.
        """
        return ReachedPeer(key, lambda: Deferred.fromCoroutine(self._reach(key)))

    def address_of(self, key: PublicKey) -> Deferred[MeshAddress]:
        """
        @return: Deferred of where a peer is dialled.  Fails with L{NotFound} if nobody knows or
            it is blocked, with L{NotReady} when the node stops, and as L{IPeerFinder} does.
        """
        return Deferred.fromCoroutine(self._address(key))

    async def _reach(self, key: PublicKey) -> Any:
        if key == self._own and self._keeper is not None and not self._stopped:
            # A share of somebody whose object is looked after here.  Nobody dials himself.
            return self._keeper.for_caller(self._own)
        return self._at(await self._address(key))

    async def _address(self, key: PublicKey) -> MeshAddress:
        if self._stopped:
            raise NotReady("the node is stopping")
        if self._shunned(key):
            raise NotFound(f"{key.text} is blocked, and not asked for anything")
        known = self._known.get(key)
        places = () if known is None else known.places
        if not places:
            if known is not None and known.relayed is not None:
                return known.relayed
            if self._finder is None:
                raise NotFound(
                    f"nobody knows where the storage peer {key.text} is: add its address to "
                    f"storage.peers"
                )
            found: Sequence[MeshAddress] = await self._finder.find_peer(key)
            if self._stopped:
                raise NotReady("the node is stopping")
            places = tuple(each.place for each in found if each.via is None)
            if known is not None:
                known.places = places[:MAX_PLACES]
                known.relayed = None if places else found[0]
            if not places:
                return found[0]
        return MeshAddress(places[0].host, places[0].port, key)

    def moved(self, key: PublicKey) -> None:
        """
        A peer was not reached where it was: it is looked for anew when it is asked next, unless
        the configuration says where it is.
        """
        known = self._known.get(key)
        if known is not None and known.source == "dht":
            known.places = known.places[1:]
            known.relayed = None

    def _at(self, address: MeshAddress) -> Any:
        peer = self._peers.get(address)
        if peer is None:
            if len(self._peers) >= self._most:
                self._peers.popitem(last=False)[1].stop()
            peer = self._peers[address] = self._make_peer(address)
        self._peers.move_to_end(address)
        return peer

    def stop(self) -> Deferred[None]:
        """
        Close what is open.  Nobody is asked for anything any more.

        @return: Deferred that fires when it is.
        """
        self._stopped = True
        refreshing, self._refreshing = self._refreshing, None
        if refreshing is not None:
            refreshing.cancel()
        peers, self._peers = self._peers, OrderedDict()
        closing = gatherResults([peer.stop() for peer in peers.values()])
        return closing.addCallback(lambda _: None)


def _pass_on(result: Any, waiting: Deferred[None]) -> Any:
    """Tell somebody who waits as well, and who may have gone."""
    if not waiting.called:
        if isinstance(result, Failure):
            waiting.errback(result)
        else:
            waiting.callback(None)
    return None if isinstance(result, Failure) else result


def _text_of(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= MAX_PROBLEM else text[:MAX_PROBLEM] + "..."
