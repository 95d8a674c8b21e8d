"""
Secret Handshake 1, exactly as Secure Scuttlebutt specifies it, without I/O.

Source: D. Tarr, "Designing a Secret Handshake: Authenticated Key Exchange as a
Capability System" (2015), and the Scuttlebutt Protocol Guide.  Names as there: K is
the network identifier, A and B are the long-term Ed25519 keys of client and server,
a and b their ephemeral X25519 keys; C{ab}, C{aB} and C{Ab} are X25519 of the pair,
with the long-term keys converted to X25519::

    1  client -> server    64   hmac[K](a) | a
    2  server -> client    64   hmac[K](b) | b
    3  client -> server   112   box[SHA256(K | ab | aB)]( sigA | A )
                                sigA = sign[A](K | B | SHA256(ab))
    4  server -> client    80   box[SHA256(K | ab | aB | Ab)]( sigB )
                                sigB = sign[B](K | sigA | A | SHA256(ab))

    box is XSalsa20-Poly1305 under a zero nonce: each key seals one message.

    secret          = SHA256(SHA256(K | ab | aB | Ab))
    client to server  key SHA256(secret | B)   nonce hmac[K](b)[:24]
    server to client  key SHA256(secret | A)   nonce hmac[K](a)[:24]

Both sides are state machines that take bytes and give a L{Step}.  No message is
looked at before it is whole, none is buffered beyond its exact length, and no curve
operation is made for a peer whose MAC did not match; until the server has the 112
bytes of message 3 it spends one, for its own ephemeral key.

All failures look the same on the wire: the connection closes.  Which error the
local side raises depends on how far it had come.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from attrs import frozen
from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import (
    HandshakeError,
    HandshakeTimeout,
    HandshakeTruncated,
    InvalidPublicKey,
    NetworkKeyRefused,
    PeerKeyRefused,
)
from meshkit.identity.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey
from meshkit.shs.boxstream import BOX_STREAM, Stream
from meshkit.shs.hellos import (
    EPHEMERAL_BYTES,
    HELLO_BYTES,
    MAC_BYTES,
    Capability,
    hello_mac,
)

_BOX_MAC_BYTES: Final = 16

#: Length of message 3, the client's proof.
CLIENT_PROOF_BYTES: Final = _BOX_MAC_BYTES + SIGNATURE_BYTES + KEY_BYTES
#: Length of message 4, the server's proof.
SERVER_PROOF_BYTES: Final = _BOX_MAC_BYTES + SIGNATURE_BYTES

_NONCE_BYTES: Final = 24
_ZERO_NONCE: Final = bytes(_NONCE_BYTES)
_ZERO_SECRET: Final = bytes(32)

# nacl's own RuntimeError and ValueError are subclasses of these and of CryptoError;
# which of them a binding raises has changed between versions.
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


@frozen(repr=False)
class Outcome:
    """
    What a finished handshake leaves.  Its C{repr} shows no key but the peer's public one.

    @ivar encrypt_key: 32 bytes, for what we send.
    @ivar encrypt_nonce: 24 bytes, of the first box we send.
    @ivar decrypt_key: 32 bytes, for what we receive.
    @ivar decrypt_nonce: 24 bytes, of the first box we receive.
    @ivar peer: who is at the other end.
    @ivar capability: which protocol was chosen.
    @ivar stream: how the bytes are encrypted.
    """

    encrypt_key: bytes
    encrypt_nonce: bytes
    decrypt_key: bytes
    decrypt_nonce: bytes
    peer: PublicKey
    capability: Capability
    stream: Stream = BOX_STREAM

    def __repr__(self) -> str:
        return f"<Outcome of a handshake with {self.peer.text}>"


@frozen
class Step:
    """
    What to do after some bytes arrived.

    @ivar send: bytes to write now; may be empty.
    @ivar peer: set once, on the server, when the peer has proved its key.  Decide
        about it, then call L{ServerHandshake.accept} or close.
    @ivar outcome: set once, when the handshake is finished.
    @ivar rest: bytes that came behind the last handshake message.  They belong to the
        box stream.  Only together with C{peer} or C{outcome}.
    @ivar finished: everything is said with C{send}: close the connection.  For a
        handshake that leads to no stream, such as the key probe.
    """

    send: bytes = b""
    peer: PublicKey | None = None
    outcome: Outcome | None = None
    rest: bytes = b""
    finished: bool = False


class Phase(Enum):
    """How far a handshake has come."""

    NEW = auto()  # client: our hello is not sent yet
    HELLO = auto()  # waiting for the other side's hello (message 2; on the server 1)
    PROOF = auto()  # waiting for its proof (message 4; on the server 3)
    VERDICT = auto()  # server: the peer is proved, our owner decides
    DONE = auto()
    FAILED = auto()


_AWAITING: Final = (Phase.HELLO, Phase.PROOF)


def overdue(seconds: float, waiting_for: str) -> HandshakeTimeout:
    """
    The error of a handshake that missed its deadline.

    @param waiting_for: what did not come.
    """
    return HandshakeTimeout(
        f"the handshake was not finished after {seconds:g} s, still waiting for "
        f"{waiting_for}: check that a meshkit node answers there and that the "
        f"connection is not too slow"
    )


def sha256(*parts: bytes) -> bytes:
    """The hash of what is joined."""
    return hashlib.sha256(b"".join(parts)).digest()


def agree(secret: bytes, public: bytes) -> bytes:
    """
    X25519.

    @raise PeerKeyRefused: for points whose result does not depend on our secret.
    """
    try:
        shared = bindings.crypto_scalarmult(secret, public)
    except _NACL_ERRORS:
        shared = _ZERO_SECRET
    # libsodium refuses a zero result by itself; the protocol must not depend on that.
    if hmac.compare_digest(shared, _ZERO_SECRET):
        raise PeerKeyRefused(
            "the peer sent an ephemeral key of small order, which no honest program makes: "
            "do not trust it"
        )
    return shared


def _seal(key: bytes, message: bytes) -> bytes:
    return bindings.crypto_secretbox(message, _ZERO_NONCE, key)


def _open(key: bytes, box: bytes) -> bytes | None:
    try:
        return bindings.crypto_secretbox_open(box, _ZERO_NONCE, key)
    except _NACL_ERRORS:
        return None


class Handshake(ABC):
    """
    What handshakes of two hellos and two proofs have in common: the buffer, the phases,
    the secret of the two ephemeral keys.
    """

    def __init__(self, identity: Identity, ephemeral: bytes) -> None:
        if len(ephemeral) != EPHEMERAL_BYTES:
            raise ValueError(f"an ephemeral secret has 32 bytes, not {len(ephemeral)}")
        self._identity = identity
        self._secret = ephemeral
        self._public = b""  # made when it is first needed: a curve operation
        self._theirs = b""
        self._capability: Capability | None = None
        self._shared = b""  # ab
        self._shared_hash = b""
        self._buffer = bytearray()
        self._need = HELLO_BYTES
        self._phase = Phase.NEW

    @property
    def identity(self) -> Identity:
        """Our own key pair."""
        return self._identity

    @property
    def capability(self) -> Capability | None:
        """The protocol that was chosen; L{None} on a server before a hello matched."""
        return self._capability

    @property
    def finished(self) -> bool:
        """Did the handshake succeed?"""
        return self._phase is Phase.DONE

    def receive(self, data: bytes) -> Step:
        """
        Take the next bytes, in pieces of any size.

        @raise NetworkKeyRefused: the hello proves another capability, or none.
        @raise PeerKeyRefused: the proof is wrong.
        @raise RuntimeError: if the handshake is not waiting for bytes.
        """
        if self._phase not in _AWAITING:
            raise RuntimeError(f"the handshake takes no bytes now ({self._phase.name})")
        send = []
        taken = 0
        step = Step()
        while self._phase in _AWAITING:
            missing = self._need - len(self._buffer)
            self._buffer += data[taken : taken + missing]
            taken = min(len(data), taken + missing)
            if len(self._buffer) < self._need:
                break
            message = bytes(self._buffer)
            self._buffer.clear()
            try:
                step = self._message(message)
            except HandshakeError:
                self._phase = Phase.FAILED
                raise
            send.append(step.send)
        return Step(b"".join(send), step.peer, step.outcome, data[taken:])

    def accept(self) -> tuple[bytes, Outcome]:
        """
        Server only: the owner admits the peer that a L{Step} named.

        @return: message 4, to be sent, and the outcome.
        """
        raise RuntimeError("a client is not asked whom it accepts: it chose the peer")

    def lost(self) -> HandshakeError:
        """
        The connection ended.  Tell what that means at this point.

        @return: the error to report; the handshake is over.
        """
        error = self._loss()
        self._phase = Phase.FAILED
        return error

    def timed_out(self, seconds: float) -> HandshakeTimeout:
        """The deadline passed.  @return: the error to report; the handshake is over."""
        waiting_for = {
            Phase.HELLO: "its hello",
            Phase.PROOF: "its proof of identity",
            Phase.VERDICT: "our own decision to admit it",
        }.get(self._phase, "the connection")
        self._phase = Phase.FAILED
        return overdue(seconds, waiting_for)

    def _message(self, message: bytes) -> Step:
        if self._phase is Phase.HELLO:
            return self._hello_received(message)
        return self._proof_received(message)

    @abstractmethod
    def _hello_received(self, hello: bytes) -> Step:
        """The other side's 64 bytes are here."""

    @abstractmethod
    def _proof_received(self, proof: bytes) -> Step:
        """Its proof of identity is here."""

    @abstractmethod
    def _loss(self) -> HandshakeError:
        """What the end of the connection means in this phase."""

    def _chosen(self) -> Capability:
        if self._capability is None:
            raise RuntimeError("no capability is chosen before a hello has matched")
        return self._capability

    def _agree_on_shared(self) -> None:
        self._shared = agree(self._secret, self._theirs)
        self._shared_hash = sha256(self._shared)

    def _done(self) -> None:
        # Python cannot wipe memory, but what nobody refers to is at least reused.
        self._secret = self._shared = self._shared_hash = b""
        self._phase = Phase.DONE

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._phase.name}>"


