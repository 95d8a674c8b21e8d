"""
Waiting for a transfer, which runs in the node: with a bar on a terminal, in silence elsewhere.

What is waited for is in the node.  So nothing is lost by going away, and a node that is
started again goes on with it: then the command waits for that, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from meshkit.cli.door import Door, segment
from meshkit.cli.output import visible
from meshkit.errors import DoorUnreachable, RemoteError

#: Seconds that one question waits for the end: with a bar, and without.
BAR_SECONDS: Final = 0.25
QUIET_SECONDS: Final = 10.0

#: Is told a transfer, as the door shows it.
Watch = Callable[[Any], None]


async def follow(door: Door, transfer: Any, watch: Watch | None) -> Any:
    """
    @param transfer: as it was accepted.
    @param watch: is told how far it is, a few times a second.
    @return: the transfer, as it ended well.
    @raise RemoteError: why it did not.
    """
    path = f"/v1/transfers/{segment(transfer['id'])}"
    wait = QUIET_SECONDS if watch is None else BAR_SECONDS
    while transfer["ended"] is None:
        if watch is not None:
            watch(transfer)
        try:
            transfer = (await door.get(path, wait=wait)).data
        except (DoorUnreachable, RemoteError) as e:
            if isinstance(e, RemoteError) and e.code != "NOT_READY":
                raise
            door = await door.reopened()
    if watch is not None:
        watch(transfer)
    if transfer["state"] == "cancelled":
        raise RemoteError("the transfer was cancelled", "CANCELLED", 409, None)
    error = transfer["error"]
    if error is not None:
        raise RemoteError(error["message"], error["code"], 500, None)
    return transfer


@contextmanager
def bar(what: str, wanted: bool) -> Iterator[Watch | None]:
    """
    @param what: what is shown before it.
    @param wanted: it is not shown if not, nor where the standard error is no terminal.
    @return: context manager; what is to be told how far the transfer is.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(visible(what), total=None)

        def watch(transfer: Any) -> None:
            shown = transfer["done"]
            if transfer["result"] is not None:
                shown = transfer["result"]["bytes"]
            progress.update(task, completed=shown, total=transfer["total"])

        yield watch
