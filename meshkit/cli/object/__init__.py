"""C{meshkit object}: objects, which are sealed and cut into shares."""

from __future__ import annotations

import click

from meshkit.cli.object.folders import decode, encode
from meshkit.cli.object.kept import check, get, list_objects, put, remove, stat
from meshkit.cli.object.repairing import repair

__all__ = ["get", "object_group", "put"]


@click.group("object")
def object_group() -> None:
    """
    Have files kept by storage peers, sealed and cut into shares of which some suffice.

    'encode' and 'decode' do the same with folders, without node or network.
    """


for _verb in (check, decode, encode, get, list_objects, put, remove, repair, stat):
    object_group.add_command(_verb)
