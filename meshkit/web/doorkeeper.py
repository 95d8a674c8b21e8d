"""
Whose token is it?  The owner's, which stands in the data folder, or one of the book's.

What was shown is compared as a digest of fixed length, with the owner's and with one of the
book's, whatever it is.  So neither the time that an answer takes nor the answer says how
near a guess came, or whether there is such a token, or was one.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Final

from meshkit.errors import NotReady
from meshkit.runtime.tokens import Token, TokenBook
from meshkit.web.callers import Caller, Scope

# RFC 6750, 2.1: what a token may consist of.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


class Doorkeeper:
    """
    Tells callers by their tokens, for a L{meshkit.web.security.DoorGuard}.

    There is one L{Caller} for each token.  It is over when its token is revoked, has
    expired or, being the owner's, was replaced.
    """

    def __init__(self, owner: bytes, book: TokenBook | None = None) -> None:
        """
        @param owner: the token that opens everything.
        @param book: the others; its C{on_ended} is taken.
        @raise ValueError: if the owner's token cannot stand in a header.
        """
        self._book = book
        self._callers: dict[str, Caller] = {}
        self._set_owner(owner)
        if book is not None:
            book.on_ended = self._ended

    def _set_owner(self, token: bytes) -> None:
        if not _TOKEN.fullmatch(token):
            raise ValueError("the token has to be non-empty and of the form of RFC 6750, 2.1")
        self._owners_digest = sha256(token).digest()
        self._owner = Caller("owner", (Scope("admin"),), limited=False)

    def replace_owner(self, token: bytes) -> None:
        """
        From now on, this token is the owner's.  The one that was is good for nothing.

        @raise ValueError: if it cannot stand in a header; nothing has changed then.
        """
        before = self._owner
        self._set_owner(token)
        before.end()

    def __call__(self, shown: bytes) -> Caller | None:
        """
        @param shown: what somebody has shown as a token.
        @return: who that is; L{None} if it is no token, or none that is good.
        @raise NotReady: if it is not the owner's, and the others are not known yet.
        """
        is_owner = hmac.compare_digest(sha256(shown).digest(), self._owners_digest)
        token = None if self._book is None else self._book.find(shown)
        if is_owner:
            return self._owner
        if token is None:
            if self._book is not None and not self._book.loaded:
                raise NotReady
            return None
        caller = self._callers.get(token.id)
        if caller is None:
            scopes = tuple(Scope.parse(text) for text in token.scopes)
            caller = self._callers[token.id] = Caller(token.name, scopes)
        return caller

    def _ended(self, token: Token) -> None:
        caller = self._callers.pop(token.id, None)
        if caller is not None:
            caller.end()
