"""
Results as a table, comma-separated (RFC 4180), for other programs and other nodes.  Pure.

The first line names the columns: they are the fields of L{Measured}.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from meshkit.errors import IdentityError, InvalidRequest
from meshkit.identity.keys import PublicKey
from meshkit_roundtrip.operations import Measured

#: Rows that a table may have.
MAX_ROWS: Final = 10_000

COLUMNS: Final = tuple(field.name for field in msgspec.structs.fields(Measured))


def write_table(results: Iterable[Measured]) -> bytes:
    """@return: UTF-8 text."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(msgspec.structs.astuple(result) for result in results)
    return text.getvalue().encode("utf-8")


def read_table(table: bytes) -> list[Measured]:
    """
    @param table: as L{write_table} makes it.
    @raise InvalidRequest: naming the line that cannot be read.
    """
    results: list[Measured] = []
    try:
        rows = csv.reader(io.StringIO(table.decode("utf-8"), newline=""), strict=True)
        if tuple(next(rows, ())) != COLUMNS:
            raise InvalidRequest(f"the first line has to be {','.join(COLUMNS)}")
        for row in rows:
            if len(results) == MAX_ROWS:
                raise InvalidRequest(f"the table has more than {MAX_ROWS} rows: divide it")
            results.append(_read_row(row, rows.line_num))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the table is not UTF-8 (byte {error.start})") from None
    except csv.Error as error:
        raise InvalidRequest(f"the table is not comma-separated: {error}") from None
    return results


def _read_row(row: list[str], line: int) -> Measured:
    try:
        fields: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
        result = msgspec.convert(fields, Measured, strict=False)
        return msgspec.structs.replace(result, peer=PublicKey.parse(result.peer).text)
    except (ValueError, IdentityError) as error:
        raise InvalidRequest(f"line {line} of the table: {error}") from None
