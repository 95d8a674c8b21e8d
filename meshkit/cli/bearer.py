"""
The token that C{meshkit} shows at the door: where it comes from, and what to say when the
node does not take it.

It is looked for in the file of C{--token-file}, else in C{$MESHKIT_TOKEN}, else it is the
owner's, in the data folder.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from meshkit.cli.locate import TOKEN_VARIABLE
from meshkit.errors import (
    ConfigError,
    DoorUnreachable,
    RemoteError,
    Unauthorized,
    UnsafePermissions,
)
from meshkit.runtime.folder import DataFolder

__all__ = ["Bearer", "TokenSource"]

_OWNERS: Final = "door.token"
_MAX_TOKEN: Final = 4096
_FOR_OTHERS: Final = 0o077


@frozen
class Bearer:
    """
    @ivar text: the token.
    @ivar place: where it comes from, as people call it.
    @ivar remedy: what to do if the node does not take it.
    """

    text: str
    place: str
    remedy: str

    def judged(self, refusal: RemoteError) -> RemoteError:
        """
        @return: what to tell of a refusal: the node knows of a header only, and not where its
            token comes from.
        """
        if refusal.code != Unauthorized.code:
            return refusal
        return RemoteError(
            f"the node does not take the token in {self.place}: {self.remedy}",
            refusal.code,
            refusal.status,
            refusal.details,
        )


@define
class TokenSource:
    """
    Where the token is.

    @ivar folder: of the node.
    @ivar path: a file with a token: a plain one is for its user alone; out of a pipe, such as
        C{<(pass node)}, it is read once and kept.
    @ivar environ: the environment.
    """

    folder: DataFolder
    path: str | None
    environ: Mapping[str, str]
    _kept: Bearer | None = field(init=False, default=None)

    def read(self) -> Bearer:
        """
        Read it anew: a node may have got another one.  Blocks.

        @raise ConfigError: if there is none, or what is there is none.
        @raise UnsafePermissions: if others have rights to the file.
        @raise DoorUnreachable: if the node has not made one yet.
        """
        if self._kept is not None:
            return self._kept
        if self.path is not None:
            return self._from_file(self.path)
        variable = self.environ.get(TOKEN_VARIABLE, "")
        if variable:
            return _checked(
                variable.encode("utf-8", "replace"),
                f"${TOKEN_VARIABLE}",
                "it may be revoked, expired or of another node: set another, or none to be the "
                "node's owner",
            )
        return self._owners()

    def _owners(self) -> Bearer:
        path = self.folder.file(_OWNERS)
        try:
            data = self.folder.read_secret(_OWNERS, _MAX_TOKEN)
        except FileNotFoundError:
            raise DoorUnreachable(
                f"there is no token for the door in {self.folder.path}: restart the node, which "
                f"makes one"
            ) from None
        except OSError as e:
            raise ConfigError(f"the token in {path} cannot be read: {e.strerror or e}") from None
        return _checked(
            data, path, "it is not the one that it started with: restart the node, which reads it"
        )

    def _from_file(self, path: str) -> Bearer:
        try:
            # A link is followed: <(pass node) is one, to a pipe.
            with Path(path).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MAX_TOKEN)
        except OSError as e:
            raise ConfigError(f"the token in {path} cannot be read: {e.strerror or e}") from None
        plain = stat.S_ISREG(mode)
        if plain and mode & _FOR_OTHERS:
            raise UnsafePermissions(
                f"other users have rights to the token file {path} (mode "
                f"{stat.S_IMODE(mode):04o}): run chmod 600 {shlex.quote(path)}"
            )
        found = _checked(
            data,
            path,
            "it may be revoked, expired or of another node: name another --token-file, or none "
            "to be the node's owner",
        )
        if not plain:
            self._kept = found
        return found


def _checked(data: bytes, place: str, remedy: str) -> Bearer:
    token = data.decode("ascii", "replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{place} holds no token: it is one word of ASCII characters")
    return Bearer(token, place, remedy)
