"""Real relays, for the tests of this folder."""

from __future__ import annotations

from attrs import define

from tests.process.mesh import Node

__all__ = ["RelayNode"]


@define(eq=False)
class RelayNode(Node):
    """One that runs C{twistd mesh-relay}: a member of its network, unless told otherwise."""

    def command(self, *arguments: str) -> list[str]:
        _, *others = super().command(*arguments)
        return ["mesh-relay", *others]
