"""
The daemons: of which parts each is made, with which settings, and where it keeps its data.

All of them are a L{NodeService <meshkit.services.node.NodeService>}.  What is here is what
C{twistd} and the command line have to know alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from attrs import evolve, field, frozen

from meshkit.runtime.folder import DataFolder
from meshkit.services.config import NodeConfig, RelayConfig, StorageConfig

#: What a relay does for whoever comes, if it knows their network or not.
_SERVING: Final = frozenset({"mailboxes", "relay_door", "tunnels"})
#: What it does as a member of a network besides.
_SERVING_MEMBERS: Final = frozenset({"forwarding", "registry"})


@frozen
class Program:
    """
    One daemon.

    @ivar config: its settings.  They name its command: L{NodeConfig.program}.
    @ivar folder: name of its data folder, beside those of others, if the user chooses none.
    @ivar parts: names of those it may have; L{None}: all that are installed.
    @ivar without: names of those it never has.
    @ivar for_members: names of those it has only as a member of its network: a blind relay
        is none.
    @ivar defaults: (part, setting, default) of those whose defaults differ; these are made by
        L{PartMaker}s.
    """

    config: type[NodeConfig]
    folder: str
    parts: frozenset[str] | None = field(default=None)
    without: frozenset[str] = field(default=frozenset())
    for_members: frozenset[str] = field(default=frozenset())
    defaults: tuple[tuple[str, str, Any], ...] = field(default=())

    @property
    def command(self) -> str:
        """What it is called as an argument of C{twistd}."""
        return self.config.program

    def parts_of(self, installed: Iterable[Any]) -> list[Any]:
        """
        @param installed: L{IMeshProtocol <meshkit.interfaces.IMeshProtocol>} providers.
        @return: those of them that are its parts, and so have settings.
        """
        return [
            self._with_defaults(each)
            for each in installed
            if (self.parts is None or each.name in self.parts) and each.name not in self.without
        ]

    def _with_defaults(self, maker: Any) -> Any:
        defaults = tuple(
            (setting, default) for part, setting, default in self.defaults if part == maker.name
        )
        return evolve(maker, defaults=defaults) if defaults else maker

    def parts_for(self, config: NodeConfig, installed: Iterable[Any]) -> list[Any]:
        """
        Like L{parts_of}.

        @return: those that it has with these settings.
        """
        absent = self.for_members if config.relays_as == "blind" else frozenset()
        return [each for each in self.parts_of(installed) if each.name not in absent]


MESH_NODE: Final = Program(NodeConfig, "meshkit", without=_SERVING | _SERVING_MEMBERS)
#: A storage peer, which proves what it keeps, and what others need to find and to reach it.
MESH_STORAGE: Final = Program(
    StorageConfig,
    "meshkit-storage",
    frozenset({"audit", "dht", "keeper", "lan", "mapping", "relays", "tunnel", "wellknown"}),
)
_OF_MEMBERS: Final = _SERVING_MEMBERS | {"dht", "feed", "gossip", "lan"}
#: A relay, for the members of its network or for whoever comes.
MESH_RELAY: Final = Program(
    RelayConfig,
    "meshkit-relay",
    _SERVING | _OF_MEMBERS | {"wellknown"},
    for_members=_OF_MEMBERS,
    # All its peers dial it, and one that it does not let in gets nothing of it.
    defaults=(("gossip", "max_links", 2_048),),
)

#: All of them, by their commands.
PROGRAMS: Final = {each.command: each for each in (MESH_NODE, MESH_STORAGE, MESH_RELAY)}


def program_of(folder: DataFolder) -> Program:
    """@return: the one that a data folder is for."""
    # One that is not known here is of a newer meshkit, or somebody's joke.
    return PROGRAMS.get(folder.program(), MESH_NODE)
