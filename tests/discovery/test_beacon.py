"""Tests of L{meshkit.discovery.beacon}: what nodes call out, and what is believed of it."""

from __future__ import annotations

import hashlib
import hmac
from random import Random
from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery import beacon as module
from meshkit.discovery.beacon import (
    BEACON_BYTES,
    LABEL,
    MAX_NEIGHBOURS,
    MAX_OF_HOST,
    MAX_OPENED,
    MAX_OPENED_OF_HOST,
    MAX_PLACES,
    MAX_REMEMBERED,
    WINDOW,
    Beacon,
    Hearing,
    Neighbours,
    open_beacon,
    seal,
)
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.testing.identities import make_identity
from meshkit.testing.strategies import public_keys

SECRET: Final = bytes(range(32))
K: Final = NetworkSecret(SECRET).key().beacon(LABEL)
OTHER: Final = NetworkSecret(bytes(range(1, 33))).key().beacon(LABEL)

ALICE: Final = make_identity("alice").public
BOB: Final = make_identity("bob").public
BOOT: Final = bytes(16)
UNIX: Final = 1_800_000_000

#: SHA-256 of the beacon of C{test_known_answer}, from the words of docs/protocol/beacons.md
#: with HChaCha20 in plain Python and the ChaCha20-Poly1305 of pyca/cryptography.
VECTOR: Final = "a4c59ef53da76f48b7a92c866353932976bcdeecc29c9f8e4615a8161dbc87c3"


def said(
    key: PublicKey = BOB, port: int = 7655, time: int = UNIX, boot: bytes = b"b" * 16
) -> Beacon:
    return Beacon(key, port, time, boot)


class Air:
    """What is on the wire: each beacon has a nonce of its own."""

    def __init__(self, key: bytes = K) -> None:
        self._key = key
        self._rng = Random(1)

    def carry(self, beacon: Beacon) -> bytes:
        return seal(self._key, beacon, self._rng.randbytes(24))

    def wrap(self, padded: bytes) -> bytes:
        """Whatever a member seals."""
        nonce = self._rng.randbytes(24)
        return nonce + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            padded, None, nonce, self._key
        )


def padded(*fields: object) -> bytes:
    return (msgspec.msgpack.encode(list(fields)) + b"\x80").ljust(120, b"\0")


