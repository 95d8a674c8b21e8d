"""
C{python -m tests.bench.peers.plain_audits}: what looking at leaves over TCP cannot do without,
and nothing else, as a child of the bench: the ceiling.

Who asks says which leaves of which shares, and is sent these with their branches, and checks
them against a root.  The trees are stored whole, in memory, so that nothing has to be hashed
where the shares are.  There are no signatures, no randomness that both have a part in, no secure
channel, no deadlines and no database, and nobody may be wrong.

The shares are those of L{tests.bench.peers.audits}: zeros, so that one tree is that of all.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from random import Random
from struct import Struct
from time import perf_counter
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol

from meshkit.crypto.merkle import LEAF_BYTES, Shape, leaf_hash, node_hash
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.links import listen, plain_endpoint

_LIFETIME: Final = 1_200
_SAMPLED: Final = 4
_HASH: Final = 32
#: Size of the shares, number of the share, numbers of leaves.
_ASKED: Final = Struct(f">QI{_SAMPLED}I")
_LENGTH: Final = Struct(">I")


@cache
def _tree(size: int) -> list[list[bytes]]:
    """@return: all nodes of a share of zeros, level by level from the leaves on."""
    leaves = -(-size // LEAF_BYTES)
    level = [leaf_hash(bytes(LEAF_BYTES))] * (leaves - 1)
    level.append(leaf_hash(bytes(size - (leaves - 1) * LEAF_BYTES)))
    tree = [level]
    while len(level) > 1:
        above = [node_hash(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        tree.append(level := above)
    return tree


def _climb(number: int, width: int, node: bytes, branch: Sequence[bytes]) -> bytes:
    """@return: the top of a tree with so many leaves, of which one is given."""
    beside = iter(branch)
    while width > 1:
        if number & 1:
            node = sha256(b"\x01" + next(beside) + node).digest()
        elif number + 1 < width:
            node = sha256(b"\x01" + node + next(beside)).digest()
        number, width = number >> 1, (width + 1) >> 1
    return node


class _Messages(Protocol):
    """Whole messages, each behind its length."""

    transport: Any

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
            if len(buffer) < end:
                return
            message = bytes(buffer[_LENGTH.size : end])
            del buffer[:end]
            self.received(message)

    def send(self, parts: Sequence[bytes]) -> None:
        self.transport.writeSequence([_LENGTH.pack(sum(map(len, parts))), *parts])

    def received(self, message: bytes) -> None:
        """A message has come."""
        raise NotImplementedError


class _Shows(_Messages):
    def __init__(self, shares: Mapping[tuple[int, int], Any]) -> None:
        super().__init__()
        self._shares = shares

    def received(self, message: bytes) -> None:
        answer: list[bytes] = []
        for size, share, *numbers in _ASKED.iter_unpack(message):
            read, tree, shape = self._shares[size, share], _tree(size), Shape(size)
            for number in numbers:
                at = number * LEAF_BYTES
                answer.append(read(min(LEAF_BYTES, size - at), at))
                answer += [tree[level][place] for level, place in shape.branch(number, 1)]
        self.send(answer)


class _Asks(_Messages):
    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[Deferred[bytes]] = deque()

    def ask(self, wanted: bytes) -> Deferred[bytes]:
        self.send([wanted])
        answer: Deferred[bytes] = Deferred()
        self._waiting.append(answer)
        return answer

    def received(self, message: bytes) -> None:
        self._waiting.popleft().callback(message)


@define
class _Plain:
    reactor: Any
    _link: Any = None
    _size: int = 0
    _count: int = 0
    _at: int = 0
    _rng: Random = field(factory=Random)

    async def listen(self, folder: str, sizes: Sequence[int], count: int) -> int:
        """Job: have so many shares of each size.  @return: the port."""
        shares: dict[tuple[int, int], Any] = {}
        Path(folder).mkdir()
        for size in sizes:
            for number in range(count):
                path = Path(folder) / f"{size}-{number}"
                with path.open("wb") as file:
                    file.truncate(size)
                shares[size, number] = partial(os.pread, os.open(path, os.O_RDONLY))
        factory: Factory = Factory.forProtocol(lambda: _Shows(shares))  # type: ignore[arg-type]
        return await listen(self.reactor, factory)

    async def connect(self, peer: int, folder: str) -> None:
        """Job: be who asks."""
        self._link = await plain_endpoint(self.reactor, peer).connect(Factory.forProtocol(_Asks))

    async def look(self, size: int, count: int) -> None:
        """Job: the shares of this size are what is asked for from now on."""
        self._size, self._count = size, count
        _tree(size)

    async def audits(self, batch: int, in_flight: int, seconds: float) -> dict[str, float]:
        """Job: see L{tests.bench.peers.audits}."""
        seen = 0
        start = perf_counter()

        async def one() -> None:
            nonlocal seen
            while perf_counter() - start < seconds:
                await self._ask(batch)
                seen += batch

        await gatherResults([Deferred.fromCoroutine(one()) for _ in range(in_flight)])
        return {"audited": seen, "seconds": perf_counter() - start}

    async def _ask(self, batch: int) -> None:
        size, leaves = self._size, -(-self._size // LEAF_BYTES)
        numbers = []
        for _ in range(batch):
            if leaves > _SAMPLED:
                numbers.append(self._rng.sample(range(leaves), _SAMPLED))
            else:
                numbers.append([each % leaves for each in range(_SAMPLED)])
        wanted = b"".join(
            _ASKED.pack(size, (self._at + place) % self._count, *each)
            for place, each in enumerate(numbers)
        )
        self._at = (self._at + batch) % self._count
        answer, at, top = await self._link.ask(wanted), 0, _tree(size)[-1][0]
        for each in numbers:
            for number in each:
                length = min(LEAF_BYTES, size - number * LEAF_BYTES)
                leaf = leaf_hash(answer[at : at + length])
                at += length
                branch = []
                for _ in Shape(size).branch(number, 1):
                    branch.append(answer[at : at + _HASH])
                    at += _HASH
                if _climb(number, leaves, leaf, branch) != top:
                    raise RuntimeError("a leaf is not what it was")


def main() -> None:
    def jobs(reactor: Any) -> Mapping[str, Job]:
        plain = _Plain(reactor)
        return {
            "listen": plain.listen,
            "connect": plain.connect,
            "look": plain.look,
            "audits": plain.audits,
        }

    run(jobs, _LIFETIME)


if __name__ == "__main__":
    main()
