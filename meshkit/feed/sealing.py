"""
Messages that only chosen readers can read.  Pure.

Ours is the content C{{"box":"<base64>","type":"sealed"}}, around a
L{meshkit.crypto.sealed} box, around::

    {"content": ..., "recipients": ["@...", ...], "schema_id": ...}

in which C{schema_id} may be left out.  Egregore's is
L{meshkit.feed.private_box}; in its box is the content alone.

Author, sequence, time, tags, C{relates} and C{expires_at} of the message stand outside,
for everybody to see, and so does roughly how long it is and for how many.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from random import Random
from typing import Any, Final, Literal

import msgspec
from attrs import frozen

from meshkit.crypto import sealed
from meshkit.errors import FeedError, InvalidPublicKey, MeshkitError, SealedInvalid
from meshkit.feed import private_box
from meshkit.feed.canonical import (
    MAX_CONTENT_BYTES,
    Prepared,
    prepare_content,
    prepare_content_text,
)
from meshkit.feed.message import SEALED_TYPE
from meshkit.identity.keys import Identity, PublicKey

Form = Literal["own", "egregore"]

#: Most recipients, the author not counted.
MAX_RECIPIENTS: Final = sealed.MAX_READERS - 1

_FRAME: Final = len('{"box":"","type":"sealed"}')
#: Bytes of a box whose base64 fits a content.
MAX_BOX: Final = (MAX_CONTENT_BYTES - _FRAME) // 4 * 3

_TYPES: Final = (SEALED_TYPE, private_box.CONTENT_TYPE)
_MARKS: Final = tuple(f'"type":"{name}"'.encode() for name in _TYPES)


class _Inner(msgspec.Struct):
    content: msgspec.Raw
    recipients: list[str]
    schema_id: str | None = None


class _Outer(msgspec.Struct):
    author: str
    content: Any


@frozen
class Sealed:
    """
    A sealed message, as this node can read it.

    @ivar content: what was sealed, in canonical form; L{None} if it is not for this node,
        or cannot be read.
    @ivar recipients: for whom the author says it is; L{None} if that is not known.
    @ivar schema_id: the schema of the content that the author names.
    @ivar problem: why it cannot be read, if it is no proper box.
    """

    content: Prepared | None = None
    recipients: tuple[str, ...] | None = None
    schema_id: str | None = None
    problem: MeshkitError | None = None

    def members(self) -> dict[str, Any]:
        """What is shown of it beside the message."""
        shown: dict[str, Any] = {"sealed": True}
        if self.recipients is not None:
            shown["recipients"] = self.recipients
        if self.content is not None:
            shown["opened"] = msgspec.Raw(self.content.text.encode("utf-8"))
        if self.problem is not None:
            shown["problem"] = f"{self.problem.code}: {self.problem}"
        return shown


def seal_content(
    author: Identity,
    recipients: Sequence[str],
    content: Prepared,
    schema_id: str | None,
    form: Form,
    rng: Random,
) -> tuple[Prepared, str | None]:
    """
    Seal a content.  The author can always open it again.

    @param recipients: their ids, 1 to L{MAX_RECIPIENTS}; the author's own changes nothing.
    @param content: what to seal.
    @param schema_id: the schema of the content.
    @param form: C{own} for ours, C{egregore} for theirs.
    @param rng: all randomness.
    @return: the content to publish, and the C{schema_id} to publish it with.
    @raise InvalidPublicKey: if a recipient is no id.
    @raise SealedInvalid: if it cannot be sealed for them, or is too long.
    @raise PrivateBoxInvalid: likewise, for Egregore's form.
    """
    if len(recipients) > MAX_RECIPIENTS:
        raise SealedInvalid(
            f"a sealed message has {MAX_RECIPIENTS} recipients at most, not {len(recipients)}"
        )
    keys = [PublicKey.parse(text) for text in recipients]
    readers = [author.public, *(key for key in keys if key != author.public)]
    if form == "egregore":
        nonce, key = rng.randbytes(private_box.NONCE_BYTES), rng.randbytes(private_box.KEY_BYTES)
        text = content.text.encode("utf-8")
        box = private_box.seal(author, readers, text, nonce, key)
        outer = private_box.content_of(author.public, box, schema_id)
        return prepare_content(outer), private_box.SCHEMA_ID
    inner = _Inner(msgspec.Raw(content.text.encode("utf-8")), [key.text for key in keys], schema_id)
    text = msgspec.json.encode(inner)
    box = sealed.seal(author.public, readers, text, rng, MAX_BOX)
    encoded = base64.b64encode(box).decode("ascii")
    return prepare_content({"box": encoded, "type": SEALED_TYPE}), None


def open_message(reader: Identity, raw: bytes) -> Sealed | None:
    """
    Open a message, if it is a sealed one.  It may be called from any thread.

    @param raw: the text of a stored message: who wrote it was checked.
    @return: L{None} if it is not sealed.
    """
    # Canonical text: that spares reading all those that are not.
    if not any(mark in raw for mark in _MARKS):
        return None
    message = msgspec.json.decode(raw, type=_Outer)
    content = message.content
    kind = content.get("type") if isinstance(content, dict) else None
    if kind not in _TYPES:
        return None
    author = PublicKey.parse(message.author)
    try:
        if kind == SEALED_TYPE:
            return _open_own(reader, author, content)
        return _open_egregore(reader, author, content)
    except FeedError as e:
        return Sealed(problem=e)


def _open_own(reader: Identity, author: PublicKey, content: dict[str, Any]) -> Sealed:
    text = content.get("box")
    try:
        box = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        box = b""
    opened = sealed.open_box(reader, author, box)
    if opened is None:
        return Sealed()
    try:
        inner = msgspec.json.decode(opened, type=_Inner)
        recipients = tuple(PublicKey.parse(each).text for each in inner.recipients)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidPublicKey) as e:
        raise SealedInvalid(f"what was sealed is not of the form that it has to be: {e}") from None
    return Sealed(prepare_content_text(bytes(inner.content)), recipients, inner.schema_id)


def _open_egregore(reader: Identity, author: PublicKey, content: dict[str, Any]) -> Sealed:
    opened = private_box.open_content(reader, author, content)
    if opened is None:
        return Sealed()
    named = content.get("inner_schema_id")
    # What is in it was not written by us, and goes into our answers: JSON of this form.
    return Sealed(prepare_content_text(opened), schema_id=named if isinstance(named, str) else None)
