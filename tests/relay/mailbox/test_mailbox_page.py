"""docs/protocol/mailbox.md, beside what is done."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.trial.unittest import SynchronousTestCase

from meshkit.relay.mailbox import wire
from meshkit.relay.mailbox.courier import SALT
from meshkit.relay.mailbox.keeping import FILE
from meshkit.relay.mailbox.letters import LetterLimits
from meshkit.relay.mailbox.prekeys import ENTRY
from meshkit.relay.mailbox.store import MailboxLimits

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "mailbox.md"
ROW: Final = re.compile(r"^\| `([\w.]+)\.(\w+)` \| ([0-9,]+) \|", re.MULTILINE)
MODULES: Final = (
    "prekeys",
    "sealing",
    "receipts",
    "wire",
    "store",
    "inbox",
    "collecting",
    "delivering",
    "serving",
    "keeping",
    "letters",
    "outbox",
    "courier",
)
#: What is no MAX_, and is a limit all the same.
OTHERS: Final = {
    ("prekeys", "ROTATED"),
    ("prekeys", "KEPT"),
    ("wire", "PAGE_BYTES"),
    ("store", "REMEMBERED"),
    ("outbox", "WAITING_BYTES"),
    ("outbox", "COPYING"),
    ("courier", "COPIES"),
    ("inbox", "AT_OTHERS"),
    ("letters.LetterLimits", "letters"),
    ("letters.LetterLimits", "bytes"),
}


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = PAGE.read_text(encoding="utf-8")
        self.rows = ROW.findall(self.text)

    def holder(self, place: str) -> Any:
        if place == "MailboxLimits":
            return MailboxLimits()
        if place == "letters.LetterLimits":
            return LetterLimits()
        return import_module(f"meshkit.relay.mailbox.{place}")

    def test_every_limit_is_the_one_of_the_code(self) -> None:
        for place, name, value in self.rows:
            self.assertEqual(getattr(self.holder(place), name), int(value.replace(",", "")), name)

    def test_every_limit_of_the_code_is_there_once(self) -> None:
        wanted = {("MailboxLimits", each.name) for each in attrs.fields(MailboxLimits)} | OTHERS
        for place in MODULES:
            path = PAGE.parents[2] / "meshkit" / "relay" / "mailbox" / f"{place}.py"
            source = path.read_text(encoding="utf-8")
            wanted |= {
                (place, name) for name in re.findall(r"^(MAX_\w+): Final", source, re.MULTILINE)
            }
        named = [(place, name) for place, name, _ in self.rows]
        self.assertEqual(sorted(named), sorted(wanted))

    def test_every_method_is_there(self) -> None:
        methods = (wire.PUBLISH, wire.PREKEY, wire.DEPOSIT, wire.FETCH, wire.ACKNOWLEDGE, wire.WAIT)
        for method in methods:
            self.assertIn(f"\n| `{method.name}` | ", self.text)

    def test_the_names_are_those_of_the_code(self) -> None:
        self.assertIn(f"Label `{wire.LABEL}`, version {wire.VERSION}", self.text)
        self.assertIn(f"name `{ENTRY}`", self.text)
        self.assertIn(f"with the salt `{SALT.decode()}`", self.text)
        self.assertIn(f"`{FILE}` in the data folder", self.text)
