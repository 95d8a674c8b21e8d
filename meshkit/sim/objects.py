"""
Programs that store files at the nodes of a run, and what they know of them afterwards.

A program puts a file, or fetches an object, at the door of a node, as C{meshkit object} does:
it asks for a transfer and then how far that is, until it has ended.  It goes on asking when the
node was away, as a transfer that was accepted survives that.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from meshkit.crypto.merkle import LEAF_BYTES
from meshkit.errors import ObjectMalformed
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.share_files import SUFFIX, TRAILER_BYTES, Trailer
from meshkit.testing.doors import Answer

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = [
    "Fetch",
    "Objects",
    "Placement",
    "ShareSeen",
    "StoredFile",
    "is_good_share",
    "lent_files",
    "shares_of",
]

#: Seconds between two looks of a program whether its call was answered.
_LOOK: Final = 0.05
#: Seconds between two questions how far a transfer is.
_ASK: Final = 1.0
#: How often a program asks again for what is not in the hash table so far, and after how long.
_TRIES: Final = 20
_AGAIN: Final = 3.0
#: Bytes of a share that is read here.
_MAX_FILE: Final = 64 * 1024 * 1024

# What is logged of a share that is not what it was.
_DAMAGED: Final = "a share was found damaged"
# And when it cannot be synced.
_DISK_FAILED: Final = "the disk of the shard store has failed"
_ENDED: Final = ("done", "failed", "cancelled")


@frozen
class ShareSeen:
    """
    The file of a share, on the disk of a node that keeps it.

    @ivar path: of the file.
    @ivar object: id of the object, in hex; empty if it cannot be read.
    @ivar number: of the share.
    @ivar digest: SHA-256 of the whole file.
    """

    path: str
    object: str
    number: int
    digest: bytes


@frozen
class Placement:
    """
    Where the shares of an object are, as its owner has it.

    @ivar version: counts up.
    @ivar peers: name of the member that has the share, by number.
    @ivar manifest: of the object.
    """

    version: int
    peers: Mapping[int, str]
    manifest: Manifest = field(repr=False)

    def path_of(self, number: int) -> str:
        """@return: how the file of a share ends."""
        name = self.manifest.header.share_id(number).hex()
        return f"/{name[:2]}/{name}{SUFFIX}"


@define(eq=False)
class StoredFile:
    """
    A file that somebody wants to have stored.

    @ivar name: unique in the run.
    @ivar owner: at whose door.
    @ivar data: what is in it.
    @ivar required: how many shares suffice.
    @ivar state: C{putting}; C{stored}: the door has said so; C{failed}; C{removing}: the door was
        asked to have it removed.
    @ivar transfer: id of the transfer that was accepted.
    @ivar accepted_ns: when, in the world's time.
    @ivar object: id of the object.
    @ivar shares: numbers of the shares that are kept, as the door has said.
    """

    name: str
    owner: str
    data: bytes = field(repr=False)
    required: int
    state: Literal["putting", "stored", "failed", "removing"] = "putting"
    transfer: str = ""
    accepted_ns: int = 0
    object: str = ""
    shares: tuple[int, ...] = ()
    problem: str = ""


@define(eq=False)
class Fetch:
    """
    A file that is fetched.

    @ivar file: which.
    @ivar where: at whose door.
    @ivar begun_ns: when that was accepted, in the world's time; 0 if it was not.
    @ivar outcome: C{None} as long as it is under way, or was given up as it was never
        accepted; C{done}: what came is the file; C{wrong}: it is something else; C{failed}.
    @ivar problem: why it failed.
    @ivar ended: there is nothing more to come.
    """

    file: StoredFile
    where: str
    begun_ns: int = 0
    outcome: Literal["done", "wrong", "failed"] | None = None
    problem: str = ""
    ended: bool = False


class Objects:
    """
    See the module.

    @ivar files: by name.
    @ivar fetches: in the order in which they were asked for.
    @ivar spoilt: node and path of files of shares that were damaged on purpose.
    @ivar ruined: the same shares: node, object and number.
    @ivar moved: shares that were given to somebody else, as far as that was seen.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.files: dict[str, StoredFile] = {}
        self.fetches: list[Fetch] = []
        self.spoilt: set[tuple[str, str]] = set()
        self.ruined: set[tuple[str, str, int]] = set()
        self.moved = 0

    def figures(self) -> dict[str, int]:
        """
        @return: C{files_stored}, of which that was said, C{files_fetched}, whole, and
            C{shares_moved}.
        """
        stored = sum(bool(file.object) for file in self.files.values())
        fetched = sum(fetch.outcome == "done" for fetch in self.fetches)
        return {"files_stored": stored, "files_fetched": fetched, "shares_moved": self.moved}

    # --- what programs do

    def put(self, where: str, name: str, size: int, scheme: str) -> None:
        """
        Have a file stored.  Nothing happens if the node is not there, or there is one of that
        name.

        @param size: bytes of the file.
        @param scheme: such as C{2+2}.
        """
        node = self._run.nodes[where]
        if not node.ready or name in self.files:
            return
        data = self._run.world.seeds.stream("file", name).randbytes(size)
        path = f"/files/{name}"
        try:
            _write(node, path, data)
        except OSError:
            # There is no room for it, or its disk fails: there is nothing to be stored.
            return
        file = StoredFile(name, where, data, int(scheme.partition("+")[0]))
        self.files[name] = file
        self._begin(self._put(file, path, scheme))

    def fetch(self, where: str, name: str) -> Fetch | None:
        """
        Have a file fetched that is stored; else nothing happens.  Who is not its owner is told
        its read capability.

        @return: what becomes of it.
        """
        file = self.files.get(name)
        if file is None or file.state != "stored" or not self._run.nodes[where].ready:
            return None
        fetch = Fetch(file, where)
        self.fetches.append(fetch)
        self._begin(self._fetch(fetch, len(self.fetches)))
        return fetch

    def watch(self, where: str, name: str) -> None:
        """Have somebody else look after a file that is stored; else nothing happens."""
        file = self.files.get(name)
        if file is not None and file.state == "stored" and file.owner != where:
            self._begin(self._watch(where, file))

    def drop(self, name: str) -> None:
        """Have a file that is stored removed; else nothing happens."""
        file = self.files.get(name)
        if file is None or file.state != "stored" or not self._run.nodes[file.owner].ready:
            return
        # From now on it may be gone, whatever the answer.
        file.state = "removing"
        self._run.nodes[file.owner].call("DELETE", f"/v1/objects/{file.object}")

    def placement(self, file: StoredFile) -> Placement | None:
        """
        @return: where the shares of a file are by now, as its owner's database has it; L{None}
            if that cannot be read, or has it no more.
        """
        sql = "SELECT version, document, manifest FROM storage_objects WHERE content_id = ?"
        try:
            rows = self._run.nodes[file.owner].look(sql, [bytes.fromhex(file.object)])
        except sqlite3.Error:
            return None
        for version, raw, encoded in rows:
            manifest = Manifest.decode(encoded)
            document = PlacementDocument.open(raw, manifest.header.placement)
            peers = {
                number: self._run.name_of(placed.peer.raw)
                for number, placed in enumerate(document.shares)
                if placed is not None
            }
            return Placement(version, peers, manifest)
        return None

    def lose(self, where: str) -> None:
        """Take the power from a node, and all shares that it keeps from its disk."""
        node = self._run.nodes[where]
        if node.running:
            node.crash()
        system = node.host.storage.files.system
        for seen in self._ruin(node):
            with system.aside():
                system.unlink(seen.path)

    def rot(self, where: str, at: float) -> None:
        """
        Change a bit in every share that a node keeps.

        @param at: where in the file, 0 to 1.
        """
        node = self._run.nodes[where]
        system = node.host.storage.files.system
        lengths = {path: len(data) for path, data in lent_files(node)}
        for seen in self._ruin(node):
            system.rot(seen.path, int(at * lengths[seen.path]))

    def _ruin(self, node: SimNode) -> list[ShareSeen]:
        """@return: the shares that a node keeps, which are good no more from now on."""
        seen = shares_of(node)
        self.spoilt.update((node.name, each.path) for each in seen)
        self.ruined.update((node.name, each.object, each.number) for each in seen)
        return seen

    def expected(self, event: dict[str, Any]) -> bool:
        """@return: is it what a node logs of a disk that was damaged, or fails, on purpose?"""
        said = str(event.get("log_format", ""))
        fails = any(action.kind == "fail-syncs" for action in self._run.plan.actions)
        return (bool(self.spoilt) and said.startswith(_DAMAGED)) or (
            fails and said.startswith(_DISK_FAILED)
        )

    def _begin(self, program: Any) -> None:
        begun: Deferred[None] = Deferred.fromCoroutine(program)
        begun.addErrback(self._run.failed, "a program that stores files")

    # --- how they do it

    def _pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self._run.world.clock, seconds, lambda: None)

    async def _ask(self, node: SimNode, method: str, target: str, body: Any = None) -> Any:
        """@return: what the door answers; L{None} if that is nothing."""
        if not node.ready:
            return None
        call = node.call(method, target, body)
        while not call.ended:
            await self._pause(_LOOK)
        with suppress(ConnectionError):
            return call.answer()
        return None

    async def _transfer(self, node: SimNode, transfer: str) -> dict[str, Any]:
        """@return: what a transfer has come to; with the C{state} C{gone}, if it is forgotten."""
        while True:
            answer: Answer | None = await self._ask(node, "GET", f"/v1/transfers/{transfer}")
            if answer is not None and answer.status == 200:
                shown: dict[str, Any] = answer.json["data"]
                if shown["state"] in _ENDED:
                    return shown
            elif answer is not None and answer.status == 404:
                return {"state": "gone"}
            await self._pause(_ASK)

    async def _put(self, file: StoredFile, path: str, scheme: str) -> None:
        run, node = self._run, self._run.nodes[file.owner]
        answer = await self._ask(node, "POST", "/v1/objects", {"path": path, "scheme": scheme})
        if answer is None or answer.status != 202:
            # Nobody was told that anything is kept.
            file.state = "failed"
            file.problem = "it was not accepted"
            return
        file.transfer = answer.json["data"]["id"]
        file.accepted_ns = run.world.clock.ns
        ended = await self._transfer(node, file.transfer)
        if ended["state"] == "done":
            file.object = ended["result"]["object"]
            file.shares = tuple(ended["result"]["shares"])
            file.state = "stored"
            run.world.trace.event("file.stored", file.owner, file=file.name, shares=file.shares)
            return
        file.state = "failed"
        file.problem = ended["state"]
        if ended["state"] == "failed":
            file.problem = ended["error"]["message"]
        run.world.trace.event("file.failed", file.owner, file=file.name, why=file.problem)

    async def _watch(self, where: str, file: StoredFile) -> None:
        owner, watcher = self._run.nodes[file.owner], self._run.nodes[where]
        answer = await self._ask(owner, "GET", f"/v1/objects/{file.object}/capabilities")
        if answer is None or answer.status != 200:
            return
        asked = {"capability": answer.json["data"]["repair"]}
        for _ in range(_TRIES):
            answer = await self._ask(watcher, "POST", "/v1/audit/watched", asked)
            if answer is None or answer.status != 404:
                return
            # What it is has to be in the hash table first.
            await self._pause(_AGAIN)

    async def _fetch(self, fetch: Fetch, number: int) -> None:
        try:
            await self._fetched(fetch, number)
        finally:
            fetch.ended = True

    async def _fetched(self, fetch: Fetch, number: int) -> None:
        run, file, node = self._run, fetch.file, self._run.nodes[fetch.where]
        called = file.object
        if fetch.where != file.owner:
            owner = run.nodes[file.owner]
            answer = await self._ask(owner, "GET", f"/v1/objects/{called}/capabilities")
            if answer is None or answer.status != 200:
                return
            called = answer.json["data"]["read"]
        path = f"/files/back-{number}"
        answer = await self._ask(node, "POST", "/v1/objects/get", {"object": called, "path": path})
        if answer is None or answer.status != 202:
            return
        fetch.begun_ns = run.world.clock.ns
        run.world.trace.event("file.fetch", fetch.where, file=file.name, number=number)
        ended = await self._transfer(node, answer.json["data"]["id"])
        if ended["state"] != "done":
            fetch.outcome = "failed"
            fetch.problem = ended.get("error", {}).get("message", ended["state"])
        else:
            fetch.outcome = "done" if _read(node, path) == file.data else "wrong"
        how = fetch.problem or fetch.outcome
        run.world.trace.event("file.fetched", fetch.where, file=file.name, number=number, how=how)


