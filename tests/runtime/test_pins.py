"""Tests of the pins of L{meshkit.runtime.peers}: keys that were first seen at an address."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    HandshakeTimeout,
    NetworkKeyRefused,
    Overloaded,
    PeerKeyChanged,
    PeerKeyRefused,
)
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.runtime import peers as under_test
from meshkit.runtime.peers import BY_HAND, FIRST_USE, PeerBook, PeerEntry
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import make_context, run_clock

ANN, BEN = make_identity("ann").public, make_identity("ben").public


def place(number: int = 1) -> HostPort:
    return HostPort(f"10.0.0.{number}", 7655)


def address(key: Any = ANN, number: int = 1) -> MeshAddress:
    return MeshAddress(place(number).host, place(number).port, key)


class Pins(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.context = make_context(self.clock)
        self.addCleanup(self.stop)
        self.now = 7
        self.book = self.open()

    def stop(self) -> None:
        self.context.database.stopService()
        run_clock(self.clock)

    def open(self, *bare: HostPort) -> PeerBook:
        """A book as it is after a start."""
        book = PeerBook(self.context.database, lambda: self.now)
        book.configure_bare(bare)
        self.done(book.load())
        return book

    def done(self, waiting: Deferred[Any]) -> Any:
        run_clock(self.clock)
        return self.successResultOf(waiting)

    def failed(self, waiting: Deferred[Any], error: type[Exception]) -> str:
        run_clock(self.clock)
        return str(self.failureResultOf(waiting, error).value)

    def check(self, book: PeerBook, key: Any, how: str, source: str = "manual") -> None:
        (entry,) = book.entries()
        assert entry.pin is not None
        self.assertEqual((entry.address, entry.source), (address(key), source))
        self.assertEqual((entry.pin.key, entry.pin.how), (key, how))

    def test_the_first_key_is_pinned_with_its_time_now_and_after_a_start(self) -> None:
        entry = self.done(self.book.add_pinned(address()))
        self.assertEqual(entry.pin.pinned_ns, 7)
        for book in (self.book, self.open()):
            self.check(book, ANN, FIRST_USE)
            self.assertEqual(book.find(place()), address())

    def test_another_key_is_refused_with_both_in_the_message(self) -> None:
        self.done(self.book.add_pinned(address()))
        for book in (self.book, self.open()):
            for add in (book.add_pinned, book.add):
                message = self.failed(add(address(BEN)), PeerKeyChanged)
                self.assertIn(ANN.text, message)
                self.assertIn(BEN.text, message)
                self.assertIn("meshkit peer repin 10.0.0.1:7655", message)
            self.check(book, ANN, FIRST_USE)

    def test_a_pin_outlives_its_address(self) -> None:
        self.done(self.book.add_pinned(address()))
        self.done(self.book.remove(address()))
        for book in (self.book, self.open()):
            self.assertEqual((book.entries(), book.find(place())), ([], None))
            self.failed(book.add_pinned(address(BEN)), PeerKeyChanged)
        self.done(self.book.add_pinned(address()))
        self.check(self.open(), ANN, FIRST_USE)

    def test_adding_it_again_changes_nothing(self) -> None:
        first = self.done(self.book.add_pinned(address()))
        self.now = 8
        self.assertIs(self.done(self.book.add_pinned(address())), first)
        self.assertEqual(self.book.entries(), [first])
        self.assertEqual(first.pin.pinned_ns, 7)

    def test_two_answers_at_the_same_moment(self) -> None:
        one, two = self.book.add_pinned(address()), self.book.add_pinned(address(BEN))
        run_clock(self.clock)
        self.successResultOf(one)
        self.assertIn(ANN.text, self.failed(two, PeerKeyChanged))
        for book in (self.book, self.open()):
            self.check(book, ANN, FIRST_USE)

    def test_an_address_that_was_given_whole_is_not_pinned(self) -> None:
        entry = self.done(self.book.add(address()))
        self.assertIsNone(entry.pin)
        self.assertIsNone(self.book.pin(place()))

    def test_repinning_replaces_key_and_address(self) -> None:
        self.done(self.book.add_pinned(address()))
        self.now = 9
        self.assertEqual(self.done(self.book.repin(address(BEN))), ANN)
        for book in (self.book, self.open()):
            self.check(book, BEN, BY_HAND)
        pin = self.book.pin(place())
        assert pin is not None
        self.assertEqual(pin.pinned_ns, 9)

    def test_repinning_the_same_key_makes_it_by_hand(self) -> None:
        self.done(self.book.add_pinned(address()))
        self.assertEqual(self.done(self.book.repin(address())), ANN)
        for book in (self.book, self.open()):
            self.check(book, ANN, BY_HAND)

    def test_repinning_what_was_not_pinned(self) -> None:
        self.assertIsNone(self.done(self.book.repin(address())))
        self.assertEqual(self.book.entries(), [])
        self.failed(self.open().add_pinned(address(BEN)), PeerKeyChanged)

    def test_a_configured_place_is_unknown_until_it_is_pinned(self) -> None:
        book = self.open(place(), place(2))
        self.assertEqual([each.place for each in book.unknown()], [place(), place(2)])
        self.assertEqual(book.dialable(), [])
        self.done(book.add_pinned(address()))
        self.check(book, ANN, FIRST_USE, "config")
        self.assertEqual([each.place for each in book.unknown()], [place(2)])
        again = self.open(place(), place(2))
        self.check(again, ANN, FIRST_USE, "config")
        # It is there because it is configured, not because it was added.
        self.assertEqual(self.open().entries(), [])

    def test_repinning_a_configured_place(self) -> None:
        book = self.open(place())
        self.done(book.repin(address()))
        self.check(book, ANN, BY_HAND, "config")
        self.done(book.repin(address(BEN)))
        self.check(book, BEN, BY_HAND, "config")
        self.check(self.open(place()), BEN, BY_HAND, "config")

    def test_who_does_not_tell_is_noted(self) -> None:
        (unknown,) = self.open(place()).unknown()
        unknown.note_failed(HandshakeTimeout("too slow"))
        self.assertEqual((unknown.failures, unknown.last_error), (1, "HANDSHAKE_TIMEOUT: too slow"))

    def test_a_refused_key_is_reported_only_where_it_is_pinned(self) -> None:
        told: list[PeerEntry] = []
        pinned = self.done(self.book.add_pinned(address()))
        self.done(self.book.add(address(BEN, 2)))
        self.book.note_failed(address(), PeerKeyRefused("no"))  # nobody is there to tell
        self.book.on_key_refused = told.append
        self.book.note_failed(address(BEN, 2), PeerKeyRefused("no"))
        self.book.note_failed(address(), NetworkKeyRefused("no"))
        self.assertEqual(told, [])
        self.book.note_failed(address(), PeerKeyRefused("no"))
        self.assertEqual(told, [pinned])
        self.book.note_changed(pinned, PeerKeyChanged("both keys"))
        self.assertEqual(pinned.last_error, "PEER_KEY_CHANGED: both keys")

    def test_the_number_of_pins_is_limited_and_unused_ones_make_room(self) -> None:
        self.assertEqual(under_test.MAX_PINS, 2_000)
        self.patch(under_test, "MAX_PINS", 2)
        self.done(self.book.add_pinned(address(ANN, 1)))
        self.done(self.book.add_pinned(address(ANN, 2)))
        self.assertIn("2 addresses", self.failed(self.book.add_pinned(address(ANN, 3)), Overloaded))
        self.assertEqual(len(self.open().entries()), 2)
        self.done(self.book.remove(address(ANN, 1)))
        self.done(self.book.add_pinned(address(ANN, 3)))
        for book in (self.book, self.open()):
            self.assertIsNone(book.pin(place(1)))
            self.assertIsNotNone(book.pin(place(2)))
            self.assertIsNotNone(book.pin(place(3)))

    def test_who_hangs_up_leaves_memory_and_disk_alike(self) -> None:
        for steps in range(2):
            for change in (self.book.add_pinned, self.book.repin):
                waiting: Deferred[Any] = change(address())
                waiting.addErrback(lambda failure: None)
                for _ in range(steps):
                    if self.clock.calls:
                        self.clock.calls.pop(0).func()
                waiting.cancel()
                run_clock(self.clock)
                self.assertEqual(self.book.pin(place()), self.open().pin(place()))
                self.assertEqual(self.book.dialable(), self.open().dialable())
