"""C{meshkit invite} and C{meshkit join} between real processes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Done, Mesh, Node, Shared, wait_for


class _Ada:
    """Who invites."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.node = mesh.node("ada").start()

    def invite(self, **fields: Any) -> Any:
        return self.node.ask("POST", "/v1/invites", json.dumps(fields).encode()).data

    def invites(self) -> dict[str, Any]:
        return {each["id"]: each for each in self.node.get("/v1/invites")}

    def newcomer(self, name: str) -> Node:
        """Somebody with nothing at all."""
        home = self.mesh.folder / name
        home.mkdir()
        node = Node(home)
        self.mesh._nodes.append(node)
        return node


shared = Shared(_Ada)


def tearDownModule() -> None:
    shared.close()


def refused(done: Done, code: str) -> str:
    assert (done.code, done.out) == (1, "") and f"[{code}]" in done.err, (done.out, done.err)
    return done.err


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class InviteTests(SynchronousTestCase):
    def test_a_newcomer_becomes_a_member_and_nobody_else_does(self) -> None:
        ada: _Ada = shared.get()
        picture = ada.node.home / "invite.svg"
        made = ada.node.cli("invite", "--note", "for bob", "--qr", "--qr-file", picture)
        self.assertEqual(made.code, 0, made.err)
        code, *drawn = made.lines
        self.assertTrue(code.startswith("mkinvite1-"))
        self.assertTrue(any("█" in line for line in drawn))
        self.assertIn("one use", made.err)
        self.assertIn(b"<svg", picture.read_bytes())
        self.assertEqual(mode(picture), 0o600)
        (known,) = ada.invites().values()
        self.assertEqual((known["state"], known["note"]), ("open", "for bob"))

        bob = ada.newcomer("bob")
        joined = bob.good("join", "-", "--json", stdin=code.encode()).json
        self.assertEqual(joined["peers"], [ada.node.address])
        self.assertEqual(joined["answered"], ada.node.address)
        for name in ("secret.key", "network.secret", "meshkit.toml", "door.token"):
            self.assertEqual(mode(bob.data / name), 0o600, name)
        self.assertEqual(
            (bob.data / "network.secret").read_text(),
            (ada.node.data / "network.secret").read_text(),
        )
        # He has all that it takes, and needs to be told nothing.
        bob.start()
        wait_for("a link", lambda: bob.links() and ada.node.links())

        eve = ada.newcomer("eve")
        refused(eve.cli("join", code), "INVITE_USED")
        self.assertFalse((eve.data / "network.secret").exists())
        (known,) = ada.node.good("invite", "list", "--json").json
        self.assertEqual(known["state"], "used")
        self.assertEqual([use["public_id"] for use in known["used"]], [joined["public_id"]])

    def test_what_was_used_stays_used_and_settings_stay_as_they_are(self) -> None:
        ada: _Ada = shared.get()
        once, late = ada.invite(), ada.invite(expires_secs=1)
        open_one = ada.node.ask("POST", "/v1/invites/open", b"{}").data
        cat = ada.newcomer("cat")
        cat.data.mkdir(mode=0o700)
        settings = cat.data / "meshkit.toml"
        settings.write_text("workers = 1\n")
        first = cat.good("join", once["invite"], "--json").json
        self.assertEqual(settings.read_text(), "workers = 1\n")

        # The same port, as the invite says where.
        _, port = ada.node.mesh_port
        ada.node.kill()
        ada.node.start("--listen", f"tcp:{port}:interface=127.0.0.1")
        dan = ada.newcomer("dan")
        refused(dan.cli("join", once["invite"]), "INVITE_USED")
        # Whose answer was lost asks again.
        (cat.data / "network.secret").unlink()
        self.assertEqual(cat.good("join", once["invite"], "--json").json, first)
        self.assertEqual(len(ada.invites()[once["id"]]["used"]), 1)
        wait_for("its end", lambda: ada.invites()[late["id"]]["state"] == "expired")
        refused(dan.cli("join", late["invite"]), "INVITE_EXPIRED")
        # The other kind needs nobody.
        ada.node.stop()
        opened = dan.good("join", open_one["invite"], "--json").json
        self.assertEqual((opened["network"], opened["answered"]), (first["network"], None))
        self.assertEqual(opened["peers"], first["peers"])
        cat.start()
        book = cat.get("/v1/peers")
        self.assertEqual(
            [(each["address"], each["source"]) for each in book], [(first["peers"][0], "manual")]
        )

    def test_a_new_secret_is_for_newcomers_only(self) -> None:
        """An invite that was made before, in the hands of two of whom one has joined."""
        mesh = Mesh()
        self.addCleanup(mesh.close)
        ada = _Ada(mesh)
        invite = ada.invite(uses=2)["invite"]
        eve, bob = ada.newcomer("eve"), ada.newcomer("bob")
        eve.good("join", invite)
        _, port = ada.node.mesh_port
        ada.node.stop()
        ada.node.good("network", "rotate")
        ada.node.start("--listen", f"tcp:{port}:interface=127.0.0.1")
        (eve.data / "network.secret").unlink()
        refused(eve.cli("join", invite), "INVITE_USED")
        self.assertFalse((eve.data / "network.secret").exists())
        first = bob.good("join", invite, "--json").json
        # As if it had been cut off there.
        (bob.data / "meshkit.toml").unlink()
        self.assertEqual(bob.good("join", invite, "--json").json, first)
        self.assertIn(ada.node.address, (bob.data / "meshkit.toml").read_text())
        self.assertEqual(first["answered"], ada.node.address)
        # Whose folder is of another network is told so, and uses nothing up.
        dan = mesh.node("dan")
        mine = (dan.data / "network.secret").read_text()
        told = refused(dan.cli("join", ada.invite()["invite"]), "CONFIG_INVALID")
        self.assertIn("belongs to another network", told)
        self.assertEqual((dan.data / "network.secret").read_text(), mine)
        self.assertEqual(sum(len(each["used"]) for each in ada.invites().values()), 2)
