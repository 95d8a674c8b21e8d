"""
Relays that lie to members that are never there together, and what watches them.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.relay.mailbox import inbox, part
from meshkit.sim.invariants import USUAL, Violation
from meshkit.sim.invariants.delivered import Delivered
from meshkit.sim.invariants.noticed import Noticed, lacks
from meshkit.sim.liars import RELAYING
from meshkit.sim.running import Run
from meshkit.sim.schedule import Action, Member, Plan

#: Seconds for which each of the two is there, in turn; six times in all.
TURN = 20.0


def plan(
    kind: str = "",
    *more: Action,
    honest: bool = True,
    turns: int = 4,
    letters: int = 3,
    settle: float = 300.0,
) -> Plan:
    """
    Ada and Bob use a relay, and one that lies, and publish and write to each other.  There is no
    hash table: nobody else can be asked.
    """
    used = [*(["liar"] if kind else []), *(["relay"] if honest else [])]
    addresses = ", ".join(f'"{{address:{each}}}"' for each in used)
    bare = 'disable = ["dht"]\n'
    config = f"{bare}[gossip]\ninterval = 47\n[relays]\nuse = [{addresses}]\n"
    known = ("relay",) if honest else ()
    actions = [*more]
    for turn in range(turns):
        name, other = ("ada", "bob") if turn % 2 == 0 else ("bob", "ada")
        at = TURN * turn
        actions += [Action.after(at, "start", name), Action.after(at + TURN - 1, "stop", name)]
        actions += [
            _call(at + 4 + n, name, "/v1/publish", content=f"{name} {turn}.{n}")
            for n in range(letters)
        ]
        # At first nobody has a mailbox.
        if turn >= 2:
            actions += [
                _call(at + 4 + n, name, "/v1/mailbox/send", other, to="{key}", text=f"{turn}.{n}")
                for n in range(letters)
            ]
    return Plan(
        "",
        1,
        TURN * turns,
        settle,
        members=(
            Member("relay", (), bare, program="mesh-relay"),
            *((Member("liar", liar=kind),) if kind else ()),
            Member("ada", known, config, late=True),
            Member("bob", known, config, late=True),
        ),
        actions=tuple(actions),
    )


def _call(at: float, who: str, target: str, about: str | None = None, **body: Any) -> Action:
    args = {"method": "POST", "target": target, "body": body}
    return Action.after(at, "call", who, **args, **({"about": about} if about else {}))


def change(node: Any, statement: str) -> None:
    """Somebody else writes into the database of a node."""
    node.service._database.write(lambda db: db.execute(statement) and None)


class RelayingCase(SynchronousTestCase):
    def play(self, plan: Plan, *invariants: Any) -> tuple[Run, list[Violation]]:
        run = Run(plan, invariants or (*USUAL, Delivered, Noticed), parts=("mailbox",))
        self.digest = run.play().digest
        return run, run.violations


class LyingTests(RelayingCase):
    """Beside each kind there is an honest relay."""

    def try_kind(self, kind: str) -> Run:
        self.lacks: dict[str, int] = {}

        class Looks(Noticed):
            def settled(noticed, run: Run) -> None:
                super().settled(run)
                self.lacks = lacks(run, run.nodes["bob"])

        run, violations = self.play(plan(kind), *USUAL, Delivered, Looks)
        self.assertEqual(violations, [])
        liar = run.liars["liar"]
        self.assertEqual({*liar.told.ways}, {*liar.ways})
        return run

    def test_who_gives_nothing(self) -> None:
        liar: Any = self.try_kind("pocketing").liars["liar"]
        # It has signed for all letters, and had all feeds.
        self.assertEqual(len(liar.mailboxes.signed), 6)
        self.assertEqual(liar.mailboxes.given, {})
        # Half of them are for Bob, who has them, and sees that.
        self.assertEqual(self.lacks, {"liar": 3, "relay": 0})
        self.assertEqual([len(feed) for feed in liar.library.feeds.values()], [6, 6])

    def test_who_shows_each_something_else(self) -> None:
        self.try_kind("partial")

    def test_who_keeps_everything_back(self) -> None:
        self.try_kind("tardy")

    def test_who_repeats_and_changes(self) -> None:
        run = self.try_kind("repeating")
        liar: Any = run.liars["liar"]
        self.assertGreater(max(liar.mailboxes.given.values()), 1)

    def test_each_kind_is_tried_here(self) -> None:
        self.assertEqual([*RELAYING], ["pocketing", "partial", "tardy", "repeating"])

    def test_it_goes_the_same_way_each_time(self) -> None:
        digests = []
        for _ in range(2):
            self.play(plan("repeating", turns=3))
            digests.append(self.digest)
        self.assertEqual(digests[0], digests[1])


class AloneTests(RelayingCase):
    """There is no other relay than the one that lies."""

    def test_what_is_late_comes(self) -> None:
        _, violations = self.play(plan("tardy", honest=False))
        self.assertEqual(violations, [])

    def test_what_is_lost_is_with_its_receipt(self) -> None:
        run, violations = self.play(plan("pocketing", honest=False, settle=5.0))
        self.assertEqual(violations, [])
        liar: Any = run.liars["liar"]
        self.assertEqual(len(liar.mailboxes.signed), 6)


class InvariantTests(RelayingCase):
    def test_without_liars_nothing_is_found(self) -> None:
        run, violations = self.play(plan())
        self.assertEqual(violations, [])
        self.assertTrue(run.agreed)

    def found(self, statement: str) -> list[str]:
        """What is found if somebody changes Bob's letters in the middle of it."""

        class Forger(Delivered):
            def sampled(self, run: Run) -> None:
                super().sampled(run)
                if run.seconds > 3 * TURN + 12 and run.nodes["bob"].ready:
                    change(run.nodes["bob"], statement)
                    self.sampled = super().sampled  # type: ignore[method-assign]

        _, violations = self.play(plan(settle=5.0), Forger)
        return [f"{each.node}: {each.text}" for each in violations]

    def test_a_letter_that_nobody_wrote_is_found(self) -> None:
        found = self.found(
            "INSERT INTO mailbox_letters "
            "(sender, id, created, expires, taken, relay, forward_secret, size, body) "
            "SELECT sender, x'00', created, expires, taken, relay, 1, 2, x'3F21' "
            "FROM mailbox_letters LIMIT 1"
        )
        self.assertEqual(found, ["bob: a letter of ada that was never sent: '?!'"])

    def test_a_letter_that_came_twice_is_found(self) -> None:
        found = self.found(
            "INSERT INTO mailbox_letters "
            "(sender, id, created, expires, taken, relay, forward_secret, size, body) "
            "SELECT sender, id, created, expires, taken, relay, 1, size, body "
            "FROM mailbox_letters LIMIT 1"
        )
        self.assertEqual(found, ["bob: a letter of ada came twice: '2.0'"])

    def test_one_that_did_not_come_is_missed_if_an_honest_relay_was_there(self) -> None:
        class Deaf(Delivered):
            def _look(self, run: Run, node: Any) -> None:
                """Nothing came, as far as this one knows."""

        _, violations = self.play(plan(settle=5.0), Deaf)
        self.assertEqual(len(violations), 12)
        self.assertIn("'2.0' has not come, though an honest relay was there", violations[0].text)
        self.assertIn("is lost, and no relay that lies has signed", violations[-1].text)

    def test_one_that_is_lost_has_a_receipt_of_one_that_lies(self) -> None:
        class Careless(Delivered):
            def settled(self, run: Run) -> None:
                for name in ("ada", "bob"):
                    change(run.nodes[name], "UPDATE mailbox_outbox SET receipt = NULL")
                run.world.run(1)
                super().settled(run)

        _, violations = self.play(plan("pocketing", honest=False, settle=5.0), Careless)
        self.assertEqual(len(violations), 6)
        self.assertIn("no relay that lies has signed for it", violations[0].text)

    def test_a_recipient_who_does_not_see_what_is_withheld_is_found(self) -> None:
        self.patch(inbox, "AT_OTHERS", 86_400)
        _, violations = self.play(plan("pocketing", settle=5.0), Noticed)
        self.assertEqual({each.node for each in violations}, {"ada", "bob"})
        self.assertIn("it has not noticed that liar withholds 3 letters: 0", violations[0].text)

    def test_one_who_blames_an_honest_relay_is_found(self) -> None:
        self.patch(part, "lacking", lambda db, looked: dict.fromkeys(looked, 1))
        _, violations = self.play(plan("tardy", settle=5.0), Noticed)
        said = "as it says, relay lacks 1 letters, and all were left there"
        self.assertIn(said, [each.text for each in violations])

    def test_a_program_that_there_is_not_is_no_plan(self) -> None:
        wrong = Member("zoe", program="mesh-oven")
        with self.assertRaisesRegex(ValueError, "zoe runs 'mesh-oven', and there is no such"):
            Run(Plan("", 1, 1.0, 1.0, members=(wrong,)))
