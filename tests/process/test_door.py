"""The local door of a real node, by bytes over real sockets."""

from __future__ import annotations

import json
import os
import stat
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, Shared, connect, exchange, read_answer

MIB = 1024 * 1024

_shared = Shared(lambda mesh: mesh.node("a").start())


def tearDownModule() -> None:
    _shared.close()


class DoorTests(SynchronousTestCase):
    """Who may come in, and how much they may bring."""

    def setUp(self) -> None:
        self.node: Node = _shared.get()

    def tearDown(self) -> None:
        # Whatever was tried, the node is well.
        self.assertTrue(self.node.status["ready"])

    # --- who may come in

    def test_nothing_is_said_without_a_token(self) -> None:
        for path in ("/", "/v1/status", "/v1/feed", "/nowhere"):
            answer = self.node.ask("GET", path, Authorization=None)
            self.assertEqual((path, answer.status, answer.code), (path, 401, "UNAUTHORIZED"))
            self.assertEqual(answer.headers["www-authenticate"].split()[0], "Bearer")
            self.assertNotIn(self.node.get("/v1/identity")["public_id"].encode(), answer.body)

    def test_a_wrong_token(self) -> None:
        token = self.node.token
        for wrong in (token[:-1], token + "0", token.upper(), "", "x" * 10_000):
            answer = self.node.ask("GET", "/v1/status", Authorization=f"Bearer {wrong}")
            self.assertEqual((answer.status, answer.code), (401, "UNAUTHORIZED"))
        answer = self.node.ask("GET", "/v1/status", Authorization=f"Basic {token}")
        self.assertEqual(answer.status, 401)

    def test_the_name_of_another_host(self) -> None:
        (_, port) = self.node.door
        for wrong in ("example.com", f"example.com:{port}", "127.0.0.1", "localhost:1", ""):
            answer = self.node.ask("GET", "/v1/status", Host=wrong)
            self.assertEqual((wrong, answer.status), (wrong, 403))
            self.assertEqual(answer.code, "FORBIDDEN_ORIGIN")
        self.assertEqual(self.node.ask("GET", "/v1/status", Host=f"localhost:{port}").status, 200)

    def test_a_page_of_another_origin(self) -> None:
        body = b'{"content": "from a web page"}'
        for wrong in ("http://example.com", "null", "https://localhost", "http://localhost"):
            answer = self.node.ask("POST", "/v1/publish", body, Origin=wrong)
            self.assertEqual((wrong, answer.status), (wrong, 403))
            self.assertEqual(answer.code, "FORBIDDEN_ORIGIN")
        own = f"http://{self.node.host}"
        self.assertEqual(self.node.ask("GET", "/v1/status", Origin=own).status, 200)

    def test_no_answer_may_be_framed_sniffed_or_kept(self) -> None:
        for answer in (
            self.node.ask("GET", "/v1/status"),
            self.node.ask("GET", "/v1/status", Authorization=None),
        ):
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            self.assertNotIn("access-control-allow-origin", answer.headers)

    def test_what_a_form_can_send(self) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            answer = self.node.ask("POST", "/v1/publish", b'{"content": 1}', Content_Type=kind)
            self.assertEqual((kind, answer.status), (kind, 415))
            self.assertEqual(answer.code, "UNSUPPORTED_MEDIA_TYPE")

    # --- how much they may bring

    def test_a_body_over_the_limit_is_refused_unread(self) -> None:
        with connect(self.node.door) as sock:
            # Only the head: the answer comes though not one byte of the body did.
            sock.sendall(
                self.node.request(
                    "POST",
                    "/v1/publish",
                    Content_Length=str(MIB + 1),
                    Content_Type="application/json",
                )
            )
            answer = read_answer(sock)
            self.assertEqual((answer.status, answer.code), (413, "BODY_TOO_LARGE"))
            self.assertEqual(sock.recv(1), b"")

    def test_a_body_at_the_limit_is_read(self) -> None:
        body = b'{"content": "' + b"x" * (MIB - 15) + b'"}'
        self.assertEqual(len(body), MIB)
        answer = self.node.ask("POST", "/v1/publish", body)
        # It came in, and was then found to be more than a message may carry.
        self.assertEqual((answer.status, answer.code), (413, "CONTENT_TOO_LARGE"))

    def test_a_body_in_chunks_is_counted_as_it_comes(self) -> None:
        head = self.node.request(
            "POST",
            "/v1/publish",
            Transfer_Encoding="chunked",
            Content_Type="application/json",
        )
        body = b'{"content": "in chunks"}'
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self.assertEqual(exchange(self.node.door, head + chunked).status, 201)
        # One more byte than the limit.
        for size, code in ((MIB, "CONTENT_TOO_LARGE"), (MIB + 1, "BODY_TOO_LARGE")):
            body = b'{"content": "' + b"x" * (size - 15) + b'"}'
            pieces = [body[at : at + 65_536] for at in range(0, size, 65_536)]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            answer = exchange(self.node.door, head + chunks + b"0\r\n\r\n")
            self.assertEqual((size, answer.status, answer.code), (size, 413, code))

    def test_content_at_and_over_the_limit(self) -> None:
        # The limit is on the canonical text: quotes and all.
        for size, status in ((64 * 1024, 201), (64 * 1024 + 1, 413)):
            body = json.dumps({"content": "y" * (size - 2)}).encode()
            answer = self.node.ask("POST", "/v1/publish", body)
            self.assertEqual((size, answer.status), (size, status))
        self.assertEqual(answer.code, "CONTENT_TOO_LARGE")

    def test_nesting(self) -> None:
        for depth in (128, 1_000, 100_000):
            body = b'{"content": ' + b"[" * depth + b"]" * depth + b"}"
            answer = self.node.ask("POST", "/v1/publish", body)
            self.assertEqual((depth, answer.status), (depth, 400))
            self.assertEqual((depth, answer.code), (depth, "NESTED_TOO_DEEP"))

    def test_bytes_that_are_no_text(self) -> None:
        for wrong in (b'{"content": "\xff\xfe"}', b'{"content": "\xed\xa0\x80"}', b"\xff"):
            answer = self.node.ask("POST", "/v1/publish", wrong)
            self.assertEqual((wrong, answer.status), (wrong, 400))
            self.assertIn(answer.code, ("INVALID_REQUEST", "MALFORMED_MESSAGE"))

    def test_what_is_no_http(self) -> None:
        for wrong in (b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"\0" * 100 + b"\r\n"):
            with connect(self.node.door) as sock:
                sock.sendall(wrong + b"\r\n\r\n")
                sock.settimeout(10)
                received = b""
                while piece := sock.recv(4096):
                    received += piece
            self.assertRegex(received, b"^(HTTP/1.1 4[0-9][0-9] |$)")

    def test_a_head_without_an_end(self) -> None:
        with connect(self.node.door) as sock:
            sock.sendall(b"GET /v1/status HTTP/1.1\r\nX: " + b"x" * 100_000)
            self.assertEqual(read_answer(sock).code, "HEADERS_TOO_LARGE")

    # --- what is there

    def test_every_route(self) -> None:
        node = self.node
        message = node.publish({"type": "insight", "text": "a tour of the routes"})
        author = quote(node.get("/v1/identity")["public_id"], safe="@")
        peer = quote("net:127.0.0.1:9~shs:" + "A" * 43 + "=", safe="")
        for method, path, body, status in (
            ("GET", "/v1/status", None, 200),
            ("GET", "/v1/identity", None, 200),
            ("GET", "/v1/peers", None, 200),
            ("POST", "/v1/peers", {"address": "192.0.2.1"}, 400),
            ("DELETE", f"/v1/peers/{peer}", None, None),
            ("POST", "/v1/publish", {"content": {"text": "one"}}, 201),
            ("POST", "/v1/publish", {}, 400),
            ("POST", "/v1/publish", {"content": 1, "colour": "red"}, 400),
            ("POST", "/v1/publish/batch", {"contents": ["two", "three"]}, 201),
            ("POST", "/v1/publish/batch", {"contents": []}, 400),
            ("GET", "/v1/feed?include_self=true&limit=2", None, 200),
            ("GET", "/v1/feed?limit=0", None, 400),
            ("GET", "/v1/feed?limit=201", None, 400),
            ("GET", f"/v1/feed/{author}", None, 200),
            ("GET", "/v1/feed/nobody", None, 400),
            ("GET", "/v1/insights", None, 200),
            ("GET", "/v1/insights/search?q=tour", None, 200),
            ("GET", "/v1/insights/search", None, 400),
            ("GET", f"/v1/message/{message['hash']}", None, 200),
            ("GET", f"/v1/message/{'0' * 64}", None, 404),
            ("GET", "/v1/follows", None, 200),
            ("POST", f"/v1/follows/{author}", None, 201),
            ("DELETE", f"/v1/follows/{author}", None, 204),
            ("PUT", "/v1/publish", {"content": 1}, 405),
            ("GET", "/v1/publish", None, 405),
            ("GET", "/v1/nowhere", None, 404),
            ("GET", "/v1/../../etc/passwd", None, 404),
        ):
            answer = node.ask(
                method,
                path,
                None if body is None and method != "POST" else json.dumps(body or {}).encode(),
            )
            if status is not None:
                self.assertEqual((method, path, answer.status), (method, path, status))
            self.assertLess(answer.status, 500, f"{method} {path}: {answer.body!r}")
            if answer.status == 204:
                self.assertEqual(answer.body, b"")
                continue
            envelope = answer.json
            self.assertEqual(answer.headers["content-type"].split(";")[0], "application/json")
            self.assertEqual(envelope["success"], answer.status < 400)
            if answer.status >= 400:
                self.assertTrue(envelope["error"]["code"])
                self.assertTrue(envelope["error"]["message"])

    def test_numbers_stay_as_they_were_written(self) -> None:
        body = b'{"content": {"a": 1.0, "b": 12345678901234567890, "c": 1e2}}'
        answer = self.node.ask("POST", "/v1/publish", body)
        again = self.node.ask("GET", f"/v1/message/{answer.json['data']['hash']}")
        self.assertEqual(again.status, 200)
        self.assertEqual(again.json["data"]["content"], answer.json["data"]["content"])

    def test_several_requests_on_one_connection(self) -> None:
        with connect(self.node.door) as sock:
            for _ in range(3):
                sock.sendall(self.node.request("GET", "/v1/identity"))
                self.assertEqual(read_answer(sock).status, 200)

    def test_the_token_file_is_for_its_owner_only(self) -> None:
        for name in ("door.token", "secret.key", "network.secret", "endpoints.json"):
            mode = stat.S_IMODE(os.stat(self.node.data / name).st_mode)
            self.assertEqual((name, oct(mode)), (name, oct(0o600)))
        self.assertEqual(stat.S_IMODE(os.stat(self.node.data).st_mode), 0o700)


