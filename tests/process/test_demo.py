"""
C{meshkit demo}, as a process, in the places it has to survive.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Timer

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[2]
#: Few messages, so that a run is short.
FEW = ("--messages", "2500")
#: Seconds after which a run is killed, and the test fails.
DEADLINE = 120.0


def commands_with(text: str) -> list[str]:
    """The command lines of this machine's processes that hold a text."""
    if not os.path.isdir("/proc/self"):
        lines = subprocess.run(["ps", "-axww", "-o", "command="], capture_output=True, text=True)
        return [line for line in lines.stdout.splitlines() if text in line]
    found = []
    for pid in sorted(name for name in os.listdir("/proc") if name.isdigit()):
        try:
            command = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in command:
            found.append(command.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


class DemoTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meshkit demo "))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.addCleanup(self.check_nothing_left)

    def check_nothing_left(self) -> None:
        self.assertEqual(commands_with(str(self.folder)), [])

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the demo, with a pipe for its output and nothing that it could rely on."""
        process = subprocess.Popen(
            [sys.executable, "-m", "meshkit.cli.main", "demo", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": os.defpath,
                "TMPDIR": str(self.folder),
                "HOME": "/nonexistent",
                "LC_ALL": "C",
                # Meant for somebody's own node, not for those of the demo.
                "MESHKIT_LISTEN": "tcp:1:interface=192.0.2.1",
                **environment,
            },
        )
        timer = Timer(DEADLINE, process.kill)
        timer.start()

        def end() -> None:
            timer.cancel()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

        self.addCleanup(end)
        return process

    def read_until(self, process: subprocess.Popen[str], text: str) -> str:
        """Read output up to a line that holds a text."""
        assert process.stdout is not None
        read = ""
        for line in process.stdout:
            read += line
            if text in line:
                return read
        self.fail(f"{text!r} was never said, but:\n{read}")

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        output, _ = process.communicate()
        return process.returncode, output

    def run_folders(self) -> list[Path]:
        return sorted(self.folder.glob("meshkit-demo-*/run-*"))

    def test_unattended_in_a_pipe_without_a_locale_and_a_home(self) -> None:
        home = self.folder / "home"
        home.mkdir(mode=0o500)
        code, output = self.finish(self.start("--check", *FEW, HOME=str(home)))
        self.assertEqual(code, 0, output)
        self.assertTrue(output.isascii())
        self.assertNotIn("\x1b", output)
        self.assertNotIn("FAILED", output)
        for name in (
            "NETWORK_KEY_REFUSED",
            "SIGNATURE_INVALID",
            "HASH_MISMATCH",
            "STREAM_TAMPERED",
        ):
            self.assertRegex(output, rf"(?m)^ +ok  .* {name}$")
        self.assertRegex(output, r"(?m)^ +ok  Acknowledged messages lost +0$")
        self.assertRegex(output, r"(?m)^ +ok  Killed in mid-sync +with [\d,]+ of [\d,]+ fetched$")
        self.assertRegex(
            output,
            r"(?m)^ +ok  A file from four of six peers +[\d.]+ MB in [\d.]+ s, out [\d.]+ s$",
        )
        self.assertRegex(
            output,
            r"(?m)^ +ok  An audit names the two killed peers +6 shares in [\d.]+ s$",
        )
        self.assertRegex(output, r"(?m)^ +ok  Healed without being opened +2 shares in [\d.]+ s$")
        (went_in,) = re.findall(r"(?m)^ +in +([0-9a-f]{64})$", output)
        (came_out,) = re.findall(r"(?m)^ +out +([0-9a-f]{64})$", output)
        self.assertEqual(went_in, came_out)
        self.assertEqual(self.run_folders(), [])
        self.assertEqual(list(home.iterdir()), [])

    def test_it_stays_up_until_ctrl_c_and_the_commands_work(self) -> None:
        process = self.start(*FEW)
        self.read_until(process, "Ctrl-C")
        assert process.stdout is not None
        commands = [process.stdout.readline().strip() for _ in range(3)]
        for command in commands:
            done = subprocess.run(
                ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60
            )
            self.assertEqual(done.returncode, 0, command + "\n" + done.stderr)
        process.send_signal(signal.SIGINT)
        code, output = self.finish(process)
        self.assertEqual(code, 0, output)
        self.assertEqual(self.run_folders(), [])

    def interrupted(self, number: signal.Signals) -> None:
        process = self.start("--check", *FEW)
        self.read_until(process, "They meet")
        self.assertEqual(len(commands_with(str(self.folder))), 3)
        process.send_signal(number)
        code, output = self.finish(process)
        self.assertEqual(code, 128 + number, output)
        self.assertNotIn("Traceback", output)
        self.check_nothing_left()
        self.assertEqual(self.run_folders(), [])

    def test_ctrl_c_in_the_middle_leaves_nothing(self) -> None:
        self.interrupted(signal.SIGINT)

    def test_an_end_by_sigterm_leaves_nothing(self) -> None:
        self.interrupted(signal.SIGTERM)

    def test_a_closed_terminal_leaves_nothing(self) -> None:
        self.interrupted(signal.SIGHUP)

    def test_a_reader_that_leaves_ends_it(self) -> None:
        process = self.start("--check", *FEW)
        self.read_until(process, "Three strangers")
        assert process.stdout is not None
        process.stdout.close()
        self.assertEqual(process.wait(DEADLINE), 128 + signal.SIGPIPE)
        self.check_nothing_left()

    def test_what_a_killed_demo_left_is_ended_by_the_next(self) -> None:
        process = self.start("--check", *FEW)
        self.read_until(process, "They meet")
        process.kill()
        process.communicate()
        self.assertEqual(len(commands_with(str(self.folder))), 3)
        code, output = self.finish(self.start("--check", *FEW))
        self.assertEqual(code, 0, output)
        self.assertIn("3 of its processes", " ".join(output.split()))
        self.check_nothing_left()

    def test_a_node_that_dies_is_reported_with_its_log(self) -> None:
        process = self.start(*FEW)
        self.read_until(process, "Ctrl-C")
        (run,) = self.run_folders()
        pid = (run / "children").read_text().split()[0]
        os.kill(int(pid), signal.SIGKILL)
        code, output = self.finish(process)
        self.assertEqual(code, 1, output)
        self.assertIn("the node Ada died (exit status -9)", output)
        # What it did last: it has lost two of the peers that kept a file.
        self.assertRegex(
            output, r'the end of its log:\n( {4}\{"time":.*\n)* {4}\{"time":.*storage/1'
        )
        self.assertIn("[DEMO_FAILED]", output)
        self.check_nothing_left()

    def test_a_folder_that_was_named_is_kept(self) -> None:
        kept = self.folder / "kept"
        code, output = self.finish(self.start("--check", "--folder", str(kept), *FEW))
        self.assertEqual(code, 0, output)
        self.assertTrue((kept / "ada" / "node.db").exists())
        self.assertEqual(self.run_folders(), [])
        code, output = self.finish(self.start("--check", "--folder", str(kept), *FEW))
        self.assertEqual(code, 1)
        self.assertRegex(output, re.escape(str(kept)) + r" is not empty.*\[DEMO_FAILED\]")
