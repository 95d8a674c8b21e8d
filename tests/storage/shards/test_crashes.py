"""What was committed is there after any crash, and nothing is there by halves."""

from __future__ import annotations

import errno
import inspect
import types
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.disk import PAGE, SimSystem
from meshkit.sim.seeds import Seeds
from meshkit.storage.shards import files as shipped
from meshkit.storage.shards.files import KEPT_IN_MEMORY, FileShardStore
from tests.storage.shards.lives import (
    END,
    NAMES,
    TOP,
    FailingSystem,
    Kept,
    Life,
    Step,
    Store,
    drawn_steps,
    found_in,
    path_of,
)

#: Every verb, in the place of nothing and in that of something.
STEPS = [
    Step("commit", NAMES[0], b"A" * 5000, b"a" * 100, b"first"),
    Step("set_note", NAMES[0], note=b"second" * 500),
    Step("commit", NAMES[1], b"B" * 2 * PAGE, note=b"third"),
    Step("commit", NAMES[0], b"C" * 9000, note=b"fourth"),
    Step("discard", NAMES[2], b"D" * PAGE),
    Step("remove", NAMES[1]),
    Step("set_aside", NAMES[0]),
    Step("commit", NAMES[0], b"E", note=b"fifth"),
    Step("commit", NAMES[2], b"F" * PAGE, note=b""),
    Step("set_aside", NAMES[0]),
]


def weakened(old: str, new: str) -> Store:
    """@return: the store of the shipped text, with something else in one place of it."""
    source = inspect.getsource(shipped)
    if source.count(old) != 1:
        raise AssertionError(f"the shipped code does not say this once: {old}")
    module = types.ModuleType("weakened")
    exec(compile(source.replace(old, new), "weakened", "exec"), module.__dict__)
    made: Store = module.__dict__["FileShardStore"]
    return made


def calls_of(steps: list[Step]) -> int:
    """@return: how many calls the steps take in all."""
    life = Life(0)
    life.run(steps, 1 << 30)
    return life.system.calls


def crashed(seed: int, steps: list[Step], calls: int, store: Store = FileShardStore) -> Life:
    """
    A life that is stopped at a call, loses what it had not synced, is stopped again while it
    starts, perhaps, and then goes on.
    """
    life = Life(seed, store)
    life.run(steps, calls)
    life.system.crash()
    if life.run([], seed % 60):
        life.system.crash()
    life.run([Step("commit", NAMES[0], b"after", note=b"all")], 1 << 30)
    life.system.crash()
    life.run([], 1 << 30)
    if life.allowed[NAMES[0]] != {Kept(b"after", b"all")}:
        life.problems.append("what was left is in the way of what comes after")
    return life


def killed(seed: int, store: Store = FileShardStore) -> Life:
    """Processes that are killed one after the other; what the last one finds is durable."""
    draw = Seeds(seed).stream("draw")
    life = Life(seed, store)
    for _ in range(3):
        life.run(drawn_steps(draw, 3), int(draw.random() * 70))
        life.system.end_process()
    life.run([], 1 << 30)
    life.system.crash()
    life.run([], 1 << 30)
    return life


def first_wrong(seeds: int, store: Store) -> int | None:
    """@return: the first seed that shows that a store loses something."""
    total = calls_of(STEPS)
    for seed in range(seeds):
        draw = Random(seed)
        if crashed(seed, STEPS, draw.randrange(total), store).problems:
            return seed
    return None


class CrashTests(SynchronousTestCase):
    def test_a_crash_at_every_call_loses_nothing_that_was_committed(self) -> None:
        for calls in range(calls_of(STEPS) + 1):
            for seed in range(4):
                life = crashed(seed * 1000 + calls, STEPS, calls)
                self.assertEqual(life.problems, [], f"seed {seed}, before call {calls}")

    def test_any_steps_can_be_stopped_anywhere(self) -> None:
        for seed in range(400):
            draw = Seeds(seed).stream("draw")
            steps = drawn_steps(draw, 6)
            life = crashed(seed, steps, int(draw.random() * 150))
            self.assertEqual(life.problems, [], f"seed {seed}")

    def test_a_shard_with_much_that_was_kept_survives_or_not(self) -> None:
        steps = [Step("commit", NAMES[0], b"A" * 99, b"k" * (KEPT_IN_MEMORY * 2), b"note")]
        for calls in range(calls_of(steps) + 1):
            life = crashed(calls, steps, calls)
            self.assertEqual(life.problems, [], f"before call {calls}")

    def test_what_the_next_process_finds_is_durable(self) -> None:
        for seed in range(300):
            self.assertEqual(killed(seed).problems, [], f"seed {seed}")

    def test_those_lives_are_varied_enough_to_say_something(self) -> None:
        total = calls_of(STEPS)
        found = set()
        for seed in range(300):
            life = Life(seed)
            life.run(STEPS, Random(seed).randrange(total))
            life.system.crash()
            kept = found_in(FileShardStore(TOP, life.system))
            found.add(tuple(kept.get(name) for name in NAMES))
        self.assertGreater(len(found), 12)


