"""
The protocol C{invite}, on both sides: a code against the secret of the network.

It runs on the node's port, over a secure channel to the key that stands in the invite; who
dials has nothing of the network but the capability of this one label.  One call is asked and
answered (protocol/invites.md)::

    redeem  [code: bin 16]  ->  [secret: bin 32, weak: bool]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.discovery.invites import LABEL, VERSION, CountedInvite
from meshkit.discovery.inviting.issued import InviteBook
from meshkit.errors import (
    HandshakeTruncated,
    InviteError,
    InviteExpired,
    InviteNotAnswered,
    InviteUnknown,
    InviteUsed,
    MeshkitError,
    NetworkKeyRefused,
    PeerKeyRefused,
    PeerUnreachable,
    RelayError,
    RemoteError,
)
from meshkit.identity.addresses import MeshAddress, PeerAddress
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.rpc.methods import Dispatcher, Method
from meshkit.rpc.protocol import RPCProtocol
from meshkit.rpc.table import RPCLimits
from meshkit.runtime.limits import PeerBuckets
from meshkit.runtime.peers import named_error
from meshkit.shs import Capability, wrap_client

#: Gives the bare stream to a node, at an address of an invite.
Beneath: TypeAlias = Callable[[CountedInvite, MeshAddress], IStreamClientEndpoint]

#: Connections at a time, and seconds that one may last: one question needs no more.  If there are
#: as many, those make room that have not asked yet.
MAX_CONNECTIONS: Final = 16
LIFETIME: Final = 30.0
#: Seconds until it has to be asked.
SILENCE: Final = 10.0
#: Codes that one key may try, and one more each so many seconds.  Nobody guesses one; this is
#: for who tries what is over again and again.
TRIES: Final = 8.0
TRY_EVERY: Final = 10.0
#: Seconds for a connection to one address.
CONNECT_TIMEOUT: Final = 10.0

_MAX_BODY: Final = 1_024
_LIMITS: Final = RPCLimits(calls=1, served=4, refused=16, held_bytes=4 * 1024)


class Redeem(msgspec.Struct, array_like=True, frozen=True):
    """@ivar code: the code of an invite."""

    code: Annotated[bytes, Meta(min_length=16, max_length=16)]


class Welcome(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar secret: of the network.
    @ivar weak: it was made from a passphrase.
    """

    secret: Annotated[bytes, Meta(min_length=32, max_length=32)]
    weak: bool


REDEEM: Final = Method(
    "redeem",
    Redeem,
    Welcome,
    max_request=_MAX_BODY,
    max_answer=_MAX_BODY,
    doc="Take the secret of the network for the code of an invite.",
)

# What a node says of a code, in words of ours: its own are a stranger's.
_REFUSALS: Final[dict[str, type[InviteError]]] = {
    each.code: each for each in (InviteUnknown, InviteUsed, InviteExpired)
}


# --- the side that has made the invite -----------------------------------------------------


class _Redeeming(RPCProtocol):
    """
    One connection: it is over soon, whatever the other side does.

    @ivar asked: it has come with a code.
    """

    asked = False
    _due: IDelayedCall
    _owner: RedeemFactory

    def watched_by(self, owner: RedeemFactory) -> _Redeeming:
        self._owner = owner
        return self

    def connectionMade(self) -> None:
        super().connectionMade()
        self._owner.opened(self)
        self._due = self._reactor.callLater(SILENCE, self.abort)

    def note_asked(self) -> None:
        """It has come with a code: there is more time for the answer."""
        if not self.asked:
            self.asked = True
            if self._due.active():
                self._due.delay(LIFETIME - SILENCE)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._due.active():
            self._due.cancel()
        self._owner.lost(self)
        super().connectionLost(reason)


class RedeemFactory(Factory):
    """
    Answers those who come with a code.

    @ivar welcomed: how many were given the secret since the start, and...
    @ivar refused: ... how many were not.
    """

    noisy = False
    _log = Logger()

    def __init__(self, reactor: IReactorTime, book: InviteBook, secret: NetworkSecret) -> None:
        """@param secret: of the network, as newcomers are to have it."""
        self._reactor = reactor
        self._book = book
        self._secret = secret
        self._network = secret.key().net_id
        self._buckets = PeerBuckets(1 / TRY_EVERY, TRIES)
        self._dispatcher = Dispatcher()
        self._dispatcher.serve(REDEEM, self._redeem)
        # In the order in which they came.
        self._open: dict[_Redeeming, None] = {}
        self.welcomed = 0
        self.refused = 0

    def __len__(self) -> int:
        """Connections that there are."""
        return len(self._open)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if not isinstance(addr, PeerAddress) or not self._has_room():
            return None
        protocol = _Redeeming(
            self._reactor, self._dispatcher, limits=_LIMITS, buckets=self._buckets
        )
        return protocol.watched_by(self)

    def _has_room(self) -> bool:
        """Is there room for one more?  It is made, if somebody only holds a connection."""
        if len(self._open) < MAX_CONNECTIONS:
            return True
        silent = next((each for each in self._open if not each.asked), None)
        if silent is None:
            return False
        self.lost(silent)
        silent.abort()
        return True

    def opened(self, protocol: _Redeeming) -> None:
        self._open[protocol] = None

    def lost(self, protocol: _Redeeming) -> None:
        self._open.pop(protocol, None)

    def stop(self) -> None:
        """Cut all connections off."""
        for protocol in list(self._open):
            protocol.abort()

    async def _redeem(self, caller: _Redeeming, request: Redeem) -> Welcome:
        peer = caller.key
        assert peer is not None
        caller.note_asked()
        try:
            invite = await self._book.use(request.code, peer, self._network)
        except InviteError as e:
            self.refused += 1
            self._log.info("{peer} came with an invite: {code}", peer=peer.text, code=e.code)
            raise
        self.welcomed += 1
        self._log.info("{peer} has used the invite {id}", peer=peer.text, id=invite.id)
        return Welcome(self._secret.raw, self._secret.weak)


