"""What a database acknowledged is there after any crash, and nothing is there by half."""

from __future__ import annotations

import inspect
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Container, Iterator
from contextlib import closing
from itertools import count
from typing import Any, ClassVar

from attrs import frozen
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.errors import StorageFailed
from meshkit.runtime import container, transactions
from meshkit.runtime import database as database_module
from meshkit.runtime.database import Database
from meshkit.runtime.registry import discover_parts
from meshkit.runtime.tables import MIGRATIONS as NODE_MIGRATIONS
from meshkit.runtime.workers import InlineWorkers
from meshkit.services.programs import MESH_NODE
from meshkit.sim.clock import SimClock
from meshkit.sim.databases import SimFile, SimMemory
from meshkit.sim.disk import PowerLost
from meshkit.sim.seeds import Seeds
from meshkit.sim.world import ON_REQUEST

SCHEMA = "CREATE TABLE pair (number INTEGER, half INTEGER, filling BLOB);"
_names = count()
# Where syncing costs nothing, if there is such a place.
_FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


def memory(seed: int = 0, **options: Any) -> SimMemory:
    return SimMemory(f"sim-{next(_names)}", Seeds(seed).stream("ada", "database"), **options)


def file_in(folder: str, seed: int = 0) -> SimFile:
    return SimFile(os.path.join(folder, "mesh.db"), Seeds(seed).stream("ada", "database"))


class Host:
    """
    A database under one process after the other.

    @ivar acknowledged: numbers of the jobs whose Deferred has fired.
    @ivar given: numbers of all jobs.
    """

    def __init__(self, backing: Any) -> None:
        self.backing = backing
        self.clock = SimClock()
        self.acknowledged: list[int] = []
        self.given = 0
        self.errors: list[Failure] = []
        self.database: Database

    def start(self) -> None:
        self.database = Database(
            self.clock, "/ada/mesh.db", threads=InlineWorkers, backing=lambda _: self.backing
        )
        self.database.open_and_migrate({"pairs": [SCHEMA]})
        self.database.startService()
        self.clock.advance(0)

    def write(self, size: int = 0) -> None:
        number = self.given
        self.given += 1

        def job(connection: sqlite3.Connection) -> None:
            for half in (1, 2):
                connection.execute(
                    "INSERT INTO pair VALUES (?, ?, zeroblob(?))", (number, half, size)
                )

        self.database.write(job).addCallbacks(
            lambda _: self.acknowledged.append(number), self.errors.append
        )

    def do(self, statement: str) -> None:
        self.database.write(lambda connection: connection.execute(statement).fetchall()).addErrback(
            self.errors.append
        )
        self.clock.advance(0)

    def ask(self, sql: str) -> list[Any]:
        found: list[Any] = []
        self.database.read(lambda connection: connection.execute(sql).fetchall()).addBoth(
            found.append
        )
        self.clock.advance(0)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return list(found[0])

    def stop(self) -> None:
        stopped: list[Any] = []
        self.database.stopService().addBoth(stopped.append)
        while not stopped:
            self.clock.step()

    def numbers(self) -> list[int]:
        """@return: which jobs are there.  @raise AssertionError: if one is there by half."""
        rows = self.ask("SELECT number, count(*), sum(half) FROM pair GROUP BY 1 ORDER BY 1")
        if any(row[1:] != (2, 3) for row in rows):
            raise AssertionError(f"by half: {rows}")
        return [row[0] for row in rows]


@frozen
class Seen:
    """What became of a host: losses, what was there after each, and what is wrong."""

    losses: tuple[Any, ...]
    found: tuple[tuple[int, ...], ...]
    wrong: str


def live(seed: int, backing: Any, lives: int = 3) -> Seen:
    """Let a machine stop in the middle of something again and again."""
    draw = Seeds(seed).stream("draw")
    host = Host(backing)
    losses: list[Any] = []
    found: list[tuple[int, ...]] = []
    for _ in range(lives):
        backing.stop_before(int(draw.random() * 120))
        try:
            host.start()
            if draw.random() < 0.5:
                host.do("PRAGMA wal_autocheckpoint = 6")
            for _ in range(6):
                for _ in range(1 + int(draw.random() * 3)):
                    host.write(int(draw.random() * 9000))
                host.clock.advance(0)
        except PowerLost:
            pass
        losses.append(backing.crash())
        try:
            host.start()
            numbers = host.numbers()
            damage = host.ask("PRAGMA integrity_check")
        except Exception as error:  # whatever it is, it is what the seed found
            return Seen(tuple(losses), tuple(found), f"{type(error).__name__}: {error}")
        found.append(tuple(numbers))
        missing = sorted(set(host.acknowledged) - set(numbers))
        foreign = sorted(set(numbers) - set(range(host.given)))
        if missing or foreign or damage != [("ok",)]:
            return Seen(tuple(losses), tuple(found), f"{missing} {foreign} {damage}")
        # As a process that is killed: nothing is folded or closed in good order.
        backing.end_process()
    return Seen(tuple(losses), tuple(found), "")


