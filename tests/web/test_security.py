"""Who is let through the door, and what the others learn."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource

from meshkit.errors import ForbiddenOrigin, Unauthorized, UnsupportedMediaType
from meshkit.web.doorkeeper import Doorkeeper
from meshkit.web.limits import LimitedSite, RequestHead
from meshkit.web.security import DoorGuard
from tests.web.stage import CLIENT, DOOR, HOST, TOKEN, Connection, Stage, WireTransport, request

_RIGHT = f"Bearer {TOKEN.decode()}"
_UNIX = UNIXAddress("/run/meshkit/door.sock")


def head(
    method: str = "GET",
    target: str = "/v1/status",
    local: IAddress = DOOR,
    length: int | None = 0,
    **headers: str | list[str] | None,
) -> RequestHead:
    given: dict[str, Any] = {"Host": HOST, "Authorization": _RIGHT} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    raw = {
        name: value if isinstance(value, list) else [value]
        for name, value in given.items()
        if value is not None
    }
    return RequestHead(method, target, Headers(raw), length, local, CLIENT)


class Inner(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def render(self, request: Any) -> bytes:
        self.seen += 1
        return b"in"


def guard(**options: Any) -> DoorGuard:
    return DoorGuard(Inner(), Doorkeeper(TOKEN), **options)


class HostTests(SynchronousTestCase):
    def test_only_the_doors_own_names_are_hosts(self) -> None:
        elsewhere = IPv4Address("TCP", "192.0.2.7", 7654)
        six = IPv6Address("TCP", "2001:db8:0::7", 7654)
        eighty = IPv4Address("TCP", "127.0.0.1", 80)
        table: list[tuple[IAddress, str | list[str] | None, bool]] = [
            (DOOR, "127.0.0.1:7654", True),
            (DOOR, "localhost:7654", True),
            (DOOR, "LocalHost:7654", True),
            (DOOR, "[::1]:7654", True),
            (DOOR, "evil.example:7654", False),
            (DOOR, "evil.example", False),
            (DOOR, "localhost", False),
            (DOOR, "localhost:80", False),
            (DOOR, "localhost:07654", False),
            (DOOR, "localhost.:7654", False),
            (DOOR, "localhost.evil.example:7654", False),
            (DOOR, "evil.example@localhost:7654", False),
            (DOOR, "127.0.0.1:7654 ", False),
            (DOOR, "127.0.0.1:7654, evil.example", False),
            (DOOR, "127.1:7654", False),
            (DOOR, "2130706433:7654", False),
            (DOOR, "192.0.2.7:7654", False),
            (DOOR, "", False),
            (DOOR, None, False),
            (DOOR, ["127.0.0.1:7654", "127.0.0.1:7654"], False),
            (DOOR, ["127.0.0.1:7654", "evil.example"], False),
            (DOOR, "\u00e9:7654", False),
            (elsewhere, "192.0.2.7:7654", True),
            (elsewhere, "localhost:7654", True),
            (elsewhere, "192.0.2.8:7654", False),
            (six, "[2001:db8::7]:7654", True),
            (six, "2001:db8::7:7654", False),
            (eighty, "localhost", True),
            (eighty, "localhost:80", True),
            (eighty, "evil.example", False),
            (_UNIX, "whatever", True),
            (_UNIX, None, True),
        ]
        for local, host, good in table:
            error = guard().admit(head(local=local, Host=host))
            self.assertEqual(error is None, good, (local, host, error))
            if error is not None:
                self.assertEqual((error.code, error.status), ("FORBIDDEN_ORIGIN", 403))

    def test_further_names_can_be_configured(self) -> None:
        door = guard(hosts=["Mesh.Example.org", "other.example:443", "[fd00::1]"])
        for host, good in [
            ("mesh.example.org", True),
            ("mesh.example.org:7654", True),
            ("mesh.example.org:443", False),
            ("other.example:443", True),
            ("other.example", False),
            ("other.example:7654", False),
            ("[fd00::1]:7654", True),
            ("localhost:7654", True),
            ("evil.example", False),
        ]:
            self.assertEqual(door.admit(head(Host=host)) is None, good, host)

    def test_a_configured_name_has_to_be_one(self) -> None:
        for host in ("", "http://x", "a b", "x/", "x:port", "x:7654:1", "*"):
            with self.assertRaises(ValueError, msg=host):
                guard(hosts=[host])


class OriginTests(SynchronousTestCase):
    def test_only_the_door_itself_is_an_origin(self) -> None:
        table: list[tuple[str | list[str], bool]] = [
            ("http://127.0.0.1:7654", True),
            ("http://localhost:7654", True),
            ("http://[::1]:7654", True),
            ("https://127.0.0.1:7654", False),
            ("http://127.0.0.1", False),
            ("http://127.0.0.1:7655", False),
            ("http://evil.example", False),
            ("http://localhost:7654.evil.example", False),
            ("http://evil.example/http://localhost:7654", False),
            ("http://localhost:7654/", False),
            ("null", False),
            ("", False),
            ("file://", False),
            (["http://127.0.0.1:7654", "http://evil.example"], False),
            (["http://127.0.0.1:7654", "http://127.0.0.1:7654"], False),
        ]
        for origin, good in table:
            for method in ("GET", "DELETE"):
                error = guard().admit(head(method, Origin=origin))
                self.assertEqual(error is None, good, origin)
                self.assertTrue(good or isinstance(error, ForbiddenOrigin))

    def test_a_configured_host_is_an_origin_with_tls_too(self) -> None:
        door = guard(hosts=["mesh.example.org"])
        for local in (DOOR, _UNIX):
            for scheme in ("http", "https"):
                origin = f"{scheme}://mesh.example.org"
                wanted = head(local=local, Host="mesh.example.org", Origin=origin)
                self.assertIsNone(door.admit(wanted), origin)

    def test_a_page_has_no_business_at_a_unix_socket(self) -> None:
        error = guard().admit(head(local=_UNIX, Origin="http://localhost"))
        self.assertIsInstance(error, ForbiddenOrigin)

    def test_a_stranger_learns_of_its_origin_before_its_token(self) -> None:
        error = guard().admit(head(Origin="http://evil.example", Authorization=None))
        self.assertIsInstance(error, ForbiddenOrigin)


class TokenTests(SynchronousTestCase):
    def test_nothing_but_the_token_opens(self) -> None:
        token = TOKEN.decode()
        table: list[tuple[str | list[str] | None, bool]] = [
            (f"Bearer {token}", True),
            (f"bearer {token}", True),
            (f"BEARER  {token}", True),
            (None, False),
            ("", False),
            ("Bearer", False),
            ("Bearer ", False),
            (token, False),
            (f"Basic {token}", False),
            (f"Bearer{token}", False),
            (f"Bearer {token}x", False),
            (f"Bearer {token[:-1]}", False),
            (f"Bearer {token.upper()}", False),
            (f"Bearer {token}, Bearer {token}", False),
            (f"Bearer \u00ff{token}", False),
            ([f"Bearer {token}", f"Bearer {token}"], False),
            (["Bearer x", f"Bearer {token}"], False),
        ]
        for value, good in table:
            for method in ("GET", "HEAD", "DELETE"):
                error = guard().admit(head(method, Authorization=value))
                self.assertEqual(error is None, good, value)
                self.assertTrue(good or isinstance(error, Unauthorized))

    def test_a_public_path_can_be_read_but_not_written_without_token(self) -> None:
        door = guard(public={"/v1/health"})
        for method, target, good in [
            ("GET", "/v1/health", True),
            ("HEAD", "/v1/health", True),
            ("GET", "/v1/health?x=1", True),
            ("DELETE", "/v1/health", False),
            ("GET", "/v1/health/", False),
            ("GET", "/v1/health/../status", False),
            ("GET", "//v1/health", False),
            ("GET", "/v1/%68ealth", False),
            ("GET", "/v1/status?/v1/health", False),
        ]:
            error = door.admit(head(method, target, Authorization=None))
            self.assertEqual(error is None, good, (method, target))
        self.assertIsInstance(
            door.admit(head("GET", "/v1/health", Authorization=None, Host="evil")), ForbiddenOrigin
        )

    def test_the_token_is_never_logged_or_shown(self) -> None:
        events: list[Any] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        stage = Stage()
        for value in (_RIGHT, "Bearer stolen-one", "stolen-one"):
            answer = stage.ask("GET", "/v1/status", headers={"Authorization": value})
            self.assertNotIn(b"stolen", answer.body)
            self.assertNotIn(TOKEN, answer.body)
        text = repr(events)
        self.assertNotIn("stolen", text)
        self.assertNotIn(TOKEN.decode(), text)
        self.assertNotIn(TOKEN.decode(), repr(stage.site) + repr(guard()))


class ContentTypeTests(SynchronousTestCase):
    def test_what_changes_state_has_to_be_json(self) -> None:
        for method, length, kind, good in [
            ("POST", 2, "application/json", True),
            ("POST", None, "application/json", True),
            ("POST", 2, "text/plain", False),
            ("POST", 2, None, False),
            ("POST", 0, None, True),
            ("POST", 0, "text/plain", False),
            ("PUT", 2, None, False),
            ("DELETE", 0, None, True),
            ("DELETE", 2, None, False),
            ("DELETE", None, None, False),
            ("DELETE", 0, "text/plain", False),
            ("GET", 0, "text/plain", True),
        ]:
            error = guard().admit(head(method, length=length, Content_Type=kind))
            self.assertEqual(error is None, good, (method, length, kind))
            self.assertTrue(good or isinstance(error, UnsupportedMediaType))


class GuardedResourceTests(SynchronousTestCase):
    """The guard as a resource, on a site that does not ask it first."""

    def setUp(self) -> None:
        self.stage = Stage()
        self.inner = Inner()
        self.stage.site = LimitedSite(DoorGuard(self.inner, Doorkeeper(TOKEN)), self.stage.clock)

    def test_who_is_let_through_gets_the_answer_of_what_is_guarded(self) -> None:
        answer = self.stage.ask("GET", "/anything")
        self.assertEqual((answer.status, answer.body, self.inner.seen), (200, b"in", 1))
        self.assertEqual(answer.headers["cache-control"], ["no-store"])
        self.assertEqual(answer.headers["x-content-type-options"], ["nosniff"])

    def test_who_is_not_does_not_reach_it(self) -> None:
        table: list[tuple[str, dict[str, Any], int, str]] = [
            ("GET", {"Host": "evil.example"}, 403, "FORBIDDEN_ORIGIN"),
            ("GET", {"Origin": "null"}, 403, "FORBIDDEN_ORIGIN"),
            ("GET", {"Authorization": None}, 401, "UNAUTHORIZED"),
            ("GET", {"Authorization": "Bearer x"}, 401, "UNAUTHORIZED"),
            ("POST", {"Content-Type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ]
        # The same on a site that does not ask it before, and on one that does.
        for stage in (self.stage, Stage()):
            for method, headers, status, code in table:
                body = b"{}" if method == "POST" else None
                answer = stage.ask(method, "/v1/publish", body, headers)
                self.assertEqual((answer.status, answer.code), (status, code))
                self.assertEqual(answer.headers["cache-control"], ["no-store"])
                challenge = None
                if status == 401:
                    wrong = ', error="invalid_token"' if headers["Authorization"] else ""
                    challenge = [f'Bearer realm="meshkit"{wrong}']
                self.assertEqual(answer.headers.get("www-authenticate"), challenge)
        self.assertEqual(self.inner.seen, 0)

    def test_it_guards_a_tree_of_resources(self) -> None:
        root = Resource()
        root.putChild(b"a", self.inner)
        self.stage.site = LimitedSite(DoorGuard(root, Doorkeeper(TOKEN)), self.stage.clock)
        self.assertEqual(self.stage.ask("GET", "/a").body, b"in")
        self.assertEqual(self.stage.ask("GET", "/a", headers={"Authorization": None}).status, 401)
        self.assertEqual(self.inner.seen, 1)

    def test_a_unix_socket_needs_the_token_all_the_same(self) -> None:
        for right, status in ((_RIGHT, 200), (None, 401)):
            connection = Connection(self.stage.site, WireTransport(_UNIX))
            connection.send(
                request("GET", "/", None, {"Host": "localhost", "Authorization": right})
            )
            (answer,) = connection.answers("GET")
            self.assertEqual(answer.status, status)
            connection.lose()
