"""What agents are told of the part, and the tools that they know from somewhere else."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from meshkit.aliases import Alias, Way

#: Said before agents ask, as long as it is true: no counters, and nothing that peers wrote.
NOTHING_MEASURED: Final = (
    "No round trip was measured since the start: roundtrip_measure does it for one peer."
)


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: Annotated[str, Meta(description="id of a peer: @....ed25519")]


def _milliseconds(data: Any, arguments: Ping) -> str:
    return f"{arguments.target}: {data['median_ms']} ms"


#: A tool of another program: its exact name and argument, on an operation of ours.
ALIASES: Final = (
    Alias(
        "pinger",
        "ping",
        "How long it takes to a peer and back.",
        Ping,
        (Way("roundtrip_measure", {"target": "peer"}),),
        answer=_milliseconds,
        own_words=True,
    ),
)
