"""Tests of L{meshkit.cli.bearer}: which token is shown, and what is said of one refused."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.bearer import Bearer, TokenSource
from meshkit.errors import ConfigError, DoorUnreachable, RemoteError, UnsafePermissions
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from tests.runtime.support import scratch


class SourceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(scratch(self))
        self.folder = DataFolder(str(self.home / "data"), LocalFiles())
        (self.home / "data").mkdir(mode=0o700)

    def file(self, name: str, text: str = "theirs\n", mode: int = 0o600) -> str:
        path = self.home / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def source(self, path: str | None = None, **environ: str) -> TokenSource:
        return TokenSource(self.folder, path, environ)

    def test_the_file_wins_then_the_variable_then_the_owners(self) -> None:
        owners = self.file("data/door.token", "owners\n")
        path = self.file("token")
        found = [
            self.source(path, MESHKIT_TOKEN="mine").read(),
            self.source(None, MESHKIT_TOKEN="mine").read(),
            self.source(None, MESHKIT_TOKEN="").read(),
        ]
        self.assertEqual(
            [(each.text, each.place) for each in found],
            [("theirs", path), ("mine", "$MESHKIT_TOKEN"), ("owners", owners)],
        )
        self.assertIn("--token-file", found[0].remedy)
        self.assertIn("restart the node", found[2].remedy)

    def test_a_plain_file_is_read_anew(self) -> None:
        path = self.file("token")
        source = self.source(path)
        source.read()
        self.file("token", "newer")
        self.assertEqual(source.read().text, "newer")

    def test_a_plain_file_is_for_its_user_alone_also_behind_a_link(self) -> None:
        path = self.file("token", mode=0o604)
        link = self.home / "link"
        link.symlink_to(path)
        for each in (path, str(link)):
            self.assertRaises(UnsafePermissions, self.source(each).read)
        os.chmod(path, 0o600)
        self.assertEqual(self.source(str(link)).read().text, "theirs")

    def test_a_pipe_is_read_once(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.write(writing, b"piped\n")
        os.close(writing)
        source = self.source(f"/dev/fd/{reading}")
        self.assertEqual([source.read().text, source.read().text], ["piped", "piped"])

    def test_what_is_no_token_is_refused_by_name(self) -> None:
        for text in ("", "two words", "a\nb", "w\u00f6rd"):
            with self.subTest(text):
                path = self.file("token", text)
                error = self.assertRaises(ConfigError, self.source(path).read)
                self.assertIn(f"{path} holds no token", str(error))
        error = self.assertRaises(ConfigError, self.source(None, MESHKIT_TOKEN="a b").read)
        self.assertIn("$MESHKIT_TOKEN holds no token", str(error))

    def test_where_there_is_none(self) -> None:
        error = self.assertRaises(ConfigError, self.source(str(self.home / "none")).read)
        self.assertIn(str(self.home / "none"), str(error))
        self.assertRaises(ConfigError, self.source(str(self.home)).read)
        self.assertRaises(DoorUnreachable, self.source().read)


class JudgedTests(SynchronousTestCase):
    bearer = Bearer("secret", "$MESHKIT_TOKEN", "set another")

    def test_a_refused_token_is_named_by_where_it_is(self) -> None:
        told = self.bearer.judged(RemoteError("the header", "UNAUTHORIZED", 401))
        self.assertEqual((told.code, told.status), ("UNAUTHORIZED", 401))
        self.assertEqual(
            str(told), "the node does not take the token in $MESHKIT_TOKEN: set another"
        )

    def test_other_refusals_stay_as_they_are(self) -> None:
        refusal = RemoteError("not now", "NOT_READY", 503)
        self.assertIs(self.bearer.judged(refusal), refusal)
