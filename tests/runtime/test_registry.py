"""Tests of L{meshkit.runtime.registry} and L{meshkit.parts}."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from types import ModuleType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface
from zope.interface.verify import verifyObject

import meshkit_plugins
from meshkit.errors import (
    BrokenPart,
    ConfigError,
    MeshkitError,
    MissingProvider,
    PartConflict,
    PartCycle,
)
from meshkit.interfaces import IMeshPart, IMeshProtocol
from meshkit.parts import Part, PartMaker, shield
from meshkit.runtime.registry import compose, discover_parts
from tests.runtime.support import scratch


class IOne(Interface):
    """Something that a part provides."""


class ITwo(Interface):
    """Something else."""


class IThree(Interface):
    """And another thing."""


def maker(name: str, **kw: Any) -> PartMaker:
    return PartMaker(name, f"toys.{name}", **kw)


def names(composition: Any) -> list[str]:
    return [each.name for each in composition.order]


class Makers(SynchronousTestCase):
    def test_a_maker_is_what_the_interface_says(self) -> None:
        verifyObject(IMeshProtocol, maker("toy"))
        verifyObject(IMeshPart, Part())

    def test_a_name_has_a_form(self) -> None:
        maker("a" * 32)
        maker("a_1")
        for name in ("", "A", "1a", "_a", "a-b", "a.b", "a" * 33, "a/b", "ä"):
            self.assertRaises(ValueError, maker, name)

    def test_a_part_offers_nothing_by_itself(self) -> None:
        part = Part()
        self.assertEqual((part.capabilities(), list(part.operations())), ({}, []))
        self.assertIsNone(part.status())


class Compatibility(SynchronousTestCase):
    """Parts that are left out unless they are asked for."""

    def test_they_are_named_to_be_taken_in(self) -> None:
        makers = [maker("a"), maker("b", compat=True), maker("c", compat=True)]
        self.assertEqual(names(compose(makers)), ["a"])
        self.assertEqual(names(compose(makers, (), ["c"])), ["a", "c"])
        self.assertEqual(names(compose(makers, ["c"], ["c", "b"])), ["a", "b"])

    def test_what_is_left_out_provides_nothing(self) -> None:
        makers = [maker("a", provides=(IOne,), compat=True), maker("b", requires=(IOne,))]
        self.assertRaises(MissingProvider, compose, makers)
        self.assertEqual(names(compose(makers, (), ["a"])), ["a", "b"])

    def test_only_such_parts_can_be_named(self) -> None:
        for wrong, hint in (("egregor", "'egregore'"), ("a", "egregore")):
            makers = [maker("a"), maker("egregore", compat=True)]
            error = self.assertRaises(ConfigError, compose, makers, (), [wrong])
            self.assertIn(hint, str(error))
            self.assertIn("compat", str(error))


class Composing(SynchronousTestCase):
    def refuse(self, error: type[MeshkitError], *makers: Any, disabled: Any = ()) -> str:
        return str(self.assertRaises(error, compose, makers, disabled))

    def test_a_provider_comes_before_who_requires_or_wants_it(self) -> None:
        a = maker("a", requires=(IOne,), wants=(ITwo,))
        y = maker("y", provides=(ITwo,), requires=(IOne,))
        z = maker("z", provides=(IOne,))
        composition = compose([a, y, z])
        self.assertEqual(names(composition), ["z", "y", "a"])
        self.assertEqual(composition.providers, {IOne: "z", ITwo: "y"})

    def test_the_order_does_not_depend_on_the_order_of_discovery(self) -> None:
        makers = [
            maker("d"),
            maker("b", wants=(IOne,)),
            maker("c", provides=(IOne,)),
            maker("a"),
        ]
        for order in itertools.permutations(makers):
            self.assertEqual(names(compose(order)), ["a", "c", "b", "d"])

    def test_what_is_only_wanted_may_be_missing(self) -> None:
        composition = compose([maker("a", wants=(IOne,))])
        self.assertEqual((names(composition), composition.providers), (["a"], {}))

    def test_a_cycle_names_the_parts_in_it_and_no_others(self) -> None:
        message = self.refuse(
            PartCycle,
            maker("a", requires=(IOne,)),
            maker("b", provides=(IOne,), requires=(ITwo,)),
            maker("c", provides=(ITwo,), wants=(IThree,)),
            maker("d", provides=(IThree,), requires=(IOne,)),
        )
        self.assertIn("b -> c -> d -> b", message)

    def test_a_part_that_requires_itself_is_a_cycle(self) -> None:
        message = self.refuse(PartCycle, maker("a", requires=(IOne,), provides=(IOne,)))
        self.assertIn("a -> a", message)

    def test_a_missing_provider(self) -> None:
        message = self.refuse(MissingProvider, maker("a", requires=(IOne,)))
        self.assertIn("'a'", message)
        self.assertIn("IOne", message)
        self.assertIn("no installed part", message)

    def test_a_disabled_provider(self) -> None:
        message = self.refuse(
            MissingProvider,
            maker("a", requires=(IOne,)),
            maker("b", provides=(IOne,)),
            disabled=["b"],
        )
        self.assertIn("'a'", message)
        self.assertIn("disabled part 'b'", message)

    def test_disabled_together_with_who_requires_it(self) -> None:
        makers = [maker("a", requires=(IOne,)), maker("b", provides=(IOne,)), maker("c")]
        self.assertEqual(names(compose(makers, ["a", "b"])), ["c"])
        self.assertEqual(names(compose(makers, ["a", "a"])), ["b", "c"])
        self.assertEqual(names(compose(makers, ["a", "b", "c"])), [])

    def test_two_providers_of_one_interface(self) -> None:
        makers = [maker("a", provides=(IOne,)), maker("b", provides=(IOne,))]
        message = self.refuse(PartConflict, *makers)
        for word in ("'a'", "'b'", "IOne"):
            self.assertIn(word, message)
        self.assertEqual(names(compose(makers, ["b"])), ["a"])

    def test_two_parts_of_one_name(self) -> None:
        message = self.refuse(PartConflict, maker("a"), maker("a", provides=(IOne,)))
        self.assertIn("'a'", message)

    def test_names_of_the_nodes_own_things_are_taken(self) -> None:
        for name in ("node", "lock", "format"):
            self.assertIn(name, self.refuse(PartConflict, maker(name)))

    def test_disabling_what_is_not_there_is_a_misspelling(self) -> None:
        makers = [maker("feed"), maker("gossip")]
        message = self.refuse(ConfigError, *makers, disabled=["gosip"])
        self.assertIn("did you mean 'gossip'", message)
        message = self.refuse(ConfigError, *makers, disabled=["xyz"])
        self.assertIn("feed, gossip", message)


TOY = """
from meshkit.parts import PartMaker
toy = PartMaker({name!r}, "nowhere")
"""


class Discovering(SynchronousTestCase):
    """Parts of third parties, from a folder on the path of the plugin package."""

    def setUp(self) -> None:
        self.folder = scratch(self)
        self.package = ModuleType("toy_plugins")
        self.package.__path__ = [self.folder]
        self.package.__file__ = os.path.join(self.folder, "__init__.py")
        with open(self.package.__file__, "w", encoding="utf-8") as file:
            file.write("")
        sys.modules["toy_plugins"] = self.package
        self.addCleanup(self.forget)

    def forget(self) -> None:
        for name in [n for n in sys.modules if n.split(".")[0] == "toy_plugins"]:
            del sys.modules[name]

    def write(self, module: str, text: str) -> str:
        path = os.path.join(self.folder, f"{module}.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        importlib.invalidate_caches()
        return path

    def discover(self) -> list[str]:
        return [each.name for each in discover_parts(self.package)]

    def test_parts_are_sorted_by_name(self) -> None:
        self.write("a", TOY.format(name="zebra"))
        self.write("z", TOY.format(name="ant"))
        self.assertEqual(self.discover(), ["ant", "zebra"])

    def test_a_part_whose_file_is_gone_is_gone(self) -> None:
        path = self.write("a", TOY.format(name="zebra"))
        self.assertEqual(self.discover(), ["zebra"])
        os.unlink(path)
        del sys.modules["toy_plugins.a"]
        importlib.invalidate_caches()
        self.assertEqual(self.discover(), [])

    def test_a_module_that_does_not_import_is_named(self) -> None:
        for text in ("import meshkit.no_such_thing", "this is no Python", "1 / 0"):
            with self.subTest(text=text):
                path = self.write("broken", text)
                error = self.assertRaises(BrokenPart, self.discover)
                self.assertIn("toy_plugins.broken", str(error))
                self.assertIn(path, str(error))
                os.unlink(path)

    def test_modules_without_a_part_are_no_harm(self) -> None:
        self.write("helper", "x = 1")
        self.assertEqual(self.discover(), [])

    def test_our_own_parts_are_found(self) -> None:
        found = discover_parts(meshkit_plugins)
        names = [each.name for each in found]
        self.assertEqual(names, sorted(names))
        self.assertLessEqual({"egregore", "feed", "gossip"}, {*names})
        for each in found:
            verifyObject(IMeshProtocol, each)


class Shielding(SynchronousTestCase):
    def setUp(self) -> None:
        self.gate: Deferred[int] = Deferred()
        self.finished: list[int] = []

    async def work(self) -> int:
        value = await self.gate
        self.finished.append(value)
        return value + 1

    def test_the_result_comes_through(self) -> None:
        waiting = shield(self.work())
        self.assertNoResult(waiting)
        self.gate.callback(1)
        self.assertEqual(self.successResultOf(waiting), 2)

    def test_the_error_comes_through(self) -> None:
        waiting = shield(self.work())
        self.gate.errback(BrokenPart())
        self.failureResultOf(waiting, BrokenPart)

    def test_the_work_goes_on_when_nobody_waits(self) -> None:
        waiting = shield(self.work())
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        self.gate.callback(1)
        self.assertEqual(self.finished, [1])

    def test_a_bug_that_nobody_waits_for_is_logged(self) -> None:
        """A refusal is not a bug."""
        for error, logged in ((ZeroDivisionError(), 1), (BrokenPart(), 0)):
            self.gate = Deferred()
            waiting = shield(self.work())
            waiting.addErrback(lambda failure: None)
            waiting.cancel()
            self.gate.errback(error)
            self.assertEqual(len(self.flushLoggedErrors()), logged)
