"""
Shards of a real process: synced before it says so, whole after it was killed, and refused by
a disk that is full.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from meshkit.storage.shards.files import FileShardStore
from tests import PROFILE
from tests.process.mesh import environment, run
from tests.process.shards import name_of, shard_of
from tests.process.tracing import Call, calls_of, find_strace, strace_command

#: How often the process is killed.
KILLS: Final = int(os.environ.get("MESHKIT_KILLS") or (6 if PROFILE == "dev" else 30))
#: Shards that it would commit, if it were let: more than there is time for.
MANY: Final = 100_000
PROGRAM: Final = (sys.executable, "-m", "tests.process.shards")
ROOT: Final = Path(__file__).resolve().parents[2]


class Folder(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="meshkit-test-"))
        self.addCleanup(shutil.rmtree, self.home)
        self.top = self.home / "shares"


class TraceTests(Folder):
    """What it asks of the system, and when it says that something is done."""

    def setUp(self) -> None:
        find_strace()
        super().setUp()
        self.trace = self.home / "trace"
        command = [*strace_command(self.trace), *PROGRAM, "keep", str(self.top), "0", "4"]
        done = run(*command, home=self.home, PYTHONPATH=str(ROOT))
        self.assertEqual((done.code, done.err), (0, ""))
        self.calls = calls_of(self.trace.read_text())

    def said(self, what: str) -> Call:
        """The call by which it said that something is done."""
        (call,) = [c for c in self.calls if c.name == "write" and f'"{what}\\n"' in c.arguments]
        return call

    def between(self, start: Call | None, end: Call, name: str, file: str = "") -> list[Call]:
        """Calls between two others, by a part of the path that they are about."""
        return [
            call
            for call in self.calls
            if call.name == name
            and file in (call.file or call.arguments)
            and (start is None or call.begun > start.ended)
            and call.ended < end.begun
        ]

    def test_a_shard_and_its_note_are_synced_named_and_synced_before_it_is_said(self) -> None:
        before = None
        for number in range(4):
            digits = name_of(number).hex()
            said = self.said(f"committed {number}")
            folder = str(self.top / "shards" / digits[:2])
            for kind in (".share", ".note"):
                written = self.between(before, said, "pwrite64", kind)
                synced = self.between(written[-1], said, "fsync", kind)
                suffix = ".mkshare" if kind == ".share" else kind
                renamed = self.between(synced[-1], said, "rename", f"{folder}/{digits}{suffix}")
                self.assertEqual(len(synced), 1)
                self.assertEqual(len(renamed), 1)
            # The shard has its name last, and then the names are synced.
            (named,) = [c for c in self.between(renamed[0], said, "fsync") if c.file == folder]
            shard = self.between(before, named, "rename", f"{digits}.mkshare")
            self.assertEqual(len(shard), 1)
            self.assertLess(renamed[0].ended, named.begun)
            # Before that the folder itself was there for good.
            made = [c for c in self.between(before, shard[0], "fsync") if c.file.endswith("shards")]
            self.assertTrue(made)
            before = said

    def test_a_note_and_a_removal_are_synced_before_they_are_said(self) -> None:
        for number in range(4):
            folder = str(self.top / "shards" / name_of(number).hex()[:2])
            said = self.said(f"noted {number}")
            (synced,) = self.between(self.said(f"committed {number}"), said, "fsync", ".note")
            (renamed,) = self.between(synced, said, "rename")
            self.assertEqual([c.file for c in self.between(renamed, said, "fsync")], [folder])
        before, said = self.said("noted 0"), self.said("removed 0")
        removed = self.between(before, said, "unlink")
        self.assertEqual(len(removed), 2)
        self.assertEqual(
            [c.file for c in self.between(removed[1], said, "fsync")],
            [str(self.top / "shards" / name_of(0).hex()[:2])],
        )


class KillTests(Folder):
    """What it has said is true, whenever it is killed."""

    def setUp(self) -> None:
        super().setUp()
        self.seed = random.SystemRandom().randrange(2**32)
        self.rng = random.Random(self.seed)
        # What it said last of each shard.
        self.said: dict[int, str] = {}

    def hear(self, lines: list[str]) -> None:
        for line in lines:
            # The last one may be cut.
            if line.endswith("\n"):
                verb, number = line.split()
                self.said[int(number)] = verb

    def judge(self, first: int, where: str) -> int:
        """
        Compare what is there with what was said.

        @param first: shard of the last life.
        @return: the shard with which the next one may begin.
        """
        store = FileShardStore(str(self.top))
        found = {shard.name: shard for shard in store.open()}
        last = max(self.said, default=first - 1)
        for number, verb in self.said.items():
            shard = found.pop(name_of(number), None)
            told = f"{verb} {number}, {where}"
            if verb == "removed":
                self.assertIsNone(shard, told)
            elif shard is None:
                # It was being removed.
                self.assertEqual((number, verb, number % 3), (last, "noted", 0), told)
                self.said[number] = "removed"
            else:
                notes = [b"second %d" % number, *([b"first %d" % number] * (verb == "committed"))]
                self.assertIn(shard.note, notes, told)
                if number >= first:
                    self.assertEqual(store.read(shard.name, 0, shard.size), shard_of(number), told)
        # What else is there was being committed.
        self.assertLessEqual(found.keys(), {name_of(last + 1)}, where)
        for shard in found.values():
            self.assertEqual(shard.note, b"first %d" % (last + 1), where)
            whole = shard_of(last + 1)
            self.assertEqual(store.read(shard.name, 0, shard.size), whole, where)
            store.remove(shard.name)
        if self.said.get(last) == "noted" and last % 3 == 0:
            store.remove(name_of(last))
            self.said[last] = "removed"
        self.assertEqual(os.listdir(self.top / "incoming"), [], where)
        self.assertEqual(os.listdir(self.top / "damaged"), [], where)
        store.close()
        return last + 1

    def test_it_is_killed_at_any_moment(self) -> None:
        first = 0
        for _ in range(KILLS):
            with subprocess.Popen(
                [*PROGRAM, "keep", str(self.top), str(first), str(MANY)],
                cwd=self.home,
                env=environment(self.home, PYTHONPATH=str(ROOT)),
                stdout=subprocess.PIPE,
                text=True,
            ) as child:
                assert child.stdout is not None
                self.hear([child.stdout.readline() for _ in range(self.rng.randrange(1, 60))])
                # A step takes a millisecond or two.
                end = time.monotonic() + self.rng.uniform(0, 0.003)
                while time.monotonic() < end:
                    pass
                child.kill()
                self.hear(child.stdout.readlines())
            first = self.judge(first, f"seed {self.seed}")
        self.assertGreater(first, KILLS)

    def test_it_is_killed_at_every_call_of_a_commit_a_note_and_a_removal(self) -> None:
        # From the making of the folder on.
        for call, least in (("fsync", 12), ("rename", 3), ("unlink", 2)):
            for when in count(1):
                self.top = self.home / f"{call}{when}"
                self.said.clear()
                killing = (
                    *(find_strace(), "-f", "-qq", "-o", str(self.home / "trace")),
                    *("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={when}"),
                )
                done = run(
                    *killing,
                    *PROGRAM,
                    "keep",
                    self.top,
                    "0",
                    "1",
                    home=self.home,
                    PYTHONPATH=str(ROOT),
                )
                self.hear(done.out.splitlines(keepends=True))
                self.judge(0, f"{call} {when}")
                if done.code == 0:
                    self.assertGreater(when, least, call)
                    break
                self.assertEqual(done.code, -signal.SIGKILL, done.err)


_SMALL: Final = """
mount -t tmpfs -o "size=2m,mode=700" none "$1" && shift && exec "$@"
"""


class FullDiskTests(Folder):
    def test_a_full_disk_says_so_and_what_was_committed_stays(self) -> None:
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            raise SkipTest("only root can mount a small disk, with the unshare of util-linux")
        place = self.home / "disk"
        place.mkdir()
        command = (
            *("unshare", "--mount", "sh", "-c", _SMALL, "sh", str(place)),
            *(*PROGRAM, "fill", str(place / "shares")),
        )
        done = run(*command, home=self.home, PYTHONPATH=str(ROOT))
        if "mount:" in done.err:
            raise SkipTest("only root can mount a small disk, with the unshare of util-linux")
        self.assertEqual((done.code, done.err), (0, ""))
        *_, refused, kept = done.lines
        self.assertRegex(refused, rf"^refused with ENOSPC: {place}/shares/incoming/[0-9a-f]{{64}}")
        self.assertGreater(int(kept.removeprefix("kept ")), 5)
