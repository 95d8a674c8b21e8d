"""
The HTTP door of a relay, put together::

    LimitedSite         limits, before anything is kept
      RelayGuard        who asks: a peer by its signature, or a visitor; how much
        RestDoor        one route for each operation
          Dispatcher    the handler

What is asked of the registry and of the feeds is L{meshkit.interfaces.IRegistrations} and
L{meshkit.interfaces.IFeedStore}; a blind relay has neither, and says what it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from random import Random
from typing import Any, Final

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred

from meshkit import __version__
from meshkit.errors import (
    BodyTooLarge,
    HeadersTooLarge,
    InvalidRequest,
    MeshkitError,
    NotFound,
    NotReady,
    NotRegistered,
    OperationError,
    Overloaded,
    RateLimited,
    RequestTimeout,
    SignatureRefused,
    SignatureRetry,
    TLSNeeded,
    UnsupportedMediaType,
)
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import MessagesStored, RegistrationChanged
from meshkit.operations import BoundOperation, Item, Nothing, Page
from meshkit.runtime.events import Bell
from meshkit.runtime.signed.replays import Replays
from meshkit.runtime.signed.signatures import RELAY_TAG
from meshkit.runtime.signed.signing import Signatures
from meshkit.services.relay import operations as offered
from meshkit.services.relay.guard import RelayGuard, is_below
from meshkit.shs.listener import ip_of
from meshkit.web.dispatch import Dispatcher
from meshkit.web.forwarded import TrustedProxies
from meshkit.web.limits import LimitedSite, RequestHead
from meshkit.web.openapi import Door, document
from meshkit.web.request_ids import RequestIds
from meshkit.web.rest import RestDoor

__all__ = ["MAX_CONNECTIONS", "MAX_STREAMS", "Facts", "RelayDoor", "relay_document"]

#: Connections at a time, and of them those on which there is a stream.
MAX_CONNECTIONS: Final = 512
MAX_STREAMS: Final = 256
#: Bytes of the messages in an answer.
MAX_PAGE: Final = 256 * 1024
#: Messages that are read at a time for a stream.
STRETCH: Final = 50
#: Seconds that answers under way may take to be finished.
CLOSE_GRACE: Final = 5.0

_ABOUT: Final = """\
The HTTP door of a meshkit relay, for whoever comes and for its peers.

A peer signs each request with the key that is registered at the relay, by HTTP Message \
Signatures (RFC 9421) in the one form that docs/protocol/storage.md describes, with the tag \
`meshkit-relay/1`; the relay signs the answer, unless it is a stream. Register first: a \
registration is a signed statement, and needs no other signature.

Every answer but streams is of one form: `success`, and `data` with perhaps `metadata`, or `error` \
with a stable `code`. An error that the relay has not signed says that nothing came of the \
request, and no more.

