"""C{meshkit audit}: whether what others keep is still there."""

from __future__ import annotations

import click

from meshkit.cli.audit.looked_after import unwatch, watch, watched
from meshkit.cli.audit.passes import run, show
from meshkit.cli.audit.standing import forgive, peers
from meshkit.cli.audit.verify import verify

__all__ = ["audit_group"]


@click.group("audit")
def audit_group() -> None:
    """
    Ask storage peers for proof that they still have what they keep.

    The node does it by itself, and makes lost shares anew; here it is asked to, and shown. With
    a receipt anybody can verify what was asked and answered, without a node.
    """


for _verb in (forgive, peers, run, show, unwatch, verify, watch, watched):
    audit_group.add_command(_verb)
