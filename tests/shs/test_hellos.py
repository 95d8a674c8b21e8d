"""
Capabilities, the hello table, the replay cache.
"""

from __future__ import annotations

import hashlib
import hmac
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import PartConflict
from meshkit.shs import hellos
from meshkit.shs.hellos import (
    MAX_CAPABILITIES,
    MAX_REMEMBERED_HELLOS,
    REMEMBER_SECONDS,
    Capability,
    HelloTable,
    ReplayCache,
    hello_mac,
)
from tests.shs.common import CHAT, ECHO, table


def hello_for(capability: Capability, ephemeral: bytes = b"e" * 32) -> bytes:
    return hello_mac(capability.key, ephemeral) + ephemeral


class CapabilityTests(SynchronousTestCase):
    def test_its_repr_does_not_show_the_key(self) -> None:
        capability = Capability("stream", 3, b"0123456789abcdef0123456789abcdef")
        self.assertEqual(repr(capability), "<Capability stream/3>")
        self.assertNotIn("0123", repr([capability]))

    def test_a_label_out_of_form_is_refused(self) -> None:
        for label in ("", "Echo", "9p", "a" * 33, "a b", "echo\n", "é"):
            with self.assertRaises(ValueError):
                Capability(label, 1, bytes(32))

    def test_a_version_out_of_range_is_refused(self) -> None:
        Capability("echo", 0, bytes(32))
        Capability("echo", 65535, bytes(32))
        for version in (-1, 65536):
            with self.assertRaises(ValueError):
                Capability("echo", version, bytes(32))

    def test_a_key_of_another_length_is_refused(self) -> None:
        for size in (0, 31, 33):
            with self.assertRaises(ValueError):
                Capability("echo", 1, bytes(size))

    def test_a_key_that_could_pass_for_a_signed_statement_is_refused(self) -> None:
        with self.assertRaises(ValueError) as caught:
            Capability("echo", 1, b"meshkit-sig/1\x00".ljust(32))
        self.assertIn("signed statements", str(caught.exception))


class MacTests(SynchronousTestCase):
    def test_it_is_hmac_sha512_cut_to_32_bytes(self) -> None:
        mac = hello_mac(b"k" * 32, b"data")
        # By the definition of HMAC (RFC 2104), not by another call of the same library.
        inner = hashlib.sha512(bytes(0x36 ^ b for b in (b"k" * 32).ljust(128, b"\0")) + b"data")
        outer = hashlib.sha512(
            bytes(0x5C ^ b for b in (b"k" * 32).ljust(128, b"\0")) + inner.digest()
        )
        self.assertEqual(mac, outer.digest()[:32])

    def test_it_is_not_the_other_hash_of_that_name(self) -> None:
        if "sha512_256" not in hashlib.algorithms_available:
            return  # then nobody can take it by mistake
        self.assertNotEqual(
            hello_mac(b"k" * 32, b"data"), hmac.new(b"k" * 32, b"data", "sha512_256").digest()
        )


