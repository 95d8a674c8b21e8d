"""
Every way of installing meshkit shows its daemons to C{twistd}, and its parts together
with those of others.

No network is used.  Each test makes a virtual environment of its own, in which a .pth
file leads to the libraries of the one that runs the tests.  As .pth files in that
folder are not followed, the meshkit that is installed there stays out of sight.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from meshkit.parts import PartMaker

ROOT = Path(__file__).resolve().parents[2]
BUILDER = ROOT / ".ci" / "build_wheel.py"

#: A distribution of somebody else's with one part.
CONTRIB = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"
""",
    "setup.cfg": """
[metadata]
name = contrib-echo
version = 1.0
[options]
package_dir =
    = .
packages = meshkit_plugins
""",
    "meshkit_plugins/contrib_echo.py": """
from meshkit.parts import PartMaker

echo = PartMaker("contrib_echo", "contrib_echo_part")
""",
}

PARTS = """
import json
from twisted.plugin import getPlugins
import meshkit, meshkit_plugins
from meshkit.interfaces import IMeshProtocol
names = sorted(plugin.name for plugin in getPlugins(IMeshProtocol, meshkit_plugins))
print(json.dumps([meshkit.__file__, names]))
"""

TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program that has to succeed, and give its output."""
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def own_parts() -> list[str]:
    """The parts that this tree has drop-ins for."""
    names = []
    for path in sorted((ROOT / "meshkit_plugins").glob("meshkit_*.py")):
        scope: dict[str, object] = {}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        names += [each.name for each in scope.values() if isinstance(each, PartMaker)]
    return sorted(names)


@cache
def tap_names() -> list[str]:
    """The daemons that this tree has drop-ins for."""
    names = []
    for path in sorted((ROOT / "twisted" / "plugins").glob("*.py")):
        scope: dict[str, object] = {}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        names += [each.tapname for each in scope.values() if hasattr(each, "tapname")]
    return names


class InstallTests(SynchronousTestCase):
    """Ours and a stranger's distribution, installed in each way."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meshkit install "))
        self.addCleanup(shutil.rmtree, self.folder)
        self.elsewhere = self.folder / "elsewhere"
        self.elsewhere.mkdir()
        self.source = self.folder / "our source"
        self.source.mkdir()
        copied = [
            "import sys; from pathlib import Path",
            f"sys.path.insert(0, {str(BUILDER.parent)!r})",
            "from build_wheel import copy_sources",
            "copy_sources(Path(sys.argv[1]))",
        ]
        run(sys.executable, "-c", "\n".join(copied), self.source, cwd=self.folder)
        self.contrib = self.folder / "contrib"
        for name, text in CONTRIB.items():
            path = self.contrib / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        environment = self.folder / "environment"
        run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=self.folder)
        self.python = environment / "bin" / "python"
        purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(run(self.python, "-c", purelib, cwd=self.folder).strip())
        libraries = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (self.packages / "libraries.pth").write_text("\n".join(libraries), encoding="utf-8")

    def install(self, source: Path, editable: bool) -> None:
        """Install a source tree, without looking for what it requires."""
        how = ["-e"] if editable else []
        run(
            *(sys.executable, "-m", "pip", "--python", self.python),
            *("install", "-q", "--no-index", "--no-deps", "--no-build-isolation"),
            *("--ignore-installed", "--disable-pip-version-check", *how, source),
            cwd=self.elsewhere,
        )

    def check(self, imported_from: Path) -> None:
        """All daemons and all parts are found, by a process in another folder."""
        shown = run(self.python, "-c", TWISTD, "--help", cwd=self.elsewhere)
        self.assertIn("mesh-node", tap_names())
        for name in tap_names():
            self.assertIn(f"\n    {name} ", shown)
        self.assertNotIn("Traceback", shown)
        where, names = json.loads(run(self.python, "-c", PARTS, cwd=self.elsewhere))
        self.assertEqual(Path(where).resolve().parents[1], imported_from.resolve())
        self.assertEqual(names, sorted([*own_parts(), "contrib_echo"]))

    def test_both_as_wheels(self) -> None:
        self.install(self.source, editable=False)
        self.install(self.contrib, editable=False)
        self.check(self.packages)

    def test_ours_editable_and_a_wheel(self) -> None:
        self.install(self.source, editable=True)
        self.install(self.contrib, editable=False)
        self.check(self.source)

    def test_our_wheel_and_an_editable_one(self) -> None:
        self.install(self.source, editable=False)
        self.install(self.contrib, editable=True)
        self.check(self.packages)

    def test_both_editable(self) -> None:
        self.install(self.source, editable=True)
        self.install(self.contrib, editable=True)
        self.check(self.source)

    def test_a_checkout_that_is_not_installed(self) -> None:
        self.install(self.contrib, editable=False)
        shown = run(self.python, "-m", "twisted", "--help", cwd=self.source)
        for name in tap_names():
            self.assertIn(f"\n    {name} ", shown)
        where, names = json.loads(run(self.python, "-c", PARTS, cwd=self.source))
        self.assertEqual(Path(where).resolve().parents[1], self.source.resolve())
        self.assertEqual(names, sorted([*own_parts(), "contrib_echo"]))

    def test_removing_it_leaves_twistd_working(self) -> None:
        self.install(self.source, editable=False)
        run(
            *(sys.executable, "-m", "pip", "--python", self.python),
            *("uninstall", "-q", "-y", "--disable-pip-version-check", "meshkit"),
            cwd=self.elsewhere,
        )
        shown = run(self.python, "-c", TWISTD, "--help", cwd=self.elsewhere)
        self.assertNotIn("mesh-node", shown)
        self.assertIn("\n    web ", shown)
        self.assertNotIn("Traceback", shown)
