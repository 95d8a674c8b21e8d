"""Which daemon has which parts, settings and folder, and how a folder says whose it is."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError, StartError
from meshkit.identity.network import PUBLIC_RELAYS, NetworkSecret
from meshkit.parts import PartMaker
from meshkit.runtime.folder import DataFolder
from meshkit.services.config import NodeConfig, RelayConfig, StorageConfig
from meshkit.services.programs import MESH_NODE, MESH_RELAY, MESH_STORAGE, program_of
from meshkit.testing.nodes import MemoryFiles, MemoryMesh


class ProgramTests(SynchronousTestCase):
    def test_a_node_has_all_parts_and_a_storage_peer_those_that_it_needs(self) -> None:
        names = ("audit", "contrib", "dht", "feed", "keeper", "lan", "relays", "tunnel")
        installed = [PartMaker(name, "x") for name in names]
        self.assertEqual(MESH_NODE.parts_of(installed), installed)
        chosen = [maker.name for maker in MESH_STORAGE.parts_of(installed)]
        self.assertEqual(chosen, ["audit", "dht", "keeper", "lan", "relays", "tunnel"])

    def test_what_serves_at_a_relay_is_nothing_for_a_node(self) -> None:
        names = ("contrib", "forwarding", "mailbox", "mailboxes", "registry", "relays", "tunnels")
        installed = [PartMaker(name, "x") for name in names]
        self.assertEqual(
            [maker.name for maker in MESH_NODE.parts_of(installed)],
            ["contrib", "mailbox", "relays"],
        )

    def test_a_relay_has_what_its_role_asks_for(self) -> None:
        both = ["mailboxes", "relay_door", "tunnels"]
        members = ["dht", "feed", "forwarding", "gossip", "lan", "registry"]
        installed = [PartMaker(name, "x") for name in (*both, *members, "contrib", "relays")]

        def chosen(config: RelayConfig) -> list[str]:
            return [maker.name for maker in MESH_RELAY.parts_for(config, installed)]

        self.assertEqual(chosen(RelayConfig(role="member")), both + members)
        self.assertEqual(chosen(RelayConfig(role="blind")), both)
        # Settings are declared before it is known which role it is to have.
        declared = [maker.name for maker in MESH_RELAY.parts_of(installed)]
        self.assertEqual(declared, both + members)

    def test_all_peers_of_a_network_can_be_connected_to_its_relay(self) -> None:
        installed = [PartMaker("gossip", "meshkit.gossip.part"), PartMaker("feed", "x")]
        of_node, _ = MESH_NODE.parts_of(installed)
        of_relay, feed = MESH_RELAY.parts_of(installed)
        self.assertIs(feed, installed[1])
        found = {maker: msgspec.convert({}, maker.config_type()) for maker in (of_node, of_relay)}
        self.assertEqual(found[of_node].max_links, 256)
        self.assertEqual(found[of_relay].max_links, 2_048)
        # All else is the same, and what is not allowed is refused as there.
        node, relay = (msgspec.structs.asdict(found[maker]) for maker in (of_node, of_relay))
        self.assertEqual(node | {"max_links": 2_048}, relay)
        for wrong in ({"max_links": 0}, {"max_link": 1}):
            with self.assertRaises(msgspec.ValidationError):
                msgspec.convert(wrong, of_relay.config_type())
        # Chosen again, it is the same.
        (again, _) = MESH_RELAY.parts_for(RelayConfig(), [of_relay, feed])
        self.assertIs(again.config_type(), of_relay.config_type())

    def test_all_of_them_can_run_on_one_machine(self) -> None:
        programs = (MESH_NODE, MESH_STORAGE, MESH_RELAY)
        configs = (NodeConfig(), StorageConfig(), RelayConfig())
        for each in (
            {config.listen for config in configs},
            {config.api for config in configs},
            {program.folder for program in programs},
            {program.command for program in programs},
        ):
            self.assertEqual(len(each), 3, each)

    def test_but_for_these_their_settings_are_the_same(self) -> None:
        def told(config: type[msgspec.Struct]) -> dict[str, object]:
            return {
                field.name: (field.type, field.default)
                for field in msgspec.structs.fields(config)
                if field.name not in ("listen", "api")
            }

        self.assertEqual(told(StorageConfig), told(NodeConfig))
        role = told(RelayConfig).pop("role")
        self.assertEqual(told(RelayConfig), {**told(NodeConfig), "role": role})

    def test_only_a_relay_relays(self) -> None:
        self.assertIsNone(NodeConfig().relays_as)
        self.assertIsNone(StorageConfig().relays_as)
        self.assertEqual(RelayConfig().relays_as, "member")
        self.assertEqual(RelayConfig(role="blind").relays_as, "blind")


class BlindTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)

    def test_a_blind_relay_is_given_no_network(self) -> None:
        secret = NetworkSecret(b"\1" * 32).text
        for setting in (f'network_key = "{secret}"', f'network_keys = ["{secret}"]'):
            relay = self.mesh.node("relay", f'role = "blind"\n{setting}', program=MESH_RELAY)
            with self.assertRaisesRegex(ConfigError, "a blind relay is in no network"):
                relay.start()

    def test_it_makes_none_and_keeps_one_that_is_there(self) -> None:
        relay = self.mesh.node("relay", 'role = "blind"', program=MESH_RELAY)
        path = f"{relay.folder}/network.secret"
        kept = relay.files.content[path]
        relay.start()
        relay.stop()
        self.assertEqual(relay.files.content[path], kept)
        relay.files.remove(path)
        relay.start()
        self.assertNotIn(path, relay.files.content)

    def test_its_network_is_none_for_anybody_else(self) -> None:
        text = PUBLIC_RELAYS.text
        for config, program in (
            (f'network_key = "{text}"', MESH_NODE),
            (f'network_keys = ["{text}"]', MESH_NODE),
            (f'network_key = "{text}"', MESH_RELAY),
        ):
            node = self.mesh.node("node", config, program=program)
            with self.assertRaisesRegex(ConfigError, "which everybody has"):
                node.start()


class FolderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = MemoryFiles()
        self.folder = DataFolder("/data", self.files)
        self.folder.prepare()

    def test_a_folder_in_which_nothing_is_said_is_that_of_a_node(self) -> None:
        self.assertIs(program_of(self.folder), MESH_NODE)
        self.folder.remember_program("mesh-node")
        self.assertNotIn("/data/program", self.files.content)

    def test_what_was_started_last_is_what_it_is_for(self) -> None:
        self.folder.remember_program("mesh-storage")
        self.assertIs(program_of(self.folder), MESH_STORAGE)
        self.folder.remember_program("mesh-node")
        self.assertIs(program_of(self.folder), MESH_NODE)

    def test_what_nobody_knows_here_counts_as_a_node(self) -> None:
        for content in (b"mesh-relay-of-tomorrow\n", b"", b"\xff", b"x" * 10_000, b"rm -rf /\n"):
            with self.subTest(content[:20]):
                self.files.write_atomic("/data/program", content)
                self.assertIs(program_of(self.folder), MESH_NODE)

    def test_a_disk_that_does_not_take_it_keeps_the_daemon_from_starting(self) -> None:
        def full(path: str, data: bytes, mode: int = 0o600) -> None:
            raise OSError(28, "No space left on device", path)

        self.files.write_atomic = full  # type: ignore[method-assign]
        with self.assertRaisesRegex(StartError, "cannot write /data/program: No space left"):
            self.folder.remember_program("mesh-storage")

    def test_a_node_says_it_when_it_starts(self) -> None:
        mesh = MemoryMesh()
        self.addCleanup(mesh.stop)
        ada = mesh.node("ada")
        folder = DataFolder(ada.folder, ada.files)
        folder.remember_program("mesh-storage")
        ada.start()
        self.assertIs(program_of(folder), MESH_NODE)
