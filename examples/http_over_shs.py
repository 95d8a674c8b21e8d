r"""
HTTP over a secure channel: a web server that knows who asks, without passwords.

Make two members of one network; the first command prints its secret::

    meshkit -d ada init
    meshkit -d bob init --network-key mknet1-...
    meshkit -d ada id

Serve as the one, and ask as the other, which has to know the id that the third printed::

    python examples/http_over_shs.py serve \
        'shs:endpoint=tcp\:8008\:interface=127.0.0.1:identity=ada:network=ada:label=org.example.http'
    python examples/http_over_shs.py get \
        'shs:host=127.0.0.1:port=8008:identity=bob:network=bob:label=org.example.http:peer=@...' \
        /whoami

The server is klein and the client is treq, both unchanged.  Beneath them is a secure
channel where others have TLS: no certificates, and both sides have proved their keys.
"""

import sys

from klein import Klein
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.server import Site
from zope.interface import implementer

# [server]
app = Klein()


@app.route("/whoami")
def whoami(request):
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    return f"you are {request.transport.getPeer().key}"


async def serve(reactor, endpoint):
    port = await serverFromString(reactor, endpoint).listen(Site(app.resource()))
    print("listening on port", port.getHost().port, flush=True)
    await Deferred()  # until control-C
    # [server-end]


# [client]
@implementer(IAgentEndpointFactory)
class ToPeer:
    """
    Leads every request of an agent to one peer, whatever the URL says.

    An agent needs one of these, and a pool, per peer: pools tell connections apart by
    the URL's host and port, which mean nothing here.
    """

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def endpointForURI(self, uri):
        return self.endpoint


async def get(reactor, endpoint, path):
    to_peer = ToPeer(clientFromString(reactor, endpoint))
    pool = HTTPConnectionPool(reactor)
    client = HTTPClient(Agent.usingEndpointFactory(reactor, to_peer, pool=pool))
    response = await client.get(f"http://peer.invalid{path}")
    print(response.code, await response.text())
    # Say goodbye: to the server a channel that merely ends may have been cut.
    await pool.closeCachedConnections()
    # [client-end]


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "serve":
        react(serve, sys.argv[2:])
    elif len(sys.argv) == 4 and sys.argv[1] == "get":
        react(get, sys.argv[2:])
    else:
        sys.exit(f"usage: {sys.argv[0]} serve ENDPOINT | get ENDPOINT PATH")
