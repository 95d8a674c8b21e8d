"""
A scheduler that is killed at any of its commits leaves nothing but what was done.

The scheduler is another process (L{tests.process.passing}).  The next one, here, finds the pass
C{running}, calls it abandoned, and goes on with the rest.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final

from meshkit.audit import state
from meshkit.audit.decisions import Policy
from meshkit.audit.replay import replay
from meshkit.errors import LeadTaken
from meshkit.runtime.container import DiskFile
from tests import PROFILE
from tests.audit.passes import PassesCase
from tests.process.passing import OBJECTS, fill
from tests.runtime.support import scratch

#: Killed before a commit, it leaves what the one before has left, and a journal.
SIDES: Final = ("after",) if PROFILE == "dev" else ("before", "after")
ROOT: Final = Path(__file__).resolve().parents[2]
#: Seconds that one pass has, and the start of Python.
PATIENCE: Final = 60.0


class KillTests(PassesCase):
    policy = Policy(every=0, recheck=0, offline_grace=0, cooldown=0, backoff=0, outage_part=1.0)

    def make_backing(self) -> DiskFile:
        self.folder = scratch(self)
        return DiskFile(os.path.join(self.folder, "unused.db"))

    def child(self, path: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "tests.process.passing", path, *words)
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def commits(self) -> int:
        done = self.child(os.path.join(self.folder, "whole.db"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return int(done.stdout)

    def test_the_next_pass_does_the_rest_wherever_it_was_killed(self) -> None:
        count = self.commits()
        # The lead, the beginning; three pages; two repairs; the end.
        self.assertGreaterEqual(count, 7)
        begun = 0
        for commit in range(1, count + 1):
            for side in SIDES:
                path = os.path.join(self.folder, f"{commit}-{side}.db")
                done = self.child(path, side, str(commit))
                self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
                begun += self.recover(path, last=(commit, side) == (count, "after"))
        # Killed before its beginning was written down there is no pass to be seen.
        self.assertGreater(begun, len(SIDES) * count - 5)

    def recover(self, path: str, last: bool) -> bool:
        """@return: whether the pass that was killed is to be seen."""
        self.done(self.database.stopService())
        self.backing = DiskFile(path)
        self.database = self.open()
        self.world = type(self.world)(self.clock)
        fill(self.world)
        # The database is checked by SQLite, and has what was committed.
        sound = self.read(
            lambda connection: connection.execute("PRAGMA integrity_check").fetchall()
        )
        self.assertEqual(sound, [("ok",)])
        before = self.read(state.runs, 9)
        self.assertEqual(
            [each.state for each in before], ["done" if last else "running"] * len(before)
        )
        known = {each.content_id: each for each in self.read(state.all_objects)}
        events = [self.events(each.id) for each in before]
        scheduler = self.make(seed=2)
        lead = self.read(state.lead)
        if lead is not None and not last:
            problem = self.failed(scheduler)
            self.assertIn(lead.holder.hex(), problem)
        self.world.pass_time(70)
        run = self.run_pass(scheduler)
        self.assertEqual((run.state, run.metrics.recovered), ("done", 0 if last else len(before)))
        states = [each.state for each in self.read(state.runs, 9)]
        self.assertEqual(states, ["done", *("done" if last else "abandoned" for _ in before)])
        # What had been written stands.
        for each, then in zip(before, events, strict=True):
            self.assertEqual(self.events(each.id), then)
        after = {each.content_id: each for each in self.read(state.all_objects)}
        self.assertEqual(len(after), OBJECTS)
        self.assertLessEqual(known.keys(), after.keys())
        self.assertEqual({each.code for each in after.values()}, {"healthy"})
        found = replay(self.read(state.trace, run.id))
        self.assertEqual((found.decisions, found.differing), (OBJECTS, 0))
        return bool(before)

    @staticmethod
    def check(connection: sqlite3.Connection) -> list[tuple[str]]:
        return connection.execute("PRAGMA integrity_check").fetchall()

    def failed(self, scheduler: object) -> str:
        try:
            self.run_pass(scheduler)  # type: ignore[arg-type]
        except LeadTaken as e:
            return str(e)
        raise AssertionError("it was not refused")
