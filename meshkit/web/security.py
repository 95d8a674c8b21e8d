"""
Who may use the local door.

The door listens on loopback or on a unix socket, which keeps strangers out, but not
the web pages in the owner's browser.  A page can send requests to 127.0.0.1; by DNS
rebinding, under a name of its own that it has pointed there, it can even read the
answers.  So each request is checked for three things that a page cannot fake:

 1. C{Host} is a name of this door.  A rebound name is not.
 2. C{Origin}, if there is one, is the door itself.  Browsers send it with everything
    that changes state.  C{Sec-Fetch-Site}, which they send with the rest as well, does
    not name another site.
 3. C{Authorization} holds a token: the one in the data folder, or one that its owner has
    given out.  Reads need it as well.

And a request that changes state has to be of type JSON, or of bytes, neither of which an
HTML form sends.  A script has to be allowed to by the answer to an C{OPTIONS} that its browser
sends first: that is refused like everything that a page sends, and no answer ever has a
header C{Access-Control-...}.

Sources: Fetch standard, sections 3.2 (Origin) and 3.3 (CORS); Fetch Metadata, section 2.2
(Sec-Fetch-Site); RFC 6750, 2.1 and 3 (bearer tokens).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.resource import IResource, Resource, getChildForRequest

from meshkit.errors import ForbiddenOrigin, MeshkitError, Unauthorized
from meshkit.web.answers import SAFE_HEADERS, prepare_error
from meshkit.web.callers import Caller
from meshkit.web.limits import RequestHead
from meshkit.web.rates import Rates, body_cost
from meshkit.web.requests import JSON_BODY, RAW_BODY, check_content_type

_HOST: Final = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_READS: Final = ("GET", "HEAD")
_HTTP_PORT: Final = 80
_MAX_KNOWN: Final = 64


class DoorGuard(Resource):
    """
    Stands before a resource and lets through who may use it.

    It decides before anything is routed.  Give L{admit} to a
    L{meshkit.web.limits.LimitedSite} as well: then a stranger's body is not even
    read.  Neither the token nor what was sent in its place is ever logged or shown.
    """

    isLeaf = True

    def __init__(
        self,
        inner: IResource,
        tokens: Callable[[bytes], Caller | None],
        *,
        hosts: Collection[str] = (),
        public: Collection[str] = (),
        rates: Rates | None = None,
    ) -> None:
        """
        @param inner: what is guarded.
        @param tokens: says whose token it is that C{Authorization: Bearer} holds, if it is
            anybody's; such as a L{meshkit.web.doorkeeper.Doorkeeper}.
        @param hosts: further names under which the door is reached, for instance
            through a reverse proxy: C{name} (with the door's port or none) or
            C{name:port}.
        @param public: paths, exactly as requested, that may be read without token.
        @param rates: how much each caller may ask for; any amount without it.
        @raise ValueError: if a host is none.
        """
        super().__init__()
        self._inner = inner
        self._tokens = tokens
        self._rates = rates
        self._configured = tuple(host.lower() for host in hosts)
        for host in self._configured:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is neither a host nor host:port")
        self._public = frozenset(public)
        # Addresses of our own: with a wildcard, as many as the machine has.
        self._known_names: dict[IAddress, list[str]] = {}

    def admit(self, head: RequestHead) -> MeshkitError | None:
        """
        May this request come in?

        @return: L{None}, or the error to answer with: L{ForbiddenOrigin}, L{Unauthorized},
            L{meshkit.errors.UnsupportedMediaType}, L{meshkit.errors.RateLimited}, or
            L{meshkit.errors.NotReady} while it is not known yet whose the token is.
        """
        try:
            self._check_host(head)
            self._check_origin(head)
            self._check_token(head)
            if self._rates is not None:
                self._rates.charge(head.caller)
            # Which of the two it has to be is the operation's to say.
            types = head.values(b"Content-Type")
            check_content_type(head.method, types, head.length != 0, (JSON_BODY, RAW_BODY))
        except MeshkitError as e:
            return e
        head.passed.append(self)
        return None

    def render(self, request: Any) -> Any:
        for name, value in SAFE_HEADERS:
            request.setHeader(name, value)
        error = self._judge(request)
        if error is not None:
            return prepare_error(request, error)
        if self._rates is not None:
            # Not before it is here: a body in chunks announces nothing.
            length = request.content.seek(0, 2)
            request.content.seek(0)
            self._rates.owe(request.head.caller, body_cost(length))
        return getChildForRequest(self._inner, request).render(request)

    def _judge(self, request: Any) -> MeshkitError | None:
        """As L{admit}, for a request that is all here and may have been admitted before."""
        admitted = getattr(request, "head", None)
        if admitted is not None and self in admitted.passed:
            return None
        request.content.seek(0, 2)
        length = request.content.tell()
        request.content.seek(0)
        head = RequestHead(
            request.method.decode("ascii"),
            request.uri.decode("latin-1"),
            request.requestHeaders,
            length,
            request.getHost(),
            request.getClientAddress(),
        )
        request.head = head
        return self.admit(head)

    def _check_host(self, head: RequestHead) -> None:
        if isinstance(head.local, UNIXAddress):
            # No browser can reach it, so no name can be rebound to it.
            return
        given = head.values(b"Host")
        if len(given) != 1 or given[0].lower() not in self._names(head.local):
            raise ForbiddenOrigin(
                "the Host header is not a name of this door: use the address that endpoints.json "
                "in the data folder names, or localhost with its port"
            )

    def _check_origin(self, head: RequestHead) -> None:
        site = head.values(b"Sec-Fetch-Site")
        if site and site not in (["same-origin"], ["none"]):
            # An image or a link of another page: a GET that comes without an Origin.
            raise ForbiddenOrigin("a web page of another site may not use this door")
        given = head.values(b"Origin")
        if not given:
            return
        own = [f"http://{name}" for name in self._names(head.local)]
        own += [f"https://{name}" for name in self._configured_names(head.local)]
        if len(given) != 1 or given[0].lower() not in own:
            raise ForbiddenOrigin("a web page of another origin may not use this door")

    def _check_token(self, head: RequestHead) -> None:
        given = head.headers.getRawHeaders(b"Authorization", [])
        if not given:
            if head.method in _READS and head.path in self._public:
                return
            raise Unauthorized
        scheme, _, token = given[0].partition(b" ")
        caller = self._tokens(token.strip(b" "))
        if len(given) == 1 and scheme.lower() == b"bearer" and caller is not None:
            head.caller = caller
            return
        if self._rates is not None:
            self._rates.guessed()
        # The same words whatever is wrong with it, as a guess must learn nothing.
        raise Unauthorized(
            "the Authorization header does not hold a good token of this door: send 'Bearer' "
            "and the content of door.token in the data folder, or what 'meshkit token add' gave",
            shown=True,
        )

    def _names(self, local: IAddress) -> list[str]:
        """Every spelling of the C{Host} header under which the door is reached."""
        known = self._known_names.get(local)
        if known is None:
            if len(self._known_names) >= _MAX_KNOWN:
                self._known_names.clear()
            known = self._known_names[local] = self._find_names(local)
        return known

    def _find_names(self, local: IAddress) -> list[str]:
        names = self._configured_names(local)
        if isinstance(local, IPv4Address | IPv6Address):
            # An address cannot be rebound, only a name can.
            for host in (*_LOOPBACK_NAMES, _bracketed(local.host)):
                names.append(f"{host}:{local.port}")
                if local.port == _HTTP_PORT:
                    names.append(host)
        return names

    def _configured_names(self, local: IAddress) -> list[str]:
        names = list(self._configured)
        if isinstance(local, IPv4Address | IPv6Address):
            names += [f"{name}:{local.port}" for name in self._configured if not _has_port(name)]
        return names


def _has_port(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and found[2] is not None


def _bracketed(host: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(host.partition('%')[0])}]"
    except ValueError:
        return host.lower()
