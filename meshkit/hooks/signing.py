"""
How a webhook is signed, so that its receiver knows who sent it, and when.  Pure.

Source: Standard Webhooks, C{spec/standard-webhooks.md}, symmetric signatures::

    webhook-id           what the receiver knows a repetition by; the same at each attempt
    webhook-timestamp    when this attempt was made, seconds since 1970
    webhook-signature    v1,BASE64 of HMAC-SHA-256(secret, ID.TIMESTAMP.BODY), one for each
                         secret, with a space between two

A secret is written C{whsec_} and base64.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import field, frozen

from meshkit.errors import WebhookSecretInvalid, WebhookSignatureInvalid

#: Bytes of a secret, as the specification has them.
MIN_SECRET: Final = 24
MAX_SECRET: Final = 64
#: Seconds that the clocks of sender and receiver may differ, with the way between them.
TOLERANCE: Final = 300

_PREFIX: Final = "whsec_"
_VERSION: Final = "v1"
#: Signatures of one request that are looked at.
_MAX_SIGNATURES: Final = 16

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"


@frozen
class WebhookSecret:
    """
    What sender and receiver share.

    @ivar raw: 24 to 64 bytes.
    """

    raw: bytes = field(repr=False)

    @raw.validator
    def _check(self, _attribute: object, value: bytes) -> None:
        if not MIN_SECRET <= len(value) <= MAX_SECRET:
            raise WebhookSecretInvalid(
                f"a webhook secret of {len(value)} bytes: it has to be {MIN_SECRET} to "
                f"{MAX_SECRET} bytes long"
            )

    @classmethod
    def parse(cls, text: str) -> WebhookSecret:
        """
        Read C{whsec_...}.

        @raise WebhookSecretInvalid: if it is none.  The message does not repeat it.
        """
        if not text.startswith(_PREFIX):
            raise WebhookSecretInvalid(f"a webhook secret begins with {_PREFIX}")
        try:
            return cls(base64.b64decode(text.removeprefix(_PREFIX), validate=True))
        except (binascii.Error, ValueError):
            raise WebhookSecretInvalid(
                f"a webhook secret is {_PREFIX} and base64: this is cut off or misspelt"
            ) from None

    @property
    def text(self) -> str:
        return _PREFIX + base64.b64encode(self.raw).decode("ascii")

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """@return: the signature of one request, C{v1,BASE64}."""
        signed = b"%b.%d.%b" % (message_id.encode("ascii"), timestamp, body)
        mac = hmac.digest(self.raw, signed, "sha256")
        return f"{_VERSION},{base64.b64encode(mac).decode('ascii')}"


def signed_headers(
    secrets: Sequence[WebhookSecret], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """
    The headers that make a request one of ours.

    @param secrets: all those that a receiver may have.
    @param message_id: ASCII.
    @param timestamp: seconds since 1970.
    @param body: every byte of it.
    """
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(secret.sign(message_id, timestamp, body) for secret in secrets),
    }


def verify(
    secrets: Sequence[WebhookSecret],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance: float = TOLERANCE,
) -> str:
    """
    What a receiver does before it believes a request.

    @param secrets: those that the sender may have used.
    @param headers: of the request, names in lower case.
    @param body: every byte, as received.
    @param now: seconds since 1970.
    @return: the id, by which a request that was seen before is known.
    @raise WebhookSignatureInvalid: if nobody with a secret sent this, or not now.
    """
    message_id = headers.get(ID_HEADER, "")
    timestamp = headers.get(TIMESTAMP_HEADER, "")
    if not message_id.isascii() or not message_id:
        raise WebhookSignatureInvalid(f"the request has no {ID_HEADER}")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise WebhookSignatureInvalid(f"the request has no {TIMESTAMP_HEADER} that is a number")
    if abs(now - int(timestamp)) > tolerance:
        raise WebhookSignatureInvalid(
            f"the request was signed {now - int(timestamp):.0f} s ago: it is a repetition, or a "
            f"clock is wrong"
        )
    given = headers.get(SIGNATURE_HEADER, "").split(" ")[:_MAX_SIGNATURES]
    expected = [secret.sign(message_id, int(timestamp), body).encode() for secret in secrets]
    # Every pair is compared, so that the time tells nothing.
    matches = [
        hmac.compare_digest(one.encode("utf-8", "replace"), other)
        for one in given
        for other in expected
    ]
    if not any(matches):
        raise WebhookSignatureInvalid(
            "no signature of the request was made with the secret, over this very body"
        )
    return message_id
