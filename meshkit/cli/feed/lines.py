"""Files of JSON Lines, and how many of them go into one request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import msgspec
from attrs import define, field

from meshkit.errors import InvalidRequest

#: Most bytes of a line.
MAX_LINE: Final = 256 * 1024


@define
class Batch:
    """
    Lines that go into one request.

    @ivar texts: what is in them.
    @ivar numbers: of each, the number of its line.
    """

    texts: list[bytes] = field(factory=list)
    numbers: list[int] = field(factory=list)


def json_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """
    @return: number and text of every line that has one.
    @raise InvalidRequest: at the first that is no JSON.
    """
    for number, text in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
        if len(text) > MAX_LINE:
            raise InvalidRequest(f"line {number} is longer than {MAX_LINE} bytes")
        if text.strip():
            yield number, checked_json(text, f"line {number}")


def gather(
    lines: Iterable[tuple[int, bytes]], max_messages: int, max_bytes: int
) -> Iterator[Batch]:
    """Gather lines for requests, while the file is read."""
    batch = Batch()
    size = 0
    for number, text in lines:
        if batch.texts and (len(batch.texts) >= max_messages or size + len(text) > max_bytes):
            yield batch
            batch, size = Batch(), 0
        batch.texts.append(text)
        batch.numbers.append(number)
        size += len(text) + 1
    if batch.texts:
        yield batch


def checked_json(raw: bytes, what: str) -> bytes:
    """JSON text that can stand inside a request.  The node checks it in earnest."""
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"{what} is not JSON: {e}") from None
    return raw.strip()
