"""
Receive the webhooks of a node, and believe only those that it has signed.

Run it with the secret of the webhook, and a port to listen on::

    python examples/receive_webhooks.py ~/.local/share/meshkit/hooks/desk.secret 8080

In the node's meshkit.toml::

    [[hooks.webhook]]
    name = "desk"
    url = "http://127.0.0.1:8080/"
    plain_http = true                   # it stays on this machine,
    allow_addresses = ["127.0.0.1"]     # which is no public address
"""

import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.web.resource import Resource
from twisted.web.server import Site

from meshkit.errors import WebhookSignatureInvalid
from meshkit.hooks.signing import WebhookSecret, verify

#: Ids that are remembered.
SEEN = 10_000


class Receiver(Resource):
    isLeaf = True

    def __init__(self, secrets: list[WebhookSecret]) -> None:
        super().__init__()
        self._secrets = secrets
        self._seen: OrderedDict[str, None] = OrderedDict()

    def render_POST(self, request: Any) -> bytes:
        headers = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        body = request.content.read()
        try:
            message_id = verify(self._secrets, headers, body, time.time())
        except WebhookSignatureInvalid as e:
            request.setResponseCode(e.status)
            return f"{e}\n".encode()
        # The answer to an earlier attempt may have been lost.
        if message_id not in self._seen:
            self.use(msgspec.json.decode(body))
            self._seen[message_id] = None
            if len(self._seen) > SEEN:
                self._seen.popitem(last=False)
        # Whatever begins with 2 says: taken, do not send it again.
        request.setResponseCode(204)
        return b""

    def use(self, message: Any) -> None:
        print(message["author"], message["sequence"], message["content"], flush=True)


async def main(reactor: Any, secret_file: Path, port: int) -> None:
    secrets = [WebhookSecret.parse(line) for line in secret_file.read_text().split()]
    endpoint = serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1")
    listening = await endpoint.listen(Site(Receiver(secrets)))
    print("listening on port", listening.getHost().port, flush=True)
    await Deferred()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} SECRET_FILE PORT")
    secret_file, port = Path(sys.argv[1]), int(sys.argv[2])
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, secret_file, port)))
