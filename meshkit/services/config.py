"""The settings of the daemons, declared once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

_Listen = Annotated[
    str, Meta(description="Endpoint on which other nodes reach this one", min_length=1)
]
_Api = Annotated[
    str,
    Meta(
        description="Endpoint of the local HTTP door; 'auto' for a free port of this "
        "machine, 'none' for no door",
        min_length=1,
    ),
]


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The settings of C{mesh-node}: the top level of C{meshkit.toml}.  Each part adds a section of
    its own.

    Endpoints are Twisted endpoint strings.

    @cvar program: the daemon that has these settings, as an argument of C{twistd}.
    """

    program: ClassVar[str] = "mesh-node"

    listen: _Listen = "tcp:7655"
    api: _Api = "tcp:7654:interface=127.0.0.1"
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
    advertise: Annotated[
        tuple[str, ...],
        Meta(
            description="HOST:PORT at which others reach this node, behind a proxy or a port that "
            "is forwarded by hand; in place of what it finds out",
            extra={"flag": "advertise"},
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

    @property
    def relays_as(self) -> Literal["member", "blind"] | None:
        """What kind of relay it is for others, if it is one."""
        return None


class StorageConfig(NodeConfig, frozen=True, forbid_unknown_fields=True):
    """
    The settings of C{mesh-storage}, which differ from those of C{mesh-node} in their defaults:
    both can run on one machine.
    """

    program: ClassVar[str] = "mesh-storage"

    listen: _Listen = "tcp:7670"
    api: _Api = "tcp:7671:interface=127.0.0.1"


class RelayConfig(NodeConfig, frozen=True, forbid_unknown_fields=True):
    """
    The settings of C{mesh-relay}: those of C{mesh-node} with defaults of their own, as all three
    daemons can run on one machine, and what kind of relay it is.
    """

    program: ClassVar[str] = "mesh-relay"

    listen: _Listen = "tcp:7661"
    api: _Api = "tcp:7662:interface=127.0.0.1"
    role: Annotated[
        Literal["member", "blind"],
        Meta(
            description="Whom it relays for: member, the members of its network, of which it is "
            "one and whose feeds it keeps; blind, whoever comes, of any network, and it has none"
        ),
    ] = "member"

    @property
    def relays_as(self) -> Literal["member", "blind"] | None:
        return self.role
