"""
C{twistd} as a daemon, C{twistd -n} and C{twist}: each starts a node, stops it in good
order, and says in one line why it does not start.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.process.forking import can_be_forked, run_forked
from tests.process.mesh import (
    TWIST,
    TWISTD,
    Done,
    Mesh,
    Node,
    alive,
    environment,
    run,
    wait_for,
)

#: Seconds in which a daemon that was refused has to be gone.
ENDING: Final = 5.0


@frozen
class Form:
    """A way of running the daemon."""

    name: str
    program: tuple[str, ...]
    options: tuple[str, ...] = ()
    daemon: bool = False

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.program, *self.options)

    def try_to_start(self, node: Node, *arguments: str, home: Path, **more: str) -> Done:
        """Without a process of its own from the beginning, where that makes no difference."""
        command = node.command(*arguments)
        if can_be_forked(more):
            program, *_ = self.name.split()
            return run_forked(program, *self.options, *command, home=home, **more)
        return run(*self.command, *command, home=home, **more)


FORMS = (
    Form("twistd", TWISTD, ("--pidfile=daemon.pid", "--logfile=daemon.log"), daemon=True),
    Form("twistd -n", TWISTD, ("-n", "--pidfile=")),
    Form("twist", TWIST),
)


class StartTests(SynchronousTestCase):
    """Three ways to run a node."""

    def setUp(self) -> None:
        self.mesh = Mesh(forked=False)
        self.addCleanup(self.mesh.close)

    def check_life(self, node: Node, pid: int, ended: Callable[[], bool]) -> None:
        """A running node works, and leaves nothing when it is ended."""
        try:
            node.wait_ready()
            published = node.good("publish", "hello", "--json").json
            self.assertEqual(published["sequence"], 1)
            self.assertEqual((node.data / "lock").read_text(), f"{pid}\n")
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_for(f"end of {pid}", ended)
        self.assertFalse((node.data / "endpoints.json").exists())
        # The lock is given back: the next one can have it, and finds what was published.
        node.start()
        self.assertEqual(
            [text["content"]["text"] for text in node.get("/v1/feed?include_self=true")],
            ["hello"],
        )
        node.stop()

    def test_twistd_as_a_daemon(self) -> None:
        node = self.mesh.node("a")
        (form, *_) = FORMS
        done = run(*form.command, *node.command(), home=node.home)
        # The shell has it back, with nothing said: the daemon runs.
        self.assertEqual(done, Done(0, "", ""))
        pid = int((node.home / "daemon.pid").read_text())

        self.check_life(node, pid, lambda: not alive(pid))
        self.assertFalse((node.home / "daemon.pid").exists())
        self.assertNotIn("Traceback", (node.home / "daemon.log").read_text())

    def check_foreground(self, form: Form) -> None:
        node = self.mesh.node("a")
        with node.log.open("wb") as log:
            process = subprocess.Popen(
                [*form.command, *node.command()],
                cwd=node.home,
                env=environment(node.home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.check_life(node, process.pid, lambda: process.poll() is not None)
        # Twisted ends itself by the signal it was given, once all is stopped.
        self.assertEqual(process.returncode, -signal.SIGTERM)
        self.assertNotIn("Traceback", node.log.read_text())

    def test_twistd_in_the_foreground(self) -> None:
        self.check_foreground(FORMS[1])

    def test_twist(self) -> None:
        self.check_foreground(FORMS[2])


class _Refusals(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh(forked=False)
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a")

    def refused(self, code: str, *arguments: str, **more: str) -> list[str]:
        """
        Try to start it in each way.

        @return: the line of each, without the command's name and the code.
        """
        reasons = []
        for form in FORMS:
            home = self.node.home / form.name
            home.mkdir(exist_ok=True)
            try:
                done = form.try_to_start(self.node, *arguments, home=home, **more)
            finally:
                self.end_daemon(home / "daemon.pid")
            shown = f"{form.name}: {done}"
            self.assertEqual(done.code, 1, shown)
            ours = [line for line in done.err.splitlines() if line.startswith("mesh-node: ")]
            self.assertEqual(len(ours), 1, shown)
            self.assertTrue(ours[0].endswith(f" [{code}]"), shown)
            # One line, complete, and no traceback anywhere that people look.
            self.assertNotIn("Traceback", done.out + done.err, shown)
            if form.daemon:
                # twistd's own parent adds a line of its own, if the fork came first.
                others = [line for line in done.err.splitlines() if line not in ours]
                for line in others:
                    self.assertRegex(line, "^(An error has occurred: |Please look at log file)")
                log = home / "daemon.log"
                if log.exists():
                    events = map(json.loads, log.read_text().splitlines())
                    self.assertIn(ours[0], [event["message"] for event in events], shown)
            reasons.append(ours[0].removeprefix("mesh-node: ").removesuffix(f" [{code}]"))
        return reasons

    def end_daemon(self, pid_file: Path) -> None:
        """A daemon that did start is a failure, and must not outlive it."""
        try:
            pid = int(pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return
        try:
            # The shell may have its answer before the daemon has come to its own end.
            wait_for(f"end of {pid}", lambda: not alive(pid), seconds=ENDING)
        except AssertionError:
            os.kill(pid, signal.SIGKILL)
            wait_for(f"end of {pid}", lambda: not alive(pid))
            self.fail("it started")

    def assert_all_say(self, reasons: list[str], *parts: str) -> None:
        for reason in reasons:
            for part in parts:
                self.assertIn(part, reason)


class RefusalTests(_Refusals):
    """A node that cannot start says why: one line on the shell, exit code 1."""

    def test_a_second_daemon_on_the_folder(self) -> None:
        self.node.start()
        assert self.node.process is not None
        reasons = self.refused("DATA_FOLDER_LOCKED")
        self.assert_all_say(
            reasons, str(self.node.data), f"in use by process {self.node.process.pid}"
        )
        # The first one does not mind.
        self.node.good("publish", "still here")
        self.assertEqual(self.node.stop(), -signal.SIGTERM)

    def test_a_mesh_port_that_is_in_use(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            text = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            reasons = self.refused("CANNOT_LISTEN", "--listen", text)
        self.assert_all_say(reasons, repr(text), "Address already in use", "--listen")
        # Nothing is left of the attempt: the folder is free.
        self.node.start()
        self.node.stop()

    def test_a_door_port_that_is_in_use(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            text = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            reasons = self.refused("CANNOT_LISTEN", "--api", text)
        self.assert_all_say(reasons, repr(text), "Address already in use", "--api")

    def test_an_address_that_is_not_this_machines(self) -> None:
        # 192.0.2.0/24 is nobody's: RFC 5737.
        reasons = self.refused("CANNOT_LISTEN", "--listen", "tcp:0:interface=192.0.2.1")
        self.assert_all_say(reasons, "192.0.2.1", "--listen")

    def test_a_port_that_is_a_name(self) -> None:
        reasons = self.refused("CONFIG_INVALID", "--listen", "tcp:http-ish")
        self.assert_all_say(reasons, "listen", "'tcp:http-ish'", "tcp:7655")

    def test_a_port_beyond_the_last(self) -> None:
        reasons = self.refused("CANNOT_LISTEN", "--listen", "tcp:70000:interface=127.0.0.1")
        self.assert_all_say(reasons, "'tcp:70000:interface=127.0.0.1'", "--listen")

    def test_an_endpoint_that_does_not_exist(self) -> None:
        reasons = self.refused("CONFIG_INVALID", "--api", "carrier-pigeon:7")
        self.assert_all_say(reasons, "api", "'carrier-pigeon:7'", "tcp:7654:interface=127.0.0.1")

    def test_a_unix_socket_in_a_folder_that_is_not_there(self) -> None:
        reasons = self.refused("CANNOT_LISTEN", "--api", "unix:/nowhere/at/all/door")
        self.assert_all_say(
            reasons, "'unix:/nowhere/at/all/door' (No such file or directory)", "--api"
        )

    def used(self) -> Path:
        """The node's database, with a message in it."""
        self.node.start()
        self.node.publish("before")
        self.node.stop()
        return self.node.database

    def check_untouched(self, code: str, *said: str) -> None:
        """The database is refused, and byte for byte as it was."""
        before = {
            path.name: path.read_bytes()
            for path in sorted(self.node.data.glob("node.db*"))
            if path.is_file()
        }
        times = {name: (self.node.data / name).stat().st_mtime_ns for name in before}
        self.assert_all_say(self.refused(code), str(self.node.database), *said)
        after = {path.name: path.read_bytes() for path in sorted(self.node.data.glob("node.db*"))}
        self.assertEqual(before.keys(), after.keys())
        self.assertEqual(before, after)
        self.assertEqual(
            times, {name: (self.node.data / name).stat().st_mtime_ns for name in after}
        )

    def test_a_newer_database(self) -> None:
        with closing(sqlite3.connect(self.used())) as connection:
            connection.execute("PRAGMA user_version = 77")
            connection.commit()
        self.check_untouched("NEWER_SCHEMA", "77", "upgrade meshkit")

    def test_a_part_whose_tables_are_newer(self) -> None:
        with closing(sqlite3.connect(self.used())) as connection:
            connection.execute("UPDATE schema_version SET version = 99 WHERE part = 'feed'")
            connection.commit()
        self.check_untouched("NEWER_SCHEMA", "feed", "99", "upgrade meshkit")

    def test_a_newer_folder(self) -> None:
        self.used()
        (self.node.data / "format").write_text("2\n")
        reasons = self.refused("NEWER_SCHEMA")
        self.assert_all_say(reasons, str(self.node.data), "format 2", "upgrade meshkit")

    def test_a_database_whose_header_is_damaged(self) -> None:
        path = self.used()
        data = bytearray(path.read_bytes())
        data[:64] = b"\xee" * 64
        path.write_bytes(data)
        self.check_untouched("NOT_A_DATABASE")

    def test_a_database_that_was_cut_off(self) -> None:
        path = self.used()
        path.write_bytes(path.read_bytes()[:5000])
        self.check_untouched("NOT_A_DATABASE")

    def test_a_database_of_another_program(self) -> None:
        with closing(sqlite3.connect(self.node.database)) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
            connection.commit()
        self.check_untouched("NOT_A_DATABASE")

    def test_a_key_that_others_can_read(self) -> None:
        key = self.node.data / "secret.key"
        key.chmod(0o644)
        reasons = self.refused("UNSAFE_PERMISSIONS")
        self.assert_all_say(reasons, str(key), "0644", "chmod 600")

    def test_a_folder_that_others_can_enter(self) -> None:
        self.node.data.chmod(0o755)
        reasons = self.refused("UNSAFE_PERMISSIONS")
        self.assert_all_say(reasons, str(self.node.data), "0755", "chmod 700")

    def test_a_key_file_that_is_no_key(self) -> None:
        key = self.node.data / "secret.key"
        key.write_text("hello\n")
        self.assert_all_say(self.refused("INVALID_KEY_FILE"), str(key))

    def test_a_stored_network_that_was_cut_off(self) -> None:
        secret = self.node.data / "network.secret"
        secret.write_bytes(secret.read_bytes()[:20])
        self.assert_all_say(self.refused("INVALID_NETWORK_SECRET"), str(secret))

    def test_an_unknown_key_in_the_file(self) -> None:
        (self.node.data / "meshkit.toml").write_text('lissen = "tcp:0"\n')
        reasons = self.refused("CONFIG_INVALID")
        self.assert_all_say(
            reasons, "lissen", "did you mean listen?", str(self.node.data / "meshkit.toml")
        )

    def test_an_unknown_key_of_a_part(self) -> None:
        (self.node.data / "meshkit.toml").write_text("[gossip]\nintervall = 3\n")
        self.assert_all_say(self.refused("CONFIG_INVALID"), "gossip.intervall", "gossip.interval")

    def test_a_file_that_is_not_toml(self) -> None:
        (self.node.data / "meshkit.toml").write_text("listen: tcp:0\n")
        self.assert_all_say(
            self.refused("CONFIG_INVALID"), str(self.node.data / "meshkit.toml"), "line 1"
        )

    def test_an_unknown_variable(self) -> None:
        reasons = self.refused("CONFIG_INVALID", MESHKIT_GOSSIP_INTERVALL="3")
        self.assert_all_say(reasons, "MESHKIT_GOSSIP_INTERVALL", "MESHKIT_GOSSIP_INTERVAL")

    def test_a_peer_without_its_port(self) -> None:
        reasons = self.refused("INVALID_ADDRESS", "--peer", "192.0.2.7")
        self.assert_all_say(reasons, "192.0.2.7", "net:HOST:PORT~shs:KEY", "meshkit id")

    def test_a_misspelt_network_secret(self) -> None:
        good = self.node.network_secret
        wrong = good[:-1] + ("a" if good[-1] != "a" else "b")
        for reason in self.refused("INVALID_NETWORK_SECRET", "--network-key", wrong):
            # A secret that is nearly right is nearly the secret.
            self.assertNotIn(wrong[8:], reason)

    def test_a_part_to_leave_out_that_does_not_exist(self) -> None:
        (line, *_) = self.refused("CONFIG_INVALID", "--disable", "gosip")
        self.assertIn("did you mean 'gossip'?", line)

    def test_a_file_where_the_folder_should_be(self) -> None:
        shutil.rmtree(self.node.data)
        self.node.data.write_text("hello")
        self.assert_all_say(self.refused("CONFIG_INVALID"), str(self.node.data), "Not a directory")

    def test_what_is_said_is_the_same_in_every_form(self) -> None:
        (self.node.data / "meshkit.toml").write_text("workers = 1000\n")
        reasons = self.refused("CONFIG_INVALID")
        self.assertEqual(len(set(reasons)), 1)
        self.assertIn("workers", reasons[0])
        self.assertNotIn("\n", json.dumps(reasons[0]))


