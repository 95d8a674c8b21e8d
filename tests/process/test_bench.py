"""
The bench's children as processes: they do jobs, and none outlives the bench.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.bench import auditing, children, passes, repairing, storing
from tests.bench.__main__ import BENCHES
from tests.bench.children import ChildFailed, child, python
from tests.process.mesh import wait_for

DEAF = "import sys, time; sys.stderr.write('deaf'); sys.stderr.flush(); time.sleep(600)"


def alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class ChildTests(SynchronousTestCase):
    def test_a_transfer_between_two_of_them_over_each_kind_of_link(self) -> None:
        for kind in ("channel", "tcp", "bare"):
            with (
                child("server", python("links", kind)) as server,
                child("client", python("links", kind)) as client,
            ):
                client.ask("connect", address=server.ask("listen"))
                sent = client.ask("send", count=1 << 20, write=1 << 16)
                self.assertGreater(sent["seconds"], 0)
                self.assertEqual(client.ask("hold", address=server.ask("listen"), count=20), 20)

    def test_a_channel_straight_and_through_a_relay(self) -> None:
        with child("relay", python("tunnels", "relay")) as relay:
            port = relay.ask("serve")["port"]
            for kind in ("direct", "relay"):
                with (
                    child("server", python("tunnels", kind)) as server,
                    child("client", python("tunnels", kind)) as client,
                ):
                    client.ask("connect", port=server.ask("take", port=port)["port"])
                    sent = client.ask("send", count=1 << 20, write=1 << 16)
                    self.assertGreater(sent["seconds"], 0)

    def test_a_network_of_the_hash_table_in_memory_and_on_disks(self) -> None:
        for disk in (False, True):
            with child("network", python("hash_tables")) as network:
                network.ask("start", nodes=4, asking=2, disk=disk)
                for what in ("get", "put", "absent"):
                    done = network.ask("latencies", what=what, count=3)
                    self.assertEqual(len(done["ms"]), 3)
                    self.assertGreaterEqual(done["questions"], 3)
                self.assertGreater(network.ask("rate", in_flight=2, seconds=0.1), 0)

    def test_files_are_stored_and_come_back(self) -> None:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            for store in (storing.ours(2, 3), storing.plain_parts(2, 3)):
                store.start(stack, folder)
                store.measure(folder, large=3_000_000, small=1_000, files=2)
                self.assertGreater(min(store.figures["put"] + store.figures["small get"]), 0)

    def test_shares_are_lost_and_made_anew(self) -> None:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            for mender in (repairing.ours(2, 4, 1), repairing.plain_parts(2, 4, 1)):
                mender.start(stack, folder)
                mender.mend(folder, 1, 3_000_000)
                self.assertGreater(min(mender.figures["rate"]), 0)

    def test_shares_are_audited_in_one_process_and_between_two(self) -> None:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            self.patch(auditing, "SHARES", 20)
            self.patch(auditing, "SIZES", (10_240, 70_000))
            for number, each in enumerate(auditing.all_of_them()):
                if not each.foreign:
                    folder = Path(name) / str(number)
                    folder.mkdir()
                    each.start(stack, folder)
                    for size in auditing.SIZES:
                        each.look(size)
                        each.measure(auditing.Pace("it", 7, 3), size, 0.1)
                        self.assertGreater(min(each.figures["it", size]), 0)

    def test_a_pass_audits_all_shares_of_all_objects(self) -> None:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            made = passes.ours(30)
            made.start(stack, Path(name))
            made.go()
            made.go()
            self.assertEqual(len(made.seconds), 2)

    def test_one_that_fails_tells_why_and_can_be_asked_again(self) -> None:
        with child("client", python("links", "tcp")) as client:
            with self.assertRaisesRegex(ChildFailed, "client failed at 'connect'(.|\n)*refused"):
                client.ask("connect", address={"port": 1})
            self.assertGreater(client.ask("cpu"), 0)

    def test_one_that_does_not_answer_is_given_up_and_killed(self) -> None:
        self.patch(children, "STOP_SECONDS", 0.1)
        with child("it", [sys.executable, "-c", DEAF]) as deaf:
            with self.assertRaisesRegex(ChildFailed, "it did not do 'cpu' in time(.|\n)*deaf"):
                deaf.ask("cpu", patience=1)
            pid = deaf._process.pid
        self.assertFalse(alive(pid))

    def test_one_that_ends_is_told_of_with_its_last_words(self) -> None:
        with child("it", [sys.executable, "-c", "input(); raise SystemExit('no more')"]) as brief:
            with self.assertRaisesRegex(ChildFailed, "it ended at the job 'cpu':\nno more"):
                brief.ask("cpu")
            brief._process.wait(30)
            with self.assertRaisesRegex(ChildFailed, "gone before the job 'cpu':\nno more"):
                brief.ask("cpu")


class BenchTests(SynchronousTestCase):
    def test_nothing_outlives_a_bench_that_is_killed(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            bench = subprocess.Popen(
                [sys.executable, "-m", "tests.bench", "--quick", "rpc"],
                cwd=children.ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.addCleanup(bench.kill)
            tasks = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
            pids = wait_for("children", partial(_two, tasks))
            bench.send_signal(number)
            bench.wait(30)
            wait_for("end of all", partial(_none_of, pids))

    def test_a_bench_by_name(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench", "--quick", "handshakes"],
            cwd=children.ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"(?m)^\| meshkit, SecureChannel, 16 at once +\| [\d,]+ \[")
        self.assertNotIn("## Calls", done.stdout)

    def test_a_misspelt_name_is_a_usage_error(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench", "bulc"],
            cwd=children.ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("choose from " + ", ".join(BENCHES), done.stderr)


def _two(children: Path) -> list[int] | None:
    pids = [int(each) for each in children.read_text().split()]
    return pids if len(pids) >= 2 else None


def _none_of(pids: list[int]) -> bool:
    return not any(map(alive, pids))
