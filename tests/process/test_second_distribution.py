"""
Somebody else's distribution adds a protocol to an installed node: C{examples/custom_part}.

Both are installed as wheels in a virtual environment of their own, and used over two
nodes.  Then the other one is broken, in each of the ways in which it can be.
"""

from __future__ import annotations

import json
import signal
import sys
import sysconfig
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process import mesh as real
from tests.process.mesh import Done, Mesh, Shared

ROOT = Path(__file__).resolve().parents[2]
CUSTOM_PART = ROOT / "examples" / "custom_part"

BUILD = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / ".ci")!r})
from build_wheel import LEFTOVERS, build_wheel, copy_sources
import shutil
scratch = Path(sys.argv[1])
(scratch / "meshkit").mkdir()
copy_sources(scratch / "meshkit")
shutil.copytree({str(CUSTOM_PART)!r}, scratch / "custom_part", ignore=LEFTOVERS)
for name in ("meshkit", "custom_part"):
    print(build_wheel(scratch / name, scratch / "wheels"))
"""


class World:
    """An environment with both distributions, and two nodes that run in it."""

    def __init__(self, mesh: Mesh) -> None:
        self.folder = mesh.folder
        build = mesh.folder / "build"
        build.mkdir()
        self.wheels = [Path(line) for line in self._run(sys.executable, "-c", BUILD, build).lines]
        environment = mesh.folder / "environment"
        self._run(sys.executable, "-m", "venv", "--without-pip", environment)
        self.python = environment / "bin" / "python"
        purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(self._run(self.python, "-c", purelib).lines[0])
        # Of .pth files that lie there, none is followed: a meshkit that is installed in
        # place stays out of sight.
        libraries = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (self.packages / "libraries.pth").write_text("\n".join(libraries), encoding="utf-8")
        for wheel in self.wheels:
            self._run(
                *(sys.executable, "-m", "pip", "--python", self.python),
                *("install", "-q", "--no-index", "--no-deps", "--no-build-isolation"),
                *("--ignore-installed", "--disable-pip-version-check", wheel),
            )
        self.twistd = (str(self.python), *real.TWISTD[1:])
        self.ada = mesh.node("ada")
        self.bob = mesh.node("bob", network=self.ada)
        # Nodes are started by the Python of the environment.
        self.ada.runner = self.bob.runner = (*self.twistd, "-n", "--pidfile=")

    def _run(self, *command: str | Path) -> Done:
        done = real.run(*command, home=self.folder, PYTHONPATH="")
        if done.code:
            raise AssertionError(f"{command} ended with {done.code}:\n{done.out}{done.err}")
        return done


WORLD = Shared(World)


def tearDownModule() -> None:
    WORLD.close()


class InstalledCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world: World = WORLD.get()
        self.ada, self.bob = self.world.ada, self.world.bob
        for node in (self.ada, self.bob):
            node.log.unlink(missing_ok=True)
        self.addCleanup(self.stop)

    def stop(self) -> None:
        for node in (self.ada, self.bob):
            if node.process is not None:
                node.stop()

    def twistd(self, *arguments: str | Path) -> Done:
        return real.run(*self.world.twistd, *arguments, home=self.world.folder)


class UseTests(InstalledCase):
    """The part is used over two nodes, as if it were one of ours."""

    def test_it_is_what_was_installed(self) -> None:
        code = "import meshkit, meshkit_roundtrip as other; print(meshkit.__file__, other.__file__)"
        done = real.run(self.world.python, "-c", code, home=self.world.folder, PYTHONPATH="")
        for path in done.out.split():
            self.assertTrue(Path(path).is_relative_to(self.world.packages), done)

    def test_its_settings_are_flags(self) -> None:
        shown = self.twistd("mesh-node", "--help")
        self.assertEqual(shown.code, 0, shown.err)
        self.assertIn("--roundtrip-probes", shown.out)
        refused = self.twistd("-n", "mesh-node", "-d", "nowhere", "--roundtrip-probes", "0")
        self.assertEqual(refused.code, 1)
        self.assertIn("--roundtrip-probes", refused.err)

    def test_one_node_measures_the_other(self) -> None:
        self.ada.start()
        (self.bob.data / "meshkit.toml").write_text("[roundtrip]\nprobes = 7\n")
        self.addCleanup((self.bob.data / "meshkit.toml").unlink)
        self.bob.start("--peer", self.ada.address)
        wanted = {"peer": str(self.ada.good("id").lines[0])}
        measured = self.bob.ask("POST", "/v1/roundtrip", json.dumps(wanted).encode())
        self.assertEqual(measured.status, 200, measured.body)
        result = measured.data
        self.assertEqual((result["peer"], result["probes"]), (wanted["peer"], 7))
        self.assertGreater(result["fastest_ms"], 0)
        self.assertLessEqual(result["fastest_ms"], result["median_ms"])
        self.assertEqual(self.bob.get("/v1/roundtrip"), [result])
        self.assertEqual(self.ada.status["parts"]["roundtrip"]["answered"], 7)
        self.assertEqual(self.bob.status["parts"]["roundtrip"]["measured"], 1)
        # The command knows it from the node alone: where this one runs, it is not installed.
        called = self.bob.good("call", "roundtrip_measure", f"peer={wanted['peer']}").json
        self.assertEqual(called["probes"], 7)
        listed = self.bob.good("call").out
        self.assertIn("\nroundtrip:\n", listed)
        result = self.bob.get("/v1/roundtrip")[0]
        # Ours work beside it, and what it has stored is there after a restart.
        self.bob.publish({"type": "note"})
        self.bob.stop()
        self.bob.start()
        self.assertEqual(self.bob.get("/v1/roundtrip"), [result])
        for node in (self.ada, self.bob):
            self.assertNotIn("Traceback", node.log.read_text())

    def test_disabled_it_leaves_no_trace(self) -> None:
        self.ada.start("--disable", "roundtrip")
        self.assertEqual(self.ada.ask("GET", "/v1/roundtrip").code, "NOT_FOUND")
        self.assertNotIn("roundtrip", self.ada.status["parts"])
        # One who has the part meets one who has not: an error, and all else goes on.
        self.bob.start("--peer", self.ada.address)
        wanted = json.dumps({"peer": str(self.ada.good("id").lines[0])}).encode()
        refused = self.bob.ask("POST", "/v1/roundtrip", wanted)
        self.assertEqual(refused.code, "NETWORK_KEY_REFUSED")
        real.wait_for("gossip between them", lambda: self.bob.links() == 1)


class BrokenTests(InstalledCase):
    """A distribution that is broken is named, and harms nothing else."""

    def setUp(self) -> None:
        super().setUp()
        self.before = self.left_behind()

    def left_behind(self) -> dict[str, bytes]:
        """The data folder of a node, but for SQLite's own files."""
        found = sorted(each for each in self.ada.data.rglob("*") if each.is_file())
        return {
            str(each.relative_to(self.ada.data)): each.read_bytes()
            for each in found
            if "node.db" not in each.name
        }

    def break_file(self, name: str, text: str) -> None:
        """Break a file of the other distribution, until the test is over."""
        path = self.world.packages / name
        self.addCleanup(path.write_text, path.read_text("utf-8"), "utf-8")
        path.write_text(text, "utf-8")
        # As an installer does, which compiles anew: the time stamps may be the same.
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            cached.unlink()
            self.addCleanup(cached.unlink, missing_ok=True)

    def refused(self, *words: str) -> None:
        """The node does not start, and says why in one line with these words."""
        done = self.twistd("-n", "--pidfile=", *self.ada.command())
        self.assertEqual(done.code, 1, done)
        (line,) = done.err.splitlines()
        for word in (*words, "[PART_BROKEN]"):
            self.assertIn(word, line)
        self.assertNotIn("Traceback", done.out)
        # What was there is as it was.
        self.assertEqual({**self.left_behind(), **self.before}, self.left_behind())

    def check_the_rest(self) -> None:
        """Other daemons of the machine, and the command line, do not notice."""
        for command in (["--help"], ["web", "--help"]):
            shown = self.twistd(*command)
            self.assertEqual((shown.code, shown.err), (0, ""), shown)
        code = "from meshkit.cli.main import main; main()"
        shown = real.run(
            *(self.world.python, "-c", code, "-d", self.ada.data, "id"), home=self.world.folder
        )
        self.assertEqual((shown.code, shown.err), (0, ""), shown)

    def test_its_plugin_does_not_import(self) -> None:
        self.break_file("meshkit_plugins/meshkit_roundtrip.py", "import no_such_module\n")
        self.refused("meshkit_plugins.meshkit_roundtrip", "no_such_module")
        self.check_the_rest()

    def test_its_module_does_not_import(self) -> None:
        self.break_file("meshkit_roundtrip/part.py", "this is no Python\n")
        self.refused("'roundtrip'", "SyntaxError")
        self.check_the_rest()

    def test_it_cannot_be_made(self) -> None:
        part = self.world.packages / "meshkit_roundtrip/part.py"
        text = part.read_text("utf-8") + "\n\ndef make_part(context):\n    raise KeyError('oops')\n"
        self.break_file("meshkit_roundtrip/part.py", text)
        self.refused("'roundtrip'", "oops", "--disable roundtrip")
        self.check_the_rest()
        self.works_without_it()

    def works_without_it(self) -> None:
        self.ada.start("--disable", "roundtrip")
        self.ada.publish({"type": "note"})

    def test_it_fails_when_it_is_asked(self) -> None:
        part = self.world.packages / "meshkit_roundtrip/part.py"
        text = part.read_text("utf-8") + (
            "\n\ndef _fail(*arguments):\n    raise KeyError('oops')\n"
            "RoundtripPart._answer_results = RoundtripPart.status = _fail\n"
        )
        self.break_file("meshkit_roundtrip/part.py", text)
        self.ada.start()
        self.assertEqual(self.ada.ask("GET", "/v1/roundtrip").code, "INTERNAL_ERROR")
        status: Any = self.ada.status
        self.assertIn("failed", status["parts"]["roundtrip"])
        self.assertIn("feed", status["parts"])
        self.ada.publish({"type": "note"})
        self.assertEqual(self.ada.stop(), -signal.SIGTERM)
        self.assertIn("roundtrip", self.ada.log.read_text())

    def test_mended_it_works_again(self) -> None:
        self.break_file("meshkit_plugins/meshkit_roundtrip.py", "import no_such_module\n")
        self.refused("meshkit_roundtrip")
        self.doCleanups()
        self.setUp()
        self.ada.start()
        self.assertEqual(self.ada.get("/v1/roundtrip"), [])
