"""Where the examples are, and how a test gets at one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

# First, so that it does not take the drop-ins of an example for installed ones.
import meshkit_plugins

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
CUSTOM_PART: Final = EXAMPLES / "custom_part"

assert meshkit_plugins.__path__


def load(path: str, *, with_path: Path | None = None) -> ModuleType:
    """
    Import a file of an example, which is on no path.

    @param with_path: a folder whose modules it may import.
    """
    name = "example_" + path.removesuffix(".py").replace("/", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before = list(sys.path)
    if with_path is not None:
        sys.path.insert(0, str(with_path))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path[:] = before
    return module
