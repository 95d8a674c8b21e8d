from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.seeds import Seeds


class SeedsTests(SynchronousTestCase):
    def test_the_same_names_draw_the_same(self) -> None:
        self.assertEqual(
            Seeds(7).stream("ada", "rng").getrandbits(64),
            Seeds(7).stream("ada", "rng").getrandbits(64),
        )

    def test_streams_are_as_known(self) -> None:
        """... for ever: a seed that once failed has to fail tomorrow."""
        self.assertEqual(Seeds(1).stream("ada").getrandbits(64), 16819444077001911446)

    def test_seeds_hosts_and_purposes_are_apart(self) -> None:
        drawn = {
            Seeds(seed).stream(*names).getrandbits(64)
            for seed in (1, 11)
            for names in (("ada",), ("ada", "x"), ("ad", "ax"), ("adax",), ())
        }
        self.assertEqual(len(drawn), 10)
