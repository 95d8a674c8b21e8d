"""A data folder has one daemon at a time, and its secrets are nobody else's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    DataFolderLocked,
    DoorUnreachable,
    NewerSchema,
    StartError,
    UnsafePermissions,
)
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import FORMAT, MAX_ENDPOINTS_BYTES, MAX_SECRET_BYTES, DataFolder

from .support import scratch

HOLDER = """
import os, sys
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
folder = DataFolder(sys.argv[1], LocalFiles())
folder.lock(os.getpid())
folder.write_endpoints({"mesh": ["tcp:127.0.0.1:7655"]})
print("locked", flush=True)
sys.stdin.readline()
folder.unlock()
print("unlocked", flush=True)
sys.stdin.readline()
"""

FORKER = """
import os, sys
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
folder = DataFolder(sys.argv[1], LocalFiles())
folder.prepare()
reading, writing = os.pipe()
if os.fork():
    os.close(writing)
    os.read(reading, 1)   # the child has it
    os._exit(0)           # as twistd's parent does
folder.lock(os.getpid())
os.write(writing, b"x")
print("locked", os.getpid(), flush=True)
sys.stdin.readline()
"""


class Folders(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.join(scratch(self), "mesh")
        self.files = LocalFiles()
        self.folder = self.another()
        self.addCleanup(self.folder.unlock)

    def another(self) -> DataFolder:
        return DataFolder(self.path, self.files)

    def put(self, name: str, content: bytes, mode: int = 0o600) -> str:
        path = os.path.join(self.path, name)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def content(self, name: str) -> bytes:
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def child(self, program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self._end, process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def tell(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


class PrepareTests(Folders):
    def test_a_new_folder_is_for_its_owner_alone(self) -> None:
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        self.folder.prepare()
        self.folder.prepare()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o700)
        self.assertEqual(os.listdir(self.path), [])

    def test_any_right_of_others_is_refused_and_the_remedy_named(self) -> None:
        os.mkdir(self.path)
        for bit in range(6):
            os.chmod(self.path, 0o700 | 1 << bit)
            for start in (self.folder.prepare, lambda: self.folder.lock(1)):
                error = self.assertRaises(UnsafePermissions, start)
                self.assertTrue(str(error).endswith(f"run chmod 700 {self.path}"), str(error))
        self.assertEqual(os.listdir(self.path), [])
        os.chmod(self.path, 0o500)
        self.folder.prepare()

    def test_a_file_in_its_place_is_named(self) -> None:
        with open(self.path, "w"):
            pass
        error = self.assertRaises(StartError, self.folder.prepare)
        self.assertIn(self.path, str(error))

    def test_a_relative_path_is_made_absolute_once(self) -> None:
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(os.path.dirname(self.path))
        folder = DataFolder("mesh", self.files)
        os.chdir(here)
        self.assertEqual(folder.path, os.path.realpath(self.path))

    def test_names_cannot_lead_out_of_it(self) -> None:
        for name in ("", "..", "../key", "a/b", "/etc/passwd", ".hidden", "A", "a" * 65, "a\n"):
            self.assertRaises(ValueError, self.folder.file, name)
        self.assertEqual(self.folder.file("door.token"), os.path.join(self.path, "door.token"))


class FormatTests(Folders):
    def test_it_is_written_when_the_folder_is_first_used(self) -> None:
        self.folder.lock(1)
        self.assertEqual(self.content("format"), b"1\n")
        self.assertEqual(FORMAT, 1)

    def test_a_newer_one_is_refused_and_nothing_is_locked(self) -> None:
        self.folder.prepare()
        self.put("format", b"2\n")
        for start in (self.folder.prepare, lambda: self.folder.lock(1)):
            error = self.assertRaises(NewerSchema, start)
            for word in (self.path, "format 2", "up to 1", "upgrade meshkit"):
                self.assertIn(word, str(error))
        self.assertEqual(os.listdir(self.path), ["format"])

    def test_a_damaged_one_is_refused_and_named(self) -> None:
        self.folder.prepare()
        for damage in (b"", b"one", b"1 ", b"-1", b"01", b"1\n1\n", b"9" * 10):
            self.put("format", damage)
            error = self.assertRaises(StartError, self.folder.prepare)
            self.assertIn(os.path.join(self.path, "format"), str(error))
        self.put("format", b"1" * 257)
        error = self.assertRaises(StartError, self.folder.prepare)
        self.assertIn(os.path.join(self.path, "format"), str(error))

    def test_one_that_becomes_newer_while_we_wait_is_seen_under_the_lock(self) -> None:
        self.folder.prepare()
        self.folder.lock(1)
        self.folder.unlock()
        case = self

        class Late(LocalFiles):
            """Somebody else upgrades just before we get the lock."""

            def lock(self, path: str, note: str) -> Any:
                case.put("format", b"2\n")
                return super().lock(path, note)

        late = DataFolder(self.path, Late())
        self.assertRaises(NewerSchema, late.lock, 1)
        self.assertFalse(late.locked)
        self.put("format", b"1\n")
        self.folder.lock(1)  # it was given back


class LockTests(Folders):
    def test_a_second_one_is_told_the_folder_and_the_process(self) -> None:
        self.folder.lock(4321)
        self.assertTrue(self.folder.locked)
        self.assertEqual(self.content("lock"), b"4321\n")
        other = self.another()
        error = self.assertRaises(DataFolderLocked, other.lock, 1)
        self.assertIn(self.path, str(error))
        self.assertIn("process 4321", str(error))
        self.assertFalse(other.locked)

    def test_it_can_be_taken_repeatedly_and_given_back_repeatedly(self) -> None:
        self.folder.lock(1)
        self.folder.lock(2)
        self.assertEqual(self.content("lock"), b"1\n")
        self.folder.unlock()
        self.folder.unlock()
        self.assertFalse(self.folder.locked)
        self.another().lock(3)

    def test_a_holder_who_has_not_said_who_it_is_is_another_process(self) -> None:
        self.folder.prepare()
        for note in ("", "nobody\n", "²\n"):
            release = self.files.lock(os.path.join(self.path, "lock"), note)
            error = self.assertRaises(DataFolderLocked, self.folder.lock, 1)
            self.assertIn("in use by another process", str(error))
            release()

    def test_a_lock_file_that_cannot_be_opened_is_named(self) -> None:
        self.folder.prepare()
        os.mkdir(os.path.join(self.path, "lock"))
        error = self.assertRaises(StartError, self.folder.lock, 1)
        self.assertNotIsInstance(error, DataFolderLocked)
        self.assertIn(os.path.join(self.path, "lock"), str(error))

    def test_another_process_holds_it_until_it_gives_it_back(self) -> None:
        child = self.child(HOLDER)
        self.assertEqual(self.line(child), "locked")
        error = self.assertRaises(DataFolderLocked, self.folder.lock, 1)
        self.assertIn(f"process {child.pid}", str(error))
        self.assertEqual(self.folder.read_endpoints(), {"mesh": ["tcp:127.0.0.1:7655"]})
        self.tell(child)
        self.assertEqual(self.line(child), "unlocked")
        self.assertIsNone(self.folder.read_endpoints())
        self.folder.lock(1)

    def test_a_process_that_is_killed_holds_it_no_longer(self) -> None:
        child = self.child(HOLDER)
        self.assertEqual(self.line(child), "locked")
        child.kill()
        child.wait()
        # What it wrote is still there, and says nothing any more.
        self.assertEqual(self.content("lock"), b"%d\n" % child.pid)
        self.assertIsNotNone(self.folder.read_endpoints())
        self.folder.lock(1)
        self.assertIsNone(self.folder.read_endpoints())

    def test_only_a_holder_makes_the_endpoint_file_count(self) -> None:
        self.assertFalse(self.folder.in_use())
        self.assertIsNone(self.folder.live_endpoints())
        child = self.child(HOLDER)
        self.assertEqual(self.line(child), "locked")
        self.assertTrue(self.folder.in_use())
        self.assertEqual(self.folder.live_endpoints(), {"mesh": ["tcp:127.0.0.1:7655"]})
        self.assertEqual(self.folder.holder(), f"process {child.pid}")
        child.kill()
        child.wait()
        self.assertIsNotNone(self.folder.read_endpoints())
        self.assertIsNone(self.folder.live_endpoints())
        # And what it left is gone for those as well who do not ask.
        self.assertIsNone(self.folder.read_endpoints())
        self.assertEqual(self.content("lock"), b"")

    def test_an_endpoint_file_that_nobody_vouches_for_does_not_count(self) -> None:
        """After a power cut the lock's note, which is not synced, may be gone."""
        self.folder.lock(1)
        self.folder.unlock()
        self.put("endpoints.json", b'{"api":["http://127.0.0.1:1"]}')
        self.assertIsNone(self.another().live_endpoints())

    def test_looking_does_not_take_the_lock_of_a_folder_that_was_given_back(self) -> None:
        self.folder.lock(1)
        self.folder.unlock()
        taken: list[str] = []
        self.patch(self.files, "lock", lambda path, note: taken.append(path))
        self.assertFalse(self.folder.in_use())
        self.assertEqual(taken, [])

    def test_one_at_a_time_has_the_turn_to_start_a_daemon(self) -> None:
        self.folder.prepare()
        give_back = self.folder.take_turn(1)
        assert give_back is not None
        self.assertIsNone(self.another().take_turn(2))
        # It is not the lock of the daemon itself.
        self.another().lock(3)
        give_back()
        self.assertIsNotNone(self.another().take_turn(2))

    def test_it_is_held_by_a_daemon_that_has_forked_away(self) -> None:
        child = self.child(FORKER)
        said, pid = self.line(child).split()
        self.assertEqual(said, "locked")
        self.assertEqual(child.wait(), 0)
        self.assertNotEqual(int(pid), child.pid)
        error = self.assertRaises(DataFolderLocked, self.folder.lock, 1)
        self.assertIn(f"process {pid}", str(error))


