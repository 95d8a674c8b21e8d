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

    # --- what is heard ---

    def heard(self) -> list[tuple[MeshAddress, str]]:
        return [(entry.address, entry.source) for entry in self.book.entries()]

    def test_what_is_heard_is_dialled_for_as_long_as_it_is(self) -> None:
        self.book.hear("lan", [address(2), address(1)])
        self.assertEqual(self.heard(), [(address(1), "lan"), (address(2), "lan")])
        self.book.hear("lan", [address(2), address(3)])
        self.assertEqual(self.book.dialable(), [address(2), address(3)])
        self.assertEqual(self.open().dialable(), [])
        self.book.hear("lan", [])
        self.assertEqual(self.book.dialable(), [])

    def test_nobody_has_named_what_is_heard(self) -> None:
        self.done(self.book.add(address(1)))
        self.book.hear("lan", [address(1), address(2)])
        self.assertEqual(self.book.named(), [address(1)])

    def test_who_watches_is_told_of_news_only(self) -> None:
        self.book.hear("lan", [address(1)])
        before = self.changes
        self.book.hear("lan", [address(1)])
        self.assertEqual(self.changes, before)
        self.book.hear("lan", [address(2)])
        self.assertEqual(self.changes, before + 1)

    def test_what_is_known_of_an_address_stays_as_long_as_it_is_heard(self) -> None:
        self.book.hear("lan", [address(1)])
        self.book.note_failed(address(1), PeerTooSlow("too slow"))
        self.book.hear("lan", [address(1), address(2)])
        self.assertEqual(self.book.entries()[0].failures, 1)
        self.book.hear("lan", [])
        self.book.hear("lan", [address(1)])
        self.assertEqual(self.book.entries()[0].failures, 0)

    def test_what_the_operator_has_named_stays_as_it_is(self) -> None:
        book = self.book = self.open(address(3))
        self.done(book.add(address(1)))
        book.hear("lan", [address(1), address(3)])
        named = [(address(1), "manual"), (address(3), "config")]
        self.assertEqual(self.heard(), named)
        book.hear("lan", [])
        self.assertEqual(self.heard(), named)

    def test_what_is_heard_can_be_added_to_stay(self) -> None:
        self.book.hear("lan", [address(1)])
        self.book.note_failed(address(1), PeerTooSlow("too slow"))
        entry = self.done(self.book.add(address(1)))
        self.assertEqual((entry.source, entry.failures), ("manual", 1))
        self.book.hear("lan", [])
        self.assertEqual(self.heard(), [(address(1), "manual")])
        self.assertEqual(self.open().dialable(), [address(1)])

    def test_what_is_removed_is_dialled_if_it_is_heard(self) -> None:
        self.book.hear("lan", [address(1)])
        self.done(self.book.add(address(1)))
        self.done(self.book.remove(address(1)))
        self.assertEqual(self.heard(), [(address(1), "lan")])
        self.assertIn("lan", self.failed(self.book.remove(address(1)), ConfigError))
        self.book.hear("lan", [])
        self.failed(self.book.remove(address(1)), NotFound)

    def test_sources_do_not_speak_for_each_other(self) -> None:
        self.book.hear("lan", [address(1), address(2)])
        self.book.hear("other", [address(2), address(3)])
        self.book.hear("lan", [])
        self.assertEqual(self.heard(), [(address(2), "other"), (address(3), "other")])

    def test_only_so_much_is_heard(self) -> None:
        self.patch(under_test, "MAX_HEARD", 3)
        self.book.hear("lan", [address(n) for n in (5, 4, 3, 2, 1)])
        self.assertEqual(self.book.dialable(), [address(1), address(2), address(3)])

    def test_a_pin_is_no_matter_of_what_is_heard(self) -> None:
        place, other = address(1), MeshAddress("10.0.0.1", 7655, make_identity(2).public)
        self.book.hear("lan", [place, other])
        self.assertEqual(self.done(self.book.add_pinned(place)).pin.key, place.key)
        self.assertEqual(dict(self.heard()), {place: "manual", other: "lan"})
        self.done(self.book.repin(other))
        self.assertEqual(dict(self.heard()), {place: "lan", other: "manual"})

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


class Links(Book):
    """Who watches what becomes of addresses."""

    def test_each_change_is_told(self) -> None:
        self.done(self.book.add(address(1)))
        seen: list[tuple[str, bool, int]] = []
        self.book.watch_links(
            lambda entry: seen.append((entry.address.host, entry.connected, entry.failures))
        )
        self.book.note_connected(address(1))
        self.book.note_disconnected(address(1))
        self.book.note_failed(address(1), PeerTooSlow("it did not answer"))
        # Who is not in the book is nobody's business.
        self.book.note_connected(address(2))
        self.assertEqual(
            seen, [("10.0.0.1", True, 0), ("10.0.0.1", False, 0), ("10.0.0.1", False, 1)]
        )

    def test_a_connection_is_a_sign_of_the_peer(self) -> None:
        self.done(self.book.add(address(1)))
        self.book.ledger.missed(address(1).key, 3, True)
        self.assertEqual(self.book.ledger.suspects(), 1)
        self.book.note_connected(address(1))
        account = self.book.ledger.account(address(1).key)
        self.assertEqual((account.missed, account.suspect, account.heard_ns), (0, False, 7))
        self.assertEqual(self.book.ledger.suspects(), 0)
