"""
The part C{storage} among keepers in memory, under virtual time, with files on a real disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Final

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MeshkitError, NotReady, PeerUnreachable
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IHashTable, IPeerFinder
from meshkit.runtime.container import MemoryFile
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.encoding import Piece
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.objects.config import Config
from meshkit.storage.objects.part import MIGRATIONS, StoragePart
from meshkit.storage.placement_record import KIND, PLACEMENT_KIND
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.testing.identities import DAY_NS, make_identity
from meshkit.testing.nodes import make_context
from tests import declared
from tests.storage.client.peers import Unruly, run_until

#: Keepers that there are.
COUNT: Final = 6
ROOM: Final = 100_000_000
#: What a file holds if nothing else is said.
HERON: Final = b"a grey heron" * 1_000


@frozen
class Answered:
    """What the hash table gives for a record, or a provider."""

    value: bytes = b""
    key: Any = None
    places: tuple[HostPort, ...] = ()


@frozen
class Kept:
    """
    What came of publishing something.

    @ivar findable: others can find it.
    """

    findable: bool


@frozen
class _Held:
    """A record, as its kind looks at it."""

    value: bytes
    expires: int = 0
    sequence: int = 0
    digest: bytes = b""


class Table:
    """
    A hash table that everybody sees at once.

    @ivar records: what is published.
    @ivar provided: the storage peers that it names.
    @ivar problem: what everything fails with, if anything.
    @ivar others: nodes that keep what is published.
    @ivar kinds: names of the kinds that were registered.
    @ivar places: where peers are, for who asks for them by their keys.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, bytes], bytes] = {}
        self.until: dict[tuple[str, bytes], int | None] = {}
        self.provided: list[Answered] = []
        self.problem: MeshkitError | None = None
        self.others = 3
        self.kinds: list[str] = []
        self.places: dict[PublicKey, MeshAddress] = {}
        self.asked = 0

    def register_kind(self, kind: Any) -> None:
        self.kinds.append(kind.name)

    def get(self, kind: str, name: bytes) -> Deferred[Any]:
        if self.problem is not None:
            return fail(self.problem)
        value = self.records.get((kind, name))
        return succeed([] if value is None else [Answered(value)])

    def put(
        self, kind: str, name: bytes, value: bytes, *, salt: bytes = b"", until: Any = None
    ) -> Deferred[Any]:
        if self.problem is not None:
            return fail(self.problem)
        if not self.others:
            return succeed(Kept(False))
        held = self.records.get((kind, name))
        if kind == KIND and held is not None:
            # Whoever keeps it keeps the one that counts.
            value = PLACEMENT_KIND.merge(_Held(held), _Held(value)).value
        self.records[kind, name] = value
        self.until[kind, name] = until
        return succeed(Kept(True))

    def providers(self, content: bytes) -> Deferred[Any]:
        self.asked += 1
        return succeed(list(self.provided)) if self.problem is None else fail(self.problem)

    def find_peer(self, key: PublicKey) -> Deferred[Any]:
        if key in self.places:
            return succeed([self.places[key]])
        return fail(NotReady("nobody knows it"))


class LateDisk:
    """
    A database whose writes take their time, while reads are answered at once.

    @ivar late: seconds that each takes.
    """

    def __init__(self, database: Any, clock: Clock, late: float) -> None:
        self.late = late
        self._database = database
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, job: Callable[[Any], Any]) -> Deferred[Any]:
        waiting = deferLater(self._clock, self.late, lambda: None)
        return waiting.addCallback(lambda _: self._database.write(job))


class Front(Unruly):
    """
    A keeper as it is reached at one address.

    @ivar down: nobody is there.
    @ivar stopped: its connections were closed.
    """

    def __init__(self, peer: Any, clock: Clock) -> None:
        super().__init__(peer, clock)
        self.down = False
        self.stopped = False
        self.rule = self._refuse

    def _refuse(self, _name: str, _peer: Any, _args: Any) -> Any:
        return fail(PeerUnreachable("connection refused")) if self.down else None

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)


