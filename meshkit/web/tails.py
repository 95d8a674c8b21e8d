"""
A stream as the answer to one call: what is there, or comes within a while.

Beside the request, the caller says when it ends (L{Tail}): C{max_items} have come, or none
has for C{wait_seconds}.  Whoever waits wants to hear at once: after an item, a silence of
L{SETTLE} seconds is the end.  What is stored already comes in any case, without waiting.
The caller goes on with C{last_id}, which is of the type that the field has by which the
stream is resumed; it is that field's own value as long as nothing has come.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from meshkit.errors import MeshkitError, Overloaded
from meshkit.operations import Item, Operation
from meshkit.web.answers import fault
from meshkit.web.requests import reader_of
from meshkit.web.rest import MAX_STREAMS
from meshkit.web.schemas import Tail

#: Seconds without an item after which what was there is taken to be all here.
SETTLE: Final = 0.5
#: Seconds after C{wait_seconds} in which a stream that is never silent ends.
LONGER: Final = 5.0

#: Notices of a stream that one answer tells.
MAX_NOTICES: Final = 20

_OWN: Final = tuple(field.encode_name for field in msgspec.structs.fields(Tail))

Progress = Callable[..., Any]


class Tails:
    """Reads streams to the end that their callers want.  For the reactor's thread."""

    def __init__(self, clock: IReactorTime, max_bytes: int) -> None:
        """@param max_bytes: of the items of one answer; the first one is given in any case."""
        self._clock = clock
        self._max_bytes = max_bytes
        self._reader = reader_of(
            Operation("tail", "POST", "/tail", Tail, None, "When a stream ends.")
        )
        self._open = 0

    def check(self, operation: Operation) -> None:
        """@raise ValueError: if the request has a field that a tail has."""
        for field in msgspec.structs.fields(operation.request):
            if field.encode_name in _OWN:
                raise ValueError(
                    f"{operation.name}: {field.encode_name!r} is what every stream takes as a tool"
                )

    def read(self, arguments: bytes) -> tuple[Tail, bytes]:
        """
        @return: when the stream ends, and the text of the other arguments.
        @raise InvalidRequest: naming the field.
        """
        try:
            given = msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            # What is wrong with it is said by who reads the rest.
            return Tail(), arguments
        own = {name: given.pop(name) for name in _OWN if name in given}
        ends: Any = self._reader.from_arguments(msgspec.json.encode(own))
        return ends, msgspec.json.encode(given)

    @contextmanager
    def room(self) -> Iterator[None]:
        """
        While a stream is read.

        @raise Overloaded: if there are too many.
        """
        if self._open >= MAX_STREAMS:
            raise Overloaded(f"{MAX_STREAMS} streams are open already: try again in a while")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def collect(
        self,
        items: AsyncIterator[Item],
        ends: Tail,
        progress: Progress,
        place: Place | None = None,
    ) -> tuple[list[msgspec.Raw], bytes]:
        """
        @param progress: told of each item.  What it says is ours, not the item's.
        @param place: where it was asked to go on; L{None} for the beginning.
        @return: the data of the items, and the text of the metadata: C{last_id}, the
            C{notices} of the stream, and the C{error} that ended it after something came.
        @raise MeshkitError: what ended it before anything came.
        """
        found = _Found(self._max_bytes, place or Place())
        began = self._clock.seconds()
        try:
            while len(found.data) < ends.max_items:
                waited = self._clock.seconds() - began
                if waited >= ends.wait_seconds + LONGER:
                    break
                patience = SETTLE if found.data else max(SETTLE, ends.wait_seconds - waited)
                item = await self._next(items, patience)
                if item is None or not found.take(item):
                    break
                if item.event is None:
                    count = len(found.data)
                    progress(count, ends.max_items, f"{count} of at most {ends.max_items} items")
        except MeshkitError as e:
            if not found.data:
                raise
            found.error = e
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
        return found.data, found.metadata()

    async def _next(self, items: AsyncIterator[Item], patience: float) -> Item | None:
        """The next item; L{None} if there is none, or none comes in time."""
        coming = Deferred.fromCoroutine(_next_of(items))
        coming.addTimeout(patience, self._clock)
        try:
            return await coming
        except TimeoutError:
            return None


@frozen
class Place:
    """
    Where in a stream its reader is.

    @ivar after: what the request said in the field by which the stream is resumed.
    @ivar kind: the type of that field.
    """

    after: Any = None
    kind: Any = str

    @classmethod
    def of(cls, operation: Operation, request: Any) -> Place:
        for known in msgspec.structs.fields(operation.request):
            if known.encode_name == operation.resume:
                return cls(getattr(request, known.name), known.type)
        return cls()

    def spelt(self, id: str) -> Any:
        """@return: the id of an item as that field takes it in JSON, as a number if it is one."""
        try:
            return msgspec.convert(id, self.kind, strict=False)
        except msgspec.ValidationError:
            return id


class _Found:
    """What came of a stream."""

    def __init__(self, max_bytes: int, place: Place) -> None:
        self._room = max_bytes
        self._place = place
        self.data: list[msgspec.Raw] = []
        self.error: MeshkitError | None = None
        self._last_id: Any = place.after
        self._notices: list[dict[str, Any]] = []

    def take(self, item: Item) -> bool:
        """@return: there was room for it.  If not, it comes again after C{last_id}."""
        text = msgspec.json.encode(item.data)
        if item.event is None:
            self._room -= len(text) + 1
            if self._room < 0 and self.data:
                return False
            self.data.append(msgspec.Raw(text))
        elif len(self._notices) < MAX_NOTICES:
            self._notices.append({"event": item.event, "data": msgspec.Raw(text)})
        if item.id is not None:
            self._last_id = self._place.spelt(item.id)
        return True

    def metadata(self) -> bytes:
        said: dict[str, Any] = {"last_id": self._last_id}
        if self._notices:
            said["notices"] = self._notices
        if self.error is not None:
            said["error"] = fault(self.error)
        return msgspec.json.encode(said)


async def _next_of(items: AsyncIterator[Item]) -> Item | None:
    return await anext(items, None)
