"""What the parts C{lan} and C{wellknown} say of themselves, and what the latter offers."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import DiscoveryError, InvalidAddress, NotFound, WellKnownInvalid
from meshkit.operations import Nothing, Operation


class Near(msgspec.Struct):
    """
    A node that was found near by.

    @ivar address: C{net:HOST:PORT~shs:KEY}: where it says that it is.
    @ivar dialled: it is dialled, as one of C{max_peers}.
    """

    address: str
    dialled: bool


class LanStatus(msgspec.Struct):
    """
    @ivar idle: why nobody is looked for, if so.
    @ivar port: UDP port at which beacons are listened for.
    @ivar interfaces: IPv4 addresses of the interfaces at which this node calls out.
    @ivar faults: of these, those at which nobody hears it, and why.
    @ivar silent: why this node does not call out anywhere, and only listens, if so.
    @ivar near: nodes that were heard within C{forgotten_after} seconds.
    @ivar machine: nodes that run on this machine, as the same user.
    @ivar heard: datagrams that came, by what came of them.
    """

    idle: str | None
    port: int | None
    interfaces: list[str]
    faults: dict[str, str]
    silent: str | None
    near: list[Near]
    machine: list[Near]
    heard: dict[str, int]


class WellKnownStatus(msgspec.Struct):
    """
    @ivar published: the addresses that this node's document says; none, if it is not published.
    @ivar idle: why it is not, if it is not.
    """

    published: list[str]
    idle: str | None


class Discover(msgspec.Struct, forbid_unknown_fields=True):
    domain: Annotated[
        str,
        Meta(description="a domain such as example.org, or example.org:8443", max_length=300),
    ]


class Discovered(msgspec.Struct):
    """
    What a domain says of its node.  It is not proved before the node is dialled.

    @ivar domain: that was asked.
    @ivar url: where the document is.
    @ivar public_id: the node's key.
    @ivar network: public name of the network that it is in.
    @ivar member_of: C{ours}, if that is this node's own network; C{relays}, if it is a relay for
        whoever comes; else C{other}, and this node cannot talk to it.
    @ivar addresses: where it can be dialled, C{net:HOST:PORT~shs:KEY}.
    @ivar left_out: addresses of hosts that only mean something where the document was written, of
        names that are no public address here, and ports of other services.
    """

    domain: str
    url: str
    public_id: str
    network: str
    member_of: Literal["ours", "relays", "other"]
    addresses: list[str]
    left_out: list[str]


DOCUMENT: Final = Operation(
    name="wellknown_document",
    method="GET",
    path="/.well-known/meshkit.json",
    request=Nothing,
    answer=bytes,
    doc="The document by which this node is found by the name of a domain, to be served there; "
    "there is none unless wellknown.publish is set.",
    sends="application/json",
    public=True,
    errors=(NotFound,),
)
DISCOVER: Final = Operation(
    name="peers_discover",
    method="POST",
    path="/v1/peers/discover",
    request=Discover,
    answer=Discovered,
    doc="Ask a domain, over HTTPS, which node is its own and where it can be dialled.  Nothing is "
    "dialled or kept.",
    permission="admin",
    idempotent=True,
    untrusted=True,
    open_world=True,
    errors=(InvalidAddress, DiscoveryError, WellKnownInvalid),
)
