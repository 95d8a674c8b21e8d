"""
The two ends of a circuit of a real relay, each a process of its own, told what to do line by line.

C{python -m tests.process.tunnelling read RELAY} is reached through a blind relay at that address:
it prints its key, and reads what comes to the end, unless the first byte is C{n}: then it reads
nothing more.  C{... write RELAY KEY} prints C{ready}; the line C{r COUNT}, or C{n COUNT}, has it
write so many bytes over a new circuit that begin with that letter.  It prints C{open} when the
circuit is there, and C{done} when the other end has closed after all of it.
"""

from __future__ import annotations

import sys
from random import SystemRandom
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import PUBLIC_RELAYS, NetworkSecret
from meshkit.relay.tunnel.ends import dial_through
from meshkit.relay.tunnel.hidden import HiddenPeer
from meshkit.relay.tunnel.wire import CIRCUIT_LABEL, CONTROL_LABEL
from meshkit.shs import Capability, SecureListener, wrap_client

#: That of the two ends, of which the relay knows nothing.
STREAM: Final = Capability.of(NetworkSecret(bytes(range(32))).key(), "stream")
PIECE: Final = 65_536

_RNG: Final = SystemRandom()


def to_relay(reactor: Any, relay: MeshAddress, identity: Identity, label: str) -> Any:
    return wrap_client(
        reactor,
        HostnameEndpoint(reactor, relay.host, relay.port),
        identity=identity,
        capability=Capability.of(PUBLIC_RELAYS.key(), label),
        peer=relay.key,
        rng=_RNG,
    )


def say(text: str) -> None:
    print(text, flush=True)


class Reader(Protocol):
    """Reads all, or nothing after the first piece."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(b"n"):
            self.transport.pauseProducing()
            say("stuck")


def read(reactor: Any, relay: MeshAddress) -> Deferred[None]:
    identity = Identity(_RNG.randbytes(32))
    listener = SecureListener(reactor, identity, _RNG)
    factory = Factory.forProtocol(Reader)
    factory.noisy = False
    listener.register(STREAM, factory)
    hidden = HiddenPeer(
        reactor,
        _RNG,
        lambda: int(reactor.seconds() * 1000),
        key=identity.public,
        relay=relay.key,
        network=PUBLIC_RELAYS.key().net_id,
        control=to_relay(reactor, relay, identity, CONTROL_LABEL),
        circuits=to_relay(reactor, relay, identity, CIRCUIT_LABEL),
        accept=listener,
        on_change=lambda: say(identity.public.text),
    )
    hidden.start()
    return Deferred()


@implementer(IPullProducer)
class Writer(Protocol):
    """Writes so many bytes, as fast as they are taken, and closes."""

    transport: Any

    def __init__(self, letter: bytes, count: int) -> None:
        self._letter = letter
        self._left = count

    def connectionMade(self) -> None:
        say("open")
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        size = min(PIECE, self._left)
        self._left -= size
        # The first piece says what to do with the rest, and the others what is in them.
        self.transport.write(self._letter + bytes(size - 1))
        self._letter = b"r"
        if not self._left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        """The connection is gone."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        say("done" if not self._left else f"lost {reason.value!r}")


class Commands(LineOnlyReceiver):
    """What the test says."""

    delimiter = b"\n"

    def __init__(self, reactor: Any, relay: MeshAddress, target: PublicKey) -> None:
        self._reactor = reactor
        self._relay = relay
        self._target = target
        self._identity = Identity(_RNG.randbytes(32))

    def lineReceived(self, line: bytes) -> None:
        letter, _, count = line.partition(b" ")
        through = dial_through(
            self._reactor,
            to_relay(self._reactor, self._relay, self._identity, CIRCUIT_LABEL),
            self._relay.key,
            self._target,
        )
        endpoint = wrap_client(
            self._reactor,
            through,
            identity=self._identity,
            capability=STREAM,
            peer=self._target,
            rng=_RNG,
        )
        factory = Factory.forProtocol(lambda: Writer(letter, int(count)))
        factory.noisy = False
        endpoint.connect(factory).addErrback(lambda failure: say(f"failed {failure.value!r}"))


def main(reactor: Any, what: str, relay: str, target: str = "") -> Deferred[None]:
    address = MeshAddress.parse(relay)
    if what == "read":
        return read(reactor, address)
    StandardIO(Commands(reactor, address, PublicKey.parse(target)))
    say("ready")
    return Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