def weakened(function: Any, *changes: tuple[str, str]) -> Any:
    """@return: a function of the shipped text, with something else in some places of it."""
    source = inspect.getsource(function)
    for old, new in changes:
        if source.count(old) != 1:
            raise AssertionError(f"the shipped code does not say once: {old}")
        source = source.replace(old, new)
    made: dict[str, Any] = {}
    exec(compile(source, "weakened", "exec"), function.__globals__, made)
    return made[function.__name__]


def at_level(level: str) -> Any:
    """@return: what makes a writer commit at another level than the shipped one."""
    return weakened(container._configure_writer, ("synchronous = FULL", f"synchronous = {level}"))


#: Fires the Deferreds and commits when the next batch begins.
EARLY: Any = weakened(
    transactions.run_batch,
    (
        "    try:\n        connection.execute(BEGIN)",
        "    if connection.in_transaction:\n        connection.execute(COMMIT)\n"
        "    try:\n        connection.execute(BEGIN)",
    ),
    ("    try:\n        connection.execute(COMMIT)", "    try:\n        pass"),
)


class MemoryTests(SynchronousTestCase):
    """The properties, with databases in memory."""

    seeds = 60

    def live(self, seed: int) -> Seen:
        backing = memory(seed)
        try:
            return live(seed, backing)
        finally:
            backing.close()

    def first_wrong(self) -> int | None:
        return next((seed for seed in range(10) if self.live(seed).wrong), None)

    def test_what_was_acknowledged_is_there_and_nothing_is_there_by_half(self) -> None:
        for seed in range(self.seeds):
            seen = self.live(seed)
            self.assertEqual(seen.wrong, "", f"seed {seed}: {seen}")

    def test_those_lives_are_varied_enough_to_say_something(self) -> None:
        every = [self.live(seed) for seed in range(20)]
        self.assertGreater(len({seen.found for seen in every}), 15)
        self.assertGreater(sum(loss.open for seen in every for loss in seen.losses), 10)

    def test_the_same_seed_loses_the_same(self) -> None:
        self.patch(container, "_configure_writer", at_level("NORMAL"))
        for seed in range(8):
            self.assertEqual(self.live(seed), self.live(seed))

    def test_commits_that_are_never_synced_are_found(self) -> None:
        self.patch(container, "_configure_writer", at_level("OFF"))
        self.assertIsNotNone(self.first_wrong())

    def test_commits_that_are_not_synced_at_once_are_found(self) -> None:
        self.patch(container, "_configure_writer", at_level("NORMAL"))
        self.assertIsNotNone(self.first_wrong())

    def test_an_acknowledgement_before_the_commit_is_found(self) -> None:
        self.patch(database_module, "run_batch", EARLY)
        self.assertIsNotNone(self.first_wrong())


class FileTests(MemoryTests):
    """The same, with real files."""

    seeds = 30

    def live(self, seed: int) -> Seen:
        with tempfile.TemporaryDirectory(prefix="meshkit-test-", dir=_FAST) as folder:
            return live(seed, file_in(folder, seed))

    def test_the_rest_of_a_journal_is_lost_torn_or_kept(self) -> None:
        fates = {loss.journal for seed in range(20) for loss in self.live(seed).losses}
        self.assertEqual(fates, {"", "lost", "kept", "torn"})


# --- one thing at a time --------------------------------------------------------------


class Case(SynchronousTestCase):
    def backings(self) -> list[Any]:
        folder = tempfile.mkdtemp(prefix="meshkit-test-", dir=_FAST)
        self.addCleanup(shutil.rmtree, folder)
        made = memory()
        self.addCleanup(made.close)
        return [made, file_in(folder)]

    def hosts(self) -> Iterator[Host]:
        """A started one of each kind."""
        for backing in self.backings():
            host = Host(backing)
            host.start()
            yield host
            backing.end_process()


