"""
What is durable before somebody learns of it, when shares are audited and repaired, as the trace of
the system calls shows it:

  - a peer is shown the seed of an audit when what it will be asked is synced;
  - an audit comes to an outcome, also to none, when that is synced;
  - old leases are given up when it is synced that the share is elsewhere now.

That a pass was asked for is answered when there is one: L{tests.process.test_durable}.
"""

from __future__ import annotations

import codecs
import subprocess
import sys
import tempfile
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.bench.children import ROOT
from tests.process.tracing import Call, calls_of, find_strace, strace_command

_WRITES = ("pwrite64", "write")
_SYNCS = ("fsync", "fdatasync")


def written(call: Call) -> bytes:
    """@return: the bytes that a call has written, as far as the trace has them."""
    text = call.arguments.split('"', 1)[1].rsplit('"', 1)[0]
    data, _ = codecs.escape_decode(text.encode("latin-1"))  # type: ignore[attr-defined]
    assert isinstance(data, bytes)
    return data


@frozen
class Watched:
    """
    What happened, in order.

    @ivar said: what the program said: text and place.
    @ivar calls: all of them.
    @ivar journal: path of the journal of the database.
    """

    said: list[tuple[str, Call]]
    calls: list[Call]
    journal: str

    def place(self, start: str) -> Call:
        """@return: where something was said that begins so."""
        found = [call for text, call in self.said if text.startswith(start)]
        assert found, f"{start!r} was never said: {[text for text, _ in self.said]}"
        return found[0]

    def unsynced(self, begin: Call, end: Call, wanted: bytes = b"") -> str | None:
        """
        @param wanted: what has to be written between two places.
        @return: what is wrong: it was not, or was not synced before the second place.
        """
        between = [
            call
            for call in self.calls
            if call.file == self.journal and begin.ended < call.begun and call.ended < end.begun
        ]
        writes = [c for c in between if c.name in _WRITES]
        if not any(wanted in written(call) for call in writes):
            return "it was not written"
        last = writes[-1]
        if not any(c.name in _SYNCS and c.begun > last.ended for c in between):
            return "it was not synced"
        return None


class CustodyTests(SynchronousTestCase):
    def watch(self, what: str) -> Watched:
        find_strace()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name).resolve()
        trace, database = folder / "trace", folder / "it.db"
        command = [
            *strace_command(trace),
            *(sys.executable, "-m", "tests.process.custody", what, str(database)),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
        self.assertEqual(done.returncode, 0, done.stderr)
        calls = calls_of(trace.read_text())
        said = [
            (written(call).decode("ascii").strip(), call)
            for call in calls
            if call.name == "write" and call.arguments.startswith("1<")
        ]
        return Watched(said, calls, f"{database}-wal")

    def test_what_a_peer_will_be_asked_is_synced_before_it_is_shown_the_seed(self) -> None:
        watched = self.watch("audit")
        (seed,) = [text for text, _ in watched.said if text.startswith("seed of ")]
        audit_id = bytes.fromhex(seed.removeprefix("seed of "))
        begin, shown, end = (watched.place(each) for each in ("begin", "seed", "success"))
        self.assertIsNone(watched.unsynced(begin, shown, audit_id))
        # And then the receipt, before anybody hears what came of it.
        self.assertIsNone(watched.unsynced(shown, end, b"meshkit-audit/1"))

    def test_that_a_peer_is_contained_is_synced_before_anybody_hears_of_it(self) -> None:
        watched = self.watch("contain")
        shown, end = watched.place("seed"), watched.place("contained")
        self.assertIsNone(watched.unsynced(watched.place("begin"), shown, b"audit-contained/"))
        self.assertIsNone(watched.unsynced(shown, end, b"audit-contained/"))

    def test_where_a_share_is_now_is_synced_before_the_old_lease_is_given_up(self) -> None:
        watched = self.watch("repair")
        closed, released = watched.place("close"), watched.place("release")
        (new,) = [text.split()[1] for text, _ in watched.said if text.startswith("close ")]
        (old,) = [text.split()[1] for text, _ in watched.said if text.startswith("release ")]
        self.assertNotEqual(new, old)
        self.assertIsNone(watched.unsynced(closed, released, bytes.fromhex(new)))
        self.assertIsNone(watched.unsynced(closed, watched.place("repaired"), bytes.fromhex(new)))
