"""Where C{.ci/tools} has put Node and the npm packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ROOT / ".tools"
MODULES: Final = TOOLS / "interop" / "node_modules"


def node() -> str:
    """
    The Node to use: the one that was installed for us, else that of the system.

    @raise AssertionError: if there is none.  C{make test-all} sees to it that there is.
    """
    own = TOOLS / "node" / "bin" / "node"
    found = str(own) if own.exists() else shutil.which("node")
    if found is None or not MODULES.is_dir():
        raise AssertionError("Node or the npm packages are missing: run .ci/tools")
    return found


def environment() -> dict[str, str]:
    """What a Node program sees."""
    path = os.pathsep.join([str(Path(node()).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "NODE_PATH": str(MODULES), "LC_ALL": "C.UTF-8"}
