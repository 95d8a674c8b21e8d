"""
The text of the demo: the docstrings of Python's standard library.

They are read from the sources with C{ast}; nothing is imported or run.  The file that is
stored is of this Python, too.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from attrs import frozen

#: Folders of the library that hold no library: tests, programs, other people's packages.
LEFT_OUT: Final = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)

#: Longer ones are left out: half of what a message may hold.
MAX_CONTENT: Final = 32 * 1024

#: Larger files are data written as Python.
MAX_SOURCE: Final = 1024 * 1024

#: Bytes of the file that is stored, at most.
MAX_FILE: Final = 64_000_000

_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@frozen
class Docstring:
    """
    @ivar name: C{module.object}.
    @ivar text: without the common indentation.
    @ivar place: C{file:line}, relative to the library's folder.
    """

    name: str
    text: str
    place: str

    def content(self) -> bytes:
        """The content of the message that it becomes, as JSON."""
        return msgspec.json.encode(
            {
                "type": "insight",
                "title": self.name,
                "observation": self.text,
                "context": self.place,
            }
        )


def library() -> str:
    """The folder of the standard library's sources."""
    return sysconfig.get_path("stdlib")


def real_file() -> str:
    """@return: path of the largest of the files that this Python consists of, up to 64 MB."""
    known = {name: sysconfig.get_config_var(name) for name in ("LIBDIR", "INSTSONAME")}
    found = [os.path.realpath(sys.executable)]
    if all(known.values()):
        found.append(os.path.join(known["LIBDIR"], known["INSTSONAME"]))
    compiled = sysconfig.get_config_var("DESTSHARED")
    if compiled and os.path.isdir(compiled):
        found += [os.path.join(compiled, name) for name in sorted(os.listdir(compiled))]
    sizes = {path: os.path.getsize(path) for path in found if os.path.isfile(path)}
    return max((path for path, size in sizes.items() if size <= MAX_FILE), key=sizes.__getitem__)


def modules(root: str) -> list[str]:
    """The source files below a folder, relative to it, in the order of their names."""
    found: list[str] = []
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if name.endswith(".py"):
            found.append(name)
        elif name not in LEFT_OUT and os.path.isdir(path) and not os.path.islink(path):
            found += [os.path.join(name, each) for each in modules(path)]
    return found


def read_module(root: str, path: str) -> list[Docstring]:
    """
    The docstrings of one source file, from top to bottom.  A file that cannot be read,
    or is not Python of this version, has none.
    """
    try:
        with open(os.path.join(root, path), "rb") as file:
            source = file.read(MAX_SOURCE + 1)
        if len(source) > MAX_SOURCE:
            return []
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    name = path.removesuffix(".py").replace(os.sep, ".").removesuffix(".__init__")
    return list(_docstrings(tree, name, path.replace(os.sep, "/")))


def _docstrings(node: ast.AST, name: str, path: str) -> Iterator[Docstring]:
    if isinstance(node, _DOCUMENTED):
        text = ast.get_docstring(node)
        # A docstring is the first statement.
        if text and _publishable(found := Docstring(name, text, f"{path}:{node.body[0].lineno}")):
            yield found
        for child in node.body:
            if not isinstance(child, ast.Module) and isinstance(child, _DOCUMENTED):
                yield from _docstrings(child, f"{name}.{child.name}", path)


def _publishable(docstring: Docstring) -> bool:
    """A few show what a string may hold: half of a surrogate pair, for one."""
    try:
        return len(docstring.content()) <= MAX_CONTENT
    except UnicodeEncodeError:
        return False


def read_all(root: str, paths: Sequence[str]) -> list[Docstring]:
    """The docstrings of some source files, in order."""
    return [docstring for path in paths for docstring in read_module(root, path)]
