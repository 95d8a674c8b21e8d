"""Tests of L{meshkit.discovery.choosing}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.choosing import Choice
from meshkit.identity.addresses import MeshAddress
from meshkit.testing.identities import make_identity

OWN = make_identity("own").public
KEYS = [make_identity(f"node {n}").public for n in range(40)]


def address(number: int, host: int = 1) -> MeshAddress:
    return MeshAddress(f"192.0.2.{host}", 7655, KEYS[number])


class ChoiceTests(SynchronousTestCase):
    def test_all_are_chosen_where_there_are_few(self) -> None:
        near = [address(n) for n in range(5)]
        self.assertEqual(Choice(OWN, 5).choose(near), near)

    def test_a_node_counts_once_and_is_dialled_at_two_addresses_at_most(self) -> None:
        near = [address(n, host) for n in range(3) for host in (1, 2, 3)]
        chosen = Choice(OWN, 2).choose(near)
        self.assertEqual([each.host for each in chosen], ["192.0.2.1", "192.0.2.2"] * 2)
        self.assertEqual(len({each.key for each in chosen}), 2)

    def test_forged_addresses_do_not_take_the_place_of_one_that_is_known(self) -> None:
        choice = Choice(OWN, 2)
        real = address(0, 9)
        self.assertEqual(choice.choose([real]), [real])
        near = [*(address(0, host) for host in (1, 2, 3)), real]
        for _ in range(2):
            self.assertEqual(choice.choose(near), [near[0], real])
        # What is gone makes room.
        self.assertEqual(choice.choose(near[1:3]), near[1:3])

    def test_newcomers_push_nobody_out(self) -> None:
        choice = Choice(OWN, 3)
        first = choice.choose([address(n) for n in range(3)])
        self.assertEqual(choice.choose([address(n) for n in range(40)]), first)

    def test_whoever_is_gone_makes_room(self) -> None:
        choice = Choice(OWN, 3)
        choice.choose([address(n) for n in range(3)])
        chosen = choice.choose([address(n) for n in range(1, 40)])
        self.assertEqual(len(chosen), 3)
        self.assertLessEqual({KEYS[1], KEYS[2]}, {each.key for each in chosen})

    def test_who_is_gone_and_comes_back_is_a_newcomer(self) -> None:
        choice = Choice(OWN, 1)
        for n in (1, 2, 1):
            self.assertEqual(choice.choose([address(n)]), [address(n)])
        self.assertEqual(choice.choose([address(1), address(2)]), [address(1)])

    def test_nodes_choose_differently(self) -> None:
        """Of forty nodes that dial three each, all are linked with all, over others."""
        near = [address(n) for n in range(40)]
        links: dict[int, set[int]] = {n: set() for n in range(40)}
        for n in range(40):
            for each in Choice(KEYS[n], 3).choose(near[:n] + near[n + 1 :]):
                other = KEYS.index(each.key)
                links[n].add(other)
                links[other].add(n)
        reached, ahead = {0}, [0]
        while ahead:
            for other in links[ahead.pop()] - reached:
                reached.add(other)
                ahead.append(other)
        self.assertEqual(len(reached), 40)

    @given(st.lists(st.sets(st.integers(0, 39)), max_size=8), st.integers(1, 10))
    def test_it_is_always_as_many_as_may_be(self, rounds: list[set[int]], limit: int) -> None:
        choice = Choice(OWN, limit)
        before: set[MeshAddress] = set()
        for numbers in rounds:
            near = [address(n) for n in sorted(numbers)]
            chosen = choice.choose(near)
            self.assertEqual(len(chosen), min(limit, len(near)))
            self.assertLessEqual(before.intersection(near), set(chosen))
            self.assertEqual(chosen, [each for each in near if each in chosen])
            before = set(chosen)
