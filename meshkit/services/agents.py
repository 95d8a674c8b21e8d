"""
The door of a node for agents: MCP at C{/mcp}, made from the same operations as the routes.

It speaks HTTP there, and lines to who asks for them (L{meshkit.web.lines}): that is how
C{meshkit mcp} brings clients in that know standard input and output only.

A client may choose a profile: C{/mcp?profile=egregore}.  One that holds no tools here is
refused, so that nobody looks at an empty list and wonders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import Any, Final
from urllib.parse import quote

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource, Resource

from meshkit import __version__
from meshkit.aliases import Alias
from meshkit.errors import ConfigError, InvalidRequest, McpRefused, MeshkitError, RateLimited
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import MessagesStored
from meshkit.runtime.events import EventBus
from meshkit.runtime.http import too_large
from meshkit.web.answers import prepare_error
from meshkit.web.callers import Caller
from meshkit.web.dispatch import Dispatcher
from meshkit.web.instructions import GOOD_CITIZEN
from meshkit.web.limits import RequestHead
from meshkit.web.line_door import LineDoor
from meshkit.web.live import LiveStatus
from meshkit.web.mcp import wire
from meshkit.web.mcp.http import McpResource
from meshkit.web.mcp.server import Server
from meshkit.web.profiles import ALIASES, Profiles
from meshkit.web.readables import SCHEME, add_resources
from meshkit.web.requests import unknown_field
from meshkit.web.tools import NodeTools

PATHS: Final = ("/mcp", "/mcp/")

_RAW_PATHS: Final = tuple(path.encode("ascii") for path in PATHS)


class AgentDoor:
    """
    See the module.

    @ivar server: the MCP server, for further bindings.
    @ivar profiles: which there are.
    """

    def __init__(
        self,
        operations: Dispatcher,
        *,
        clock: IReactorTime,
        rng: Random,
        ready: Callable[[], bool],
        advice: Callable[[], Sequence[str]],
        events: EventBus,
        aliases: Iterable[Alias] = (),
        profile: str = "core",
    ) -> None:
        """
        @param rng: for ids of sessions, and for marks.
        @param ready: are all parts started?
        @param advice: what the parts have to say to agents.
        @param events: of the node.
        @param aliases: those that the parts bring.
        @param profile: of clients that choose none.
        @raise ConfigError: if that is no profile, or one without tools.
        @raise PartConflict: if two tools have one name.
        @raise ValueError: if an operation cannot be a tool; it begins with its name.
        """
        self._clock = clock
        self.profiles = Profiles((*ALIASES, *aliases), operations.operations)
        self.server = Server(
            "meshkit",
            __version__,
            clock=clock,
            rng=rng,
            instructions=GOOD_CITIZEN,
            title="meshkit: a node of a peer-to-peer mesh",
            watch=Caller.watch,
            charge=partial(_charge, operations),
        )
        self._live = LiveStatus(clock, ready, advice, self.server.tools_changed)
        try:
            tools = NodeTools(
                self.server,
                operations,
                self.profiles,
                clock=clock,
                rng=rng,
                default=profile,
                live=self._live.text,
            )
        except InvalidRequest as e:
            raise ConfigError(f"the setting mcp_profile: {e}") from None
        add_resources(self.server, operations, tools.read)
        # Who may come in, and by which name, is judged before.
        self._mcp = McpResource(self.server, clock, hosts=None, caller=_caller)
        self._unsubscribe = events.subscribe(MessagesStored, self._stored)

    @property
    def max_body(self) -> int:
        """The largest message that is taken."""
        return self.server.limits.message

    def resource(self, others: IResource) -> IResource:
        """
        @param others: what answers at all other paths.
        @return: the root of a door that also has this one.
        """
        return _Root(self, self._mcp, others)

    def admit(self, head: RequestHead) -> MeshkitError | None:
        """Is the announced body of a request at one of L{PATHS} within the limit?"""
        limit = self.max_body
        return None if head.length is None or head.length <= limit else too_large(limit)

    def view(self, request: Any) -> str | None:
        """
        @return: the profile that a request chooses, or L{None}.
        @raise InvalidRequest: if it is not one that holds tools here, or if something else
            stands in the query string.
        """
        for name in request.args:
            if name != b"profile":
                raise unknown_field(name.decode("utf-8", "replace"), ["profile"], "query string")
        given = [value.decode("utf-8", "replace") for value in request.args.get(b"profile", [])]
        if len(given) > 1:
            raise InvalidRequest(
                f"profile is given {len(given)} times: give it once", field="profile"
            )
        return self.profiles.check(given[0]) if given else None

    def _stored(self, event: MessagesStored) -> None:
        if not self.server.sessions:
            return
        author = PublicKey(event.author).text
        for feed in ("status", "feed", f"feed/{author}", f"feed/{quote(author, safe='')}"):
            self.server.resource_updated(SCHEME + feed)

    def stop(self) -> None:
        """End all streams and calls."""
        self._unsubscribe()
        self._live.stop()
        self.server.stop()


class _Root(Resource):
    """Routes have whole paths of their own, so that nothing is taken off before them."""

    isLeaf = True

    def __init__(self, agents: AgentDoor, mcp: IResource, others: IResource) -> None:
        super().__init__()
        self._agents = agents
        self._lines = LineDoor(agents.server)
        self._mcp = mcp
        self._others = others

    def render(self, request: Any) -> Any:
        if request.path not in _RAW_PATHS:
            return self._others.render(request)
        try:
            view = self._agents.view(request)
        except MeshkitError as e:
            return prepare_error(request, e)
        if self._lines.wanted_by(request):
            return self._lines.render(request, _caller(request), view)
        # It answers where it was put.
        request.prepath.append(request.postpath.pop(0))
        return self._mcp.render(request)


def _charge(operations: Dispatcher, caller: Caller) -> None:
    try:
        operations.charge(caller, 1.0, 0.0)
    except RateLimited as e:
        raise McpRefused(wire.BUSY, f"{e} [{e.code}]", e.details) from None


def _caller(request: Any) -> Caller:
    head: RequestHead = request.head
    return head.caller
