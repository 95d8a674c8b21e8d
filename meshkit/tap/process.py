"""
The figures of the process itself: memory, processor time, open files, garbage.

They are taken at the edge, as a simulation has many nodes and one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def process_metrics() -> Sequence[Any]:
    """@return: collectors for L{meshkit.runtime.metrics.Metrics}; where there is no /proc, less."""
    # Nobody waits for it who is never scraped.
    from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

    # They register themselves, with the one that is everybody's if they are given none.
    registry = CollectorRegistry()
    return [ProcessCollector(registry=registry), GCCollector(registry=registry)]
