"""Tests of L{meshkit.relay.relays.config}."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import Relay
from meshkit.relay.relays.config import MAX_RELAYS, Config
from meshkit.runtime.config import Declaration
from meshkit.services.config import NodeConfig
from meshkit.testing.identities import make_identity

OWN = make_identity("ada").public


def address(name: str, host: str = "192.0.2.1") -> MeshAddress:
    return MeshAddress(host, 7661, make_identity(name).public)


class ConfigTests(SynchronousTestCase):
    def test_relays_of_the_network_come_first_each_kind_in_its_order(self) -> None:
        names = [address(name) for name in ("d", "c", "b", "a")]
        config = Config(blind=(names[0].text, names[1].text), use=(names[2].text, names[3].text))
        self.assertEqual(
            config.relays(OWN),
            (
                Relay(names[2], "member"),
                Relay(names[3], "member"),
                Relay(names[0], "blind"),
                Relay(names[1], "blind"),
            ),
        )
        self.assertEqual(Config().relays(OWN), ())

    def test_what_is_no_address_with_a_key_is_refused_by_the_name_of_the_setting(self) -> None:
        for text in ("192.0.2.1:7661", "net:192.0.2.1:7661", "relay.example", ""):
            with self.subTest(text):
                with self.assertRaisesRegex(ConfigError, r"^relays\.use: "):
                    Config(use=(text,)).relays(OWN)
                with self.assertRaisesRegex(ConfigError, r"^relays\.blind: "):
                    Config(blind=(text,)).relays(OWN)

    def test_a_relay_stands_there_once_by_its_key(self) -> None:
        one, other = address("relay").text, address("relay", "192.0.2.2").text
        for config in (
            Config(use=(one, other)),
            Config(blind=(one, one)),
            Config(use=(one,), blind=(other,)),
        ):
            with self.assertRaisesRegex(ConfigError, "stands twice in relays.use and relays.blind"):
                config.relays(OWN)

    def test_a_node_does_not_use_itself(self) -> None:
        with self.assertRaisesRegex(ConfigError, "is this node itself"):
            Config(use=(address("ada").text,)).relays(OWN)

    def test_there_are_at_most_so_many_of_each_kind(self) -> None:
        texts = [address(f"relay {number}").text for number in range(MAX_RELAYS + 1)]
        declared = Declaration(NodeConfig, {"relays": Config})

        def given(name: str, count: int) -> Config:
            content = b"[relays]\n" + name.encode() + b" = " + msgspec.json.encode(texts[:count])
            found: Config = declared.resolve({}, {}, ("meshkit.toml", content)).section("relays")
            return found

        for name in ("use", "blind"):
            self.assertEqual(len(given(name, MAX_RELAYS).relays(OWN)), MAX_RELAYS)
            with self.assertRaises(ConfigError):
                given(name, MAX_RELAYS + 1)
