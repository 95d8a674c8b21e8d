"""
Daemons that are started often.

Most of the second and a half in which a daemon starts is spent on importing.  A L{Loaded} is a
process that has imported all of it, and makes a daemon by fork(2) as often as it is asked; what
comes after importing is as ever, with a reactor of its own, and a kill at a random moment of the
start hits that.  Where many are started, C{Mesh(forked=True)} spares that time; that a daemon
starts without such help is what the other tests show.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

from attrs import define

from tests.process.mesh import PATIENCE, Node, environment

_LOADED: Final = """
import json, os, sys

from twisted.scripts import twistd
import twisted.internet
import twisted.scripts._twistd_unix

from meshkit.tap import mesh_node

mesh_node.Options()
# Klein wants a reactor when it is imported.
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
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # What the old reactor had; it is kept, so that nobody closes these numbers once more.
    os.closerange(3, 256)
    sys.argv = asked["argv"]
    from twisted.internet import reactor
    assert reactor is not old
    klein._app.reactor = reactor
    twistd.run()

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
    """The process that becomes daemons.  It ends with the one that has started it."""

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
    """One daemon: the part of L{subprocess.Popen} that is used of one here."""

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


def fork_daemon(node: Node, command: Sequence[str], env: Mapping[str, str]) -> Forked:
    """
    Make a daemon of the one loaded process that there is.

    @param command: what C{twistd} is told.
    """
    loaded = _loaded()
    argv = ["twistd", "-n", "--pidfile=", *command]
    pid = loaded.ask(cwd=str(node.home), env=dict(env), log=str(node.log), argv=argv)
    return Forked(loaded, pid)