def _write(node: SimNode, path: str, data: bytes) -> None:
    # It is the program who has the file, and not the node.
    files = node.host.storage.files
    with files.system.aside():
        files.make_folder("/files")
        files.create(path, data)


def _read(node: SimNode, path: str) -> bytes:
    files = node.host.storage.files
    with files.system.aside():
        return files.read(path, _MAX_FILE)


def lent_files(node: SimNode) -> Iterator[tuple[str, bytes]]:
    """@return: path and content of every file in which a node keeps shares, finished or not."""
    files = node.host.storage.files
    found: list[tuple[str, bytes]] = []
    with files.system.aside():
        base = f"{node.folder}/keeper"
        for folder in _folders(node, base):
            for name in files.system.listdir(folder):
                path = f"{folder}/{name}"
                with suppress(OSError):
                    found.append((path, files.read(path, _MAX_FILE)))
    return iter(found)


def _folders(node: SimNode, base: str) -> list[str]:
    system = node.host.storage.files.system
    found = []
    with suppress(OSError):
        found += [f"{base}/shards/{name}" for name in system.listdir(f"{base}/shards")]
    with suppress(OSError):
        system.listdir(f"{base}/incoming")
        found.append(f"{base}/incoming")
    return found


def shares_of(node: SimNode) -> list[ShareSeen]:
    """
    @return: every share that lies on the disk of a node, as far as its file is one; read
        without any of the code that keeps shares.
    """
    found = []
    for path, data in lent_files(node):
        if path.endswith(SUFFIX):
            digest = sha256(data).digest()
            try:
                end = Trailer.decode(data[-TRAILER_BYTES:], len(data))
                start = len(data) - TRAILER_BYTES - end.manifest_bytes
                manifest = Manifest.decode(data[start : start + end.manifest_bytes])
            except ObjectMalformed:
                found.append(ShareSeen(path, "", -1, digest))
            else:
                seen = ShareSeen(path, manifest.content_id.hex(), end.number, digest)
                found.append(seen)
    return found


def is_good_share(data: bytes, manifest: Manifest, number: int) -> bool:
    """
    Has a share the root that its manifest says?  Computed with nothing of the code that keeps or
    checks shares.

    @param data: its file, which begins with it.
    """
    size = manifest.layout.share_bytes
    data = data[:size]
    if len(data) != size:
        return False
    rows = [
        sha256(b"\0" + data[at : at + LEAF_BYTES]).digest()
        for at in range(0, max(size, 1), LEAF_BYTES)
    ]
    while len(rows) > 1:
        pairs = [
            sha256(b"\1" + left + right).digest()
            for left, right in zip(rows[::2], rows[1::2], strict=False)
        ]
        rows = [*pairs, *rows[len(rows) & ~1 :]]
    head = struct.pack(">BQI", 2, size, LEAF_BYTES)
    return sha256(head + rows[0]).digest() == manifest.shares[number]
