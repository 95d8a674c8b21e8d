"""Tests of L{meshkit.runtime.tokens}."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest, NotFound, StorageFailed, TokenExists, TooManyTokens
from meshkit.runtime import tokens as under_test
from meshkit.runtime.container import MemoryFile
from meshkit.runtime.tokens import (
    MAX_LIFETIME,
    MAX_SCOPE,
    MAX_SCOPES,
    USE_SECONDS,
    Token,
    TokenBook,
    forget_all,
)
from meshkit.testing.identities import DAY_NS
from meshkit.testing.nodes import make_context, run_clock

SECOND = 10**9


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.file = MemoryFile(f"tokens-{self.id()}")
        self.addCleanup(self.file.close)
        self.database = make_context(self.clock, backing=self.file).database
        self.now_ns = DAY_NS
        self.ended: list[str] = []
        self.books: list[TokenBook] = []
        self.addCleanup(self.stop)
        self.book = self.open()

    def stop(self) -> None:
        for book in self.books:
            book.stop()
        self.database.stopService()
        run_clock(self.clock)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def open(self) -> TokenBook:
        """A book as it is after a start."""
        book = TokenBook(self.clock, self.database, lambda: self.now_ns, Random(len(self.books)))
        self.books.append(book)
        book.on_ended = lambda token: self.ended.append(token.name)
        self.done(book.load())
        return book

    def done(self, waiting: Deferred[Any]) -> Any:
        run_clock(self.clock)
        return self.successResultOf(waiting)

    def failed(self, waiting: Deferred[Any], error: type[Exception]) -> str:
        run_clock(self.clock)
        return str(self.failureResultOf(waiting, error).value)

    def add(
        self, name: str = "a", scopes: tuple[str, ...] = ("read",), lifetime: int | None = None
    ) -> bytes:
        _, text = self.done(self.book.add(name, scopes, lifetime))
        assert isinstance(text, str)
        return text.encode("ascii")

    def names(self, book: TokenBook | None = None) -> list[str]:
        return [token.name for token in (book or self.book).tokens()]

    def pass_time(self, seconds: float) -> None:
        """On both clocks, the wall's first."""
        self.now_ns += int(seconds * SECOND)
        self.clock.advance(seconds)

    def rows(self) -> list[tuple[Any, ...]]:
        return list(
            self.done(
                self.database.read(
                    lambda c: c.execute("SELECT * FROM node_tokens ORDER BY name").fetchall()
                )
            )
        )


