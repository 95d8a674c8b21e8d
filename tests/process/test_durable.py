"""
Durable means synced before the answer leaves.

The system calls of a node that starts on an empty folder and is given one message are
traced.  Before the bytes of the answer go out, the journal's bytes with the message have
to be synced, and so has the folder in which the journal was made: without it the file's
name, and so the file, may be gone after a power failure.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import MESHKIT, Mesh, run, wait_for
from tests.process.tracing import Call, calls_of, find_strace, strace_command


class ReadingTests(SynchronousTestCase):
    """How a trace is read."""

    def test_calls_of_two_threads(self) -> None:
        trace = """\
7  fdatasync(9</d/node.db-wal> <unfinished ...>
8  sendto(4<socket:[1]>, "x", 1, 0, NULL, 0) = 1
7  <... fdatasync resumed>)          = 0
8  fsync(5</d>) = -1 EIO (Input/output error)
8  +++ exited with 0 +++
"""
        send, sync = sorted(calls_of(trace), key=lambda call: call.ended)
        self.assertEqual((send.name, send.file, send.ended), ("sendto", "socket:[1]", 1))
        self.assertEqual((sync.name, sync.file), ("fdatasync", "/d/node.db-wal"))
        self.assertEqual((sync.begun, sync.ended), (0, 2))


class DurableTests(SynchronousTestCase):
    """What a node asks of the system around an answer."""

    text: ClassVar[str] = "synced-before-it-is-acknowledged"

    def setUp(self) -> None:
        find_strace()
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a")
        self.trace = Path(self.node.home / "trace")
        self.node.prefix = strace_command(self.trace)

    def traced(self) -> list[Call]:
        """Start a node, publish, publish again, stop it; give its calls."""
        self.node.start()
        for number in (1, 2):
            message = self.node.publish({"text": f"{self.text}-{number}"})
            self.assertEqual(message["sequence"], number)
        return self.stopped()

    def stopped(self) -> list[Call]:
        """Stop the node; give its calls."""
        process = self.node.process
        assert process is not None
        # strace keeps SIGTERM to itself: the node is its child.
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            self.fail(f"the traced node does not end: {self.node.log_tail()}")
        self.node.process = None
        wait_for(
            "trace", lambda: "exited" in self.trace.read_text() or "+++" in self.trace.read_text()
        )
        return calls_of(self.trace.read_text())

    def test_journal_and_folder_are_synced_before_the_answer(self) -> None:
        calls = self.traced()
        journal = f"{self.node.database}-wal"
        folder = str(self.node.data)
        # It is made to migrate the tables, removed with the last connection, made again.
        made = [
            call
            for call in calls
            if call.name == "openat"
            and f'"{journal}"' in call.arguments
            and "O_CREAT" in call.arguments
        ][-1]
        previous = made.ended
        for number in (1, 2):
            # The answer begins with the status line; the message stands in it.
            answer = next(
                call
                for call in calls
                if call.name in ("write", "writev", "sendto", "sendmsg")
                and call.file.startswith(("socket:", "TCP:"))
                and "HTTP/1.1 201" in call.arguments
                and call.begun > previous
            )
            written = [
                call
                for call in calls
                if call.name in ("pwrite64", "write")
                and call.file == journal
                and previous < call.ended < answer.begun
            ]
            self.assertTrue(written, f"message {number} was answered before it was written")
            synced = [
                call
                for call in calls
                if call.name in ("fsync", "fdatasync")
                and call.file == journal
                and call.begun > written[-1].ended
                and call.ended < answer.begun
            ]
            self.assertTrue(synced, f"message {number} was answered before it was synced")
            previous = answer.ended
            if number == 1:
                folders = [
                    call
                    for call in calls
                    if call.name in ("fsync", "fdatasync")
                    and call.file == folder
                    and call.begun > made.ended
                    and call.ended < answer.begun
                ]
                self.assertTrue(folders, "the folder was not synced after the journal was made")

    def test_each_of_many_that_are_written_together_is_synced_before_its_answer(self) -> None:
        self.node.start()
        texts = [[f"{self.text}-{one}-{other}-" for other in range(5)] for one in range(8)]

        def publish(some: list[str]) -> None:
            for text in some:
                self.node.publish({"text": text})

        with ThreadPoolExecutor(len(texts)) as threads:
            for done in [threads.submit(publish, some) for some in texts]:
                done.result()
        batch = [f"{self.text}-batch-{number}-" for number in range(5)]
        body = json.dumps({"contents": [{"text": text} for text in batch]}).encode()
        last_hash = self.node.ask("POST", "/v1/publish/batch", body).data["last_hash"]
        calls = self.stopped()
        journal = f"{self.node.database}-wal"
        writes = [c for c in calls if c.name in ("pwrite64", "write") and c.file == journal]
        syncs = [c for c in calls if c.name in ("fsync", "fdatasync") and c.file == journal]
        answers = [
            c
            for c in calls
            if c.file.startswith(("socket:", "TCP:")) and "HTTP/1.1 201" in c.arguments
        ]
        for text, shown in [
            *((text, text) for some in texts for text in some),
            *((text, last_hash) for text in batch),
        ]:
            (answer,) = [c for c in answers if shown in c.arguments]
            first = min(c.ended for c in writes if text in c.arguments)
            self.assertTrue(
                [c for c in syncs if c.begun > first and c.ended < answer.begun],
                f"{text} was answered before it was synced",
            )
        # They did share their syncs, or this says nothing about sharing them.
        self.assertLess(len(syncs), len(writes))

    def test_a_backup_and_what_is_restored_are_synced_before_they_have_their_names(self) -> None:
        prefix, self.node.prefix = self.node.prefix, []
        self.node.start()
        self.node.publish({"text": self.text})
        self.node.stop()
        kept = self.node.home / "kept.db"
        for verb, target, says in (
            ("backup", kept, "Wrote"),
            ("restore", self.node.database, "Restored into"),
        ):
            command = [*prefix, *MESHKIT, "--data-dir", str(self.node.data), verb, str(kept)]
            done = run(*command, home=self.node.home)
            self.assertEqual(done.code, 0, done.err)
            calls = calls_of(self.trace.read_text())
            (named,) = [
                c for c in calls if c.name.startswith("rename") and f'"{target}"' in c.arguments
            ]
            (told,) = [c for c in calls if c.name == "write" and f'"{says}' in c.arguments]
            fresh = f"{target}.new"
            written = max(c.ended for c in calls if c.name == "pwrite64" and c.file == fresh)
            synced = [c for c in calls if c.name == "fsync" and c.file == fresh]
            self.assertTrue([c for c in synced if written < c.begun and c.ended < named.begun])
            folder = [c for c in calls if c.name == "fsync" and c.file == str(target.parent)]
            self.assertTrue([c for c in folder if named.ended < c.begun and c.ended < told.begun])
            if verb == "backup":
                self.node.database.unlink()

    def test_the_endpoint_file_is_synced_and_then_renamed(self) -> None:
        calls = self.traced()
        target = json.dumps(str(self.node.data / "endpoints.json"))
        rename = next(
            call for call in calls if call.name.startswith("rename") and target in call.arguments
        )
        source = re.search(r'"([^"]*)"', rename.arguments)
        assert source is not None
        self.assertTrue(
            [
                call
                for call in calls
                if call.name in ("fsync", "fdatasync")
                and call.file.endswith(source[1].rpartition("/")[2])
                and call.ended < rename.begun
            ]
        )
        self.assertTrue(
            [
                call
                for call in calls
                if call.name == "fsync"
                and call.file == str(self.node.data)
                and call.begun > rename.ended
            ]
        )

    def test_that_there_is_a_pass_is_synced_before_that_is_answered(self) -> None:
        self.node.start()
        answered = self.node.ask("POST", "/v1/audit/runs", b"{}")
        self.assertEqual(answered.status, 202, answered)
        calls = self.stopped()
        journal = f"{self.node.database}-wal"
        answer = [c for c in calls if "HTTP/1.1 202" in c.arguments][-1]
        writes = [
            call
            for call in calls
            if call.name in ("pwrite64", "write")
            and call.file == journal
            and "running" in call.arguments
            and call.ended < answer.begun
        ]
        self.assertTrue(writes, "that there is a pass was answered before it was written")
        synced = [
            call
            for call in calls
            if call.name in ("fsync", "fdatasync")
            and call.file == journal
            and call.begun > writes[-1].ended
            and call.ended < answer.begun
        ]
        self.assertTrue(synced, "that there is a pass was answered before it was synced")
