"""Signatures of requests and answers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import SignatureRefused, StatementInvalid
from meshkit.identity.keys import Identity, PublicKey
from meshkit.runtime.signed.signatures import (
    REQUEST_COMPONENTS,
    RequestFacts,
    SignedRequest,
    content_digest,
    normal_authority,
    parse_content_digest,
    sign_request,
    sign_response,
    signature_base,
    signature_of,
    verify_request,
    verify_response,
)
from meshkit.testing.identities import make_identity

CALLER: Final = make_identity("caller")
PEER: Final = make_identity("peer")
OTHER: Final = make_identity("other")
NETWORK: Final = bytes(range(16))
BODY: Final = b"a block"
NONCE: Final = bytes(range(16))
PATH: Final = "/v1/uploads/" + "ab" * 32 + "/3/0"

#: RFC 9421, B.1.4 and B.2.6.
RFC_SEED: Final = base64.b64decode("n4Ni+HpISpVObnQMW0wOhCKROaIKqKtW/2ZYb2p9KcU=")
RFC_PUBLIC: Final = base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
RFC_SIGNATURE: Final = (
    "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
)


def facts() -> RequestFacts:
    """@return: of a block."""
    return RequestFacts(
        "PUT",
        "storage.example:7671",
        PATH,
        "",
        content_digest(sha256(BODY).digest()),
        str(len(BODY)),
        "application/octet-stream",
        PEER.public.text,
        NETWORK.hex(),
    )


def headers_of(request: RequestFacts, identity: Identity = CALLER) -> dict[str, list[str]]:
    """@return: what is sent."""
    headers = {
        "Host": [request.authority],
        "Content-Digest": [request.digest],
        "Content-Length": [request.length],
        "Content-Type": [request.content_type],
        "Meshkit-Recipient": [request.recipient],
        "Meshkit-Net": [request.network],
    }
    for name, value in sign_request(identity, request, 1_000, 1_060, NONCE):
        headers[name] = [value]
    return headers


def values_of(headers: dict[str, list[str]]) -> Callable[[str], Sequence[str]]:
    """@return: how they are looked up."""
    return lambda name: headers.get(name, [])


def verify(
    headers: dict[str, list[str]],
    method: str = "PUT",
    target: str = PATH,
    recipient: PublicKey = PEER.public,
    network: bytes = NETWORK,
) -> SignedRequest:
    """As a server does."""
    return verify_request(method, target, values_of(headers), recipient, network)


class Base(SynchronousTestCase):
    def test_the_signature_of_the_rfc_is_made(self) -> None:
        identity = Identity(RFC_SEED)
        self.assertEqual(identity.public.raw, RFC_PUBLIC)
        base = signature_base(
            [
                ('"date"', "Tue, 20 Apr 2021 02:07:55 GMT"),
                ('"@method"', "POST"),
                ('"@path"', "/foo"),
                ('"@authority"', "example.com"),
                ('"content-type"', "application/json"),
                ('"content-length"', "18"),
            ],
            '("date" "@method" "@path" "@authority" "content-type" "content-length")'
            ';created=1618884473;keyid="test-key-ed25519"',
        )
        signature = base64.b64encode(identity._sign_raw(base)).decode("ascii")
        self.assertEqual(signature, RFC_SIGNATURE)

    def test_the_digest_of_the_rfc_is_made(self) -> None:
        # RFC 9530, B.2 and its appendix D.
        text = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
        digest = sha256(b'{"hello": "world"}').digest()
        self.assertEqual(content_digest(digest), text)
        self.assertEqual(parse_content_digest(text), digest)

    def test_the_digest_of_nothing_is_a_digest(self) -> None:
        self.assertEqual(
            content_digest(sha256(b"").digest()),
            "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        )

    def test_other_digests_are_none(self) -> None:
        good = content_digest(bytes(32))
        for text in (
            "",
            good[:-1],
            good + " ",
            good.replace("sha-256", "sha-512"),
            good.replace("sha-256", "SHA-256"),
            f"{good}, {good}",
            f"{good};a=1",
            # The same bytes, spelt otherwise.
            good.replace("A=:", "B=:"),
        ):
            self.assertIsNone(parse_content_digest(text), text)

    def test_what_is_signed_is_written_down(self) -> None:
        self.assertEqual(
            facts().base("PARAMETERS").decode("ascii"),
            '"@method": PUT\n'
            '"@authority": storage.example:7671\n'
            f'"@path": {PATH}\n'
            '"@query": ?\n'
            f'"content-digest": {content_digest(sha256(BODY).digest())}\n'
            '"content-length": 7\n'
            '"content-type": application/octet-stream\n'
            f'"meshkit-recipient": {PEER.public.text}\n'
            '"meshkit-net": 000102030405060708090a0b0c0d0e0f\n'
            '"@signature-params": PARAMETERS',
        )

    def test_the_port_of_https_is_not_part_of_the_authority(self) -> None:
        self.assertEqual(normal_authority("Storage.Example:443"), "storage.example")
        self.assertEqual(normal_authority("Storage.Example:7671"), "storage.example:7671")


class Requests(SynchronousTestCase):
    def test_a_signed_request_says_who_asks_and_what_the_body_is(self) -> None:
        request = verify(headers_of(facts()))
        self.assertEqual(request.caller, CALLER.public)
        self.assertEqual((request.created, request.expires), (1_000, 1_060))
        self.assertEqual(request.nonce, "AAECAwQFBgcICQoLDA0ODw")
        self.assertEqual(request.digest, sha256(BODY).digest())

    def test_headers_look_like_the_page_says(self) -> None:
        headers = headers_of(facts())
        self.assertEqual(
            headers["Signature-Input"],
            [
                'mk=("@method" "@authority" "@path" "@query" "content-digest" "content-length" '
                '"content-type" "meshkit-recipient" "meshkit-net");created=1000;expires=1060;'
                f'nonce="AAECAwQFBgcICQoLDA0ODw";alg="ed25519";keyid="{CALLER.public.text}";'
                'tag="meshkit-storage/1"'
            ],
        )
        self.assertRegex(headers["Signature"][0], r"\Amk=:[A-Za-z0-9+/]{86}==:\Z")

    def _refused(self, change: Callable[[dict[str, list[str]]], Any], **how: Any) -> None:
        headers = headers_of(facts())
        change(headers)
        self.assertRaises(SignatureRefused, verify, headers, **how)

    def test_nothing_that_is_signed_can_be_changed(self) -> None:
        unchanged = lambda headers: None  # noqa: E731
        self._refused(unchanged, method="DELETE")
        self._refused(unchanged, target=PATH[:-1] + "1")
        self._refused(unchanged, target=PATH + "?a")
        for name, value in (
            ("Host", "elsewhere.example"),
            ("Content-Digest", content_digest(bytes(32))),
            ("Content-Length", "8"),
            ("Content-Type", "application/json"),
        ):
            self._refused(lambda headers, n=name, v=value: headers.update({n: [v]}))

    def test_a_request_for_one_peer_is_refused_by_another_one(self) -> None:
        self._refused(lambda headers: None, recipient=OTHER.public)
        # Also when somebody writes another name on it.
        self._refused(
            lambda headers: headers.update({"Meshkit-Recipient": [OTHER.public.text]}),
            recipient=OTHER.public,
        )

    def test_a_request_for_one_network_is_refused_in_another_one(self) -> None:
        self._refused(lambda headers: None, network=bytes(16))
        self._refused(
            lambda headers: headers.update({"Meshkit-Net": [bytes(16).hex()]}),
            network=bytes(16),
        )

    def test_every_header_is_needed_and_once(self) -> None:
        for name in headers_of(facts()):
            self._refused(lambda headers, n=name: headers.pop(n))
            self._refused(lambda headers, n=name: headers[n].append(headers[n][0]))
            self._refused(lambda headers, n=name: headers.update({n: [""]}))

    def test_there_is_one_form_of_a_signature(self) -> None:
        def change(old: str, new: str) -> Callable[[dict[str, list[str]]], None]:
            def apply(headers: dict[str, list[str]]) -> None:
                (text,) = headers["Signature-Input"]
                self.assertIn(old, text)
                headers["Signature-Input"] = [text.replace(old, new)]

            return apply

        for old, new in (
            ("mk=", "sig1="),
            ("mk=", "a=(), mk="),
            ('tag="meshkit-storage/1"', 'tag="meshkit-storage/2"'),
            (';tag="meshkit-storage/1"', ""),
            ('alg="ed25519"', 'alg="hmac-sha256"'),
            (';alg="ed25519"', ""),
            ("created=1000;", ""),
            (";expires=1060", ""),
            ("created=1000", "created=01000"),
            ("created=1000", "created=-1000"),
            ('nonce="AAECAwQFBgcICQoLDA0ODw"', 'nonce="AAEC"'),
            ('nonce="', 'nonce="+/'),
            ('"@query" ', ""),
            (' "meshkit-net"', ""),
            (' "meshkit-net"', ' "meshkit-net" "date"'),
            ('"@method" "@authority"', '"@authority" "@method"'),
            (";created", "; created"),
            ('"@method"', '"@method";req'),
            (CALLER.public.text, OTHER.public.text),
            (CALLER.public.text, "somebody"),
            ('tag="meshkit-storage/1"', 'tag="meshkit-storage/1";more=1'),
        ):
            self._refused(change(old, new))

    def test_a_list_that_leaves_something_out_is_refused_though_it_is_signed(self) -> None:
        # A caller who signs less is not one whose request can be changed by others.
        headers = headers_of(facts())
        parameters = headers["Signature-Input"][0].removeprefix("mk=").replace('"@query" ', "")
        values = [
            (name, line.partition(": ")[2])
            for name, line in zip(
                REQUEST_COMPONENTS, facts().base("").decode().split("\n"), strict=False
            )
            if name != '"@query"'
        ]
        raw = CALLER._sign_raw(signature_base(values, parameters))
        headers["Signature-Input"] = [f"mk={parameters}"]
        headers["Signature"] = [f"mk=:{base64.b64encode(raw).decode()}:"]
        self.assertRaises(SignatureRefused, verify, headers)

    def test_a_signature_is_spelt_in_one_way(self) -> None:
        for change in (
            lambda text: text.replace("mk=", "sig1="),
            lambda text: text.replace("==:", "="),
            lambda text: text + ", a=:AAAA:",
            lambda text: text.replace("mk=:", "mk=: "),
            # The last four bits of the base64 say nothing.
            lambda text: text[:-4] + chr(ord(text[-4]) + 1) + "==:",
        ):
            self._refused(
                lambda headers, c=change: headers.update(
                    {"Signature": [c(headers["Signature"][0])]}
                )
            )

    @given(st.integers(0, 511))
    def test_no_bit_of_a_signature_can_be_turned(self, bit: int) -> None:
        headers = headers_of(facts())
        raw = bytearray(base64.b64decode(signature_of([("Signature", headers["Signature"][0])])))
        raw[bit // 8] ^= 1 << bit % 8
        headers["Signature"] = [f"mk=:{base64.b64encode(raw).decode()}:"]
        self.assertRaises(SignatureRefused, verify, headers)

    @given(
        st.dictionaries(
            st.sampled_from(sorted(headers_of(facts()))),
            st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=255)), max_size=2),
            min_size=1,
        )
    )
    def test_garbage_is_refused_and_nothing_worse(self, garbage: dict[str, list[str]]) -> None:
        headers = {**headers_of(facts()), **garbage}
        if headers != headers_of(facts()):
            self.assertRaises(SignatureRefused, verify, headers)

    def test_who_signs_for_somebody_else_is_refused(self) -> None:
        headers = headers_of(facts(), OTHER)
        (text,) = headers["Signature-Input"]
        headers["Signature-Input"] = [text.replace(OTHER.public.text, CALLER.public.text)]
        self.assertRaises(SignatureRefused, verify, headers)

    def test_a_digest_that_is_signed_has_to_be_one(self) -> None:
        wrong = evolve(facts(), digest="sha-512=:AAAA:")
        self.assertRaises(SignatureRefused, verify, headers_of(wrong))


class Answers(SynchronousTestCase):
    REQUEST: Final = "c2lnbmF0dXJl"

    def _verify(
        self,
        headers: dict[str, list[str]],
        status: int = 200,
        body: bytes = BODY,
        method: str = "PUT",
        path: str = PATH,
        signature: str = REQUEST,
        peer: PublicKey = PEER.public,
    ) -> None:
        verify_response(peer, status, body, values_of(headers), method, path, signature)

    def _signed(self, identity: Identity = PEER) -> dict[str, list[str]]:
        digest = sha256(BODY).digest()
        signed = sign_response(identity, 200, digest, "PUT", PATH, self.REQUEST, 1_001)
        return {name: [value] for name, value in signed}

    def test_an_answer_is_good_for_one_request(self) -> None:
        self._verify(self._signed())
        for change in (
            {"status": 201},
            {"body": BODY + b"!"},
            {"method": "GET"},
            {"path": PATH + "1"},
            {"signature": "b3RoZXI="},
            {"peer": OTHER.public},
        ):
            self.assertRaises(StatementInvalid, self._verify, self._signed(), **change)

    def test_somebody_else_cannot_answer(self) -> None:
        self.assertRaises(StatementInvalid, self._verify, self._signed(OTHER))
        headers = self._signed(OTHER)
        (text,) = headers["Signature-Input"]
        headers["Signature-Input"] = [text.replace(OTHER.public.text, PEER.public.text)]
        self.assertRaises(StatementInvalid, self._verify, headers)

    def test_an_answer_that_is_not_signed_is_none(self) -> None:
        for name in self._signed():
            headers = self._signed()
            del headers[name]
            self.assertRaises(StatementInvalid, self._verify, headers)

    def test_it_looks_like_the_page_says(self) -> None:
        self.assertEqual(
            self._signed()["Signature-Input"],
            [
                'mk=("@status" "content-digest" "@method";req "@path";req "signature";key="mk";req)'
                f';created=1001;alg="ed25519";keyid="{PEER.public.text}";tag="meshkit-storage/1"'
            ],
        )
