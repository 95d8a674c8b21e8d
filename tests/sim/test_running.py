from __future__ import annotations

import gc
import os
from collections.abc import Coroutine
from typing import Any

from attrs import evolve
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.keys import PublicKey
from meshkit.rpc.links import Links
from meshkit.sim.actions import ACTIONS
from meshkit.sim.databases import SimFile
from meshkit.sim.invariants import Invariant
from meshkit.sim.running import MAX_VIOLATIONS, Run, play, run
from meshkit.sim.scenarios import SCENARIOS
from meshkit.sim.schedule import Action, Member, Plan, decode_plan, describe, encode_plan

QUIET = SCENARIOS["convergence"]
PAIR = Plan("", 3, 5.0, 60.0, members=(Member("ada"), Member("bob", ("ada",))))


def publish(seconds: float, name: str, text: str = "x") -> Action:
    body = {"content": text}
    return Action.after(seconds, "call", name, method="POST", target="/v1/publish", body=body)


class PlanTests(SynchronousTestCase):
    def test_a_plan_is_the_same_after_it_was_in_a_file(self) -> None:
        for scenario in SCENARIOS.values():
            plan = scenario.plan(7)
            self.assertEqual(decode_plan(encode_plan(plan)), plan)
            self.assertEqual(scenario.plan(7), plan)
            self.assertNotEqual(scenario.plan(8), plan)

    def test_a_plan_that_names_nobody_is_refused(self) -> None:
        for bad, reason in (
            (PAIR.with_actions([Action(0, "crash", "eve")]), "crash of eve, who is no member"),
            (evolve_members(PAIR, Member("eve", ("kim",))), "eve has a peer kim, who is no member"),
            (evolve_members(PAIR, Member("ada")), "two members of the plan have one name"),
        ):
            error = self.assertRaises(ValueError, decode_plan, encode_plan(bad))
            self.assertIn(reason, str(error))
        mistyped = encode_plan(PAIR).replace(b"members", b"memers")
        deep = b'{"scenario": ' + b"[" * 100_000
        for text in (b"", b"{}", b'{"scenario": "x"', b"\xff", b"[]", mistyped, deep):
            error = self.assertRaises(ValueError, decode_plan, text)
            self.assertIn("this is no plan: ", str(error))


class DescribedTests(SynchronousTestCase):
    def test_a_plan_is_told_in_words(self) -> None:
        members = (
            Member("ada", config="[gossip]\nmax_links = 3\n"),
            Member("bob", ("ada",), late=True, behind="box"),
            Member("eve", ("ada", "bob"), liar="forged"),
        )
        actions = (
            Action.after(2, "partition", groups=[["ada"], ["bob"]]),
            publish(1, "ada", "hello"),
            Action.after(3, "crash", "bob"),
        )
        self.assertEqual(
            describe(Plan("", 1, 1.0, 1.0, members=members, actions=actions)),
            [
                "ada: set to [gossip] max_links = 3",
                "bob: comes later; behind box; knows ada",
                "eve: lies: forged; knows ada, bob",
                '1.000 s: ada POST /v1/publish body={"content":"hello"}',
                '2.000 s: partition groups=[["ada"],["bob"]]',
                "3.000 s: crash bob",
            ],
        )


def evolve_members(plan: Plan, *more: Member) -> Plan:
    return Plan("", 0, 1.0, 1.0, members=plan.members + more)