class _Shs1(Handshake):
    """What both sides of Secret Handshake 1 have in common."""

    def __init__(self, identity: Identity, ephemeral: bytes) -> None:
        super().__init__(identity, ephemeral)
        self._proof_key = b""  # K | ab | aB, whose hash seals message 3

    def _our_hello(self) -> bytes:
        self._public = bindings.crypto_scalarmult_base(self._secret)
        return hello_mac(self._chosen().key, self._public) + self._public

    def _finish(self, secret: bytes, peer: PublicKey) -> Outcome:
        """
        @param secret: K | ab | aB | Ab.
        """
        capability = self._chosen()
        seed = sha256(sha256(secret))
        outcome = Outcome(
            encrypt_key=sha256(seed, peer.raw),
            encrypt_nonce=hello_mac(capability.key, self._theirs)[:_NONCE_BYTES],
            decrypt_key=sha256(seed, self._identity.public.raw),
            decrypt_nonce=hello_mac(capability.key, self._public)[:_NONCE_BYTES],
            peer=peer,
            capability=capability,
        )
        self._proof_key = b""
        self._done()
        return outcome


class ClientHandshake(_Shs1):
    """
    The dialling side.  It has to know whom it dials::

        NEW --start--> HELLO --message 2--> PROOF --message 4--> DONE
    """

    def __init__(
        self, identity: Identity, capability: Capability, peer: PublicKey, ephemeral: bytes
    ) -> None:
        """
        @param identity: our key pair, A.
        @param capability: its key is K.
        @param peer: whom we expect to find, B.
        @param ephemeral: 32 random bytes, used once: the secret of a.
        @raise InvalidPublicKey: if C{peer} is no usable key.
        @raise PeerKeyRefused: if C{peer} is our own key.
        """
        super().__init__(identity, ephemeral)
        if hmac.compare_digest(peer.raw, identity.public.raw):
            raise PeerKeyRefused("the address to dial names this node's own key")
        self._capability = capability
        self._peer = peer
        self._peer_x25519 = peer.x25519
        self._signature = b""

    def start(self) -> bytes:
        """@return: message 1, to be sent first."""
        if self._phase is not Phase.NEW:
            raise RuntimeError("the handshake was started already")
        self._phase = Phase.HELLO
        return self._our_hello()

    def _hello_received(self, hello: bytes) -> Step:
        capability = self._chosen()
        mac, self._theirs = hello[:MAC_BYTES], hello[MAC_BYTES:]
        if not hmac.compare_digest(hello_mac(capability.key, self._theirs), mac):
            raise NetworkKeyRefused(
                f"the peer's hello does not prove the protocol {capability.name} of this "
                f"network: check that both nodes use the same network secret"
            )
        if hmac.compare_digest(self._theirs, self._public):
            raise NetworkKeyRefused(
                "our own hello was sent back to us: the other end does not hold the network secret"
            )
        self._agree_on_shared()
        self._proof_key = capability.key + self._shared + agree(self._secret, self._peer_x25519)
        self._signature = self._identity._sign_raw(
            capability.key + self._peer.raw + self._shared_hash
        )
        self._phase = Phase.PROOF
        self._need = SERVER_PROOF_BYTES
        return Step(_seal(sha256(self._proof_key), self._signature + self._identity.public.raw))

    def _proof_received(self, proof: bytes) -> Step:
        secret = self._proof_key + agree(self._identity._x25519_secret, self._theirs)
        signature = _open(sha256(secret), proof)
        signed = (
            self._chosen().key + self._signature + self._identity.public.raw + self._shared_hash
        )
        if signature is None or not self._peer.verifies(signed, signature):
            raise PeerKeyRefused(
                f"the peer could not prove that it owns {self._peer.text}: "
                f"do not send it anything, and check the key in its address"
            )
        return Step(outcome=self._finish(secret, self._peer))

    def _loss(self) -> HandshakeError:
        if self._buffer:
            return HandshakeTruncated(
                f"the connection to {self._peer.text} ended after {len(self._buffer)} of "
                f"{self._need} bytes of a handshake message: try again"
            )
        if self._phase is Phase.PROOF:
            return PeerKeyRefused(
                f"the peer hung up after our proof of identity: either it does not own "
                f"{self._peer.text}, or it does not serve {self._identity.public.text}; "
                f"check the key in its address, and ask its owner to admit yours"
            )
        if self._phase is Phase.HELLO:
            return NetworkKeyRefused(
                f"the peer hung up after our hello: check that both nodes use the same "
                f"network secret and that it offers {self._chosen().name}"
            )
        return HandshakeTruncated("the connection ended before the handshake began: try again")


