"""Tests of the part C{webrtc}, with whole nodes, a relay and connections without WebRTC."""

from __future__ import annotations

import errno
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError

from meshkit.errors import CannotListen, ConfigError, WebRTCMissing
from meshkit.identity.addresses import HostPort
from meshkit.relay.webrtc import aio
from meshkit.relay.webrtc.part import _stun
from meshkit.relay.webrtc.servers import MAX_STUN
from meshkit.relay.webrtc.sessions import CONNECT_SECONDS
from meshkit.relay.webrtc.shortcuts import REST_SECONDS
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.nodes import MemoryNode
from tests.relay.tunnel.test_part import HIDDEN, TunnelMesh
from tests.relay.webrtc.pairs import FakeWorld

#: Other direct paths there are none.
ON: Final = "[webrtc]\nenabled = true\n[tunnel]\nupgrade = false\n"


class Thread(Service):
    """Nothing runs in a thread here."""

    def __init__(self, _reactor: Any) -> None:
        pass

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return succeed(None)


class ShortcutsMesh(TunnelMesh):
    """Connections of WebRTC are none."""

    def setUp(self) -> None:
        super().setUp()
        self.world = FakeWorld(self.mesh.clock)
        self.patch(aio, "load_aiortc", lambda: None)
        self.patch(aio, "LoopThread", Thread)
        self.patch(aio, "AioConnection", lambda *_: self.world.make())


class Shortcuts(ShortcutsMesh):
    def two(self, ben: str = ON) -> tuple[MemoryNode, MemoryNode, str]:
        """@return: two that nobody can dial, and the address of the first."""
        relay = self.relay()
        one = self.peer("ada", relay, config=HIDDEN + ON)
        other = self.peer("ben", relay, config=HIDDEN + ben)
        self.mesh.run(2)
        return one, other, self.behind(relay, one)

    def way(self, node: MemoryNode, address: str) -> str:
        found: str = self.dial(node, address)["transport"]
        return found

    def test_the_first_goes_by_the_relay_and_those_after_it_directly(self) -> None:
        ada, ben, address = self.two()
        self.assertEqual(self.way(ben, address), "relay")
        self.mesh.run(2)
        self.assertEqual(self.way(ben, address), "webrtc")
        nobody = {"stun": [], "stun_answered": None, "seen_at": None}
        self.assertEqual(
            self.status(ben, "webrtc"),
            {"paths": 1, "answered": 0, "found": 1, "missed": 0, **nobody},
        )
        self.assertEqual(
            self.status(ada, "webrtc"),
            {"paths": 0, "answered": 1, "found": 0, "missed": 0, **nobody},
        )

    def test_feeds_move_to_the_direct_path(self) -> None:
        ada, ben, address = self.two()
        self.ok(ben, "POST", "/v1/peers", {"address": address})
        self.ok(ada, "POST", "/v1/publish", {"content": {"type": "note"}})
        self.mesh.run(30)
        self.assertEqual(ben.ask("GET", "/v1/feed").json["metadata"]["total"], 1)
        ways = {each["transport"] for each in self.ok(ben, "GET", "/v1/peers/connections")}
        self.assertIn("webrtc", ways)

    def test_where_there_is_no_path_the_relay_remains(self) -> None:
        self.world.blocked = True
        _, ben, address = self.two()
        for _ in range(3):
            self.assertEqual(self.way(ben, address), "relay")
        self.mesh.run(CONNECT_SECONDS + 1)
        self.assertEqual(self.status(ben, "webrtc")["missed"], 1)
        # It is not looked for again at each dial.
        self.assertEqual(self.way(ben, address), "relay")
        self.mesh.run(CONNECT_SECONDS + 1)
        self.assertEqual(self.status(ben, "webrtc")["missed"], 1)
        self.world.blocked = False
        self.mesh.run(REST_SECONDS)
        self.way(ben, address)
        self.mesh.run(2)
        self.assertEqual(self.way(ben, address), "webrtc")

    def test_a_path_that_fails_falls_back_to_the_relay(self) -> None:
        _, ben, address = self.two()
        self.way(ben, address)
        self.mesh.run(2)
        # It looks as if it were there, and no channel opens.
        self.world.deaf = True
        self.assertEqual(self.way(ben, address), "relay")
        # And one that is known to be gone is not waited for.
        for connection in list(self.world.offered):
            connection.close()
        self.mesh.run(1)
        began = self.mesh.clock.seconds()
        self.assertEqual(self.way(ben, address), "relay")
        self.assertLess(self.mesh.clock.seconds() - began, 2)

    def test_a_peer_that_has_none_of_it(self) -> None:
        _, ben, address = self.two()
        cat = self.peer("cat", None, config=HIDDEN)
        self.assertEqual(self.way(cat, address), "relay")
        self.assertNotIn("webrtc", self.ok(cat, "GET", "/v1/status")["parts"])
        self.assertEqual(self.way(ben, address), "relay")

    def test_one_who_is_not_answered(self) -> None:
        ada, ben, address = self.two(ben="")
        back = self.behind(self.mesh.nodes[0], ben)
        self.assertEqual(self.way(ada, back), "relay")
        self.mesh.run(CONNECT_SECONDS + 1)
        self.assertEqual(self.status(ada, "webrtc")["missed"], 1)
        self.assertEqual(self.way(ada, back), "relay")
        self.assertEqual(self.way(ben, address), "relay")