class WeakerTests(SynchronousTestCase):
    """Stores that leave out one thing are found out."""

    def found(self, old: str, new: str = "pass", seeds: int = 200) -> None:
        self.assertIsNotNone(first_wrong(seeds, weakened(old, new)), old)

    def test_a_shard_that_is_not_synced(self) -> None:
        self.found("        share.sync()\n        fresh", "        fresh")

    def test_a_note_that_is_not_synced(self) -> None:
        self.found("            waiting.sync()\n", "            pass\n")

    def test_a_folder_that_is_not_synced_after_a_commit(self) -> None:
        line = "share.move(target)\n            "
        self.found(f"{line}sync_folder(self._folder_of(name), self._system)", line)

    def test_a_folder_that_is_not_synced_after_a_note(self) -> None:
        line = "waiting.move(self._path_of(name, _NOTE))\n            "
        self.found(f"{line}sync_folder(self._folder_of(name), self._system)", line)

    def test_a_folder_that_is_not_synced_after_a_removal(self) -> None:
        line = "suppress(FileNotFoundError):\n            sync_folder(self._folder_of(name), "
        self.found(f"{line}self._system)", "suppress(FileNotFoundError):\n            pass")

    def test_a_folder_that_is_made_and_not_synced(self) -> None:
        line = "not have come to this yet.\n        "
        self.found(f"{line}sync_folder(self._shards, self._system)", line, 400)

    def test_a_place_for_what_is_damaged_that_is_not_synced(self) -> None:
        # The reason is synced before; the name that follows it is not.
        self.found("sync_folder(self._damaged, self._system)\n        sync_folder(", "print(")

    def test_a_shard_that_is_written_in_its_place(self) -> None:
        self.found(
            'path = os.path.join(self._incoming, f"{name.hex()}.{next',
            """
            if kind == "share":
                self._make_folder_of(name)
                path = self._path_of(name, SUFFIX)
                with suppress(OSError):
                    self._system.unlink(path)
                return _Temporary(self._system, path)
            path = os.path.join(self._incoming, f"{name.hex()}.{next""".strip(),
        )

    def test_leftovers_that_stay(self) -> None:
        self.found("_TEMPORARY.fullmatch(name) and self._is_plain(path)", "name == path")

    def test_what_another_process_has_left_and_is_not_synced(self) -> None:
        for old, new in (
            (
                "        sync_folder(self._shards, self._system)\n        self._synced = set",
                "self._synced = set",
            ),
            ("        sync_folder(folder, self._system)\n        return found", "return found"),
        ):
            worse = weakened(old, "        " + new)
            wrong = [seed for seed in range(300) if killed(seed, worse).problems]
            self.assertNotEqual(wrong, [], old)