class WireTests(SynchronousTestCase):
    def test_known_answer(self) -> None:
        """Made as the page says, with nothing of the module."""
        root = hmac.digest(b"meshkit/network-key/1", SECRET, "sha256")
        key = hmac.digest(root, b"meshkit/beacon/lan/1", "sha256")
        text = (
            b"\x94"
            + b"\xc4\x20" + BOB.raw
            + b"\xcd" + (7655).to_bytes(2, "big")
            + b"\xce" + UNIX.to_bytes(4, "big")
            + b"\xc4\x10" + b"b" * 16
        )  # fmt: skip
        nonce = bytes(range(24))
        sealed = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            text + b"\x80" + bytes(119 - len(text)), None, nonce, key
        )
        made = seal(K, said(), nonce)
        self.assertEqual(made, nonce + sealed)
        self.assertEqual((len(made), BEACON_BYTES), (160, 160))
        self.assertEqual(hashlib.sha256(made).hexdigest(), VECTOR)

    @given(
        public_keys(),
        st.integers(1, 65535),
        st.integers(0, 2**53),
        st.binary(min_size=16, max_size=16),
    )
    def test_what_is_sealed_is_opened(
        self, key: PublicKey, port: int, time: int, boot: bytes
    ) -> None:
        beacon = Beacon(key, port, time, boot)
        datagram = Air().carry(beacon)
        self.assertEqual(len(datagram), BEACON_BYTES)
        self.assertEqual(open_beacon(K, datagram), beacon)

    def test_another_network_cannot_open_it(self) -> None:
        self.assertIsNone(open_beacon(OTHER, Air().carry(said())))

    def test_the_network_key_itself_is_not_used(self) -> None:
        network = NetworkSecret(SECRET).key()
        self.assertNotEqual(K, network.capability(LABEL))
        self.assertRaises(ValueError, network.beacon, "Not a label")
        self.assertRaises(ValueError, network.beacon, LABEL, 65536)

    @given(st.integers(0, BEACON_BYTES - 1), st.integers(1, 255))
    def test_no_byte_can_be_changed(self, at: int, by: int) -> None:
        changed = bytearray(Air().carry(said()))
        changed[at] ^= by
        self.assertIsNone(open_beacon(K, bytes(changed)))

    @given(st.integers(0, 400).filter(lambda length: length != BEACON_BYTES))
    def test_no_other_length_is_opened(self, length: int) -> None:
        datagram = Air().carry(said())
        self.assertIsNone(open_beacon(K, datagram[:length].ljust(length, b"\0")))

    @given(st.binary(max_size=300))
    def test_anything_can_come(self, datagram: bytes) -> None:
        self.assertIsNone(open_beacon(K, datagram))

    @given(st.binary(min_size=120, max_size=120))
    def test_members_can_seal_anything(self, text: bytes) -> None:
        self.assertIsNone(open_beacon(K, Air().wrap(text)))

    def test_what_members_get_wrong(self) -> None:
        good = (BOB.raw, 7655, UNIX, BOOT)
        air = Air()
        self.assertIsNotNone(open_beacon(K, air.wrap(padded(*good))))
        for name, text in {
            "a short key": padded(BOB.raw[1:], *good[1:]),
            "a long key": padded(BOB.raw + b"1", *good[1:]),
            "a key as text": padded("b" * 32, *good[1:]),
            "port 0": padded(BOB.raw, 0, UNIX, BOOT),
            "a port too high": padded(BOB.raw, 65536, UNIX, BOOT),
            "a time before 1970": padded(BOB.raw, 7655, -1, BOOT),
            "a time past all numbers": padded(BOB.raw, 7655, 2**63, BOOT),
            "a fraction for a time": padded(BOB.raw, 7655, 1.5, BOOT),
            "a short boot": padded(*good[:3], BOOT[1:]),
            "too little": padded(*good[:3]),
            "no array": (b"\x01\x80").ljust(120, b"\0"),
            "no mark": msgspec.msgpack.encode(good).ljust(120, b"\0"),
            "something behind the mark": padded(*good)[:-1] + b"\x01",
            "something behind the text": (msgspec.msgpack.encode(good) + b"\x01\x80").ljust(
                120, b"\0"
            ),
            "a shorter padding": padded(*good)[:100],
        }.items():
            self.assertIsNone(open_beacon(K, air.wrap(text)), name)

    def test_a_later_version_may_say_more(self) -> None:
        text = padded(BOB.raw, 7655, UNIX, BOOT, "more")
        self.assertEqual(open_beacon(K, Air().wrap(text)), said(boot=BOOT))


class HearingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.air = Air()
        self.neighbours = Neighbours(K, ALICE, BOOT, UNIX)

    def hear(
        self,
        beacon: Beacon | bytes,
        host: str = "192.0.2.1",
        now: float = 0.0,
        unix: int | None = None,
    ) -> Hearing:
        datagram = beacon if isinstance(beacon, bytes) else self.air.carry(beacon)
        return self.neighbours.heard(datagram, host, now, UNIX + int(now) if unix is None else unix)

    def places(self) -> list[tuple[str, int]]:
        return [(each.host, each.port) for each in self.neighbours.addresses()]

    def test_who_is_heard_is_known(self) -> None:
        self.assertIs(self.hear(said()), Hearing.NEW)
        self.assertEqual(self.neighbours.addresses(), [MeshAddress("192.0.2.1", 7655, BOB)])
        self.assertIs(self.hear(said(), now=30), Hearing.AGAIN)
        self.assertEqual(len(self.neighbours), 1)

    def test_who_is_not_heard_any_more_is_forgotten(self) -> None:
        self.hear(said())
        self.hear(said(time=UNIX + 30), now=30)
        self.assertFalse(self.neighbours.forget(119.9))
        self.assertEqual(len(self.places()), 1)
        self.assertTrue(self.neighbours.forget(120))
        self.assertEqual((self.places(), len(self.neighbours)), ([], 0))
        self.assertFalse(self.neighbours.forget(121))

    def test_it_is_known_when_somebody_will_be_forgotten(self) -> None:
        self.assertIsNone(self.neighbours.next_forgotten())
        self.hear(said())
        self.hear(said(make_identity("carol").public, time=UNIX + 10), now=10)
        self.assertEqual(self.neighbours.next_forgotten(), 90)
        self.hear(said(time=UNIX + 20), now=20)
        self.assertEqual(self.neighbours.next_forgotten(), 100)

    def test_how_long_is_said(self) -> None:
        neighbours = Neighbours(K, ALICE, BOOT, UNIX, forgotten_after=5)
        neighbours.heard(self.air.carry(said()), "192.0.2.1", 0, UNIX)
        self.assertFalse(neighbours.forget(4.9))
        self.assertTrue(neighbours.forget(5))

    def test_the_host_is_the_one_it_comes_from(self) -> None:
        self.hear(said(), "192.0.2.1")
        self.hear(said(), "fe80::1%eth0")
        self.assertEqual(self.places(), [("192.0.2.1", 7655), ("fe80::1%eth0", 7655)])

    def test_beacons_of_another_network_are_nothing(self) -> None:
        self.assertIs(self.hear(Air(OTHER).carry(said())), Hearing.FOREIGN)
        self.assertIs(self.hear(b'{"magic":[69,71,82,69]}'), Hearing.FOREIGN)
        self.assertIs(self.hear(self.air.carry(said())[:-1]), Hearing.FOREIGN)
        self.assertEqual(self.places(), [])

    def test_our_own_is_left_out(self) -> None:
        self.assertIs(self.hear(said(ALICE, boot=BOOT, time=UNIX + 1), now=1), Hearing.OWN)
        self.assertEqual(self.places(), [])

    def test_what_comes_back_to_us_is_not_opened(self) -> None:
        """All nodes of a host share what is opened of it."""
        for _ in range(2 * MAX_OPENED_OF_HOST):
            datagram = self.air.carry(said(ALICE, boot=BOOT))
            self.neighbours.note_sent(datagram, 0)
            self.assertIs(self.hear(datagram), Hearing.REPEATED)
        self.assertIs(self.hear(said()), Hearing.NEW)

    def test_what_we_sent_before_our_last_start_is_our_own(self) -> None:
        self.assertIs(self.hear(said(ALICE, time=UNIX - 5)), Hearing.OWN)
        self.assertIs(self.hear(said(ALICE, time=UNIX)), Hearing.OWN)

    def test_another_node_with_our_key_is_noticed(self) -> None:
        self.assertIs(self.hear(said(ALICE, time=UNIX + 1), now=1), Hearing.TWIN)
        self.assertEqual(self.places(), [])

    def test_clocks_may_differ_by_the_window(self) -> None:
        for skew in (-WINDOW, WINDOW):
            self.assertIn(
                self.hear(said(time=UNIX + skew)), (Hearing.NEW, Hearing.AGAIN), f"skew {skew}"
            )
        for skew in (-WINDOW - 1, WINDOW + 1):
            self.assertIs(self.hear(said(time=UNIX + skew)), Hearing.SKEWED, f"skew {skew}")

    def test_our_clock_may_be_set_back(self) -> None:
        self.hear(said())
        self.assertIs(self.hear(said(time=UNIX - 100), now=30, unix=UNIX - 100), Hearing.AGAIN)

    def test_the_clock_of_the_reactor_may_be_set_back(self) -> None:
        self.hear(said(), now=10_000, unix=UNIX)
        self.hear(said(), "192.0.2.2", now=10_000, unix=UNIX)
        self.assertFalse(self.neighbours.forget(100))
        self.assertEqual(self.neighbours.next_forgotten(), 190)
        self.hear(said(), now=120, unix=UNIX)
        self.assertTrue(self.neighbours.forget(190))
        self.assertEqual([host for host, _ in self.places()], ["192.0.2.1"])

    def test_the_same_datagram_counts_once(self) -> None:
        """It comes by multicast and by broadcast, or somebody replays it from another host."""
        datagram = self.air.carry(said())
        self.assertIs(self.hear(datagram), Hearing.NEW)
        self.assertIs(self.hear(datagram), Hearing.REPEATED)
        self.assertIs(self.hear(datagram, "192.0.2.66"), Hearing.REPEATED)
        self.assertEqual(self.places(), [("192.0.2.1", 7655)])

    def test_a_replay_does_not_keep_anybody_alive(self) -> None:
        datagram = self.air.carry(said())
        self.hear(datagram)
        self.assertIs(self.hear(datagram, now=80), Hearing.REPEATED)
        self.assertTrue(self.neighbours.forget(90))

    def test_a_beacon_is_remembered_as_long_as_it_would_be_believed(self) -> None:
        """The sender's clock is ahead by the whole window, so it would be for twice as long."""
        datagram = self.air.carry(said(time=UNIX + WINDOW))
        self.assertIs(self.hear(datagram), Hearing.NEW)
        self.assertIs(self.hear(datagram, now=240), Hearing.REPEATED)
        self.assertIs(self.hear(datagram, now=241), Hearing.SKEWED)

    def test_a_replay_of_what_we_did_not_hear_costs_one_place(self) -> None:
        replayed = self.air.carry(said())
        self.hear(said())
        self.assertIs(self.hear(replayed, "192.0.2.66"), Hearing.NEW)
        self.assertEqual(self.places(), [("192.0.2.1", 7655), ("192.0.2.66", 7655)])

    def test_who_was_started_again_is_new_and_where_it_listens_now(self) -> None:
        self.hear(said())
        self.assertIs(self.hear(said(boot=b"c" * 16), now=1), Hearing.NEW)
        self.assertIs(self.hear(said(boot=b"c" * 16, port=7777), now=2), Hearing.NEW)
        self.assertEqual(self.places(), [("192.0.2.1", 7777)])

    def test_nobody_can_take_away_what_was_heard_from_another_host(self) -> None:
        self.hear(said())
        for n in range(40):
            forged = said(boot=bytes([n]) * 16, port=2000 + n, time=UNIX + 119)
            self.hear(forged, f"192.0.2.{2 + n % 8}", now=n)
        self.assertIn(("192.0.2.1", 7655), self.places())
        self.assertLessEqual(len(self.places()), MAX_PLACES)
        self.assertIs(self.hear(said(), now=41), Hearing.AGAIN)

    def test_nobody_is_dialled_at_what_is_no_host(self) -> None:
        for host in ("0.0.0.0", "255.255.255.255", "239.1.2.3", "::", "ff02::1"):
            self.assertIs(self.hear(said(), host), Hearing.UNUSABLE, host)

    def test_nobody_is_dialled_at_ports_of_other_services(self) -> None:
        for port in (22, 25, 1023):
            self.assertIs(self.hear(said(port=port)), Hearing.UNUSABLE, str(port))
        for port in (80, 443, 1024):
            self.assertIs(self.hear(said(port=port), now=1), Hearing.NEW, str(port))

    def test_keys_that_nobody_can_have_are_left_out(self) -> None:
        self.assertIs(self.hear(said(PublicKey(bytes(32)))), Hearing.UNUSABLE)

    def test_it_is_counted_what_came_of_them(self) -> None:
        self.hear(said())
        self.hear(b"junk")
        self.hear(b"junk")
        self.assertEqual(self.neighbours.heard_of, {Hearing.NEW: 1, Hearing.FOREIGN: 2})


class FloodTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.air = Air()
        self.neighbours = Neighbours(K, ALICE, BOOT, UNIX)
        self.opened = 0
        really = module.open_beacon

        def counting(key: bytes, datagram: bytes) -> Beacon | None:
            self.opened += 1
            return really(key, datagram)

        self.patch(module, "open_beacon", counting)

    def hear(self, datagram: bytes, host: str, now: float) -> Hearing:
        return self.neighbours.heard(datagram, host, now, UNIX + int(now))

    def test_no_more_are_opened_than_the_limit_in_any_second(self) -> None:
        rng = Random(2)
        moments = sorted(rng.uniform(0, 5) for _ in range(5_000))
        opened_at = []
        for n, now in enumerate(moments):
            before = self.opened
            self.hear(rng.randbytes(BEACON_BYTES), f"10.0.{n % 250}.1", now)
            opened_at += [now] * (self.opened - before)
        for first in opened_at:
            inside = sum(first <= each < first + 1 for each in opened_at)
            self.assertLessEqual(inside, MAX_OPENED)
        self.assertGreaterEqual(self.opened, 4 * MAX_OPENED)

    def test_a_host_that_floods_does_not_keep_others_from_being_heard(self) -> None:
        for n in range(1_000):
            self.hear(self.air.wrap(bytes(120)), "192.0.2.66", n / 1_000)
        self.assertEqual(self.opened, MAX_OPENED_OF_HOST)
        self.assertIs(self.hear(self.air.carry(said()), "192.0.2.1", 0.9999), Hearing.NEW)

    def test_what_was_opened_in_the_future_counts_no_more(self) -> None:
        for n in range(MAX_OPENED):
            self.hear(self.air.wrap(bytes(120)), f"192.0.2.{n}", 10_000)
        late = self.neighbours.heard(self.air.carry(said()), "192.0.2.1", 10_000, UNIX)
        self.assertIs(late, Hearing.OVER_RATE)
        self.assertIs(self.hear(self.air.carry(said()), "192.0.2.1", 1), Hearing.NEW)

    def test_other_lengths_and_repetitions_are_not_opened_and_cost_nobody_a_turn(self) -> None:
        datagram = self.air.carry(said())
        self.hear(datagram, "192.0.2.1", 0)
        for _ in range(1_000):
            self.hear(datagram, "192.0.2.1", 0)
            self.hear(datagram[:-1], "192.0.2.1", 0)
        self.assertEqual(self.opened, 1)
        self.assertIs(self.hear(self.air.carry(said()), "192.0.2.1", 0), Hearing.AGAIN)

    def test_one_host_has_few_names(self) -> None:
        for n in range(2 * MAX_OF_HOST):
            self.hear(self.air.carry(said(make_identity(n).public, time=UNIX + n)), "192.0.2.66", n)
        self.assertEqual(len(self.neighbours), MAX_OF_HOST)
        datagram = self.air.carry(said(time=UNIX + 20))
        self.assertIs(self.hear(datagram, "192.0.2.1", 20), Hearing.NEW)

    def fill(self) -> float:
        """Have as many nodes known as can be.  @return: when the last was heard."""
        now = 0.0
        for n in range(MAX_NEIGHBOURS):
            now = n / 10
            sent = said(make_identity(n).public, time=UNIX + int(now))
            self.assertIs(self.hear(self.air.carry(sent), f"10.0.0.{n // 2}", now), Hearing.NEW)
        return now

    def test_a_full_table_keeps_those_it_knows(self) -> None:
        now = self.fill()
        newcomer = said(time=UNIX + int(now))
        self.assertIs(self.hear(self.air.carry(newcomer), "192.0.2.1", now), Hearing.FULL)
        self.assertEqual(len(self.neighbours), MAX_NEIGHBOURS)
        known = said(make_identity(0).public, time=UNIX + int(now))
        self.assertIs(self.hear(self.air.carry(known), "10.0.0.0", now), Hearing.AGAIN)

    def test_there_is_room_again_when_somebody_is_forgotten(self) -> None:
        self.fill()
        newcomer = said(time=UNIX + 90)
        self.assertIs(self.hear(self.air.carry(newcomer), "192.0.2.1", 90), Hearing.NEW)

    def test_what_is_remembered_is_bounded(self) -> None:
        for n in range(MAX_REMEMBERED + 500):
            now = n / 40
            sent = said(make_identity(n % 50).public, time=UNIX + int(now))
            self.hear(self.air.carry(sent), f"10.0.0.{n % 50}", now)
        remembered = self.neighbours._remembered
        self.assertEqual(self.opened, MAX_REMEMBERED + 500)
        self.assertLessEqual(len(remembered), MAX_REMEMBERED)
