"""Tests of L{meshkit.discovery.wellknown}."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.wellknown import (
    MAX_ADDRESSES,
    MAX_DOCUMENT,
    PATH,
    Document,
    names_of,
    parse_domain,
    public_places,
    reachable,
    read,
    url_of,
    write,
)
from meshkit.errors import InvalidAddress, WellKnownInvalid
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.runtime.egress import may_dial
from meshkit.testing.identities import make_identity

KEY = make_identity("own").public
NETWORK = "00112233445566778899aabbccddeeff"


def document(*hosts: str) -> Document:
    return Document(KEY, NETWORK, tuple(MeshAddress(host, 7655, KEY) for host in hosts))


class DocumentTests(SynchronousTestCase):
    def test_it_is_what_the_page_says(self) -> None:
        self.assertEqual(PATH, "/.well-known/meshkit.json")
        self.assertEqual(
            json.loads(write(document("mesh.example.org", "2001:db8::1"))),
            {
                "meshkit": 1,
                "identity": KEY.text,
                "network": NETWORK,
                "addresses": [
                    f"net:mesh.example.org:7655~shs:{KEY.base64}",
                    f"net:[2001:db8::1]:7655~shs:{KEY.base64}",
                ],
            },
        )

    @given(
        st.lists(st.integers(1, 65_535), min_size=1, max_size=MAX_ADDRESSES, unique=True),
        st.binary(min_size=16, max_size=16),
    )
    def test_what_is_written_is_read(self, ports: list[int], network: bytes) -> None:
        addresses = tuple(MeshAddress("example.org", port, KEY) for port in ports)
        written = Document(KEY, network.hex(), addresses)
        self.assertEqual(read(write(written)), written)

    def test_later_versions_may_say_more(self) -> None:
        said = json.loads(write(document("example.org")))
        said |= {"meshkit": 2, "colour": ["blue"]}
        self.assertEqual(read(json.dumps(said).encode()), document("example.org"))

    def changed(self, **changes: Any) -> bytes:
        said = {**json.loads(write(document("example.org"))), **changes}
        return json.dumps({name: each for name, each in said.items() if each is not None}).encode()

    def test_what_is_no_document_is_refused(self) -> None:
        other = MeshAddress("example.org", 7655, make_identity("other").public)
        address = document("example.org").addresses[0].text
        for data, word in (
            (b"", "no document"),
            (b"<html>", "no document"),
            (b"[1]", "no document"),
            (b"\xff\xfe{}", "no document"),
            (b'{"meshkit": 1}', "no document"),
            (self.changed(meshkit=0), "no document"),
            (self.changed(meshkit=None), "no document"),
            (self.changed(identity="@nobody.ed25519"), "cannot be used"),
            (self.changed(network="ours"), "no document"),
            (self.changed(network=NETWORK.upper()), "no document"),
            (self.changed(addresses=[]), "no document"),
            (self.changed(addresses=[address] * (MAX_ADDRESSES + 1)), "no document"),
            (self.changed(addresses=["example.org:7655"]), "cannot be used"),
            (self.changed(addresses=["net:" + "a" * 600]), "no document"),
            (self.changed(addresses=[address, other.text]), "another node"),
            (self.changed(more="x" * MAX_DOCUMENT), "larger"),
        ):
            self.assertIn(word, str(self.assertRaises(WellKnownInvalid, read, data)), data)

    @given(st.binary(max_size=200))
    def test_garbage_is_refused(self, data: bytes) -> None:
        self.assertRaises(WellKnownInvalid, read, data)

    def test_the_largest_document_fits(self) -> None:
        # The name of a host has 253 characters at most.
        long = ".".join(["x" * 61] * 4)
        written = document(*(f"{long}{n}" for n in range(MAX_ADDRESSES)))
        self.assertEqual(read(write(written)), written)


class PlacesTests(SynchronousTestCase):
    def test_what_is_public_or_named_by_the_operator_is_published(self) -> None:
        hosts = ("8.8.8.8", "10.0.0.1", "127.0.0.1", "mesh.local", "fd00::1", "2001:4860::1")
        places = [HostPort(host, 7655) for host in hosts]
        self.assertEqual(public_places(places, ()), [places[0], places[5]])
        self.assertEqual(public_places(places, places[1:4]), [*places[:4], places[5]])

    def test_there_are_only_so_many(self) -> None:
        places = [HostPort("8.8.8.8", port) for port in range(1, 20)]
        self.assertEqual(public_places(places, ()), places[:MAX_ADDRESSES])


class ReachableTests(SynchronousTestCase):
    def used(self, *hosts: str, allowed: Any = ()) -> list[str]:
        found = {"fritz.box": ["192.168.178.1"], "both.example": ["8.8.8.8", "10.0.0.1"]}
        for host in ("mesh.example.org", "xn--bcher-kva.example"):
            found[host] = ["8.8.8.8", "2606:4700::1111"]
        used, left = reachable(document(*hosts), lambda host: may_dial(host, allowed), found)
        self.assertEqual(
            sorted(address.host for address in (*used, *left)), sorted(hosts), "one is missing"
        )
        return [address.host for address in used]

    def test_what_leads_into_our_own_network_is_left_out(self) -> None:
        inner = ("10.1.2.3", "127.0.0.1", "169.254.169.254", "::1", "fd00::1", "224.0.0.1")
        names = ("localhost", "printer", "a.localhost", "a.localhost.", "0x7f.1", "1.0x7f000001")
        self.assertEqual(self.used("8.8.8.8", *inner, *names), ["8.8.8.8"])

    def test_names_and_public_addresses_are_used(self) -> None:
        hosts = ("mesh.example.org", "8.8.8.8", "2606:4700::1111", "xn--bcher-kva.example")
        self.assertEqual(self.used(*hosts), list(hosts))

    def test_names_that_lead_into_our_own_network_are_left_out(self) -> None:
        hosts = ("fritz.box", "both.example", "unknown.example", "mesh.example.org")
        self.assertEqual(self.used(*hosts), ["mesh.example.org"])
        allowed = [ip_network("192.168.178.0/24")]
        self.assertEqual(self.used(*hosts, allowed=allowed), ["fritz.box", "mesh.example.org"])

    def test_ports_of_other_services_are_left_out(self) -> None:
        ports = (22, 80, 443, 1023, 1024)
        hosts = ("8.8.8.8", "mesh.example.org")
        said = Document(KEY, NETWORK, tuple(MeshAddress(h, p, KEY) for h in hosts for p in ports))
        used, _ = reachable(said, may_dial, {"mesh.example.org": ["8.8.8.8"]})
        self.assertEqual([each.port for each in used], [80, 443, 1024] * 2)
        self.assertEqual(names_of(said), ["mesh.example.org"])
        self.assertEqual(names_of(document("8.8.8.8", "localhost", "0x7f.1", "::1")), [])

    def test_what_the_operator_has_allowed_is_used(self) -> None:
        allowed = [ip_network("10.0.0.0/8")]
        self.assertEqual(self.used("10.1.2.3", "192.168.1.1", allowed=allowed), ["10.1.2.3"])


class DomainTests(SynchronousTestCase):
    def test_domains_as_people_write_them(self) -> None:
        for text, host, port, url in (
            ("example.org", "example.org", 443, "https://example.org"),
            ("Example.ORG.", "example.org", 443, "https://example.org"),
            ("example.org:8443", "example.org", 8443, "https://example.org:8443"),
            ("bücher.example", "xn--bcher-kva.example", 443, "https://xn--bcher-kva.example"),
            ("localhost:8443", "localhost", 8443, "https://localhost:8443"),
            ("192.0.2.7", "192.0.2.7", 443, "https://192.0.2.7"),
            ("[2001:db8::1]:8443", "2001:db8::1", 8443, "https://[2001:db8::1]:8443"),
            ("[2001:db8::1]", "2001:db8::1", 443, "https://[2001:db8::1]"),
        ):
            place = parse_domain(text)
            self.assertEqual(place, HostPort(host, port), text)
            self.assertEqual(url_of(place), url + PATH)

    def test_what_is_no_domain_is_refused(self) -> None:
        for text in (
            *("", ".", "..", "a..b", "https://example.org", "example.org/x", "user@example.org"),
            *("example.org:0", "example.org:65536", "example.org:", "exa mple.org", "a\nb"),
            *("-a.example", "2130706433", "0x7f000001", "1.2.3", "2001:db8::1", "x" * 300),
            *("example.org?x", "example.org#x", "[::1", "%31.example", "\u2488.example"),
        ):
            error = self.assertRaises(InvalidAddress, parse_domain, text)
            self.assertIn("domain", str(error))
            self.assertLess(len(str(error)), 500)

    @given(st.text(max_size=40))
    def test_whatever_is_taken_makes_a_url_of_that_host(self, text: str) -> None:
        try:
            place = parse_domain(text)
        except InvalidAddress:
            return
        url = url_of(place)
        self.assertRegex(url, r"^https://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]+)?/\.well-known/")
