"""
The local door of a node: all that answers on the endpoint C{api}, put together.

::

    LimitedSite         limits, before anything is kept
      DoorGuard         host, origin, token: who calls
        AgentDoor       MCP, at /mcp
        RestDoor        one route for each operation
          Dispatcher    readiness, scopes, the handler
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.web.resource import IResource

from meshkit import __version__
from meshkit.errors import MeshkitError
from meshkit.operations import BoundOperation, Nothing
from meshkit.runtime.metrics import Metrics
from meshkit.services import operations as offered
from meshkit.services.agents import PATHS, AgentDoor
from meshkit.services.listing import Listing
from meshkit.services.measuring import measure_calls, measure_site
from meshkit.web.callers import Caller
from meshkit.web.dispatch import Dispatcher
from meshkit.web.limits import LimitedSite, RequestHead
from meshkit.web.openapi import document
from meshkit.web.rates import RATE, Rates
from meshkit.web.request_ids import RequestIds
from meshkit.web.rest import MAX_STREAMS, RestDoor
from meshkit.web.security import DoorGuard

#: Seconds that answers under way may take to be finished.
CLOSE_GRACE: Final = 5.0

#: Connections on which there can be no stream, so that streams leave room for calls.
SPARE: Final = 256
#: Connections at a time.
MAX_CONNECTIONS: Final = MAX_STREAMS + SPARE


class NodeDoor:
    """
    See the module.

    @ivar site: the factory, to be listened with.
    @ivar operations: what is offered.
    @ivar agents: the part of it that speaks MCP.
    """

    def __init__(
        self,
        reactor: Any,
        operations: Sequence[BoundOperation],
        tokens: Callable[[bytes], Caller | None],
        *,
        ready: Callable[[], bool],
        wall_clock: Callable[[], int],
        make_agents: Callable[[Dispatcher], AgentDoor],
        rng: Random,
        rate: float = RATE,
        owner_rate: float = 0,
        max_connections: int = MAX_CONNECTIONS,
        run_in_thread: Callable[..., Deferred[Any]] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """
        @param tokens: says whose a token is.
        @param ready: are all parts started?
        @param wall_clock: nanoseconds since 1970.
        @param make_agents: makes the door for agents of what is offered.
        @param rate: requests a second for each token; 0 for any number.
        @param owner_rate: the same for the owner.
        @param rng: for the names of requests.
        @param max_connections: at a time.
        @param run_in_thread: for what takes long: see L{RestDoor}.
        @param metrics: where what happens here is counted.
        @raise PartConflict: if two operations have one name or one route.
        @raise ValueError: if an operation cannot be served; it begins with its name.
        """
        own = [
            BoundOperation(offered.OPERATIONS, self._answer_operations, with_caller=True),
            BoundOperation(offered.OPENAPI, self._answer_openapi),
        ]
        rates = Rates(reactor, rate=rate, owner_rate=owner_rate)
        request_ids = RequestIds(rng)
        offers = [*operations, *own]
        metrics = Metrics() if metrics is None else metrics
        self.operations = Dispatcher(
            offers,
            ready=ready,
            clock=reactor,
            charge=rates.charge,
            request_ids=request_ids,
            observe=measure_calls(metrics, (bound.operation.name for bound in offers)),
        )
        self._listing = Listing(self.operations)
        self._openapi: bytes | None = None
        self._rest = RestDoor(
            self.operations,
            clock=reactor,
            max_streams=max_connections - min(SPARE, max_connections // 4),
            run_in_thread=run_in_thread,
        )
        self.agents = make_agents(self.operations)
        self._guard = DoorGuard(self._root(), tokens, public=self._public_paths(), rates=rates)
        self.site = LimitedSite(
            self._guard,
            reactor,
            max_body=max(self._rest.max_body, self.agents.max_body),
            max_connections=max_connections,
            admit=self._admit,
            wall_clock=wall_clock,
            request_ids=request_ids,
        )
        measure_site(
            metrics, self.site.tally, lambda: self.site.connections, lambda: self._rest.streams
        )

    def _answer_operations(self, request: Nothing, caller: Caller) -> list[offered.OperationShown]:
        return self._listing.shown_to(caller)

    def _answer_openapi(self, request: Nothing) -> bytes:
        if self._openapi is None:
            self._openapi = msgspec.json.encode(document(list(self.operations), __version__))
        return self._openapi

    def _root(self) -> IResource:
        return self.agents.resource(self._rest.resource())

    def _public_paths(self) -> list[str]:
        declared = (bound.operation for bound in self.operations)
        return [operation.path for operation in declared if operation.public]

    def _admit(self, head: RequestHead) -> MeshkitError | None:
        inner = self.agents if head.path in PATHS else self._rest
        return self._guard.admit(head) or inner.admit(head)

    def close(self) -> Deferred[None]:
        """
        End all streams, give the answers under way a little time, and close.  To be called
        when the ports have stopped listening.

        @return: Deferred that fires when no connection is left.
        """
        self.agents.stop()
        self._rest.end_streams()
        return self.site.close(CLOSE_GRACE)
