"""Tests of C{meshkit put}, C{get} and C{meshkit object}, with storage peers in memory."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.door import Answer
from meshkit.cli.health import size
from meshkit.cli.object.following import BAR_SECONDS, QUIET_SECONDS, bar, follow
from meshkit.errors import DoorUnreachable, RemoteError
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.cli.memory import Done, run_command

OWN = '[dht]\nown_blocks = ["10.0.0.0/8"]\n'
KEEPER = '[keeper]\nmax_storage = 9000000\ndomain = "d{}"\n'
HERON = b"a grey heron by the weir\n" * 1_000


class KeptCase(SynchronousTestCase):
    """
    Ada has files; three others lend space; Eve reads what she is given.  All are found in the
    hash table.
    """

    def setUp(self) -> None:
        self.folder = Path(mkdtemp())
        self.addCleanup(rmtree, self.folder)
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.ada = self.node("ada", '[storage]\nscheme = "1+1"\n')
        self.keepers = [
            self.node(
                f"keeper-{number}", f'[keeper]\nmax_storage = 9000000\ndomain = "d{number}"\n'
            )
            for number in range(3)
        ]
        self.eve = self.node("eve", "")
        self.mesh.run(60)
        self.file = self.write("heron.txt", HERON)

    def node(self, name: str, more: str) -> MemoryNode:
        peers = "" if name == "ada" else f'peers = ["{self.ada.address}"]\n'
        node = self.mesh.node(name, f"{peers}{OWN}{more}")
        node.start()
        return node

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def run_it(self, *arguments: str, node: MemoryNode | None = None) -> Done:
        return run_command(self.mesh, node or self.ada, *arguments)

    def good(self, *arguments: str, node: MemoryNode | None = None) -> str:
        done = self.run_it(*arguments, node=node)
        self.assertEqual(done.code, 0, done)
        return done.out.decode("utf-8")

    def json(self, *arguments: str, node: MemoryNode | None = None) -> Any:
        return json.loads(self.good(*arguments, "--json", node=node))

    def refused(self, code: int, text: str, *arguments: str) -> None:
        done = self.run_it(*arguments)
        self.assertEqual(done.code, code, done)
        self.assertIn(text, done.err)

    def put(self) -> str:
        object_id: str = self.json("put", self.file)["object"]
        return object_id


class KeptTests(KeptCase):
    def test_a_file_is_put_looked_at_got_and_removed(self) -> None:
        shown = self.good("put", self.file)
        self.assertIn("24.4 KiB, 2 of 2 shares.", shown)
        (listed,) = self.json("object", "ls")
        self.assertEqual((listed["name"], listed["placed"]), ("heron.txt", 2))
        short = listed["object"][:16]
        self.assertIn(f"meshkit get {short} -o FILE", shown)
        self.assertIn(short, self.good("object", "ls"))
        self.assertIn("heron.txt", self.good("object", "stat", short))
        self.assertIn("Healthy: 2 of 2", self.good("object", "check", short))
        got = self.good("get", short, "-o", self.path("copy"))
        self.assertEqual(got, f"Wrote {self.path('copy')}, 24.4 KiB.\n")
        self.assertEqual(Path(self.path("copy")).read_bytes(), HERON)
        self.assertIn("2 shares are given up", self.good("object", "rm", short))
        self.assertIn("No objects", self.good("object", "ls"))
        self.assertIn("removed", self.good("object", "ls", "--removed"))
        self.refused(1, "[OBJECT_REMOVED]", "get", short, "-o", self.path("x"))

    def test_keys_of_json_are_those_of_the_operations(self) -> None:
        put = self.json("object", "put", self.file, "--scheme", "2+1")
        self.assertEqual(
            sorted(put),
            [
                *[
                    "begun",
                    "done",
                    "ended",
                    "error",
                    "id",
                    "kind",
                    "object",
                    "path",
                    "result",
                    "state",
                    "total",
                ]
            ],
        )
        self.assertEqual(put["result"]["scheme"], "2+1")
        got = self.json("get", put["object"], "-o", self.path("copy"))
        self.assertEqual((got["kind"], got["result"]["bytes"]), ("get", len(HERON)))
        stat = self.json("object", "stat", put["object"])
        self.assertEqual(len(stat["shares"]), 3)
        self.assertNotIn("capabilities", stat)
        self.assertEqual(self.json("object", "check", put["object"])["health"], "healthy")
        self.assertEqual(self.json("object", "rm", put["object"])["released"], 3)

    def test_somebody_else_reads_it_with_the_string_he_was_given(self) -> None:
        shown = self.json("object", "stat", self.put(), "--capabilities")["capabilities"]
        self.mesh.run(60)
        read = self.json("get", shown["read"], "-o", self.path("eve"), node=self.eve)
        self.assertEqual(read["result"]["bytes"], len(HERON))
        self.assertEqual(Path(self.path("eve")).read_bytes(), HERON)
        self.assertIn("Healthy", self.good("object", "check", shown["verify"], node=self.eve))
        done = self.run_it("get", shown["verify"], "-o", self.path("no"), node=self.eve)
        self.assertEqual((done.code, os.path.exists(self.path("no"))), (1, False))
        done = self.run_it("get", shown["read"], node=self.eve)
        self.assertIn("say -o FILE", done.err)
        # A secret need not stand on the command line.
        given = f"{shown['read']}\n".encode()
        done = run_command(self.mesh, self.eve, "get", "-", "-o", self.path("again"), stdin=given)
        self.assertEqual(done.code, 0, done)
        self.assertEqual(Path(self.path("again")).read_bytes(), HERON)

    def test_without_a_name_it_is_called_as_it_was(self) -> None:
        object_id = self.put()
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        (self.folder / "here").mkdir()
        os.chdir(self.folder / "here")
        self.good("get", object_id)
        self.assertEqual((self.folder / "here" / "heron.txt").read_bytes(), HERON)
        # Relative names are those of who asks, not of the node.
        self.good("get", object_id, "-o", "other.txt")
        self.assertEqual((self.folder / "here" / "other.txt").read_bytes(), HERON)

    def test_a_file_that_is_there_stays_unless_that_is_said(self) -> None:
        object_id = self.put()
        there = self.write("there", b"precious")
        self.refused(1, "[TARGET_EXISTS]", "get", object_id, "-o", there)
        self.assertEqual(Path(there).read_bytes(), b"precious")
        self.good("get", object_id, "-o", there, "--force")
        self.assertEqual(Path(there).read_bytes(), HERON)

    def test_what_cannot_be_done_is_one_line_and_its_exit_code(self) -> None:
        self.refused(2, "Write it to a file first", "put", "-")
        self.refused(2, "Get it into a file", "get", "0" * 64, "-o", "-")
        self.refused(1, "[INVALID_REQUEST]", "put", self.path("none"))
        self.refused(1, "[SCHEME_INVALID]", "put", self.file, "--scheme", "x")
        self.refused(1, "[NOT_ENOUGH_PEERS]", "put", self.file, "--scheme", "9+9")
        self.refused(1, "[NOT_FOUND]", "object", "rm", "0" * 64)

    def test_check_says_by_its_exit_code_how_bad_it_is(self) -> None:
        object_id = self.put()
        holders = [
            keeper
            for keeper in self.keepers
            if keeper.ask("GET", "/v1/storage").json["data"]["shares"]
        ]
        self.assertEqual(len(holders), 2)
        holders[0].stop()
        done = self.run_it("object", "check", object_id)
        self.assertEqual(done.code, 3, done)
        self.assertIn(b"Degraded: 1 of 2", done.out)
        holders[1].stop()
        done = self.run_it("object", "check", object_id, "--depth", "stat", "--json")
        self.assertEqual((done.code, json.loads(done.out)["health"]), (4, "lost"))

    def test_who_does_not_wait_is_told_how_to_look(self) -> None:
        shown = self.good("put", self.file, "--detach")
        transfer = shown.split()[1].rstrip(".")
        self.assertIn(f"meshkit call transfer id={transfer}", shown)
        self.mesh.run(60)
        ended = self.json("get", self.json("object", "ls")[0]["object"], "-o", self.path("c"))
        self.assertEqual(ended["state"], "done")


class FakeDoor:
    """A door that gives these answers, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.waits: list[float] = []
        self.reopenings = 0

    def get(self, path: str, wait: float) -> Deferred[Answer]:
        self.waits.append(wait)
        answer = self.answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else succeed(Answer(answer, {}))

    async def reopened(self) -> FakeDoor:
        self.reopenings += 1
        return self


