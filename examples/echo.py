r"""
Echo over a secure channel: a Twisted program becomes secure by its endpoint strings.

Make two members of one network; the first command prints its secret::

    meshkit -d ada init
    meshkit -d bob init --network-key mknet1-...
    meshkit -d ada id

Serve as the one, and ask as the other, which has to know the id that the third printed::

    python examples/echo.py serve \
        'shs:endpoint=tcp\:8007\:interface=127.0.0.1:identity=ada:network=ada:label=org.example.echo'
    python examples/echo.py ask \
        'shs:host=127.0.0.1:port=8007:identity=bob:network=bob:label=org.example.echo:peer=@...' \
        hello

With C{tcp:8007} and C{tcp:127.0.0.1:8007} in their place it is an echo over TCP, that
anybody can read, change and impersonate.
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import react


# [protocols]
class Echo(Protocol):
    """Sends back what it gets."""

    def connectionMade(self):
        # Over shs: the address holds the key that the client has proved.
        print("connected with", self.transport.getPeer(), flush=True)

    def dataReceived(self, data):
        self.transport.write(data)


class Ask(Protocol):
    """Says something, and keeps what comes back until it is as long."""

    def __init__(self, text):
        self.text = text
        self.heard = b""
        self.done = Deferred()

    def connectionMade(self):
        self.transport.write(self.text)

    def dataReceived(self, data):
        self.heard += data
        if len(self.heard) >= len(self.text):
            self.transport.loseConnection()

    def connectionLost(self, reason=connectionDone):
        self.done.callback(self.heard)
        # [protocols-end]


# [programs]
async def serve(reactor, endpoint):
    port = await serverFromString(reactor, endpoint).listen(Factory.forProtocol(Echo))
    print("listening on port", port.getHost().port, flush=True)
    await Deferred()  # until control-C


async def ask(reactor, endpoint, text):
    asking = Ask(text.encode("utf-8"))
    # Connected means: the peer is who it should be.  Else this raises, and says why.
    await clientFromString(reactor, endpoint).connect(Factory.forProtocol(lambda: asking))
    print((await asking.done).decode("utf-8"))
    # [programs-end]


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "serve":
        react(serve, sys.argv[2:])
    elif len(sys.argv) == 4 and sys.argv[1] == "ask":
        react(ask, sys.argv[2:])
    else:
        sys.exit(f"usage: {sys.argv[0]} serve ENDPOINT | ask ENDPOINT TEXT")
