"""What hypothesis draws is what it is said to be, and reaches the corners."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed.message import Message, parse_message, sign_message, verify_message
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.testing import strategies
from meshkit.testing.identities import make_identity
from meshkit.testing.transports import Chunker, connect_protocols


def reach(strategy: st.SearchStrategy[Any], wanted: Callable[[Any], bool]) -> Any:
    """Something like it is drawn sooner or later; not made simple, which takes long."""
    generous = settings(phases=[Phase.generate], max_examples=3000, database=None)
    return find(strategy, wanted, settings=generous)


class WhoTests(SynchronousTestCase):
    @given(strategies.identities())
    def test_an_identity_can_sign(self, identity: Identity) -> None:
        self.assertTrue(identity.public.verifies(b"text", identity._sign_raw(b"text")))

    @given(strategies.public_keys())
    def test_a_key_survives_its_text(self, key: PublicKey) -> None:
        self.assertEqual(PublicKey.parse(key.text), key)

    @given(strategies.network_secrets())
    def test_a_network_secret_survives_its_text(self, secret: NetworkSecret) -> None:
        self.assertEqual(NetworkSecret.parse(secret.text), secret)
        self.assertFalse(secret.weak)


class AddressTests(SynchronousTestCase):
    @given(strategies.addresses())
    def test_an_address_is_in_its_one_spelling(self, address: MeshAddress) -> None:
        self.assertEqual(MeshAddress.parse(address.text), address)

    def test_all_three_kinds_of_hosts_are_drawn(self) -> None:
        reach(strategies.addresses(), lambda address: ":" in address.host)
        reach(strategies.addresses(), lambda address: address.host.replace(".", "").isdigit())
        reach(strategies.addresses(), lambda address: address.host.endswith("a"))


def _leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        content = list(content.values())
    if not isinstance(content, list):
        yield content
        return
    for item in content:
        yield from _leaves(item)


class ContentTests(SynchronousTestCase):
    @given(strategies.contents())
    def test_a_content_can_be_published(self, content: Any) -> None:
        message = sign_message(
            make_identity("ada"), sequence=1, previous=None, timestamp_ns=0, content=content
        )
        self.assertEqual(parse_message(message.raw), message)

    def test_the_corners_are_reached(self) -> None:
        unseen: dict[str, Callable[[Any], bool]] = {
            "no double": lambda content: any(
                isinstance(leaf, int) and abs(leaf) > 2**53 for leaf in _leaves(content)
            ),
            "an object": lambda content: isinstance(content, dict) and len(content) > 1,
            "an array": lambda content: isinstance(content, list) and len(content) > 1,
            "a fraction": lambda content: any(
                isinstance(leaf, float) and leaf % 1 != 0 for leaf in _leaves(content)
            ),
            "a control": lambda content: any(
                isinstance(leaf, str) and not leaf.isprintable() for leaf in _leaves(content)
            ),
        }

        # Once for all of them, and the same each time, as looking for each takes long.
        @settings(phases=[Phase.generate], max_examples=200, derandomize=True, database=None)
        @given(strategies.contents(max_leaves=4))
        def look(content: Any) -> None:
            for name in [name for name, corner in unseen.items() if corner(content)]:
                del unseen[name]

        look()
        self.assertEqual(list(unseen), [])

    def test_the_simplest_is_nothing(self) -> None:
        self.assertIsNone(find(strategies.contents(), lambda content: True))


class ChainTests(SynchronousTestCase):
    @given(strategies.chains(max_size=4))
    def test_a_chain_is_a_whole_feed(self, chain: list[Message]) -> None:
        self.assertEqual([m.sequence for m in chain], list(range(1, len(chain) + 1)))
        self.assertEqual([m.previous for m in chain[:1]], [None] * len(chain[:1]))
        for before, after in pairwise(chain):
            self.assertEqual(after.previous, before.hash)
        for message in chain:
            verify_message(message)
            self.assertEqual(parse_message(message.raw), message)

    @given(strategies.chains(min_size=2, max_size=2, content=strategies.contents()))
    def test_with_contents_of_ones_own(self, chain: list[Message]) -> None:
        self.assertEqual(len(chain), 2)

    def test_none_is_a_content(self) -> None:
        found = reach(
            strategies.chains(min_size=1, content=strategies.contents()),
            lambda chain: b'"content":null' in chain[0].raw,
        )
        self.assertIsNone(json.loads(found[0].raw)["content"])

    @given(st.data())
    def test_with_an_author_of_ones_own(self, data: st.DataObject) -> None:
        ada = make_identity("ada")
        for message in data.draw(strategies.chains(max_size=2, author=ada)):
            self.assertEqual(message.author, ada.public)

    def test_all_lengths_are_drawn(self) -> None:
        for length in (0, 1, 10):
            found = reach(strategies.chains(), lambda chain, length=length: len(chain) == length)
            self.assertEqual(len(found), length)


class ChunkingTests(SynchronousTestCase):
    @given(st.binary(max_size=30), st.data())
    def test_the_pieces_make_up_the_whole(self, whole: bytes, data: st.DataObject) -> None:
        pieces = data.draw(strategies.chunkings(whole))
        self.assertEqual(b"".join(pieces), whole)
        self.assertTrue(all(pieces))

    @given(st.lists(st.integers(), max_size=9), st.data())
    def test_a_list_is_cut_as_well(self, whole: list[int], data: st.DataObject) -> None:
        pieces = data.draw(strategies.chunkings(whole, empty=True))
        self.assertEqual([each for piece in pieces for each in piece], whole)

    def test_how_many_pieces(self) -> None:
        self.assertEqual(find(strategies.chunkings(b"abc"), lambda pieces: True), [b"abc"])
        self.assertEqual(
            find(strategies.chunkings(b"abc"), lambda pieces: len(pieces) == 3), [b"a", b"b", b"c"]
        )
        self.assertEqual(find(strategies.chunkings(b""), lambda pieces: True), [])
        reach(strategies.chunkings([1], empty=True), lambda pieces: [] in pieces)
        reach(strategies.chunkings([], empty=True), lambda pieces: pieces == [[], []])

    @given(strategies.chunkings(b"abcdef", max_cuts=2))
    def test_no_more_cuts_than_allowed(self, pieces: list[bytes]) -> None:
        self.assertLessEqual(len(pieces), 3)


class ChunkerTests(SynchronousTestCase):
    @given(strategies.chunkers(max_size=7))
    def test_a_wire_delivers_all_in_such_pieces(self, chunk: Chunker) -> None:
        class Keeper(Protocol):
            def __init__(self) -> None:
                self.pieces: list[bytes] = []

            def dataReceived(self, data: bytes) -> None:
                self.pieces.append(data)

        client, server = Keeper(), Keeper()
        wire = connect_protocols(client, server, chunk=chunk)
        client.transport.write(b"x" * 100)  # type: ignore[union-attr]
        wire.pump()
        self.assertEqual(b"".join(server.pieces), b"x" * 100)
        self.assertLessEqual(max(map(len, server.pieces)), 7)

    def test_the_simplest_is_byte_by_byte(self) -> None:
        chunk = find(strategies.chunkers(), lambda chunk: True)
        self.assertEqual([chunk(100), chunk(100)], [1, 1])
        self.assertIn("pieces of 1 bytes", repr(chunk))
