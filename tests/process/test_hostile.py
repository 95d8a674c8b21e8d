"""Peers that mean no good, over real sockets, against a real node."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from meshkit.errors import HandshakeError
from meshkit.feed.canonical import prepare_content
from meshkit.feed.message import Message, sign_message
from meshkit.gossip.codec import (
    MAX_FRAME,
    Messages,
    Note,
    Ping,
    Proof,
    Stopped,
    encode,
)
from meshkit.gossip.part import LABEL, VERSION
from meshkit.gossip.spread import RECEIVE, REPLICATE
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.shs import Capability, ClientHandshake, wrap_client
from meshkit.testing.peers import GossipPeer
from tests.process.mesh import Mesh, Node, Shared, connect, wait_for

#: Seconds after which something that has to happen has not happened.  More than the
#: longest deadline of the node, 30 s.
PATIENCE: Final = 50.0

_shared = Shared(lambda mesh: mesh.node("a").start())


def tearDownModule() -> None:
    _shared.close()


class Hostile(GossipPeer):
    """A peer that speaks gossip as its test wants it to."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Any] = []
        self.gone = False
        self.react: Callable[[Hostile, Any], None] = lambda _peer, _frame: None

    def answer(self, frame: Any) -> None:
        self.frames.append(frame)
        if isinstance(frame, Ping):
            super().answer(frame)
        self.react(self, frame)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.gone = True


