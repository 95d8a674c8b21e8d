"""A real daemon is asked how it is, by those who watch over it."""

from __future__ import annotations

import os
import signal

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import TWISTD, Done, Mesh, alive, run, wait_for


class DaemonTests(SynchronousTestCase):
    def test_one_that_has_forked_tells_of_the_process_that_runs(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        node = mesh.node("a")
        done = run(*TWISTD, "--pidfile=d.pid", "--logfile=d.log", *node.command(), home=node.home)
        self.assertEqual(done, Done(0, "", ""))
        pid = int((node.home / "d.pid").read_text())
        try:
            node.wait_ready()
            for path in ("/v1/health", "/v1/ready"):
                self.assertEqual(node.ask("GET", path, Authorization=None).status, 200)
            self.assertEqual(node.ask("GET", "/metrics", Authorization=None).status, 401)

            def told() -> dict[str, float]:
                text = node.ask("GET", "/metrics").body.decode("utf-8")
                return {
                    sample.name: sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                }

            samples = wait_for(
                "look at the event loop",
                lambda: seen if (seen := told())["meshkit_node_loop_lag_seconds_count"] else None,
            )
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            # In ticks, which are whole: their sum in seconds depends on how it was added up.
            a_second = os.sysconf("SC_CLK_TCK")
            told_of = round(samples["process_cpu_seconds_total"] * a_second)
            more = int(fields[11]) + int(fields[12]) - told_of
            self.assertLessEqual(0, more)
            self.assertLess(more, 5 * a_second)
            self.assertGreater(samples["process_resident_memory_bytes"], 10e6)
            self.assertEqual(samples["meshkit_node_ready"], 1)
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_for(f"end of {pid}", lambda: not alive(pid))
