"""
No key is used where another one has to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["Fresh"]

# The first 64 bytes of each direction: a MAC, and the public half of a key made for it.
_HELLO: Final = 64
_MAC: Final = 32
# Less than this is a nonce that has gone round to its beginning.
_AROUND: Final = 2**32


class Fresh(Invariant):
    """
    Every connection has ephemeral keys of its own, on both sides, as whoever watches the wire
    can see; and the nonce of a connection only grows, so that no key stream is used twice.

    Nonces are read from the open links of each node, now and then.
    """

    name = "fresh"

    def __init__(self) -> None:
        # Public ephemeral key -> who has sent it.
        self._keys: dict[bytes, str] = {}
        # Flow -> what came first; nothing any more, once that was enough.
        self._begun: dict[tuple[str, str, int, int], bytes | None] = {}
        # Node -> link -> its last nonce.
        self._nonces: dict[str, dict[Any, int]] = {}

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind != "net.data":
            return
        flow = (details["source"], host, *details["ports"])
        before = self._begun.get(flow, b"")
        if before is None:
            return
        begun = before + details["data"]
        if len(begun) < _HELLO:
            self._begun[flow] = begun
            return
        self._begun[flow] = None
        key = begun[_MAC:_HELLO]
        sender = details["source"]
        if key in self._keys and sender in run.nodes:
            text = f"an ephemeral key is used twice: {key.hex()}, first by {self._keys[key]}"
            run.violated(self.name, sender, text)
        self._keys[key] = sender

    def sampled(self, run: Run) -> None:
        for node in run.nodes.values():
            if node.ready:
                self._look(run, node)

    def _look(self, run: Run, node: SimNode) -> None:
        service: Any = node.service
        gossip = service._parts.get("gossip")
        if gossip is None:
            return
        before, now = self._nonces.get(node.name, {}), {}
        for link in gossip._links:
            boxer = link._channel._boxer
            if boxer is None:
                continue
            now[link] = nonce = boxer._counter
            # After the last one comes 0.
            if nonce < before.get(link, 0) and nonce > _AROUND:
                text = f"a nonce was used again in the connection with {link.connected_to.text}"
                run.violated(self.name, node.name, text)
        self._nonces[node.name] = now
