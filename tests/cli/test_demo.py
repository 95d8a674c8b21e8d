"""
The pieces of the demo.  The whole of it is run in C{tests/process/test_demo.py}.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.demo.checks import Acknowledged, Check, digest, fingerprint
from meshkit.cli.demo.cluster import DemoFailed, RunFolder, end_group, own_folder, started_at
from meshkit.cli.demo.corpus import MAX_FILE, library, modules, read_module, real_file
from meshkit.cli.demo.hostile import CHANGED, Forger, _ToListener
from meshkit.cli.demo.screens import Counter, PlainScreen, shows_unicode
from meshkit.gossip.codec import FrameDecoder, Hello, Interest, Messages, Note, encode
from meshkit.gossip.spread import RECEIVE, REPLICATE

SOURCE = '''"""Of the module.

More of it.
"""

class Thing:
    """Of the class."""

    async def method(self):
        """Of the method."""
        def inner():
            """Of a function in it."""

    def silent(self):
        return "not a docstring"

raise SystemExit("this was run")
'''


class FolderTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


class CorpusTests(FolderTestCase):
    def test_docstrings_come_with_their_names_and_places(self) -> None:
        self.write("pkg/__init__.py", SOURCE)
        found = read_module(str(self.folder), os.path.join("pkg", "__init__.py"))
        self.assertEqual(
            [(each.name, each.place, each.text.splitlines()[0]) for each in found],
            [
                ("pkg", "pkg/__init__.py:1", "Of the module."),
                ("pkg.Thing", "pkg/__init__.py:7", "Of the class."),
                ("pkg.Thing.method", "pkg/__init__.py:10", "Of the method."),
                ("pkg.Thing.method.inner", "pkg/__init__.py:12", "Of a function in it."),
            ],
        )

    def test_tests_and_other_peoples_packages_are_left_out(self) -> None:
        for name in ("b.py", "a.txt", "test/c.py", "site-packages/d.py", "e/tests/f.py", "e/g.py"):
            self.write(name, "")
        self.assertEqual(modules(str(self.folder)), ["b.py", os.path.join("e", "g.py")])

    def test_the_file_that_is_stored_is_a_real_one(self) -> None:
        path = real_file()
        size, found = fingerprint(path)
        self.assertEqual(size, os.path.getsize(path))
        self.assertTrue(10_000 < size <= MAX_FILE, size)
        self.assertEqual(found, hashlib.sha256(Path(path).read_bytes()).hexdigest())

    def test_what_is_not_python_or_not_text_is_left_out(self) -> None:
        self.write("broken.py", '"""Said."""\ndef (')
        self.write("half.py", '"""Half of a pair: \\ud800."""')
        self.write("long.py", f'"""{"x" * 40_000}"""')
        for name in ("broken.py", "half.py", "long.py", "missing.py"):
            self.assertEqual(read_module(str(self.folder), name), [], name)

    def test_the_library_of_this_python_is_found(self) -> None:
        (first, *_) = read_module(library(), "heapq.py")
        self.assertEqual((first.name, first.place), ("heapq", "heapq.py:1"))
        self.assertIn("priority queue", first.text)


class ScreenTests(SynchronousTestCase):
    def stream(self, encoding: str) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(), encoding=encoding)

    def test_the_c_locale_is_taken_at_its_word(self) -> None:
        for environ, shown in (
            ({"LC_ALL": "C"}, False),
            ({"LC_ALL": "POSIX", "LANG": "en_US.UTF-8"}, False),
            ({"LC_ALL": "C", "PYTHONUTF8": "1"}, True),
            ({"LC_CTYPE": "C.UTF-8"}, True),
            ({"LANG": "en_US.UTF-8"}, True),
            ({}, True),
        ):
            self.assertEqual(shows_unicode(self.stream("utf-8"), environ), shown, environ)

    def test_an_encoding_without_ticks_is_ascii(self) -> None:
        self.assertFalse(shows_unicode(self.stream("latin-1"), {"LANG": "de_DE.ISO-8859-1"}))

    def test_control_characters_of_others_are_not_sent(self) -> None:
        lines: list[str] = []
        screen = PlainScreen(False, lines.append)
        screen.quote("red \x1b[31m alert \x07")
        screen.rows([("\x1b]0;title\x07", "\x9b2J")])
        screen.say("\x1b[2J")
        screen.command("\x1b[2J")
        screen.checks([Check("\x1b[2J", "\x1b[2J", True)])
        self.assertTrue(all(line.isprintable() for line in lines), lines)
        self.assertIn("\\x1b[31m", lines[0])

    def test_a_counter_prints_once_a_second_and_at_the_end(self) -> None:
        lines: list[str] = []
        screen = PlainScreen(False, lines.append)
        for tick in range(25):
            screen.count([Counter("Ada", tick, 24)], tick / 10)
        screen.count([Counter("Ada", 24, 24)], 2.4, last=True)
        screen.count([Counter("Ben", 0, 10)], 0.0)
        self.assertEqual(
            [line.split() for line in lines],
            [
                ["0.0", "s", "Ada", "0/24"],
                ["1.0", "s", "Ada", "10/24"],
                ["2.0", "s", "Ada", "20/24"],
                ["2.4", "s", "Ada", "24/24"],
                ["0.0", "s", "Ben", "0/10"],
            ],
        )

    def test_a_failed_check_is_said_in_words(self) -> None:
        lines: list[str] = []
        PlainScreen(False, lines.append).checks([Check("lost", "1", False), Check("x", "2", True)])
        self.assertEqual(
            [line.split() for line in lines[2:]], [["FAILED", "lost", "1"], ["ok", "x", "2"]]
        )


class CheckTests(SynchronousTestCase):
    STORE = {("@a", 1): "1a", ("@a", 2): "2a", ("@a", 3): "3a", ("@b", 1): "1b"}

    def noted(self) -> Acknowledged:
        acknowledged = Acknowledged()
        acknowledged.note("@a", 1, 2, "2a")
        acknowledged.note("@a", 3, 3, "3a")
        acknowledged.note("@b", 1, 1, "1b")
        return acknowledged

    def test_nothing_is_lost_in_a_store_that_has_it_all(self) -> None:
        self.assertEqual(self.noted().lost({**self.STORE, ("@b", 2): "more"}), 0)
        self.assertEqual((self.noted().count(), self.noted().count("@a")), (4, 3))

    def test_every_missing_message_counts(self) -> None:
        for key in self.STORE:
            store = {each: name for each, name in self.STORE.items() if each != key}
            self.assertEqual(self.noted().lost(store), 1, key)

    def test_another_message_in_its_place_is_a_lost_one(self) -> None:
        self.assertEqual(self.noted().lost({**self.STORE, ("@b", 1): "other"}), 1)
        # The last hash stands for the whole batch.
        self.assertEqual(self.noted().lost({**self.STORE, ("@a", 2): "other"}), 2)

    def test_the_fingerprint_does_not_depend_on_the_order(self) -> None:
        backwards = dict(reversed(self.STORE.items()))
        self.assertEqual(digest(backwards), digest(self.STORE))
        text = "@a 1 1a\n@a 2 2a\n@a 3 3a\n@b 1 1b\n"
        self.assertEqual(digest(self.STORE), hashlib.sha256(text.encode()).hexdigest())
        self.assertNotEqual(digest({**self.STORE, ("@b", 1): "other"}), digest(self.STORE))


class HostileTests(SynchronousTestCase):
    def test_the_forger_claims_and_serves_whoever_asks(self) -> None:
        author, other = b"a" * 32, b"o" * 32
        forger = Forger(author, 7, [b"one", b"two"])
        transport = StringTransport()
        forger.makeConnection(transport)
        wish = REPLICATE | RECEIVE
        forger.dataReceived(encode(Note([(author, 6, REPLICATE), (other, 0, wish)])))
        self.assertFalse(forger.served)
        forger.dataReceived(encode(Note([(author, 6, wish)])))
        self.assertTrue(forger.served)
        decoder = FrameDecoder()
        decoder.receive(transport.value())
        self.assertEqual(
            [decoder.next_frame() for _ in range(5)],
            [
                Hello(bytes(16)),
                Interest(True, [], [], False),
                Note([(author, 7, REPLICATE)]),
                Messages(author, 7, [b"one", b"two"]),
                None,
            ],
        )

    def through_proxy(self, owner: Any, pieces: list[bytes]) -> bytes:
        class Peer:
            factory = owner
            transport = StringTransport()

        half = _ToListener()
        half.peer = Peer()
        Peer.transport = StringTransport()
        for piece in pieces:
            half.dataReceived(piece)
        return Peer.transport.value()

    def test_the_proxy_changes_one_bit_of_one_connection(self) -> None:
        class Owner:
            flipped = False

        data = bytes(range(256))
        changed = bytearray(data)
        changed[CHANGED] ^= 1
        for size in (1, 7, CHANGED, CHANGED + 1, 256):
            owner = Owner()
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            # Too short to be changed; the next is; then no more.
            short = data[:CHANGED]
            self.assertEqual(self.through_proxy(owner, [short]), short)
            self.assertEqual(self.through_proxy(owner, pieces), bytes(changed), size)
            self.assertEqual(self.through_proxy(owner, pieces), data)


class RunFolderTests(FolderTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.rng = Random(1)

    def make(self, folder: str | None = None) -> RunFolder:
        return RunFolder.make(self.rng, folder, parent=self.folder)

    def sleeper(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def abandon(self, run: RunFolder) -> None:
        """What remains when the demo is killed: all but the lock."""
        run._lock.close()

    def test_a_process_of_an_abandoned_run_is_ended(self) -> None:
        run = self.make()
        process = self.sleeper()
        run.note_child(process.pid)
        self.abandon(run)
        second = self.make()
        self.assertEqual(second.ended, 1)
        self.assertEqual(process.wait(10), -9)
        self.assertFalse(run.path.exists())
        second.remove()

    def test_a_run_that_goes_on_is_left_alone(self) -> None:
        run = self.make()
        process = self.sleeper()
        run.note_child(process.pid)
        second = self.make()
        self.assertEqual((second.ended, process.poll()), (0, None))
        self.assertTrue(run.path.exists())
        second.remove()
        run.remove()

    def test_somebody_elses_process_with_the_same_id_is_left_alone(self) -> None:
        run = self.make()
        process = self.sleeper()
        (run.path / "children").write_text(f"{process.pid} 12345\nnonsense\n\n{process.pid}\n")
        self.abandon(run)
        second = self.make()
        self.assertEqual((second.ended, process.poll()), (0, None))
        second.remove()

    def test_a_process_that_is_gone_has_no_start(self) -> None:
        process = self.sleeper()
        start = started_at(process.pid)
        self.assertIsNotNone(start)
        self.assertEqual(started_at(process.pid), start)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # Not waited for yet: its id is still taken.
        self.assertIsNone(started_at(process.pid))
        self.assertFalse(end_group(process.pid, str(start)))

    def test_removing_takes_all_but_what_the_user_named(self) -> None:
        named = self.folder / "named"
        run = self.make(str(named))
        (named / "kept").touch()
        run.remove()
        self.assertFalse(run.path.exists())
        self.assertTrue((named / "kept").exists())
        error = self.assertRaises(DemoFailed, self.make, str(named))
        self.assertIn("not empty", str(error))

    def test_a_folder_that_others_could_write_is_refused(self) -> None:
        path = own_folder(self.folder)
        self.assertEqual(own_folder(self.folder), path)
        path.chmod(0o777)
        self.assertRaises(DemoFailed, own_folder, self.folder)
        path.rmdir()
        path.symlink_to(self.folder)
        self.assertRaises(DemoFailed, own_folder, self.folder)

    def test_the_lock_is_not_inherited(self) -> None:
        run = self.make()
        self.sleeper()  # started while we hold it
        self.abandon(run)
        with (run.path / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
