"""
Nothing forged or forked is served as valid.
"""

from __future__ import annotations

import base64
import sqlite3
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec
from attrs import frozen
from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["MAX_SHOWN", "Authentic"]

#: Messages that are read at the doors of all nodes at the end, in all; of each node there is
#: at least one page.
MAX_SHOWN: Final = 20_000

# The end of a text, which is not signed: its hash and its signature.
_HASH: Final = b',"hash":"'
_SIGNATURE: Final = b'","signature":"'
_END: Final = len(_HASH) + 64 + len(_SIGNATURE) + 88 + len(b'"}')


class _Fields(msgspec.Struct):
    author: str
    sequence: int
    previous: str | None
    hash: str
    signature: str


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    metadata: dict[str, Any]


_fields: Final = msgspec.json.Decoder(_Fields).decode
_page: Final = msgspec.json.Decoder(_Page).decode


@frozen
class _Known:
    """A message that is what it says, as this module itself has found."""

    author: bytes
    sequence: int
    previous: str | None
    text: bytes


def _check(text: bytes) -> tuple[str, _Known]:
    """
    Verify a text by what docs/protocol/feed.md says, with none of the code that nodes use.

    @return: its hash, and what it says.
    @raise ValueError: what is wrong with it.
    """
    fields = _fields(text)
    signed, end = text[:-_END] + b"}", text[-_END:]
    digest = sha256(signed).hexdigest()
    expected = _HASH + digest.encode() + _SIGNATURE + fields.signature.encode() + b'"}'
    if fields.hash != digest or end != expected:
        raise ValueError("its hash is not that of its text")
    if not (fields.author.startswith("@") and fields.author.endswith(".ed25519")):
        raise ValueError("its author is no key")
    key = base64.b64decode(fields.author[1 : -len(".ed25519")], validate=True)
    try:
        crypto_sign_open(base64.b64decode(fields.signature, validate=True) + digest.encode(), key)
    except CryptoError:
        raise ValueError("its author has not signed it") from None
    return digest, _Known(key, fields.sequence, fields.previous, text)


