"""
The channel and the calls also run on the reactors that other systems and other programs
use.  A reactor is installed once in a process, so each has one of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

ROOT: Final = Path(__file__).resolve().parents[2]

#: What runs on each of them.
SUITES: Final = ("tests.rpc", "tests.shs")
SECONDS: Final = 180.0

CHECK: Final = """
import sys
from twisted.trial.unittest import SynchronousTestCase

class CheckTests(SynchronousTestCase):
    def test_which(self):
        from twisted.internet import reactor
        self.assertEqual(type(reactor).__name__, {name!r})
"""


class ReactorTests(SynchronousTestCase):
    def run_on(self, reactor: str, name: str) -> None:
        folder = tempfile.TemporaryDirectory(prefix="meshkit-reactor-")
        self.addCleanup(folder.cleanup)
        home = Path(folder.name)
        (home / "test_which_reactor.py").write_text(CHECK.format(name=name))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "twisted.trial", f"--reactor={reactor}"),
                *("--temp-directory", str(home / "trial"), "--reporter=bwverbose"),
                *("test_which_reactor", *SUITES),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(home), str(ROOT)]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HYPOTHESIS_PROFILE": "dev",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        self.assertEqual(done.returncode, 0, done.stdout[-5000:])
        # A suite that is not found, or skips everything, must not look like success.
        self.assertRegex(done.stdout, r"test_which \.\.\. +\[OK\]")
        ran = re.search(r"PASSED \(successes=(\d+)\)", done.stdout)
        assert ran is not None, done.stdout[-500:]
        self.assertGreater(int(ran[1]), 400)
        # Of each folder, and of each those that have real sockets.
        for suite in SUITES:
            passed = re.findall(rf"(?m)^{suite}\.(\w+)\..* \.\.\. +\[OK\]$", done.stdout)
            self.assertGreater(len(passed), 100, suite)
            self.assertIn("test_loopback", passed)

    def test_select(self) -> None:
        self.run_on("select", "SelectReactor")

    def test_poll(self) -> None:
        self.run_on("poll", "PollReactor")

    def test_asyncio(self) -> None:
        self.run_on("asyncio", "AsyncioSelectorReactor")
