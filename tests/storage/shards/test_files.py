"""Tests of L{meshkit.storage.shards.files}."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from random import Random
from typing import Any

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ShareDamaged
from meshkit.runtime.files import LocalSystem
from meshkit.sim.disk import SimSystem
from meshkit.storage.shards.files import KEPT_IN_MEMORY, FileShardStore
from meshkit.storage.share_files import Shares, Trailer
from meshkit.storage.terms import MAX_NOTE, Shard
from meshkit.testing.shards import shard_end, shard_store_problems
from tests.runtime.support import scratch
from tests.storage.shards.lives import END, NAMES, Kept, Step, found_in
from tests.storage.shelves import Shelf


class CountingSystem(LocalSystem):
    """
    The real one, which notes what makes things durable.

    @ivar calls: each with the path that it is about.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def _path(self, descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        self.calls.append(("pwrite", self._path(descriptor)))
        return super().pwrite(descriptor, data, offset)

    def fsync(self, descriptor: int) -> None:
        self.calls.append(("fsync", self._path(descriptor)))
        super().fsync(descriptor)

    def rename(self, path: str, target: str) -> None:
        self.calls.append(("rename", target))
        super().rename(path, target)

    def unlink(self, path: str) -> None:
        self.calls.append(("unlink", path))
        super().unlink(path)


class RottenSystem(LocalSystem):
    """
    A disk with a place that cannot be read.

    @ivar rotten: paths of files.
    """

    def __init__(self, *rotten: str, number: int = errno.EIO) -> None:
        self.rotten = rotten
        self._number = number

    def _check(self, descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") in self.rotten:
            raise OSError(self._number, os.strerror(self._number))

    def read(self, descriptor: int, length: int) -> bytes:
        self._check(descriptor)
        return super().read(descriptor, length)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        self._check(descriptor)
        return super().pread(descriptor, length, offset)


class SlowSystem(LocalSystem):
    """One that takes and gives a few bytes at a time, as it may."""

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        return super().pwrite(descriptor, data[:7], offset)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        return super().pread(descriptor, min(length, 5), offset)


@frozen
class Entry:
    """A file or a folder, as a test compares it."""

    mode: int
    content: bytes | None


def entries(top: Path) -> dict[str, Entry]:
    found = {}
    for path in sorted(top.rglob("*")):
        content = None if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(top))] = Entry(stat.S_IMODE(path.stat().st_mode), content)
    return found


class Files(SynchronousTestCase):
    def setUp(self) -> None:
        self.top = Path(scratch(self)) / "shares"

    def opened(self, system: Any = None) -> FileShardStore:
        store = FileShardStore(str(self.top), *([] if system is None else [system]))
        found = store.open()
        self.found = [shard for shard in found if not shard.set_aside]
        self.aside = {shard.name: shard.set_aside for shard in found if shard.set_aside}
        self.addCleanup(store.close)
        return store

    def path(self, name: bytes, suffix: str = ".mkshare") -> Path:
        return self.top / "shards" / name[:1].hex() / (name.hex() + suffix)


