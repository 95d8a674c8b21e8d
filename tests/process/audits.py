"""
An owner and storage peers, which are audited and repaired, for the tests of this folder.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from attrs import define, field

from tests.process.mesh import Done, Mesh, Node

LENT: Final = "200MB"
#: All are of one machine, which the hash table would take for one person.
OWN_BLOCK: Final = ("--dht-own-block", "127.0.0.0/8")
#: Of an owner whose passes come when they are asked for, and who waits for no peer.
AT_ONCE: Final = (
    *("--no-audit-enabled", "--audit-offline-grace", "0", "--audit-cooldown", "0"),
    *("--audit-backoff", "0", *OWN_BLOCK),
)


@define(eq=False)
class Peer(Node):
    """
    A storage peer, C{twistd mesh-storage}.

    @ivar port: where it was first, and is again after a restart.
    @ivar key: its id, once it was started.
    """

    port: int = 0
    key: str = ""

    def command(self, *arguments: str) -> list[str]:
        listen: tuple[str, ...] = ()
        if self.port and "--listen" not in arguments:
            listen = ("--listen", f"tcp:{self.port}:interface=127.0.0.1")
        return ["mesh-storage", *super().command(*listen, *arguments)[1:]]

    def wait_ready(self) -> None:
        super().wait_ready()
        self.port = int(self.mesh_port[1])
        # 'meshkit id' says the same, and is a process each time.
        self.key = f"@{self.address.partition('~shs:')[2]}.ed25519"

    def shares(self) -> list[Path]:
        """The files of the shares that it keeps."""
        return sorted((self.data / "keeper").rglob("*.mkshare"))


class DelayingProxy:
    """
    Passes TCP on, each byte so much later than it came.

    @ivar port: where it listens.
    @ivar delay: seconds that bytes take, in each direction.
    """

    def __init__(self, target: tuple[str, int], delay: float) -> None:
        self.delay = delay
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.port: int = self._listener.getsockname()[1]
        self._threads[0].start()

    def close(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            if not select.select([self._listener], [], [], 0.05)[0]:
                continue
            near, _ = self._listener.accept()
            far = socket.create_connection(self._target)
            self._sockets += (near, far)
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        waiting: deque[tuple[float, bytes]] = deque()
        open_ = True
        try:
            while (open_ or waiting) and not self._stopped.is_set():
                now = time.monotonic()
                while waiting and waiting[0][0] <= now:
                    sink.sendall(waiting.popleft()[1])
                pause = min(0.05, max(0.0, waiting[0][0] - now)) if waiting else 0.05
                if not open_:
                    time.sleep(pause)
                elif select.select([source], [], [], pause)[0]:
                    piece = source.recv(65_536)
                    open_ = bool(piece)
                    if piece:
                        waiting.append((time.monotonic() + self.delay, piece))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One of the two has gone: so has the connection.
            source.close()
            sink.close()


@define(eq=False)
class Cluster:
    """
    @ivar owner: of the files, a C{mesh-node}.
    @ivar peers: that keep their shares.
    """

    mesh: Mesh
    owner: Node
    peers: list[Peer]
    files: dict[str, str] = field(factory=dict)
    proxies: list[DelayingProxy] = field(factory=list)

    @classmethod
    def make(
        cls,
        mesh: Mesh,
        count: int,
        scheme: str,
        *arguments: str,
        delays: Sequence[float] = (),
    ) -> Cluster:
        """
        @param count: how many peers.
        @param arguments: of the owner, beside L{AT_ONCE}.
        @param delays: seconds that everything takes to and from the first ones.
        """
        first: Peer | None = None
        peers: list[Peer] = []
        for number in range(count):
            words = ("--keeper-max-storage", LENT, "--keeper-domain", f"rack-{number}")
            words = (*words, *OWN_BLOCK)
            peer = mesh.node(f"peer-{number}", *words, network=first, kind=Peer)
            assert isinstance(peer, Peer)
            first = first or peer
            peers.append(peer)
            # While it starts, the next one is made.
            peer.spawn()
        for peer in peers:
            peer.wait_ready()
        known: list[str] = []
        proxies = []
        for number, peer in enumerate(peers):
            address = peer.address
            if number < len(delays):
                proxy = DelayingProxy(("127.0.0.1", peer.port), delays[number])
                proxies.append(proxy)
                address = address.replace(f":{peer.port}~", f":{proxy.port}~")
            known += ["--storage-peer", address]
            known += ["--storage-domain", f"{peer.key}=rack-{number}"]
        words = ("--storage-scheme", scheme, "--no-storage-discover", *AT_ONCE)
        owner = mesh.node("owner", *words, *known, *arguments, network=first)
        return cls(mesh, owner.start(), peers, proxies=proxies)

    def close(self) -> None:
        """End the proxies; the daemons are the mesh's."""
        for proxy in self.proxies:
            proxy.close()

    def put(self, size: int = 300_000, seed: int = 0) -> str:
        """@return: id of an object."""
        data = Random(seed).randbytes(size)
        path = self.owner.home / f"file-{seed}"
        path.write_bytes(data)
        put = self.owner.good("put", path, "--json").json
        self.files[put["object"]] = hashlib.sha256(data).hexdigest()
        return str(put["object"])

    def get(self, object_id: str) -> bool:
        """@return: whether what is got is what was put."""
        copy = self.owner.home / "copy"
        done = self.owner.cli("get", object_id, "-o", copy, "--force")
        if done.code:
            raise AssertionError(done.err)
        found = hashlib.sha256(copy.read_bytes()).hexdigest()
        return found == self.files[object_id]

    def holders(self, object_id: str) -> list[str | None]:
        """@return: the id of who has each share."""
        stat = self.owner.good("object", "stat", object_id, "--json").json
        return [each["peer"] for each in stat["shares"]]

    def peer_of(self, key: str | None) -> Peer:
        return next(peer for peer in self.peers if peer.key == key)

    def audit(self, *arguments: str, code: int = 0) -> Any:
        """@return: a pass that was asked for, as C{meshkit audit run} shows it."""
        done = self.owner.cli("audit", "run", "--json", *arguments)
        return self._checked(done, code)

    def repair(self, object_id: str, code: int = 0) -> Any:
        return self._checked(self.owner.cli("object", "repair", object_id, "--json"), code)

    def _checked(self, done: Done, code: int) -> Any:
        if done.code != code:
            raise AssertionError(f"{done.code}: {done.out}{done.err}\n{self.owner.log_tail()}")
        return json.loads(done.out)

    def health(self, object_id: str) -> str:
        done = self.owner.cli("object", "check", object_id, "--depth", "full", "--json")
        return str(json.loads(done.out)["health"])
