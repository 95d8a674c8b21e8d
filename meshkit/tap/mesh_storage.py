"""C{twistd mesh-storage}: run a storage peer."""

from __future__ import annotations

from meshkit.services.programs import MESH_STORAGE
from meshkit.tap.daemons import DaemonOptions, make_service, options_of

makeService = make_service


def Options() -> DaemonOptions:
    """The options, with those of its parts."""
    return options_of(
        MESH_STORAGE,
        "Runs a storage peer: it keeps encrypted shares for the members of its network, up to "
        "--keeper-max-storage bytes or what 'meshkit storage connect' was told, and takes part "
        "in the hash table, by which they find it. Settings come from flags, MESHKIT_* "
        "variables and meshkit.toml in the data folder, in this order.",
    )
