"""
Nodes of Egregore for the tests in C{test_egregore}, of two kinds: one made of the
independent peer beside this, on real sockets, and Egregore's own program, where
C{MESHKIT_EGREGORE} names one that was built elsewhere.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from tests.interop.egregore_peer import Peer, Replica, id_of, write
from tests.ports import free_ports
from tests.process.mesh import environment, wait_for

VARIABLE: Final = "MESHKIT_EGREGORE"
#: Seconds after which a node of theirs hangs up on silence.
READ_TIMEOUT: Final = 15.0


def program() -> str | None:
    """@return: the path of Egregore's program, if there is one to test with."""
    return os.environ.get(VARIABLE) or None


class StandIn:
    """The independent peer as a node: a listener, a dialler, a feed of its own."""

    def __init__(self, folder: Path, network: str, peers: list[str]) -> None:
        self.seed = os.urandom(32)
        self.id = id_of(self.seed)
        self.network = network
        self._lock = threading.RLock()
        self._feeds: dict[str, dict[int, dict[str, Any]]] = {}
        self._follows: set[str] = set()
        self._topics: list[str] = []
        self._live: list[tuple[Replica, socket.socket]] = []
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads += [threading.Thread(target=self._dial, args=(peer,)) for peer in peers]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(connection, "server")).start()

    def _dial(self, peer: str) -> None:
        host, _, port = peer.rpartition(":")
        while not self._stopping.wait(0.5):
            with self._lock:
                if self._live:
                    continue
            try:
                connection = socket.create_connection((host, int(port)), 10)
            except OSError:
                continue
            self._serve(connection, "client")

    def _serve(self, connection: socket.socket, role: str) -> None:
        peer = Peer(role, self.network, self.seed, os.urandom(32))
        with self._lock:
            replica = Replica(peer, pushes=not self._live)
        replica.feeds = self._feeds
        replica.follows = self._follows or None
        replica.topics = self._topics
        connection.settimeout(READ_TIMEOUT)
        try:
            connection.sendall(peer.take())
            while not peer.ended and not self._stopping.is_set():
                data = connection.recv(65536)
                if not data:
                    break
                with self._lock:
                    connection.sendall(replica.feed(data))
                    if replica.live and (replica, connection) not in self._live:
                        self._live.append((replica, connection))
        except OSError:
            pass
        finally:
            with self._lock:
                if (replica, connection) in self._live:
                    self._live.remove((replica, connection))
            connection.close()

    def publish(self, content: Any) -> int:
        """@return: the sequence of the new message."""
        with self._lock:
            feed = self._feeds.setdefault(self.id, {})
            sequence = len(feed) + 1
            previous = feed[sequence - 1]["hash"] if feed else None
            message = write(self.seed, sequence, previous, content)
            feed[sequence] = message
            for replica, connection in self._live:
                if replica.push(message):
                    connection.sendall(replica.peer.take())
            return sequence

    def feed(self, author: str) -> dict[int, Any]:
        """What it has of a feed: sequence -> content."""
        with self._lock:
            feed = self._feeds.get(author, {})
            return {sequence: message["content"] for sequence, message in feed.items()}

    def follow(self, author: str) -> None:
        with self._lock:
            self._follows.add(author)

    def subscribe(self, topic: str) -> None:
        with self._lock:
            self._topics.append(topic)

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            for _, connection in self._live:
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(READ_TIMEOUT + 5)
        self._listener.close()


class RealNode:
    """Egregore's own program, configured by its C{config.yaml}."""

    def __init__(self, folder: Path, network: str, peers: list[str]) -> None:
        binary = program()
        assert binary is not None
        folder.mkdir(mode=0o700)
        self._http, gossip, discovery = free_ports(3)
        self.place = f"127.0.0.1:{gossip}"
        config = [
            f"data_dir: {folder}",
            f"port: {self._http}",
            f"gossip_port: {gossip}",
            "gossip_bind: 127.0.0.1",
            f"discovery_port: {discovery}",
            "lan_discovery: false",
            "mdns_discovery: false",
            "gossip_interval_secs: 1",
            "push_enabled: true",
            f"network_key: {network}",
            f"peers: {json.dumps(peers)}",
            "metrics:",
            "  enabled: false",
        ]
        (folder / "config.yaml").write_text("\n".join([*config, ""]))
        self._log = folder.with_name(f"{folder.name}.log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "--data-dir", str(folder), "--config", str(folder / "config.yaml")],
                cwd=folder,
                env=environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for("the HTTP port of Egregore", self._answers)
        self.id = str(self._get("/v1/identity")["public_id"])

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"Egregore ended:\n{self._log.read_text()[-3000:]}")
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self._http)) == 0

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._http}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def _get(self, path: str) -> Any:
        return self._call("GET", path)

    def publish(self, content: Any) -> int:
        return int(self._call("POST", "/v1/publish", {"content": content})["sequence"])

    def feed(self, author: str) -> dict[int, Any]:
        found: dict[int, Any] = {}
        path = "/v1/feed/" + urllib.request.quote(author, safe="")  # type: ignore[attr-defined]
        for offset in range(0, 1000, 200):
            page = self._get(f"{path}?limit=200&offset={offset}")
            found |= {message["sequence"]: message["content"] for message in page}
            if len(page) < 200:
                break
        return found

    def follow(self, author: str) -> None:
        path = "/v1/follows/" + urllib.request.quote(author, safe="")  # type: ignore[attr-defined]
        self._call("POST", path, {})

    def subscribe(self, topic: str) -> None:
        self._call("POST", f"/v1/topics/{topic}", {})

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


#: Every kind that there is here.
KINDS: Final[dict[str, Any]] = {"StandIn": StandIn} | ({"Real": RealNode} if program() else {})
