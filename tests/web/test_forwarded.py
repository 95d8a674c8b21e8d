"""From whom a request is that proxies hand on, and what a client can write there itself."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.web.forwarded import FORWARDED, MAX_HOPS, ProxyHeader, TrustedProxies

PROXY = "127.0.0.1"
REAL = "203.0.113.7"


def client(
    *lines: str,
    peer: str = PROXY,
    trusted: tuple[str, ...] = (PROXY, "10.0.0.0/8", "fd00::/8"),
    header: ProxyHeader = "X-Forwarded-For",
) -> str:
    return str(TrustedProxies(trusted, header).client(ip_address(peer), lines))


def forwarded(*lines: str) -> str:
    return client(*lines, header=FORWARDED)


class BelievingTests(SynchronousTestCase):
    def test_nobody_is_believed_who_is_not_trusted(self) -> None:
        self.assertEqual(client("198.51.100.1", peer=REAL), REAL)
        self.assertEqual(client("198.51.100.1", trusted=()), PROXY)
        self.assertEqual(client("198.51.100.1", peer="::1"), "::1")

    def test_the_last_one_on_the_way_that_is_not_trusted_is_who_asks(self) -> None:
        self.assertEqual(client(REAL), REAL)
        self.assertEqual(client(f"198.51.100.1, {REAL}"), REAL)
        self.assertEqual(client("198.51.100.1", REAL), REAL)
        self.assertEqual(client(f"198.51.100.1,{REAL}, 10.1.1.1 ,fd00::5"), REAL)
        # As many as are looked at.
        self.assertEqual(client(REAL + ",10.0.0.1" * (MAX_HOPS - 1)), REAL)
        self.assertEqual(client(REAL + ",10.0.0.1" * MAX_HOPS), "10.0.0.1")

    def test_where_nobody_says_it_the_last_proxy_counts_that_could(self) -> None:
        for line in ("", "unknown", "_hidden", f"{REAL}, unknown", f"{REAL}, ", f"{REAL}, x y"):
            self.assertEqual(client(line), PROXY, line)
        self.assertEqual(client(), PROXY)
        self.assertEqual(client(f"{REAL}, nonsense, 10.0.0.2"), "10.0.0.2")
        self.assertEqual(client("10.0.0.3, 10.0.0.2"), "10.0.0.3")

    def test_addresses_may_have_ports_and_brackets(self) -> None:
        for text, found in (
            (f"{REAL}:4711", REAL),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:DB8::1", "2001:db8::1"),
            (f"::ffff:{REAL}", REAL),
            ("fe80::1%eth0", PROXY),
            (f"{REAL}:", PROXY),
            ("[2001:db8::1", PROXY),
            ("203.0.113.07", PROXY),
        ):
            self.assertEqual(client(text), found, text)

    def test_the_header_of_rfc_7239(self) -> None:
        for text, found in (
            (f"for={REAL}", REAL),
            (f"For={REAL};proto=https;by=10.0.0.1", REAL),
            (f"proto=https; for={REAL}", REAL),
            (f'for="{REAL}:4711"', REAL),
            ('for="[2001:db8::1]:4711"', "2001:db8::1"),
            (f'for=198.51.100.1, for={REAL};host="a,b;for=198.51.100.2"', REAL),
            (rf'for="{REAL[:-1]}\{REAL[-1]}"', REAL),
            ("for=_hidden", PROXY),
            ("for=unknown", PROXY),
            ("proto=https", PROXY),
            (f"for={REAL};for={REAL}", PROXY),
            (f"for {REAL}", PROXY),
            (REAL, PROXY),
        ):
            self.assertEqual(forwarded(text), found, text)

    def test_a_quote_left_open_swallows_nothing(self) -> None:
        for text in ('for="', 'for=198.51.100.1;x="', 'for="198.51.100.1\\', '"', 'x="\\"'):
            for added in (f"for={REAL}", f'for="{REAL}"', f'for="{REAL}";proto=https'):
                found = forwarded(f"{text}, {added}")
                self.assertIn(found, (REAL, PROXY), f"{text}, {added}")

    def test_what_is_neither_an_address_nor_a_network(self) -> None:
        for text in ("", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "*"):
            self.assertRaises(ValueError, TrustedProxies, [text])
        self.assertEqual([bool(TrustedProxies(each)) for each in ((), (PROXY,))], [False, True])

    @given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), max_size=4))
    def test_whatever_a_client_writes_it_is_who_the_proxy_says(self, lines: list[str]) -> None:
        self.assertEqual(client(*lines, REAL), REAL)
        self.assertEqual(client(*[",".join([*lines, REAL])]), REAL)
        for added in (f"for={REAL}", f'for="{REAL}:80";proto=http'):
            self.assertIn(forwarded(*lines, added), (REAL, PROXY))
            self.assertIn(forwarded(",".join([*lines, added])), (REAL, PROXY))