# --- the side that was invited ----------------------------------------------------------------


class Redeemer:
    """Uses an invite."""

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        rng: Random,
        beneath: Beneath | None = None,
    ) -> None:
        """
        @param reactor: clock, sockets and names.
        @param identity: who joins.
        @param beneath: gives the bare stream to the node at an address of an invite, with no
            handshake inside.  If not given, that is TCP, and ways through relays are not gone.
        """
        self._reactor = reactor
        self._identity = identity
        self._rng = rng
        self._beneath = beneath or self._by_tcp

    def _by_tcp(self, _invite: CountedInvite, address: MeshAddress) -> IStreamClientEndpoint:
        if address.via is not None:
            raise PeerUnreachable(f"{address.text} leads through a relay: only TCP is known here")
        return HostnameEndpoint(self._reactor, address.host, address.port, timeout=CONNECT_TIMEOUT)

    def redeem(self, invite: CountedInvite) -> Deferred[tuple[NetworkSecret, MeshAddress]]:
        """
        Ask the node that has made an invite for the secret of its network.  To be asked again
        is harmless, and counts once.

        @return: Deferred of the secret, and where that node was reached.  It fails with
            L{InviteUsed}, L{InviteExpired} or L{InviteUnknown}, or the L{RemoteError} that the
            node says, as soon as that node is reached; otherwise with what was wrong with its
            addresses: if that is not the same kind for all of them, a L{PeerUnreachable} that says
            so of each.  Cancelling it ends the connection.
        """
        return Deferred.fromCoroutine(self._redeem(invite))

    async def _redeem(self, invite: CountedInvite) -> tuple[NetworkSecret, MeshAddress]:
        problems: list[MeshkitError] = []
        for address in invite.addresses:
            try:
                return await self._at(invite, address), address
            except (InviteUsed, InviteExpired, InviteUnknown, RemoteError):
                raise
            except MeshkitError as e:
                problems.append(e)  # it may be reached at another one
        raise _none_of(problems)

    async def _at(self, invite: CountedInvite, address: MeshAddress) -> NetworkSecret:
        endpoint = wrap_client(
            self._reactor,
            self._beneath(invite, address),
            identity=self._identity,
            capability=Capability(LABEL, VERSION, invite.capability),
            peer=invite.key,
            rng=self._rng,
        )
        factory = Factory.forProtocol(lambda: RPCProtocol(self._reactor, limits=_LIMITS))
        factory.noisy = False
        connecting: Deferred[Any] = endpoint.connect(factory)
        asking: RPCProtocol
        try:
            asking = await connecting
        except (NetworkKeyRefused, PeerKeyRefused, HandshakeTruncated):
            raise InviteNotAnswered(
                f"the node at {address.place} does not answer to this invite: it is another node, "
                f"it has no invites that could be used, or its network has a new secret since; "
                f"ask for another invite"
            ) from None
        except RelayError as e:
            raise type(e)(
                f"the relay at {address.place} does not lead to the node that has made the invite "
                f"({e}): try again when that node runs; the invite is not used up"
            ) from None
        except PeerUnreachable as e:
            raise type(e)(
                f"{e}: try again when the relay runs; the invite is not used up"
            ) from None
        except (ConnectError, ConnectionClosed, OSError) as e:
            raise named_error(address.place, e) from None
        try:
            welcome: Welcome = await asking.call(REDEEM, Redeem(invite.code))
        except RemoteError as e:
            if e.code in _REFUSALS:
                raise _REFUSALS[e.code](_WHY[e.code]) from None
            raise
        except ConnectionClosed as e:
            raise named_error(address.place, e) from None
        finally:
            asking.close()
        return NetworkSecret(welcome.secret, weak=welcome.weak)


def _none_of(problems: Sequence[MeshkitError]) -> MeshkitError:
    """@return: that a node was reached at none of its addresses, whose problems these are."""
    first, *others = problems
    if not others:
        return first
    same = all(type(each) is type(first) for each in others)
    return (type(first) if same else PeerUnreachable)("; and ".join(map(str, problems)))


_WHY: Final = {
    InviteUnknown.code: "the node that the invite leads to does not know it: it was taken back, "
    "or is long over; ask for another one",
    InviteUsed.code: "the invite was used already, by somebody else, or by you before the network "
    "got a new secret: ask for another one, and tell whoever gave it to you if that was not to be",
    InviteExpired.code: "the invite has expired: ask for another one",
}
