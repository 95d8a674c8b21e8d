"""Prometheus' own tool looks at what a node tells, and has nothing to say against it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.process.mesh import Mesh, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
UNPACKED: Final = ROOT / ".tools" / "prometheus" / "promtool"


def promtool() -> str:
    """
    @return: the program, as C{.ci/tools} has got it.
    @raise SkipTest: if it is not there, and could not be had.
    """
    found = str(UNPACKED) if UNPACKED.exists() else shutil.which("promtool")
    if found is None:
        if os.geteuid() == 0 and shutil.which("apt-get") and shutil.which("dpkg-deb"):
            raise AssertionError("promtool is missing: run .ci/tools")
        raise SkipTest("there is no promtool on this machine, and no Debian to take it from")
    return found


def check(text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [promtool(), "check", "metrics"], input=text, capture_output=True, timeout=60
    )


class PromtoolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def test_it_finds_nothing_to_mend(self) -> None:
        promtool()
        ada = self.mesh.node("ada").start()
        bob = self.mesh.node("bob", network=ada).start("--peer", ada.address)
        ada.publish({"text": "hello"})
        wait_for("message at bob", lambda: bob.status["parts"]["feed"]["messages"])
        for path in ("/v1/status", "/nowhere", "/v1/message/" + "0" * 64):
            bob.ask("GET", path)
        for node in (ada, bob):
            answer = node.ask("GET", "/metrics")
            self.assertEqual(
                answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8"
            )
            done = check(answer.body)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))

    def test_it_understands_the_alerts_of_the_documentation(self) -> None:
        promtool()
        page = (ROOT / "docs" / "operating.md").read_text("utf-8")
        (rules,) = re.findall(r"```yaml\n(groups:.*?)```", page, re.DOTALL)
        path = self.mesh.folder / "rules.yml"
        path.write_text(rules)
        done = subprocess.run([promtool(), "check", "rules", path], capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_it_would_find_something(self) -> None:
        done = check(b"# TYPE meshkit_door_calls counter\nmeshkit_door_calls 1\n")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"_total", done.stderr + done.stdout)
