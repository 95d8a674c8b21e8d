"""The command C{meshkit}, run against a node of a L{MemoryMesh}, in its virtual time."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import patch

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshkit.cli import call, dht, mailbox, peer, relay
from meshkit.cli import node as own
from meshkit.cli.audit import looked_after, passes, standing
from meshkit.cli.bearer import TokenSource
from meshkit.cli.door import Door
from meshkit.cli.main import main
from meshkit.cli.object import kept, repairing
from meshkit.cli.storage import lending
from meshkit.runtime.folder import DataFolder
from meshkit.testing.nodes import MemoryMesh, MemoryNode


@frozen
class Done:
    """A command that has ended."""

    code: int
    out: bytes
    err: str


def run_command(mesh: MemoryMesh, node: MemoryNode, *arguments: str, stdin: bytes = b"") -> Done:
    """Run C{meshkit} with these arguments.  What it asks the node takes virtual time."""

    def ask(
        flag: str | None,
        job: Callable[[Door], Coroutine[Any, Any, Any]],
        token_file: str | None = None,
    ) -> Any:
        results: list[Any] = []
        folder = DataFolder(node.folder, node.files)
        door = Door(node.host, folder, TokenSource(folder, token_file, {}))
        Deferred.fromCoroutine(job(door)).addBoth(results.append)
        mesh.until(lambda: bool(results), f"meshkit {arguments}")
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    with (
        patch.multiple(call, ask=ask),
        patch.multiple(dht, ask=ask),
        patch.multiple(mailbox, ask=ask),
        patch.multiple(kept, ask=ask),
        patch.multiple(lending, ask=ask),
        patch.multiple(looked_after, ask=ask),
        patch.multiple(own, ask_node=ask),
        patch.multiple(passes, ask=ask),
        patch.multiple(peer, ask=ask),
        patch.multiple(relay, ask=ask),
        patch.multiple(repairing, ask=ask),
        patch.multiple(standing, ask=ask),
        patch.object(sys, "stdin", given),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(list(arguments))
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
    out.flush()
    return Done(code, out.buffer.getvalue(), err.getvalue())  # type: ignore[attr-defined]
