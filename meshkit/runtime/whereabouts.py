"""
Where others reach this node.

Its operator may say so (the setting C{advertise}), and then nothing else counts: behind a proxy
nobody else can know.  If he does not, it is put together from where the node listens, what a
router was asked to pass on, and what others say of where they see it.

Parts come and go; each says what it knows under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from attrs import define, field
from zope.interface import implementer

from meshkit.errors import ConfigError, InvalidAddress
from meshkit.identity.addresses import HostPort
from meshkit.identity.records import MAX_ADDRESSES
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.interfaces import IWhereabouts

#: Places that one part may say are mapped.
MAX_MAPPED: Final = 8


def parse_advertised(texts: Sequence[str]) -> tuple[HostPort, ...]:
    """
    Read the setting C{advertise}.

    @raise ConfigError: one of them is no C{HOST:PORT}, or nobody could dial it.
    """
    if len(texts) > MAX_ADDRESSES:
        raise ConfigError(f"advertise: {MAX_ADDRESSES} places are the limit")
    found = []
    for text in texts:
        try:
            place = HostPort.parse(text)
        except InvalidAddress as e:
            raise ConfigError(f"advertise: {e}") from None
        if "%" in place.host:
            raise ConfigError(
                f"advertise: {place.text} names an interface of this host, which others do not "
                "have: write the address without it"
            )
        address = parse_ip(place.host)
        if address is not None and scope_of(address) is None:
            raise ConfigError(
                f"advertise: no host can be reached at {place.text}: write the address or the "
                "name that others dial, or leave it out and the node finds out"
            )
        found.append(place)
    if len(set(found)) < len(found):
        raise ConfigError("advertise: one of the places stands there twice")
    return tuple(found)


@implementer(IWhereabouts)
@define(eq=False)
class Whereabouts:
    """
    See the module.

    @ivar advertised: see L{IWhereabouts}.
    """

    advertised: tuple[HostPort, ...]
    _listening: Callable[[], Sequence[HostPort]]
    _mapped: dict[str, tuple[HostPort, ...]] = field(factory=dict, init=False)
    _asked: dict[str, Callable[[], Iterable[HostPort]]] = field(factory=dict, init=False)
    _watchers: list[Callable[[], None]] = field(factory=list, init=False)

    def listening(self) -> list[HostPort]:
        mapped = [place for name in sorted(self._mapped) for place in self._mapped[name]]
        return [*self._listening(), *mapped]

    def places(self) -> tuple[HostPort, ...]:
        if self.advertised:
            return self.advertised
        found = self.listening()
        for name in sorted(self._asked):
            found.extend(self._asked[name]())
        near = [(scope, place) for place in found if (scope := _scope(place)) is not None]
        near.sort(key=lambda each: each[0])
        return tuple(dict.fromkeys(place for _, place in near))[:MAX_ADDRESSES]

    def mapped(self, source: str, places: Iterable[HostPort]) -> None:
        new = tuple(places)[:MAX_MAPPED]
        if new == self._mapped.get(source, ()):
            return
        if new:
            self._mapped[source] = new
        else:
            del self._mapped[source]
        for watcher in list(self._watchers):
            watcher()

    def ask(self, source: str, callback: Callable[[], Iterable[HostPort]]) -> Callable[[], None]:
        self._asked[source] = callback

        def end() -> None:
            del self._asked[source]

        return end

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._watchers.append(callback)

        def end() -> None:
            self._watchers.remove(callback)

        return end


def _scope(place: HostPort) -> Scope | None:
    """@return: from how far away it is reached; L{None} if others cannot dial it."""
    address = parse_ip(place.host)
    return None if address is None else scope_of(address)