class ServerHandshake(_Shs1):
    """
    The listening side.  It learns what is wanted from message 1 and who wants it from
    message 3, and says nothing of itself before its owner has agreed::

        HELLO --message 1--> PROOF --message 3--> VERDICT --accept--> DONE
    """

    def __init__(
        self,
        identity: Identity,
        match: Callable[[bytes], Capability | None],
        ephemeral: bytes,
    ) -> None:
        """
        @param identity: our key pair, B.
        @param match: finds the capability that a hello of 64 bytes proves, as
            L{meshkit.shs.hellos.HelloTable.match} does; may raise a
            L{HandshakeError} of its own.
        @param ephemeral: 32 random bytes, used once: the secret of b.
        """
        super().__init__(identity, ephemeral)
        self._match = match
        self._peer: PublicKey | None = None
        self._signed = b""
        self._phase = Phase.HELLO

    def start(self) -> bytes:
        """@return: nothing: the client speaks first."""
        return b""

    def _hello_received(self, hello: bytes) -> Step:
        self._capability = self._match(hello)
        if self._capability is None:
            raise NetworkKeyRefused(
                "a hello proves no protocol offered here: if it comes from one of your nodes, "
                "check that both use the same network secret and that the part is enabled"
            )
        self._theirs = hello[MAC_BYTES:]
        answer = self._our_hello()
        if hmac.compare_digest(self._theirs, self._public):
            raise NetworkKeyRefused("the peer sent our own ephemeral key back to us")
        self._phase = Phase.PROOF
        self._need = CLIENT_PROOF_BYTES
        return Step(answer)

    def _proof_received(self, proof: bytes) -> Step:
        key = self._chosen().key
        self._agree_on_shared()
        self._proof_key = key + self._shared + agree(self._identity._x25519_secret, self._theirs)
        opened = _open(sha256(self._proof_key), proof)
        if opened is None:
            raise PeerKeyRefused(
                f"the peer's proof does not open: it dialled another key than "
                f"{self._identity.public.text}; check the address it uses"
            )
        signature, peer = opened[:SIGNATURE_BYTES], PublicKey(opened[SIGNATURE_BYTES:])
        if hmac.compare_digest(peer.raw, self._identity.public.raw):
            raise PeerKeyRefused("the peer claims this node's own key")
        if not peer.verifies(key + self._identity.public.raw + self._shared_hash, signature):
            raise PeerKeyRefused(f"the peer could not prove that it owns {peer.text}")
        try:
            own_with_peer = agree(self._secret, peer.x25519)
        except InvalidPublicKey:
            raise PeerKeyRefused(f"the peer's key {peer.text} is not a usable key") from None
        self._proof_key += own_with_peer
        self._signed = key + signature + peer.raw + self._shared_hash
        self._peer = peer
        self._phase = Phase.VERDICT
        return Step(peer=peer)

    def accept(self) -> tuple[bytes, Outcome]:
        if self._phase is not Phase.VERDICT or self._peer is None:
            raise RuntimeError(f"there is no proven peer to accept ({self._phase.name})")
        secret = self._proof_key
        message = _seal(sha256(secret), self._identity._sign_raw(self._signed))
        return message, self._finish(secret, self._peer)

    def _loss(self) -> HandshakeError:
        if self._buffer:
            return HandshakeTruncated(
                f"the peer hung up after {len(self._buffer)} of {self._need} bytes "
                f"of a handshake message"
            )
        where = {
            Phase.HELLO: "before it said hello",
            Phase.PROOF: "after our hello, without proving who it is",
        }.get(self._phase, "before it was admitted")
        return HandshakeTruncated(f"the peer hung up {where}")
