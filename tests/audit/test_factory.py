"""Being audited, by those who may ask, those who may not, and those who ask as they like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.challenge import Challenge, commitment
from meshkit.audit.factory import AuditLimits
from meshkit.audit.judging import check_page
from meshkit.audit.transcript import Answer, Grant, Opening, Transcript
from meshkit.audit.values import AskedShare
from meshkit.audit.wire import (
    AGAIN,
    LEAVES,
    OPEN,
    REVEAL,
    AgainRequest,
    LeavesRequest,
    OpenRequest,
    Page,
    RevealRequest,
    pages_of,
)
from meshkit.errors import MeshkitError, RemoteError, StorageBusy
from meshkit.identity.keys import Identity
from meshkit.rpc.methods import Method
from meshkit.rpc.protocol import RPCProtocol
from meshkit.testing.identities import make_identity
from tests.audit.audits import World
from tests.storage.keeper.keepers import BOB, NETWORK, OTHER_SECRET, shelf
from tests.storage.objects import PLACEMENT

ALICE = make_identity("alice")
MALLORY = make_identity("mallory")
SEED = b"s" * 32
GENEROUS = AuditLimits(1e6, 1e6, 1e9, 1e9, under_way=50)


class Case(SynchronousTestCase):
    """A peer, and a connection to it."""

    limits: AuditLimits | None = None

    def setUp(self) -> None:
        self.world = World(limits=self.limits)
        self.share = self.world.put(shelf())
        self.number = 0

    def opening(self, **changes: Any) -> Opening:
        """Another one each time, unless something is said."""
        self.number += 1
        seed = changes.pop("seed", SEED + b"" if "audit_id" not in changes else SEED)
        names = changes.pop("names", [self.share.name])
        return Opening.make(
            changes.pop("identity", ALICE),
            changes.pop("network", NETWORK),
            changes.pop("peer", self.world.peer),
            changes.pop("audit_id", self.number.to_bytes(16, "big")),
            changes.pop("commitment", commitment(seed)),
            changes.pop("issued", self.world.keeping.wall_ns() // 1_000_000),
            names,
        )

    def fresh(self, **changes: Any) -> Opening:
        """One with a seed of its own, see L{seed}."""
        return self.opening(commitment=commitment(self.seed(self.number + 1)), **changes)

    def seed(self, number: int | None = None) -> bytes:
        """Of the last opening that was L{fresh}."""
        return (self.number if number is None else number).to_bytes(32, "little")

    def ask(self, connection: RPCProtocol, method: Method[Any, Any], request: Any) -> Any:
        return self.world.done(connection.call(method, request))

    def refused(
        self, code: str, connection: RPCProtocol, method: Method[Any, Any], request: Any
    ) -> RemoteError:
        with self.assertRaises(RemoteError) as caught:
            self.ask(connection, method, request)
        error: RemoteError = caught.exception
        self.assertEqual(error.code, code, str(error))
        return error

    def opened(
        self, connection: RPCProtocol, opening: Opening, grants: Sequence[bytes] = ()
    ) -> Answer:
        raw = self.ask(connection, OPEN, OpenRequest(opening.raw, list(grants)))
        return Answer.open(raw, opening)


class Opens(Case):
    limits = GENEROUS

    def test_who_has_a_lease_is_told_what_is_here(self) -> None:
        gone = shelf(seed=2).header.share_id(0)
        opening = self.fresh(names=[gone, self.share.name])
        answer = self.opened(self.world.connect(), opening)
        self.assertIsNone(answer.said[0])
        said = answer.said[1]
        assert said is not None
        self.assertEqual((said.size, said.root), (self.share.size, self.share.root))
        figures = self.world.factory.figures()
        self.assertEqual((figures.under_way, figures.answered, figures.missing), (1, 1, 1))

    def test_every_answer_has_its_own_random_bytes(self) -> None:
        connection = self.world.connect()
        nonces = {self.opened(connection, self.fresh()).nonce for _ in range(4)}
        self.assertEqual(len(nonces), 4)

    def test_what_somebody_else_has_signed_is_refused(self) -> None:
        self.refused(
            "AUDIT_INVALID",
            self.world.connect(MALLORY),
            OPEN,
            OpenRequest(self.fresh().raw),
        )

    def test_what_is_for_others_is_refused(self) -> None:
        connection = self.world.connect()
        for opening in (self.fresh(peer=MALLORY.public), self.fresh(network=b"n" * 16)):
            self.refused("AUDIT_INVALID", connection, OPEN, OpenRequest(opening.raw))

    def test_what_is_old_or_from_the_future_is_refused(self) -> None:
        connection = self.world.connect()
        self.world.advance(300)
        now = self.world.keeping.wall_ns() // 1_000_000
        for issued in (now - 120_001, now + 120_001):
            opening = self.fresh(issued=issued)
            self.refused("AUDIT_STALE", connection, OPEN, OpenRequest(opening.raw))
        for issued in (now - 119_000, now + 119_000):
            self.opened(connection, self.fresh(issued=issued))

    def test_what_was_begun_before_this_peer_was_started_is_refused(self) -> None:
        opening = self.fresh()
        self.world.advance(5)
        self.world.factory = self.world.make_factory()
        connection = self.world.connect()
        self.refused("AUDIT_STALE", connection, OPEN, OpenRequest(opening.raw))

    def test_who_may_not_ask_is_told_about_what(self) -> None:
        other = self.world.put(shelf(seed=2), caller=BOB, secret=OTHER_SECRET)
        opening = self.fresh(names=[self.share.name, other.name])
        error = self.refused("AUDIT_REFUSED", self.world.connect(), OPEN, OpenRequest(opening.raw))
        self.assertEqual(error.details, {"shares": [1]})
        self.assertEqual(self.world.factory.figures().under_way, 0)

    def test_who_proves_no_key_is_refused(self) -> None:
        class Bare:
            key = None

        for handler, request in (
            (self.world.factory._open, OpenRequest(self.fresh().raw)),
            (self.world.factory._reveal, RevealRequest(bytes(16), SEED)),
            (self.world.factory._leaves, LeavesRequest(bytes(16), 0)),
            (self.world.factory._again, AgainRequest(b"", b"", SEED)),
        ):
            answer = Deferred.fromCoroutine(handler(Bare(), request))
            self.assertEqual(self.failureResultOf(answer).value.code, "AUDIT_REFUSED")


class Replays(Case):
    limits = GENEROUS

    def expect_replayed(self, connection: RPCProtocol, opening: Opening) -> None:
        self.refused("AUDIT_REPLAYED", connection, OPEN, OpenRequest(opening.raw))

    def test_nobody_gets_two_answers_to_one_opening(self) -> None:
        connection, opening = self.world.connect(), self.fresh()
        self.opened(connection, opening)
        self.expect_replayed(connection, opening)
        self.expect_replayed(self.world.connect(), opening)
        self.world.advance(61)
        self.expect_replayed(connection, opening)

    def test_nobody_gets_two_answers_to_one_commitment(self) -> None:
        connection = self.world.connect()
        self.opened(connection, self.opening())
        for _ in range(3):
            self.expect_replayed(connection, self.opening())
        self.world.advance(61)
        self.expect_replayed(connection, self.opening())

    def test_nobody_uses_an_id_twice(self) -> None:
        connection = self.world.connect()
        self.opened(connection, self.fresh(audit_id=b"i" * 16))
        self.expect_replayed(connection, self.fresh(audit_id=b"i" * 16))
        self.world.advance(61)
        self.expect_replayed(connection, self.fresh(audit_id=b"i" * 16))

    def test_two_that_come_at_once_get_one_answer(self) -> None:
        connection = self.world.connect()
        calls = [connection.call(OPEN, OpenRequest(self.opening().raw)) for _ in range(3)]
        results: list[Any] = []
        for each in calls:
            each.addBoth(results.append)
        self.world.until(lambda: len(results) == 3)
        self.assertEqual(sum(isinstance(each, bytes) for each in results), 1)

    def test_an_id_of_one_is_none_of_another(self) -> None:
        self.opened(self.world.connect(), self.opening())
        self.world.put(shelf(), caller=BOB, secret=OTHER_SECRET)
        self.opened(
            self.world.connect(make_identity("bob")),
            self.opening(identity=make_identity("bob"), audit_id=(1).to_bytes(16, "big")),
        )

    def test_what_is_remembered_has_a_limit_and_is_not_forgotten_before_its_time(self) -> None:
        self.world.limits = AuditLimits(1e6, 1e6, 1e9, 1e9, remembered=6, under_way=10)
        self.world.factory = self.world.make_factory()
        connection = self.world.connect()
        first = self.fresh()
        self.opened(connection, first)
        for _ in range(2):
            self.opened(connection, self.fresh())
        self.refused("AUDIT_BUSY", connection, OPEN, OpenRequest(self.fresh().raw))
        self.expect_replayed(connection, first)
        self.world.advance(239)
        self.refused("AUDIT_BUSY", connection, OPEN, OpenRequest(self.fresh().raw))
        self.world.advance(2)
        self.opened(connection, self.fresh())

    def test_who_has_nothing_here_fills_no_memory(self) -> None:
        self.world.limits = AuditLimits(1e6, 1e6, 1e9, 1e9, remembered=4, under_way=50)
        self.world.factory = self.world.make_factory()
        connection = self.world.connect(MALLORY)
        for _ in range(10):
            opening = self.fresh(identity=MALLORY, names=[b"x" * 32])
            self.opened(connection, opening)
        self.opened(self.world.connect(), self.fresh())


class Limits(Case):
    limits = AuditLimits(under_way=2, under_way_in_all=3)

    def test_one_has_so_many_audits_under_way_and_all_have(self) -> None:
        connection = self.world.connect()
        for _ in range(2):
            self.opened(connection, self.fresh())
        self.refused("AUDIT_BUSY", connection, OPEN, OpenRequest(self.fresh().raw))
        bob, carol = make_identity("bob"), make_identity("carol")
        self.opened(self.world.connect(bob), self.fresh(identity=bob, names=[b"x" * 32]))
        self.refused(
            "AUDIT_BUSY",
            self.world.connect(carol),
            OPEN,
            OpenRequest(self.fresh(identity=carol, names=[b"x" * 32]).raw),
        )
        self.world.advance(61)
        figures = self.world.factory.figures()
        self.assertEqual((figures.under_way, figures.given_up), (0, 3))
        self.opened(connection, self.fresh())

    def test_many_who_have_nothing_here_keep_nobody_out_who_has(self) -> None:
        self.world.limits = AuditLimits()
        self.world.factory = self.world.make_factory()
        busy = 0
        for number in range(32):
            mallory = make_identity(f"mallory-{number}")
            connection = self.world.connect(mallory)
            for _ in range(2):
                opening = self.fresh(identity=mallory, names=[b"x" * 32])
                call = connection.call(OPEN, OpenRequest(opening.raw))
                results: list[Any] = []
                call.addBoth(results.append)
                self.world.until(lambda results=results: bool(results))  # type: ignore[misc]
                busy += not isinstance(results[0], bytes)
        self.assertEqual(busy, 64 - AuditLimits().hollow)
        self.opened(self.world.connect(), self.fresh())
        # Who has lost everything can be asked soon.
        self.world.advance(61)
        self.opened(self.world.connect(), self.fresh(names=[b"x" * 32]))

    def test_one_that_is_refused_does_not_count(self) -> None:
        other = self.world.put(shelf(seed=2), caller=BOB, secret=OTHER_SECRET)
        connection = self.world.connect()
        for _ in range(4):
            opening = self.fresh(names=[other.name])
            self.refused("AUDIT_REFUSED", connection, OPEN, OpenRequest(opening.raw))
        self.opened(connection, self.fresh())

    def flood(self, connection: RPCProtocol, count: int) -> list[Any]:
        """So many openings at once.  @return: the codes of what came of it."""
        results: list[Any] = []
        for _ in range(count):
            request = OpenRequest(self.fresh().raw)
            connection.call(OPEN, request).addBoth(results.append)
        self.world.until(lambda: len(results) == count)
        return [getattr(getattr(each, "value", None), "code", "answer") for each in results]

    def test_a_flood_of_openings_is_refused_and_then_dropped(self) -> None:
        codes = self.flood(self.world.connect(), 30)
        self.assertEqual(codes, ["answer"] * 2 + ["AUDIT_BUSY"] * 18 + ["OVER_RATE"] * 10)
        connection = self.world.connect()
        self.assertNotIn("answer", self.flood(connection, 60))
        self.assertIn("closed", repr(connection))

    def test_shares_have_a_rate_of_their_own(self) -> None:
        self.world.limits = AuditLimits(shares_per_second=10.0, shares_burst=15.0)
        self.world.factory = self.world.make_factory()
        connection = self.world.connect()
        names = [at.to_bytes(32, "big") for at in range(15)]
        self.opened(connection, self.fresh(names=names))
        error = self.refused(
            "OVER_RATE", connection, OPEN, OpenRequest(self.fresh(names=names[:5]).raw)
        )
        self.assertEqual(error.details, {"retry_after": 0.5})
        self.world.advance(0.5)
        self.opened(connection, self.fresh(names=names[:5]))

    def test_too_many_grants_are_refused_unread(self) -> None:
        raw = Grant(PLACEMENT.public, bytes(32), ALICE.public, 1).sign(PLACEMENT)
        connection = self.world.connect()
        self.refused(
            "INVALID_REQUEST", connection, OPEN, OpenRequest(self.fresh().raw, [raw] * 1_025)
        )


class Grants(Case):
    limits = GENEROUS

    def setUp(self) -> None:
        super().setUp()
        self.other = self.world.put(shelf(seed=2), caller=BOB, secret=OTHER_SECRET)
        self.now = self.world.keeping.now()
        self.content_id = self.other.tracked.content_id

    def grant(self, signer: Identity = PLACEMENT, **changes: Any) -> bytes:
        return Grant(
            changes.get("placement", signer.public),
            changes.get("content_id", self.content_id),
            changes.get("auditor", ALICE.public),
            changes.get("expires", self.now + 600),
        ).sign(signer)

    def ask_with(self, *grants: bytes) -> Answer:
        opening = self.fresh(names=[self.other.name, self.share.name])
        return self.opened(self.world.connect(), opening, grants)

    def test_the_placement_key_lets_somebody_ask(self) -> None:
        answer = self.ask_with(self.grant())
        self.assertNotIn(None, answer.said)

    def test_grants_that_say_something_else_let_nobody_ask(self) -> None:
        for grant in (
            self.grant(MALLORY),
            self.grant(content_id=self.share.tracked.content_id),
            self.grant(auditor=MALLORY.public),
            self.grant(expires=self.now - 1),
            self.grant(expires=self.now + 32 * 86_400),
        ):
            with self.assertRaises(RemoteError) as caught:
                self.ask_with(grant)
            self.assertEqual(caught.exception.code, "AUDIT_REFUSED")

    def test_one_that_is_forged_spoils_the_opening(self) -> None:
        good = self.grant()
        with self.assertRaises(RemoteError) as caught:
            self.ask_with(good, good[:-1] + bytes([good[-1] ^ 1]))
        self.assertEqual(caught.exception.code, "AUDIT_INVALID")

    def test_one_that_is_known_is_not_verified_again_and_expires_all_the_same(self) -> None:
        grant = self.grant(expires=self.now + 100)
        self.ask_with(grant)
        self.patch(Grant, "open", lambda _: self.fail("it was verified again"))
        self.ask_with(grant)
        self.world.advance(100)
        with self.assertRaises(RemoteError) as caught:
            self.ask_with(grant)
        self.assertEqual(caught.exception.code, "AUDIT_REFUSED")

    def test_new_ones_cost_as_much_as_shares(self) -> None:
        self.world.limits = AuditLimits(1e6, 1e6, shares_per_second=1.0, shares_burst=10.0)
        self.world.factory = self.world.make_factory()
        grants = [self.grant(expires=self.now + 600 + at) for at in range(8)]
        self.ask_with(*grants)
        with self.assertRaises(RemoteError) as caught:
            self.ask_with(*grants[:1])
        self.assertEqual(caught.exception.details, {"retry_after": 2.0})
        self.world.advance(2)
        self.ask_with(*grants)

    def test_so_many_are_known(self) -> None:
        from meshkit.audit import factory

        self.patch(factory, "MAX_KNOWN_GRANTS", 3)
        for seconds in range(10):
            self.ask_with(self.grant(expires=self.now + 600 + seconds))
        self.assertEqual(len(self.world.factory._grants), 3)


class Shows(Case):
    limits = GENEROUS

    def setUp(self) -> None:
        super().setUp()
        self.shares: list[AskedShare] = []
        for seed in range(1, 13):
            self.shares += [self.world.put(shelf(600_000, 100 + seed), n) for n in range(5)]

    def begin(self, connection: RPCProtocol) -> tuple[Opening, Answer]:
        opening = self.fresh(names=[each.name for each in self.shares])
        return opening, self.opened(connection, opening)

    def test_all_leaves_come_in_pages_and_the_last_has_the_transcript(self) -> None:
        connection = self.world.connect()
        opening, answer = self.begin(connection)
        pages = pages_of(answer.said)
        self.assertGreater(len(pages), 1)
        given: dict[int, Page] = {
            0: self.ask(connection, REVEAL, RevealRequest(opening.audit_id, self.seed()))
        }
        for page in reversed(range(1, len(pages))):
            given[page] = self.ask(connection, LEAVES, LeavesRequest(opening.audit_id, page))
        self.assertEqual([at for at, each in given.items() if each.transcript], [1])
        numbers = answer.numbers(Challenge(self.seed(), answer.nonce), opening)
        shown = []
        for at, places in enumerate(pages):
            shown += check_page(
                answer.said[places.start : places.stop],
                numbers[places.start : places.stop],
                given[at].shares,
            )
        self.assertTrue(all(each.good for each in shown))
        transcript = Transcript.open(given[1].transcript or b"", opening, answer)
        self.assertEqual([each.digest for each in shown], list(transcript.digests))
        self.assertEqual(self.world.factory.figures().under_way, 0)
        self.refused("AUDIT_UNKNOWN", connection, LEAVES, LeavesRequest(opening.audit_id, 1))

    def test_a_seed_that_was_not_committed_to_shows_nothing(self) -> None:
        connection = self.world.connect()
        opening, _ = self.begin(connection)
        wrong = RevealRequest(opening.audit_id, b"w" * 32)
        self.refused("AUDIT_INVALID", connection, REVEAL, wrong)
        self.refused("AUDIT_UNKNOWN", connection, LEAVES, LeavesRequest(opening.audit_id, 0))
        self.ask(connection, REVEAL, RevealRequest(opening.audit_id, self.seed()))

    def test_each_page_is_read_once(self) -> None:
        connection = self.world.connect()
        opening, answer = self.begin(connection)
        request = RevealRequest(opening.audit_id, self.seed())
        self.ask(connection, REVEAL, request)
        self.refused("AUDIT_UNKNOWN", connection, REVEAL, request)
        for page in (0, len(pages_of(answer.said)), 1_023):
            self.refused("AUDIT_UNKNOWN", connection, LEAVES, LeavesRequest(opening.audit_id, page))

    def test_what_others_have_begun_cannot_be_asked_for(self) -> None:
        opening, _ = self.begin(self.world.connect())
        connection = self.world.connect(MALLORY)
        reveal = RevealRequest(opening.audit_id, self.seed())
        self.refused("AUDIT_UNKNOWN", connection, REVEAL, reveal)
        self.refused("AUDIT_UNKNOWN", connection, LEAVES, LeavesRequest(opening.audit_id, 0))

    def test_what_is_given_up_is_shown_no_more(self) -> None:
        connection = self.world.connect()
        opening, _ = self.begin(connection)
        self.world.advance(61)
        reveal = RevealRequest(opening.audit_id, self.seed())
        self.refused("AUDIT_UNKNOWN", connection, REVEAL, reveal)

    def test_a_page_of_a_busy_disk_can_be_asked_for_again(self) -> None:
        connection = self.world.connect()
        opening, _ = self.begin(connection)
        leaves = self.world.sampler.leaves
        self.patch(self.world.sampler, "leaves", lambda _: fail(StorageBusy("busy")))
        reveal = RevealRequest(opening.audit_id, self.seed())
        self.refused("STORAGE_BUSY", connection, REVEAL, reveal)
        self.patch(self.world.sampler, "leaves", leaves)
        page = self.ask(connection, LEAVES, LeavesRequest(opening.audit_id, 0))
        self.assertTrue(all(page.shares))

    def test_so_many_pages_are_read_at_once(self) -> None:
        self.world.limits = AuditLimits(1e6, 1e6, 1e9, 1e9, pages=1)
        waiting: list[Deferred[Any]] = []

        def wait(_wanted: Any) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.world.factory = self.world.make_factory()
        connection = self.world.connect()
        opening, answer = self.begin(connection)
        self.patch(self.world.sampler, "leaves", wait)
        calls = [connection.call(REVEAL, RevealRequest(opening.audit_id, self.seed()))]
        calls += [
            connection.call(LEAVES, LeavesRequest(opening.audit_id, page))
            for page in range(1, len(pages_of(answer.said)))
        ]
        for each in calls:
            each.addErrback(lambda _: None)
        self.world.advance(1)
        self.assertEqual((len(waiting), len(calls)), (1, 2))
        connection.abort()
        self.world.advance(1)


class Again(Case):
    limits = GENEROUS

    def test_a_peer_that_was_started_anew_shows_what_it_has_answered(self) -> None:
        opening = self.fresh()
        answer = self.opened(self.world.connect(), opening)
        self.world.advance(86_400)
        self.world.factory = self.world.make_factory()
        request = AgainRequest(opening.raw, answer.raw, self.seed())
        for _ in range(2):
            page = self.ask(self.world.connect(), AGAIN, request)
            transcript = Transcript.open(page.transcript, opening, answer)
            numbers = answer.numbers(Challenge(self.seed(), answer.nonce), opening)
            (shown,) = check_page(answer.said, numbers, page.shares)
            self.assertEqual((shown.good, shown.digest), (True, transcript.digests[0]))

    def test_what_is_under_way_still_begins_anew(self) -> None:
        connection, opening = self.world.connect(), self.fresh()
        answer = self.opened(connection, opening)
        request = AgainRequest(opening.raw, answer.raw, self.seed())
        self.assertIsNotNone(self.ask(connection, AGAIN, request).transcript)
        self.assertEqual(self.world.factory.figures().under_way, 0)

    def test_what_does_not_belong_together_is_refused(self) -> None:
        connection, opening = self.world.connect(), self.fresh()
        answer = self.opened(connection, opening)
        seed = self.seed()
        forged = Answer.make(MALLORY, opening, answer.nonce, answer.answered, answer.said)
        other = self.fresh()
        for request in (
            AgainRequest(opening.raw, answer.raw, b"w" * 32),
            AgainRequest(opening.raw, forged.raw, seed),
            AgainRequest(other.raw, answer.raw, self.seed()),
            AgainRequest(answer.raw, opening.raw, seed),
            AgainRequest(self.fresh(network=b"n" * 16).raw, answer.raw, self.seed()),
        ):
            self.refused("AUDIT_INVALID", connection, AGAIN, request)

    def test_nobody_else_can_ask_for_it(self) -> None:
        opening = self.fresh()
        answer = self.opened(self.world.connect(), opening)
        request = AgainRequest(opening.raw, answer.raw, self.seed())
        self.refused("AUDIT_INVALID", self.world.connect(MALLORY), AGAIN, request)

    def test_it_costs_as_much_as_the_first_time(self) -> None:
        self.world.limits = AuditLimits(1e6, 1e6, shares_per_second=0.1, shares_burst=2.0)
        self.world.factory = self.world.make_factory()
        connection, opening = self.world.connect(), self.fresh()
        answer = self.opened(connection, opening)
        request = AgainRequest(opening.raw, answer.raw, self.seed())
        self.ask(connection, AGAIN, request)
        self.refused("OVER_RATE", connection, AGAIN, request)


values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=64),
    st.text(max_size=20),
    st.lists(st.binary(max_size=40), max_size=3),
)


class Malformed(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(limits=GENEROUS)
        self.connection = self.world.connect()

    @given(st.sampled_from([OPEN, REVEAL, LEAVES, AGAIN]), values, values, values)
    @settings(suppress_health_check=[HealthCheck.differing_executors])
    def test_anything_is_refused_by_name_and_harms_nobody(
        self, method: Method[Any, Any], one: Any, two: Any, three: Any
    ) -> None:
        anything = Method(method.name, Raw3, method.answer, max_request=60_000)
        with self.assertRaises(MeshkitError) as caught:
            self.world.done(self.connection.call(anything, Raw3(one, two, three)))
        self.assertIn(caught.exception.code, {"INVALID_REQUEST", "AUDIT_INVALID", "AUDIT_UNKNOWN"})
        self.assertEqual(self.world.factory.figures().under_way, 0)


class Raw3(msgspec.Struct, array_like=True, frozen=True):
    """Params as somebody makes them up."""

    one: None | int | bytes | list[bytes]
    two: None | int | bytes | list[bytes]
    three: None | int | bytes | list[bytes]
