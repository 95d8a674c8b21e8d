"""Tests of L{meshkit.hooks.signing}."""

from __future__ import annotations

import base64
import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import WebhookSecretInvalid, WebhookSignatureInvalid
from meshkit.hooks.signing import (
    MAX_SECRET,
    MIN_SECRET,
    TOLERANCE,
    WebhookSecret,
    signed_headers,
    verify,
)

NOW = 1_614_265_330
# The example of the specification, and of its libraries.
KNOWN = WebhookSecret.parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

secrets = st.binary(min_size=MIN_SECRET, max_size=MAX_SECRET).map(WebhookSecret)
ids = st.text(st.characters(codec="ascii", exclude_characters=".", min_codepoint=33), min_size=1)


class KnownAnswers(SynchronousTestCase):
    def test_the_example_of_the_specification(self) -> None:
        self.assertEqual(
            signed_headers((KNOWN,), "msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, b'{"test": 2432232314}'),
            {
                "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
                "webhook-timestamp": "1614265330",
                "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            },
        )

    @given(secrets, ids, st.integers(0, 10**11), st.binary())
    def test_it_is_an_hmac_over_these_bytes(
        self, secret: WebhookSecret, message_id: str, timestamp: int, body: bytes
    ) -> None:
        mac = hmac.new(secret.raw, digestmod=hashlib.sha256)
        mac.update(message_id.encode() + b"." + str(timestamp).encode() + b"." + body)
        self.assertEqual(
            secret.sign(message_id, timestamp, body),
            "v1," + base64.b64encode(mac.digest()).decode(),
        )


class Verifying(SynchronousTestCase):
    @given(secrets, ids, st.integers(1, 10**11), st.binary(), st.integers(-TOLERANCE, TOLERANCE))
    def test_what_was_signed_is_believed_near_its_time(
        self, secret: WebhookSecret, message_id: str, timestamp: int, body: bytes, late: int
    ) -> None:
        headers = signed_headers((secret,), message_id, timestamp, body)
        self.assertEqual(verify((secret,), headers, body, timestamp + late), message_id)

    @given(st.binary(min_size=1), st.integers(0, 10**6), st.integers(1, 255))
    def test_a_body_with_another_byte_is_not(self, body: bytes, at: int, change: int) -> None:
        headers = signed_headers((KNOWN,), "msg_1", NOW, body)
        altered = bytearray(body)
        altered[at % len(body)] ^= change
        for wrong in (bytes(altered), body + b"\n", body[:-1]):
            with self.assertRaises(WebhookSignatureInvalid):
                verify((KNOWN,), headers, wrong, NOW)

    def test_nothing_of_a_request_can_be_changed_or_left_out(self) -> None:
        headers = signed_headers((KNOWN,), "msg_1", NOW, b"{}")
        for name, value in (
            ("webhook-id", "msg_2"),
            ("webhook-id", ""),
            ("webhook-id", "ms\u00fc"),
            ("webhook-timestamp", str(NOW + 1)),
            ("webhook-timestamp", "soon"),
            ("webhook-timestamp", "\u0661"),
            ("webhook-timestamp", "9" * 100),
            ("webhook-timestamp", ""),
            ("webhook-signature", ""),
            ("webhook-signature", "\udc80"),
            ("webhook-signature", headers["webhook-signature"][3:]),
            ("webhook-signature", "v1a" + headers["webhook-signature"][2:]),
        ):
            with self.subTest(name=name, value=value):
                with self.assertRaises(WebhookSignatureInvalid):
                    verify((KNOWN,), {**headers, name: value}, b"{}", NOW)
                with self.assertRaises(WebhookSignatureInvalid):
                    without = {key: each for key, each in headers.items() if key != name}
                    verify((KNOWN,), without, b"{}", NOW)

    def test_a_recording_is_not_believed_later(self) -> None:
        headers = signed_headers((KNOWN,), "msg_1", NOW, b"{}")
        for moment in (NOW + TOLERANCE + 1, NOW - TOLERANCE - 1):
            with self.assertRaises(WebhookSignatureInvalid):
                verify((KNOWN,), headers, b"{}", moment)

    @given(secrets, secrets)
    def test_while_a_secret_is_replaced_either_will_do(
        self, new: WebhookSecret, old: WebhookSecret
    ) -> None:
        headers = signed_headers((new, old), "msg_1", NOW, b"{}")
        for theirs in (new, old):
            self.assertEqual(verify((theirs,), headers, b"{}", NOW), "msg_1")
        with self.assertRaises(WebhookSignatureInvalid):
            verify((KNOWN,), headers, b"{}", NOW)
        ours = signed_headers((old,), "msg_1", NOW, b"{}")
        self.assertEqual(verify((new, old), ours, b"{}", NOW), "msg_1")

    def test_only_so_many_signatures_are_looked_at(self) -> None:
        headers = signed_headers((KNOWN,), "msg_1", NOW, b"{}")
        flood = "v1,x " * 16 + headers["webhook-signature"]
        with self.assertRaises(WebhookSignatureInvalid):
            verify((KNOWN,), {**headers, "webhook-signature": flood}, b"{}", NOW)


class Secrets(SynchronousTestCase):
    @given(secrets)
    def test_a_secret_can_be_written_down(self, secret: WebhookSecret) -> None:
        self.assertEqual(WebhookSecret.parse(secret.text), secret)

    @given(st.binary(max_size=MIN_SECRET - 1) | st.binary(min_size=MAX_SECRET + 1, max_size=200))
    def test_one_that_is_short_or_long_is_refused(self, raw: bytes) -> None:
        with self.assertRaises(WebhookSecretInvalid):
            WebhookSecret.parse("whsec_" + base64.b64encode(raw).decode())

    def test_what_is_misspelt_is_refused_and_not_repeated(self) -> None:
        for text in (
            "",
            "whsec_",
            KNOWN.text[6:],
            KNOWN.text[:-3],
            KNOWN.text[:-1] + "!",
            "whsec_\u00fc",
        ):
            with self.subTest(text):
                with self.assertRaises(WebhookSecretInvalid) as caught:
                    WebhookSecret.parse(text)
                self.assertNotIn("MfKQ", str(caught.exception))

    def test_it_is_not_shown(self) -> None:
        self.assertNotIn("MfKQ", repr(KNOWN))
        self.assertNotIn(repr(KNOWN.raw), repr(KNOWN))
