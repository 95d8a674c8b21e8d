"""
Daemons and commands that are started often.

Most of the time in which a daemon starts, or C{meshkit} does what it is asked, is spent on
importing.  A L{Loaded} is a process that has imported all of it, and becomes a daemon or a
command by fork(2) as often as it is asked; what comes after importing is as ever, with a reactor
of its own, and a kill at a random moment of the start hits that.  That both start without such
help is what C{test_start}, C{test_cli}, the demonstration and the runbook show:
C{Mesh(forked=False)} does without.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

from attrs import define

from tests.process.mesh import PATIENCE, Done, Node, environment

_LOADED: Final = """
import gc, json, os, sys

import click
from twisted.scripts import twistd
import twisted.internet
import twisted.plugin
import twisted.scripts._twistd_unix
from twisted.logger import globalLogBeginner
from twisted.application.twist._twist import Twist

from meshkit.cli import main as command
from meshkit.tap import mesh_node, mesh_relay, mesh_storage
from meshkit.testing.nodes import MemoryMesh

def load(group):
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            load(found)

load(command.cli)
# What is worked out once, such as the schemas of tools, is by now.
mesh = MemoryMesh()
mesh.node("ada").start()
mesh.stop()
# What it has said would be said again by each child that begins to log.
globalLogBeginner._initialBuffer._buffer.clear()
for program in (mesh_node, mesh_relay, mesh_storage):
    program.Options()
# Klein, and what keeps a backup, want a reactor when they are imported.
old = sys.modules.pop("twisted.internet.reactor")
del twisted.internet.reactor
import klein._app
holders = [name for name, module in sys.modules.items() if getattr(module, "reactor", None) is old]
assert holders == ["klein._app"], holders

def become(asked):
    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    for number, (name, flags) in enumerate((
        (asked["stdin"], os.O_RDONLY),
        (asked["stdout"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        (asked["stderr"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    )):
        os.dup2(os.open(name, flags, 0o666), number)
    # What the old reactor had; it is kept, so that nobody closes these numbers once more.
    os.closerange(3, 256)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.argv = asked["argv"]
    if sys.argv[0] == "meshkit":
        command.main()
    elif sys.argv[0] == "twist":
        Twist.main(sys.argv)
    else:
        from twisted.internet import reactor
        assert reactor is not old
        klein._app.reactor = reactor
        twistd.run()

# What is here now stays: children need not look through it, and so not copy it.
gc.collect()
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        pid, status = os.waitpid(asked["wait"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if not answer:
            break
    print(json.dumps(answer), flush=True)
else:
    sys.exit()
become(asked)
"""


class Loaded:
    """The process that becomes others.  It ends with the one that has started it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOADED],
            env=environment(Path(tempfile.gettempdir())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **question: Any) -> Any:
        """@raise AssertionError: if it has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError(f"the loaded process ended with {self._process.wait()}")
        return json.loads(answer)


@define(eq=False)
class Forked:
    """One child of it: the part of L{subprocess.Popen} that is used of one here."""

    loaded: Loaded
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.loaded.ask(wait=self.pid)
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        # It is a process of ours, or a zombie, until it was waited for.
        if self.poll() is None:
            os.kill(self.pid, number)


@cache
def _loaded() -> Loaded:
    return Loaded()


def can_be_forked(more: Iterable[str]) -> bool:
    """
    Is nothing of that read before there could be a fork?

    @param more: names of what is added to the environment.
    """
    return not any(name.startswith("PYTHON") for name in more)


def fork_daemon(node: Node, command: Sequence[str], **more: str) -> Forked:
    """
    Make a daemon of the one loaded process that there is.

    @param command: what C{twistd} is told.
    @param more: of its environment.
    """
    loaded = _loaded()
    pid = loaded.ask(
        cwd=str(node.home),
        env=environment(node.home, **more),
        stdin=os.devnull,
        stdout=str(node.log),
        stderr=str(node.log),
        argv=["twistd", "-n", "--pidfile=", *command],
    )
    return Forked(loaded, pid)


def run_forked(
    program: str,
    *arguments: str | Path,
    home: Path,
    stdin: bytes = b"",
    seconds: float = PATIENCE,
    **more: str,
) -> Done:
    """
    Run a program to its end, as L{tests.process.mesh.run} does.

    @param program: C{meshkit}, C{twistd} or C{twist}.
    """
    loaded = _loaded()
    with tempfile.TemporaryDirectory(prefix="meshkit-command-") as name:
        files = {each: Path(name, each) for each in ("stdin", "stdout", "stderr")}
        files["stdin"].write_bytes(stdin)
        pid = loaded.ask(
            cwd=str(home),
            env=environment(home, **more),
            argv=[program, *map(str, arguments)],
            **{each: str(path) for each, path in files.items()},
        )
        process = Forked(loaded, pid)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(pid, signal.SIGKILL)
            process.wait()
            raise
        out, err = (
            files[each].read_bytes().decode("utf-8", "surrogateescape")
            for each in ("stdout", "stderr")
        )
    return Done(code, out, err)
