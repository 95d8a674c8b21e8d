"""
C{python -m tests.bench.peers.plain_parts}: what storing over the network cannot do without,
and nothing else, as a child of the bench: the ceiling.

AES-256-GCM, zfec, SHA-256 over each share, the secure channel, and files that are synced.
There is no HTTP, no peer is chosen or asked for room, nothing is leased, no piece has a
proof of its own, and nobody copes with anything that goes wrong.  A child is a peer (job
C{listen}) or the client.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import zfec
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from meshkit.crypto.stream import TAG_BYTES, fastest_cipher
from meshkit.runtime.memory import keep_freed_memory
from meshkit.storage.scheme import Scheme
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.links import listen, secure_endpoint, secured

_LIFETIME: Final = 1_200
_KEY: Final = bytes(range(32))
_PUT, _GET = b"P", b"G"
_NAME: Final = 32
_LENGTH: Final = 8
_DIGEST: Final = 32
_PIECE: Final = 256 * 1024


class _Receiver(Protocol):
    """Takes what comes in pieces of known lengths, one after the other."""

    transport: Any

    def __init__(self) -> None:
        self._buffer = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while self.take():
            pass

    def take(self) -> bool:
        """@return: something was taken out of the buffer, and there may be more."""
        raise NotImplementedError

    def head(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        found = bytes(self._buffer[:length])
        del self._buffer[:length]
        return found

    def rest(self, most: int) -> bytes:
        found = bytes(self._buffer[:most]) if len(self._buffer) > most else bytes(self._buffer)
        del self._buffer[: len(found)]
        return found


@implementer(IPushProducer)
class Keeper(_Receiver):
    """A peer's side: a share comes and is kept, or one is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._file: Any = None
        self._left = 0
        self._digest = sha256()
        self._source: Any = None
        self._paused = False

    def take(self) -> bool:
        if self._file is not None:
            data = self.rest(self._left)
            self._file.write(data)
            self._digest.update(data)
            self._left -= len(data)
            if self._left == 0:
                self._keep()
                return True
            return False
        found = self.head(1 + _NAME + _LENGTH)
        if found is None:
            return False
        name, self._left = found[1 : 1 + _NAME].hex(), int.from_bytes(found[1 + _NAME :], "big")
        if found[:1] == _PUT:
            self._digest = sha256()
            self._path = self._folder / name
            self._file = self._path.open("wb")
        else:
            self._source = (self._folder / name).open("rb")
            size = os.fstat(self._source.fileno()).st_size
            self.transport.write(size.to_bytes(_LENGTH, "big"))
            self._paused = False
            self.transport.registerProducer(self, True)
            self.resumeProducing()
        return True

    def _keep(self) -> None:
        file, self._file = self._file, None
        file.flush()
        os.fsync(file.fileno())
        file.close()
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        self.transport.write(self._digest.digest())

    def resumeProducing(self) -> None:
        self._paused = False
        while self._source is not None and not self._paused:
            data = self._source.read(_PIECE)
            if data:
                self.transport.write(data)
            else:
                self._source.close()
                self._source = None
                self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True


