"""
Who has shares kept by a storage peer, as a process of its own.

First it looks whether some shares are there, then it has others kept, several at once, and
says of each step that it is done: C{receipt}, C{renewed} and C{released}.  It goes on until
all are kept, or the peer is gone.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import react

from meshkit.errors import HandshakeError, ShareUnknown, TruncatedStream
from meshkit.identity.keys import PublicKey
from meshkit.storage.header import share_id
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.scheme import Scheme
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import lease_hash
from tests.storage.objects import make_header
from tests.storage.shelves import Shelf

SCHEME: Final = Scheme(1, 2, 64 * 1024)
#: Of an object: some blocks, the last of which is short.
LENGTH: Final = 200_000
#: Which of the two shares is sent.
SHARE: Final = 1

_GONE: Final = (ConnectError, ConnectionClosed, HandshakeError, TruncatedStream)


def shelf(number: int) -> Shelf:
    """@return: the same object in every process."""
    text = (sha256(b"%d" % number).digest() * (LENGTH // 32 + 1))[:LENGTH]
    return Shelf(text, SCHEME, header=make_header(SCHEME, number))


def secret_of(number: int) -> bytes:
    return sha256(b"lease %d" % number).digest()


def name_of(number: int) -> bytes:
    header, _ = make_header(SCHEME, number)
    return share_id(header.upload, SHARE)


def steps_of(number: int) -> tuple[str, ...]:
    """@return: what is said of a share, in this order."""
    more: dict[int, tuple[str, ...]] = {1: ("renewed",), 3: ("renewed", "released")}
    return ("receipt", *more.get(number % 4, ()))


def say(*words: object) -> None:
    print(*words, flush=True)


async def look(peer: Any, number: int) -> None:
    """Say what a peer has of a share."""
    of, name = shelf(number), name_of(number)
    try:
        stat = await peer.stat(name)
        raw = await peer.manifest(name)
        pieces = [await peer.read(name, segment) for segment in range(of.layout.segments)]
    except ShareUnknown:
        say("unknown", number)
        return
    whole = b"".join(bytes(piece.block) for piece in pieces)
    if raw != of.manifest.raw or whole != bytes(of.shares[SHARE]):
        say("damaged", number)
    else:
        say("good", number, stat.lease_end)


async def keep(peer: Any, number: int) -> None:
    """Have a share kept."""
    of, secret, name = shelf(number), secret_of(number), name_of(number)
    upload, share = of.header.upload, bytes(of.shares[SHARE])
    await peer.reserve(upload, SHARE, len(share), lease_hash(secret))
    for segment in range(of.layout.segments):
        at = of.layout.block_at(segment)
        block = share[at : at + of.layout.block_bytes(segment)]
        await peer.write(upload, SHARE, segment, block)
    for step in steps_of(number):
        if step == "released":
            await peer.release(name, secret)
            say(step, number)
            continue
        raw = await (
            peer.close(upload, SHARE, of.manifest.raw)
            if step == "receipt"
            else peer.renew(name, secret)
        )
        receipt = Receipt.open(raw, peer.key)
        receipt.check(name, of.manifest.shares[SHARE], len(share), lease_hash(secret))
        say(step, number, receipt.lease_end)


async def main(
    reactor: Any,
    folder: str,
    host: str,
    port: str,
    key: str,
    lanes: str,
    first: str,
    count: str,
    *known: str,
) -> None:
    endpoint = clientFromString(
        reactor,
        f"shs:host={host}:port={port}:identity={folder}:network={folder}:label=storage:peer={key}",
    )
    peer = HTTPStoragePeer(reactor, endpoint, PublicKey.parse(key), timeout=60)
    numbers = iter(range(int(first), int(first) + int(count)))

    async def lane() -> None:
        for number in numbers:
            await keep(peer, number)

    try:
        for number in map(int, known):
            await look(peer, number)
        say("looked")
        await gatherResults(
            [Deferred.fromCoroutine(lane()) for _ in range(int(lanes))], consumeErrors=True
        )
    except Exception as e:
        cause = getattr(e, "subFailure", None)
        if not isinstance(cause.value if cause else e, _GONE):
            raise
        say("gone")
    await peer.stop()


if __name__ == "__main__":
    react(main, sys.argv[1:])
