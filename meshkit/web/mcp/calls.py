"""
One call of a tool, a resource or a prompt: what its function is told, and can say while
it is at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import Deferred

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire

if TYPE_CHECKING:
    from meshkit.web.mcp.sessions import Session

#: What a client has to be able to do to be asked something.
_ASKED_OF: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "roots/list": "roots",
    "sampling/createMessage": "sampling",
}


class Outlet(Protocol):
    """
    Where what belongs to one request goes: its own stream of an HTTP answer, or the one
    connection there is.
    """

    def send(self, text: bytes) -> None:
        """Send a message that is not the last one."""

    def room(self) -> bool:
        """Is there room for what can as well be left out?"""

    def finish(self, text: bytes, code: int) -> None:
        """
        Send the answer, the last message.

        @param code: of the error it is; 0 if it is a good answer.
        """

    def cancelled(self, text: bytes) -> None:
        """
        The client has cancelled, and wants no answer.

        @param text: for where there has to be one.
        """


class Call:
    """
    A call under way.

    @ivar caller: who asks, as the binding knows them.
    @ivar view: what the client chose to be shown, or L{None}.
    @ivar session: the client's; for stateless HTTP it lasts as long as the call.
    @ivar version: the version of the protocol that is spoken.
    @ivar client: the capabilities that the client has declared.
    @ivar arguments_text: the JSON text of the arguments, as the client spelt it.
    @ivar variables: what stands for the names of a template.
    @ivar input_responses: what an L{InputRequired<meshkit.web.mcp.catalogue.InputRequired>}
        had asked for, by name.
    @ivar request_state: what came with it, and is not to be trusted.
    """

    def __init__(
        self,
        session: Session,
        request: wire.Request,
        outlet: Outlet,
        envelope: wire.Envelope | None,
    ) -> None:
        self.session = session
        self.caller = session.caller
        self.view = session.view
        self.id = request.id
        self.stateless = envelope is not None
        self.version = session.version or "" if envelope is None else envelope.version
        self.client = session.capabilities if envelope is None else envelope.capabilities
        self.arguments_text = b"{}"
        self.variables: Mapping[str, str] = {}
        self.input_responses: Mapping[str, Any] = {}
        self.request_state: str | None = None
        self.outlet = outlet
        # A stateless client is told nothing of which it has not said how much it wants.
        self._log_level = session.log_level if envelope is None else envelope.log_level
        self._over = False
        token = request.params.meta.get("progressToken")
        good = isinstance(token, int | str) and not isinstance(token, bool)
        self._token: int | str | None = token if good else None
        self._done: float | None = None
        #: What is cancelled when the client cancels.
        self.running: Deferred[Any] | None = None

    @property
    def wants_progress(self) -> bool:
        """Has the client asked to be told how far it is?"""
        return self._token is not None

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """
        Tell the client how far it is, if it has asked for that.  It is left out if much
        waits for the client already.

        @param done: has to grow from one call to the next; what does not is not sent.
        """
        if self._token is None or self._over or (self._done is not None and done <= self._done):
            return
        if not self.outlet.room():
            return
        self._done = done
        params: dict[str, Any] = {"progressToken": self._token, "progress": done}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = wire.shown(message)
        self.outlet.send(wire.notification("notifications/progress", params))

    def log(self, level: str, data: Any, logger: str | None = None) -> None:
        """
        Tell the client's user something, if that is of the level that they want.

        @param level: one of L{wire.LOG_LEVELS}.
        @param data: of JSON types.
        """
        if self._over or self._log_level is None:
            return
        if wire.LOG_LEVELS.index(level) > wire.LOG_LEVELS.index(self._log_level):
            return
        params: dict[str, Any] = {"level": level, "data": data}
        if logger is not None:
            params["logger"] = logger
        self.outlet.send(wire.notification("notifications/message", params))

    def require(self, *capabilities: str) -> None:
        """@raise McpRefused: naming what the client has not said it can do."""
        missing = [name for name in capabilities if name not in self.client]
        if missing:
            raise McpRefused(
                wire.MISSING_CAPABILITY,
                f"the client has not declared the capability {' and '.join(missing)}",
                {"requiredCapabilities": {name: {} for name in missing}},
            )

    def require_for(self, method: str) -> None:
        """
        @raise McpRefused: if the client has not said that it can be asked this.
        @raise ValueError: if no client can be.
        """
        if method not in _ASKED_OF:
            raise ValueError(f"a client cannot be asked {method}")
        self.require(_ASKED_OF[method])

    def ask(self, method: str, params: Mapping[str, Any]) -> Deferred[dict[str, Any]]:
        """
        Ask the client something while the call is under way.  Only the handshake
        generation has this: an L{InputRequired<meshkit.web.mcp.catalogue.InputRequired>}
        serves both.

        @return: Deferred that fires with the result, and fails with L{McpRefused} if the
            client refuses, cannot be asked, or does not answer in time.
        """
        return self.session.ask(self, method, params)

    def end(self) -> None:
        """There is an answer, or nobody to give it to: nothing is said any more."""
        self._over = True
