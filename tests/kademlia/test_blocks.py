"""Tests of L{meshkit.kademlia.blocks}."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.scopes import parse_ip
from meshkit.kademlia.blocks import BlockCount, Blocks, blocks_of


class BlockTests(SynchronousTestCase):
    def test_an_address_is_counted_for_what_one_customer_and_one_provider_have(self) -> None:
        for host, narrow, wide in (
            ("192.0.2.7", "192.0.2.0/24", "192.0.0.0/16"),
            ("192.0.3.7", "192.0.3.0/24", "192.0.0.0/16"),
            ("2001:db8:1:2::7", "2001:db8:1::/48", "2001:db8::/32"),
            ("2001:db8:1:ffff::", "2001:db8:1::/48", "2001:db8::/32"),
        ):
            self.assertEqual(blocks_of(host), Blocks(narrow, wide), host)

    def test_an_address_that_wraps_another_is_counted_as_that(self) -> None:
        for host in (
            "::ffff:192.0.2.7",
            "64:ff9b::192.0.2.7",
            "2002:c000:0207::1",
            # The client's address is the last 32 bits, turned over (RFC 4380).
            "2001:0:5ef5:79fb:0:1234:3fff:fdf8",
        ):
            self.assertEqual(parse_ip(host), IPv4Address("192.0.2.7"), host)
            self.assertEqual(blocks_of(host), Blocks("192.0.2.0/24", "192.0.0.0/16"), host)

    def test_what_is_no_address_is_none(self) -> None:
        for host in ("example.com", "", "fe80::1%eth0", "1.2.3", "01.2.3.4"):
            self.assertIsNone(parse_ip(host))
            self.assertIsNone(blocks_of(host))

    def test_the_operators_own_blocks_are_not_counted(self) -> None:
        own = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
        for host in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1"):
            self.assertIsNone(blocks_of(host, own), host)
        for host in ("11.1.2.3", "fe00::1"):
            self.assertIsNotNone(blocks_of(host, own), host)

    @given(st.ip_addresses())
    def test_an_address_is_in_its_blocks(self, address: IPv4Address | IPv6Address) -> None:
        blocks = blocks_of(str(address))
        meant = parse_ip(str(address))
        assert blocks is not None and meant is not None
        self.assertIn(meant, ip_network(blocks.narrow))
        self.assertIn(meant, ip_network(blocks.wide))
        self.assertTrue(ip_network(blocks.narrow).subnet_of(ip_network(blocks.wide)))  # type: ignore[arg-type]


class Counts(SynchronousTestCase):
    def test_so_many_of_a_block_and_no_more(self) -> None:
        count = BlockCount(2, 3)
        for host, room in (
            ("192.0.2.1", True),
            ("192.0.2.2", True),
            ("192.0.2.3", False),
            ("192.0.3.1", True),
            ("192.0.4.1", False),
            ("192.1.4.1", True),
        ):
            blocks = blocks_of(host)
            self.assertEqual(count.room(blocks), room, host)
            self.assertEqual(count.take(blocks), room, host)

    def test_without_a_wide_limit_the_provider_does_not_matter(self) -> None:
        count = BlockCount(1)
        for n in range(256):
            blocks = blocks_of(f"192.0.{n}.1")
            self.assertTrue(count.room(blocks))
            count.add(blocks)
        self.assertFalse(count.room(blocks_of("192.0.7.9")))
        self.assertFalse(count.take(blocks_of("192.0.7.9")))

    def test_who_is_not_counted_always_has_room(self) -> None:
        count = BlockCount(1, 1)
        for _ in range(9):
            self.assertTrue(count.room(None) and count.take(None))
            count.add(None)
        count.remove(None)
        self.assertEqual(len(count), 0)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 600))))
    def test_it_counts_what_is_there(self, events: list[tuple[bool, int]]) -> None:
        count = BlockCount(2, 4)
        there: list[Blocks] = []
        for adds, n in events:
            blocks = blocks_of(str(IPv4Address(0x0B000000 + n * 97)))
            assert blocks is not None
            if adds and count.take(blocks):
                there.append(blocks)
            elif not adds and blocks in there:
                count.remove(blocks)
                there.remove(blocks)
            elif not adds and not any(blocks.wide == other.wide for other in there):
                self.assertRaises(ValueError, count.remove, blocks)
            narrow = [other.narrow for other in there]
            wide = [other.wide for other in there]
            self.assertEqual(len(count), len({*narrow, *wide}))
            self.assertEqual(
                count.room(blocks), narrow.count(blocks.narrow) < 2 and wide.count(blocks.wide) < 4
            )
