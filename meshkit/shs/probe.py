"""
The key probe: ask whoever listens at an address for its public key.  Without I/O.

For a bare C{HOST:PORT}.  The question goes to the port of the mesh, as the hello of a
suite of its own; C{Kp} is the capability of the label C{key-probe}, so that only
members of the network can ask and be understood::

    question  64   hmac[Kp](q) | q
    answer    80   e | box(k, question | e, B)        and then the end of the stream

    q, e  fresh X25519 keys of the asker and of who answers
    B     the Ed25519 identity of who answers, 32 bytes
    k     HKDF-SHA256(salt Kp, X25519(q, e), info "meshkit/key-probe/1")
    box   ChaCha20-Poly1305 of RFC 8439 under a zero nonce, as each k seals one message

B{The answer proves nothing.}  It carries no signature: that would be a proof of
presence that can be shown to others, and would have us sign what strangers choose.
Any member who sits on the path can answer with a key of their own.  So the asker
dials the key it was told with a whole handshake, and trusts it only as the one that
was first seen there.

Who replays a recorded question gets 80 bytes sealed for a key that nobody holds.  The
answer is not larger than the question by more than a quarter, over TCP: there is
nothing to amplify.
"""

from __future__ import annotations

import hmac
from typing import Final

from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import (
    HandshakeError,
    HandshakeTimeout,
    HandshakeTruncated,
    InvalidPublicKey,
    KeyProbeFailed,
    KeyProbeRefused,
    NetworkKeyRefused,
)
from meshkit.identity.keys import KEY_BYTES, Identity, PublicKey
from meshkit.shs.handshake import Outcome, Step, overdue
from meshkit.shs.hellos import (
    EPHEMERAL_BYTES,
    HELLO_BYTES,
    MAC_BYTES,
    Capability,
    hello_mac,
    proves,
)
from meshkit.shs.suites import Session, Suite

#: The label of the capability that a question proves.
LABEL: Final = "key-probe"

QUESTION_BYTES: Final = HELLO_BYTES
_TAG_BYTES: Final = 16
ANSWER_BYTES: Final = EPHEMERAL_BYTES + KEY_BYTES + _TAG_BYTES

_INFO: Final = b"meshkit/key-probe/1"
_ZERO_NONCE: Final = bytes(12)
_ZERO_SECRET: Final = bytes(32)
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


def _agree(secret: bytes, public: bytes) -> bytes | None:
    """X25519; L{None} for a point whose result does not depend on our secret."""
    try:
        shared = bindings.crypto_scalarmult(secret, public)
    except _NACL_ERRORS:
        return None
    # libsodium refuses a zero result by itself; the protocol must not depend on that.
    return None if hmac.compare_digest(shared, _ZERO_SECRET) else shared


def _sealing_key(key: bytes, shared: bytes) -> bytes:
    derived = HKDF(shared, 32, key, SHA256, context=_INFO)
    assert isinstance(derived, bytes)  # one key was asked for, not several
    return derived


