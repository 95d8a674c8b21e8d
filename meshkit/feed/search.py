"""
Lists of what is stored, and the search over it.

Like L{meshkit.feed.store}, functions of an open connection: one that cannot write.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec
from attrs import frozen

from meshkit.feed.store import Row

#: Words of a search beyond these are refused.
MAX_SEARCH_WORDS: Final = 32


@frozen
class Filter:
    """
    Which messages a list is about.

    @ivar author: only this author's.
    @ivar not_author: all but this author's.
    @ivar content_type: only with this C{type} in the content.
    """

    author: bytes | None = None
    not_author: bytes | None = None
    content_type: str | None = None

    def where(self) -> tuple[str, list[object]]:
        """An SQL condition over the table alias C{m}, and its values."""
        parts: list[str] = []
        values: list[object] = []
        for key, operator in ((self.author, "="), (self.not_author, "IS NOT")):
            if key is not None:
                parts.append(f"m.author {operator} (SELECT id FROM feed_authors WHERE key = ?)")
                values.append(key)
        if self.content_type is not None:
            parts.append("m.content_type = ?")
            values.append(self.content_type)
        return " AND ".join(parts) or "1", values


def list_messages(
    connection: sqlite3.Connection, wanted: Filter, limit: int, offset: int
) -> tuple[list[Row], int]:
    """
    Messages, newest first.  "Newest" is by the author's clock, but never later than
    the arrival; messages of one moment come in the order of their arrival.

    @return: at most C{limit} rows after C{offset}, and how many there are in all.
    """
    where, values = wanted.where()
    rows = connection.execute(
        f"SELECT {Row.COLUMNS} FROM {Row.TABLES} WHERE {where} "
        "ORDER BY m.shown_ns DESC, m.id DESC LIMIT ? OFFSET ?",
        (*values, limit, offset),
    ).fetchall()
    (total,) = connection.execute(
        f"SELECT count(*) FROM feed_messages m WHERE {where}", values
    ).fetchone()
    return [Row.read(*row) for row in rows], total


def search_messages(
    connection: sqlite3.Connection, expression: str, limit: int, offset: int
) -> tuple[list[Row], int]:
    """
    Messages whose text matches, best first.

    @param expression: from L{search_expression}.
    """
    rows = connection.execute(
        f"SELECT {Row.COLUMNS} FROM feed_text t JOIN feed_messages m ON m.id = t.rowid "
        "LEFT JOIN feed_authors a ON a.id = m.author "
        "WHERE feed_text MATCH ? ORDER BY t.rank, m.id DESC LIMIT ? OFFSET ?",
        (expression, limit, offset),
    ).fetchall()
    (total,) = connection.execute(
        "SELECT count(*) FROM feed_text WHERE feed_text MATCH ?", (expression,)
    ).fetchone()
    return [Row.read(*row) for row in rows], total


def search_expression(text: str) -> str | None:
    """
    Turn what a person typed into an FTS5 expression that cannot be a syntax error:
    every word must occur, quotation marks hold a phrase together, all else is text.

    @return: L{None} if there is no word in it, or more than L{MAX_SEARCH_WORDS}.
    """
    terms: list[str] = []
    # SQLite takes a NUL for the end of the expression.
    for number, piece in enumerate(text.replace("\0", " ").split('"')):
        # Odd pieces stood between quotation marks.
        terms.extend([piece] if number % 2 else piece.split())
    quoted = [f'"{term}"' for term in terms if any(c.isalnum() for c in term)]
    if not 0 < len(quoted) <= MAX_SEARCH_WORDS:
        return None
    return " ".join(quoted)


def shown(row: Row) -> msgspec.Raw:
    """
    A stored message for people: its text untouched, with C{chain_valid} as one more
    member at the end, and C{forked} where it is.
    """
    text = row.raw.rstrip()
    valid = b"true" if row.chain_valid else b"false"
    forked = b',"forked":true' if row.forked else b""
    return msgspec.Raw(text[:-1] + b',"chain_valid":' + valid + forked + b"}")