class Authentic(Invariant):
    """
    What a node keeps and shows was signed by its author, and is in its place.

    Each text in each store is verified once by this module itself, from the raw JSON to
    libsodium, and again as each node has it: the same bytes, under the author, the sequence,
    the hash and the predecessor that they name.  What is marked as valid follows the message
    before it.  An honest author has signed one message for each number, whoever has it.  Of
    somebody who signed two, no node has anything valid from there on at the end, and no lie
    that was told is anywhere.

    Stores are looked at while the run goes on; at the end the doors are asked as well.
    """

    name = "authentic"

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        # (author, sequence) -> hashes of the messages that were signed for it.
        self._places: dict[tuple[bytes, int], dict[str, None]] = {}
        # Node -> position of the message that was looked at last.
        self._seen: dict[str, int] = {}
        self._honest: dict[bytes, str] = {}

    def begun(self, run: Run) -> None:
        self._honest = {node.identity.public.raw: name for name, node in run.nodes.items()}

    # --- what is stored

    def sampled(self, run: Run) -> None:
        for node in run.nodes.values():
            if node.ready:
                self._look(run, node)

    def _look(self, run: Run, node: SimNode) -> None:
        """Look at what is new in a store."""
        seen = self._seen.get(node.name, 0)
        try:
            rows = node.look(
                "SELECT m.id, a.key, m.sequence, m.hash, m.previous, m.raw FROM feed_messages m "
                "JOIN feed_authors a ON a.id = m.author WHERE m.id > ? ORDER BY m.id",
                (seen,),
            )
        except sqlite3.Error as e:
            run.violated(self.name, node.name, f"the store cannot be read: {e}")
            return
        for position, key, sequence, digest, previous, text in rows:
            self._seen[node.name] = position
            if not text:
                continue
            known = self._verify(run, node.name, digest.hex(), text, "stored")
            place = key, sequence, None if previous is None else previous.hex()
            if known is not None and place != (known.author, known.sequence, known.previous):
                what = f"{digest.hex()} is stored in another place than it names"
                run.violated(self.name, node.name, what)

    def _verify(self, run: Run, node: str, digest: str, text: bytes, how: str) -> _Known | None:
        known = self._known.get(digest)
        if known is None:
            try:
                named, known = _check(text)
                if named != digest:
                    raise ValueError(f"its hash is {named}")
            except ValueError as e:
                run.violated(self.name, node, f"a message is {how} as {digest}, but {e}")
                return None
            self._known[digest] = known
            self._place(run, digest, known)
        elif known.text != text:
            # So the signature is not that of the author, or there are two of one.
            run.violated(self.name, node, f"{digest} is {how} with another text than elsewhere")
        for name, liar in run.liars.items():
            if liar.told.is_forged(text):
                run.violated(self.name, node, f"a lie of {name} is {how}: {digest}")
        return known

    def _place(self, run: Run, digest: str, known: _Known) -> None:
        hashes = self._places.setdefault((known.author, known.sequence), {})
        hashes[digest] = None
        author = self._honest.get(known.author)
        if author is not None and len(hashes) > 1:
            run.violated(
                self.name,
                author,
                f"it has signed two messages {known.sequence}: {' and '.join(hashes)}",
            )

    # --- the end

    def settled(self, run: Run) -> None:
        nodes = [node for node in run.nodes.values() if node.ready]
        for node in nodes:
            self._look(run, node)
        forks = self._forks(run)
        for node in nodes:
            self._chains(run, node, forks)
        room = MAX_SHOWN
        for node in nodes:
            room -= self._read(run, node, forks, room)

    def _forks(self, run: Run) -> dict[bytes, int]:
        """@return: where each feed was forked, as far as stores or liars show it."""
        forks: dict[bytes, int] = {}
        places = [place for place, hashes in self._places.items() if len(hashes) > 1]
        for author, sequence in places:
            forks[author] = min(sequence, forks.get(author, sequence))
        return forks

    def _chains(self, run: Run, node: SimNode, forks: dict[bytes, int]) -> None:
        """Is what a store takes for valid a chain, and does it end at a fork?"""
        broken = node.look(
            "SELECT m.sequence, a.key FROM feed_messages m JOIN feed_authors a ON a.id = m.author "
            "LEFT JOIN feed_messages p ON p.author = m.author AND p.sequence = m.sequence - 1 "
            "WHERE m.chain_valid AND m.previous IS NOT p.hash AND m.sequence > 1 "
            "ORDER BY a.key, m.sequence LIMIT 1"
        )
        for sequence, author in broken:
            text = f"message {sequence} of {run.name_of(author)} is taken for valid, and does "
            run.violated(self.name, node.name, text + "not follow the one before it")
        for author, fork in forks.items():
            rows = node.look(
                "SELECT contiguous, forked FROM feed_authors WHERE key = ? "
                "AND (contiguous >= ? OR latest >= ? AND (forked IS NULL OR forked > ?))",
                (author, fork, fork, fork),
            )
            for contiguous, forked in rows:
                run.violated(
                    self.name,
                    node.name,
                    f"{run.name_of(author)} has signed two messages {fork}, and here its feed is "
                    f"valid up to {contiguous}, forked: {forked}",
                )

    def _read(self, run: Run, node: SimNode, forks: dict[bytes, int], room: int) -> int:
        """Read what its door shows."""
        read, cursor = 0, ""
        while True:
            answer = node.ask("GET", f"/v1/feed?include_self=true&limit=200{cursor}")
            if answer.status != 200:
                text = f"its messages are not shown: {answer.status} {answer.code}"
                run.violated(self.name, node.name, text)
                return read
            page = _page(answer.body)
            for shown in page.data:
                self._shown(run, node, bytes(shown), forks)
            read += len(page.data)
            following = page.metadata.get("next_cursor")
            if following is None or read >= room:
                return read
            cursor = f"&cursor={quote(following, safe='')}"

    def _shown(self, run: Run, node: SimNode, shown: bytes, forks: dict[bytes, int]) -> None:
        """A message at the door: its text, and behind it what the node knows of it."""
        facts = msgspec.json.decode(shown)
        signature = facts["signature"].encode() + b'"'
        text = shown[: shown.index(_SIGNATURE + signature) + len(_SIGNATURE + signature)] + b"}"
        known = self._verify(run, node.name, facts["hash"], text, "shown")
        if known is None or not facts["chain_valid"]:
            return
        fork = forks.get(known.author)
        if fork is not None and known.sequence >= fork:
            author = run.name_of(known.author)
            text_ = f"message {known.sequence} of {author} is shown as valid, forked at {fork}"
            run.violated(self.name, node.name, text_)
