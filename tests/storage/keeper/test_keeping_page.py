"""docs/protocol/keeping.md, beside what is done."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "keeping.md"
ROW: Final = re.compile(r"^\| `(\w+)\.(\w+)` \| ([0-9,]+) \|", re.MULTILINE)
#: Where the names of the table are at home, if not in the keeper.
PLACES: Final = {
    "terms": "meshkit.storage.terms",
    "manifest": "meshkit.storage.manifest",
}


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rows = ROW.findall(PAGE.read_text(encoding="utf-8"))

    def test_every_limit_is_the_one_of_the_code(self) -> None:
        self.assertGreater(len(self.rows), 10)
        for module, name, value in self.rows:
            place = PLACES.get(module, f"meshkit.storage.keeper.{module}")
            found = getattr(import_module(place), name)
            self.assertEqual(found, int(value.replace(",", "")), name)

    def test_every_limit_of_the_code_is_there(self) -> None:
        named = {(module, name) for module, name, _ in self.rows}
        for module in ("uploads", "intake", "kept", "leases", "index", "capacity"):
            source = import_module(f"meshkit.storage.keeper.{module}").__file__ or ""
            text = Path(source).read_text(encoding="utf-8")
            for name in re.findall(r"^(MAX_[A-Z_]+): Final = ", text, re.MULTILINE):
                self.assertIn((module, name), named)
