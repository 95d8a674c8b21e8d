"""Who is a member says so itself, in time, under its key, and not too loudly."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import Overloaded, StatementInvalid, StatementStale
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import STORAGE_RECORD
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity
from meshkit.storage.membership import MAX_MEMBERS, REMEMBERED, Membership
from meshkit.storage.statements import MAX_RECORD_SECONDS, MAX_SKEW, StorageRecord
from meshkit.testing.identities import make_identity

NETWORK = b"n" * 16
NOW = 1_800_000_000
ADA, BOB = make_identity("ada"), make_identity("bob")


def record(
    identity: Identity = ADA, sequence: int = 1, issued: int = NOW, lasts: int = 30
) -> StorageRecord:
    return StorageRecord(
        identity.public,
        NETWORK,
        sequence=sequence,
        issued=issued,
        expires=issued + lasts,
        addresses=(HostPort("10.0.0.1", 7670),),
        capacity=1_000,
        reserved=0,
        headroom=100,
        used=0,
    )


def heartbeat(
    identity: Identity = ADA, sequence: int = 1, issued: int = NOW, lasts: int = 30
) -> bytes:
    return record(identity, sequence, issued, lasts).sign(identity)


class MembershipTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.membership = Membership(NETWORK)

    def names(self, now: int) -> list[str]:
        return [member.key.text for member in self.membership.members(now)]

    def test_members_are_given_in_the_order_of_their_keys(self) -> None:
        peers = [make_identity(number) for number in range(4)]
        for peer in peers:
            self.membership.take(heartbeat(peer), NOW)
        wanted = sorted(peers, key=lambda peer: peer.public.raw)
        self.assertEqual(self.names(NOW), [peer.public.text for peer in wanted])

    def test_a_member_is_one_up_to_the_second_in_which_its_record_expires(self) -> None:
        self.membership.take(heartbeat(), NOW)
        self.assertEqual(self.names(NOW + 29), [ADA.public.text])
        self.assertEqual(self.names(NOW + 30), [])
        self.assertIsNone(self.membership.find(ADA.public, NOW + 30))

    def test_what_has_expired_is_not_taken(self) -> None:
        self.membership.take(heartbeat(sequence=1), NOW + 29)
        self.assertRaises(StatementStale, self.membership.take, heartbeat(sequence=2), NOW + 30)

    def test_the_same_record_again_is_stale(self) -> None:
        self.membership.take(heartbeat(sequence=7), NOW)
        for sequence in (7, 6, 0):
            with self.assertRaisesRegex(StatementStale, "does not follow record 7"):
                self.membership.take(heartbeat(sequence=sequence), NOW)
        self.membership.take(heartbeat(sequence=8), NOW)

    def test_an_older_record_that_lasts_longer_does_not_bring_back_who_has_expired(self) -> None:
        self.membership.take(heartbeat(sequence=2), NOW)
        self.assertEqual(self.membership.prune(NOW + 31), [ADA.public])
        older = heartbeat(sequence=1, lasts=MAX_RECORD_SECONDS)
        for now in (NOW + 31, NOW + MAX_RECORD_SECONDS - 1):
            self.membership.prune(now)
            with self.assertRaisesRegex(StatementStale, "does not follow"):
                self.membership.take(older, now)
        # And when that is forgotten, no older record holds any more, whoever's clock is wrong.
        end = NOW + REMEMBERED
        self.membership.prune(end)
        self.assertEqual(len(self.membership), 0)
        latest = heartbeat(sequence=1, issued=NOW + MAX_SKEW, lasts=MAX_RECORD_SECONDS)
        self.assertRaises(StatementStale, self.membership.take, latest, end)

    def test_a_heartbeat_under_another_key_takes_nothing_from_who_was_asked(self) -> None:
        self.membership.take(heartbeat(ADA), NOW)
        with self.assertRaisesRegex(StatementInvalid, "signed by"):
            self.membership.take(heartbeat(BOB, 2**53 - 1), NOW, ADA.public)
        self.assertEqual(self.names(NOW), [ADA.public.text])
        self.membership.take(heartbeat(ADA, 2), NOW, ADA.public)

    def test_a_record_that_was_changed_is_refused(self) -> None:
        raw = heartbeat()
        for at in range(len(raw)):
            changed = bytearray(raw)
            changed[at] ^= 1
            self.assertRaises(StatementInvalid, self.membership.take, bytes(changed), NOW)
        self.assertEqual(self.names(NOW), [])

    def test_the_far_future_and_long_lives_are_refused(self) -> None:
        for issued in (NOW + MAX_SKEW + 1, 4_070_908_800):
            raw = heartbeat(issued=issued)
            self.assertRaises(StatementInvalid, self.membership.take, raw, NOW)
        # As nobody of ours would sign it: one with a life that is not believed.
        longest = heartbeat(lasts=MAX_RECORD_SECONDS)
        payload = Envelope.open(longest, STORAGE_RECORD).payload
        expires = (NOW + MAX_RECORD_SECONDS).to_bytes(4, "big")
        self.assertEqual(payload.count(expires), 1)
        later = payload.replace(expires, (NOW + MAX_RECORD_SECONDS + 1).to_bytes(4, "big"))
        forged = Envelope.seal(ADA, STORAGE_RECORD, later).raw
        with self.assertRaisesRegex(StatementInvalid, "would hold for 601 seconds"):
            self.membership.take(forged, NOW)
        self.membership.take(longest, NOW)

    def test_a_foreign_network_is_refused(self) -> None:
        foreign = evolve(record(), network=b"f" * 16).sign(ADA)
        with self.assertRaisesRegex(StatementInvalid, "another network"):
            self.membership.take(foreign, NOW)

    def test_a_wildcard_is_no_address(self) -> None:
        # As nobody of ours would sign it.
        payload = Envelope.open(heartbeat(), STORAGE_RECORD).payload
        wrong = payload.replace(b"10.0.0.1:7670", b"0.0.0.0:17670")
        self.assertNotEqual(wrong, payload)
        raw = Envelope.seal(ADA, STORAGE_RECORD, wrong).raw
        with self.assertRaisesRegex(StatementInvalid, "nobody can be reached at 0.0.0.0:17670"):
            self.membership.take(raw, NOW)

    def test_who_was_not_reached_is_no_member_until_it_says_something_new(self) -> None:
        self.membership.take(heartbeat(sequence=3), NOW)
        self.membership.leave(ADA.public)
        self.membership.leave(BOB.public)
        self.assertEqual(self.names(NOW), [])
        self.assertRaises(StatementStale, self.membership.take, heartbeat(sequence=3), NOW)
        self.membership.take(heartbeat(sequence=4), NOW)
        self.assertEqual(self.names(NOW), [ADA.public.text])

    def test_all_that_have_expired_are_put_out_once(self) -> None:
        peers = [make_identity(number) for number in range(4)]
        for number, peer in enumerate(peers):
            self.membership.take(heartbeat(peer, issued=NOW + number), NOW)
        self.assertEqual(self.membership.prune(NOW + 29), [])
        self.assertEqual(len(self.membership.prune(NOW + 33)), 4)
        self.assertEqual(self.membership.prune(NOW + 34), [])
        self.assertEqual(self.names(NOW), [])

    def test_there_is_room_for_so_many_strangers_and_nobody_is_put_out(self) -> None:
        small = Membership(NETWORK, limit=2, invited=[BOB.public])
        small.take(heartbeat(make_identity(1)), NOW)
        small.take(heartbeat(make_identity(2)), NOW)
        self.assertRaises(Overloaded, small.take, heartbeat(make_identity(3)), NOW)
        # Who was invited has a place of its own, and who is known goes on.
        small.take(heartbeat(BOB), NOW)
        small.take(heartbeat(make_identity(1), 2), NOW)
        self.assertEqual(len(small.members(NOW)), 3)
        # Later the places are free again.
        later = NOW + REMEMBERED
        small.take(heartbeat(make_identity(3), issued=later), later)
        self.assertEqual(len(small), 1)

    def test_a_flood_of_keys_stays_within_the_limit(self) -> None:
        self.assertEqual(MAX_MEMBERS, 1_000)
        small = Membership(NETWORK, limit=8)
        for number in range(40):
            try:
                small.take(heartbeat(make_identity(number)), NOW)
            except Overloaded:
                continue
        self.assertEqual(len(small), 8)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(-40, 40), st.integers(1, 60))))
    def test_only_growing_sequences_that_hold_make_a_member(
        self, given: list[tuple[int, int, int]]
    ) -> None:
        membership = Membership(NETWORK)
        highest = -1
        until = 0
        for sequence, age, lasts in given:
            holds = age <= MAX_SKEW and NOW + age + lasts > NOW
            raw = heartbeat(sequence=sequence, issued=NOW + age, lasts=lasts)
            if holds and sequence > highest:
                membership.take(raw, NOW)
                highest, until = sequence, NOW + age + lasts
            else:
                self.assertRaises((StatementStale, StatementInvalid), membership.take, raw, NOW)
            self.assertEqual(bool(membership.members(NOW)), until > NOW)
