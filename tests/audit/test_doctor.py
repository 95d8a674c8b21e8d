"""Tests of L{meshkit.audit.doctor}: what audits have found, read from the database."""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import standings, state
from meshkit.audit.decisions import Decision, ObjectFacts, Policy, Settled, ShareFacts
from meshkit.audit.doctor import examine
from meshkit.audit.schema import MIGRATIONS
from meshkit.audit.standing import Results, StandingConfig
from meshkit.audit.state import ObjectState, Step
from meshkit.testing.identities import make_identity

NOW = 1_800_000_000
ADA, BOB = (make_identity(name).public for name in ("ada", "bob"))


class DoctorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.addCleanup(self.connection.close)
        for script in MIGRATIONS:
            self.connection.executescript(script)

    def look_at(self, *codes: str) -> None:
        """Have a pass decide something of as many objects."""
        lead = state.take_lead(self.connection, b"holder..", NOW * 10**9, 60)
        run = state.begin_run(self.connection, lead, NOW * 10**9, Policy(), False)
        objects = []
        for number, code in enumerate(codes):
            facts = ObjectFacts(bytes([number]).hex() * 32, 1, 1, 4096, (ShareFacts(0, ADA.text),))
            decision = Decision("wait", code, "so it is", 1, NOW, 5.0)  # type: ignore[arg-type]
            objects.append(ObjectState.of(run.id, facts, decision, Settled(0, 0, NOW)))
        state.write_step(self.connection, lead, run.id, Step(objects))

    def test_of_nothing_there_is_nothing_to_say(self) -> None:
        report = examine(self.connection, NOW, StandingConfig())
        self.assertEqual((report.objects, report.degraded, report.refused), ({}, [], {}))
        self.assertEqual(report.lost, 0)

    def test_objects_are_counted_and_those_that_are_not_whole_are_named(self) -> None:
        self.look_at("healthy", "spare", "lost", "unreachable", "healthy")
        report = examine(self.connection, NOW, StandingConfig())
        self.assertEqual(report.objects, {"healthy": 2, "lost": 1, "spare": 1, "unreachable": 1})
        self.assertEqual(
            sorted(each.code for each in report.degraded), ["lost", "spare", "unreachable"]
        )
        self.assertEqual(report.lost, 2)

    def test_peers_that_get_nothing_are_named_with_the_reason(self) -> None:
        config = StandingConfig()
        results = {ADA: Results(failures=20), BOB: Results(successes=20)}
        standings.record(self.connection, results, NOW, config, 10)
        (named,) = examine(self.connection, NOW, config).refused.items()
        self.assertEqual(named[0], ADA.text)
        self.assertIn("too many of its audits failed", named[1])
