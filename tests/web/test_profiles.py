"""Which tools an agent is shown, and what their declarations have to be."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.aliases import Alias, Way
from meshkit.errors import InvalidRequest, PartConflict
from meshkit.web.profiles import ALIASES, Profiles
from meshkit.web.profiles.egregore import EGREGORE


class Arguments(msgspec.Struct):
    text: str = ""
    renamed: int = msgspec.field(name="other", default=0)


def alias(name: str = "their_tool", profile: str = "theirs", **change: Any) -> Alias:
    fields = {"doc": "Do it.", "arguments": Arguments, "ways": (Way("ours"),)} | change
    return Alias(profile, name, **fields)


class DeclarationTests(SynchronousTestCase):
    def test_what_makes_no_sense_is_refused(self) -> None:
        table: list[tuple[dict[str, Any], str]] = [
            ({"name": "their tool"}, "name of a tool"),
            ({"name": ""}, "name of a tool"),
            ({"profile": "Theirs"}, "name of a profile"),
            ({"ways": ()}, "all other calls"),
            ({"ways": (Way("ours", given="text"),)}, "all other calls"),
            ({"ways": (Way("ours"), Way("ours"))}, "never be taken"),
            ({"ways": (Way("ours", {"renamed": "x"}),)}, "no argument 'renamed'"),
            ({"ways": (Way("ours", given="word"), Way("ours"))}, "no argument 'word'"),
        ]
        for change, word in table:
            with self.assertRaises(ValueError, msg=str(change)) as caught:
                alias(**change)
            self.assertIn(word, str(caught.exception), change)
        alias(ways=(Way("ours", {"other": "x"}, given="other"), Way("ours")))

    def test_it_knows_of_which_operations_it_is_made(self) -> None:
        ways = (Way("a", given="text"), Way("b", given="other"), Way("a"))
        self.assertEqual(alias(ways=ways).operations, ("a", "b"))


class ProfileTests(SynchronousTestCase):
    def test_an_alias_is_there_where_its_operations_are(self) -> None:
        both = alias("both", ways=(Way("ours", given="text"), Way("more")))
        one = alias("one")
        self.assertEqual(Profiles([both, one], ["ours"]).aliases, [one])
        self.assertEqual(Profiles([both, one], ["ours", "more"]).aliases, [both, one])

    def test_a_profile_shows_its_own_and_all_shows_everything(self) -> None:
        theirs = alias()
        profiles = Profiles([theirs], ["ours"])
        self.assertTrue(profiles.shows("core", None))
        self.assertFalse(profiles.shows("core", theirs))
        self.assertFalse(profiles.shows("theirs", None))
        self.assertTrue(profiles.shows("theirs", theirs))
        self.assertFalse(profiles.shows("others", theirs))
        self.assertTrue(profiles.shows("all", None))
        self.assertTrue(profiles.shows("all", theirs))

    def test_profiles_to_come_are_known_and_say_that_they_are_empty(self) -> None:
        profiles = Profiles(ALIASES, {name for each in EGREGORE for name in each.operations})
        for name in ("core", "egregore", "all"):
            self.assertEqual(profiles.check(name), name)
        for name in ("nocturne", "darkmatter"):
            self.assertIn(name, profiles.names)
            error = self.assertRaises(InvalidRequest, profiles.check, name)
            self.assertIn("holds no tools yet", str(error))
        error = self.assertRaises(InvalidRequest, profiles.check, "egrgore")
        self.assertIn("there are core, darkmatter, egregore, nocturne, all", str(error))

    def test_a_profile_whose_operations_are_missing_names_them(self) -> None:
        profiles = Profiles([alias()], [])
        error = self.assertRaises(InvalidRequest, profiles.check, "theirs")
        self.assertIn("which lacks ours", str(error))

    def test_a_part_fills_a_profile_that_was_announced(self) -> None:
        profiles = Profiles([*ALIASES, alias("mesh_query", "nocturne")], ["ours"])
        self.assertEqual(profiles.check("nocturne"), "nocturne")

    def test_two_tools_of_one_name_are_refused(self) -> None:
        self.assertRaises(PartConflict, Profiles, [alias(), alias()], ["ours"])
        self.assertRaises(PartConflict, Profiles, [alias(), alias(profile="x")], ["ours"])
        self.assertRaises(PartConflict, Profiles, [alias("ours")], ["ours"])
