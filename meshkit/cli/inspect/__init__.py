"""C{meshkit inspect}: what passes over objects have found, decided and done."""

from __future__ import annotations

import click

from meshkit.cli.inspect.known import degraded, show_object, show_peer
from meshkit.cli.inspect.passes import replay, show_run

__all__ = ["inspect_group"]


@click.group("inspect")
def inspect_group() -> None:
    """
    See what passes over objects have found, decided and done, and why.

    It is read from the node's database, whether the node runs or not, and nothing is written.
    """


for _verb in (degraded, replay, show_object, show_peer, show_run):
    inspect_group.add_command(_verb)
