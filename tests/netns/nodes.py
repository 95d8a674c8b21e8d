"""Real nodes on these hosts, and what they have to do with one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from tests.netns.hosts import Host, Internet
from tests.process.mesh import Mesh, Node, Shared

T = TypeVar("T")

#: Where all of them listen.
PORT: Final = 7655


def node_on(host: Host, mesh: Mesh, *arguments: str, network: Node | None = None) -> Node:
    """
    @param network: a node of the network that it joins; one of its own without it.
    @return: a node on a host, not started; it listens at all of its addresses.
    """
    node = mesh.node(host.name, "--listen", f"tcp:{PORT}", *arguments, network=network)
    # The door is where the tests reach it: files are the same on all hosts.
    node.arguments = (*node.arguments, "--api", f"unix:{node.data / 'door.sock'}")
    node.prefix = host.prefix
    return node


def key_of(node: Node) -> str:
    """@return: as it stands in an address."""
    public_id: str = node.status["identity"]
    return public_id[1:].removesuffix(".ed25519")


def at(node: Node, host: str, port: int = PORT) -> str:
    """@return: what somebody dials who reaches a node there."""
    return f"net:{host}:{port}~shs:{key_of(node)}"


def told(node: Node) -> list[str]:
    """Where a node tells others to dial it."""
    found: list[str] = node.status["advertised"]
    return found


def dial(node: Node, address: str) -> Any:
    """Have a node dial an address, or fail."""
    return node.good("peer", "dial", address, "--json").json


class World(Generic[T]):
    """What the tests of one module share.  A module calls L{close} in its C{tearDownModule}."""

    def __init__(self, make: Callable[[Mesh, Internet], T]) -> None:
        """@param make: called by the first that needs it."""
        self._internet: Internet | None = None
        self._make = make
        self._shared = Shared(self._begin)

    def _begin(self, mesh: Mesh) -> T:
        self._internet = Internet()
        return self._make(mesh, self._internet)

    def get(self) -> T:
        """@return: what C{make} has made."""
        try:
            made: T = self._shared.get()
        except BaseException:
            self.close()
            raise
        return made

    def close(self) -> None:
        """End the nodes, and then their hosts."""
        self._shared.close()
        internet, self._internet = self._internet, None
        if internet is not None:
            internet.close()
