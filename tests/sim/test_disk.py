"""What was acknowledged is there after any crash; what was not is whole, absent or as it was."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import stat
import types
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import UnsafePermissions
from meshkit.interfaces import IFiles
from meshkit.runtime import files as shipped
from meshkit.runtime.files import LocalFiles, LocalSystem
from meshkit.sim.disk import PAGE, PowerLost, SimDisk, SimSystem
from meshkit.sim.seeds import Seeds
from tests.runtime.support import scratch

KEY = "/ada/key"
#: Each byte says from which writing it is, so that a mixture is seen.
OLD, NEW = b"o" * 5000, b"n" * 9000
_LIMIT = 100_000


def disk(seed: int = 0, **options: Any) -> SimDisk:
    made = SimDisk(Seeds(seed).stream("ada", "disk"), **options)
    made.make_folder("/ada")
    return made


def content(files: Any, path: str = KEY) -> bytes | None:
    try:
        found: bytes = files.read(path, _LIMIT)
    except FileNotFoundError:
        return None
    return found


def put(system: SimSystem, path: str, data: bytes) -> int:
    """Write, and sync nothing."""
    descriptor = system.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    system.write(descriptor, memoryview(data))
    return descriptor


def sync(system: SimSystem, path: str) -> None:
    descriptor = system.open(path, os.O_RDONLY, 0)
    system.fsync(descriptor)
    system.close(descriptor)


# --- the shipped code, and worse -----------------------------------------------------


def weakened(old: str, new: str) -> type[LocalFiles]:
    """@return: C{LocalFiles} of the shipped text, with something else in one place of it."""
    source = inspect.getsource(shipped)
    if old not in source:
        raise AssertionError(f"the shipped code does not say any more: {old}")
    module = types.ModuleType("weakened")
    exec(compile(source.replace(old, new), "weakened", "exec"), module.__dict__)
    made: type[LocalFiles] = module.__dict__["LocalFiles"]
    return made


class Run:
    """
    One life of a file: some changes, a stop in the middle of one, a crash.

    @ivar allowed: what may be read afterwards.
    @ivar found: what was read.
    """

    def __init__(self, seed: int, kind: type[LocalFiles] = LocalFiles) -> None:
        draw = Seeds(seed).stream("draw")
        disk = SimDisk(Seeds(seed).stream("ada", "disk"))
        files = kind(disk.system)
        self.allowed: list[bytes | None] = [None]
        disk.system.stop_before(int(draw.random() * 90))
        try:
            files.make_folder("/ada")
            for number in range(4):
                data = bytes([65 + number]) * int(draw.random() * 3 * PAGE)
                self._change(files, draw, data)
        except PowerLost:
            pass
        self.loss = disk.crash()
        self.found = content(disk)
        # Whatever was left must not be in the way.
        disk.make_folder("/ada")
        disk.write_atomic(KEY, b"after")
        disk.crash()
        self.after = content(disk)

    def _change(self, files: LocalFiles, draw: Random, data: bytes) -> None:
        before = self.allowed
        verb = ("write", "write", "create", "remove")[int(draw.random() * 4)]
        after = None if verb == "remove" else data
        self.allowed = [*before, after]
        if verb == "remove":
            files.remove(KEY)
        elif verb == "write":
            files.write_atomic(KEY, data)
        else:
            try:
                files.create(KEY, data)
            except FileExistsError:
                after = before[0]
        self.allowed = [after]

    @property
    def right(self) -> bool:
        return self.found in self.allowed and self.after == b"after"


def first_wrong(kind: type[LocalFiles], seeds: int) -> int | None:
    """@return: the first seed that shows something lost that was acknowledged, or a mixture."""
    return next((seed for seed in range(seeds) if not Run(seed, kind).right), None)


class Killed:
    """
    A file in a folder of its own, under processes that are killed in the middle of
    something; what they did not get done the next one does again.  Then a crash.
    """

    def __init__(self, seed: int, kind: type[LocalFiles] = LocalFiles) -> None:
        draw = Seeds(seed).stream("draw")
        disk = SimDisk(Seeds(seed).stream("ada", "disk"))
        verb = ("write_atomic", "create", "remove")[int(draw.random() * 3)]
        if verb == "remove":
            disk.make_folder("/ada")
            disk.write_atomic(KEY, b"x")
        self.wanted = None if verb == "remove" else b"x"
        for _ in range(2):
            disk.system.stop_before(int(draw.random() * 25))
            with contextlib.suppress(PowerLost):
                self._do(kind(disk.system), verb)
            disk.end_process()
        self._do(kind(disk.system), verb)
        disk.crash()
        self.found = content(disk)

    def _do(self, files: LocalFiles, verb: str) -> None:
        files.make_folder("/ada")
        try:
            getattr(files, verb)(KEY, *[] if verb == "remove" else [b"x"])
        except FileExistsError:
            if verb != "create":
                raise

    @property
    def right(self) -> bool:
        return self.found == self.wanted


class PropertyTests(SynchronousTestCase):
    def test_what_a_killed_process_left_half_done_is_done_durably_by_the_next(self) -> None:
        for seed in range(300):
            run = Killed(seed)
            self.assertTrue(run.right, f"seed {seed}: {run.found!r}")

    def test_what_was_acknowledged_is_there_and_the_rest_is_old_or_new(self) -> None:
        for seed in range(600):
            run = Run(seed)
            self.assertTrue(run.right, f"seed {seed}: {run.loss}")

    def test_those_lives_are_varied_enough_to_say_something(self) -> None:
        runs = [Run(seed) for seed in range(300)]
        self.assertGreater(sum(run.loss.names_lost for run in runs), 50)
        self.assertGreater(len({run.found and run.found[:1] for run in runs}), 4)
        self.assertGreater(sum(len(run.allowed) == 2 for run in runs), 100)

    def found_within(self, seeds: int, old: str, new: str) -> None:
        self.assertIsNotNone(first_wrong(weakened(old, new), seeds))

    def test_a_file_that_is_not_synced_before_it_gets_its_name_is_found(self) -> None:
        line = "                system.fsync(descriptor)\n                system.rename"
        self.found_within(10, line, "                system.rename")

    def test_a_new_file_that_is_not_synced_before_it_gets_its_name_is_found(self) -> None:
        line = "system.fsync(descriptor)\n                    # A rename"
        self.found_within(40, line, "#")

    def test_a_folder_that_is_not_synced_is_found(self) -> None:
        line = "descriptor:\n        system.fsync(descriptor)"
        self.found_within(10, line, "descriptor:\n        pass")

    def test_a_folder_whose_own_name_is_not_synced_is_found(self) -> None:
        self.found_within(20, "sync_folder(parent, system)", "pass")

    def test_a_removal_that_is_not_synced_is_found(self) -> None:
        before = "that is not there\n                "
        line = "sync_folder(os.path.dirname(path) or os.curdir, system)"
        self.found_within(40, before + line, before + "pass")

    def test_a_file_that_is_written_in_its_place_is_found(self) -> None:
        class InPlace(LocalFiles):
            def write_atomic(self, path: str, data: bytes, mode: int = 0o600) -> None:
                system = self.system
                descriptor = system.open(path, os.O_RDWR | os.O_CREAT, mode)
                system.ftruncate(descriptor, 0)
                system.write(descriptor, memoryview(data))
                system.fsync(descriptor)
                system.close(descriptor)
                shipped.sync_folder(os.path.dirname(path), system)

        self.assertIsNotNone(first_wrong(InPlace, 60))

    def test_a_folder_that_is_taken_for_synced_because_it_is_there_is_found(self) -> None:
        kind = weakened(
            "sync_folder(parent, system)\n                except", "int()\n                except"
        )
        wrong = [seed for seed in range(40) if not Killed(seed, kind).right]
        self.assertNotEqual(wrong, [])

    def test_the_same_seed_loses_the_same(self) -> None:
        for seed in range(50):
            one, other = Run(seed), Run(seed)
            self.assertEqual((one.loss, one.found), (other.loss, other.found))


# --- what a crash leaves ------------------------------------------------------------


class CrashTests(SynchronousTestCase):
    def outcomes(self, act: Callable[[SimDisk], None], seeds: int = 200) -> set[Any]:
        """What may be found after a crash that follows."""
        found = set()
        for seed in range(seeds):
            made = disk(seed)
            made.write_atomic(KEY, OLD)
            act(made)
            made.crash()
            found.add(content(made))
        return found

    def test_what_was_synced_is_kept(self) -> None:
        self.assertEqual(self.outcomes(lambda made: None), {OLD})

    def test_bytes_that_were_not_synced_are_lost_torn_or_kept(self) -> None:
        found = self.outcomes(lambda made: made.system.close(put(made.system, KEY, NEW)))
        self.assertIn(OLD, found)
        self.assertIn(NEW, found)
        mixtures = found - {OLD, NEW}
        self.assertGreater(len(mixtures), 20)
        for mixture in mixtures:
            # Old pages, new pages, and zeros where there never was anything.
            self.assertLessEqual(len(mixture), len(NEW))
            self.assertGreaterEqual(len(mixture), len(OLD))
            self.assertLessEqual(set(mixture[: len(OLD)]), set(b"on"))
            self.assertLessEqual(set(mixture[len(OLD) :]), set(b"n\0"))
        self.assertTrue(any(b"\0" in mixture for mixture in mixtures))
        self.assertTrue(
            any(b"on" in mixture and mixture.index(b"on") % PAGE for mixture in mixtures)
        )

    def test_what_was_cut_off_does_not_come_back_behind_new_bytes(self) -> None:
        def act(made: SimDisk) -> None:
            descriptor = made.system.open(KEY, os.O_RDWR, 0)
            made.system.ftruncate(descriptor, 0)
            made.system.write(descriptor, memoryview(NEW))

        for mixture in self.outcomes(act) - {OLD}:
            self.assertLessEqual(set(mixture), set(b"n\0"))

    def test_a_name_that_was_not_synced_is_there_or_not(self) -> None:
        found = self.outcomes(lambda made: made.system.unlink(KEY))
        self.assertEqual(found, {OLD, None})

    def test_a_rename_happens_whole_or_not_at_all(self) -> None:
        seen = set()
        for seed in range(100):
            made = disk(seed)
            made.write_atomic(KEY, OLD)
            made.write_atomic("/ada/new", NEW)
            made.system.rename("/ada/new", KEY)
            made.crash()
            seen.add((content(made), content(made, "/ada/new")))
        self.assertEqual(seen, {(OLD, NEW), (NEW, None)})

    def test_changes_of_names_may_overtake_each_other(self) -> None:
        seen = set()
        for seed in range(200):
            made = disk(seed)
            for name in "ab":
                descriptor = put(made.system, f"/ada/{name}", b"x")
                made.system.fsync(descriptor)
            made.crash()
            seen.add((content(made, "/ada/a"), content(made, "/ada/b")))
        self.assertEqual(seen, {(a, b) for a in (None, b"x") for b in (None, b"x")})

    def test_a_change_of_two_folders_goes_to_the_disk_with_what_it_rests_on(self) -> None:
        for seed in range(50):
            made = disk(seed)
            made.make_folder("/bob")
            made.write_atomic(KEY, NEW)
            put(made.system, "/bob/key", OLD)
            made.system.rename(KEY, "/bob/key")
            sync(made.system, "/ada")
            made.crash()
            self.assertEqual((content(made, "/bob/key"), content(made)), (NEW, None))

    def test_a_mode_that_was_not_synced_is_the_old_or_the_new_one(self) -> None:
        seen = set()
        for seed in range(50):
            made = disk(seed)
            made.write_atomic(KEY, OLD, 0o644)
            made.system.chmod(KEY, 0o600)
            made.crash()
            seen.add(made.mode(KEY))
        self.assertEqual(seen, {0o600, 0o644})

    def test_a_crash_frees_locks_and_an_old_hand_on_them_does_nothing(self) -> None:
        made = disk()
        old = made.lock("/ada/lock", "1")
        made.crash()
        made.lock("/ada/lock", "2")
        error = self.assertRaises(OSError, old)
        self.assertEqual(error.errno, errno.EBADF)
        self.assertRaises(BlockingIOError, made.lock, "/ada/lock", "3")

    def test_the_end_of_a_process_frees_locks_and_loses_nothing(self) -> None:
        made = disk()
        made.lock("/ada/lock", "1")
        put(made.system, KEY, NEW)
        made.end_process()
        self.assertEqual((content(made), content(made, "/ada/lock")), (NEW, b"1"))
        made.lock("/ada/lock", "2")

    def test_a_second_crash_loses_nothing_more(self) -> None:
        for seed in range(50):
            made = disk(seed)
            put(made.system, KEY, NEW)
            made.crash()
            first = content(made)
            self.assertEqual(made.crash().names_lost, 0)
            self.assertEqual(content(made), first)

    def test_no_call_is_made_on_a_machine_that_has_stopped(self) -> None:
        made = disk()
        made.write_atomic(KEY, OLD)
        before = made.system.calls
        made.system.stop_before(6)
        self.assertRaises(PowerLost, made.write_atomic, KEY, NEW)
        self.assertRaises(PowerLost, made.read, KEY, 1)
        self.assertEqual(made.system.calls, before + 6)
        made.crash()
        self.assertEqual(made.read(KEY, _LIMIT), OLD)


# --- a disk that is full, or fails -----------------------------------------------------


class TroubleTests(SynchronousTestCase):
    def test_a_full_disk_takes_what_fits_and_no_more(self) -> None:
        made = disk(capacity=len(OLD) + 100)
        made.write_atomic(KEY, OLD)
        error = self.assertRaises(OSError, made.write_atomic, KEY, NEW)
        self.assertEqual((error.errno, error.filename), (errno.ENOSPC, KEY))
        self.assertEqual(made.read(KEY, _LIMIT), OLD)
        self.assertEqual(made.system.used, len(OLD))
        made.write_atomic("/ada/small", b"x" * 100)
        self.assertRaises(OSError, made.write_atomic, "/ada/one", b"x")
        made.system.limit(None)
        made.write_atomic("/ada/one", b"x")

    def test_a_write_is_cut_at_the_byte(self) -> None:
        made = disk(capacity=10)
        descriptor = made.system.open(KEY, os.O_RDWR | os.O_CREAT, 0o600)
        self.assertEqual(made.system.write(descriptor, memoryview(b"x" * 25)), 10)
        error = self.assertRaises(OSError, made.system.write, descriptor, memoryview(b"x"))
        self.assertEqual(error.errno, errno.ENOSPC)

    def test_an_error_at_any_call_leaves_the_old_content_or_the_new(self) -> None:
        for call in ("open", "flock", "fchmod", "write", "fsync", "rename", "close", "stat"):
            made = disk()
            made.write_atomic(KEY, OLD)
            made.system.fail(call)
            try:
                made.write_atomic(KEY, NEW)
            except OSError as error:
                self.assertEqual((error.errno, error.filename), (errno.EIO, KEY))
            self.assertIn(made.read(KEY, _LIMIT), (OLD, NEW))

    def test_a_file_that_cannot_be_read_is_named(self) -> None:
        made = disk()
        made.write_atomic(KEY, OLD)
        made.system.fail("read", times=2)
        for _ in range(2):
            error = self.assertRaises(OSError, made.read, KEY, _LIMIT)
            self.assertEqual((error.errno, error.filename), (errno.EIO, KEY))
        self.assertEqual(made.read(KEY, _LIMIT), OLD)

    def test_a_sync_after_one_that_failed_promises_nothing(self) -> None:
        seen = set()
        for seed in range(100):
            made = disk(seed)
            made.write_atomic(KEY, OLD)
            descriptor = put(made.system, KEY, NEW)
            made.system.fail("fsync")
            self.assertRaises(OSError, made.system.fsync, descriptor)
            self.assertEqual(content(made), NEW)
            made.crash()
            seen.add(content(made))
        self.assertIn(OLD, seen)

    def test_only_calls_that_are_made_can_fail(self) -> None:
        self.assertRaises(ValueError, disk().system.fail, "fdatasync")


# --- the same as a real one --------------------------------------------------------------


class NotSynced(LocalSystem):
    """A real disk in no hurry."""

    def fsync(self, descriptor: int) -> None:
        os.fstat(descriptor)


NAMES = ["a", "b", "a/x", "b/x", "b/x/y", "missing/z"]
VERBS = ["write_atomic", "create", "make_folder", "remove", "mode", "read", "read_secret"]
PROGRAMS = st.lists(
    st.tuples(
        st.sampled_from([*VERBS, "lock", "release"]),
        st.sampled_from(NAMES),
        st.sampled_from([b"", b"x", b"y" * 3 * PAGE]),
        st.sampled_from([0o600, 0o640, 0o700]),
    ),
    max_size=12,
)


def act(files: IFiles, held: dict[str, Any], verb: str, path: str, data: bytes, mode: int) -> Any:
    if verb == "lock":
        held[path] = files.lock(path, "me")
        return None
    if verb == "release":
        return held.pop(path, int)() or None
    arguments: dict[str, tuple[Any, ...]] = {
        "write_atomic": (data, mode),
        "create": (data, mode),
        "make_folder": (mode | 0o700,),
        "read": (PAGE,),
        "read_secret": (PAGE,),
    }
    return getattr(files, verb)(path, *arguments.get(verb, ()))


def play(files: IFiles, top: str, program: Any) -> list[Any]:
    """What comes of it, without the name of the folder it was done in."""
    said: list[Any] = []
    held: dict[str, Any] = {}
    for verb, name, data, mode in program:
        try:
            said.append(act(files, held, verb, f"{top}/{name}", data, mode))
        except OSError as error:
            said.append((type(error), error.errno, (error.filename or "").removeprefix(top)))
        except UnsafePermissions as error:
            said.append((type(error), str(error).replace(top, "")))
    for release in held.values():
        release()
    said += [files.mode(f"{top}/{name}") for name in ("a", "b")]
    return said


class SameAsRealTests(SynchronousTestCase):
    def test_it_is_what_the_interface_says(self) -> None:
        verifyObject(IFiles, disk())

    @settings(max_examples=150, deadline=None)
    @given(PROGRAMS)
    def test_it_answers_as_a_real_disk_does(self, program: Any) -> None:
        top = scratch(self)
        old = os.umask(0o022)
        try:
            real = play(LocalFiles(NotSynced()), top, program)
        finally:
            os.umask(old)
        simulated = SimDisk(Random(1))
        simulated.make_folder("/top")
        self.assertEqual(play(simulated, "/top", program), real)

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["pread", "pwrite", "read", "write", "ftruncate"]),
                st.integers(0, 3 * PAGE),
                st.integers(0, 2 * PAGE),
            ),
            max_size=12,
        )
    )
    def test_any_place_of_a_file_is_read_and_written_as_on_a_real_disk(self, program: Any) -> None:
        simulated = disk().system
        said: list[list[Any]] = []
        for system, top in ((simulated, "/ada"), (LocalSystem(), scratch(self))):
            descriptor = system.open(f"{top}/file", os.O_RDWR | os.O_CREAT, 0o600)
            answers: list[Any] = []
            for number, (verb, offset, length) in enumerate(program):
                data = memoryview(bytes([number + 1]) * length)
                arguments: dict[str, tuple[Any, ...]] = {
                    "pread": (length, offset),
                    "pwrite": (data, offset),
                    "read": (length,),
                    "write": (data,),
                    "ftruncate": (offset,),
                }
                answers.append(getattr(system, verb)(descriptor, *arguments[verb]))
            answers.append(system.pread(descriptor, 99 * PAGE, 0))
            answers.append(system.listdir(top))
            system.close(descriptor)
            said.append(answers)
        self.assertEqual(*said)

    def test_places_that_cannot_be_are_refused_as_on_a_real_disk(self) -> None:
        for system, top in ((disk().system, "/ada"), (LocalSystem(), scratch(self))):
            path = f"{top}/file"
            for flags, call, arguments, number in (
                (os.O_WRONLY | os.O_CREAT, "pread", (1, 0), errno.EBADF),
                (os.O_RDONLY, "pwrite", (memoryview(b"x"), 0), errno.EBADF),
                (os.O_RDWR, "pread", (1, -1), errno.EINVAL),
                (os.O_RDWR, "pwrite", (memoryview(b"x"), -1), errno.EINVAL),
            ):
                descriptor = system.open(path, flags, 0o600)
                refused = self.assertRaises(OSError, getattr(system, call), descriptor, *arguments)
                self.assertEqual(refused.errno, number, (system, call))
                system.close(descriptor)
            for call, missing, number in (
                ("listdir", path, errno.ENOTDIR),
                ("listdir", f"{top}/missing", errno.ENOENT),
                ("statvfs", f"{top}/missing", errno.ENOENT),
            ):
                refused = self.assertRaises(OSError, getattr(system, call), missing)
                self.assertEqual((refused.errno, refused.filename), (number, missing))

    def test_names_are_listed_in_order(self) -> None:
        for system, top in ((disk().system, "/ada"), (LocalSystem(), scratch(self))):
            for name in ("b", "a", "c"):
                system.close(system.open(f"{top}/{name}", os.O_RDWR | os.O_CREAT, 0o600))
            system.unlink(f"{top}/a")
            self.assertEqual(system.listdir(top), ["b", "c"])

    def test_the_room_that_is_left_is_what_can_be_written(self) -> None:
        made = SimSystem(Random(1), capacity=PAGE)
        descriptor = made.open("/file", os.O_RDWR | os.O_CREAT, 0o600)
        made.pwrite(descriptor, memoryview(b"x" * 96), 0)
        sizes = made.statvfs("/")
        self.assertEqual(sizes.f_bavail * sizes.f_frsize, PAGE - 96)
        self.assertEqual(made.pwrite(descriptor, memoryview(bytes(2 * PAGE)), 0), PAGE)
        self.assertRaises(OSError, made.pwrite, descriptor, memoryview(b"x"), PAGE)
        self.assertEqual(made.statvfs("/").f_bavail, 0)
        made.limit(None)
        self.assertGreater(made.statvfs("/").f_bavail, 1 << 40)

    def test_paths_are_as_usual(self) -> None:
        made = disk()
        made.write_atomic(KEY, OLD)
        self.assertEqual(made.read("//ada/./x/../key", _LIMIT), OLD)
        self.assertEqual(made.read("ada/key", _LIMIT), OLD)
        self.assertEqual(made.system.stat("/").st_mode, stat.S_IFDIR | 0o755)
        for path in ("", "/ada/key/below"):
            self.assertRaises(OSError, made.read, path, 1)
