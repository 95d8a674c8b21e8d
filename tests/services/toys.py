"""Parts that do as a test says, and that write down what is done to them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.parts import Part, PartContext, PartMaker


class NoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section without settings."""


class Toy(Part):
    """
    @ivar starting: what C{startService} returns; raised if it is an exception.
    @ivar stopping: likewise.
    """

    def __init__(self, context: PartContext, name: str, diary: list[str]) -> None:
        self.context = context
        self.toy = name
        self.diary = diary
        self.starting: Any = None
        self.stopping: Any = None

    def startService(self) -> Any:
        super().startService()
        self.diary.append(f"start {self.toy}")
        return self._do(self.starting, f"started {self.toy}")

    def stopService(self) -> Any:
        super().stopService()
        self.diary.append(f"stop {self.toy}")
        return self._do(self.stopping, f"stopped {self.toy}")

    def _do(self, what: Any, done: str) -> Any:
        if isinstance(what, Exception):
            raise what
        if isinstance(what, Deferred):
            what.addCallback(lambda _: self.diary.append(done))
        return what


class Toys:
    """Makes makers of parts."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.case = case
        self.diary: list[str] = []
        self.made: dict[str, Any] = {}

    def maker(
        self,
        name: str,
        prepare: Callable[[Any], Any] = lambda part: part,
        *,
        migrations: Sequence[str] = (),
        config: type[msgspec.Struct] = NoConfig,
        kind: Callable[..., Any] = Toy,
        **links: Any,
    ) -> PartMaker:
        """
        @param prepare: called with the part when it is made; what it returns is used.
        @param links: C{provides}, C{requires}, C{wants}.
        """

        def make_part(context: PartContext) -> Any:
            part = self.made[name] = kind(context, name, self.diary)
            return prepare(part)

        module = ModuleType(f"toy_part_{name}")
        module.__dict__.update(Config=config, MIGRATIONS=tuple(migrations), make_part=make_part)
        sys.modules[module.__name__] = module
        self.case.addCleanup(sys.modules.pop, module.__name__, None)
        return PartMaker(name, module.__name__, **links)
