"""
One client: what it has under way, and what it wants to be told of.

A session takes messages and gives messages; it knows no transport.  Over lines and in
memory it is one connection, over HTTP what C{Mcp-Session-Id} names, and for a stateless
request over HTTP it lasts for that request::

    new --initialize--> open --close()--> closed

A stateless request needs no C{initialize}, and is served in every state but the last, so
that both generations can be spoken on one connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire
from meshkit.web.mcp.calls import Call, Outlet
from meshkit.web.mcp.changes import PROMPTS, RESOURCES, TOOLS, Change, Listener

if TYPE_CHECKING:
    from meshkit.web.mcp.server import Server

Send = Callable[[bytes], None]

_CANCELLED: Final = McpRefused(wire.CANCELLED, "the request was cancelled")


class Session:
    """
    Made by L{Server.session<meshkit.web.mcp.server.Server.session>}.

    @ivar caller: who it is, as the binding knows them.
    @ivar view: what the client chose to be shown, or L{None}.
    @ivar version: the version agreed on; L{None} before C{initialize}.
    @ivar capabilities: what the client said that it can do.
    @ivar client: name and version of the client's program, for people.
    @ivar log_level: what it wants to be told of logs.
    """

    _log = Logger()

    def __init__(
        self,
        server: Server,
        send: Send | None,
        caller: Any,
        view: Any,
        ended: Callable[[], None] | None,
        room: Callable[[], bool] | None,
    ) -> None:
        self.server = server
        self.caller = caller
        self.view = view
        self.version: str | None = None
        self.capabilities: Mapping[str, Any] = {}
        self.client = ""
        self.log_level: str | None = "debug"
        self.closed = False
        self._send = send
        self._end = ended
        self._room = room
        # What could not be told, as nobody listened: each change once.
        self._missed: dict[Change, None] = {}
        self._calls: dict[wire.Id, Call] = {}
        self._listens: dict[wire.Id, tuple[Listener, Outlet]] = {}
        self._asked: dict[int, Deferred[dict[str, Any]]] = {}
        self._last_question = 0
        self._uris: dict[str, None] = {}
        self._listener: Listener | None = None
        self._outlet = _Line(self)

    @property
    def busy(self) -> bool:
        """Is a call under way, or a stream open?"""
        return bool(self._calls or self._listens or self._send)

    @property
    def calling(self) -> bool:
        """Is a call under way?"""
        return bool(self._calls)

    # --- what comes ------------------------------------------------------------------

    def receive(self, text: bytes) -> None:
        """
        Take one message; what is owed for it goes to C{send}, now or later.  Nothing is
        raised, whatever was sent.
        """
        if self.closed:
            return
        try:
            message = self.server.read(text)
        except wire.Malformed as e:
            self.push(wire.refusal(e.id, e))
            return
        if isinstance(message, wire.Request):
            try:
                self.server.charge(self.caller)
            except McpRefused as e:
                self.push(wire.refusal(message.id, e))
                return
        self.handle(message, self._outlet)

    def handle(
        self, message: wire.Message, outlet: Outlet, headers: wire.Headers | None = None
    ) -> None:
        """
        Take a message that was read already.

        @param outlet: where its answer goes, and what comes before the answer.
        @param headers: of a stateless request over HTTP.
        """
        if isinstance(message, wire.Reply):
            self._replied(message)
        elif isinstance(message, wire.Notice):
            self._told(message)
        else:
            self._serve(message, outlet, headers)

    def _serve(self, request: wire.Request, outlet: Outlet, headers: wire.Headers | None) -> None:
        try:
            if headers is not None or wire.is_stateless(request.params):
                envelope = wire.read_envelope(request, headers)
                self.server.methods.serve_stateless(self, request, envelope, outlet)
            else:
                self.server.methods.serve(self, request, outlet)
        except McpRefused as e:
            outlet.finish(wire.refusal(request.id, e), e.rpc_code)
        except Exception:
            self._log.failure("the MCP method {method} failed", method=request.method)
            error = internal_error()
            outlet.finish(wire.refusal(request.id, error), error.rpc_code)

    def _told(self, notice: wire.Notice) -> None:
        if notice.method == "notifications/cancelled":
            try:
                self.cancel(notice.params.id("requestId"))
            except McpRefused:
                # A notification gets no answer, also not this one.
                self._log.debug("a client cancels something that is no request")

    def _replied(self, reply: wire.Reply) -> None:
        asked = self._asked.pop(reply.id, None) if isinstance(reply.id, int) else None
        if asked is None:
            return  # It comes too late, or was never asked for.
        if reply.error is not None:
            code, message = reply.error
            asked.errback(McpRefused(code, f"the client refused: {message[:300]}"))
            return
        assert reply.result is not None
        try:
            result: dict[str, Any] = msgspec.json.decode(reply.result, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            asked.errback(McpRefused(wire.INVALID_REQUEST, "the client's result is no object"))
        else:
            asked.callback(result)

    # --- what goes -------------------------------------------------------------------

    def push(self, text: bytes) -> None:
        """Send a message that belongs to no request.  There has to be where to."""
        if self._send is not None and not self.closed:
            self._send(text)

    def room(self) -> bool:
        """Is there room for what can as well be left out?"""
        return self._room is None or self._room()

    def attach(self, send: Send, ended: Callable[[], None]) -> None:
        """
        From now on there is somewhere to send to, first what was missed.

        @param ended: called when the session is closed.
        """
        self._send, self._end = send, ended
        missed, self._missed = self._missed, {}
        for change in missed:
            send(change.text())

    def detach(self) -> None:
        """From now on there is not."""
        self._send = self._end = None

    @property
    def attached(self) -> bool:
        """Is there somewhere to send to?"""
        return self._send is not None

    def open(self, version: str, capabilities: Mapping[str, Any], client: str) -> None:
        """The client has introduced itself: from now on it is told of changes."""
        self.version = version
        self.capabilities = capabilities
        self.client = client
        lists = (TOOLS, PROMPTS, RESOURCES)
        self._listener = Listener(self._tell, _stay, lists, self._uris)
        self.server.announcer.add(self._listener)

    def _tell(self, change: Change) -> None:
        if self._send is None:
            self._missed[change] = None
        else:
            self._send(change.text())

    def subscribe(self, uri: str) -> None:
        """@raise McpRefused: if that is one too many."""
        if uri not in self._uris and len(self._uris) >= self.server.limits.subscriptions:
            limit = self.server.limits.subscriptions
            raise McpRefused(wire.BUSY, f"a client can subscribe to {limit} resources")
        self._uris[uri] = None

    def unsubscribe(self, uri: str) -> None:
        """It does no harm if there is no such subscription."""
        self._uris.pop(uri, None)
        self._missed.pop(Change(uri, False), None)

    # --- calls -----------------------------------------------------------------------

    def begin(self, request: wire.Request, outlet: Outlet, envelope: wire.Envelope | None) -> Call:
        """
        @return: a call that is under way from now on.
        @raise McpRefused: if that is one too many, or the id is taken.
        """
        self._check_id(request.id)
        limits = self.server.limits
        if len(self._calls) >= limits.session_calls:
            raise _busy(f"{limits.session_calls} calls of this client are under way already")
        self.server.take_call()
        call = Call(self, request, outlet, envelope)
        self._calls[request.id] = call
        return call

    def run(self, call: Call, running: Deferred[dict[str, Any]]) -> None:
        """
        @param running: fires with the result, or fails with L{McpRefused} or something
            unforeseen.
        """
        call.running = running
        if self._calls.get(call.id) is not call:
            # While its function was called, the client was cut off.
            running.cancel()
        running.addCallbacks(self._done, self._failed, (call,), {}, (call,), {})
        running.addBoth(self._ended, call)

    def _done(self, result: dict[str, Any], call: Call) -> None:
        if self._leave(call):
            call.outlet.finish(wire.answer(call.id, result), 0)

    def _failed(self, failure: Failure, call: Call) -> None:
        if not self._leave(call):
            # Cancelled: what it fails with is no news.  If it is no CancelledError, it is.
            if failure.check(CancelledError, McpRefused) is None:
                self._log.failure("a cancelled MCP call failed", failure)
            return
        error = failure.value
        if not isinstance(error, McpRefused):
            self._log.failure("an MCP call failed", failure)
            error = internal_error()
        call.outlet.finish(wire.refusal(call.id, error), error.rpc_code)

    def _leave(self, call: Call) -> bool:
        """@return: is anybody still waiting for this call?"""
        call.end()
        if self._calls.get(call.id) is not call:
            return False
        del self._calls[call.id]
        return True

    def _ended(self, result: Any, call: Call) -> None:
        self.server.give_back_call()
        self.server.rested(self)
        if result is not None:
            self._log.failure("answering an MCP call failed", result)

    def cancel(self, id: wire.Id) -> None:
        """The client wants no answer any more."""
        call = self._calls.pop(id, None)
        if call is not None:
            call.end()
            call.outlet.cancelled(wire.refusal(id, _CANCELLED))
            if call.running is not None:
                call.running.cancel()
            return
        listen = self._listens.pop(id, None)
        if listen is not None:
            listener, outlet = listen
            self.server.announcer.remove(listener)
            self.server.give_back_listen()
            outlet.cancelled(wire.refusal(id, _CANCELLED))

    def _check_id(self, id: wire.Id) -> None:
        if id in self._calls or id in self._listens:
            raise McpRefused(
                wire.INVALID_REQUEST, "a request of this id is under way: choose another id"
            )

    # --- the stateless generation's subscriptions ------------------------------------

    def listen(
        self, request: wire.Request, outlet: Outlet, lists: Mapping[str, str], uris: list[str]
    ) -> None:
        """
        Tell a client of what it asked for, until it cancels.

        @param lists: as the client names them, and the lists they stand for.
        @raise McpRefused: if that is one too many, or the id is taken.
        """
        self._check_id(request.id)
        limits = self.server.limits
        if len(self._listens) >= limits.session_listens:
            raise _busy(f"{limits.session_listens} subscriptions of this client are open already")
        self.server.take_listen()
        id = request.id
        meta = {wire.META_SUBSCRIPTION: id}

        def tell(change: Change) -> None:
            outlet.send(change.text(meta))

        def end() -> None:
            del self._listens[id]
            self.server.give_back_listen()
            result = {"resultType": "complete", "_meta": self.server.identity | meta}
            outlet.finish(wire.answer(id, result), 0)

        listener = Listener(tell, end, tuple(lists.values()), tuple(uris))
        self._listens[id] = listener, outlet
        honoured: dict[str, Any] = dict.fromkeys(lists, True)
        if uris:
            honoured["resourceSubscriptions"] = uris
        outlet.send(
            wire.notification(
                "notifications/subscriptions/acknowledged",
                {"notifications": honoured, "_meta": meta},
            )
        )
        self.server.announcer.add(listener)

    # --- asking the client -----------------------------------------------------------

    def ask(self, call: Call, method: str, params: Mapping[str, Any]) -> Deferred[dict[str, Any]]:
        """See L{Call.ask}."""
        if call.stateless:
            return fail(
                McpRefused(wire.INVALID_REQUEST, "this client can be asked by InputRequired only")
            )
        try:
            call.require_for(method)
        except McpRefused as e:
            return fail(e)
        limits = self.server.limits
        if len(self._asked) >= limits.asks:
            return fail(_busy(f"the client has not answered {limits.asks} questions yet"))
        self._last_question += 1
        id = self._last_question

        def cancel(_: Deferred[dict[str, Any]]) -> None:
            if self._asked.pop(id, None) is not None and not self.closed:
                told = {"requestId": id, "reason": "the answer is not needed any more"}
                call.outlet.send(wire.notification("notifications/cancelled", told))

        asked: Deferred[dict[str, Any]] = Deferred(cancel)
        self._asked[id] = asked
        call.outlet.send(wire.request(id, method, params))

        def too_late(_: Any, seconds: float) -> Any:
            raise McpRefused(wire.BUSY, f"the client did not answer {method} in {seconds:g} s")

        return asked.addTimeout(limits.ask_seconds, self.server.clock, too_late)

    # --- the end ---------------------------------------------------------------------

    def close(self) -> None:
        """
        The client is gone, or has to go: what it has under way is cancelled, and nothing is
        sent any more.
        """
        if self.closed:
            return
        self.closed = True
        if self._listener is not None:
            self.server.announcer.remove(self._listener)
        listens, self._listens = self._listens, {}
        for listener, _ in listens.values():
            self.server.announcer.remove(listener)
            self.server.give_back_listen()
        for id in list(self._calls):
            self.cancel(id)
        # Those that no call waits for.
        for question in list(self._asked.values()):
            question.cancel()
        self._missed.clear()
        self._uris.clear()
        self.server.forget(self)
        end, self._end, self._send = self._end, None, None
        if end is not None:
            end()


def _stay() -> None:
    """A server that stops closes its sessions by itself."""


class _Line:
    """The one connection there is, as an L{Outlet}."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def send(self, text: bytes) -> None:
        self._session.push(text)

    def room(self) -> bool:
        return self._session.room()

    def finish(self, text: bytes, code: int) -> None:
        self._session.push(text)

    def cancelled(self, text: bytes) -> None:
        """Nothing: on a line, what was cancelled is not answered."""


def internal_error() -> McpRefused:
    """@return: the error that tells a stranger nothing."""
    return McpRefused(
        wire.INTERNAL_ERROR, "something went wrong inside the server: its log says what"
    )


def _busy(why: str) -> McpRefused:
    return McpRefused(wire.BUSY, f"{why}: try again when one of them is done")
