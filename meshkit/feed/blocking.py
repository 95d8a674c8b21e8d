"""Whom this node has blocked: told by the configuration, and by operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from meshkit.errors import InvalidRequest, SelectionConfigured
from meshkit.feed import operations as offered
from meshkit.feed import store
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import BlocksChanged
from meshkit.operations import Nothing
from meshkit.parts import shield

#: How many keys may be blocked.
MAX_BLOCKS: Final = 10_000


class Blocks:
    """For the reactor's thread alone."""

    def __init__(
        self,
        database: Any,
        wall_clock: Callable[[], int],
        own: PublicKey,
        configured: Sequence[PublicKey],
        publish: Callable[[BlocksChanged], None],
    ) -> None:
        """
        @param database: L{meshkit.runtime.database.Database}.
        @param wall_clock: nanoseconds since 1970.
        @param own: this node's key.
        @param configured: whom the configuration blocks.
        @param publish: tells the event.
        """
        self._database = database
        self._wall_clock = wall_clock
        self._own = own
        self._configured = [key.raw for key in configured]
        self._publish = publish
        # Whether it is in the configuration.
        self._blocked: dict[bytes, bool] = {}

    async def load(self) -> None:
        """Read how things stand.  Nothing else is called before this is done."""
        now_ns = self._wall_clock()
        self._blocked = dict(
            await self._database.write(
                lambda connection: store.configure_blocks(connection, self._configured, now_ns)
            )
        )

    def __contains__(self, author: bytes) -> bool:
        return author in self._blocked

    def __len__(self) -> int:
        return len(self._blocked)

    def answer_list(self, request: Nothing) -> list[offered.Blocked]:
        return [
            offered.Blocked(PublicKey(key).text, "config" if configured else "added")
            for key, configured in sorted(self._blocked.items())
        ]

    def answer_block(self, request: offered.Block) -> Deferred[offered.Blocked]:
        return shield(self._block(PublicKey.parse(request.author)))

    async def _block(self, author: PublicKey) -> offered.Blocked:
        key = author.raw
        if key == self._own.raw:
            raise InvalidRequest("this node's own feed cannot be blocked", field="author")
        if key not in self._blocked:
            if len(self._blocked) >= MAX_BLOCKS:
                raise InvalidRequest(
                    f"{MAX_BLOCKS} authors are blocked, and no more can be: a network key that "
                    f"they do not have keeps them all out (meshkit network rotate)",
                    field="author",
                )
            now_ns = self._wall_clock()
            await self._database.write(lambda connection: store.block(connection, key, now_ns))
            self._blocked.setdefault(key, False)
            self._publish(BlocksChanged(key, blocked=True))
        return offered.Blocked(author.text, "config" if self._blocked[key] else "added")

    def answer_unblock(self, request: offered.Block) -> Deferred[None]:
        return shield(self._unblock(PublicKey.parse(request.author)))

    async def _unblock(self, author: PublicKey) -> None:
        key = author.raw
        if self._blocked.get(key):
            raise SelectionConfigured(
                f"{author.text} is blocked by the setting feed.block: remove it there and start "
                f"the node again"
            )
        if key in self._blocked:
            await self._database.write(lambda connection: store.unblock(connection, key))
            self._blocked.pop(key, None)
            self._publish(BlocksChanged(key, blocked=False))
