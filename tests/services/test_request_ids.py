"""Whichever door a call comes through, what is logged for it bears its name."""

from __future__ import annotations

from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.logs import noted
from meshkit.testing.nodes import MemoryMesh


class FailureTests(SynchronousTestCase):
    def setUp(self) -> None:
        mesh = MemoryMesh()
        self.addCleanup(mesh.stop)
        self.node = mesh.node("ada")
        self.node.start()
        self.seen: list[dict[str, str]] = []

        def watch(event: Any) -> None:
            if "log_failure" in event:
                self.seen.append({**noted(), "part": event.get("part", "")})

        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)
        # The operation that says who this is fails from now on.
        self.patch(self.node.service, "identity", None)

    def failed(self) -> dict[str, str]:
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        (seen,) = self.seen
        self.assertEqual(
            (seen["operation"], seen["caller"], seen["part"]), ("node_identity", "owner", "node")
        )
        return seen

    def test_through_rest(self) -> None:
        answer = self.node.ask("GET", "/v1/identity", X_Request_Id="mine")
        self.assertEqual(answer.status, 500)
        self.assertEqual(self.failed()["request_id"], "mine")

    def test_as_a_tool(self) -> None:
        result = self.node.agent("tools/call", name="node_identity", arguments={})
        self.assertTrue(result["isError"])
        self.assertRegex(self.failed()["request_id"], r"^[0-9a-f]{10}-\d+$")
