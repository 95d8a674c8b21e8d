"""Tests of C{meshkit storage}, against a node in memory."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.storage.lending import size
from meshkit.storage.keeper.part import KeeperPart
from meshkit.storage.terms import lease_hash
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh
from tests.cli.memory import Done, run_command
from tests.storage.keeper.keepers import SECRET, shelf
from tests.storage.shelves import Shelf


class SizeTests(SynchronousTestCase):
    def test_sizes_are_written_as_people_say_them(self) -> None:
        for number, text in (
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_000, "1 kB"),
            (1_234_567, "1.23 MB"),
            (999_999, "1 MB"),
            (10 * 10**9, "10 GB"),
            (2**63 - 1, "9.22 EB"),
        ):
            self.assertEqual(size(number), text)

    @given(st.integers(0, 2**63 - 1))
    @example(999_499)
    @example(999_500)
    def test_three_digits_say_how_much_it_is(self, number: int) -> None:
        shown, unit = size(number).split(" ")
        power = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB").index(unit)
        self.assertLessEqual(abs(float(shown) * 1000**power - number), number / 100)
        self.assertLessEqual(len(shown), 4)


class VerbTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.node = self.mesh.node("ada")
        self.node.start()

    def cli(self, *arguments: str) -> Done:
        return run_command(self.mesh, self.node, "storage", *arguments)

    def good(self, *arguments: str) -> list[str]:
        done = self.cli(*arguments)
        self.assertEqual((done.code, done.err), (0, ""))
        return done.out.decode().splitlines()

    def test_what_is_lent_and_taken_back_is_shown(self) -> None:
        (nothing,) = self.good("status")
        self.assertEqual(
            nothing, "state  nothing is lent: meshkit storage connect --max-storage 10GB"
        )
        self.assertEqual(
            self.good("connect", "--max-storage", "10GB"),
            [
                "state       lending",
                "lent        10 GB, as 'meshkit storage connect' says",
                "kept        0 shares of 0 owners",
                "used        0 bytes",
                "free        9 GB, and 1 GB for repairs",
                "for         all members of the network",
                f"reached at  {self.node.host.address}:7655",
                "announced   to 0 nodes",
            ],
        )
        self.assertIn("state       draining: nothing new is taken", self.good("disconnect")[0])
        self.assertEqual(self.good("connect")[0], "state       lending")
        self.assertEqual(
            self.good("disconnect", "--now"),
            ["Removed 0 shares, 0 bytes, of 0 owners.", "state  nothing is kept any more"],
        )

    def test_scripts_get_one_document(self) -> None:
        lent = json.loads(self.cli("connect", "--max-storage", "64 MiB", "--json").out)
        self.assertEqual((lent["state"], lent["max_storage"]), ("lending", 2**26))
        again = json.loads(self.cli("status", "--json").out)
        self.assertEqual(again, {**lent, "announced": again["announced"]})
        left = json.loads(self.cli("disconnect", "--json").out)
        self.assertEqual((left["status"]["state"], left["lost_shares"]), ("draining", 0))

    def put_share(self, of: Shelf) -> Any:
        """@return: the node's keeper, as the owner of the share sees it."""
        part = self.node.service._parts["keeper"]
        assert isinstance(part, KeeperPart) and part.keeper is not None
        bob = part.keeper.for_caller(make_identity("bob").public)
        upload, share = of.header.upload, bytes(of.shares[0])
        block = of.layout.block_bytes(0)

        async def put() -> None:
            await bob.reserve(upload, 0, len(share), lease_hash(SECRET))
            for segment in range(of.layout.segments):
                piece = share[segment * block : (segment + 1) * block]
                await bob.write(upload, 0, segment, piece)
            await bob.close(upload, 0, of.manifest.raw)

        done = Deferred.fromCoroutine(put())
        self.mesh.until(lambda: bool(done.called), "a share to be kept")
        self.successResultOf(done)
        return bob

    def test_it_waits_until_nothing_is_left(self) -> None:
        self.good("connect", "--max-storage", "64 MiB")
        of = shelf()
        bob = self.put_share(of)
        late = self.cli("disconnect", "--wait", "--timeout", "10")
        self.assertEqual(late.code, 1)
        self.assertIn("1 share, ", late.err)
        self.assertIn("of 1 owner are still here, until ", late.err)
        self.assertIn("[STORAGE_SHARES_LEFT]", late.err)
        self.node.host.callLater(60, lambda: bob.release(of.header.share_id(0), SECRET))
        before = self.mesh.clock.seconds()
        left, *shown = self.good("disconnect", "--wait")
        self.assertRegex(left, r"^1 share left, [0-9.]+ kB, until \S+ at the latest$")
        self.assertIn("nothing is here any more: the node may be stopped", shown[0])
        self.assertGreaterEqual(self.mesh.clock.seconds() - before, 60)
        quiet = json.loads(self.cli("disconnect", "--wait", "--json").out)
        self.assertEqual(quiet["status"]["shares"], 0)
        self.assertEqual(self.cli("disconnect", "--timeout", "1").code, 2)

    def test_what_cannot_be_done_is_said(self) -> None:
        unsaid = self.cli("connect")
        self.assertEqual(unsaid.code, 1)
        self.assertIn("say how many bytes to lend [INVALID_REQUEST]", unsaid.err)
        odd = self.cli("connect", "--max-storage", "10K")
        self.assertEqual(odd.code, 2)
        self.assertIn("is not a size such as 64 KiB or 10 GB", odd.err)
