"""Tests of L{meshkit.hooks.config}."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError
from meshkit.hooks.config import MAX_HOOKS, CommandHook, Config, Hook, WebHook
from meshkit.runtime.config import Declaration
from meshkit.testing.identities import make_identity


class Root(msgspec.Struct, frozen=True):
    """A daemon without settings of its own."""


DECLARATION = Declaration(Root, {"hooks": Config})
URL = "https://hooks.example:8443/path/T0KEN?key=T0KEN"


def read(text: str) -> Config:
    config: Config = settings(text).section("hooks")
    return config


def settings(text: str) -> Any:
    return DECLARATION.resolve({}, {}, ("meshkit.toml", text.encode()))


class Reading(SynchronousTestCase):
    def refused(self, text: str, *said: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            read(text)
        for each in said:
            self.assertIn(each, str(caught.exception))
        return str(caught.exception)

    def test_what_is_left_out_has_its_default(self) -> None:
        config = read(
            """
            [[hooks.command]]
            name = "a"
            run = ["cat", "-v"]

            [[hooks.webhook]]
            name = "b"
            url = "https://example.com/x"
            tags = ["t"]
            """
        )
        self.assertEqual(config.command, (CommandHook(name="a", run=("cat", "-v")),))
        webhook = WebHook(name="b", url="https://example.com/x", tags=("t",))
        self.assertEqual(config.webhook, (webhook,))
        self.assertEqual(config.hooks(), (*config.command, webhook))
        self.assertEqual(read(""), Config())

    def test_a_command_is_one_program_or_one_line_for_a_shell(self) -> None:
        self.assertEqual(CommandHook(name="a", run=("x", "y")).arguments, ("x", "y"))
        self.assertEqual(CommandHook(name="a", shell="x | y").arguments, ("/bin/sh", "-c", "x | y"))
        for fields in (
            "",
            "run = []",
            'run = ["a"]\nshell = "b"',
            'run = [""]',
            'run = ["a\\u0000"]',
        ):
            self.refused(f'[[hooks.command]]\nname = "a"\n{fields}', "meshkit.toml, line 1", "'a'")

    def test_names_are_unique_and_plain(self) -> None:
        for name in ("", "A", "a b", "-a", "a" * 33, "\u00fc", "../a"):
            self.refused(f'[[hooks.command]]\nname = "{name}"\nshell = "x"', "the name")
        two = '[[hooks.command]]\nname = "a"\nshell = "x"\n'
        self.refused(two + f'[[hooks.webhook]]\nname = "a"\nurl = "{URL}"', "two hooks of the name")

    def test_an_author_is_an_id(self) -> None:
        ada = make_identity("ada").public
        hook = Hook(name="a", authors=(ada.text,))
        self.assertEqual(hook.author_keys(), {ada.raw})
        self.refused('[[hooks.command]]\nname = "a"\nshell = "x"\nauthors = ["ada"]', "authors")

    def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(self) -> None:
        for url, why in (
            ("http://example.com/T0KEN", "plain_http"),
            ("ftp://example.com/T0KEN", "form"),
            ("example.com/T0KEN", "form"),
            ("https:///T0KEN", "form"),
            ("https://example.com:0/T0KEN", "form"),
            ("https://example.com:99999/T0KEN", "malformed"),
            ("https://[::1/T0KEN", "malformed"),
            ("https://me:T0KEN@example.com/", "user"),
            ("https://example.com/#T0KEN", "fragment"),
            ("https://b\u00fccher.example/T0KEN", "punycode"),
            ("https://example.com/T0KEN x", "%XX"),
            ("https://example.com/T0KEN\\nHost: x", "%XX"),
            ("https://example.com/T0KEN\\tx", "%XX"),
        ):
            with self.subTest(url):
                text = f'[[hooks.webhook]]\nname = "a"\nurl = "{url}"'
                self.assertNotIn("T0KEN", self.refused(text, why))
        plain = '[[hooks.webhook]]\nname = "a"\nplain_http = true\nurl = "http://example.com/"'
        self.assertEqual(read(plain).webhook[0].origin, "http://example.com")

    def test_addresses_that_are_allowed_are_addresses(self) -> None:
        for wrong in ("localhost", "10.0.0.1/8", "300.0.0.1"):
            self.refused(
                f'[[hooks.webhook]]\nname = "a"\nurl = "{URL}"\nallow_addresses = ["{wrong}"]',
                "allow_addresses",
            )

    def test_what_a_token_may_be_part_of_is_not_shown(self) -> None:
        text = f'[[hooks.webhook]]\nname = "a"\nurl = "{URL}"'
        shown = settings(text).show()
        (row,) = [each for each in shown if each.key == "hooks.webhook"]
        self.assertNotIn("T0KEN", row.text + str(row.value))
        self.assertEqual((row.origin, row.value[0]["name"]), ("file meshkit.toml", "a"))
        self.assertNotIn("T0KEN", self.refused(text + "\nmax_age = 0", "max_age"))
        self.assertNotIn("T0KEN", self.refused(text.replace('"https', '7 # "https'), "line 3"))
        self.assertEqual(read(text).webhook[0].origin, "https://hooks.example:8443")

    def test_there_are_not_too_many(self) -> None:
        rows = [f'[[hooks.command]]\nname = "a{n}"\nshell = "x"' for n in range(MAX_HOOKS + 1)]
        self.assertEqual(len(read("\n".join(rows[:-1])).command), MAX_HOOKS)
        self.refused("\n".join(rows), f"more than {MAX_HOOKS}")
