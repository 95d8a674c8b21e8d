"""The net that L{tests.declared} holds under the suite catches what it is there for."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest, MeshkitError, NotFound, NotReady
from meshkit.operations import Advised, BoundOperation, Nothing, Operation, Page
from meshkit.web.callers import OWNER
from meshkit.web.dispatch import Dispatcher
from tests import declared

LIST = Operation("list", "GET", "/v1/list", Nothing, list[int], "", errors=(NotReady,))
PAGED = Operation("pages", "GET", "/v1/pages", Nothing, int, "", paged=True)


class NetTests(SynchronousTestCase):
    def setUp(self) -> None:
        # As pytest does before anything is run.
        declared.watch()

    def call(self, give: Any, operation: Operation = LIST) -> list[str]:
        """@return: what is noted when a handler of ours, run at a door, gives this."""

        def handler(request: Nothing) -> Any:
            return give()

        handler.__module__ = "meshkit.toy.part"
        noted = []
        bound = BoundOperation(operation, handler)
        door = Dispatcher([bound], ready=lambda: True)
        for run in (
            lambda: Deferred.fromCoroutine(door.run(bound, Nothing(), OWNER, "rest")),
            lambda: declared.handler(bound)(Nothing()),
        ):
            try:
                result = run()
                if isinstance(result, Deferred):
                    result.addErrback(lambda reason: reason.trap(MeshkitError) and None)
            except MeshkitError:
                pass
            noted.append(list(declared.problems))
            declared.problems.clear()
        self.assertEqual(*noted)
        self.assertLess(len(noted[0]), 2)
        return noted[0]

    def test_an_error_that_is_not_declared(self) -> None:
        def refuse() -> Any:
            raise NotFound("no such toy")

        for give in (refuse, lambda: fail(NotFound("no such toy"))):
            (noted,) = self.call(give)
            self.assertIn("list refused with NotFound (no such toy)", noted)

    def test_errors_that_are_declared_or_common_or_that_nobody_foresaw(self) -> None:
        for error in (NotReady, InvalidRequest, MeshkitError):
            self.assertEqual(self.call(lambda error=error: fail(error())), [])

    def test_an_answer_of_another_type(self) -> None:
        for answer in (["a"], 7, None, Advised(["a"], [])):
            (noted,) = self.call(lambda answer=answer: succeed(answer))
            self.assertIn("the answer of list is not as declared", noted)
        (noted,) = self.call(lambda: Page(["a"], 1, 1, 0), PAGED)
        self.assertIn("the answer of pages", noted)

    def test_an_answer_of_its_type(self) -> None:
        self.assertEqual(self.call(lambda: succeed([1])), [])
        self.assertEqual(self.call(lambda: Advised([1], ["careful"])), [])
        self.assertEqual(self.call(lambda: Page([1], 1, 1, 0), PAGED), [])

    def test_toys_of_tests_may_do_as_they_like(self) -> None:
        bound = BoundOperation(LIST, lambda request: "no list")
        self.assertEqual(declared.handler(bound)(Nothing()), "no list")
        self.assertEqual(declared.problems, [])
