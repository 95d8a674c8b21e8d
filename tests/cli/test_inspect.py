"""Tests of C{meshkit inspect}, on the database of passes that were made."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import Any

from click.testing import CliRunner, Result

from meshkit.audit import decisions, state
from meshkit.audit.decisions import Policy
from meshkit.audit.schema import MIGRATIONS
from meshkit.cli.main import cli
from meshkit.errors import (
    NewerSchema,
    NotADatabase,
    NotFound,
    ObjectAmbiguous,
    TraceUnusable,
)
from meshkit.runtime.container import DiskFile, migrate
from tests.audit.passes import PassesCase
from tests.runtime.support import scratch

DAY = 86_400


class InspectCase(PassesCase):
    """
    @ivar path: of the database.
    """

    policy = Policy(cooldown=0)

    def make_backing(self) -> DiskFile:
        self.folder = scratch(self)
        self.path = os.path.join(self.folder, "node.db")
        return DiskFile(self.path)

    def inspect(self, *words: str, stdin: bytes | None = None) -> Result:
        arguments = ["-d", self.folder, "inspect", *words]
        return CliRunner().invoke(cli, arguments, input=stdin)

    def good(self, *words: str) -> str:
        done = self.inspect(*words)
        self.assertEqual((done.exit_code, done.exception), (0, None), done.output)
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.good(*words, "--json"))

    def refused(self, kind: type[Exception], *words: str) -> str:
        error = self.inspect(*words).exception
        self.assertIsInstance(error, kind, words)
        return str(error)

    def sql(self, statement: str, *values: object) -> None:
        self.done(self.database.write(lambda connection: connection.execute(statement, values)))

    def content(self) -> dict[str, bytes]:
        found = {}
        for name in sorted(os.listdir(self.folder)):
            with open(os.path.join(self.folder, name), "rb") as file:
                found[name] = file.read()
        return found


class ShowTests(InspectCase):
    def setUp(self) -> None:
        super().setUp()
        self.objects = [self.world.put(seed) for seed in range(3)]
        for number in (0, 1):
            holder = self.world.holder_of(self.objects[0], number)
            holder.shares.discard((self.objects[0].content_id, number))
        self.away = self.world.holder_of(self.objects[2], 5)
        self.away.says = "offline"
        self.run_pass()

    def test_the_last_pass_is_shown_with_what_happened(self) -> None:
        shown = self.good("run")
        for expected in (
            "pass       1, asked for\n",
            "state      done\n",
            "objects    3, of which 0 were not due\n",
            "decided    1 critical, ",
            "repaired   1 objects, 0 could not be\n",
            "placed     2 shares, 0 have to wait\n",
            "share.placed",
            "run.done",
            f"{self.away.key.text}: ",
        ):
            self.assertIn(expected, shown)
        self.assertEqual(shown, self.good("run", "latest"))
        self.assertEqual(shown, self.good("run", "1"))
        self.assertEqual(shown, self.good("run", "--state", self.path))

    def test_the_same_as_json(self) -> None:
        shown = self.json("run")
        self.assertEqual((shown["run"], shown["state"], shown["forced"]), (1, "done", True))
        self.assertEqual(shown["metrics"]["placed"], 2)
        self.assertEqual(shown["metrics"]["recovered"], 0)
        self.assertEqual(shown["policy"]["offline_grace"], 14_400)
        kinds = [each["kind"] for each in shown["events"]]
        self.assertEqual((kinds[0], kinds[-1]), ("run.begun", "run.done"))
        times = [each["at"] for each in shown["events"]]
        self.assertEqual(times, sorted(times))

    def test_only_so_many_events_are_shown_as_are_wanted(self) -> None:
        shown = self.json("run", "--events", "2")["events"]
        self.assertEqual(len(shown), 2)
        self.assertEqual(shown[-1]["kind"], "run.done")
        self.assertIn("Not shown: ", self.good("run", "--events", "2"))
        self.assertEqual(self.json("run", "--events", "0")["events"], [])
        self.assertEqual(self.inspect("run", "--events", "-1").exit_code, 2)

    def test_an_object_is_shown_by_its_id_or_its_beginning(self) -> None:
        whole = self.objects[0].content_id.hex()
        shown = self.good("object", whole[:8].upper())
        for expected in (
            f"object     {whole}\n",
            "state      healthy: nothing is known to be wrong\n",
            "good       6 of 6, and 4 suffice\n",
            "never",  # the two that were made anew
            "object.repaired",
        ):
            self.assertIn(expected, shown)
        found = self.json("object", whole)
        self.assertEqual((found["object"], found["version"]), (whole, 2))
        self.assertEqual(found["shares"][2]["outcome"], "success")
        self.assertEqual({each["run"] for each in found["events"]}, {1})

    def test_an_object_that_is_called_wrongly_is_not_found(self) -> None:
        self.refused(NotFound, "object", "0" * 8)
        for wrong in ("abc", "xyzxyzxyz", "a" * 65):
            self.assertEqual(self.inspect("object", wrong).exit_code, 2)
        twin = bytes.fromhex(self.objects[0].content_id.hex()[:62] + "00")
        self.sql(
            "INSERT INTO audit_objects SELECT ?, run, version, required, total, good, action, "
            "code, reason, urgency, due_at, failures, not_before, repaired_at, shares "
            "FROM audit_objects WHERE content_id = ?",
            twin,
            self.objects[0].content_id,
        )
        self.refused(ObjectAmbiguous, "object", self.objects[0].content_id.hex()[:8])
        self.good("object", twin.hex())

    def test_a_peer_is_shown_with_what_it_has(self) -> None:
        found = self.json("peer", self.away.key.text)
        self.assertIsNotNone(found["away_since"])
        self.assertIn(
            {
                "object": self.objects[2].content_id.hex(),
                "share": 5,
                "outcome": "offline",
                "seen": None,
            },
            found["shares"],
        )
        self.assertEqual({each["kind"] for each in found["events"]}, {"peer.offline"})
        shown = self.good("peer", self.away.key.text)
        self.assertIn("away since", shown)
        self.assertIn("offline", shown)
        stranger = self.world.holders[9].key.text
        self.world.tracked.objects.clear()
        self.sql("DELETE FROM audit_seen")
        self.sql("DELETE FROM audit_objects")
        self.refused(NotFound, "peer", stranger)

    def test_what_is_not_wholly_healthy_is_listed_the_most_urgent_first(self) -> None:
        more = self.world.put(4)
        for number in (2, 3):
            holder = self.world.holder_of(more, number)
            holder.shares.discard((more.content_id, number))
        self.run_pass(repair=False)
        found = self.json("degraded")
        self.assertEqual(found["looked_at"], 4)
        self.assertEqual(found["degraded"], len(found["objects"]))
        urgency = [each["expected_seconds_to_loss"] for each in found["objects"]]
        self.assertEqual(urgency, sorted(urgency))
        self.assertEqual(found["objects"][0]["object"], more.content_id.hex())
        self.assertEqual(len(self.json("degraded", "--limit", "1")["objects"]), 1)
        shown = self.good("degraded")
        self.assertIn("of 4 objects that were looked at are not wholly healthy.", shown)
        self.assertIn(more.content_id.hex()[:16], shown)

    def test_it_is_shown_while_the_node_runs_and_when_it_does_not(self) -> None:
        running = self.json("run")
        before = self.content()
        self.good("degraded")
        self.assertEqual(self.content().keys(), before.keys())
        self.done(self.database.stopService())
        before = self.content()
        self.assertEqual(list(before), ["node.db"])
        for words in (("run",), ("degraded",), ("replay",), ("peer", self.away.key.text)):
            self.good(*words)
        self.assertEqual(self.json("run"), running)
        self.assertEqual(self.content(), before)
        self.database = self.open()

    def test_what_is_shown_while_a_pass_is_under_way_is_what_is_written_down(self) -> None:
        self.world.holders[0].delay = 60.0
        self.done(self.scheduler.run())
        shown = self.json("run")
        self.assertEqual((shown["state"], shown["ended"]), ("running", None))
        self.ended()


class ReplayTests(InspectCase):
    def setUp(self) -> None:
        super().setUp()
        self.objects = [self.world.put(seed, "6+3") for seed in range(12)]
        for seed, tracked in enumerate(self.objects):
            for number in range(seed % 4):
                holder = self.world.holder_of(tracked, number)
                holder.shares.discard((tracked.content_id, number))
        self.run_pass()

    def test_the_decisions_of_a_pass_come_out_the_same_again(self) -> None:
        self.assertEqual(
            self.good("replay"), "Pass 1: decisions made again: 12, different ones: 0.\n"
        )
        found = self.json("replay", "1")
        metrics = self.json("run")["metrics"]
        self.assertEqual((found["run"], found["decisions"], found["differing"]), (1, 12, 0))
        self.assertEqual((found["differences"], found["wrong_figures"]), ([], []))
        self.assertEqual(found["figures"]["placed"], 15)
        self.assertEqual(found["figures"], {name: metrics[name] for name in found["figures"]})

    def test_figures_that_are_not_what_the_trace_comes_to_are_named(self) -> None:
        self.sql(
            "UPDATE audit_runs SET metrics = replace(metrics, '\"placed\":15', '\"placed\":16')"
        )
        done = self.inspect("replay")
        self.assertEqual(done.exit_code, 1)
        self.assertIn("placed is 16 in the figures of the pass, and 15 in its trace", done.stdout)

    def test_code_that_decides_differently_is_found_out_and_the_object_is_named(self) -> None:
        """Somebody has changed the threshold: one share more may be lost."""
        usual = Policy.threshold
        self.patch(Policy, "threshold", lambda *which: usual(*which) - 1)
        done = self.inspect("replay")
        self.assertEqual(done.exit_code, 1)
        # Three had lost two of nine; and for three that had lost more it is said otherwise.
        self.assertIn("Pass 1: decisions made again: 12, different ones: 6.", done.stdout)
        self.assertIn("code was 'below', and would be 'spare'", done.stdout)
        found = json.loads(self.inspect("replay", "--json").stdout)["differences"]
        codes = [each for each in found if each["field"] == "code"]
        self.assertEqual({(each["then"], each["now"]) for each in codes}, {("below", "spare")})
        lost_two = [each for seed, each in enumerate(self.objects) if seed % 4 == 2]
        self.assertEqual(
            {each["object"] for each in codes}, {each.content_id.hex() for each in lost_two}
        )

    def test_another_urgency_is_a_difference_too(self) -> None:
        usual = decisions.expected_seconds_to_loss
        self.patch(decisions, "expected_seconds_to_loss", lambda *given: usual(*given) * 1.000001)
        self.assertEqual(self.inspect("replay").exit_code, 1)

    def test_a_trace_is_printed_and_replayed_from_a_file(self) -> None:
        trace = self.good("run", "--trace")
        self.assertEqual(len(trace.splitlines()), 13)
        for each in trace.splitlines():
            json.loads(each)
        path = os.path.join(self.folder, "trace.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.write(trace)
        self.assertEqual(self.json("replay", "--trace", path)["decisions"], 12)
        piped = self.inspect("replay", "--trace", "-", stdin=trace.encode())
        self.assertEqual(piped.exit_code, 0, piped.output)
        # A fact that was changed afterwards does not lead to the decision that is written there.
        lines = trace.splitlines()
        lines[3] = lines[3].replace('"outcome":"success"', '"outcome":"failure"')
        done = self.inspect("replay", "--trace", "-", stdin="\n".join(lines).encode())
        self.assertEqual(done.exit_code, 1)
        self.assertIn("line 4, object ", done.stdout)

    def test_what_is_no_trace_or_of_another_version_is_refused_by_name(self) -> None:
        trace = self.good("run", "--trace").splitlines()
        for wrong, said in (
            ([trace[0].replace("trace/1", "trace/2"), *trace[1:]], "meshkit-audit-trace/2"),
            (trace[1:], "this is no trace"),
            (["[]"], "this is no trace"),
            ([], "this is no trace"),
            ([trace[0].replace('"run":1', '"run":"x"')], "the first line of the trace is damaged"),
            ([*trace[:3], trace[3][:-9]], "line 4 of the trace is damaged"),
            ([*trace[:3], trace[3].replace('"good"', '"well"')], "line 4 of the trace is damaged"),
        ):
            done = self.inspect("replay", "--trace", "-", stdin="\n".join(wrong).encode())
            self.assertIsInstance(done.exception, TraceUnusable)
            self.assertIn(said, str(done.exception))

    def test_a_trace_that_is_kept_no_more_is_not_found(self) -> None:
        self.sql("DELETE FROM audit_traces")
        self.refused(NotFound, "replay")
        self.refused(NotFound, "run", "--trace")


class MissingTests(InspectCase):
    """What there is to inspect is not there, and nothing is made."""

    VERBS = (("run",), ("degraded",), ("replay",), ("object", "0" * 8))

    def test_a_database_that_is_not_there_is_an_error_and_is_not_made(self) -> None:
        missing = os.path.join(self.folder, "misspelt.db")
        before = sorted(os.listdir(self.folder))
        for words in (*self.VERBS, ("peer", self.world.holders[0].key.text)):
            said = self.refused(NotFound, *words, "--state", missing)
            self.assertIn(missing, said)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_a_folder_that_is_not_there_is_not_made(self) -> None:
        missing = os.path.join(self.folder, "nowhere")
        done = CliRunner().invoke(cli, ["-d", missing, "inspect", "run"])
        self.assertIsInstance(done.exception, NotFound)
        self.assertFalse(os.path.exists(missing))

    def test_what_is_no_database_of_ours_is_refused_and_untouched(self) -> None:
        other = os.path.join(self.folder, "other.db")
        with closing(sqlite3.connect(other)) as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.commit()
        text = os.path.join(self.folder, "text.db")
        with open(text, "wb") as file:
            file.write(b"hello" * 100)
        for path in (other, text):
            with open(path, "rb") as file:
                before = file.read()
            for words in self.VERBS:
                self.refused(NotADatabase, *words, "--state", path)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), before)

    def test_a_database_of_a_newer_version_is_refused(self) -> None:
        self.sql("UPDATE schema_version SET version = ? WHERE part = 'audit'", len(MIGRATIONS) + 1)
        for words in self.VERBS:
            self.refused(NewerSchema, *words)

    def test_a_node_that_never_made_a_pass_says_so(self) -> None:
        self.refused(NotFound, "run")
        self.refused(NotFound, "replay")
        self.refused(NotFound, "run", "7")
        self.assertEqual(self.json("degraded")["objects"], [])
        for wrong in ("0x1", "first", "9" * 30, "-1"):
            self.assertEqual(self.inspect("run", wrong).exit_code, 2)

    def test_a_node_that_knows_no_passes_says_so(self) -> None:
        path = os.path.join(self.folder, "old.db")
        migrate(DiskFile(path), {"audit": MIGRATIONS[:1]})
        for words in self.VERBS:
            self.refused(NotFound, *words, "--state", path)

    def test_all_that_is_read_is_bounded(self) -> None:
        self.assertLessEqual(state.MAX_EVENTS, 10_000)
        self.assertEqual(self.inspect("degraded", "--limit", "100001").exit_code, 2)
