"""
Which tools an agent is shown: everybody's names, or those of one program.

 - C{core}: our own, one for each operation.
 - C{egregore}, C{nocturne}, C{darkmatter}: the exact tools of these programs, as
   L{aliases<meshkit.aliases.Alias>} of the same operations.
 - C{all}: all of these side by side.

A part can bring aliases of its own, of a profile that stands here or of a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from meshkit.aliases import Alias
from meshkit.errors import InvalidRequest, PartConflict
from meshkit.web.profiles.egregore import EGREGORE

CORE: Final = "core"
ALL: Final = "all"

#: Whose tools the operations of parts to come will answer under their names.
ANNOUNCED: Final = ("nocturne", "darkmatter")

#: The aliases of what every node can have; each is offered where its operations are.
ALIASES: Final[tuple[Alias, ...]] = EGREGORE


class Profiles:
    """
    The profiles of one node.

    @ivar aliases: those whose operations are all here, in order.
    """

    def __init__(self, aliases: Iterable[Alias], operations: Collection[str]) -> None:
        """
        @param aliases: all that are declared.
        @param operations: the names of what the node offers.
        @raise PartConflict: if two aliases, or an alias and an operation, have one name.
        """
        taken = dict.fromkeys(operations, "an operation")
        self.aliases: list[Alias] = []
        # Profile -> the operations for want of which it is smaller, or empty, here.
        self._missing: dict[str, dict[str, None]] = {name: {} for name in ANNOUNCED}
        for alias in aliases:
            if alias.name in taken:
                raise PartConflict(
                    f"the alias {alias.name} of the profile {alias.profile} has the name of "
                    f"{taken[alias.name]}"
                )
            taken[alias.name] = f"an alias of the profile {alias.profile}"
            absent = [name for name in alias.operations if name not in operations]
            self._missing.setdefault(alias.profile, {}).update(dict.fromkeys(absent))
            if not absent:
                self.aliases.append(alias)
        self._holding = {alias.profile for alias in self.aliases}

    @property
    def names(self) -> list[str]:
        """Every profile that is known, also those without tools here."""
        return [CORE, *sorted(self._missing), ALL]

    def check(self, name: str) -> str:
        """
        @return: the name of a profile that holds tools here.
        @raise InvalidRequest: if it is none, or holds no tools here.
        """
        if name in (CORE, ALL) or name in self._holding:
            return name
        if name not in self._missing:
            raise InvalidRequest(
                f"there is no profile {name[:80]!r}: there are {', '.join(self.names)}",
                field="profile",
            )
        absent = ", ".join(self._missing[name])
        why = f"no tools in this node, which lacks {absent}" if absent else "no tools yet"
        others = ", ".join([CORE, *sorted(self._holding)])
        raise InvalidRequest(
            f"the profile {name!r} holds {why}: choose {others} or {ALL}", field="profile"
        )

    def shows(self, name: str, alias: Alias | None) -> bool:
        """
        Does a profile hold an alias, or (L{None}) our own tools?

        @param name: of a profile, as L{check} let it pass.
        """
        if name == ALL:
            return True
        return name == (CORE if alias is None else alias.profile)