class OtherDoorTests(SynchronousTestCase):
    """A door on a unix socket, and none."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a")

    def test_a_unix_socket(self) -> None:
        path = str(self.node.home / "door")
        self.node.start("--api", f"unix:{path}")
        self.assertEqual(self.node.endpoints["api"], [f"unix:{path}"])
        self.node.good("publish", "through the socket")
        shown = self.node.good("feed", "show", "--all", "--json").json["messages"]
        self.assertEqual([message["content"]["text"] for message in shown], ["through the socket"])
        self.assertIn(f"unix:{path}", self.node.good("status").out)
        # The token is asked for here as well; the name of the host is not.
        answer = self.node.ask("GET", "/v1/status", Authorization=None)
        self.assertEqual((answer.status, answer.code), (401, "UNAUTHORIZED"))
        self.assertEqual(self.node.ask("GET", "/v1/status", Host="anything").status, 200)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.node.stop()
        self.assertFalse(os.path.exists(path))

    def test_a_unix_socket_that_a_killed_node_left(self) -> None:
        path = str(self.node.home / "door")
        self.node.start("--api", f"unix:{path}:mode=600")
        self.node.kill()
        self.assertTrue(os.path.exists(path))
        done = self.node.cli("status")
        self.assertEqual(done.code, 1)
        self.assertIn("[DOOR_UNREACHABLE]", done.err)
        self.node.start("--api", f"unix:{path}:mode=600")
        self.node.good("publish", "again")
        self.node.stop()

    def test_none(self) -> None:
        self.node.start("--api", "none")
        self.assertEqual(self.node.endpoints["api"], [])
        done = self.node.cli("publish", "to nobody")
        self.assertEqual(done.code, 1)
        self.assertIn("[DOOR_UNREACHABLE]", done.err)
        # It is a node all the same: others can reach it.
        other = self.mesh.node("b", "--peer", self.node.address, network=self.node).start()
        (peer,) = other.get("/v1/peers")
        self.assertEqual(peer["address"], self.node.address)
        # And what is said is that it runs without a door, not that it does not run.
        self.assertIn("without a door", done.err)
        self.node.stop()

    def test_a_stale_door_of_somebody_else(self) -> None:
        """After a kill another program may have the port: it is not asked for anything."""
        self.node.start()
        request = self.node.request("GET", "/v1/status")
        door = self.node.door
        self.assertEqual(exchange(door, request).status, 200)
        self.node.kill()
        done = self.node.cli("status")
        self.assertEqual((done.code, done.out), (1, ""))
        self.assertIn("[DOOR_UNREACHABLE]", done.err)
        self.assertIn("twistd -n mesh-node --data-dir", done.err)
        self.assertEqual(self.node.cli("status", "--json").json, {"running": False})
