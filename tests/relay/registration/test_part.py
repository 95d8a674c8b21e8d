"""A node that is known at a relay: by itself, and as its owner wants."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError, RegistryForged
from meshkit.relay.registration.registrar import (
    FIRST_PAUSE,
    LAST_PAUSE,
    LOOK_SECONDS,
    check_directory,
)
from meshkit.relay.registry.part import BURST
from meshkit.relay.registry.registration import Registration
from meshkit.relay.registry.wire import REGISTER, STANDING
from meshkit.testing.nodes import Answer, MemoryNode
from tests.relay.registration.world import Mesh, relays_of, told
from tests.relay.registry.people import (
    ADA,
    BOB,
    MALLORY,
    NETWORK,
    NOW,
    OTHER_RELAY,
    RELAY,
    registration,
)

DAY = 86_400


class MeshTestCase(SynchronousTestCase):
    def mesh(self, *args: Any, **more: Any) -> Mesh:
        mesh = Mesh(*args, **more)
        self.addCleanup(mesh.mesh.stop)
        return mesh

    def refused(self, answer: Answer, code: str, why: str = ".") -> None:
        self.assertEqual(answer.code, code, answer.body)
        self.assertRegex(answer.json["error"]["message"], why)


class ByItselfTests(MeshTestCase):
    def test_a_node_registers_at_its_relays_and_is_not_listed(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        (seen,) = mesh.registered()
        self.assertEqual(seen["public_id"], ada.identity.public.text)
        self.assertEqual((seen["listed"], seen["nickname"]), (False, ""))
        (relay,) = relays_of(ada)
        self.assertEqual(relay["address"], mesh.address)
        self.assertTrue(relay["registered"])
        self.assertEqual(relay["peers"], 1)
        self.assertIsNone(relay["last_error"])

    def test_as_the_settings_say(self) -> None:
        mesh = self.mesh()
        mesh.user("ada", '[registration]\nlisted = true\nnickname = "Ada"\n')
        (seen,) = mesh.registered()
        self.assertEqual((seen["listed"], seen["nickname"]), (True, "Ada"))

    def test_or_not_at_all(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada", "[registration]\nautomatic = false\n")
        mesh.leap(DAY)
        self.assertEqual(mesh.registered(), [])
        self.assertEqual(relays_of(ada)[0]["registered"], False)

    def test_a_nickname_that_cannot_be_used_is_refused_at_the_start(self) -> None:
        mesh = self.mesh()
        with self.assertRaisesRegex(ConfigError, "registration.nickname"):
            mesh.user("ada", '[registration]\nnickname = " ada"\n')

    def test_settings_that_change_are_told_at_the_next_start(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        ada.stop()
        ada._config += '[registration]\nnickname = "Ada"\n'
        ada.start()
        mesh.run()
        self.assertEqual(mesh.registered()[0]["nickname"], "Ada")

    def test_a_relay_that_is_away_is_tried_until_it_is_there(self) -> None:
        mesh = self.mesh()
        mesh.relay.stop()
        ada = mesh.user("ada")
        (relay,) = relays_of(ada)
        self.assertFalse(relay["registered"])
        self.assertIn("cannot be reached", relay["last_error"])
        mesh.run(10 * FIRST_PAUSE)
        mesh.relay.start()
        mesh.leap(LAST_PAUSE)
        self.assertEqual(len(mesh.registered()), 1)
        self.assertIsNone(relays_of(ada)[0]["last_error"])

    def test_one_that_has_lost_everything_hears_of_the_node_again(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        told(mesh.relay.ask("GET", "/v1/registry"))
        removed = mesh.relay.ask("DELETE", f"/v1/registry/{ada.identity.public.text}")
        self.assertEqual(removed.status, 204)
        self.assertEqual(mesh.registered(), [])
        mesh.leap(LOOK_SECONDS * 1.25 + 1)
        self.assertEqual(len(mesh.registered()), 1)

    def test_who_comes_now_and_then_is_not_forgotten(self) -> None:
        mesh = self.mesh("[registry]\nforget_days = 2\n")
        mesh.user("ada")
        bob = mesh.user("bob")
        bob.stop()
        mesh.leap(3 * DAY)
        (seen,) = mesh.registered()
        self.assertEqual(seen["public_id"], mesh.mesh.nodes[1].identity.public.text)

    def test_a_relay_that_is_full_says_so(self) -> None:
        mesh = self.mesh("[registry]\nmax_peers = 1\n")
        mesh.user("ada")
        bob = mesh.user("bob")
        self.assertEqual(len(mesh.registered()), 1)
        self.assertIn("1 peers", relays_of(bob)[0]["last_error"])

    def test_without_relays_it_is_quiet(self) -> None:
        mesh = self.mesh()
        ada = mesh.node("ada")
        self.assertEqual(relays_of(ada), [])
        self.assertNotIn("registration", told(ada.ask("GET", "/v1/status"))["parts"])

    def test_a_blind_relay_is_shown_and_nobody_registers_there(self) -> None:
        mesh = self.mesh()
        ada = mesh.node("ada", f'[relays]\nblind = ["{mesh.address}"]\n')
        mesh.leap(DAY)
        (relay,) = relays_of(ada)
        self.assertEqual((relay["role"], relay["registered"]), ("blind", False))
        self.assertEqual(mesh.registered(), [])
        self.refused(
            ada.ask("POST", "/v1/relays/register", {"relay": mesh.address}),
            "INVALID_REQUEST",
            "blind",
        )


class AsItsOwnerWantsTests(MeshTestCase):
    def register(self, node: MemoryNode, **fields: Any) -> Answer:
        return node.ask("POST", "/v1/relays/register", fields)

    def test_a_node_registers_at_a_relay_that_it_does_not_use(self) -> None:
        mesh = self.mesh()
        ada = mesh.node("ada")
        shown = told(self.register(ada, relay=mesh.address, listed=True, nickname="Ada"))
        self.assertTrue(shown["registered"])
        self.assertFalse(shown["used"])
        self.assertEqual(mesh.registered()[0]["nickname"], "Ada")
        # And keeps it up, over a restart too.
        ada.stop()
        mesh.relay.ask("DELETE", f"/v1/registry/{ada.identity.public.text}")
        ada.start()
        mesh.run()
        self.assertEqual(mesh.registered()[0]["nickname"], "Ada")

    def test_what_was_chosen_counts_for_more_than_the_settings(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada", '[registration]\nlisted = true\nnickname = "Ada"\n')
        changed = ada.ask("POST", "/v1/relays/settings", {"listed": False})
        self.assertEqual(told(changed)["nickname"], "Ada")
        self.assertFalse(mesh.registered()[0]["listed"])
        ada.stop()
        ada.start()
        mesh.leap(LOOK_SECONDS * 2)
        self.assertFalse(mesh.registered()[0]["listed"])

    def test_settings_are_for_who_is_registered_and_say_something(self) -> None:
        mesh = self.mesh()
        ada = mesh.node("ada")
        self.refused(
            ada.ask("POST", "/v1/relays/settings", {"relay": mesh.address, "listed": True}),
            "NOT_REGISTERED",
        )
        self.refused(ada.ask("POST", "/v1/relays/settings", {}), "INVALID_REQUEST", "what to")
        self.refused(ada.ask("POST", "/v1/relays/settings", {"listed": True}), "NOT_REGISTERED")

    def test_a_clock_that_was_set_back_does_not_keep_it_from_changing_its_mind(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        registrar = ada.service._parts["registration"].registrar
        self.patch(registrar, "_wall_clock", lambda: mesh.mesh.wall_clock() - 60 * 10**9)
        for nickname in ("one", "two"):
            told(ada.ask("POST", "/v1/relays/settings", {"nickname": nickname}))
            self.assertEqual(mesh.registered()[0]["nickname"], nickname)

    def test_one_moment_of_a_clock_that_is_ahead_does_not_lock_it_out(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        registrar = ada.service._parts["registration"].registrar
        ahead = self.patch(
            registrar, "_wall_clock", lambda: mesh.mesh.wall_clock() + 365 * DAY * 10**9
        )
        self.refused(
            ada.ask("POST", "/v1/relays/settings", {"nickname": "one"}), "REGISTRATION_STALE"
        )
        ahead.restore()
        told(self.register(ada, nickname="two"))
        self.assertEqual(mesh.registered()[0]["nickname"], "two")

    def test_nor_does_it_when_nobody_asks(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        registrar = ada.service._parts["registration"].registrar
        ahead = self.patch(
            registrar, "_wall_clock", lambda: mesh.mesh.wall_clock() + 365 * DAY * 10**9
        )
        ada.ask("POST", "/v1/relays/settings", {"nickname": "one"})
        ahead.restore()
        mesh.run(2 * FIRST_PAUSE)
        self.assertEqual(mesh.registered()[0]["nickname"], "one")
        self.assertIsNone(relays_of(ada)[0]["last_error"])
        told(ada.ask("POST", "/v1/relays/settings", {"nickname": "two"}))

    def test_an_answer_that_was_lost_does_not_make_the_next_one_stale(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        registrar = ada.service._parts["registration"].registrar
        (link,) = registrar._links.values()
        told(ada.ask("POST", "/v1/relays/settings", {"nickname": "one"}))
        link.own = evolve(link.own, settled=False, entered=None)
        self.patch(registrar, "_wall_clock", lambda: mesh.mesh.wall_clock() - 60 * 10**9)
        told(self.register(ada, nickname="two"))
        self.assertEqual(mesh.registered()[0]["nickname"], "two")

    def test_a_look_that_waits_its_turn_does_not_undo_what_is_said_before_it(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        registrar = ada.service._parts["registration"].registrar
        (link,) = registrar._links.values()
        leaving = registrar.register(link.relay.address, lambda w: evolve(w, stays=False))
        registrar._look(link)
        mesh.run(2)
        self.assertFalse(self.successResultOf(leaving).stays)
        self.assertEqual(mesh.registered(), [])
        self.assertFalse(relays_of(ada)[0]["registered"])

    def test_of_two_changes_at_once_the_later_one_knows_of_the_first(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        registrar = ada.service._parts["registration"].registrar
        (link,) = registrar._links.values()
        first = registrar.register(link.relay.address, lambda w: evolve(w, nickname="Ada"))
        second = registrar.register(link.relay.address, lambda w: evolve(w, listed=True))
        mesh.run(2)
        for each in (first, second):
            self.assertEqual(self.successResultOf(each).nickname, "Ada")
        (seen,) = mesh.registered()
        self.assertEqual((seen["nickname"], seen["listed"]), ("Ada", True))

    def test_who_has_left_stays_away(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        left = ada.ask("POST", "/v1/relays/leave", {})
        self.assertFalse(told(left)["registered"])
        self.assertEqual(mesh.registered(), [])
        ada.stop()
        ada.start()
        mesh.leap(LOOK_SECONDS * 3)
        self.assertEqual(mesh.registered(), [])
        # To leave again is no error, and neither is to come back.
        told(ada.ask("POST", "/v1/relays/leave", {"relay": mesh.address}))
        self.assertTrue(told(self.register(ada, relay=mesh.address))["registered"])
        self.assertEqual(len(mesh.registered()), 1)

    def test_who_wanted_to_leave_while_the_relay_was_away_leaves_when_it_is_there(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        mesh.relay.stop()
        self.refused(ada.ask("POST", "/v1/relays/leave", {}), "PEER_UNREACHABLE")
        mesh.relay.start()
        mesh.leap(LOOK_SECONDS * 2)
        # Nothing was said, so nothing has changed: its owner was told that it did not work.
        self.assertEqual(len(mesh.registered()), 1)

    def test_which_relay_is_meant_can_be_left_out_where_there_is_one(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        told(self.register(ada))
        key = mesh.relay.identity.public.text
        told(self.register(ada, relay=key))
        self.refused(self.register(ada, relay=ada.identity.public.text), "NOT_REGISTERED")
        bob = mesh.node("bob")
        self.refused(self.register(bob), "NOT_REGISTERED", "no relay")
        self.refused(self.register(bob, relay="nowhere"), "INVALID_ADDRESS")
        self.refused(self.register(bob, relay="@nobody"), "INVALID_PUBLIC_KEY")

    def test_a_node_that_is_no_relay_is_no_relay(self) -> None:
        mesh = self.mesh()
        ada, bob = mesh.node("ada"), mesh.node("bob")
        self.refused(self.register(ada, relay=bob.address), "NETWORK_KEY_REFUSED")
        self.assertEqual(relays_of(ada), [])

    def test_whom_the_operator_keeps_out_is_told(self) -> None:
        mesh = self.mesh(f'[registry]\ndeny = ["{BOB.public.text}"]\n')
        bob = mesh.node("bob")
        self.refused(self.register(bob, relay=mesh.address), "REGISTRATION_REFUSED")
        mesh = self.mesh('[registry]\nadmission = "allow-list"\n')
        self.refused(self.register(mesh.node("bob"), relay=mesh.address), "REGISTRATION_REFUSED")

    def test_keys_in_the_settings_are_keys(self) -> None:
        with self.assertRaisesRegex(ConfigError, "registry.deny"):
            self.mesh('[registry]\ndeny = ["bob"]\n')

    def test_one_that_registers_again_and_again_is_held_up_and_the_others_are_not(self) -> None:
        mesh = self.mesh()
        ada, bob = mesh.node("ada"), mesh.node("bob")
        codes = [self.register(ada, relay=mesh.address).code for _ in range(22)]
        allowed = int(BURST / (REGISTER.cost + STANDING.cost))
        self.assertEqual(codes[:allowed], [None] * allowed)
        self.assertEqual(codes[-1], "OVER_RATE")
        self.assertIsNone(self.register(bob, relay=mesh.address).code)
        mesh.run(3 * REGISTER.cost)
        self.assertIsNone(self.register(ada, relay=mesh.address).code)

    def test_nicknames_are_looked_at_before_they_are_sent(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada")
        self.refused(self.register(ada, nickname="a\u202eb"), "REGISTRATION_INVALID", "printable")


class DirectoryTests(MeshTestCase):
    def test_those_who_want_it_are_in_it_as_they_have_signed_it(self) -> None:
        mesh = self.mesh()
        ada = mesh.user("ada", '[registration]\nlisted = true\nnickname = "Ada"\n')
        mesh.user("bob")
        mesh.user("cy", "[registration]\nlisted = true\n")
        answer = ada.ask("GET", "/v1/relays/directory?limit=1")
        self.assertEqual(answer.json["metadata"]["total"], 2)
        entries = told(answer)
        cursor = answer.json["metadata"]["next_cursor"].replace("+", "%2B")
        rest = ada.ask("GET", f"/v1/relays/directory?cursor={cursor}")
        self.assertNotIn("next_cursor", rest.json["metadata"])
        entries += told(rest)
        self.assertEqual(
            sorted((each["public_id"], each["nickname"]) for each in entries),
            sorted(
                (node.identity.public.text, name)
                for node, name in ((ada, "Ada"), (mesh.mesh.nodes[3], ""))
            ),
        )

    def check(self, *entries: Registration, after: bytes = b"", limit: int = 10) -> int:
        raws = [entry.raw for entry in entries]
        return len(check_directory(raws, RELAY.public, NETWORK.net_id, after, limit))

    def forged(self, *entries: Registration, why: str, **more: Any) -> None:
        with self.assertRaisesRegex(RegistryForged, why):
            self.check(*entries, **more)

    def test_a_relay_cannot_forge_one(self) -> None:
        ada, bob = registration(ADA, listed=True), registration(BOB, listed=True)
        first, second = sorted([ada, bob], key=lambda each: each.peer.raw)
        self.assertEqual(self.check(first, second), 2)
        forged = Registration.seal(
            MALLORY, NETWORK.net_id, RELAY.public, NOW, listed=True, nickname="Ada"
        )
        in_adas_name = forged.raw.replace(MALLORY.public.raw, ADA.public.raw)
        with self.assertRaisesRegex(RegistryForged, "nobody made"):
            check_directory([in_adas_name], RELAY.public, NETWORK.net_id, b"", 10)
        self.forged(registration(ADA, listed=False), why="does not want")
        self.forged(registration(ADA, listed=True, stays=False), why="does not want")
        self.forged(registration(ADA, listed=True, relay=OTHER_RELAY), why="nobody made")
        self.forged(registration(ADA, listed=True, network=bytes(16)), why="nobody made")

    def test_nor_show_one_twice_or_more_than_was_asked_for(self) -> None:
        pair = [registration(ADA, listed=True), registration(BOB, listed=True)]
        first, second = sorted(pair, key=lambda each: each.peer.raw)
        self.forged(first, first, why="another stretch")
        self.forged(second, first, why="another stretch")
        self.forged(first, second, why="another stretch", limit=1)
        self.forged(first, why="another stretch", after=first.peer.raw)
        self.assertEqual(self.check(second, after=first.peer.raw), 1)
