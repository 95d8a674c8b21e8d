"""A relay and its peers, in memory."""

from __future__ import annotations

from typing import Any, Final

import meshkit_plugins
from meshkit.runtime.registry import discover_parts
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.nodes import Answer, MemoryMesh, MemoryNode

PARTS: Final = frozenset({"registration", "registry", "relays"})


class Mesh:
    """
    @ivar relay: a member relay.
    @ivar address: where it is.
    """

    def __init__(self, config: str = "", parts: frozenset[str] = PARTS) -> None:
        """
        @param config: of the relay.
        @param parts: of all nodes.
        """
        self.mesh = MemoryMesh(latency=0.01)
        self.makers = [each for each in discover_parts(meshkit_plugins) if each.name in parts]
        self.relay = self.node("relay", config, program=MESH_RELAY)
        self.address = self.relay.address

    def node(self, name: str, config: str = "", **more: Any) -> MemoryNode:
        """Make and start a node."""
        node = self.mesh.node(name, config, makers=self.makers, **more)
        node.start()
        return node

    def user(self, name: str, config: str = "") -> MemoryNode:
        """Make and start a node that uses the relay."""
        node = self.node(name, f'[relays]\nuse = ["{self.address}"]\n{config}')
        self.run()
        return node

    def run(self, seconds: float = 1.0) -> None:
        self.mesh.run(seconds)

    def leap(self, seconds: float) -> None:
        """Let much time pass, in leaps of an hour: what is done each second is not done then."""
        end = self.mesh.clock.seconds() + seconds
        while (left := end - self.mesh.clock.seconds()) > 0:
            self.mesh.clock.advance(min(left, 3_600.0))
            self.run(0.5)

    def registered(self) -> list[dict[str, Any]]:
        """@return: what the relay's operator sees."""
        return told(self.relay.ask("GET", "/v1/registry"))


def told(answer: Answer) -> Any:
    """@return: the data of a good answer."""
    assert answer.status in (200, 201), answer.body
    return answer.json["data"]


def relays_of(node: MemoryNode) -> list[dict[str, Any]]:
    """@return: what the owner of a node sees."""
    found: list[dict[str, Any]] = told(node.ask("GET", "/v1/relays"))
    return found
