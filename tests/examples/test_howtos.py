"""The how-tos include their code from files that tests run; none of it is copied."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.examples.support import EXAMPLES

DOCS = EXAMPLES.parent / "docs"
PAGES = sorted((DOCS / "howto").glob("*.md"))

_BLOCK = re.compile(r"^```\{literalinclude\} (\S+)\n((?:^:.*\n)*)^```$", re.MULTILINE)


def includes(page: Path) -> list[tuple[Path, dict[str, str]]]:
    """The files that a page includes code from, and its options."""
    found = []
    for target, options in _BLOCK.findall(page.read_text("utf-8")):
        pairs = re.findall(r"^:([a-z-]+): \"?(.*?)\"?$", options, re.MULTILINE)
        found.append(((page.parent / target).resolve(), dict(pairs)))
    return found


def names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


class HowToTests(SynchronousTestCase):
    def test_every_piece_of_code_that_is_included_is_there(self) -> None:
        for page in PAGES:
            blocks = includes(page)
            self.assertEqual(len(blocks), page.read_text("utf-8").count("{literalinclude}"))
            for path, options in blocks:
                with self.subTest(page=page.name, file=path.name, **options):
                    text = path.read_text("utf-8")
                    self.assertTrue(path.is_relative_to(EXAMPLES))
                    if "pyobject" in options:
                        self.assertIn(options["pyobject"], names(path))
                    if "start-after" in options:
                        start = text.index(f"{options['start-after']}\n")
                        self.assertGreater(text.index(options["end-before"], start), start + 100)
                        self.assertEqual(text.count(options["end-before"]), 1)
                    if "start-at" in options:
                        self.assertIn(options["start-at"], text)

    def test_no_code_is_copied(self) -> None:
        for page in PAGES:
            text = page.read_text("utf-8")
            self.assertNotIn("```python", text)
            for line in text.splitlines():
                self.assertFalse(re.match(r"\s*(import|from \S+ import|def|class) ", line), line)

    def test_every_example_has_a_how_to(self) -> None:
        shown = {path for page in PAGES for path, _ in includes(page)}
        told = "".join(page.read_text("utf-8") for page in PAGES)
        for path in sorted(EXAMPLES.glob("*.py")):
            with self.subTest(path.name):
                self.assertIn(f"examples/{path.name}", told)
        for name in (
            *("setup.cfg", "meshkit_roundtrip/part.py", "tests/test_roundtrip.py"),
            *("meshkit_roundtrip/simulation.py", "tests/test_simulation.py"),
        ):
            self.assertIn(EXAMPLES / "custom_part" / name, shown)

    def test_every_page_stands_in_the_index(self) -> None:
        index = (DOCS / "index.md").read_text("utf-8")
        for page in sorted(DOCS.rglob("*.md")):
            name = page.relative_to(DOCS).with_suffix("").as_posix()
            if name == "index" or name.startswith(("newsfragments/", "_build/")):
                continue
            listed = f"\n{name}\n" in index or f"\n{Path(name).parent}/*\n" in index
            self.assertTrue(listed, f"docs/index.md does not list {name}")
