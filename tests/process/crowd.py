"""
Those who are at a relay together, told what to do by a test (L{tests.bench.peers.jobs}): members
who only wait, members who leave and fetch mail, one who floods, and one who asks for much and never
reads.  Each of these is a process of its own: C{python -m tests.process.crowd}.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Mapping
from random import Random
from time import monotonic
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from meshkit.errors import ChannelError, MeshkitError, OverRate, RemoteError
from meshkit.gossip.codec import Credit, Hello, Interest, Note, Ping, encode
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.relay.mailbox import wire as mail
from meshkit.relay.mailbox.collecting import open_at
from meshkit.relay.mailbox.prekeys import PrekeyRing
from meshkit.relay.mailbox.sealing import MAX_SEALED, digest_of
from meshkit.relay.registry import wire as registry
from meshkit.relay.registry.registration import Registration
from meshkit.relay.tunnel.wire import (
    CIRCUIT_LABEL,
    CONTROL_LABEL,
    RESERVE,
    Open,
    Reserve,
    encode_frame,
)
from meshkit.rpc.codec import encode_request
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.runtime.signed.signatures import RELAY_TAG
from meshkit.runtime.signed.signing import Signer
from meshkit.shs.endpoints import wrap_client
from meshkit.shs.hellos import Capability
from tests.bench.peers.jobs import Job, run
from tests.process.mesh import exchange

#: Handshakes that one process has under way: a relay takes 32 from one machine.
DIALS: Final = 12
#: Calls that who floods has under way on a connection.
IN_FLIGHT: Final = 16
#: Connections of one key that are counted together are eight at a relay.
UNREAD_MAIL: Final = 8
UNREAD_GOSSIP: Final = 4
#: Of those who wait, so many get what a flood leaves.
TARGETS: Final = 8
JSON: Final = "application/json"
_DAY: Final = 86_400
_HELD: Final = mail.MAX_HELD
#: What happens to who is cut off, refused, or not let in.
_ENDS: Final = (MeshkitError, ConnectionClosed, ConnectError, CancelledError, OSError)


class Flooding(Protocol):
    """
    Writes as fast as it is read, and reads nothing but to throw it away.

    @ivar over: fired when the connection is lost.
    """

    transport: Any

    def __init__(self, pieces: list[bytes], reads: bool = True) -> None:
        """
        @param pieces: written once each, and then the last again and again.
        @param reads: L{False}: it does not even read.
        """
        self._pieces = pieces
        self._reads = reads
        self.written = 0
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        for piece in self._pieces[:-1]:
            self.transport.write(piece)
        if not self._reads:
            self.transport.pauseProducing()
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.written += 1
        self.transport.write(self._pieces[-1])

    def stopProducing(self) -> None:
        """The connection is gone."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(None)


class Silent(Protocol):
    """Says what it has to say, and reads nothing."""

    transport: Any

    def __init__(self, said: bytes) -> None:
        self._said = said
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        # Else the system reads some megabytes for it.
        self.transport._raw.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.transport.write(self._said)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(None)


