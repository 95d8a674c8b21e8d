"""
Who makes a request, and who answers it, where the connection does not say so: HTTP Message
Signatures (RFC 9421) over a digest of the body (RFC 9530).  Pure.

There is one form of signature and no other.  A request has these headers beside those it has
anyway, each exactly once::

    Content-Digest: sha-256=:BASE64:
    Meshkit-Recipient: @BASE64.ed25519          whom it is for
    Meshkit-Net: 32 hex digits                  in which network
    Signature-Input: mk=("@method" "@authority" "@path" "@query" "content-digest"
        "content-length" "content-type" "meshkit-recipient" "meshkit-net");created=UNIX;
        expires=UNIX;nonce="BASE64URL";alg="ed25519";keyid="@BASE64.ed25519";
        tag="meshkit-storage/1"                 (in one line, with no space after C{;})
    Signature: mk=:BASE64:

and its answer, signed by who was asked::

    Content-Digest: sha-256=:BASE64:
    Signature-Input: mk=("@status" "content-digest" "@method";req "@path";req
        "signature";key="mk";req);created=UNIX;alg="ed25519";keyid="@BASE64.ed25519";
        tag="meshkit-storage/1"
    Signature: mk=:BASE64:

The authority does not name a peer that is behind a proxy, so the recipient is signed too: what
was sent to one peer is worth nothing at another one.  Whether a request was seen before is the
business of L{meshkit.runtime.signed.replays}.

Other signatures, labels, components, parameters or orders are refused: there is nothing to
negotiate, and what is not accepted cannot be accepted by mistake.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from attrs import frozen

from meshkit.errors import InvalidPublicKey, SignatureRefused, StatementInvalid
from meshkit.identity.keys import SIGNATURE_BYTES, Identity, PublicKey
from meshkit.identity.records import NETWORK_BYTES

LABEL: Final = "mk"
#: What the signatures are for: those of storage peers.  Other doors that take the same form have
#: tags of their own, so that what is signed for the one is worth nothing at the other.
TAG: Final = "meshkit-storage/1"
#: The tag of the HTTP door of a relay.
RELAY_TAG: Final = "meshkit-relay/1"

#: Random bytes of a nonce; as many as four times that are taken.
NONCE_BYTES: Final = 16
#: Seconds that a request may hold.
LIFETIME: Final = 60

CONTENT_DIGEST: Final = "Content-Digest"
RECIPIENT: Final = "Meshkit-Recipient"
NETWORK: Final = "Meshkit-Net"
SIGNATURE_INPUT: Final = "Signature-Input"
SIGNATURE: Final = "Signature"

REQUEST_COMPONENTS: Final = (
    '"@method"',
    '"@authority"',
    '"@path"',
    '"@query"',
    '"content-digest"',
    '"content-length"',
    '"content-type"',
    '"meshkit-recipient"',
    '"meshkit-net"',
)
RESPONSE_COMPONENTS: Final = (
    '"@status"',
    '"content-digest"',
    '"@method";req',
    '"@path";req',
    '"signature";key="mk";req',
)

_ALG: Final = "ed25519"
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_SIGNATURE: Final = re.compile(rf"{LABEL}=:([A-Za-z0-9+/]{{86}}==):")
_TIME: Final = r"(0|[1-9][0-9]{0,11})"
_KEYID: Final = r"(@[A-Za-z0-9+/]{43}=\.ed25519)"
_REQUEST_INPUT: Final = re.compile(
    re.escape(f"{LABEL}=({' '.join(REQUEST_COMPONENTS)})")
    + rf";created={_TIME};expires={_TIME}"
    + r';nonce="([A-Za-z0-9_-]{22,86})"'
    + rf';alg="{_ALG}";keyid="{_KEYID}";tag="([a-z0-9/-]{{1,64}})"'
)
_RESPONSE_INPUT: Final = re.compile(
    re.escape(f"{LABEL}=({' '.join(RESPONSE_COMPONENTS)})")
    + rf';created={_TIME};alg="{_ALG}";keyid="{_KEYID}";tag="([a-z0-9/-]{{1,64}})"'
)

#: All values of a header, in order.
Values = Callable[[str], Sequence[str]]


# --- the base construction ---------------------------------------------------------------


def signature_base(components: Sequence[tuple[str, str]], parameters: str) -> bytes:
    """
    RFC 9421, 2.5.

    @param components: identifiers as they stand in the list, quotation marks and parameters
        included, each with its value.
    @param parameters: the list itself and what follows it.
    @return: what is signed.
    """
    lines = [f"{identifier}: {value}" for identifier, value in components]
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode("latin-1")


def content_digest(digest: bytes) -> str:
    """
    RFC 9530, 2.

    @param digest: SHA-256 of the body.
    @return: the value of the header.
    """
    return f"sha-256=:{base64.b64encode(digest).decode('ascii')}:"


def parse_content_digest(text: str) -> bytes | None:
    """@return: the SHA-256; L{None} if the value says anything else, or something beside it."""
    found = _DIGEST.fullmatch(text)
    return None if found is None else _decode(found[1])


def _decode(text: str) -> bytes | None:
    """@return: what base64 says, if there is no other way to write it."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return raw if base64.b64encode(raw).decode("ascii") == text else None


