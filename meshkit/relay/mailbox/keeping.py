"""
The prekeys of a node, in a file of their own.

Not in the database: that is copied by backups, and SQLite leaves what was deleted in free
pages and in its journal.  Here the old file is replaced.  Where blocks are never written twice,
as in most flash memory, neither is a promise that they are gone.
"""

from __future__ import annotations

from random import Random
from typing import Final

from meshkit.errors import PrekeyInvalid
from meshkit.interfaces import IFiles
from meshkit.relay.mailbox.prekeys import MAX_RING, PrekeyRing

__all__ = ["FILE", "load_ring", "turn_ring"]

#: Its name in a data folder.
FILE: Final = "mailbox.prekeys"


def load_ring(files: IFiles, path: str) -> PrekeyRing:
    """
    Blocks for as long as the disk takes.

    @return: the prekeys that are kept there; none if there is no file.
    @raise PrekeyInvalid: if the file is damaged.
    @raise UnsafePermissions: if others can read it.
    @raise OSError: if it cannot be read.
    """
    try:
        raw = files.read_secret(path, MAX_RING)
    except FileNotFoundError:
        return PrekeyRing()
    try:
        return PrekeyRing.decode(raw)
    except PrekeyInvalid as e:
        raise PrekeyInvalid(f"{path}: {e}") from None


def turn_ring(files: IFiles, path: str, now: int, rng: Random) -> PrekeyRing:
    """
    Make a new prekey if it is time, and delete those whose time is over.  Blocks likewise.

    @param now: seconds of Unix time.
    @param rng: all randomness.
    @return: the prekeys, which are on the disk: nobody is told of one that a crash could take.
    @raise Exception: as L{load_ring}; an L{OSError} also if it cannot be written.
    """
    ring = load_ring(files, path)
    turned = ring.turned(now, rng)
    if turned is not ring:
        files.write_atomic(path, turned.encode())
    return turned
