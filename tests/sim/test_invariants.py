"""
Each invariant is seen to find what it is for, in worlds that somebody tampers with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from attrs import evolve
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed.message import Message, sign_message
from meshkit.identity.keys import Identity
from meshkit.kademlia.protocol import Client
from meshkit.runtime.keyring import NETWORK_SECRET
from meshkit.services import node
from meshkit.services.node import NodeService
from meshkit.shs.listener import SecureListener
from meshkit.sim.invariants import (
    USUAL,
    Authentic,
    Blameless,
    Bounded,
    Converged,
    Durable,
    Fresh,
    Invariant,
    Quiet,
    Sound,
    Violation,
)
from meshkit.sim.invariants.bounded import sizes
from meshkit.sim.invariants.durable import brief
from meshkit.sim.liars import Lie
from meshkit.sim.node import Said, SimNode
from meshkit.sim.running import Outcome, Run, play
from meshkit.sim.scenarios import SCENARIOS
from meshkit.sim.schedule import Action, Member, Plan
from meshkit.testing.doors import Answer
from meshkit.testing.identities import DAY_NS

QUIET = SCENARIOS["convergence"]
PAIR = Plan("", 3, 6.0, 30.0, members=(Member("ada"), Member("bob", ("ada",))))


def call(seconds: float, name: str, method: str, target: str, **args: Any) -> Action:
    return Action.after(seconds, "call", name, method=method, target=target, **args)


def publish(seconds: float, name: str, text: str = "x") -> Action:
    return call(seconds, name, "POST", "/v1/publish", body={"content": text})


def evolve_action(action: Action, seconds: float) -> Action:
    return Action.after(seconds, action.kind, action.where, **action.args)


def restart(seconds: float, name: str) -> list[Action]:
    return [Action.after(seconds, "kill", name), Action.after(seconds + 0.3, "start", name)]


WRITING = [publish(0.5, "ada"), publish(1.0, "ada"), publish(1.5, "ada")]
LIFE = [*WRITING, *restart(4.5, "ada")]


def tampering(moment: str, tamper: Callable[[Run], object], after: float = 0) -> type[Invariant]:
    """Somebody who does something once, before invariants look."""

    class Tampering(Invariant):
        done = False

        def _do(self, run: Run) -> None:
            if not self.done and run.seconds >= after:
                self.done = True
                tamper(run)

    setattr(Tampering, moment, Tampering._do)
    return Tampering


def change(node: SimNode, sql: str, *args: Any) -> None:
    """Write into the database of a node behind its back."""
    node.look(sql, args)


def tables(name: str, *statements: str) -> Callable[[Run], None]:
    def tamper(run: Run) -> None:
        for statement in statements:
            change(run.nodes[name], statement)

    return tamper


class InvariantTests(SynchronousTestCase):
    def play(
        self,
        invariant: type[Invariant],
        tamper: type[Invariant],
        actions: Sequence[Action] = LIFE,
        plan: Plan = PAIR,
    ) -> Outcome:
        scenario = evolve(QUIET, invariants=[tamper, invariant])
        return play(plan.with_actions(actions), scenario)

    def found(self, *args: Any, **kw: Any) -> Violation:
        """The only violation there is."""
        violations = self.play(*args, **kw).violations
        self.assertEqual(len(violations), 1, [each.text for each in violations])
        return violations[0]

    def test_nothing_is_found_where_nothing_is_wrong(self) -> None:
        outcome = play(PAIR.with_actions(LIFE), evolve(QUIET, invariants=USUAL))
        self.assertEqual(outcome.violations, ())


class DurableTests(InvariantTests):
    def test_a_message_that_was_acknowledged_and_is_not_there_after_a_start(self) -> None:
        tamper = tampering(
            "sampled",
            tables(
                "ada",
                "DELETE FROM feed_messages WHERE sequence = 3",
                "UPDATE feed_authors SET contiguous = 2, latest = 2, head = "
                "(SELECT hash FROM feed_messages WHERE sequence = 2)",
            ),
            3,
        )
        alone = Plan("", 3, 6.0, 30.0, members=(Member("ada"),))
        violations = self.play(Durable, tamper, plan=alone).violations
        texts = [each.text for each in violations]
        self.assertEqual(texts[0], "message 3 was acknowledged and is not stored")
        self.assertEqual({each.node for each in violations}, {"ada"})
        # After the start, and at the end in the database and at the door.
        self.assertEqual(len(texts), 3)
        self.assertEqual(violations[0].at_ns // 10**9, 5)
        self.assertEqual(texts[2], "message 3 was acknowledged and is not shown")

    def test_a_feed_with_a_gap(self) -> None:
        tamper = tampering(
            "sampled", tables("ada", "DELETE FROM feed_messages WHERE sequence = 2"), 3
        )
        texts = [each.text for each in self.play(Durable, tamper).violations]
        self.assertIn("its own feed has gaps or numbers twice as it is stored: 1, 3", texts)
        self.assertIn("its own feed has gaps or numbers twice as it is shown: 1, 3", texts)

    def test_another_message_than_was_acknowledged(self) -> None:
        def tamper(run: Run) -> None:
            run.world.acknowledged.append(evolve(run.world.acknowledged[0], hash="ab" * 32))

        texts = [
            each.text for each in self.play(Durable, tampering("sampled", tamper, 3)).violations
        ]
        self.assertIn("two messages 1 were acknowledged", texts[0])
        self.assertIn("message 1 is stored as", texts[1])

    def test_each_change_that_a_door_has_taken_and_lost(self) -> None:
        tag = {"name": "north", "scopes": ["read"]}
        for table, target, method, body in (
            ("gossip_follows", "/v1/follows/{key}", "POST", None),
            ("feed_blocks", "/v1/blocks/{key}", "POST", None),
            ("gossip_topics", "/v1/topics/north", "POST", None),
            ("node_peers", "/v1/peers", "POST", {"address": "{address}"}),
            ("node_tokens", "/v1/tokens", "POST", tag),
            ("feed_schemas", "/v1/schema", "POST", {"name": "note/v1", "schema": {}}),
        ):
            args: dict[str, Any] = {"about": "bob"}
            if body is not None:
                args["body"] = body
            actions = [call(1, "ada", method, target, **args), *LIFE]
            tamper = tampering("sampled", tables("ada", f"DELETE FROM {table}"), 3)
            violation = self.found(Durable, tamper, actions)
            self.assertIn("is not there any more", violation.text)
            self.assertEqual(violation.at_ns // 10**9, 5)

    def test_what_was_taken_back_and_is_there_again(self) -> None:
        actions = [
            call(1, "ada", "POST", "/v1/topics/north"),
            call(2, "ada", "DELETE", "/v1/topics/north"),
            *LIFE,
        ]
        tamper = tampering(
            "sampled", tables("ada", "INSERT INTO gossip_topics VALUES ('north', 1)"), 3
        )
        violation = self.found(Durable, tamper, actions)
        self.assertEqual(violation.text, "north of /v1/topics is there again")

    def test_what_was_asked_for_with_a_key_is_there_twice(self) -> None:
        keyed = call(
            1,
            "ada",
            "POST",
            "/v1/publish",
            body={"content": {"a": [1, "x"]}, "idempotency_key": "once"},
        )
        repeated = evolve_action(keyed, 2)
        self.assertEqual(self.play(Durable, Invariant, [keyed, repeated, *LIFE]).violations, ())
        actions = [keyed, call(2, "ada", "POST", "/v1/publish", body={"content": {"a": [1, "x"]}})]
        violation = self.found(Durable, Invariant, actions)
        self.assertEqual(violation.text, "the request with the key once was published 2 times")

    def test_what_was_cut_off_may_be_there_or_not(self) -> None:
        done = []
        for after in (1e-6, 1e-4, 3e-4, 1e-3, 0.01):
            actions = [
                call(1, "ada", "POST", "/v1/topics/north"),
                *restart(1 + after, "ada"),
                *LIFE,
            ]

            def look(run: Run) -> None:
                done.append(len(run.nodes["ada"].look("SELECT * FROM gossip_topics")))

            outcome = self.play(Durable, tampering("healed", look), actions)
            self.assertEqual(outcome.violations, ())
        self.assertEqual({*done}, {0, 1})

    def test_numbers_are_shown_in_short(self) -> None:
        self.assertEqual(brief([1, 2, 3, 5, 5, 7]), "1-3, 5, 5, 7")
        self.assertEqual(brief([*range(1, 40, 2)]), "1, 3, 5, 7, 9, 11, 13, 15, …")


def sign(author: Identity, sequence: int, previous: str | None, text: str) -> Message:
    return sign_message(
        author, sequence=sequence, previous=previous, timestamp_ns=DAY_NS, content=text
    )


def store(
    node: SimNode, author: Identity, sequence: int, previous: str | None, text: str
) -> Message:
    """Put a message into a store that it never came to, as though it were valid."""
    message = sign(author, sequence, previous, text)
    change(
        node,
        "INSERT OR IGNORE INTO feed_authors (key, contiguous, latest) VALUES (?, 1, 1)",
        author.public.raw,
    )
    change(
        node,
        "INSERT OR REPLACE INTO feed_messages (author, sequence, hash, previous, shown_ns, "
        "received_ns, chain_valid, raw) SELECT id, ?, ?, ?, 1, 1, 1, ? FROM feed_authors "
        "WHERE key = ?",
        sequence,
        bytes.fromhex(message.hash),
        None if previous is None else bytes.fromhex(previous),
        message.raw,
        author.public.raw,
    )
    return message


class AuthenticTests(InvariantTests):
    """
    Nobody starts again here: nodes that compare what they have would find what was tampered
    with, and this is about who looks from outside.
    """

    def play(
        self,
        invariant: type[Invariant],
        tamper: type[Invariant],
        actions: Sequence[Action] = WRITING,
        plan: Plan = PAIR,
    ) -> Outcome:
        return super().play(invariant, tamper, actions, plan)

    def test_a_text_that_was_changed(self) -> None:
        def tamper(run: Run) -> None:
            message = store(run.nodes["bob"], Identity(bytes(32)), 1, None, "x")
            change(
                run.nodes["bob"],
                "UPDATE feed_messages SET raw = ? WHERE hash = ?",
                message.raw.replace(b'"x"', b'"y"'),
                bytes.fromhex(message.hash),
            )

        violations = self.play(Authentic, tampering("sampled", tamper, 3)).violations
        self.assertIn("but its hash is not that of its text", violations[0].text)

    def test_a_signature_of_somebody_else(self) -> None:
        eve = Identity(bytes(32))

        def tamper(run: Run) -> None:
            message = store(run.nodes["bob"], eve, 1, None, "x")
            other = sign(Identity(bytes([1] * 32)), 1, None, "x")
            change(
                run.nodes["bob"],
                "UPDATE feed_messages SET raw = ? WHERE hash = ?",
                message.raw.replace(message.raw[-90:-2], other.raw[-90:-2]),
                bytes.fromhex(message.hash),
            )

        violations = self.play(Authentic, tampering("sampled", tamper, 3)).violations
        self.assertIn("but its author has not signed it", violations[0].text)

    def test_an_honest_author_with_two_messages_of_one_number(self) -> None:
        def tamper(run: Run) -> None:
            store(run.nodes["bob"], run.nodes["ada"].identity, 2, "ab" * 32, "another")

        violations = self.play(Authentic, tampering("sampled", tamper, 3)).violations
        self.assertIn("it has signed two messages 2", violations[0].text)
        self.assertEqual(violations[0].node, "ada")
        # And nobody may take it, or what follows, for valid.
        texts = [each.text for each in violations]
        self.assertIn("ada has signed two messages 2, and here its feed is valid up to 3", texts[3])
        self.assertIn("message 2 of ada is shown as valid, forked at 2", texts)

    def test_a_lie_that_somebody_has_told(self) -> None:
        def tamper(run: Run) -> None:
            eve = Identity(bytes(32))
            message = store(run.nodes["bob"], eve, 1, None, "x")
            lie = Lie(0, "way", eve.public.raw, 1, message.hash, message.raw)
            run.liars["eve"].told.forge(lie)

        plan = replace(PAIR, members=(*PAIR.members, Member("eve", liar="silent")))
        found = self.play(Authentic, tampering("sampled", tamper, 3), WRITING, plan).violations
        self.assertTrue(found[0].text.startswith("a lie of eve is stored: "), found[0].text)
        self.assertTrue(found[1].text.startswith("a lie of eve is shown: "), found[1].text)

    def test_a_message_that_is_taken_for_valid_and_does_not_follow(self) -> None:
        def tamper(run: Run) -> None:
            eve = Identity(bytes(32))
            store(run.nodes["bob"], eve, 1, None, "x")
            store(run.nodes["bob"], eve, 2, "ab" * 32, "y")

        violation = self.found(Authentic, tampering("sampled", tamper, 3))
        self.assertIn("is taken for valid, and does not follow the one before", violation.text)

    def test_a_message_in_another_place_than_it_names(self) -> None:
        def tamper(run: Run) -> None:
            message = store(run.nodes["bob"], Identity(bytes(32)), 1, None, "x")
            change(
                run.nodes["bob"],
                "UPDATE feed_messages SET sequence = 7 WHERE hash = ?",
                bytes.fromhex(message.hash),
            )

        violation = self.found(Authentic, tampering("sampled", tamper, 3))
        self.assertIn("is stored in another place than it names", violation.text)

    def test_what_a_door_shows_is_looked_at_as_well(self) -> None:
        tamper = tampering(
            "settled",
            tables(
                "bob", "UPDATE feed_messages SET raw = CAST(replace(raw, '\"x\"', '7') AS BLOB)"
            ),
        )
        texts = [each.text for each in self.play(Authentic, tamper).violations]
        self.assertEqual(len(texts), 3)
        for text in texts:
            self.assertIn("is shown with another text than elsewhere", text)


class ConvergedTests(InvariantTests):
    def test_a_node_that_lacks_what_was_acknowledged(self) -> None:
        def cut(run: Run) -> None:
            run.world.network.block("ada", "bob")

        actions = [*LIFE, Action.after(0.1, "block", "ada", to="bob")]
        violation = self.found(Converged, tampering("healed", cut), actions)
        self.assertEqual(violation.node, "bob")
        self.assertEqual(violation.text, "it has 0 of ada, and 3 messages of it were acknowledged")

    def test_time_is_given_until_all_agree_and_no_more(self) -> None:
        def cut(run: Run) -> None:
            run.world.network.block("ada", "bob")
            run.world.clock.callLater(10, run.world.network.heal)

        actions = [*LIFE, Action.after(0.1, "block", "ada", to="bob")]
        outcome = self.play(Converged, tampering("healed", cut), actions)
        self.assertEqual(outcome.violations, ())
        self.assertGreater(outcome.figures["virtual_s"], 16)
        self.assertLess(outcome.figures["virtual_s"], 36)

    def test_a_node_that_does_not_start_any_more(self) -> None:
        def break_it(run: Run) -> None:
            run.nodes["bob"].kill()

        violation = self.found(Converged, tampering("settled", break_it))
        self.assertEqual(violation.text, "it is not ready, though nothing is wrong any more")

    def test_those_whom_no_honest_way_connects_need_not_agree(self) -> None:
        apart = Plan("", 3, 4.0, 5.0, members=(Member("ada"), Member("bob")))
        self.assertEqual(play(apart.with_actions(LIFE), QUIET).violations, ())
        follow = [call(0.1, "bob", "POST", "/v1/follows/{key}", about="cat"), *LIFE]
        three = Plan(
            "",
            3,
            4.0,
            5.0,
            members=(Member("ada"), Member("bob", ("ada",)), Member("cat", ("bob",))),
        )
        outcome = play(three.with_actions(follow), QUIET)
        # Who replicates neither of them hands nothing of one to the other.
        self.assertEqual(outcome.violations, ())

    def test_two_who_differ_in_the_feed_of_a_third(self) -> None:
        def tamper(run: Run) -> None:
            store(run.nodes["bob"], Identity(bytes(32)), 1, None, "x")
            run.world.network.block("ada", "bob")

        actions = [publish(1, "ada")]
        violation = self.found(Converged, tampering("healed", tamper), actions)
        self.assertEqual(violation.node, "ada")
        self.assertIn("it has 0 of @", violation.text)
        self.assertIn("and bob has 1", violation.text)

    def test_one_feed_of_many_in_which_they_differ(self) -> None:
        def tamper(run: Run) -> None:
            for number in range(20):
                author = Identity(bytes([number + 1] * 32))
                for name in ("ada", "bob"):
                    store(run.nodes[name], author, 1, None, "x")
            store(run.nodes["ada"], Identity(bytes([5] * 32)), 2, "ab" * 32, "y")
            change(
                run.nodes["ada"],
                "UPDATE feed_authors SET contiguous = 2 WHERE key = ?",
                Identity(bytes([5] * 32)).public.raw,
            )
            run.world.network.block("ada", "bob")

        violation = self.found(Converged, tampering("healed", tamper), [])
        self.assertEqual(violation.node, "bob")
        self.assertIn("it has 1 of @", violation.text)
        self.assertIn("and ada has 2", violation.text)


class BlamelessTests(InvariantTests):
    def note(self, code: str) -> Callable[[Run], None]:
        def tamper(run: Run) -> None:
            bob = run.nodes["bob"].identity.public
            run.nodes["ada"].service.peers.ledger.offend(bob, code, "it did", 1.0)

        return tamper

    def test_what_one_honest_node_has_noted_of_another(self) -> None:
        for moment in ("begun", "settled"):
            # Of a process that ends before the end of the run, or goes on.
            tamper = tampering(moment, self.note("FRAME_MALFORMED"))
            violation = self.found(Blameless, tamper)
            self.assertEqual(violation.node, "ada")
            text = "it has noted of bob, who is honest: FRAME_MALFORMED: it did"
            self.assertEqual(violation.text, text)

    def test_what_a_bad_network_can_make_of_an_honest_node(self) -> None:
        tamper = tampering("settled", self.note("PROMISE_BROKEN"))
        self.assertEqual(self.play(Blameless, tamper).violations, ())


class BoundedTests(InvariantTests):
    def test_a_table_that_grows_beyond_its_limit(self) -> None:
        def grow(run: Run) -> None:
            for number in range(100):
                run.nodes["ada"].process.callLater(10**6 + number, int)

        violation = self.found(Bounded, tampering("sampled", grow, 2), [publish(1, "ada")])
        self.assertEqual(violation.node, "ada")
        self.assertRegex(violation.text, r"^timers: 1[0-9]{2}, and the limit is [0-9]{2}$")

    def test_what_is_looked_at(self) -> None:
        found: dict[str, tuple[int, int]] = {}

        def look(run: Run) -> None:
            key = run.nodes["bob"].identity.public.text
            for what, size, limit in sizes(run.nodes["ada"]):
                found[what.replace(key, "bob")] = size, limit

        self.play(Bounded, tampering("settled", look), [publish(1, "ada")])
        for size, limit in found.values():
            self.assertLessEqual(size, limit)
        self.assertEqual(
            {what: limit for what, (_, limit) in found.items() if what != "timers"},
            {
                "connections with bob": 30,
                "jobs for the database": 10_000,
                "readers of the database": 10_000,
                "calls of workers": 1_002,
                "peers in the ledger": 4_096,
                "peers that were added": 1_000,
                "handshakes": 512,
                "hellos": 8_192,
                "links": 256,
                "links with bob": 4,
                "bytes in hand": 16 * 2**20 + 2 * 288 * 1024,
                "authors of interests": 501_000,
                "claims in all": 200_000,
                "feeds on from bob": 4_096,
                "feeds wanted by bob": 4_096,
                "feeds fetched from bob": 256,
                "claims of bob": 20_000,
                "feeds told to bob": 4_096,
                "news for bob": 20_000,
                "feeds that bob lacks": 4_096,
                "nodes in a bucket": 20,
                "nodes that wait for a bucket": 20,
                "nodes that are gone": 64,
                "nodes that are pinged": 32,
                "lookups": 256,
                "records": 20_000,
                "bytes of records": 64 * 2**20,
                "records of one owner": 1_000,
                "places of old records": 20_000,
                "records of its own": 10_000,
                "newcomers": 64,
                "hash tables connected": 256,
                "hash tables dialled": 64,
                "hash tables to be dialled": 1_024,
                "hosts that do not answer": 10_000,
                "hash tables accepted": 1_024,
                "hash tables accepted of one peer": 2,
                "peers of whom calls are counted": 4_096,
                "address records": 4_096,
            },
        )
        # Each hash table has dialled the other one, and has what that one has published.
        there = {
            "connections with bob": 3,
            "links with bob": 1,
            "feeds on from bob": 1,
            "hellos": 2,
            "nodes in a bucket": 1,
            "records": 2,
            "hash tables connected": 1,
            "hash tables accepted": 1,
            "address records": 1,
        }
        self.assertEqual({what: found[what][0] for what in there}, there)

    def test_what_still_waits_when_there_is_nothing_to_do(self) -> None:
        def leave(run: Run) -> None:
            part: Any = run.nodes["ada"].service
            part._parts["gossip"].digestion.add(5)

        violation = self.found(Bounded, tampering("settled", leave))
        text = "it has nothing to do, and there is still bytes in hand: 5"
        self.assertEqual(violation.text, text)

    def test_a_lookup_that_does_not_end(self) -> None:
        def stick(run: Run) -> None:
            self.patch(Client, "find_node", lambda client, contact, target: Deferred())
            run.nodes["ada"].call("GET", f"/v1/dht/nodes/{'ab' * 32}")
            run.world.run(1)

        violation = self.found(Bounded, tampering("settled", stick), WRITING)
        text = "it has nothing to do, and there is still lookups that do not end: 1"
        self.assertEqual((violation.node, violation.text), ("ada", text))


class FreshTests(InvariantTests):
    def test_an_ephemeral_key_that_is_used_twice(self) -> None:
        class Listener(SecureListener):
            def __init__(self, reactor: Any, identity: Any, rng: Any, **more: Any) -> None:
                super().__init__(reactor, identity, Stuck(rng), **more)

        class Stuck(Random):
            """What a node draws its keys from, and draws the same each time."""

            def __init__(self, rng: Random) -> None:
                super().__init__(1)
                self._first = rng.randbytes(32)

            def randbytes(self, n: int) -> bytes:
                return self._first[:n]

        self.patch(node, "SecureListener", Listener)
        actions = [Action.after(1, "reset", "ada", to="bob")]
        violations = self.play(Fresh, Invariant, actions).violations
        # Their hash tables dial each other, so both answer more than once.
        self.assertEqual({each.node for each in violations}, {"ada", "bob"})
        for violation in violations:
            self.assertIn("an ephemeral key is used twice: ", violation.text)
            self.assertIn(f", first by {violation.node}", violation.text)

    def test_a_nonce_that_goes_back(self) -> None:
        def back(run: Run) -> None:
            part: Any = run.nodes["ada"].service
            (link,) = part._parts["gossip"]._links
            link._channel._boxer._counter -= 2

        violation = self.found(Fresh, tampering("sampled", back, 3), [publish(1, "ada")])
        self.assertEqual(violation.node, "ada")
        self.assertIn("a nonce was used again in the connection with @", violation.text)


class Forgetful(dict[Any, Any]):
    """Does not tell what is in it."""

    def __iter__(self) -> Any:
        return iter(())


class QuietTests(InvariantTests):
    def test_what_a_stopped_node_leaves_behind(self) -> None:
        def timer(run: Run) -> None:
            run.nodes["bob"].process.callLater(10**6, int)

        def port(run: Run) -> None:
            run.nodes["bob"].process.listenTCP(99, Factory())

        def lock(run: Run) -> None:
            node = run.nodes["bob"]
            node.given["files"].lock(f"{node.folder}/other", "me")

        def task(run: Run) -> None:
            service: Any = run.nodes["bob"].service
            table = service._parts["dht"].node
            # One that stop() does not know of, so that it is not ended.
            self.patch(table, "_tasks", Forgetful({Deferred(): None}))

        for leave, what in (
            (timer, "1 x timer"),
            (port, "1 x port"),
            (lock, "1 x open or locked file"),
            (task, "1 x task of the hash table"),
        ):
            violation = self.found(Quiet, tampering("healed", leave))
            self.assertEqual(violation.node, "bob")
            self.assertEqual(violation.text, f"it has stopped, and there is still {what}")

    def test_a_stop_amid_the_run_is_looked_at_as_well(self) -> None:
        def timer(run: Run) -> None:
            run.nodes["bob"].process.callLater(10**6, int)

        actions = [Action.after(3, "stop", "bob"), Action.after(4, "start", "bob")]
        violation = self.found(Quiet, tampering("begun", timer), actions)
        self.assertEqual(violation.at_ns // 10**9, 3)


class SoundTests(InvariantTests):
    def test_a_node_that_fails_to_start_for_no_reason(self) -> None:
        def lose_key(run: Run) -> None:
            node = run.nodes["ada"]
            node.host.storage.files.write_atomic(f"{node.folder}/{NETWORK_SECRET}", b"?")

        violation = self.play(Sound, tampering("sampled", lose_key, 2)).violations[0]
        self.assertIn("it has failed:", violation.text)
        self.assertEqual(violation.node, "ada")

    def test_an_error_of_the_node_itself(self) -> None:
        def fail(run: Run) -> None:
            run.nodes["ada"].host.storage.fail_commits(1)

        actions = [publish(2.5, "ada"), publish(3.5, "ada")]
        violation = self.found(Sound, tampering("sampled", fail, 2), actions)
        self.assertIn("POST /v1/publish: 507 STORAGE_FAILED", violation.text)

    def test_an_error_for_which_the_plan_gave_a_reason(self) -> None:
        actions = [
            Action.after(2, "fail-commits", "ada", times=1),
            publish(2.5, "ada"),
            publish(3.5, "ada"),
        ]
        outcome = self.play(Sound, Invariant, actions)
        self.assertEqual(outcome.violations, ())
        self.assertEqual(outcome.figures["acknowledged"], 1)

    def test_a_disk_that_has_room_again_may_still_fail(self) -> None:
        actions = [
            Action.after(1, "kill", "ada"),
            Action.after(2, "fail-commits", "ada", times=1),
            Action.after(2, "fill", "ada"),
            Action.after(3, "free", "ada"),
            Action.after(3, "start", "ada"),
        ]
        outcome = self.play(Sound, Invariant, actions)
        self.assertEqual(outcome.violations, ())

    def test_a_feed_that_waits_for_what_a_liar_has_said(self) -> None:
        answer = Answer(409, b'{"error": {"code": "FEED_READ_ONLY", "message": "wait"}}')
        said = Said(1, "ada", 1, "POST", "/v1/publish", {}, answer)
        for liar, count in (("", 1), ("silent", 0)):
            plan = Plan("", 1, 1.0, 1.0, members=(Member("ada"), Member("eve", liar=liar)))
            run = Run(plan, [Sound])
            run.nodes["ada"].start()
            Sound().said(run, said)
            self.assertEqual(len(run.violations), count)
            run.world.close()

    def test_a_call_that_is_never_answered(self) -> None:
        self.patch(NodeService, "_answer_identity", lambda service, request: Deferred())
        actions = [call(1, "ada", "GET", "/v1/identity"), publish(2, "ada")]
        violation = self.found(
            Sound,
            Invariant,
            actions,
            Plan("", 3, 70.0, 30.0, members=(Member("ada"), Member("bob", ("ada",)))),
        )
        self.assertEqual(violation.text, "no answer in 60 s: GET /v1/identity")
