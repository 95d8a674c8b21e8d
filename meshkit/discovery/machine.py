"""
The other nodes of this machine, by what they write in their data folders.

Datagrams are of no use on a machine without a network, and of several programs that share a
UDP port some systems give a datagram to one only.  A running node says in C{endpoints.json}
where it listens (L{meshkit.runtime.folder}).  So the folders beside our own are looked at,
which is where C{mesh-node}, C{mesh-relay} and C{mesh-storage} keep theirs if nobody tells them
otherwise, and those that the operator names.

A folder counts if it is of the same user as our own, and nobody else has any right to it:
whatever others of this machine may put beside ours, nothing of it is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshkit.errors import MeshkitError
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFiles
from meshkit.runtime.folder import MAX_ENDPOINTS_BYTES, DataFolder

#: Folders that are looked at, of those beside ours.
MAX_FOLDERS: Final = 512
#: Addresses that are taken from one folder.
MAX_OF_FOLDER: Final = 8

_FOR_OTHERS: Final = 0o077


class Machine:
    """See the module.  Its methods block for as long as the disk takes."""

    def __init__(
        self,
        files: IFiles,
        folder: str,
        own: PublicKey,
        network: str,
        others: Sequence[str] = (),
    ) -> None:
        """
        @param folder: our own data folder.
        @param network: public name of our network, as L{DataFolder.write_endpoints} has it.
        @param others: data folders that are elsewhere.
        """
        self._files = files
        self._folder = os.path.abspath(folder)
        self._own = own
        self._network = network
        self._others = [os.path.abspath(path) for path in others]

    def look(self) -> list[MeshAddress]:
        """@return: where the nodes of our network are that run now, sorted."""
        system = self._files.system
        if system is None:
            # A disk in memory is nobody else's.
            return []
        try:
            user = system.stat(self._folder).st_uid
        except OSError:
            return []
        found: set[MeshAddress] = set()
        for path in self._candidates(system):
            if _is_private(system, path, user):
                found.update(self._read(path))
        return sorted(found)

    def _candidates(self, system: Any) -> list[str]:
        beside = os.path.dirname(self._folder)
        try:
            names = system.listdir(beside)
        except OSError:
            # We may pass through it and not list it.
            names = []
        paths = [os.path.join(beside, name) for name in names[:MAX_FOLDERS]]
        return [path for path in dict.fromkeys((*self._others, *paths)) if path != self._folder]

    def _read(self, path: str) -> list[MeshAddress]:
        try:
            # What is no data folder of our network is not touched.
            if not self._is_ours(self._files.read_secret(_endpoints(path), MAX_ENDPOINTS_BYTES)):
                return []
            told = DataFolder(path, self._files).live_endpoints() or {}
            listed = [MeshAddress.parse(text) for text in told.get("mesh", [])[:MAX_OF_FOLDER]]
        except (MeshkitError, OSError):
            # It was changed by hand, or is being written or removed at this moment.
            return []
        return [address for address in listed if address.key != self._own]

    def _is_ours(self, content: bytes) -> bool:
        try:
            told = msgspec.json.decode(content, type=dict[str, list[str]])
        except msgspec.MsgspecError:
            return False
        return self._network in told.get("network", [])


def _endpoints(path: str) -> str:
    return os.path.join(path, "endpoints.json")


def _is_private(system: Any, path: str, user: int) -> bool:
    """Is it a folder of this user's, to which nobody else has any right?"""
    try:
        found = system.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & _FOR_OTHERS
