"""
schemathesis judges the door of a node by the OpenAPI document that it gives out.

It makes requests that keep to the document, and requests that break it in every way that it
knows, and looks whether the answers are of the statuses, types, headers and schemas that are
written there, and none says that the node failed.  What it is asked for, and what it is not,
stands in C{schemathesis.toml}, with the reasons.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.node import ROOT, TOOLS
from tests.process.mesh import Mesh, Node, environment

HERE: Final = Path(__file__).parent
BIN: Final = TOOLS / "schemathesis" / "bin"
#: A part with raw bytes in both directions, and a stream that ends.
EXAMPLE: Final = ROOT / "examples" / "custom_part"
SECONDS: Final = 400


@cache
def _started() -> Node:
    """One node for all tests here; its L{Mesh} ends it with this process."""
    node = Mesh().node("ada")
    node.start(more={"PYTHONPATH": f"{EXAMPLE}:{ROOT}"})
    for number in range(3):
        node.publish({"type": "insight", "title": f"owl {number}"})
    return node


class SchemathesisTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.node = _started()

    def run_tool(self, *command: str | Path) -> str:
        self.assertTrue(BIN.exists(), "schemathesis is missing: run .ci/tools")
        token = (self.node.data / "door.token").read_text("ascii").strip()
        done = subprocess.run(
            [str(each) for each in command],
            cwd=self.node.home,
            env=environment(self.node.home, DOOR_TOKEN=token),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
        out = (done.stdout + done.stderr).decode("utf-8", "replace")
        self.assertEqual(done.returncode, 0, f"{out}\n{self.node.log_tail()}")
        return out

    def test_the_door_keeps_to_its_document(self) -> None:
        out = self.run_tool(
            BIN / "st",
            "--config-file",
            HERE / "schemathesis.toml",
            "run",
            f"http://{self.node.host}/v1/openapi.json",
            "--no-color",
        )
        # That it tried everything, and much of it.
        selected = re.search(r"Selected: (\d+)/(\d+)", out)
        generated = re.search(r"(\d+) generated", out)
        assert selected is not None and generated is not None, out
        self.assertEqual(int(selected[2]) - int(selected[1]), 2, out)
        self.assertGreater(int(generated[1]), 1_000)
        self.assertNotIn("Traceback", self.node.log.read_text("utf-8"))
        self.assertEqual(self.node.ask("GET", "/v1/status").status, 200)

    def test_the_document_is_one_of_openapi(self) -> None:
        document = self.node.home / "openapi.json"
        document.write_bytes(self.node.ask("GET", "/v1/openapi.json").body)
        written = ROOT / "docs" / "api"
        for path in (document, written / "node-api.yaml", written / "relay-api.yaml"):
            out = self.run_tool(BIN / "python", "-m", "openapi_spec_validator", path)
            self.assertIn("OK", out)