def normal_authority(host: str) -> str:
    """@return: the value of a C{Host} header as it is signed (RFC 9421, 2.2.3), over TLS."""
    return host.lower().removesuffix(":443")


# --- requests ----------------------------------------------------------------------------


@frozen
class RequestFacts:
    """
    What of a request is signed, as it is sent.

    @ivar method: such as C{GET}.
    @ivar authority: of the C{Host} header.
    @ivar path: without a query.
    @ivar query: what follows the question mark, which is nothing here.
    @ivar digest: value of C{Content-Digest}.
    @ivar length: value of C{Content-Length}.
    @ivar content_type: value of C{Content-Type}.
    @ivar recipient: value of C{Meshkit-Recipient}.
    @ivar network: value of C{Meshkit-Net}.
    """

    method: str
    authority: str
    path: str
    query: str
    digest: str
    length: str
    content_type: str
    recipient: str
    network: str

    @classmethod
    def of(cls, method: str, target: str, values: Values) -> RequestFacts:
        """
        @param target: as it was sent.
        @raise SignatureRefused: if a header that is signed is missing, or there more than once.
        """
        path, _, query = target.partition("?")
        return cls(
            method,
            normal_authority(_single(values, "Host")),
            path,
            query,
            _single(values, CONTENT_DIGEST),
            _single(values, "Content-Length"),
            _single(values, "Content-Type"),
            _single(values, RECIPIENT),
            _single(values, NETWORK),
        )

    def base(self, parameters: str) -> bytes:
        """@return: what is signed."""
        values = (
            self.method,
            self.authority,
            self.path,
            f"?{self.query}",
            self.digest,
            self.length,
            self.content_type,
            self.recipient,
            self.network,
        )
        return signature_base(list(zip(REQUEST_COMPONENTS, values, strict=True)), parameters)


@frozen
class SignedRequest:
    """
    A request whose signature is right.

    @ivar caller: who has signed it.
    @ivar created: when, in seconds of Unix time, as the caller says.
    @ivar expires: until when it holds.
    @ivar nonce: never used twice by this caller.
    @ivar digest: SHA-256 that the body has to have.
    @ivar signature: in base64, which the answer signs.
    """

    caller: PublicKey
    created: int
    expires: int
    nonce: str
    digest: bytes
    signature: str


def sign_request(
    identity: Identity,
    facts: RequestFacts,
    created: int,
    expires: int,
    nonce: bytes,
    *,
    tag: str = TAG,
) -> list[tuple[str, str]]:
    """
    @param nonce: L{NONCE_BYTES} random bytes.
    @param tag: what it is signed for.
    @return: the headers C{Signature-Input} and C{Signature}.
    """
    spelt = base64.urlsafe_b64encode(nonce).decode("ascii").rstrip("=")
    parameters = (
        f"({' '.join(REQUEST_COMPONENTS)});created={created};expires={expires};"
        f'nonce="{spelt}";alg="{_ALG}";keyid="{identity.public.text}";tag="{tag}"'
    )
    return _signed(identity, facts.base(parameters), parameters)


def verify_request(
    method: str,
    target: str,
    values: Values,
    recipient: PublicKey,
    network: bytes,
    *,
    tag: str = TAG,
) -> SignedRequest:
    """
    @param values: the headers.
    @param recipient: who we are.
    @param network: in which network we are, 16 bytes.
    @param tag: what it has to be signed for.
    @return: what it says.  Neither its time nor its nonce is looked at.
    @raise SignatureRefused: if it is not signed in the one way, or not for us.
    """
    text = _single(values, SIGNATURE_INPUT)
    found = _REQUEST_INPUT.fullmatch(text)
    if found is None or found[5] != tag:
        raise SignatureRefused("the Signature-Input is not of the one form that there is")
    signature = _signature(_single(values, SIGNATURE))
    facts = RequestFacts.of(method, target, values)
    if facts.recipient != recipient.text:
        raise SignatureRefused(f"the request is for another peer than {recipient.text}")
    if facts.network != network.hex():
        raise SignatureRefused("the request is for another network")
    digest = parse_content_digest(facts.digest)
    if digest is None:
        raise SignatureRefused("the Content-Digest is not one SHA-256")
    caller = _caller(found[4])
    if not caller.verifies(facts.base(text.removeprefix(f"{LABEL}=")), signature):
        raise SignatureRefused("the signature is wrong")
    spelt = base64.b64encode(signature).decode("ascii")
    return SignedRequest(caller, int(found[1]), int(found[2]), found[3], digest, spelt)


