"""What is asked over a secure channel, and answered."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    ObjectNotPlaced,
    ShareUnknown,
    StoragePeerError,
    StoragePeerSilent,
    UploadOutOfStep,
)
from meshkit.storage.encoding import Piece
from meshkit.storage.http.wire import MAX_BRANCH
from meshkit.storage.terms import MAX_BLOCK, Reservation
from meshkit.testing.identities import make_identity
from tests.storage.http.peers import ANSWERS, SECRET, SHARE, UPLOAD, serve


def all_requests(client: Any) -> dict[str, Any]:
    """@return: a request of each kind."""
    return {
        "statement": lambda: client.statement(),
        "reserve": lambda: client.reserve(UPLOAD, 254, 2**40, SECRET, repair=True),
        "write": lambda: client.write(UPLOAD, 0, 2**32 - 1, b"\x00\xffblock"),
        "close": lambda: client.close(UPLOAD, 7, b"manifest"),
        "abort": lambda: client.abort(UPLOAD, 7),
        "stat": lambda: client.stat(SHARE),
        "manifest": lambda: client.manifest(SHARE),
        "read": lambda: client.read(SHARE, 9),
        "renew": lambda: client.renew(SHARE, SECRET),
        "release": lambda: client.release(SHARE, SECRET),
    }


def _kinds(base: type[StoragePeerError]) -> list[type[StoragePeerError]]:
    """@return: all errors that a storage peer may say of itself."""
    # These are what a client says.
    found = [] if base in (StoragePeerError, ObjectNotPlaced, StoragePeerSilent) else [base]
    for kind in base.__subclasses__():
        found += _kinds(kind)
    return found


class Conversation(SynchronousTestCase):
    def test_everything_that_is_asked_reaches_the_peer_and_is_answered(self) -> None:
        served = serve()
        for name, ask in all_requests(served.client).items():
            self.assertEqual(served.ask(ask()), ANSWERS[name], name)
        caller = make_identity("client").public
        self.assertEqual(
            served.told.calls,
            [
                (None, "statement", ()),
                (caller, "reserve", (UPLOAD, 254, 2**40, SECRET, True)),
                (caller, "expect", (UPLOAD, 0, 2**32 - 1, 7)),
                (caller, "write", (UPLOAD, 0, 2**32 - 1, b"\x00\xffblock")),
                (caller, "close", (UPLOAD, 7, b"manifest")),
                (caller, "abort", (UPLOAD, 7)),
                (caller, "stat", (SHARE,)),
                (caller, "manifest", (SHARE,)),
                (caller, "read", (SHARE, 9)),
                (caller, "renew", (SHARE, SECRET)),
                (caller, "release", (SHARE, SECRET)),
            ],
        )

    def test_one_connection_serves_them_all(self) -> None:
        served = serve()
        for ask in all_requests(served.client).values():
            served.ask(ask())
        self.assertEqual(served.site.connections, 1)
        self.assertEqual(len(served.network.wires), 1)

    def test_the_largest_block_goes_there_and_back(self) -> None:
        served = serve()
        block = bytes(range(256)) * (MAX_BLOCK // 256)
        self.assertIsNone(served.ask(served.client.write(UPLOAD, 1, 2, memoryview(block))))
        self.assertEqual(served.told.calls[-1][2], (UPLOAD, 1, 2, block))
        served.told.answers["read"] = Piece(memoryview(block), [b"h" * 32] * MAX_BRANCH)
        piece = served.ask(served.client.read(SHARE, 2))
        self.assertEqual(bytes(piece.block), block)
        self.assertEqual(list(piece.branch), [b"h" * 32] * MAX_BRANCH)

    def test_an_empty_block_is_one(self) -> None:
        served = serve()
        self.assertIsNone(served.ask(served.client.write(UPLOAD, 1, 2, b"")))
        self.assertEqual(served.told.calls[-1][2], (UPLOAD, 1, 2, b""))

    def test_bytes_may_come_one_at_a_time(self) -> None:
        served = serve(chunk=lambda _: 1)
        for name, ask in all_requests(served.client).items():
            self.assertEqual(served.ask(ask()), ANSWERS[name], name)

    def test_every_error_of_a_storage_peer_reaches_who_asked(self) -> None:
        served = serve()
        for kind in _kinds(StoragePeerError):
            details = {"next_segment": 1} if kind is UploadOutOfStep else {}
            served.told.answers["stat"] = kind("because", **details)
            error = served.ask(served.client.stat(SHARE))
            self.assertIs(type(error), kind)
            self.assertIn("because", str(error))
            self.assertIn(served.client.key.text, str(error))

    def test_who_is_out_of_step_is_told_where_to_go_on(self) -> None:
        served = serve()
        served.told.answers["write"] = UploadOutOfStep("no", next_segment=41)
        error = served.ask(served.client.write(UPLOAD, 0, 1, b"x"))
        self.assertIs(type(error), UploadOutOfStep)
        self.assertEqual(error.next_segment, 41)

    def test_a_mistake_of_the_peer_is_told_without_its_insides(self) -> None:
        served = serve()
        served.told.answers["stat"] = RuntimeError("the password is 1234")
        error = served.ask(served.client.stat(SHARE))
        self.assertIs(type(error), StoragePeerError)
        self.assertNotIn("1234", str(error))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_an_answer_that_never_comes_costs_one_deadline(self) -> None:
        served = serve()
        for name in ("stat", "reserve"):
            served.told.answers[name] = Deferred()
        asked = [served.client.stat(SHARE), served.client.reserve(UPLOAD, 1, 2, SECRET)]
        outcomes: list[Any] = []
        for each in asked:
            each.addErrback(lambda failure: outcomes.append(failure.type))
        served.run(29)
        self.assertEqual(outcomes, [])
        served.run(1.1)
        self.assertEqual(outcomes, [StoragePeerSilent, StoragePeerSilent])
        served.run(20)
        self.assertEqual(served.site.connections, 0)

    def test_the_peer_is_told_when_nobody_waits_any_more(self) -> None:
        served = serve()
        cancelled: list[object] = []
        served.told.answers["stat"] = Deferred(cancelled.append)
        asked = served.client.stat(SHARE)
        served.run()
        self.assertEqual(cancelled, [])
        asked.addErrback(lambda _: None)
        asked.cancel()
        served.run()
        self.assertEqual(len(cancelled), 1)

    def test_after_an_error_the_connection_is_used_again(self) -> None:
        served = serve()
        served.told.answers["stat"] = ShareUnknown()
        served.ask(served.client.stat(SHARE))
        self.assertEqual(served.ask(served.client.manifest(SHARE)), b"a manifest")
        self.assertEqual(len(served.network.wires), 1)

    def test_requests_at_once_have_connections_of_their_own_up_to_four(self) -> None:
        served = serve()
        waiting: list[Deferred[Any]] = []

        def later(*_: Any) -> Any:
            waiting.append(Deferred())
            return waiting[-1]

        served.told.reserve = later  # type: ignore[method-assign]
        served.site.gate._for_caller = lambda key: served.told
        outcomes: list[Any] = []
        for number in range(6):
            served.client.reserve(UPLOAD, number, 2, SECRET).addBoth(outcomes.append)
        served.run()
        self.assertEqual((len(waiting), served.site.connections), (4, 4))
        for each in list(waiting):
            each.callback(Reservation(0, 2, 3))
        served.run()
        self.assertEqual((len(waiting), len(outcomes), served.site.connections), (6, 4, 4))
        for each in waiting[4:]:
            each.callback(Reservation(0, 2, 3))
        served.run()
        self.assertEqual(len(outcomes), 6)
