"""
A node on a simulated machine: the same L{NodeService} that C{twistd} runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from meshkit.errors import MeshkitError
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keyfile import encode_identity
from meshkit.identity.keys import Identity
from meshkit.runtime.database import Database
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import DOOR_TOKEN, NETWORK_SECRET, SECRET_KEY
from meshkit.runtime.registry import compose
from meshkit.runtime.workers import InlineWorkers, WorkerFactory
from meshkit.services.node import DATABASE, NodeService
from meshkit.services.programs import MESH_NODE, Program
from meshkit.sim.garbage import collecting_by_hand
from meshkit.sim.host import SimHost
from meshkit.sim.process import Process
from meshkit.sim.workers import InterleavedWorkers
from meshkit.testing.doors import DOOR_PORT, LOOPBACK, Answer, DoorCall, DoorCaller
from meshkit.testing.nodes import MESH_PORT

if TYPE_CHECKING:
    from meshkit.sim.world import World

__all__ = ["Acknowledged", "NodeCall", "Said", "SimNode"]

_PUBLISH = ("/v1/publish", "/v1/publish/batch")
_MAX_TOKEN = 4096


@frozen
class Acknowledged:
    """
    A message of which the door has said that it is stored.

    @ivar at_ns: when, in the world's time.
    @ivar node: whose door.
    @ivar author: text form of the node's key.
    @ivar sequence: of the message in the node's feed.
    @ivar hash: of the message; empty if that was not told, as of a batch.
    """

    at_ns: int
    node: str
    author: str
    sequence: int
    hash: str


@frozen
class Said:
    """
    What a door was asked, and what it answered.

    @ivar at_ns: when the answer was there, in the world's time.
    @ivar node: whose door.
    @ivar number: of the call, among those to that door: as in the events C{door.call} and
        C{door.answer}.
    @ivar method: of the request.
    @ivar target: its path and query string.
    @ivar body: what was sent, before it became JSON.
    @ivar answer: the whole answer.
    """

    at_ns: int
    node: str
    number: int
    method: str
    target: str
    body: Any
    answer: Answer


class NodeCall(DoorCall):
    """
    A request to the door of a L{SimNode}, which learns what became of it.

    @ivar number: of the call, among those to that door.
    """

    def __init__(self, request: bytes, node: SimNode, asked: _Asked) -> None:
        super().__init__(request)
        self.number = asked.number
        self._node = node
        self._asked = asked

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._node._answered(self, self._asked)


@frozen
class _Asked:
    number: int
    method: str
    target: str
    body: Any


class SimNode(DoorCaller):
    """
    One node of a L{World}.

    L{start}, L{stop}, L{restart} and C{ask} let time pass until what they say is done.
    L{launch}, L{leave}, L{crash}, L{kill} and L{call} do not: they are for what happens at a
    moment of the world's time.

    @ivar name: of its machine, unique in the world.
    @ivar host: its machine.
    @ivar identity: who it is, known before it is started.
    @ivar address: where others dial it.
    @ivar folder: path of its data folder.
    @ivar service: the L{NodeService}; a new one at each start.
    @ivar process: in which the service runs; a new one at each start.
    @ivar given: what the service was made with, by the names of its arguments.
    @ivar failures: errors with which it failed to start.
    @ivar pending: timers that its last stop in good order left behind.
    """

    service: NodeService
    process: Process

    def __init__(
        self,
        world: World,
        host: SimHost,
        config: str,
        makers: Sequence[Any],
        program: Program = MESH_NODE,
    ) -> None:
        self._world = world
        self._config = config
        self._makers = makers
        self._program = program
        self._starts = 0
        self._calls = 0
        self.pending = 0
        self.name = host.name
        self.host = host
        self.folder = f"/{host.name}"
        self.identity = Identity(world.seeds.stream(host.name, "identity").randbytes(32))
        self.address = MeshAddress(host.address, MESH_PORT, self.identity.public).text
        self.given: dict[str, Any] = {}
        self.failures: list[MeshkitError] = []
        files = host.storage.files
        files.make_folder(self.folder)
        files.create(f"{self.folder}/{SECRET_KEY}", encode_identity(self.identity))
        files.create(f"{self.folder}/{NETWORK_SECRET}", world.network_secret.encode())

    def configure(self, config: str) -> None:
        """Give it another C{meshkit.toml}, which the next start reads."""
        self._config = config

    def make(self) -> NodeService:
        """Begin a process and make the service in it, from what lies on the disk."""
        settings = self._world.declaration(self._makers, self._program).resolve(
            {}, {}, ("meshkit.toml", self._defaults() + self._config.encode("utf-8"))
        )
        makers = self._program.parts_for(settings.root, self._makers)
        self.process = process = self.host.begin()
        files = self.host.files(process)
        make_workers = self._workers(process)
        seeds, start = self._world.seeds, str(self._starts)
        memo = self._world.memo
        self.given = {
            "reactor": process,
            "folder": DataFolder(self.folder, files),
            "settings": settings,
            "composition": compose(makers, settings.root.disable, settings.root.compat),
            "rng": seeds.stream(self.name, "node", start),
            "wall_clock": self.host.wall_clock,
            "files": files,
            "pid": lambda: process.pid,
            "on_failure": partial(self._failed, process),
            "make_workers": make_workers,
            "make_database": partial(
                Database, threads=make_workers, backing=self.host.backing(process)
            ),
            **({} if memo is None else {"verify": memo.verifies}),
        }
        self.host.storage.image = self._world.images.find(self.given["composition"].order)
        self.service = NodeService(**self.given)
        self._starts += 1
        return self.service

    def _workers(self, process: Process) -> WorkerFactory:
        if not self._world.interleaved:
            return InlineWorkers
        rng = self._world.seeds.stream(self.name, "workers", str(self._starts))
        return partial(InterleavedWorkers, rng=rng)

    def _defaults(self) -> bytes:
        # Each has a host of its own, so all of them, whatever daemon, can be at the same ports.
        own = {
            "listen": f"tcp:{MESH_PORT}:interface={self.host.address}",
            "api": f"tcp:{DOOR_PORT}:interface={LOOPBACK}",
        }
        # Sections of parts have settings of these names as well.
        said = re.split(r"(?m)^\[", self._config)[0]
        return "".join(
            f'{name} = "{text}"\n' for name, text in own.items() if f"{name} =" not in said
        ).encode()

    def _failed(self, process: Process, error: MeshkitError) -> None:
        if not process.running:
            # It is the end of the process that its code takes for a failure.
            return
        self.failures.append(error)
        self.host.event("node.failed", code=error.code)
        # As a daemon does, but not while its own code is running.
        self._world.clock.callLater(0, self.host.end, process)

    # --- starting and ending

    def launch(self) -> None:
        """
        Begin to start.

        @raise MeshkitError: if it is known at once that it cannot.
        """
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        with collecting_by_hand():
            self._launch()

    def _launch(self) -> None:
        service = self.make()
        self.host.event("node.start", number=self._starts)
        try:
            service.privilegedStartService()
            if self._starts == 1:
                self._world.images.keep(self.given["composition"].order, self.host.storage)
            service.startService()
        except MeshkitError as e:
            self.failures.append(e)
            self.host.event("node.failed", code=e.code)
            self.host.end(self.process)
            raise

    def start(self) -> None:
        """
        Start, until it is ready.

        @raise MeshkitError: why it did not start.
        """
        before = len(self.failures)
        self.launch()
        self._world.until(
            lambda: self.ready or len(self.failures) > before, f"start of {self.name}"
        )
        if len(self.failures) > before:
            raise self.failures[-1]
        self.host.event("node.ready")

    def leave(self) -> Deferred[None]:
        """
        Begin to stop the service in good order; with that the process ends.

        @return: fires when it has ended, and fails as the stop of the service did.  It
            never fires if the process is ended before.
        """
        self.host.event("node.stop")
        process = self.process

        def stopped(result: Any) -> Any:
            if process.running:
                self.pending = len(process.getDelayedCalls())
                self.host.event("node.stopped", pending=self.pending)
                self.host.end(process)
            return result

        return self.service.stopService().addBoth(stopped)

    def stop(self) -> None:
        """Stop the service in good order, to the end, and end the process."""
        stopped: list[Any] = []
        process = self.process
        self.leave().addBoth(stopped.append)
        self._world.until(lambda: bool(stopped) or not process.running, f"stop of {self.name}")
        if stopped and isinstance(stopped[0], Failure):
            stopped[0].raiseException()

    def crash(self) -> None:
        """Its machine loses power, now: see L{SimHost.crash}."""
        self.host.crash()

    def kill(self) -> None:
        """Its process is gone, now; the machine goes on: see L{SimHost.end}."""
        if self.running:
            self.host.end(self.process)

    def restart(self) -> None:
        """L{crash} if it runs, then L{start}."""
        if self.running:
            self.crash()
        self.start()

    @property
    def running(self) -> bool:
        """Is there a process?"""
        return self._starts > 0 and self.process.running

    @property
    def ready(self) -> bool:
        """Does it run, with all its parts?"""
        return self.running and self.service.ready

    def look(self, sql: str, *args: Any) -> list[Any]:
        """
        Look into its database, behind its back.

        @param args: for the statement, one sequence.
        @return: rows.
        @raise sqlite3.Error: if that cannot be read now.
        """
        return self.host.storage.database(f"{self.folder}/{DATABASE}").look(sql, *args)

    # --- its door

    def call(self, method: str, target: str, body: Any = None, **headers: str | None) -> NodeCall:
        """Like C{ask}, without waiting for the answer."""
        self._calls += 1
        self._asked = _Asked(self._calls, method, target, body)
        call = super().call(method, target, body, **headers)
        assert isinstance(call, NodeCall)
        self.host.event("door.call", number=self._calls, method=method, target=target, body=body)
        return call

    def _make_call(self, request: bytes) -> DoorCall:
        return NodeCall(request, self, self._asked)

    def _answered(self, call: NodeCall, asked: _Asked) -> None:
        number = asked.number
        try:
            answer = call.answer()
        except ConnectionError:
            self.host.event("door.silence", number=number, data=call.received)
            return
        self.host.event("door.answer", number=number, status=answer.status, data=call.received)
        at_ns = self._world.clock.ns
        self._world._hear(
            Said(at_ns, self.name, number, asked.method, asked.target, asked.body, answer)
        )
        path = asked.target.partition("?")[0]
        if asked.method != "POST" or path not in _PUBLISH or answer.status >= 300:
            return
        said, author = answer.json["data"], self.identity.public.text
        last = said.get("last", said.get("sequence"))
        digest = said.get("last_hash", said.get("hash"))
        for sequence in range(said.get("first", last), last + 1):
            told = digest if sequence == last else ""
            self._world._acknowledge(Acknowledged(at_ns, self.name, author, sequence, told))

    def _door_token(self) -> bytes:
        files = self.host.storage.files
        # It is the caller who reads it, and not the machine.
        with files.system.aside():
            return files.read_secret(f"{self.folder}/{DOOR_TOKEN}", _MAX_TOKEN).strip()

    def _connect_door(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self.host.loopback.client_endpoint(DOOR_PORT, LOOPBACK).connect(factory)

    def _await_answer(self, call: DoorCall, what: str) -> None:
        self._world.until(lambda: call.ended, what)
