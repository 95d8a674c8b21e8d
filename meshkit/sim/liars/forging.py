"""
Messages that their authors have not signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from meshkit.feed.message import Message
from meshkit.identity.keys import Identity
from meshkit.sim.liars.library import Leaf

__all__ = ["MESSAGE_WAYS", "forge", "forge_after"]

#: The ways of L{forge}.
MESSAGE_WAYS: Final = ("content", "hash", "signature", "name")

# Fields that the hash does not cover.
_END: Final = ("hash", "signature")


def forge(way: str, message: Message, mark: str, forger: Identity) -> Leaf:
    """
    Make a false message from a true one, for its place::

        content     another content; the hash and its signature are those of the true one
        hash        another content and its hash; the signature is that of the true one's hash
        signature   the true message; one bit of the signature is another one
        name        another content and its hash, signed by the forger in the author's name

    @param mark: stands in the other content.
    @param forger: who signs, in the last way.
    """
    fields = json.loads(message.raw)
    signature = message.signature
    if way == "signature":
        signature = bytes([signature[0] ^ 1]) + signature[1:]
    else:
        fields["content"] = {"text": mark, "type": "note"}
    if way in ("hash", "name"):
        fields["hash"] = _digest(fields)
    if way == "name":
        signature = _sign(forger, fields["hash"])
    return _leaf(way, fields, signature)


def forge_after(way: str, message: Message, mark: str, forger: Identity, *, skip: int = 0) -> Leaf:
    """
    Make a message in the name of an author, for a place after one of his.

    @param way: C{hash} or C{name}: who has signed it, see L{forge}.
    @param skip: how many places between the two are left out.
    """
    fields = json.loads(message.raw)
    fields["sequence"] += 1 + skip
    fields["previous"] = hashlib.sha256(mark.encode()).hexdigest() if skip else message.hash
    fields["content"] = {"text": mark, "type": "note"}
    fields["hash"] = _digest(fields)
    signature = _sign(forger, fields["hash"]) if way == "name" else message.signature
    return _leaf("next", fields, signature)


def _sign(forger: Identity, digest: str) -> bytes:
    return forger._sign_raw(digest.encode("ascii"))


def _leaf(way: str, fields: dict[str, Any], signature: bytes) -> Leaf:
    fields["signature"] = base64.b64encode(signature).decode("ascii")
    return Leaf(_text(fields).encode("utf-8"), fields["sequence"], fields["hash"], way)


def _digest(fields: dict[str, Any]) -> str:
    signed = {name: value for name, value in fields.items() if name not in _END}
    return hashlib.sha256(_text(signed).encode("utf-8")).hexdigest()


def _text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
