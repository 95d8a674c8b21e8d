"""
What is said to and by a relay.

On a control connection, MessagePack-RPC (L{meshkit.rpc}) in both directions::

    hidden peer -> relay   relay.reserve  []                        -> [voucher, seconds, stun]
    hidden peer -> relay   relay.release  []                        -> []
    relay -> hidden peer   relay.circuit  [id, seconds, bytes]      -> []

On a circuit connection one frame in each direction, and then the bytes of the circuit::

    frame   u16be length | MessagePack
    asker   ["open", key of the target: bin 32]
    hidden  ["join", id: bin 16]
    relay   [code: str, sentence: str, seconds: uint, bytes: uint]     code "" if all is well

Nobody sends anything between his frame and the relay's.  Pure.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import (
    CircuitRefused,
    CircuitUnknown,
    FrameTooLarge,
    MalformedFrame,
    MeshkitError,
    OverRate,
    RelayLimitReached,
    RelayNoReservation,
    RelayTargetSilent,
)
from meshkit.identity.keys import KEY_BYTES
from meshkit.identity.vouchers import MAX_VOUCHER
from meshkit.relay.tunnel.circuits import CIRCUIT_BYTES
from meshkit.rpc.methods import Method

#: Labels of the protocols.
CONTROL_LABEL: Final = "relay-control"
CIRCUIT_LABEL: Final = "relay-circuit"

#: Bytes of a frame, without its length.
MAX_FRAME: Final = 1536
_LENGTH: Final = 2
_MAX_CODE: Final = 64
_MAX_SENTENCE: Final = 300
#: Bytes of requests and answers on a control connection.
_MAX_MESSAGE: Final = 1024

Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
CircuitId = Annotated[bytes, Meta(min_length=CIRCUIT_BYTES, max_length=CIRCUIT_BYTES)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Reserve(msgspec.Struct, array_like=True, frozen=True):
    """Lead others to me; or go on doing so."""


class Reserved(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar voucher: see L{meshkit.identity.vouchers}.
    @ivar seconds: for which it holds.
    @ivar stun: UDP port of the relay's machine at which it answers by STUN; 0 if it does not, as
        older relays, which leave it out.
    """

    voucher: Annotated[bytes, Meta(max_length=MAX_VOUCHER)]
    seconds: Annotated[int, Meta(ge=1, le=86_400)]
    stun: Annotated[int, Meta(ge=0, le=65_535)] = 0


class Release(msgspec.Struct, array_like=True, frozen=True):
    """Lead nobody to me any more."""


class Done(msgspec.Struct, array_like=True, frozen=True):
    """Yes."""


class Offer(msgspec.Struct, array_like=True, frozen=True):
    """
    Somebody wants to reach you: dial me, and join this circuit.

    @ivar circuit_id: which.
    @ivar seconds: how long it may last.
    @ivar size: bytes that it carries in each direction.
    """

    circuit_id: CircuitId
    seconds: Count
    size: Count


RESERVE: Final = Method(
    "relay.reserve",
    Reserve,
    Reserved,
    max_request=_MAX_MESSAGE,
    max_answer=_MAX_MESSAGE,
    doc="Have others led to you for a while.",
)
RELEASE: Final = Method(
    "relay.release",
    Release,
    Done,
    max_request=_MAX_MESSAGE,
    max_answer=_MAX_MESSAGE,
    doc="Have nobody led to you any more.",
)
OFFER: Final = Method(
    "relay.circuit",
    Offer,
    Done,
    max_request=_MAX_MESSAGE,
    max_answer=_MAX_MESSAGE,
    doc="Be told of somebody who wants to reach you.",
)


class Open(msgspec.Struct, array_like=True, frozen=True, tag="open", forbid_unknown_fields=True):
    """Lead me to somebody."""

    target: Key


class Join(msgspec.Struct, array_like=True, frozen=True, tag="join", forbid_unknown_fields=True):
    """I am the one who was asked for."""

    circuit_id: CircuitId


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar code: that of the error; empty if what follows are the bytes of the circuit.
    @ivar sentence: for people.
    @ivar seconds: how long the circuit may last.
    @ivar size: bytes that it carries in each direction.
    """

    code: Annotated[str, Meta(max_length=_MAX_CODE)] = ""
    sentence: Annotated[str, Meta(max_length=_MAX_SENTENCE)] = ""
    seconds: Count = 0
    size: Count = 0


_encoder: Final = msgspec.msgpack.Encoder()
_openings: Final = msgspec.msgpack.Decoder(Open | Join)
_answers: Final = msgspec.msgpack.Decoder(Answer)

#: What a relay may refuse a circuit with.  Any other code of its is a L{CircuitRefused}.
_REFUSALS: Final[dict[str, type[MeshkitError]]] = {
    error.code: error
    for error in (
        CircuitUnknown,
        OverRate,
        RelayLimitReached,
        RelayNoReservation,
        RelayTargetSilent,
    )
}


def encode_frame(content: Open | Join | Answer) -> bytes:
    """@return: the frame, with its length."""
    body = _encoder.encode(content)
    return len(body).to_bytes(_LENGTH, "big") + body


def refusal(error: MeshkitError) -> Answer:
    """@return: how a relay says why there is no circuit."""
    return Answer(error.code, str(error)[:_MAX_SENTENCE])


def refused(answer: Answer) -> MeshkitError:
    """@return: what a relay has refused a circuit with, as an error of ours."""
    kind = _REFUSALS.get(answer.code, CircuitRefused)
    return kind(f"the relay says: {answer.sentence or answer.code}")


def decode_opening(body: bytes) -> Open | Join:
    """@raise MalformedFrame: it is neither."""
    try:
        opening: Open | Join = _openings.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedFrame("a circuit connection begins with neither open nor join") from None
    return opening


def decode_answer(body: bytes) -> Answer:
    """@raise MalformedFrame: it is none."""
    try:
        answer: Answer = _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedFrame("the relay's answer has not the form of one") from None
    return answer


class FrameReader:
    """Finds the one frame at the beginning of a stream."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """
        @return: the frame without its length, and what came behind it; L{None} if more is
            needed.
        @raise FrameTooLarge: it is longer than L{MAX_FRAME}, which is known by its length.
        """
        self._data += data
        if len(self._data) < _LENGTH:
            return None
        end = _LENGTH + int.from_bytes(self._data[:_LENGTH], "big")
        if end > _LENGTH + MAX_FRAME:
            raise FrameTooLarge(
                f"a frame of {end - _LENGTH} bytes begins a circuit: it has at most {MAX_FRAME}"
            )
        if len(self._data) < end:
            return None
        found = bytes(self._data[_LENGTH:end]), bytes(self._data[end:])
        self._data.clear()
        return found
