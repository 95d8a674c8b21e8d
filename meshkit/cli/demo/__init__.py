"""
C{meshkit demo}: three nodes, real text, and what happens when something goes wrong.

C{story} is the play, act by act; C{cluster} keeps the child processes; C{corpus} reads
the text; C{hostile} has the two villains; C{checks} compares and judges; C{screens}
shows it.
"""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--check", is_flag=True, help="Run unattended and exit with 1 if a check fails.")
@click.option(
    "--folder",
    metavar="FOLDER",
    help="Keep the nodes in this new or empty folder [default: a temporary one, removed].",
)
@click.option(
    "--messages",
    type=click.IntRange(2_000, 100_000),
    default=7_500,
    show_default=True,
    help="How many docstrings to publish, at most.",
)
def demo(check: bool, folder: str | None, messages: int) -> None:
    """
    Three strangers build a mesh, before your eyes.

    Starts three nodes on this machine, publishes the docstrings of Python's standard
    library, kills a node, attacks the mesh, and shows what was measured. The mesh then
    stays up for you until Ctrl-C.
    """
    from meshkit.cli.demo.stage import perform

    sys.exit(perform(check=check, folder=folder, messages=messages))