class HelloTableTests(SynchronousTestCase):
    def test_a_hello_chooses_its_capability(self) -> None:
        hello_table = table(ECHO, CHAT)
        self.assertIs(hello_table.match(hello_for(ECHO)), ECHO)
        self.assertIs(hello_table.match(hello_for(CHAT)), CHAT)

    def test_the_order_of_registration_does_not_matter(self) -> None:
        self.assertIs(table(CHAT, ECHO).match(hello_for(ECHO)), ECHO)

    def test_a_strangers_hello_matches_nothing(self) -> None:
        self.assertIsNone(table(CHAT).match(hello_for(ECHO)))
        self.assertIsNone(HelloTable().match(hello_for(ECHO)))

    def test_any_changed_byte_matches_nothing(self) -> None:
        hello_table = table(ECHO, CHAT)
        hello = hello_for(ECHO)
        for at in range(64):
            changed = bytearray(hello)
            changed[at] ^= 1
            self.assertIsNone(hello_table.match(bytes(changed)), at)

    def test_all_entries_are_tried_although_the_first_matches(self) -> None:
        hello_table = table(ECHO, CHAT)
        with patch.object(hellos.hmac, "compare_digest", wraps=hmac.compare_digest) as compare:
            hello_table.match(hello_for(ECHO))
        self.assertEqual(compare.call_count, 2)

    def test_a_label_and_version_is_taken_once_and_the_error_names_it(self) -> None:
        hello_table = table(ECHO)
        with self.assertRaises(PartConflict) as caught:
            hello_table.register(Capability("echo", 1, b"x" * 32))
        self.assertIn("echo/1", str(caught.exception))
        self.assertIs(hello_table.match(hello_for(ECHO)), ECHO)

    def test_two_versions_of_a_label_are_served_together(self) -> None:
        second = Capability("echo", 2, b"x" * 32)
        hello_table = table(ECHO, second)
        self.assertIs(hello_table.match(hello_for(second)), second)

    def test_one_key_cannot_name_two_protocols(self) -> None:
        with self.assertRaises(PartConflict) as caught:
            table(ECHO, Capability("other", 1, ECHO.key))
        self.assertIn("echo/1", str(caught.exception))
        self.assertIn("other/1", str(caught.exception))

    def test_the_table_holds_64_and_refuses_the_next(self) -> None:
        hello_table = HelloTable()
        for version in range(MAX_CAPABILITIES):
            hello_table.register(Capability("echo", version, version.to_bytes(32, "big")))
        self.assertEqual((MAX_CAPABILITIES, len(hello_table)), (64, 64))
        with self.assertRaises(PartConflict) as caught:
            hello_table.register(CHAT)
        self.assertIn("chat/1", str(caught.exception))
        self.assertNotIn(CHAT, hello_table)

    def test_what_is_unregistered_matches_no_more(self) -> None:
        hello_table = table(ECHO, CHAT)
        hello_table.unregister(ECHO)
        self.assertIsNone(hello_table.match(hello_for(ECHO)))
        self.assertIs(hello_table.match(hello_for(CHAT)), CHAT)

    def test_unregistering_what_is_not_there_is_an_error(self) -> None:
        for capability in (CHAT, Capability("echo", 1, b"x" * 32)):
            with self.assertRaises(LookupError):
                table(ECHO).unregister(capability)


class ReplayCacheTests(SynchronousTestCase):
    def test_a_hello_is_new_once(self) -> None:
        cache = ReplayCache()
        self.assertTrue(cache.is_new(b"a" * 64, 0.0))
        self.assertFalse(cache.is_new(b"a" * 64, 1.0))
        self.assertTrue(cache.is_new(b"b" * 64, 1.0))

    def test_it_is_forgotten_after_ten_minutes_and_not_before(self) -> None:
        cache = ReplayCache()
        self.assertEqual(REMEMBER_SECONDS, 600.0)
        cache.is_new(b"a" * 64, 5.0)
        self.assertFalse(cache.is_new(b"a" * 64, 605.0))
        self.assertTrue(cache.is_new(b"a" * 64, 605.1))

    def test_seeing_it_again_does_not_prolong_its_memory(self) -> None:
        cache = ReplayCache()
        cache.is_new(b"a" * 64, 0.0)
        self.assertFalse(cache.is_new(b"a" * 64, 599.0))
        self.assertTrue(cache.is_new(b"a" * 64, 601.0))

    def test_it_remembers_8192_and_forgets_the_oldest(self) -> None:
        cache = ReplayCache()
        self.assertEqual(MAX_REMEMBERED_HELLOS, 8192)
        for number in range(MAX_REMEMBERED_HELLOS):
            self.assertTrue(cache.is_new(number.to_bytes(64, "big"), 0.0))
        self.assertFalse(cache.is_new((0).to_bytes(64, "big"), 0.0))
        self.assertTrue(cache.is_new(b"one more".ljust(64), 0.0))
        self.assertEqual(len(cache), MAX_REMEMBERED_HELLOS)
        self.assertFalse(cache.is_new((1).to_bytes(64, "big"), 0.0))
        self.assertTrue(cache.is_new((0).to_bytes(64, "big"), 0.0))

    @given(
        st.lists(st.tuples(st.integers(0, 5), st.floats(0, 400)), max_size=30),
    )
    def test_it_agrees_with_a_plain_list(self, arrivals: list[tuple[int, float]]) -> None:
        cache = ReplayCache()
        model: dict[int, float] = {}
        now = 0.0
        for which, wait in arrivals:
            now += wait
            model = {k: v for k, v in model.items() if now - v <= REMEMBER_SECONDS}
            expected = which not in model
            model.setdefault(which, now)
            self.assertEqual(cache.is_new(bytes([which]) * 64, now), expected)
            self.assertEqual(len(cache), len(model))
