"""
Which handshake a hello of 64 bytes begins, without I/O.

A listener reads 64 bytes, finds the capability that they prove, and with it the
I{suite}: a name, the check of a hello, and how the handshake goes on.  All suites are
on one port, nothing is negotiated, and no suite is tried after another has failed:
every pair of suite and capability is tried on the one hello (C{hellos}).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from attrs import frozen

from meshkit.errors import HandshakeError, HandshakeTimeout, HandshakeTruncated
from meshkit.identity.keys import Identity
from meshkit.shs.handshake import Outcome, ServerHandshake, Step, overdue
from meshkit.shs.hellos import HELLO_BYTES, Capability, HelloCheck, proves


class Session(Protocol):
    """
    One side of a handshake, as L{meshkit.shs.channel.SecureChannel} runs it.

    L{meshkit.shs.handshake.ClientHandshake} and
    L{meshkit.shs.handshake.ServerHandshake} are the models.
    """

    @property
    def identity(self) -> Identity:
        """Our own key pair."""

    @property
    def capability(self) -> Capability | None:
        """The protocol that was chosen, if one was."""

    def start(self) -> bytes:
        """@return: what is sent first; may be empty."""

    def receive(self, data: bytes) -> Step:
        """
        Take the next bytes, in pieces of any size.

        @raise HandshakeError: if the handshake failed.
        """

    def accept(self) -> tuple[bytes, Outcome]:
        """The owner admits the peer that a L{Step} named."""

    def lost(self) -> HandshakeError:
        """The connection ended.  @return: what that means at this point."""

    def timed_out(self, seconds: float) -> HandshakeTimeout:
        """The deadline passed.  @return: the error to report."""


@frozen
class Suite:
    """
    A handshake that a listener can answer.

    @ivar name: for logs.
    @ivar check: how a hello proves a capability.
    @ivar respond: makes the listener's side, given our key pair, the capability that
        was proved and 32 random bytes that nothing else uses.  What it makes is given
        all that arrives, from the first byte of the hello on.
    """

    name: str
    check: HelloCheck
    respond: Callable[[Identity, Capability, bytes], Session]


def _respond_shs1(identity: Identity, capability: Capability, ephemeral: bytes) -> Session:
    return ServerHandshake(identity, lambda _hello: capability, ephemeral)


#: Secret Handshake 1, followed by a box stream.
SHS1: Final = Suite("shs1", proves, _respond_shs1)


class Opening:
    """
    The listener's side of a connection: waits for the hello, then is what the hello
    chose.  Not a byte is sent before that.
    """

    def __init__(self, identity: Identity, choose: Callable[[bytes], Session]) -> None:
        """
        @param choose: given the hello, makes the session that answers it; raises a
            L{HandshakeError} if there is none.
        """
        self._identity = identity
        self._choose = choose
        self._hello = bytearray()
        self._session: Session | None = None

    @property
    def identity(self) -> Identity:
        """Our own key pair."""
        return self._identity

    @property
    def capability(self) -> Capability | None:
        """The protocol that was chosen; L{None} before a hello has matched."""
        return None if self._session is None else self._session.capability

    def start(self) -> bytes:
        """@return: nothing: the dialler speaks first."""
        return b""

    def receive(self, data: bytes) -> Step:
        """
        @raise HandshakeError: if nothing here answers the hello, or as the session.
        """
        if self._session is not None:
            return self._session.receive(data)
        missing = HELLO_BYTES - len(self._hello)
        self._hello += data[:missing]
        if len(self._hello) < HELLO_BYTES:
            return Step()
        hello = bytes(self._hello)
        self._session = self._choose(hello)
        return self._session.receive(hello + data[missing:])

    def accept(self) -> tuple[bytes, Outcome]:
        """See L{Session.accept}."""
        if self._session is None:
            raise RuntimeError("there is nobody to accept before a hello has matched")
        return self._session.accept()

    def lost(self) -> HandshakeError:
        """See L{Session.lost}."""
        if self._session is not None:
            return self._session.lost()
        if self._hello:
            return HandshakeTruncated(
                f"the peer hung up after {len(self._hello)} of {HELLO_BYTES} bytes of its hello"
            )
        return HandshakeTruncated("the peer hung up before it said hello")

    def timed_out(self, seconds: float) -> HandshakeTimeout:
        """See L{Session.timed_out}."""
        if self._session is not None:
            return self._session.timed_out(seconds)
        return overdue(seconds, "its hello")

    def __repr__(self) -> str:
        return f"<Opening {self._session!r}>"
