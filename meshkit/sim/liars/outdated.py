"""
Who gives what was there long ago.

B{On the wire.}  Ways:

  - C{old}: of each place at a key it gives the oldest record that it was ever given;
  - C{kept}: it says of everything that it keeps it, and does not.

B{What honest nodes must do.}  Ask others as well, and take the newest of all that is found: a
lookup does not end with the first value.  Store what they publish at twenty nodes, and again
each hour.
"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet.defer import Deferred

from meshkit.kademlia.records import Record
from meshkit.kademlia.wire import FindValue, Store, Stored, Values
from meshkit.sim.liars.hashing import HashLiar

__all__ = ["Outdated"]


class Outdated(HashLiar):
    """See the module."""

    kind: ClassVar[str] = "outdated"
    ways: tuple[str, ...] = ("old", "kept")

    def values(self, request: FindValue, answer: Values) -> Values:
        oldest: dict[bytes, Record] = {}
        for record in self.records.values():
            if (record.kind, record.key) == (request.kind, request.key):
                known = oldest.setdefault(record.owner.raw, record)
                if record.sequence < known.sequence:
                    oldest[record.owner.raw] = record
        if not oldest:
            return answer
        self.lied("old")
        records = [record.raw for record in oldest.values()]
        return Values(records, len(records), answer.contacts)

    def store(self, request: Store, keep: Any) -> Stored | Deferred[Stored]:
        self.lied("kept")
        return self.kept_all(request)
