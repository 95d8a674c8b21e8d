"""
No record of the hash table is anywhere but as its owner has signed it.
"""

from __future__ import annotations

import sqlite3
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
from attrs import frozen
from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import Said, SimNode
    from meshkit.sim.running import Run

__all__ = ["Owned"]

_KIND: Final = "dht-record/1"
# What is signed begins with this.
_SIGNED: Final = b"meshkit-sig/1\x00" + bytes([len(_KIND)]) + _KIND.encode()
#: Nodes that are looked at at a time.
_AT_A_TIME: Final = 20
_TABLES: Final = (
    "SELECT kind, key, owner, sequence, raw FROM kademlia_records WHERE length(raw) > 0",
    "SELECT kind, key, NULL, NULL, raw FROM kademlia_publications",
)


@frozen
class _Record:
    """A record that is what it says, as this module itself has found."""

    owner: bytes
    network: bytes
    kind: str
    key: bytes
    salt: bytes
    sequence: int
    value: bytes


def _check(raw: bytes) -> _Record:
    """
    Verify a record by what docs/protocol says, with none of the code that nodes use.

    @raise ValueError: what is wrong with it.
    """
    context, owner, payload, signature = msgspec.msgpack.decode(raw)
    if context != _KIND:
        raise ValueError(f"it is a statement of the kind {context}")
    signed = _SIGNED + len(payload).to_bytes(4, "big") + payload
    try:
        crypto_sign_open(signature + signed, owner)
    except CryptoError:
        raise ValueError("its owner has not signed it") from None
    network, kind, key, salt, sequence, _, value = msgspec.msgpack.decode(payload)
    named = {"address": owner, "mutable": owner + salt, "immutable": sha256(value).digest()}
    if kind in named:
        place = sha256(b"meshkit/dht/" + kind.encode() + b"/1" + named[kind]).digest()
        if key != place:
            raise ValueError(f"it is a record of the kind {kind}, and its key is not that of one")
    return _Record(owner, network, kind, key, salt, sequence, value)


class Owned(Invariant):
    """
    What a hash table keeps, publishes and shows was signed by its owner, for this network and
    for the key at which it is.

    Each record on a disk is verified once by this module itself, from MessagePack to libsodium;
    each that a door shows of an honest owner has to be one of those.  No lie that was told is
    anywhere.
    """

    name = "owned"

    def __init__(self) -> None:
        # By SHA-256 of the record.
        self._known: dict[bytes, _Record] = {}
        self._wrong: set[tuple[str, bytes]] = set()
        self._network = b""
        self._honest: dict[str, str] = {}
        self._next = 0

    def begun(self, run: Run) -> None:
        self._honest = {each.identity.public.text: name for name, each in run.nodes.items()}
        self._network = run.world.network_secret.key().net_id

    # --- what is stored

    def sampled(self, run: Run) -> None:
        names = list(run.nodes)
        for _ in range(min(len(names), _AT_A_TIME)):
            self._look(run, run.nodes[names[self._next % len(names)]])
            self._next += 1

    def settled(self, run: Run) -> None:
        for node in run.nodes.values():
            self._look(run, node)

    def _look(self, run: Run, node: SimNode) -> None:
        service: Any = node.service if node.ready else None
        if service is None or "dht" not in service._parts:
            return
        for table in _TABLES:
            try:
                rows = node.look(table)
            except sqlite3.Error as e:
                run.violated(self.name, node.name, f"the records cannot be read: {e}")
                return
            for row in rows:
                self._verify(run, node.name, *row)

    def _verify(
        self,
        run: Run,
        node: str,
        kind: str,
        key: bytes,
        owner: bytes | None,
        sequence: int | None,
        raw: bytes,
    ) -> None:
        digest = sha256(raw).digest()
        if (node, digest) in self._wrong:
            return
        known = self._known.get(digest)
        try:
            for name, liar in run.liars.items():
                if liar.told.is_forged(raw):
                    raise ValueError(f"it is a lie of {name}")
            if known is None:
                known = _check(raw)
            if known.network != self._network:
                raise ValueError("it is meant for another network")
            if (known.kind, known.key) != (kind, key) or (
                owner is not None and (known.owner, known.sequence) != (owner, sequence)
            ):
                raise ValueError("it is of another place")
        except ValueError as e:
            self._wrong.add((node, digest))
            run.violated(self.name, node, f"a {kind} record is stored, but {e}")
        else:
            self._known[digest] = known

    # --- what is shown

    def said(self, run: Run, said: Said) -> None:
        path = urlsplit(said.target).path
        if said.method != "GET" or not path.startswith("/v1/dht/records/"):
            return
        if said.answer.status != 200:
            return
        shown: list[dict[str, Any]] = said.answer.json["data"]["records"]
        for record in shown:
            if bytes.fromhex(record["digest"]) not in self._known:
                self._look_everywhere(run)
            known = self._known.get(bytes.fromhex(record["digest"]))
            owner = self._honest.get(record["owner"])
            if known is None and owner is not None:
                text = f"a {record['kind']} record of {owner} is shown that it has not published"
                run.violated(self.name, said.node, text)

    def _look_everywhere(self, run: Run) -> None:
        for node in run.nodes.values():
            self._look(run, node)
