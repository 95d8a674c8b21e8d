"""
SIGKILL of the process that writes, at random moments under load.

The database, the parts of it that write, its threads and the disk are real; there is no
network.  Whole nodes are killed in C{tests/process/test_kills.py}.  That what was
acknowledged had been synced is shown by C{tests/process/test_durable.py}: a killed process
leaves what the kernel was given.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Final

import pytest
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import doctor
from meshkit.runtime.container import DiskFile
from meshkit.testing.identities import Author
from tests import PROFILE
from tests.feed.writer import BATCH, LOADS, OWN, REPEATS
from tests.runtime.support import scratch

ROOT: Final = Path(__file__).resolve().parents[2]

#: How often, in all tests of this module.
KILLS: Final = int(os.environ.get("MESHKIT_KILLS") or (20 if PROFILE == "dev" else 200))
#: Answers that a process may give before it is killed, and seconds after the last of them.
MOST_ANSWERS: Final = 30
MOST_SECONDS: Final = 0.01


@pytest.mark.fuller
class KillTests(SynchronousTestCase):
    """No message that was acknowledged is lost, none is numbered twice, and all is sound."""

    process: ClassVar[subprocess.Popen[str]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.process = subprocess.Popen(
            [sys.executable, "-m", "tests.feed.writer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert cls.process.stdout is not None
        if cls.process.stdout.readline() != "ready\n":
            cls.tearDownClass()
            raise AssertionError("the process that writes does not start")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.process.kill()
        cls.process.communicate()

    def setUp(self) -> None:
        self.seed = random.SystemRandom().randrange(2**32)
        self.rng = random.Random(self.seed)
        self.path = Path(scratch(self), "node.db")
        self.child: int | None = None
        self.addCleanup(self.end)
        # By author and sequence.
        self.acknowledged: defaultdict[str, dict[int, str]] = defaultdict(dict)
        # Of requests with a key: the number of the last one, and what each was answered.
        self.request = 0
        self.answered: dict[str, tuple[int, str]] = {}

    def end(self) -> None:
        """After a failure in the middle of a life."""
        if self.child is not None:
            os.kill(self.child, signal.SIGKILL)
            self.child = None
            assert self.process.stdout is not None
            while self.process.stdout.readline() not in ("dead\n", ""):
                pass

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n") or line.startswith("failed"):
            raise self.failureException(f"the process that writes said {line!r}")
        return line[:-1]

    def note(self, line: str) -> None:
        key, number, digest, *request = line.split()
        sequence = int(number)
        if request:
            self.request = int(request[0])
            name = str(self.request // REPEATS)
            first = self.answered.setdefault(name, (sequence, digest))
            self.assertEqual((sequence, digest), first, "a repetition got another answer")
        elif key == Author(OWN).key.hex():
            self.assertNotIn(sequence, self.acknowledged[key], "a number was given twice")
        self.acknowledged[key][sequence] = digest

    def live(self, loads: str) -> None:
        """One life: it begins, works, and is killed."""
        assert self.process.stdin is not None
        # What was under way when the last life ended is asked for again.
        loads = loads.replace("keys", f"keys{self.request}")
        self.process.stdin.write(f"{self.path} {loads}\n")
        self.process.stdin.flush()
        pid = 0
        answers: list[str] = []
        # One in five is killed in its start.
        wanted = 0 if self.rng.random() < 0.2 else self.rng.randint(1, MOST_ANSWERS)
        while not pid or len(answers) < wanted:
            line = self.line()
            if line.startswith("born "):
                pid = int(line.removeprefix("born "))
                self.child = pid
            else:
                answers.append(line)
        end = time.monotonic() + self.rng.uniform(0, MOST_SECONDS)
        while time.monotonic() < end:
            pass
        os.kill(pid, signal.SIGKILL)
        while (line := self.line()) != "dead":
            answers.append(line)
        self.child = None
        for each in answers:
            self.note(each)

    def check_disk(self) -> None:
        """What lies there is whole feeds with all that was acknowledged."""
        if not self.path.exists():
            self.assertEqual(self.acknowledged, {})
            return
        # A copy: what SQLite does on opening the files is left for the next life to do.
        copy = self.path.with_name("copy.db")
        for suffix in ("", "-wal"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
            if Path(f"{self.path}{suffix}").exists():
                shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
        with closing(sqlite3.connect(copy)) as connection:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            if not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'feed_set_aside'"
            ).fetchone():
                self.assertEqual(self.acknowledged, {})
                return
            stored: defaultdict[str, dict[int, str]] = defaultdict(dict)
            batches: Counter[str] = Counter()
            keyed: Counter[str] = Counter()
            for key, sequence, digest, raw in connection.execute(
                "SELECT hex(a.key), m.sequence, hex(m.hash), m.raw FROM feed_messages m "
                "JOIN feed_authors a ON a.id = m.author AND m.chain_valid ORDER BY m.id"
            ):
                stored[key.lower()][sequence] = digest.lower()
                content = json.loads(raw)["content"]
                batches[content.get("batch")] += 1
                keyed[content.get("keyed")] += 1
            complete = dict(
                connection.execute("SELECT lower(hex(key)), contiguous FROM feed_authors")
            )
        self.assertEqual(complete, {key: len(feed) for key, feed in stored.items()})
        for feed in stored.values():
            self.assertEqual(list(feed), list(range(1, len(feed) + 1)))
        for key, feed in self.acknowledged.items():
            self.assertLessEqual(feed.items(), stored[key].items(), "acknowledged and lost")
        del batches[None]  # type: ignore[arg-type]
        self.assertEqual(set(batches.values()) - {BATCH}, set(), "a part of a batch is stored")
        del keyed[None]  # type: ignore[arg-type]
        self.assertEqual(set(keyed.values()) - {1}, set(), "a repetition was published")
        self.assertLessEqual(self.answered.keys(), keyed.keys())

    def check_kills(self, loads: str) -> None:
        for number in range(KILLS // 5):
            self.live(loads)
            try:
                self.check_disk()
            except AssertionError as e:
                raise self.failureException(f"kill {number}, seed {self.seed}: {e}") from e
        self.assertNotEqual(self.acknowledged, {})
        with closing(DiskFile(str(self.path)).open_writer()) as connection:
            report = doctor.examine(connection, repair=False, own=None, now_ns=time.time_ns())
        self.assertEqual(report.findings, [])
        self.assertGreaterEqual(report.messages, sum(map(len, self.acknowledged.values())))

    def test_killed_while_some_publish(self) -> None:
        self.check_kills("publish")

    def test_killed_while_batches_are_published(self) -> None:
        self.check_kills("batches")

    def test_killed_while_the_same_is_asked_for_again_and_again(self) -> None:
        self.check_kills("keys publish")

    def test_killed_while_messages_are_received(self) -> None:
        self.check_kills("receive")

    def test_killed_while_all_of_that_goes_on(self) -> None:
        self.check_kills(" ".join(LOADS))