@implementer(IPushProducer)
class Link(_Receiver):
    """The client's side."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[int, Deferred[bytes]]] = deque()
        self._room: Deferred[None] | None = None
        self._full = False

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def ask(self, length: int) -> Deferred[bytes]:
        """@return: fires with the next so many bytes that come."""
        asked: Deferred[bytes] = Deferred()
        self._waiting.append((length, asked))
        while self.take():
            pass
        return asked

    def take(self) -> bool:
        if not self._waiting:
            if len(self._buffer) > 4 * 1024 * 1024:
                self.transport.pauseProducing()
            return False
        length, asked = self._waiting[0]
        found = self.head(length)
        if found is None:
            self.transport.resumeProducing()
            return False
        self._waiting.popleft()
        asked.callback(found)
        return True

    async def write(self, data: Any) -> None:
        """Send, when there is room."""
        if self._full:
            self._room = Deferred()
            await self._room
        self.transport.write(bytes(data))

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> None:
        self.resumeProducing()


@define
class _Object:
    """
    @ivar digests: of its shares.
    @ivar length: of the file.
    @ivar block: bytes of each share in each segment.
    @ivar holders: who has each share.
    """

    digests: list[bytes]
    length: int
    scheme: Scheme
    block: list[int]
    holders: list[Link]


@define
class _Plain:
    reactor: Any
    _links: list[Link] = field(factory=list)
    _made: dict[str, _Object] = field(factory=dict)

    async def listen(self, folder: str) -> int:
        """Job: be a peer.  @return: its port."""
        Path(folder).mkdir()
        factory: Factory = Factory.forProtocol(lambda: Keeper(Path(folder)))  # type: ignore[arg-type]
        factory.noisy = False
        return await listen(self.reactor, secured(self.reactor, factory))

    async def connect(self, peers: list[int]) -> None:
        """Job: be a client."""
        factory: Factory = Factory.forProtocol(Link)
        factory.noisy = False
        for port in peers:
            self._links.append(await secure_endpoint(self.reactor, port).connect(factory))

    async def put(self, path: str, required: int, total: int) -> str:
        """Job: store a file.  @return: how it is called."""
        scheme = Scheme(required, total)
        cipher, code = fastest_cipher(_KEY), zfec.Encoder(required, total)
        name = os.urandom(_NAME)
        length = os.path.getsize(path)
        segments = max(1, -(-length // scheme.text_bytes))
        last = length - (segments - 1) * scheme.text_bytes
        sizes = [scheme.block_bytes] * (segments - 1) + [-(-(last + TAG_BYTES) // required)]
        digests = [sha256() for _ in range(total)]
        links = self._links[:total]
        head = _PUT + name + sum(sizes).to_bytes(_LENGTH, "big")
        for link in links:
            await link.write(head)
        with open(path, "rb") as file:
            for number in range(segments):
                text = file.read(scheme.text_bytes)
                sealed = cipher.seal(number.to_bytes(12, "big"), text, b"")
                block = -(-len(sealed) // required)
                padded = memoryview(bytes(sealed).ljust(required * block, b"\0"))
                blocks: list[Any] = [padded[at : at + block] for at in range(0, len(padded), block)]
                blocks += code.encode(tuple(blocks), tuple(range(required, total)))
                for link, digest, each in zip(links, digests, blocks, strict=True):
                    digest.update(each)
                    await link.write(each)
        said = await gatherResults([link.ask(_DIGEST) for link in links])
        expected = [digest.digest() for digest in digests]
        if said != expected:
            raise RuntimeError("what the peers have is not what was sent")
        self._made[name.hex()] = _Object(expected, length, scheme, sizes, list(links))
        return name.hex()

    async def get(self, capability: str, path: str) -> None:
        """Job: fetch a file from the first peers that suffice."""
        made = self._made[capability]
        length, scheme = made.length, made.scheme
        cipher = fastest_cipher(_KEY)
        links = made.holders[: scheme.required]
        await self._ask_for(capability, links)
        digests = [sha256() for _ in links]
        with open(path, "wb") as file:
            for number, block in enumerate(made.block):
                text = min(scheme.text_bytes, length - number * scheme.text_bytes)
                blocks = await gatherResults([link.ask(block) for link in links])
                for digest, each in zip(digests, blocks, strict=True):
                    digest.update(each)
                sealed = memoryview(b"".join(blocks))[: text + TAG_BYTES]
                file.write(cipher.open(number.to_bytes(12, "big"), sealed, b""))
        if [digest.digest() for digest in digests] != made.digests[: scheme.required]:
            raise RuntimeError("what the peers gave is not what they were sent")

    async def _ask_for(self, capability: str, links: Sequence[Link]) -> None:
        for link in links:
            link.transport.write(_GET + bytes.fromhex(capability) + bytes(_LENGTH))
        await gatherResults([link.ask(_LENGTH) for link in links])

    async def lose(self, capability: str, numbers: list[int]) -> int:
        """Job: nobody has these shares any more.  @return: bytes of them."""
        return len(numbers) * sum(self._made[capability].block)

    async def repair(self, capability: str, numbers: list[int]) -> None:
        """Job: make shares anew, and give them to peers that have none of the file."""
        made = self._made[capability]
        required, total = made.scheme.required, made.scheme.total
        decoder, encoder = zfec.Decoder(required, total), zfec.Encoder(required, total)
        there = [number for number in range(total) if number not in numbers][:required]
        sources = [made.holders[number] for number in there]
        spare = [link for link in self._links if link not in made.holders]
        targets = dict(zip(numbers, spare, strict=False))
        name, length = bytes.fromhex(capability), sum(made.block)
        await self._ask_for(capability, sources)
        for link in targets.values():
            await link.write(_PUT + name + length.to_bytes(_LENGTH, "big"))
        came, gone = [sha256() for _ in sources], [sha256() for _ in targets]
        for size in made.block:
            blocks = await gatherResults([link.ask(size) for link in sources])
            for digest, each in zip(came, blocks, strict=True):
                digest.update(each)
            data = decoder.decode(blocks, there)
            for digest, (number, link) in zip(gone, targets.items(), strict=True):
                again = data[number] if number < required else encoder.encode(data, [number])[0]
                digest.update(again)
                await link.write(again)
        said = await gatherResults([link.ask(_DIGEST) for link in targets.values()])
        if [digest.digest() for digest in came] != [made.digests[each] for each in there]:
            raise RuntimeError("what the peers gave is not what they were sent")
        if not said == [digest.digest() for digest in gone] == [made.digests[n] for n in targets]:
            raise RuntimeError("what was made anew is not what was lost")
        for number, link in targets.items():
            made.holders[number] = link


def main() -> None:
    # As daemons do.
    keep_freed_memory()

    def jobs(reactor: Any) -> Mapping[str, Job]:
        plain = _Plain(reactor)
        return {
            "listen": plain.listen,
            "connect": plain.connect,
            "put": plain.put,
            "get": plain.get,
            "lose": plain.lose,
            "repair": plain.repair,
        }

    run(jobs, _LIFETIME)


if __name__ == "__main__":
    main()
