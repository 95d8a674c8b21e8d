"""Tests of L{meshkit.storage.keeper.capacity}."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CapacityReached, ConfigError, QuotaReached
from meshkit.storage.keeper.capacity import ALLOW_LIST, MAX_ALLOWED, KeeperConfig, Room, room_for
from meshkit.storage.keeper.reading import file_bytes
from meshkit.storage.manifest import MAX_MANIFEST, Manifest
from meshkit.storage.scheme import Scheme
from meshkit.testing.identities import make_identity
from tests.storage.objects import make_header


class ConfigTests(SynchronousTestCase):
    def test_what_is_lent_is_what_kryden_would_lend(self) -> None:
        """1000 bytes, 100 reserved and 200 for repair: 700, and 900 for repair."""
        config = KeeperConfig(1000, reserved=100, headroom=200)
        self.assertEqual((config.limit(False), config.limit(True)), (700, 900))

    def test_a_tenth_is_kept_for_repair_unless_something_else_is_said(self) -> None:
        self.assertEqual(KeeperConfig(1009).headroom_bytes, 100)
        self.assertEqual(KeeperConfig(1009, headroom=0).headroom_bytes, 0)

    def test_nothing_is_lent_by_default(self) -> None:
        config = KeeperConfig()
        self.assertEqual((config.limit(False), config.limit(True)), (0, 0))

    def test_a_peer_that_would_lend_nothing_by_mistake_is_refused(self) -> None:
        KeeperConfig(1000, reserved=799, headroom=200)
        for reserved in (800, 801):
            error = self.assertRaises(ConfigError, KeeperConfig, 1000, reserved, 200)
            self.assertIn("nothing is lent", str(error))

    def test_what_cannot_be_is_refused(self) -> None:
        keys = tuple(make_identity(1).public for _ in range(MAX_ALLOWED + 1))
        for wrong in (
            {"capacity": -1},
            {"capacity": 2**63},
            {"capacity": 10, "quota": -1},
            {"scrub_rate": -1},
            {"admission": "everybody"},
            {"admission": ALLOW_LIST, "allow": keys},
            {"domain": "a b"},
        ):
            self.assertRaises(ConfigError, KeeperConfig, **wrong)
        KeeperConfig(admission=ALLOW_LIST, allow=keys[1:])


class RoomTests(SynchronousTestCase):
    def test_only_repair_may_use_what_is_kept_for_it(self) -> None:
        room = Room(KeeperConfig(1000, reserved=100, headroom=200))
        room.check(700, False)
        self.assertRaises(CapacityReached, room.check, 701, False)
        room.check(701, True)
        room.add(700)
        self.assertEqual((room.free(), room.free(True)), (0, 200))
        self.assertRaises(CapacityReached, room.check, 1, False)
        room.check(200, True)
        self.assertRaises(CapacityReached, room.check, 201, True)

    def test_what_is_promised_is_not_free(self) -> None:
        room = Room(KeeperConfig(1000, headroom=0))
        room.promise(600)
        self.assertRaises(CapacityReached, room.check, 401, True)
        room.take_back(600)
        room.check(1000, False)

    def test_less_may_be_lent_than_is_there(self) -> None:
        room = Room(KeeperConfig(1000, headroom=0))
        room.add(900)
        room.config = KeeperConfig(500, headroom=0)
        self.assertEqual((room.free(), room.used), (0, 900))

    def test_one_owner_has_no_more_than_the_quota(self) -> None:
        room = Room(KeeperConfig(1000, quota=100))
        room.charge(b"a", 60)
        room.check_quota(b"a", 40)
        self.assertRaises(QuotaReached, room.check_quota, b"a", 41)
        room.check_quota(b"b", 100)
        self.assertRaises(QuotaReached, room.check_quota, b"b", 101)

    def test_an_owner_over_a_quota_that_was_lowered_may_have_what_is_free(self) -> None:
        room = Room(KeeperConfig(1000, quota=10))
        room.charge(b"a", 60)
        room.check_quota(b"a", 0)
        self.assertRaises(QuotaReached, room.check_quota, b"a", 1)

    def test_who_has_nothing_is_not_remembered(self) -> None:
        room = Room(KeeperConfig(1000))
        room.charge(b"a", 60)
        room.charge(b"b", 0)
        self.assertEqual(room.owners, 1)
        room.discharge(b"a", 60)
        self.assertEqual(room.owners, 0)

    def test_more_than_was_taken_cannot_be_given_back(self) -> None:
        room = Room(KeeperConfig(1000))
        for wrong in (room.take_back, room.remove, lambda size: room.discharge(b"a", size)):
            self.assertRaises(ValueError, wrong, 1)

    @given(size=st.integers(1, 2**40), shares=st.integers(1, 255))
    def test_the_room_of_a_reservation_holds_any_file_of_the_share(
        self, size: int, shares: int
    ) -> None:
        scheme = Scheme(1, shares, 4096)
        header, _ = make_header(scheme)
        roots = tuple(Random(1).randbytes(32) for _ in range(shares))
        raw = Manifest(header, 1, bytes(32), roots).raw
        self.assertLessEqual(file_bytes(size, len(raw)), room_for(size))
        self.assertLessEqual(file_bytes(size, MAX_MANIFEST), room_for(size))
