"""Tests of C{meshkit audit verify}: nothing but a file."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.transcript import MAX_RECEIPT_FILE
from meshkit.cli.main import cli
from meshkit.errors import AuditInvalid, ConfigError
from meshkit.runtime.files import LocalFiles
from tests.audit.papers import AUDITOR, PEER, Papers, with_another_root, with_wrong_leaves
from tests.runtime.support import scratch
from tests.storage.keeper.keepers import shelf


class VerifyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(scratch(self))

    def verify(self, raw: bytes, *options: str) -> Result:
        path = self.folder / "one.mkaudit"
        path.write_bytes(raw)
        # A data folder that is not there: it is not looked at.
        arguments = ["--data-dir", str(self.folder / "none"), "audit", "verify", str(path)]
        return CliRunner().invoke(cli, [*arguments, *options])

    def good(self, raw: bytes, *options: str) -> str:
        done = self.verify(raw, *options)
        self.assertEqual((done.exit_code, done.exception), (0, None))
        self.assertFalse((self.folder / "none").exists())
        return done.output

    def test_it_says_who_has_signed_what_and_when(self) -> None:
        said = self.good(Papers().file().encode())
        self.assertIn(f"2027-01-15T08:00:00.000Z  by {AUDITOR.public.text}", said)
        self.assertIn(f"2027-01-15T08:00:00.001Z  by {PEER.public.text}", said)
        self.assertIn(shelf(300, 1).header.share_id(0).hex()[:16], said)
        self.assertNotIn(shelf(300, 1).header.share_id(0).hex(), said)
        self.assertEqual(said.count("that it is right says who asked"), 2)

    def test_it_says_what_is_proven(self) -> None:
        for file, words in (
            (with_wrong_leaves().file(), "do not lead to the root"),
            (with_another_root().file(), "another root or size"),
            (with_another_root().file(), "does not have it"),
        ):
            self.assertIn(words, self.good(file.encode()))

    def test_it_says_when_nothing_is(self) -> None:
        file = Papers().file(["failure", "failure"], [], shown=False)
        said = self.good(file.encode())
        self.assertIn("there is only the word of who asked", said)
        self.assertIn("nothing: it is the word of who asked", said)

    def test_it_says_the_same_to_programs(self) -> None:
        said = json.loads(self.good(with_wrong_leaves().file().encode(), "--json"))
        self.assertEqual((said["auditor"], said["peer"]), (AUDITOR.public.text, PEER.public.text))
        self.assertEqual([each["verdict"] for each in said["shares"]], ["success", "failure"])
        self.assertEqual([each["proof"] for each in said["shares"]], ["said", "wrong"])
        self.assertEqual(said["shares"][1]["object"], shelf(300, 2).manifest.content_id.hex())

    def test_a_changed_byte_is_an_error(self) -> None:
        raw = bytearray(Papers().file().encode())
        raw[100] ^= 1
        done = self.verify(bytes(raw))
        self.assertIsInstance(done.exception, AuditInvalid)

    def test_what_is_too_large_is_not_read(self) -> None:
        done = self.verify(bytes(MAX_RECEIPT_FILE + 1))
        self.assertIsInstance(done.exception, AuditInvalid)
        self.assertIn("too large", str(done.exception))

    def test_a_file_that_is_not_there_is_said_so(self) -> None:
        done = CliRunner().invoke(cli, ["audit", "verify", str(self.folder / "other")])
        self.assertEqual(done.exit_code, 2)
        self.assertIn("does not exist", done.output)

    def test_a_file_that_cannot_be_read_is_said_so(self) -> None:
        def broken(*_: object) -> bytes:
            raise OSError(5, "Input/output error")

        self.patch(LocalFiles, "read", broken)
        done = self.verify(b"")
        self.assertIsInstance(done.exception, ConfigError)
