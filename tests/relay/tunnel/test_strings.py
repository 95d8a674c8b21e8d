"""Tests of L{meshkit.relay.tunnel.strings}: C{relay:} endpoint strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
from twisted.internet.task import Clock
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.keyfile import encode_identity
from meshkit.identity.network import encode_networks
from meshkit.relay.tunnel.ends import TunnelAddress
from meshkit.relay.tunnel.wire import Open
from meshkit.shs import strings as shs_strings
from meshkit.testing.transports import MemoryNetwork
from tests.relay.tunnel.world import ASKER, HIDDEN, MESH, RELAY, RELAY_NETWORK, World
from tests.runtime.support import scratch


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    path.chmod(0o600)
    return str(path)


class StringsTests(SynchronousTestCase):
    """What may stand in them."""

    def setUp(self) -> None:
        folder = Path(scratch(self))
        self.keywords = {
            "host": "192.0.2.1",
            "port": "7661",
            "relay": RELAY.public.text,
            "target": HIDDEN.public.base64,
            "identity": write(folder / "secret.key", encode_identity(ASKER)),
            "network": write(folder / "relay.secret", encode_networks([RELAY_NETWORK])),
        }
        # Memory stands for the network.
        self.network = MemoryNetwork()
        self.patch(
            shs_strings,
            "HostnameEndpoint",
            lambda _reactor, _host, port: self.network.client_endpoint(port),
        )
        self.mesh = write(folder / "network.secret", encode_networks([MESH]))

    def text(self, **changes: str | None) -> str:
        keywords = {**self.keywords, **changes}
        given = [
            f"{name}={quoteStringArgument(value)}"
            for name, value in keywords.items()
            if value is not None
        ]
        return ":".join(["relay", *given])

    def refused(self, said: str, **changes: str | None) -> None:
        error = self.assertRaises(ValueError, clientFromString, Clock(), self.text(**changes))
        self.assertIn("relay endpoint: ", str(error))
        self.assertIn(said, str(error))
        self.assertNotIn("shs endpoint", str(error))

    def test_twisted_finds_the_prefix(self) -> None:
        found = [
            plugin.prefix for plugin in getPlugins(IStreamClientEndpointStringParserWithReactor)
        ]
        self.assertEqual(found.count("relay"), 1)

    def test_a_string_leads_to_the_target_through_the_relay(self) -> None:
        endpoint: Any = clientFromString(Clock(), self.text())
        self.assertEqual(endpoint.opening, Open(HIDDEN.public.raw))
        self.assertEqual(endpoint.address, TunnelAddress(RELAY.public, HIDDEN.public))
        self.assertIn("relay-circuit", repr(endpoint.relay))

    def test_beneath_shs_it_reaches_the_peer(self) -> None:
        world = World()
        world.reserve()
        self.network = world.network
        inner = quoteStringArgument(self.text())
        endpoint = clientFromString(
            world.clock,
            f"shs:endpoint={inner}:identity={self.keywords['identity']}:network={self.mesh}:"
            f"label=stream:peer={HIDDEN.public.base64}",
        )
        stream = world.connect(endpoint)
        stream.transport.write(b"by a string")
        world.run()
        self.assertEqual(bytes(stream.received), b"by a string")

    def test_what_is_missing_or_malformed_is_named(self) -> None:
        self.refused("relay is missing", relay=None)
        self.refused("target is missing", target=None)
        self.refused("relay cannot be used", relay="@nobody.ed25519")
        self.refused("target cannot be used", target="nobody")
        self.refused("identity is missing", identity=None)
        self.refused("network is missing", network=None)
        self.refused("endpoint is missing", host=None)
        self.refused("port", port="0")
        self.refused("timeout", timeout="never")
        self.refused("no keyword 'label'", label="stream")
        self.refused("no keyword 'peer'", peer=RELAY.public.text)
        error = self.assertRaises(ValueError, clientFromString, Clock(), "relay:192.0.2.1")
        self.assertIn("stands without a keyword", str(error))

    def test_there_is_nothing_to_listen_on(self) -> None:
        error = self.assertRaises(ValueError, serverFromString, Clock(), "relay:host=a")
        self.assertIn("nothing to listen on", str(error))
