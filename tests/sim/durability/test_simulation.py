"""Years of storage: the same each time, as the model says, and as the code of nodes decides."""

from __future__ import annotations

from math import comb
from typing import Any

import msgspec
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.challenge import SAMPLED, chance_to_catch
from meshkit.audit.decisions import (
    Budget,
    Decision,
    ObjectFacts,
    Policy,
    Sight,
    decide,
)
from meshkit.errors import NotEnoughPeers
from meshkit.sim.durability.findings import Findings
from meshkit.sim.durability.model import forecast
from meshkit.sim.durability.setting import DAY, YEAR, Setting
from meshkit.sim.durability.simulation import Simulation, chance_to_find
from meshkit.storage.scheme import Scheme

HOUR = 3600.0
#: Small, and with everything in it.
MIXED = Setting(
    years=0.4,
    peers=24,
    objects=30,
    lifetime=30 * DAY,
    outage_every=5 * DAY,
    outage=6 * HOUR,
    domains=8,
    domain_lifetime=2 * YEAR,
    domain_outage_every=60 * DAY,
    domain_outage=8 * HOUR,
    liars=0.1,
    kept=0.7,
)


def simulate(setting: Setting, seed: int = 1, **more: Any) -> Findings:
    return Simulation(evolve(setting, **more), seed).run()


def plain(found: Findings) -> bytes:
    return msgspec.json.encode(found.as_json())


class Patient(Simulation):
    """Looks at every object in every pass, and not only when something has changed."""

    def _begin(self) -> None:
        super()._begin()
        self._at(0, self._look_at_all)

    def _look_at_all(self) -> None:
        for number in range(self.setting.objects):
            self._want(number)
        self._at(self._now + self.setting.every_pass, self._look_at_all)


class SamenessTests(SynchronousTestCase):
    def test_a_seed_gives_the_same_each_time_and_another_one_does_not(self) -> None:
        first = plain(simulate(MIXED))
        self.assertEqual(plain(simulate(MIXED)), first)
        self.assertNotEqual(plain(simulate(MIXED, 2)), first)

    def test_nothing_is_missed_between_two_looks(self) -> None:
        for seed in range(3):
            setting = evolve(MIXED, years=0.15, objects=20)
            found = Simulation(setting, seed).run()
            patient = Patient(setting, seed).run()
            self.assertEqual(found.lost_at, patient.lost_at)
            self.assertEqual(found.sums, patient.sums)
            self.assertLess(sum(found.codes.values()), sum(patient.codes.values()) / 4)


class DecisionTests(SynchronousTestCase):
    def test_every_decision_follows_from_what_was_written_down(self) -> None:
        kinds = [ObjectFacts, Sight, Budget, Decision]
        heard: list[tuple[bytes, ...]] = []

        def watch(*said: Any) -> None:
            heard.append(tuple(msgspec.json.encode(each) for each in said))

        found = Simulation(MIXED, 3, watch).run()
        self.assertGreater(len(heard), 100)
        self.assertEqual(len(heard), sum(found.codes.values()))
        for line in heard:
            facts, sight, budget, decision = (
                msgspec.json.decode(text, type=kind) for kind, text in zip(kinds, line, strict=True)
            )
            self.assertEqual(decide(facts, MIXED.policy, sight, budget), decision)

    def test_no_repair_lowers_the_number_of_good_shares(self) -> None:
        for seed in range(3):
            found = simulate(MIXED, seed)
            self.assertGreater(found.sums["repairs"], 20)
            self.assertEqual(found.sums["lowered"], 0)


