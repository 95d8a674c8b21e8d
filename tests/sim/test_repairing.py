"""
Files that are audited and repaired, those who lie to audits, and what watches all of it.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import replay
from meshkit.sim.invariants import USUAL, Invariant, Violation
from meshkit.sim.invariants.explained import Explained
from meshkit.sim.invariants.healthy import ROOM, Healthy
from meshkit.sim.invariants.kept import Kept
from meshkit.sim.invariants.placed import Placed
from meshkit.sim.invariants.readable import Readable
from meshkit.sim.invariants.remembered import Remembered
from meshkit.sim.liars import AUDITED
from meshkit.sim.objects import lent_files
from meshkit.sim.running import Run
from meshkit.sim.schedule import Action, Member, Plan
from meshkit.storage.share_files import SUFFIX

NAMES = ("ada", "bob", "cat", "dan", "eve", "fay")
SIZE = 40_000
ALL = (Kept, Readable, Placed, Explained, Remembered, Healthy)


def plan(*actions: Action, liars: tuple[str, ...] = (), audits: str = "") -> Plan:
    """Ada stores at the others, and at those who lie, and looks after what she has stored."""
    peers = ", ".join(f'"{{address:{each}}}"' for each in (*NAMES[1:], *liars))
    config = (
        f"[storage]\npeers = [{peers}]\nreserve_seconds = 5\nrequest_seconds = 5\n"
        "[audit]\ninterval = 4\nevery = 12\nrecheck = 4\ncooldown = 1\nbackoff = 3\n"
        f"max_backoff = 12\noffline_grace = 15\noutage_grace = 30\nrepair_below = 4\n{audits}"
    )
    keeper = f"[keeper]\nmax_storage = {ROOM}\n"
    return Plan(
        "",
        1,
        60.0,
        200.0,
        members=(
            Member("ada", (), config),
            *(Member(name, ("ada",), config + keeper) for name in NAMES[1:]),
            *(Member(kind, ("ada",), liar=kind) for kind in liars),
        ),
        actions=actions,
    )


def put(seconds: float, name: str = "file", size: int = SIZE, *, scheme: str = "2+2") -> Action:
    return Action.after(seconds, "put", "ada", file=name, size=size, scheme=scheme)


class Vandal(Invariant):
    """Does something to the world at a moment that no fault of a plan would do."""

    name = "vandal"
    at = 30.0
    done = False

    def sampled(self, run: Run) -> None:
        if not self.done and run.seconds > self.at:
            self.done = True
            self.strike(run)

    def strike(self, run: Run) -> None:
        raise NotImplementedError


def holder(run: Run) -> str:
    """@return: a node that has a share of the file."""
    placement = run.objects.placement(run.objects.files["file"])
    assert placement is not None
    return placement.peers[0]


class RepairingTestCase(SynchronousTestCase):
    def play(self, plan: Plan, *more: Any) -> tuple[Run, list[Violation]]:
        parts = ("keeper", "storage", "audit")
        run = Run(plan, (*USUAL, *(more or ALL)), parts=parts)
        outcome = run.play()
        return run, [*outcome.violations]


class RepairTests(RepairingTestCase):
    def test_shares_of_who_has_lost_everything_are_made_anew(self) -> None:
        actions = [Action.after(20 + 25 * at, "lose", name) for at, name in enumerate(NAMES[1:3])]
        starts = [Action.after(30 + 25 * at, "start", name) for at, name in enumerate(NAMES[1:3])]
        run, violations = self.play(plan(put(5), put(6, "other"), *actions, *starts))
        self.assertEqual(violations, [])
        self.assertGreater(run.objects.moved, 1)

    def test_what_somebody_else_looks_after_is_repaired_once(self) -> None:
        watched: list[Any] = []

        class Looks(Explained):
            def settled(self, run: Run) -> None:
                watched.extend(run.nodes["bob"].look("SELECT version FROM storage_watched"))
                super().settled(run)

        watch = Action.after(12, "watch", "bob", file="file")
        lose = Action.after(25, "lose", "cat"), Action.after(40, "start", "cat")
        _, violations = self.play(plan(put(5), watch, *lose), *ALL, Looks)
        self.assertEqual(violations, [])
        self.assertEqual(len(watched), 1)

    def test_who_keeps_a_share_of_what_he_looks_after_need_not_reach_himself(self) -> None:
        found: list[Any] = []

        class Looks(Explained):
            def settled(self, run: Run) -> None:
                cat = run.nodes["cat"]
                sql = "SELECT successes, failures, offlines FROM audit_peers WHERE peer = ?"
                found.extend(cat.look(sql, [cat.identity.public.raw]))
                super().settled(run)

        # Each of the five has one, cat too.
        run, violations = self.play(
            plan(put(5, scheme="2+3"), Action.after(30, "watch", "cat", file="file")), Looks
        )
        self.assertEqual((violations, run.objects.moved), ([], 0))
        ((successes, failures, offlines),) = found
        self.assertGreater(successes, 0)
        self.assertEqual((failures, offlines), (0, 0))

    def test_what_is_removed_is_held_against_nobody(self) -> None:
        watch = Action.after(12, "watch", "bob", file="file")
        drop = Action.after(30, "drop", "ada", file="file")
        run, violations = self.play(plan(put(5), watch, drop))
        self.assertEqual(violations, [])

    def test_who_lies_to_audits_is_done_without(self) -> None:
        where: set[str] = set()

        class Looks(Placed):
            def settled(self, run: Run) -> None:
                for file in run.objects.files.values():
                    placement = run.objects.placement(file)
                    where.update(() if placement is None else placement.peers.values())
                super().settled(run)

        for kind in sorted(AUDITED):
            where.clear()
            puts = [put(5 + number, f"file-{number}") for number in range(4)]
            run, violations = self.play(plan(*puts, liars=(kind,)), *ALL, Looks)
            self.assertEqual(violations, [], kind)
            self.assertGreater(len(run.liars[kind].told), 0, kind)
            # Who passes every audit is found by no audit.
            self.assertEqual(kind in where, kind == "denying", kind)


class InvariantTests(RepairingTestCase):
    """Each finds what it is there for."""

    def found(self, *more: type[Invariant], **options: Any) -> set[str]:
        _, violations = self.play(plan(put(5), **options), *more)
        return {each.invariant for each in violations}

    def test_a_share_that_is_not_where_it_is_said_to_be(self) -> None:
        class Thief(Vandal):
            def strike(self, run: Run) -> None:
                node = run.nodes[holder(run)]
                system = node.host.storage.files.system
                with system.aside():
                    for path, _ in lent_files(node):
                        if path.endswith(SUFFIX):
                            system.unlink(path)

        self.assertIn("placed", self.found(Placed, Thief))
        self.flushLoggedErrors()

    def test_a_share_that_is_another_one(self) -> None:
        class Forger(Vandal):
            def strike(self, run: Run) -> None:
                node = run.nodes[holder(run)]
                system = node.host.storage.files.system
                for path, _ in lent_files(node):
                    if path.endswith(SUFFIX):
                        system.rot(path, 100)

        self.assertIn("placed", self.found(Placed, Forger))
        self.flushLoggedErrors()

    def test_a_decision_that_does_not_follow(self) -> None:
        class Liar(Vandal):
            def strike(self, run: Run) -> None:
                honest = replay.replay

                def changed(lines: Any, limit: int = 100) -> Any:
                    return honest([each.replace(b'"healthy"', b'"spare"') for each in lines], limit)

                test.patch(replay, "replay", changed)

        test = self
        self.assertIn("explained", self.found(Explained, Liar))

    def test_a_share_that_was_moved_and_nobody_says_why(self) -> None:
        class Mover(Vandal):
            def strike(self, run: Run) -> None:
                original = run.objects.placement

                def moved(file: Any) -> Any:
                    found = original(file)
                    assert found is not None
                    return type(found)(9, {**found.peers, 0: "ada"}, found.manifest)

                test.patch(run.objects, "placement", moved)

        test = self
        self.assertIn("explained", self.found(Explained, Mover))

    def test_results_of_audits_that_are_forgotten(self) -> None:
        class Eraser(Vandal):
            def strike(self, run: Run) -> None:
                run.nodes["ada"].look("DELETE FROM audit_peers")

        self.assertIn("remembered", self.found(Remembered, Eraser))

    def test_an_object_that_is_not_made_whole(self) -> None:
        class Loses(Vandal):
            def strike(self, run: Run) -> None:
                run.objects.lose(holder(run))

        self.assertIn("healthy", self.found(Healthy, Loses, audits="repair = false\n"))
