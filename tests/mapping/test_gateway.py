"""Tests of L{meshkit.mapping.gateway}."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.mapping.gateway import default_gateway

NAMES = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT   \n"


def shown(address: str) -> str:
    """As the kernel of this machine writes it."""
    return f"{int.from_bytes(IPv4Address(address).packed, sys.byteorder):08X}"


def route(
    gateway: str, *, to: str = "0.0.0.0", mask: str = "0.0.0.0", flags: int = 3, metric: int = 0
) -> str:
    columns = ("eth0", shown(to), shown(gateway), f"{flags:04X}", "0", "0", str(metric))
    return "\t".join((*columns, shown(mask), "0", "0", "0")) + "\n"


class GatewayTests(SynchronousTestCase):
    def test_it_is_where_all_goes_that_goes_nowhere_else(self) -> None:
        local = route("0.0.0.0", to="192.168.1.0", mask="255.255.255.0", flags=1)
        through = route("192.168.1.254", to="10.0.0.0", mask="255.0.0.0")
        routes = NAMES + local + through + route("192.168.1.1")
        self.assertEqual(default_gateway(routes), IPv4Address("192.168.1.1"))
        self.assertIsNone(default_gateway(NAMES + local + through))

    def test_of_two_the_one_with_the_least_metric_counts(self) -> None:
        routes = route("192.168.1.1", metric=600) + route("10.0.0.1", metric=100)
        self.assertEqual(default_gateway(NAMES + routes), IPv4Address("10.0.0.1"))
        same = route("192.168.1.1") + route("10.0.0.1")
        self.assertEqual(default_gateway(NAMES + same), IPv4Address("192.168.1.1"))

    def test_a_wire_with_nobody_at_its_end_is_no_router(self) -> None:
        self.assertIsNone(default_gateway(NAMES + route("0.0.0.0", flags=1)))
        self.assertIsNone(default_gateway(NAMES + route("192.168.1.1", flags=2)))

    @given(st.text(max_size=200))
    def test_nonsense_names_nobody(self, text: str) -> None:
        self.assertIsNone(default_gateway(NAMES + text))