class ModelTests(SynchronousTestCase):
    """At rates where losses are counted, the model is within the interval."""

    def check(self, setting: Setting, seed: int = 1) -> Findings:
        found = simulate(setting, seed)
        assert found.model is not None and found.expected is not None
        self.assertGreater(found.lost, 20)
        rate = found.observed
        scale = found.object_years / setting.objects
        # The chance to be lost within that time, and not at the mean rate: all begin whole.
        self.assertLess(rate.low * scale * setting.objects, found.expected, rate)
        self.assertGreater(rate.high * scale * setting.objects, found.expected, rate)
        return found

    def test_lazy_repair_loses_and_moves_what_the_model_says(self) -> None:
        found = self.check(Setting(years=1, objects=100, lifetime=20 * DAY, outage_every=None))
        assert found.model is not None and found.model_moved is not None
        self.assertLess(abs(found.moved / found.model_moved - 1), 0.1)
        self.assertEqual(found.sums["read"] + found.sums["written"], found.sums["least"])

    def test_short_outages_change_nothing(self) -> None:
        setting = Setting(years=1, objects=60, lifetime=20 * DAY, outage=HOUR)
        self.check(evolve(setting, outage_every=10 * DAY))

    def test_eager_repair(self) -> None:
        policy = Policy(repair_below=5)
        setting = Setting(years=1, objects=100, scheme=Scheme(3, 5), lifetime=12 * DAY)
        self.check(evolve(setting, outage_every=None, policy=policy))

    def test_no_repair(self) -> None:
        setting = Setting(years=0.3, objects=200, lifetime=0.5 * YEAR, outage_every=None)
        found = self.check(evolve(setting, policy=Policy(repair=False)))
        self.assertEqual((found.sums["repairs"], found.sums["read"]), (0, 0))

    def test_domains(self) -> None:
        # Nine domains of one share each, and half of all losses are those of domains.
        setting = Setting(years=1, peers=45, domains=9, objects=80, outage_every=None)
        alone = forecast(evolve(setting, lifetime=20 * DAY).model()).rate
        both = evolve(setting, lifetime=40 * DAY, domain_lifetime=40 * DAY)
        self.assertAlmostEqual(forecast(both.model()).rate / alone, 1.0, 9)
        self.check(both)

    def test_a_domain_without_which_too_little_is_left_takes_all_at_once(self) -> None:
        setting = Setting(
            years=1, peers=20, domains=2, objects=20, lifetime=None, domain_lifetime=30 * DAY
        )
        found = simulate(setting, 4)
        self.assertEqual([*found.lost_at.values()], [20])
        # One moment is one moment, whatever is lost in it.
        self.assertGreater(found.observed.high / found.observed.low, 50)


class LiarTests(SynchronousTestCase):
    def test_an_audit_finds_what_the_sampled_leaves_show(self) -> None:
        self.assertEqual(chance_to_find(100, 1.0), 0.0)
        self.assertEqual(chance_to_find(100, 0.0), 1.0)
        self.assertEqual(chance_to_find(4, 0.75), 1.0)
        self.assertEqual(chance_to_find(2, 0.5), 1.0)
        self.assertAlmostEqual(chance_to_find(100, 0.95), 1 - comb(95, 4) / comb(100, 4))
        # Of many leaves it is the chance of four independent looks.
        self.assertAlmostEqual(chance_to_find(10**6, 0.95), chance_to_catch(0.05), 5)
        self.assertEqual(SAMPLED, 4)

    def test_liars_are_refused_and_what_they_had_is_made_anew(self) -> None:
        setting = Setting(
            years=0.5, peers=40, objects=60, liars=0.1, lifetime=None, outage_every=None
        )
        found = simulate(setting, 2)
        self.assertEqual((found.liars, len(found.found_after)), (4, 4))
        assert found.days_to_refuse is not None
        self.assertLess(found.days_to_refuse, 30)
        self.assertEqual(found.lost, 0)
        # At the end nearly all is where it should be: what is left is what may be missing.
        last = found.months[-1]
        self.assertGreaterEqual(last.shares, last.objects * setting.threshold)

    def test_who_keeps_all_leaves_is_no_liar(self) -> None:
        setting = Setting(years=0.2, objects=20, liars=0.5, kept=1.0, lifetime=None)
        found = simulate(setting)
        self.assertEqual((found.sums["repairs"], len(found.found_after)), (0, 0))


