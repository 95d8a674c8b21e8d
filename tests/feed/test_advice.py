"""Tests of L{meshkit.feed.advice}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import part as feed_part
from meshkit.feed.advice import INLINE, MAX_WARNINGS, Advice
from meshkit.operations import Advised
from meshkit.testing.nodes import MemoryMesh, make_context, run_clock
from tests import declared


class AdviceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: list[int] = []
        self.told: list[int] = []

        def run(function: Any, judge: Any, raws: Any) -> Deferred[Any]:
            self.calls.append(len(raws))
            return succeed(function(judge, raws))

        self.advice = Advice(run)

    def about(self, raws: Sequence[bytes]) -> list[str]:
        return self.successResultOf(Deferred.fromCoroutine(self.advice.about(raws)))

    def test_nobody_is_asked_without_an_adviser(self) -> None:
        self.assertEqual(self.about([b"x"] * 9), [])
        self.assertEqual(self.calls, [])

    def test_a_sentence_about_one_message(self) -> None:
        remove = self.advice.add(lambda raw: "bad" if raw == b"x" else None, self.told.append)
        self.assertEqual((self.about([b"x"]), self.about([b"y"])), (["bad"], []))
        self.assertEqual(self.told, [1])
        remove()
        self.assertEqual(self.about([b"x"]), [])

    def test_of_many_the_number_is_said_and_no_more_than_a_few_in_words(self) -> None:
        self.advice.add(lambda raw: "bad", self.told.append)
        self.assertEqual(self.about([b"x"] * 2), ["message 1: bad", "message 2: bad"])
        warnings = self.about([b"x"] * 1000)
        self.assertEqual(len(warnings), MAX_WARNINGS + 1)
        self.assertEqual(warnings[-1], f"and {1000 - MAX_WARNINGS} more of this kind")
        self.assertEqual(self.told, [2, 1000])
        # The reactor does not stand still for a thousand.
        self.assertEqual(sum(self.calls), 1000)
        self.assertGreater(len(self.calls), 3)
        self.about([b"x"] * INLINE)
        self.assertEqual(sum(self.calls), 1000)

    def test_an_adviser_that_fails_fails_nobody_else(self) -> None:
        self.advice.add(lambda raw: 1 / 0 and None, self.told.append)
        self.advice.add(lambda raw: "bad", self.told.append)
        self.assertEqual(self.about([b"x"]), ["bad"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class PublishTests(SynchronousTestCase):
    """Who publishes is told."""

    def test_the_answers_carry_the_warnings(self) -> None:
        clock = Clock()
        context = make_context(
            clock, config=feed_part.Config(), migrations={"feed": feed_part.MIGRATIONS}
        )
        feed = feed_part.make_part(context)
        feed.startService()
        told: list[int] = []
        feed.advise(feed.refused_by_egregore, told.append)
        bound = {b.operation.name: b for b in feed.operations()}

        def ask(name: str, **fields: Any) -> Any:
            request = bound[name].operation.request
            decoded = msgspec.json.decode(msgspec.json.encode(fields), type=request)
            waiting = Deferred.fromCoroutine(declared.handler(bound[name])(decoded))
            run_clock(clock)
            return self.successResultOf(waiting)

        self.assertNotIsInstance(ask("feed_publish", content={"type": "note"}), Advised)
        (warning,) = ask("feed_publish", content={"text": "no type"}).warnings
        self.assertIn("'type'", warning)
        answer = ask("feed_publish_batch", contents=[{"type": "note"}] * 7 + [7])
        self.assertEqual((answer.answer.count, len(answer.warnings)), (8, 1))
        self.assertTrue(answer.warnings[0].startswith("message 8:"))
        self.assertEqual(told, [1, 1])
        for service in (feed, context.database, context.workers):
            service.stopService()
        run_clock(clock)

    def test_the_door_shows_none_where_nobody_advises(self) -> None:
        mesh = MemoryMesh()
        node = mesh.node("ada")
        node.start()
        answer = node.ask("POST", "/v1/publish", {"content": {"no": "type"}})
        self.assertEqual((answer.status, "metadata" in answer.json), (201, False))
        mesh.stop()
