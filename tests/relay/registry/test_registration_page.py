"""docs/protocol/registration.md, beside what is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.relay.registration import own, registrar
from meshkit.relay.registry import part, registration, rules, wire

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "registration.md"
_MODULES: Final[dict[str, Any]] = {
    "own": own,
    "part": part,
    "registration": registration,
    "rules": rules,
    "wire": wire,
}


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.page = PAGE.read_text("utf-8")

    def test_its_limits_are_those_of_the_code(self) -> None:
        rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([0-9,]+) \|", self.page, re.MULTILINE)
        self.assertEqual(len(rows), 11)
        for module, name, number in rows:
            limit = (
                rules.Rules().max_peers if module == "Rules" else getattr(_MODULES[module], name)
            )
            self.assertEqual(int(number.replace(",", "")), limit, f"{module}.{name}")

    def test_its_methods_are_those_that_are_served(self) -> None:
        table = self.page.partition("| method |")[2].partition("\n\n")[0]
        self.assertEqual(
            re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE),
            [method.name for method in (wire.REGISTER, wire.STANDING, wire.DIRECTORY)],
        )
        self.assertIn(f"Capability `{wire.LABEL}`, version {wire.VERSION}", self.page)

    def test_its_payloads_have_the_fields_of_the_code(self) -> None:
        for payload in (registration._Payload, registration._Entered):
            names = ", ".join(f"{name}: [a-z]+( [0-9]+)?" for name in payload.__struct_fields__)
            self.assertRegex(self.page, rf"\[{names}\]")

    def test_a_node_asks_as_often_as_it_says(self) -> None:
        self.assertIn("every six hours", self.page)
        self.assertEqual(registrar.LOOK_SECONDS, 6 * 3_600)
