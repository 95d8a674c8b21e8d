"""
That the bench counts right and knows what it can do.  No speed is judged here, and no
process is started: tests/process does that.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.transports import connect_protocols
from tests.bench import auditing, kademlia, passes, repairing, sim, storing
from tests.bench.__main__ import BENCHES, chosen, parser
from tests.bench.children import ChildFailed
from tests.bench.contenders import Contender, Program, absences
from tests.bench.figures import percentile, ratio, spread, table
from tests.bench.peers import plain_audits
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


class StoreTests(SynchronousTestCase):
    def store(self, name: str, **figures: float) -> storing.Store:
        made = storing.Store(name, None, foreign=name != "ours")
        for key, value in figures.items():
            made.figures[key.replace("_", " ")].append(value)
        return made

    def cells(self, *stores: storing.Store) -> dict[str, list[str]]:
        rows = storing.render("", list(stores)).splitlines()[2:]
        cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if "|" in row]
        return {head: rest for head, *rest in cells}

    def test_more_megabytes_and_less_milliseconds_are_better(self) -> None:
        cells = self.cells(
            self.store("ours", put=200.0, small_put=10.0),
            self.store("theirs", put=100.0, small_put=20.0),
        )
        self.assertEqual(cells["put 64 MiB, MB/s"][2], "2.00 [2.00..2.00]")
        self.assertEqual(cells["put 1 MiB, ms a file"][2], "2.00 [2.00..2.00]")

    def test_who_is_not_installed_is_absent_and_told_of(self) -> None:
        theirs = self.store("theirs")
        with ExitStack() as stack:
            theirs.start(stack, Path("nowhere"))
        theirs.measure(Path("nowhere"))
        told = storing.render("", [self.store("ours", put=1.0), theirs])
        self.assertIn("\nabsent: theirs: it is not installed", told)
        self.assertIn("absent", told.splitlines()[2])

    def test_what_comes_back_is_compared(self) -> None:
        class Forgetful:
            def put(self, path: Path) -> str:
                return str(path.stat().st_size)

            def pids(self) -> list[int]:
                return []

            def get(self, capability: str, path: Path) -> None:
                path.write_bytes(bytes(int(capability)))

        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name)
        for foreign in (True, False):
            store = storing.Store("it", lambda _: nullcontext(Forgetful()), foreign=foreign)
            with ExitStack() as stack:
                store.start(stack, folder)
                if foreign:
                    store.measure(folder)
                else:
                    # Ours may not fail.
                    self.assertRaises(ChildFailed, store.measure, folder)
            self.assertEqual(store.figures, {})
        self.assertEqual(store.absent, None)


def cells_of(text: str) -> dict[str, list[str]]:
    """The rows of a table by their first cells, without the two lines of its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {head: rest for head, *rest in rows}


class RepairTests(SynchronousTestCase):
    class Session:
        """Has one file, and shares of a megabyte of it."""

        def __init__(self, told: Any = None, spoil: bool = False) -> None:
            self.told = told
            self.spoil = spoil
            self.done: list[tuple[str, list[int]]] = []

        def put(self, path: Path) -> str:
            self.text = path.read_bytes()
            return "it"

        def get(self, capability: str, path: Path) -> None:
            path.write_bytes(self.text[1:] if self.spoil else self.text)

        def pids(self) -> list[int]:
            return []

        def lose(self, capability: str, numbers: range) -> int:
            self.done.append(("lose", list(numbers)))
            return 1_000_000 * len(numbers)

        def repair(self, capability: str, numbers: range) -> Any:
            self.done.append(("repair", list(numbers)))
            return self.told

    def mend(self, session: Any, foreign: bool = False) -> repairing.Mender:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        mender = repairing.Mender("it", lambda _: nullcontext(session), foreign=foreign)
        with ExitStack() as stack:
            mender.start(stack, Path(temporary.name))
            mender.mend(Path(temporary.name), 3, 1_000)
        self.assertEqual(list(Path(temporary.name).iterdir()), [])
        return mender

    def test_the_first_shares_are_lost_and_what_is_made_anew_is_counted_for_each_second(
        self,
    ) -> None:
        session = self.Session({"moved": 11, "least": 10})
        mender = self.mend(session)
        self.assertEqual(session.done, [("lose", [0, 1, 2]), ("repair", [0, 1, 2])])
        (seconds,), (rate,) = mender.figures["seconds"], mender.figures["rate"]
        self.assertAlmostEqual(rate * seconds, 3.0)
        self.assertEqual(mender.figures["moved"], [1.1])
        self.assertIn("1.1000 [1.1000..1.1000] of the least", repairing.render("", [mender]))

    def test_what_comes_back_after_a_repair_is_compared(self) -> None:
        with self.assertRaisesRegex(ChildFailed, "not what was stored"):
            self.mend(self.Session(spoil=True))

    def test_who_needs_less_time_and_makes_more_anew_is_better(self) -> None:
        ours, theirs = (repairing.Mender(name, None) for name in ("ours", "theirs"))
        for mender, seconds in ((ours, 1.0), (theirs, 2.0)):
            mender.figures["seconds"].append(seconds)
            mender.figures["rate"].append(10 / seconds)
        cells = cells_of(repairing.render("", [ours, theirs]))
        self.assertEqual(cells["s"][2], "2.00 [2.00..2.00]")
        self.assertEqual(cells["MB made anew a second"][2], "2.00 [2.00..2.00]")


