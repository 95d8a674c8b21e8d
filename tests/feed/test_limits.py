"""Tests of L{meshkit.feed.limits}, and of what a store does at each limit."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import DuplicateMessage, FeedError, ForkRefused, LimitReached
from meshkit.feed import store
from meshkit.feed.chain import Verdict
from meshkit.feed.limits import NO_LIMITS, ROW_BYTES, Amount, Limits
from meshkit.feed.part import check_texts
from meshkit.testing.identities import Author
from tests.feed.test_retention import NOW_NS, fresh
from tests.feed.test_store import branch

ME, ADA, BOB = Author("me"), Author("ada"), Author("bob")
for _author in (ME, ADA, BOB):
    _author.write_many(10)


class Pure(SynchronousTestCase):
    def check(self, limits: Limits, *amounts: Amount, is_own: bool = False) -> None:
        of_author, of_all, own, more = amounts
        limits.check(ADA.identity.public, of_author, of_all, own, more, is_own=is_own)

    def test_without_limits_there_is_room_for_everything(self) -> None:
        much = Amount(10**12, 10**12, 10**15)
        self.check(NO_LIMITS, much, much, much, much)

    def test_each_limit_is_kept_to_the_last_byte(self) -> None:
        none, more = Amount(), Amount(1, 1, 50)
        for name, value in (
            ("max_author_messages", 4),
            ("max_author_bytes", 4 * (50 + ROW_BYTES)),
        ):
            with self.subTest(name):
                limits = Limits(**{name: value})
                self.check(limits, Amount(3, 3, 150), none, none, more)
                error = self.assertRaises(
                    LimitReached, self.check, limits, Amount(4, 4, 150), none, none, more
                )
                self.assertIn(f"feed.{name}", str(error))
                self.assertIn(ADA.identity.public.text, str(error))
                # What an author may have does not apply to this node's own feed.
                self.check(limits, Amount(9, 9, 900), none, none, more, is_own=True)

    def test_it_is_worth_asking_again_when_an_eighth_of_each_limit_is_free(self) -> None:
        none = Amount()

        def amount(count: int) -> Amount:
            return Amount(count, count, count * 50)

        self.assertTrue(NO_LIMITS.has_room(amount(10**12), amount(10**12), none))
        for name, unit in (("messages", 1), ("bytes", 50 + ROW_BYTES)):
            with self.subTest(name):
                of_author = Limits(**{f"max_author_{name}": 80 * unit})
                of_all = Limits(**{f"max_{name}": 80 * unit})
                for count, expected in ((70, True), (71, False)):
                    room = of_author.has_room(amount(count), amount(count), none)
                    self.assertEqual(room, expected)
                # Of these, an eighth is not for others, or less if the own feed has some.
                for count, own, expected in ((60, 0, True), (61, 0, False), (64, 4, True)):
                    room = of_all.has_room(none, amount(count), amount(own))
                    self.assertEqual(room, expected)

    def test_an_eighth_of_a_limit_on_everything_is_for_the_own_feed(self) -> None:
        more = Amount(1, 1, 50)
        one = 50 + ROW_BYTES
        for name, unit in (("max_messages", 1), ("max_bytes", one)):
            limits = Limits(**{name: 80 * unit})

            def room(
                others: int, own: int, is_own: bool, limits: Limits = limits, name: str = name
            ) -> bool:
                total, ours = others + own, Amount(own, own, own * 50)
                try:
                    self.check(
                        limits,
                        Amount(),
                        Amount(total, total, total * 50),
                        ours,
                        more,
                        is_own=is_own,
                    )
                except LimitReached as e:
                    self.assertIn(f"feed.{name}", str(e))
                    return False
                return True

            with self.subTest(name):
                self.assertEqual([room(n, 0, False) for n in (69, 70)], [True, False])
                self.assertEqual([room(n, 4, False) for n in (69, 70)], [True, False])
                # Its owner has used more than the eighth: others have the rest.
                self.assertEqual([room(n, 30, False) for n in (49, 50)], [True, False])
                self.assertEqual([room(70, n, True) for n in (9, 10)], [True, False])

    def test_what_is_left_of_emptied_messages_counts_as_bytes(self) -> None:
        limits = Limits(max_author_messages=3, max_author_bytes=10 * ROW_BYTES)
        self.check(limits, Amount(9, 0, 0), Amount(), Amount(), Amount(1, 1, 0))
        self.assertRaises(
            LimitReached,
            self.check,
            limits,
            Amount(10, 0, 0),
            Amount(),
            Amount(),
            Amount(1, 1, 0),
        )


class Stores(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()
        self.addCleanup(self.connection.close)

    def put(self, limits: Limits, *raws: bytes) -> list[Verdict]:
        return store.store_batch(
            self.connection, check_texts(raws), NOW_NS, ME.key, limits
        ).verdicts

    def test_a_feed_ends_at_the_limit_and_others_go_on(self) -> None:
        limits = Limits(max_author_messages=3)
        verdicts = self.put(limits, *ADA.raws[:5], *BOB.raws[:2])
        self.assertEqual(
            [v.error and v.error.code for v in verdicts],
            [None] * 3 + ["FEED_LIMIT"] * 2 + [None] * 2,
        )
        self.assertEqual(
            dict(store.list_heads(self.connection, None, b"", 9)), {ADA.key: 3, BOB.key: 2}
        )
        # Another setting, and it goes on.
        self.put(Limits(max_author_messages=4), *ADA.raws[3:5])
        self.assertEqual(store.list_heads(self.connection, [ADA.key], b"", 9), [(ADA.key, 4)])

    def test_nothing_is_taken_behind_what_there_was_no_room_for(self) -> None:
        eve = Author("eve")
        for size in (10, 5_000, 10):
            eve.write("x" * size)
        limits = Limits(max_author_bytes=2_000)
        statuses = [v.status for v in self.put(limits, *eve.raws)]
        self.assertEqual(statuses, ["accepted", "refused", "refused"])

    def test_the_limit_on_everything_leaves_room_for_ones_own(self) -> None:
        limits = Limits(max_messages=16)
        self.put(limits, *ADA.raws, *BOB.raws)
        self.assertEqual(store.total(self.connection).texts, 14)
        room = store.OwnRoom(limits, store.total(self.connection)).take(ME.messages[:2])
        self.assertRaises(LimitReached, room.take, ME.messages[2:3])

    def test_this_nodes_own_messages_that_come_back_are_not_an_authors(self) -> None:
        limits = Limits(max_author_messages=1)
        self.put(limits, *ME.raws)
        self.assertEqual(store.list_heads(self.connection, None, b"", 9), [(ME.key, 10)])

    def test_at_the_limit_duplicates_and_forks_are_seen_all_the_same(self) -> None:
        limits = Limits(max_author_messages=3, max_messages=3)
        self.put(NO_LIMITS, *ADA.raws[:3])
        (other,) = branch(ADA, 1, 1, "other")
        errors: list[type[FeedError]] = [
            type(v.error)  # type: ignore[misc]
            for v in self.put(limits, ADA.raws[0], other.raw)
        ]
        self.assertEqual(errors, [DuplicateMessage, ForkRefused])
        self.assertIsNotNone(store.fork_proof(self.connection, ADA.key))

    def test_an_author_of_whom_nothing_is_taken_is_not_noted(self) -> None:
        eve = Author("eve")
        for size in (5_000, 10):
            eve.write("x" * size)
        verdicts = self.put(Limits(max_bytes=2_000), *eve.raws)
        self.assertEqual([v.status for v in verdicts], ["refused"] * 2)
        (count,) = self.connection.execute("SELECT count(*) FROM feed_authors").fetchone()
        self.assertEqual(count, 0)