#: A drop-in of somebody else's.
CONTRIB = """
from meshkit.parts import PartMaker

plugin = PartMaker("contrib", "contrib_part")
"""

#: The part it names, with a place for what is wrong with it.
PART = """
import msgspec
from twisted.internet.defer import Deferred, fail
from meshkit.errors import StorageFailed
from meshkit.parts import Part

class Config(msgspec.Struct, frozen=True):
    pass

MIGRATIONS = ()

class Contrib(Part):
    pass

def make_part(context):
    return Contrib()
"""


class StrangerTests(_Refusals):
    """A part of somebody else's that does not work is named, and keeps the node from starting."""

    def setUp(self) -> None:
        super().setUp()
        self.contrib = self.node.home / "contrib"
        (self.contrib / "meshkit_plugins").mkdir(parents=True)
        (self.contrib / "meshkit_plugins" / "contrib.py").write_text(CONTRIB)

    def part_refused(self, code: str, wrong: str, *parts: str) -> None:
        (self.contrib / "contrib_part.py").write_text(PART + wrong)
        reasons = self.refused(code, PYTHONPATH=str(self.contrib))
        self.assert_all_say(reasons, "contrib", *parts)

    def test_one_that_works(self) -> None:
        (self.contrib / "contrib_part.py").write_text(PART)
        self.node.start(more={"PYTHONPATH": str(self.contrib)})
        self.assertEqual(self.node.stop(), -signal.SIGTERM)

    def test_one_that_cannot_be_imported(self) -> None:
        self.part_refused("PART_BROKEN", "import no_such_module", "no_such_module")

    def test_one_that_cannot_be_made(self) -> None:
        self.part_refused(
            "PART_BROKEN", "def make_part(context): raise KeyError('oops')", "KeyError", "oops"
        )

    def test_one_whose_tables_cannot_be_made(self) -> None:
        self.part_refused("MIGRATION_FAILED", "MIGRATIONS = ('CREATE TABEL contrib_x (y);',)")

    def test_one_that_fails_to_start(self) -> None:
        """By then a daemon has forked and the shell is gone: it is in the log."""
        (self.contrib / "contrib_part.py").write_text(
            PART
            + "Contrib.startService = lambda self: fail(StorageFailed('the disk of contrib'))\n"
        )
        line = "mesh-node: the disk of contrib [STORAGE_FAILED]"
        for form in FORMS:
            if form.daemon:
                continue
            done = run(
                *form.command,
                *self.node.command(),
                home=self.node.home,
                PYTHONPATH=str(self.contrib),
            )
            self.assertEqual(done.code, 1, done)
            self.assertIn(line, done.err.splitlines())
            self.assertNotIn("Traceback", done.out + done.err)
        self.assertFalse((self.node.data / "endpoints.json").exists())


class EndTests(SynchronousTestCase):
    """SIGTERM finds a node anywhere in its start."""

    def setUp(self) -> None:
        self.mesh = Mesh(forked=False)
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a")

    def test_ended_while_it_starts(self) -> None:
        rng = random.Random(8)

        def locked() -> bool:
            return (self.node.data / "lock").exists() and (
                self.node.data / "lock"
            ).read_text().strip() == str(process.pid)

        for _ in range(8):
            self.node.spawn()
            process = self.node.process
            assert process is not None
            # From here on it is ours to stop; before, Twisted has not yet begun to listen
            # to signals.
            wait_for("lock", locked, step=0.001)
            end = time.monotonic() + rng.uniform(0, 0.05)
            while time.monotonic() < end:
                pass
            self.assertEqual(self.node.stop(), -signal.SIGTERM)
            self.assertNotIn("Traceback", self.node.log.read_text())
        self.node.start()
        self.node.publish("well")
        self.node.stop()
