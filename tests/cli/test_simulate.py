"""C{meshkit simulate}, in this process."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from signal import SIGINT, getsignal, raise_signal
from typing import Any
from unittest.mock import patch

import msgspec
from attrs import frozen
from click.testing import CliRunner
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli import simulate as verb
from meshkit.cli.main import cli
from meshkit.sim.invariants import Invariant
from meshkit.sim.nemesis import FAULTS
from meshkit.sim.running import Run, Scenario
from meshkit.sim.scenarios import SCENARIOS
from meshkit.sim.schedule import Action, Member, Plan, decode_plan, encode_plan
from tests.runtime.support import scratch

HERE = "tests.cli.test_simulate"


class Odd(Invariant):
    """Nobody may publish where the seed is even."""

    name = "odd"

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind == "door.call" and run.plan.seed % 2 == 0:
            for number in range(12):
                run.violated(self.name, host, f"published {number}\x1b[31m")


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = tuple(Member(f"n{number}") for number in range(nodes))
    said = {"method": "POST", "target": "/v1/publish", "body": {"content": rng.random()}}
    actions = (Action.after(0.2, "heal"), Action.after(0.5, "call", "n0", **said))
    return Plan("", 0, 1.0, 5.0, members=members, actions=actions)


class Broken(Invariant):
    """It has a fault of its own."""

    name = "broken"

    def sampled(self, run: Run) -> None:
        raise ZeroDivisionError("\x1b]0;x")


class Impatient(Invariant):
    """Somebody presses Ctrl-C in a run, at a moment when a Deferred catches what it raises."""

    name = "impatient"
    #: Runs before it.
    patience = 0
    settled_runs = 0

    def begun(self, run: Run) -> None:
        if self.patience:
            type(self).patience -= 1
        else:
            caught = succeed(SIGINT).addCallback(raise_signal)
            caught.addErrback(lambda failure: failure.trap(KeyboardInterrupt))

    def settled(self, run: Run) -> None:
        type(self).settled_runs += 1
        run.violated(self.name, "", "always")


IMPATIENT = Scenario("impatient", "Somebody cannot wait.", 1, _draw, invariants=[Impatient])
BROKEN = Scenario("broken", "Never works.", 2, _draw, invariants=[Broken])
#: Fails where the seed is even.
TOY = Scenario("toy", "One of two runs fails.", 1, _draw, invariants=[Odd])


@frozen
class Done:
    code: int
    out: str
    err: str


def simulate(*arguments: str) -> Done:
    result = CliRunner().invoke(cli, ["simulate", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


class OneRunTests(SynchronousTestCase):
    def test_a_good_run(self) -> None:
        done = simulate("convergence", "--nodes", "2", "--seed", "5")
        self.assertEqual((done.code, done.err), (0, ""))
        rows = dict(line.split(None, 1) for line in done.out.splitlines())
        self.assertEqual(rows["scenario"], "convergence, seed 5")
        self.assertEqual((rows["nodes"], rows["violations"]), ("2", "0"))
        self.assertEqual((rows["acknowledged"], rows["deliveries"]), ("10 messages", "10 of 10"))
        self.assertRegex(rows["latency"], r"\Ap50 [\d.]+ ms, p90 .* ms, max [\d.]+ ms\Z")
        again = simulate("convergence", "--nodes", "2", "--seed", "5", "--json")
        found = json.loads(again.out)
        self.assertEqual(found["digest"], rows["digest"])
        self.assertEqual((found["seed"], found["violations"]), (5, []))
        self.assertEqual(found["figures"]["per_node"]["stored"], [10, 10])
        self.assertEqual(found["replay"], "meshkit simulate convergence --nodes 2 --seed 5")

    def test_a_bad_run_can_be_replayed(self) -> None:
        done = simulate(f"{HERE}:TOY", "--seed", "8", "--no-minimise")
        self.assertEqual(done.code, 1)
        self.assertIn("s: odd at n0: published 0\\x1b[31m\n", done.out)
        self.assertIn("  ... and 2 more\n", done.out)
        *_, replay_line, empty, hint = done.out.splitlines()
        replay = replay_line.split()
        self.assertIn("--minimise", hint)
        self.assertEqual(replay[:2], ["meshkit", "simulate"])
        again = simulate(*replay[2:])
        self.assertEqual(
            [line for line in again.out.splitlines() if line.startswith("digest")],
            [line for line in done.out.splitlines() if line.startswith("digest")],
        )

    def test_without_a_seed_one_is_drawn_and_told(self) -> None:
        first, second = (json.loads(simulate(f"{HERE}:TOY", "--json").out) for _ in range(2))
        self.assertNotEqual(first["seed"], second["seed"])
        again = json.loads(simulate(*first["replay"].split()[2:], "--json").out)
        self.assertEqual(again["digest"], first["digest"])

    def test_a_plan_is_written_and_played(self) -> None:
        file = Path(scratch(self), "plan.json")
        done = simulate("convergence", "--nodes", "2", "--seed", "6", "--save-plan", str(file))
        plan = decode_plan(file.read_bytes())
        self.assertEqual(plan, SCENARIOS["convergence"].plan(6, nodes=2))
        again = simulate("--plan", str(file))
        self.assertEqual(again.out.splitlines()[-1], done.out.splitlines()[-1])
        file.write_bytes(encode_plan(plan.with_actions(plan.actions[:3])))
        some = json.loads(simulate("--plan", str(file), "--json").out)
        self.assertEqual(some["figures"]["acknowledged"], 3)
        self.assertEqual(some["replay"], f"meshkit simulate --plan {file}")
        # The invariants of another scenario.
        self.assertEqual(simulate(f"{HERE}:TOY", "--plan", str(file)).code, 1)

    def test_what_is_needed_to_fail_is_told_and_kept(self) -> None:
        file = Path(scratch(self), "plan.json")
        drawn = ("--seed", "8", "--nodes", "3", "--minimise", "--save-plan", str(file))
        told = simulate(f"{HERE}:TOY", *drawn).out.split("Replay it with:")[1].splitlines()
        self.assertRegex(told[3], r"\AThe smallest part of its plan that fails, after \d+ runs:\Z")
        self.assertEqual(told[4], "  n0")
        self.assertRegex(told[5], r"\A  0.500 s: n0 POST /v1/publish body=\{\"content\":0\.\d+\}\Z")
        plan = decode_plan(file.read_bytes())
        self.assertEqual(([each.name for each in plan.members], len(plan.actions)), (["n0"], 1))
        done = simulate(f"{HERE}:TOY", "--plan", str(file), "--json", "--minimise")
        found = json.loads(done.out)["minimised"]
        self.assertEqual((done.code, found["complete"]), (1, True))
        self.assertEqual(decode_plan(msgspec.json.encode(found["plan"])), plan)

    def test_the_traceback_of_the_run_is_shown_and_of_no_other(self) -> None:
        done = simulate(f"{HERE}:BROKEN", "--seed", "1", "--minimise")
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(done.code, 1)
        self.assertIn("errors: logged: \\x1b]0;x\n", done.out)
        self.assertEqual(done.err.count("builtins.ZeroDivisionError: \\x1b]0;x\n"), 1)

    def test_signatures_may_be_remembered(self) -> None:
        drawn = ("convergence", "--nodes", "3", "--seed", "5")
        done = simulate(*drawn, "--memo", "--json")
        found = json.loads(done.out)
        # The author has verified nothing, and one of both others what the other one knew.
        self.assertEqual(found["figures"]["memo"], {"verified": 15, "remembered": 15})
        self.assertTrue(found["replay"].endswith(" --seed 5 --memo"))
        without = json.loads(simulate(*drawn, "--json").out)
        self.assertEqual((without["figures"]["memo"], without["digest"]), (None, found["digest"]))
        self.assertIn(
            "15 verified, and 15 times one of them again\n", simulate(*drawn, "--memo").out
        )

    def test_a_page_is_written(self) -> None:
        file = Path(scratch(self), "report.html")
        done = simulate(f"{HERE}:TOY", "--seed", "3", "--report", str(file), "--json")
        (title,) = re.findall("<h1>(.*)</h1>", file.read_text("utf-8"))
        self.assertEqual((done.code, title), (0, "toy, seed 3"))
        # Of several runs it is of the first that failed.
        simulate(f"{HERE}:TOY", "--seeds", "5..8", "--minimise", "--report", str(file))
        text = file.read_text("utf-8")
        self.assertIn("<h1>toy, seed 6</h1>", text)
        self.assertIn(f"meshkit simulate {HERE}:TOY --nodes 1 --seed 6<", text)
        self.assertIn("It is the smallest part of the plan that fails, after ", text)

    def test_a_page_that_cannot_be_written_is_known_before_the_run(self) -> None:
        file = Path(scratch(self), "nowhere", "report.html")
        with patch.object(verb, "Run", None), self.assertRaises(FileNotFoundError):
            simulate(f"{HERE}:TOY", "--report", str(file))


class ManyRunsTests(SynchronousTestCase):
    def test_each_is_a_line_and_the_first_that_fails_is_told(self) -> None:
        done = simulate(f"{HERE}:TOY", "--seeds", "7..10", "--no-minimise")
        self.assertEqual(done.code, 1)
        lines = done.out.splitlines()
        self.assertRegex(lines[0], r"\Aseed 7  good    1 acknowledged, 0 deliveries, ")
        self.assertRegex(lines[1], r"\Aseed 8  FAILED  .* s: odd at n0: .* \(and 11 more\)\Z")
        self.assertTrue(lines[2].startswith("seed 9  good"))
        self.assertEqual(lines[4], "4 runs, 2 failed")
        self.assertEqual(lines[-3], f"  meshkit simulate {HERE}:TOY --nodes 1 --seed 8")
        done = simulate(f"{HERE}:TOY", "--seeds", "7..8", "--minimise", "--json")
        found = json.loads(done.out)
        self.assertEqual(([each["seed"] for each in found["runs"]], found["failed"]), ([7, 8], [8]))
        self.assertEqual(len(found["first"]["plan"]["actions"]), 1)

    def test_so_many_from_a_seed_on(self) -> None:
        done = simulate(f"{HERE}:TOY", "--seed", "11", "--seeds", "1", "--json")
        self.assertEqual(done.code, 0)
        found = json.loads(done.out)
        (run,) = found["runs"]
        self.assertEqual((run["seed"], found["failed"]), (11, []))
        self.assertNotIn("per_node", run["figures"])
        self.assertEqual(simulate(f"{HERE}:TOY", "--seeds", "2").code, 1)


class InterruptTests(SynchronousTestCase):
    def test_who_presses_ctrl_c_is_told_of_no_violation(self) -> None:
        before = getsignal(SIGINT)
        with patch.object(Impatient, "settled_runs", 0):
            done = simulate(f"{HERE}:IMPATIENT", "--seed", "1")
            self.assertEqual((done.code, done.out, Impatient.settled_runs), (1, "", 0))
        self.assertIn("Aborted!", done.err)
        self.assertNotIn("Traceback", done.err)
        self.assertIs(getsignal(SIGINT), before)

    def test_it_ends_the_search_for_what_is_needed_as_well(self) -> None:
        with patch.multiple(Impatient, settled_runs=0, patience=1):
            done = simulate(f"{HERE}:IMPATIENT", "--seed", "1", "--minimise")
            self.assertEqual((done.code, Impatient.settled_runs), (1, 1))
        self.assertIn("Replay it with:", done.out)
        self.assertNotIn("part of its plan", done.out)
        self.assertIn("Aborted!", done.err)


class FaultTests(SynchronousTestCase):
    def test_what_may_go_wrong_is_chosen(self) -> None:
        file = Path(scratch(self), "plan.json")
        saved = ("--seed", "3", "--save-plan", str(file), "--json")
        kinds = set()
        for faults in ("kill,reset", "none"):
            done = simulate("convergence", "--nodes", "2", "--faults", faults, *saved)
            self.assertEqual(
                json.loads(done.out)["replay"],
                f"meshkit simulate convergence --nodes 2 --seed 3 --faults {faults}",
            )
        with patch.object(verb, "_play", side_effect=KeyboardInterrupt):
            for faults in ("kill,reset", "none"):
                simulate("churn", "--nodes", "3", "--faults", faults, *saved)
                plan = decode_plan(file.read_bytes())
                kinds = {each.kind for each in plan.actions} - {"call", "start"}
                self.assertEqual(kinds, {"kill", "reset"} if faults != "none" else set())


class ListTests(SynchronousTestCase):
    def test_every_scenario_and_every_fault_is_a_line(self) -> None:
        for arguments in ((), ("--list",)):
            scenarios, faults = simulate(*arguments).out.split("\n\n")
            head, *lines = scenarios.splitlines()
            self.assertEqual(head.split()[:2], ["SCENARIO", "NODES"])
            self.assertEqual([line.split()[0] for line in lines], sorted(SCENARIOS))
            self.assertEqual([line.split()[0] for line in faults.splitlines()[1:]], [*FAULTS])
        listed = json.loads(simulate("--list", "--json").out)
        self.assertEqual([each["name"] for each in listed["scenarios"]], sorted(SCENARIOS))
        self.assertEqual([each["name"] for each in listed["faults"]], [*FAULTS])


class MisuseTests(SynchronousTestCase):
    def check(self, *arguments: str, told: str) -> None:
        done = simulate(*arguments)
        self.assertEqual((done.code, done.out), (2, ""), done)
        self.assertIn(told, " ".join(done.err.split()))

    def test_what_cannot_be_done_is_said(self) -> None:
        known = ", ".join(sorted(SCENARIOS))
        for arguments, told in (
            (["nothing"], f"there is no scenario 'nothing': there are {known}, and MODULE:NAME"),
            (["no.such.module:X"], "no.such.module"),
            ([f"{HERE}:NOTHING"], "NOTHING"),
            ([f"{HERE}:HERE"], "is no scenario, but str"),
            ([":"], "there is no scenario ':'"),
            (["convergence", "--nodes", "0"], "--nodes"),
            (["convergence", "--nodes", str(verb.MAX_NODES + 1)], "--nodes"),
            (["convergence", "--seed", "-1"], "--seed"),
            (["convergence", "--seeds", "9..3"], "are 0 seeds"),
            (["convergence", "--seeds", "0"], "are 0 seeds"),
            (["convergence", "--seeds", f"0..{verb.MAX_SEEDS}"], "give 1 to 1,000,000"),
            (["convergence", "--seeds", "a few"], "neither a number of seeds nor a range"),
            (["convergence", "--seed", "1", "--seeds", "2..3"], "--seed is the first of"),
            (["convergence", "--faults", "kill,hail"], "there is no fault 'hail': it is one of"),
            (["churn", "--nodes", "1"], "takes two of them at least"),
            (["convergence", "--seeds", "2", "--save-plan", "x"], "--save-plan goes with one seed"),
        ):
            with self.subTest(arguments):
                self.check(*arguments, told=told)

    def test_a_plan_that_is_none(self) -> None:
        file = Path(scratch(self), "plan.json")
        self.check("--plan", str(file), told="does not exist")
        plan = SCENARIOS["convergence"].plan(1, nodes=2)
        for text, told in (
            (b"", "this is no plan"),
            (b"\xff", "this is no plan"),
            (b'{"scenario": 3}', "Expected `str`, got `int`"),
            (encode_plan(Plan("nothing", 1, 1.0, 1.0)), "there is no scenario 'nothing'"),
            (
                encode_plan(plan).replace(b'"latency"', b'"length"'),
                "the plan cannot be played: ",
            ),
            (encode_plan(plan).replace(b'"n1"', b'"n0"'), "two members of the plan have one name"),
        ):
            with self.subTest(text):
                file.write_bytes(text)
                self.check("--plan", str(file), told=told)
        file.write_bytes(encode_plan(plan))
        self.check("--plan", str(file), "--seed", "3", told="--plan says all of a run")