class Question:
    """The asker's side: send what L{start} gives, then give L{receive} what comes."""

    def __init__(self, capability: Capability, own: PublicKey, ephemeral: bytes) -> None:
        """
        @param capability: that of L{LABEL} in the network.
        @param own: our own key, which nobody else may claim.
        @param ephemeral: 32 random bytes, used once: the secret of q.
        """
        if len(ephemeral) != EPHEMERAL_BYTES:
            raise ValueError(f"an ephemeral secret has 32 bytes, not {len(ephemeral)}")
        self._key = capability.key
        self._own = own
        self._secret = ephemeral
        self._question = b""
        self._answer = bytearray()

    def start(self) -> bytes:
        """@return: the question, to be sent first."""
        if self._question:
            raise RuntimeError("the question was asked already")
        public = bindings.crypto_scalarmult_base(self._secret)
        self._question = hello_mac(self._key, public) + public
        return self._question

    def receive(self, data: bytes) -> PublicKey | None:
        """
        Take the next bytes, in pieces of any size.  What comes behind the answer is not
        looked at.

        @return: the key that was told, once the answer is whole.
        @raise KeyProbeFailed: if it is no answer to our question, or tells no key that
            can be dialled.
        """
        self._answer += data[: ANSWER_BYTES - len(self._answer)]
        if len(self._answer) < ANSWER_BYTES:
            return None
        return self._open(bytes(self._answer))

    def _open(self, answer: bytes) -> PublicKey:
        theirs, sealed = answer[:EPHEMERAL_BYTES], answer[EPHEMERAL_BYTES:]
        shared = _agree(self._secret, theirs)
        raw = b"" if shared is None else self._unseal(theirs, sealed, shared)
        if not raw:
            raise KeyProbeFailed(
                "what came in answer to our key probe is no answer to it: what listens there is "
                "no node of this network, or somebody between us changes the connection"
            )
        told = PublicKey(raw)
        try:
            _ = told.x25519
        except InvalidPublicKey as e:
            raise KeyProbeFailed(f"the key that was told cannot be dialled: {e}") from None
        if hmac.compare_digest(told.raw, self._own.raw):
            raise KeyProbeFailed("this is the address of this very node")
        return told

    def _unseal(self, theirs: bytes, sealed: bytes, shared: bytes) -> bytes:
        try:
            return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
                sealed, self._question + theirs, _ZERO_NONCE, _sealing_key(self._key, shared)
            )
        except _NACL_ERRORS:
            return b""

    def lost(self) -> KeyProbeFailed:
        """The connection ended before the answer was whole.  @return: the error to report."""
        if self._answer:
            return KeyProbeFailed(
                f"the connection ended after {len(self._answer)} of {ANSWER_BYTES} bytes of the "
                f"answer to our key probe: try again"
            )
        return KeyProbeFailed(
            "nobody there tells its key: ask again if it was asked a moment ago, check that it is "
            "a node of this network and that its setting key_probe lets you ask, or write the "
            "whole address as 'meshkit id' prints it there"
        )


class _Answering:
    """
    The side that is asked, a L{Session}: given the question, it answers and is done::

        QUESTION --64 bytes--> DONE
    """

    def __init__(self, identity: Identity, capability: Capability, ephemeral: bytes) -> None:
        if len(ephemeral) != EPHEMERAL_BYTES:
            raise ValueError(f"an ephemeral secret has 32 bytes, not {len(ephemeral)}")
        self._identity = identity
        self._capability = capability
        self._secret = ephemeral
        self._question = bytearray()
        self._done = False

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def capability(self) -> Capability:
        return self._capability

    def start(self) -> bytes:
        return b""

    def receive(self, data: bytes) -> Step:
        if self._done:
            raise RuntimeError("the question was answered already")
        self._question += data[: QUESTION_BYTES - len(self._question)]
        if len(self._question) < QUESTION_BYTES:
            return Step()
        self._done = True
        return Step(send=self._answer(bytes(self._question)), finished=True)

    def _answer(self, question: bytes) -> bytes:
        key = self._capability.key
        if not proves(key, question):
            raise NetworkKeyRefused("the question does not prove that it comes from this network")
        public = bindings.crypto_scalarmult_base(self._secret)
        theirs = question[MAC_BYTES:]
        shared = None if hmac.compare_digest(theirs, public) else _agree(self._secret, theirs)
        if shared is None:
            raise KeyProbeRefused(
                "a key probe came with an ephemeral key that no honest program makes"
            )
        sealed = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
            self._identity.public.raw, question + public, _ZERO_NONCE, _sealing_key(key, shared)
        )
        self._secret = b""
        return public + sealed

    def accept(self) -> tuple[bytes, Outcome]:
        raise RuntimeError("a key probe leads to no stream that somebody could be admitted to")

    def lost(self) -> HandshakeError:
        return HandshakeTruncated("the peer hung up before its key probe was answered")

    def timed_out(self, seconds: float) -> HandshakeTimeout:
        return overdue(seconds, "the asker to take the answer")

    def __repr__(self) -> str:
        return f"<Answering a key probe, done: {self._done}>"


def _respond(identity: Identity, capability: Capability, ephemeral: bytes) -> Session:
    return _Answering(identity, capability, ephemeral)


#: The suite of the key probe.
PROBE: Final = Suite("probe", proves, _respond)
