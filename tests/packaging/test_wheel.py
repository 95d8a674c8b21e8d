"""
What the wheel holds.

Wheels without their drop-ins, or with a C{twisted/__init__.py} that replaces
Twisted's own, have been released by others more than once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from email.message import Message
from email.parser import BytesParser
from functools import cache
from pathlib import Path
from zipfile import ZipFile

from twisted.trial.unittest import SynchronousTestCase

import meshkit

ROOT = Path(__file__).resolve().parents[2]


@cache
def wheel() -> dict[str, bytes]:
    """The wheel of this tree: content by name.  Built once per process."""
    scratch = tempfile.mkdtemp()
    _left_beside_sources.append(left_beside_sources())
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / ".ci" / "build_wheel.py"), scratch],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise AssertionError(done.stderr)
        with ZipFile(done.stdout.strip()) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    finally:
        _left_beside_sources.append(left_beside_sources())
        shutil.rmtree(scratch)


# Before and after the one build.
_left_beside_sources: list[list[str]] = []


def left_beside_sources() -> list[str]:
    """What builds leave in a tree, where it is there."""
    left = [ROOT / "build", ROOT / "dist", *ROOT.glob("*.egg-info")]
    return sorted(path.name for path in left if path.exists())


def sources(folder: str) -> set[str]:
    """The modules of a folder of this tree, as a wheel names them."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}


class WheelTests(SynchronousTestCase):
    """The wheel, opened."""

    def metadata(self) -> Message:
        (name,) = (name for name in wheel() if name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(wheel()[name])

    def test_every_module_is_there_and_nothing_else(self) -> None:
        shipped = {name for name in wheel() if ".dist-info/" not in name}
        expected = sources("meshkit") | sources("meshkit_plugins") | sources("twisted")
        self.assertEqual(shipped - {"meshkit/py.typed"}, expected)

    def test_the_drop_ins_are_there(self) -> None:
        self.assertIn("twisted/plugins/meshkit_node.py", wheel())
        self.assertIn("twisted/plugins/meshkit_storage.py", wheel())
        self.assertIn("twisted/plugins/meshkit_relay.py", wheel())
        self.assertIn("meshkit_plugins/__init__.py", wheel())

    def test_no_file_of_twisted_is_replaced(self) -> None:
        self.assertNotIn("twisted/__init__.py", wheel())
        self.assertNotIn("twisted/plugins/__init__.py", wheel())

    def test_every_drop_in_has_our_prefix(self) -> None:
        # The second of two distributions with a drop-in of the same name is lost.
        for name in wheel():
            folder, _, file = name.rpartition("/")
            if folder in ("twisted/plugins", "meshkit_plugins") and file != "__init__.py":
                self.assertTrue(file.startswith("meshkit_"), name)

    def test_no_tests_are_shipped(self) -> None:
        self.assertEqual([name for name in wheel() if "test_" in name or "conftest" in name], [])

    def test_it_is_marked_as_typed(self) -> None:
        self.assertIn("meshkit/py.typed", wheel())

    def test_version_python_and_licence_are_stated(self) -> None:
        metadata = self.metadata()
        self.assertEqual(metadata["Name"], "meshkit")
        self.assertEqual(metadata["Version"], meshkit.__version__)
        self.assertEqual(metadata["Requires-Python"], ">=3.11")
        self.assertTrue(any(name.endswith("/LICENSE") for name in wheel()))
        self.assertIn("MIT", (metadata["License"] or "") + (metadata["License-Expression"] or ""))

    def test_the_tools_of_developers_are_not_required(self) -> None:
        required = [
            line.split(";")[0].strip()
            for line in self.metadata().get_all("Requires-Dist", [])
            if "extra ==" not in line
        ]
        names = {line.split(">")[0].split("=")[0].strip().lower() for line in required}
        self.assertLessEqual({"twisted", "pynacl", "zfec", "klein", "treq", "msgspec"}, names)
        self.assertFalse(names & {"hypothesis", "pytest", "mypy", "ruff", "setuptools"})

    def test_the_command_is_there(self) -> None:
        (name,) = (name for name in wheel() if name.endswith("entry_points.txt"))
        self.assertIn(b"meshkit = meshkit.cli.main:main", wheel()[name])


class TreeTests(SynchronousTestCase):
    """Building leaves the tree as it was."""

    def test_nothing_is_left_in_the_tree(self) -> None:
        wheel()
        before, after = _left_beside_sources
        self.assertEqual(before, after)
