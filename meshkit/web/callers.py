"""
Who calls, and what they may.

A token of the door has scopes.  A scope is a permission, and perhaps the operations that it
is for::

    read                    everything that only reads
    write                   that, and what changes the node's content
    admin                   everything
    write:feed_publish      one operation, or what reads under that name
    read:feed_*             every operation whose name begins with feed_

Pure.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from meshkit.errors import InvalidRequest
from meshkit.operations import Operation, Permission

_RANKS: Final[dict[str, int]] = {"read": 0, "write": 1, "admin": 2}
_SCOPE: Final = re.compile(r"(read|write|admin)(?::([a-z][a-z0-9_]*\*?))?")


@frozen
class Scope:
    """
    @ivar permission: a higher one includes the lower.
    @ivar names: the name of an operation, or how names begin and a star; L{None}: all.
    """

    permission: Permission
    names: str | None = None

    @classmethod
    def parse(cls, text: str) -> Scope:
        """@raise InvalidRequest: if it is no scope."""
        found = _SCOPE.fullmatch(text)
        if found is None:
            raise InvalidRequest(
                f"{text!r} is not a scope: write read, write or admin, or one of them with an "
                f"operation or a beginning of names, such as write:feed_publish or read:feed_*"
            )
        permission: Permission = found[1]  # type: ignore[assignment]
        return cls(permission, found[2])

    @property
    def text(self) -> str:
        """As L{parse} takes it."""
        return self.permission if self.names is None else f"{self.permission}:{self.names}"

    def covers(self, operation: Operation) -> bool:
        """Is this enough to use an operation?"""
        if _RANKS[self.permission] < _RANKS[operation.permission]:
            return False
        if self.names is None:
            return True
        if self.names.endswith("*"):
            return operation.name.startswith(self.names[:-1])
        return operation.name == self.names


@frozen
class Caller:
    """
    Whoever has shown a token.

    @ivar name: of the token, for logs and counters; no secret.
    @ivar scopes: what it is good for.
    """

    name: str
    scopes: tuple[Scope, ...]

    def may(self, operation: Operation) -> bool:
        """Is the caller allowed to use an operation?"""
        return operation.public or any(scope.covers(operation) for scope in self.scopes)


#: Who has the token in the data folder.
OWNER: Final = Caller("owner", (Scope("admin"),))
#: Who has shown no token.
ANYONE: Final = Caller("anyone", ())
