"""The settings of C{mesh-node}, declared once."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The top level of C{meshkit.toml}; each part adds a section of its own.

    Endpoints are Twisted endpoint strings.
    """

    listen: Annotated[
        str, Meta(description="Endpoint on which other nodes reach this one", min_length=1)
    ] = "tcp:7655"
    api: Annotated[
        str,
        Meta(
            description="Endpoint of the local HTTP door; 'auto' for a free port of this "
            "machine, 'none' for no door",
            min_length=1,
        ),
    ] = "tcp:7654:interface=127.0.0.1"
    api_rate: Annotated[
        int,
        Meta(
            description="Requests a second that each token of 'meshkit token' is granted at the "
            "door, in bursts of up to ten seconds' worth; 0 is any number",
            ge=0,
            le=1_000_000,
        ),
    ] = 100
    api_owner_rate: Annotated[
        int,
        Meta(
            description="The same for the owner's token, the one in door.token", ge=0, le=1_000_000
        ),
    ] = 0
    peers: Annotated[
        tuple[str, ...],
        Meta(
            description="Address of a peer to dial, net:HOST:PORT~shs:KEY, or HOST:PORT to be "
            "asked for its key",
            extra={"flag": "peer"},
        ),
    ] = ()
    network_key: Annotated[
        str,
        Meta(
            description="The network's secret, mknet1-..., or a passphrase (weak: it can be "
            "guessed) [default: the one that 'meshkit init' made]",
            extra={"secret": True, "flag": "network-key"},
        ),
    ] = ""
    network_keys: Annotated[
        tuple[str, ...],
        Meta(
            description="The network's secret and the previous one, both mknet1-..., while it "
            "is being replaced; in place of network_key",
            extra={"secret": True},
            max_length=2,
        ),
    ] = ()
    key_probe: Annotated[
        Literal["lan", "always", "never"],
        Meta(description="Which members of the network are told this node's key on asking"),
    ] = "lan"
    disable: Annotated[
        tuple[str, ...],
        Meta(description="Name of a part to leave out", extra={"flag": "disable"}),
    ] = ()
    compat: Annotated[
        tuple[str, ...],
        Meta(
            description="Programs of others to talk to, by the name of the part: egregore",
            extra={"flag": "compat"},
        ),
    ] = ()
    mcp_profile: Annotated[
        str,
        Meta(
            description="Which tools agents are shown that choose none: core, egregore, or all",
            min_length=1,
        ),
    ] = "core"
    workers: Annotated[
        int, Meta(description="Threads for signature checks and hashing", ge=1, le=64)
    ] = 2
    log_format: Annotated[
        Literal["auto", "json", "text"],
        Meta(description="Form of the log: auto is text on a terminal, else lines of JSON"),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warn", "error", "critical"],
        Meta(description="Events of less importance are not logged"),
    ] = "info"
