"""
Lists and searches in a store with many messages, as the reading thread of a node makes them.

The store is filled by the functions of the store, without a network; the messages carry no
signatures, as nothing here looks at them.  C{MESHKIT_BENCH_MESSAGES} says how many.
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from meshkit.feed.message import Message, sign_message
from meshkit.feed.search import (
    Filter,
    authors_with_tags,
    list_messages,
    messages_at,
    newest_hits,
    rank,
    snippets,
)
from meshkit.feed.store import MIGRATIONS, store_batch
from meshkit.feed.words import parse_query
from meshkit.identity.keys import Identity
from meshkit.runtime.container import DiskFile, migrate
from tests.bench.figures import spread, table

#: How many messages, if it is not C{--quick}.
VARIABLE: Final = "MESHKIT_BENCH_MESSAGES"
MESSAGES: Final = 100_000
QUICK: Final = 10_000

_AUTHORS: Final = 200
_VOCABULARY: Final = 5_000
_BATCH: Final = 1_000
_FIRST_NS: Final = 1_760_000_000_000_000_000
_STEP_NS: Final = 100_000_000
_PAGE: Final = 20


class _Unsigned:
    """Signs with zeros, which takes no time."""

    def __init__(self, seed: int) -> None:
        self.public = Identity(random.Random(seed).randbytes(32)).public

    def _sign_raw(self, _: bytes) -> bytes:
        return bytes(64)


def vocabulary() -> list[str]:
    """Words, the most frequent first: some are short, and they begin in all ways."""
    rng = random.Random(1)
    return [
        "".join(rng.choices("aeiourstlnmdkgbp", k=rng.randint(2, 11))) for _ in range(_VOCABULARY)
    ]


def messages(count: int) -> Iterator[Message]:
    """
    Notes of about 880 bytes by many authors, of whom few write most; a third have a tag, and
    a thousandth is of a rare type.  Each has a word of its own.
    """
    rng = random.Random(2)
    words = vocabulary()
    # A few words are everywhere and most are rare, as in any language (Zipf's law).
    weights = [*accumulate(1 / place for place in range(1, len(words) + 1))]
    authors: list[Any] = [_Unsigned(seed) for seed in range(_AUTHORS)]
    heads: list[tuple[int, str | None]] = [(0, None)] * _AUTHORS
    for number in range(count):
        author = min(int(rng.expovariate(1 / 20)), _AUTHORS - 1)
        sequence, previous = heads[author]
        said = rng.choices(words, cum_weights=weights, k=58)
        message = sign_message(
            authors[author],
            sequence=sequence + 1,
            previous=previous,
            timestamp_ns=_FIRST_NS + number * _STEP_NS,
            content={
                "type": rng.choices(["insight", "note", "rare"], [600, 399, 1])[0],
                "title": " ".join(said[:6]),
                "observation": f"{' '.join(said[6:])} needle{number}",
                "confidence": 0.75,
            },
            tags=[f"tag{int(rng.expovariate(1 / 30))}"] if number % 3 == 0 else [],
        )
        heads[author] = (sequence + 1, message.hash)
        yield message


def fill(path: Path, count: int) -> float:
    """@return: seconds per message that storing them took, without a sync."""
    backing = DiskFile(str(path))
    migrate(backing, {"feed": MIGRATIONS})
    spent = 0.0
    with closing(backing.open_writer()) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        batch: list[Message] = []
        for number, message in enumerate(messages(count), 1):
            batch.append(message)
            if len(batch) == _BATCH or number == count:
                begun = perf_counter()
                connection.execute("BEGIN")
                store_batch(connection, batch, _FIRST_NS + number * _STEP_NS)
                connection.execute("COMMIT")
                spent += perf_counter() - begun
                batch.clear()
    return spent / count


Job = Callable[[sqlite3.Connection], int]


def _searches(count: int) -> Iterator[tuple[str, Job]]:
    """What is looked for, and how; a job says how many it has found."""
    words = vocabulary()
    first, second, third, rare = words[0], words[1], words[2], words[2_000]
    author = Filter(author=_Unsigned(0).public.raw)
    for name, text, wanted in (
        ("a word of one message", f"needle{count // 2}", Filter()),
        ("a rare word", rare, Filter()),
        ("a word that is nearly everywhere", first, Filter()),
        ("two common words", f"{second} {third}", Filter()),
        ("a phrase of common words", f'"{second} {third}"', Filter()),
        ("a common word without another", f"{third} -{second}", Filter()),
        ("a beginning", f"{rare[:2]}*", Filter()),
        ("a beginning in every message", "needle*", Filter()),
        ("a common word, one author", third, author),
        ("a common word, a tag", third, Filter(tag="tag3")),
        ("a common word, a rare type", third, Filter(content_type="rare")),
        (
            "a common word, the older half",
            third,
            Filter(until_ns=_FIRST_NS + count // 2 * _STEP_NS),
        ),
    ):
        expression = parse_query(text)

        def best(it: sqlite3.Connection, e: str = expression, w: Filter = wanted) -> int:
            ranked = rank(it, e, w).positions
            snippets(messages_at(it, ranked[:_PAGE]), e, lambda: False)
            return len(ranked)

        def newest(it: sqlite3.Connection, e: str = expression, w: Filter = wanted) -> int:
            found = newest_hits(it, e, w, _PAGE)
            snippets(messages_at(it, found.positions), e, lambda: False)
            return found.total

        yield f"search: {name}, best first", best
        yield f"search: {name}, newest first", newest


def _lists(count: int) -> Iterator[tuple[str, Job]]:
    author = _Unsigned(0).public.raw
    middle = (_FIRST_NS + count // 2 * _STEP_NS, count // 2)
    for name, wanted in (
        ("everything", Filter()),
        ("all but one author", Filter(not_author=author)),
        ("one author", Filter(author=author)),
        ("one type", Filter(content_type="note")),
        ("one tag", Filter(tag="tag3")),
        ("one author, a rare type", Filter(author=author, content_type="rare")),
        ("the older half", Filter(until_ns=middle[0])),
    ):
        yield (
            f"list: {name}",
            lambda it, w=wanted: list_messages(it, w, _PAGE).total,  # type: ignore[misc]
        )
    yield (
        "list: everything, by a cursor from the middle",
        lambda it: list_messages(it, Filter(), _PAGE, after=middle).total,
    )
    yield (
        "list: everything, by an offset of half",
        lambda it: list_messages(it, Filter(), _PAGE, count // 2).total,
    )
    yield "who has written with a tag", lambda it: len(authors_with_tags(it, ["tag3"], b"", 1_000))


def measure(quick: bool) -> str:
    """@return: the section."""
    count = QUICK if quick else int(os.environ.get(VARIABLE, MESSAGES))
    rounds = 3 if quick else 7
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
        path = Path(folder, "node.db")
        storing = fill(path, count)
        size = path.stat().st_size
        jobs = [*_searches(count), *_lists(count)]
        times: list[list[float]] = [[] for _ in jobs]
        found = [0] * len(jobs)
        with closing(DiskFile(str(path)).open_reader()) as connection:
            for _ in range(rounds):
                for number, (_name, job) in enumerate(jobs):
                    begun = perf_counter()
                    found[number] = job(connection)
                    times[number].append((perf_counter() - begun) * 1000)
    rows = [
        [name, f"{hits:,}", spread(each, digits=2)]
        for (name, _), hits, each in zip(jobs, found, times, strict=True)
    ]
    return (
        f"## Lists and searches in {count:,} messages ({size / 2**20:,.0f} MiB), "
        f"pages of {_PAGE}\n\n"
        + table(["", "counted or ranked", "ms"], rows)
        + f"\n\nStoring one took {storing * 1e6:.0f} us, at {_BATCH:,} per commit without a sync."
    )
