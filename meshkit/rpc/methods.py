"""
What can be called: methods, declared once for both sides, and who serves them.

A declaration holds the types, so that both sides read bytes into the same ones, and the
sizes.  Types that would take anything (C{Any}, C{object}, a bare C{list}, types within
themselves) are refused: with those the sender would decide what the receiver builds.
Bytes that are none of the method's business travel as C{bytes} or C{msgspec.Raw}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec
import msgspec.inspect as inspection
from attrs import field, frozen
from msgspec import Raw

from meshkit.errors import InvalidAnswer, InvalidRequest
from meshkit.rpc.codec import DECODE_ERRORS, ENVELOPE_BYTES, MAX_METHOD
from meshkit.runtime.limits import DEFAULT_MESSAGE, MAX_MESSAGE, check_size

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A")

#: Called with the connection, a L{meshkit.rpc.protocol.RPCProtocol}, and the request.
#: See L{Dispatcher.serve}.
Handler = Callable[[Any, Q], "A | Awaitable[A]"]

#: The largest params and results: a message with them is within MAX_MESSAGE.
MAX_BODY: Final = MAX_MESSAGE - ENVELOPE_BYTES


@frozen(eq=False)
class Method(Generic[Q, A]):
    """
    One thing that a peer can be asked.

    A declaration that cannot be served raises L{ValueError} when it is made; types that
    msgspec cannot tell apart on the wire, its L{TypeError}.

    @ivar name: up to L{MAX_METHOD} characters, unique in a dispatcher.
    @ivar request: an C{array_like} Struct: its fields, in order, are the params.  Fields
        that are added later need defaults, so that older callers are understood.
    @ivar answer: the type of the answer, as msgspec knows types.
    @ivar cost: tokens that a call takes from the caller's bucket.
    @ivar max_request: bytes of the encoded request, at most L{MAX_BODY}.
    @ivar max_answer: bytes of the encoded answer, at most L{MAX_BODY}.
    @ivar doc: one sentence.
    """

    name: str
    request: type[Q]
    answer: type[A]
    cost: float = field(default=1.0, kw_only=True)
    max_request: int = field(default=DEFAULT_MESSAGE, kw_only=True)
    max_answer: int = field(default=DEFAULT_MESSAGE, kw_only=True)
    doc: str = field(default="", kw_only=True)
    _requests: Any = field(init=False, repr=False)
    _answers: Any = field(init=False, repr=False)

    @_requests.default
    def _request_decoder(self) -> Any:
        return msgspec.msgpack.Decoder(self.request)

    @_answers.default
    def _answer_decoder(self) -> Any:
        return msgspec.msgpack.Decoder(self.answer)

    def __attrs_post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_METHOD:
            raise ValueError(f"{self.name!r} is not a name of 1 to {MAX_METHOD} characters")
        if not self.cost >= 0:
            raise ValueError(f"{self.name}: a call cannot cost {self.cost}")
        for size in (self.max_request, self.max_answer):
            if not 0 < size <= MAX_BODY:
                raise ValueError(f"{self.name}: {size} is not a size of 1 to {MAX_BODY} bytes")
        info = inspection.type_info(self.request)
        if not (isinstance(info, inspection.StructType) and info.array_like):
            raise ValueError(f"{self.name}: the request has to be an array_like Struct")
        for kind in (info, inspection.type_info(self.answer)):
            for problem in _open_ended(kind, ()):
                raise ValueError(f"{self.name}: {problem}")

    def read_request(self, params: Raw | bytes) -> Q:
        """
        @raise FrameTooLarge: it is larger than the method allows.
        @raise InvalidRequest: it is not of the request's type.
        """
        check_size(f"a request of {self.name!r}", len(params), self.max_request)
        try:
            request: Q = self._requests.decode(params)
        except DECODE_ERRORS as e:
            raise InvalidRequest(f"the params of {self.name!r} do not fit: {e}") from None
        return request

    def read_answer(self, result: Raw | bytes) -> A:
        """@raise InvalidAnswer: it is too large, or not of the answer's type."""
        if len(result) > self.max_answer:
            raise InvalidAnswer(
                f"the peer's answer to {self.name!r} has {len(result)} bytes, over the limit of "
                f"{self.max_answer}"
            )
        try:
            answer: A = self._answers.decode(result)
        except DECODE_ERRORS as e:
            raise InvalidAnswer(f"the peer's answer to {self.name!r} does not fit: {e}") from None
        return answer


def _open_ended(info: Any, within: tuple[Any, ...]) -> Iterator[str]:
    """What in a type would take values of any kind or depth."""
    if isinstance(info, inspection.AnyType | inspection.CustomType):
        yield "a type takes anything: say what it takes"
    if any(info is outer for outer in within):
        yield f"the type {getattr(info, 'cls', info)} is within itself: it has no depth"
        return
    inner = (*within, info)
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, inspection.Field):
                yield from _open_ended(each.type, inner)
            elif isinstance(each, inspection.Type):
                yield from _open_ended(each, inner)


@frozen
class Served(Generic[Q, A]):
    """A method and who answers it."""

    method: Method[Q, A]
    handler: Handler[Q, A]


class Dispatcher:
    """
    The methods that are served, on any number of connections.

    @ivar largest_request: bytes of the largest request that some method takes.
    """

    def __init__(self) -> None:
        self._served: dict[str, Served[Any, Any]] = {}
        self.largest_request = 0

    def serve(self, method: Method[Q, A], handler: Handler[Q, A]) -> None:
        """
        Offer a method.

        @param handler: called with the connection (it may ask the peer back there) and
            the request.  It gives the answer, a Deferred or a coroutine of it, or raises:
            a L{MeshkitError <meshkit.errors.MeshkitError>} reaches the caller with its
            code, sentence and details, anything else as C{INTERNAL_ERROR} alone.  What
            it waits for is cancelled when the connection ends.
        @raise ValueError: if the name is served already.
        """
        if method.name in self._served:
            raise ValueError(f"the method {method.name!r} is served already")
        self._served[method.name] = Served(method, handler)
        self.largest_request = max(self.largest_request, method.max_request)

    def find(self, name: str) -> Served[Any, Any] | None:
        """@return: L{None} if nobody serves it."""
        return self._served.get(name)

    @property
    def methods(self) -> tuple[Method[Any, Any], ...]:
        """What is served, in the order in which it was offered."""
        return tuple(served.method for served in self._served.values())