class CrashTests(Case):
    def test_the_end_of_a_process_loses_the_open_transaction_alone(self) -> None:
        self.patch(container, "_configure_writer", at_level("OFF"))
        for host in self.hosts():
            host.write()
            host.clock.advance(0)
            host.backing.stop_before(4)
            host.write()
            host.clock.advance(0)
            self.assertEqual(host.backing.end_process().open, 1)
            host.start()
            self.assertEqual(host.numbers(), [0])

    def test_a_stop_in_good_order_leaves_nothing_to_lose(self) -> None:
        for host in self.hosts():
            host.write()
            host.stop()
            loss = host.backing.crash()
            self.assertEqual((loss.open, loss.commits, loss.journal), (0, 0, ""))
            host.start()
            self.assertEqual(host.numbers(), [0])

    def test_a_process_that_is_cut_short_folds_no_journal_into_its_file(self) -> None:
        """Though its connections have to be closed here before the machine stops."""
        found = set()
        for seed in range(12):
            with tempfile.TemporaryDirectory(prefix="meshkit-test-", dir=_FAST) as folder:
                backing = file_in(folder, seed)
                host = Host(backing)
                host.start()
                host.write()
                host.clock.advance(0)
                (writer,) = [one for one in backing.machine.connections if one.writes]
                writer.quietly("PRAGMA synchronous = OFF")
                host.write()
                host.clock.advance(0)
                for connection in backing.machine.connections:
                    connection.close()
                backing.crash()
                host.start()
                found.add(tuple(host.numbers()))
                backing.end_process()
        self.assertEqual(found, {(0,), (0, 1)})

    def test_nothing_runs_on_a_machine_that_has_stopped(self) -> None:
        for host in self.hosts():
            host.backing.stop_before(0)
            before = host.backing.statements
            host.write()
            host.clock.advance(0)
            self.assertRaises(PowerLost, host.ask, "SELECT 1")
            self.assertRaises(PowerLost, host.backing.open_writer)
            self.assertEqual((host.backing.statements, host.acknowledged), (before, []))
            host.backing.crash()
            host.start()
            self.assertEqual(host.numbers(), [])

    def test_a_commit_that_nobody_was_told_of_happened_or_not(self) -> None:
        seen = set()
        for seed in range(20):
            backing = memory(seed)
            host = Host(backing)
            host.start()
            host.write()
            backing.stop_before(5)  # BEGIN, SAVEPOINT, two INSERT, RELEASE
            host.clock.advance(0)
            self.assertEqual(host.acknowledged, [])
            backing.crash()
            host.start()
            seen.add(tuple(host.numbers()))
            backing.close()
        self.assertEqual(seen, {(), (0,)})

    def test_what_is_lost_in_memory_is_the_commits_since_the_last_at_full(self) -> None:
        seen = set()
        for seed in range(60):
            backing = memory(seed)
            host = Host(backing)
            host.start()
            (writer,) = [one for one in backing.machine.connections if one.writes][1:]
            for number, level in enumerate(("OFF", "FULL", "NORMAL", "OFF", "NORMAL")):
                writer.quietly(f"PRAGMA synchronous = {level}")
                host.write()
                host.clock.advance(0)
                self.assertEqual(len(host.acknowledged), number + 1)
            lost = backing.crash().commits
            host.start()
            found = host.numbers()
            self.assertEqual(found, list(range(5 - lost)))
            seen.add(len(found))
            backing.close()
        self.assertEqual(seen, {2, 3, 4, 5})

    def test_with_the_shipped_level_nothing_is_copied(self) -> None:
        backing = memory()
        self.addCleanup(backing.close)
        host = Host(backing)
        host.start()
        for _ in range(5):
            host.write()
            host.clock.advance(0)
        self.assertIsNone(backing._stable)

    def test_a_journal_is_cut_at_the_byte(self) -> None:
        """What was committed at FULL is there, and of the rest a whole number of commits."""
        lengths, numbers = set(), set()
        for seed in range(60):
            with tempfile.TemporaryDirectory(prefix="meshkit-test-", dir=_FAST) as folder:
                backing = file_in(folder, seed)
                host = Host(backing)
                host.start()
                host.write()
                host.clock.advance(0)
                (writer,) = [one for one in backing.machine.connections if one.writes]
                writer.quietly("PRAGMA synchronous = OFF")
                for _ in range(4):
                    host.write()
                    host.clock.advance(0)
                backing.crash()
                lengths.add(os.path.getsize(f"{backing.name}-wal"))
                host.start()
                found = host.numbers()
                self.assertEqual(found, list(range(len(found))))
                numbers.add(len(found))
                self.assertEqual(host.ask("PRAGMA integrity_check"), [("ok",)])
                backing.end_process()
        self.assertLessEqual({1, 5}, numbers)
        self.assertGreater(len(numbers), 2)
        self.assertTrue(any((length - 32) % (24 + 4096) for length in lengths))


