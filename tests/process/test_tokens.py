"""Tokens of a real node's door: given out, taken back, guessed at, and what a web page can do."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.web.lines import PROTOCOL
from meshkit.web.rates import GUESS_LOG_SECONDS
from tests.process.mesh import PATIENCE, Answer, Mesh, Node, Shared, connect, exchange, wait_for

_shared = Shared(lambda mesh: mesh.node("a").start())


def tearDownModule() -> None:
    _shared.close()


def bearer(token: str) -> str:
    return f"Bearer {token}"


class Stream:
    """An open stream of events, read as it comes."""

    def __init__(self, node: Node, token: str) -> None:
        self._sock = connect(node.door)
        self._sock.sendall(node.request("GET", "/v1/events", Authorization=bearer(token)))
        self.received = b""
        self.ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while piece := self._sock.recv(65_536):
                self.received += piece
        except OSError:
            pass
        self.ended = True

    def close(self) -> None:
        self._sock.close()
        self._thread.join(PATIENCE)


class Case(SynchronousTestCase):
    node: Node

    def add(self, name: str, *scopes: str, **options: str) -> str:
        asked = [argument for scope in scopes for argument in ("--scope", scope)]
        asked += [argument for key, value in options.items() for argument in (f"--{key}", value)]
        added = self.node.good("token", "add", name, *asked, "--json").json
        token = added["token"]
        assert isinstance(token, str)
        return token

    def status(self, token: str, method: str = "GET", path: str = "/v1/identity") -> int:
        return self.node.ask(method, path, Authorization=bearer(token)).status

    def stream(self, token: str) -> Stream:
        stream = Stream(self.node, token)
        self.addCleanup(stream.close)
        wait_for("the stream's head", lambda: b"text/event-stream" in stream.received)
        return stream


class TokenTests(Case):
    def setUp(self) -> None:
        self.node = _shared.get()

    def test_an_agents_token(self) -> None:
        done = self.node.cli(
            "token", "add", "agent", "--scope", "write:feed_publish", "--scope", "read:node_*",
            "--expires", "30d",
        )  # fmt: skip
        # Nothing but the token: it can be kept with '> FILE'.
        self.assertEqual(done.code, 0, done.err)
        (token,) = done.lines
        self.assertRegex(token, r"\Amkt_[0-9a-f]{16}_[0-9a-f]{64}\Z")
        self.assertIn("agent: write:feed_publish, read:node_*; good until ", done.err)
        body = b'{"content": {"type": "note"}}'
        publish = self.node.ask("POST", "/v1/publish", body, Authorization=bearer(token))
        self.assertEqual(publish.status, 201)
        self.assertEqual(self.status(token), 200)
        answer = self.node.ask("GET", "/v1/peers", Authorization=bearer(token))
        self.assertEqual((answer.status, answer.code), (403, "PERMISSION_DENIED"))
        self.assertEqual(
            answer.headers["www-authenticate"],
            'Bearer realm="meshkit", error="insufficient_scope", scope="read:peers_list"',
        )
        (row,) = [line for line in self.node.good("token", "list").lines if "agent" in line]
        self.assertIn("good", row)
        self.assertNotIn(token[21:], row)
        self.assertEqual(self.node.good("token", "revoke", "agent").out, "Revoked: agent\n")
        answer = self.node.ask("GET", "/v1/identity", Authorization=bearer(token))
        self.assertEqual((answer.status, answer.code), (401, "UNAUTHORIZED"))
        self.assertEqual(
            answer.headers["www-authenticate"], 'Bearer realm="meshkit", error="invalid_token"'
        )

    def test_what_is_refused(self) -> None:
        done = self.node.cli("token", "add", "x", "--scope", "everything")
        self.assertEqual((done.code, done.out), (1, ""))
        self.assertIn("[INVALID_REQUEST]", done.err)
        for arguments in (("add", "x"), ("add", "x", "--scope", "read", "--expires", "soon")):
            self.assertEqual(self.node.cli("token", *arguments).code, 2)

    def test_a_stream_ends_at_once_when_its_token_is_revoked(self) -> None:
        token = self.add("watcher", "read")
        others = self.add("other", "read")
        stream, other = self.stream(token), self.stream(others)
        self.node.publish("for both")
        for each in (stream, other):
            wait_for("what was published", lambda each=each: b"for both" in each.received)
        self.node.good("token", "revoke", "watcher")
        wait_for("the end of the stream", lambda: stream.ended, seconds=10)
        self.node.publish("for one")
        wait_for("what was published", lambda: b"for one" in other.received)
        self.assertNotIn(b"for one", stream.received)
        self.assertFalse(other.ended)
        self.node.good("token", "revoke", "other")
        wait_for("the end of the other", lambda: other.ended, seconds=10)

    def test_a_stream_ends_when_its_token_expires(self) -> None:
        token = self.add("short", "read", expires="2s")
        stream = self.stream(token)
        wait_for("the end of the stream", lambda: stream.ended, seconds=20)
        self.assertEqual(self.status(token), 401)

    def test_an_agents_connection_of_lines_ends_at_once_too(self) -> None:
        token = self.add("agent", "read")
        with connect(self.node.door) as sock:
            sock.sendall(
                self.node.request(
                    "GET",
                    "/mcp",
                    Authorization=bearer(token),
                    Connection="Upgrade",
                    Upgrade=PROTOCOL,
                )
            )
            with sock.makefile("rb") as lines:
                self.assertIn(b" 101 ", lines.readline())
                while lines.readline() != b"\r\n":
                    pass
                sock.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
                self.assertEqual(json.loads(lines.readline())["id"], 1)
                self.node.good("token", "revoke", "agent")
                self.assertEqual(lines.readline(), b"")

    def test_what_a_web_page_can_send(self) -> None:
        """A page in the owner's browser can make it send all of this, and read no answer."""
        before = self.node.get("/v1/feed?include_self=true")
        (_, port) = self.node.door
        token = self.node.token
        body = b'{"content": "from a web page"}'
        tried: list[tuple[str, Answer]] = []

        def page(method: str, path: str, sent: bytes | None, **headers: str | None) -> None:
            # A page has no token; one whose name was rebound could not have it either.
            headers = {"Authorization": None, **headers}
            answer = self.node.ask(method, path, sent, **headers)
            tried.append((f"{method} {path} {headers}", answer))

        kinds = (
            "text/plain",
            "text/plain;charset=UTF-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json",
            "application/octet-stream",
            None,
        )
        for path in ("/v1/publish", "/mcp", "/mcp/", "/v1/tokens", "/", "/nowhere"):
            for origin in ("http://evil.example", "null", f"http://localhost:{port + 1}", None):
                for kind in kinds:
                    page("POST", path, body, Content_Type=kind, Origin=origin)
                for method in ("GET", "DELETE", "PUT", "OPTIONS"):
                    page(method, path, None, Origin=origin)
                page(
                    "OPTIONS",
                    path,
                    None,
                    Origin=origin,
                    Access_Control_Request_Method="POST",
                    Access_Control_Request_Headers="authorization,content-type",
                    Access_Control_Request_Private_Network="true",
                )
            for host in ("evil.example", f"evil.example:{port}", "0.0.0.0", "localhost.evil:80"):
                page("GET", path, None, Host=host)
                page("POST", path, body, Host=host, Origin=f"http://{host}")
            for site in ("cross-site", "same-site"):
                page("GET", path, None, Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")
            # Even if it had the token.
            for origin in ("http://evil.example", "null"):
                page("POST", path, body, Authorization=bearer(token), Origin=origin)
            page("GET", path, None, Authorization=bearer(token), Host="evil.example")
            page("GET", path, None, Authorization=bearer(token), Sec_Fetch_Site="cross-site")
        for what, answer in tried:
            self.assertIn(answer.status, (401, 403), what)
            self.assertFalse([n for n in answer.headers if n.startswith("access-control")], what)
            self.assertEqual(answer.headers["content-type"], "application/json", what)
            if answer.body:
                self.assertIn(answer.code, ("UNAUTHORIZED", "FORBIDDEN_ORIGIN"), what)
        self.assertGreater(len(tried), 300)
        self.assertEqual(self.node.get("/v1/feed?include_self=true"), before)
        # Nor may a form do anything that has the token, as a careless program might have it.
        for kind in (*kinds[:4], "application/octet-stream"):
            answer = self.node.ask("POST", "/v1/publish", body, Content_Type=kind)
            self.assertEqual((answer.status, answer.code), (415, "UNSUPPORTED_MEDIA_TYPE"))

    def test_a_flood_of_guesses_keeps_nobody_out(self) -> None:
        stop = threading.Event()
        codes: list[str] = []

        def guess(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                shown = f"mkt_{number:08x}{count:08x}_{'f' * 64}"
                wrong = self.node.request("GET", "/v1/identity", Authorization=bearer(shown))
                codes.append(exchange(self.node.door, wrong).code)

        token = self.add("worker", "read")
        threads = [threading.Thread(target=guess, args=(n,), daemon=True) for n in range(8)]
        for thread in threads:
            thread.start()
        try:
            wait_for("refusals", lambda: "RATE_LIMITED" in codes)
            for _ in range(100):
                self.assertEqual(self.node.ask("GET", "/v1/identity").status, 200)
                self.assertEqual(self.status(token), 200)
            self.assertEqual(self.node.publish("meanwhile")["content"], "meanwhile")
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
        self.assertEqual(set(codes), {"UNAUTHORIZED", "RATE_LIMITED"})
        self.assertGreater(len(codes), 200)
        log = self.node.log.read_text()
        self.assertNotIn("ffffffff", log)
        self.assertIn("wrong tokens were shown", log)
        # One line a minute, however many there are.
        self.assertLess(log.count("wrong tokens were shown"), 3 + 300 / GUESS_LOG_SECONDS)
        self.node.good("token", "revoke", "worker")


class OwnerTests(Case):
    """What changes the node that it is done to."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a")

    def test_the_owners_token_is_replaced_on_a_running_node_and_on_none(self) -> None:
        old = self.node.token
        self.node.good("token", "rotate")
        self.assertNotEqual(self.node.token, old)
        self.node.start()
        agents = self.add("agent", "read")
        running = self.node.token
        stream = self.stream(running)
        done = self.node.good("token", "rotate", "--json").json
        self.assertEqual(done, {"token_file": str(self.node.data / "door.token")})
        self.assertNotIn(self.node.token, (old, running))
        wait_for("the end of the stream", lambda: stream.ended, seconds=10)
        self.assertEqual([self.status(each) for each in (old, running, agents)], [401, 401, 200])
        # Who reads the file notices nothing.
        self.node.good("status")
        last = self.node.token
        self.node.kill()
        self.node.start()
        self.assertEqual(
            [self.status(each) for each in (old, running, last, agents)], [401, 401, 200, 200]
        )
        self.assertEqual((self.node.data / "door.token").stat().st_mode & 0o777, 0o600)
        self.node.stop()

    def test_a_node_without_a_door_is_not_robbed_of_its_token(self) -> None:
        self.node.start("--api", "none")
        before = self.node.token
        done = self.node.cli("token", "rotate")
        self.assertEqual(done.code, 1)
        self.assertIn("[DATA_FOLDER_LOCKED]", done.err)
        self.assertEqual(self.node.token, before)
        self.node.stop()

    def test_revoked_is_revoked_after_a_kill(self) -> None:
        self.node.start()
        kept, gone = self.add("kept", "read"), self.add("gone", "read")
        self.node.good("token", "revoke", "gone")
        self.node.kill()
        self.node.start()
        self.assertEqual((self.status(kept), self.status(gone)), (200, 401))
        names = [each["name"] for each in self.node.good("token", "list", "--json").json]
        self.assertEqual(names, ["kept"])
        self.node.stop()

    def test_no_secret_is_written_anywhere(self) -> None:
        self.node.start()
        token = self.add("agent", "admin")
        self.status(token)
        self.status(token[:-1] + "x")
        self.node.good("token", "rotate")
        backup = self.node.home / "copy.db"
        shown = "".join(
            self.node.good(*words).out
            for words in (
                ("config", "show"),
                ("config", "show", "--json"),
                ("status", "--json"),
                ("token", "list", "--json"),
                ("backup", str(backup)),
            )
        )
        owners = self.node.token
        self.node.stop()
        for secret in (token[21:], owners):
            self.assertNotIn(secret, shown)
            self.assertNotIn(secret, self.node.log.read_text())
            for path in sorted(self.node.home.rglob("*")):
                if path.is_file() and path.name != "door.token":
                    content = path.read_bytes()
                    self.assertNotIn(secret.encode(), content, path)
                    self.assertNotIn(bytes.fromhex(secret), content, path)
        # The backup knows of no token at all: it might be older than the day it is revoked.
        self.assertEqual((self.rows(self.node.database), self.rows(backup)), (1, 0))

    def test_a_restored_node_lets_nobody_in(self) -> None:
        self.node.start()
        token = self.add("agent", "admin")
        self.node.stop()
        copy = self.node.home / "copy.db"
        with closing(sqlite3.connect(self.node.database)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        self.assertEqual(self.rows(copy), 1)
        for path in self.node.data.glob("node.db*"):
            path.unlink()
        self.node.good("restore", str(copy))
        self.node.start()
        self.assertEqual(self.status(token), 401)
        self.assertEqual(json.loads(self.node.good("token", "list", "--json").out), [])
        self.node.stop()

    def rows(self, path: Path) -> Any:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT count(*) FROM node_tokens").fetchone()[0]
