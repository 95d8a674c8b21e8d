"""C{twistd mesh-node}: run a node of a peer-to-peer mesh."""

from __future__ import annotations

from meshkit.services.programs import MESH_NODE
from meshkit.tap.daemons import DaemonOptions, make_service, options_of

makeService = make_service


def Options() -> DaemonOptions:
    """The options, with those of every part that is installed."""
    return options_of(
        MESH_NODE,
        "Runs a node: signed feeds, replicated with its peers over an encrypted and "
        "authenticated port, and a local HTTP door. Settings come from flags, MESHKIT_* "
        "variables and meshkit.toml in the data folder, in this order.",
    )
