"""
What a person hands on to give somebody access to an object: one string each.  Pure.

===============  ==================================  ======================================
C{mkread1-}      content id, content key             finds and reads the object
C{mkverify1-}    content id, placement public key    finds, checks and counts its shares
C{mkrepair1-}    content id, placement secret        that, and says where shares are
===============  ==================================  ======================================

None contains another.  Who may read needs no right to move the shares, who repairs reads
nothing.  A repairer's gives a verifier's (L{RepairCapability.verify}); so does the manifest
of an object, whose header names the placement key, to everybody.

The texts have 117 or 119 characters (L{meshkit.crypto.pasteable}).
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Final, TypeVar

from attrs import field, frozen

from meshkit.crypto.pasteable import TextForm
from meshkit.errors import CapabilityInvalid
from meshkit.identity.keys import Identity, PublicKey
from meshkit.storage.manifest import ID_BYTES

_HALF: Final = 32


def _show(content_id: bytes) -> str:
    """Enough of an id to tell objects apart."""
    return content_id.hex()[:16]


@frozen(repr=False, slots=False)
class _Capability:
    """
    @ivar content_id: which object.
    """

    form: ClassVar[TextForm]
    name: ClassVar[str]

    content_id: bytes
    _other: bytes = field(alias="other")

    def __attrs_post_init__(self) -> None:
        if len(self.content_id) != ID_BYTES or len(self._other) != _HALF:
            raise ValueError("a content id and a key have 32 bytes each")

    @property
    def text(self) -> str:
        """What can be pasted."""
        return self.form.write(self.content_id + self._other)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_show(self.content_id)}>"


class ReadCapability(_Capability):
    """
    To read one object.  It is a secret.

    @ivar content_id: which object.
    """

    form = TextForm("mkread1-", ID_BYTES + _HALF)
    name = "a read capability"

    @property
    def key(self) -> bytes:
        """The content key."""
        return self._other


class VerifyCapability(_Capability):
    """
    To find the shares of one object and check them.

    @ivar content_id: which object.
    """

    form = TextForm("mkverify1-", ID_BYTES + _HALF)
    name = "a verify capability"

    @property
    def placement(self) -> PublicKey:
        """Whose signature says where the shares are."""
        return PublicKey(self._other)


class RepairCapability(_Capability):
    """
    To say where the shares of one object are.  It is a secret.

    @ivar content_id: which object.
    """

    form = TextForm("mkrepair1-", ID_BYTES + _HALF)
    name = "a repair capability"

    @property
    def seed(self) -> bytes:
        """Of that key.  It is a secret."""
        return self._other

    @cached_property
    def identity(self) -> Identity:
        """Who signs the placement document of this object, and nothing else."""
        return Identity(self._other)

    @property
    def verify(self) -> VerifyCapability:
        """What may be given to those who only check."""
        return VerifyCapability(self.content_id, self.identity.public.raw)


Capability = ReadCapability | VerifyCapability | RepairCapability

_KINDS: Final[tuple[type[Capability], ...]] = (ReadCapability, VerifyCapability, RepairCapability)

_T = TypeVar("_T", bound=Capability)


def parse_capability(text: str) -> Capability:
    """
    Read a capability of any kind.

    @raise CapabilityInvalid: if it is none, or was misspelt or cut off.
    """
    for kind in _KINDS:
        if kind.form.recognises(text):
            try:
                data = kind.form.read(text)
            except ValueError as e:
                raise CapabilityInvalid(f"{kind.name} cannot be used: {e}") from None
            return kind(data[:ID_BYTES], data[ID_BYTES:])
    raise CapabilityInvalid(
        "this gives no access to an object: such a text begins with "
        + ", ".join(kind.form.prefix for kind in _KINDS[:-1])
        + f" or {_KINDS[-1].form.prefix}"
    )


def expect_capability(text: str, kind: type[_T]) -> _T:
    """
    Read a capability of one kind.

    @raise CapabilityInvalid: if it is anything else.
    """
    found = parse_capability(text)
    if not isinstance(found, kind):
        raise CapabilityInvalid(f"{found.name} was given where {kind.name} is needed")
    return found