class _Port:
    """A UDP port of a host that has none."""

    def stopListening(self) -> None:
        """Nobody listens."""


class OfRelays(ShortcutsMesh):
    """Relays that answer by STUN, and say so to those whom they lead others to."""

    def stun_relay(self, port: int, error: Exception | None = None) -> MemoryNode:
        relay = self.mesh.node(
            "relay", f'role = "blind"\n[tunnels]\nstun_port = {port}\n', program=MESH_RELAY
        )
        self.asked: list[int] = []

        def listen(port: int, _protocol: Any, **_options: Any) -> _Port:
            self.asked.append(port)
            if error is not None:
                raise error
            return _Port()

        relay.host.listenUDP = listen  # type: ignore[attr-defined]
        return relay

    def test_its_port_is_known_to_who_is_reached_through_it(self) -> None:
        relay = self.stun_relay(3478)
        relay.start()
        self.assertEqual(self.asked, [3478])
        self.assertEqual(self.status(relay, "tunnels")["stun_port"], 3478)
        ada = self.peer("ada", relay, config=HIDDEN + ON)
        named = self.peer(
            "ben", relay, config=f'{HIDDEN}[webrtc]\nenabled = true\nstun = ["192.0.2.1:9"]\n'
        )
        self.mesh.run(2)
        self.assertEqual(self.status(ada, "webrtc")["stun"], [f"{relay.host.address}:3478"])
        self.assertEqual(self.status(named, "webrtc")["stun"], ["192.0.2.1:9"])
        relay.stop()
        self.mesh.run(2)
        self.assertEqual(self.status(ada, "webrtc")["stun"], [])

    def test_it_has_none_unless_it_is_asked_for(self) -> None:
        relay = self.stun_relay(0)
        relay.start()
        self.assertEqual(self.asked, [])
        ada = self.peer("ada", relay, config=HIDDEN + ON)
        self.mesh.run(2)
        self.assertEqual(self.status(ada, "webrtc")["stun"], [])

    def test_a_port_that_is_taken_is_said(self) -> None:
        taken = CannotListenError("", 3478, OSError(errno.EADDRINUSE, "in use"))
        with self.assertRaisesRegex(CannotListen, r"UDP port 3478 \(in use\): .*stun_port"):
            self.stun_relay(3478, taken).start()


class Settings(TunnelMesh):
    def test_it_is_off_unless_it_is_asked_for(self) -> None:
        ada = self.peer("ada", None)
        self.assertNotIn("webrtc", self.ok(ada, "GET", "/v1/status")["parts"])

    def test_without_the_library_it_does_not_start_and_says_why(self) -> None:
        def missing() -> None:
            raise WebRTCMissing("pip install 'meshkit[webrtc]'")

        self.patch(aio, "load_aiortc", missing)
        node = self.mesh.node("ada", "[webrtc]\nenabled = true\n")
        with self.assertRaises(WebRTCMissing):
            node.start()

    def test_servers_to_ask(self) -> None:
        self.assertEqual(_stun(("stun.example.org:3478",)), [HostPort("stun.example.org", 3478)])
        for wrong, why in (
            (("nowhere",), "HOST:PORT"),
            (("[2001:db8::1]:3478",), "IPv4 alone"),
            (tuple(f"a{n}.example:1" for n in range(MAX_STUN + 1)), "are the limit"),
        ):
            with self.assertRaisesRegex(ConfigError, why):
                _stun(wrong)
