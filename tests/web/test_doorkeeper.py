"""Tests of L{meshkit.web.doorkeeper}."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotReady
from meshkit.runtime.tokens import TokenBook
from meshkit.testing.identities import DAY_NS
from meshkit.testing.nodes import make_context, run_clock
from meshkit.web import doorkeeper as under_test
from meshkit.web.callers import Caller, Scope
from meshkit.web.doorkeeper import Doorkeeper
from tests.web.stage import TOKEN


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.now_ns = DAY_NS
        database = make_context(self.clock).database
        self.book = TokenBook(self.clock, database, lambda: self.now_ns, Random(1))
        self.doorkeeper = Doorkeeper(TOKEN, self.book)

        def stop() -> None:
            self.book.stop()
            database.stopService()
            run_clock(self.clock)

        self.addCleanup(stop)

    def done(self, waiting: Deferred[Any]) -> Any:
        run_clock(self.clock)
        return self.successResultOf(waiting)

    def add(self, name: str, *scopes: str, lifetime: int | None = None) -> bytes:
        _, text = self.done(self.book.add(name, scopes or ("read",), lifetime))
        assert isinstance(text, str)
        return text.encode("ascii")

    def caller(self, shown: bytes) -> Caller:
        found = self.doorkeeper(shown)
        assert found is not None
        return found


class DoorkeeperTests(Case):
    def test_the_owner_comes_in_before_the_others_are_known(self) -> None:
        self.assertEqual(self.caller(TOKEN).name, "owner")
        for shown in (b"mkt_x", b"", b"wrong"):
            self.assertRaises(NotReady, self.doorkeeper, shown)
        self.done(self.book.load())
        self.assertIsNone(self.doorkeeper(b"mkt_x"))

    def test_whose_token_it_is(self) -> None:
        self.done(self.book.load())
        text = self.add("agent", "read", "write:feed_*")
        owner, agent = self.caller(TOKEN), self.caller(text)
        self.assertEqual(
            (owner.name, owner.scopes, owner.limited), ("owner", (Scope("admin"),), False)
        )
        self.assertEqual(
            (agent.name, agent.scopes, agent.limited),
            ("agent", (Scope("read"), Scope("write", "feed_*")), True),
        )
        self.assertIs(self.caller(text), agent)
        self.assertIs(self.caller(TOKEN), owner)
        self.assertIsNot(self.caller(self.add("other")), agent)

    @given(st.binary(max_size=100))
    def test_nobody_else_comes_in(self, guess: bytes) -> None:
        doorkeeper = Doorkeeper(TOKEN)
        self.assertEqual(doorkeeper(guess) is not None, guess == TOKEN)

    def test_the_same_is_compared_whatever_is_shown(self) -> None:
        self.done(self.book.load())
        text, gone, over = self.add("a"), self.add("b"), self.add("c", lifetime=1)
        self.done(self.book.remove("b"))
        self.now_ns += 10**9
        compared: list[tuple[int, int]] = []
        really = under_test.hmac.compare_digest

        def compare(a: bytes, b: bytes) -> bool:
            compared.append((len(a), len(b)))
            return bool(really(a, b))

        self.patch(under_test.hmac, "compare_digest", compare)
        for shown in (TOKEN, text, gone, over, b"", TOKEN[:-1], text[:-1], b"x" * 10_000):
            compared.clear()
            self.doorkeeper(shown)
            self.assertEqual(compared, [(32, 32), (32, 32)], shown)

    def test_a_caller_is_over_when_its_token_is(self) -> None:
        self.done(self.book.load())
        revoked, expired, good = self.add("a"), self.add("b", lifetime=10), self.add("c")
        callers = [self.caller(text) for text in (revoked, expired, good, TOKEN)]
        self.book.remove("a")
        self.assertEqual([caller.over for caller in callers], [True, False, False, False])
        self.now_ns += 10 * 10**9
        self.clock.advance(10)
        self.assertEqual([caller.over for caller in callers], [True, True, False, False])
        for text in (revoked, expired):
            self.assertIsNone(self.doorkeeper(text))
        self.assertIs(self.caller(good), callers[2])

    def test_the_owners_token_is_replaced(self) -> None:
        self.done(self.book.load())
        agent = self.caller(self.add("agent"))
        before = self.caller(TOKEN)
        self.doorkeeper.replace_owner(b"another")
        self.assertTrue(before.over)
        self.assertIsNone(self.doorkeeper(TOKEN))
        after = self.caller(b"another")
        self.assertEqual((after.name, after.over, agent.over), ("owner", False, False))

    def test_a_token_that_cannot_be_sent_is_refused_and_changes_nothing(self) -> None:
        for token in (b"", b" ", b"a b", b"a\n", b"\xff", b"=", b"a=b"):
            with self.assertRaises(ValueError, msg=repr(token)) as caught:
                Doorkeeper(token)
            self.assertNotIn(repr(token)[1:], str(caught.exception))
            self.assertRaises(ValueError, self.doorkeeper.replace_owner, token)
        self.assertFalse(self.caller(TOKEN).over)

    def test_nothing_secret_is_shown(self) -> None:
        self.done(self.book.load())
        text = self.add("agent")
        shown = repr(
            (self.doorkeeper, vars(self.doorkeeper), self.caller(text), self.caller(TOKEN))
        )
        self.assertNotIn(TOKEN.decode(), shown)
        self.assertNotIn(text.decode()[30:], shown)
