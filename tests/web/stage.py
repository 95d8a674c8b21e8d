"""A toy node's operations, and a wire to put them on: shared by the tests of the doors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Annotated, Any

import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress, IHalfCloseableDescriptor
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from meshkit import errors
from meshkit.operations import MAX_BODY, BoundOperation, Nothing, Operation, Page
from meshkit.runtime.events import EventBus
from meshkit.services.agents import AgentDoor
from meshkit.services.door import NodeDoor
from meshkit.testing.identities import DAY_NS
from meshkit.web.callers import OWNER, Caller
from meshkit.web.dispatch import Dispatcher
from meshkit.web.doorkeeper import Doorkeeper
from meshkit.web.limits import LimitedSite
from meshkit.web.rest import RestDoor
from meshkit.web.security import DoorGuard

TOKEN = b"a-token.of_the~door+/="
HOST = "127.0.0.1:7654"
DOOR = IPv4Address("TCP", "127.0.0.1", 7654)
CLIENT = IPv4Address("TCP", "127.0.0.1", 50000)
NOTE = 3000
BATCH = 2 * MAX_BODY
KEY = "@Yb////vvvgABAgMEBQYHCAkKCwwNDg8QERITFBUWF/4=.ed25519"


class Listing(msgspec.Struct, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    newest: bool = False
    tags: list[str] = []
    ratio: float | None = None
    around: int | None = None


class ByAuthor(msgspec.Struct, frozen=True):
    author: str
    after: int = 0


class OneMessage(msgspec.Struct, frozen=True):
    author: str
    sequence: int


class Search(msgspec.Struct, frozen=True):
    q: str


class ById(msgspec.Struct, frozen=True):
    id: str


class Publish(msgspec.Struct, frozen=True, rename={"schema_id": "schemaId"}):
    content: msgspec.Raw
    schema_id: str | None = None
    tags: list[str] = []

    def __post_init__(self) -> None:
        if len(self.tags) > 3:
            raise ValueError("tags: at most 3 can be given")


class Note(msgspec.Struct, frozen=True):
    author: str
    text: str


class ByAddress(msgspec.Struct, frozen=True):
    address: str
    force: bool = False


class Raise(msgspec.Struct, frozen=True):
    name: str


class Shown(msgspec.Struct, frozen=True):
    raw: msgspec.Raw
    sequence: int


class Toys:
    """Handlers that record what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0
        self.is_ready = True

    def ready(self) -> bool:
        return self.is_ready

    def echo(self, request: Any) -> Any:
        self.asked.append(request)
        return request

    async def echo_later(self, request: Any) -> Any:
        self.asked.append(request)
        return request

    def show(self, request: Any) -> Any:
        self.asked.append(request)
        return Shown(msgspec.Raw(b'{"n": 1.00,  "k":"\\u00e9"}'), 7)

    def publish(self, request: Publish) -> Any:
        self.asked.append(request)
        return Shown(request.content, 1)

    def listing(self, request: Listing) -> Any:
        self.asked.append(request)
        return Page(["a", "b"], 9, request.limit, request.offset)

    def nothing(self, request: Any) -> None:
        self.asked.append(request)

    def wait(self, request: Any) -> Deferred[Any]:
        def gone(_d: Deferred[Any]) -> None:
            self.cancelled += 1

        waiting: Deferred[Any] = Deferred(gone)
        self.waiting.append(waiting)
        return waiting

    def raise_named(self, request: Raise) -> Any:
        found = getattr(errors, request.name, None)
        if found is None:
            raise ZeroDivisionError("a secret of the node's insides")
        raise found()

    def not_a_page(self, request: Any) -> Any:
        return ["a"]

    def operations(self) -> list[BoundOperation]:
        def bound(handler: Any, *args: Any, **kw: Any) -> BoundOperation:
            return BoundOperation(Operation(*args, **kw), handler)

        writes = {"permission": "write"}
        return [
            bound(self.nothing, "status", "GET", "/v1/status", Nothing, None, "How it goes."),
            bound(self.listing, "feed", "GET", "/v1/feed", Listing, Page, "All.", paged=True),
            bound(self.echo_later, "author", "GET", "/v1/feed/{author}", ByAuthor, Any, "One's."),
            bound(
                self.show, "one", "GET", "/v1/feed/{author}/{sequence}", OneMessage, Shown, "One."
            ),
            bound(self.listing, "insights", "GET", "/v1/insights", Listing, Page, "", paged=True),
            bound(self.echo, "insight", "GET", "/v1/insights/{id}", ById, ById, "One."),
            bound(self.echo, "search", "GET", "/v1/insights/search", Search, Search, "Search."),
            bound(
                self.publish,
                "publish",
                "POST",
                "/v1/publish",
                Publish,
                Shown,
                "Publish.",
                success=201,
                max_body=BATCH,
                **writes,
            ),
            bound(
                self.echo,
                "note",
                "POST",
                "/v1/notes/{author}",
                Note,
                Note,
                "Write.",
                max_body=NOTE,
                **writes,
            ),
            bound(
                self.echo,
                "forget_peer",
                "DELETE",
                "/v1/peers/{address}",
                ByAddress,
                None,
                "Forget.",
                success=204,
                **writes,
            ),
            bound(self.wait, "wait", "GET", "/v1/wait", Nothing, None, "Wait."),
            bound(self.raise_named, "fail", "GET", "/v1/fail/{name}", Raise, None, "Fail."),
            bound(self.not_a_page, "odd", "GET", "/v1/odd", Nothing, Page, "A bug.", paged=True),
        ]


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code = self.json["error"]["code"]
        assert isinstance(code, str)
        return code


