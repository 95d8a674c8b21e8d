"""C{meshkit storage}: lending space to the members of the network."""

from __future__ import annotations

import click

from meshkit.cli.storage.lending import connect, disconnect, status

__all__ = ["storage"]


@click.group()
def storage() -> None:
    """
    Lend space to the network, and see what is kept for others.

    What is kept is encrypted by its owners: nobody can read it here.
    """


for _verb in (connect, disconnect, status):
    storage.add_command(_verb)
