"""
What a storage peer is asked over HTTP, and how it answers.  Pure.

::

    GET    /v1/health                               JSON: it serves
    GET    /v1/record                               JSON: what it says about itself
    GET    /v1/heartbeat                            the same, signed
    POST   /v1/uploads/UPLOAD/NUMBER                JSON in, JSON out: reserve room
    PUT    /v1/uploads/UPLOAD/NUMBER/SEGMENT        a block
    POST   /v1/uploads/UPLOAD/NUMBER/close          a manifest in, a receipt out
    DELETE /v1/uploads/UPLOAD/NUMBER                give it up
    GET    /v1/shares/SHARE                         JSON: what it has
    GET    /v1/shares/SHARE/manifest                a manifest
    GET    /v1/shares/SHARE/blocks/SEGMENT          a piece
    POST   /v1/shares/SHARE/lease                   JSON in, a receipt out: renew
    DELETE /v1/shares/SHARE/lease                   the secret in a header

    piece = u16be number of hashes | hashes of 32 bytes | block

C{UPLOAD}, C{SHARE} and secrets are 64 digits of lower-case hex, numbers are decimal without
leading zeros.  JSON is in the envelope of the local door: C{{"success": true, "data": ...}} or
C{{"success": false, "error": {"code": ..., "message": ..., "details": ...}}}.  What is not JSON
is C{application/octet-stream}.

docs/protocol/storage.md is the page for people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from meshkit.crypto.merkle import HASH_BYTES
from meshkit.errors import (
    CapacityReached,
    LeaseUnknown,
    MeshkitError,
    QuotaReached,
    ReservationExceeded,
    ShareDamaged,
    ShareMismatch,
    ShareUnknown,
    SignatureRefused,
    SignatureRetry,
    StatementInvalid,
    StatementStale,
    StorageBusy,
    StorageDiskFailed,
    StorageDraining,
    StoragePeerError,
    StorageRefused,
    UploadOutOfStep,
    UploadUnknown,
)
from meshkit.storage.encoding import Piece
from meshkit.storage.manifest import MAX_MANIFEST
from meshkit.storage.scheme import MAX_SHARES
from meshkit.storage.statements import MAX_NUMBER, MAX_STATEMENT, StorageRecord
from meshkit.storage.terms import LEASE_BYTES, MAX_BLOCK, Reservation, ShareStat

#: Label and version of the capability.
LABEL: Final = "storage"
VERSION: Final = 1

JSON: Final = b"application/json"
OCTETS: Final = b"application/octet-stream"
#: Of C{DELETE .../lease}: the secret, in hex.
LEASE_HEADER: Final = b"Meshkit-Lease"

#: Bytes of a JSON request.
MAX_JSON: Final = 1024
#: Bytes of a JSON answer.
MAX_JSON_ANSWER: Final = 16 * 1024
#: Hashes in front of a block: the branch of a block of 1 MiB in the largest share has 32.
MAX_BRANCH: Final = 128
#: Bytes of the largest answer.
MAX_PIECE: Final = 2 + MAX_BRANCH * HASH_BYTES + MAX_BLOCK
#: The highest number of a segment.
MAX_SEGMENT: Final = 2**32 - 1
#: Characters of a foreign error that are shown.
_MAX_MESSAGE: Final = 300

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_HEX32: Final = re.compile(r"[0-9a-f]{64}")
_UNSHOWN: Final = re.compile(r"[^\x20-\x7e]+")

_Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]

# --- paths ---------------------------------------------------------------------------


def upload_path(upload: bytes, number: int) -> str:
    """@return: the path of a share that is being written."""
    return f"/v1/uploads/{upload.hex()}/{number}"


def block_path(upload: bytes, number: int, segment: int) -> str:
    """@return: the path of one of its blocks."""
    return f"/v1/uploads/{upload.hex()}/{number}/{segment}"


def share_path(share: bytes) -> str:
    """@return: the path of a share that is kept."""
    return f"/v1/shares/{share.hex()}"


def parse_hex32(text: str) -> bytes | None:
    """@return: the 32 bytes; L{None} if the text is anything else."""
    return bytes.fromhex(text) if _HEX32.fullmatch(text) else None


def parse_share_number(text: str) -> int | None:
    """@return: the number of a share; L{None} if the text is anything else."""
    return _number(text, MAX_SHARES - 1)


def parse_segment(text: str) -> int | None:
    """@return: the number of a segment; L{None} if the text is anything else."""
    return _number(text, MAX_SEGMENT)


def _number(text: str, limit: int) -> int | None:
    if not _NUMBER.fullmatch(text) or int(text) > limit:
        return None
    return int(text)


# --- requests ------------------------------------------------------------------------


class Reserve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of C{POST /v1/uploads/UPLOAD/NUMBER}; see L{meshkit.interfaces.IStoragePeer}."""

    size: _Number
    lease: _Hex32
    repair: bool = False


