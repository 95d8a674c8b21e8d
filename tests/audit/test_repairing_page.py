"""What docs/protocol/repairing.md says, beside what it does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attrs import fields
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import copying
from meshkit.audit.repairing import RepairConfig
from meshkit.storage.scheme import MAX_SHARES, Scheme

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "repairing.md"
PLACES: dict[str, Any] = {"RepairConfig": RepairConfig(), "copying": copying}
_ROW = re.compile(r"^\| `(\w+)\.(\w+)` \| ([0-9.,]+) \|", re.MULTILINE)


class PageTests(SynchronousTestCase):
    def test_the_limits_are_those_of_the_code(self) -> None:
        part = PAGE.read_text("utf-8")
        rows = _ROW.findall(part)
        self.assertEqual(len(rows), part.count("\n| `"))
        for place, name, value in rows:
            found = getattr(PLACES[place], name)
            self.assertEqual(float(value.replace(",", "")), found, name)
        told = {name for place, name, _ in rows if place == "RepairConfig"}
        self.assertEqual(told, {field.name for field in fields(RepairConfig)})


class MemoryTests(SynchronousTestCase):
    def test_what_is_under_way_is_within_the_limit_for_any_scheme(self) -> None:
        config = RepairConfig()
        for required in (1, 3, 6, 16, 17, 64):
            for total in (required, required + 1, min(MAX_SHARES, 2 * required), MAX_SHARES):
                scheme = Scheme(required, total)
                for made in range(1, min(total - required, config.at_once(scheme)) + 1):
                    window = config.segments(scheme, made)
                    self.assertGreaterEqual(window, 1)
                    used = window * (required + made) * scheme.block_bytes
                    self.assertLessEqual(used, config.buffer_bytes)
        self.assertEqual(config.at_once(Scheme(6, 200)), 42)
        self.assertEqual(config.at_once(Scheme(16, 200)), 32)
