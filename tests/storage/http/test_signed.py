"""Signed requests, end to end: where no channel says who is at its ends."""

from __future__ import annotations

import base64
from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    ReservationExceeded,
    ShareUnknown,
    SignatureRefused,
    SignatureRetry,
    StatementInvalid,
    StorageBusy,
    StoragePeerError,
    UploadOutOfStep,
)
from meshkit.runtime.signed.replays import AHEAD, Replays
from meshkit.runtime.signed.signatures import LIFETIME
from meshkit.runtime.signed.signing import Signatures, Signer
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.http.messages import Response, ResponseReader, encode_request
from meshkit.storage.http.server import StorageSite, storage_factory
from meshkit.storage.terms import MAX_BLOCK
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import MemoryNetwork
from tests.storage.http.peers import ANSWERS, SHARE, UPLOAD, ToldPeer
from tests.storage.http.test_conversation import all_requests

NETWORK: Final = bytes(range(16))
PORT: Final = 7671
CALLER: Final = make_identity("caller")
PATH: Final = f"/v1/uploads/{UPLOAD.hex()}/0/0"


class Raw(Protocol):
    """Sends what it is told, and keeps what comes."""

    def __init__(self) -> None:
        self.received = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Peer:
    """
    A storage peer that is reached without a channel.

    @ivar told: what it answers.
    @ivar mark: what it has on its disk.
    """

    def __init__(self, clock: Clock, name: str = "server", mark: int = 0) -> None:
        self.clock = clock
        self.identity = make_identity(name)
        self.told = ToldPeer()
        self.replays = Replays(mark)
        self.store_mark()
        self.network = MemoryNetwork(clock)
        self.site: StorageSite = storage_factory(
            clock,
            self.told.for_caller,
            self.told.record,
            signatures=Signatures(self.identity, NETWORK, self.replays, self.wall_clock),
        )
        self.network.server_endpoint(PORT).listen(self.site)

    def wall_clock(self) -> int:
        return int(self.clock.seconds() * 10**9)

    def store_mark(self) -> None:
        """As a service does it every ten seconds."""
        self.mark = self.replays.next_mark(int(self.clock.seconds()))
        self.replays.stored(self.mark)

    def signer(self, name: str = "caller", network: bytes = NETWORK, seed: int = 0) -> Signer:
        rng = Random(f"{name} {seed}")
        return Signer(make_identity(name), network, "storage.example:7671", rng, self.wall_clock)

    def client(self, signer: Signer | None = None, key: Any = None) -> HTTPStoragePeer:
        return HTTPStoragePeer(
            self.clock,
            self.network.client_endpoint(PORT),
            self.identity.public if key is None else key,
            signer=self.signer() if signer is None else signer,
        )

    def ask(self, asked: Deferred[Any], seconds: float = 0.0) -> Any:
        """@return: what comes of it."""
        outcomes: list[Any] = []
        asked.addBoth(outcomes.append)
        run_clock(self.clock, seconds)
        run_clock(self.clock, 0.0)
        (outcome,) = outcomes
        return outcome.value if isinstance(outcome, Failure) else outcome

    def send(self, raw: bytes) -> Response | None:
        """@return: the answer to bytes that somebody has made, or recorded."""
        made: list[Any] = []
        factory = Factory.forProtocol(Raw)
        self.network.client_endpoint(PORT).connect(factory).addBoth(made.append)
        run_clock(self.clock, 0.0)
        made[0].transport.write(raw)
        run_clock(self.clock, 0.0)
        return ResponseReader(MAX_BLOCK).feed(bytes(made[0].received))


def signed_put(
    peer: Peer,
    body: bytes = b"a block",
    change: Callable[[list[tuple[str, str]]], Any] = lambda headers: None,
    sent: bytes | None = None,
    signer: Signer | None = None,
) -> bytes:
    """
    @param change: of the headers, after they were signed.
    @param sent: in place of the body.
    @return: the bytes of a request.
    """
    signer = peer.signer() if signer is None else signer
    kind = "application/octet-stream"
    signed, _ = signer.sign(peer.identity.public, "PUT", PATH, kind, body)
    headers = [
        ("Host", signer.authority),
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        *signed,
    ]
    change(headers)
    return encode_request("PUT", PATH, headers) + (body if sent is None else sent)


