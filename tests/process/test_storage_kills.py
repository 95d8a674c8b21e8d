"""
A storage peer that is killed has everything for which it gave a receipt.

The peer is C{twistd mesh-storage}, and who has shares kept is another process
(L{tests.process.uploads}), over a secure channel.  The peer is killed in the middle of it, at
random moments and at the calls that make a share durable or give it a name; the next one is
asked for all that was promised.  That it is synced before the receipt leaves is seen in a
trace.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from meshkit.storage.shards.files import FileShardStore
from tests import PROFILE
from tests.process.mesh import Mesh, Node, environment, wait_for
from tests.process.tracing import Call, calls_of, find_strace, strace_command
from tests.process.uploads import name_of, steps_of

#: How often it is killed.
KILLS: Final = int(os.environ.get("MESHKIT_KILLS") or (6 if PROFILE == "dev" else 12))
#: Shares that are sent at once.
LANES: Final = 3
#: Shares that would be sent, if it were not killed: more than there is time for.
MANY: Final = 100_000
#: Shares of former lives that each life is asked for, beside those of the last one.
ASKED: Final = 20
PROGRAM: Final = (sys.executable, "-m", "tests.process.uploads")
ROOT: Final = Path(__file__).resolve().parents[2]
#: What happens to a share is over with one of these.
_CALLS: Final = ("fsync", "rename", "unlink", "pwrite64")


@define(eq=False)
class StorageNode(Node):
    """A node that is C{twistd mesh-storage}."""

    def command(self, *arguments: str) -> list[str]:
        return ["mesh-storage", *super().command(*arguments)[1:]]

    @property
    def shares(self) -> Path:
        """The folder of its store."""
        return self.data / "keeper"

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def wait_ready_or_ended(self) -> bool:
        """@return: whether it is ready."""
        wait_for(
            f"start or end of {self.home.name}",
            lambda: self.ended or (self.data / "endpoints.json").exists(),
        )
        return not self.ended


class StorageCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        peer = self.mesh.node("peer", "--keeper-max-storage=1GB", kind=StorageNode)
        assert isinstance(peer, StorageNode)
        self.peer = peer
        self.client = self.mesh.node("client", network=peer)
        self.key = peer.good("id", "--json").json["public_id"]

    def uploads(
        self, first: int, count: int, *known: int, lanes: int = LANES
    ) -> subprocess.Popen[str]:
        """Start to have shares kept, after some others were looked for."""
        host, port = self.peer.mesh_port
        arguments = (str(self.client.data), host, port, self.key, lanes, first, count, *known)
        with (self.client.home / "uploads.log").open("ab") as log:
            return subprocess.Popen(
                [*PROGRAM, *map(str, arguments)],
                cwd=self.client.home,
                env=environment(self.client.home, PYTHONPATH=str(ROOT)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def log(self) -> str:
        return (self.client.home / "uploads.log").read_text()[-2000:]


class KillTests(StorageCase):
    def setUp(self) -> None:
        super().setUp()
        self.seed = random.SystemRandom().randrange(2**32)
        self.rng = random.Random(self.seed)
        # What was said of each share, in order; the last words of a lease's end.
        self.said: dict[int, list[str]] = {}
        self.ends: dict[int, int] = {}
        self.found: dict[int, str] = {}

    def hear(self, lines: Sequence[str]) -> list[str]:
        """@return: words that are about no share."""
        others = []
        for line in lines:
            verb, *rest = line.split()
            if not rest:
                others.append(verb)
                continue
            number = int(rest[0])
            if verb in ("good", "unknown", "damaged"):
                self.found[number] = verb
                if verb == "good":
                    self.assertGreaterEqual(int(rest[1]), self.ends.get(number, 0), self.told)
                continue
            self.said.setdefault(number, []).append(verb)
            if verb != "released":
                self.ends[number] = int(rest[1])
        return others

    @property
    def told(self) -> str:
        return f"seed {self.seed}\n{self.log()}\n{self.peer.log_tail()}"

    def judge(self) -> None:
        """What the next one has is what was promised."""
        for number, state in self.found.items():
            steps = self.said.get(number, [])
            if "released" in steps:
                wanted = {"unknown"}
            elif not steps:
                wanted = {"good", "unknown"}
            elif steps_of(number)[len(steps) :] == ("released",):
                # It was being released.
                wanted = {"good", "unknown"}
            else:
                wanted = {"good"}
            self.assertIn(state, wanted, f"share {number} after {steps}, {self.told}")
        self.found.clear()

    def asked(self, last: range) -> list[int]:
        """@return: shares that are looked for: those of the last life, and some before."""
        before = [number for number in self.said if number < last.start]
        return [*last, *self.rng.sample(before, min(ASKED, len(before)))]

    def life(self, last: range, killing: str) -> range:
        """
        One life of the peer.

        @param last: the shares that the life before it was sent.
        @param killing: by which call it is killed; none at any moment.
        @return: those that it was sent.
        """
        peer = self.peer
        peer.prefix = []
        if killing:
            when = self.rng.randrange(1, 60)
            peer.prefix = [
                *(find_strace(), "-f", "-qq", "-o", str(peer.home / "trace")),
                *("-e", f"trace={killing}", "-e", f"inject={killing}:signal=SIGKILL:when={when}"),
            ]
        peer.spawn()
        if not peer.wait_ready_or_ended():
            # It was killed in its start.
            peer.process = None
            return last
        child = self.uploads(last.stop, MANY, *self.asked(last))
        with child:
            assert child.stdout is not None
            heard = []
            while "looked" not in heard:
                line = child.stdout.readline()
                self.assertTrue(line, self.told)
                heard += self.hear([line])
                if "gone" in heard:
                    break
            if not killing:
                for _ in range(self.rng.randrange(1, 40)):
                    heard += self.hear([child.stdout.readline()])
                end = time.monotonic() + self.rng.uniform(0, 0.02)
                while time.monotonic() < end:
                    pass
                peer.kill()
            heard += self.hear(child.stdout.readlines())
        self.assertEqual((heard[-1], child.returncode), ("gone", 0), self.told)
        if killing:
            process, peer.process = peer.process, None
            assert process is not None
            self.assertEqual(process.wait(60), -signal.SIGKILL, self.told)
        self.judge()
        # Those that were under way have numbers behind the last one that was heard of.
        newest = max((number for number in self.said if number >= last.stop), default=last.stop)
        return range(last.stop, newest + LANES + 1)

    def test_nothing_is_lost_that_had_a_receipt(self) -> None:
        last = range(0)
        for turn in range(KILLS):
            # Turn and turn about, so that the trace of one finds the leftovers of the other.
            killing = _CALLS[turn // 2 % len(_CALLS)] if turn % 2 else ""
            last = self.life(last, killing)
        self.peer.prefix = []
        self.peer.start()
        with self.uploads(0, 0, *range(last.stop)) as child:
            assert child.stdout is not None
            self.assertEqual(self.hear(child.stdout.readlines()), ["looked"], self.told)
        self.judge()
        self.assertGreater(len(self.said), KILLS, self.told)
        self.peer.stop()
        store = FileShardStore(str(self.peer.shares))
        kept = {shard.name for shard in store.open()}
        self.assertLessEqual(kept, {name_of(number) for number in range(last.stop)})
        self.assertGreater(len(kept), len(self.said) // 2)
        for folder in ("incoming", "damaged"):
            self.assertEqual(os.listdir(self.peer.shares / folder), [])


class TraceTests(StorageCase):
    def setUp(self) -> None:
        find_strace()
        super().setUp()
        self.trace = self.peer.home / "trace"

    def test_what_is_promised_is_synced_before_the_answer_leaves(self) -> None:
        self.peer.prefix = strace_command(self.trace)
        self.peer.start()
        # One step after the other: what leaves the peer is the answer to the last one.
        with self.uploads(0, 4, lanes=1) as child:
            assert child.stdout is not None
            said = [line.split()[:2] for line in child.stdout.read().splitlines()]
        self.assertEqual(child.returncode, 0, self.log())
        wanted = [[step, str(number)] for number in range(4) for step in steps_of(number)]
        self.assertEqual(said, [["looked"], *wanted])
        self.calls = self.stopped()
        for number in range(4):
            name = name_of(number).hex()
            folder = str(self.peer.shares / "shards" / name[:2])
            written = self.named("pwrite64", f"{name}.")
            shard = [call for call in written if call.file.endswith(".share")]
            notes = [call for call in written if call.file.endswith(".note")]
            steps = steps_of(number)
            self.assertEqual(len(notes), len(set(steps) - {"released"}))
            synced, noted = (self.named("fsync", call.file)[0] for call in (shard[-1], notes[0]))
            (shown,) = self.named("rename", f'"{folder}/{name}.mkshare"')
            self.assertGreater(synced.begun, shard[-1].ended)
            self.assertGreater(shown.begun, max(synced.ended, noted.ended))
            # The last piece of a share is its end, which comes with the request that the
            # receipt answers.
            self.check_nothing_leaves(shard[-1], self.synced_after(folder, shown))
            if "renewed" in steps:
                (noted,) = self.named("fsync", notes[1].file)
                (shown,) = self.named("rename", f'"{notes[1].file}"')
                self.assertGreater(shown.begun, noted.ended)
                self.check_nothing_leaves(notes[1], self.synced_after(folder, shown))
            if "released" in steps:
                gone = self.named("unlink", f"{folder}/{name}.")
                self.assertEqual(len(gone), 2)
                self.check_nothing_leaves(gone[0], self.synced_after(folder, gone[1]))

    def named(self, call: str, path: str) -> list[Call]:
        """@return: calls of a name that are about something."""
        return [c for c in self.calls if c.name == call and path in (c.file or c.arguments)]

    def synced_after(self, folder: str, call: Call) -> Call:
        return next(
            c for c in self.calls if c.name == "fsync" and c.file == folder and c.begun > call.ended
        )

    def check_nothing_leaves(self, since: Call, until: Call) -> None:
        sends = [
            call
            for call in self.calls
            if call.name in ("write", "writev", "sendto", "sendmsg")
            and call.file.startswith(("socket:", "TCP:"))
        ]
        early = [call for call in sends if call.ended > since.begun and call.begun < until.ended]
        self.assertEqual(early, [], f"it was answered before {until.file} was synced")
        self.assertTrue([call for call in sends if call.begun > until.ended])

    def stopped(self) -> list[Call]:
        """Stop the peer; give its calls."""
        process = self.peer.process
        assert process is not None
        # strace keeps SIGTERM to itself: the peer is its child.
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        process.wait(60)
        self.peer.process = None
        return calls_of(self.trace.read_text())
