"""
Runs that are ready to be drawn: L{SCENARIOS}.
"""

from __future__ import annotations

from typing import Final

from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.byzantine import BYZANTINE
from meshkit.sim.scenarios.churn import CHURN
from meshkit.sim.scenarios.clients import CLIENTS
from meshkit.sim.scenarios.convergence import CONVERGENCE
from meshkit.sim.scenarios.false_nodes import FALSE_NODES
from meshkit.sim.scenarios.flash_crowd import FLASH_CROWD
from meshkit.sim.scenarios.hash_table import DHT
from meshkit.sim.scenarios.partition import PARTITION
from meshkit.sim.scenarios.relaying import RELAY
from meshkit.sim.scenarios.repairing import REPAIR
from meshkit.sim.scenarios.reunion import REUNION
from meshkit.sim.scenarios.storing import STORAGE

__all__ = ["SCENARIOS"]

_ALL: Final = (
    CONVERGENCE,
    CHURN,
    PARTITION,
    FLASH_CROWD,
    REUNION,
    CLIENTS,
    BYZANTINE,
    DHT,
    FALSE_NODES,
    STORAGE,
    REPAIR,
    RELAY,
)


#: By name.
SCENARIOS: Final[dict[str, Scenario]] = {each.name: each for each in _ALL}
