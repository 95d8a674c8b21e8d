"""Tests of L{meshkit.discovery.machine}: real folders."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery import machine as under_test
from meshkit.discovery.machine import MAX_OF_FOLDER, Machine
from meshkit.identity.addresses import MeshAddress
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import MAX_ENDPOINTS_BYTES, DataFolder
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryFiles
from tests.runtime.support import scratch

OURS, THEIRS = "0011223344556677", "8899aabbccddeeff"
OWN = make_identity("own").public


def address(name: str, port: int = 7655) -> MeshAddress:
    return MeshAddress("127.0.0.1", port, make_identity(name).public)


class MachineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = LocalFiles()
        self.beside = scratch(self)
        self.own = self.node("own", MeshAddress("127.0.0.1", 7655, OWN))

    def node(
        self, name: str, *addresses: MeshAddress, network: str = OURS, running: bool = True
    ) -> DataFolder:
        """A data folder, and whoever has written in it."""
        folder = DataFolder(os.path.join(self.beside, name), self.files)
        folder.lock(1)
        self.addCleanup(folder.unlock)
        folder.write_endpoints({"mesh": [each.text for each in addresses], "network": [network]})
        if not running:
            # As it is after a crash: the lock is gone, all else is there.
            assert folder._release is not None
            content = self.files.read(folder.file("endpoints.json"), MAX_ENDPOINTS_BYTES)
            note = self.files.read(folder.file("lock"), 100)
            folder.unlock()
            self.files.write_atomic(folder.file("endpoints.json"), content)
            self.put(folder.path, "lock", note)
        return folder

    def put(self, folder: str, name: str, content: bytes) -> None:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)

    def look(self, *others: str, files: Any = None) -> list[MeshAddress]:
        files = self.files if files is None else files
        return Machine(files, self.own.path, OWN, OURS, others).look()

    def test_running_nodes_beside_ours_are_found(self) -> None:
        self.node("bob", address("bob"), address("bob", 7670))
        self.node("ada", address("ada"))
        self.assertEqual(
            self.look(), sorted([address("ada"), address("bob"), address("bob", 7670)])
        )

    def test_one_elsewhere_is_found_where_it_is_named(self) -> None:
        self.node("a/b/bob", address("bob"))
        self.assertEqual(self.look(), [])
        self.assertEqual(self.look(os.path.join(self.beside, "a/b/bob")), [address("bob")])

    def test_during_a_rotation_both_networks_are_ours(self) -> None:
        folder = self.node("bob", address("bob"))
        folder.write_endpoints({"mesh": [address("bob").text], "network": [THEIRS, OURS]})
        self.assertEqual(self.look(), [address("bob")])

    def test_nodes_of_other_networks_are_left_alone(self) -> None:
        self.node("bob", address("bob"), network=THEIRS)
        self.assertEqual(self.look(), [])

    def test_what_was_killed_is_not_found_and_what_it_left_is_removed(self) -> None:
        folder = self.node("bob", address("bob"), running=False)
        path = folder.file("endpoints.json")
        self.assertTrue(os.path.exists(path))
        self.assertEqual(self.look(), [])
        self.assertFalse(os.path.exists(path))

    def test_we_are_not_found_ourselves(self) -> None:
        self.node("copy", MeshAddress("127.0.0.1", 7700, OWN))
        self.assertEqual(self.look(), [])

    def test_folders_to_which_others_have_a_right_do_not_count(self) -> None:
        folder = self.node("bob", address("bob"))
        os.chmod(folder.path, 0o750)
        self.assertEqual(self.look(), [])

    def test_a_link_to_a_folder_does_not_count(self) -> None:
        self.node("a/bob", address("bob"))
        os.symlink(os.path.join(self.beside, "a/bob"), os.path.join(self.beside, "link"))
        self.assertEqual(self.look(), [])

    def test_folders_of_other_users_do_not_count(self) -> None:
        folder = self.node("bob", address("bob"))

        class System:
            """Where one folder is somebody else's."""

            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def stat(self, path: str, **options: Any) -> Any:
                found = list(inner.stat(path, **options))
                if path == folder.path:
                    found[4] += 1
                return os.stat_result(found)

        inner = self.files.system
        self.assertEqual(self.look(), [address("bob")])
        self.assertEqual(self.look(files=LocalFiles(System())), [])

    def test_what_is_no_data_folder_is_not_touched(self) -> None:
        """Above all its file C{lock}, which may be any program's."""
        other = os.path.join(self.beside, "other")
        os.mkdir(other, 0o700)
        self.put(other, "lock", b"important\n")
        for content in (None, b"[1, 2", b'{"mesh": 1}', b'{"mesh": []}'):
            if content is not None:
                self.files.write_atomic(os.path.join(other, "endpoints.json"), content)
            self.assertEqual(self.look(), [])
            with open(os.path.join(other, "lock"), "rb") as file:
                self.assertEqual(file.read(), b"important\n")

    def test_an_endpoint_file_that_names_no_addresses_is_no_trouble(self) -> None:
        folder = self.node("bob", address("bob"))
        self.node("eve", address("eve"))
        for mesh in (["nowhere"], [""], []):
            folder.write_endpoints({"mesh": mesh, "network": [OURS]})
            self.assertEqual(self.look(), [address("eve")])

    def test_a_folder_has_so_many_addresses_and_there_are_so_many_folders(self) -> None:
        self.patch(under_test, "MAX_FOLDERS", 3)
        self.node("bob", *(address("bob", 7000 + n) for n in range(MAX_OF_FOLDER + 3)))
        self.node("cem", address("cem"))
        self.node("zoe", address("zoe"))
        found = self.look()
        self.assertEqual(len(found), MAX_OF_FOLDER + 1)
        self.assertEqual({each.key for each in found}, {address("bob").key, address("cem").key})

    def test_a_large_endpoint_file_is_not_read(self) -> None:
        folder = self.node("bob", address("bob"))
        told = {"mesh": [address("bob").text], "network": [OURS], "x": ["x" * MAX_ENDPOINTS_BYTES]}
        self.files.write_atomic(folder.file("endpoints.json"), msgspec.json.encode(told))
        self.assertEqual(self.look(), [])

    def test_where_nothing_can_be_listed_nobody_is_found(self) -> None:
        self.assertEqual(self.look(files=MemoryFiles()), [])
        gone = Machine(self.files, os.path.join(self.beside, "gone"), OWN, OURS)
        self.assertEqual(gone.look(), [])
