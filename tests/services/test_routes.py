"""
The routes that people know from Egregore, walked at the door of a whole node: HTTP over
memory, through the guard, the site, the parts and the database.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed.message import parse_message, verify_message
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import Answer, MemoryMesh, MemoryNode

STRANGER = make_identity("stranger").public


class Routes(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.ada = self.mesh.node("ada")
        self.ada.start()

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def ok(self, method: str, target: str, body: Any = None, status: int = 200) -> Any:
        answer = self.ada.ask(method, target, body)
        self.assertEqual(answer.status, status, answer.body)
        if status == 204:
            self.assertEqual(answer.body, b"")
            return None
        self.assertTrue(answer.json["success"])
        return answer.json["data"]

    def refused(self, code: str, status: int, method: str, target: str, body: Any = None) -> str:
        answer: Answer = self.ada.ask(method, target, body)
        self.assertEqual((answer.status, answer.code), (status, code), answer.body)
        self.assertEqual(set(answer.json), {"success", "error"})
        self.assertFalse(answer.json["success"])
        message: str = answer.json["error"]["message"]
        return message

    def publish(self, content: Any, **fields: Any) -> Any:
        return self.ok("POST", "/v1/publish", {"content": content, **fields}, 201)

    def friend(self) -> MemoryNode:
        """A second node, connected, with three messages."""
        bob = self.mesh.node("bob", f'peers = ["{self.ada.address}"]')
        bob.start()
        for n in range(3):
            bob.ask("POST", "/v1/publish", {"content": {"type": "insight", "title": f"owl {n}"}})
        self.mesh.run(1)
        return bob

    def metadata(self, target: str) -> Any:
        return self.ada.ask("GET", target).json["metadata"]

    # --- the node

    def test_status(self) -> None:
        status = self.ok("GET", "/v1/status")
        self.assertEqual(status["identity"], self.ada.identity.public.text)
        self.assertEqual(status["network"], self.mesh.network_secret.key().net_id.hex())
        self.assertEqual(status["mesh"], [self.ada.address])
        self.assertEqual(status["api"], ["http://127.0.0.1:7654"])
        self.assertEqual((status["ready"], status["peer_count"]), (True, 0))
        self.mesh.run(10)
        later = self.ok("GET", "/v1/status")
        self.assertAlmostEqual(later["uptime_secs"] - status["uptime_secs"], 10, places=1)
        self.friend()
        counts = self.ok("GET", "/v1/status")
        # Bob's, for gossip and for the hash table.
        self.assertEqual(counts["channels"], 2)
        feed = counts["parts"]["feed"]
        self.assertGreater(feed.pop("bytes"), 900)
        self.assertEqual(
            feed,
            {
                "messages": 3,
                "feeds": 1,
                "forked": 0,
                "refused": {},
                "read_only": None,
                "gone": 0,
                "forgotten": 0,
                "blocked": 0,
            },
        )

    def test_identity(self) -> None:
        identity = self.ok("GET", "/v1/identity")
        public = self.ada.identity.public
        self.assertEqual(identity["public_id"], public.text)
        self.assertEqual(base64.b64decode(identity["x25519_public"]), public.x25519)
        self.assertEqual(identity["addresses"], [self.ada.address])

    # --- feeds

    def test_publish(self) -> None:
        first = self.publish({"type": "note", "text": "héllo"})
        second = self.publish([1.5], tags=["a"], relates=first["hash"])
        self.assertEqual((first["sequence"], first["previous"]), (1, None))
        self.assertEqual((second["sequence"], second["previous"]), (2, first["hash"]))
        self.assertEqual((second["tags"], second["relates"]), (["a"], first["hash"]))
        self.assertEqual(second["chain_valid"], True)

    def test_any_json_can_be_published_and_is_signed_as_it_is_shown(self) -> None:
        for content in (None, True, 0, -1, 2**64 - 1, "x", [], {}, {"deep": [[[1e-7]]]}):
            with self.subTest(content=content):
                shown = self.ada.ask("POST", "/v1/publish", {"content": content}).body
                message = shown.partition(b'"data":')[2].removesuffix(b"}")
                raw = message.replace(b',"chain_valid":true', b"")
                verify_message(parse_message(raw))
                self.assertEqual(parse_message(raw).content, content)

    def test_publish_refuses_what_it_must(self) -> None:
        def refused(code: str, status: int, body: Any) -> None:
            self.refused(code, status, "POST", "/v1/publish", body)

        refused("CONTENT_TOO_LARGE", 413, {"content": "x" * 65_535})
        refused("INVALID_REQUEST", 400, {})
        refused("INVALID_REQUEST", 400, {"content": 1, "contents": 2})
        refused("INVALID_REQUEST", 400, b"{")
        refused("INVALID_REQUEST", 400, b"[]")
        refused("NUMBER_NOT_PORTABLE", 400, b'{"content":1e300}')
        refused("NESTED_TOO_DEEP", 400, b'{"content":' + b"[" * 200 + b"]" * 200 + b"}")
        refused("MALFORMED_MESSAGE", 400, {"content": 1, "expires_at": "tomorrow"})
        refused("BODY_TOO_LARGE", 413, b" " * (1024 * 1024 + 1))
        self.assertEqual(self.ok("GET", "/v1/feed?include_self=true"), [])

    def test_publish_batch(self) -> None:
        published = self.ok("POST", "/v1/publish/batch", {"contents": ["a", "b", "c"]}, 201)
        self.assertEqual((published["count"], published["first"], published["last"]), (3, 1, 3))
        message = self.refused(
            "NUMBER_NOT_PORTABLE", 400, "POST", "/v1/publish/batch", b'{"contents":[1,1e300]}'
        )
        self.assertIn("message 2 of the batch", message)
        self.refused("INVALID_REQUEST", 400, "POST", "/v1/publish/batch", {"contents": []})

    def test_feed_shows_others_and_oneself_on_request(self) -> None:
        self.publish("mine")
        bob = self.friend()
        feed = self.ok("GET", "/v1/feed")
        self.assertEqual({m["author"] for m in feed}, {bob.identity.public.text})
        self.assertEqual([m["sequence"] for m in feed], [3, 2, 1])
        self.assertEqual(len(self.ok("GET", "/v1/feed?include_self=true")), 4)
        self.assertEqual(len(self.ok("GET", "/v1/feed?content_type=insight")), 3)
        self.assertEqual(self.ok("GET", "/v1/feed?content_type=note"), [])

    def test_limit_offset_and_total(self) -> None:
        self.friend()
        target = "/v1/feed?limit=2&offset=1"
        self.assertEqual([m["sequence"] for m in self.ok("GET", target)], [2, 1])
        self.assertEqual(self.metadata(target), {"total": 3, "limit": 2, "offset": 1})
        cursor = self.metadata("/v1/feed?limit=2")["next_cursor"]
        target = f"/v1/feed?limit=2&cursor={cursor}"
        self.assertEqual([m["sequence"] for m in self.ok("GET", target)], [1])
        self.assertEqual(self.metadata(target), {"total": 3, "limit": 2})
        self.refused("INVALID_REQUEST", 400, "GET", f"/v1/feed?cursor={cursor}&offset=1")
        self.refused("INVALID_REQUEST", 400, "GET", f"/v1/insights?cursor={cursor}")
        self.assertEqual(self.metadata("/v1/feed")["limit"], 50)
        for query in ("limit=0", "limit=201", "limit=abc", "limit=-1", "offset=-1", "x=1"):
            with self.subTest(query=query):
                self.refused("INVALID_REQUEST", 400, "GET", f"/v1/feed?{query}")
        self.ok("GET", "/v1/feed?limit=200")

    def test_feed_of_one_author_in_every_spelling(self) -> None:
        bob = self.friend().identity.public
        safe = bob.text.replace("+", "-").replace("/", "_")
        for author in (bob.text, quote(bob.text, safe=""), safe, safe.replace("=", "")):
            with self.subTest(author=author):
                feed = self.ok("GET", f"/v1/feed/{author}?limit=1")
                self.assertEqual([m["sequence"] for m in feed], [3])
        self.assertEqual(self.metadata(f"/v1/feed/{bob.text}")["total"], 3)
        self.assertEqual(self.ok("GET", f"/v1/feed/{STRANGER.text}"), [])
        self.refused("INVALID_PUBLIC_KEY", 400, "GET", "/v1/feed/nobody")

    def test_insights(self) -> None:
        self.publish({"type": "insight", "title": "mine"})
        self.publish({"type": "note", "title": "no insight"})
        self.friend()
        titles = [m["content"]["title"] for m in self.ok("GET", "/v1/insights")]
        self.assertEqual(titles, ["owl 2", "owl 1", "owl 0", "mine"])

    def test_search(self) -> None:
        self.friend()
        self.publish({"type": "note", "text": "the owl of minerva"})
        self.assertEqual(len(self.ok("GET", "/v1/insights/search?q=owl")), 4)
        self.assertEqual(len(self.ok("GET", "/v1/insights/search?q=OWL+minerva")), 1)
        self.assertEqual(len(self.ok("GET", "/v1/insights/search?q=%22owl+1%22")), 1)
        self.assertEqual(self.ok("GET", "/v1/insights/search?q=title"), [])
        for query in ("owl%00", "owl*", "%22owl", "owl+AND", "(owl", "col:owl", "%F0%9F%A6%89owl"):
            with self.subTest(query=query):
                self.ok("GET", f"/v1/insights/search?q={query}")
        (hit,) = self.ok("GET", "/v1/insights/search?q=owl+minerva&order=newest&content_type=note")
        self.assertEqual(hit["snippet"][1::2], ["owl", "minerva"])
        metadata = self.metadata("/v1/insights/search?q=owl&limit=2&offset=3")
        self.assertEqual(metadata, {"total": 4, "limit": 2, "offset": 3})

    def test_search_refuses_what_it_must(self) -> None:
        for query in (
            "",
            "q=",
            "q=%20",
            "q=%22",
            "q=*",
            "q=" + "a+" * 33,
            "q=" + "x" * 1001,
            "q=-owl",
            "q=o*",
        ):
            with self.subTest(query=query):
                self.refused("INVALID_REQUEST", 400, "GET", f"/v1/insights/search?{query}")

    def test_message_by_hash(self) -> None:
        published = self.publish("x")
        self.assertEqual(self.ok("GET", f"/v1/message/{published['hash']}"), published)
        self.refused("NOT_FOUND", 404, "GET", f"/v1/message/{'0' * 64}")
        for text in ("x", "0" * 63, "0" * 65, published["hash"].upper()):
            self.refused("INVALID_REQUEST", 400, "GET", f"/v1/message/{text}")

    # --- peers and follows

    def test_peers(self) -> None:
        self.assertEqual(self.ok("GET", "/v1/peers"), [])
        address = f"net:10.9.9.9:7655~shs:{STRANGER.base64}"
        added = self.ok("POST", "/v1/peers", {"address": address}, 201)
        self.assertEqual(
            added,
            {
                "address": address,
                "public_id": STRANGER.text,
                "source": "manual",
                "connected": False,
                "last_connected": None,
                "failures": 0,
                "last_error": None,
                "pinned": None,
                "pinned_at": None,
                "behaviour": None,
                "transports": [],
            },
        )
        self.mesh.run(0.5)
        (shown,) = self.ok("GET", "/v1/peers")
        self.assertEqual((shown["failures"], shown["connected"]), (1, False))
        self.assertIn("PEER_UNREACHABLE", shown["last_error"])
        self.ada.stop()
        self.ada.start()
        self.assertEqual(len(self.ok("GET", "/v1/peers")), 1)
        self.ok("DELETE", f"/v1/peers/{address}", status=204)
        self.assertEqual(self.ok("GET", "/v1/peers"), [])
        self.refused("NOT_FOUND", 404, "DELETE", f"/v1/peers/{quote(address, safe='')}")

    def test_peers_refuses_what_it_must(self) -> None:
        self.refused("INVALID_ADDRESS", 400, "POST", "/v1/peers", {"address": "10.0.0.1"})
        self.refused("CONFIG_INVALID", 400, "POST", "/v1/peers", {"address": self.ada.address})
        self.refused("INVALID_REQUEST", 400, "POST", "/v1/peers", {})
        self.refused("INVALID_ADDRESS", 400, "DELETE", "/v1/peers/nowhere")

    def test_a_peer_that_is_added_is_connected(self) -> None:
        bob = self.mesh.node("bob")
        bob.start()
        self.publish("hello")
        self.ok("POST", "/v1/peers", {"address": bob.address}, 201)
        self.mesh.run(1)
        (shown,) = self.ok("GET", "/v1/peers")
        self.assertTrue(shown["connected"])
        self.assertRegex(shown["last_connected"], r"^2026-01-01T00:00:00\.\d{3}Z$")
        self.assertEqual(len(bob.ask("GET", "/v1/feed").json["data"]), 1)
        self.ok("DELETE", f"/v1/peers/{bob.address}", status=204)
        self.mesh.run(1)
        self.assertEqual(bob.ask("GET", "/v1/status").json["data"]["parts"]["gossip"]["links"], [])

    def test_a_configured_peer_is_not_removed_at_the_door(self) -> None:
        bob = self.friend()
        answer = bob.ask("DELETE", f"/v1/peers/{self.ada.address}")
        self.assertEqual((answer.status, answer.code), (400, "CONFIG_INVALID"))

    def test_a_peer_of_another_network_is_named_as_such(self) -> None:
        other = MemoryMesh(seed=99)
        other.clock, other.network = self.mesh.clock, self.mesh.network
        other.nodes = [self.ada]  # so that the addresses differ
        eve = other.node("eve", f'peers = ["{self.ada.address}"]')
        self.mesh.nodes.append(eve)
        eve.start()
        self.mesh.run(1)
        (shown,) = eve.ask("GET", "/v1/peers").json["data"]
        self.assertIn("NETWORK_KEY_REFUSED", shown["last_error"])
        refused = self.ok("GET", "/v1/status")["refused"]
        self.assertGreaterEqual(refused["NETWORK_KEY_REFUSED"], 1)
        self.assertEqual(self.ok("GET", "/v1/feed"), [])

    def test_follows(self) -> None:
        stranger = {"author": STRANGER.text, "origin": "added"}
        self.assertEqual(self.ok("GET", "/v1/follows"), [])
        # With and without a body: what it takes stands in the path.
        for body in ({}, None):
            followed = self.ok("POST", f"/v1/follows/{STRANGER.text}", body, 201)
            self.assertEqual(followed, stranger)
        self.assertEqual(self.ok("GET", "/v1/follows"), [stranger])
        self.friend()
        self.assertEqual(self.ok("GET", "/v1/feed"), [])
        self.ada.stop()
        self.ada.start()
        self.assertEqual(self.ok("GET", "/v1/follows"), [stranger])
        for _ in range(2):
            self.ok("DELETE", f"/v1/follows/{quote(STRANGER.text, safe='')}", status=204)
        self.assertEqual(self.ok("GET", "/v1/follows"), [])
        self.mesh.run(70)
        self.assertEqual(len(self.ok("GET", "/v1/feed")), 3)
        self.refused("INVALID_PUBLIC_KEY", 400, "POST", "/v1/follows/nobody", {})

    def test_topics(self) -> None:
        rain = {"topic": "rain & snow", "origin": "added"}
        path = f"/v1/topics/{quote('rain & snow', safe='')}"
        self.assertEqual(self.ok("POST", path, {}, 201), rain)
        self.assertEqual(self.ok("GET", "/v1/topics"), [rain])
        self.ada.stop()
        self.ada.start()
        self.assertEqual(self.ok("GET", "/v1/topics"), [rain])
        for _ in range(2):
            self.ok("DELETE", path, status=204)
        self.assertEqual(self.ok("GET", "/v1/topics"), [])
        self.refused("INVALID_REQUEST", 400, "POST", f"/v1/topics/{'x' * 257}", {})

    def test_blocks_and_what_is_stored_of_who_is_blocked(self) -> None:
        self.friend()
        self.assertEqual(len(self.ok("GET", "/v1/feed")), 3)
        author = self.ok("GET", "/v1/feed")[0]["author"]
        self.refused("INVALID_REQUEST", 400, "POST", f"/v1/feed/{author}/forget", {})
        blocked = {"author": author, "origin": "added"}
        self.assertEqual(self.ok("POST", f"/v1/blocks/{author}", {}, 201), blocked)
        self.assertEqual(self.ok("GET", "/v1/blocks"), [blocked])
        self.assertEqual(self.ok("GET", "/v1/feed"), [])
        self.assertEqual(len(self.ok("GET", f"/v1/feed/{author}")), 3)
        forgotten = self.ok("POST", f"/v1/feed/{author}/forget", {})
        self.assertEqual(forgotten["messages"], 3)
        self.assertEqual(self.ok("GET", f"/v1/feed/{author}"), [])
        self.mesh.run(70)
        self.assertEqual(self.ok("GET", "/v1/status")["channels"], 0)
        self.ok("DELETE", f"/v1/blocks/{author}", status=204)
        self.mesh.run(70)
        self.assertEqual(len(self.ok("GET", "/v1/feed")), 3)

    def test_retention(self) -> None:
        plan = self.ok("GET", "/v1/retention")
        self.assertEqual(plan, {"messages": 0, "bytes": 0, "by_reason": {}, "more": False})
        self.assertEqual(self.ok("POST", "/v1/retention/run", {}), {"messages": 0, "bytes": 0})

    # --- the door

    def test_what_is_not_there(self) -> None:
        self.refused("NOT_FOUND", 404, "GET", "/v1/nothing")
        self.refused("METHOD_NOT_ALLOWED", 405, "DELETE", "/v1/status")

    def test_without_the_token_nothing_is_answered(self) -> None:
        token = f"{self.ada.folder}/door.token"
        self.ada.files.content[token] = b"0" * 64
        for method, target in (("GET", "/v1/status"), ("POST", "/v1/publish"), ("GET", "/x")):
            self.refused("UNAUTHORIZED", 401, method, target)

    def test_a_stranger_is_answered_before_his_body_is_read(self) -> None:
        self.ada.files.content[f"{self.ada.folder}/door.token"] = b"0" * 64
        call = self.ada.call("POST", "/v1/publish", {"content": "x" * 1000})
        call._request = call._request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        self.mesh.run(0.1)
        self.assertEqual(call.answer().code, "UNAUTHORIZED")
        self.mesh.run(10)

    def test_answers_are_json_that_any_program_reads(self) -> None:
        self.publish({"n": 18446744073709551615, "x": 0.1})
        body = self.ada.ask("GET", "/v1/feed?include_self=true").body
        self.assertEqual(
            json.loads(body)["data"][0]["content"], {"n": 18446744073709551615, "x": 0.1}
        )
