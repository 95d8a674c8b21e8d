"""Lives of a store on a simulated disk, and what may be found after them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random
from typing import Any

from attrs import frozen

from meshkit.runtime.files import LocalFiles
from meshkit.sim.disk import PAGE, PowerLost, SimSystem
from meshkit.sim.seeds import Seeds
from meshkit.storage.shards.files import FileShardStore
from meshkit.testing.shards import shard_end

#: The first two are in the same folder.
NAMES = (b"\x3f" + b"a" * 31, b"\x3f" + b"b" * 31, b"\x70" + b"c" * 31)
TOP = "/peer/shares"
END = shard_end()

Store = Callable[[str, Any], Any]


def path_of(name: bytes, suffix: str = ".mkshare", top: str = TOP) -> str:
    return f"{top}/shards/{name[:1].hex()}/{name.hex()}{suffix}"


@frozen
class Kept:
    """
    A shard and its note.

    @ivar body: all of it but the end that every one has.
    """

    body: bytes
    note: bytes


#: What may be there under a name.
Allowed = dict[bytes, set[Kept | None]]


@frozen
class Step:
    """Something that is done to a store."""

    verb: str
    name: bytes
    body: bytes = b""
    kept: bytes = b""
    note: bytes = b""

    def do(self, store: Any) -> Any:
        if self.verb in ("commit", "discard"):
            writer = store.begin(self.name)
            try:
                half = len(self.body) // 2
                writer.append(self.body[:half])
                writer.append(self.body[half:])
                for at in range(0, len(self.kept), 16 * 1024):
                    writer.keep(self.kept[at : at + 16 * 1024])
                if self.verb == "commit":
                    writer.commit(END, self.note)
            finally:
                writer.discard()
            return None
        if self.verb == "set_note":
            return store.set_note(self.name, self.note)
        if self.verb == "remove":
            return store.remove(self.name)
        return store.set_aside(self.name, "rotten")

    def wanted(self, before: Kept | None) -> Kept | None:
        """@return: what is there afterwards, if it succeeds."""
        if self.verb == "commit":
            return Kept(self.body + self.kept, self.note)
        if self.verb == "discard":
            return before
        if self.verb == "set_note":
            assert before is not None
            return Kept(before.body, self.note)
        return None

    def between(self, before: Kept | None) -> set[Kept | None]:
        """@return: what may be there, if it was stopped in the middle."""
        after = self.wanted(before)
        found = {before, after}
        if self.verb == "commit" and after is not None:
            # The two files of a shard have their names one after the other.
            found.add(Kept(after.body, before.note if before else b""))
            if before is not None:
                found.add(Kept(before.body, self.note))
        elif self.verb in ("remove", "set_aside") and before is not None:
            found.add(Kept(before.body, b""))
        return found


def drawn_steps(draw: Random, count: int) -> list[Step]:
    """Steps that make sense one after the other."""
    steps = []
    there: set[bytes] = set()
    for number in range(count):
        name = draw.choice(NAMES)
        verbs = ["commit", "commit", "discard", "remove"]
        if name in there:
            verbs += ["set_note", "set_note", "set_aside"]
        verb = draw.choice(verbs)
        letter = bytes([65 + number])
        step = Step(
            verb,
            name,
            letter * int(draw.random() * 3 * PAGE),
            letter.lower() * int(draw.random() * PAGE),
            b"%d" % number * int(draw.random() * PAGE),
        )
        steps.append(step)
        (
            there.add
            if verb in ("commit", "set_note") or (verb == "discard" and name in there)
            else there.discard
        )(name)
    return steps


def found_in(store: Any) -> dict[bytes, Kept]:
    """Open a store; give what it has."""
    found = {}
    for shard in store.open():
        if shard.set_aside:
            continue
        raw = store.read(shard.name, 0, shard.size)
        body, end = raw[: -len(END)], raw[-len(END) :]
        found[shard.name] = Kept(body if end == END else raw, shard.note)
    return found


class Life:
    """
    Processes on one machine, that do steps, are killed, and lose power.

    @ivar allowed: what may be there.
    @ivar aside: how many shards may have been put aside, and those that were.
    @ivar problems: what is wrong, in sentences.
    """

    def __init__(self, seed: int, store: Store = FileShardStore) -> None:
        self.system = SimSystem(Seeds(seed).stream("ada", "disk"))
        self.allowed: Allowed = {name: {None} for name in NAMES}
        self.aside: dict[str, set[bytes]] = {}
        self.problems: list[str] = []
        self._kind = store
        self.store: Any = None
        self._perhaps_aside = 0

    def start(self) -> None:
        """A process starts.  What it finds is there for good."""
        self.store = self._kind(TOP, self.system)
        found = found_in(self.store)
        self.check(found)
        self.allowed = {name: {found.get(name)} for name in NAMES}

    def check(self, found: dict[bytes, Kept]) -> None:
        for name in NAMES:
            kept = found.get(name)
            if kept not in self.allowed[name]:
                self.problems.append(f"{name[:2]!r} is {kept!r:.80}")
        with self.system.aside():
            left = self.system.listdir(f"{TOP}/incoming")
            self.problems += [f"{name} is left over" for name in left]
            files = LocalFiles(self.system)
            lying = [n for n in self.system.listdir(f"{TOP}/damaged") if n.endswith(".mkshare")]
            if len(lying) > len(self.aside) + self._perhaps_aside:
                self.problems.append("something was put aside that was not damaged")
            for path, bodies in self.aside.items():
                try:
                    content = files.read(path, 1 << 20)
                except FileNotFoundError:
                    self.problems.append(f"{path} was put aside, and is gone")
                    continue
                if content not in bodies:
                    self.problems.append(f"{path} was put aside, and has changed")

    def do(self, step: Step) -> None:
        """One step, that may be stopped or fail."""
        before = self.allowed[step.name]
        self.allowed[step.name] = {kept for each in before for kept in step.between(each)}
        if step.verb == "set_aside":
            self._perhaps_aside += 1
        where = step.do(self.store)
        self.allowed[step.name] = {step.wanted(each) for each in before}
        if step.verb == "set_aside":
            self._perhaps_aside -= 1
            self.aside[where] = {each.body + END for each in before if each is not None}

    def run(self, steps: list[Step], calls: int) -> bool:
        """
        Start, do the steps, stop before so many calls more.

        @return: whether it was stopped.
        """
        self.system.stop_before(calls)
        try:
            self.start()
            for step in steps:
                self.do(step)
            self.store.close()
        except PowerLost:
            return True
        self.system.mend()
        return False


class FailingSystem:
    """
    A machine on which one call goes wrong.

    @ivar calls: how many were made.
    @ivar failed: name of the call that did.
    """

    def __init__(self, system: SimSystem, at: int, number: int = errno.EIO) -> None:
        self.calls = 0
        self.failed = ""
        self._system = system
        self._at = at
        self._number = number

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._system, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                self.failed = name
                if name == "close":
                    real(*arguments)
                raise OSError(self._number, os.strerror(self._number))
            return real(*arguments, **options)

        return call
