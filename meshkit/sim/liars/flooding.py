"""
Who has others keep more than they can.

B{On the wire.}  It has all in its table keep records, more than it is granted, of owners that
it has just made.  Ways:

  - C{keys}: each at a key of its own;
  - C{key}: all at one key;
  - C{large}: of 32 KiB each.

B{What honest nodes must do.}  Refuse what is more than 100 calls a minute (C{OVER_RATE}), and
more than their quotas, and hang up on who goes on; hold 1,000 records at a key and 20,000 in
all; and lose nothing of those with whom they have a history.
"""

from __future__ import annotations

from typing import ClassVar, Final

from meshkit.identity.keys import Identity
from meshkit.kademlia.distance import record_key
from meshkit.kademlia.records import Record
from meshkit.kademlia.wire import Store
from meshkit.sim.liars.hashing import HashLiar

__all__ = ["Flooding"]

_HOUR_MS: Final = 3_600_000
#: Calls to each node at a time, and nodes at a time.
_CALLS: Final = 12
_NODES: Final = 3


class Flooding(HashLiar):
    """
    See the module.

    @cvar topic: that at whose key it brings so many.
    """

    kind: ClassVar[str] = "flooding"
    ways: tuple[str, ...] = ("keys", "key", "large")
    topic: ClassVar[bytes] = b"topic 0"

    def act(self) -> None:
        super().act()
        if not self.node.running:
            return
        contacts = list(self.node.table)
        self.rng.shuffle(contacts)
        for contact in contacts[:_NODES]:
            way = self.next_way()
            self.lied(way)
            # Many of them are sent again and again: it is the others who have to verify.
            made = [self._record(way) for _ in range(2 if way == "large" else 4)]
            for _ in range(_CALLS):
                store = Store([self.rng.choice(made).raw])
                self.node.client.store(contact, store).addErrback(lambda _: None)

    def _record(self, way: str) -> Record:
        # Where others publish, too.
        name = self.topic if way == "key" else self.rng.randbytes(8)
        large = way == "large"
        owner = Identity(self.rng.randbytes(32))
        salt = self.rng.randbytes(4) if large else b""
        kind = "mutable" if large else "topic"
        key = record_key(kind, owner.public.raw + salt if large else name)
        return Record.seal(
            owner,
            self.network,
            kind,
            key,
            bytes(32 * 1024) if large else self.mark().encode(),
            sequence=self.now(),
            expires=self.now() + _HOUR_MS,
            salt=salt,
        )
