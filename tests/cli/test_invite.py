"""Tests of C{meshkit invite} and C{meshkit join}, as far as they need no node."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli import invite as under_test
from meshkit.cli.main import cli
from meshkit.discovery.invites import MAX_TEXT, CountedInvite, OpenInvite, RelayPlace
from meshkit.errors import ConfigError, InvalidInvite
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import create_identity
from meshkit.testing.identities import make_identity

ADA = make_identity("ada")
INVITE = OpenInvite(
    ADA.public, (HostPort("192.0.2.7", 7655),), NetworkSecret.generate(Random("network"))
).text


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory())) / "data"

    def meshkit(self, *arguments: str, given: bytes = b"") -> Result:
        return CliRunner().invoke(cli, ["--data-dir", str(self.folder), *arguments], input=given)


class Inviting(Case):
    def test_what_an_open_one_cannot_have(self) -> None:
        for option in (("--uses", "2"), ("--expires", "1d"), ("--note", "x")):
            result = self.meshkit("invite", "--open", *option)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(f"{option[0]} cannot be had with --open", result.output)

    def test_how_long_it_is_good(self) -> None:
        result = self.meshkit("invite", "--expires", "soon")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("is no length of time", result.output)
        self.assertIsNone(under_test._lifetime("never"))
        self.assertEqual(under_test._lifetime("2d"), 2 * 86_400)

    def test_a_picture_of_another_kind(self) -> None:
        result = self.meshkit("invite", "--qr-file", "invite.jpg")
        self.assertEqual(result.exit_code, 2)
        self.assertIn(".svg or .png", result.output)

    def test_pictures_are_for_their_owner_and_take_no_place(self) -> None:
        self.folder.mkdir()
        for kind, begins in ((".svg", b"<?xml"), (".PNG", b"\x89PNG")):
            path = self.folder / f"invite{kind}"
            under_test._draw(INVITE, str(path))
            self.assertTrue(path.read_bytes().startswith(begins), kind)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            with self.assertRaises(FileExistsError):
                under_test._draw(INVITE, str(path))

    def test_a_scanner_gets_the_text_in_the_denser_form(self) -> None:
        code = under_test._code(INVITE)
        self.assertEqual(code.mode, "alphanumeric")
        self.assertLessEqual(int(code.version), 8)

    def test_one_that_names_relays_fits_on_a_terminal(self) -> None:
        near, far = HostPort("192.168.178.120", 7655), HostPort("2001:db8:1234:5678::ffff", 7655)
        at = HostPort("relay.example.org", 7661)
        relays = [RelayPlace(at, Via(make_identity(n).public, "member")) for n in range(2)]
        for places, dots in (((near, relays[0]), 61), ((near, far, *relays), 65)):
            invite = CountedInvite(
                ADA.public, places, bytes(32), bytes(16), 1_790_000_000, bytes(32)
            )
            code = under_test._code(invite.text)
            self.assertEqual(code.mode, "alphanumeric")
            self.assertEqual(code.symbol_size(border=0), (dots, dots))
            self.assertLessEqual(code.symbol_size()[0], 80)

    def test_what_is_said_of_relays(self) -> None:
        def said(place: str, *addresses: str) -> str:
            via = Via(make_identity("relay").public, "blind")
            at = HostPort.parse(place)
            relay = MeshAddress(at.host, at.port, ADA.public, via).text
            made = {"addresses": list(addresses), "relays": [relay]}
            return "\n".join(under_test._remarks(made, None))

        far = said("relay.example:7661", "192.168.1.2:7655")
        self.assertIn("leads to 192.168.1.2:7655, here through the relay at relay.example:76", far)
        self.assertNotIn("No one far away", far)
        self.assertIn("No one far away", said("192.168.1.9:7661"))

    def test_what_is_said_of_addresses(self) -> None:
        for address, public in (
            ("198.18.0.1:1", False),
            ("10.0.0.1:7655", False),
            ("[::1]:7655", False),
            ("8.8.8.8:7655", True),
            ("[2606:4700::1]:7655", True),
            ("mesh.example:80", True),
        ):
            self.assertEqual(under_test._is_public(address), public, address)


class Joining(Case):
    def refused(self, result: Result, error: type[Exception], why: str) -> None:
        self.assertIsInstance(result.exception, error)
        self.assertIn(why, str(result.exception))

    def test_what_is_no_invite_leaves_no_trace(self) -> None:
        self.refused(self.meshkit("join", INVITE[:-1]), InvalidInvite, "cut off")
        self.refused(self.meshkit("join", "-", given=b"\xff\n"), InvalidInvite, "begin with")
        long = self.meshkit("join", "-", given=b"x" * (MAX_TEXT + 1))
        self.refused(long, InvalidInvite, "longer than any invite")
        self.assertFalse(self.folder.exists())

    def test_a_folder_of_another_network(self) -> None:
        self.meshkit("init")
        secret = (self.folder / "network.secret").read_text()
        self.refused(self.meshkit("join", INVITE), ConfigError, "belongs to another network")
        self.assertEqual((self.folder / "network.secret").read_text(), secret)

    def test_ones_own_invite(self) -> None:
        folder = DataFolder(str(self.folder), LocalFiles())
        folder.prepare()
        create_identity(folder, ADA, Random(1))
        self.refused(self.meshkit("join", INVITE), ConfigError, "of this very node")
        self.assertFalse((self.folder / "network.secret").exists())

    def test_a_passphrase_for_a_key_that_has_none(self) -> None:
        folder = DataFolder(str(self.folder), LocalFiles())
        folder.prepare()
        create_identity(folder, ADA, Random(1))
        self.refused(self.meshkit("join", INVITE, "--passphrase"), ConfigError, "already")
