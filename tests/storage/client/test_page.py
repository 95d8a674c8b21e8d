"""What docs/protocol/storing.md says, beside what it does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime import waiting
from meshkit.storage import hedging
from meshkit.storage.client import client
from meshkit.storage.client.values import ClientConfig
from meshkit.storage.objects import tracking, watching

PAGE = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "storing.md"
PLACES: dict[str, Any] = {
    "ClientConfig": ClientConfig(),
    "client": client,
    "hedging": hedging,
    "tracking": tracking,
    "waiting": waiting,
    "watching": watching,
}
_ROW = re.compile(r"^\| `(\w+)\.(\w+)` \| ([0-9.,]+) \|", re.MULTILINE)


class PageTests(SynchronousTestCase):
    def test_the_limits_are_those_of_the_code(self) -> None:
        part = PAGE.read_text("utf-8")
        rows = _ROW.findall(part)
        self.assertEqual(len(rows), part.count("\n| `"))
        self.assertGreater(len(rows), 10)
        for place, name, value in rows:
            self.assertEqual(float(value.replace(",", "")), getattr(PLACES[place], name), name)
