"""Tests of L{meshkit.identity.scopes}."""

from __future__ import annotations

from ipaddress import ip_address

from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.scopes import Scope, parse_ip, scope_of


class ScopeTests(SynchronousTestCase):
    def test_each_kind_of_address(self) -> None:
        for scope, hosts in (
            (Scope.MACHINE, ("127.0.0.1", "127.9.9.9", "::1")),
            (Scope.LINK, ("169.254.1.1", "fe80::1")),
            (
                Scope.SITE,
                (
                    "10.0.0.1",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.1.1",
                    "fd00::1",
                    "fec0::1",
                    "64:ff9b:1::a00:1",
                    "100.64.0.1",
                ),
            ),
            (Scope.WORLD, ("8.8.8.8", "172.32.0.1", "100.128.0.1", "2600::1")),
            (
                None,
                ("0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1")
                + ("::", "ff02::1"),
            ),
        ):
            for host in hosts:
                self.assertEqual(scope_of(ip_address(host)), scope, host)

    def test_a_tunnel_to_this_machine_ends_here(self) -> None:
        for host in ("::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"):
            address = parse_ip(host)
            assert address is not None
            self.assertEqual(scope_of(address), Scope.MACHINE, host)
