"""
Read all feeds that a relay has, over HTTPS.

Your node has to be registered there (``meshkit relay register``); its key signs each request, and
the relay signs each answer. Run it with the URL of the relay's door, the relay's id, and the data
folder of your node, which need not run::

    python examples/read_a_relay.py https://relay.example:7660 @RELAY.ed25519 ~/.local/share/meshkit
"""

import json
import sys
import time
from random import SystemRandom
from urllib.parse import urlsplit

from attrs import frozen
from treq import collect
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import Agent

from meshkit.identity.keys import PublicKey
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import stored_identity, stored_networks
from meshkit.runtime.signed.signatures import RELAY_TAG
from meshkit.runtime.signed.signing import Signer
from meshkit.runtime.signed.tls import AnyCertificate

JSON = "application/json"
MOST = 1024 * 1024  # bytes of an answer


@frozen
class Answer:
    status: int
    headers: dict
    body: bytes


async def read(response):
    body = bytearray()

    def keep(piece):
        if len(body) + len(piece) > MOST:
            raise ValueError("the relay does not stop talking")
        body.extend(piece)

    await collect(response, keep)
    headers = {
        name.decode().lower(): tuple(value.decode("latin-1") for value in values)
        for name, values in response.headers.getAllRawHeaders()
    }
    return Answer(response.code, headers, bytes(body))


async def main(reactor, url, relay, folder):
    data = DataFolder(folder, LocalFiles())
    network = stored_networks(data)[0].key()
    signer = Signer(
        identity=stored_identity(data),
        network=network.net_id,
        authority=urlsplit(url).netloc,
        rng=SystemRandom(),
        wall_clock=time.time_ns,
        tag=RELAY_TAG,
    )
    # Who answers is known by the signature: any certificate will do.
    client = HTTPClient(Agent(reactor, AnyCertificate(), connectTimeout=10))
    after, more = 0, True
    while more:
        target = f"/v1/feed?after={after}&limit=200"
        headers, signature = signer.sign(relay, "GET", target, JSON, b"")
        sent = {**dict(headers), "Content-Type": JSON, "Content-Length": "0"}
        answer = await read(await client.get(url + target, headers=sent, timeout=30))
        told = json.loads(answer.body)
        if not told["success"]:
            sys.exit(f"{told['error']['code']}: {told['error']['message']}")
        signer.check(relay, answer, "GET", target, signature)
        for message in told["data"]["messages"]:
            print(message["author"], message["sequence"], json.dumps(message["content"]))
        after = told["data"]["reached"]
        more = after < told["data"]["newest"]


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} URL RELAY DATA_FOLDER")
    arguments = sys.argv[1], PublicKey.parse(sys.argv[2]), sys.argv[3]
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *arguments)))
