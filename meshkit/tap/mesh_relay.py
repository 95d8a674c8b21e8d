"""C{twistd mesh-relay}: run a relay."""

from __future__ import annotations

from meshkit.services.programs import MESH_RELAY
from meshkit.tap.daemons import DaemonOptions, make_service, options_of

makeService = make_service


def Options() -> DaemonOptions:
    """The options, with those of its parts."""
    return options_of(
        MESH_RELAY,
        "Runs a relay: it keeps sealed messages for those who are away, and leads to those who "
        "cannot be dialled. As a member of its network it keeps their feeds as well; with "
        "--role blind it serves whoever comes and is in no network. Settings come from flags, "
        "MESHKIT_* variables and meshkit.toml in the data folder, in this order.",
    )
