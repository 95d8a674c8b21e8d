"""
The rules of the suite itself (C{tests/conftest.py}), tried on a small suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.conftest import SLOW, lines_of

ROOT = Path(__file__).resolve().parents[2]

QUICK = """
import time, unittest
import pytest
from twisted.trial.unittest import SkipTest, SynchronousTestCase

class Quick(SynchronousTestCase):
    def test_good(self):
        pass
    def test_slow(self):
        time.sleep(0.3)
    def test_listed(self):
        raise SkipTest("there is no moon")
    def test_unlisted(self):
        raise SkipTest("there is no moon tonight")
    def test_attribute(self):
        pass
    test_attribute.skip = "by attribute"
    @unittest.skip("by decorator")
    def test_decorated(self):
        pass
    def test_wrong(self):
        self.fail("wrong")
    @pytest.mark.xfail(reason="not a skip")
    def test_expected(self):
        self.fail("as expected")
"""

MODULE = """
import pytest
pytest.skip("by module", allow_module_level=True)
"""

TAKES_TIME = """
import time
from twisted.trial.unittest import SynchronousTestCase

class Slow(SynchronousTestCase):
    def test_slow(self):
        time.sleep(0.3)
"""

KILLS = """
import os, signal
from twisted.trial.unittest import SynchronousTestCase

class Kills(SynchronousTestCase):
    def test_kill(self):
        os.kill(os.getpid(), signal.SIGKILL)
"""

NOTED = """
from twisted.trial.unittest import SynchronousTestCase

class Noted(SynchronousTestCase):
    def note(self):
        with open("order.txt", "a") as file:
            file.write(self.id() + "\\n")
    test_a = test_b = test_c = note
"""

EXAMPLES = """
from hypothesis import given, strategies
from twisted.trial.unittest import SynchronousTestCase

class Examples(SynchronousTestCase):
    @given(strategies.binary())
    def test_examples(self, data):
        with open("examples.txt", "a") as file:
            file.write("x")
"""


class RuleTests(SynchronousTestCase):
    """Small suites that break them."""

    def run_suite(
        self, files: dict[str, str], *arguments: str, **environment: str
    ) -> tuple[str, list[str]]:
        """Run a small suite; give pytest's output and the lines of its failures file."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        tests = self.folder / "tests"
        for name, text in (
            *files.items(),
            ("allowed_skips.txt", "# why\n\n  there is no moon\n"),
            ("longest.txt", "# first\nprocess/test_long.py\nslow/test_longer.py\n"),
            ("process/__init__.py", ""),
        ):
            path = tests / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for name in ("__init__.py", "conftest.py", "declared.py"):
            shutil.copy(ROOT / "tests" / name, tests)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "HYPOTHESIS_", "MESHKIT_", "PYTHONPATH"))
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA"]
            + ["--failures-file=failures.txt", *arguments, "tests"],
            cwd=self.folder,
            env={"MESHKIT_TEST_SECONDS": "0.2", **inherited, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        failures = self.folder / "failures.txt"
        return done.stdout, failures.read_text().splitlines() if failures.exists() else []

    def test_what_breaks_a_rule_fails_with_a_sentence(self) -> None:
        for workers in ("0", "2"):
            output, lines = self.run_suite({"test_quick.py": QUICK}, "-n", workers)
            self.assertEqual((lines[0], lines[-1]), ("start", "end 1"))
            self.assertEqual(
                sorted(lines[1:-1]),
                [
                    f"fail tests/test_quick.py::Quick::test_{name}"
                    for name in ("attribute", "decorated", "slow", "unlisted", "wrong")
                ],
            )
            self.assertRegex(output, r"test_slow took 0\.\d s, and a test may take 0\.2 s: make")
            for reason in ("there is no moon tonight", "by attribute", "by decorator"):
                self.assertIn(f"was skipped: {reason!r} is not in tests/allowed_skips.txt", output)
            self.assertIn("5 failed, 1 passed, 1 skipped, 1 xfailed", output)

    def test_a_skipped_module_is_no_way_out(self) -> None:
        for workers in ("0", "2"):
            output, lines = self.run_suite({"test_module.py": MODULE}, "-n", workers)
            self.assertIn("fail tests/test_module.py", lines)
            self.assertIn("'by module' is not in tests/allowed_skips.txt", output)

    def test_tests_of_the_slow_folders_may_take_longer(self) -> None:
        self.assertEqual(SLOW, ("process", "interop", "netns", "sim", "browser", "slow"))
        files = {f"{folder}/test_slow.py": TAKES_TIME for folder in SLOW}
        files |= {f"{folder}/__init__.py": "" for folder in SLOW}
        _, lines = self.run_suite(files)
        self.assertEqual(lines, ["start", "end 0"])

    def test_the_limit_holds_for_the_quick_profile_alone(self) -> None:
        files = {"test_slow.py": TAKES_TIME}
        self.assertEqual(self.run_suite(files, HYPOTHESIS_PROFILE="ci")[1], ["start", "end 0"])
        self.assertEqual(self.run_suite(files, MESHKIT_TEST_SECONDS="9")[1], ["start", "end 0"])
        self.assertEqual(self.run_suite(files)[1][-1], "end 1")

    def test_a_limit_that_is_no_number_is_refused(self) -> None:
        output, _ = self.run_suite({"test_slow.py": TAKES_TIME}, MESHKIT_TEST_SECONDS="much")
        self.assertIn("MESHKIT_TEST_SECONDS='much' is not a number of seconds", output)

    def test_what_takes_longest_is_begun_first(self) -> None:
        names = ("slow/test_longer", "process/test_a", "process/test_long")
        files = {f"{name}.py": NOTED for name in names} | {"slow/__init__.py": ""}
        # What xdist would begin with.
        files["process/test_a.py"] += "    test_d = test_e = test_a\n"
        for workers in ("0", "1"):
            self.run_suite(files, "-n", workers, "--dist", "loadfile", "--no-loadscope-reorder")
            order = (self.folder / "order.txt").read_text().split()
            self.assertEqual(
                [name.split(".")[2] for name in order],
                ["test_long"] * 3 + ["test_longer"] * 3 + ["test_a"] * 5,
            )

    def test_what_is_said_to_take_longest_is_there(self) -> None:
        names = lines_of((ROOT / "tests" / "longest.txt").read_text(encoding="utf-8"))
        self.assertEqual(len(set(names)), len(names))
        missing = [name for name in names if not (ROOT / "tests" / name).is_file()]
        self.assertEqual(missing, [])
        self.assertEqual({name.partition("/")[0] for name in names} - {*SLOW}, set())

    def test_a_session_that_is_killed_has_no_end(self) -> None:
        _, lines = self.run_suite({"test_kill.py": KILLS})
        self.assertEqual(lines, ["start"])

    def test_the_profile_sets_the_number_of_examples(self) -> None:
        for profile, count in (("dev", 30), ("ci", 200)):
            self.run_suite({"test_examples.py": EXAMPLES}, HYPOTHESIS_PROFILE=profile)
            tried = (self.folder / "examples.txt").read_text()
            self.assertEqual(len(tried), count)

    def test_an_unknown_profile_is_refused(self) -> None:
        output, lines = self.run_suite({"test_slow.py": TAKES_TIME}, HYPOTHESIS_PROFILE="fast")
        self.assertIn("fast", output)
        self.assertEqual(lines, [])

    def test_the_makefile_knows_the_same_slow_folders(self) -> None:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        self.assertIn(f"\nSLOW := {' '.join(SLOW)}\n", makefile)
