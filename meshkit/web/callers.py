"""
Who calls, and what they may.

A token of the door has scopes.  A scope is a permission, and perhaps the operations that it
is for::

    read                    everything that only reads
    write                   that, and what changes the node's content
    admin                   everything
    write:feed_publish      one operation, or what reads under that name
    read:feed_*             every operation whose name begins with feed_

A caller is whoever has shown one token.  When that is revoked, expires or is replaced, the
caller is over: what was asked for with it and is still open has to end.  Whoever keeps
something open for a caller L{watches <Caller.watch>} it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from attrs import define, field, frozen
from twisted.logger import Logger

from meshkit.errors import InvalidRequest
from meshkit.operations import Operation, Permission

_log = Logger()

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


@define(eq=False)
class _Standing:
    """How a caller stands: what may change of it."""

    over: bool = False
    watchers: dict[object, Callable[[], None]] = field(factory=dict)


@frozen(eq=False)
class Caller:
    """
    Whoever has shown a token.  There is one for each token; two are never equal.

    @ivar name: of the token, for logs and counters; no secret.
    @ivar scopes: what it is good for.
    @ivar limited: it may ask for so much and no more; see L{meshkit.web.rates}.
    """

    name: str
    scopes: tuple[Scope, ...]
    limited: bool = True
    _standing: _Standing = field(factory=_Standing, init=False, repr=False)

    def may(self, operation: Operation) -> bool:
        """Is the caller allowed to use an operation?"""
        if operation.public or (operation.granted and self.scopes):
            return True
        return any(scope.covers(operation) for scope in self.scopes)

    @property
    def over(self) -> bool:
        """Is its token good for nothing any more?"""
        return self._standing.over

    @property
    def watched(self) -> bool:
        """Is something open that has to end with its token?"""
        return bool(self._standing.watchers)

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        """
        Have something done when the token is revoked, expires or is replaced.

        @param told: called once, at that moment; at once, if it has passed.  The next
            request with the token is refused by then.
        @return: call this when nothing has to be done any more.
        """
        watchers, mark = self._standing.watchers, object()
        if self.over:
            told()
        else:
            watchers[mark] = told
        return lambda: _forget(watchers, mark)

    def end(self) -> None:
        """The token is good for nothing any more.  Who watches is told, in order."""
        self._standing.over = True
        watchers = self._standing.watchers
        while watchers:
            told = watchers.pop(next(iter(watchers)))
            try:
                told()
            except Exception:
                # The others have to hear of it all the same.
                _log.failure("what a token had kept open was not ended")


def _forget(watchers: dict[object, Callable[[], None]], mark: object) -> None:
    watchers.pop(mark, None)


#: Who has the token in the data folder, where that is never replaced.
OWNER: Final = Caller("owner", (Scope("admin"),), limited=False)
#: Who has shown no token.
ANYONE: Final = Caller("anyone", ())
