"""The manual lists the scenarios, faults and invariants that there are."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.invariants import USUAL
from meshkit.sim.nemesis import FAULTS
from meshkit.sim.scenarios import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"


class DocumentedTests(SynchronousTestCase):
    def table(self, header: str) -> dict[str, list[str]]:
        """The cells after the first one, by the first one."""
        text = PAGE.read_text(encoding="utf-8").partition(f"| {header} |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.MULTILINE)
        return {name: cells.split(" | ") for name, cells in rows}

    def test_scenarios(self) -> None:
        self.assertEqual(
            self.table("scenario"),
            {
                name: [
                    str(each.nodes),
                    each.summary,
                    " ".join(f"`{fault}`" for fault in each.faults) or "none",
                ]
                for name, each in SCENARIOS.items()
            },
        )

    def test_faults(self) -> None:
        self.assertEqual(
            self.table("fault"), {name: [each.summary] for name, each in FAULTS.items()}
        )

    def test_invariants(self) -> None:
        self.assertEqual([*self.table("invariant")], [*(each.name for each in USUAL), "errors"])
