"""
That the bench counts right and knows what it can do.  No speed is judged here, and no
process is started: tests/process does that.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.transports import connect_protocols
from tests.bench import kademlia, sim
from tests.bench.__main__ import BENCHES, chosen, parser
from tests.bench.children import ChildFailed
from tests.bench.contenders import Contender, Program, absences
from tests.bench.figures import percentile, ratio, spread, table
from tests.bench.peers.transfers import BareSender, BareSink, Sender, Sink


class FigureTests(SynchronousTestCase):
    def test_a_spread_is_the_median_between_its_extremes(self) -> None:
        self.assertEqual(spread([3.0, 1.0, 2_000.0], "/s"), "3 [1..2,000] /s")
        self.assertEqual(spread([0.25], digits=2), "0.25 [0.25..0.25]")

    def test_nothing_measured_is_absent_and_so_is_what_is_compared_with_it(self) -> None:
        self.assertEqual(spread([]), "absent")
        self.assertEqual(ratio([1.0], []), "absent")
        self.assertEqual(ratio([], [1.0]), "absent")

    def test_a_ratio_is_the_median_over_the_rounds_and_not_of_the_medians(self) -> None:
        self.assertEqual(ratio([1.0, 10.0, 100.0], [1.0, 2.0, 100.0]), "1.00 [1.00..5.00]")

    def test_rounds_that_do_not_belong_together_are_not_compared(self) -> None:
        with self.assertRaises(ValueError):
            ratio([1.0, 2.0], [1.0])

    def test_the_share_that_a_percentile_says_does_not_exceed_it(self) -> None:
        values = [float(n) for n in range(100, 0, -1)]
        self.assertEqual(percentile(values, 0.5), 51.0)
        self.assertEqual(percentile(values, 0.99), 100.0)
        self.assertEqual(percentile([7.0], 0.99), 7.0)

    def test_a_table_is_aligned(self) -> None:
        self.assertEqual(
            table(["", "b"], [["long", "1"], ["x", "22"]]).splitlines(),
            ["|      | b  |", "|------|----|", "| long | 1  |", "| x    | 22 |"],
        )


class WorldTests(SynchronousTestCase):
    def test_a_delivery_is_to_one_node_that_did_not_publish_it(self) -> None:
        def phase(cpu: float, virtual: float) -> dict[str, float]:
            return {"cpu": cpu, "virtual": virtual, "events": 3_000}

        run = {
            "memory": 1.5,
            "start": phase(0.22, 5.0),
            "idle": phase(0.5, 60.0),
            "messages": phase(2.0, 10.0),
        }
        self.assertEqual(
            [cell.partition(" ")[0] for cell in sim.row(11, 100, [run])],
            ["11", "100", "20", "1.50", "120", "5.00", "1,500", "2.00"],
        )


class NetworkTests(SynchronousTestCase):
    def network(self, name: str, **times: float) -> kademlia.Contender:
        made = kademlia.Contender(name, [], 50)
        for key, value in times.items():
            made.figures["rate" if key == "rate" else (key, 0.5)].append(value)
        return made

    def cells(self, *contenders: kademlia.Contender) -> dict[str, list[str]]:
        rows = kademlia.render(list(contenders)).splitlines()[2:]
        cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if "|" in row]
        return {head: rest for head, *rest in cells}

    def test_who_takes_half_the_time_or_does_twice_as_many_is_twice_as_good(self) -> None:
        cells = self.cells(
            self.network("ours", get=2.0, rate=200.0), self.network("theirs", get=4.0, rate=100.0)
        )
        self.assertEqual(cells["get, p50, ms"][2], "2.00 [2.00..2.00]")
        self.assertEqual(cells["gets a second, 8 in flight"][2], "2.00 [2.00..2.00]")

    def test_who_is_not_installed_is_absent_and_so_is_what_it_is_compared_with(self) -> None:
        theirs = kademlia.Contender("theirs", None, 50)
        with ExitStack() as stack:
            theirs.start(stack)
        theirs.operate("get", 10)
        theirs.rate(1.0)
        ours = self.network("ours", get=2.0)
        self.assertEqual(self.cells(ours, theirs)["get, p50, ms"][1:], ["absent", "absent"])
        told = kademlia.render([ours, theirs])
        self.assertIn("\nabsent: theirs: it is not installed", told)

    def test_of_those_on_disks_only_what_was_measured_is_told(self) -> None:
        ours, disks = self.network("ours", get=2.0, put=4.0), self.network("disks", put=8.0)
        disks.disk = True
        cells = self.cells(ours, disks)
        self.assertEqual(cells["get, p50, ms"][1:], ["", ""])
        self.assertEqual(cells["put, p50, ms"][2], "2.00 [2.00..2.00]")

    def test_ours_may_not_fail_and_theirs_has_no_figures_then(self) -> None:
        class Broken:
            def ask(self, job: str, **how: Any) -> Any:
                raise ChildFailed("it ended")

        broken = self.network("broken", get=2.0)
        broken._child = Broken()  # type: ignore[assignment]
        broken.foreign = False
        with self.assertRaises(ChildFailed):
            broken.operate("get", 10)
        broken.foreign = True
        broken.operate("get", 10)
        self.assertEqual((broken.absent, dict(broken.figures)), ("it ended", {}))


class CommandTests(SynchronousTestCase):
    def test_all_benches_are_named_by_help_and_run_without_a_name(self) -> None:
        text = parser().format_help()
        for name in BENCHES:
            self.assertIn(name, text)
        self.assertEqual(chosen([]), list(BENCHES))

    def test_those_that_are_named_run_once_and_in_order(self) -> None:
        arguments = parser().parse_args(["--quick", "rpc", "bulk", "rpc"])
        self.assertTrue(arguments.quick)
        self.assertEqual(chosen(arguments.names), ["bulk", "rpc"])

    def test_a_misspelt_one_is_refused_with_those_there_are(self) -> None:
        with self.assertRaisesRegex(ValueError, "'bulc': choose from .*bulk"):
            chosen(["bulc"])


def _fail(it: Contender[Any]) -> None:
    raise ChildFailed("it ended")


def _measure(it: Contender[Any]) -> None:
    it.figures["x"].append(1.0)


class ContenderTests(SynchronousTestCase):
    def test_what_fails_of_others_has_no_figures_and_the_reason_is_told(self) -> None:
        theirs: Contender[str] = Contender(Program("theirs", [], foreign=True))
        for step in (_measure, _fail, _measure):
            theirs.attempt(step)
        self.assertEqual(theirs.figures["x"], [])
        self.assertEqual(absences([theirs]), "\nabsent: theirs: it ended")

    def test_ours_may_not_fail(self) -> None:
        ours: Contender[str] = Contender(Program("ours", []))
        with self.assertRaises(ChildFailed):
            ours.attempt(_fail)
        self.assertEqual(absences([ours]), "")


class TransferTests(SynchronousTestCase):
    def transfer(self, sender: Sender, sink: Sink, count: int, write: int) -> None:
        wire = connect_protocols(sender, sink)
        for _ in range(2):  # a connection is used again and again
            arrived = sender.send(count, write)
            self.assertNoResult(arrived)
            wire.pump()
            self.successResultOf(arrived)

    def test_it_is_over_when_the_other_side_has_all_of_it(self) -> None:
        self.transfer(Sender(), Sink(), 1 << 20, 1 << 16)

    def test_the_ceiling_boxes_and_opens_what_it_sends(self) -> None:
        for write in (1024, 1 << 16):
            self.transfer(BareSender(), BareSink(), 1 << 18, write)

    def test_the_ceiling_opens_no_box_that_was_changed(self) -> None:
        class Liar(BareSender):
            def _boxes(self, data: bytes) -> bytes:
                return super()._boxes(data)[:-1] + b"?"

        with self.assertRaisesRegex(RuntimeError, "does not open"):
            self.transfer(Liar(), BareSink(), 1 << 12, 1 << 12)
