"""Tests of L{meshkit.storage.objects.finding}: whom there is to give shares to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshkit.errors import NotFound, NotReady, PeerUnreachable, StorageRefused
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IShareKeeper, IStoragePeer
from meshkit.storage.custody import Judgement
from meshkit.storage.objects.finding import (
    LOOKUP_SECONDS,
    MAX_PLACES,
    NOBODY_SECONDS,
    RETURN_SECONDS,
    StoragePeers,
    block_of,
    weight_of,
)
from meshkit.storage.rendezvous import domains_of
from meshkit.storage.statements import StorageRecord, peers_content
from meshkit.testing.identities import make_identity
from tests.storage.objects.support import Answered, Table

NETWORK = b"n" * 16
NOW = 1_800_000_000
OWN = make_identity("own").public


def place(number: int) -> HostPort:
    return HostPort(f"10.{number}.0.1", 7670)


def identity(number: int) -> Any:
    return make_identity(f"peer-{number}")


def address(number: int) -> MeshAddress:
    return MeshAddress(place(number).host, 7670, identity(number).public)


@define
class Peer:
    """What is at an address."""

    case: FindingCase
    address: MeshAddress
    stopped: bool = False

    @property
    def key(self) -> PublicKey:
        return self.address.key

    def statement(self) -> Deferred[bytes]:
        self.case.asked.append(self.address)
        answer = self.case.answers.get(self.address.place)
        if answer is None:
            return fail(PeerUnreachable("connection refused"))
        return answer()

    def stat(self, share: bytes) -> Deferred[bytes]:
        return succeed(self.address.place.text.encode() + share)

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)


@implementer(IShareKeeper)
@define
class Keeper:
    """What this process keeps."""

    peer: Peer | None
    callers: list[PublicKey] = Factory(list)

    def for_caller(self, key: PublicKey) -> Any:
        self.callers.append(key)
        if self.peer is None:
            raise StorageRefused("nothing is kept here")
        return self.peer


class FindingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[MeshAddress] = []
        self.made: list[Peer] = []
        self.answers: dict[HostPort, Callable[[], Deferred[bytes]]] = {}
        self.table = Table()
        self.sequence = 0

    def now(self) -> float:
        return NOW + self.clock.seconds()

    def make_peer(self, at: MeshAddress) -> Peer:
        self.made.append(Peer(self, at))
        return self.made[-1]

    def peers(self, *configured: int, **more: Any) -> StoragePeers:
        given: dict[str, Any] = {
            "table": self.table,
            "finder": self.table,
            "configured": [address(number) for number in configured],
            **more,
        }
        return StoragePeers(
            self.clock,
            NETWORK,
            OWN,
            self.make_peer,
            self.now,
            **given,
        )

    def record(self, number: int, **more: Any) -> bytes:
        self.sequence += 1
        now = int(self.now())
        fields: dict[str, Any] = {
            "network": NETWORK,
            "sequence": self.sequence,
            "issued": now,
            "expires": now + 30,
            "addresses": (place(number),),
            "capacity": 10_000,
            "reserved": 0,
            "headroom": 1_000,
            "used": 0,
            "domain": f"rack-{number}",
            **more,
        }
        who = identity(number)
        return StorageRecord(who.public, **fields).sign(who)

    def answer(self, *numbers: int, **more: Any) -> None:
        """These peers are there."""
        for number in numbers:
            self.answers[place(number)] = lambda number=number: succeed(  # type: ignore[misc]
                self.record(number, **more)
            )

    def members(self, peers: StoragePeers) -> set[PublicKey]:
        return {each.key for each in peers.peers() if each.member is not None}

    def refresh(self, peers: StoragePeers, **more: Any) -> None:
        self.successResultOf(peers.refresh(**more))


class RefreshTests(FindingCase):
    def test_who_is_configured_is_asked_when_there_is_something_to_do(self) -> None:
        peers = self.peers(1, 2, 3)
        self.answer(1, 2, 3)
        self.clock.advance(3_600)
        self.assertEqual(self.asked, [])
        self.refresh(peers)
        self.assertEqual(len(self.members(peers)), 3)
        # And not again as long as its word holds.
        self.clock.advance(29)
        self.refresh(peers)
        self.assertEqual(len(self.asked), 3)
        self.clock.advance(1)
        self.assertEqual(self.members(peers), set())
        self.refresh(peers)
        self.assertEqual((len(self.asked), len(self.members(peers))), (6, 3))

    def test_all_can_be_asked_whether_they_are_still_there(self) -> None:
        peers = self.peers(1, 2)
        self.answer(1, 2)
        self.refresh(peers)
        del self.answers[place(2)]
        self.refresh(peers)
        self.assertEqual(len(self.members(peers)), 2)
        self.refresh(peers, everybody=True)
        self.assertEqual(self.members(peers), {identity(1).public})

    def test_who_does_not_answer_is_no_member_and_it_is_said_why(self) -> None:
        peers = self.peers(1, 2)
        self.answer(1)
        self.refresh(peers)
        good, bad = sorted(peers.peers(), key=lambda each: each.problem or "")
        self.assertEqual((good.key, good.problem), (identity(1).public, None))
        self.assertEqual((bad.key, bad.member), (identity(2).public, None))
        self.assertEqual(bad.problem, "connection refused")
        # When it is back, that is forgotten.
        self.answer(2)
        self.refresh(peers)
        self.assertEqual([each.problem for each in peers.peers()], [None, None])

    def test_one_that_hangs_costs_one_deadline_for_all(self) -> None:
        peers = self.peers(1, 2, 3, deadline=7.0)
        hanging: list[Deferred[bytes]] = []

        def hang() -> Deferred[bytes]:
            hanging.append(Deferred())
            return hanging[-1]

        self.answer(1)
        self.answers[place(2)] = self.answers[place(3)] = hang
        done = peers.refresh()
        self.clock.advance(6.9)
        self.assertNoResult(done)
        self.clock.advance(0.2)
        self.successResultOf(done)
        self.assertEqual(self.members(peers), {identity(1).public})

    def test_a_heartbeat_of_somebody_else_makes_nobody_a_member(self) -> None:
        peers = self.peers(1, 2)
        self.answer(2)
        self.answers[place(1)] = lambda: succeed(self.record(2))
        self.refresh(peers)
        self.assertEqual(self.members(peers), {identity(2).public})
        (wrong,) = [each for each in peers.peers() if each.problem]
        self.assertIn("signed by", wrong.problem or "")

    def test_who_calls_while_others_are_asked_waits_for_the_same(self) -> None:
        peers = self.peers(1)
        answer: Deferred[bytes] = Deferred()
        self.answers[place(1)] = lambda: answer
        one, other = peers.refresh(), peers.refresh()
        self.assertNoResult(one)
        other.cancel()
        self.failureResultOf(other)
        answer.callback(self.record(1))
        self.successResultOf(one)
        self.assertEqual(len(self.asked), 1)

    def test_nobody_is_asked_who_is_blocked(self) -> None:
        blocked = identity(1).public
        peers = self.peers(1, 2, shunned=lambda key: key == blocked)
        self.answer(1, 2)
        self.refresh(peers)
        self.assertEqual([each.key for each in self.asked], [identity(2).public])
        self.assertEqual([each.problem for each in peers.peers()], [None, None])
        self.failureResultOf(peers.find(blocked).stat(b""), NotFound)

    def test_nobody_keeps_shares_for_himself(self) -> None:
        peers = self.peers()
        self.table.provided = [Answered(key=OWN, places=(place(1),))]
        self.refresh(peers)
        self.assertEqual((peers.peers(), self.asked), ([], []))

    def test_stopping_ends_what_is_asked_and_closes_what_is_open(self) -> None:
        peers = self.peers(1, 2)
        self.answer(1)
        self.answers[place(2)] = Deferred
        done = peers.refresh()
        self.successResultOf(peers.stop())
        self.failureResultOf(done)
        self.assertTrue(all(each.stopped for each in self.made))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LookupTests(FindingCase):
    def provide(self, *numbers: int) -> None:
        self.table.provided = [
            Answered(key=identity(number).public, places=(place(number),)) for number in numbers
        ]

    def test_others_are_found_in_the_hash_table(self) -> None:
        self.provide(5, 6)
        self.answer(5, 6)
        peers = self.peers(5)
        self.refresh(peers)
        self.assertEqual(len(self.members(peers)), 2)
        self.assertEqual({each.source for each in peers.peers()}, {"config", "dht"})

    def test_it_is_asked_for_the_content_that_all_of_a_network_have(self) -> None:
        asked: list[bytes] = []
        self.table.providers = lambda content: succeed(asked.append(content) or [])  # type: ignore[method-assign, func-returns-value]
        self.refresh(self.peers())
        self.assertEqual(asked, [peers_content(NETWORK)])

    def test_where_it_knows_of_nobody_yet_it_is_soon_asked_again(self) -> None:
        """Whoever has just started asks before he is connected with anybody."""
        own = Answered(key=OWN, places=())
        for provided in ([], [own]):
            peers = self.peers()
            self.table.provided = provided
            self.refresh(peers)
            self.provide(5)
            self.answer(5)
            self.clock.advance(NOBODY_SECONDS - 0.1)
            self.refresh(peers)
            self.assertEqual(self.members(peers), set())
            self.clock.advance(0.1)
            self.refresh(peers)
            self.assertEqual(self.members(peers), {identity(5).public})

    def test_it_is_asked_now_and_then(self) -> None:
        self.provide(5)
        self.answer(5)
        peers = self.peers()
        self.refresh(peers, look=False)
        self.assertEqual(self.table.asked, 0)
        for _ in range(3):
            self.refresh(peers)
        self.assertEqual(self.table.asked, 1)
        self.clock.advance(LOOKUP_SECONDS)
        self.refresh(peers)
        self.assertEqual(self.table.asked, 2)
        # Whoever waits for somebody new may ask sooner.
        self.refresh(peers, again=True)
        self.assertEqual(self.table.asked, 3)

    def test_those_of_the_configuration_are_there_without_it(self) -> None:
        self.table.problem = NotReady("not yet")
        self.answer(1)
        peers = self.peers(1)
        self.refresh(peers)
        self.assertEqual(len(self.members(peers)), 1)
        # And it is asked again at once when it may be there.
        self.table.problem = None
        self.provide(2)
        self.answer(2)
        self.refresh(peers)
        self.assertEqual(len(self.members(peers)), 2)

    def test_only_so_many_strangers_are_known(self) -> None:
        self.provide(*range(10, 30))
        peers = self.peers(1, limit=4)
        self.answer(1, *range(10, 30))
        self.refresh(peers)
        self.assertEqual(len(peers.peers()), 5)
        self.assertIn(identity(1).public, self.members(peers))

    def test_strangers_that_are_not_there_keep_nobody_out(self) -> None:
        self.provide(*range(10, 14))
        peers = self.peers(1, limit=4)
        self.answer(1, *range(20, 24))
        self.refresh(peers)
        self.clock.advance(LOOKUP_SECONDS)
        self.provide(*range(20, 24))
        self.refresh(peers)
        self.assertEqual(len(peers.peers()), 5)
        there = {identity(number).public for number in (1, *range(20, 24))}
        self.assertEqual(self.members(peers), there)

    def test_any_number_that_hang_cost_two_deadlines_and_who_is_configured_comes_first(
        self,
    ) -> None:
        self.provide(*range(1, 201))
        peers = self.peers(250, deadline=5.0)
        for number in range(1, 201):
            self.answers[place(number)] = lambda: Deferred()
        self.answer(250)
        for _ in range(2):
            done = peers.refresh(everybody=True)
            for _ in range(20):
                self.clock.advance(0.51)
            self.successResultOf(done)
            self.assertEqual(self.members(peers), {identity(250).public})

    def test_a_stranger_that_moved_is_tried_at_its_other_places(self) -> None:
        key = identity(5).public
        self.table.provided = [Answered(key=key, places=(place(4), place(5)))]
        self.answer(5)
        self.answers[place(4)] = lambda: fail(PeerUnreachable("nobody there"))
        peers = self.peers()
        self.refresh(peers)
        self.assertEqual(self.members(peers), set())
        self.refresh(peers)
        self.assertEqual(self.members(peers), {key})

    def test_where_nobody_said_where_it_is_it_is_looked_for_by_its_key(self) -> None:
        key = identity(5).public
        self.table.provided = [Answered(key=key)]
        self.table.places[key] = address(5)
        self.answer(5)
        peers = self.peers()
        self.refresh(peers)
        self.assertEqual(self.members(peers), {key})

    def test_a_peer_has_so_many_places(self) -> None:
        key = identity(5).public
        places = tuple(place(number) for number in range(20))
        self.table.provided = [Answered(key=key, places=places)]
        peers = self.peers()
        self.answer(0)
        self.answers[place(0)] = lambda: succeed(self.record(5))
        self.refresh(peers)
        (known,) = peers.peers()
        self.assertEqual([each.place for each in known.addresses], list(places[:MAX_PLACES]))


class RelayedTests(FindingCase):
    """Peers that are reached through a relay."""

    def relayed(self, number: int, host: str = "10.77.0.1") -> MeshAddress:
        via = Via(make_identity("relay").public, "member")
        return MeshAddress(host, 7661, identity(number).public, via)

    def test_the_configuration_may_say_that_a_relay_leads_there(self) -> None:
        behind = self.relayed(1)
        peers = self.peers(configured=[behind, self.relayed(7)], finder=None)
        self.answers[behind.place] = lambda: succeed(self.record(1, addresses=()))
        self.refresh(peers)
        self.assertEqual(self.members(peers), {behind.key})
        self.assertEqual({each.via for each in self.asked}, {behind.via})
        known = next(each for each in peers.peers() if each.key == behind.key)
        self.assertEqual(known.addresses, (behind,))
        # Nobody knows that better, and it is where it was.
        self.table.provided = [Answered(key=behind.key, places=(place(1),))]
        self.refresh(peers, again=True)
        peers.moved(behind.key)
        self.assertEqual(self.successResultOf(peers.address_of(behind.key)), behind)
        self.assertEqual({each.via for each in self.asked}, {behind.via})

    def test_one_that_has_an_address_too_is_dialled_there(self) -> None:
        peers = self.peers(configured=[self.relayed(1), address(1)])
        self.answer(1)
        self.refresh(peers)
        self.assertEqual(self.asked, [address(1)])
        (known,) = peers.peers()
        self.assertEqual(known.addresses, (address(1), self.relayed(1)))

    def test_the_hash_table_may_say_so(self) -> None:
        behind = self.relayed(5)
        self.table.provided = [Answered(key=behind.key)]
        self.table.places[behind.key] = behind
        self.answers[behind.place] = lambda: succeed(self.record(5, addresses=()))
        peers = self.peers()
        self.refresh(peers)
        (known,) = peers.peers()
        self.assertEqual((known.addresses, known.problem), ((behind,), None))
        # It is looked for anew when it was not reached.
        peers.moved(behind.key)
        self.table.places[behind.key] = self.relayed(5, "10.78.0.1")
        moved = self.successResultOf(peers.address_of(behind.key))
        self.assertEqual(moved.host, "10.78.0.1")

    def test_those_behind_one_relay_are_as_near_to_each_other_as_those_in_one_block(self) -> None:
        """Else one host behind a relay could say that it is as many as an object has shares."""
        numbers = (1, 2, 3)
        for number in numbers:
            key = identity(number).public
            self.table.provided.append(Answered(key=key))
            self.table.places[key] = self.relayed(number)
        turn = iter(numbers)
        behind = self.relayed(1)
        self.answers[behind.place] = lambda: succeed(self.record(next(turn), addresses=()))
        peers = self.peers(decided={identity(3).public: "cellar"})
        # One after the other, as all of them are at the relay's address.
        self.refresh(peers)
        self.assertEqual(len(self.members(peers)), 3)
        domains = domains_of(peers.candidates(0))
        block = "block:10.77.0.0/24"
        self.assertEqual(
            [domains[identity(number).public.raw] for number in numbers],
            [block, block, "owner:cellar"],
        )
        self.clock.advance(31)
        self.assertEqual(peers.describe(identity(1).public).observed, "10.77.0.0/24")


class CandidateTests(FindingCase):
    def test_who_has_room_and_takes_shares_is_a_candidate(self) -> None:
        peers = self.peers(1, 2, 3, 4)
        self.answer(1)
        self.answer(2, accepts=False)
        self.answer(3, used=8_000)
        self.refresh(peers)
        (only,) = peers.candidates(5_000)
        self.assertEqual(only.key, identity(1).public.raw)
        self.assertEqual((only.declared, only.observed), ("rack-1", "10.1.0.0/24"))
        self.assertEqual(
            {each.key for each in peers.candidates(1_000)},
            {identity(1).public.raw, identity(3).public.raw},
        )

    def test_who_says_that_he_has_endless_room_is_not_given_everything(self) -> None:
        self.table.provided = [Answered(key=identity(9).public, places=(place(9),))]
        peers = self.peers(1, 2, 3, 4)
        self.answer(1, 2, 3)
        self.answer(4, capacity=2**40)
        self.answer(9, capacity=2**52)
        self.refresh(peers)
        found = {each.key: each.weight for each in peers.candidates(0)}
        weights = [found[identity(number).public.raw] for number in (1, 4, 9)]
        self.assertEqual(weights, [weight_of(10_000), 2**39, 4 * weight_of(10_000)])

    def test_what_replaces_a_lost_share_may_use_the_room_kept_for_that(self) -> None:
        peers = self.peers(1)
        self.answer(1, used=8_500)
        self.refresh(peers)
        self.assertEqual(peers.candidates(1_000), [])
        (only,) = peers.candidates(1_000, repair=True)
        self.assertEqual(only.key, identity(1).public.raw)
        self.assertEqual(peers.candidates(1_501, repair=True), [])

    def test_who_says_that_it_leaves_and_stays_is_not_given_what_is_moved_for_a_day(self) -> None:
        peers = self.peers(1, 2)
        self.answer(1)
        self.answer(2, accepts=False, leaving=True)
        self.refresh(peers)
        self.answer(2)
        self.refresh(peers, everybody=True)
        self.assertEqual(len(peers.candidates(0)), 2)
        (only,) = peers.candidates(0, repair=True)
        self.assertEqual(only.key, identity(1).public.raw)
        self.clock.advance(RETURN_SECONDS)
        self.refresh(peers, everybody=True)
        self.assertEqual(len(peers.candidates(0, repair=True)), 2)

    def test_peers_get_as_much_as_is_thought_of_them(self) -> None:
        table = {
            1: Judgement(),
            2: Judgement(weight=250),
            3: Judgement(weight=0),
            4: Judgement(refused="it has lost what it had"),
            5: Judgement(weight=5_000),
        }
        peers = self.peers(*table)
        self.answer(*table)
        self.refresh(peers)
        self.assertEqual(len(peers.candidates(0)), 5)
        peers.judged_by(lambda key: table[[identity(n).public for n in range(6)].index(key)])
        full = weight_of(9_000)
        self.assertEqual(
            {each.key: each.weight for each in peers.candidates(0)},
            {identity(1).public.raw: full, identity(2).public.raw: full // 4}
            | {identity(5).public.raw: full},
        )
        said = {each.key: each.refused for each in peers.peers()}
        self.assertEqual(said.pop(identity(4).public), "it has lost what it had")
        self.assertEqual(set(said.values()), {None})

    def test_who_is_thought_little_of_gets_something(self) -> None:
        peers = self.peers(1)
        self.answer(1, capacity=2_000, headroom=1_998)
        self.refresh(peers)
        peers.judged_by(lambda _key: Judgement(weight=1))
        self.assertEqual([each.weight for each in peers.candidates(0)], [1])

    def test_a_stranger_that_is_thought_little_of_weighs_less_than_others_may(self) -> None:
        """What it says of its room is cut down first, and does not make up for it."""
        self.table.provided = [Answered(key=identity(9).public, places=(place(9),))]
        peers = self.peers(1, 2, 3)
        self.answer(1, 2, 3)
        self.answer(9, capacity=2**52)
        self.refresh(peers)
        peers.judged_by(lambda key: Judgement(100 if key == identity(9).public else 1_000))
        found = {each.key: each.weight for each in peers.candidates(0)}
        self.assertEqual(found[identity(9).public.raw], 4 * weight_of(10_000) // 10)

    def test_the_record_that_holds_is_known(self) -> None:
        peers = self.peers(1, 2)
        self.answer(1)
        self.refresh(peers)
        record = peers.record_of(identity(1).public)
        assert record is not None
        self.assertEqual(record.capacity, 10_000)
        self.assertIsNone(peers.record_of(identity(2).public))
        self.clock.advance(31)
        self.assertIsNone(peers.record_of(identity(1).public))

    def test_what_the_owner_says_of_domains_counts(self) -> None:
        key = identity(1).public
        peers = self.peers(1, decided={key: "cellar"})
        self.answer(1)
        self.assertEqual(peers.describe(key).decided, "cellar")
        self.refresh(peers)
        (only,) = peers.candidates(0)
        self.assertEqual(only.decided, "cellar")
        unknown = peers.describe(identity(9).public)
        self.assertEqual((unknown.declared, unknown.observed, unknown.decided), (None,) * 3)

    def test_weights_hardly_ever_change(self) -> None:
        self.assertEqual([weight_of(n) for n in (0, 1, 2, 3, 4, 1_000)], [1, 1, 2, 2, 4, 512])
        self.assertEqual(weight_of(2**63 - 1), 2**62)

    def test_the_block_of_an_address(self) -> None:
        table = {
            "192.0.2.77": "192.0.2.0/24",
            "::ffff:192.0.2.77": "192.0.2.0/24",
            "2001:db8:1:2::3": "2001:db8:1::/48",
            "storage.example": None,
            "": None,
        }
        for host, block in table.items():
            self.assertEqual(block_of(host), block, host)


class ReachedPeerTests(FindingCase):
    def test_it_is_a_storage_peer(self) -> None:
        verifyObject(IStoragePeer, self.peers(1).find(identity(1).public))

    def test_it_is_reached_where_it_is_known_to_be(self) -> None:
        peers = self.peers(1)
        answer = self.successResultOf(peers.find(identity(1).public).stat(b"!"))
        self.assertEqual(answer, b"10.1.0.1:7670!")
        self.successResultOf(peers.find(identity(1).public).stat(b"!"))
        self.assertEqual(len(self.made), 1)

    def test_or_where_it_is_found_by_its_key(self) -> None:
        self.table.places[identity(5).public] = address(5)
        peers = self.peers()
        answer = self.successResultOf(peers.find(identity(5).public).stat(b"!"))
        self.assertEqual(answer, b"10.5.0.1:7670!")
        self.failureResultOf(peers.find(identity(6).public).stat(b"!"), NotReady)
        alone = self.peers(finder=None)
        self.failureResultOf(alone.find(identity(5).public).stat(b"!"), NotFound)

    def test_where_it_is_dialled_can_be_asked(self) -> None:
        peers = self.peers(1)
        self.assertEqual(self.successResultOf(peers.address_of(identity(1).public)), address(1))
        self.failureResultOf(peers.address_of(identity(2).public), NotReady)
        self.table.places[identity(2).public] = address(2)
        self.assertEqual(self.successResultOf(peers.address_of(identity(2).public)), address(2))
        alone = self.peers(finder=None)
        self.failureResultOf(alone.address_of(identity(2).public), NotFound)
        shy = self.peers(1, shunned=lambda _key: True)
        self.failureResultOf(shy.address_of(identity(1).public), NotFound)
        self.successResultOf(peers.stop())
        self.failureResultOf(peers.address_of(identity(1).public), NotReady)

    def test_what_this_process_keeps_itself_is_asked_for_here(self) -> None:
        """As of somebody else, whose object is looked after here."""
        keeper = Keeper(Peer(self, MeshAddress("::1", 1, OWN)))
        peers = self.peers(keeper=keeper)
        verifyObject(IShareKeeper, keeper)
        self.assertEqual(self.successResultOf(peers.find(OWN).stat(b"!")), b"[::1]:1!")
        self.assertEqual((keeper.callers, self.made), ([OWN], []))
        self.successResultOf(peers.stop())
        self.failureResultOf(peers.find(OWN).stat(b"!"), NotReady)
        self.assertEqual(keeper.callers, [OWN])

    def test_nobody_looks_for_himself_where_nothing_is_kept(self) -> None:
        self.failureResultOf(self.peers().find(OWN).stat(b"!"), NotReady)
        refusing = self.peers(keeper=Keeper(None))
        self.failureResultOf(refusing.find(OWN).stat(b"!"), StorageRefused)

    def test_only_so_many_are_open(self) -> None:
        peers = self.peers(limit=2)
        for number in range(4):
            self.table.places[identity(number).public] = address(number)
            self.successResultOf(peers.find(identity(number).public).stat(b""))
        self.assertEqual([each.stopped for each in self.made], [True, True, False, False])
