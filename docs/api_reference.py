"""
Build the API reference from the docstrings.

    python docs/api_reference.py FOLDER
    python docs/api_reference.py --check

The second looks at all docstrings and writes nothing, which takes a third of the time: most
of it goes into the list of everything that stands beside each page.

pydoctor reads the sources without importing them.  A name in C{L{...}} that leads nowhere
ends this with exit code 1.  Names of Python's and Twisted's lead to their own pages; which
names there are is read off what is installed, so that no network is used.
"""

from __future__ import annotations

import builtins
import importlib
import io
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

from pydoctor import epydoc2stan
from pydoctor.driver import main as pydoctor
from pydoctor.model import Attribute, Documentable, System
from pydoctor.templatewriter import TemplateWriter

import meshkit

ROOT: Final = Path(__file__).resolve().parent.parent

PYTHON: Final = "https://docs.python.org/3/"
TWISTED: Final = "https://docs.twisted.org/en/stable/api/"
MSGSPEC: Final = "https://jcristharif.com/msgspec/"

TWISTED_MODULES: Final = (
    "twisted.application.service",
    "twisted.internet.defer",
    "twisted.internet.error",
    "twisted.internet.interfaces",
    "twisted.internet.protocol",
    "twisted.python.failure",
    "twisted.web.client",
    "twisted.web.server",
)

#: What pydoctor says besides complaints.
CHATTER: Final = (
    "adding directory ",
    "moving ",
    "writing ",
    "starting ",
    "Generating ",
)
#: What it cannot understand, and is right in the sources.
NOT_A_MISTAKE: Final = (
    # It takes every string within Annotated[...] for an annotation, even a description.
    "syntax error in annotation",
    # The interface inherits one of Twisted's, which is not among the sources it reads.
    "is not an interface",
    # Quantifiers of Python 3.11, and characters that HTML cannot hold.
    "Cannot colorize regular expression",
    "bad rendering of constant",
)


def python_names() -> Iterator[tuple[str, str]]:
    for name in dir(builtins):
        thing = getattr(builtins, name)
        page = "functions"
        if isinstance(thing, type) and issubclass(thing, BaseException):
            page = "exceptions"
        elif name in ("None", "True", "False", "NotImplemented", "Ellipsis"):
            page = "constants"
        yield name, f"library/{page}.html#{name}"
    yield "ctypes.CDLL", "library/ctypes.html#ctypes.CDLL"
    yield "fractions.Fraction", "library/fractions.html#fractions.Fraction"
    yield "math.inf", "library/math.html#math.inf"
    yield "random.Random", "library/random.html#random.Random"


def twisted_names() -> Iterator[tuple[str, str]]:
    for module in TWISTED_MODULES:
        yield module, f"{module}.html"
        for name, thing in sorted(vars(importlib.import_module(module)).items()):
            if getattr(thing, "__module__", None) == module:
                page = f"{module}.{name}.html"
                yield f"{module}.{name}", page
                # As docstrings name it where the code itself has no use for it.
                yield name, page


def msgspec_names() -> Iterator[tuple[str, str]]:
    for name in ("msgspec.Struct", "msgspec.json.encode", "msgspec.json.decode"):
        yield name, f"api.html#{name}"


def inventory(path: Path, names: Iterator[tuple[str, str]]) -> Path:
    """Write names and where they are documented, in the form of Sphinx."""
    head = (
        "# Sphinx inventory version 2\n# Project: x\n# Version: 0\n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = "".join(f"{name} py:class 1 {where} -\n" for name, where in names)
    path.write_bytes(head.encode() + zlib.compress(lines.encode()))
    return path


def complaints(text: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        if line.strip()
        and not line.startswith(CHATTER)
        and not any(known in line for known in NOT_A_MISTAKE)
    ]


class Reading(TemplateWriter):
    """Renders what stands in docstrings, which is where mistakes are found, and no page."""

    def prepOutputDirectory(self) -> None:
        pass

    def writeSummaryPages(self, system: System) -> None:
        pass

    def writeLinks(self, system: System) -> None:
        pass

    def writeIndividualFiles(self, obs: Iterable[Documentable]) -> None:
        for each in obs:
            if each.isVisible:
                epydoc2stan.format_docstring(each)
                if isinstance(each, Attribute):
                    epydoc2stan.type2stan(each)
                self.writeIndividualFiles(each.contents.values())


def main(target: str) -> int:
    check = target == "--check"
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(said):
        known = [
            f"{inventory(Path(scratch) / name, names)}::{base}"
            for name, names, base in (
                ("python.inv", python_names(), PYTHON),
                ("twisted.inv", twisted_names(), TWISTED),
                ("msgspec.inv", msgspec_names(), MSGSPEC),
            )
        ]
        code = pydoctor(
            [
                "--project-name=meshkit",
                f"--project-version={meshkit.__version__}",
                f"--project-base-dir={ROOT}",
                "--docformat=epytext",
                "--theme=readthedocs",
                f"--html-output={scratch if check else target}",
                *(["--html-writer=api_reference.Reading"] if check else []),
                *(f"--intersphinx-file={each}" for each in known),
                str(ROOT / "meshkit"),
            ]
        )
    found = complaints(said.getvalue())
    for line in found:
        print(line.removeprefix(f"{ROOT}/"), file=sys.stderr)
    # 2 stands for complaints, those that are no mistakes among them.
    return 1 if found or code not in (0, 2) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