class RunTests(SynchronousTestCase):
    def test_a_run_is_the_same_each_time(self) -> None:
        first, second = run(QUIET, 3), run(QUIET, 3)
        self.assertEqual(first, second)
        self.assertEqual(first.violations, ())
        self.assertEqual(first.figures["acknowledged"], 25)
        self.assertNotEqual(run(QUIET, 4).digest, first.digest)

    def test_what_is_wrong_is_found_wherever_it_is_looked_for(self) -> None:
        asked = []

        class Wrong(Invariant):
            name = "wrong"

            def __init__(self) -> None:
                self.seen = {"begun": 0, "sampled": 0, "healed": 0, "settled": 0, "stopped": 0}
                asked.append(self)

            def agrees(self, run: Run) -> bool:
                return run.seconds > 7

            def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
                if kind == "node.stop":
                    run.violated(self.name, host, "stops")

            def settled(self, run: Run) -> None:
                self.seen["settled"] += 1
                for node in run.nodes.values():
                    assert node.ready

            def sampled(self, run: Run) -> None:
                self.seen["sampled"] += 1

        outcome = play(PAIR, evolve(QUIET, invariants=[Wrong]))
        found = [(each.invariant, each.node, each.text) for each in outcome.violations]
        self.assertEqual(found, [("wrong", "ada", "stops"), ("wrong", "bob", "stops")])
        self.assertEqual((asked[0].seen["sampled"], asked[0].seen["settled"]), (8, 1))

    def test_a_run_that_goes_very_wrong_is_over_soon(self) -> None:
        class Wrong(Invariant):
            def sampled(self, run: Run) -> None:
                for _ in range(60):
                    run.violated("wrong", "", "again")

        outcome = play(PAIR, evolve(QUIET, invariants=[Wrong]))
        self.assertEqual(len(outcome.violations), 120)
        self.assertLess(outcome.figures["virtual_s"], 5)
        self.assertGreater(120, MAX_VIOLATIONS)

    def test_an_error_in_the_log_is_a_violation(self) -> None:
        class Wrong(Invariant):
            def begun(self, run: Run) -> None:
                run.world.clock.callLater(1, lambda: 1 / 0)

        (violation,) = play(PAIR, evolve(QUIET, invariants=[Wrong])).violations
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(violation.text, "logged: division by zero")

    def test_a_run_that_cannot_go_on_is_a_violation(self) -> None:
        class Wrong(Invariant):
            def settled(self, run: Run) -> None:
                run.world.until(lambda: False, "the end of all days", 1)

        outcome = play(PAIR, evolve(QUIET, invariants=[Wrong]))
        (violation,) = outcome.violations
        self.assertEqual(len(self.flushLoggedErrors(AssertionError)), 1)
        self.assertEqual(violation.text, "logged: still waiting for: the end of all days (seed 3)")
        self.assertEqual(outcome.figures["nodes"], 2)

    def test_a_failure_that_nobody_has_taken_is_a_violation(self) -> None:
        class Wrong(Invariant):
            def begun(self, run: Run) -> None:
                failed: Deferred[None] = fail(ZeroDivisionError("nobody"))
                # It is garbage, but not before that is collected.
                failed.circle = failed  # type: ignore[attr-defined]

        *_, violation = play(PAIR, evolve(QUIET, invariants=[Wrong])).violations
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(violation.text, "logged: nobody")

    def test_what_is_thrown_away_with_a_process_says_nothing(self) -> None:
        """
        C{relay}, seed 259566771138093: a member had crashed while one of its couriers dialled a
        relay and another one waited for its turn.  The garbage collector ended the call that
        waited, and then the one that dialled, which gave the turn away: to who was no more.
        """
        told: list[str] = []

        async def use(taking: Coroutine[Any, Any, object]) -> None:
            try:
                await taking
            except Exception:
                told.append("in vain")
                Logger().failure("a courier")

        class Wrong(Invariant):
            def begun(self, run: Run) -> None:
                def no_answer(_: str) -> Deferred[Any]:
                    return Deferred()

                links = Links(
                    Clock(), no_answer, lambda _: PublicKey(bytes(32)), most=2, idle_seconds=1
                )
                # The collector ends what was made first before the rest.
                waits = links.take("relay")
                Deferred.fromCoroutine(use(links.take("relay")))
                Deferred.fromCoroutine(use(waits))
                links.circle = links  # type: ignore[attr-defined]

        outcome = play(PAIR, evolve(QUIET, invariants=[Wrong]))
        # It is in the log all the same, for who looks there.
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(told, ["in vain"])
        self.assertEqual(outcome.violations, ())

    def test_a_failure_that_a_finaliser_makes_is_nobodys(self) -> None:
        class Leaving:
            def __init__(self) -> None:
                self.circle = self

            def __del__(self) -> None:
                fail(ZeroDivisionError("at the end"))

        class Wrong(Invariant):
            def begun(self, run: Run) -> None:
                Leaving()

        outcome = play(PAIR, evolve(QUIET, invariants=[Wrong]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(outcome.violations, ())

    def test_garbage_is_not_collected_when_python_thinks_it_is_time(self) -> None:
        enabled: list[bool] = []

        class Watching(Invariant):
            def sampled(self, run: Run) -> None:
                enabled.append(gc.isenabled())

        self.assertEqual(play(PAIR, evolve(QUIET, invariants=[Watching])).violations, ())
        self.assertEqual(set(enabled), {False})
        self.assertTrue(gc.isenabled())

    def test_every_action_can_be_left_out_or_come_when_it_makes_no_sense(self) -> None:
        args: dict[str, dict[str, Any]] = {
            "call": {"method": "POST", "target": "/v1/publish", "body": {"content": "x"}},
            "swap": {"salt": "salt", "text": "x"},
            "put": {"file": "one", "size": 5, "scheme": "2+2"},
            "fetch": {"file": "one"},
            "drop": {"file": "one"},
            "watch": {"file": "one"},
            "rot": {"at": 0.5},
            "power": {"of": "files", "after": 3},
            "skew": {"seconds": 5},
            "link": {"to": "ada", "latency": 0.5},
            "usual": {"to": "ada"},
            "block": {"to": "ada"},
            "reset": {"to": "ada"},
            "partition": {"groups": [["ada"], ["bob"]]},
        }
        kinds = sorted(ACTIONS)
        actions = [
            Action.after(0.1 + number / 10, kind, "bob", **args.get(kind, {}))
            for number, kind in enumerate([*kinds, *reversed(kinds)])
        ]
        # The last of them cuts a link for good, and whoever is cut off hears of nothing.
        actions.append(Action.after(PAIR.seconds + 1, "heal"))
        whole = play(PAIR.with_actions(actions), QUIET)
        self.assertEqual(whole.violations, ())
        for number in range(len(kinds)):
            some = actions[:number] + actions[number + 1 :]
            self.assertEqual(play(PAIR.with_actions(some[number:]), QUIET).violations, ())

    def test_what_is_wrong_with_a_plan_is_no_violation(self) -> None:
        call = {"method": "GET", "target": "/"}
        lying = replace(PAIR, members=(*PAIR.members, Member("eve", ("ada",), liar="silent")))
        for action, said in (
            (Action(0, "levitate", "bob"), "there is no action 'levitate': it is one of block, c"),
            (Action(0, "call", "bob"), "'call' at 0 s: Object missing required field `method`"),
            (Action(5, "skew", "bob"), "'skew' at 5e-09 s: Object missing"),
            (Action.after(1, "crash"), "'crash' at 1 s: it is done to a member of the plan"),
            (Action(0, "crash", "eve"), "it is done to honest nodes, and eve lies"),
            (Action(0, "crash", "bob", {"hard": True}), "unknown field `hard`"),
            (Action(0, "link", "bob", {"to": "ada", "latency": "x"}), "got `str` - at `$.latency`"),
            (Action(0, "link", "bob", {"to": "ada", "loss": 7}), "<= 1.0 - at `$.loss`"),
            (Action(0, "reset", "bob", {"to": "zoe"}), "'zoe' is no member of the plan"),
            (Action(0, "call", "bob", {**call, "about": "zoe"}), "'zoe' is no member"),
            (Action(0, "call", "bob", {**call, "then": "sing"}), "there is no action 'sing'"),
            (Action(0, "call", "bob", {**call, "then": "skew"}), "missing required field"),
            (Action(0, "call", "bob", {**call, "body": 5}), "`object | null`, got `int`"),
            (Action(0, "partition", args={"groups": [["bob"], ["zoe"]]}), "'zoe' is no member"),
            (Action(-1, "crash", "bob"), "the plan goes from 0 to"),
            (
                Action.after(PAIR.seconds + PAIR.settle + 1, "crash", "bob"),
                "the plan goes from 0 to",
            ),
        ):
            with self.subTest(action=action):
                error = self.assertRaises(ValueError, Run, lying.with_actions([action]), [])
                self.assertIn(said, str(error))
        ada = PAIR.members[0]
        for plan, said in (
            (replace(PAIR, members=(Member(""),)), "'' is no name for a member"),
            (replace(PAIR, members=(Member("a/../b"),)), "'a/../b' is no name for a member"),
            (replace(PAIR, seconds=1e300), "from 0 to 100,000,000"),
            (replace(PAIR, settle=-1.0), "from 0 to 100,000,000"),
            (replace(PAIR, members=(replace(ada, behind="box"),)), "ada is behind 'box', which"),
            (replace(PAIR, members=(replace(ada, config="{key:zoe}"),)), "the key of 'zoe', who"),
        ):
            with self.subTest(plan=plan):
                self.assertIn(said, str(self.assertRaises(ValueError, Run, plan, [])))

    def test_who_is_late_comes_with_its_start(self) -> None:
        late = Plan(
            "", 1, 5.0, 60.0, members=(Member("ada"), Member("bob", ("ada",), late=True))
        ).with_actions([publish(1, "bob"), Action.after(2, "start", "bob"), publish(3, "bob")])
        self.assertEqual(play(late, QUIET).figures["acknowledged"], 1)

    def test_who_is_not_answered_asks_again(self) -> None:
        asked = []

        class Listening(Invariant):
            def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
                if kind in ("door.call", "door.silence"):
                    asked.append((kind, run.seconds))

        body = {"content": "x", "idempotency_key": "k"}
        request = Action.after(
            1, "call", "ada", method="POST", target="/v1/publish", body=body, again=0.5
        )
        actions = [
            request,
            Action.after(1.000001, "kill", "ada"),
            Action.after(2, "start", "ada"),
        ]
        scenario = evolve(QUIET, invariants=[Listening])
        outcome = play(PAIR.with_actions(actions), scenario)
        self.assertEqual(outcome.figures["acknowledged"], 1)
        kinds = [kind for kind, _ in asked]
        self.assertEqual(kinds, ["door.call", "door.silence", "door.call"])
        self.assertEqual([round(at, 3) for _, at in asked], [1.0, 1.0, 2.5])

    def test_the_power_fails_at_the_moment_when_an_answer_is_heard(self) -> None:
        seen: list[tuple[str, int]] = []

        class Watching(Invariant):
            def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
                if kind in ("door.answer", "host.crash"):
                    seen.append((kind, run.world.clock.ns))

        body = {"content": "x"}
        request = Action.after(
            1, "call", "ada", method="POST", target="/v1/publish", body=body, then="crash"
        )
        outcome = play(PAIR.with_actions([request]), evolve(QUIET, invariants=[Watching]))
        (answer, answered_ns), (crash, crashed_ns) = seen
        self.assertEqual((answer, crash), ("door.answer", "host.crash"))
        self.assertEqual(answered_ns, crashed_ns)
        self.assertEqual(outcome.figures["acknowledged"], 1)

    def test_a_key_in_the_configuration_is_that_of_a_member(self) -> None:
        plan = Plan(
            "",
            1,
            2.0,
            2.0,
            members=(Member("ada"), Member("bob", config='[gossip]\nfollow = ["{key:ada}"]')),
        )
        whole = Run(plan, [])
        whole.play()
        section = whole.nodes["bob"].given["settings"].section("gossip")
        self.assertEqual(section.followed(), (whole.nodes["ada"].identity.public.raw,))

    def test_a_plan_that_says_files_has_its_databases_in_files(self) -> None:
        plan = replace(PAIR, disk="files").with_actions(
            [publish(1, "ada"), Action.after(2, "crash", "ada"), Action.after(3, "start", "ada")]
        )
        whole = Run(plan)
        (database,) = [
            database
            for database in (whole.nodes["ada"].host.storage.database("/ada/node.db"),)
            if isinstance(database, SimFile)
        ]
        outcome = whole.play()
        self.assertEqual(outcome.violations, ())
        self.assertEqual(outcome.digest, Run(plan).play().digest)
        self.assertFalse(os.path.exists(database.name))

    def test_who_lies_is_there(self) -> None:
        plan = replace(PAIR, members=(*PAIR.members, Member("eve", ("ada",), liar="silent")))
        whole = Run(plan, SCENARIOS["byzantine"].invariants)
        outcome = whole.play()
        self.assertEqual(outcome.violations, ())
        self.assertEqual(whole.liars["eve"].dials, (whole.nodes["ada"].address,))
        self.assertGreater(len(whole.liars["eve"].told), 0)
