"""
Who gives records that are not what they seem.

B{On the wire.}  To those who ask for a key, and to those in its table of its own accord, it
gives, one after the other:

  - C{value}: a record of somebody else with another value under the old signature;
  - C{owner}: a record of its own that names somebody else as its owner;
  - C{key}: a record of somebody else with another key under the old signature;
  - C{network}: a record of its own that is meant for another network;
  - C{expired}: one that has expired;
  - C{future}: one with the highest sequence there is, so that no other could follow.

B{What honest nodes must do.}  Verify each record before they keep, show or pass it on, and
have found what others give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from meshkit.identity.records import MAX_SEQUENCE
from meshkit.kademlia.distance import record_key
from meshkit.kademlia.records import Record
from meshkit.kademlia.wire import FindValue, Store, Values
from meshkit.sim.liars.hashing import HashLiar

__all__ = ["Falsifying"]

_HOUR_MS: Final = 3_600_000
#: Nodes to which it brings something at a time.
_AT_A_TIME: Final = 4


class Falsifying(HashLiar):
    """See the module."""

    kind: ClassVar[str] = "falsifying"
    ways: tuple[str, ...] = ("value", "owner", "key", "network", "expired", "future")

    def values(self, request: FindValue, answer: Values) -> Values:
        wanted = [
            record
            for record in self.records.values()
            if (record.kind, record.key) == (request.kind, request.key)
        ]
        if not wanted:
            return answer
        made = self._falsify(wanted[-1])
        return Values([made], 1, answer.contacts)

    def act(self) -> None:
        """Have something false be kept."""
        super().act()
        if not self.records or not self.node.running:
            return
        known = [*self.records.values()]
        for contact in list(self.node.table)[:_AT_A_TIME]:
            made = self._falsify(self.rng.choice(known))
            self.node.client.store(contact, Store([made])).addErrback(lambda _: None)

    def _falsify(self, record: Record) -> bytes:
        way = self.next_way()
        make: Callable[[Record], bytes] = getattr(self, f"_{way}")
        made = make(record)
        owner = self.identity.public if way in ("network", "expired", "future") else record.owner
        self.forged_record(way, owner, made)
        return made

    # --- how they are made

    def _value(self, record: Record) -> bytes:
        context, signer, payload, signature = msgspec.msgpack.decode(record.raw)
        fields = msgspec.msgpack.decode(payload)
        fields[-1] = self.mark().encode()
        fields[4] = record.sequence + 1
        return msgspec.msgpack.encode([context, signer, msgspec.msgpack.encode(fields), signature])

    def _owner(self, record: Record) -> bytes:
        context, _, payload, signature = msgspec.msgpack.decode(self._sealed(record).raw)
        return msgspec.msgpack.encode([context, record.owner.raw, payload, signature])

    def _key(self, record: Record) -> bytes:
        context, signer, payload, signature = msgspec.msgpack.decode(record.raw)
        fields = msgspec.msgpack.decode(payload)
        fields[2] = record_key("topic", self.rng.randbytes(8))
        return msgspec.msgpack.encode([context, signer, msgspec.msgpack.encode(fields), signature])

    def _network(self, record: Record) -> bytes:
        return self._sealed(record, network=self.rng.randbytes(16)).raw

    def _expired(self, record: Record) -> bytes:
        return self._sealed(record, expires=self.now() - 1).raw

    def _future(self, record: Record) -> bytes:
        return self._sealed(record, sequence=MAX_SEQUENCE).raw

    def _sealed(
        self, record: Record, *, network: bytes = b"", expires: int = 0, sequence: int = 0
    ) -> Record:
        return Record.seal(
            self.identity,
            network or self.network,
            record.kind,
            record.key,
            self.mark().encode(),
            sequence=sequence or self.now(),
            expires=expires or self.now() + _HOUR_MS,
            salt=record.salt,
        )
