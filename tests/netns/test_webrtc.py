"""Nodes behind routers that let nobody in: which pairs find a direct path by WebRTC."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from attrs import frozen
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from meshkit.errors import WebRTCMissing
from meshkit.relay.webrtc.aio import load_aiortc
from meshkit.relay.webrtc.sessions import CONNECT_SECONDS
from tests.netns.hosts import Internet, Router, skip_reason
from tests.netns.nodes import World, at, node_on
from tests.process.mesh import Mesh, Node, wait_for
from tests.process.relays import RelayNode

RELAY: Final = "5.1.0.1"
RELAY_PORT: Final = 7661
STUN: Final = "5.4.0.1"
STUN_PORT: Final = 3478
#: Of routers that keep ports, and of symmetric ones.
KEEP: Final = ("5.2.0.1", "5.2.0.2")
CHANGE: Final = ("5.3.0.1", "5.3.0.2")

_SERVER: Final = Path(__file__).parent / "stun_server.py"
#: Where nobody is.
_NOBODY: Final = f"5.9.0.1:{STUN_PORT}"
_ON: Final = "[webrtc]\nenabled = true\n"
#: The others ask the relay.
_NAMED: Final = {"ada": f'stun = ["{_NOBODY}", "{STUN}:{STUN_PORT}"]\n'}


def _serve_stun(internet: Internet) -> None:
    server = internet.start(
        internet.host("stun", STUN),
        *(sys.executable, str(_SERVER), str(STUN_PORT)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    if server.stdout.readline() != b"ready\n":
        raise AssertionError("the STUN server did not start")


def _by_relay(node: Node) -> str:
    """@return: where a node is reached through the relay."""

    def look() -> str:
        (shown,) = node.status["parts"]["tunnel"]["relays"]
        return str(shown["address"]) if shown["reachable"] else ""

    return wait_for(f"relay of {node.home.name}", look)


@frozen
class _Pair:
    """
    Two nodes, each behind a router of its own.

    @ivar one: is dialled by...
    @ivar other: ... this one.
    """

    routers: tuple[Router, Router]
    one: Node
    other: Node

    def dial(self) -> None:
        """Have them meet through the relay."""
        address = _by_relay(self.one)
        self.other.ask("POST", "/v1/peers", json.dumps({"address": address}).encode())

    def ways(self) -> set[str]:
        """@return: by what the channels of the one who dials lead to the other."""
        key = self.one.status["identity"]
        shown = self.other.get("/v1/peers/connections")
        return {each["transport"] for each in shown if each["public_id"] == key}

    def figures(self) -> Any:
        """@return: what the one who dials has counted."""
        return self.other.status["parts"]["webrtc"]

    def lose(self, address: str) -> None:
        """Have both routers drop what goes to an address and what comes from there."""
        for router in self.routers:
            for way in ("saddr", "daddr"):
                rule = f"ip {way} {address} drop"
                router.run("nft", "insert", "rule", "ip", "filter", "forward", *rule.split())


@frozen
class _Made:
    keep: _Pair
    change: _Pair


def make(mesh: Mesh, internet: Internet) -> _Made:
    _serve_stun(internet)
    relay = RelayNode(mesh.folder / "relay", ())
    relay.home.mkdir()
    mesh._nodes.append(relay)
    relay.good("--relay", "init", "--blind")
    relay.prefix = internet.host("relay", RELAY).prefix
    relay.start(
        *("--listen", f"tcp:{RELAY_PORT}", "--api", f"unix:{relay.data / 'door.sock'}"),
        *("--tunnels-stun-port", str(STUN_PORT)),
    )
    through = ("--relays-blind", at(relay, RELAY, RELAY_PORT))

    def pair(names: tuple[str, str], addresses: tuple[str, str], symmetric: bool) -> _Pair:
        """@return: two nodes that have not met."""
        places = zip(names, addresses, strict=True)
        routers = [internet.router(f"at-{n}", at, symmetric=symmetric) for n, at in places]
        one = node_on(routers[0].host(names[0]), mesh, *through)
        other = node_on(routers[1].host(names[1]), mesh, *through, network=one)
        for node in (one, other):
            (node.data / "meshkit.toml").write_text(_ON + _NAMED.get(node.home.name, ""))
            node.spawn()
        for node in (one, other):
            node.wait_ready()
        return _Pair((routers[0], routers[1]), one, other)

    # First: to find that there is no path takes longest.
    change = pair(("eve", "fay"), CHANGE, symmetric=True)
    change.dial()
    return _Made(pair(("ada", "bob"), KEEP, symmetric=False), change)


world = World(make)


def tearDownModule() -> None:
    world.close()


class WebRTCTests(SynchronousTestCase):
    skip = skip_reason(nft=True)

    def tell(self, name: str, figures: object) -> None:
        """Nobody listens to trial."""

    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.tell = record_property  # type: ignore[method-assign]

    def setUp(self) -> None:
        try:
            load_aiortc()
        except WebRTCMissing:
            raise SkipTest("aiortc is not installed (the extra webrtc)") from None

    def test_what_two_nodes_say_goes_from_router_to_router_where_these_keep_ports(self) -> None:
        pair = world.get().keep
        pair.dial()
        began = time.monotonic()
        wait_for("a direct path", lambda: pair.ways() == {"webrtc"}, step=0.02)
        self.tell("figures", f"a direct path in {time.monotonic() - began:.2f} s")
        self.assertIn("webrtc", pair.other.good("peer", "connections").out.split())
        self.assertEqual(pair.figures()["paths"], 1)
        # Each has to know where it is seen, or the other does not reach it.
        for node, servers, seen in (
            (pair.one, [_NOBODY, f"{STUN}:{STUN_PORT}"], KEEP[0]),
            (pair.other, [f"{RELAY}:{STUN_PORT}"], KEEP[1]),
        ):
            found = node.status["parts"]["webrtc"]
            self.assertEqual((found["stun"], found["seen_at"]), (servers, seen))
            self.assertEqual(found["stun_answered"], servers[-1])
        # Nothing else leads from one to the other any more.
        pair.lose(RELAY)
        sent = pair.one.publish({"type": "note", "text": "by ourselves"})
        author = quote(pair.one.status["identity"], safe="@")

        def stored() -> bool:
            return sent["hash"] in {each["hash"] for each in pair.other.get(f"/v1/feed/{author}")}

        wait_for("the message", stored)
        self.assertEqual(pair.ways(), {"webrtc"})

    def test_the_relay_remains_and_it_is_said_where_routers_change_ports(self) -> None:
        pair = world.get().change
        wait_for("end of the search", lambda: pair.figures()["missed"] == 1, CONNECT_SECONDS + 10)
        self.assertEqual(pair.ways(), {"relay"})
        # Not because nobody has told it where it is seen.
        self.assertEqual(pair.figures()["seen_at"], CHANGE[1])
        self.assertEqual(pair.figures()["paths"], 0)
        shown = pair.other.good("peer", "list").lines[1].split()
        self.assertEqual(shown[:2], ["connected", "relay"])
        self.assertIn("no direct path was found within 20 s: the relay", pair.other.log_tail(500))