class SecretTests(Folders):
    def setUp(self) -> None:
        super().setUp()
        self.folder.prepare()

    def test_what_is_written_is_read_and_is_for_its_owner_alone(self) -> None:
        self.folder.create_secret("door.token", b"one")
        self.assertEqual(self.folder.read_secret("door.token"), b"one")
        self.folder.write_secret("door.token", b"two")
        self.assertEqual(self.folder.read_secret("door.token"), b"two")
        mode = os.stat(os.path.join(self.path, "door.token")).st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    def test_one_that_is_there_is_not_created_again(self) -> None:
        self.folder.create_secret("key", b"one")
        self.assertRaises(FileExistsError, self.folder.create_secret, "key", b"two")
        self.assertEqual(self.folder.read_secret("key"), b"one")

    def test_one_that_is_not_there_is_not_read(self) -> None:
        self.assertRaises(FileNotFoundError, self.folder.read_secret, "key")

    def test_one_that_others_may_read_is_refused_and_the_remedy_named(self) -> None:
        path = self.put("key", b"secret", 0o640)
        error = self.assertRaises(UnsafePermissions, self.folder.read_secret, "key")
        self.assertTrue(str(error).endswith(f"run chmod 600 {path}"), str(error))

    def test_the_limit_holds(self) -> None:
        self.put("key", b"x" * MAX_SECRET_BYTES)
        self.assertEqual(len(self.folder.read_secret("key")), MAX_SECRET_BYTES)
        self.assertRaises(OSError, self.folder.read_secret, "key", MAX_SECRET_BYTES - 1)
        self.put("key", b"x" * (MAX_SECRET_BYTES + 1))
        self.assertRaises(OSError, self.folder.read_secret, "key")

    def test_no_secret_is_outside(self) -> None:
        for act in (
            lambda: self.folder.read_secret("../key"),
            lambda: self.folder.write_secret("../key", b""),
            lambda: self.folder.create_secret("../key", b""),
        ):
            self.assertRaises(ValueError, act)


