"""
A net under the whole suite: an operation answers and refuses as it was declared.

Every call at a door of a node in this process passes the dispatcher.  Here it is watched:
an error that the operation does not declare, or an answer that is not of its type, fails the
test in whose course it was given, whatever that test was about.  Tests that call a part's
operations themselves do it through L{handler}.  Only our own operations are watched; tests
declare toys that break rules on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import iscoroutine
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshkit.errors import MeshkitError
from meshkit.operations import Advised, BoundOperation, Page
from meshkit.web import dispatch

#: What was seen since it was last emptied.
problems: Final[list[str]] = []


def watch() -> None:
    """Begin.  Once in a process is enough, and more often changes nothing."""
    run = dispatch.Dispatcher.run
    if run.__name__ == "watched":
        return

    async def watched(
        self: Any, bound: BoundOperation, request: Any, caller: Any, door: str
    ) -> Any:
        try:
            answer = await run(self, bound, request, caller, door)
        except MeshkitError as e:
            if _is_ours(bound):
                _judge_refusal(bound, e)
            raise
        if _is_ours(bound):
            _judge_answer(bound, answer)
        return answer

    dispatch.Dispatcher.run = watched  # type: ignore[method-assign]


def handler(bound: BoundOperation) -> Callable[[Any], Any]:
    """@return: the handler of an operation, watched in the same way."""

    def call(request: Any) -> Any:
        try:
            given = bound.handler(request)
        except MeshkitError as e:
            _judge_refusal(bound, e)
            raise
        if iscoroutine(given):
            return later(given)
        if isinstance(given, Deferred):
            return given.addCallbacks(answered, refused)
        return answered(given)

    async def later(coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            return answered(await coroutine)
        except MeshkitError as e:
            _judge_refusal(bound, e)
            raise

    def answered(answer: Any) -> Any:
        _judge_answer(bound, answer)
        return answer

    def refused(failure: Failure) -> Failure:
        if isinstance(failure.value, MeshkitError):
            _judge_refusal(bound, failure.value)
        return failure

    return call


def _is_ours(bound: BoundOperation) -> bool:
    module = getattr(bound.handler, "__module__", "")
    return module.partition(".")[0] in ("meshkit", "meshkit_roundtrip")


def _judge_refusal(bound: BoundOperation, error: MeshkitError) -> None:
    operation = bound.operation
    if not _is_ours(bound):
        return
    # What nobody foresaw cannot be declared, and every operation may come to it.
    declared = (MeshkitError, *operation.errors, *dispatch.COMMON_ERRORS)
    if type(error) not in declared:
        problems.append(
            f"{operation.name} refused with {type(error).__name__} ({error}), which its errors= "
            f"does not name"
        )


def _judge_answer(bound: BoundOperation, answer: Any) -> None:
    operation = bound.operation
    if operation.stream or operation.sends is not None or not _is_ours(bound):
        return
    kind = operation.answer
    if isinstance(answer, Advised):
        answer = answer.answer
    if operation.paged:
        kind = list[kind]
        answer = answer.items if isinstance(answer, Page) else answer
    try:
        msgspec.json.decode(msgspec.json.encode(answer), type=kind)
    except msgspec.ValidationError as e:
        problems.append(f"the answer of {operation.name} is not as declared: {e}")
