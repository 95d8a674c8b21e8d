"""
What may lie beneath the channel, with real programs: sockets that systemd hands over,
certificates by name, and IPv6.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import PATIENCE, Mesh, Node, environment, run, wait_for

ECHO: Final = Path(__file__).resolve().parents[2] / "examples" / "echo.py"

#: Does what systemd does for a unit with C{ListenStream=}: the program finds a socket
#: that listens as its descriptor 3, and variables that say so.  The number of the port
#: goes to the file that is named first.
SYSTEMD: Final = """
import os, socket, sys
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
with open(sys.argv[1], "w") as file:
    file.write(str(listening.getsockname()[1]))
if listening.fileno() != 3:
    os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="mesh")
os.execv(sys.argv[2], sys.argv[2:])
"""


class SystemdTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a")
        self.port = self.node.home / "port"
        self.systemd = (sys.executable, "-c", SYSTEMD, str(self.port))

    def test_an_echo_on_a_socket_of_systemd(self) -> None:
        """C{shs:} over C{systemd:}, by the socket's index and by its name."""
        other = self.mesh.node("b", network=self.node)
        for which in ("index=0", "name=mesh"):
            self.echo(other, which)

    def echo(self, other: Node, which: str) -> None:
        home, public_id = self.node.home, self.node.good("id").lines[0]
        out = home / f"{which}.out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(*self.systemd, sys.executable, str(ECHO), "serve"),
                    rf"shs:endpoint=systemd\:domain=INET\:{which}:identity=data:network=data",
                ],
                cwd=home,
                env=environment(home),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for("port", lambda: process.poll() is not None or out.stat().st_size > 0)
            # It is the socket it was given, and no other.
            number = self.port.read_text()
            self.assertEqual(out.read_text().strip(), f"listening on port {number}")
            asked = run(
                *(sys.executable, ECHO, "ask"),
                f"shs:host=127.0.0.1:port={number}:identity=data:network=data:peer={public_id}",
                "hello",
                home=other.home,
            )
            self.assertEqual((asked.code, asked.out), (0, "hello\n"), asked.err)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)

    def test_a_node_on_a_socket_of_systemd(self) -> None:
        self.node.prefix = self.systemd
        self.node.start("--listen", "systemd:domain=INET:index=0")
        self.assertEqual(self.node.mesh_port, ("127.0.0.1", int(self.port.read_text())))
        other = self.mesh.node("b", "--peer", self.node.address, network=self.node).start()
        wait_for("link", lambda: self.node.links() == 1 and other.links() == 1)

    def test_without_systemd_it_is_one_line(self) -> None:
        done = run(
            *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
            *("-n", "--pidfile="),
            *self.node.command("--listen", "systemd:domain=INET:index=0"),
            home=self.node.home,
        )
        self.assertEqual(done.code, 1)
        (line,) = done.err.splitlines()
        self.assertIn("systemd gave this process no such socket", line)
        self.assertIn("[CONFIG_INVALID]", line)


class IPv6Tests(SynchronousTestCase):
    """Two nodes that have nothing but IPv6, doors included."""

    def test_addresses_are_written_dialled_asked_and_read(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        local = r"tcp6:0:interface=\:\:1"
        a = mesh.node("a", "--listen", local, "--api", local).start()
        b = mesh.node("b", "--listen", local, "--api", local, network=a).start()
        self.assertRegex(a.address, r"^net:\[::1\]:\d+~shs:\S{44}$")
        self.assertEqual(a.good("id").lines[1], a.address)
        (door,) = a.endpoints["api"]
        self.assertRegex(door, r"^http://\[::1\]:\d+$")
        self.assertIn(door, a.good("status").out)

        # A bare address is asked for its key, however it is spelt.
        bare = a.address.removeprefix("net:").partition("~")[0]
        number = bare.rpartition(":")[2]
        added = b.good("peer", "add", f"[0:0:0::1]:{number}")
        self.assertIn(f"first seen, pinned: {a.good('id').lines[0]}", added.out)
        for where in (bare, f"[::0.0.0.1]:{number}", a.address):
            self.assertEqual(b.good("peer", "dial", where, "--json").json["address"], a.address)
        wait_for("link", lambda: a.status["parts"]["gossip"]["links"])
        text = "written under an address of 128 bits"
        a.good("publish", text)
        wait_for("message", lambda: b.good("search", "128", "--json").json["messages"])
        (peer,) = b.good("peer", "list", "--json").json
        self.assertEqual((peer["address"], peer["connected"]), (a.address, True))
        b.good("peer", "rm", bare)
        self.assertEqual(b.good("peer", "list", "--json").json, [])
