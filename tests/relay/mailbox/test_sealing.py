"""Sealed messages: who can open them, and what nobody can do with them."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import msgspec
from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_private_key
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import hpke
from meshkit.errors import (
    MailboxMessageEarly,
    MailboxMessageExpired,
    MailboxMessageInvalid,
    MailboxMessageUnreadable,
    PrekeyInvalid,
)
from meshkit.identity.contexts import MAILBOX_MESSAGE, MAILBOX_PREKEY, ROTATION, Context
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox.prekeys import (
    MAX_SKEW,
    MAX_TTL,
    ROTATED,
    Prekey,
    PrekeyRing,
    fallback_id,
)
from meshkit.relay.mailbox.sealing import (
    MAX_BODY,
    MAX_SEALED,
    SIZES,
    MailboxMessage,
    digest_of,
    open_message,
    seal_message,
)
from tests.relay.mailbox.letters import ADA, BOB, DAY, MALLORY, NOW, PREKEY, RING, letter

#: Of C{letter()}; what is in it is read with other libraries below.
DIGEST = "9f0a164bc202e502054fd113980e657df3c0a54a82eb697fe7b7f2b7d39530a9"


def opened(sealed: bytes, now: int = NOW, ring: PrekeyRing = RING) -> MailboxMessage:
    return open_message(BOB, ring, sealed, now)


def padded(inner: bytes, size: int) -> bytes:
    return (len(inner).to_bytes(4, "big") + inner).ljust(size - 65, b"\x00")


def content(**changed: object) -> bytes:
    fields = {"id": bytes(16), "created": NOW, "expires": NOW + DAY, "body": b"heron"}
    return msgspec.msgpack.encode(list({**fields, **changed}.values()))


def handmade(
    *,
    sender: Identity = ADA,
    named: PublicKey | None = None,
    to: PublicKey = BOB.public,
    signed_for: PublicKey | None = None,
    signed_id: bytes = PREKEY.id,
    signed_front: bytes | None = None,
    context: Context = MAILBOX_MESSAGE,
    raw: bytes | None = None,
    info_to: PublicKey | None = None,
    text: bytes | None = None,
    size: int = 256,
) -> bytes:
    """What somebody could seal for Bob's prekey who does not keep to the form."""
    ephemeral = b"\x07" * 32
    raw = content() if raw is None else raw
    front = hpke.encapsulated(ephemeral) if signed_front is None else signed_front
    signed = (signed_for or to).raw + signed_id + front + raw
    inner = (named or sender.public).raw + sender.sign(context, signed) + raw
    header = b"\x01" + PREKEY.id
    info = b"meshkit/mailbox/1" + (info_to or to).raw + PREKEY.id
    return header + hpke.seal(
        PREKEY.public, info, header, padded(inner, size) if text is None else text, ephemeral
    )


