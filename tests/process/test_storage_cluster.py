"""
C{docs/howto/storage-cluster.md}, typed as it stands there: six storage peers and an owner.

Each block of the page is run in a shell, in the order of the page; after those of a section
it is looked whether what the page says has happened.  A section that nothing is looked for
fails, so that nothing can be written there that nobody tries.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.ports import free_row
from tests.process.mesh import MESHKIT, TWISTD, alive, environment, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "howto" / "storage-cluster.md"

#: Seconds that one block may take.
BLOCK_SECONDS: Final = 240
_END: Final = "@@end@@"
#: The ports of the page.
_PORT: Final = re.compile(r"\b176[78][0-9]?")


@frozen
class Section:
    """
    A section of the page.

    @ivar title: its heading.
    @ivar blocks: what is typed in it.
    """

    title: str
    blocks: tuple[str, ...]


def sections() -> list[Section]:
    """@return: those of the page in which something is typed."""
    found = []
    for part in re.split(r"(?m)^## ", PAGE.read_text("utf-8"))[1:]:
        title, _, text = part.partition("\n")
        blocks = tuple(re.findall(r"(?ms)^```sh\n(.*?)^```", text))
        if blocks:
            found.append(Section(title, blocks))
    return found


class Shell:
    """A shell in a folder of its own, to which the page is read out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name, command in (("meshkit", MESHKIT), ("twistd", TWISTD)):
            path = programs / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', "utf-8")
            path.chmod(0o755)
        variables = environment(folder)
        variables["PATH"] = f"{programs}{os.pathsep}{variables.get('PATH', os.defpath)}"
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=variables,
            text=True,
        )

    def run(self, block: str) -> str:
        """
        @return: what it prints.
        @raise AssertionError: if a command of it fails, or it takes too long.
        """
        assert self._shell.stdin is not None and self._shell.stdout is not None
        # In a shell beneath this one it ends at the first command that fails; what only
        # says what words mean has to stay.
        body = block if "()" in block else f"(set -eu\n{block}\n)"
        self._shell.stdin.write(f"{body}\necho {_END} $?\n")
        self._shell.stdin.flush()
        overdue = threading.Timer(BLOCK_SECONDS, self._shell.kill)
        overdue.start()
        lines = []
        try:
            for line in self._shell.stdout:
                if line.startswith(_END):
                    break
                lines.append(line)
            else:
                raise AssertionError(f"it hangs, or has ended the shell:\n{block}\n{lines}")
        finally:
            overdue.cancel()
        output = "".join(lines)
        if line.split() != [_END, "0"]:
            raise AssertionError(f"this failed:\n{block}\nand printed:\n{output}")
        return output

    def close(self) -> None:
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.close()
        self._shell.wait(BLOCK_SECONDS)
        self._shell.stdout.close()

    def pids(self) -> list[int]:
        """Of the daemons that were started."""
        found = []
        for path in self.folder.glob("*/pid"):
            with contextlib.suppress(ValueError, FileNotFoundError):
                found.append(int(path.read_text("utf-8")))
        return found


