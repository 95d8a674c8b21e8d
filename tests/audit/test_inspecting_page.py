"""C{docs/howto/inspecting.md} says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import passing, replay, state
from meshkit.audit.decisions import Code, Policy

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "inspecting.md"


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = PAGE.read_text("utf-8")

    def test_every_code_of_a_decision_is_explained(self) -> None:
        cells = [row.split("|")[1] for row in self.text.splitlines() if row.startswith("| `")]
        named = {code for cell in cells for code in re.findall("`([a-z]+)`", cell)}
        self.assertEqual(named, set(get_args(Code)))

    def test_the_limits_are_those_of_the_code(self) -> None:
        for what in (
            f"| passes | the last {state.MAX_RUNS} |",
            f"| events of a pass | {state.MAX_EVENTS:,} of {state.MAX_TEXT} characters; ",
            f"| events of all passes | {state.MAX_ALL_EVENTS:,}; those of the oldest",
            f"| traces, compressed | {state.MAX_TRACE_BYTES >> 20} MiB; ",
            f"| candidates for repair in a pass | {passing.MAX_CANDIDATES:,}; ",
            f"| peers, with since when they are away | {state.MAX_SEEN:,}, for "
            f"{state.SEEN_SECONDS // 86_400} days",
            f'"trace":"{replay.VERSION}"',
        ):
            self.assertIn(what, self.text)

    def test_the_figures_of_the_policy_are_its_defaults(self) -> None:
        policy = Policy()
        self.assertEqual(policy.outage_part, 0.25)
        self.assertEqual((policy.outage_peers, policy.outage_grace), (3, 86_400))
        self.assertEqual((policy.backoff, policy.max_backoff), (300, 6 * 3_600))
        self.assertEqual(policy.peer_life * 10, policy.domain_life)
        self.assertEqual(policy.peer_life, 2 * 365.25 * 86_400)
        self.assertEqual(policy.threshold(6, 9), 8)
        for said in (
            "at least a quarter of all peers, and\nthree of them",
            "then they have a day\nto come back",
            "after 5 minutes, 10, 20 and so on, up to 6 hours",
            "after two years on average",
            "after twenty",
            "with 6+3, two have to be lost",
        ):
            self.assertIn(said, self.text)
