"""Files are whole or absent, and nobody else's are harmed."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import UnsafePermissions
from meshkit.interfaces import IFiles
from meshkit.runtime.files import MAX_TEMPORARIES, LocalFiles, LocalSystem, sync_folder

from .support import scratch


def permissions(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


class Recorder:
    """
    Notes the calls that make things durable, as (call, file) in order, and lets one fail.

    @ivar fail: names of calls that fail with C{ENOSPC}.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self.calls: list[tuple[str, str]] = []
        self.fail: set[str] = set()
        for name in ("fsync", "rename", "link", "write", "unlink", "mkdir"):
            case.patch(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any) -> Any:
            if isinstance(target, int):
                target_name = os.path.realpath(f"/proc/self/fd/{target}")
            else:
                target_name = target
            if name != "write":
                self.calls.append((name, os.path.basename(target_name)))
            if name in self.fail:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(target, *arguments)

        return call


class Folder(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = LocalFiles()
        self.folder = scratch(self)
        self.path = os.path.join(self.folder, "key")

    def put(self, content: bytes, name: str = "key", mode: int = 0o600) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def content(self, name: str = "key") -> bytes:
        with open(os.path.join(self.folder, name), "rb") as file:
            return file.read()

    def raises(self, kind: type[OSError], number: int, act: Callable[..., Any], *a: Any) -> None:
        """It fails with this error, which names the path that was given."""
        error = self.assertRaises(kind, act, *a)
        self.assertEqual(error.errno, number)
        self.assertEqual(error.filename, a[0])
        self.assertIn(a[0], str(error))

    def test_it_is_what_the_interface_says(self) -> None:
        verifyObject(IFiles, self.files)


class ReadTests(Folder):
    def test_the_whole_content_is_read(self) -> None:
        for content in (b"", b"x", os.fsencode("é") * 100_000):
            self.assertEqual(self.files.read(self.put(content), 1_000_000), content)

    def test_a_file_of_exactly_the_limit_is_read(self) -> None:
        self.assertEqual(self.files.read(self.put(b"12345"), 5), b"12345")

    def test_a_file_of_one_byte_more_is_refused(self) -> None:
        self.raises(OSError, errno.EFBIG, self.files.read, self.put(b"123456"), 5)

    def test_a_file_that_is_not_there_is_named(self) -> None:
        self.raises(FileNotFoundError, errno.ENOENT, self.files.read, self.path, 5)

    def test_what_is_no_file_is_refused(self) -> None:
        self.raises(OSError, errno.EINVAL, self.files.read, self.folder, 5)
        pipe = os.path.join(self.folder, "pipe")
        os.mkfifo(pipe)
        self.raises(OSError, errno.EINVAL, self.files.read, pipe, 5)

    def test_a_symbolic_link_is_followed(self) -> None:
        os.symlink(self.put(b"settings", "real"), self.path)
        self.assertEqual(self.files.read(self.path, 100), b"settings")

    def test_a_file_that_everybody_may_read_is_read(self) -> None:
        self.assertEqual(self.files.read(self.put(b"x", mode=0o644), 5), b"x")


class SecretTests(Folder):
    def test_a_file_of_the_owner_alone_is_read(self) -> None:
        for mode in (0o600, 0o400, 0o700):
            self.assertEqual(self.files.read_secret(self.put(b"s", mode=mode), 5), b"s")
            os.unlink(self.path)

    def test_any_right_of_others_is_refused_and_the_remedy_named(self) -> None:
        for bit in range(6):
            self.put(b"secret", mode=0o600 | 1 << bit)
            error = self.assertRaises(UnsafePermissions, self.files.read_secret, self.path, 100)
            self.assertIn(f"mode {0o600 | 1 << bit:04o}", str(error))
            self.assertTrue(str(error).endswith(f"run chmod 600 {self.path}"), str(error))
            self.assertNotIn("secret\n", str(error))

    def test_the_remedy_can_be_pasted_even_for_an_odd_path(self) -> None:
        path = self.put(b"secret", "my key; x", mode=0o644)
        error = self.assertRaises(UnsafePermissions, self.files.read_secret, path, 100)
        command = str(error).rpartition("run ")[2]
        subprocess.run(["/bin/sh", "-c", command], check=True)
        self.assertEqual(self.files.read_secret(path, 100), b"secret")

    def test_a_symbolic_link_is_refused(self) -> None:
        os.symlink(self.put(b"secret", "real"), self.path)
        error = self.assertRaises(UnsafePermissions, self.files.read_secret, self.path, 100)
        self.assertIn(f"{self.path} is a symbolic link", str(error))

    def test_the_limit_holds(self) -> None:
        self.raises(OSError, errno.EFBIG, self.files.read_secret, self.put(b"123456"), 5)

    def test_a_secret_that_is_not_there_is_named(self) -> None:
        self.raises(FileNotFoundError, errno.ENOENT, self.files.read_secret, self.path, 5)


class WriteTests(Folder):
    def test_the_content_is_replaced_and_nothing_is_left_beside_it(self) -> None:
        for content in (b"first", b"", b"second" * 100_000):
            self.files.write_atomic(self.path, content)
            self.assertEqual(self.content(), content)
            self.assertEqual(os.listdir(self.folder), ["key"])

    def test_the_mode_is_as_asked_whatever_the_umask(self) -> None:
        for umask in (0o000, 0o177):
            old = os.umask(umask)
            try:
                self.files.write_atomic(self.path, b"x")
                self.assertEqual(permissions(self.path), 0o600)
                self.files.write_atomic(self.path, b"x", 0o644)
                self.assertEqual(permissions(self.path), 0o644)
            finally:
                os.umask(old)

    def test_the_file_is_synced_before_it_gets_its_name_and_the_folder_after(self) -> None:
        recorder = Recorder(self)
        self.files.write_atomic(self.path, b"x")
        self.assertEqual(
            recorder.calls,
            [
                ("fsync", ".key.0.new"),
                ("rename", ".key.0.new"),
                ("fsync", os.path.basename(self.folder)),
            ],
        )

    def test_an_error_at_any_step_leaves_the_old_content_and_nothing_else(self) -> None:
        self.put(b"old")
        for step in ("write", "fsync", "rename"):
            recorder = Recorder(self)
            recorder.fail = {step}
            self.raises(OSError, errno.ENOSPC, self.files.write_atomic, self.path, b"new")
            recorder.fail = set()
            self.assertEqual(self.content(), b"old")
            self.assertEqual(os.listdir(self.folder), ["key"])

    def test_a_full_disk_in_the_middle_leaves_the_old_content(self) -> None:
        self.put(b"old")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            self.raises(OSError, errno.EFBIG, self.files.write_atomic, self.path, b"x" * 5000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.assertEqual(self.content(), b"old")
        self.assertEqual(os.listdir(self.folder), ["key"])

    def test_the_leftover_of_a_crash_is_swept_away(self) -> None:
        self.put(b"half", ".key.0.new", mode=0o644)
        self.files.write_atomic(self.path, b"new")
        self.assertEqual(self.content(), b"new")
        self.assertEqual(permissions(self.path), 0o600)
        self.assertEqual(os.listdir(self.folder), ["key"])

    def test_a_leftover_that_cannot_be_removed_does_not_stop_the_writing(self) -> None:
        self.put(b"half", ".key.0.new")
        recorder = Recorder(self)
        recorder.fail = {"unlink"}
        self.files.write_atomic(self.path, b"new")
        self.assertIn(("rename", ".key.1.new"), recorder.calls)
        self.assertEqual(self.content(), b"new")

    def test_a_leftover_that_is_a_second_name_of_a_file_does_not_change_that_file(self) -> None:
        self.files.create(self.path, b"in use")
        os.link(self.path, os.path.join(self.folder, ".key.0.new"))
        self.files.write_atomic(os.path.join(self.folder, "other"), b"x")
        os.rename(self.path, os.path.join(self.folder, "moved"))
        self.files.write_atomic(self.path, b"new")
        self.assertEqual(self.content("moved"), b"in use")
        self.assertEqual(self.content(), b"new")

    def test_a_link_in_the_place_of_the_temporary_file_is_not_written_through(self) -> None:
        victim = self.put(b"victim", "victim")
        os.symlink(victim, os.path.join(self.folder, ".key.0.new"))
        self.files.write_atomic(self.path, b"new")
        self.assertEqual(self.content("victim"), b"victim")
        self.assertEqual(self.content(), b"new")

    def test_the_file_of_a_living_writer_is_left_alone(self) -> None:
        other = os.open(self.put(b"half", ".key.0.new"), os.O_RDWR)
        self.addCleanup(os.close, other)
        fcntl.flock(other, fcntl.LOCK_EX)
        self.files.write_atomic(self.path, b"new")
        self.assertEqual(self.content(), b"new")
        self.assertEqual(self.content(".key.0.new"), b"half")

    def test_a_file_that_another_writer_took_for_a_leftover_is_not_used(self) -> None:
        real, temporary = fcntl.flock, os.path.join(self.folder, ".key.0.new")

        def flock(descriptor: int, operation: int) -> None:
            if os.path.exists(temporary):
                os.unlink(temporary)  # between our open and our lock
            real(descriptor, operation)

        self.patch(fcntl, "flock", flock)
        recorder = Recorder(self)
        self.files.write_atomic(self.path, b"new")
        self.assertIn(("rename", ".key.1.new"), recorder.calls)
        self.assertEqual(self.content(), b"new")

    def test_too_many_living_writers_are_an_error_that_names_the_file(self) -> None:
        for number in range(MAX_TEMPORARIES):
            other = os.open(self.put(b"half", f".key.{number}.new"), os.O_RDWR)
            self.addCleanup(os.close, other)
            fcntl.flock(other, fcntl.LOCK_EX)
        self.raises(OSError, errno.EBUSY, self.files.write_atomic, self.path, b"new")

    def test_a_symbolic_link_is_replaced_and_not_written_through(self) -> None:
        os.symlink(self.put(b"real", "real"), self.path)
        self.files.write_atomic(self.path, b"new")
        self.assertFalse(os.path.islink(self.path))
        self.assertEqual((self.content("real"), self.content()), (b"real", b"new"))

    def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(self) -> None:
        path = os.path.join(self.folder, "missing", "key")
        self.raises(FileNotFoundError, errno.ENOENT, self.files.write_atomic, path, b"x")

    def test_a_bare_name_is_written_where_we_are(self) -> None:
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        self.files.write_atomic("key", b"x")
        self.assertEqual(self.content(), b"x")
        self.files.remove("key")
        self.assertEqual(os.listdir(self.folder), [])

    def test_writers_of_the_same_file_do_not_mix(self) -> None:
        # A lock belongs to who opened the file, so threads compete as processes do.
        def write(letter: bytes) -> None:
            for _ in range(20):
                LocalFiles().write_atomic(self.path, letter * 20_000)

        self.files.write_atomic(self.path, b"-" * 20_000)
        seen = set()
        with ThreadPoolExecutor(3) as threads:
            writers = [threads.submit(write, letter) for letter in (b"a", b"b", b"c")]
            while not all(writer.done() for writer in writers):
                content = self.content()
                seen.add((len(content), len(set(content))))
        for writer in writers:
            writer.result()
        self.assertEqual(seen, {(20_000, 1)})
        self.assertEqual(os.listdir(self.folder), ["key"])


class CreateTests(Folder):
    def test_a_new_file_is_written_whole_for_its_owner(self) -> None:
        self.files.create(self.path, b"x" * 100_000)
        self.assertEqual(self.content(), b"x" * 100_000)
        self.assertEqual(permissions(self.path), 0o600)
        self.assertEqual(os.listdir(self.folder), ["key"])

    def test_a_file_that_is_there_stays_as_it_is(self) -> None:
        self.put(b"old")
        recorder = Recorder(self)
        self.raises(FileExistsError, errno.EEXIST, self.files.create, self.path, b"new")
        self.assertEqual(recorder.calls[-1], ("fsync", os.path.basename(self.folder)))
        self.assertEqual(self.content(), b"old")
        self.assertEqual(os.listdir(self.folder), ["key"])

    def test_a_dangling_link_counts_as_there(self) -> None:
        os.symlink(os.path.join(self.folder, "nowhere"), self.path)
        self.raises(FileExistsError, errno.EEXIST, self.files.create, self.path, b"new")
        self.assertEqual(os.listdir(self.folder), ["key"])

    def test_the_file_is_synced_before_it_gets_its_name_and_the_folder_last(self) -> None:
        recorder = Recorder(self)
        self.files.create(self.path, b"x")
        self.assertEqual(
            recorder.calls,
            [
                ("fsync", ".key.0.new"),
                ("link", ".key.0.new"),
                ("unlink", ".key.0.new"),
                ("fsync", os.path.basename(self.folder)),
            ],
        )

    def test_an_error_leaves_nothing(self) -> None:
        for step in ("write", "fsync", "link"):
            recorder = Recorder(self)
            recorder.fail = {step}
            self.raises(OSError, errno.ENOSPC, self.files.create, self.path, b"new")
            recorder.fail = set()
            self.assertEqual(os.listdir(self.folder), [])


class FolderTests(Folder):
    def test_a_folder_and_its_parents_are_made_for_their_owner(self) -> None:
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)
        path = os.path.join(self.folder, "a", "b", "c")
        self.files.make_folder(path)
        for made in ("a", "a/b", "a/b/c"):
            self.assertEqual(permissions(os.path.join(self.folder, made)), 0o700)
        self.files.make_folder(os.path.join(self.folder, "open"), 0o755)
        self.assertEqual(permissions(os.path.join(self.folder, "open")), 0o755)

    def test_each_parent_is_synced_after_its_child_was_made(self) -> None:
        recorder = Recorder(self)
        self.files.make_folder(os.path.join(self.folder, "a", "b"))
        above, top = self.folder.split("/")[-2:]
        self.assertEqual(
            recorder.calls,
            [("fsync", above), ("mkdir", "a"), ("fsync", top), ("mkdir", "b"), ("fsync", "a")],
        )

    def test_one_that_is_there_is_synced_too(self) -> None:
        """Who made it may have been killed before that."""
        recorder = Recorder(self)
        self.files.make_folder(self.folder)
        self.assertEqual(recorder.calls, [("fsync", self.folder.split("/")[-2])])

    def test_one_that_is_there_need_not_be_in_a_folder_that_we_can_sync(self) -> None:
        def refusing(number: int) -> LocalFiles:
            class Refusing(LocalSystem):
                def fsync(self, descriptor: int) -> None:
                    raise OSError(number, os.strerror(number))

            return LocalFiles(Refusing())

        for number in (errno.EACCES, errno.EINVAL, errno.EROFS):
            refusing(number).make_folder(self.folder)
        self.raises(OSError, errno.EIO, refusing(errno.EIO).make_folder, self.folder)

    def test_a_folder_that_is_there_keeps_its_mode(self) -> None:
        os.chmod(self.folder, 0o750)
        self.files.make_folder(self.folder, 0o700)
        self.assertEqual(permissions(self.folder), 0o750)

    def test_a_file_in_its_place_is_named(self) -> None:
        self.raises(NotADirectoryError, errno.ENOTDIR, self.files.make_folder, self.put(b"x"))
        self.raises(
            NotADirectoryError,
            errno.ENOTDIR,
            self.files.make_folder,
            os.path.join(self.put(b"x"), "below"),
        )

    def test_a_folder_that_is_not_there_cannot_be_synced(self) -> None:
        self.raises(FileNotFoundError, errno.ENOENT, sync_folder, self.path)


class OtherTests(Folder):
    def test_the_mode_is_told(self) -> None:
        self.put(b"x", mode=0o640)
        self.assertEqual(self.files.mode(self.path), 0o640)
        self.assertIsNone(self.files.mode(os.path.join(self.folder, "missing")))
        self.raises(
            NotADirectoryError,
            errno.ENOTDIR,
            self.files.mode,
            os.path.join(self.path, "below"),
        )

    def test_the_mode_of_a_link_is_that_of_what_it_leads_to(self) -> None:
        link = os.path.join(self.folder, "link")
        os.symlink(self.put(b"x", mode=0o640), link)
        self.assertEqual(self.files.mode(link), 0o640)

    def test_removing_is_durable_and_can_be_repeated(self) -> None:
        self.put(b"x")
        recorder = Recorder(self)
        self.files.remove(self.path)
        self.assertEqual(
            recorder.calls, [("unlink", "key"), ("fsync", os.path.basename(self.folder))]
        )
        self.files.remove(self.path)
        self.assertEqual(os.listdir(self.folder), [])
        # Who removed it the first time may have been killed before it was synced.
        self.assertEqual(recorder.calls[2:], recorder.calls[:2])
        self.files.remove(os.path.join(self.folder, "missing", "key"))

    def test_a_lock_is_held_by_one_until_it_is_released(self) -> None:
        release = self.files.lock(self.path, "first\n")
        self.raises(BlockingIOError, errno.EWOULDBLOCK, self.files.lock, self.path, "second")
        self.assertEqual(self.content(), b"first\n")
        self.assertEqual(permissions(self.path), 0o600)
        release()
        again = self.files.lock(self.path, "second\n")
        release()  # which is not theirs any more
        self.raises(BlockingIOError, errno.EWOULDBLOCK, self.files.lock, self.path, "third")
        self.assertEqual(self.content(), b"second\n")
        again()
        self.assertEqual(self.content(), b"")

    def test_a_lock_that_cannot_be_written_is_not_held(self) -> None:
        recorder = Recorder(self)
        recorder.fail = {"write"}
        self.raises(OSError, errno.ENOSPC, self.files.lock, self.path, "first")
        recorder.fail = set()
        self.files.lock(self.path, "second")()

    def test_a_lock_is_not_taken_through_a_link(self) -> None:
        os.symlink(self.put(b"victim", "victim"), self.path)
        self.raises(OSError, errno.ELOOP, self.files.lock, self.path, "note")
        self.assertEqual(self.content("victim"), b"victim")

    def test_no_handle_is_left_open(self) -> None:
        self.files.write_atomic(self.path, b"x")
        self.files.read(self.path, 5)
        self.files.lock(os.path.join(self.folder, "lock"), "x")()
        held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        self.assertEqual([path for path in held if path.startswith(self.folder)], [])
