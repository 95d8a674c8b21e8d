"""Tests of L{meshkit.runtime.peers}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import ConfigError, NotFound, NotReady, Overloaded, PeerTooSlow
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import IPeerBook
from meshkit.runtime import peers as under_test
from meshkit.runtime.peers import PeerBook
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import make_context, run_clock


def address(number: int) -> MeshAddress:
    return MeshAddress(f"10.0.0.{number}", 7655, make_identity(number).public)


class Book(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.context = make_context(self.clock)
        self.addCleanup(self.stop)
        self.changes = 0
        self.book = self.open()

    def stop(self) -> None:
        self.context.database.stopService()
        run_clock(self.clock)

    def open(self, *configured: MeshAddress) -> PeerBook:
        """A book as it is after a start."""
        book = PeerBook(self.context.database, lambda: 7)
        book.watch(self.changed)
        book.configure(configured)
        self.done(book.load())
        return book

    def changed(self) -> None:
        self.changes += 1

    def done(self, waiting: Deferred[Any]) -> Any:
        run_clock(self.clock)
        return self.successResultOf(waiting)

    def failed(self, waiting: Deferred[Any], error: type[Exception]) -> str:
        run_clock(self.clock)
        return str(self.failureResultOf(waiting, error).value)

    def test_it_is_a_peer_book(self) -> None:
        verifyObject(IPeerBook, self.book)

    def test_what_is_added_is_there_now_and_after_a_start(self) -> None:
        entry = self.done(self.book.add(address(2)))
        self.done(self.book.add(address(1)))
        self.assertEqual((entry.address, entry.source), (address(2), "manual"))
        for book in (self.book, self.open()):
            self.assertEqual(book.dialable(), [address(1), address(2)])

    def test_it_is_there_only_when_it_is_on_the_disk(self) -> None:
        waiting = self.book.add(address(1))
        self.assertNoResult(waiting)
        self.assertEqual(self.book.dialable(), [])
        self.done(waiting)

    def test_who_watches_is_told(self) -> None:
        before = self.changes
        self.done(self.book.add(address(1)))
        self.assertEqual(self.changes, before + 1)
        self.done(self.book.add(address(1)))
        self.assertEqual(self.changes, before + 1)
        self.done(self.book.remove(address(1)))
        self.assertEqual(self.changes, before + 2)

    def test_adding_twice_is_adding_once(self) -> None:
        one, two = self.book.add(address(1)), self.book.add(address(1))
        entry = self.done(one)
        self.assertIs(self.done(two), entry)
        self.assertIs(self.done(self.book.add(address(1))), entry)
        self.done(self.book.remove(address(1)))
        self.assertEqual(self.open().dialable(), [])

    def test_what_is_removed_stays_removed(self) -> None:
        self.done(self.book.add(address(1)))
        self.done(self.book.remove(address(1)))
        self.assertEqual((self.book.dialable(), self.open().dialable()), ([], []))
        self.assertIn(address(1).text, self.failed(self.book.remove(address(1)), NotFound))

    def test_configured_addresses(self) -> None:
        self.done(self.book.add(address(1)))
        book = self.open(address(1), address(3))
        self.assertEqual(
            [(entry.address, entry.source) for entry in book.entries()],
            [(address(1), "config"), (address(3), "config")],
        )

    def test_a_configured_address_is_not_removed_for_a_while_only(self) -> None:
        book = self.open(address(3))
        message = self.failed(book.remove(address(3)), ConfigError)
        self.assertIn("'peers'", message)
        self.assertEqual(book.dialable(), [address(3)])

    def test_the_number_of_addresses_is_limited(self) -> None:
        self.patch(under_test, "MAX_ADDED", 3)
        book = self.open(*(address(n) for n in range(100, 110)))  # these do not count
        waiting = [book.add(address(n)) for n in range(4)]  # all at the same moment
        run_clock(self.clock)
        for each in waiting[:3]:
            self.successResultOf(each)
        self.assertIn("3 addresses", self.failed(waiting[3], Overloaded))
        self.done(book.remove(address(0)))
        self.done(book.add(address(3)))

    def test_who_hangs_up_leaves_memory_and_disk_alike(self) -> None:
        for steps in range(2):
            for change in (self.book.add, self.book.remove):
                waiting = change(address(1))
                waiting.addErrback(lambda failure: None)
                for _ in range(steps):  # the disk is at work
                    self.clock.calls.pop(0).func()
                self.assertFalse(waiting.called)
                waiting.cancel()
                run_clock(self.clock)
                self.assertEqual(self.book.dialable(), self.open().dialable())

    def test_what_cannot_be_stored_is_not_added(self) -> None:
        self.stop()
        self.failed(self.book.add(address(1)), NotReady)
        self.assertEqual(self.book.dialable(), [])

    def test_what_happens_with_an_address_is_noted(self) -> None:
        entry = self.done(self.book.add(address(1)))
        self.book.note_failed(address(1), PeerTooSlow("too slow"))
        self.book.note_failed(address(1), ConnectionRefusedError("refused"))
        self.assertEqual(
            (entry.connected, entry.failures, entry.last_error),
            (
                False,
                2,
                "PEER_UNREACHABLE: 10.0.0.1:7655 cannot be reached (refused): check the "
                "address, and that the node there is running",
            ),
        )
        self.book.note_connected(address(1))
        self.assertEqual(
            (entry.connected, entry.failures, entry.last_error, entry.last_connected_ns),
            (True, 0, None, 7),
        )
        self.book.note_disconnected(address(1))
        self.assertEqual((entry.connected, entry.last_connected_ns), (False, 7))
        self.book.note_failed(address(1), PeerTooSlow("too slow"))
        self.assertEqual(entry.last_error, "PEER_TOO_SLOW: too slow")

    def test_notes_on_what_is_not_there_are_ignored(self) -> None:
        self.book.note_connected(address(1))
        self.book.note_disconnected(address(1))
        self.book.note_failed(address(1), PeerTooSlow())
        self.assertEqual(self.book.entries(), [])