An id in a path may contain a slash: percent-encode it. `HEAD` answers as `GET` does, without the \
body. A field that is not named here is refused. Every answer has the header `X-Request-Id`.
"""
_SIGNATURE: Final = {
    "type": "apiKey",
    "in": "header",
    "name": "Signature",
    "description": "With Signature-Input, Content-Digest, Meshkit-Recipient and Meshkit-Net, as "
    "docs/protocol/storage.md says; the tag is meshkit-relay/1.",
}
_ERRORS: Final[tuple[type[MeshkitError], ...]] = (
    OperationError,
    InvalidRequest,
    SignatureRefused,
    SignatureRetry,
    NotRegistered,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    RateLimited,
    HeadersTooLarge,
    MeshkitError,
    NotReady,
    Overloaded,
)


@frozen
class Facts:
    """
    What a relay says of itself.

    @ivar identity: its key.
    @ivar role: C{member} or C{blind}.
    @ivar network: id of the network, if it is in one.
    @ivar mesh: where it listens for the mesh, as it says itself.
    @ivar since: when it was started, by the clock of the reactor.
    """

    identity: PublicKey
    role: Any
    network: bytes | None
    mesh: Callable[[], Sequence[str]]
    since: float


def relay_document(operations: Sequence[BoundOperation], open_names: frozenset[str]) -> Any:
    """@return: the OpenAPI document of a door at which these are offered."""
    return document(
        operations,
        __version__,
        Door(
            "meshkit relay",
            _ABOUT,
            "signature",
            _SIGNATURE,
            scopes=False,
            open=open_names,
            errors=_ERRORS,
            challenges=False,
        ),
    )


class RelayDoor:
    """
    See the module.

    @ivar site: the factory, to be listened with.
    @ivar operations: what is offered.
    """

    def __init__(
        self,
        reactor: Any,
        facts: Facts,
        *,
        identity: Any,
        replays: Replays,
        registry: Any,
        feeds: Any,
        well_known: Any,
        events: Any,
        rng: Random,
        wall_clock: Callable[[], int],
        ready: Callable[[], bool],
        run_in_thread: Callable[..., Deferred[Any]] | None = None,
        tls: bool = False,
        plain_feeds: bool = False,
        directory_for_all: bool = False,
        proxies: TrustedProxies | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        """
        @param facts: what the relay says of itself.
        @param identity: signs the answers.
        @param replays: lets signed requests in, once.
        @param registry: L{meshkit.interfaces.IRegistrations}, of a member relay.
        @param feeds: L{meshkit.interfaces.IFeedStore}, of a relay that has feeds.
        @param well_known: L{meshkit.interfaces.IWellKnown}, if there is one.
        @param events: L{meshkit.runtime.events.EventBus}.
        @param rng: for the names of requests.
        @param wall_clock: nanoseconds since 1970.
        @param ready: is the relay?
        @param run_in_thread: for what takes long.
        @param tls: TLS is beneath all connections.
        @param plain_feeds: give feeds and the directory without TLS, too.
        @param directory_for_all: show the directory to who is no peer, too.
        @param proxies: who says truly from whom a request is.
        @param max_connections: at a time.
        @param max_streams: at a time, of one caller half of it.
        """
        self._reactor = reactor
        self._facts = facts
        self._registry = registry
        self._feeds = feeds
        self._well_known = well_known
        self._events = events
        self._tls = tls
        self._plain_feeds = plain_feeds
        bound = self._bind()
        self._open_names = offered.OPEN | ({offered.DIRECTORY.name} if directory_for_all else set())
        self._private = [offered.FEED.path, offered.EVENTS.path]
        if not directory_for_all:
            self._private.append(offered.DIRECTORY.path)
        request_ids = RequestIds(rng)
        self.operations = Dispatcher(bound, ready=ready, clock=reactor, request_ids=request_ids)
        self._openapi = msgspec.json.encode(relay_document(bound, self._open_names))
        self._rest = RestDoor(
            self.operations,
            clock=reactor,
            max_streams=max_streams,
            run_in_thread=run_in_thread,
        )
        network = facts.network or bytes(16)
        signatures = Signatures(identity, network, replays, wall_clock, tag=RELAY_TAG)
        closed = [
            each.operation.path.partition("/{")[0]
            for each in bound
            if each.operation.name not in self._open_names
        ]
        self._guard = RelayGuard(
            self._rest.resource(),
            reactor,
            signatures,
            registered=lambda key: registry is not None and registry.is_registered(key),
            saw=lambda key: None if registry is None else registry.saw(key),
            open_operations=self._open_names,
            closed=closed,
            proxies=proxies,
        )
        self.site = LimitedSite(
            self._guard,
            reactor,
            max_body=offered.MAX_BODY,
            max_bodies=max_connections * offered.MAX_BODY,
            max_unfetched=32 * 1024 * 1024,
            max_connections=max_connections,
            admit=self._admit,
            wall_clock=wall_clock,
            request_ids=request_ids,
        )
        self._unsubscribe = events.subscribe(RegistrationChanged, self._changed)

    def _bind(self) -> list[BoundOperation]:
        offers: list[tuple[Any, Any]] = [
            (offered.STATUS, self._answer_status),
            (offered.OPENAPI, self._answer_openapi),
        ]
        if self._well_known is not None:
            offers.append((offered.WELL_KNOWN, self._answer_well_known))
        if self._registry is not None:
            offers += [
                (offered.REGISTER, self._answer_register),
                (offered.SETTINGS, self._answer_settings),
                (offered.DIRECTORY, self._answer_directory),
            ]
            if self._feeds is not None:
                offers += [
                    (offered.FEED, self._answer_feed),
                    (offered.AUTHOR, self._answer_author),
                    (offered.EVENTS, self._answer_events),
                ]
        return [BoundOperation(operation, handler, "relay_door") for operation, handler in offers]

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._rest.streams

    def close(self) -> Deferred[None]:
        """
        End all streams, give the answers under way a little time, and close.

        @return: Deferred that fires when no connection is left.
        """
        self._unsubscribe()
        self._rest.end_streams()
        return self.site.close(CLOSE_GRACE)

    def _changed(self, event: RegistrationChanged) -> None:
        if not event.registered:
            self._guard.forget(event.key)

    def _admit(self, head: RequestHead) -> MeshkitError | None:
        refused = self._guard.admit(head) or self._check_private(head)
        return refused or self._rest.admit(head)

    def _check_private(self, head: RequestHead) -> MeshkitError | None:
        """What was said in a network is not to be overheard."""
        if self._tls or self._plain_feeds or not is_below(head.path, self._private):
            return None
        ip = ip_of(head.peer)
        if ip is None or ip.is_loopback:
            return None
        return TLSNeeded()

    # --- the handlers ------------------------------------------------------------------

    def _answer_status(self, request: Nothing) -> offered.RelayStatus:
        facts = self._facts
        figures = None if self._registry is None else self._registry.figures()
        return offered.RelayStatus(
            version=__version__,
            public_id=facts.identity.text,
            role=facts.role,
            network=None if facts.network is None else facts.network.hex(),
            mesh=list(facts.mesh()),
            uptime_secs=round(self._reactor.seconds() - facts.since, 3),
            registers=figures is not None,
            peers=0 if figures is None else figures.peers,
            max_peers=0 if figures is None else figures.max_peers,
            feeds_need_tls=not self._plain_feeds,
        )

    def _answer_well_known(self, request: Nothing) -> bytes:
        document: bytes | None = self._well_known.document()
        if document is None:
            raise NotFound("this relay publishes no such document")
        return document

    def _answer_openapi(self, request: Nothing) -> bytes:
        return self._openapi

    async def _answer_register(self, request: offered.Register) -> offered.Entered:
        return self._entered(
            await self._the_registry().enter_proved(request.statement, request.proof)
        )

    async def _answer_settings(self, request: offered.ChangeSettings) -> offered.Entered:
        return self._entered(await self._the_registry().enter_known(request.statement))

    def _entered(self, word: Any) -> offered.Entered:
        peer = self._the_registry().find(word.peer)
        return offered.Entered(
            public_id=word.peer.text,
            registered=peer is not None,
            listed=peer is not None and peer.registration.listed,
            entered=word.raw,
        )

    async def _answer_directory(self, request: offered.ListDirectory) -> Page:
        after = b"" if request.cursor is None else PublicKey.parse(request.cursor).raw
        found = await self._the_registry().directory(after, request.limit)
        entries = [
            offered.DirectoryEntry(peer.key.text, peer.registration.nickname, peer.registration.raw)
            for peer in found.peers
        ]
        cursor = entries[-1].public_id if found.more else None
        return Page(entries, found.total, request.limit, None, next_cursor=cursor)

    def _the_registry(self) -> Any:
        if self._registry is None:
            raise NotReady("this relay registers nobody")
        return self._registry

    async def _answer_feed(self, request: offered.ReadArrivals) -> offered.ArrivalsShown:
        found = await self._feeds.arrivals(request.after, request.limit, MAX_PAGE)
        return offered.ArrivalsShown(
            [msgspec.Raw(each.text) for each in found.messages],
            found.reached,
            found.newest,
        )

    async def _answer_author(self, request: offered.ReadAuthor) -> offered.AuthorShown:
        key, after = PublicKey.parse(request.author), request.after
        raws = await self._feeds.read(key.raw, after, MAX_PAGE, request.limit)
        reached, gone_until = after + len(raws), None
        if not raws:
            gap = await self._feeds.gone_until(key.raw, after)
            gone_until = None if gap is None else gap.until
        return offered.AuthorShown(
            key.text, [msgspec.Raw(raw) for raw in raws], reached, gone_until
        )

    def _answer_events(self, request: offered.Follow) -> AsyncGenerator[Item, None]:
        return self._follow(request.after)

    async def _follow(self, after: int | None) -> AsyncGenerator[Item, None]:
        bell = Bell()
        unsubscribe = self._events.subscribe(MessagesStored, lambda event: bell.ring())
        try:
            newest = (await self._feeds.arrivals(0, 1, 1)).newest
            if after is None:
                after = newest
            elif after > newest:
                # The database was replaced by an older one.
                after = newest
                yield Item({"newest": newest}, str(newest), "reset")
            while True:
                bell.hush()
                found = await self._feeds.arrivals(after, STRETCH, MAX_PAGE)
                for each in found.messages:
                    yield Item(msgspec.Raw(each.text), str(each.message.position))
                after = found.reached
                if after >= found.newest:
                    await bell.wait()
        finally:
            unsubscribe()