def transfer(state: str = "running", done: int = 0, **more: Any) -> dict[str, Any]:
    ended = None if state in ("waiting", "running") else "2026-01-01T00:00:00Z"
    return {
        "id": "aa",
        "state": state,
        "done": done,
        "total": 100,
        "ended": ended,
        "error": None,
        "result": None,
        **more,
    }


class FollowingTests(SynchronousTestCase):
    def follow(self, door: FakeDoor, watch: Any = None) -> Deferred[Any]:
        return Deferred.fromCoroutine(follow(door, transfer(), watch))  # type: ignore[arg-type]

    def test_it_asks_until_the_end(self) -> None:
        seen: list[int] = []
        door = FakeDoor(transfer(done=50), transfer("done", 100))
        ended = self.successResultOf(self.follow(door, lambda it: seen.append(it["done"])))
        self.assertEqual((ended["state"], seen), ("done", [0, 50, 100]))
        self.assertEqual(door.waits, [BAR_SECONDS] * 2)

    def test_where_nobody_watches_it_asks_seldom(self) -> None:
        door = FakeDoor(transfer("done"))
        self.successResultOf(self.follow(door))
        self.assertEqual(door.waits, [QUIET_SECONDS])

    def test_a_node_that_is_started_again_is_waited_for(self) -> None:
        door = FakeDoor(
            DoorUnreachable("gone"), RemoteError("not yet", "NOT_READY", 503), transfer("done")
        )
        self.assertEqual(self.successResultOf(self.follow(door))["state"], "done")
        self.assertEqual(door.reopenings, 2)

    def test_why_it_failed_is_told(self) -> None:
        error = {"code": "OBJECT_NOT_PLACED", "message": "too few"}
        failure = self.failureResultOf(
            self.follow(FakeDoor(transfer("failed", error=error))), RemoteError
        )
        self.assertEqual((failure.value.code, str(failure.value)), ("OBJECT_NOT_PLACED", "too few"))
        failure = self.failureResultOf(self.follow(FakeDoor(transfer("cancelled"))), RemoteError)
        self.assertEqual(failure.value.code, "CANCELLED")
        self.failureResultOf(
            self.follow(FakeDoor(RemoteError("no", "NOT_FOUND", 404))), RemoteError
        )


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BarTests(SynchronousTestCase):
    def shown(self, stderr: io.StringIO, wanted: bool = True) -> str:
        with redirect_stderr(stderr), bar("put [red]heron\x1b.txt", wanted) as watch:
            if watch is not None:
                watch(transfer(done=50))
                watch(transfer("done", 100, result={"bytes": 100}))
        return stderr.getvalue()

    def test_it_is_drawn_on_a_terminal_and_nowhere_else(self) -> None:
        self.patch(os, "environ", {**os.environ, "TERM": "xterm", "COLUMNS": "100"})
        drawn = self.shown(_Terminal())
        self.assertIn("put [red]heron\\x1b.txt", drawn)
        self.assertIn("100/100 bytes", drawn)
        self.assertEqual(self.shown(io.StringIO()), "")
        self.assertEqual(self.shown(_Terminal(), wanted=False), "")


class SizeTests(SynchronousTestCase):
    def test_numbers_of_bytes_are_for_people(self) -> None:
        table = {0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 5_000_000: "4.8 MiB"}
        for count, text in table.items():
            self.assertEqual(size(count), text)
        self.assertEqual(size(3 * 1024**5), "3072.0 TiB")
