"""L{tests.linked}."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.linked import link_tree


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.source = Path(folder.name, "source")
        self.target = Path(folder.name, "target")
        for name in (
            "a.py",
            "b.py",
            "__pycache__/a.cpython-311.pyc",
            "__pycache__/b.cpython-311.pyc",
            "__pycache__/b.cpython-311.pyc.4711",
            "deep/c.py",
            "deep/deeper/d.py",
            "other/e.py",
        ):
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def test_all_is_there(self) -> None:
        link_tree(self.source, self.target, ())
        for name in ("a.py", "b.py", "deep/deeper/d.py", "other/e.py"):
            self.assertEqual((self.target / name).read_text(), name)

    def test_the_original_of_what_is_changed_stays_as_it_was(self) -> None:
        link_tree(self.source, self.target, ["b.py", "deep/deeper/d.py"])
        for name in ("b.py", "deep/deeper/d.py", "deep/deeper/new.py"):
            (self.target / name).write_text("changed")
        self.assertEqual((self.source / "b.py").read_text(), "b.py")
        self.assertEqual((self.source / "deep/deeper/d.py").read_text(), "deep/deeper/d.py")
        self.assertFalse((self.source / "deep/deeper/new.py").exists())
        self.assertEqual((self.target / "deep/c.py").read_text(), "deep/c.py")

    def test_of_what_is_changed_nothing_is_compiled_yet_nor_what_is_half_written(self) -> None:
        link_tree(self.source, self.target, ["b.py"])
        compiled = sorted(path.name for path in (self.target / "__pycache__").iterdir())
        self.assertEqual(compiled, ["a.cpython-311.pyc"])
        (self.target / "__pycache__" / "b.cpython-311.pyc").write_text("new")
        self.assertIn("/", (self.source / "__pycache__/b.cpython-311.pyc").read_text())

    def test_what_is_to_be_changed_has_to_be_there(self) -> None:
        self.assertRaises(FileNotFoundError, link_tree, self.source, self.target, ["deep/x.py"])
