"""
Signatures on both sides of a connection: who has the key, the clock and the network at hand.

L{Signer} is for who asks, L{Signatures} for who is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from random import Random
from typing import Final, Protocol

from attrs import frozen

from meshkit.errors import SignatureRefused, StorageBusy, StoragePeerError
from meshkit.identity.keys import Identity, PublicKey
from meshkit.runtime.signed.replays import SKEW, Replays
from meshkit.runtime.signed.signatures import (
    CONTENT_DIGEST,
    LIFETIME,
    NETWORK,
    NONCE_BYTES,
    RECIPIENT,
    SIGNATURE,
    TAG,
    RequestFacts,
    SignedRequest,
    Values,
    content_digest,
    normal_authority,
    sign_request,
    sign_response,
    signature_of,
    verify_request,
    verify_response,
)

Body = bytes | bytearray | memoryview

_SECOND: Final = 10**9
#: What is believed although nobody has signed it: it has no consequences but another try.
_UNSIGNED: Final = (SignatureRefused, StorageBusy)


class Response(Protocol):
    """An answer, such as L{meshkit.storage.http.messages.Response}."""

    @property
    def status(self) -> int:
        """Of HTTP."""

    @property
    def headers(self) -> Mapping[str, Sequence[str]]:
        """The values of each, by its name in small letters."""

    @property
    def body(self) -> bytes:
        """All of it."""


@frozen
class Signer:
    """
    Signs requests, and checks who has signed the answers.

    @ivar identity: who asks.
    @ivar network: id of the network, 16 bytes.
    @ivar authority: host and port of the peer, as in the C{Host} header.
    @ivar rng: makes nonces.
    @ivar wall_clock: nanoseconds since 1970.
    @ivar tag: what the signatures are for.
    """

    identity: Identity
    network: bytes
    authority: str
    rng: Random
    wall_clock: Callable[[], int]
    tag: str = TAG

    def sign(
        self,
        peer: PublicKey,
        method: str,
        path: str,
        content_type: str,
        body: Body,
        after: int = 0,
    ) -> tuple[list[tuple[str, str]], str]:
        """
        @param peer: whom the request is for.
        @param path: with the query string, if there is one.
        @param after: it has to say that it was created after this time.
        @return: the headers to be added, and the signature that the answer has to name.
        """
        now = self.wall_clock() // _SECOND
        created = max(now, min(after + 1, now + SKEW))
        path, _, query = path.partition("?")
        facts = RequestFacts(
            method,
            normal_authority(self.authority),
            path,
            query,
            content_digest(sha256(body).digest()),
            str(len(body)),
            content_type,
            peer.text,
            self.network.hex(),
        )
        nonce = self.rng.randbytes(NONCE_BYTES)
        signed = sign_request(
            self.identity, facts, created, created + LIFETIME, nonce, tag=self.tag
        )
        headers = [
            (CONTENT_DIGEST, facts.digest),
            (RECIPIENT, facts.recipient),
            (NETWORK, facts.network),
            *signed,
        ]
        return headers, signature_of(signed)

    def check(
        self, peer: PublicKey, response: Response, method: str, path: str, signature: str
    ) -> None:
        """
        @raise StatementInvalid: if the peer has not given this answer to this request.
        """

        def values(name: str) -> Sequence[str]:
            return response.headers.get(name.lower(), ())

        path, _, _ = path.partition("?")
        verify_response(
            peer,
            response.status,
            response.body,
            values,
            method,
            path,
            signature,
            tag=self.tag,
        )


def unsigned(response: Response) -> bool:
    """Has nobody signed an answer?  Whoever cannot tell whose a request is signs nothing."""
    return response.status >= 400 and SIGNATURE.lower() not in response.headers


def believed(error: StoragePeerError) -> StoragePeerError:
    """
    @param error: of an answer that nobody has signed.
    @return: what to make of it.
    """
    if isinstance(error, _UNSIGNED):
        return error
    return StoragePeerError(f"somebody, who does not sign it, answers: {error}")


class Signatures:
    """Lets signed requests in, and signs the answers."""

    def __init__(
        self,
        identity: Identity,
        network: bytes,
        replays: Replays,
        wall_clock: Callable[[], int],
        *,
        tag: str = TAG,
    ) -> None:
        """
        @param identity: of who is asked.
        @param network: id of the network, 16 bytes.
        @param replays: see L{meshkit.runtime.signed.mark.StoredMark}.
        @param wall_clock: nanoseconds since 1970.
        @param tag: what the signatures are for.
        """
        self._tag = tag
        self._identity = identity
        self._network = network
        self._replays = replays
        self._wall_clock = wall_clock

    def admit(self, method: str, target: str, values: Values) -> SignedRequest:
        """
        @return: the request, which is let in this once.
        @raise SignatureRefused: or what L{Replays.admit} raises.
        """
        request = self.verify(method, target, values)
        self._replays.admit(request, self._wall_clock() // _SECOND)
        return request

    def verify(self, method: str, target: str, values: Values) -> SignedRequest:
        """
        For who is refused anyhow: nothing of it is remembered, so it may be a replay.

        @return: the request, whose signature is right.
        @raise SignatureRefused: it is not.
        """
        return verify_request(
            method, target, values, self._identity.public, self._network, tag=self._tag
        )

    def sign(
        self, request: SignedRequest, method: str, path: str, status: int, digest: bytes
    ) -> list[tuple[str, str]]:
        """
        @param digest: SHA-256 of the body of the answer.
        @return: headers to be added to it.
        """
        created = self._wall_clock() // _SECOND
        return sign_response(
            self._identity,
            status,
            digest,
            method,
            path,
            request.signature,
            created,
            tag=self._tag,
        )
