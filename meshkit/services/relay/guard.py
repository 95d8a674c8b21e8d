"""
Who asks at the HTTP door of a relay, and how much.

Nobody has a token here.  A request is signed by a key that is registered at the relay (RFC 9421,
in the one form of L{meshkit.runtime.signed.signatures}, with a tag of its own), or is a visitor's.
Visitors are told apart by their addresses, for which each has a bucket; a peer has one for its
key, whatever addresses it has.  Behind proxies that are trusted, the address is what these say.

A browser keeps nothing that would make this door take its requests for somebody else's: neither
cookies nor a password; so C{Host} and C{Origin} say nothing here.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web.resource import IResource, Resource, getChildForRequest

from meshkit.errors import (
    MeshkitError,
    NotRegistered,
    Overloaded,
    RateLimited,
    SignatureRefused,
    StorageBusy,
)
from meshkit.identity.keys import PublicKey
from meshkit.runtime.limits import TokenBucket
from meshkit.runtime.signed.signatures import (
    SIGNATURE,
    SIGNATURE_INPUT,
    SignedRequest,
    claimed_caller,
)
from meshkit.runtime.signed.signing import Signatures
from meshkit.shs.listener import ip_of, origin_of
from meshkit.web.answers import SAFE_HEADERS, Header, prepare_error
from meshkit.web.callers import Caller, Scope
from meshkit.web.forwarded import TrustedProxies
from meshkit.web.limits import RequestHead

#: Requests a second that are granted to an address, and to a key, and those at once.
VISITOR_RATE: Final = 2.0
VISITOR_BURST: Final = 30.0
PEER_RATE: Final = 20.0
PEER_BURST: Final = 200.0
#: What a body costs beside that: whoever sends one wants something written.
BODY_COST: Final = 5.0
#: Callers that are remembered one by one, of either kind; and of those that have a connection,
#: so many that are passed over to find another to forget.
MAX_CALLERS: Final = 4_096
MAX_BUSY: Final = 512


@frozen(eq=False)
class _Signed:
    """Stands among those who have let a request in, and says by what."""

    request: SignedRequest


class _Callers:
    """Those of one kind, with their buckets."""

    def __init__(
        self, scopes: Sequence[Scope], rate: float, burst: float, most: int = MAX_CALLERS
    ) -> None:
        self._scopes = tuple(scopes)
        self._rate = rate
        self._burst = burst
        self._most = most
        # In the order in which they were last heard of.
        self._known: OrderedDict[str, tuple[Caller, TokenBucket]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, name: str) -> tuple[Caller, TokenBucket]:
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
            return known
        if len(self._known) >= self._most:
            self._make_room()
        known = self._known[name] = (
            Caller(name, self._scopes),
            TokenBucket(self._rate, self._burst),
        )
        return known

    def _make_room(self) -> None:
        """Forget who was quiet for longest: who has a new bucket for it waited that long."""
        for name, (caller, _) in list(islice(self._known.items(), MAX_BUSY)):
            if not caller.watched:
                del self._known[name]
                return
            # Its connection ends when it is no peer any more, so it stays.
            self._known.move_to_end(name)

    def forget(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            known[0].end()


class RelayGuard(Resource):
    """
    Stands before a resource and says who asks.  Give L{admit} to the
    L{meshkit.web.limits.LimitedSite} too.
    """

    isLeaf = True

    def __init__(
        self,
        inner: IResource,
        clock: IReactorTime,
        signatures: Signatures,
        *,
        registered: Callable[[PublicKey], bool],
        saw: Callable[[PublicKey], None],
        open_operations: Collection[str],
        closed: Collection[str],
        proxies: TrustedProxies | None = None,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        """
        @param inner: what is guarded.
        @param signatures: let signed requests in, once.
        @param registered: is this a peer of the relay?
        @param saw: told who has signed a request.
        @param open_operations: names of what visitors may use.
        @param closed: paths at which, and below which, only peers are answered.
        @param proxies: who says truly from whom a request is.
        """
        super().__init__()
        self._inner = inner
        self._clock = clock
        self._signatures = signatures
        self._registered = registered
        self._saw = saw
        self._closed = tuple(closed)
        self._proxies = TrustedProxies(()) if proxies is None else proxies
        scopes = [Scope("write", name) for name in sorted(open_operations)]
        self._visitors = _Callers(scopes, VISITOR_RATE, VISITOR_BURST, max_callers)
        self._peers = _Callers([Scope("write")], PEER_RATE, PEER_BURST, max_callers)

    @property
    def remembered(self) -> int:
        """Of how many callers something is remembered."""
        return len(self._visitors) + len(self._peers)

    def forget(self, key: PublicKey) -> None:
        """Who has this key is no peer any more: what is open for it ends."""
        self._peers.forget(key.text)

    def admit(self, head: RequestHead) -> MeshkitError | None:
        """
        @return: L{None}, and the caller is known; or why the request is refused.
        """
        try:
            self._admit(head)
        except StorageBusy as e:
            return Overloaded(str(e))
        except MeshkitError as e:
            return e
        head.passed.append(self)
        return None

    def _admit(self, head: RequestHead) -> None:
        cost = 1.0 + (BODY_COST if head.length != 0 else 0.0)
        visitor, bucket = self._visitors.find(f"visitor {origin_of(self._client_of(head))}")
        if not (head.headers.hasHeader(SIGNATURE_INPUT) or head.headers.hasHeader(SIGNATURE)):
            self._charge(visitor, bucket, cost)
            if is_below(head.path, self._closed):
                raise SignatureRefused(
                    "only the peers of this relay are answered here: sign the request (RFC 9421) "
                    "with the key that is registered"
                )
            head.caller = visitor
            return
        values = _values_of(head)
        try:
            key = claimed_caller(values)
            if not self._registered(key):
                # Keys cost nothing: those of strangers are charged to the address, before
                # anything is done for them, and nothing of them is kept.  They are verified so
                # that nobody learns here whether the key of somebody else is registered.
                self._charge(visitor, bucket, cost)
                cost = 0.0
                self._signatures.verify(head.method, head.target, values)
                raise NotRegistered(
                    f"{key.text} is not registered at this relay: register it first, at "
                    "/v1/register or over the mesh"
                )
            signed = self._signatures.admit(head.method, head.target, values)
        except SignatureRefused:
            self._charge(visitor, bucket, cost)
            bucket.owe(BODY_COST, self._clock.seconds())
            raise
        peer, bucket = self._peers.find(key.text)
        self._charge(peer, bucket, cost)
        self._saw(key)
        head.caller = peer
        head.passed.append(_Signed(signed))

    def _client_of(self, head: RequestHead) -> IAddress:
        peer = ip_of(head.peer)
        if peer is None or not self._proxies.trusts(peer):
            return head.peer
        lines = head.headers.getRawHeaders(self._proxies.header.encode("ascii"), [])
        client = self._proxies.client(peer, [line.decode("latin-1") for line in lines])
        family = IPv4Address if client.version == 4 else IPv6Address
        return family("TCP", str(client), 0)

    def _charge(self, caller: Caller, bucket: TokenBucket, cost: float) -> None:
        wait = bucket.take(cost, self._clock.seconds())
        if wait:
            raise RateLimited(
                f"{caller.name} is granted {bucket.rate:g} requests a second: wait {wait:.3g} s",
                retry_after=wait,
            )

    def render(self, request: Any) -> Any:
        for name, value in SAFE_HEADERS:
            request.setHeader(name, value)
        for each in request.head.passed:
            if isinstance(each, _Signed):
                signed = each.request
                digest = sha256(request.content.getvalue()).digest()
                request.seal = self._sealing(request, signed)
                if not hmac.compare_digest(digest, signed.digest):
                    return prepare_error(
                        request,
                        SignatureRefused("the body is not the one of the Content-Digest"),
                    )
        return getChildForRequest(self._inner, request).render(request)

    def _sealing(self, request: Any, signed: SignedRequest) -> Callable[[bytes], list[Header]]:
        """@return: what makes the headers by which an answer is signed."""
        method = request.method.decode("latin-1")
        path = request.uri.partition(b"?")[0].decode("latin-1")

        def seal(body: bytes) -> list[Header]:
            digest = sha256(body).digest()
            made = self._signatures.sign(signed, method, path, request.code, digest)
            return [(name.encode("ascii"), value.encode("latin-1")) for name, value in made]

        return seal


def is_below(path: str, places: Collection[str]) -> bool:
    """
    @param path: percent-encoded, as it was asked for.
    @param places: paths without a slash at the end, not encoded.
    @return: is it one of them, or below one?  It is read as the routes read it, but that a slash
        may be encoded too: so nothing is left out that they find.
    """
    plain = unquote(path)
    return any(plain == each or plain.startswith(f"{each}/") for each in places)


def _values_of(head: RequestHead) -> Callable[[str], list[str]]:
    def values(name: str) -> list[str]:
        raw = head.headers.getRawHeaders(name.encode("ascii"), [])
        return [value.decode("latin-1") for value in raw]

    return values