class TroubleTests(Case):
    def test_a_full_disk_refuses_what_makes_the_database_grow(self) -> None:
        for host in self.hosts():
            host.write()
            host.clock.advance(0)
            host.backing.limit(1)
            host.write(100_000)
            host.clock.advance(0)
            (error,) = host.errors
            self.assertTrue(error.check(StorageFailed), error)
            self.assertIn("database or disk is full", str(error.value))
            host.backing.limit(None)
            host.write(100_000)
            host.clock.advance(0)
            self.assertEqual(host.numbers(), [0, 2])

    def test_it_is_full_for_the_next_process_as_well(self) -> None:
        for host in self.hosts():
            host.backing.limit(1)
            host.backing.crash()
            host.start()
            host.write(100_000)
            host.clock.advance(0)
            self.assertEqual(len(host.errors), 1)

    def test_a_commit_that_fails_is_acknowledged_to_nobody(self) -> None:
        for seed in range(8):
            host = Host(memory(seed))
            host.start()
            host.backing.fail()
            host.write()
            host.write()
            host.clock.advance(0)
            self.assertEqual([error.type for error in host.errors], [StorageFailed] * 2)
            host.write()
            host.clock.advance(0)
            self.assertEqual((host.acknowledged, host.numbers()), ([2], [2]))
            host.backing.close()

    def test_a_statement_that_fails_costs_its_own_job_alone(self) -> None:
        for seed in range(8):
            host = Host(memory(seed))
            host.start()
            host.backing.fail("INSERT", sqlite3.SQLITE_FULL, "database or disk is full")
            for _ in range(3):
                host.write()
            host.clock.advance(0)
            self.assertEqual(len(host.errors), 1)
            self.assertEqual(host.numbers(), host.acknowledged)
            self.assertEqual(host.acknowledged, [1, 2])
            host.backing.close()


class SizeTests(SynchronousTestCase):
    migrations: ClassVar[dict[str, Any]] = {
        "node": NODE_MIGRATIONS,
        **{
            maker.name: tuple(maker.migrations())
            for maker in discover_parts(meshkit_plugins)
            if maker.migrations is not None
        },
    }

    def made(self, image: bytes | None = None, without: Container[str] = ()) -> SimMemory:
        made = memory(image=image)
        self.addCleanup(made.close)
        wanted = {name: each for name, each in self.migrations.items() if name not in without}
        container.migrate(made, wanted)
        return made

    def tables(self, backing: SimMemory) -> list[Any]:
        with closing(backing.open_reader()) as reader:
            return reader.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    def test_an_empty_database_is_small_enough_to_have_a_thousand(self) -> None:
        # A world with so many has no node that keeps anything for others.
        never = ON_REQUEST | MESH_NODE.without
        self.assertLess(len(self.made(without=never).image()), 80 * 1024)
        self.assertLess(len(self.made(without=MESH_NODE.without).image()), 160 * 1024)

    def test_one_that_begins_with_the_image_of_another_has_nothing_left_to_migrate(self) -> None:
        first = self.made()
        second = self.made(first.image())
        self.assertEqual(self.tables(second), self.tables(first))
        self.assertLess(second.statements, first.statements / 3)
        self.assertEqual(second.prepare(), first.prepare())

    def test_what_was_written_since_is_not_overwritten_at_the_next_start(self) -> None:
        one = self.made(self.made().image())
        with closing(one.open_writer()) as writer:
            writer.execute("CREATE TABLE mine (a)")
        container.migrate(one, self.migrations)
        with closing(one.open_reader()) as reader:
            self.assertEqual(reader.execute("SELECT * FROM mine").fetchall(), [])

    def test_what_was_never_made_has_no_image(self) -> None:
        self.assertRaises(RuntimeError, memory().image)
