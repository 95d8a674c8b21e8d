"""
How much a node lends, as its owner has said at its door, and how that is remembered.

What stands in the configuration goes first: then the door says only whether it is lent.  The
functions here are run by L{meshkit.runtime.database.Database}.
"""

from __future__ import annotations

import sqlite3
from typing import Final, Literal

from attrs import evolve, frozen

from meshkit.errors import InvalidRequest, StorageConfigured

#: C{none}: nothing was ever lent; C{lending}; C{draining}: nothing new is taken, what is there
#: is kept until nobody has a lease on it; C{left}: nothing is kept.
State = Literal["none", "lending", "draining", "left"]

MIGRATIONS: Final = (
    """
    -- What was said at the door: see meshkit.storage.keeper.lending.  There is one row, or none.
    CREATE TABLE keeper_lending (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        state TEXT NOT NULL,
        max_storage INTEGER NOT NULL
    ) STRICT;
    """,
)


@frozen
class Lending:
    """
    Whether a node lends space, and how much.

    @ivar configured: bytes, as the configuration has it; 0 if it says nothing.
    @ivar said: bytes, as was said at the door; 0 if nothing was.
    @ivar state: see L{State}.
    """

    configured: int = 0
    said: int = 0
    state: State = "none"

    @classmethod
    def of(cls, configured: int, stored: tuple[State, int] | None) -> Lending:
        """
        @param configured: see the class.
        @param stored: what L{read} has found.
        """
        if stored is None:
            return cls(configured, 0, "lending" if configured else "none")
        state, said = stored
        return cls(configured, said, state if configured or said else "none")

    @property
    def capacity(self) -> int:
        """Bytes that are lent in all, whether more is taken or not."""
        return 0 if self.state in ("none", "left") else self.configured or self.said

    @property
    def keeps(self) -> bool:
        """Is there anything to be kept?"""
        return self.state in ("lending", "draining")

    @property
    def source(self) -> Literal["config", "connect"] | None:
        """Who says how much."""
        if not self.capacity:
            return None
        return "config" if self.configured else "connect"

    def connected(self, max_storage: int | None) -> Lending:
        """
        Lend from now on.

        @param max_storage: bytes; L{None}: as many as before.
        @raise StorageConfigured: if the configuration has another number.
        @raise InvalidRequest: if it was never said how many.
        """
        if self.configured:
            if max_storage not in (None, self.configured):
                raise StorageConfigured(
                    f"keeper.max_storage is {self.configured} in this node's settings: change it "
                    "there and start the node again, or take it out to have this decided here"
                )
            return evolve(self, state="lending")
        said = max_storage or self.said
        if not said:
            raise InvalidRequest("say how many bytes to lend", field="max_storage")
        return evolve(self, said=said, state="lending")

    def draining(self) -> Lending:
        """Take nothing new from now on.  Nothing happens if nothing is kept."""
        return evolve(self, state="draining") if self.keeps else self

    def left(self) -> Lending:
        """Keep nothing any more.  Nothing happens if nothing ever was."""
        return self if self.state == "none" else evolve(self, state="left")


def read(connection: sqlite3.Connection) -> tuple[State, int] | None:
    """@return: what was said last, and how much."""
    row = connection.execute("SELECT state, max_storage FROM keeper_lending").fetchone()
    return None if row is None else (row[0], row[1])


def write(connection: sqlite3.Connection, lending: Lending) -> None:
    """Remember it."""
    connection.execute(
        "INSERT OR REPLACE INTO keeper_lending (id, state, max_storage) VALUES (1, ?, ?)",
        (lending.state, lending.said),
    )
