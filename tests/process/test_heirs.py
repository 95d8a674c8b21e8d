"""Files whose owner is gone: his capability and the network are what is left."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.audits import OWN_BLOCK
from tests.process.mesh import Mesh, wait_for
from tests.process.test_storage import StorageNode


class HeirTests(SynchronousTestCase):
    def test_the_capability_is_enough_where_none_but_storage_peers_are_left(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        lends = ("--keeper-max-storage", "50MB", *OWN_BLOCK)
        first = mesh.node("peer-0", *lends, "--keeper-domain", "attic", kind=StorageNode).start()
        known = ("--peer", first.address)
        more = ("--keeper-domain", "cellar")
        second = mesh.node("peer-1", *lends, *more, *known, network=first, kind=StorageNode)
        second.start()
        scheme = ("--storage-scheme", "1+1", "--no-audit-enabled", *OWN_BLOCK)
        owner = mesh.node("owner", *scheme, *known, network=first).start()

        def members() -> Any:
            found = owner.get("/v1/storage/peers?refresh=true")
            return len([each for each in found if each["member"]]) == 2

        wait_for("both storage peers", members)
        path = owner.home / "file"
        path.write_bytes(Random(0).randbytes(300_000))
        put = owner.good("put", path, "--json").json["object"]
        wait_for("that to be published", lambda: not owner.status["parts"]["storage"]["publishing"])
        shown = owner.good("object", "stat", put, "--capabilities", "--json").json
        owner.kill()

        heir = mesh.node("heir", *scheme, *known, network=first).start()
        copy = heir.home / "copy"

        def got() -> bool:
            done = heir.cli("get", shown["capabilities"]["read"], "-o", copy)
            return done.code == 0

        wait_for("the file", got, 60, step=1.0)
        self.assertEqual(copy.read_bytes(), path.read_bytes())
