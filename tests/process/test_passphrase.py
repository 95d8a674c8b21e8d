"""A key file under a passphrase: C{meshkit init}, C{meshkit passphrase}, C{twistd}."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.keys import Identity
from tests.identity.test_egregore import FILE as EGREGORE_FILE
from tests.identity.test_egregore import WORDS as EGREGORE_WORDS
from tests.process.mesh import MESHKIT, TWIST, TWISTD, Mesh, Node, environment, wait_for

SEED = bytes(range(32))
WORDS = "nobody writes this in a log"


class PassphraseTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.home = self.mesh.folder / "home"
        self.home.mkdir()
        self.data = self.home / "data"

    def with_fds(self, command: Any, *secrets: str, daemon: bool = False) -> Any:
        """
        Run a program with one pipe per secret, of which it is told where C{{0}}, C{{1}} ...
        stand in its arguments.
        """
        pipes = []
        for secret in secrets:
            read, write = os.pipe()
            os.write(write, secret.encode())
            os.close(write)
            pipes.append(read)
        try:
            return subprocess.run(
                [str(part).format(*pipes) for part in command],
                cwd=self.home,
                env=environment(self.home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                pass_fds=pipes,
                timeout=60,
            )
        finally:
            for pipe in pipes:
                os.close(pipe)

    def meshkit(self, *arguments: str, secrets: tuple[str, ...] = (), code: int = 0) -> Any:
        done = self.with_fds((*MESHKIT, "-d", str(self.data), *arguments), *secrets)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def sealed(self) -> Any:
        return json.loads((self.data / "secret.key").read_text())["version"] == 2


class CommandTests(PassphraseTestCase):
    def test_made_changed_and_removed(self) -> None:
        made = self.meshkit("init", "--passphrase-fd", "{0}", "--json", secrets=("one\n",))
        public = json.loads(made.stdout)["public_id"]
        self.assertTrue(json.loads(made.stdout)["passphrase"])
        self.assertTrue(self.sealed())
        # What needs no secret asks for none.
        self.assertIn(public, self.meshkit("id").stdout)
        self.assertIn(public, self.meshkit("init").stdout)

        both = ("--passphrase-fd", "{0}", "--new-passphrase-fd", "{1}")
        wrong = self.meshkit("passphrase", *both, secrets=("other", "two"), code=1)
        self.assertIn("[WRONG_PASSPHRASE]", wrong.stderr)
        self.meshkit("passphrase", *both, secrets=("one", "two"))
        self.meshkit("passphrase", *both, secrets=("one", "three"), code=1)
        nobody = self.meshkit("passphrase", code=1)
        self.assertIn("[PASSPHRASE_REQUIRED]", nobody.stderr)
        self.meshkit("passphrase", "--remove", "--passphrase-fd", "{0}", secrets=("two",))
        self.assertFalse(self.sealed())
        self.assertIn("[CONFIG_INVALID]", self.meshkit("passphrase", "--remove", code=1).stderr)
        self.meshkit("passphrase", "--new-passphrase-fd", "{0}", secrets=("three",))
        self.assertTrue(self.sealed())
        self.assertIn(public, self.meshkit("id").stdout)

    def test_what_is_no_passphrase(self) -> None:
        for secret in ("", "\n", "x" * 1025):
            refused = self.meshkit("init", "--passphrase-fd", "{0}", secrets=(secret,), code=1)
            self.assertIn("[CONFIG_INVALID]", refused.stderr)
        refused = self.meshkit("init", "--passphrase-fd", "99", code=1)
        self.assertIn("file descriptor 99", refused.stderr)
        self.assertIn("[PASSPHRASE_REQUIRED]", self.meshkit("init", "--passphrase", code=1).stderr)
        # Nothing was made half.
        self.assertFalse((self.data / "secret.key").exists())

    def test_an_identity_that_is_there_is_not_sealed_by_init(self) -> None:
        self.meshkit("init")
        refused = self.meshkit("init", "--passphrase-fd", "{0}", secrets=("one",), code=1)
        self.assertIn("meshkit passphrase", refused.stderr)
        self.assertFalse(self.sealed())

    def test_asked_for_on_a_terminal(self) -> None:
        self.on_a_terminal((*MESHKIT, "-d", self.data, "init", "--passphrase"), "one", "one")
        self.assertTrue(self.sealed())
        shown = self.on_a_terminal(
            (*MESHKIT, "-d", self.data, "passphrase"), "wrong", "one", "two", "two"
        )
        self.assertIn("try again", shown)
        for secret in ("one", "two", "wrong\r"):
            self.assertNotIn(f"{secret}\r\n", shown)
        before = (self.data / "secret.key").read_bytes()
        shown = self.on_a_terminal(
            (*MESHKIT, "-d", self.data, "passphrase"), "two", "three", "tree", code=1
        )
        self.assertIn("differ", shown)
        self.assertEqual((self.data / "secret.key").read_bytes(), before)

    def on_a_terminal(self, command: Any, *answers: str, code: int = 0) -> str:
        """Type an answer whenever it asks.  @return: what was on the screen."""
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(self.home)
            os.execve(str(command[0]), [str(part) for part in command], environment(self.home))
        shown = b""
        waiting = list(answers)
        asked = 0
        while True:
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
            if shown.count(b": ") - shown.count(b": cannot") > asked and shown.endswith(b": "):
                asked = shown.count(b": ") - shown.count(b": cannot")
                if waiting:
                    os.write(terminal, waiting.pop(0).encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(status), code, shown)
        self.assertEqual(waiting, [], shown)
        return shown.decode()


class ImportTests(PassphraseTestCase):
    """C{meshkit init --import-egregore}."""

    def file(self, data: bytes, mode: int = 0o600) -> Path:
        path = self.home / "theirs"
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def test_a_raw_seed(self) -> None:
        path = self.file(SEED)
        done = self.meshkit("init", "--import-egregore", str(path))
        self.assertIn(Identity(SEED).public.text, done.stdout)
        self.assertIn("fork", done.stdout)

    def test_an_encrypted_one_stays_encrypted_if_that_is_said(self) -> None:
        path = self.file(EGREGORE_FILE, 0o644)
        arguments = ("--import-egregore", str(path), "--import-passphrase-fd", "{0}")
        wrong = self.meshkit("init", *arguments, secrets=("wrong",), code=1)
        self.assertIn("[WRONG_PASSPHRASE]", wrong.stderr)
        self.assertIn("[PASSPHRASE_REQUIRED]", self.meshkit("init", *arguments[:2], code=1).stderr)
        self.meshkit("init", *arguments, "--passphrase-fd", "{1}", secrets=(EGREGORE_WORDS, "ours"))
        self.assertTrue(self.sealed())
        self.assertIn(Identity(SEED).public.text, self.meshkit("id").stdout)
        again = self.meshkit("init", *arguments, secrets=(EGREGORE_WORDS,), code=1)
        self.assertIn("has the identity", again.stderr)

    def test_what_cannot_be_imported(self) -> None:
        for data, mode, code in (
            (SEED, 0o644, "UNSAFE_PERMISSIONS"),
            (SEED[:-1], 0o600, "INVALID_KEY_FILE"),
            (b"x" * 5000, 0o600, "CONFIG_INVALID"),
        ):
            path = self.file(data, mode)
            refused = self.meshkit("init", "--import-egregore", str(path), code=1)
            self.assertIn(f"[{code}]", refused.stderr)
        self.meshkit("init", "--import-egregore", str(self.home / "nowhere"), code=1)


class DaemonTests(PassphraseTestCase):
    """C{twistd mesh-node} on such a folder."""

    def setUp(self) -> None:
        super().setUp()
        self.node: Node = self.mesh.node("a")
        self.data = self.node.data
        self.meshkit("passphrase", "--new-passphrase-fd", "{0}", secrets=(WORDS,))

    def test_without_a_terminal_it_is_refused_on_the_shell(self) -> None:
        for runner in ((*TWISTD, "-n"), TWISTD, TWIST):
            done = self.with_fds((*runner, *self.node.command()))
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("[PASSPHRASE_REQUIRED]", done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_a_wrong_one_is_refused_on_the_shell(self) -> None:
        command = (*TWISTD, *self.node.command(), "--passphrase-fd", "{0}")
        done = self.with_fds(command, "two")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("[WRONG_PASSPHRASE]", done.stderr)
        self.assertFalse((self.data / "endpoints.json").exists())

    def test_a_daemon_reads_it_before_it_goes_into_the_background(self) -> None:
        pidfile = self.home / "pid"
        log = self.home / "log"
        command = (
            *TWISTD,
            f"--pidfile={pidfile}",
            f"--logfile={log}",
            *self.node.command(),
            "--passphrase-fd",
            "{0}",
        )
        done = self.with_fds(command, f"{WORDS}\nignored")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        pid = int(pidfile.read_text())
        try:
            wait_for("daemon", lambda: (self.data / "endpoints.json").exists())
            self.assertEqual(
                self.node.status["identity"], self.node.good("id").lines[0], log.read_text()
            )
        finally:
            os.kill(pid, 15)
            wait_for("end", lambda: not pidfile.exists())
        self.assertNotIn(WORDS, log.read_text())
