"""
Clients of MCP for the tests of this folder: over standard input and output, as a program that
launches C{meshkit mcp}, and over HTTP.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.process.mesh import MESHKIT, PATIENCE, Node, alive, connect, environment, wait_for

VERSION: Final = "2025-11-25"
HELLO: Final = {
    "protocolVersion": VERSION,
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1"},
}


class Agent:
    """
    What every client does.

    @ivar heard: the notifications that came, in order.
    """

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._number = 0

    def came(self, message: Any) -> None:
        """A message came in, on any thread."""
        if "id" in message and "method" not in message:
            self._answers.put(message)
        else:
            self.heard.append(message)

    def send(self, message: Any) -> None:
        raise NotImplementedError

    def notify(self, method: str, **params: Any) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def begin(self, method: str, **params: Any) -> int:
        """Ask and do not wait.  @return: the id."""
        self._number += 1
        self.send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        return self._number

    def answer(self, id: int, seconds: float = PATIENCE) -> Any:
        """Wait for one answer; those to other questions are not expected meanwhile."""
        try:
            message = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no answer to {id} in {seconds:g} s") from None
        if message["id"] != id:
            raise AssertionError(f"this is no answer to {id}: {message}")
        return message

    def ask(self, method: str, **params: Any) -> Any:
        """@return: the result."""
        message = self.answer(self.begin(method, **params))
        if "result" not in message:
            raise AssertionError(f"{method} was refused: {message}")
        return message["result"]

    def shake_hands(self) -> Any:
        welcome = self.ask("initialize", **HELLO)
        self.notify("notifications/initialized")
        return welcome

    def call(self, name: str, **arguments: Any) -> Any:
        """@return: what the tool answers with."""
        result = self.ask("tools/call", name=name, arguments=arguments)
        if result.get("isError"):
            raise AssertionError(f"{name} refused: {result}")
        return result["structuredContent"]

    @property
    def tools(self) -> list[str]:
        """The names of all tools, over all pages."""
        names: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.ask("tools/list", **cursor)
            names += [tool["name"] for tool in page["tools"]]
            if "nextCursor" not in page:
                return names
            cursor = {"cursor": page["nextCursor"]}

    def wait_told(self, method: str) -> Any:
        """Wait for a notification, and forget all that came."""

        def look() -> Any:
            return next((each for each in self.heard if each["method"] == method), None)

        found = wait_for(f"notification {method}", look)
        self.heard.clear()
        return found


class StdioAgent(Agent):
    """
    A client that launches C{meshkit mcp}.

    @ivar process: that.
    @ivar lines: all that it wrote to its standard output.
    """

    def __init__(
        self,
        node: Node,
        *arguments: str,
        command: Sequence[str] = MESHKIT,
        read: bool = True,
        **more: str,
    ) -> None:
        """@param read: begin to read what it writes."""
        super().__init__()
        self.lines: list[bytes] = []
        self.errors = node.home / f"mcp-{time.monotonic_ns()}.err"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(node.data), "mcp", *arguments],
                cwd=node.home,
                env=environment(node.home, **more),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        if read:
            self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self.came(json.loads(line))

    def send(self, message: Any) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hang_up(self) -> int:
        """Close its input.  @return: its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.wait()

    def wait(self) -> int:
        """@return: its exit code; all that it wrote has been read."""
        code = self.process.wait(PATIENCE)
        if self._reader.ident is not None:
            self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """Kill it and its process group, as a client that is closed may do."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                # What was not written yet is lost.
                with suppress(OSError):
                    pipe.close()

    @property
    def said(self) -> str:
        """What it wrote to its standard error."""
        return self.errors.read_text(encoding="utf-8", errors="replace")


class HttpAgent(Agent):
    """A client that speaks HTTP to the door, with a stream open for notifications."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._session: str | None = None
        self._stream: socket.socket | None = None

    def send(self, message: Any) -> None:
        more: dict[str, str | None] = {"Accept": "application/json, text/event-stream"}
        if self._session is not None:
            more |= {"Mcp-Session-Id": self._session, "MCP-Protocol-Version": VERSION}
        answer = self._node.ask("POST", "/mcp", json.dumps(message).encode(), **more)
        if answer.status == 202:
            return
        self._session = answer.headers.get("mcp-session-id", self._session)
        self.came(answer.json)

    def listen(self) -> None:
        """Open the stream."""
        assert self._session is not None
        self._stream = connect(self._node.door)
        more: dict[str, str | None] = {
            "Accept": "text/event-stream",
            "Mcp-Session-Id": self._session,
            "MCP-Protocol-Version": VERSION,
        }
        self._stream.sendall(self._node.request("GET", "/mcp", **more))
        threading.Thread(target=self._read, args=(self._stream,), daemon=True).start()

    def _read(self, stream: socket.socket) -> None:
        with suppress(OSError), stream.makefile("rb") as file:
            for line in file:
                if line.startswith(b"data:") and line[5:].strip():
                    self.came(json.loads(line[5:]))

    def close(self) -> None:
        if self._stream is not None:
            self._stream.shutdown(socket.SHUT_RDWR)
            self._stream.close()


def holder(node: Node) -> int:
    """@return: the process that holds a node's folder; 0 if none does."""
    try:
        pid = int((node.data / "lock").read_text() or "0")
    except (FileNotFoundError, ValueError):
        return 0
    return pid if pid and alive(pid) else 0


def daemons(node: Node) -> list[int]:
    """@return: every process that runs C{mesh-node} on a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"mesh-node" in words and str(node.data).encode() in words:
                found.append(int(path.parent.name))
    return sorted(pid for pid in found if alive(pid))


def end_daemon(node: Node, number: signal.Signals = signal.SIGKILL) -> None:
    """End a node that runs in the background."""
    for pid in daemons(node):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    wait_for("end of the daemon", lambda: not daemons(node))


def resident(pid: int) -> int:
    """@return: bytes that a process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid} has no memory")
