"""
A chat of three, or of any number, without a server: everybody talks to everybody.

Make three members of one network; the first command prints its secret::

    meshkit -d ada init
    meshkit -d bob init --network-key mknet1-...
    meshkit -d eve init --network-key mknet1-...

Then, each in a terminal of its own; everyone prints the address that those who come
later have to give::

    python examples/chat.py ada
    python examples/chat.py bob net:127.0.0.1:...~shs:...
    python examples/chat.py eve net:127.0.0.1:...~shs:... net:127.0.0.1:...~shs:...

What you type goes to all; control-D ends it.  Names cannot be borrowed: what stands
before a line is the beginning of a key, and the channel has proved that key.
"""

import argparse
import os
from random import SystemRandom

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, serverFromString
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer

from meshkit.identity.addresses import MeshAddress
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import stored_identity, stored_networks
from meshkit.shs import Capability, SecureListener, wrap_client

LABEL = "org.example.chat"


@implementer(IHalfCloseableProtocol, IPushProducer)
class Link(LineOnlyReceiver):
    """The channel to one of the others."""

    delimiter = b"\n"
    MAX_LENGTH = 1000

    def __init__(self, room):
        self.room = room

    def connectionMade(self):
        self.peer = self.transport.getPeer().key
        # So the channel tells us when more waits for this peer than it should.
        self.transport.registerProducer(self, True)
        self.room.joined(self)

    def lineReceived(self, line):
        self.room.heard(self, line.decode("utf-8", "replace"))

    def lineLengthExceeded(self, line):
        self.transport.abortConnection()

    def connectionLost(self, reason):
        self.room.left(self)

    def pauseProducing(self):
        # It does not read.  What we say must not heap up for it.
        self.transport.abortConnection()

    def resumeProducing(self):
        pass

    def stopProducing(self):
        pass

    def readConnectionLost(self):
        self.close()

    def writeConnectionLost(self):
        pass

    def close(self):
        # A channel waits for its producer before it closes.
        self.transport.unregisterProducer()
        self.transport.loseConnection()


class Room:
    """Who is here, and what is said."""

    def __init__(self):
        self.links = []

    def say(self, text):
        # Two who have dialled each other are linked twice, and hear it once.
        for link in {link.peer: link for link in self.links}.values():
            link.sendLine(text.encode("utf-8"))

    def joined(self, link):
        self.links.append(link)
        print(f"* {link.peer.short} is here", flush=True)

    def left(self, link):
        self.links.remove(link)
        print(f"* {link.peer.short} is gone", flush=True)

    def heard(self, link, text):
        # What others write could hold commands for the terminal.
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        print(f"{link.peer.short}: {shown}", flush=True)


class Keyboard(LineOnlyReceiver):
    """What is typed here goes to the room."""

    delimiter = os.linesep.encode()

    def __init__(self, room):
        self.room = room
        self.closed = Deferred()

    def lineReceived(self, line):
        self.room.say(line.decode("utf-8", "replace")[:250])

    def connectionLost(self, reason):
        self.closed.callback(None)


async def main(reactor, folder, listen, others):
    folder = DataFolder(folder, LocalFiles())
    identity = stored_identity(folder)
    capability = Capability.of(stored_networks(folder)[0].key(), LABEL)
    rng = SystemRandom()
    room = Room()
    factory = Factory.forProtocol(lambda: Link(room))

    listener = SecureListener(reactor, identity, rng)
    listener.register(capability, factory)
    port = await serverFromString(reactor, listen).listen(listener)
    here = port.getHost()
    print(MeshAddress(here.host, here.port, identity.public).text, flush=True)

    dialling = []
    for address in map(MeshAddress.parse, others):
        endpoint = wrap_client(
            reactor,
            HostnameEndpoint(reactor, address.host, address.port),
            identity=identity,
            capability=capability,
            peer=address.key,
            rng=rng,
        )
        # It dials again whenever the channel is lost.
        dialling.append(ClientService(endpoint, factory, clock=reactor))
        dialling[-1].startService()

    keyboard = Keyboard(room)
    StandardIO(keyboard, reactor=reactor)
    await keyboard.closed

    await maybeDeferred(port.stopListening)
    for link in room.links:
        link.close()
    for service in dialling:
        await service.stopService()
    await listener.close_all()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="data folder, made with 'meshkit init'")
    parser.add_argument("others", nargs="*", metavar="ADDRESS", help="of those who are there")
    parser.add_argument("--listen", default="tcp:0:interface=127.0.0.1", metavar="ENDPOINT")
    given = parser.parse_args()
    react(main, [given.folder, given.listen, given.others])
