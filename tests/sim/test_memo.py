from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.keys import PublicKey
from meshkit.sim.memo import Memo
from meshkit.sim.world import World
from meshkit.testing.identities import make_identity

ADA = make_identity("ada")
EVE = make_identity("eve")
DATA = b"hello"
SIGNED = ADA._sign_raw(DATA)


class MemoTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: list[tuple[PublicKey, bytes, bytes]] = []

        def verify(key: PublicKey, data: bytes, signature: bytes) -> bool:
            self.asked.append((key, data, signature))
            return key.verifies(data, signature)

        self.memo = Memo(3, verify)

    def test_what_was_verified_is_not_verified_again(self) -> None:
        for _ in range(3):
            self.assertTrue(self.memo.verifies(ADA.public, DATA, SIGNED))
        self.assertEqual(len(self.asked), 1)
        self.assertEqual((self.memo.hits, self.memo.misses), (2, 1))

    def test_a_wrong_signature_is_verified_each_time(self) -> None:
        for _ in range(2):
            self.assertFalse(self.memo.verifies(EVE.public, DATA, SIGNED))
        self.assertEqual(len(self.asked), 2)
        self.assertEqual(len(self.memo), 0)

    def test_a_bit_that_differs_anywhere_is_not_known(self) -> None:
        self.assertTrue(self.memo.verifies(ADA.public, DATA, SIGNED))
        for at in range(len(SIGNED) * 8):
            wrong = bytearray(SIGNED)
            wrong[at // 8] ^= 1 << at % 8
            self.assertFalse(self.memo.verifies(ADA.public, DATA, bytes(wrong)))
        for data in (b"hellp", b"hello ", b"", DATA + SIGNED):
            self.assertFalse(self.memo.verifies(ADA.public, data, SIGNED))
        # What is signed does not flow into the signature, nor the other way.
        for data, signature in (
            (SIGNED[-1:] + DATA, SIGNED[:-1]),
            (DATA[1:], SIGNED + DATA[:1]),
            (DATA + SIGNED[:1], SIGNED[1:]),
            (DATA[:-1], DATA[-1:] + SIGNED),
        ):
            self.assertFalse(self.memo.verifies(ADA.public, data, signature))
        self.assertEqual(self.memo.hits, 0)

    def test_of_too_many_the_oldest_is_forgotten(self) -> None:
        texts = [str(number).encode() for number in range(4)]
        for text in texts:
            self.assertTrue(self.memo.verifies(ADA.public, text, ADA._sign_raw(text)))
        self.assertEqual(len(self.memo), 3)
        self.memo.verifies(ADA.public, texts[1], ADA._sign_raw(texts[1]))
        self.assertEqual((self.memo.hits, self.memo.misses), (1, 4))
        self.memo.verifies(ADA.public, texts[0], ADA._sign_raw(texts[0]))
        self.assertEqual((self.memo.hits, self.memo.misses), (1, 5))


class MemoWorldTests(SynchronousTestCase):
    def run_world(self, **options: Any) -> World:
        world = World(5, **options)
        self.addCleanup(world.stop)
        first = world.node("ada")
        others = [world.node(name, f'peers = ["{first.address}"]') for name in ("bob", "eve")]
        for node in (first, *others):
            node.start()
        first.ask("POST", "/v1/publish", {"content": "hello"})
        for node in others:
            world.until(
                lambda node=node: node.ask("GET", "/v1/feed").json["metadata"]["total"] == 1,  # type: ignore[misc]
                "the message",
            )
        return world

    def test_a_message_is_verified_once_in_a_world_and_all_else_is_the_same(self) -> None:
        memory = self.run_world(memo=True)
        assert memory.memo is not None
        self.assertEqual((memory.memo.hits, memory.memo.misses), (1, 1))
        self.assertEqual(memory.trace.digest, self.run_world().trace.digest)
