"""The HTTP door of a relay: who may ask what there, and what is answered."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from jsonschema import Draft202012Validator
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError
from meshkit.identity.keys import PublicKey
from meshkit.relay.registry.registration import Entered, Registration, proof_of
from meshkit.runtime.signed.signatures import TAG as STORAGE_TAG
from meshkit.services.programs import MESH_RELAY
from meshkit.services.relay import operations as offered
from meshkit.services.relay.guard import (
    BODY_COST,
    PEER_BURST,
    VISITOR_BURST,
    VISITOR_RATE,
)
from meshkit.testing.identities import Author, make_identity
from tests.relay.registration.world import told
from tests.services.relay.visitors import LISTEN, PLAIN, Door, Said, parse

ADA: Final = make_identity("ada")
BOB: Final = make_identity("bob")
MALLORY: Final = make_identity("mallory")


class DoorTestCase(SynchronousTestCase):
    def door(self, config: str = "", door: str = "") -> Door:
        made = Door(config, door)
        self.addCleanup(made.stop)
        return made

    def refused(self, said: Said, status: int, code: str, why: str = ".") -> None:
        self.assertEqual((said.status, said.code), (status, code), said.body)
        self.assertRegex(said.json["error"]["message"], why)


class VisitorTests(DoorTestCase):
    def test_anybody_is_told_what_the_relay_is(self) -> None:
        door = self.door()
        shown = door.ask("GET", "/v1/status").data
        self.assertEqual(shown["public_id"], door.relay.identity.public.text)
        self.assertEqual((shown["role"], shown["registers"]), ("member", True))
        self.assertEqual(shown["network"], door.network.net_id.hex())
        self.assertEqual(shown["mesh"], [door.mesh.address])
        self.assertEqual(shown["peers"], 0)

    def test_and_how_to_ask(self) -> None:
        said = self.door().ask("GET", "/v1/openapi.json")
        paths = said.json["paths"]
        self.assertEqual(
            sorted(paths),
            [
                "/.well-known/meshkit.json",
                "/v1/directory",
                "/v1/events",
                "/v1/feed",
                "/v1/feed/{author}",
                "/v1/openapi.json",
                "/v1/register",
                "/v1/settings",
                "/v1/status",
            ],
        )

    def test_and_where_it_is_to_be_found_if_its_operator_wants_that(self) -> None:
        said = self.door().ask("GET", "/.well-known/meshkit.json")
        self.refused(said, 404, "NOT_FOUND")
        settings = 'advertise = ["relay.example:7661"]\n[wellknown]\npublish = true\n'
        door = self.door(settings)
        said = door.ask("GET", "/.well-known/meshkit.json")
        self.assertEqual(said.headers["content-type"], ("application/json",))
        self.assertIn(b"relay.example:7661", said.body)
        key = door.relay.identity.public.base64
        self.assertEqual(
            door.ask("GET", "/v1/status").data["mesh"],
            [f"net:relay.example:7661~shs:{key}"],
        )

    def test_but_nothing_that_is_said_in_the_network(self) -> None:
        door = self.door(door=PLAIN)
        for target in (
            "/v1/feed",
            f"/v1/feed/{ADA.public.text}",
            "/v1/events",
            "/v1/directory",
            "/v1/feed?after=0",
            "/v1/%66eed",
            f"/v1%2ffeed/{ADA.public.text}",
            "/v1/%64irectory",
        ):
            self.refused(door.ask("GET", target), 401, "SIGNATURE_REFUSED", "sign the request")

    def test_nor_what_the_operators_door_has(self) -> None:
        door = self.door()
        for target in ("/v1/peers", "/v1/identity", "/mcp", "/v1/registry", "/"):
            self.refused(door.ask("GET", target), 404, "NOT_FOUND")
        self.refused(door.ask("POST", "/v1/publish", {"content": 1}), 404, "NOT_FOUND")

    def test_the_directory_may_be_open_to_all(self) -> None:
        door = self.door(door="[relay_door]\npublic_directory = true\n")
        door.register(ADA, listed=True, nickname="ada")
        door.register(BOB)
        (entry,) = door.ask("GET", "/v1/directory").data
        self.assertEqual((entry["public_id"], entry["nickname"]), (ADA.public.text, "ada"))

    def test_one_that_asks_too_much_is_held_up_and_the_others_are_not(self) -> None:
        door = self.door()
        for _ in range(int(VISITOR_BURST)):
            self.assertEqual(door.ask("GET", "/v1/status").status, 200)
        # Some come in while these are asked.
        codes = [door.ask("GET", "/v1/status").code for _ in range(20)]
        self.assertIn("RATE_LIMITED", codes)
        self.assertEqual(door.ask("GET", "/v1/status", source="10.8.0.2").status, 200)
        door.mesh.run(2 / VISITOR_RATE)
        self.assertEqual(door.ask("GET", "/v1/status").status, 200)

    def held_up(self, door: Door, source: str, **headers: str) -> list[str]:
        """Ask as often as a newcomer may.  @return: those who were held up, by name."""
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        said = [
            door.ask("GET", "/v1/status", source=source, headers=sent).json
            for _ in range(int(VISITOR_BURST))
        ]
        refused = [each["error"] for each in said if not each["success"]]
        self.assertLessEqual({each["code"] for each in refused}, {"RATE_LIMITED"})
        return sorted({each["message"].partition(" is granted")[0] for each in refused})

    def test_without_trust_all_who_come_through_a_proxy_are_one(self) -> None:
        door = self.door()
        self.assertEqual(self.held_up(door, "10.9.0.1", X_Forwarded_For="192.0.2.1"), [])
        self.assertEqual(
            self.held_up(door, "10.9.0.1", X_Forwarded_For="192.0.2.2"), ["visitor 10.9.0.1"]
        )

    def test_behind_a_proxy_that_is_trusted_each_has_a_limit_of_his_own(self) -> None:
        self.behind("X_Forwarded_For", "Forwarded", "{}")

    def test_and_so_it_is_with_the_header_of_rfc_7239(self) -> None:
        self.behind("Forwarded", "X_Forwarded_For", "for={};proto=https")

    def behind(self, name: str, other: str, form: str) -> None:
        """
        @param name: of the header that the proxies write.
        @param other: one that they hand on as it came.
        @param form: of an element of it.
        """
        settings = 'trusted_proxies = ["10.9.0.0/24"]'
        header = name.replace("_", "-")
        door = self.door(door=f'[relay_door]\n{settings}\nproxy_header = "{header}"\n')

        def through(*who: str, proxy: str = "10.9.0.1", **more: str) -> list[str]:
            said = ", ".join(form.format(each) for each in who)
            return self.held_up(door, proxy, **{name: said}, **more)

        self.assertEqual(through("192.0.2.1"), [])
        one = ["visitor 192.0.2.1"]
        self.assertEqual(through("192.0.2.1"), one)
        # Whatever he writes to the left of what the proxy says, and by whatever proxy he comes.
        self.assertEqual(through("192.0.2.2", "192.0.2.1"), one)
        self.assertEqual(through("192.0.2.1", "10.9.0.1", proxy="10.9.0.2"), one)
        self.assertEqual(through("192.0.2.1", **{other: "for=192.0.2.3"}), one)
        self.assertEqual(through("192.0.2.1", "192.0.2.2"), [])
        # From elsewhere nobody is believed.
        self.assertEqual(through("192.0.2.4", proxy="10.8.0.1"), [])
        self.assertEqual(through("192.0.2.5", proxy="10.8.0.1"), ["visitor 10.8.0.1"])
        self.assertEqual(through("192.0.2.4"), [])

    def test_a_proxy_is_named_by_its_address(self) -> None:
        with self.assertRaisesRegex(ConfigError, "relay_door.trusted_proxies: 'localhost'"):
            self.door(door='[relay_door]\ntrusted_proxies = ["localhost"]\n')

    def test_what_is_said_in_the_network_needs_tls_behind_a_proxy_elsewhere(self) -> None:
        """What goes between that and the relay can be overheard, whoever it is for."""
        door = self.door(door='[relay_door]\ntrusted_proxies = ["10.9.0.1"]\n')
        door.register(ADA)
        headers: dict[str, str | None] = {"X-Forwarded-For": "127.0.0.1"}
        said = door.ask("GET", "/v1/feed", by=ADA, source="10.9.0.1", headers=headers)
        self.refused(said, 403, "TLS_NEEDED")

    def test_of_callers_so_many_are_remembered(self) -> None:
        door = self.door()
        relay_guard = door.relay.service._parts["relay_door"].door._guard
        relay_guard._visitors._most = 8
        for number in range(20):
            door.ask("GET", "/v1/status", source=f"10.7.0.{number}")
        self.assertEqual(relay_guard.remembered, 8)

    def test_a_body_is_as_large_as_a_registration_needs(self) -> None:
        door = self.door()
        body = b'{"statement": "' + b"A" * offered.MAX_BODY + b'"}'
        self.refused(door.ask("POST", "/v1/register", body), 413, "BODY_TOO_LARGE")


class RegisterTests(DoorTestCase):
    def test_a_member_registers_by_what_it_signs(self) -> None:
        door = self.door()
        statement = door.statement(ADA, listed=True, nickname="ada")
        proof = proof_of(door.capability, statement.raw)
        said = door.ask("POST", "/v1/register", {"statement": statement.raw, "proof": proof})
        self.assertEqual(said.status, 201)
        word = Entered.open(msgspec.convert(said.data["entered"], bytes), statement)
        self.assertEqual(word.number, statement.number)
        self.assertEqual(
            (said.data["public_id"], said.data["registered"], said.data["listed"]),
            (ADA.public.text, True, True),
        )
        self.assertEqual(door.mesh.registered()[0]["nickname"], "ada")

    def test_who_is_in_no_network_with_it_does_not(self) -> None:
        door = self.door()
        raw = door.statement(MALLORY).raw
        for proof in (bytes(32), proof_of(bytes(32), raw), proof_of(door.capability, b"else")):
            said = door.ask("POST", "/v1/register", {"statement": raw, "proof": proof})
            self.refused(said, 400, "REGISTRATION_INVALID", "proof")
        self.assertEqual(door.mesh.registered(), [])

    def test_what_was_overheard_is_worth_nothing_when_it_is_replayed(self) -> None:
        door = self.door()
        listed = door.statement(ADA, listed=True)
        body = {"statement": listed.raw, "proof": proof_of(door.capability, listed.raw)}
        self.assertEqual(door.ask("POST", "/v1/register", body).status, 201)
        door.mesh.run()
        private = door.statement(ADA)
        said = door.ask("POST", "/v1/settings", {"statement": private.raw})
        self.assertFalse(said.data["listed"])
        for target, again in (
            ("/v1/register", body),
            ("/v1/settings", {"statement": listed.raw}),
        ):
            self.refused(door.ask("POST", target, again), 409, "REGISTRATION_STALE")
        door.relay.stop()
        door.relay.start()
        self.refused(door.ask("POST", "/v1/register", body), 409, "REGISTRATION_STALE")
        self.assertFalse(door.mesh.registered()[0]["listed"])

    def test_settings_are_for_who_is_registered(self) -> None:
        door = self.door()
        raw = door.statement(ADA).raw
        self.refused(door.ask("POST", "/v1/settings", {"statement": raw}), 403, "NOT_REGISTERED")
        door.register(ADA)
        door.mesh.run()
        left = door.ask("POST", "/v1/settings", {"statement": door.statement(ADA, stays=False).raw})
        self.assertFalse(left.data["registered"])
        self.assertEqual(door.mesh.registered(), [])

    def test_the_limit_is_of_all(self) -> None:
        door = self.door("[registry]\nmax_peers = 2\n")
        door.register(ADA, "10.8.0.1")
        door.register(BOB, "10.8.0.2")
        self.refused(door.register(MALLORY, "10.8.0.3"), 507, "REGISTRY_FULL")
        self.assertEqual(door.ask("GET", "/v1/status").data["peers"], 2)

    def test_so_many_registrations_come_from_one_address(self) -> None:
        door = self.door()
        statuses = [door.register(make_identity(number)).status for number in range(12)]
        self.assertEqual(statuses[: int(VISITOR_BURST / (1 + BODY_COST))], [201] * 5)
        self.assertIn(429, statuses)

    def test_what_is_malformed_is_refused(self) -> None:
        door = self.door()
        for body in ({}, {"statement": ""}, {"statement": "AAAA", "proof": "AAAA"}, [], b"{"):
            said = door.ask("POST", "/v1/register", body)
            self.assertEqual(said.status, 400, said.body)
        self.assertEqual(door.mesh.registered(), [])


class PeerTests(DoorTestCase):
    def setUp(self) -> None:
        self.at = self.door(door=PLAIN)
        self.assertEqual(self.at.register(ADA, listed=True, nickname="ada").status, 201)
        self.author = Author("ada")

    def publish(self, count: int) -> list[bytes]:
        """Messages come to the relay, as by gossip."""
        raws = self.author.write_many(count)
        feed = self.at.relay.service._parts["feed"]
        done: list[Any] = []
        feed.ingest(raws).addBoth(done.append)
        self.at.mesh.run(0.1)
        self.assertEqual([verdict.error for verdict in done[0]], [None] * count)
        return raws

    def test_it_reads_all_feeds_in_the_order_in_which_they_came(self) -> None:
        raws = self.publish(5)
        first = self.at.ask("GET", "/v1/feed?limit=3", by=ADA).data
        rest = self.at.ask("GET", f"/v1/feed?after={first['reached']}", by=ADA).data
        self.assertEqual(rest["reached"], rest["newest"])
        shown = first["messages"] + rest["messages"]
        self.assertEqual(
            [each["hash"] for each in shown],
            [msgspec.json.decode(raw)["hash"] for raw in raws],
        )
        self.assertTrue(all(each["chain_valid"] for each in shown))

    def test_it_reads_the_feed_of_one_author_byte_for_byte(self) -> None:
        raws = self.publish(4)
        said = self.at.ask("GET", f"/v1/feed/{ADA.public.text}?after=1&limit=2", by=ADA)
        self.assertEqual((said.data["reached"], said.data["gone_until"]), (3, None))
        for raw in raws[1:3]:
            self.assertIn(raw, said.body)
        none = self.at.ask("GET", f"/v1/feed/{BOB.public.text}", by=ADA).data
        self.assertEqual((none["messages"], none["reached"]), ([], 0))
        self.refused(
            self.at.ask("GET", "/v1/feed/@nobody.ed25519", by=ADA), 400, "INVALID_PUBLIC_KEY"
        )

    def stream(self, target: str = "/v1/events", **headers: str) -> Any:
        signed, _ = self.at.signer(ADA).sign(
            self.at.relay.identity.public, "GET", target, "application/json", b""
        )
        call = self.at.send(self.at.request("GET", target, None, {**dict(signed), **headers}))
        self.at.mesh.run(0.5)
        return call

    def test_it_hears_of_each_message_as_it_comes(self) -> None:
        self.publish(2)
        call = self.stream()
        self.assertNotIn(b"data:", call.received)
        (raw,) = self.publish(1)
        self.at.mesh.run(0.5)
        self.assertIn(msgspec.json.decode(raw)["hash"].encode(), call.received)
        self.assertEqual(call.received.count(b"data:"), 1)
        self.assertIn(b"id: 3", call.received)
        again = self.stream("/v1/events?after=1")
        self.assertEqual(again.received.count(b"data:"), 2)

    def test_a_stream_ends_when_its_peer_is_no_peer_any_more(self) -> None:
        call = self.stream()
        self.assertFalse(call.ended)
        self.at.mesh.run(1)
        left = self.at.statement(ADA, stays=False)
        self.at.ask("POST", "/v1/settings", {"statement": left.raw})
        self.at.mesh.run(1)
        self.assertTrue(call.ended)
        self.refused(self.at.ask("GET", "/v1/feed", by=ADA), 403, "NOT_REGISTERED")

    def test_a_stream_ends_when_the_relay_stops(self) -> None:
        call = self.stream()
        self.at.relay.stop()
        self.assertTrue(call.ended)

    def test_who_is_not_registered_is_not_answered(self) -> None:
        self.refused(self.at.ask("GET", "/v1/feed", by=BOB), 403, "NOT_REGISTERED", "register it")

    def test_nothing_is_remembered_of_who_is_not_registered(self) -> None:
        guard = self.at.relay.service._parts["relay_door"].door._guard
        verified: list[str] = []
        verify = guard._signatures.verify
        self.patch(guard._signatures, "verify", lambda *a: verified.append("") or verify(*a))
        codes = [
            self.at.ask("GET", "/v1/status", by=make_identity(f"stranger {n}")).code
            for n in range(int(VISITOR_BURST) + 20)
        ]
        self.assertEqual((codes[0], codes[-1]), ("NOT_REGISTERED", "RATE_LIMITED"))
        # Nor is anything done for those who are held up.
        self.assertEqual(len(verified), codes.count("NOT_REGISTERED"))
        self.assertEqual(len(guard._signatures._replays), 0)

    def test_who_names_the_key_of_another_does_not_learn_if_it_is_registered(self) -> None:
        for identity in (ADA, BOB):
            signed, _ = self.at.signer(identity).sign(
                self.at.relay.identity.public, "GET", "/v1/feed?after=0", "application/json", b""
            )
            said = self.at.ask("GET", "/v1/feed?after=1", headers=dict(signed))
            self.refused(said, 401, "SIGNATURE_REFUSED", "the signature is wrong")

    def test_a_stream_ends_with_its_peer_also_if_many_others_came_meanwhile(self) -> None:
        call = self.stream()
        self.at.register(BOB, "10.8.0.2")
        guard = self.at.relay.service._parts["relay_door"].door._guard
        guard._peers._most = 1
        self.assertEqual(self.at.ask("GET", "/v1/feed", by=BOB).status, 200)
        self.assertFalse(call.ended)
        self.at.relay.ask("DELETE", f"/v1/registry/{ADA.public.text}")
        self.at.mesh.run(1)
        self.assertTrue(call.ended)
        # And then it is forgotten like others.
        self.assertEqual(len(guard._peers), 1)

    def test_the_directory_is_what_its_peers_have_signed(self) -> None:
        self.at.register(BOB, "10.8.0.2")
        (entry,) = self.at.ask("GET", "/v1/directory", by=ADA).data
        raw = msgspec.convert(entry["statement"], bytes)
        found = Registration.open(raw, self.at.relay.identity.public, (self.at.network.net_id,))
        self.assertEqual((found.peer, found.nickname, found.listed), (ADA.public, "ada", True))

    def test_a_request_is_let_in_once(self) -> None:
        signed, _ = self.at.signer(ADA).sign(
            self.at.relay.identity.public, "GET", "/v1/feed", "application/json", b""
        )
        raw = self.at.request("GET", "/v1/feed", None, dict(signed))
        for status in (200, 401):
            call = self.at.send(raw)
            self.at.mesh.run(0.5)
            self.assertEqual(parse(call.received).status, status)

    def test_nor_after_a_restart(self) -> None:
        signed, _ = self.at.signer(ADA).sign(
            self.at.relay.identity.public, "GET", "/v1/feed", "application/json", b""
        )
        raw = self.at.request("GET", "/v1/feed", None, dict(signed))
        self.at.send(raw)
        self.at.mesh.run(0.5)
        self.at.relay.stop()
        self.at.relay.start()
        call = self.at.send(raw)
        self.at.mesh.run(0.5)
        self.refused(parse(call.received), 401, "SIGNATURE_RETRY")

    def test_a_signature_for_something_else_is_none(self) -> None:
        relay = self.at.relay.identity.public

        def signed(**wrong: Any) -> dict[str, Any]:
            headers, _ = self.at.signer(ADA, **wrong).sign(
                wrong.get("peer", relay),
                wrong.get("method", "GET"),
                wrong.get("target", "/v1/feed"),
                "application/json",
                wrong.get("body", b""),
            )
            return dict(headers)

        for wrong in (
            {"tag": STORAGE_TAG},
            {"network": bytes(16)},
            {"peer": BOB.public},
            {"method": "HEAD"},
            {"target": "/v1/feed?after=1"},
            {"target": "/v1/directory"},
            {"body": b"x"},
        ):
            raw = self.at.request("GET", "/v1/feed", None, signed(**wrong))
            call = self.at.send(raw, f"10.6.0.{len(str(wrong))}")
            self.at.mesh.run(0.5)
            self.refused(parse(call.received), 401, "SIGNATURE_REFUSED")

    def test_a_body_that_was_not_signed_is_refused(self) -> None:
        raw = self.at.statement(BOB).raw
        body = {"statement": raw, "proof": proof_of(self.at.capability, raw)}
        other = {"statement": raw, "proof": bytes(32)}
        signed, _ = self.at.signer(ADA).sign(
            self.at.relay.identity.public,
            "POST",
            "/v1/register",
            "application/json",
            msgspec.json.encode(other),
        )
        call = self.at.send(self.at.request("POST", "/v1/register", body, dict(signed)))
        self.at.mesh.run(0.5)
        self.refused(parse(call.received), 401, "SIGNATURE_REFUSED", "Content-Digest")
        self.assertEqual(len(self.at.mesh.registered()), 1)

    def test_who_shows_wrong_signatures_is_held_up(self) -> None:
        bad = {"Signature-Input": "mk=()", "Signature": "mk=:AAAA:"}
        codes = [self.at.ask("GET", "/v1/feed", headers=bad).code for _ in range(12)]
        self.assertEqual(codes[0], "SIGNATURE_REFUSED")
        self.assertEqual(codes[-1], "RATE_LIMITED")
        # A peer at the same address is not: its signature is right.
        self.assertEqual(self.at.ask("GET", "/v1/feed", by=ADA).status, 200)

    def test_a_peer_that_asks_too_much_is_held_up(self) -> None:
        codes = [self.at.ask("GET", "/v1/status", by=ADA).status for _ in range(5)]
        self.assertEqual(codes, [200] * 5)
        guard = self.at.relay.service._parts["relay_door"].door._guard
        _, bucket = guard._peers.find(ADA.public.text)
        bucket.owe(PEER_BURST, self.at.mesh.mesh.clock.seconds())
        self.refused(self.at.ask("GET", "/v1/status", by=ADA), 429, "RATE_LIMITED")

    def test_to_ask_is_to_be_there(self) -> None:
        self.at.mesh.leap(7_200)
        self.at.ask("GET", "/v1/status", by=ADA)
        registry = self.at.relay.service._parts["registry"].registry
        self.assertEqual(registry.seen(ADA.public), self.at.ms // 1000)

    def test_a_head_is_answered_without_a_body(self) -> None:
        said = self.at.ask("HEAD", "/v1/status")
        self.assertEqual((said.status, said.body), (200, b""))


class DocumentTests(DoorTestCase):
    """What is answered is what the OpenAPI document says."""

    def fits(self, document: Any, path: str, method: str, said: Said) -> None:
        responses = document["paths"][path][method]["responses"]
        self.assertIn(str(said.status), responses, (path, said.body))
        where = f"#/paths/{path.replace('/', '~1')}/{method}/responses/{said.status}"
        found = responses[str(said.status)]
        if "$ref" in found:
            where = found["$ref"]
        schema = {**document, "$ref": f"{where}/content/application~1json/schema"}
        problems = list(Draft202012Validator(schema).iter_errors(said.json))
        self.assertEqual([problem.message for problem in problems], [], path)

    def test_good_answers_and_refusals_alike(self) -> None:
        door = self.door(door=PLAIN)
        document = door.ask("GET", "/v1/openapi.json").json
        raw = door.statement(ADA, listed=True).raw
        entered = {"statement": raw, "proof": proof_of(door.capability, raw)}
        author = f"/v1/feed/{ADA.public.text}"
        for path, method, target, body, by, status in (
            ("/v1/status", "get", "/v1/status", None, None, 200),
            ("/v1/feed", "get", "/v1/feed", None, None, 401),
            ("/v1/feed", "get", "/v1/feed", None, ADA, 403),
            ("/v1/settings", "post", "/v1/settings", {"statement": raw}, None, 403),
            ("/v1/register", "post", "/v1/register", {"statement": raw}, None, 400),
            ("/v1/register", "post", "/v1/register", entered, None, 201),
            ("/v1/settings", "post", "/v1/settings", {"statement": raw}, None, 200),
            ("/v1/directory", "get", "/v1/directory", None, ADA, 200),
            ("/v1/directory", "get", "/v1/directory?cursor=%40a", None, ADA, 400),
            ("/v1/feed", "get", "/v1/feed", None, ADA, 200),
            ("/v1/feed", "get", "/v1/feed?limit=0", None, ADA, 400),
            ("/v1/feed/{author}", "get", author, None, ADA, 200),
            ("/v1/feed/{author}", "get", "/v1/feed/@a", None, ADA, 400),
            ("/.well-known/meshkit.json", "get", "/.well-known/meshkit.json", None, None, 404),
        ):
            said = door.ask(method.upper(), target, body, by=by)
            self.assertEqual(said.status, status, (target, said.body))
            self.fits(document, path, method, said)


class SettingsTests(DoorTestCase):
    def test_feeds_do_not_go_over_the_network_in_the_clear(self) -> None:
        door = self.door()
        door.register(ADA)
        for target in ("/v1/feed", f"/v1/feed/{ADA.public.text}", "/v1/events", "/v1/directory"):
            self.refused(door.ask("GET", target, by=ADA), 403, "TLS_NEEDED", "https")
        self.assertTrue(door.ask("GET", "/v1/status").data["feeds_need_tls"])

    def test_nor_where_the_path_is_written_in_another_way(self) -> None:
        door = self.door()
        door.register(ADA)
        for target in ("/v1/%66eed", "/v1/f%65%65d?after=0", "/%76%31/events", "/v1/%64irectory"):
            self.refused(door.ask("GET", target, by=ADA), 403, "TLS_NEEDED", "https")

    def test_there_may_be_no_door(self) -> None:
        door = self.door(door='[relay_door]\nlisten = "none"\n')
        self.assertNotIn("relay_door", told(door.relay.ask("GET", "/v1/status"))["parts"])

    def test_an_endpoint_that_is_none_is_refused(self) -> None:
        with self.assertRaisesRegex(ConfigError, "relay_door.listen"):
            self.door(door='[relay_door]\nlisten = "nowhere:1"\n')

    def test_a_certificate_needs_its_key(self) -> None:
        with self.assertRaisesRegex(ConfigError, "belong together"):
            self.door(door='[relay_door]\ncertificate = "cert.pem"\n')
        with self.assertRaisesRegex(ConfigError, "cannot be read"):
            self.door(door='[relay_door]\ncertificate = "cert.pem"\nkey = "key.pem"\n')

    def test_the_operator_sees_where_it_is(self) -> None:
        door = self.door()
        status = told(door.relay.ask("GET", "/v1/status"))["parts"]["relay_door"]
        self.assertEqual(status["urls"], ["http://10.0.0.1:7660"])
        metrics = door.relay.ask("GET", "/metrics").body.decode()
        self.assertIn("meshkit_relay_door_connections", metrics)

    def test_a_blind_relay_says_what_it_is_and_no_more(self) -> None:
        door = self.door()
        blind = door.mesh.node(
            "blind",
            f'role = "blind"\n{LISTEN.replace("10.0.0.1", "10.0.0.2")}\n[relay_door]\n',
            program=MESH_RELAY,
        )
        door.relay = blind
        shown = door.ask("GET", "/v1/status").data
        self.assertEqual(
            (shown["role"], shown["network"], shown["registers"]), ("blind", None, False)
        )
        self.refused(door.register(ADA), 404, "NOT_FOUND")
        self.refused(door.ask("GET", "/v1/feed", by=ADA), 401, "SIGNATURE_REFUSED")
        self.assertIsInstance(PublicKey.parse(shown["public_id"]), PublicKey)
