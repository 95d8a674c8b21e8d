"""Real peers that are reached through a real relay."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Node, Shared, environment, wait_for
from tests.process.relays import RelayNode

MIB: Final = 2**20

_SHARED: Final = Shared(lambda mesh: _make(mesh))


def _make(mesh: Any) -> dict[str, Node]:
    relay = RelayNode(mesh.folder / "relay", ())
    relay.home.mkdir()
    mesh._nodes.append(relay)
    relay.good("--relay", "init", "--blind")
    relay.start(
        "--tunnels-stranger-circuit-bytes=4GiB",
        "--tunnels-stranger-daily-bytes=16GiB",
        "--tunnels-stranger-circuit-secs=3600",
    )
    # Nobody but through the relay comes to what listens there.
    hides = ("--listen", "unix:mesh.sock", "--relays-blind", relay.address)
    ada = mesh.node("ada", *hides)
    ben = mesh.node("ben", *hides, network=ada)
    return {"relay": relay, "ada": ada.start(), "ben": ben.start()}


def tearDownModule() -> None:
    _SHARED.close()


def memory(pid: int) -> int:
    """Bytes of a process that are in memory and nobody else's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the process {pid} has no memory of its own")


class TunnelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.nodes: dict[str, Node] = _SHARED.get()
        self.relay = self.nodes["relay"]
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)

    def child(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.process.tunnelling",
                what,
                self.relay.address,
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(self.relay.home, PYTHONPATH=str(Path(__file__).resolve().parents[2])),
        )
        self.stack.callback(child.wait)
        self.stack.callback(child.kill)
        return child

    def heard(self, child: subprocess.Popen[bytes]) -> str:
        stream: IO[bytes] | None = child.stdout
        assert stream is not None
        return stream.readline().decode().strip()

    def tell(self, child: subprocess.Popen[bytes], line: str) -> None:
        assert child.stdin is not None
        child.stdin.write(line.encode() + b"\n")
        child.stdin.flush()

    def carried(self) -> int:
        return int(self.relay.status["parts"]["tunnels"]["carried_bytes"])

    def test_two_nodes_that_nobody_can_dial_have_each_others_feeds(self) -> None:
        ada, ben = self.nodes["ada"], self.nodes["ben"]

        def reached() -> str:
            (shown,) = ada.status["parts"]["tunnel"]["relays"]
            return str(shown["address"]) if shown["reachable"] else ""

        address = wait_for("address of ada", reached)
        self.assertIn(f"{address}", ada.good("status").out)
        ben.good("peer", "add", address)
        dialled = ben.good("peer", "dial", address, "--json").json
        self.assertEqual(
            (dialled["transport"], dialled["public_id"]), ("relay", ada.status["identity"])
        )
        ada.publish({"type": "note", "text": "from behind a router"})
        wait_for("the message at ben", lambda: ben.stored(ada.status["identity"]))
        shown = ben.good("peer", "list", "--json").json
        self.assertEqual([each["transports"] for each in shown], [["relay"]])
        self.assertIn("relay @", ben.good("peer", "connections").out)

        port = self.relay.mesh_port[1]
        self.relay.kill()
        self.relay.start("--listen", f"tcp:{port}:interface=127.0.0.1")
        ada.publish({"type": "note", "text": "the relay was killed"})
        wait_for("the second message", lambda: len(ben.stored(ada.status["identity"])) == 2)

    def test_a_gibibyte_to_a_reader_that_never_reads_takes_no_memory(self) -> None:
        reader = self.child("read")
        writer = self.child("write", self.heard(reader))
        self.assertEqual(self.heard(writer), "ready")
        # What the first circuits take is there from then on.
        self.tell(writer, f"r {32 * MIB}")
        self.assertEqual([self.heard(writer), self.heard(writer)], ["open", "done"])
        assert self.relay.process is not None
        pids = {"relay": self.relay.process.pid, "reader": reader.pid, "writer": writer.pid}
        before = {name: memory(pid) for name, pid in pids.items()}
        began = self.carried()
        self.tell(writer, f"n {1024 * MIB}")
        self.assertEqual((self.heard(writer), self.heard(reader)), ("open", "stuck"))
        seen = [began]

        def stands() -> bool:
            seen.append(self.carried())
            return seen[-1] > began and seen[-3:] == [seen[-1]] * 3

        wait_for("end of what goes through", stands, step=0.3)
        grown = {name: memory(pid) - before[name] for name, pid in pids.items()}
        self.assertLess(max(grown.values()), 2 * MIB, grown)
        self.assertLess(seen[-1] - began, 64 * MIB)
        # The others are not harmed.
        self.tell(writer, f"r {MIB}")
        self.assertEqual([self.heard(writer), self.heard(writer)], ["open", "done"])