class StormTests(SynchronousTestCase):
    """A third of the peers is gone for an hour, and comes back."""

    SETTING = Setting(
        years=0.01,
        peers=30,
        objects=2000,
        scheme=Scheme(4, 6),
        size=2**20,
        lifetime=None,
        outage_every=None,
        gone=1 / 3,
        gone_at=1.5 * DAY,
        gone_for=HOUR,
    )

    def test_nothing_is_repaired(self) -> None:
        # Audited often, so that everybody is asked while a third is away.
        policy = Policy(every=HOUR / 4)
        found = simulate(self.SETTING, policy=policy, every_pass=900)
        self.assertGreater(found.sums["audits"], 2000 * 6 * 4 * 24 * 3)
        self.assertEqual((found.sums["repairs"], found.sums["read"], found.lost), (0, 0, 0))
        self.assertNotIn("below", found.codes)

    def test_with_a_grace_that_is_too_short_the_caps_hold(self) -> None:
        policy = Policy(
            every=HOUR / 4, offline_grace=600, outage_grace=600, max_repairs=40, cooldown=0
        )
        made: dict[int, int] = {}

        def watch(facts: ObjectFacts, sight: Sight, budget: Budget, decision: Decision) -> None:
            made[sight.now] = made.get(sight.now, 0) + len(decision.repair)

        found = Simulation(evolve(self.SETTING, policy=policy, every_pass=900), 1, watch).run()
        self.assertGreater(found.sums["needless"], 0)
        self.assertLessEqual(max(made.values()), 40)
        # An hour has four passes or five, and then all are back.
        self.assertLessEqual(found.sums["rebuilt"], 5 * 40)
        self.assertGreater(found.codes["capped"], 100)
        self.assertEqual((found.lost, found.sums["lowered"]), (0, 0))

    def test_while_many_are_away_only_what_has_no_share_to_spare_is_repaired(self) -> None:
        policy = Policy(every=HOUR / 4, offline_grace=600)
        repaired: list[int] = []

        def watch(facts: ObjectFacts, sight: Sight, budget: Budget, decision: Decision) -> None:
            if decision.acts:
                repaired.append(sum(each.since is None for each in facts.shares))

        found = Simulation(evolve(self.SETTING, policy=policy, every_pass=900), 1, watch).run()
        self.assertGreater(found.codes["outage"], 400)
        self.assertGreater(len(repaired), 100)
        self.assertEqual(set(repaired), {4})


class RoomTests(SynchronousTestCase):
    def test_what_has_no_room_is_not_simulated(self) -> None:
        setting = Setting(peers=9, objects=10, size=60_000, capacity=100_000)
        self.assertRaisesRegex(NotEnoughPeers, "object 9 of 10", Simulation(setting).run)

    def test_headroom_is_for_repairs(self) -> None:
        # Twelve peers with room for eight shares each, and one more for repairs: full.
        share = Setting(size=60_000).share_bytes
        setting = Setting(
            years=0.1,
            peers=12,
            domains=12,
            objects=10,
            size=60_000,
            capacity=9 * share,
            headroom=share,
            lifetime=None,
            outage_every=None,
            fail=2,
        )
        found = simulate(setting)
        self.assertGreater(found.sums["rebuilt"], 0)
        self.assertEqual(found.lost, 0)
        none = simulate(setting, reserved=share, capacity=9 * share, headroom=0)
        self.assertLess(none.sums["rebuilt"], found.sums["rebuilt"])

    def test_all_comes_back_to_full_health_when_there_are_peers_enough(self) -> None:
        # Kryden's simulation: twelve peers, three fail.
        policy = Policy(repair_below=9)
        setting = Setting(
            years=0.1,
            peers=12,
            domains=12,
            objects=50,
            lifetime=None,
            outage_every=None,
            fail=3,
            policy=policy,
        )
        found = simulate(setting)
        last = found.months[-1]
        self.assertEqual((last.objects, last.shares), (50, 50 * 9))
        less = simulate(setting, fail=4)
        # Those that had four shares at these four are lost.
        last = less.months[-1]
        self.assertEqual((last.objects + less.lost, last.shares), (50, last.objects * 8))
        self.assertGreater(less.sums["repairs_failed"], 0)
        self.assertEqual(less.sums["lowered"], 0)


class SettingTests(SynchronousTestCase):
    def test_what_cannot_be_is_refused_by_name(self) -> None:
        for more, said in (
            ({"years": 0.0}, "years is"),
            ({"peers": 8}, "9 shares, and there are 8 peers"),
            ({"liars": 1.5}, "liars is 0 to 1, not 1.5"),
            ({"fail": 61}, "of 60 peers 61 cannot fail"),
        ):
            with self.subTest(said):
                self.assertRaisesRegex(ValueError, said, Setting, **more)

    def test_where_nothing_is_lost_there_is_no_model(self) -> None:
        self.assertRaisesRegex(ValueError, "nothing is lost", Setting(lifetime=None).model)
        found = simulate(Setting(years=0.01, objects=1, lifetime=None))
        self.assertEqual((found.model, found.expected, found.beyond()), (None, None, []))
