"""What is not read, counted and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.shs.unsent import Unsent

TOTAL, EACH = 100, 40
STEPS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 60)))


class UnsentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.cut: list[tuple[str, int]] = []
        self.unsent: Unsent[str, str] = Unsent(TOTAL, EACH, lambda *each: self.cut.append(each))

    def test_one_peer_over_its_part_loses_the_connection_that_has_most(self) -> None:
        for connection, size in (("a1", 10), ("a2", 25), ("b", 40), ("a1", 5)):
            self.unsent.add(connection, connection[0], size)
        self.assertEqual(self.cut, [])
        self.unsent.add("a3", "a", 1)
        self.assertEqual(self.cut, [("a2", 25)])
        self.assertEqual((self.unsent.held, self.unsent.of("a"), self.unsent.of("b")), (56, 16, 40))

    def test_over_the_total_the_peer_that_has_most_loses_it(self) -> None:
        for peer, size in (("a", 30), ("b", 35), ("c", 30)):
            self.unsent.add(peer, peer, size)
        self.unsent.add("d", "d", 5)
        self.assertEqual(self.cut, [])
        self.unsent.add("d", "d", 1)
        self.assertEqual(self.cut, [("b", 35)])

    def test_what_was_read_counts_no_more(self) -> None:
        for _ in range(10):
            self.unsent.add("a", "a", EACH)
            self.unsent.forget("a")
            self.unsent.forget("a")
        self.assertEqual((self.cut, self.unsent.held), ([], 0))

    @given(STEPS)
    def test_there_is_never_more(self, steps: list[tuple[int, int]]) -> None:
        self.setUp()
        plain: dict[str, int] = {}
        for number, size in steps:
            connection, peer = str(number), str(number // 3)
            plain[connection] = plain.get(connection, 0) + size
            before = len(self.cut)
            self.unsent.add(connection, peer, size)
            for gone, had in self.cut[before:]:
                self.assertEqual(plain.pop(gone), had)
            self.assertEqual(self.unsent.held, sum(plain.values()))
            self.assertLessEqual(self.unsent.held, TOTAL)
            self.assertLessEqual(self.unsent.of(peer), EACH)
