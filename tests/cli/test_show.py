"""Tests of how C{meshkit feed show} prints what the door answers."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.door import Answer
from meshkit.cli.feed import reading
from meshkit.cli.main import cli


def _message(sequence: int, **more: Any) -> dict[str, Any]:
    content = {"type": "message", "text": f"text {sequence}"}
    at = "2026-02-12T18:30:00Z"
    return {"author": "@a", "sequence": sequence, "timestamp": at, "content": content} | more


class ShowTests(SynchronousTestCase):
    def heads(self, *messages: dict[str, Any]) -> list[str]:
        answer = Answer(list(messages), {"total": len(messages)})
        with patch.object(reading, "ask", return_value=answer):
            result = CliRunner().invoke(cli, ["feed", "show"])
        self.assertEqual(result.exit_code, 0, result.output)
        return result.output.splitlines()[::2]

    def test_a_forked_message_is_not_called_one_behind_a_gap(self) -> None:
        forked, gap, good = self.heads(
            _message(3, chain_valid=False, forked=True),
            _message(2, chain_valid=False),
            _message(1, chain_valid=True),
        )
        self.assertIn("forked", forked)
        self.assertNotIn("missing", forked)
        self.assertIn("is missing", gap)
        self.assertTrue(good.endswith("#1"), good)
