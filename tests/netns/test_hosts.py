"""The hosts, routers and links themselves: tests that stand on them mean nothing without this."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.netns.hosts import Host, Internet, Router, skip_reason

#: Listen at a port, and tell each caller from where it comes.
_MIRROR: Final = """
import socket, sys
listening = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    connection, (host, port) = listening.accept()
    connection.sendall(f"{host}:{port}".encode())
    connection.close()
"""

#: Call somebody from a port of one's own, and print what it says.
_CALL: Final = """
import socket, sys
host, port, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    with socket.create_connection((host, port), 1, ("", own)) as connection:
        print(connection.recv(100).decode())
except OSError as e:
    print(type(e).__name__)
"""

_PYTHON: Final = (sys.executable, "-ISc")
_PORT: Final = 7_000
_OWN_PORT: Final = 50_123


def _mirror(internet: Internet, host: Host) -> None:
    started = internet.start(host, *_PYTHON, _MIRROR, str(_PORT), stdout=subprocess.PIPE)
    assert started.stdout is not None and started.stdout.readline()


def _call(caller: Host, address: str, own_port: int = 0, port: int = _PORT) -> str:
    return caller.run(*_PYTHON, _CALL, address, str(port), str(own_port)).strip()


class HostsTests(SynchronousTestCase):
    skip = skip_reason(nft=True)

    def setUp(self) -> None:
        self.internet = Internet()
        self.addCleanup(self.internet.close)

    def test_hosts_behind_one_router_reach_one_another(self) -> None:
        router = self.internet.router("router", "5.1.0.1")
        ada, bob = router.host("ada"), router.host("bob")
        _mirror(self.internet, ada)
        self.assertEqual(_call(bob, ada.address, _OWN_PORT), f"{bob.address}:{_OWN_PORT}")

    def test_hosts_of_the_internet_reach_one_another_and_a_cut_one_nobody(self) -> None:
        ada = self.internet.host("ada", "5.1.0.1")
        bob = self.internet.host("bob", "5.2.0.1")
        _mirror(self.internet, ada)
        self.assertEqual(_call(bob, ada.address, _OWN_PORT), f"5.2.0.1:{_OWN_PORT}")
        ada.cut()
        self.assertEqual(_call(bob, ada.address), "TimeoutError")
        ada.mend()
        self.assertTrue(_call(bob, ada.address).startswith("5.2.0.1:"))

    def _behind(self, router: Router) -> tuple[Host, Host]:
        """@return: a host outside and one behind the router, both of which listen."""
        outside, inside = self.internet.host("outside", "5.1.0.1"), router.host("inside")
        for host in (outside, inside):
            _mirror(self.internet, host)
        return outside, inside

    def test_a_router_keeps_the_ports_of_its_hosts_and_lets_nobody_in(self) -> None:
        router = self.internet.router("router", "5.2.0.1")
        outside, inside = self._behind(router)
        self.assertEqual(_call(inside, outside.address, _OWN_PORT), f"5.2.0.1:{_OWN_PORT}")
        self.assertEqual(_call(outside, router.address), "TimeoutError")
        router.forward(8_000, inside, _PORT)
        self.assertTrue(_call(outside, router.address, port=8_000).startswith("5.1.0.1:"))

    def test_a_symmetric_router_gives_another_port_to_each_flow(self) -> None:
        outside, inside = self._behind(self.internet.router("router", "5.2.0.1", symmetric=True))
        seen = _call(inside, outside.address, _OWN_PORT)
        self.assertTrue(seen.startswith("5.2.0.1:"), seen)
        self.assertNotEqual(seen, f"5.2.0.1:{_OWN_PORT}")

    def test_hosts_behind_different_routers_do_not_reach_each_other(self) -> None:
        routers = [self.internet.router(name, f"5.{n}.0.1") for n, name in ((1, "one"), (2, "two"))]
        one, two = (router.host("host") for router in routers)
        _mirror(self.internet, two)
        self.assertIn(_call(one, two.address), ("TimeoutError", "OSError"))


class SlowLinkTests(SynchronousTestCase):
    skip = skip_reason(tun=True)

    def test_it_takes_its_time_and_can_be_cut(self) -> None:
        internet = Internet()
        self.addCleanup(internet.close)
        link = internet.slow_link(("here", "there"), delay=0.1, loss=0.0)
        here, there = link.ends
        _mirror(internet, there)
        began = time.monotonic()
        self.assertTrue(_call(here, there.address).startswith(here.address))
        # Two ways for the connection, and two until something came.
        self.assertGreater(time.monotonic() - began, 0.4)
        link.cut()
        self.assertEqual(_call(here, there.address), "TimeoutError")
        link.mend()
        self.assertTrue(_call(here, there.address).startswith(here.address))