class StoreTests(Files):
    def test_it_is_a_store(self) -> None:
        self.assertEqual(shard_store_problems(lambda: FileShardStore(str(self.top))), [])

    def test_it_is_a_store_on_a_simulated_disk(self) -> None:
        system = SimSystem(Random(1))
        self.assertEqual(shard_store_problems(lambda: FileShardStore("/p", system)), [])
        self.assertEqual(system.held(None), 0)

    def test_it_is_a_store_on_a_system_that_does_all_by_halves(self) -> None:
        store = self.opened(SlowSystem())
        Step("commit", NAMES[0], b"body" * 9, b"kept" * 9, b"note" * 9).do(store)
        self.assertEqual(
            found_in(self.opened(SlowSystem())),
            {NAMES[0]: Kept(b"body" * 9 + b"kept" * 9, b"note" * 9)},
        )

    def test_where_things_are_and_who_may_read_them(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        store = self.opened()
        Step("commit", NAMES[0], b"A", b"k", b"note").do(store)
        Step("commit", NAMES[1], b"B", b"", b"note").do(store)
        writer = store.begin(NAMES[2])
        writer.append(b"half")
        where = store.set_aside(NAMES[1], "its block 7\nis not  what it was")
        one, other, half = (name.hex() for name in NAMES)
        self.assertEqual(where, str(self.top / "damaged" / f"{other}.mkshare"))
        folder = Entry(0o700, None)
        self.assertEqual(
            entries(self.top),
            {
                "damaged": folder,
                f"damaged/{other}.mkshare": Entry(0o600, b"B" + END),
                f"damaged/{other}.note": Entry(0o600, b"note"),
                f"damaged/{other}.reason": Entry(0o600, b"its block 7 is not what it was\n"),
                "incoming": folder,
                f"incoming/{half}.4.share": Entry(0o600, b"half"),
                "shards": folder,
                "shards/3f": folder,
                f"shards/3f/{one}.mkshare": Entry(0o600, b"Ak" + END),
                f"shards/3f/{one}.note": Entry(0o600, b"note"),
            },
        )
        self.assertEqual(stat.S_IMODE(self.top.stat().st_mode), 0o700)

    def test_what_it_keeps_is_read_as_share_files_are(self) -> None:
        shelf = Shelf(b"text" * 3000)
        store = self.opened()
        raw = shelf.manifest.raw
        required = shelf.manifest.header.scheme.required
        files = []
        for number in range(required):
            writer = store.begin(bytes([number]) * 32)
            writer.append(shelf.shares[number])
            writer.keep(bytes(shelf.nodes[number]))
            writer.commit(raw + Trailer(number, len(raw)).encode(), b"")
            path = self.path(bytes([number]) * 32)
            files.append((path.name, path.open("rb")))
            self.addCleanup(files[-1][1].close)
        self.assertEqual(Shares.gather(files).manifest, shelf.manifest)

    def test_the_free_room_is_that_of_the_file_system(self) -> None:
        sizes = os.statvfs(self.top.parent)
        free = self.opened().free()
        # Others write to it as well.
        self.assertLess(abs(free - sizes.f_bavail * sizes.f_frsize), 1 << 30)
        system = SimSystem(Random(1), capacity=5000)
        store = FileShardStore("/p", system)
        store.open()
        store.begin(NAMES[0]).append(bytes(1000))
        self.assertEqual(store.free(), 4000)

    def test_a_note_that_is_too_long_is_refused_and_the_shard_goes_on(self) -> None:
        store = self.opened()
        writer = store.begin(NAMES[0])
        self.assertRaises(ValueError, writer.commit, END, bytes(MAX_NOTE + 1))
        writer.commit(END, bytes(MAX_NOTE))
        self.assertRaises(ValueError, store.set_note, NAMES[0], bytes(MAX_NOTE + 1))
        self.opened()
        self.assertEqual(self.found, [Shard(NAMES[0], len(END), bytes(MAX_NOTE))])

    def test_a_writer_that_has_ended_writes_no_more(self) -> None:
        store = self.opened()
        writer = store.begin(NAMES[0])
        writer.discard()
        self.assertRaises(ValueError, writer.append, b"x")
        self.assertRaises(ValueError, writer.commit, END, b"")
        self.assertFalse(self.path(NAMES[0]).exists())

    def test_two_writers_of_one_name_do_not_mix(self) -> None:
        store = self.opened()
        one, other = store.begin(NAMES[0]), store.begin(NAMES[0])
        one.append(b"one")
        other.append(b"other")
        one.commit(END, b"1")
        other.commit(END, b"2")
        self.assertEqual(found_in(self.opened()), {NAMES[0]: Kept(b"other", b"2")})


class DescriptorTests(Files):
    def test_only_what_is_being_written_is_open(self) -> None:
        def held() -> int:
            return len(os.listdir("/proc/self/fd"))

        before = held()
        store = self.opened()
        for number in range(20):
            Step("commit", bytes([number]) * 32, b"A" * 100, b"", b"note").do(store)
            store.read(bytes([number]) * 32, 0, 10)
            store.set_note(bytes([number]) * 32, b"other")
        self.assertEqual(held(), before)
        writer = store.begin(NAMES[0])
        writer.append(b"half")
        self.assertEqual(held(), before + 1)
        for _ in range(3):
            writer.keep(bytes(KEPT_IN_MEMORY))
        self.assertEqual(held(), before + 2)
        self.assertEqual(len(os.listdir(self.top / "incoming")), 2)
        store.close()
        self.assertEqual(held(), before)
        self.assertEqual(os.listdir(self.top / "incoming"), [])

    def test_errors_do_not_leave_files_open(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        store = self.opened()
        Step("commit", NAMES[0], b"A").do(store)
        self.assertRaises(ShareDamaged, store.read, NAMES[0], 0, 1000)
        os.mkdir(self.path(NAMES[1]))
        self.assertRaises(OSError, store.read, NAMES[1], 0, 1)
        self.assertRaises(OSError, Step("commit", NAMES[1], b"B").do, store)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(os.listdir(self.top / "incoming"), [])


class SyncTests(Files):
    """What is asked of the disk, and in which order."""

    def setUp(self) -> None:
        super().setUp()
        self.system = CountingSystem()
        self.store = self.opened(self.system)

    def calls(self) -> list[tuple[str, str]]:
        """@return: what was done since the last time, with short names."""
        done, self.system.calls = self.system.calls, []
        kinds = {".mkshare": "shard", ".share": "shard", ".note": "note", ".kept": "kept"}
        return [
            (call, kinds.get(os.path.splitext(path)[1], os.path.basename(path)))
            for call, path in done
        ]

    def test_a_commit_syncs_the_shard_its_note_and_their_folder(self) -> None:
        Step("commit", NAMES[0], b"A", note=b"note").do(self.store)
        self.calls()
        Step("commit", NAMES[1], b"B" * 10, b"kept", b"note").do(self.store)
        self.assertEqual(
            self.calls(),
            [
                ("pwrite", "shard"),
                ("pwrite", "shard"),
                ("pwrite", "shard"),
                ("fsync", "shard"),
                ("pwrite", "note"),
                ("fsync", "note"),
                ("rename", "note"),
                ("rename", "shard"),
                ("fsync", "3f"),
            ],
        )

    def test_the_first_shard_of_a_folder_costs_one_sync_more(self) -> None:
        self.calls()
        for name, syncs in ((NAMES[0], 4), (NAMES[1], 3), (NAMES[2], 4), (NAMES[2], 3)):
            Step("commit", name, b"A", note=b"note").do(self.store)
            self.assertEqual([call for call, _ in self.calls()].count("fsync"), syncs)
        # The next process takes none of the folders for a new one.
        self.store = self.opened(self.system)
        self.calls()
        Step("commit", NAMES[2], b"A", note=b"note").do(self.store)
        self.assertEqual([call for call, _ in self.calls()].count("fsync"), 3)

    def test_a_note_is_synced_before_it_has_its_name_and_a_removal_after(self) -> None:
        Step("commit", NAMES[0], b"A", note=b"note").do(self.store)
        self.calls()
        self.store.set_note(NAMES[0], b"other")
        wanted = [("pwrite", "note"), ("fsync", "note"), ("rename", "note"), ("fsync", "3f")]
        self.assertEqual(self.calls(), wanted)
        self.store.remove(NAMES[0])
        wanted = [("unlink", "shard"), ("unlink", "note"), ("fsync", "3f")]
        self.assertEqual(self.calls(), wanted)


class OpeningTests(Files):
    """What is found when a store is opened."""

    def put(self, *names: bytes, note: bytes = b"note") -> None:
        store = self.opened()
        for name in names:
            Step("commit", name, b"body", note=note).do(store)

    def test_leftovers_go_and_what_is_not_ours_stays(self) -> None:
        self.put(NAMES[0])
        digits = NAMES[2].hex()
        ours = [f"incoming/{digits}.{n}.{kind}" for n, kind in enumerate(("share", "kept", "note"))]
        ours += [f"shards/3f/{NAMES[1].hex()}.note"]
        theirs = [
            "README",
            "incoming/notes.txt",
            f"incoming/{digits}",
            f"incoming/{digits}.1.share.bak",
            f"incoming/{'AB' * 32}.1.share",
            "damaged/old.txt",
            "shards/readme.txt",
            "shards/3f/readme.txt",
            f"shards/3f/{digits}.mkshare",  # in the folder of another name
            f"shards/3f/{digits}.note",
            f"shards/3f/{NAMES[1].hex()}.note.bak",
            "shards/lost+found/file",
            "shards/3F/file",
            "shards/aa",  # no folder
        ]
        for path in [*ours, *theirs]:
            (self.top / path).parent.mkdir(exist_ok=True)
            (self.top / path).write_bytes(b"x")
        (self.top / "incoming" / f"{digits}.9.share").mkdir()
        (self.top / "incoming" / f"{digits}.8.share").symlink_to(self.top / "README")
        self.opened()
        self.assertEqual([shard.name for shard in self.found], [NAMES[0]])
        left = entries(self.top)
        self.assertEqual([path for path in ours if path in left], [])
        self.assertEqual([path for path in theirs if path not in left], [])
        self.assertIn(f"incoming/{digits}.9.share", left)
        self.assertTrue((self.top / "incoming" / f"{digits}.8.share").is_symlink())

    def test_a_name_that_somebody_else_has_taken_is_not_written_to(self) -> None:
        store = self.opened()
        taken = self.top / "incoming" / f"{NAMES[0].hex()}.0.share"
        taken.write_bytes(b"theirs")
        Step("commit", NAMES[0], b"A").do(store)
        self.assertEqual(taken.read_bytes(), b"theirs")
        self.assertEqual(found_in(self.opened()), {NAMES[0]: Kept(b"A", b"")})

    def test_what_is_no_plain_file_is_left_alone(self) -> None:
        self.put(NAMES[0])
        self.path(NAMES[0]).rename(self.top / "moved")
        self.path(NAMES[0]).symlink_to(self.top / "moved")
        self.path(NAMES[1]).mkdir()
        self.path(NAMES[2]).parent.mkdir()
        os.mkfifo(self.path(NAMES[2]))
        store = self.opened()
        self.assertEqual(self.found, [])
        self.assertRaises(OSError, store.read, NAMES[0], 0, 1)
        self.assertTrue(self.path(NAMES[0]).is_symlink())
        self.assertTrue(self.path(NAMES[0], ".note").exists())
        self.assertTrue(self.path(NAMES[1]).is_dir())

    def test_a_shard_whose_note_is_lost_is_there_without_one(self) -> None:
        self.put(NAMES[0])
        self.path(NAMES[0], ".note").unlink()
        store = self.opened()
        self.assertEqual(self.found, [Shard(NAMES[0], 4 + len(END), b"")])
        store.set_note(NAMES[0], b"new")
        self.opened()
        self.assertEqual(self.found, [Shard(NAMES[0], 4 + len(END), b"new")])

    def test_shares_whose_ends_are_wrong_are_put_aside(self) -> None:
        whole = b"body" + END
        for damaged in (
            b"",
            whole[:-1],
            whole[:-13],
            whole + b"\0",
            whole[:-1] + b"2",
            whole[:-12] + b"\xff" + whole[-11:],
            Trailer(1, 1).encode(),
            Trailer(1, 16 * 1024 + 1).encode().rjust(20_000, b"m"),
            bytes(len(whole)),
        ):
            self.put(NAMES[0], NAMES[1])
            self.path(NAMES[0]).write_bytes(damaged)
            store = self.opened()
            self.assertEqual([shard.name for shard in self.found], [NAMES[1]], damaged)
            found = sorted((self.top / "damaged").iterdir())
            self.assertEqual([path.suffix for path in found], [".mkshare", ".note", ".reason"])
            self.assertEqual(found[0].read_bytes(), damaged)
            self.assertEqual(self.aside, {NAMES[0]: str(found[0])})
            self.assertEqual(found[1].read_bytes(), b"note")
            self.assertIn("its end was changed", found[2].read_text())
            for path in found:
                path.unlink()
            self.assertFalse(self.path(NAMES[0], ".note").exists())
            store.close()

    def test_a_share_of_nothing_but_its_end_is_one(self) -> None:
        self.put(NAMES[0])
        self.path(NAMES[0]).write_bytes(shard_end(manifest=b""))
        self.opened()
        self.assertEqual([shard.size for shard in self.found], [13])

    def test_damaged_shares_of_one_name_lie_beside_each_other(self) -> None:
        for turn in range(3):
            self.put(NAMES[0], note=b"%d" % turn)
            self.path(NAMES[0]).write_bytes(b"%d" % turn)
            self.opened()
        digits = NAMES[0].hex()
        for turn, stem in enumerate((digits, f"{digits}.1", f"{digits}.2")):
            for suffix in (".mkshare", ".note"):
                path = self.top / "damaged" / (stem + suffix)
                self.assertEqual(path.read_bytes(), b"%d" % turn)

    def test_a_place_that_cannot_be_read_costs_one_share_and_not_the_start(self) -> None:
        for stem, number in (("", errno.EIO), (".1", errno.EUCLEAN)):
            self.put(*NAMES)
            self.opened(RottenSystem(str(self.path(NAMES[0])), number=number))
            self.assertEqual([shard.name for shard in self.found], list(NAMES[1:]))
            reason = self.top / "damaged" / f"{NAMES[0].hex()}{stem}.reason"
            self.assertIn(os.strerror(number), reason.read_text())

    def test_a_note_that_cannot_be_read_costs_the_note(self) -> None:
        self.put(*NAMES)
        self.path(NAMES[1], ".note").write_bytes(bytes(MAX_NOTE + 1))
        self.opened(RottenSystem(str(self.path(NAMES[0], ".note"))))
        notes = {shard.name: shard.note for shard in self.found}
        self.assertEqual(notes, {NAMES[0]: b"", NAMES[1]: b"", NAMES[2]: b"note"})
        self.assertEqual(self.aside, {})
        for name in NAMES[:2]:
            self.assertTrue((self.top / "damaged" / f"{name.hex()}.note").exists())
            self.assertFalse((self.top / "damaged" / f"{name.hex()}.mkshare").exists())

    def test_files_that_may_not_be_read_stop_the_start_and_are_named(self) -> None:
        # Somebody has to put the rights in order; nothing is damaged.
        self.put(NAMES[0])
        path = str(self.path(NAMES[0]))
        for file in (path, str(self.path(NAMES[0], ".note"))):
            system = RottenSystem(file, number=errno.EACCES)
            refused = self.assertRaises(PermissionError, self.opened, system)
            self.assertEqual(refused.filename, file)
        self.assertEqual(os.listdir(self.top / "damaged"), [])

    def test_a_folder_that_cannot_be_made_is_named(self) -> None:
        self.top.write_bytes(b"a file")
        refused = self.assertRaises(OSError, self.opened)
        self.assertTrue(refused.filename.startswith(str(self.top)))

    def test_a_share_is_put_aside_though_there_is_no_room_to_say_why(self) -> None:
        system = SimSystem(Random(1))
        store = FileShardStore("/p", system)
        store.open()
        Step("commit", NAMES[0], b"A", note=b"n").do(store)
        system.limit(system.used)
        where = store.set_aside(NAMES[0], "rotten")
        self.assertEqual(
            system.listdir("/p/damaged"), [f"{NAMES[0].hex()}{s}" for s in (".mkshare", ".note")]
        )
        self.assertEqual(where, f"/p/damaged/{NAMES[0].hex()}.mkshare")
