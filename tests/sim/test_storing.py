"""
Files that programs of a run store, peers that lie about them, and what watches both.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.invariants import USUAL, Violation
from meshkit.sim.invariants.kept import Kept
from meshkit.sim.invariants.lent import Lent
from meshkit.sim.invariants.readable import Readable
from meshkit.sim.liars import KEEPING
from meshkit.sim.objects import lent_files, shares_of
from meshkit.sim.running import Run
from meshkit.sim.schedule import Action, Member, Plan

NAMES = ("ada", "bob", "cat", "dan", "eve")
SIZE = 40_000


def plan(*actions: Action, liars: tuple[str, ...] = (), lent: int = 10_000_000) -> Plan:
    """Ada stores at the others, and at those who lie."""
    peers = ", ".join(f'"{{address:{each}}}"' for each in (*NAMES[1:], *liars))
    storage = f"[storage]\npeers = [{peers}]\nreserve_seconds = 5\nrequest_seconds = 5\n"
    keeper = f"[keeper]\nmax_storage = {lent}\n"
    return Plan(
        "",
        1,
        60.0,
        60.0,
        members=(
            Member("ada", (), storage),
            *(Member(name, ("ada",), keeper) for name in NAMES[1:]),
            *(Member(kind, ("ada",), liar=kind) for kind in liars),
        ),
        actions=actions,
    )


def put(seconds: float, name: str = "file", size: int = SIZE) -> Action:
    return Action.after(seconds, "put", "ada", file=name, size=size, scheme="2+2")


class Forger(Kept):
    """Takes away what was promised, in the middle of the run."""

    def sampled(self, run: Run) -> None:
        if run.seconds > 30:
            for name, held in self._promised.items():
                system = run.nodes[name].host.storage.files.system
                with system.aside():
                    for path in held:
                        system.unlink(path)
                break
            self.sampled = super().sampled  # type: ignore[method-assign]
        super().sampled(run)


class StoringTestCase(SynchronousTestCase):
    def play(self, plan: Plan, *more: Any) -> tuple[Run, list[Violation]]:
        run = Run(plan, (*USUAL, Lent, *(more or (Kept, Readable))), parts=("keeper", "storage"))
        outcome = run.play()
        return run, [*outcome.violations]


class ObjectTests(StoringTestCase):
    def test_a_file_that_is_put_lies_on_disks_and_can_be_fetched(self) -> None:
        fetch = Action.after(10, "fetch", "ada", file="file")
        seen: dict[str, Any] = {}

        class Looks(Readable):
            def settled(self, run: Run) -> None:
                seen["shares"] = {name: shares_of(node) for name, node in run.nodes.items()}
                seen["bytes"] = sum(len(data) for _, data in lent_files(run.nodes["bob"]))
                super().settled(run)

        run, violations = self.play(plan(put(5), fetch), Kept, Looks)
        self.assertEqual(violations, [])
        file = run.objects.files["file"]
        self.assertEqual((file.state, file.shares), ("stored", (0, 1, 2, 3)))
        self.assertEqual([each.outcome for each in run.objects.fetches], ["done"] * 3)
        found = sorted(share.number for shares in seen["shares"].values() for share in shares)
        self.assertEqual(found, [0, 1, 2, 3])
        self.assertEqual(seen["shares"]["ada"], [])
        self.assertTrue(SIZE // 2 < seen["bytes"] < SIZE)

    def test_what_was_dropped_may_go(self) -> None:
        run, violations = self.play(plan(put(5), Action.after(20, "drop", "ada", file="file")))
        self.assertEqual(violations, [])
        self.assertEqual(run.objects.files["file"].state, "removing")

    def test_a_rotten_share_is_no_promise_that_was_broken(self) -> None:
        rot = Action.after(20, "rot", "bob", at=0.1)
        run, violations = self.play(
            plan(put(5), rot, Action.after(25, "fetch", "ada", file="file"))
        )
        self.assertEqual(violations, [])
        self.assertEqual({name for name, _ in run.objects.spoilt}, {"bob"})

    def test_each_kind_of_false_peer_lies_in_all_its_ways_and_all_is_read(self) -> None:
        for kind in KEEPING:
            files = [f"file-{number}" for number in range(6)]
            actions = [put(5 + 4 * number, name) for number, name in enumerate(files)]
            actions += [
                Action.after(35 + 2 * number, "fetch", "ada", file=name)
                for number, name in enumerate(files)
            ]
            run, violations = self.play(plan(*actions, liars=(kind,)))
            self.assertEqual(violations, [], kind)
            self.assertEqual({file.state for file in run.objects.files.values()}, {"stored"}, kind)
            liar = run.liars[kind]
            self.assertEqual({*liar.told.ways}, {*liar.ways}, kind)


class InvariantTests(StoringTestCase):
    def test_a_share_that_is_gone_is_missed(self) -> None:
        _, violations = self.play(plan(put(5)), Forger)
        self.assertIn("kept", {each.invariant for each in violations})
        self.assertIn("is gone", violations[0].text)

    def test_who_has_more_than_he_lends_is_found(self) -> None:
        class Generous(Lent):
            def begun(self, run: Run) -> None:
                node = run.nodes["bob"]
                files = node.host.storage.files
                with files.system.aside():
                    files.make_folder(f"{node.folder}/keeper/incoming")
                    files.create(f"{node.folder}/keeper/incoming/x.share", bytes(200))

        run = Run(plan(lent=150), (Generous,), parts=("keeper", "storage"))
        outcome = run.play()
        self.assertEqual(
            [(each.invariant, each.node) for each in outcome.violations], [("lent", "bob")]
        )

    def test_an_address_of_nobody_is_no_plan(self) -> None:
        wrong = Member("zoe", (), '[storage]\npeers = ["{address:nobody}"]\n')
        with self.assertRaisesRegex(ValueError, "the address of 'nobody', who is no member"):
            Run(Plan("", 1, 1.0, 1.0, members=(wrong,)))
