"""
Nodes start, answer and log no errors, unless their disk is the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from attrs import define

from meshkit.errors import FeedReadOnly, NotReady
from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import Said
    from meshkit.sim.running import Run

__all__ = ["PATIENCE", "Sound"]

#: Seconds within which a door has to answer.
PATIENCE: Final = 60.0

# Actions that make a disk fail, and those that end it: what is free again may still fail.
_TROUBLES: Final = {"fill": "full", "fail-syncs": "failing", "fail-commits": "failing"}
_MENDS: Final = {"free": frozenset({"full"}), "mend": frozenset({"full", "failing"})}
# What a node says while it starts or stops.
_BUSY: Final = frozenset({NotReady.code})
# Bad Gateway and Gateway Timeout: somebody else, whom the node has asked, does not answer.
_OF_OTHERS: Final = frozenset({502, 504})
# Calls that last.
_STREAMS: Final = ("/v1/events", "/mcp")


@define
class _Call:
    at_ns: int
    what: str
    pid: int


class Sound(Invariant):
    """
    A node with a sound disk starts, each call of the door of a running node is answered
    within L{PATIENCE} seconds, and none of them is answered with an error of the node's own;
    publishing succeeds.

    A disk is unsound from the action on that fills it or has it fail; the process that has
    seen that may stay so until it ends.
    """

    name = "sound"

    def __init__(self) -> None:
        # Node -> what is wrong with its disk.
        self._unsound: dict[str, set[str]] = {}
        # Node -> process that has seen an unsound disk.
        self._tainted: dict[str, int] = {}
        self._calls: dict[tuple[str, int], _Call] = {}

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind == "action":
            self._acted(run, host, details["kind"])
        elif kind == "process.begin":
            if self._unsound.get(host):
                self._tainted[host] = details["pid"]
        elif kind == "node.failed":
            node = run.nodes[host]
            if not self._is_tainted(run, host):
                run.violated(self.name, host, f"it has failed: {node.failures[-1]}")
        elif kind == "door.call":
            what = f"{details['method']} {details['target']}"
            if host in run.nodes and not details["target"].startswith(_STREAMS):
                pid = run.nodes[host].process.pid
                self._calls[host, details["number"]] = _Call(run.world.clock.ns, what, pid)
        elif kind in ("door.answer", "door.silence"):
            self._calls.pop((host, details["number"]), None)

    def _acted(self, run: Run, host: str, kind: str) -> None:
        if kind in _TROUBLES:
            self._unsound.setdefault(host, set()).add(_TROUBLES[kind])
            if run.nodes[host].running:
                self._tainted[host] = run.nodes[host].process.pid
        elif kind in _MENDS:
            self._unsound.setdefault(host, set()).difference_update(_MENDS[kind])

    def _is_tainted(self, run: Run, host: str) -> bool:
        return self._tainted.get(host) == run.nodes[host].process.pid

    def healed(self, run: Run) -> None:
        self._unsound.clear()

    def said(self, run: Run, said: Said) -> None:
        if said.answer.status < 400 or said.answer.code in _BUSY:
            return
        if run.liars and said.answer.code == FeedReadOnly.code:
            # Somebody has said that there is more of the feed: so it waits, for a minute.
            return
        path = urlsplit(said.target).path
        published = said.method == "POST" and path.startswith("/v1/publish")
        own = said.answer.status >= 500 and said.answer.status not in _OF_OTHERS
        if (published or own) and not self._is_tainted(run, said.node):
            error = said.answer.json["error"]
            text = f"{said.method} {said.target}: {said.answer.status} {error['code']}: "
            run.violated(self.name, said.node, text + error["message"])

    def sampled(self, run: Run) -> None:
        late_ns = run.world.clock.ns - round(PATIENCE * 10**9)
        for (host, number), call in list(self._calls.items()):
            if call.at_ns > late_ns:
                # They are in the order in which they were made.
                break
            del self._calls[host, number]
            node = run.nodes[host]
            if node.running and node.process.pid == call.pid:
                text = f"no answer in {PATIENCE:.0f} s: {call.what}"
                run.violated(self.name, host, text)
