"""
Signs that it keeps something else.

B{On the wire.}  It takes shares and keeps them.  In an audit it says of each a root that is not its
own (C{roots}), or another length (C{sizes}), and signs that; the leaves that it shows are those of
the share.

B{What honest nodes must do.}  Take what was signed for a failure, which a third person can see in
the receipt, and make the shares anew elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, ClassVar

from attrs import evolve
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshkit.interfaces import IShareSampler
from meshkit.sim.liars.keeping import FalseSampler, KeepLiar


@implementer(IShareSampler)
class _Swearing(FalseSampler):
    def kept(self, names: Sequence[bytes]) -> Deferred[list[Any]]:
        def changed(found: list[Any]) -> list[Any]:
            return [None if each is None else self._changed(each) for each in found]

        return super().kept(names).addCallback(changed)

    def _changed(self, stat: Any) -> Any:
        way = self.liar.next_way()
        self.liar.lied(way)
        if way == "sizes":
            return evolve(stat, size=stat.size + 1)
        return evolve(stat, root=sha256(stat.root).digest())


class Swearing(KeepLiar):
    """See the module."""

    kind: ClassVar[str] = "swearing"
    ways: tuple[str, ...] = ("roots", "sizes")
    sampler: ClassVar[type[FalseSampler]] = _Swearing
