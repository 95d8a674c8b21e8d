"""What is counted is told as Prometheus understands it, and nobody can make it grow."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import REGISTRY
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import MeshkitError
from meshkit.interfaces import IMetrics
from meshkit.parts import PartContext, _Uncounted
from meshkit.runtime.metrics import CODES, MAX_SERIES, OTHER, Metrics


class MetricsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()
        self.part = self.metrics.part("feed")

    def told(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample, by name and labels, as another program reads it."""
        text = self.metrics.exposition().decode("utf-8")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def one(self, name: str, **labels: str) -> float:
        return self.told()[name, tuple(sorted(labels.items()))]


class CounterTests(MetricsCase):
    def test_a_count_is_told_under_the_name_of_its_part(self) -> None:
        counter = self.part.counter("messages_total", "Messages.")
        self.assertEqual(self.told(), {("meshkit_feed_messages_total", ()): 0})
        counter.add()
        counter.add(by=2)
        self.assertEqual(self.told(), {("meshkit_feed_messages_total", ()): 3})
        text = self.metrics.exposition().decode()
        self.assertIn("# HELP meshkit_feed_messages_total Messages.\n", text)
        self.assertIn("# TYPE meshkit_feed_messages_total counter\n", text)

    def test_labels_are_kept_apart(self) -> None:
        counter = self.part.counter("calls_total", "Calls.", door={"rest", "mcp"}, code=CODES)
        counter.add("rest", "OK")
        counter.add("mcp", "NOT_FOUND")
        counter.add("mcp", "NOT_FOUND")
        name = "meshkit_feed_calls_total"
        self.assertEqual(self.one(name, door="rest", code="OK"), 1)
        self.assertEqual(self.one(name, door="mcp", code="NOT_FOUND"), 2)

    def test_a_value_that_was_not_declared_is_another(self) -> None:
        counter = self.part.counter("calls_total", "Calls.", door={"rest"}, code=CODES)
        for evil in ("a", 'b"\n# HELP', "\x00", "@key.ed25519", "r" * 10_000):
            counter.add(evil, evil)
        counter.add("rest", evil)
        name = "meshkit_feed_calls_total"
        self.assertEqual(
            self.told(),
            {
                (name, (("code", OTHER), ("door", OTHER))): 5,
                (name, (("code", OTHER), ("door", "rest"))): 1,
            },
        )

    def test_beyond_a_number_of_combinations_all_are_others(self) -> None:
        everything = {str(number) for number in range(10 * MAX_SERIES)}
        counter = self.part.counter("calls_total", "Calls.", value=everything)
        histogram = self.part.histogram("calls_seconds", "Calls.", (1.0,), value=everything)
        self.part.gauge(
            "now", "Now.", lambda: dict.fromkeys(sorted(everything), 1), value=everything
        )
        for name in sorted(everything):
            counter.add(name)
            histogram.observe(0.5, name)
        for samples in (counter.samples(), histogram.samples()):
            self.assertEqual(len(samples), MAX_SERIES + 1)
        self.assertEqual(counter.samples()[(OTHER,)], 9 * MAX_SERIES)
        self.assertEqual(self.one("meshkit_feed_now", value=OTHER), 9 * MAX_SERIES)

    def test_as_many_values_as_labels_have_to_be_given(self) -> None:
        counter = self.part.counter("calls_total", "Calls.", door={"rest"})
        for values in ((), ("rest", "rest")):
            with self.assertRaises(ValueError):
                counter.add(*values)


class HistogramTests(MetricsCase):
    def test_buckets_are_cumulative_and_include_their_bound(self) -> None:
        histogram = self.part.histogram("wait_seconds", "Waiting.", (0.1, 1.0))
        for value in (0.0, 0.1, 0.5, 1.0, 7.0):
            histogram.observe(value)
        name = "meshkit_feed_wait_seconds"
        self.assertEqual(
            self.told(),
            {
                (f"{name}_bucket", (("le", "0.1"),)): 2,
                (f"{name}_bucket", (("le", "1.0"),)): 4,
                (f"{name}_bucket", (("le", "+Inf"),)): 5,
                (f"{name}_count", ()): 5,
                (f"{name}_sum", ()): 8.6,
            },
        )

    @given(
        st.lists(st.floats(0, 100), max_size=30),
        st.lists(st.floats(0.01, 50), min_size=1, max_size=8, unique=True),
    )
    def test_it_says_how_many_were_not_larger(self, seen: list[float], ends: list[float]) -> None:
        self.setUp()
        histogram = self.part.histogram("wait_seconds", "Waiting.", sorted(ends))
        for value in seen:
            histogram.observe(value)
        for end, count in zip([*sorted(ends), None], self.cumulative(), strict=True):
            self.assertEqual(count, sum(end is None or value <= end for value in seen))

    def cumulative(self) -> list[float]:
        return [v for (name, _), v in self.told().items() if name.endswith("_bucket")]

    def test_bounds_have_to_ascend(self) -> None:
        with self.assertRaises(ValueError):
            self.part.histogram("wait_seconds", "Waiting.", (1.0, 0.1))


