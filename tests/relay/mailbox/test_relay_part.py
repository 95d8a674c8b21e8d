"""The part C{mailboxes} of a relay: settings, figures, and who may come."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import ConfigError, MailboxFull
from meshkit.interfaces import IMeshPart
from meshkit.relay.mailbox import relay_part
from meshkit.relay.mailbox.relay_part import MIGRATIONS, Config, MailboxesPart, make_part
from meshkit.relay.mailbox.store import MailboxLimits, open_mailbox
from meshkit.relay.mailbox.wire import LABEL, VERSION
from meshkit.runtime.limits import PeerBuckets
from meshkit.testing.identities import DAY_NS, make_identity
from meshkit.testing.nodes import make_context, run_clock
from tests.relay.mailbox.test_store import HOST, prekey_of, sealed

NOW = DAY_NS // 10**9
ADA, BOB = make_identity("ada"), make_identity("bob")


class ConfigTests(SynchronousTestCase):
    def test_its_defaults_are_those_of_the_store(self) -> None:
        self.assertEqual(Config().limits(), MailboxLimits())

    def test_each_setting_gets_where_it_belongs(self) -> None:
        config = Config(
            mailboxes=1,
            messages=2,
            bytes=70_000,
            from_one=3,
            of_sender=4,
            bytes_in_all=80_000,
            mailboxes_of_origin=5,
            bytes_of_origin=75_000,
        )
        self.assertEqual(config.limits(), MailboxLimits(2, 70_000, 3, 4, 1, 80_000, 5, 75_000))

    def test_one_recipient_cannot_have_more_than_all(self) -> None:
        with self.assertRaisesRegex(ConfigError, "mailboxes.bytes: 80000"):
            Config(bytes=80_000, bytes_in_all=70_000).limits()


class PartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def part(self, **settings: Any) -> MailboxesPart:
        self.context = make_context(
            self.clock, "relay", config=Config(**settings), migrations={"mailboxes": MIGRATIONS}
        )
        part = make_part(self.context)
        part.startService()
        run_clock(self.clock, 0)
        self.addCleanup(self.end, part)
        return part

    def end(self, part: MailboxesPart) -> None:
        part.stopService()
        self.context.database.stopService()
        run_clock(self.clock, 60)

    def wait(self, deferred: Deferred[Any]) -> Any:
        run_clock(self.clock, 0)
        return self.successResultOf(deferred)

    def test_it_is_a_part_that_serves_the_label(self) -> None:
        part = self.part()
        verifyObject(IMeshPart, part)
        self.assertEqual(list(part.capabilities()), [(LABEL, VERSION)])

    def test_who_was_banned_does_not_come_in(self) -> None:
        part = self.part()
        self.assertTrue(part.authorize(ADA.public, LABEL))
        self.context.peers.ledger.ban(ADA.public, 60.0)
        self.assertFalse(part.authorize(ADA.public, LABEL))
        self.assertTrue(part.authorize(BOB.public, LABEL))

    def test_nobody_comes_in_when_it_is_stopped(self) -> None:
        part = self.part()
        part.stopService()
        self.assertFalse(part.authorize(ADA.public, LABEL))
        self.assertEqual([each for each in self.clock.getDelayedCalls() if each.active()], [])

    def test_the_limits_are_those_of_the_settings(self) -> None:
        part = self.part(from_one=2)
        self.wait(part._store.open(prekey_of(BOB, NOW), HOST))
        for number in (1, 2):
            self.wait(part._store.deposit(ADA.public, HOST, BOB.public, sealed(number), NOW, 60))
        refused = part._store.deposit(ADA.public, HOST, BOB.public, sealed(3), NOW, 60)
        run_clock(self.clock, 0)
        self.failureResultOf(refused, MailboxFull)

    def test_calls_and_bytes_are_paid_from_one_bucket(self) -> None:
        part = self.part(rate=7.0, burst=90)
        buckets = part.server._buckets
        assert isinstance(buckets, PeerBuckets)
        self.assertIs(part._factory._buckets, buckets)
        self.assertEqual((buckets._rate, buckets._burst), (7.0, 90))

    def test_what_is_over_is_deleted_and_what_is_there_is_counted(self) -> None:
        part = self.part()
        self.wait(part._store.open(prekey_of(BOB, NOW), HOST))
        self.wait(part._store.deposit(ADA.public, HOST, BOB.public, sealed(1), NOW, 60))
        run_clock(self.clock, relay_part._COUNT)
        status = part.status()
        self.assertEqual((status.mailboxes, status.messages, status.bytes), (1, 1, 256))
        run_clock(self.clock, relay_part._SWEEP + relay_part._COUNT)
        self.assertEqual(part.status().messages, 0)

    def test_when_the_database_is_gone_it_says_so_and_goes_on(self) -> None:
        part = self.part()

        def break_it(db: Any) -> None:
            db.execute("DROP TABLE mailbox_totals")

        self.wait(self.context.database.write(break_it))
        run_clock(self.clock, 2 * relay_part._COUNT + 1)
        # What SQLite says of a table that is gone is a fault, and is logged as one.
        self.assertGreaterEqual(len(self.flushLoggedErrors()), 2)
        self.assertIn("count", part._timers)

    def test_who_has_a_mailbox_and_who_waits_are_told_apart(self) -> None:
        part = self.part()
        self.wait(
            self.context.database.write(
                lambda db: open_mailbox(db, prekey_of(BOB, NOW), HOST, MailboxLimits())
            )
        )
        run_clock(self.clock, relay_part._COUNT)
        self.assertEqual((part.status().mailboxes, part.status().online), (1, 0))
