"""C{meshkit simulate} as people type it: in processes of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.schedule import decode_plan
from tests.process.mesh import MESHKIT, run
from tests.runtime.support import scratch

#: A scenario that is none of ours, in a module of its own.
SCENARIO = """
from attrs import evolve
from meshkit.sim.invariants import Invariant
from meshkit.sim.scenarios import SCENARIOS

class NoResets(Invariant):
    name = "no resets"

    def event(self, run, kind, host, details):
        if kind == "action" and details["kind"] == "reset":
            run.violated(self.name, host, "reset")

class Wrong(Invariant):
    def sampled(self, run):
        raise ZeroDivisionError("oops")

WRONG = evolve(SCENARIOS["convergence"], name="mine", invariants=[Wrong])
REUNION = evolve(SCENARIOS["reunion"], name="mine", faults=("reset",), invariants=[NoResets])
"""

#: A run may take so many seconds where many others run as well.
PATIENCE = 300.0


class SimulateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(scratch(self))

    def test_what_it_prints_to_replay_a_run_does_so_in_any_process(self) -> None:
        first = run(
            *(*MESHKIT, "simulate", "churn", "--nodes", "2", "--seed", "4", "--json"),
            home=self.home,
            seconds=PATIENCE,
            PYTHONHASHSEED="1",
        )
        self.assertEqual((first.code, first.err), (0, ""))
        name, verb, *arguments = first.json["replay"].split()
        self.assertEqual((name, verb), ("meshkit", "simulate"))
        again = run(
            *(*MESHKIT, "simulate", *arguments, "--json"),
            home=self.home,
            seconds=PATIENCE,
            PYTHONHASHSEED="2",
        )
        told = {**first.json, "real_s": again.json["real_s"]}
        self.assertEqual(again.json, told)

    def test_a_scenario_of_ones_own_that_fails(self) -> None:
        (self.home / "mine.py").write_text(SCENARIO)
        options = ("--seed", "3", "--nodes", "2", "--minimise", "--save-plan", "bug.json")
        done = run(
            *(*MESHKIT, "simulate", "mine:REUNION", *options, "--report", "out.html"),
            home=self.home,
            seconds=PATIENCE,
            PYTHONPATH=str(self.home),
        )
        self.assertEqual((done.code, done.err), (1, ""), done)
        self.assertIn("  meshkit simulate mine:REUNION --nodes 2 --seed 3\n", done.out)
        plan = decode_plan((self.home / "bug.json").read_bytes())
        self.assertEqual([each.kind for each in plan.actions], ["reset"])
        page = (self.home / "out.html").read_text("utf-8")
        self.assertIn("not everything was as it must be", page)
        again = run(
            *(*MESHKIT, "simulate", "mine:REUNION", "--plan", "bug.json", "--no-minimise"),
            home=self.home,
            seconds=PATIENCE,
            PYTHONPATH=str(self.home),
        )
        self.assertEqual(again.code, 1)

    def test_a_traceback_is_that_of_the_run(self) -> None:
        (self.home / "mine.py").write_text(SCENARIO)
        done = run(
            *(*MESHKIT, "simulate", "mine:WRONG", "--nodes", "1", "--minimise"),
            home=self.home,
            seconds=PATIENCE,
            PYTHONPATH=str(self.home),
        )
        self.assertEqual(done.code, 1)
        self.assertIn("errors: logged: oops\n", done.out)
        self.assertRegex(
            done.out, r"The smallest part of its plan that fails, after \d+ runs:\n  n0\n"
        )
        self.assertEqual(done.err.count("builtins.ZeroDivisionError: oops\n"), 1)

    def test_nothing_else_pays_for_it(self) -> None:
        code = (
            "import sys; from meshkit.cli.main import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            "print([name for name in sys.modules if name.startswith('meshkit.sim')])"
        )
        done = run(sys.executable, "-c", code, home=self.home)
        self.assertIn("  simulate ", done.out)
        self.assertEqual(done.lines[-1], "[]")