class FormTests(SynchronousTestCase):
    def test_what_was_sealed_is_opened(self) -> None:
        sealed = letter(id=b"i" * 16)
        self.assertEqual(
            opened(sealed),
            MailboxMessage(
                ADA.public, BOB.public, b"i" * 16, NOW, NOW + DAY, b"the heron has left", True
            ),
        )

    def test_the_form_is_pinned(self) -> None:
        self.assertEqual(digest_of(letter()).hex(), DIGEST)
        self.assertEqual(handmade(), handmade())
        self.assertEqual(opened(handmade()).body, b"heron")

    def test_other_libraries_read_it_by_the_document(self) -> None:
        sealed = letter(body=b"by the document")
        version, key_id, front, rest = sealed[:1], sealed[1:17], sealed[17:49], sealed[49:]
        self.assertEqual(version, b"\x01")
        text = b"meshkit/mailbox-prekey/1" + PREKEY.public
        self.assertEqual(key_id, sha256(text).digest()[:16])
        (secret,) = RING.secrets
        context = HPKE.new(
            receiver_key=import_x25519_private_key(secret.secret),
            enc=front,
            aead_id=HPKE.AEAD.CHACHA20_POLY1305,
            info=b"meshkit/mailbox/1" + BOB.public.raw + key_id,
        )
        padded = context.unseal(rest, version + key_id)
        length = int.from_bytes(padded[:4], "big")
        inner, zeros = padded[4 : 4 + length], padded[4 + length :]
        self.assertEqual(zeros, bytes(len(zeros)))
        sender, signature, raw = inner[:32], inner[32:96], inner[96:]
        self.assertEqual(sender, ADA.public.raw)
        payload = BOB.public.raw + key_id + front + raw
        # As statements.md says.
        length_field = len(payload).to_bytes(4, "big")
        signed = b"meshkit-sig/1\x00" + b"\x09" + b"mailbox/1" + length_field + payload
        key = eddsa.import_public_key(sender)
        self.assertIsInstance(key, ECC.EccKey)
        eddsa.new(key, "rfc8032").verify(signed, signature)
        self.assertEqual(msgspec.msgpack.decode(raw)[1:], [NOW, NOW + DAY, b"by the document"])

    @given(st.integers(0, MAX_BODY), st.booleans())
    def test_any_length_opens_and_shows_itself_to_a_factor_of_two(
        self, length: int, prekey: bool
    ) -> None:
        body = bytes(length)
        sealed = letter(body=body, prekey=PREKEY if prekey else None)
        message = opened(sealed)
        self.assertEqual((message.body, message.forward_secret), (body, prekey))
        self.assertIn(len(sealed), SIZES)
        if len(sealed) > SIZES[0]:
            self.assertGreater(length + 250, len(sealed) // 2)

    def test_the_largest_body_fits_and_one_byte_more_does_not(self) -> None:
        far = 2**62
        largest = letter(body=bytes(MAX_BODY), created=far, expires=far + 1, prekey=None)
        self.assertEqual(len(largest), MAX_SEALED)
        with self.assertRaisesRegex(MailboxMessageInvalid, "over the limit"):
            letter(body=bytes(MAX_BODY + 1))

    def test_two_of_the_same_have_nothing_in_common(self) -> None:
        one, two = letter(1, b"x" * 150), letter(2, b"x" * 150)
        self.assertEqual(one[:17], two[:17])
        same = sum(a == b for a, b in zip(one[17:], two[17:], strict=True))
        self.assertLess(same, 20)

    def test_without_a_prekey_it_says_that_it_has_no_forward_secrecy(self) -> None:
        sealed = letter(prekey=None)
        self.assertEqual(sealed[1:17], fallback_id(BOB.public))
        self.assertFalse(opened(sealed, ring=PrekeyRing()).forward_secret)


class SealingTests(SynchronousTestCase):
    def test_what_nobody_would_take_is_not_sealed(self) -> None:
        for why, changed in (
            ("16 bytes", {"id": bytes(15)}),
            ("would wait", {"expires": NOW}),
            ("would wait", {"expires": NOW + MAX_TTL + 1}),
            ("would wait", {"created": -1}),
        ):
            with self.assertRaisesRegex(MailboxMessageInvalid, why):
                letter(**changed)  # type: ignore[arg-type]

    def test_a_prekey_of_somebody_else_or_of_last_month_is_refused(self) -> None:
        with self.assertRaisesRegex(PrekeyInvalid, "the message is for"):
            letter(recipient=MALLORY.public)
        late = NOW + MAX_TTL
        with self.assertRaisesRegex(PrekeyInvalid, "expired"):
            letter(created=late, expires=late + 1)

    def test_a_prekey_of_small_order_is_refused(self) -> None:
        payload = msgspec.msgpack.encode([bytes(32), NOW, NOW + DAY, []])
        raw = Envelope.seal(BOB, MAILBOX_PREKEY, payload).raw
        prekey = Prekey.open(raw, BOB.public)
        with self.assertRaisesRegex(PrekeyInvalid, "nothing can be sealed"):
            letter(prekey=prekey)

    def test_nothing_is_sealed_for_a_key_that_is_none(self) -> None:
        with self.assertRaisesRegex(MailboxMessageInvalid, "nothing can be sealed"):
            letter(prekey=None, recipient=PublicKey(bytes(32)))


class HostileTests(SynchronousTestCase):
    def refused(
        self,
        sealed: bytes,
        why: str = "",
        error: type[Exception] = MailboxMessageInvalid,
        now: int = NOW,
    ) -> None:
        with self.assertRaisesRegex(error, why):
            opened(sealed, now)

    def test_a_changed_bit_is_refused_wherever_it_is(self) -> None:
        sealed = letter()
        for at in range(len(sealed)):
            changed = bytearray(sealed)
            changed[at] ^= 0x10
            self.refused(bytes(changed))

    def test_every_beginning_and_everything_longer_is_refused(self) -> None:
        sealed = letter()
        for length in range(len(sealed)):
            self.refused(sealed[:length], "has 256, 512 .. 65536 bytes")
        self.refused(sealed + b"\0", "has 256")
        self.refused(sealed + bytes(256), "changed")
        self.refused(bytes(2 * MAX_SEALED), "has 256")

    @given(st.integers(0, 8), st.randoms(use_true_random=False))
    def test_garbage_is_refused(self, power: int, rng: Random) -> None:
        garbage = rng.randbytes(256 << power)
        for head in (b"", b"\x01", b"\x01" + PREKEY.id, b"\x01" + fallback_id(BOB.public)):
            with self.assertRaises(MailboxMessageInvalid):
                opened(head + garbage[len(head) :])

    def test_a_later_version_is_named(self) -> None:
        self.refused(b"\x02" + letter()[1:], "upgrade meshkit")

    def test_it_opens_for_nobody_else(self) -> None:
        with self.assertRaises(MailboxMessageUnreadable):
            open_message(MALLORY, PrekeyRing(), letter(), NOW)
        # Not even for somebody who has got the prekey.
        with self.assertRaisesRegex(MailboxMessageInvalid, "somebody else"):
            open_message(MALLORY, RING, letter(), NOW)

    def test_who_gets_one_cannot_send_it_on_as_if_its_sender_had(self) -> None:
        """Mallory opens a message that Ada wrote to her, and seals what is in it for Bob."""
        ring = PrekeyRing().turned(NOW, Random("mallory"))
        (secret,) = ring.secrets
        to_mallory = letter(recipient=MALLORY.public, prekey=ring.sign(MALLORY))
        header = to_mallory[:17]
        info = b"meshkit/mailbox/1" + MALLORY.public.raw + header[1:]
        text = hpke.open_sealed(secret.secret, secret.public, info, header, to_mallory[17:])
        self.assertIn(b"the heron has left", text)
        self.refused(handmade(text=text), "was not signed by")

    def test_who_gets_one_cannot_seal_it_again_with_another_key(self) -> None:
        """Nor make two of one for the same recipient: the text's own key is signed."""
        other = hpke.encapsulated(b"\x08" * 32)
        self.refused(handmade(signed_front=other), "was not signed by")
        self.refused(handmade(signed_id=fallback_id(BOB.public)), "was not signed by")

    def test_nobody_writes_in_the_name_of_another(self) -> None:
        self.refused(handmade(sender=MALLORY, named=ADA.public), "was not signed by")
        self.refused(handmade(named=PublicKey(bytes(32))), "was not signed by")
        self.refused(handmade(signed_for=MALLORY.public), "was not signed by")

    def test_a_signature_for_something_else_is_none(self) -> None:
        self.refused(handmade(context=ROTATION), "was not signed by")

    def test_sealed_for_one_and_addressed_to_another_does_not_open(self) -> None:
        self.refused(handmade(info_to=MALLORY.public), "somebody else")

    def test_what_does_not_keep_to_the_form_is_refused_though_it_is_signed(self) -> None:
        for why, raw in (
            ("malformed", content(id=bytes(15))),
            ("malformed", content(created=-1)),
            ("malformed", content(created="now")),
            ("malformed", content(more=1)),
            ("malformed", content() + b"\0"),
            ("malformed", b"\xc1"),
            ("shortest", content().replace(b"\xc4\x05heron", b"\xc5\x00\x05heron")),
            ("would wait", content(expires=NOW)),
            ("would wait", content(expires=NOW + MAX_TTL + 1)),
        ):
            self.refused(handmade(raw=raw), why)

    def test_padding_hides_nothing(self) -> None:
        inner = bytes(120)
        text = bytearray(padded(inner, 256))
        text[-1] = 1
        self.refused(handmade(text=bytes(text)), "padded in another way")
        for length in (0, 96, 188, 2**32 - 1):
            text = bytearray(padded(inner, 256))
            text[:4] = length.to_bytes(4, "big")
            self.refused(handmade(text=bytes(text)), "padded in another way")

    def test_a_prekey_of_which_the_secret_is_gone_is_named(self) -> None:
        later = RING
        for _ in range(9):
            later = later.turned(later.secrets[-1].made + ROTATED, Random(1))
        with self.assertRaisesRegex(MailboxMessageUnreadable, PREKEY.id.hex()):
            opened(letter(), ring=later)

    def test_the_time_of_a_message_ends(self) -> None:
        for now in (NOW - MAX_SKEW, NOW + DAY + MAX_SKEW - 1):
            self.assertEqual(opened(letter(), now).created, NOW)
        self.refused(letter(), "too late", MailboxMessageExpired, NOW + DAY + MAX_SKEW)

    def test_one_from_the_future_is_told_from_one_that_is_damaged(self) -> None:
        self.refused(letter(), "in the future", MailboxMessageEarly, NOW - MAX_SKEW - 1)
        raw = content(created=NOW + MAX_SKEW + 1)
        self.refused(handmade(raw=raw), "in the future", MailboxMessageEarly)
        self.assertFalse(issubclass(MailboxMessageEarly, MailboxMessageInvalid))

    def test_nothing_that_it_says_is_shown_in_its_repr(self) -> None:
        self.assertNotIn("heron", repr(opened(letter())))


class ExampleTests(SynchronousTestCase):
    def test_sealing_takes_what_it_is_given_and_nothing_else(self) -> None:
        given_twice = [
            seal_message(
                ADA,
                BOB.public,
                PREKEY,
                b"x",
                id=bytes(16),
                created=NOW,
                expires=NOW + 1,
                ephemeral=b"e" * 32,
            )
            for _ in range(2)
        ]
        self.assertEqual(*given_twice)
