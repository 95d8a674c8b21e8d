"""The known answers in C{vectors/}, and what several tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshkit.errors import MeshkitError

_VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str) -> Any:
    """The content of a file in C{vectors/}; its C{source} says who made it."""
    return json.loads((_VECTORS / name).read_text("utf-8"))


def error_of(function: Callable[..., object], *args: object) -> type[MeshkitError] | None:
    """@return: which error a call raises, to compare with a message that names the case."""
    try:
        function(*args)
    except MeshkitError as e:
        return type(e)
    return None
