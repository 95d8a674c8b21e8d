"""
Gives what was given before, in another order, and what is somebody else's.

B{On the wire.}  In a mailbox are the letters that were taken out of it as well (C{again}), the
last first (C{order}), those of others (C{others}), and each once more with a bit changed
(C{changed}).  Every third receipt that it signs is about another letter (C{receipts}).  Pages of
messages go out twice (C{pages}).

B{What honest nodes must do.}  Take each letter once, refuse the others; believe no receipt that is
not about their letter, and leave it elsewhere; 20 for messages that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from attrs import evolve

from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.sealing import digest_of
from meshkit.sim.liars.library import Leaf
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.relaying import FalseMailboxes, Left, RelayLiar

__all__ = ["Repeating"]

#: Letters of each sort that it mixes in.
_MIXED: Final = 16


class _Peer(LiarPeer):
    def give(self, author: bytes, first: int, page: Sequence[Leaf]) -> None:
        super().give(author, first, page)
        if self.open and author != self.liar.key:
            self.liar.lied("pages")
            super().give(author, first, page)


class _False(FalseMailboxes):
    def __init__(self, liar: RelayLiar) -> None:
        super().__init__(liar)
        # Recipient -> what he has taken out.
        self._taken: dict[bytes, dict[bytes, Left]] = {}
        self._receipts = 0

    def acknowledged(self, recipient: bytes, digest: bytes) -> bool:
        left = self.boxes[recipient].get(digest)
        if left is not None:
            self._taken.setdefault(recipient, {})[digest] = left
        return super().acknowledged(recipient, digest)

    def give(self, recipient: bytes) -> Sequence[Left]:
        own = [*self._taken.get(recipient, {}).values(), *self.boxes[recipient].values()]
        others = [
            left for other, box in self.boxes.items() if other != recipient for left in box.values()
        ][:_MIXED]
        changed = [self._change(left) for left in own[-_MIXED:]]
        for way, found in (
            ("again", self._taken.get(recipient)),
            ("order", own[1:]),
            ("others", others),
            ("changed", changed),
        ):
            if found:
                self.liar.lied(way)
        return [*reversed(own), *others, *changed]

    def _change(self, left: Left) -> Left:
        sealed = bytearray(left.sealed)
        sealed[len(sealed) // 2] ^= 1
        return evolve(left, digest=digest_of(bytes(sealed)), sealed=bytes(sealed))

    def receipt(self, left: Left, ttl: int) -> MailboxReceipt:
        receipt = super().receipt(left, ttl)
        self._receipts += 1
        if self._receipts % 3:
            return receipt
        self.liar.lied("receipts")
        return evolve(receipt, digest=digest_of(left.digest))


class Repeating(RelayLiar):
    """See the module."""

    kind: ClassVar[str] = "repeating"
    ways: tuple[str, ...] = ("again", "order", "others", "changed", "receipts", "pages")
    peer: ClassVar[type[LiarPeer]] = _Peer
    false: ClassVar[type[FalseMailboxes]] = _False
