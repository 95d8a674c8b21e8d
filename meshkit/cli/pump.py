"""
What stands between a client of MCP on standard input and output, and a node that may come
and go: the state of one conversation.

::

    client --from_client()--> Pump --to_node-->   node
           <--to_client------      <--from_node()

    down        no node: what the client says waits, up to a limit
    restoring   a node is there, and is told silently what the last one knew
    up          messages go through as they are

Messages are not changed and not judged: a node speaks for itself, in either generation of the
protocol.  What is remembered is what a node that was started anew has to be told, and to what
an answer is owed:

  - the handshake (C{initialize}, C{notifications/initialized}), the log level, the resources
    that were subscribed to, and the streams of C{subscriptions/listen}.  A new node is told
    them again; its answers to that, the client has had already.
  - requests under way.  When the node goes, each is answered with an error: nobody knows
    whether it was done, so nobody may say it again but the client.

After that the client is told that the lists of tools and resources may have changed.

Sources: MCP 2025-11-25 (lifecycle, cancellation, resources) and 2026-07-28 (subscriptions).

Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import msgspec
from attrs import define, frozen

from meshkit.errors import DoorUnreachable
from meshkit.web.lines import MAX_ID_BYTES

__all__ = [
    "MAX_PENDING",
    "MAX_REMEMBERED",
    "MAX_REMEMBERED_BYTES",
    "MAX_WAITING",
    "Pump",
    "State",
]

#: Requests that may be under way at a time; one more is refused.
MAX_PENDING: Final = 1024
#: Bytes that may wait for a node; with more, the client is not read any more.
MAX_WAITING: Final = 1024 * 1024
#: Subscriptions that are remembered, of each kind, and bytes of what is said again of one.
MAX_REMEMBERED: Final = 1024
MAX_REMEMBERED_BYTES: Final = 16 * 1024

# JSON-RPC's own, and the one that the SDKs of MCP use for a connection that ended.
_INVALID_REQUEST: Final = -32600
_CONNECTION_CLOSED: Final = -32000

_INITIALIZE: Final = "initialize"
_LISTEN: Final = "subscriptions/listen"
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_CANCELLED: Final = "notifications/cancelled"
_SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"
#: Capability of a node -> what it says when that list has changed; and how it is asked for
#: in C{subscriptions/listen}.
_LISTS: Final = {
    "tools": ("notifications/tools/list_changed", "toolsListChanged"),
    "resources": ("notifications/resources/list_changed", "resourcesListChanged"),
    "prompts": ("notifications/prompts/list_changed", "promptsListChanged"),
}

_NOTHING: Final = msgspec.Raw(b"")


class State(Enum):
    """See the module."""

    DOWN = "down"
    RESTORING = "restoring"
    UP = "up"


class _Message(msgspec.Struct):
    """As much of a message as is looked at."""

    id: msgspec.Raw = _NOTHING
    method: str | None = None
    params: msgspec.Raw = _NOTHING
    result: msgspec.Raw = _NOTHING

    @property
    def key(self) -> Any:
        """
        The id, such that one spelt otherwise is the same; L{None} if there is none, or one
        that is too long to be remembered.
        """
        return _value(self.id) if len(self.id) <= MAX_ID_BYTES else None

    @property
    def is_request(self) -> bool:
        return self.method is not None and self.key is not None

    def parameter(self, name: str) -> Any:
        """@return: a member of the parameters; L{None} if it is not there."""
        return _members(self.params).get(name)


@frozen
class _Said:
    """What the client said: a line, and the messages in it; none if it is not understood."""

    line: bytes
    messages: tuple[_Message, ...]


@frozen
class _Owed:
    """
    @ivar id: the JSON text of the id of a request that has to be answered.
    @ivar said: the request, if it may be said again.
    """

    id: bytes
    method: str
    said: _Said | None


@define
class _Listening:
    """
    A stream of C{subscriptions/listen}.

    @ivar honoured: what the node said that it would tell.
    """

    said: _Said
    id: bytes
    honoured: dict[str, Any] | None = None


class Pump:
    """
    See the module.

    @ivar state: whether there is a node.
    """

    def __init__(
        self,
        to_client: Callable[[bytes], None],
        to_node: Callable[[bytes], None],
        complain: Callable[[str], None],
    ) -> None:
        """
        @param to_client: called with each line for the client, without its end.
        @param to_node: the same for the node; only while there is one.
        @param complain: called when the conversation cannot go on, with the reason.
        """
        self.state = State.DOWN
        self._to_client = to_client
        self._to_node = to_node
        self._complain = complain
        self._waiting: deque[_Said] = deque()
        self._waiting_bytes = 0
        self._waiting_requests = 0
        # In the order in which they were asked.
        self._pending: dict[Any, _Owed] = {}
        # What the node asked the client.
        self._asked: dict[Any, bytes] = {}
        # What a new node has to be told.
        self._hello: _Said | None = None
        self._agreed: dict[str, Any] = {}
        self._initialized: bytes | None = None
        self._log_level: bytes | None = None
        self._resources: dict[str, bytes] = {}
        self._listening: dict[Any, _Listening] = {}
        # What the present one was told, and has not answered yet.
        self._silent: dict[str, Callable[[_Message], None] | None] = {}
        self._silent_acknowledgements: set[Any] = set()
        self._numbers = 0

    @property
    def idle(self) -> bool:
        """Is no answer owed?  A stream has none before it ends."""
        if self._waiting_requests:
            return False
        return all(owed.method == _LISTEN for owed in self._pending.values())

    @property
    def full(self) -> bool:
        """Waits so much for a node that no more should be read?"""
        return self._waiting_bytes > MAX_WAITING

    @property
    def wanted(self) -> bool:
        """Does a request wait for a node?"""
        return self._waiting_requests > 0

    # --- the client ----------------------------------------------------------------

    def from_client(self, line: bytes) -> None:
        """@param line: one line of the client's, without its end."""
        said = _Said(line, _messages(line))
        if self.state is State.UP:
            self._pass(said)
        elif not self._withdraw(said):
            self._waiting.append(said)
            self._count(said, 1)

    def _count(self, said: _Said, sign: int) -> None:
        self._waiting_bytes += sign * len(said.line)
        self._waiting_requests += sign * sum(each.is_request for each in said.messages)

    def too_long(self, request_id: bytes | None, limit: int) -> None:
        """
        The client said something that is longer than any message may be.

        @param request_id: the JSON text of its id, if it has one.
        @param limit: bytes that a message may have.
        """
        self._refuse(
            request_id or b"null",
            _INVALID_REQUEST,
            f"the message is longer than the {limit} bytes that one may have",
            "BODY_TOO_LARGE",
        )

    def _withdraw(self, said: _Said) -> bool:
        """Was it the cancellation of something that waits as well?  Then neither is needed."""
        for message in said.messages:
            if message.method == _CANCELLED:
                gone = message.parameter("requestId")
                for other in self._waiting:
                    if any(m.is_request and m.key == gone for m in other.messages):
                        self._waiting.remove(other)
                        self._count(other, -1)
                        return True
        return False

    def _pass(self, said: _Said) -> None:
        """To the node, which is there."""
        requests = [message for message in said.messages if message.is_request]
        if requests and len(self._pending) + len(requests) > MAX_PENDING:
            for message in requests:
                self._refuse(
                    bytes(message.id),
                    _CONNECTION_CLOSED,
                    f"{MAX_PENDING} requests are under way already: wait for an answer",
                    "OVERLOADED",
                )
            return
        for message in said.messages:
            if message.is_request:
                self._ask(message, said)
            elif message.method is not None:
                self._notify(message, said)
            elif self._asked.pop(message.key, None) is None:
                # The node that asked this is gone.
                return
        self._to_node(said.line)

    def _ask(self, message: _Message, said: _Said) -> None:
        key, method = message.key, str(message.method)
        alone = len(said.messages) == 1
        keep = said if method == _INITIALIZE and alone else None
        self._pending[key] = _Owed(bytes(message.id), method, keep)
        if not alone or len(said.line) > MAX_REMEMBERED_BYTES:
            # What is remembered is said again alone, and has to be small.
            return
        if method == _LISTEN and len(self._listening) < MAX_REMEMBERED:
            self._listening[key] = _Listening(said, bytes(message.id))
        elif method == "logging/setLevel":
            self._log_level = said.line
        elif method == "resources/subscribe" and len(self._resources) < MAX_REMEMBERED:
            self._resources[str(message.parameter("uri"))] = said.line
        elif method == "resources/unsubscribe":
            self._resources.pop(str(message.parameter("uri")), None)

    def _notify(self, message: _Message, said: _Said) -> None:
        if message.method == "notifications/initialized":
            self._initialized = said.line
        elif message.method == _CANCELLED:
            # No answer may come to what was cancelled.
            self._pending.pop(message.parameter("requestId"), None)
            self._listening.pop(message.parameter("requestId"), None)

    # --- the node --------------------------------------------------------------------

    def node_up(self) -> None:
        """A node is there, and knows nothing yet."""
        self._silent, self._silent_acknowledgements = {}, set()
        if self._hello is None:
            self._restore()
            return
        self.state = State.RESTORING
        self._tell(self._hello.line, self._on_welcome)

    def node_down(self, why: str) -> None:
        """
        The node has gone.

        @param why: what the client is told, for what is left without an answer.
        """
        if self.state is State.DOWN:
            return
        self.state = State.DOWN
        pending, self._pending = self._pending, {}
        for key, owed in reversed(pending.items()):
            if owed.said is not None:
                # It changes nothing, so it can be said again.
                self._waiting.appendleft(owed.said)
                self._count(owed.said, 1)
            elif key in self._listening:
                self._pending[key] = owed
        for key, owed in pending.items():
            if owed.said is None and key not in self._pending:
                self._refuse(owed.id, _CONNECTION_CLOSED, why)
        asked, self._asked = self._asked, {}
        for request_id in asked.values():
            params = b'{"requestId":%b,"reason":"the node has gone"}' % request_id
            self._say(_CANCELLED, params)

    def give_up(self, why: str, code: str = DoorUnreachable.code) -> None:
        """
        No node comes.

        @param why: what is answered to the requests that wait for one.
        @param code: that of the error, for programs.
        """
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = self._waiting_requests = 0
        for said in waiting:
            for message in said.messages:
                if message.is_request:
                    self._refuse(bytes(message.id), _CONNECTION_CLOSED, why, code)
                elif message.method is not None:
                    self._notify(message, said)

    def from_node(self, line: bytes) -> None:
        """@param line: one line of the node's, without its end."""
        for message in _messages(line):
            if not self._is_for_client(message):
                return
        self._to_client(line)

    def node_too_long(self, request_id: bytes | None, limit: int) -> None:
        """
        The node said something that is longer than what is passed on.

        @param request_id: the JSON text of its id, if it has one.
        @param limit: bytes that may be passed on.
        """
        key = None if request_id is None else _value(msgspec.Raw(request_id))
        owed = self._pending.pop(key, None)
        if owed is not None:
            self._refuse(
                owed.id,
                _CONNECTION_CLOSED,
                f"the answer is longer than {limit} bytes: ask for less at a time",
                "BODY_TOO_LARGE",
            )

    def _is_for_client(self, message: _Message) -> bool:
        key = message.key
        if message.method is not None:
            if key is not None:
                self._asked[key] = bytes(message.id)
                if len(self._asked) > MAX_PENDING:
                    del self._asked[next(iter(self._asked))]
            elif message.method == _ACKNOWLEDGED:
                return self._acknowledged(message)
            return True
        if isinstance(key, str) and key in self._silent:
            heard = self._silent.pop(key)
            if heard is not None:
                heard(message)
            return False
        owed = self._pending.pop(key, None)
        if owed is not None and owed.said is not None and message.result:
            self._hello = owed.said
            self._agreed = _members(message.result)
        self._listening.pop(key, None)
        return True

    def _acknowledged(self, message: _Message) -> bool:
        meta = message.parameter("_meta")
        key = meta.get(_SUBSCRIPTION_ID) if isinstance(meta, dict) else None
        listening = self._listening.get(key)
        if listening is not None:
            honoured = message.parameter("notifications")
            listening.honoured = honoured if isinstance(honoured, dict) else {}
        if key in self._silent_acknowledgements:
            self._silent_acknowledgements.discard(key)
            return False
        return True

    # --- telling a new node ----------------------------------------------------------

    def _on_welcome(self, message: _Message) -> None:
        if not message.result:
            self._complain("the node that was started anew refuses the client's handshake")
            return
        welcome = _members(message.result)
        if welcome.get("protocolVersion") != self._agreed.get("protocolVersion"):
            self._complain(
                f"the node that was started anew speaks {welcome.get('protocolVersion')}, and "
                f"{self._agreed.get('protocolVersion')} was agreed on"
            )
            return
        self._agreed = welcome
        self._restore()

    def _restore(self) -> None:
        again = self._hello is not None
        if again and self._initialized is not None:
            self._to_node(self._initialized)
        for line in (self._log_level, *self._resources.values()):
            if line is not None:
                self._tell(line, None)
        for key, listening in self._listening.items():
            if listening.honoured is not None:
                self._silent_acknowledgements.add(key)
            self._to_node(listening.said.line)
        self.state = State.UP
        if again:
            capabilities = self._agreed.get("capabilities")
            for name, (method, _) in _LISTS.items():
                offered = capabilities.get(name) if isinstance(capabilities, dict) else None
                if isinstance(offered, dict) and offered.get("listChanged"):
                    self._say(method)
        for listening in self._listening.values():
            for method, asked_for in _LISTS.values():
                if (listening.honoured or {}).get(asked_for):
                    meta = b'{"_meta":{"%b":%b}}' % (_SUBSCRIPTION_ID.encode(), listening.id)
                    self._say(method, meta)
        while self._waiting and self.state is State.UP:
            said = self._waiting.popleft()
            self._count(said, -1)
            self._pass(said)

    def _tell(self, line: bytes, heard: Callable[[_Message], None] | None) -> None:
        """Send a request of the client's again, under an id of our own."""
        members = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        self._numbers += 1
        own = f"meshkit-mcp-{self._numbers}"
        self._silent[own] = heard
        members["id"] = msgspec.Raw(msgspec.json.encode(own))
        self._to_node(msgspec.json.encode(members))

    # --- saying something ourselves ----------------------------------------------------

    def _refuse(
        self, request_id: bytes, number: int, why: str, code: str = DoorUnreachable.code
    ) -> None:
        error = msgspec.json.encode({"code": number, "message": why, "data": {"code": code}})
        self._to_client(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id, error))

    def _say(self, method: str, params: bytes | None = None) -> None:
        more = b"" if params is None else b',"params":%b' % params
        self._to_client(b'{"jsonrpc":"2.0","method":"%b"%b}' % (method.encode("ascii"), more))


def _messages(line: bytes) -> tuple[_Message, ...]:
    """@return: the messages of a line, one or those of a batch; none if it makes no sense."""
    try:
        if line.lstrip()[:1] == b"[":
            return tuple(msgspec.json.decode(line, type=list[_Message]))
        return (msgspec.json.decode(line, type=_Message),)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()


def _value(raw: msgspec.Raw) -> Any:
    """@return: the number or string that an id is; L{None} for anything else."""
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw, type=int | str)
    except msgspec.MsgspecError:
        return None


def _members(raw: msgspec.Raw) -> dict[str, Any]:
    """@return: the members of an object; none if it is something else."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any]) if raw else {}
    except msgspec.MsgspecError:
        return {}
