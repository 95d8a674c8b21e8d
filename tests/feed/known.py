"""The known answers in C{vectors/}, and what several tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

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


#: Floats that can be published.
floats = st.floats(min_value=-9e15, max_value=9e15)

_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | floats
    | st.text(max_size=20)
    | st.sampled_from(["", '"\\/', "\x00\x1f\x7f", "\u2028", "\U0001f600", 0.0, -0.0, 1e-7])
)

#: Contents that can be published.
contents = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)