class FindingTests(Case):
    def test_a_token_is_found_by_its_text_now_and_after_a_start(self) -> None:
        text = self.add("agent", ("read", "write:feed_*"))
        for book in (self.book, self.open()):
            token = book.find(text)
            assert token is not None
            self.assertEqual(
                (token.name, token.scopes, token.created_ns, token.expires_ns),
                ("agent", ("read", "write:feed_*"), DAY_NS, None),
            )

    def test_it_has_256_random_bits_and_an_id(self) -> None:
        texts = [self.add(f"t{n}").decode() for n in range(20)]
        for text in texts:
            self.assertRegex(text, r"\Amkt_[0-9a-f]{16}_[0-9a-f]{64}\Z")
        self.assertEqual(len({text.split("_")[1] for text in texts}), 20)
        self.assertEqual(len({text.split("_")[2] for text in texts}), 20)
        # From the generator that it was given, and from nowhere else.
        rng = Random(0)
        self.assertEqual(texts[0], f"mkt_{rng.randbytes(8).hex()}_{rng.randbytes(32).hex()}")

    def test_the_text_is_neither_kept_nor_shown(self) -> None:
        text = self.add()
        secret = text.decode().split("_")[2]
        kept = repr((self.rows(), self.book.tokens(), self.book))
        self.assertNotIn(secret, kept)
        self.assertNotIn(bytes.fromhex(secret), self.rows()[0])
        (token,) = self.book.tokens()
        self.assertNotIn("digest", repr(token))

    def test_nothing_but_the_whole_text_is_it(self) -> None:
        text, other = self.add("a"), self.add("b")
        assert self.book.find(text) is not None
        for wrong in (
            b"",
            b"mkt_",
            text[:-1],
            text + b"0",
            text + b" ",
            b" " + text,
            text.upper(),
            b"mkT" + text[3:],
            text[:20],
            text[4:],
            text[:21] + other[21:],
            other[:21] + text[21:],
            text.replace(b"_", b"-"),
            text[:-1] + (b"0" if text[-1:] != b"0" else b"1"),
            b"x" * 16_384,
            bytes(range(256)),
        ):
            self.assertIsNone(self.book.find(wrong), wrong)

    @given(st.binary(max_size=200))
    def test_no_guess_is_an_error(self, guess: bytes) -> None:
        self.assertIsNone(self.book.find(guess))

    def test_as_much_is_compared_for_an_unknown_token_as_for_a_wrong_one(self) -> None:
        text = self.add()
        compared: list[tuple[int, int]] = []
        really = under_test.hmac.compare_digest

        def compare(a: bytes, b: bytes) -> bool:
            compared.append((len(a), len(b)))
            return bool(really(a, b))

        self.patch(under_test.hmac, "compare_digest", compare)
        for shown in (text, text[:-1] + b"x", b"mkt_0123456789abcdef_" + text[21:], b"", b"x" * 99):
            compared.clear()
            self.book.find(shown)
            self.assertEqual(compared, [(32, 32)], shown)

    def test_nothing_is_found_before_it_is_loaded(self) -> None:
        self.assertTrue(self.book.loaded)
        text = self.add()
        book = TokenBook(self.clock, self.database, lambda: self.now_ns, Random(9))
        self.assertFalse(book.loaded)
        self.assertIsNone(book.find(text))


class AddingTests(Case):
    def test_it_is_there_only_when_it_is_on_the_disk(self) -> None:
        waiting = self.book.add("a", ("read",))
        self.assertNoResult(waiting)
        self.assertEqual(self.names(), [])
        self.done(waiting)
        self.assertEqual((self.names(), self.names(self.open())), (["a"], ["a"]))

    def test_a_name_is_one_tokens(self) -> None:
        self.add("a")
        self.assertIn("'a'", self.failed(self.book.add("a", ("write",)), TokenExists))
        one, two = self.book.add("b", ("read",)), self.book.add("b", ("read",))
        run_clock(self.clock)
        self.successResultOf(one)
        self.failureResultOf(two, TokenExists)
        self.assertEqual((self.names(), len(self.rows())), (["a", "b"], 2))

    def test_the_name_of_an_expired_one_can_be_had(self) -> None:
        old = self.add("a", lifetime=10)
        self.pass_time(11)
        new = self.add("a")
        self.assertIsNone(self.book.find(old))
        for book in (self.book, self.open()):
            self.assertEqual(self.names(book), ["a"])
            self.assertIsNotNone(book.find(new))

    def test_what_cannot_be_a_token(self) -> None:
        for name in ("", "a b", "-a", ".a", "é", "a/b", "a\n", "x" * 65, "owner", "anyone"):
            self.failed(self.book.add(name, ("read",)), InvalidRequest)
        many = ("read",) * (MAX_SCOPES + 1)
        for scopes in ((), ("",), ("a b",), ("x" * (MAX_SCOPE + 1),), ("é",), many):
            self.failed(self.book.add("a", scopes), InvalidRequest)
        for lifetime in (0, -1, MAX_LIFETIME + 1):
            self.failed(self.book.add("a", ("read",), lifetime), InvalidRequest)
        self.assertEqual((self.names(), self.rows()), ([], []))

    def test_what_can(self) -> None:
        for number, name in enumerate(("a", "A.b_c-d", "0", "x" * 64, "owner2")):
            self.add(name, ("x" * MAX_SCOPE,) * MAX_SCOPES, MAX_LIFETIME - number)
        self.assertEqual(self.names(), sorted(self.names(self.open())))
        self.assertEqual(len(self.names()), 5)

    def test_the_number_of_tokens_is_limited(self) -> None:
        self.patch(under_test, "MAX_TOKENS", 3)
        waiting = [self.book.add(f"t{n}", ("read",)) for n in range(4)]  # at the same moment
        run_clock(self.clock)
        for each in waiting[:3]:
            self.successResultOf(each)
        self.assertIn("3 tokens", self.failed(waiting[3], TooManyTokens))
        self.done(self.book.remove("t0"))
        self.add("t3")
        self.assertEqual(self.names(), ["t1", "t2", "t3"])

    def test_expired_ones_make_room(self) -> None:
        self.patch(under_test, "MAX_TOKENS", 3)
        self.add("a", lifetime=10)
        self.add("b", lifetime=20)
        self.add("c")
        self.pass_time(10)
        self.assertEqual(self.names(), ["a", "b", "c"])
        self.add("d")
        self.assertEqual(self.names(), ["b", "c", "d"])
        self.assertEqual(self.names(self.open()), ["b", "c", "d"])

    def test_who_hangs_up_leaves_memory_and_disk_alike(self) -> None:
        waiting = self.book.add("a", ("read",))
        waiting.cancel()
        self.failureResultOf(waiting)
        run_clock(self.clock)
        self.assertEqual((self.names(), len(self.rows())), (["a"], 1))

    def test_what_the_disk_refuses_is_not_there(self) -> None:
        self.patch(self.database, "write", lambda job: fail(StorageFailed()))
        self.failed(self.book.add("a", ("read",)), StorageFailed)
        self.assertEqual((self.names(), self.rows()), ([], []))