def rss(pid: int) -> int:
    """How much memory a process has, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError(pid)


class _Factory(Factory):
    noisy = False

    def __init__(self, peer: Hostile) -> None:
        self._peer = peer

    def buildProtocol(self, addr: IAddress | None) -> Hostile:
        return self._peer


def message_of(
    identity: Identity, sequence: int, content: Any, previous: str | None = None
) -> Message:
    return sign_message(
        identity,
        sequence=sequence,
        previous=previous,
        timestamp_ns=1_790_000_000_000_000_000 + sequence,
        content=prepare_content(content),
    )


class HostileTests(TestCase):
    """Each is refused under its own name, and the node goes on as if nothing had been."""

    timeout = 120

    def setUp(self) -> None:
        self.node: Node = _shared.get()
        self.rng = random.Random(self.id())
        self.us = Identity(self.rng.randbytes(32))
        self.network = NetworkSecret.parse(self.node.network_secret)
        self.target = MeshAddress.parse(self.node.address)
        self.before = self.node.status

    # --- looking at the node

    async def wait(self, what: str, look: Callable[[], Any]) -> Any:
        """Look in a thread until there is something: our own end of it has to live too."""
        end = reactor.seconds() + PATIENCE
        while True:
            found = await deferToThread(look)
            if found:
                return found
            if reactor.seconds() > end:
                self.fail(f"after {PATIENCE:g} s there is still no {what}: {self.node.log_tail()}")
            await deferLater(reactor, 0.02)

    def counted(self, code: str, *where: str) -> Callable[[], bool]:
        """Has the node counted one more of these?"""

        def count(status: Any) -> int:
            for name in where:
                status = status[name]
            return int(status.get(code, 0))

        return lambda: count(self.node.status) == count(self.before) + 1

    async def check_healthy(self) -> None:
        """It is ready, takes what is published, lets good peers in; and holds no channel."""
        await self.wait("end of channels", lambda: self.node.status["channels"] == 0)
        good = await self.dial(Identity(self.rng.randbytes(32)))
        await self.wait("greeting", lambda: len(good.frames) > 1)
        message = await deferToThread(self.node.publish, {"text": "still here"})
        sequence = message["sequence"]
        await self.wait(
            "a note of it",
            lambda: any(
                isinstance(frame, Note)
                and (self.target.key.raw, sequence, REPLICATE) in frame.entries
                for frame in list(good.frames)
            ),
        )
        good.transport.loseConnection()  # type: ignore[union-attr]
        await self.wait("goodbye", lambda: good.gone)
        self.assertTrue(self.node.status["ready"])
        self.assertIsNone(self.node.process and self.node.process.poll())
        self.assertNotIn("Traceback", self.node.log.read_text())
        self.assertNotIn("Unhandled", self.node.log.read_text())

    # --- dialling

    def capability(self, network: NetworkSecret | None = None) -> Capability:
        return Capability.of((network or self.network).key(), LABEL, VERSION)

    async def dial(
        self,
        identity: Identity | None = None,
        *,
        network: NetworkSecret | None = None,
        key: PublicKey | None = None,
        answer: Callable[[Hostile, Any], None] | None = None,
    ) -> Hostile:
        """A peer that the node has let in."""
        peer = Hostile()
        if answer is not None:
            peer.react = answer
        await wrap_client(
            reactor,
            HostnameEndpoint(reactor, *self.node.mesh_port),
            identity=identity or self.us,
            capability=self.capability(network),
            peer=key or self.target.key,
            rng=self.rng,
        ).connect(_Factory(peer))
        return peer

    async def check_not_let_in(self, code: str, counted: str = "", **how: Any) -> None:
        """
        @param code: what the dialler gets to know.
        @param counted: what the node counts it as, if it knows more.
        """
        try:
            await self.dial(**how)
        except HandshakeError as e:
            self.assertEqual(e.code, code)
        else:
            self.fail("it was let in")
        await self.wait(code, self.counted(counted or code, "refused"))
        await self.check_healthy()

    def raw(self, data: bytes) -> socket.socket:
        sock = connect(self.node.mesh_port)
        self.addCleanup(sock.close)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            # It may be hung up on before all of it is sent.
            sock.sendall(data)
        return sock

    async def check_hung_up(self, sock: socket.socket) -> None:
        """The connection ends, and not a byte came back."""
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(await deferToThread(sock.recv, 1), b"")

    # --- before they are authenticated

    async def test_a_peer_of_another_network(self) -> None:
        other = NetworkSecret.generate(self.rng)
        await self.check_not_let_in("NETWORK_KEY_REFUSED", network=other)

    async def test_a_peer_that_takes_us_for_another(self) -> None:
        other = Identity(self.rng.randbytes(32)).public
        await self.check_not_let_in("PEER_KEY_REFUSED", key=other)

    async def test_a_protocol_that_is_not_offered(self) -> None:
        hello = ClientHandshake(
            self.us,
            Capability("nothing", 1, self.network.key().capability("nothing")),
            self.target.key,
            self.rng.randbytes(32),
        ).start()
        sock = self.raw(hello)
        await self.check_hung_up(sock)
        await self.wait("refusal", self.counted("NETWORK_KEY_REFUSED", "refused"))
        await self.check_healthy()

    async def test_a_hello_that_is_played_back(self) -> None:
        hello = ClientHandshake(
            self.us, self.capability(), self.target.key, self.rng.randbytes(32)
        ).start()
        with self.raw(hello) as first:
            self.assertEqual(len(await deferToThread(first.recv, 64)), 64)
        sock = self.raw(hello)
        await self.check_hung_up(sock)
        await self.wait("refusal", self.counted("HELLO_REPLAYED", "refused"))
        await self.check_healthy()

    async def test_garbage(self) -> None:
        for garbage in (
            self.rng.randbytes(64),
            b"GET / HTTP/1.1\r\nHost: a.name.that.makes.it.more.than.64.bytes.example\r\n\r\n",
            bytes(100_000),
        ):
            self.before = self.node.status
            await self.check_hung_up(self.raw(garbage))
            await self.wait("refusal", self.counted("NETWORK_KEY_REFUSED", "refused"))
        await self.check_healthy()

    async def test_handshakes_that_stop_in_the_middle(self) -> None:
        hello = ClientHandshake(
            self.us, self.capability(), self.target.key, self.rng.randbytes(32)
        ).start()
        for part in (hello[:1], hello[:63], self.rng.randbytes(63)):
            self.before = self.node.status
            self.raw(part).close()
            await self.wait("refusal", self.counted("HANDSHAKE_TRUNCATED", "refused"))
        # After the hello: message 3 has 112 bytes.
        self.before = self.node.status
        with self.raw(hello) as sock:
            await deferToThread(sock.recv, 64)
            sock.sendall(bytes(111))
        await self.wait("refusal", self.counted("HANDSHAKE_TRUNCATED", "refused"))
        await self.check_healthy()

    async def test_a_proof_that_proves_nothing(self) -> None:
        hello = ClientHandshake(
            self.us, self.capability(), self.target.key, self.rng.randbytes(32)
        ).start()
        with self.raw(hello) as sock:
            await deferToThread(sock.recv, 64)
            sock.sendall(bytes(112))
            await self.check_hung_up(sock)
        await self.wait("refusal", self.counted("PEER_KEY_REFUSED", "refused"))
        await self.check_healthy()

    async def test_silence(self) -> None:
        start = reactor.seconds()
        sock = self.raw(b"")
        await self.check_hung_up(sock)
        # 10 s for the whole handshake.
        self.assertGreater(reactor.seconds() - start, 8)
        await self.wait("refusal", self.counted("HANDSHAKE_TIMEOUT", "refused"))
        await self.check_healthy()

    async def test_more_connections_than_may_wait(self) -> None:
        socks = [self.raw(b"\0") for _ in range(100)]
        await self.wait(
            "refusals", lambda: self.node.status["refused"].get("TOO_MANY_HANDSHAKES", 0) >= 60
        )
        # Somebody honest comes through all the same.
        await self.check_healthy()
        for sock in socks:
            sock.close()

    async def test_a_thousand_that_say_nothing(self) -> None:
        pid = self.node.process and self.node.process.pid
        assert pid is not None
        # The first flood makes what is made once, and takes all places; the second is measured.
        socks = await deferToThread(self.knock, 100)
        await self.wait("refusals", lambda: self.refused("TOO_MANY_HANDSHAKES") >= 100 - 32)
        before = await deferToThread(rss, pid)
        socks += await deferToThread(self.knock, 1000)
        await self.wait("refusals", lambda: self.refused("TOO_MANY_HANDSHAKES") >= 1000 - 32)
        self.assertLess(await deferToThread(rss, pid) - before, 2 * 1024)
        # While it lasts, honest peers come in, one after another.
        for _ in range(10):
            peer = await self.dial(Identity(self.rng.randbytes(32)))
            peer.transport.loseConnection()  # type: ignore[union-attr]

        # Nearly all were dropped for one another, the last at their deadline.
        def ended() -> bool:
            late, dropped = self.refused("HANDSHAKE_TIMEOUT"), self.refused("TOO_MANY_HANDSHAKES")
            return dropped >= 1000 - 32 and late + dropped == 1100

        await self.wait("deadlines", ended)
        for sock in socks:
            await self.check_hung_up(sock)
        await self.check_healthy()

    def knock(self, count: int) -> list[socket.socket]:
        """Connect so many times and say nothing."""
        socks = []
        for _ in range(count):
            socks.append(connect(self.node.mesh_port))
            self.addCleanup(socks[-1].close)
        return socks

    def refused(self, code: str) -> int:
        """How many were refused under this code since the test began."""
        refused = self.node.status["refused"]
        return int(refused.get(code, 0)) - int(self.before["refused"].get(code, 0))

    # --- after

    async def check_broken(self, code: str, peer: Hostile) -> None:
        await self.wait("end of the link", lambda: peer.gone)
        await self.wait(code, self.counted(code, "parts", "gossip", "broken"))
        await self.check_healthy()

    async def test_a_frame_over_the_limit(self) -> None:
        peer = await self.dial()
        peer.transport.write((MAX_FRAME + 1).to_bytes(4, "big"))  # type: ignore[union-attr]
        await self.check_broken("FRAME_TOO_LARGE", peer)

    async def test_a_frame_at_the_limit_that_is_none(self) -> None:
        peer = await self.dial()
        peer.transport.write(MAX_FRAME.to_bytes(4, "big") + bytes(MAX_FRAME))  # type: ignore[union-attr]
        await self.check_broken("FRAME_MALFORMED", peer)

    async def test_a_frame_that_is_nested_deep(self) -> None:
        peer = await self.dial()
        body = b"\x91" * 100_000 + b"\xc0"
        peer.transport.write(len(body).to_bytes(4, "big") + body)  # type: ignore[union-attr]
        await self.check_broken("FRAME_MALFORMED", peer)

    async def test_messages_that_nobody_wanted(self) -> None:
        peer = await self.dial()
        peer.say(Messages(self.us.public.raw, 1, [message_of(self.us, 1, "hello").raw]))
        # Once may be an accident; who goes on is banned.
        for _ in range(5):
            peer.say(Messages(self.us.public.raw, 2, [message_of(self.us, 1, "hello").raw]))
        await self.check_broken("NOT_ASKED_FOR", peer)
        self.assertEqual(self.node.get(f"/v1/feed/{self.us.public.text.replace('/', '%2F')}"), [])

    async def test_a_peer_that_stops_in_the_middle_of_a_frame(self) -> None:
        peer = await self.dial()
        start = reactor.seconds()
        peer.transport.write(encode(Note([(self.us.public.raw, 1, 1)]))[:-1])  # type: ignore[union-attr]
        await self.wait("end of the link", lambda: peer.gone)
        self.assertGreater(reactor.seconds() - start, 25)
        await self.check_broken("PEER_TOO_SLOW", peer)

    async def test_a_peer_that_hangs_up_without_goodbye(self) -> None:
        peer = await self.dial()
        peer.transport.abortConnection()  # type: ignore[union-attr]
        await self.wait("end of the link", lambda: self.node.links() == 0)
        await self.check_healthy()

    async def serve(self, author: PublicKey, *texts: bytes) -> Hostile:
        """A peer that claims a feed and serves these texts as its messages."""

        def answer(peer: Hostile, frame: Any) -> None:
            if isinstance(frame, Note):
                for wanted, after, flags in frame.entries:
                    if wanted == author.raw and flags & RECEIVE and after == 0:
                        peer.say(Messages(wanted, 1, list(texts)))

        peer = await self.dial(answer=answer)
        peer.say(Note([(author.raw, len(texts), REPLICATE)]))
        return peer

    async def check_message_refused(self, code: str, author: PublicKey, *texts: bytes) -> None:
        peer = await self.serve(author, *texts)
        await self.wait(code, self.counted(code, "parts", "feed", "refused"))
        await self.wait(code, self.counted(code, "parts", "gossip", "refused"))
        self.assertEqual(self.node.get(f"/v1/feed/{author.text.replace('/', '%2F')}"), [])
        # One bad message may be an accident: the peer is still there, and good for others.
        self.assertFalse(peer.gone)
        peer.transport.loseConnection()  # type: ignore[union-attr]
        await self.check_healthy()

    async def test_a_message_signed_by_somebody_else(self) -> None:
        victim = Identity(self.rng.randbytes(32))
        good = message_of(victim, 1, {"text": "pay 10 to alice"})
        mine = message_of(self.us, 1, {"text": "pay 10 to alice"})
        forged = json.loads(good.raw)
        forged["signature"] = json.loads(mine.raw)["signature"]
        await self.check_message_refused(
            "SIGNATURE_INVALID", victim.public, json.dumps(forged).encode()
        )

    async def test_a_message_that_was_altered(self) -> None:
        victim = Identity(self.rng.randbytes(32))
        good = message_of(victim, 1, {"text": "pay 10 to alice"}).raw
        await self.check_message_refused(
            "HASH_MISMATCH", victim.public, good.replace(b"alice", b"mandy")
        )

    async def test_messages_that_are_none(self) -> None:
        for text, code in (
            (b"{", "MALFORMED_MESSAGE"),
            (b"\xff\xfe", "MALFORMED_MESSAGE"),
            (b"[" * 5_000, "NESTED_TOO_DEEP"),
        ):
            self.before = self.node.status
            self.us = Identity(self.rng.randbytes(32))
            await self.check_message_refused(code, self.us.public, text)

    async def test_a_good_message_among_bad_ones_is_kept(self) -> None:
        good = message_of(self.us, 1, {"text": "an honest word"})
        second = message_of(self.us, 2, {"text": "the next"}, good.hash).raw
        peer = await self.serve(self.us.public, good.raw, second.replace(b"next", b"text"))
        await self.wait("refusal", self.counted("HASH_MISMATCH", "parts", "gossip", "refused"))
        (kept,) = self.node.get(f"/v1/feed/{self.us.public.text.replace('/', '%2F')}")
        self.assertEqual((kept["sequence"], kept["chain_valid"]), (1, True))
        peer.transport.loseConnection()  # type: ignore[union-attr]
        await self.check_healthy()

    async def test_the_other_branch_of_a_fork(self) -> None:
        ours = message_of(self.us, 1, {"text": "heads"})
        other = message_of(self.us, 1, {"text": "tails"})
        after = message_of(self.us, 2, {"text": "after tails"}, other.hash)
        peer = await self.serve(self.us.public, ours.raw)
        path = f"/v1/feed/{self.us.public.text.replace('/', '%2F')}"
        await self.wait("first branch", lambda: self.node.get(path))
        peer.transport.loseConnection()  # type: ignore[union-attr]
        await self.wait("end of the link", lambda: peer.gone)

        def answer(peer: Hostile, frame: Any) -> None:
            if isinstance(frame, Note):
                for author, have, flags in frame.entries:
                    if author == self.us.public.raw and not flags & RECEIVE:
                        peer.say(Stopped([author]))
                    elif author == self.us.public.raw:
                        texts = [other.raw, after.raw][have:]
                        peer.say(Messages(author, have + 1, texts))

        second = await self.dial(Identity(self.rng.randbytes(32)), answer=answer)
        second.say(Note([(self.us.public.raw, 2, REPLICATE)]))
        # The node asks for what is before it, and so has both messages of one place.
        await self.wait("refusal", self.counted("FORK_REFUSED", "parts", "feed", "refused"))
        await self.wait(
            "proof",
            lambda: any(isinstance(frame, Proof) for frame in list(second.frames)),
        )
        self.assertNotIn("tails", [each["content"]["text"] for each in self.node.get(path)])
        second.transport.loseConnection()  # type: ignore[union-attr]
        await self.check_healthy()

    async def test_a_peer_that_goes_on_sending_rubbish_is_shut_out(self) -> None:
        texts = [b"{}"] * 101
        peer = await self.serve(self.us.public, *texts)
        await self.wait("end of the link", lambda: peer.gone)
        # It proves its key, and is not let in for a while.
        self.before = self.node.status
        await self.check_not_let_in("PEER_KEY_REFUSED", "PEER_NOT_ALLOWED")


class NetworkTests(TestCase):
    """Two nodes that cannot have each other say why."""

    timeout = 120

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    async def test_a_node_that_dials_another_network(self) -> None:
        await deferToThread(self._dial_another_network)

    def _dial_another_network(self) -> None:
        a = self.mesh.node("a").start()
        b = self.mesh.node("b", "--peer", a.address).start()
        wait_for("refusal", lambda: a.status["refused"].get("NETWORK_KEY_REFUSED"))
        (peer,) = wait_for(
            "error", lambda: [each for each in b.get("/v1/peers") if each["last_error"]]
        )
        self.assertIn("network secret", peer["last_error"])
        self.assertFalse(peer["connected"])