class ReadTests(MetricsCase):
    """Figures that parts keep anyway."""

    def test_they_are_asked_for_when_somebody_looks(self) -> None:
        asked: list[int] = []

        def read() -> int:
            asked.append(1)
            return len(asked)

        self.part.gauge("size_bytes", "Size.", read)
        self.assertEqual(asked, [])
        self.assertEqual(self.one("meshkit_feed_size_bytes"), 1)
        self.assertEqual(self.one("meshkit_feed_size_bytes"), 2)

    def test_a_mapping_gives_one_for_each_value(self) -> None:
        refused = {"NOT_FOUND": 3, "no such code": 1, "nor this": 1}
        self.part.count("refused_total", "Refused.", lambda: refused, code=CODES)
        self.assertEqual(self.one("meshkit_feed_refused_total", code="NOT_FOUND"), 3)
        self.assertEqual(self.one("meshkit_feed_refused_total", code=OTHER), 2)

    def test_one_that_cannot_be_read_is_logged_and_hides_no_other(self) -> None:
        def broken() -> int:
            raise LookupError("lost")

        self.part.gauge("lost", "Lost.", broken)
        self.part.gauge("found", "Found.", lambda: 1)
        self.assertEqual(self.told(), {("meshkit_feed_found", ()): 1})
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)


class DeclarationTests(MetricsCase):
    def test_names_have_a_form(self) -> None:
        def read() -> int:
            return 0

        for declare in (
            lambda: self.part.counter("messages", "Not _total."),
            lambda: self.part.count("messages", "Not _total.", read),
            lambda: self.part.gauge("messages_total", "Does fall.", read),
            lambda: self.part.histogram("wait_ms", "No base unit."),
            lambda: self.part.gauge("Size", "Capital.", read),
            lambda: self.part.gauge("a__b", "Two in a row.", read),
            lambda: self.part.gauge("", "Nothing.", read),
            lambda: self.part.gauge("size", "", read),
        ):
            with self.assertRaises(ValueError):
                declare()
        self.assertEqual(self.metrics.names, [])

    def test_one_name_is_taken_once(self) -> None:
        self.part.counter("a_total", "A.")
        self.metrics.part("gossip").counter("a_total", "A.")
        with self.assertRaises(ValueError):
            self.part.count("a_total", "A.", lambda: 0)
        with self.assertRaises(ValueError):
            self.part.gauge("a", "A.", lambda: 0)

    def test_every_code_of_an_error_is_one(self) -> None:
        self.assertIn("OK", CODES)
        self.assertNotIn("LATER", CODES)

        class Later(MeshkitError):
            code = "LATER"

        self.assertIn(Later.code, CODES)
        self.assertNotIn("", CODES)

    def test_a_node_counts_apart_from_others_and_from_the_process(self) -> None:
        before = list(REGISTRY.collect())
        self.part.counter("a_total", "A.").add()
        other = Metrics()
        other.part("feed").counter("a_total", "A.")
        self.assertEqual(self.one("meshkit_feed_a_total"), 1)
        self.assertIn(b"meshkit_feed_a_total 0.0\n", other.exposition())
        self.assertEqual(
            [family.name for family in REGISTRY.collect()], [family.name for family in before]
        )

    def test_collectors_of_others_are_told_as_well(self) -> None:
        from prometheus_client.core import GaugeMetricFamily

        class Further:
            def collect(self) -> list[Any]:
                return [GaugeMetricFamily("process_moons", "Moons.", 2)]

        self.metrics = Metrics(lambda: [Further()])
        self.assertEqual(self.told(), {("process_moons", ()): 2})

    def test_parts_are_given_one_or_where_nobody_watches_none(self) -> None:
        self.assertTrue(verifyObject(IMetrics, self.part))
        self.assertTrue(verifyObject(IMetrics, _Uncounted()))
        context: Any = PartContext(*[None] * 16)
        metrics = context.metrics
        metrics.counter("a_total", "A.", code=CODES).add("OK", by=3)
        metrics.histogram("a_seconds", "A.").observe(1.0)
        metrics.count("b_total", "B.", lambda: 0)
        metrics.gauge("c", "C.", lambda: 0)


class HostileTests(MetricsCase):
    def test_whatever_is_said_the_text_stays_small_and_can_be_read(self) -> None:
        rng = Random(1)
        counter = self.part.counter("calls_total", "Calls.", operation={"a", "b"}, code=CODES)
        histogram = self.part.histogram("calls_seconds", "Calls.", operation={"a", "b"})
        for _ in range(2_000):
            text = rng.randbytes(rng.randrange(40)).decode("latin-1")
            counter.add(rng.choice(["a", text]), text)
            histogram.observe(rng.random(), text)
        self.assertLessEqual(len(self.told()), 2 + 2 * 16)
        self.assertLess(len(self.metrics.exposition()), 4_000)
