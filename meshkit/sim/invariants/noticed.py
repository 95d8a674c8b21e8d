"""
What a relay withholds is seen by who has it from another one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.sim.invariants.delivered import honest_relays
from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.liars.relaying import RelayLiar

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["Noticed", "lacks"]

#: Seconds for a member to say it again after something was given: until feeds were compared, at
#: most three times, as the runs that are watched compare them each 47 s.
PATIENCE: Final = 150.0

_COPIES: Final = msgspec.msgpack.Decoder(list[tuple[bytes, int, bytes]])


def lacks(run: Run, node: SimNode) -> dict[str, int]:
    """@return: how many letters each of its relays lacks, as the node says."""
    service: Any = node.service
    status = service._parts["mailbox"].status()
    return {
        run.name_of(MeshAddress.parse(each.address).key.raw): each.lacks for each in status.relays
    }


class Noticed(Invariant):
    """
    When all has come to rest, a member with an honest relay says of each that lies how many feeds
    it goes on lacking that it shows less of than the member has; and of an honest one, none.
    What it was just given counts as what it has until feeds are compared again, which is waited
    for.

    A recipient says of each relay that lies, beside an honest one, that
    it lacks the letters for which it has signed and that it has never given.  Of an honest relay
    it says so of no letter for which that one has signed.
    """

    name = "noticed"

    def agrees(self, run: Run) -> bool:
        return not self._wrong(run)

    def settled(self, run: Run) -> None:
        # Those who looked before may have let time go by since all were at rest.
        end = run.seconds + PATIENCE
        while self._wrong(run) and run.seconds < end:
            run.world.run(1.0)
        for name, text in self._wrong(run):
            run.violated(self.name, name, text)

    def _wrong(self, run: Run) -> list[tuple[str, str]]:
        found = []
        left = self._left(run)
        for name, node in run.nodes.items():
            if not node.ready or not honest_relays(run, node):
                continue
            for relay, count in lacks(run, node).items():
                liar = run.liars.get(relay)
                if isinstance(liar, RelayLiar):
                    withheld = self._withheld(run, liar, node)
                    if count < withheld:
                        what = f"it has not noticed that {relay} withholds {withheld} letters"
                        found.append((name, f"{what}: {count}"))
                elif count > left[name, ""] - left[name, relay]:
                    what = f"as it says, {relay} lacks {count} letters, and all were left there"
                    found.append((name, what))
            found += self._feeds(run, node)
        return found

    def _feeds(self, run: Run, node: SimNode) -> list[tuple[str, str]]:
        """What is wrong with what a node says of the feeds that its peers lack."""
        service: Any = node.service
        has = dict(node.look("SELECT key, contiguous FROM feed_authors WHERE forked IS NULL"))
        found = []
        for link in service._parts["gossip"].status().links:
            peer = run.name_of(PublicKey.parse(link.peer).raw)
            liar = run.liars.get(peer)
            if liar is None and link.lacks:
                what = f"as it says, {peer}, who is honest, lacks {link.lacks} feeds"
                found.append((node.name, what))
            elif isinstance(liar, RelayLiar):
                withheld = self._hidden(liar, node.identity.public.raw, has)
                if link.lacks < withheld:
                    what = f"it has not noticed that {peer} shows less of {withheld} feeds"
                    found.append((node.name, f"{what}: {link.lacks}"))
        return found

    def _hidden(self, liar: RelayLiar, key: bytes, has: dict[bytes, int]) -> int:
        """@return: feeds of which a node has more than somebody who lies tells it."""
        return max(
            (
                sum(
                    peer.told_sequence(author) < sequence
                    for author, sequence in has.items()
                    if liar.library.sequence(author)
                )
                for peer in liar.peers
                if peer.key == key and peer.interested
            ),
            default=0,
        )

    def _withheld(self, run: Run, liar: RelayLiar, node: SimNode) -> int:
        """@return: letters of those who have an honest relay as well: they come by that."""
        own = node.identity.public.raw
        return sum(
            place not in liar.mailboxes.given
            and bool(honest_relays(run, run.nodes[run.name_of(left.sender)]))
            for place, left in liar.mailboxes.signed.items()
            if left.recipient == own
        )

    def _left(self, run: Run) -> Counter[tuple[str, str]]:
        """@return: (recipient, relay) -> letters that were left there; anywhere, with no relay."""
        found: Counter[tuple[str, str]] = Counter()
        for node in run.nodes.values():
            if not node.ready or "mailbox" not in node.service._parts:
                continue
            for to, relay, copies in node.look(
                "SELECT recipient, relay, copies FROM mailbox_outbox WHERE state = 1"
            ):
                name = run.name_of(to)
                found[name, ""] += 1
                others = () if copies is None else _COPIES.decode(copies)
                for key in (relay, *(each[0] for each in others)):
                    found[name, run.name_of(key)] += 1
        return found