class Signed(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.peer = Peer(self.clock)

    def _code(self, response: Response | None) -> tuple[int, str]:
        assert response is not None
        return response.status, response.body.decode()

    def _refused(self, raw: bytes) -> None:
        response = self.peer.send(raw)
        assert response is not None
        self.assertEqual(response.status, 401, response.body)
        self.assertNotIn("write", [name for _, name, _ in self.peer.told.calls])

    def test_everything_that_is_asked_is_asked_by_who_signs(self) -> None:
        client = self.peer.client()
        for name, ask in all_requests(client).items():
            self.assertEqual(self.peer.ask(ask()), ANSWERS[name], name)
        callers = [who for who, name, _ in self.peer.told.calls if name != "statement"]
        self.assertEqual(set(callers), {CALLER.public})
        self.assertEqual(self.peer.site.connections, 1)

    def test_errors_are_signed_too(self) -> None:
        client = self.peer.client()
        self.peer.told.answers["stat"] = ShareUnknown("because")
        self.assertIs(type(self.peer.ask(client.stat(SHARE))), ShareUnknown)
        self.peer.told.answers["expect"] = UploadOutOfStep("no", next_segment=3)
        error = self.peer.ask(client.write(UPLOAD, 0, 0, b"x"))
        self.assertIs(type(error), UploadOutOfStep)
        self.peer.told.answers["expect"] = ReservationExceeded("no")
        error = self.peer.ask(client.write(UPLOAD, 0, 0, b"x" * MAX_BLOCK))
        self.assertIs(type(error), ReservationExceeded)

    def test_a_good_request_is_let_in(self) -> None:
        self.assertEqual(self._code(self.peer.send(signed_put(self.peer)))[0], 200)
        who, name, arguments = self.peer.told.calls[-1]
        self.assertEqual((who, name, arguments[3]), (CALLER.public, "write", b"a block"))

    def test_a_request_that_is_not_signed_is_refused(self) -> None:
        for name in ("Signature", "Signature-Input", "Content-Digest", "Meshkit-Recipient"):

            def without(headers: list[tuple[str, str]], name: str = name) -> None:
                headers[:] = [each for each in headers if each[0] != name]

            self._refused(signed_put(self.peer, change=without))

    def test_a_header_that_is_there_twice_is_refused(self) -> None:
        for name in (
            "Signature",
            "Signature-Input",
            "Content-Digest",
            "Content-Type",
            "Host",
            "Meshkit-Recipient",
            "Meshkit-Net",
        ):

            def twice(headers: list[tuple[str, str]], name: str = name) -> None:
                headers += [each for each in headers if each[0] == name]

            self._refused(signed_put(self.peer, change=twice))

    def test_a_body_that_is_another_one_is_refused_before_it_is_used(self) -> None:
        self._refused(signed_put(self.peer, b"a block", sent=b"A block"))
        # That was of one request, which was let in, and is over.
        self.assertEqual(self._code(self.peer.send(signed_put(self.peer, b"b")))[0], 401)

    def test_who_signs_wrongly_is_refused_before_the_body(self) -> None:
        def wrong(headers: list[tuple[str, str]]) -> None:
            headers[0] = ("Host", "elsewhere.example")

        raw = signed_put(self.peer, b"x" * MAX_BLOCK, change=wrong, sent=b"")
        self._refused(raw)

    def test_a_request_that_was_made_before_is_refused(self) -> None:
        raw = signed_put(self.peer)
        self.assertEqual(self._code(self.peer.send(raw))[0], 200)
        self.peer.told.calls.clear()
        for _ in range(3):
            self._refused(raw)
        self.clock.advance(LIFETIME * 2)
        self._refused(raw)

    def test_a_request_for_one_peer_is_refused_by_another_one(self) -> None:
        other = Peer(self.clock, "other")
        raw = signed_put(other)
        self._refused(raw)
        self.assertEqual(self._code(other.send(raw))[0], 200)
        # Two peers behind one address.
        client = self.peer.client(key=other.identity.public)
        self.assertIsInstance(self.peer.ask(client.manifest(SHARE)), SignatureRefused)

    def test_a_request_of_another_network_is_refused(self) -> None:
        client = self.peer.client(self.peer.signer(network=bytes(16)))
        self.assertIsInstance(self.peer.ask(client.manifest(SHARE)), SignatureRefused)

    def test_a_clock_that_is_wrong_is_told_what_time_it_is(self) -> None:
        for error in (-100, 100):
            late = Signer(
                CALLER, NETWORK, "a", Random(1), lambda e=error: self.peer.wall_clock() + e * 10**9
            )
            refused = self.peer.ask(self.peer.client(late).manifest(SHARE))
            self.assertIsInstance(refused, SignatureRefused)
            self.assertIn("1000000", str(refused))

    def test_nothing_is_let_in_again_after_a_restart(self) -> None:
        raw = signed_put(self.peer)
        self.assertEqual(self._code(self.peer.send(raw))[0], 200)
        self.clock.advance(2)
        again = Peer(self.clock, mark=self.peer.mark)
        response = again.send(raw)
        assert response is not None
        self.assertEqual(response.status, 401)
        self.assertIn(b"SIGNATURE_RETRY", response.body)
        self.assertIn(b"1000002", response.body)
        # What is new has to wait, and is told until when.
        error = again.ask(again.client().manifest(SHARE))
        self.assertIsInstance(error, SignatureRetry)
        self.assertEqual(error.details, {"now": 1_000_002, "after": 1_000_000 + AHEAD})
        self.clock.advance(AHEAD)
        again.store_mark()
        self.assertEqual(again.ask(again.client().manifest(SHARE)), b"a manifest")

    def test_after_a_clean_stop_a_new_request_need_not_wait(self) -> None:
        self.assertEqual(self._code(self.peer.send(signed_put(self.peer)))[0], 200)
        self.peer.replays.close()
        # In the same second: the client signs for the next one.
        again = Peer(self.clock, mark=self.peer.replays.last)
        self.assertEqual(again.ask(again.client().manifest(SHARE)), b"a manifest")

    def test_a_peer_that_cannot_remember_says_so(self) -> None:
        self.clock.advance(AHEAD + 1)
        error = self.peer.ask(self.peer.client().manifest(SHARE))
        self.assertIsInstance(error, StorageBusy)

    def test_requests_of_one_key_that_are_under_way_have_a_number(self) -> None:
        self.peer.told.answers["manifest"] = Deferred()
        clients = [self.peer.client(self.peer.signer(seed=seed)) for seed in range(3)]
        outcomes: list[Any] = []
        for client in clients:
            for _ in range(4):
                client.manifest(SHARE).addBoth(outcomes.append)
        run_clock(self.clock, 0.0)
        self.assertEqual([each.type for each in outcomes], [StorageBusy] * 4)
        self.peer.told.answers["manifest"] = b"a manifest"
        other = self.peer.client(self.peer.signer("other"))
        self.assertEqual(self.peer.ask(other.manifest(SHARE)), b"a manifest")


class Answers(SynchronousTestCase):
    """Somebody is between the two, and answers in the place of the peer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)

    def _answered(self, raw: bytes) -> Any:
        class Between(Protocol):
            def dataReceived(self, data: bytes) -> None:
                transport: Any = self.transport
                transport.write(raw)

        peer = Peer(self.clock)
        network = MemoryNetwork(self.clock)
        network.server_endpoint(PORT).listen(Factory.forProtocol(Between))
        client = HTTPStoragePeer(
            self.clock, network.client_endpoint(PORT), peer.identity.public, signer=peer.signer()
        )
        return peer.ask(client.manifest(SHARE))

    def _raw(self, status: int, body: bytes, *more: str) -> bytes:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *more]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def test_an_answer_that_nobody_signs_is_none(self) -> None:
        self.assertIsInstance(self._answered(self._raw(200, b"a manifest")), StatementInvalid)

    def test_an_answer_with_another_signature_is_none(self) -> None:
        digest = base64.b64encode(sha256(b"a manifest").digest()).decode()
        answer = self._raw(
            200,
            b"a manifest",
            f"Content-Digest: sha-256=:{digest}:",
            'Signature-Input: mk=("@status")',
            "Signature: mk=:AAAA:",
        )
        self.assertIsInstance(self._answered(answer), StatementInvalid)

    def test_an_error_that_nobody_signs_has_no_meaning(self) -> None:
        body = b'{"success": false, "error": {"code": "SHARE_UNKNOWN", "message": "gone"}}'
        error = self._answered(self._raw(404, body))
        self.assertIs(type(error), StoragePeerError)
        self.assertIn("gone", str(error))

    def test_to_be_told_to_sign_again_costs_one_more_request(self) -> None:
        body = (
            b'{"success": false, "error": {"code": "SIGNATURE_RETRY", "message": "x", '
            b'"details": {"now": 1, "after": %d}}}' % 10**12
        )
        self.assertIsInstance(self._answered(self._raw(401, body)), SignatureRetry)
