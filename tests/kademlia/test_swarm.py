"""Small swarms (L{tests.kademlia.swarm}); those of full size are in C{tests/slow}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.lookup import PATHS
from meshkit.kademlia.routing import K
from tests.kademlia.swarm import (
    Lie,
    Swarm,
    measure_apart,
    measure_churn,
    measure_liars,
    measure_lookups,
)


class Swarms(SynchronousTestCase):
    def test_every_lookup_of_what_is_stored_succeeds(self) -> None:
        for figures in measure_lookups(150, 20):
            self.assertEqual(figures.found, 20, figures)
            self.assertLess(figures.asked, 3 * K, figures)

    def test_records_outlive_those_who_keep_them(self) -> None:
        figures = measure_churn(80, 3, 8)
        self.assertGreater(figures.left, 60)
        self.assertEqual((figures.missed, figures.lost), (0, 0), figures)
        self.assertGreater(figures.fewest, K // 3)

    def test_two_halves_that_were_apart_become_one(self) -> None:
        figures = measure_apart(50, 4)
        self.assertLess(figures.knew[0], 0.6, "they were not apart")
        self.assertGreater(figures.knew[1], 0.95, figures)
        self.assertEqual(figures.newest, 4)

    def test_liars_do_not_hide_a_record_behind_keys_made_for_it(self) -> None:
        for lie in Lie:
            figures = measure_liars(120, 0.2, K, 2, lie, paths=(PATHS,))
            self.assertEqual(figures.found[PATHS], 2, figures)

    def test_without_the_region_they_do(self) -> None:
        figures = measure_liars(200, 0.2, K, 6, regions=False, paths=(1,))
        self.assertLess(figures.found[1], 4, figures)

    def test_a_seed_gives_the_same_swarm_twice(self) -> None:
        self.assertEqual(measure_churn(40, 2, 3), measure_churn(40, 2, 3))

    def test_who_knows_one_other_finds_its_place(self) -> None:
        swarm = Swarm(1)
        swarm.add()
        for _ in range(60):
            swarm.join(swarm.add(joined=False), 1)
            swarm.run(60)
        self.assertTrue(all(node.joined for node in swarm.nodes.values()))
        for node in swarm.nodes.values():
            nearest = {each.id for each in swarm.index.nearest(node.contact.id, 11)}
            known = {each.id for each in node.table} | {node.contact.id}
            self.assertLessEqual(nearest, known)
