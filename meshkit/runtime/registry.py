"""
Finding the parts of a node and putting them in order.

Parts are C{IMeshProtocol} plugins.  They need each other only through interfaces:
one part C{provides} what another C{requires}.  From that alone follows the order in
which parts are made and started, and every way in which they cannot fit together is
an error that names them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, Final, cast

from attrs import frozen
from twisted.plugin import getPlugins
from twisted.python.modules import PythonModule, getModule

from meshkit.errors import BrokenPart, ConfigError, MissingProvider, PartConflict, PartCycle
from meshkit.interfaces import IMeshProtocol

#: Names that a part cannot take, because the node's own tables and files have them.
RESERVED_NAMES: Final = frozenset({"node", "lock", "format"})


def discover_parts(package: ModuleType) -> list[Any]:
    """
    Every part that the plugin modules of a package offer, sorted by name.

    C{getPlugins} logs and skips a module that does not import.  A daemon that
    silently lacks a part would be worse than one that does not start, so the modules
    are imported here first.

    @param package: C{meshkit_plugins}, or a package made like it.
    @return: list of L{IMeshProtocol} providers.
    @raise BrokenPart: naming the module that does not import.
    """
    for module in sorted(getModule(package.__name__).iterModules(), key=_module_name):
        try:
            module.load()
        except Exception as e:
            raise BrokenPart(
                f"the plugin module {module.name} does not import "
                f"({type(e).__name__}: {e}): mend or remove {module.filePath.path}"
            ) from e
    # Twisted annotates the parameter with the interface's metaclass.
    makers = getPlugins(cast(Any, IMeshProtocol), package)
    return sorted(makers, key=lambda maker: maker.name)


def _module_name(module: PythonModule) -> str:
    return module.name


@frozen
class Composition:
    """
    Parts that fit together.

    @ivar order: the parts, each after all that it uses.
    @ivar providers: which part's name provides an interface.
    """

    order: tuple[Any, ...]
    providers: dict[Any, str]


def compose(
    makers: Iterable[Any], disabled: Sequence[str] = (), compat: Sequence[str] = ()
) -> Composition:
    """
    Choose and order the parts of a node.

    @param makers: L{IMeshProtocol} providers.
    @param disabled: names of parts to leave out.
    @param compat: names of parts to take in, of those that are left out by themselves.
    @raise PartConflict: two parts share a name or provide the same interface.
    @raise MissingProvider: a part requires what no enabled part provides.
    @raise PartCycle: parts use one another in a circle.
    @raise ConfigError: C{disabled} names a part that does not exist, or C{compat} one that
        is not of its kind.
    """
    known: dict[str, Any] = {}
    for maker in sorted(makers, key=lambda maker: maker.name):
        if maker.name in known or maker.name in RESERVED_NAMES:
            raise PartConflict(f"the part name {maker.name!r} is taken: rename one of the parts")
        known[maker.name] = maker
    optional = [name for name, maker in known.items() if getattr(maker, "compat", False)]
    _check_names("disable", disabled, list(known))
    _check_names("take in by 'compat'", compat, optional)
    off = [*disabled, *(name for name in optional if name not in compat)]
    enabled = {name: maker for name, maker in known.items() if name not in off}

    providers: dict[Any, str] = {}
    for name, maker in enabled.items():
        for interface in maker.provides:
            if interface in providers:
                raise PartConflict(
                    f"the parts {providers[interface]!r} and {name!r} both provide "
                    f"{interface.__name__}: disable one of them"
                )
            providers[interface] = name
    for name, maker in enabled.items():
        for interface in maker.requires:
            if interface not in providers:
                raise MissingProvider(_missing(name, interface, known))

    uses = {
        name: sorted(
            {
                providers[interface]
                for interface in (*maker.requires, *maker.wants)
                if interface in providers
            }
        )
        for name, maker in enabled.items()
    }
    return Composition(tuple(enabled[name] for name in _ordered(uses)), providers)


def _check_names(verb: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": the parts are {', '.join(known)}" if known else ": there are none"
            if near:
                hint = f"; did you mean {near[0]!r}?"
            raise ConfigError(f"cannot {verb} {name!r}, there is no such part{hint}")


def _missing(name: str, interface: Any, known: dict[str, Any]) -> str:
    off = [other for other, maker in known.items() if interface in maker.provides]
    if off:
        return (
            f"the part {name!r} requires {interface.__name__}, which the disabled part "
            f"{off[0]!r} provides: enable {off[0]!r} or disable {name!r} as well"
        )
    return (
        f"the part {name!r} requires {interface.__name__}, which no installed part "
        f"provides: install one that does, or disable {name!r}"
    )


def _ordered(uses: dict[str, list[str]]) -> list[str]:
    """
    Depth-first topological order.  Names are visited in alphabetical order, so that
    the same parts always start in the same order.
    """
    order: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in path:
            circle = [*path[path.index(name) :], name]
            raise PartCycle(
                f"the parts {' -> '.join(circle)} require one another in a circle: "
                f"disable one of them"
            )
        path.append(name)
        for other in uses[name]:
            visit(other)
        path.pop()
        order.append(name)

    for name in sorted(uses):
        visit(name)
    return order