class ClusterTests(SynchronousTestCase):
    """
    @ivar printed: what the blocks of a section have printed.
    """

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meshkit-cluster-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.shell = Shell(self.folder)
        self.addCleanup(self.shell.close)
        self.addCleanup(self.end_daemons)
        self.printed: list[str] = []

    def end_daemons(self) -> None:
        for pid in self.shell.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def test_every_step_of_the_page_does_what_it_says(self) -> None:
        page = sections()
        checks = {
            name.removeprefix("check_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("check_")
        }
        names = [re.sub("[^a-z]+", "_", each.title.lower()) for each in page]
        self.assertEqual(sorted(names), sorted(checks), "each section needs a check")
        ports = self._ports(page)
        for section, name in zip(page, names, strict=True):
            self.printed = [
                self.shell.run(_PORT.sub(lambda found: ports[found[0]], block))
                for block in section.blocks
            ]
            check: Callable[[], None] = checks[name]
            check()

    def _ports(self, page: list[Section]) -> dict[str, str]:
        """
        Free ports in the place of those of the page.  1767 stands for the six of a loop, whose
        last digit follows.
        """
        low = free_row(30, step=10)
        names = {found for each in page for block in each.blocks for found in _PORT.findall(block)}
        rest = range(low + 10, low + 30)
        others = {name: str(port) for name, port in zip(sorted(names), rest, strict=False)}
        return others | {"1767": str(low // 10), "17671": str(low + 1)}

    # --- what there is -----------------------------------------------------------------

    def meshkit(self, *arguments: str) -> Any:
        return json.loads(self.shell.run(shlex.join(["meshkit", "-d", "owner", *arguments])))

    def peers(self, block: int = -1) -> Any:
        """What C{storage_peers} has printed, among other things."""
        text = self.printed[block]
        return json.JSONDecoder().raw_decode(text[text.index("[\n") :])[0]

    def members(self) -> list[bool]:
        return [each["member"] for each in self.peers()]

    def places(self) -> list[str | None]:
        """Who has the shares of what was put last."""
        newest = self.meshkit("object", "ls", "--json")[0]["object"]
        shares = self.meshkit("object", "stat", newest, "--json")["shares"]
        return [each["peer"] for each in shares]

    def key(self, peer: int) -> str:
        return self.shell.run(f"meshkit -s -d peer-{peer} id").split()[0]

    # --- the sections --------------------------------------------------------------------

    def check_before_you_begin(self) -> None:
        self.assertEqual(self.printed, [""])

    def check_make_the_members(self) -> None:
        for name in ("owner", *(f"peer-{n}" for n in range(1, 7))):
            self.assertEqual((self.folder / name / "secret.key").stat().st_mode & 0o777, 0o600)

    def check_settings_of_the_peers(self) -> None:
        self.assertEqual(self.printed[0].count("net:127.0.0.1:"), 6)
        self.assertEqual(len(self.shell.pids()), 6)

    def check_settings_of_the_owner(self) -> None:
        # Kryden's test 1: all are active, none has failed.
        self.assertEqual(self.members(), [True] * 6)
        domains = [each["domain"] for each in self.peers()]
        self.assertEqual(sorted(domains), [f"owner:rack-{n}" for n in range(1, 7)])

    def check_store_a_file(self) -> None:
        self.assertIn("5 of 5 shares", self.printed[0])
        self.assertNotIn("Note:", self.printed[0])
        self.assertEqual(len(set(self.places())), 5)

    def check_have_them_prove_it(self) -> None:
        self.assertIn("healthy: 5 of 5 shares are good", self.printed[0])
        self.assertIn("5 shares audited: 5 success", self.printed[0])
        self.assertIn("1.000", self.printed[0])
        self.assertIn("success  the peer signed what it has", self.printed[1])

    def check_a_peer_stops(self) -> None:
        gone = {self.key(1), self.key(2)}
        self.assertIn("unreachable", self.printed[0])
        self.assertIn("exit code 3", self.printed[0])
        self.assertIn("Put off, grace", self.printed[1])
        self.assertIn("exit code 3", self.printed[1])
        self.assertIn("4 of 4 shares", self.printed[2])
        # Kryden's test 7: none is on the dead.
        self.assertFalse(gone & set(self.places()))

    def check_it_comes_back(self) -> None:
        self.assertIn("Healthy: 5 of 5", self.printed[0])

    def check_a_share_is_lost(self) -> None:
        self.assertIn("share 0  failure", self.printed[0])
        self.assertIn("Nothing to do, spare: 1 share is lost", self.printed[0])
        self.assertIn("exit code 3", self.printed[0])
        self.assertIn("share 0  made anew, at @", self.printed[1])
        self.assertIn("Healthy: 5 of 5", self.printed[1])
        loser = self.key(int((self.folder / "lost").read_text()))
        self.assertNotIn(loser, self.places())

    def check_a_peer_whose_key_has_changed(self) -> None:
        (lost,) = [each for each in self.peers(0) if not each["member"]]
        self.assertIn("hung up after our proof of identity", lost["problem"])
        # Afterwards the new one is a member, and the old one is not known any more.
        self.assertEqual(self.members(), [True] * 6)
        named = [each["peer"] for each in self.peers()]
        self.assertNotIn(lost["peer"], named)
        self.assertIn(self.key(3), named)

    def check_a_disk_is_full(self) -> None:
        self.assertIn("5 of 5 shares", self.printed[0])
        self.assertNotIn(self.key(4), self.places())
        self.assertIn("[OBJECT_NOT_PLACED]", self.printed[1])
        self.assertIn("exit code 1", self.printed[1])
        for number in range(1, 7):
            incoming = list((self.folder / f"peer-{number}").rglob("incoming/*"))
            self.assertEqual(incoming, [])

    def check_one_more_peer(self) -> None:
        self.assertEqual(self.members(), [True] * 7)

    def check_a_peer_goes_for_good(self) -> None:
        self.assertNotIn(self.key(6), self.places())
        self.assertEqual(list((self.folder / "peer-6").rglob("*.mkshare")), [])

    def check_give_a_file_up(self) -> None:
        self.assertIn("5 shares are given up", self.printed[0])

    def check_stop_everything(self) -> None:
        wait_for("end of all daemons", lambda: not any(map(alive, self.shell.pids())))
