"""Tests of L{meshkit.identity.addresses}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import ConfigError, InvalidAddress
from meshkit.identity.addresses import (
    HostPort,
    LocalAddress,
    MeshAddress,
    PeerAddress,
    parse_target,
)
from meshkit.identity.keys import PublicKey
from meshkit.testing.strategies import addresses

KEY = PublicKey(bytes(range(32)))
SHS = f"~shs:{KEY.base64}"

#: What is written -> the host it means, and how we write it.
GOOD = {
    "net:127.0.0.1:7655": ("127.0.0.1", "net:127.0.0.1:7655"),
    "net:node.example.com:7655": ("node.example.com", "net:node.example.com:7655"),
    "net:NODE.Example.com:7655": ("node.example.com", "net:node.example.com:7655"),
    "net:localhost:7655": ("localhost", "net:localhost:7655"),
    "net:my_host-1:7655": ("my_host-1", "net:my_host-1:7655"),
    "net:[::1]:7655": ("::1", "net:[::1]:7655"),
    "net:::1:7655": ("::1", "net:[::1]:7655"),
    "net:[2001:DB8:0::1]:7655": ("2001:db8::1", "net:[2001:db8::1]:7655"),
    "net:[fe80::1%eth0]:7655": ("fe80::1%eth0", "net:[fe80::1%eth0]:7655"),
    "net:127.0.0.1:07655": ("127.0.0.1", "net:127.0.0.1:7655"),
}

BAD_HOSTS = (
    "",
    "[",
    "[]",
    "[::1",
    "::1]",
    "[[::1]]",
    "[example.com]",
    "a..b",
    ".a",
    "-a",
    "a-",
    "a b",
    "a/b",
    "a\n",
    "é.example",
    "a:b",
    "1.2.3",
    "256.1.1.1",
    "1.2.3.4.5",
    "fe80::1%",
    "fe80::1%a b",
    "fe80::1%a\n",
    "fe80::1%:",
    "fe80::1%a]",
    "a" * 300,
)


class Parsing(SynchronousTestCase):
    def refuse(self, text: str) -> str:
        return str(self.assertRaises(InvalidAddress, MeshAddress.parse, text))

    def test_forms_that_are_read(self) -> None:
        for where, (host, shown) in GOOD.items():
            with self.subTest(where=where):
                address = MeshAddress.parse(where + SHS)
                self.assertEqual((address.host, address.port, address.key), (host, 7655, KEY))
                self.assertEqual(address.text, shown + SHS)
                self.assertEqual(str(address), address.text)
                self.assertEqual(MeshAddress.parse(address.text), address)

    def test_hosts_that_are_none(self) -> None:
        for host in BAD_HOSTS:
            with self.subTest(host=host):
                self.refuse(f"net:{host}:7655{SHS}")

    def test_ports(self) -> None:
        for port in (1, 65535):
            self.assertEqual(MeshAddress.parse(f"net:a:{port}{SHS}").port, port)
        for text in ("", "0", "65536", "-1", "+1", "1.0", " 1", "x", "١", "9" * 50):
            with self.subTest(port=text):
                self.assertIn("1 to 65535", self.refuse(f"net:a:{text}{SHS}"))

    def test_an_address_without_a_key_is_explained(self) -> None:
        for text, where in (
            ("10.0.0.1:7655", "10.0.0.1:7655"),
            ("example.com:7655", "example.com:7655"),
            ("net:example.com:7655", "example.com:7655"),
            ("[::1]:7655", "[::1]:7655"),
        ):
            message = self.refuse(text)
            self.assertIn(f"net:{where}~shs:KEY", message)
            self.assertIn("meshkit id", message)

    def test_what_is_no_address_is_explained(self) -> None:
        for text in ("", "x", "tcp:a:1" + SHS, "a:1" + SHS, SHS, "net:a:1~noauth", KEY.text):
            with self.subTest(text=text):
                self.assertIn("net:HOST:PORT~shs:KEY", self.refuse(text))

    def test_a_key_that_is_none_is_explained(self) -> None:
        for key in ("", "AAAA", KEY.text, KEY.base64 + "AAAA", "~shs:" + KEY.base64):
            with self.subTest(key=key):
                self.assertIn("key in the address", self.refuse(f"net:a:1~shs:{key}"))

    def test_a_long_text_is_refused_and_not_shown_whole(self) -> None:
        self.assertLess(len(self.refuse("net:" + "a" * 100_000 + ":1" + SHS)), 300)
        self.assertLess(len(self.refuse("a" * 512)), 300)

    def test_an_address_that_cannot_be_used_is_a_wrong_setting_too(self) -> None:
        self.assertTrue(issubclass(InvalidAddress, ConfigError))

    @given(addresses())
    def test_an_address_survives_its_text(self, address: MeshAddress) -> None:
        self.assertEqual(MeshAddress.parse(address.text), address)

    @given(st.text(max_size=60))
    def test_no_text_raises_anything_else(self, text: str) -> None:
        for whole in (text, f"net:{text}:1{SHS}", f"net:a:{text}{SHS}", f"net:a:1~shs:{text}"):
            try:
                address = MeshAddress.parse(whole)
            except InvalidAddress:
                continue
            self.assertEqual(MeshAddress.parse(address.text), address)
            self.assertTrue(address.text.isprintable())


class Channels(SynchronousTestCase):
    def test_the_ends_of_a_channel_are_addresses(self) -> None:
        inner = IPv4Address("TCP", "127.0.0.1", 1)
        for address in (PeerAddress(KEY, inner), LocalAddress(KEY, "gossip", inner)):
            verifyObject(IAddress, address)
        self.assertEqual(PeerAddress(KEY, inner), PeerAddress(KEY, inner))


class Places(SynchronousTestCase):
    """C{HOST:PORT}, which says where and not who."""

    def test_what_is_read_is_printed(self) -> None:
        for text, host, printed in (
            ("a.example:7655", "a.example", "a.example:7655"),
            ("net:A.Example:7655", "a.example", "a.example:7655"),
            ("192.0.2.7:7655", "192.0.2.7", "192.0.2.7:7655"),
            ("[::1]:7655", "::1", "[::1]:7655"),
            ("net:[2001:DB8:0::1]:7655", "2001:db8::1", "[2001:db8::1]:7655"),
            ("[fe80::1%eth0]:7655", "fe80::1%eth0", "[fe80::1%eth0]:7655"),
        ):
            with self.subTest(text):
                place = HostPort.parse(text)
                self.assertEqual((place.host, place.port, place.text), (host, 7655, printed))
                self.assertEqual(HostPort.parse(place.text), place)
                self.assertEqual(str(place), printed)
                self.assertEqual(parse_target(text), place)

    def test_what_is_none_is_refused(self) -> None:
        for text in (
            "",
            "a.example",
            ":7655",
            "a.example:",
            "a.example:0",
            "a.example:65536",
            "a.example:http",
            "a.example:\u0661",
            "::1:7655",
            "[::1]",
            "[::g]:7655",
            "[]:1",
            "192.0.2.777:7655",
            "a..example:7655",
            "a b:7655",
            "x" * 600 + ":1",
        ):
            with self.subTest(text):
                self.assertRaises(InvalidAddress, HostPort.parse, text)
                self.assertRaises(InvalidAddress, parse_target, text)

    def test_a_whole_address_has_a_place_and_is_read_as_one(self) -> None:
        key = PublicKey(bytes(range(32)))
        address = MeshAddress("2001:db8::1", 7655, key)
        self.assertEqual(address.place, HostPort("2001:db8::1", 7655))
        self.assertEqual(parse_target(address.text), address)
        self.assertIn("[2001:db8::1]:7655", address.text)
