"""Tests of how C{meshkit status} shows what a part tells of itself."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.node import _summary


class SummaryTests(SynchronousTestCase):
    def test_everything_is_told_in_one_line(self) -> None:
        told = {
            "id": "8da4",
            "reachable": True,
            "read_only": False,
            "addresses": ["a", "b"],
            "size": None,
            "record_bytes": 375,
            "asked": {"ping": 2, "find_node": 1},
            "served": {},
        }
        self.assertEqual(
            _summary(told),
            "id: 8da4, reachable, not read only, 2 addresses, 375 record bytes, "
            "asked: 1 find_node, 2 ping",
        )
