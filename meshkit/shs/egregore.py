"""
The handshake of Egregore's wire generation W2 (its versions from 1.2.3 on), without I/O.

It is not Secret Handshake 1.  C{cap} is the SHA-256 of the network string, C{c} and C{s}
are the ephemeral X25519 keys of client and server, C{C} and C{S} their Ed25519 keys::

    1  client -> server    64   c | HMAC-SHA256[cap](c)
    2  server -> client    64   s | HMAC-SHA256[cap](s)
    3  client -> server   116   u32be 112 | box[SHA256(sh | "handshake-client-auth")](
                                    sign[C](cap | s | SHA256(ab)) | C )
    4  server -> client   116   u32be 112 | box[SHA256(sh | "handshake-server-auth")](
                                    sign[S](cap | c | SHA256(ab)) | S )

    ab = X25519(c, s)      sh = SHA256(cap | ab)
    box is ChaCha20-Poly1305 (IETF) under a zero nonce: each key seals one message.

    client to server  key SHA256(cap | ab | "client-to-server")   nonce SHA256(c)[:24]
    server to client  key SHA256(cap | ab | "server-to-client")   nonce SHA256(s)[:24]

The client does not know whom it dials: whoever holds the network string learns its key,
and so does the client that of whoever answers.

Generations W0 and W1 seal both proofs with C{sh} itself, and then every frame of a
connection under one nonce.  They are refused: their boxes can be forged and read.  A
client's proof tells them from W2.  Between themselves they differ only in what follows
the handshake.  See docs/protocol/egregore.md.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import (
    HandshakeError,
    HandshakeTruncated,
    NetworkKeyRefused,
    OlderWireRefused,
    PeerKeyRefused,
)
from meshkit.identity.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey
from meshkit.shs.egregore_stream import MESSAGE_STREAM
from meshkit.shs.handshake import Handshake, Outcome, Phase, Step, sha256
from meshkit.shs.hellos import EPHEMERAL_BYTES, Capability
from meshkit.shs.suites import Session, Suite

#: The label of the capability, and the generation of the wire as its version.
LABEL: Final = "egregore"
VERSION: Final = 2

_TAG_BYTES: Final = 16
_SEALED_BYTES: Final = SIGNATURE_BYTES + KEY_BYTES + _TAG_BYTES
_LENGTH_BYTES: Final = 4
#: Length of messages 3 and 4.
PROOF_BYTES: Final = _LENGTH_BYTES + _SEALED_BYTES
_PROOF_LENGTH: Final = _SEALED_BYTES.to_bytes(_LENGTH_BYTES, "big")

_ZERO_NONCE: Final = bytes(12)
_NONCE_BYTES: Final = 24
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)

_CLIENT_PROOF: Final = b"handshake-client-auth"
_SERVER_PROOF: Final = b"handshake-server-auth"
_CLIENT_TO_SERVER: Final = b"client-to-server"
_SERVER_TO_CLIENT: Final = b"server-to-client"


def network_capability(network: str) -> Capability:
    """
    The capability of an Egregore network.

    @param network: its string, the C{network_key} of their configuration.
    """
    return Capability(LABEL, VERSION, hashlib.sha256(network.encode("utf-8")).digest())


def proves(key: bytes, hello: bytes) -> bool:
    """The L{meshkit.shs.hellos.HelloCheck} of this handshake."""
    ephemeral, mac = hello[:EPHEMERAL_BYTES], hello[EPHEMERAL_BYTES:]
    return hmac.compare_digest(hmac.digest(key, ephemeral, "sha256"), mac)


def _seal(key: bytes, message: bytes) -> bytes:
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(message, None, _ZERO_NONCE, key)


def _open(key: bytes, sealed: bytes) -> bytes | None:
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, None, _ZERO_NONCE, key)
    except _NACL_ERRORS:
        return None


class _Egregore(Handshake):
    """What both sides have in common."""

    #: What our proof and our stream are named after, and those of the other side.
    _our_proof: bytes
    _their_proof: bytes
    _our_stream: bytes
    _their_stream: bytes

    def _our_hello(self) -> bytes:
        self._public = bindings.crypto_scalarmult_base(self._secret)
        return self._public + hmac.digest(self._chosen().key, self._public, "sha256")

    def _their_ephemeral(self, hello: bytes) -> None:
        """Take the key in a hello that is known to be of our network."""
        self._theirs = hello[:EPHEMERAL_BYTES]
        if hmac.compare_digest(self._theirs, self._public):
            raise NetworkKeyRefused(
                "our own hello was sent back to us: the other end does not hold the network string"
            )

    @property
    def _root(self) -> bytes:
        return sha256(self._chosen().key, self._shared)

    def _prove(self) -> bytes:
        signature = self._identity._sign_raw(self._chosen().key + self._theirs + self._shared_hash)
        key = sha256(self._root, self._our_proof)
        return _PROOF_LENGTH + _seal(key, signature + self._identity.public.raw)

    def _check(self, opened: bytes) -> PublicKey:
        """
        @param opened: what was in the box of a proof.
        @return: whose proof it is.
        """
        signature, peer = opened[:SIGNATURE_BYTES], PublicKey(opened[SIGNATURE_BYTES:])
        if hmac.compare_digest(peer.raw, self._identity.public.raw):
            raise PeerKeyRefused("the peer claims this node's own key")
        if not peer.verifies(self._chosen().key + self._public + self._shared_hash, signature):
            raise PeerKeyRefused(f"the peer could not prove that it owns {peer.text}")
        return peer

    def _sealed(self, proof: bytes) -> bytes:
        if proof[:_LENGTH_BYTES] != _PROOF_LENGTH:
            raise PeerKeyRefused(
                f"the peer's proof of identity has another length than {_SEALED_BYTES} bytes: it "
                f"does not follow the protocol"
            )
        return proof[_LENGTH_BYTES:]

    def _opened(self, sealed: bytes) -> bytes | None:
        return _open(sha256(self._root, self._their_proof), sealed)

    def _finish(self, peer: PublicKey) -> Outcome:
        key = self._chosen().key
        outcome = Outcome(
            encrypt_key=sha256(key, self._shared, self._our_stream),
            encrypt_nonce=sha256(self._public)[:_NONCE_BYTES],
            decrypt_key=sha256(key, self._shared, self._their_stream),
            decrypt_nonce=sha256(self._theirs)[:_NONCE_BYTES],
            peer=peer,
            capability=self._chosen(),
            stream=MESSAGE_STREAM,
        )
        self._done()
        return outcome

    def _loss_of(self, who: str) -> HandshakeError | None:
        if self._buffer:
            return HandshakeTruncated(
                f"{who} hung up after {len(self._buffer)} of {self._need} bytes of a handshake "
                f"message"
            )
        return None


class EgregoreClient(_Egregore):
    """
    The dialling side::

        NEW --start--> HELLO --message 2--> PROOF --message 4--> DONE
    """

    _our_proof, _their_proof = _CLIENT_PROOF, _SERVER_PROOF
    _our_stream, _their_stream = _CLIENT_TO_SERVER, _SERVER_TO_CLIENT

    def __init__(self, identity: Identity, capability: Capability, ephemeral: bytes) -> None:
        """
        @param identity: our key pair.
        @param capability: L{network_capability}.
        @param ephemeral: 32 random bytes, used once.
        """
        super().__init__(identity, ephemeral)
        self._capability = capability

    def start(self) -> bytes:
        """@return: message 1, to be sent first."""
        if self._phase is not Phase.NEW:
            raise RuntimeError("the handshake was started already")
        self._phase = Phase.HELLO
        return self._our_hello()

    def _hello_received(self, hello: bytes) -> Step:
        if not proves(self._chosen().key, hello):
            raise NetworkKeyRefused(
                "the peer's hello does not prove the Egregore network that is configured: check "
                "that egregore.network here and network_key there are the same string"
            )
        self._their_ephemeral(hello)
        self._agree_on_shared()
        self._phase = Phase.PROOF
        self._need = PROOF_BYTES
        return Step(self._prove())

    def _proof_received(self, proof: bytes) -> Step:
        opened = self._opened(self._sealed(proof))
        if opened is None:
            raise PeerKeyRefused("the peer's proof of identity does not open: do not trust it")
        return Step(outcome=self._finish(self._check(opened)))

    def _loss(self) -> HandshakeError:
        cut = self._loss_of("the peer")
        if cut is not None:
            return cut
        if self._phase is Phase.PROOF:
            return PeerKeyRefused(
                "the peer hung up after our proof of identity: either it speaks an older "
                "generation of the wire (Egregore before 1.2.3), which is not spoken here, or it "
                "does not serve this node"
            )
        return NetworkKeyRefused(
            "the peer hung up after our hello: check that egregore.network here and network_key "
            "there are the same string"
        )


class EgregoreServer(_Egregore):
    """
    The listening side::

        HELLO --message 1--> PROOF --message 3--> VERDICT --accept--> DONE
    """

    _our_proof, _their_proof = _SERVER_PROOF, _CLIENT_PROOF
    _our_stream, _their_stream = _SERVER_TO_CLIENT, _CLIENT_TO_SERVER

    def __init__(self, identity: Identity, capability: Capability, ephemeral: bytes) -> None:
        """
        @param identity: our key pair.
        @param capability: L{network_capability}.
        @param ephemeral: 32 random bytes, used once.
        """
        super().__init__(identity, ephemeral)
        self._capability = capability
        self._peer: PublicKey | None = None
        self._phase = Phase.HELLO

    def start(self) -> bytes:
        """@return: nothing: the client speaks first."""
        return b""

    def _hello_received(self, hello: bytes) -> Step:
        if not proves(self._chosen().key, hello):
            raise NetworkKeyRefused("the hello does not prove the Egregore network of this node")
        answer = self._our_hello()
        self._their_ephemeral(hello)
        self._phase = Phase.PROOF
        self._need = PROOF_BYTES
        return Step(answer)

    def _proof_received(self, proof: bytes) -> Step:
        self._agree_on_shared()
        sealed = self._sealed(proof)
        opened = self._opened(sealed)
        if opened is None:
            older = _open(self._root, sealed)
            if older is not None:
                raise OlderWireRefused(
                    f"{self._check(older).text} speaks generation W0 or W1 of Egregore's wire, "
                    f"whose encryption uses one nonce for every frame: it is not spoken here, "
                    f"update that node to Egregore 1.2.3 or newer"
                )
            raise PeerKeyRefused("the peer's proof of identity does not open")
        self._peer = self._check(opened)
        self._phase = Phase.VERDICT
        return Step(peer=self._peer)

    def accept(self) -> tuple[bytes, Outcome]:
        if self._phase is not Phase.VERDICT or self._peer is None:
            raise RuntimeError(f"there is no proven peer to accept ({self._phase.name})")
        return self._prove(), self._finish(self._peer)

    def _loss(self) -> HandshakeError:
        cut = self._loss_of("the peer")
        if cut is not None:
            return cut
        where = {
            Phase.HELLO: "before it said hello",
            Phase.PROOF: "after our hello, without proving who it is",
        }.get(self._phase, "before it was admitted")
        return HandshakeTruncated(f"the peer hung up {where}")


def _respond(identity: Identity, capability: Capability, ephemeral: bytes) -> Session:
    return EgregoreServer(identity, capability, ephemeral)


#: The suite for a L{meshkit.shs.listener.SecureListener}.
EGREGORE: Final = Suite("egregore-w2", proves, _respond)
