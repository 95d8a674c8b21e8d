"""docs/protocol/auditing.md, beside what is done."""

from __future__ import annotations

import re
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit import errors
from meshkit.audit.auditor import AuditorLimits
from meshkit.audit.challenge import chance_to_catch
from meshkit.audit.factory import AuditLimits
from meshkit.audit.transcript import CODES, Grant
from meshkit.audit.wire import AGAIN, LABEL, LEAVES, OPEN, REVEAL, VERSION
from tests.audit.papers import AUDITOR, NETWORK, NOW, PEER, Papers, with_another_root
from tests.storage.keeper.keepers import shelf

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "auditing.md"
ROW: Final = re.compile(r"^\| `(\w+)\.(\w+)` \| ([0-9,]+) \|", re.MULTILINE)
LIMITS: Final[dict[str, Any]] = {
    "AuditLimits": AuditLimits(),
    "AuditorLimits": AuditorLimits(),
}
MODULES: Final = (
    "challenge",
    "containment",
    "transcript",
    "wire",
    "factory",
    "auditor",
    "receipts",
    "standing",
    "standings",
)
#: Follow from others, or are not what somebody else can make grow.
UNNAMED: Final = {"MAX_EVIDENCE_BYTES"}


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = PAGE.read_text(encoding="utf-8")
        self.rows = ROW.findall(self.text)

    def test_every_limit_is_the_one_of_the_code(self) -> None:
        for place, name, value in self.rows:
            holder = LIMITS.get(place) or import_module(f"meshkit.audit.{place}")
            self.assertEqual(getattr(holder, name), int(value.replace(",", "")), name)

    def test_every_limit_of_the_code_is_there(self) -> None:
        named = {(place, name) for place, name, _ in self.rows}
        for place, limits in LIMITS.items():
            for each in attrs.fields(type(limits)):
                self.assertIn((place, each.name), named)
        for module in MODULES:
            source = import_module(f"meshkit.audit.{module}").__file__ or ""
            text = Path(source).read_text(encoding="utf-8")
            for name in re.findall(r"^(MAX_[A-Z_]+): Final = ", text, re.MULTILINE):
                if name not in UNNAMED:
                    self.assertIn((module, name), named)

    def test_the_methods_are_those_that_are_called(self) -> None:
        self.assertIn(f"label `{LABEL}`, version {VERSION}", self.text)
        for method, fields in (
            (OPEN, 2),
            (REVEAL, 2),
            (LEAVES, 2),
            (AGAIN, 3),
        ):
            (params,) = re.findall(
                rf"^\| `{method.name}` \| `\[(.*)\]` \|", self.text, re.MULTILINE
            )
            self.assertEqual(len(msgspec.structs.fields(method.request)), fields)
            self.assertEqual(params.replace("[grant, ...]", "grants").count(",") + 1, fields)

    def test_the_statements_are_those_that_are_told(self) -> None:
        papers = with_another_root()
        said, shown = papers.said[0], papers.shown[0]
        assert said is not None and shown is not None
        opening, answer = papers.opening, papers.answer
        file = papers.file()
        hashes = [sha256(each).digest() for each in (opening.raw, answer.raw)]
        names = [each.header.share_id(0) for each in papers.objects]
        told = {
            opening.raw: [
                "audit-opening/1",
                NETWORK,
                PEER.public.raw,
                bytes([1]) * 16,
                sha256(b"meshkit/audit-commit/1" + papers.seed).digest(),
                NOW,
                names,
            ],
            answer.raw: [
                "audit-answer/1",
                hashes[0],
                papers.nonce,
                NOW + 1,
                [[said.size, said.root], None],
            ],
            papers.transcript.raw: [
                "audit-transcript/1",
                *hashes,
                papers.seed,
                NOW + 2,
                [shown.digest, None],
            ],
            file.receipt: [
                "audit-receipt/1",
                sha256(papers.transcript.raw).digest(),
                sha256(file.evidence).digest(),
                NOW + 3,
                [1, 1],
            ],
            Grant(PEER.public, bytes(32), AUDITOR.public, 7).sign(PEER): [
                "audit-grant/1",
                bytes(32),
                AUDITOR.public.raw,
                7,
            ],
        }
        for raw, fields in told.items():
            context, _, payload, _ = msgspec.msgpack.decode(raw)
            self.assertEqual(msgspec.msgpack.decode(payload), fields)
            self.assertEqual(context, fields[0])
            self.assertIn(f'["{context}", ', self.text)
        self.assertEqual(msgspec.msgpack.decode(file.encode())[0], "meshkit-audit/1")

    def test_a_digest_is_as_it_is_told(self) -> None:
        of = shelf(300_000, 1)
        papers = Papers([of])
        size, data = len(of.shares[0]), b"meshkit/samples/1"
        for number, sample in zip(papers.numbers[0], papers.page[0], strict=True):
            end = min(4_096, size - number * 4_096)
            data += sha256(b"\x00" + sample[:end]).digest() + sample[end:]
        self.assertEqual(papers.transcript.digests[0], sha256(data).digest())

    def test_the_verdicts_are_those_of_the_code(self) -> None:
        self.assertEqual(CODES, {0: "success", 1: "failure", 2: "unknown"})
        self.assertIn("0 success, 1 failure,\n2 nothing is held against", self.text)

    def test_the_chances_are_those_of_the_code(self) -> None:
        self.assertIn(f"{chance_to_catch(0.01):.0%}".replace("%", " %"), self.text)
        self.assertIn(f"{chance_to_catch(0.5):.0%}".replace("%", " %"), self.text)

    def test_every_code_of_a_refusal_is_one(self) -> None:
        codes = {getattr(each, "code", None) for each in vars(errors).values()}
        for code in re.findall(r"`([A-Z]+_[A-Z]+)`", self.text):
            if not code.startswith("MAX_") and "." not in code:
                self.assertIn(code, codes)
