"""Tests of L{meshkit.discovery.invites}."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto.pasteable import write_any
from meshkit.discovery.invites import (
    LABEL,
    MAX_ADDRESSES,
    MAX_RELAYS,
    MAX_TEXT,
    PREFIX,
    VERSION,
    CountedInvite,
    Invite,
    OpenInvite,
    RelayPlace,
    code_digest,
    parse_invite,
)
from meshkit.errors import InvalidInvite
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.identity.network import GUEST_LABEL, NetworkSecret
from meshkit.testing.identities import make_identity

ADA = make_identity("ada").public
NETWORK = NetworkSecret.generate(Random("network"))
HERE = (HostPort("192.0.2.7", 7655), HostPort("2001:db8::7", 7655), HostPort("a.example", 80))
COUNTED = CountedInvite(
    ADA, HERE, NETWORK.key().capability(LABEL, VERSION), bytes(range(16)), 1_790_000_000
)
OPEN = OpenInvite(ADA, HERE, NETWORK)
RELAY = make_identity("relay").public
MEMBER = RelayPlace(HostPort("relay.example", 7661), Via(RELAY, "member"))
BLIND = RelayPlace(HostPort("192.0.2.9", 7661), Via(make_identity("other").public, "blind"))
GUEST = NETWORK.key().capability(GUEST_LABEL)
LED = CountedInvite(
    ADA, (MEMBER, BLIND, HERE[0]), COUNTED.capability, COUNTED.code, COUNTED.expires, GUEST
)
OPEN_LED = OpenInvite(ADA, (HERE[0], MEMBER), NETWORK)
ALL: tuple[Invite, ...] = (COUNTED, OPEN, LED, OPEN_LED)

places = st.builds(
    HostPort,
    st.one_of(
        st.ip_addresses().map(str).filter(lambda host: "%" not in host),
        st.from_regex(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?\.[a-z]{2,6}", fullmatch=True),
    ),
    st.integers(1, 65_535),
)
some_places = st.lists(places, min_size=1, max_size=MAX_ADDRESSES, unique=True).map(tuple)
relays = st.builds(
    RelayPlace,
    places,
    st.builds(Via, st.sampled_from([RELAY, BLIND.via.key]), st.sampled_from(["member", "blind"])),
)
any_places = (
    st.tuples(
        st.lists(places, max_size=MAX_ADDRESSES - MAX_RELAYS, unique=True),
        st.lists(relays, max_size=MAX_RELAYS, unique=True),
    )
    .flatmap(lambda both: st.permutations(both[0] + both[1]).map(tuple))
    .filter(bool)
)


def led(places: tuple[Any, ...], *fields: Any) -> CountedInvite:
    needed = any(isinstance(each, RelayPlace) and each.via.role == "member" for each in places)
    return CountedInvite(ADA, places, *fields, GUEST if needed else None)


b16, b32 = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
invites: st.SearchStrategy[Invite] = st.one_of(
    st.builds(
        CountedInvite,
        st.just(ADA),
        some_places,
        b32,
        b16,
        st.none() | st.integers(0, 2**53),
    ),
    st.builds(led, any_places, b32, b16, st.none() | st.integers(0, 2**53)),
    st.builds(
        OpenInvite,
        st.just(ADA),
        some_places | any_places,
        st.builds(NetworkSecret, b32, weak=st.booleans()),
    ),
)


def packed(*fields: object) -> str:
    return write_any(PREFIX, msgspec.msgpack.encode(fields))


class Invites(SynchronousTestCase):
    @given(invites)
    def test_what_is_read_is_what_was_written(self, invite: Invite) -> None:
        self.assertEqual(parse_invite(invite.text), invite)

    @given(invites)
    def test_a_qr_code_has_them_in_the_letters_of_which_it_holds_most(self, invite: Invite) -> None:
        self.assertTrue(re.fullmatch(r"[0-9A-Z $%*+./:-]+", invite.text.upper()))
        self.assertEqual(parse_invite(invite.text.upper()), invite)

    def test_mail_may_break_the_line(self) -> None:
        text = COUNTED.text
        broken = "  " + "\r\n".join(text[at : at + 60] for at in range(0, len(text), 60)) + "\n"
        self.assertEqual(parse_invite(broken), COUNTED)

    def test_their_bytes(self) -> None:
        """So that another program can make them."""
        addresses = ["192.0.2.7:7655", "[2001:db8::7]:7655", "a.example:80"]
        self.assertEqual(
            COUNTED.text,
            packed(1, ADA.raw, addresses, COUNTED.capability, bytes(range(16)), 1_790_000_000),
        )
        self.assertEqual(OPEN.text, packed(2, ADA.raw, addresses, NETWORK.raw, False))
        self.assertTrue(COUNTED.text.startswith("mkinvite1-sya4iia33xqqce3xl7rngfc5h574dq6a"))
        self.assertTrue(COUNTED.text.endswith("fraqaaaqeayeaudaocajbifqydiob7hgvmj3qavf7e4q"))

    def test_the_bytes_of_those_that_lead_through_relays(self) -> None:
        ways = [
            ["relay.example:7661", RELAY.raw, True],
            ["192.0.2.9:7661", BLIND.via.key.raw, False],
            "192.0.2.7:7655",
        ]
        code, expires = bytes(range(16)), 1_790_000_000
        self.assertEqual(LED.text, packed(3, ADA.raw, ways, LED.capability, GUEST, code, expires))
        opened = packed(4, ADA.raw, [ways[2], ways[0]], NETWORK.raw, False)
        self.assertEqual(OPEN_LED.text, opened)

    def test_the_longest_has_less_characters_than_are_read(self) -> None:
        longest = [
            HostPort(".".join([*["a" * 62] * 3, "a" * 61, f"b{n}"]), 65_535)
            for n in range(MAX_ADDRESSES)
        ]
        self.assertEqual(len(longest[0].host), 253)
        ways = [RelayPlace(place, MEMBER.via) for place in longest[:MAX_RELAYS]]
        for places in (tuple(longest), (*longest[MAX_RELAYS:], *ways)):
            invite = led(places, bytes(32), bytes(16), 2**53)
            self.assertLess(len(invite.text), MAX_TEXT)
            self.assertEqual(parse_invite(invite.text), invite)

    def test_a_counted_one_holds_no_secret_of_the_network(self) -> None:
        """With its capabilities nothing else of the network can be reached."""
        key = NETWORK.key()
        self.assertEqual(LED.guest, key.capability("relay-guest", 1))
        self.assertNotEqual(LED.guest, key.capability("relay-circuit", 1))
        self.assertEqual(COUNTED.capability, key.capability("invite", 1))
        data = msgspec.msgpack.encode([*COUNTED.addresses[0].key.raw])
        self.assertNotIn(NETWORK.raw, data)
        others = {key.capability(label) for label in ("ping", "dht", "gossip", "audit")}
        self.assertNotIn(COUNTED.capability, others | {key.beacon("lan"), NETWORK.raw})

    def test_into_which_network_they_lead(self) -> None:
        other = NetworkSecret.generate(Random("other")).key()
        for invite in ALL:
            self.assertTrue(invite.is_for(NETWORK.key()))
            self.assertFalse(invite.is_for(other))

    def test_whom_to_dial(self) -> None:
        for invite in (COUNTED, OPEN):
            self.assertEqual([each.key for each in invite.addresses], [ADA] * 3)
            self.assertEqual([each.place for each in invite.addresses], list(HERE))
        through, _, straight = LED.addresses
        self.assertEqual(through, MeshAddress("relay.example", 7661, ADA, Via(RELAY, "member")))
        self.assertEqual(through.relay, MeshAddress("relay.example", 7661, RELAY))
        self.assertEqual(straight, COUNTED.addresses[0])

    def test_they_are_not_shown_by_accident(self) -> None:
        for invite in ALL:
            self.assertEqual(repr(invite), f"<{type(invite).__name__} of {ADA.short}>")

    def test_a_code_is_not_told_by_what_is_kept_of_it(self) -> None:
        self.assertEqual(len(code_digest(b"c" * 16)), 32)
        self.assertNotEqual(code_digest(b"c" * 16), code_digest(b"d" * 16))

    # --- what is refused -------------------------------------------------------------------

    def refused(self, text: str, why: str) -> None:
        with self.assertRaisesRegex(InvalidInvite, why) as caught:
            parse_invite(text)
        self.assertNotIn(text[20:60] or "\0", str(caught.exception))

    def test_every_misspelt_letter(self) -> None:
        text = COUNTED.text
        for at in range(len(PREFIX), len(text)):
            self.refused(text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :], "misspelt")

    def test_every_one_that_is_cut_off(self) -> None:
        for invite in (COUNTED, OPEN, LED):
            for end in range(len(invite.text)):
                with self.assertRaises(InvalidInvite):
                    parse_invite(invite.text[:end])

    def test_what_is_something_else(self) -> None:
        self.refused(NETWORK.text, "does not begin with mkinvite1-")
        self.refused("", "does not begin with")
        self.refused(PREFIX, "misspelt")
        self.refused(f"{PREFIX}0189", "character")
        self.refused(COUNTED.text + "a" * MAX_TEXT, "no more than")

    def test_what_a_newer_meshkit_may_write(self) -> None:
        self.refused(packed(3, ADA.raw, ["a.example:1"]), "not known here")
        self.refused(packed(5, ADA.raw, ["a.example:1"], NETWORK.raw, False), "not known here")
        self.refused(packed(2, ADA.raw, ["a.example:1"], NETWORK.raw, False, 1), "not known here")
        self.refused(write_any(PREFIX, b"\xc1"), "not known here")
        self.refused(write_any(PREFIX, b"\x92\x02" + bytes(100)), "not known here")

    def test_each_has_one_text(self) -> None:
        encoded = msgspec.msgpack.encode([2, ADA.raw, ["a.example:1"], NETWORK.raw, False])
        # An array of five, written longer than it has to be.
        self.refused(write_any(PREFIX, b"\xdc\x00\x05" + encoded[1:]), "shortest")
        self.refused(packed(2, ADA.raw, ["A.example:1"], NETWORK.raw, False), "is written")

    def test_addresses_that_are_none(self) -> None:
        def with_addresses(*addresses: str) -> str:
            return packed(2, ADA.raw, addresses, NETWORK.raw, False)

        self.refused(with_addresses(), "not known here")
        many = [f"a{n}.example:1" for n in range(MAX_ADDRESSES + 1)]
        self.refused(with_addresses(*many), "not known here")
        self.refused(with_addresses("a.example:1", "a.example:1"), "twice")
        self.refused(with_addresses("a.example"), "HOST:PORT")
        self.refused(with_addresses("[fe80::1%eth0]:1"), "interface")
        self.refused(packed(2, bytes(32), ["a.example:1"], NETWORK.raw, False), "cannot be used")

    def test_relays_that_are_none(self) -> None:
        def with_ways(*ways: object, guest: bytes | None = None) -> str:
            return packed(3, ADA.raw, ways, bytes(32), guest, bytes(16), None)

        good = ["a.example:1", RELAY.raw, False]
        self.assertEqual(parse_invite(with_ways(good)).key, ADA)
        self.refused(with_ways("a.example:1"), "shortest")
        self.refused(packed(4, ADA.raw, ["a.example:1"], NETWORK.raw, False), "shortest")
        self.refused(with_ways(), "not known here")
        self.refused(with_ways([*good, 1]), "not known here")
        self.refused(with_ways(["a.example:1", RELAY.raw[1:], False]), "not known here")
        self.refused(with_ways(["A.example:1", RELAY.raw, False]), "is written")
        self.refused(with_ways(["[fe80::1%eth0]:1", RELAY.raw, False]), "interface")
        self.refused(with_ways(["a.example:1", bytes(32), False]), "cannot be used")
        self.refused(with_ways(["a.example:1", ADA.raw, False]), "to the relay itself")
        self.refused(with_ways(good, good), "twice")
        three = [[f"a{n}.example:1", RELAY.raw, False] for n in range(MAX_RELAYS + 1)]
        self.refused(with_ways(*three), f"{MAX_RELAYS} relays at most")
        # What opens the relays of a network stands beside those, and nowhere else.
        self.refused(with_ways(good, guest=GUEST), "only then")
        self.refused(with_ways(["a.example:1", RELAY.raw, True]), "only then")

    def test_such_cannot_be_made_either(self) -> None:
        with self.assertRaisesRegex(InvalidInvite, "only then"):
            CountedInvite(ADA, (MEMBER,), bytes(32), bytes(16), None)
        with self.assertRaisesRegex(InvalidInvite, "1 to 8"):
            OpenInvite(ADA, (), NETWORK)
        with self.assertRaisesRegex(InvalidInvite, "interface"):
            OpenInvite(ADA, (HostPort("fe80::1%eth0", 1),), NETWORK)
