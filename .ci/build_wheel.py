"""
Build the wheel from a clean copy of the sources.

    python .ci/build_wheel.py FOLDER

setuptools leaves build/ and *.egg-info beside what it builds, and ships whatever an
earlier build left there, even modules that are long gone.  So it never builds here.
It needs no network: the build tools are those of the environment it runs in.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "LICENSE",
    "README.md",
    "meshkit",
    "meshkit_plugins",
    "pyproject.toml",
    "setup.cfg",
    "twisted",
)
LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.pyc", "dropin.cache")


def copy_sources(target: Path) -> None:
    """Copy what a distribution is made of."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=LEFTOVERS)
        elif source.exists():
            shutil.copy2(source, target / name)


# The hook that every build tool ends up calling (PEP 517).
HOOK = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def build_wheel(source: Path, folder: Path) -> Path:
    """
    Build the wheel of a source tree, which is written to.

    @return: its path, in C{folder}.
    """
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-c", HOOK, scratch],
            cwd=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"the wheel cannot be built:\n{done.stdout}")
        (wheel,) = Path(scratch).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(wheel, folder))


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy_sources(Path(scratch))
        print(build_wheel(Path(scratch), Path(sys.argv[1])))


if __name__ == "__main__":
    main()
