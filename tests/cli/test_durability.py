"""C{meshkit simulate storage --years N}, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import split
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.cli.test_simulate import simulate
from tests.runtime.support import scratch

#: Quick, and with losses.
SMALL = (
    *("storage", "--years", "0.2", "--peers", "12", "--objects", "10", "--scheme", "2+2"),
    *("--size", "1 MiB", "--lifetime", "10d", "--outage-every", "never", "--domains", "6"),
)


def found(*more: str) -> dict[str, Any]:
    done = simulate(*SMALL, *more, "--json")
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out)
    return result


class DurabilityTests(SynchronousTestCase):
    def test_what_was_lost_stands_beside_what_the_model_says(self) -> None:
        done = simulate(*SMALL, "--seed", "5")
        self.assertEqual((done.code, done.err), (0, ""))
        told = found("--seed", "5")
        rate = told["losses_per_object_year"]
        self.assertIn(
            f"{rate['observed']:.3g}  ({rate['low']:.3g} to {rate['high']:.3g})", done.out
        )
        self.assertIn(f"{rate['model']:.3g}", done.out)
        self.assertIn("nobody lies.", done.out)
        self.assertGreater(told["lost"], 0)
        self.assertEqual(told["setting"]["scheme"], "2+2")

    def test_the_command_that_is_told_does_the_same_again(self) -> None:
        more = ("--liars", "0.1", "--offline-grace", "1h", "--no-repair", "--max-repairs", "7")
        first = found(*more)
        words = split(first["replay"])
        self.assertEqual(words[:2], ["meshkit", "simulate"])
        again = json.loads(simulate(*words[2:], "--json").out)
        for each in (first, again):
            each.pop("real_s")
        self.assertEqual(again, first)
        self.assertEqual(first["sums"]["repairs"], 0)

    def test_without_a_seed_one_is_drawn(self) -> None:
        self.assertNotEqual(found()["seed"], found()["seed"])

    def test_a_report_is_written(self) -> None:
        file = Path(scratch(self), "out.html")
        done = simulate(*SMALL, "--seed", "5", "--report", str(file))
        self.assertEqual(done.code, 0)
        text = file.read_text("utf-8")
        self.assertTrue(text.startswith("<!DOCTYPE html>"))
        self.assertIn("--lifetime 864000s", text)

    def test_what_krydens_simulation_is_asked_for(self) -> None:
        told = found(
            *("--fail", "3", "--capacity", "20 MiB", "--reserved", "1 MiB", "--headroom", "2 MiB"),
            *("--lifetime", "never", "--repair-below", "4", "--backoff", "1h", "--cooldown", "1m"),
            *("--max-backoff", "1d", "--interval", "15m", "--seed", "1"),
        )
        self.assertEqual((told["sums"]["peers_lost"], told["lost"]), (3, 0))
        self.assertEqual(told["losses_per_object_year"]["model"], None)
        self.assertGreater(told["sums"]["repairs"], 0)

    def test_what_makes_no_sense_is_refused(self) -> None:
        for more, said in (
            (("churn", "--years", "2"), "go with the scenario storage"),
            ((*SMALL, "--nodes", "3"), "go with the scenario storage"),
            ((*SMALL, "--memo"), "go with the scenario storage"),
            ((*SMALL, "--lifetime", "soon"), "'soon' is no length of time"),
            ((*SMALL, "--outage", "never"), "'never' is no length of time"),
            ((*SMALL, "--lifetime", "0d"), "'0d' is no length of time"),
            ((*SMALL, "--size", "much"), "'much' is not a size"),
            ((*SMALL, "--scheme", "9"), "not of the form 6+3"),
            ((*SMALL, "--peers", "3"), "4 shares, and there are 3 peers"),
            ((*SMALL, "--capacity", "1 MiB", "--reserved", "1 MiB"), "nothing is lent"),
            ((*SMALL, "--capacity", "700 KiB"), "object 4 of 10: 4 shares need a peer each"),
        ):
            with self.subTest(more[-1]):
                done = simulate(*more)
                self.assertEqual(done.code, 2)
                self.assertIn(said, " ".join(done.err.replace("│", "").split()))
