"""Tests of L{meshkit.cli.starting}: of many who want a node, one starts it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.starting import (
    ATTEMPTS,
    LOG_LINES,
    LOG_NAME,
    LOOK_EVERY,
    START_SECONDS,
    Starter,
)
from meshkit.errors import (
    DoorUnreachable,
    MeshkitError,
    NodeNotStarted,
    NotFound,
    PassphraseRequired,
)
from meshkit.identity.keys import Identity
from meshkit.identity.passphrase import MIN_MEMORY_KIB, Cost
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import create_identity, load_identity
from tests.runtime.support import scratch

URL = "http://127.0.0.1:7654"
TAKEN = "mesh-node: cannot listen on 'tcp:7655' (Address already in use): stop it [CANNOT_LISTEN]"
SECOND = "mesh-node: the data folder /x is in use by process 7 [DATA_FOLDER_LOCKED]"


@define
class Daemon:
    """What twistd would be: it does what it is told, when it is told."""

    path: str
    flags: tuple[str, ...]
    code: int | None = None
    folder: DataFolder = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.folder = DataFolder(self.path, LocalFiles())

    def poll(self) -> int | None:
        return self.code

    def fork(self) -> None:
        """It has the lock and its ports, and the shell may go on."""
        self.folder.lock(os.getpid())
        self.code = 0

    def ready(self, *doors: str) -> None:
        self.folder.write_endpoints({"mesh": [], "api": list(doors)})

    def end(self) -> None:
        self.folder.unlock()

    def fail(self, *lines: str) -> None:
        self.log(*lines)
        self.code = 1

    def log(self, *lines: str) -> None:
        with open(self.folder.file(LOG_NAME), "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


class StartingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.path = os.path.join(scratch(self), "data")
        self.folder = DataFolder(self.path, LocalFiles())
        self.folder.prepare()
        load_identity(self.folder, Random(1))
        self.launched: list[Daemon] = []
        self.environ: dict[str, str] = {}

    def tearDown(self) -> None:
        for daemon in self.launched:
            daemon.end()

    def launch(self, folder: DataFolder, flags: Sequence[str]) -> Daemon:
        daemon = Daemon(folder.path, tuple(flags))
        self.launched.append(daemon)
        return daemon

    def start(self, **more: Any) -> Deferred[str]:
        """Somebody wants the node; with a folder of its own, as another process has."""
        folder = DataFolder(self.path, LocalFiles())
        more = {"launch": self.launch, **more}
        starter = Starter(self.clock, folder, pid=1, environ=self.environ, **more)
        return Deferred.fromCoroutine(starter.door())

    def look(self, times: int = 1) -> None:
        self.clock.pump([LOOK_EVERY] * times)

    def failure(self, wanted: Deferred[str], kind: type[MeshkitError]) -> MeshkitError:
        error = self.failureResultOf(wanted, kind).value
        assert isinstance(error, MeshkitError)
        return error

    def nothing_is_left(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])
        give_back = self.folder.take_turn(1)
        assert give_back is not None
        give_back()

    def test_one_that_runs_is_used(self) -> None:
        running = Daemon(self.path, ())
        running.fork()
        running.ready(URL, "http://[::1]:7654")
        self.assertEqual(self.successResultOf(self.start()), URL)
        self.assertEqual(self.launched, [])
        running.end()

    def test_none_runs(self) -> None:
        wanted = self.start()
        (daemon,) = self.launched
        self.assertEqual(daemon.flags, ())
        self.look(3)
        daemon.fork()
        self.look(3)
        self.assertNoResult(wanted)
        daemon.ready(URL)
        self.look()
        self.assertEqual(self.successResultOf(wanted), URL)
        self.assertEqual(self.launched, [daemon])
        self.nothing_is_left()

    def test_what_one_that_was_killed_has_left_is_not_used(self) -> None:
        killed = Daemon(self.path, ())
        killed.fork()
        killed.ready("http://127.0.0.1:1")
        left = {}
        for name in ("lock", "endpoints.json"):
            with open(self.folder.file(name), "rb") as file:
                left[name] = file.read()
        killed.end()
        for name, content in left.items():
            with open(self.folder.file(name), "wb") as file:
                file.write(content)
        wanted = self.start()
        self.assertNoResult(wanted)
        self.launched[0].fork()
        self.launched[0].ready(URL)
        self.look()
        self.assertEqual(self.successResultOf(wanted), URL)

    def test_of_many_at_the_same_moment_one_starts_it(self) -> None:
        wanted = [self.start() for _ in range(5)]
        self.look(3)
        (daemon,) = self.launched
        daemon.fork()
        daemon.ready(URL)
        self.look()
        self.assertEqual([self.successResultOf(each) for each in wanted], [URL] * 5)
        self.assertEqual(self.launched, [daemon])

    def test_who_started_it_is_killed(self) -> None:
        """The next one tries, is refused by the lock, and waits for the first one's node."""
        first = self.start()
        second = self.start()
        first.cancel()
        self.failureResultOf(first)
        self.look()
        one, two = self.launched
        one.fork()
        two.fail(SECOND)
        self.look(3)
        self.assertNoResult(second)
        one.ready(URL)
        self.look()
        self.assertEqual(self.successResultOf(second), URL)
        self.assertEqual(len(self.launched), 2)

    def test_somebody_takes_the_folder_and_leaves_it_again(self) -> None:
        """C{meshkit doctor}, for one."""
        doctor = DataFolder(self.path, LocalFiles())
        doctor.lock(2)
        wanted = self.start()
        self.look(3)
        self.assertEqual(self.launched, [])
        doctor.unlock()
        self.look()
        self.assertEqual(len(self.launched), 1)
        self.assertNoResult(wanted)

    def test_it_does_not_go_on_for_ever(self) -> None:
        wanted = self.start()
        for _ in range(ATTEMPTS):
            self.launched[-1].fail(SECOND)
            self.look()
        error = self.failure(wanted, NodeNotStarted)
        self.assertEqual(len(self.launched), ATTEMPTS)
        self.assertIn("others take the data folder", str(error))
        self.nothing_is_left()

    def test_a_node_that_does_not_start_says_why(self) -> None:
        wanted = self.start()
        (daemon,) = self.launched
        lines = [f"line {number}" for number in range(2 * LOG_LINES)]
        reason = "mesh-node: /x/meshkit.toml, line 1: workers is 1000 [CONFIG_INVALID]"
        daemon.fail(*lines, reason, "An error has occurred: b'...'")
        self.look()
        error = self.failure(wanted, NodeNotStarted)
        self.assertIn("line 1: workers is 1000 [CONFIG_INVALID]. Its log", str(error))
        self.assertIn(self.folder.file(LOG_NAME), str(error))
        assert error.details is not None
        end: Any = error.details["log_end"]
        self.assertEqual(len(end), LOG_LINES)
        self.assertIn(reason, end)
        self.nothing_is_left()

    def test_a_log_of_json_is_understood(self) -> None:
        wanted = self.start()
        (daemon,) = self.launched
        daemon.fork()
        daemon.end()
        message = 'mesh-node: the disk of "x" is full [STORAGE_FAILED]'
        daemon.log(json.dumps({"level": "error", "message": message, "time": "now"}))
        self.look()
        error = self.failure(wanted, NodeNotStarted)
        self.assertIn('the disk of "x" is full [STORAGE_FAILED]', str(error))

    def test_what_earlier_ones_said_is_no_reason(self) -> None:
        Daemon(self.path, ()).log("mesh-node: something of last week [CONFIG_INVALID]")
        wanted = self.start()
        self.launched[0].fail()
        self.look()
        self.assertIn("it said nothing", str(self.failure(wanted, NodeNotStarted)))

    def test_one_that_ends_before_it_is_ready(self) -> None:
        """A part failed to start, when the shell had gone already."""
        wanted = self.start()
        (daemon,) = self.launched
        daemon.fork()
        self.look()
        self.assertNoResult(wanted)
        daemon.log("mesh-node: the part 'contrib' cannot be used [PART_BROKEN]")
        daemon.end()
        self.look()
        self.assertIn("[PART_BROKEN]", str(self.failure(wanted, NodeNotStarted)))

    def test_ports_that_are_taken_are_replaced_unless_somebody_chose_them(self) -> None:
        for chosen, environ, flags in (
            ("", {}, ("--api", "auto", "--listen", "tcp:0")),
            ('api = "tcp:7654:interface=127.0.0.1"', {}, ("--listen", "tcp:0")),
            ("[gossip]\ninterval = 3", {"MESHKIT_LISTEN": "tcp:7655"}, ("--api", "auto")),
        ):
            with open(self.folder.file("meshkit.toml"), "w", encoding="utf-8") as file:
                file.write(chosen)
            self.environ = environ
            wanted = self.start()
            first = self.launched.pop()
            self.assertEqual(first.flags, ())
            first.fail(TAKEN)
            self.look()
            second = self.launched.pop()
            self.assertEqual(second.flags, flags)
            second.fork()
            second.ready(URL)
            self.look()
            self.assertEqual(self.successResultOf(wanted), URL)
            second.end()

    def test_ports_that_were_chosen_are_not_replaced(self) -> None:
        with open(self.folder.file("meshkit.toml"), "w", encoding="utf-8") as file:
            file.write('api = "tcp:7654"\nlisten = "tcp:7655"\n')
        wanted = self.start()
        self.launched[0].fail(TAKEN)
        self.look()
        self.assertIn("Address already in use", str(self.failure(wanted, NodeNotStarted)))

    def test_other_ports_are_tried_once(self) -> None:
        wanted = self.start()
        for _ in range(2):
            self.launched[-1].fail(TAKEN)
            self.look()
        self.failure(wanted, NodeNotStarted)
        self.assertEqual(len(self.launched), 2)

    def test_it_is_waited_for_so_long_and_no_longer(self) -> None:
        wanted = self.start()
        self.launched[0].fork()
        self.launched[0].log("migrating ...")
        self.clock.advance(LOOK_EVERY)
        self.clock.advance(START_SECONDS - 3 * LOOK_EVERY)
        self.assertNoResult(wanted)
        self.clock.pump([LOOK_EVERY] * 3)
        error = self.failure(wanted, NodeNotStarted)
        self.assertIn(f"not ready after {START_SECONDS:.0f} s", str(error))
        self.assertIn(f"held by process {os.getpid()}", str(error))
        assert error.details is not None
        self.assertEqual(error.details["log_end"], ["migrating ..."])
        self.nothing_is_left()

    def test_what_it_is_run_with_cannot_be_used(self) -> None:
        def launch(folder: DataFolder, flags: Sequence[str]) -> Daemon:
            raise PermissionError(13, "Permission denied", folder.file(LOG_NAME))

        error = self.failure(self.start(launch=launch), NodeNotStarted)
        self.assertIn(f"{self.folder.file(LOG_NAME)} cannot be used: Permission", str(error))
        self.nothing_is_left()

    def test_it_is_not_to_be_started(self) -> None:
        error = self.failure(self.start(may_start=False), DoorUnreachable)
        self.assertNotIsInstance(error, NodeNotStarted)
        self.assertIn(f"mesh-node --data-dir {self.path}", str(error))
        self.assertEqual(self.launched, [])

    def test_one_that_starts_is_waited_for_by_those_as_well_who_may_not_start_one(self) -> None:
        other = Daemon(self.path, ())
        other.fork()
        wanted = self.start(may_start=False)
        self.look(3)
        other.ready(URL)
        self.look()
        self.assertEqual(self.successResultOf(wanted), URL)
        other.end()

    def test_one_without_a_door(self) -> None:
        running = Daemon(self.path, ())
        running.fork()
        running.ready()
        self.assertIn("--api none", str(self.failure(self.start(), DoorUnreachable)))
        running.end()

    def test_a_folder_without_identity(self) -> None:
        os.unlink(self.folder.file("secret.key"))
        command = f"'meshkit --data-dir {self.path} init'"
        self.assertIn(command, str(self.failure(self.start(), NotFound)))
        self.path = os.path.join(self.path, "nowhere")
        command = f"'meshkit --data-dir {self.path} init'"
        self.assertIn(command, str(self.failure(self.start(), NotFound)))
        self.assertFalse(os.path.exists(self.path))

    def test_a_key_file_under_a_passphrase_needs_a_person(self) -> None:
        os.unlink(self.folder.file("secret.key"))
        cheap = Cost(1, MIN_MEMORY_KIB)
        create_identity(self.folder, Identity(bytes(32)), Random(2), "sesame", cheap)
        error = self.failure(self.start(), PassphraseRequired)
        self.assertIn(f"mesh-node --data-dir {self.path}", str(error))
        self.assertEqual(self.launched, [])
