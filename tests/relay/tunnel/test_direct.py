"""Tests of L{meshkit.relay.tunnel.direct} and L{meshkit.relay.tunnel.ways}."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.scopes import Scope
from meshkit.relay.tunnel import direct, upgrade, ways
from meshkit.relay.tunnel.direct import Paths, Places, may_dial, scope_at, told
from meshkit.relay.tunnel.ways import Ways
from tests.relay.tunnel.test_reservations import key

PLACE: Final = HostPort("192.0.2.1", 7655)
PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "tunnel.md"


def address(number: int) -> MeshAddress:
    return MeshAddress("192.0.2.1", 7655, key(number))


class MayDialTests(SynchronousTestCase):
    """What is dialled because a peer behind a relay says so."""

    def test_a_relay_far_away_has_us_dial_nothing_near(self) -> None:
        near = ["127.0.0.1:7655", "169.254.1.1:7655", "10.0.0.1:7655", "[::1]:7655", "[fd00::1]:1"]
        self.assertEqual(
            may_dial([*near, "9.9.9.9:7655"], Scope.WORLD), [HostPort("9.9.9.9", 7655)]
        )
        self.assertEqual(may_dial(near[:1], Scope.MACHINE), [HostPort("127.0.0.1", 7655)])
        self.assertEqual(may_dial(near[:3], Scope.SITE), [HostPort("10.0.0.1", 7655)])

    def test_how_near_a_relay_is_that_is_written_by_its_name_cannot_be_told(self) -> None:
        self.assertEqual(scope_at("relay.example"), Scope.WORLD)
        self.assertEqual(scope_at(""), Scope.WORLD)
        self.assertEqual(scope_at("10.1.2.3"), Scope.SITE)

    def test_neither_names_nor_low_ports_nor_what_is_no_place_is_dialled(self) -> None:
        bad = [
            "example.com:7655",
            "9.9.9.9:22",
            "9.9.9.9:0",
            "nowhere",
            "0.0.0.0:7655",
            "224.0.0.1:1",
        ]
        self.assertEqual(may_dial(bad, Scope.MACHINE), [])
        good = ["9.9.9.9:443", "9.9.9.9:80", "9.9.9.9:1024"]
        self.assertEqual([each.text for each in may_dial(good, Scope.WORLD)], good)

    def test_each_place_once_and_no_more_than_there_may_be(self) -> None:
        texts = [f"9.9.9.9:{7000 + number % 20}" for number in range(40)]
        self.assertEqual(len(may_dial(texts, Scope.WORLD)), direct.MAX_PLACES)

    @given(st.lists(st.text(max_size=64), max_size=8))
    def test_garbage_is_no_place(self, texts: list[str]) -> None:
        for place in may_dial(texts, Scope.WORLD):
            self.assertGreater(place.port, 0)

    def test_what_we_say_fits_what_is_taken(self) -> None:
        many = [
            HostPort("2001:db8:1111:2222:3333:4444:5555:6666", port) for port in range(7000, 7020)
        ]
        said = msgspec.msgpack.encode(told(many))
        self.assertLess(len(said), direct.PLACES.max_request)
        self.assertEqual(
            msgspec.msgpack.decode(said, type=Places).places,
            [place.text for place in many[: direct.MAX_PLACES]],
        )


class PathsTests(SynchronousTestCase):
    """What is remembered of direct paths."""

    def test_a_path_is_looked_for_now_and_then(self) -> None:
        paths = Paths()
        self.assertTrue(paths.begin(key(1), 0.0))
        self.assertFalse(paths.begin(key(1), direct.PAUSE - 1))
        self.assertTrue(paths.begin(key(2), 1.0))
        self.assertTrue(paths.begin(key(1), direct.PAUSE))

    def test_one_that_was_found_counts_for_a_while_or_until_it_is_lost(self) -> None:
        paths = Paths()
        paths.found(key(1), PLACE, 0.0)
        self.assertEqual(paths.place(key(1), 10.0), PLACE)
        self.assertEqual(paths.places(10.0), {key(1): PLACE})
        self.assertIsNone(paths.place(key(2), 10.0))
        self.assertIsNone(paths.place(key(1), direct.FOUND_SECONDS))
        paths.found(key(1), PLACE, 0.0)
        paths.lost(key(1))
        paths.lost(key(1))
        self.assertIsNone(paths.place(key(1), 1.0))

    def test_only_so_many_are_remembered(self) -> None:
        paths = Paths()
        keys = [PublicKey(number.to_bytes(32, "big")) for number in range(direct.MAX_PEERS + 5)]
        for each in keys:
            paths.begin(each, 0.0)
            paths.found(each, PLACE, 0.0)
        self.assertEqual(len(paths), direct.MAX_PEERS)
        self.assertEqual(len(paths._asked), direct.MAX_PEERS)
        self.assertIsNone(paths.place(keys[0], 1.0))
        self.assertEqual(paths.place(keys[-1], 1.0), PLACE)


class WaysTests(SynchronousTestCase):
    """What is remembered of peers that were looked for, and of relays."""

    def test_who_was_found_is_not_looked_for_at_once_again(self) -> None:
        found = Ways()
        self.assertIsNone(found.known(key(1), 0.0))
        found.found(key(1), [address(1)], 0.0)
        found.found(key(2), [], 0.0)
        self.assertEqual(found.known(key(1), ways.FOUND_SECONDS - 1), (address(1),))
        self.assertIsNone(found.known(key(1), ways.FOUND_SECONDS))
        self.assertEqual(found.known(key(2), ways.NOT_FOUND_SECONDS - 1), ())
        self.assertIsNone(found.known(key(2), ways.NOT_FOUND_SECONDS))

    def test_who_is_gone_for_good_is_looked_for_ever_less(self) -> None:
        found, now, pauses = Ways(), 0.0, []
        for _ in range(9):
            found.found(key(1), [], now)
            pause = next(p for p in range(0, 7_201, 60) if found.known(key(1), now + p) is None)
            pauses.append(pause)
            now += pause
        self.assertEqual(pauses[:3], [60, 120, 240])
        self.assertEqual(pauses[-2:], [3_600, 3_600])
        found.found(key(1), [address(1)], now)
        found.found(key(1), [], now)
        self.assertIsNone(found.known(key(1), now + 60))

    def test_a_relay_that_was_not_reached_rests(self) -> None:
        found = Ways()
        found.missed(PLACE, 0.0)
        self.assertTrue(found.resting(PLACE, ways.REST_SECONDS - 1))
        self.assertFalse(found.resting(HostPort("192.0.2.1", 1), 0.0))
        self.assertFalse(found.resting(PLACE, ways.REST_SECONDS))
        found.reached(PLACE)
        self.assertFalse(found.resting(PLACE, 0.0))

    def test_only_so_many_are_remembered(self) -> None:
        found = Ways()
        for number in range(ways.MAX_KNOWN + 5):
            found.found(PublicKey(number.to_bytes(32, "big")), [], 0.0)
            found.missed(HostPort("192.0.2.1", number + 1), 0.0)
        self.assertEqual(len(found._found), ways.MAX_KNOWN)
        self.assertEqual(len(found._missed), ways.MAX_KNOWN)


class PageTests(SynchronousTestCase):
    """The numbers of the page."""

    def test_the_page_says_what_is_done(self) -> None:
        page = " ".join(PAGE.read_text().split())
        for said, value in (
            (f"`{direct.LABEL}` of their own network", 1),
            (f"at most {direct.MAX_PLACES} places", 1),
            (f"for {direct.DIAL_SECONDS:g} seconds each", 1),
            (f"once in {direct.PAUSE / 60:g} minutes, for {upgrade.MAX_LOOKING} peers", 1),
            (f"looked for once in {ways.FOUND_SECONDS / 60:g} minutes for each peer;", 1),
            (f"left alone for {ways.REST_SECONDS:g} seconds", 1),
        ):
            self.assertEqual(page.count(said), value, said)
        self.assertEqual((direct.DELAY, direct.FOUND_SECONDS), (0.5, 3_600))
