"""
Where all doors meet: an operation is looked up, permitted, run and counted here.

A door turns what it got into a request (L{Dispatcher.reader}), has it run, and turns the
answer or the L{MeshkitError} into what its protocol says.  No door calls a handler itself,
so none can forget to ask for permission or leave something out of the counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from meshkit.errors import (
    InvalidRequest,
    MeshkitError,
    NotFound,
    NotReady,
    PartConflict,
    PermissionDenied,
    RateLimited,
    Unauthorized,
)
from meshkit.operations import BoundOperation
from meshkit.runtime.logs import noted, noting
from meshkit.web.answers import internal_error
from meshkit.web.callers import Caller
from meshkit.web.rates import STREAM_COST
from meshkit.web.request_ids import RequestIds
from meshkit.web.requests import RequestReader, reader_of

#: What any operation may refuse with, at any door.
COMMON_ERRORS: Final[tuple[type[MeshkitError], ...]] = (
    InvalidRequest,
    NotReady,
    PermissionDenied,
    RateLimited,
    Unauthorized,
)


@frozen
class Called:
    """
    An operation was called.

    @ivar operation: its name.
    @ivar door: through which door: C{rest} or C{mcp}.
    @ivar caller: the name of the caller's token.
    @ivar code: C{OK}, or that of the error.
    @ivar seconds: until the answer; of a stream, until it began.
    """

    operation: str
    door: str
    caller: str
    code: str
    seconds: float


def _unobserved(called: Called) -> None:
    pass


def _for_nothing(caller: Caller, cost: float, again: float) -> None:
    pass


class Dispatcher:
    """
    The operations of one node.

    @ivar operations: by name, in the order in which they were given.
    """

    _log = Logger()

    def __init__(
        self,
        operations: Sequence[BoundOperation],
        *,
        ready: Callable[[], bool],
        clock: IReactorTime | None = None,
        observe: Callable[[Called], None] = _unobserved,
        charge: Callable[[Caller, float, float], None] = _for_nothing,
        request_ids: RequestIds | None = None,
    ) -> None:
        """
        @param ready: asked at each call; while it says no, all but C{early} operations
            answer C{NOT_READY}.
        @param clock: measures how long calls take; without it they take no time.
        @param observe: told of each call when it has been answered.
        @param charge: asked whether a caller is granted something, and what it costs beside
            the HTTP request: L{meshkit.web.rates.Rates.charge}.
        @param request_ids: names the calls of doors whose requests have no names.
        @raise PartConflict: if two operations have the same name.
        @raise ValueError: if an operation's request cannot be read from where its
            method and path say it is.
        """
        self._ready = ready
        self._seconds: Callable[[], float] = (lambda: 0.0) if clock is None else clock.seconds
        self._observe = observe
        #: See above.  Doors whose calls are no HTTP requests ask it themselves.
        self.charge = charge
        self._request_ids = request_ids
        self.operations: dict[str, BoundOperation] = {}
        self._readers: dict[str, RequestReader] = {}
        for bound in operations:
            name = bound.operation.name
            if name in self.operations:
                raise PartConflict(
                    f"the operation {name} is declared twice, by {self.operations[name].part} and "
                    f"{bound.part}"
                )
            self.operations[name] = bound
            self._readers[name] = reader_of(bound.operation)

    def __iter__(self) -> Iterator[BoundOperation]:
        return iter(self.operations.values())

    def find(self, name: str) -> BoundOperation:
        """@raise NotFound: if there is no such operation."""
        try:
            return self.operations[name]
        except KeyError:
            raise NotFound(f"there is no operation {name[:80]!r}") from None

    def reader(self, name: str) -> RequestReader:
        """@return: what makes the requests of an operation."""
        return self._readers[name]

    async def run(self, bound: BoundOperation, request: Any, caller: Caller, door: str) -> Any:
        """
        Have an operation answered.

        @param request: as its L{reader} made it.
        @param door: for the counters.
        @return: what the handler gave: the answer, perhaps L{meshkit.operations.Advised}, a
            L{meshkit.operations.Page}, or the iterator of a stream.
        @raise MeshkitError: whatever went wrong.  What nobody foresaw is logged, and is the
            same internal error for everybody.
        """
        operation = bound.operation
        began = self._seconds()
        code = "OK"
        try:
            self.permit(bound, caller)
            if operation.stream:
                self.charge(caller, STREAM_COST, 1.0)
            with noting(**self._names(operation.name, caller)):
                return await self._handled(bound, request, caller)
        except MeshkitError as e:
            code = e.code
            raise
        except CancelledError:
            # By the caller, who will not see this, or by what the handler uses.
            code = NotReady.code
            raise NotReady("the call was cancelled: try again") from None
        finally:
            self._observe(Called(operation.name, door, caller.name, code, self._seconds() - began))

    @contextmanager
    def judging(self, bound: BoundOperation, caller: Caller, door: str) -> Iterator[None]:
        """
        While a door makes a request of what came: what it refuses then is counted as an
        answer of the operation, as what L{run} refuses is.
        """
        try:
            yield
        except MeshkitError as e:
            self._observe(Called(bound.operation.name, door, caller.name, e.code, 0.0))
            raise

    def _names(self, operation: str, caller: Caller) -> dict[str, str]:
        """What stands in every event that is logged for a call."""
        names = {"operation": operation, "caller": caller.name}
        if self._request_ids is not None and "request_id" not in noted():
            names["request_id"] = self._request_ids.new()
        return names

    async def _handled(self, bound: BoundOperation, request: Any, caller: Caller) -> Any:
        asked = (request, caller) if bound.with_caller else (request,)
        try:
            given = bound.handler(*asked)
            # A Deferred of a coroutine that fails keeps its frames by a circle, and the request.
            return await given if isawaitable(given) else given
        except (MeshkitError, CancelledError):
            raise
        except Exception:
            name = bound.operation.name
            self._log.failure("the operation {operation} failed", operation=name, part=bound.part)
            raise internal_error() from None

    def permit(self, bound: BoundOperation, caller: Caller) -> None:
        """
        @raise NotReady: if the node is not.
        @raise Unauthorized: if the caller's token is good for nothing any more.
        @raise PermissionDenied: if it has no scope for the operation.
        """
        operation = bound.operation
        if caller.over:
            # Doors that stay open ask with the caller that opened them.
            raise Unauthorized(
                "the token that this was opened with is not good any more", shown=True
            )
        if not caller.may(operation):
            scope = f"{operation.permission}:{operation.name}"
            raise PermissionDenied(
                f"the token {caller.name!r} may not use {operation.name}: it needs the scope "
                f"{operation.permission}, or {scope}",
                scope=scope,
            )
        if not operation.early and not self._ready():
            raise NotReady