class Renew(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of C{POST /v1/shares/SHARE/lease}."""

    secret: _Hex32


# --- answers -------------------------------------------------------------------------


class Health(msgspec.Struct, frozen=True):
    """
    That somebody serves.

    @ivar status: C{serving}.
    """

    status: str = "serving"


class Reserved(msgspec.Struct, frozen=True):
    """L{Reservation} in JSON."""

    next_segment: Annotated[int, Meta(ge=0, le=MAX_SEGMENT + 1)]
    size: _Number
    expires: _Number
    complete: bool

    @classmethod
    def of(cls, reservation: Reservation) -> Reserved:
        """@return: what to send."""
        return cls(
            reservation.next_segment,
            reservation.size,
            reservation.expires,
            reservation.complete,
        )

    @property
    def reservation(self) -> Reservation:
        """What was sent."""
        return Reservation(self.next_segment, self.size, self.expires, self.complete)


class Stat(msgspec.Struct, frozen=True):
    """L{ShareStat} in JSON."""

    size: _Number
    root: _Hex32
    lease_end: _Number

    @classmethod
    def of(cls, stat: ShareStat) -> Stat:
        """@return: what to send."""
        return cls(stat.size, stat.root.hex(), stat.lease_end)

    @property
    def stat(self) -> ShareStat:
        """What was sent."""
        return ShareStat(self.size, bytes.fromhex(self.root), self.lease_end)


class Record(msgspec.Struct, frozen=True):
    """L{StorageRecord} in JSON, for people and scripts: nobody has signed this form."""

    peer: str
    network: str
    sequence: int
    issued: int
    expires: int
    addresses: list[str]
    capacity: int
    reserved: int
    headroom: int
    used: int
    domain: str | None
    accepts: bool
    leaving: bool

    @classmethod
    def of(cls, record: StorageRecord) -> Record:
        """@return: what to send."""
        return cls(
            record.peer.text,
            record.network.hex(),
            record.sequence,
            record.issued,
            record.expires,
            [place.text for place in record.addresses],
            record.capacity,
            record.reserved,
            record.headroom,
            record.used,
            record.domain,
            record.accepts,
            record.leaving,
        )


class _Fault(msgspec.Struct, frozen=True):
    code: str
    message: str = ""
    details: Any = msgspec.UNSET


class _Answer(msgspec.Struct, frozen=True):
    success: bool
    data: Any = msgspec.UNSET
    error: _Fault | msgspec.UnsetType = msgspec.UNSET


_T = TypeVar("_T")

_answers: Final = msgspec.json.Decoder(_Answer)


def encode_json(data: msgspec.Struct) -> bytes:
    """@return: the JSON of the body of a request."""
    return msgspec.json.encode(data)


def encode_data(data: msgspec.Struct) -> bytes:
    """@return: the JSON of a good answer."""
    return msgspec.json.encode(_Answer(True, data))


def decode_data(raw: bytes, kind: type[_T]) -> _T:
    """
    @return: what a good answer says.
    @raise ValueError: if it is not of that kind.
    """
    try:
        answer = _answers.decode(raw)
        if not answer.success:
            raise ValueError("it says that it is an error")
        return msgspec.convert(answer.data, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"it is not the JSON that belongs there: {e}") from None


def decode_request(raw: bytes, kind: type[_T]) -> _T:
    """
    @return: what the body of a request says.
    @raise ValueError: if it is not of that kind.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(str(e)) from None


# --- errors --------------------------------------------------------------------------

#: What a peer may say about itself and be taken at its word.
_ERRORS: Final[Mapping[str, type[StoragePeerError]]] = {
    kind.code: kind
    for kind in (
        CapacityReached,
        LeaseUnknown,
        QuotaReached,
        ReservationExceeded,
        ShareDamaged,
        ShareMismatch,
        ShareUnknown,
        SignatureRefused,
        SignatureRetry,
        StatementInvalid,
        StatementStale,
        StorageBusy,
        StorageDiskFailed,
        StorageDraining,
        StorageRefused,
        UploadUnknown,
    )
}


class _Next(msgspec.Struct, frozen=True):
    next_segment: Annotated[int, Meta(ge=0, le=MAX_SEGMENT + 1)]


class _When(msgspec.Struct, frozen=True):
    now: _Number
    after: _Number


def encode_error(error: MeshkitError) -> bytes:
    """@return: the JSON of a bad answer."""
    details = msgspec.UNSET if error.details is None else error.details
    return msgspec.json.encode(_Answer(False, error=_Fault(error.code, str(error), details)))


def decode_error(status: int, raw: bytes, peer: str) -> StoragePeerError:
    """
    What a bad answer says, as the exception that the peer has met itself.  A code that is not
    known here, or not a storage peer's to use, is a L{StoragePeerError} that quotes it.

    @param status: of the answer, 400 to 599.
    @param peer: who gave it, for people.
    """
    try:
        fault = _answers.decode(raw).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fault = msgspec.UNSET
    if not isinstance(fault, _Fault):
        return StoragePeerError(f"the storage peer {peer} answers with status {status}")
    # It is shown to people, and its author may be anybody.
    message = _UNSHOWN.sub("?", fault.message)[:_MAX_MESSAGE]
    if fault.code == UploadOutOfStep.code:
        try:
            expected = msgspec.convert(fault.details, _Next).next_segment
        except msgspec.ValidationError:
            return StoragePeerError(f"the storage peer {peer} does not say which block is next")
        return UploadOutOfStep(f"the storage peer {peer}: {message}", next_segment=expected)
    kind = _ERRORS.get(fault.code)
    if kind is None:
        code = _UNSHOWN.sub("?", fault.code)[:_MAX_MESSAGE]
        return StoragePeerError(f"the storage peer {peer} answers {code}: {message}")
    error = kind(f"the storage peer {peer}: {message}")
    if kind is SignatureRetry:
        try:
            when = msgspec.convert(fault.details, _When)
        except msgspec.ValidationError:
            return error
        error.details = {"now": when.now, "after": when.after}
    return error


# --- pieces --------------------------------------------------------------------------


def encode_branch(branch: Sequence[bytes]) -> bytes:
    """@return: what stands before the block."""
    return len(branch).to_bytes(2, "big") + b"".join(branch)


def decode_piece(raw: bytes) -> Piece:
    """
    @return: the piece.  Its block is a view: it is not copied.
    @raise ValueError: if it is none.
    """
    count = int.from_bytes(raw[:2], "big")
    start = 2 + count * HASH_BYTES
    if count > MAX_BRANCH or not start <= len(raw) <= start + MAX_BLOCK:
        raise ValueError(f"{len(raw)} bytes are no block with its proof")
    branch = [raw[at : at + HASH_BYTES] for at in range(2, start, HASH_BYTES)]
    return Piece(memoryview(raw)[start:], branch)


__all__ = [
    "JSON",
    "LABEL",
    "LEASE_BYTES",
    "LEASE_HEADER",
    "MAX_BLOCK",
    "MAX_BRANCH",
    "MAX_JSON",
    "MAX_JSON_ANSWER",
    "MAX_MANIFEST",
    "MAX_PIECE",
    "MAX_SEGMENT",
    "MAX_STATEMENT",
    "OCTETS",
    "VERSION",
    "Health",
    "Record",
    "Renew",
    "Reserve",
    "Reserved",
    "Stat",
    "block_path",
    "decode_data",
    "decode_error",
    "decode_piece",
    "decode_request",
    "encode_branch",
    "encode_data",
    "encode_error",
    "encode_json",
    "parse_hex32",
    "parse_segment",
    "parse_share_number",
    "share_path",
    "upload_path",
]
