"""
An MCP server without a transport: what it offers, and who is there.

A L{Server} is fed through the L{Session}s that a binding makes: L{McpResource
<meshkit.web.mcp.http.McpResource>} over HTTP, L{LineProtocol
<meshkit.web.mcp.lines.LineProtocol>} over anything that carries lines, L{connect
<meshkit.web.mcp.memory.connect>} in memory.  All of them serve the same tools to both
generations of clients, at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire
from meshkit.web.mcp.catalogue import Prompt, Resource, ResourceTemplate, Tool
from meshkit.web.mcp.changes import PROMPTS, RESOURCES, TOOLS, Announcer, Change
from meshkit.web.mcp.limits import Limits
from meshkit.web.mcp.methods import Instructions, Methods
from meshkit.web.mcp.offers import Offers
from meshkit.web.mcp.sessions import Send, Session

#: Seconds in which a call is answered whose caller is not welcome any more.
RETIRE_SECONDS: Final = 5.0

_ID_BITS: Final = 256


class Server:
    """
    What is offered, and the clients it is offered to.

    A client sees a tool, resource or prompt if its C{shown} says so of the client's caller
    and view.  What is not shown is not there: it cannot be called either.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        version: str,
        *,
        clock: IReactorTime,
        rng: Random,
        instructions: Instructions = "",
        title: str | None = None,
        limits: Limits | None = None,
        logs: bool = False,
        watch: Callable[[Any, Callable[[], None]], Callable[[], None]] | None = None,
        charge: Callable[[Any], None] | None = None,
    ) -> None:
        """
        @param name: of the server, for programs.
        @param version: of the server.
        @param clock: gives the time for every deadline.
        @param rng: makes the ids of sessions, which nobody may guess: a
            C{random.SystemRandom} outside tests.
        @param instructions: for the model, when it begins; or what makes them of caller and view.
        @param title: name of the server, for people.
        @param limits: of everything a client can make grow.
        @param logs: tell clients that L{Call.log} is used.
        @param watch: called with the caller of a new session and with what ends it, to be
            called when that caller is not welcome any more; gives what to call when the
            session has ended by itself.
        @param charge: asked before each request that comes over a connection of its own, with
            the caller; may raise L{McpRefused}.  Over HTTP, whoever guards the site has
            counted the request already.
        """
        self.clock = clock
        self.limits = Limits() if limits is None else limits
        self.announcer = Announcer(clock, self.limits.quiet_seconds)
        self._rng = rng
        info = {"name": name, "version": version}
        if title is not None:
            info["title"] = title
        #: What every stateless result says of us.
        self.identity: dict[str, Any] = {wire.META_SERVER: info}
        self._offers = Offers()
        #: What requests are answered with.
        self.methods = Methods(self._offers, self.limits, self.identity, instructions, logs)
        self._watch = watch
        self._charge = charge
        # Of HTTP, by id, those that rested longest first.
        self._sessions: dict[str, Session] = {}
        self._ids: dict[Session, str] = {}
        self._timers: dict[Session, IDelayedCall] = {}
        # All that are open, whatever the binding.
        self._open: dict[Session, None] = {}
        self._unwatch: dict[Session, Callable[[], None]] = {}
        self._retiring: dict[Session, IDelayedCall] = {}
        self._calls = 0
        self._listens = 0
        self._stopped = False

    # --- what is offered -------------------------------------------------------------

    def add_tool(self, tool: Tool) -> None:
        """
        Offer a tool.  Who is there already learns of it by L{tools_changed}.

        @raise ValueError: if there is one of that name, or its schema is none.
        """
        self._offers.add_tool(tool)

    def remove_tool(self, name: str) -> None:
        """@raise KeyError: if there is none of that name."""
        self._offers.remove_tool(name)

    def add_resource(self, resource: Resource) -> None:
        """@raise ValueError: if there is one of that URI."""
        self._offers.resources.add(resource.uri, resource)

    def remove_resource(self, uri: str) -> None:
        """@raise KeyError: if there is none of that URI."""
        self._offers.resources.remove(uri)

    def add_template(self, template: ResourceTemplate) -> None:
        """@raise ValueError: if there is one of that form."""
        self._offers.templates.add(template.uri_template, template)

    def add_prompt(self, prompt: Prompt) -> None:
        """@raise ValueError: if there is one of that name."""
        self._offers.prompts.add(prompt.name, prompt)

    def tools_changed(self) -> None:
        """
        Say to every client that the list of tools, or what one is described by, is another
        now: at once, or at the end of L{Limits.quiet_seconds}.
        """
        self.announcer.changed(Change(TOOLS))

    def resources_changed(self) -> None:
        """The same for the lists of resources and templates."""
        self.announcer.changed(Change(RESOURCES))

    def prompts_changed(self) -> None:
        """The same for the list of prompts."""
        self.announcer.changed(Change(PROMPTS))

    def resource_updated(self, uri: str) -> None:
        """Say to those who subscribed to it that a resource has another content now."""
        self.announcer.changed(Change(uri, False))

    # --- who is there ----------------------------------------------------------------

    def session(
        self,
        send: Send | None,
        caller: Any,
        view: Any = None,
        ended: Callable[[], None] | None = None,
        room: Callable[[], bool] | None = None,
    ) -> Session:
        """
        @param send: takes each message for this client; L{None} if there is no way yet.
        @param caller: who it is; handlers get it.
        @param view: what the client chose to be shown.
        @param ended: called when the session is closed, by whomever.
        @param room: says whether there is room for what can as well be left out.
        @return: a client.  Whoever made it closes it.
        """
        session = Session(self, send, caller, view, ended, room)
        self._open[session] = None
        if self._watch is not None:
            unwatch = self._watch(caller, partial(self._retire, session))
            if session.closed:
                unwatch()
            else:
                self._unwatch[session] = unwatch
        return session

    def _retire(self, session: Session) -> None:
        """
        End a session whose caller is not welcome any more.  What is being answered may be
        what ended the welcome, such as a token that is revoked with itself.
        """
        if session.calling:
            self._retiring[session] = self.clock.callLater(RETIRE_SECONDS, session.close)
        else:
            session.close()

    def forget(self, session: Session) -> None:
        """Called by a session that is closed."""
        self._open.pop(session, None)
        unwatch = self._unwatch.pop(session, None)
        if unwatch is not None:
            unwatch()
        id = self._ids.pop(session, None)
        if id is not None:
            del self._sessions[id]
        timer = self._timers.pop(session, None)
        if timer is not None:
            timer.cancel()
        retiring = self._retiring.pop(session, None)
        if retiring is not None and retiring.active():
            retiring.cancel()

    def register(self, session: Session) -> str:
        """
        Keep a session between requests.

        @return: the id by which L{resume} finds it.
        @raise McpRefused: if there are too many, and all are at work.
        """
        self._check_going()
        if len(self._sessions) >= self.limits.sessions:
            resting = next((s for s in self._sessions.values() if not s.busy), None)
            if resting is None:
                raise McpRefused(
                    wire.BUSY, f"{self.limits.sessions} sessions are at work: try again later"
                )
            resting.close()
        id = f"{self._rng.getrandbits(_ID_BITS):064x}"
        self._sessions[id] = session
        self._ids[session] = id
        self.rested(session)
        return id

    def resume(self, id: str, caller: Any) -> Session | None:
        """
        @return: the session of that id, if it is there and is this caller's.
        """
        session = self._sessions.get(id)
        if session is None or session.caller != caller:
            return None
        # The last in the dict is the one that rested least.
        del self._sessions[id]
        self._sessions[id] = session
        self.rested(session)
        return session

    def rested(self, session: Session) -> None:
        """Called when a session has done something: from now on it is idle, or it is busy."""
        if session not in self._ids:
            return
        timer = self._timers.get(session)
        if timer is None:
            self._timers[session] = self.clock.callLater(
                self.limits.idle_seconds, self._idle, session
            )
        else:
            timer.reset(self.limits.idle_seconds)

    def _idle(self, session: Session) -> None:
        del self._timers[session]
        if session.busy:
            self.rested(session)
        else:
            session.close()

    @property
    def sessions(self) -> int:
        """How many clients are there, whatever the binding."""
        return len(self._open)

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return self._calls

    def stop(self) -> None:
        """End every stream in good order, cancel every call, close every session."""
        self._stopped = True
        self.announcer.stop()
        for session in list(self._open):
            session.close()

    def charge(self, caller: Any) -> None:
        """@raise McpRefused: if a caller is not granted another request now."""
        if self._charge is not None:
            self._charge(caller)

    def take_call(self) -> None:
        """@raise McpRefused: if too many calls are under way."""
        self._check_going()
        if self._calls >= self.limits.calls:
            raise McpRefused(
                wire.BUSY, f"{self.limits.calls} calls are under way already: try again later"
            )
        self._calls += 1

    def _check_going(self) -> None:
        if self._stopped:
            raise McpRefused(wire.BUSY, "the server is stopping")

    def give_back_call(self) -> None:
        """A call is over."""
        self._calls -= 1

    def take_listen(self) -> None:
        """@raise McpRefused: if there are too many subscriptions, or they all end now."""
        self._check_going()
        if self._listens >= self.limits.listens:
            raise McpRefused(
                wire.BUSY, f"{self.limits.listens} subscriptions are open already: try again later"
            )
        self._listens += 1

    def give_back_listen(self) -> None:
        """A subscription is over."""
        self._listens -= 1

    # --- what comes ----------------------------------------------------------------

    def read(self, text: bytes) -> wire.Message:
        """@raise wire.Malformed: if a text is no message, or is over a limit."""
        if len(text) > self.limits.message:
            raise wire.Malformed(
                wire.INVALID_REQUEST, f"a message can have {self.limits.message} bytes"
            )
        return wire.read_message(text, self.limits.nesting)
