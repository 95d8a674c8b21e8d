"""
A child that makes one world of L{meshkit.sim}, and says what it cost.  It knows one job, and
ends when its standard input does, also in the middle of it: see L{tests.bench.peers}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from threading import Thread
from typing import Any, Final

from attrs import asdict

from tests.sim.scale import Crowd

#: Seconds after which it ends whatever it does.
LIFETIME: Final = 1_200


def world(nodes: int, messages: int, authors: int, seed: int) -> dict[str, Any]:
    """
    Job.

    @return: C{memory}, MiB that a node takes; and for each phase what it took, by its name.
    """
    crowd = Crowd.make(nodes, seed, memo=False)
    crowd.start()
    crowd.idle(60)
    crowd.publish(messages, authors)
    if not crowd.agree(messages):
        raise RuntimeError("not all have all of it")
    return {
        "memory": crowd.memory,
        **{name: asdict(phase) for name, phase in crowd.phases.items()},
    }


def _end_with_the_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Do the job that the first line names."""
    signal.alarm(LIFETIME)
    arguments = json.loads(sys.stdin.readline())
    watching = Thread(target=_end_with_the_input, daemon=True)
    watching.start()
    jobs = {"world": world}
    print(json.dumps({"done": jobs[arguments.pop("job")](**arguments)}), flush=True)
    watching.join()


if __name__ == "__main__":
    main()
