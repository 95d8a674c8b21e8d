"""Small swarms (L{tests.kademlia.swarm}); those of full size are in C{tests/slow}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RecordForged
from meshkit.kademlia.lookup import PATHS, SAFE_PATHS
from meshkit.kademlia.routing import K
from tests.kademlia.network import NETWORK, Found, Lie, Notary, Swarm
from tests.kademlia.swarm import (
    Plan,
    Stage,
    measure_apart,
    measure_churn,
    measure_lookups,
)


class Swarms(SynchronousTestCase):
    def test_every_lookup_of_what_is_stored_succeeds(self) -> None:
        for figures in measure_lookups(150, 20):
            self.assertEqual(figures.found, 20, figures)
            self.assertLess(figures.asked, 3 * K, figures)

    def test_records_outlive_those_who_keep_them_and_not_their_own_time(self) -> None:
        figures = measure_churn(80, 3, 8)
        self.assertGreater(figures.left, 60)
        self.assertEqual((figures.missed, figures.lost, figures.over), (0, 0, 0), figures)
        self.assertGreater(figures.fewest, K // 3)

    def test_two_halves_that_were_apart_become_one(self) -> None:
        figures = measure_apart(40, 2, apart=4)
        self.assertLess(figures.knew[0], 0.6, "they were not apart")
        self.assertGreater(figures.knew[1], 0.95, figures)
        self.assertEqual((figures.newest, figures.topics), (2, 2), figures)

    def test_liars_do_not_hide_a_record_behind_keys_made_for_it(self) -> None:
        stage = Stage(120)
        for lie in Lie:
            figures = stage.measure(Plan(0.2, lie=lie), 2, (PATHS,))
            self.assertEqual(figures.found[PATHS], 2, figures)

    def test_without_the_region_they_do(self) -> None:
        figures = Stage(150).measure(Plan(0.2, regions=False), 4, (1, SAFE_PATHS))
        self.assertEqual(figures.holders, 0, figures)
        self.assertEqual(figures.found, {1: 0, SAFE_PATHS: 0}, figures)

    def test_a_seed_gives_the_same_swarm_twice(self) -> None:
        self.assertEqual(measure_churn(40, 2, 4), measure_churn(40, 2, 4))

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


class RecordTests(SynchronousTestCase):
    """The records of a swarm are such as real nodes keep."""

    def test_all_of_an_item_is_found_and_one_signature_is_verified_once(self) -> None:
        swarm = Swarm(1)
        swarm.build(40)
        for kind in ("mutable", "immutable", "topic", "provider"):
            authors = [swarm.author() for _ in range(2 if kind in ("topic", "provider") else 1)]
            item = swarm.item(kind, authors)
            before = swarm.kinds.looked_at
            swarm.store(swarm.any_node(), item)
            swarm.run()
            all_found: list[Found] = []
            swarm.get(swarm.any_node(), item, all_found.append)
            swarm.run()
            self.assertEqual([found.has(item) for found in all_found], [True], kind)
            self.assertEqual(swarm.kinds.looked_at - before, len(authors))
            self.assertGreaterEqual(swarm.holders(item), K)
        self.assertEqual(swarm.refused, {})

    def test_forged_records_are_refused_each_time(self) -> None:
        swarm = Swarm(1)
        item = swarm.item()
        forged = item.raws[0][:-1] + bytes([item.raws[0][-1] ^ 1])
        notary = Notary()
        for _ in range(2):
            with self.assertRaises(RecordForged):
                notary.open(forged, NETWORK, swarm.now_ms)
            with self.assertRaises(RecordForged):
                notary.open_answer(forged, NETWORK, swarm.now_ms, item.kind, item.key)
        node = swarm.add()
        swarm.keep(node, [forged], node.contact.key)
        self.assertEqual(swarm.holders(item), 0)
        self.assertEqual(swarm.refused, {RecordForged.code: 1})

    def test_half_of_an_item_is_not_all_of_it(self) -> None:
        swarm = Swarm(1)
        node = swarm.add()
        item = swarm.item("topic", [swarm.author(), swarm.author()])
        swarm.keep(node, item.raws[:1], node.contact.key)
        self.assertEqual(swarm.holders(item), 0)
        all_found: list[Found] = []
        swarm.get(node, item, all_found.append)
        swarm.run()
        self.assertEqual([len(found.records) for found in all_found], [1])
        self.assertFalse(all_found[0].has(item))
