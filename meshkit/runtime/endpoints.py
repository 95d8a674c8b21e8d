"""
Endpoint strings of Twisted, as people write them, and what is wrong with them.

The parser of a prefix may be anybody's plugin, and reads files: what it raises for a
string that it does not take can be of any class, and often says little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Prefix -> the package that it comes with.
_FROM_ELSEWHERE: Final = {"onion": "txtorcon", "tor": "txtorcon"}


def parse_endpoint(parse: Callable[[Any, str], T], reactor: Any, text: str) -> T:
    """
    Make an endpoint of a string.

    @param parse: C{serverFromString} or C{clientFromString} of Twisted.
    @raise ValueError: saying what is wrong with the string, which it does not repeat.
    """
    try:
        return parse(reactor, text)
    except Exception as e:
        raise ValueError(_why(text, e)) from None


def _why(text: str, error: Exception) -> str:
    prefix = text.partition(":")[0]
    if isinstance(error, OSError):
        # That of a folder which cannot be listed says nothing itself.
        cause = getattr(error, "originalException", error)
        return (
            f"{cause.filename} cannot be read: {cause.strerror}" if cause.filename else str(cause)
        )
    if "Unknown endpoint type" in str(error):
        if prefix in _FROM_ELSEWHERE:
            return (
                f"endpoints of the type {prefix!r} come with {_FROM_ELSEWHERE[prefix]}: install it"
            )
        return f"there are no endpoints of the type {prefix!r}"
    if prefix == "systemd" and isinstance(error, (KeyError, IndexError)):
        return "systemd gave this process no such socket, as $LISTEN_PID and $LISTEN_FDS tell"
    if prefix == "systemd" and isinstance(error, AttributeError):
        return "its domain is none that this system knows: write INET, INET6 or UNIX"
    if isinstance(error, (ValueError, TypeError)):
        return str(error)
    # Of a class that only its parser knows: OpenSSL's, for one.
    return f"{type(error).__name__}: {error}"