class Crowd:
    """Members of one network at one relay."""

    def __init__(self, reactor: Any, seed: int, relay: str, network: str) -> None:
        self.reactor = reactor
        self.rng = Random(seed)
        self.relay = MeshAddress.parse(relay)
        self.network = NetworkSecret.parse(network).key()
        self.calls = RPCFactory(reactor)
        self.counts: Counter[str] = Counter()
        self.running = True

    def member(self) -> Identity:
        return Identity(self.rng.randbytes(32))

    async def connect(
        self, who: Identity, label: str, version: int = 1, factory: Any = None
    ) -> Any:
        endpoint = wrap_client(
            self.reactor,
            HostnameEndpoint(self.reactor, self.relay.host, self.relay.port),
            identity=who,
            capability=Capability.of(self.network, label, version),
            peer=self.relay.key,
            rng=self.rng,
        )
        return await endpoint.connect(self.calls if factory is None else factory)

    async def insist(self, who: Identity, label: str, version: int = 1) -> RPCProtocol:
        """As L{connect}, again and again: others may take all places for those who shake hands."""
        while True:
            try:
                connection: RPCProtocol = await self.connect(who, label, version)
            except (ChannelError, ConnectionClosed, MeshkitError):
                self.counts["tried again"] += 1
                await deferLater(self.reactor, 0.05, lambda: None)
            else:
                return connection

    async def register(self, who: Identity) -> None:
        connection = await self.insist(who, registry.LABEL)
        await connection.call(registry.REGISTER, self.registration(who))
        connection.close()

    def registration(self, who: Identity, nickname: str = "") -> registry.RegisterRequest:
        said = Registration.seal(
            who,
            self.network.net_id,
            self.relay.key,
            time.time_ns() // 10**6,
            listed=True,
            nickname=nickname,
        )
        return registry.RegisterRequest(said.raw)

    async def waiting(self, who: Identity) -> RPCProtocol:
        """@return: the connection of somebody who has a mailbox and waits."""
        connection = await self.insist(who, mail.LABEL, mail.VERSION)
        await open_at(connection, PrekeyRing().turned(int(time.time()), self.rng).sign(who))
        self.wait_on(connection)
        return connection

    def wait_on(self, connection: RPCProtocol) -> None:
        held = connection.call(mail.WAIT, mail.WaitRequest(_HELD), timeout=_HELD + 60)
        # If the connection has ended, that is counted by itself.
        held.addCallbacks(lambda _: self.wait_on(connection), lambda _: None)

    async def deposit(self, connection: RPCProtocol, to: PublicKey, size: int) -> bytes:
        """@return: the receipt."""
        request = mail.DepositRequest(to.raw, self.rng.randbytes(size), _DAY)
        receipt: bytes = await connection.call(mail.DEPOSIT, request)
        return receipt

    async def take_out(self, connection: RPCProtocol) -> int:
        """@return: how many messages came out of a mailbox."""
        page = await connection.call(mail.FETCH, mail.FetchRequest(0))
        digests = [digest_of(each.sealed) for each in page.messages]
        gone: int = await connection.call(mail.ACKNOWLEDGE, mail.AcknowledgeRequest(digests))
        return gone

    # --- what goes on in the background ----------------------------------------------------

    def go_on(self, name: str, work: Any, *arguments: Any) -> None:
        """Do something again and again until it is over; how often is counted."""

        async def again() -> None:
            while self.running:
                try:
                    await work(*arguments)
                except _ENDS as e:
                    self.counts[f"{name}: {getattr(e, 'code', type(e).__name__)}"] += 1
                self.counts[name] += 1
                # Others in this process are served in between.
                await deferLater(self.reactor, 0, lambda: None)

        Deferred.fromCoroutine(again())

    async def flood_calls(
        self, who: Identity, label: str, version: int, method: Any, make: Any
    ) -> None:
        """One connection that calls as fast as it is answered, until it is cut off."""
        connection = await self.connect(who, label, version)

        async def one_after_the_other() -> None:
            while self.running:
                try:
                    await connection.call(method, make())
                except MeshkitError as e:
                    self.counts[f"{method.name}: {e.code}"] += 1
                    if not connection._open:
                        raise
                self.counts[f"{method.name} calls"] += 1

        try:
            await gatherResults(
                [Deferred.fromCoroutine(one_after_the_other()) for _ in range(IN_FLIGHT)],
                consumeErrors=True,
            )
        except Exception as e:
            connection.abort()
            inner = getattr(e, "subFailure", None)
            self.counts[f"{label} ended: {type(inner.value if inner else e).__name__}"] += 1

    async def pour(
        self, who: Identity | None, label: str, version: int, pieces: list[bytes]
    ) -> None:
        """
        One connection that writes as fast as it is read, until it is cut off.

        @param who: L{None}: somebody new.
        """
        factory = Factory.forProtocol(lambda: Flooding(pieces))
        factory.noisy = False
        protocol = await self.connect(who or self.member(), label, version, factory)
        await protocol.over
        self.counts[f"{label} pieces"] += protocol.written

    async def never_read(self, who: Identity, label: str, version: int, said: bytes) -> None:
        factory = Factory.forProtocol(lambda: Silent(said))
        factory.noisy = False
        protocol = await self.connect(who, label, version, factory)
        self.counts[f"{label} silent"] += 1
        await protocol.over

    # --- at the HTTP door -------------------------------------------------------------------

    def signer(self, who: Identity, port: int) -> Signer:
        return Signer(
            identity=who,
            network=self.network.net_id,
            authority=f"127.0.0.1:{port}",
            rng=self.rng,
            wall_clock=time.time_ns,
            tag=RELAY_TAG,
        )

    def signed(self, signer: Signer, target: str) -> bytes:
        """@return: the bytes of a request."""
        headers, _ = signer.sign(self.relay.key, "GET", target, JSON, b"")
        lines = [f"GET {target} HTTP/1.1", f"Host: {signer.authority}", f"Content-Type: {JSON}"]
        lines.append("Content-Length: 0")
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def jobs(reactor: Any) -> Mapping[str, Job]:
    """@return: what this child can do."""
    crowd: Crowd
    idle: list[RPCProtocol] = []
    pair: list[tuple[Identity, RPCProtocol]] = []
    sockets: list[socket.socket] = []
    signers: list[Signer] = []

    async def begin(seed: int, relay: str, network: str) -> None:
        nonlocal crowd
        crowd = Crowd(reactor, seed, relay, network)

    async def wait(number: int) -> list[str]:
        """Job: so many more have a mailbox and wait; @return: the keys of the first eight."""
        turns = iter(range(number))
        keys: list[str] = []

        async def some() -> None:
            for turn in turns:
                who = crowd.member()
                idle.append(await crowd.waiting(who))
                if turn < TARGETS:
                    keys.append(who.public.text)

        await gatherResults([Deferred.fromCoroutine(some()) for _ in range(DIALS)])
        return keys

    async def waiting() -> int:
        """Job: @return: how many of them are still connected and wait."""
        return sum(connection.calling for connection in idle)

    async def ordinary(port: int) -> None:
        """Job: two members register, and one of them opens a mailbox."""
        for _ in range(2):
            who = crowd.member()
            await crowd.register(who)
            pair.append((who, await crowd.waiting(who)))
            signers.append(crowd.signer(who, port))

    async def mail_round() -> float:
        """
        Job: one member comes, leaves a message for another, who takes it out; @return: how
        many seconds that took.
        """
        (_, recipient), (sender, _) = pair
        begun = monotonic()
        connection = await crowd.insist(sender, mail.LABEL, mail.VERSION)
        await crowd.deposit(connection, pair[0][0].public, 1_024)
        taken = await crowd.take_out(recipient)
        connection.close()
        if taken != 1:
            raise RuntimeError(f"{taken} messages came out")
        return monotonic() - begun

    async def read(port: int, author: str, after: int) -> list[Any]:
        """
        Job: a member reads a feed at the HTTP door, until there is more of it.

        @param author: its id, percent-encoded.
        @return: how many seconds each request took, and then up to where the feed was read.
        """
        seconds: list[float] = []
        while True:
            wire = crowd.signed(signers[len(seconds) % 2], f"/v1/feed/{author}?after={after}")
            begun = monotonic()
            answer = await deferToThread(exchange, ("127.0.0.1", port), wire)
            seconds.append(monotonic() - begun)
            reached = answer.data["reached"]
            if reached > after:
                return [*seconds, reached]
            await deferLater(reactor, 0.1, lambda: None)

    async def flood(targets: list[str], port: int) -> None:
        """
        Job: one member floods, with all that there is to flood with.

        @param targets: keys of members who have mailboxes.
        """
        who = crowd.member()
        await crowd.register(who)
        keys = [PublicKey.parse(each) for each in targets]
        numbers = iter(range(10**9))

        def deposit() -> mail.DepositRequest:
            to = keys[next(numbers) % len(keys)]
            return mail.DepositRequest(to.raw, crowd.rng.randbytes(1_024), _DAY)

        def register() -> registry.RegisterRequest:
            return crowd.registration(who, f"flood {next(numbers)}")

        calls: tuple[tuple[str, int, Any, Any], ...] = (
            (mail.LABEL, mail.VERSION, mail.DEPOSIT, deposit),
            (mail.LABEL, mail.VERSION, mail.FETCH, lambda: mail.FetchRequest(0)),
            (registry.LABEL, registry.VERSION, registry.REGISTER, register),
            (CONTROL_LABEL, 1, RESERVE, Reserve),
        )
        for each in calls:
            crowd.go_on(each[2].name, crowd.flood_calls, who, *each)
        crowd.go_on("ping", crowd.pour, who, "ping", 1, [bytes(1_024)])
        asks = encode_frame(Open(keys[0].raw))
        for _ in range(4):
            crowd.go_on("circuit", crowd.never_read, who, CIRCUIT_LABEL, 1, asks)
        greeting = encode(Hello(crowd.rng.randbytes(16))) + encode(Interest(True, [], [], False))
        notes = encode(Note([(crowd.rng.randbytes(32), 10**6, 3) for _ in range(1_000)]))
        pings = b"".join(encode(Ping(n)) for n in range(1_000))
        # For these a key is banned, everywhere: so it comes with another one each time.
        for name, piece in (("notes", notes), ("gossip pings", pings)):
            crowd.go_on(name, crowd.pour, None, "gossip", 2, [greeting, piece])
        # At the door: signed and unsigned requests, over connections of their own.
        signer = crowd.signer(who, port)

        async def door(signs: bool) -> None:
            wire = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
            if signs:
                wire = crowd.signed(signer, "/v1/feed?after=0&limit=200")
            answer = await deferToThread(exchange, ("127.0.0.1", port), wire)
            crowd.counts[f"door {answer.status}"] += 1

        for number in range(8):
            crowd.go_on("door", door, number % 2 == 0)

    async def stare(port: int) -> None:
        """Job: one member asks for much, everywhere, and reads nothing."""
        who = crowd.member()
        await crowd.register(who)
        connection = await crowd.waiting(who)
        # A full page waits for it, and more.
        left = 0
        while left < 24:
            try:
                await crowd.deposit(connection, who.public, MAX_SEALED)
            except RemoteError as e:
                if e.code != OverRate.code:
                    raise
                await deferLater(reactor, 0.1, lambda: None)
            else:
                left += 1
        connection.close()
        fetch = b"".join(
            encode_request(number, mail.FETCH.name, mail.FetchRequest(0)) for number in range(60)
        )
        for _ in range(UNREAD_MAIL):
            crowd.go_on("unread mail", crowd.never_read, who, mail.LABEL, mail.VERSION, fetch)
        everything = b"".join(
            [
                encode(Hello(crowd.rng.randbytes(16))),
                encode(Interest(True, [], [], False)),
                encode(Credit(2**40, 2**50)),
            ]
        )
        # That of a key of its own, as eight connections of one key are all that are kept.
        reader = crowd.member()
        await crowd.register(reader)
        for _ in range(UNREAD_GOSSIP):
            crowd.go_on("unread feeds", crowd.never_read, reader, "gossip", 2, everything)
        signer = crowd.signer(who, port)
        for number in range(64):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.connect(("127.0.0.1", port))
            if number % 2:
                sock.sendall(crowd.signed(signer, "/v1/events?after=0"))
            else:
                for _ in range(4):
                    sock.sendall(crowd.signed(signer, "/v1/feed?after=0&limit=200"))
            sockets.append(sock)

    async def stop() -> dict[str, int]:
        """Job: no more of it; @return: what there was."""
        crowd.running = False
        for sock in sockets:
            sock.close()
        return dict(crowd.counts)

    async def counts() -> dict[str, int]:
        """Job: @return: what there was so far."""
        return dict(crowd.counts)

    return {
        "begin": begin,
        "wait": wait,
        "waiting": waiting,
        "ordinary": ordinary,
        "mail_round": mail_round,
        "read": read,
        "flood": flood,
        "stare": stare,
        "stop": stop,
        "counts": counts,
    }


if __name__ == "__main__":
    run(jobs)
