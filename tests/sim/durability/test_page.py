"""The page of a simulation is well-formed, loads nothing, and says what was found."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import cache

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.durability.findings import Findings
from meshkit.sim.durability.page import as_size, as_time, write_page
from meshkit.sim.durability.setting import DAY, YEAR, Setting
from meshkit.sim.durability.simulation import Simulation

REPLAY = "meshkit simulate storage --years 1 --seed 1 <&>"


@cache
def found() -> Findings:
    setting = Setting(years=0.5, peers=20, objects=20, lifetime=15 * DAY, liars=0.1)
    return Simulation(setting, 1).run()


def parse(text: str) -> ElementTree.Element:
    head, _, rest = text.partition("\n")
    assert head == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest.replace(' xmlns="http://www.w3.org/2000/svg"', ""))


def words(each: ElementTree.Element) -> str:
    return "".join(each.itertext())


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tree = parse(write_page(found(), REPLAY))
        self.rows = {
            words(row[0]): [words(cell) for cell in row[1:]] for row in self.tree.iter("tr")
        }

    def test_it_says_what_was_found_beside_the_model(self) -> None:
        told, result = self.rows["losses per object and year"], found()
        assert result.model is not None and result.expected is not None
        self.assertGreater(result.lost, 0)
        self.assertEqual(told[0], f"{result.observed.value:.4g}")
        self.assertEqual(told[2], f"{result.model.rate:.4g}")
        self.assertEqual(
            self.rows["objects lost"], [f"{result.lost}", "", f"{result.expected:.4g}"]
        )
        self.assertEqual(self.rows["moved by repairs"][1], as_size(result.least))
        self.assertEqual(self.rows["liars"], [str(result.liars)])
        self.assertEqual(self.rows["below"], [f"{result.codes['below']:,}"])
        self.assertIn(REPLAY, words(self.tree))

    def test_it_loads_and_runs_nothing(self) -> None:
        tags = {each.tag for each in self.tree.iter()}
        self.assertFalse(tags & {"script", "link", "img", "iframe", "object", "a"}, tags)
        policy = [each.attrib.get("content", "") for each in self.tree.iter("meta")]
        self.assertIn("default-src 'none'; style-src 'unsafe-inline'", policy)

    def test_every_plot_is_told_in_words(self) -> None:
        plots = [*self.tree.iter("svg")]
        self.assertEqual(len(plots), 4)
        for plot in plots:
            self.assertGreater(len(words(plot[1])), 10)

    def test_what_the_model_takes_for_granted_stands_beside_what_it_says(self) -> None:
        (beyond,) = [each for each in self.tree.iter("section") if words(each).startswith("Beyond")]
        self.assertIn("nobody lies", words(beyond))

    def test_where_there_is_no_model_the_page_says_so(self) -> None:
        quiet = Setting(years=0.01, objects=1, lifetime=None)
        said = words(parse(write_page(Simulation(quiet).run())))
        self.assertIn("The model says nothing of such a setting", said)


class WordsTests(SynchronousTestCase):
    def test_amounts(self) -> None:
        self.assertEqual(as_size(999), "999 B")
        self.assertEqual(as_size(1500), "1.5 kB")
        self.assertEqual(as_size(2e15), "2 PB")
        self.assertEqual(as_time(None), "never")
        self.assertEqual(as_time(90.0), "1.5 minutes")
        self.assertEqual(as_time(2 * YEAR), "2 years")
        self.assertEqual(as_time(YEAR), "1 year")
        self.assertEqual(as_time(60.0), "1 minute")
        self.assertEqual(as_time(0.5), "0.5 seconds")
