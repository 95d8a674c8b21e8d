"""Tests of L{meshkit.runtime.egress}."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.egress import is_public, may_dial

#: What no stranger may have this node talk to.
INNER = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # the metadata of most clouds
    "169.254.170.2",
    "100.64.0.1",  # behind a provider's NAT
    "100.100.100.200",  # the metadata of another
    "192.0.0.192",  # and of another
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata again
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
)
OUTER = (
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
)


class Judging(SynchronousTestCase):
    def test_only_public_addresses_may_be_dialled(self) -> None:
        for host in INNER:
            self.assertFalse(may_dial(host), host)
        for host in OUTER:
            self.assertTrue(may_dial(host), host)

    def test_what_is_no_address_may_not(self) -> None:
        """A name would be looked up a second time, and other spellings by others' rules."""
        for host in ("localhost", "example.com", "", "2130706433", "0x7f.1", "0177.0.0.1", "8.8.8"):
            self.assertFalse(may_dial(host), host)
            self.assertFalse(may_dial(host, (ip_network("0.0.0.0/0"), ip_network("::/0"))), host)

    def test_the_operator_may_name_what_is_not_public(self) -> None:
        allowed = (ip_network("10.1.0.0/16"), ip_network("127.0.0.1"), ip_network("fd00::/8"))
        for host in ("10.1.2.3", "127.0.0.1", "fd12::1", "::ffff:10.1.0.1", "64:ff9b::a01:203"):
            self.assertTrue(may_dial(host, allowed), host)
        for host in ("10.2.0.1", "127.0.0.2", "fc00::1", "::1", "169.254.169.254"):
            self.assertFalse(may_dial(host, allowed), host)

    @given(st.integers(0, 2**32 - 1).map(IPv4Address))
    def test_an_address_in_disguise_is_judged_as_what_it_is(self, address: IPv4Address) -> None:
        for disguise in (
            IPv6Address(int(IPv6Address("::ffff:0:0")) + int(address)),
            IPv6Address(int(IPv6Address("64:ff9b::")) + int(address)),
            IPv6Address((0x2002 << 112) + (int(address) << 80) + 1),
        ):
            self.assertEqual(is_public(disguise), is_public(address), disguise)

    @given(st.integers(0, 2**128 - 1).map(IPv6Address))
    def test_any_address_gets_an_answer(self, address: IPv6Address) -> None:
        self.assertEqual(may_dial(str(address)), is_public(address))
        self.assertTrue(may_dial(str(address), (ip_network("::/0"),)))
