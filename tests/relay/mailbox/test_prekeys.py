"""Prekeys: who made them, how long each is used, and when its secret is gone."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import PrekeyInvalid, UnsafePermissions
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import ADDRESS_RECORD, MAILBOX_PREKEY
from meshkit.identity.envelope import Envelope
from meshkit.identity.records import MAX_LIFETIME, AddressRecord
from meshkit.relay.mailbox import prekeys
from meshkit.relay.mailbox.keeping import load_ring, turn_ring
from meshkit.relay.mailbox.prekeys import (
    ENTRY,
    KEPT,
    MAX_RELAYS,
    MAX_RING,
    MAX_SECRETS,
    MAX_SKEW,
    MAX_STATEMENT,
    MAX_TTL,
    ROTATED,
    Prekey,
    PrekeyRing,
    PrekeySecret,
    RelayPlace,
    fallback_id,
    newer,
    prekey_id,
    prekey_in,
)
from meshkit.testing.nodes import MemoryFiles
from tests.relay.mailbox.letters import ADA, BOB, MALLORY, NOW, PLACE, PREKEY, RELAY, RING

#: RFC 7748, 6.1: a public key; its id was computed by sha256sum.
RFC_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
KNOWN_ID = "8a78c80ddbb834f97a861a6b87855ff7"


def statement(**changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "public": PREKEY.public,
        "made": NOW,
        "expires": NOW + MAX_TTL,
        "relays": [[RELAY.public.raw, "relay.example:7661", False]],
    }
    payload = msgspec.msgpack.encode(list({**fields, **changed}.values()))
    return Envelope.seal(BOB, MAILBOX_PREKEY, payload).raw


class StatementTests(SynchronousTestCase):
    def test_it_says_what_the_document_says(self) -> None:
        self.assertEqual(statement(), PREKEY.raw)
        self.assertEqual(Prekey.open(PREKEY.raw, BOB.public), PREKEY)
        self.assertEqual(PREKEY.relays, (PLACE,))

    def test_the_id_is_a_hash_of_the_key(self) -> None:
        self.assertEqual(prekey_id(RFC_PUBLIC).hex(), KNOWN_ID)
        self.assertEqual(PREKEY.id, prekey_id(PREKEY.public))
        self.assertEqual(fallback_id(BOB.public), prekey_id(BOB.public.x25519))

    def refused(self, raw: bytes, why: str) -> None:
        with self.assertRaisesRegex(PrekeyInvalid, why):
            Prekey.open(raw, BOB.public)

    def test_one_of_somebody_else_is_refused(self) -> None:
        self.refused(RING.sign(ADA).raw, "was given where one of")

    def test_a_signature_for_something_else_is_none_for_a_prekey(self) -> None:
        payload = Envelope.open(PREKEY.raw, MAILBOX_PREKEY).payload
        self.refused(Envelope.seal(BOB, ADDRESS_RECORD, payload).raw, "address-record/1")

    def test_a_changed_bit_is_refused_wherever_it_is(self) -> None:
        for at in range(len(PREKEY.raw)):
            changed = bytearray(PREKEY.raw)
            changed[at] ^= 1
            with self.assertRaises(PrekeyInvalid):
                Prekey.open(bytes(changed), BOB.public)

    def test_every_beginning_of_one_is_refused(self) -> None:
        for length in range(len(PREKEY.raw)):
            with self.assertRaises(PrekeyInvalid):
                Prekey.open(PREKEY.raw[:length], BOB.public)

    def test_what_cannot_be_is_refused(self) -> None:
        for why, changed in (
            ("malformed", {"public": bytes(31)}),
            ("malformed", {"made": -1}),
            ("malformed", {"more": 1}),
            ("would hold", {"expires": NOW}),
            ("would hold", {"expires": NOW + MAX_TTL + 1}),
            ("malformed", {"relays": [[bytes(32), "a:1", False]] * (MAX_RELAYS + 1)}),
            ("malformed", {"relays": [[bytes(31), "a:1", False]]}),
            ("cannot be dialled", {"relays": [[bytes(32), "a", False]]}),
            ("is written", {"relays": [[bytes(32), "A:1", False]]}),
            ("is written", {"relays": [[bytes(32), "[fe80::1%eth0]:1", False]]}),
            ("over the limit", {"relays": [[bytes(32), f"{'a' * 250}:1", False]] * 2}),
        ):
            self.refused(statement(**changed), why)

    def test_there_is_one_form_of_each(self) -> None:
        envelope = Envelope.open(PREKEY.raw, MAILBOX_PREKEY)
        # The expiry in nine bytes in place of five.
        longer = envelope.payload.replace(
            b"\xce" + (NOW + MAX_TTL).to_bytes(4, "big"),
            b"\xcf" + (NOW + MAX_TTL).to_bytes(8, "big"),
        )
        self.assertNotEqual(longer, envelope.payload)
        self.refused(Envelope.seal(BOB, MAILBOX_PREKEY, longer).raw, "shortest form")

    def test_it_holds_from_when_it_was_made_until_it_expires(self) -> None:
        for now in (NOW - MAX_SKEW, NOW, NOW + MAX_TTL - 1):
            PREKEY.check_time(now)
        for now in (NOW - MAX_SKEW - 1, NOW + MAX_TTL):
            with self.assertRaises(PrekeyInvalid):
                PREKEY.check_time(now)

    def test_the_later_one_counts_in_whatever_order_they_come(self) -> None:
        later = RING.turned(NOW + ROTATED, Random(2)).sign(BOB)
        twin = PrekeyRing((PrekeySecret(bytes(32), NOW),)).sign(BOB)
        self.assertEqual(newer(None, PREKEY), PREKEY)
        self.assertEqual(newer(PREKEY, later), later)
        self.assertEqual(newer(later, PREKEY), later)
        self.assertEqual(newer(twin, PREKEY), newer(PREKEY, twin))

    def test_the_largest_that_is_likely_leaves_room_in_an_address_record(self) -> None:
        names = [RelayPlace(RELAY.public, HostPort(f"{n}.{'r' * 40}.example", 7661)) for n in "abc"]
        prekey = RING.sign(BOB, names)
        record = AddressRecord.seal(
            BOB,
            bytes(16),
            [HostPort(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n}", 65_000) for n in range(1, 9)],
            sequence=1000 * NOW,
            expires=1000 * NOW + MAX_LIFETIME,
            more={ENTRY: prekey.raw},
        )
        self.assertEqual(prekey_in(AddressRecord.reopen(record.raw)), prekey)

    def test_a_record_may_have_none_or_what_is_none(self) -> None:
        def record(**more: bytes) -> AddressRecord:
            return AddressRecord.seal(BOB, bytes(16), [], sequence=1, expires=2, more=more)

        self.assertIsNone(prekey_in(record()))
        # Somebody's own record vouches for nobody else's prekey.
        for raw in (b"", RING.sign(ADA).raw):
            with self.assertRaises(PrekeyInvalid):
                prekey_in(record(mailbox=raw))


class RingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rng = Random("ring")

    def test_the_first_turn_makes_one_and_a_second_leaves_it(self) -> None:
        ring = PrekeyRing().turned(NOW, self.rng)
        self.assertEqual([each.made for each in ring.secrets], [NOW])
        self.assertIs(ring.turned(NOW + ROTATED - 1, self.rng), ring)
        with self.assertRaisesRegex(PrekeyInvalid, "turn it first"):
            PrekeyRing().sign(BOB)

    def test_a_week_later_there_is_a_new_one_and_the_old_one_still_opens(self) -> None:
        ring = PrekeyRing().turned(NOW, self.rng)
        (first,) = ring.secrets
        ring = ring.turned(NOW + ROTATED, self.rng)
        self.assertNotEqual(ring.sign(BOB).id, first.id)
        self.assertEqual(ring.find(first.id), first)
        self.assertEqual(ring.find(bytes(16)), None)

    def test_a_secret_is_gone_when_nothing_that_it_opens_can_come(self) -> None:
        ring = PrekeyRing().turned(NOW, self.rng)
        (first,) = ring.secrets
        self.assertEqual(KEPT, 2 * MAX_TTL)
        self.assertIsNotNone(ring.turned(NOW + KEPT - 1, self.rng).find(first.id))
        self.assertIsNone(ring.turned(NOW + KEPT, self.rng).find(first.id))

    def test_a_year_of_turns_keeps_nine(self) -> None:
        ring, most = PrekeyRing(), 0
        for day in range(365):
            ring = ring.turned(NOW + day * 86_400, self.rng)
            most = max(most, len(ring.secrets))
        self.assertEqual(most, 9)

    def test_a_clock_that_was_set_back_makes_one_and_forgets_none(self) -> None:
        ring = PrekeyRing().turned(NOW, self.rng)
        self.assertIs(ring.turned(NOW - MAX_SKEW, self.rng), ring)
        back = ring.turned(0, self.rng)
        self.assertEqual([each.made for each in back.secrets], [NOW, 0])
        # And when it is right again, what it made is forgotten, and no other.
        again = back.turned(NOW + 60, self.rng)
        self.assertEqual([each.made for each in again.secrets], [NOW])

    def test_a_clock_that_goes_back_for_ever_makes_only_so_many(self) -> None:
        ring, step = PrekeyRing(), MAX_SKEW + 1
        for number in range(MAX_SECRETS + 5):
            ring = ring.turned(NOW - number * step, self.rng)
        made = [each.made for each in ring.secrets]
        self.assertEqual(made, [NOW - number * step for number in range(5, MAX_SECRETS + 5)])

    @given(st.lists(st.integers(0, 2**33), max_size=40))
    def test_any_clock(self, times: list[int]) -> None:
        ring, rng = PrekeyRing(), Random(0)
        for now in times:
            ring = ring.turned(now, rng)
            self.assertLessEqual(len(ring.secrets), MAX_SECRETS)
            ring.sign(BOB).check_time(now)
            self.assertIs(ring.turned(now, rng), ring)
            for each in ring.secrets[:-1]:
                self.assertLess(now, each.made + KEPT)
            self.assertLessEqual(len(ring.encode()), MAX_RING)
        self.assertEqual(PrekeyRing.decode(ring.encode()), ring)

    def test_a_secret_is_shown_nowhere(self) -> None:
        (secret,) = RING.secrets
        self.assertEqual(bindings.crypto_scalarmult_base(secret.secret), PREKEY.public)
        for text in (repr(RING), repr(secret), repr(PREKEY)):
            self.assertNotIn(repr(secret.secret)[2:-1], text)
            self.assertNotIn(secret.secret.hex(), text)

    def test_a_relay_of_no_network_is_told_from_one_of_its_own(self) -> None:
        blind = RelayPlace(MALLORY.public, HostPort("relay.example", 7661), blind=True)
        self.assertEqual(RING.sign(BOB, [PLACE, blind]).relays, (PLACE, blind))

    def test_too_many_relays_are_refused(self) -> None:
        with self.assertRaisesRegex(PrekeyInvalid, "at most 3 relays"):
            RING.sign(BOB, [PLACE] * (MAX_RELAYS + 1))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = MemoryFiles()
        self.rng = Random("file")

    def test_what_is_used_was_written(self) -> None:
        self.assertEqual(load_ring(self.files, "/ring"), PrekeyRing())
        ring = turn_ring(self.files, "/ring", NOW, self.rng)
        self.assertEqual(load_ring(self.files, "/ring"), ring)
        self.assertEqual(self.files.mode("/ring"), 0o600)
        self.assertEqual(turn_ring(self.files, "/ring", NOW + 1, self.rng), ring)

    def test_a_ring_that_cannot_be_written_is_not_given(self) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(self.files, "write_atomic", full)
        with self.assertRaises(OSError):
            turn_ring(self.files, "/ring", NOW, self.rng)

    def test_a_damaged_file_is_named(self) -> None:
        whole = RING.encode()
        for raw in (b"", whole[:-1], whole + b"\0", whole.replace(b"prekeys/1", b"prekeys/2")):
            self.files.write_atomic("/ring", raw)
            with self.assertRaisesRegex(PrekeyInvalid, "^/ring: "):
                load_ring(self.files, "/ring")

    def test_a_file_that_others_can_read_is_refused(self) -> None:
        self.files.write_atomic("/ring", RING.encode(), 0o644)
        with self.assertRaises(UnsafePermissions):
            load_ring(self.files, "/ring")


class NumbersTests(SynchronousTestCase):
    def test_a_message_of_the_last_day_finds_its_secret(self) -> None:
        """Sealed at the last moment, and waiting as long as any may."""
        self.assertLessEqual(MAX_TTL + MAX_TTL, KEPT)
        self.assertLess(ROTATED, MAX_TTL)
        self.assertEqual((MAX_STATEMENT, prekeys.ID_BYTES), (512, 16))
