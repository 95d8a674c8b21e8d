"""
What the demo claims, and what the stores of its nodes say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, field, frozen

from meshkit.cli.door import Door, segment

#: Messages asked for at once.
_PAGE: Final = 200


@frozen
class Check:
    """
    @ivar name: what has to be true.
    @ivar figure: what was measured.
    @ivar passed: is it?
    """

    name: str
    figure: str
    passed: bool


@define
class Acknowledged:
    """
    The messages that a door has answered for: these must not be lost.

    A batch is answered with its last hash.  As each message holds the hash of the one
    before it, that hash stands for all of them.
    """

    _ranges: dict[str, list[tuple[int, int, str]]] = field(factory=dict)

    def note(self, author: str, first: int, last: int, last_hash: str) -> None:
        self._ranges.setdefault(author, []).append((first, last, last_hash))

    def count(self, author: str | None = None) -> int:
        """How many, of one author or of all."""
        return sum(
            last - first + 1
            for who, ranges in self._ranges.items()
            if author in (None, who)
            for first, last, _ in ranges
        )

    def lost(self, store: Mapping[tuple[str, int], str]) -> int:
        """
        How many are missing from a store, or are other messages there.

        @param store: C{(author, sequence)} to the message's hash.
        """
        lost = 0
        for author, ranges in self._ranges.items():
            for first, last, last_hash in ranges:
                missing = sum((author, each) not in store for each in range(first, last + 1))
                if not missing and store[author, last] != last_hash:
                    missing = last - first + 1
                lost += missing
        return lost


async def read_store(door: Door, authors: Iterable[str]) -> dict[tuple[str, int], str]:
    """
    Everything that a node has of some authors.

    @return: C{(author, sequence)} to the message's hash, of the messages that follow
        on one another from the first.
    """
    store: dict[tuple[str, int], str] = {}
    for author in authors:
        cursor, more = None, True
        while more:
            answer = await door.get(f"/v1/feed/{segment(author)}", limit=_PAGE, cursor=cursor)
            for message in answer.data:
                if message["chain_valid"]:
                    store[author, message["sequence"]] = message["hash"]
            cursor = answer.metadata.get("next_cursor")
            more = cursor is not None
    return store


def digest(store: Mapping[tuple[str, int], str]) -> str:
    """A fingerprint of a store: equal if it holds the same messages."""
    lines = (f"{author} {sequence} {name}\n" for (author, sequence), name in sorted(store.items()))
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def fingerprint(path: str) -> tuple[int, str]:
    """
    Read a file.  Blocks.

    @return: how many bytes it has, and their SHA-256.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), found
