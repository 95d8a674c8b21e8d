"""
The public conformance suite of Secret Handshake 1 (npm C{shs1-test}), in both roles.

It is GPL, and so run as the separate program that it is.  What it does not see (a client
that does not check the last signature passes it, for one) is in C{tests/shs}.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.node import MODULES, ROOT, environment, node

ADAPTER = Path(__file__).with_name("shs1_adapter.py")
SEEDS = ("meshkit-1", "meshkit-2")


class SuiteTests(SynchronousTestCase):
    """It starts the adapter some 45 times in each role."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meshkit-shs1-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def program(self, command: str) -> Path:
        """The suite wants one executable file, and gives the arguments itself."""
        path = self.folder / "adapter"
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)
        return path

    def adapter(self, role: str) -> Path:
        return self.program(f"exec '{sys.executable}' '{ADAPTER}' {role} \"$@\"")

    def suite(self, role: str, program: Path, seed: str) -> tuple[int, str]:
        """@return: how many cases failed, and what was said."""
        done = subprocess.run(
            [node(), str(MODULES / ".bin" / f"shs1test{role}"), str(program), seed],
            env={**environment(), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        return done.returncode, done.stdout

    def check_passes(self, role: str) -> None:
        for seed in SEEDS:
            failed, said = self.suite(role, self.adapter(role), seed)
            self.assertEqual(failed, 0, said)
            self.assertIn(f"Passed the {role} test suite", said)

    def test_our_client_passes(self) -> None:
        self.check_passes("client")

    def test_our_server_passes(self) -> None:
        self.check_passes("server")

    def test_the_suite_can_tell(self) -> None:
        """Programs that say nothing, or succeed at everything, do not pass."""
        for role in ("client", "server"):
            failed, said = self.suite(role, self.program("exit 0"), "meshkit-1")
            self.assertGreater(failed, 0, said)