class RevokingTests(Case):
    def test_it_is_in_force_before_the_disk_has_heard_of_it(self) -> None:
        text, other = self.add("a"), self.add("b")
        waiting = self.book.remove("a")
        self.assertIsNone(self.book.find(text))
        self.assertEqual(self.ended, ["a"])
        self.assertNoResult(waiting)
        self.done(waiting)
        for book in (self.book, self.open()):
            self.assertIsNone(book.find(text))
            self.assertIsNotNone(book.find(other))
            self.assertEqual(self.names(book), ["b"])
        self.assertEqual(self.ended, ["a"])

    def test_there_has_to_be_one(self) -> None:
        self.add("a")
        self.assertIn("'b'", self.failed(self.book.remove("b"), NotFound))
        self.done(self.book.remove("a"))
        self.failed(self.book.remove("a"), NotFound)

    def test_twice_at_the_same_moment_is_once(self) -> None:
        self.add("a")
        one, two = self.book.remove("a"), self.book.remove("a")
        run_clock(self.clock)
        self.successResultOf(one)
        self.successResultOf(two)
        self.assertEqual((self.ended, self.names()), (["a"], []))

    def test_a_disk_that_refuses_lets_nobody_in_and_can_be_asked_again(self) -> None:
        text = self.add("a")
        refusing = self.patch(self.database, "write", lambda job: fail(StorageFailed()))
        self.failed(self.book.remove("a"), StorageFailed)
        self.assertIsNone(self.book.find(text))
        (token,) = self.book.tokens()
        self.assertTrue(token.revoked)
        refusing.restore()
        self.done(self.book.remove("a"))
        self.assertEqual((self.names(), self.rows(), self.ended), ([], [], ["a"]))

    def test_a_name_can_be_given_anew(self) -> None:
        old = self.add("a")
        removing, adding = self.book.remove("a"), self.book.add("a", ("write",))
        self.done(removing)
        _, new = self.done(adding)
        for book in (self.book, self.open()):
            self.assertIsNone(book.find(old))
            found = book.find(new.encode())
            self.assertEqual(found and found.scopes, ("write",))

    def test_a_copy_of_the_database_lets_nobody_in(self) -> None:
        text = self.add("a")
        self.done(self.database.write(forget_all))
        self.assertIsNone(self.open().find(text))