def lie(name: str, peer: Any, args: tuple[Any, ...]) -> Any:
    """What is read has one bit changed."""
    if name != "read":
        return None

    def spoil(piece: Piece) -> Piece:
        spoiled = bytearray(piece.block)
        spoiled[len(spoiled) // 2] ^= 1
        return evolve(piece, block=bytes(spoiled))

    return peer.read(*args).addCallback(spoil)


class ObjectsCase(SynchronousTestCase):
    """
    @ivar part: the part of the owner, started.
    @ivar fronts: the keepers, as they are reached.
    """

    count = COUNT
    room = ROOM

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = InlineWorkers(self.clock, 2, name="test")
        self.workers.startService()
        self.offset = 0.0
        self.table = Table()
        self.backing = MemoryFile(self.id())
        self.folder = mkdtemp()
        self.addCleanup(rmtree, self.folder)
        os.mkdir(os.path.join(self.folder, "data"), 0o700)
        self.owner = make_identity("owner")
        self.keepers: list[Keeper] = []
        self.fronts: list[Front] = []
        self.by_place: dict[HostPort, Front] = {}
        self.files = LocalFiles()
        self._parts: list[tuple[StoragePart, Any]] = []
        self.context = self.new_context()
        for number in range(self.count):
            self.add_keeper(number)
        self.part = self.start()

    def tearDown(self) -> None:
        for part, _ in tuple(self._parts):
            self.stop(part)
        for keeper in self.keepers:
            self.done(keeper.stop())
        self.done(self.context.database.stopService())
        self.done(self.workers.stopService())

    # --- who there is ----------------------------------------------------------------------

    def new_context(self, name: str = "owner") -> Any:
        """What somebody has whose node has this name."""
        context = make_context(
            self.clock,
            name,
            config=Config(scheme="2+2"),
            migrations={"storage": MIGRATIONS},
            workers=self.workers,
            backing=self.backing if name == "owner" else None,
        )
        return evolve(
            context,
            files=self.files,
            data_folder=os.path.join(self.folder, "data", "storage"),
            find={IHashTable: self.table, IPeerFinder: self.table}.get,
            wall_clock=self.wall_clock,
        )

    def wall_clock(self) -> int:
        return DAY_NS + int((self.clock.seconds() + self.offset) * 10**9)

    def pass_time(self, seconds: float) -> None:
        """The wall clock is later, and nothing has happened in between."""
        self.offset += seconds

    def run_upkeep(self, part: StoragePart | None = None) -> None:
        """Have the node see to what is due."""
        part = self.part if part is None else part
        for _ in range(2):
            part.upkeep.wake()
            self.clock.advance(0)
            self.until(lambda: part.upkeep._running is None)

    def until(self, condition: Callable[[], bool], seconds: float = 1_000) -> None:
        """Let time pass until something is so."""
        end = self.clock.seconds() + seconds
        while not condition():
            calls = self.clock.getDelayedCalls()
            moment = min((call.getTime() for call in calls), default=end + 1)
            if moment > end:
                raise AssertionError("it does not come to that")
            self.clock.advance(max(0.0, moment - self.clock.seconds()))

    def now(self) -> int:
        return int(self.context.wall_clock() // 10**9)

    def add_keeper(self, number: int, **more: Any) -> Front:
        identity = make_identity(f"keeper-{number}")
        keeper = Keeper(
            MemoryShardStore(),
            identity,
            self.context.network.net_id,
            reactor=self.clock,
            workers=self.workers,
            wall_clock=self.context.wall_clock,
            config=KeeperConfig(self.room, scrub_rate=0, domain=f"rack-{number}", **more),
        )
        self.done(keeper.start())
        front = Front(keeper.for_caller(self.owner.public), self.clock)
        self.keepers.append(keeper)
        self.fronts.append(front)
        self.by_place[self.place(number)] = front
        return front

    def place(self, number: int) -> HostPort:
        return HostPort(f"10.{number}.0.1", 7670)

    def address(self, number: int) -> MeshAddress:
        place = self.place(number)
        return MeshAddress(place.host, place.port, make_identity(f"keeper-{number}").public)

    def make_peer(self, address: MeshAddress) -> Any:
        front = self.by_place[address.place]
        if front.key != address.key:
            # As a handshake ends that asks for somebody else.
            gone = Front(front.peer, self.clock)
            gone.key = address.key
            gone.down = True
            return gone
        return front

    def start(self, context: Any = None, **config: Any) -> StoragePart:
        context = self.context if context is None else context
        given: dict[str, Any] = {
            "scheme": "2+2",
            "peers": tuple(self.address(number).text for number in range(self.count)),
            "codec": "zfec",
            **config,
        }
        part = StoragePart(evolve(context, config=Config(**given)), self.make_peer)
        self.done(part.startService())
        self._parts.append((part, context))
        return part

    def stop(self, part: StoragePart | None = None) -> None:
        part = self.part if part is None else part
        self._parts = [each for each in self._parts if each[0] is not part]
        self.done(part.stopService())

    # --- what happens ------------------------------------------------------------------------

    def done(self, deferred: Deferred[Any], seconds: float = 1_000) -> Any:
        """@return: what comes of it; what it fails with is raised."""
        return run_until(self.clock, deferred, seconds)

    def ask(self, operation: str, part: StoragePart | None = None, **fields: Any) -> Any:
        """Call an operation."""
        part = self.part if part is None else part
        (bound,) = [b for b in part.operations() if b.operation.name == operation]
        answer = declared.handler(bound)(bound.operation.request(**fields))
        if hasattr(answer, "send"):
            answer = Deferred.fromCoroutine(answer)
        return self.done(answer) if isinstance(answer, Deferred) else answer

    def ended(self, transfer: Any, part: StoragePart | None = None) -> Any:
        """@return: a transfer, when it has ended."""
        for _ in range(200):
            transfer = self.ask("transfer", part, id=transfer.id, wait=30)
            if transfer.ended is not None:
                return transfer
        raise AssertionError(f"it does not end: {transfer}")

    def write(self, name: str, data: bytes) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.folder, name), "rb") as file:
            return file.read()

    def put(
        self, data: bytes = b"a grey heron" * 1_000, name: str = "heron.txt", **more: Any
    ) -> Any:
        """@return: the transfer of a put that was done."""
        ended = self.ended(self.ask("object_put", path=self.write(name, data), **more))
        self.assertEqual(ended.state, "done", ended.error)
        return ended

    def get(self, object_id: str, name: str = "copy", part: Any = None, **more: Any) -> bytes:
        path = os.path.join(self.folder, name)
        ended = self.ended(self.ask("object_get", part, object=object_id, path=path, **more), part)
        self.assertEqual(ended.state, "done", ended.error)
        return self.read(name)

    @property
    def kept(self) -> list[int]:
        """How many shares each keeper has."""
        return [len(list(keeper.names())) for keeper in self.keepers]