class _Asked:
    """A child that answers."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.pid = 0

    def ask(self, job: str, **how: Any) -> Any:
        self.asked.append((job, how))
        if self.answer is None:
            raise ChildFailed("it ended")
        return self.answer


class AuditTests(SynchronousTestCase):
    full = auditing.PACES[2]

    def auditors(self, name: str, child: Any, foreign: bool = False) -> auditing.Auditors:
        how = {"remote": True} if foreign else {}
        made = auditing.Auditors(name, lambda _stack, _folder: [child], how, foreign=foreign)
        with ExitStack() as stack:
            made.start(stack, Path("nowhere"))
        return made

    def takes_processors(self, *seconds: float) -> None:
        """What is read for a process, one time after the other."""
        times = iter(seconds)
        self.patch(auditing, "cpu_seconds", lambda _: next(times))

    def test_shares_are_counted_for_each_second_of_the_clock_and_of_processors(self) -> None:
        self.takes_processors(1.0, 3.0)
        made = self.auditors("it", _Asked({"audited": 600, "seconds": 1.5}))
        made.measure(self.full, auditing.MIB, 1.0)
        key = self.full.name, auditing.MIB
        self.assertEqual((made.figures[key], made.cpu[key]), ([400.0], [300.0]))

    def test_nothing_that_warms_up_counts(self) -> None:
        child = _Asked({"audited": 1, "seconds": 1.0})
        self.takes_processors(*range(100))
        made = self.auditors("it", child)
        made.warm_up(auditing.MIB, 0.1)
        self.assertEqual([how["batch"] for _, how in child.asked], [auditing.SHARES])
        self.assertFalse(any(made.figures.values()) or any(made.cpu.values()))

    def test_others_are_not_asked_for_what_they_cannot_do_or_take_minutes_for(self) -> None:
        child = _Asked({"audited": 1, "seconds": 1.0})
        self.takes_processors(*range(100))
        made = self.auditors("theirs", child, foreign=True)
        for size in auditing.SIZES:
            for pace in auditing.PACES:
                made.measure(pace, size, 0.1)
        self.assertEqual([how["inFlight"] for _, how in child.asked], [1, 16, 1, 16, 1])

    def test_ours_may_not_fail_and_theirs_are_absent_then(self) -> None:
        with self.assertRaises(ChildFailed):
            self.auditors("ours", _Asked()).look(auditing.MIB)
        theirs = self.auditors("theirs", _Asked(), foreign=True)
        theirs.look(auditing.MIB)
        told = auditing.render([auditing.Auditors("ours", None), theirs])
        self.assertIn("\nabsent: theirs: it ended", told)

    def test_who_audits_half_as_many_is_half_as_good(self) -> None:
        ours, theirs = (auditing.Auditors(name, None) for name in ("ours", "theirs"))
        for size in auditing.SIZES:
            for made, rate in ((ours, 200.0), (theirs, 100.0)):
                made.figures[self.full.name, size].append(rate)
        cells = cells_of(auditing.render([ours, theirs]))["theirs"]
        self.assertEqual(cells[4:6], ["100 [100..100]", "2.00 [2.00..2.00]"])
        self.assertEqual(cells[6], "-; -; -")

    def test_the_ceiling_looks_at_leaves_and_sees_one_that_was_changed(self) -> None:
        sizes = (1, 4_096, 10_240, 70_000)
        for changed in (False, True):
            data = {size: bytearray(size) for size in sizes}
            shows = plain_audits._Shows(
                {
                    (size, 0): lambda length, at, all_of_it=data[size]: bytes(
                        all_of_it[at : at + length]
                    )
                    for size in sizes
                }
            )
            asks = plain_audits._Asks()
            wire = connect_protocols(asks, shows)
            plain = plain_audits._Plain(None, asks)
            for size in sizes:
                if changed:
                    data[size][:] = bytes([1]) * size
                self.successResultOf(Deferred.fromCoroutine(plain.look(size, 1)))
                asked = Deferred.fromCoroutine(plain._ask(3))
                wire.pump()
                if changed:
                    self.failureResultOf(asked, RuntimeError)
                else:
                    self.successResultOf(asked)


class PassTests(SynchronousTestCase):
    def passes(self, name: str, objects: int, seconds: float) -> passes.Passes:
        made = passes.Passes(name, objects, None, foreign=name != "ours")
        made.seconds.append(seconds)
        made.cpu.append(seconds)
        return made

    def test_who_needs_twice_as_long_for_as_many_is_half_as_good(self) -> None:
        text = passes.render(
            [
                self.passes("ours", 1_000, 2.0),
                self.passes("theirs", 1_000, 4.0),
                self.passes("more of ours", 5_000, 10.0),
            ]
        )
        cells = cells_of(text)
        self.assertEqual(cells["ours"][2], "4,500 [4,500..4,500]")
        self.assertEqual(cells["theirs"][-1], "2.00 [2.00..2.00]")
        self.assertEqual(cells["more of ours"][-1], "")

    def test_one_that_fails_is_absent_if_it_is_not_ours(self) -> None:
        for name in ("ours", "theirs"):
            made = self.passes(name, 10, 1.0)
            made._child = _Asked()  # type: ignore[assignment]
            self.patch(passes, "cpu_seconds", lambda _: 1.0)
            if name == "ours":
                self.assertRaises(ChildFailed, made.go)
            else:
                made.go()
                self.assertEqual((made.seconds, made.absent), ([], "it ended"))
                self.assertIn("\nabsent: theirs: it ended", passes.render([made]))