class ExpiryTests(Case):
    def test_it_opens_up_to_its_end(self) -> None:
        text = self.add("a", lifetime=60)
        self.pass_time(59.999)
        self.assertIsNotNone(self.book.find(text))
        self.assertEqual(self.ended, [])
        self.pass_time(0.001)
        self.assertIsNone(self.book.find(text))
        self.assertEqual(self.ended, ["a"])
        self.assertEqual(self.names(), ["a"])
        self.assertTrue(self.book.tokens()[0].expired(self.now_ns))
        self.assertIsNone(self.open().find(text))

    def test_each_end_is_told_once_and_at_its_time(self) -> None:
        for name, lifetime in (("c", 30), ("a", 10), ("b", 20), ("d", 20)):
            self.add(name, lifetime=lifetime)
        seen = []
        for _ in range(40):
            self.pass_time(1)
            seen.append(len(self.ended))
        self.assertEqual([seen.index(n) + 1 for n in (1, 3, 4)], [10, 20, 30])
        self.assertEqual(sorted(self.ended), ["a", "b", "c", "d"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_those_whose_time_ended_while_the_node_was_down(self) -> None:
        text = self.add("a", lifetime=10)
        self.book.stop()
        self.now_ns += 11 * SECOND
        book = self.open()
        self.assertIsNone(book.find(text))
        self.assertEqual(self.ended, ["a"])

    def test_a_wall_clock_that_was_set_forward_is_noticed_within_an_hour(self) -> None:
        text = self.add("a", lifetime=30 * 86_400)
        self.now_ns += 31 * 86_400 * SECOND
        self.assertIsNone(self.book.find(text))
        self.clock.advance(3600)
        self.assertEqual(self.ended, ["a"])

    def test_what_is_over_stays_over_though_the_clock_is_set_back(self) -> None:
        text = self.add("a", lifetime=10)
        self.pass_time(10)
        self.now_ns -= 100 * SECOND
        self.assertIsNone(self.book.find(text))

    def test_nobody_waits_for_one_that_was_revoked(self) -> None:
        self.add("a", lifetime=10)
        self.done(self.book.remove("a"))
        self.pass_time(10)
        self.assertEqual(self.ended, ["a"])


class LastUseTests(Case):
    def used(self) -> list[int | None]:
        """As it is in memory, and on the disk."""
        run_clock(self.clock)
        return [self.book.tokens()[0].used_ns, self.rows()[0][-1]]

    def test_it_is_kept_to_within_ten_minutes(self) -> None:
        text = self.add()
        self.assertEqual(self.used(), [None, None])
        writes = self.database.status().writes
        first = self.now_ns
        for _ in range(USE_SECONDS - 1):
            self.book.find(text)
            self.pass_time(1)
        self.assertEqual(self.used(), [first, first])
        self.assertEqual(self.database.status().writes, writes + 1)
        self.pass_time(1)
        self.book.find(text)
        self.assertEqual(self.used(), [self.now_ns, self.now_ns])
        token = self.open().tokens()[0]
        self.assertEqual(token.used_ns, self.now_ns)

    def test_a_wrong_secret_is_no_use(self) -> None:
        text = self.add()
        self.book.find(text[:-1] + b"x")
        self.assertEqual(self.used(), [None, None])

    def test_a_clock_that_was_set_back_is_believed(self) -> None:
        text = self.add()
        self.book.find(text)
        self.now_ns -= 86_400 * SECOND
        self.book.find(text)
        self.assertEqual(self.used(), [self.now_ns, self.now_ns])

    def test_a_disk_that_refuses_does_not_keep_anybody_out(self) -> None:
        text = self.add()
        self.patch(self.database, "write", lambda job: fail(StorageFailed()))
        self.assertIsNotNone(self.book.find(text))
        self.assertEqual(self.used(), [DAY_NS, None])

    def test_one_that_is_revoked_meanwhile_stays_so(self) -> None:
        text = self.add()
        self.book.find(text)
        self.done(self.book.remove("a"))
        self.assertEqual(self.rows(), [])


class TokenTests(SynchronousTestCase):
    def test_one_without_an_end_never_expires(self) -> None:
        token = Token("00", "a", ("read",), 0, None, None, bytes(32))
        self.assertFalse(token.expired(2**62))
        self.assertTrue(re.fullmatch(under_test.NAME, token.name))
