"""What the tests of this folder share."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import part as feed_part
from meshkit.hooks import part as hooks_part
from meshkit.interfaces import Arrival, IFeedStore, StoredMessage
from meshkit.testing.nodes import make_context, run_clock


def make_arrival(
    *,
    position: int = 7,
    author: bytes = b"a" * 32,
    content_type: str | None = "note",
    tags: tuple[str, ...] = (),
    raw: bytes = b'{"author":"x","content":1}',
) -> Arrival:
    """A message as the store hands it out."""
    message = StoredMessage(position, author, 3, b"h" * 32, content_type, tags, raw)
    return Arrival(message, True, raw[:-1] + b',"chain_valid":true}')


class PartCase(SynchronousTestCase):
    """A feed and hooks on one clock, in one database that outlives them."""

    config: Any = hooks_part.Config()

    def setUp(self) -> None:
        self.clock = Clock()
        self.backing: Any = None
        self.open()

    def open(self) -> None:
        """A node is started, with what an earlier one has left."""
        migrations = {"feed": feed_part.MIGRATIONS, "hooks": hooks_part.MIGRATIONS}
        context = make_context(
            self.clock,
            "me",
            config=feed_part.Config(retention_expiry=False),
            migrations=migrations,
            backing=self.backing,
        )
        self.context = context
        self.backing = context.database._backing
        self.feed = feed_part.make_part(context)
        self.done(self.feed.startService())

    def close(self) -> None:
        self.done(self.feed.stopService())
        self.done(self.context.database.stopService())

    def tearDown(self) -> None:
        self.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.backing.close()

    def done(self, result: Any) -> Any:
        """What a Deferred or a coroutine gives in the end."""
        if not isinstance(result, Deferred):
            result = Deferred.fromCoroutine(result)
        run_clock(self.clock)
        return self.successResultOf(result)

    def publish(self, *contents: Any, **fields: Any) -> list[bytes]:
        return [self.done(self.feed.publish(content, **fields)).raw for content in contents]

    def run_for(self, seconds: float = 0.0) -> None:
        run_clock(self.clock, seconds)

    @property
    def store(self) -> IFeedStore:
        return self.feed