def read_answers(wire: bytes, methods: list[str]) -> list[Answer]:
    """Take the bytes of a connection apart, one answer per method; nothing may be left."""
    answers = []
    for method in methods:
        head, found, wire = wire.partition(b"\r\n\r\n")
        assert found, f"no answer to {method}"
        lines = head.decode("ascii").split("\r\n")
        version, status, _reason = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        headers: dict[str, list[str]] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        length = 0
        if status not in ("204", "100") and method != "HEAD":
            (text,) = headers["content-length"]
            length = int(text)
        answers.append(Answer(int(status), headers, wire[:length]))
        wire = wire[length:]
    assert wire == b"", wire
    return answers


@implementer(IHalfCloseableDescriptor)
class WireTransport(StringTransport):
    """A transport that can be half closed and aborted, and says so."""

    half_closed = False
    aborted = False

    def __init__(self, host: IAddress = DOOR) -> None:
        super().__init__(host, CLIENT)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def writeConnectionLost(self, reason: Failure) -> None:
        raise NotImplementedError

    def readConnectionLost(self, reason: Failure) -> None:
        raise NotImplementedError

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class Connection:
    """A client's end of one connection to a site."""

    def __init__(self, site: LimitedSite, transport: StringTransport | None = None) -> None:
        self.transport = WireTransport() if transport is None else transport
        self.channel = site.buildProtocol(CLIENT)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def drip(self, data: bytes) -> None:
        for i in range(len(data)):
            self.send(data[i : i + 1])

    def answers(self, *methods: str) -> list[Answer]:
        answers = read_answers(self.transport.value(), list(methods))
        self.transport.clear()
        return answers

    def lose(self) -> None:
        self.channel.connectionLost(Failure(ConnectionLost()))


def rest_door(
    operations: list[BoundOperation],
    ready: Any = lambda: True,
    clock: Clock | None = None,
    **limits: Any,
) -> RestDoor:
    """A door without a guard: everybody is the owner."""
    return RestDoor(Dispatcher(operations, ready=ready), clock=clock, unguarded=OWNER, **limits)


def node_door(
    clock: Clock,
    operations: list[BoundOperation],
    tokens: Callable[[bytes], Caller | None],
    **more: Any,
) -> NodeDoor:
    """The door of a node that has nothing else."""
    return NodeDoor(
        clock,
        operations,
        tokens,
        ready=lambda: True,
        rng=Random(1),
        wall_clock=lambda: DAY_NS,
        make_agents=partial(
            AgentDoor,
            clock=clock,
            rng=Random(1),
            ready=lambda: True,
            advice=lambda: (),
            events=EventBus(),
        ),
        **more,
    )


class Stage:
    """The whole door, from the bytes of a connection to the toys."""

    def __init__(self, guarded: bool = True, **limits: Any) -> None:
        self.clock = Clock()
        self.toys = Toys()
        rest = rest_door(self.toys.operations(), self.toys.ready)
        door = rest.resource()
        root: IResource = door
        limits.setdefault("max_body", rest.max_body)
        if guarded:
            root = guard = DoorGuard(door, Doorkeeper(TOKEN))
            limits.setdefault("admit", lambda head: guard.admit(head) or rest.admit(head))
        self.site = LimitedSite(root, self.clock, **limits)

    def connect(self, transport: StringTransport | None = None) -> Connection:
        return Connection(self.site, transport)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str | list[str] | None] | None = None,
    ) -> Answer:
        """One request on a connection of its own, and its answer."""
        connection = self.connect()
        connection.send(request(method, target, body, headers))
        (answer,) = connection.answers(method)
        connection.lose()
        assert not self.clock.getDelayedCalls()
        return answer


def request(
    method: str,
    target: str,
    body: bytes | None = None,
    headers: dict[str, str | list[str] | None] | None = None,
) -> bytes:
    """The bytes of a good request, but for what C{headers} say (C{None}: leave it out)."""
    lines: dict[str, str | list[str] | None] = {
        "Host": HOST,
        "Authorization": f"Bearer {TOKEN.decode()}",
    }
    if body is not None:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= headers or {}
    text = f"{method} {target} HTTP/1.1\r\n"
    for name, value in lines.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            text += f"{name}: {one}\r\n"
    return text.encode("latin-1") + b"\r\n" + (body or b"")
