"""Who comes to the HTTP door of a relay, over a network in memory."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Final

import msgspec
from attrs import frozen
from twisted.internet.protocol import Factory

from meshkit.identity.keys import Identity
from meshkit.relay.registry.registration import Registration, proof_of
from meshkit.runtime.signed.signatures import RELAY_TAG
from meshkit.runtime.signed.signing import Signer
from meshkit.testing.doors import DoorCall
from meshkit.testing.nodes import MemoryNode
from tests.relay.registration.world import Mesh

PORT: Final = 7660
JSON: Final = "application/json"
PARTS: Final = frozenset({"feed", "registration", "registry", "relay_door", "relays", "wellknown"})
LISTEN: Final = 'listen = "tcp:7655:interface=10.0.0.1"\n'
PLAIN: Final = "[relay_door]\nplain_feeds = true\n"


@frozen
class Said:
    """What the door has said."""

    status: int
    headers: Mapping[str, tuple[str, ...]]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str | None:
        error = self.json.get("error")
        return None if error is None else error["code"]

    @property
    def data(self) -> Any:
        assert self.status in (200, 201), self.body
        return self.json["data"]


def parse(received: bytes) -> Said:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, tuple[str, ...]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = (*headers.get(name.lower(), ()), value)
    return Said(int(first.split(" ")[1]), headers, body)


class Door:
    """
    The door of a relay.

    @ivar mesh: with the relay.
    @ivar signers: who has signed something, by name.
    """

    def __init__(self, config: str = "", door: str = "") -> None:
        self.mesh = Mesh(f"{LISTEN}{config}\n{door}", PARTS)
        self.relay: MemoryNode = self.mesh.relay
        self.network = self.mesh.mesh.network_secret.key()
        self.capability = self.network.capability("registry")
        self._rng = Random(7)

    def stop(self) -> None:
        self.mesh.mesh.stop()

    @property
    def host(self) -> str:
        return f"{self.relay.host.address}:{PORT}"

    def signer(self, identity: Identity, **more: Any) -> Signer:
        return Signer(
            identity,
            more.get("network", self.network.net_id),
            self.host,
            self._rng,
            self.mesh.mesh.wall_clock,
            more.get("tag", RELAY_TAG),
        )

    def send(self, raw: bytes, source: str = "10.8.0.1") -> DoorCall:
        """Connect and say this."""
        call = DoorCall(raw)
        endpoint = self.mesh.mesh.network.client_endpoint(
            PORT, self.relay.host.address, source=source
        )
        endpoint.connect(Factory.forProtocol(lambda: call)).addErrback(call.connectionLost)
        return call

    def request(
        self, method: str, target: str, body: Any, headers: Mapping[str, str | None]
    ) -> bytes:
        data = b"" if body is None else body if isinstance(body, bytes) else encode(body)
        sent: dict[str, str | None] = {
            "Host": self.host,
            "Connection": "close",
            "Content-Length": str(len(data)),
            "Content-Type": JSON,
        }
        sent |= headers
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items() if value is not None]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + data

    def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        by: Identity | None = None,
        source: str = "10.8.0.1",
        headers: Mapping[str, str | None] | None = None,
    ) -> Said:
        """
        @param by: signs the request; then the answer has to be signed by the relay, unless it
            says that it does not believe that.
        """
        more = dict(headers or {})
        signature = None
        signer = None if by is None else self.signer(by)
        data = b"" if body is None else encode(body)
        if signer is not None:
            signed, signature = signer.sign(self.relay.identity.public, method, target, JSON, data)
            more = {**dict(signed), **more}
        call = self.send(self.request(method, target, data, more), source)
        self.mesh.mesh.until(lambda: call.ended, f"{method} {target}")
        said = parse(call.received)
        if signer is not None and signature is not None and said.status < 400:
            signer.check(self.relay.identity.public, said, method, target, signature)
        return said

    # --- registering ---------------------------------------------------------------------

    @property
    def ms(self) -> int:
        return self.mesh.mesh.wall_clock() // 10**6

    def statement(self, peer: Identity, **more: Any) -> Registration:
        fields = {"number": self.ms, "listed": False, **more}
        number = fields.pop("number")
        return Registration.seal(
            peer, self.network.net_id, self.relay.identity.public, number, **fields
        )

    def register(self, peer: Identity, source: str = "10.8.0.1", **more: Any) -> Said:
        raw = self.statement(peer, **more).raw
        body = {"statement": raw, "proof": proof_of(self.capability, raw)}
        return self.ask("POST", "/v1/register", body, source=source)


def encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body)
