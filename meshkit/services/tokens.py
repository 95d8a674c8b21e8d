"""What every node offers for the tokens of its door, and what answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred, DeferredLock

from meshkit.errors import (
    InvalidRequest,
    NotFound,
    Overloaded,
    StorageFailed,
    TokenExists,
    TooManyTokens,
)
from meshkit.operations import Advised, BoundOperation, Nothing, Operation
from meshkit.parts import shield
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import DOOR_TOKEN, make_token, write_token
from meshkit.runtime.moments import rfc3339
from meshkit.runtime.tokens import (
    MAX_LIFETIME,
    MAX_SCOPE,
    MAX_SCOPES,
    NAME,
    Token,
    TokenBook,
)
from meshkit.web.callers import Scope
from meshkit.web.doorkeeper import Doorkeeper

__all__ = ["ADD", "LIST", "REMOVE", "ROTATE", "AddedToken", "AddToken", "KnownToken", "TokenDesk"]


class KnownToken(msgspec.Struct):
    """
    @ivar name: what it is called.
    @ivar id: the second part of its text, by which it is known in a script; no secret.
    @ivar scopes: what it is good for.
    @ivar created: RFC 3339 time.
    @ivar expires: RFC 3339 time, if it has an end.
    @ivar last_used: RFC 3339 time, ten minutes old at most when it is in use, if it ever was.
    @ivar state: C{good}; C{expired}; or C{revoked}, while the disk does not know of it yet.
    """

    name: str
    id: str
    scopes: list[str]
    created: str
    expires: str | None
    last_used: str | None
    state: Literal["good", "expired", "revoked"]


class AddedToken(KnownToken):
    """
    @ivar token: its text.  It is shown this once, and kept nowhere.
    """

    token: str


_Name = Annotated[
    str,
    Meta(
        description="the name of the token, of letters, digits, . _ and -",
        pattern=f"^{NAME}$",
        max_length=64,
    ),
]
_Scopes = Annotated[
    list[Annotated[str, Meta(max_length=MAX_SCOPE)]],
    Meta(
        description="what it is good for: read, write or admin, each perhaps with the name of "
        "an operation or the beginning of names, such as write:feed_publish or read:feed_*",
        min_length=1,
        max_length=MAX_SCOPES,
    ),
]
_Lifetime = Annotated[
    int, Meta(description="seconds that it is good for; no end without", ge=1, le=MAX_LIFETIME)
]


class AddToken(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    scopes: _Scopes
    expires_secs: _Lifetime | None = None


class TokenByName(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name


LIST = Operation(
    name="tokens_list",
    method="GET",
    path="/v1/tokens",
    request=Nothing,
    answer=list[KnownToken],
    doc="The tokens that open this door beside its owner's: what each is good for, and when it "
    "was used last.",
    permission="admin",
)
ADD = Operation(
    name="tokens_add",
    method="POST",
    path="/v1/tokens",
    request=AddToken,
    answer=AddedToken,
    doc="Make a token with some scopes.  Its text is in the answer and nowhere else.",
    permission="admin",
    success=201,
    errors=(TokenExists, TooManyTokens, Overloaded, StorageFailed),
)
REMOVE = Operation(
    name="tokens_remove",
    method="DELETE",
    path="/v1/tokens/{name}",
    request=TokenByName,
    answer=None,
    doc="Revoke a token.  It opens nothing from now on, and what is open by it is closed.",
    permission="admin",
    success=204,
    destructive=True,
    idempotent=True,
    errors=(NotFound, Overloaded, StorageFailed),
)
ROTATE = Operation(
    name="tokens_rotate",
    method="POST",
    path="/v1/tokens/rotate",
    request=Nothing,
    answer=None,
    doc="Replace the owner's token.  The new one stands in door.token of the data folder, and is "
    "not in the answer; the old one opens nothing from now on.",
    permission="admin",
    success=204,
    destructive=True,
    errors=(Overloaded, StorageFailed),
)


class TokenDesk:
    """Answers the operations above."""

    def __init__(
        self,
        book: TokenBook,
        doorkeeper: Doorkeeper,
        folder: DataFolder,
        rng: Random,
        run: Callable[..., Deferred[Any]],
        *,
        offered: Callable[[], Iterable[Operation]],
        keep_secret: Callable[[str], None],
    ) -> None:
        """
        @param folder: where the owner's token is kept.
        @param rng: makes the owner's tokens.
        @param run: has work that blocks done: L{meshkit.runtime.workers.WorkerPool.run}.
        @param offered: what the node offers, to warn of scopes for what it does not.
        @param keep_secret: told what must not be logged.
        """
        self._book = book
        self._doorkeeper = doorkeeper
        self._folder = folder
        self._rng = rng
        self._run = run
        self._offered = offered
        self._keep_secret = keep_secret
        self._rotating = DeferredLock()

    def operations(self) -> list[BoundOperation]:
        """What is offered, for the node's door."""
        return [
            BoundOperation(LIST, self._list),
            BoundOperation(ADD, self._add),
            BoundOperation(REMOVE, self._remove),
            BoundOperation(ROTATE, self._rotate),
        ]

    def _list(self, request: Nothing) -> list[KnownToken]:
        return [KnownToken(**self._facts(token)) for token in self._book.tokens()]

    def _facts(self, token: Token) -> dict[str, Any]:
        if token.expired(self._book.wall_clock()):
            state = "expired"
        else:
            state = "revoked" if token.revoked else "good"
        return {
            "name": token.name,
            "id": token.id,
            "scopes": list(token.scopes),
            "created": rfc3339(token.created_ns),
            "expires": None if token.expires_ns is None else rfc3339(token.expires_ns),
            "last_used": None if token.used_ns is None else rfc3339(token.used_ns),
            "state": state,
        }

    async def _add(self, request: AddToken) -> AddedToken | Advised:
        warnings = []
        for text in request.scopes:
            scope = Scope.parse(text)
            if not any(map(scope.covers, self._offered())):
                warnings.append(
                    f"the scope {text} is for nothing that this node offers now: 'meshkit call' "
                    f"lists the operations"
                )
            if scope.names is not None and scope.covers(ADD):
                raise InvalidRequest(
                    f"a token with the scope {text} could make one with any other: write admin if "
                    f"that is what it is for",
                    field="scopes",
                )
        scopes = list(dict.fromkeys(request.scopes))
        token, text = await self._book.add(request.name, scopes, request.expires_secs)
        added = AddedToken(**self._facts(token), token=text)
        return Advised(added, warnings) if warnings else added

    async def _remove(self, request: TokenByName) -> None:
        await self._book.remove(request.name)

    async def _rotate(self, request: Nothing) -> None:
        # Once begun, it is done to its end: the file and the door have to agree.
        await shield(self._rotating.run(lambda: Deferred.fromCoroutine(self._replace())))

    async def _replace(self) -> None:
        token = make_token(self._rng)
        self._keep_secret(token.decode("ascii"))
        try:
            await self._run(write_token, self._folder, token)
        except OSError as e:
            raise StorageFailed(
                f"{self._folder.file(DOOR_TOKEN)} cannot be written ({e.strerror}): the token that "
                f"was in it is still good"
            ) from e
        self._doorkeeper.replace_owner(token)
