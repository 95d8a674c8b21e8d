"""The page is read as a strict parser reads it, and its numbers are those of the run."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from itertools import pairwise
from typing import Any

from attrs import evolve as changed
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim import plots, report
from meshkit.sim.invariants import Violation
from meshkit.sim.plots import MAX_LANES, MAX_TOLD, Bar, Span, columns, ticks
from meshkit.sim.report import write_report
from meshkit.sim.running import Outcome, play
from meshkit.sim.schedule import Action, Member, Plan, decode_plan, encode_plan
from tests.sim.test_markup import NASTY
from tests.sim.test_measures import QUIET, Patient, three
from tests.sim.test_running import evolve, publish

Element = ElementTree.Element


@cache
def outcome() -> Outcome:
    actions = (
        publish(0.5, "ada"),
        Action.after(1, "partition", groups=[["ada"], ["bob", "cat"]]),
        publish(2, "bob"),
        Action.after(2.5, "crash", "cat"),
        Action.after(3, "start", "cat"),
        Action.after(3.5, "reset", "ada", to="bob"),
    )
    return play(three(*actions), evolve(QUIET, invariants=[Patient]))


def parse(text: str) -> Element:
    head, _, rest = text.partition("\n")
    assert head == "<!DOCTYPE html>"
    # The names of SVG, without the space that they are in.
    return ElementTree.fromstring(rest.replace(' xmlns="http://www.w3.org/2000/svg"', ""))


def words(found: Element) -> str:
    return "".join(found.itertext())


def table(tree: Element, *heads: str) -> list[list[str]]:
    """The rows of the one table with these headings."""
    (found,) = [
        each for each in tree.iter("table") if [words(th) for th in each.iter("th")] == [*heads]
    ]
    return [[words(td) for td in row.iter("td")] for row in found.iter("tr")][1:]


class NumberTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outcome = outcome()
        self.figures = self.outcome.figures
        self.tree = parse(write_report(self.outcome, replay="meshkit simulate x", real_s=2.0))

    def svg(self, name: str) -> Element:
        (found,) = [
            each
            for each in self.tree.iter("svg")
            if each.attrib["aria-labelledby"] == f"{name}-title {name}-desc"
        ]
        return found

    def test_the_figures_are_those_of_the_run(self) -> None:
        rows = dict(table(self.tree, "what", "how much"))
        found = self.figures
        self.assertEqual(rows["deliveries"], "4 of 4")
        self.assertEqual(rows["converged after"], f"{found['converged_s']:,.3f} s")
        self.assertEqual(rows["events"], f"{found['events']:,}")
        self.assertEqual(rows["bytes"], f"{found['bytes']:,} in {found['segments']:,} segments")
        self.assertEqual(rows["digest of the trace"], self.outcome.digest)
        self.assertIn(f"{found['virtual_s'] / 2:,.1f} s of the world in each", rows["time here"])

    def test_every_node_has_a_row_and_a_column(self) -> None:
        heads = ("stored", "new", "sent", "duplicates", "refused", "bytes in", "bytes out")
        rows = table(self.tree, "node", *heads)
        nodes = self.figures["per_node"]
        self.assertEqual([row[0] for row in rows], ["ada", "bob", "cat"])
        self.assertEqual([row[1] for row in rows], ["2", "2", "2"])
        self.assertEqual([row[7] for row in rows], [f"{size:,}" for size in nodes["bytes_out"]])
        for key in ("stored", "sent", "duplicates", "bytes_in", "bytes_out"):
            boxes = list(self.svg(f"node-{key}").iter("rect"))
            self.assertEqual(len(boxes), 3)
            heights = [float(box.attrib["height"]) for box in boxes]
            self.assertEqual(heights, sorted(heights, reverse=True))
            values = sorted(nodes[key], reverse=True)
            for height, value in zip(heights, values, strict=True):
                share = height / heights[0] if heights[0] else 0
                self.assertLess(abs(share - value / (values[0] or 1)), 0.01)

    def test_the_curve_ends_where_everything_was_delivered(self) -> None:
        svg = self.svg("convergence")
        delivered, published = (each.attrib["d"] for each in svg.iter("path"))
        points = [tuple(map(float, each.split())) for each in re.split("[ML]", delivered)[1:]]
        self.assertEqual(len(points), len(self.figures["convergence"]["seconds"]))
        lines = {each.text: each for each in svg.iter("text")}
        # Words are a little lower than what they stand at.
        self.assertAlmostEqual(points[-1][1], float(lines["100%"].attrib["y"]) - 4, places=1)
        self.assertAlmostEqual(points[0][1], float(lines["0%"].attrib["y"]) - 4, places=1)
        for before, after in pairwise(points):
            self.assertGreaterEqual(after[0], before[0])
            self.assertLessEqual(after[1], before[1])
        self.assertNotEqual(delivered, published)
        told = svg.findtext("desc") or ""
        self.assertIn("100% of the messages had been published, and 100% of the", told)

    def test_faults_are_where_they_were(self) -> None:
        rows = table(self.tree, "from s", "to s", "kind", "where", "what")
        self.assertEqual(
            [row[:4] for row in rows],
            [
                ["1.000", "5.000", "partition", ""],
                ["2.500", "3.000", "down", "cat"],
                ["3.500", "", "reset", "ada"],
            ],
        )
        svg = self.svg("faults")
        boxes = {each.findtext("title"): each.attrib for each in svg.iter("rect")}
        long, short = boxes["partition 1 / 2: 1.00 to 5.00 s"], boxes["down cat: 2.50 to 3.00 s"]
        self.assertLess(abs(float(long["width"]) / float(short["width"]) - 8), 0.05)
        self.assertEqual(svg.findtext("path/title"), "reset ada to bob: 3.50 s")

    def test_latencies_are_all_in_the_histogram(self) -> None:
        rows = table(self.tree, "at most ms", "deliveries")
        self.assertEqual(sum(int(row[1]) for row in rows), 4)
        shown = [each.findtext("title") or "" for each in self.svg("latencies").iter("rect")]
        self.assertEqual(shown, [f"{row[0]}: {row[1]}" for row in rows if row[1] != "0"])
        delivery, answer = table(self.tree, "what", "count", "p50", "p90", "p99", "max")
        self.assertEqual(delivery[1:3], ["4", f"{self.figures['latency_ms']['p50']:,}"])
        self.assertEqual(answer[1], "2")

    def test_the_plan_can_be_taken_out_of_the_page(self) -> None:
        (section,) = [each for each in self.tree.iter("section") if each.findtext("h2") == "Plan"]
        text = words(next(section.iter("pre")))
        self.assertEqual(decode_plan(text.encode()), self.outcome.plan)

    def test_violations_come_first(self) -> None:
        self.assertIn("✓ Everything was as it must be", words(self.tree))
        ready = round(self.figures["ready_s"] * 10**9)
        violations = (
            Violation("promise", ready + 2_500_000_000, "bob", "broken"),
            Violation("order", ready + 10**12, "", "lost"),
        )
        bad = changed(self.outcome, violations=violations)
        self.tree = parse(write_report(bad, replay="meshkit simulate x --seed 3"))
        text = words(self.tree)
        self.assertIn("✗ 2 violations: not everything was as it must be", text)
        self.assertEqual(
            table(self.tree, "s", "invariant", "node", "what"),
            [["2.500", "promise", "bob", "broken"], ["1000.000", "order", "", "lost"]],
        )
        self.assertLess(text.index("Violations"), text.index("Figures"))
        self.assertIn("meshkit simulate x --seed 3", text)

        # They stand on the axis of the faults, too.
        svg = self.svg("faults")
        shown = {each.findtext("title"): each.attrib["d"] for each in svg.iter("path")}
        places = {told: float(d[1:].split()[0]) for told, d in shown.items()}
        down = next(
            each for each in svg.iter("rect") if (each.findtext("title") or "").startswith("down")
        )
        self.assertEqual(places["promise: 2.50 s: broken"] + 4, float(down.attrib["x"]))
        axis = next(each for each in svg.iter("line") if each.attrib["class"] == "axis")
        self.assertEqual(places["order: 1000.00 s: lost"] + 4, float(axis.attrib["x2"]))


class PageTests(SynchronousTestCase):
    def test_it_loads_nothing_and_runs_nothing(self) -> None:
        text = write_report(outcome())
        for tag in ("script", "link", "img", "iframe", "object", "image", "use", "a"):
            self.assertEqual(list(parse(text).iter(tag)), [])
        self.assertEqual({*re.findall("[a-z]+://[^\"' ]*", text)}, {"http://www.w3.org/2000/svg"})
        self.assertNotIn("url(", text)
        self.assertNotIn("@import", text)

    def test_every_plot_says_in_words_what_it_shows(self) -> None:
        tree = parse(write_report(outcome()))
        names = [each.attrib["id"] for each in tree.iter() if "id" in each.attrib]
        self.assertEqual(len(names), len({*names}))
        drawn = list(tree.iter("svg"))
        self.assertEqual(len(drawn), 11)
        for svg in drawn:
            title, desc = svg[0], svg[1]
            self.assertEqual((title.tag, desc.tag, svg.attrib["role"]), ("title", "desc", "img"))
            self.assertGreater(len(desc.text or ""), 10)
            self.assertEqual(
                svg.attrib["aria-labelledby"], f"{title.attrib['id']} {desc.attrib['id']}"
            )

    def test_lines_differ_by_more_than_their_colours(self) -> None:
        text = write_report(outcome())
        self.assertRegex(text, r"\.curve\.second \{[^}]*stroke-dasharray")
        (svg,) = [
            each for each in parse(text).iter("svg") if each.findtext("title") == "Convergence"
        ]
        styles = [each.attrib["class"] for each in svg.iter("path")]
        self.assertEqual(styles, ["curve first", "curve second"])
        for name in ("delivered", "published"):
            self.assertIn(name, [each.text for each in svg.iter("text")])

    def test_what_is_written_can_be_told_from_the_paper(self) -> None:
        light, dark = re.findall(
            r":root \{ (?:color-scheme: [^;]*; )?(--paper[^}]*)\}", report.STYLE
        )
        for theme in (light, dark):
            colours = dict(re.findall(r"--(\w+): (#\w+);", theme))
            self.assertEqual(len(colours), 8)
            for name, least in (
                *(("ink", 7.0), ("soft", 4.5), ("first", 4.5), ("second", 4.5), ("bar", 3.0)),
            ):
                ratio = contrast(colours[name], colours["paper"])
                self.assertGreaterEqual(ratio, least, (name, theme))
            self.assertGreaterEqual(contrast(colours["ink"], colours["code"]), 7.0)

    def test_whatever_things_are_called_they_are_no_markup(self) -> None:
        good = outcome()
        marks = [
            {"kind": NASTY, "where": NASTY, "at_s": 1.0, "until_s": 2.0, "text": "\x1b]0;x\x07"},
            {"kind": NASTY, "where": "", "at_s": 1.0, "until_s": None, "text": "\u202e\ud800"},
        ]
        figures = {
            **good.figures,
            "marks": marks,
            "per_node": {**good.figures["per_node"], "name": [NASTY, "\x00", "\ud800"]},
            "links": [[NASTY, NASTY, 1]],
            "slowest": [{**good.figures["slowest"][0], "author": NASTY}],
        }
        action = Action(0, NASTY, NASTY, {NASTY: NASTY})
        plan = Plan(NASTY, 1, 1.0, 1.0, members=(Member(NASTY, config=NASTY),), actions=(action,))
        violations = (Violation(NASTY, 1, NASTY, NASTY),)
        text = write_report(Outcome(plan, NASTY, violations, figures), replay=NASTY)
        text.encode("utf-8")
        clean, nasty = parse(write_report(good, replay="x")), parse(text)
        tags = {(each.tag, *sorted(each.attrib)) for each in clean.iter()}
        self.assertEqual({(each.tag, *sorted(each.attrib)) for each in nasty.iter()} - tags, set())
        self.assertNotIn("<script", text)
        self.assertGreater(words(nasty).count(NASTY), 10)

    def test_a_run_in_which_nothing_happened(self) -> None:
        for members in ((Member("ada"),), (Member("ada"), Member("bob"))):
            plan = Plan("", 1, 1.0, 0.0, members=members)
            tree = parse(write_report(play(plan, QUIET)))
            self.assertIn("Nothing was made to go wrong.", words(tree))
            self.assertIn("Nothing was delivered", words(tree))

    def test_liars_are_told_of(self) -> None:
        good = outcome()
        self.assertIn("3 nodes of meshkit in a simulated world.", words(parse(write_report(good))))
        bad = changed(good, figures={**good.figures, "liars": 2})
        told = "3 nodes of meshkit in a simulated world, and 2 peers that lie."
        self.assertIn(told, words(parse(write_report(bad))))

    def test_a_world_of_a_thousand(self) -> None:
        good = outcome()
        nodes: dict[str, Any] = {
            key: list(range(2_000)) for key in good.figures["per_node"] if key != "name"
        }
        nodes["name"] = [f"n{number:04}" for number in range(2_000)]
        big = changed(good, figures={**good.figures, "per_node": nodes})
        text = write_report(big)
        self.assertLess(len(text), 500_000)
        self.assertIn("… and 1,000 more.", words(parse(text)))

    def test_a_plan_that_is_too_long_is_cut(self) -> None:
        self.patch(report, "MAX_PLAN_SHOWN", 100)
        (section,) = [
            each
            for each in parse(write_report(outcome())).iter("section")
            if each.findtext("h2") == "Plan"
        ]
        shown = words(next(section.iter("pre")))
        whole = encode_plan(outcome().plan)
        note = f"\n… and {len(whole) - 100:,} bytes more; --save-plan writes all of it"
        self.assertEqual(shown, whole[:100].decode() + note)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2, contrast ratio."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
        ]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class PlotTests(SynchronousTestCase):
    @given(st.floats(0, 1e9), st.floats(1e-6, 1e9), st.integers(1, 12))
    def test_ticks_are_few_round_and_within(self, low: float, width: float, about: int) -> None:
        high = low + max(width, low * 1e-6)
        found = ticks(low, high, about)
        self.assertTrue(len(found) <= about + 2)
        slack = (high - low) * 1e-6
        for value in found:
            self.assertTrue(low - slack <= value <= high + slack)
        for before, after in pairwise(found):
            step = after - before
            digits = f"{step:.3e}".split("e")[0]
            self.assertIn(digits, ("1.000", "2.000", "5.000"))

    @given(st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(0, 20)), max_size=60))
    @example([(1, 5)] * (MAX_LANES + 3))
    def test_spans_lie_apart_while_there_is_room(self, drawn: list[Any]) -> None:
        found = [
            Span(begin, None if lasts is None else begin + lasts, "")
            for begin, lasts in sorted(drawn, key=lambda each: each[0])
        ]
        lanes = plots._lanes(found)
        self.assertTrue(all(lane < MAX_LANES for lane in lanes))
        for lane in range(MAX_LANES - 1):
            mine = [span for span, place in zip(found, lanes, strict=True) if place == lane]
            for before, after in pairwise(mine):
                self.assertGreater(
                    after.begin, before.begin if before.until is None else before.until
                )

    def test_many_columns_are_one_outline(self) -> None:
        few = [Bar(f"n{number}", number) for number in range(MAX_TOLD)]
        many = [*few, Bar("one more", 1)]
        for found, boxes, paths in ((few, MAX_TOLD, 0), (many, 0, 1)):
            tree = ElementTree.fromstring(columns("x", "x", "x", found))
            tags = [each.tag.partition("}")[2] for each in tree.iter()]
            self.assertEqual((tags.count("rect"), tags.count("path")), (boxes, paths))