class EndpointTests(Folders):
    def setUp(self) -> None:
        super().setUp()
        self.folder.lock(1)

    def test_what_is_written_is_read(self) -> None:
        endpoints = {"mesh": ["tcp:127.0.0.1:7655", "tcp:[::1]:7655"], "api": []}
        self.folder.write_endpoints(endpoints)
        self.assertEqual(self.another().read_endpoints(), endpoints)
        self.assertEqual(
            self.content("endpoints.json"),
            b'{"api":[],"mesh":["tcp:127.0.0.1:7655","tcp:[::1]:7655"]}\n',
        )

    def test_there_are_none_before_they_are_written_and_after_they_are_removed(self) -> None:
        self.assertIsNone(self.folder.read_endpoints())
        self.folder.write_endpoints({"mesh": ["x"]})
        self.folder.remove_endpoints()
        self.folder.remove_endpoints()
        self.assertIsNone(self.folder.read_endpoints())

    def test_a_clean_end_removes_them(self) -> None:
        self.folder.write_endpoints({"mesh": ["x"]})
        self.folder.unlock()
        self.assertIsNone(self.folder.read_endpoints())

    def test_a_damaged_file_is_named(self) -> None:
        for damage in (b"", b'{"mesh":["x"]', b'{"mesh":"x"}', b"[]", b"\xff", b'{"mesh":[1]}'):
            path = self.put("endpoints.json", damage)
            error = self.assertRaises(DoorUnreachable, self.folder.read_endpoints)
            self.assertIn(path, str(error))

    def test_a_port_is_remembered(self) -> None:
        self.assertEqual(self.folder.last_port(), 0)
        self.folder.remember_port(40123)
        self.assertEqual(self.another().last_port(), 40123)
        for damage in (b"", b"0\n", b"-7\n", b"65536\n", b"123456\n", b"port\n"):
            self.put("door.port", damage)
            self.assertEqual(self.folder.last_port(), 0)

    def test_the_limit_holds(self) -> None:
        content = b'{"mesh":["%b"]}' % (b"x" * (MAX_ENDPOINTS_BYTES - 13))
        self.assertEqual(len(content), MAX_ENDPOINTS_BYTES)
        self.put("endpoints.json", content)
        self.assertIsNotNone(self.folder.read_endpoints())
        path = self.put("endpoints.json", content + b"\n")
        error = self.assertRaises(DoorUnreachable, self.folder.read_endpoints)
        self.assertIn(path, str(error))