class FailureTests(SynchronousTestCase):
    """One call goes wrong, or there is no room."""

    def attempt(self, life: Life, step: Step) -> bool:
        """@return: whether it was done; if not, it has no more effect than it may have."""
        before = life.allowed[step.name]
        try:
            life.do(step)
        except OSError as e:
            self.assertTrue(e.filename, step)
            if step.verb == "commit" and before == {None}:
                # Nobody was told of it, so it must not take room.
                life.allowed[step.name] = {None}
            return False
        return True

    def test_any_call_that_fails_harms_nothing_else(self) -> None:
        total = calls_of(STEPS)
        for at in range(1, total + 1):
            for number in (errno.EIO, errno.ENOSPC):
                life = Life(at)
                failing = FailingSystem(life.system, at, number)

                def make(top: str, system: Any, failing: Any = failing) -> FileShardStore:
                    return FileShardStore(top, failing)

                life._kind = make
                try:
                    life.start()
                except OSError:
                    self.assertLess(at, 100)
                    life.start()
                done = [self.attempt(life, step) for step in STEPS if self.makes_sense(life, step)]
                said = f"{failing.failed} at call {at}"
                self.assertGreaterEqual(sum(done), len(done) - 1, said)
                self.assertEqual(life.system.held(None), 0, said)
                life._kind = FileShardStore
                life.start()
                life.system.crash()
                life.start()
                self.assertEqual(life.problems, [], said)

    def makes_sense(self, life: Life, step: Step) -> bool:
        """Only what is there has a note, or can be put aside."""
        if step.verb not in ("set_note", "set_aside"):
            return True
        with life.system.aside():
            try:
                life.system.stat(path_of(step.name))
            except FileNotFoundError:
                return False
        # A step before this one may have failed.
        life.allowed[step.name].discard(None)
        return True

    def test_a_full_disk_refuses_and_loses_nothing(self) -> None:
        refused = 0
        for capacity in range(0, 34_000, 307):
            life = Life(capacity)
            life.system.limit(capacity)
            life.start()
            for step in STEPS:
                if self.makes_sense(life, step):
                    done = self.attempt(life, step)
                    refused += not done
                    # What makes room, or takes none, is always done.
                    self.assertTrue(done or step.verb in ("commit", "discard", "set_note"), step)
            self.assertEqual(life.system.held(None), 0)
            life.start()
            life.system.crash()
            life.start()
            self.assertEqual(life.problems, [], capacity)
        self.assertGreater(refused, 100)

    def test_a_block_that_found_no_room_can_be_sent_again(self) -> None:
        system = SimSystem(Random(1))
        store = FileShardStore(TOP, system)
        store.open()
        writer = store.begin(NAMES[0])
        writer.append(b"a" * 1000)
        system.limit(system.used + 1500)
        refused = self.assertRaises(OSError, writer.append, b"b" * 2000)
        self.assertEqual(refused.errno, errno.ENOSPC)
        self.assertIn("/incoming/", refused.filename)
        system.limit(None)
        writer.append(b"b" * 2000)
        writer.commit(END, b"")
        self.assertEqual(store.read(NAMES[0], 0, 3000 + len(END)), b"a" * 1000 + b"b" * 2000 + END)

    def test_what_is_kept_and_found_no_room_can_be_kept_again(self) -> None:
        system = SimSystem(Random(1))
        store = FileShardStore(TOP, system)
        store.open()
        writer = store.begin(NAMES[0])
        piece = b"k" * (KEPT_IN_MEMORY - 1)
        writer.keep(piece)
        system.limit(system.used + 1500)
        self.assertRaises(OSError, writer.keep, b"more")
        system.limit(None)
        writer.keep(b"more")
        writer.commit(END, b"")
        whole = piece + b"more" + END
        self.assertEqual(store.read(NAMES[0], 0, len(whole)), whole)
        self.assertEqual(system.listdir(f"{TOP}/incoming"), [])

    def test_a_sync_that_failed_is_not_tried_again(self) -> None:
        system = SimSystem(Random(3))
        store = FileShardStore(TOP, system)
        store.open()
        writer = store.begin(NAMES[0])
        writer.append(b"a" * 9000)
        system.fail("fsync")
        self.assertRaises(OSError, writer.commit, END, b"note")
        # A second sync of the same file would succeed, and mean nothing.
        self.assertRaises(ValueError, writer.commit, END, b"note")
        self.assertEqual(FileShardStore(TOP, system).open(), [])

    def test_a_folder_that_somebody_else_has_just_made_is_durable(self) -> None:
        for seed in range(20):
            system = SimSystem(Random(seed))
            store = FileShardStore(TOP, system)
            store.open()
            # Another writer has made it, and has not come to its sync.
            system.mkdir(f"{TOP}/shards/3f", 0o700)
            Step("commit", NAMES[0], b"A", note=b"n").do(store)
            system.crash()
            self.assertEqual(found_in(FileShardStore(TOP, system)), {NAMES[0]: Kept(b"A", b"n")})
