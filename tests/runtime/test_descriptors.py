"""Tests of L{meshkit.runtime.descriptors}: nobody else gets at the wire."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: Prints and reads in every way, also in children, and then uses the wire.
NOISY = """
import os, subprocess, sys
from meshkit.runtime.descriptors import claim_wire
source, target = claim_wire()
print("printed", flush=True)
os.write(1, b"written\\n")
subprocess.run(["echo", "by a child"])
subprocess.run(["cat"])
assert sys.stdin.read() == ""
assert not os.get_inheritable(source) and not os.get_inheritable(target)
os.write(target, b"got " + os.read(source, 100))
"""

#: The same for a program that was started without some of its descriptors.
POOR = """
import os
from meshkit.runtime.descriptors import claim_wire
os.close(2)
source, target = claim_wire()
print("printed", flush=True)
assert source > 2 and target > 2
os.write(target, b"got " + os.read(source, 100))
"""


class WireTests(SynchronousTestCase):
    def run_child(self, script: str) -> tuple[bytes, bytes]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=b"message",
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout, done.stderr

    def test_what_prints_and_reads_is_not_on_it(self) -> None:
        out, err = self.run_child(NOISY)
        self.assertEqual(out, b"got message")
        self.assertEqual(err, b"printed\nwritten\nby a child\n")

    def test_without_standard_error_what_prints_is_nowhere(self) -> None:
        self.assertEqual(self.run_child(POOR), (b"got message", b""))

    def test_without_a_wire_there_is_none(self) -> None:
        script = "import os; os.close(0)\n" + POOR + "\n"
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.assertEqual((done.returncode, done.stdout), (1, b""))
