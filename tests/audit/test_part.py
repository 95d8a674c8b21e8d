"""Tests of L{meshkit.audit.part} and L{meshkit.audit.care}: audits and repairs in whole nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import meshkit_plugins
from meshkit.audit.care import Care
from meshkit.audit.config import Config
from meshkit.audit.decisions import Policy
from meshkit.audit.standing import StandingConfig
from meshkit.errors import ConfigError, StorageFailed
from meshkit.interfaces import IMeshPart
from meshkit.runtime.registry import discover_parts
from meshkit.testing.nodes import MemoryMesh, MemoryNode

OWN = '[dht]\nown_blocks = ["10.0.0.0/8"]\n'
#: Others cost time, and are not needed here.
PARTS = ("audit", "dht", "feed", "keeper", "storage")
TEXT = b"a grey heron by the weir\n" * 1_000


class ConfigTests(SynchronousTestCase):
    def test_its_defaults_are_those_of_what_it_is_for(self) -> None:
        self.assertEqual(Config().policy(), Policy())
        self.assertEqual(Config().standing(), StandingConfig())

    def test_each_setting_gets_where_it_belongs(self) -> None:
        config = Config(repair=False, offline_grace=5, max_repairs=7, peer_life=99, backoff=1)
        wanted = Policy(repair=False, offline_grace=5, max_repairs=7, peer_life=99, backoff=1)
        self.assertEqual(config.policy(), wanted)
        judged = Config(
            score_forgetting=0.5, unknown_start=3, online_grace_days=0, vetting_weight=9
        )
        self.assertEqual(
            judged.standing(),
            StandingConfig(forgetting=0.5, unknown_start=3, online_grace_days=0, vetting_weight=9),
        )

    def test_what_cannot_be_is_said_with_the_name_of_the_section(self) -> None:
        with self.assertRaisesRegex(ConfigError, "^audit: "):
            Config(score_refuse_at=2.0).standing()


class PartCase(SynchronousTestCase):
    """Ada has a file at two of three peers."""

    config = ""

    def setUp(self) -> None:
        self.folder = Path(mkdtemp())
        self.addCleanup(rmtree, self.folder)
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.ada = self.node("ada", f'[storage]\nscheme = "1+1"\n[audit]\n{self.config}')
        self.keepers = [
            self.node(f"keeper-{n}", f'[keeper]\nmax_storage = 9000000\ndomain = "d{n}"\n')
            for n in range(3)
        ]
        self.mesh.run(60)
        path = self.folder / "heron.txt"
        path.write_bytes(TEXT)
        put = self.ada.ask("POST", "/v1/objects", {"path": str(path)}).json["data"]["id"]
        ended = self.ada.ask("GET", f"/v1/transfers/{put}?wait=30").json["data"]
        self.object: str = ended["object"]

    def node(self, name: str, more: str, parts: Sequence[str] = PARTS) -> MemoryNode:
        peers = "" if name == "ada" else f'peers = ["{self.ada.address}"]\n'
        makers = [each for each in discover_parts(meshkit_plugins) if each.name in parts]
        node = self.mesh.node(name, f"{peers}{OWN}{more}", makers=makers)
        node.start()
        return node

    @property
    def care(self) -> Care:
        care = self.ada.service._parts["audit"].care
        assert isinstance(care, Care)
        return care

    def status(self, node: MemoryNode | None = None) -> Any:
        return (node or self.ada).ask("GET", "/v1/status").json["data"]["parts"]["audit"]

    def metric(self, name: str, node: MemoryNode | None = None) -> float:
        text = (node or self.ada).ask("GET", "/metrics").body.decode()
        found = [x for x in text.splitlines() if x.startswith(f"meshkit_audit_{name} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def holder(self, number: int) -> MemoryNode:
        shown = self.ada.ask("POST", "/v1/objects/stat", {"object": self.object}).json["data"]
        peer = shown["shares"][number]["peer"]
        return next(node for node in self.keepers if node.identity.public.text == peer)


class BesideOthersTests(PartCase):
    config = "enabled = false\n"

    def test_it_is_a_part(self) -> None:
        for node in (self.ada, *self.keepers):
            verifyObject(IMeshPart, node.service._parts["audit"])

    def test_one_that_has_neither_shares_nor_objects_does_nothing(self) -> None:
        node = self.node("bare", "", parts=("audit", "dht"))
        part = node.service._parts["audit"]
        self.assertEqual(part.capabilities(), {})
        self.assertEqual((part.status().serves, part.status().audits), (False, False))
        for method, path in (("POST", "/v1/audit/runs"), ("GET", "/v1/audit/peers")):
            answer = node.ask(method, path, {} if method == "POST" else None)
            self.assertEqual((answer.status, answer.code), (503, "NOT_READY"))

    def test_without_it_nothing_of_it_is_there(self) -> None:
        node = self.mesh.node("without", f'disable = ["audit"]\n{OWN}')
        node.start()
        self.assertNotIn("audit", node.ask("GET", "/v1/status").json["data"]["parts"])
        self.assertEqual(node.ask("GET", "/v1/audit/runs").status, 404)

    def test_who_is_banned_is_let_in_for_no_audit(self) -> None:
        part = self.keepers[0].service._parts["audit"]
        key = self.ada.identity.public
        self.assertTrue(part.authorize(key, "audit"))
        name = quote(key.text, safe="@")
        self.keepers[0].ask("POST", f"/v1/blocks/{name}", {})
        self.assertFalse(part.authorize(key, "audit"))

    def test_no_pass_begins_by_itself_if_none_is_to(self) -> None:
        self.mesh.run(600)
        self.assertEqual(self.ada.ask("GET", "/v1/audit/runs").json["data"], [])
        self.assertEqual(self.status()["next_pass"], None)

    def test_what_was_done_is_counted_on_both_sides(self) -> None:
        self.ada.ask("POST", "/v1/audit/runs", {})
        self.mesh.run(10)
        self.assertEqual(self.metric('audits_total{outcome="success"}'), 2)
        self.assertEqual(self.metric('objects{decision="healthy"}'), 1)
        self.assertEqual(self.metric("pass_seconds_count"), 1)
        self.assertGreater(self.metric("last_pass_seconds"), 1e9)
        answered = [self.metric("shown_shares_total", node) for node in self.keepers]
        self.assertEqual(sorted(answered), [0, 1, 1])

    def test_repairs_are_counted(self) -> None:
        self.holder(0).stop()
        self.ada.ask("POST", "/v1/objects/repair", {"object": self.object})
        self.mesh.run(30)
        self.assertEqual(self.metric('repairs_total{result="done"}'), 1)
        self.assertEqual(self.metric("placed_total"), 1)
        self.assertGreaterEqual(self.metric("read_bytes_total"), len(TEXT))
        self.assertGreaterEqual(self.metric("sent_bytes_total"), len(TEXT))


class ByItselfTests(PartCase):
    config = "interval = 60\nevery = 300\noffline_grace = 120\nrecheck = 60\n"

    def test_passes_are_made_again_and_again_and_after_a_restart(self) -> None:
        self.mesh.run(200)
        runs = self.ada.ask("GET", "/v1/audit/runs").json["data"]
        self.assertGreaterEqual(len(runs), 1)
        self.assertFalse(runs[0]["asked_for"])
        self.assertIsNotNone(self.status()["last_pass"])
        self.assertIsNotNone(self.status()["next_pass"])
        last = self.status()["last_pass"]
        self.ada.stop()
        self.ada.start()
        # What was known is known at once.
        self.assertEqual(self.status()["last_pass"], last)
        self.assertEqual(self.status()["objects"], {"healthy": 1})
        self.mesh.run(200)
        self.assertGreater(
            int(self.ada.ask("GET", "/v1/audit/runs").json["data"][0]["run"]), int(runs[0]["run"])
        )

    def test_a_share_is_asked_about_as_often_as_it_is_to_be(self) -> None:
        self.mesh.run(1_500)
        asked = self.metric('audits_total{outcome="success"}')
        self.assertTrue(2 * 4 <= asked <= 2 * 7, asked)

    def test_one_who_is_away_for_too_long_is_replaced_by_itself(self) -> None:
        gone = self.holder(0)
        self.mesh.run(200)
        gone.stop()
        self.mesh.run(400)
        self.assertIsNot(self.holder(0), gone)
        self.assertEqual(self.status()["objects"], {"healthy": 1})

    def test_a_pass_that_fails_is_logged_and_the_next_one_comes(self) -> None:
        database = self.care._database
        write = database.write
        database.write = lambda _job: fail(StorageFailed("the disk is full"))
        self.mesh.run(200)
        self.assertTrue(self.ada.service.ready)
        database.write = write
        self.mesh.run(200)
        runs = self.ada.ask("GET", "/v1/audit/runs").json["data"]
        self.assertEqual(runs[0]["state"], "done")

    def test_a_stop_in_the_middle_of_a_pass_is_soon_over(self) -> None:
        self.care._counted.audit = lambda _peer, _shares: Deferred()  # type: ignore[method-assign]
        self.ada.ask("POST", "/v1/audit/runs", {})
        self.mesh.run(1)
        self.assertTrue(self.status()["running"])
        before = self.mesh.clock.seconds()
        self.ada.stop()
        self.assertLess(self.mesh.clock.seconds() - before, 20)
        self.ada.start()
        (last, *_) = self.ada.ask("GET", "/v1/audit/runs").json["data"]
        self.assertEqual(last["state"], "stopped")

    def test_agents_are_told_of_files_that_cannot_be_read(self) -> None:
        part = self.ada.service._parts["audit"]
        self.assertEqual(part.advice(), ())
        for keeper in self.keepers:
            keeper.stop()
        self.mesh.run(200)
        (said,) = part.advice()
        self.assertIn("meshkit inspect degraded", said)