def claimed_caller(values: Values) -> PublicKey:
    """
    @param values: the headers.
    @return: whose key is to have signed a request: nothing has been verified.
    @raise SignatureRefused: it names none.
    """
    found = _REQUEST_INPUT.fullmatch(_single(values, SIGNATURE_INPUT))
    if found is None:
        raise SignatureRefused("the Signature-Input is not of the one form that there is")
    return _caller(found[4])


def _caller(text: str) -> PublicKey:
    try:
        return PublicKey.parse(text)
    except InvalidPublicKey as e:
        raise SignatureRefused(f"the keyid cannot be used: {e}") from None


# --- answers -----------------------------------------------------------------------------


def _answer_base(
    status: int, digest: str, method: str, path: str, signature: str, parameters: str
) -> bytes:
    values = (str(status), digest, method, path, f":{signature}:")
    return signature_base(list(zip(RESPONSE_COMPONENTS, values, strict=True)), parameters)


def sign_response(
    identity: Identity,
    status: int,
    body: bytes,
    method: str,
    path: str,
    signature: str,
    created: int,
    *,
    tag: str = TAG,
) -> list[tuple[str, str]]:
    """
    @param body: SHA-256 of the body.
    @param method: of the request.
    @param path: of the request.
    @param signature: of the request, in base64.
    @param created: seconds of Unix time.
    @param tag: what the request was signed for.
    @return: the headers to be added.
    """
    digest = content_digest(body)
    parameters = (
        f'({" ".join(RESPONSE_COMPONENTS)});created={created};alg="{_ALG}";'
        f'keyid="{identity.public.text}";tag="{tag}"'
    )
    base = _answer_base(status, digest, method, path, signature, parameters)
    return [(CONTENT_DIGEST, digest), *_signed(identity, base, parameters)]


def verify_response(
    peer: PublicKey,
    status: int,
    body: bytes,
    values: Values,
    method: str,
    path: str,
    signature: str,
    *,
    tag: str = TAG,
) -> None:
    """
    @param peer: who was asked.
    @param body: of the answer.
    @param values: its headers.
    @param signature: of the request, in base64.
    @param tag: what the request was signed for.
    @raise StatementInvalid: if the answer was not given by that peer to that request.
    """
    try:
        text = _single(values, SIGNATURE_INPUT)
        found = _RESPONSE_INPUT.fullmatch(text)
        raw = _signature(_single(values, SIGNATURE))
        digest = _single(values, CONTENT_DIGEST)
    except SignatureRefused as e:
        raise StatementInvalid(f"the answer of {peer.text} is not signed: {e}") from None
    if found is None or found[2] != peer.text or found[3] != tag:
        raise StatementInvalid(f"the answer was not signed by {peer.text}")
    parameters = text.removeprefix(f"{LABEL}=")
    base = _answer_base(status, digest, method, path, signature, parameters)
    if not peer.verifies(base, raw):
        raise StatementInvalid(f"the signature of an answer of {peer.text} is wrong")
    said = parse_content_digest(digest)
    if said is None or not hmac.compare_digest(said, sha256(body).digest()):
        raise StatementInvalid(f"the body of an answer of {peer.text} is not what was signed")


# --- both --------------------------------------------------------------------------------


def signature_of(headers: Sequence[tuple[str, str]]) -> str:
    """@return: the base64 in the C{Signature} among headers that were made here."""
    (text,) = (value for name, value in headers if name == SIGNATURE)
    return text.removeprefix(f"{LABEL}=:").removesuffix(":")


def _signed(identity: Identity, base: bytes, parameters: str) -> list[tuple[str, str]]:
    signature = base64.b64encode(identity._sign_raw(base)).decode("ascii")
    return [
        (SIGNATURE_INPUT, f"{LABEL}={parameters}"),
        (SIGNATURE, f"{LABEL}=:{signature}:"),
    ]


def _single(values: Values, name: str) -> str:
    found = values(name)
    if len(found) != 1:
        how = "is missing" if not found else "is there more than once"
        raise SignatureRefused(f"the header {name} {how}")
    return found[0]


def _signature(text: str) -> bytes:
    found = _SIGNATURE.fullmatch(text)
    raw = None if found is None else _decode(found[1])
    if raw is None or len(raw) != SIGNATURE_BYTES:
        raise SignatureRefused("the Signature is not one of the label mk")
    return raw


__all__ = [
    "CONTENT_DIGEST",
    "LIFETIME",
    "NETWORK",
    "NETWORK_BYTES",
    "NONCE_BYTES",
    "RECIPIENT",
    "RELAY_TAG",
    "SIGNATURE",
    "SIGNATURE_INPUT",
    "RequestFacts",
    "SignedRequest",
    "content_digest",
    "normal_authority",
    "parse_content_digest",
    "sign_request",
    "sign_response",
    "signature_base",
    "signature_of",
    "verify_request",
    "verify_response",
]
