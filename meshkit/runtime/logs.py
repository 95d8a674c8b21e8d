"""
What an event looks like in the log: one line of JSON for programs, or text for people.

A line of JSON is an object with these members, then the fields of the event itself::

    time        RFC 3339, UTC, microseconds
    level       debug, info, warn, error, critical
    namespace   the module or class that speaks, such as meshkit.gossip.link
    message     the sentence, complete
    exception   of a failure: type, message, traceback
    request_id  of what is done for a request at the door, and other L{noted} fields
    peer, code, operation, part, ...   as the event has them: strings, numbers, booleans

What peers send may stand in a message: in text, characters that would move a terminal's
cursor or begin a line of their own are escaped.

Nothing secret is meant to be logged.  In case something is, L{Redactor} takes out what has
the shape of a secret, and the secrets that it was told of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec
from twisted.logger import LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure

__all__ = [
    "MAX_FIELDS",
    "MAX_TEXT",
    "Redactor",
    "json_line",
    "noted",
    "noting",
    "plain_text",
    "speaker",
    "text_lines",
]

#: Characters of one message, field or traceback; of a longer one the middle is left out.
MAX_TEXT: Final = 16 * 1024
#: Fields of one event that are written.
MAX_FIELDS: Final = 32

#: What stands in the place of a secret.
HIDDEN: Final = "***"

#: A known secret that is shorter is not looked for: it would be found in innocent words.
MIN_SECRET: Final = 8

# JSON has larger numbers, and most of those who read it have not.
_MAX_BITS: Final = 53
# Members of a line that an event's fields cannot replace.
_OURS: Final = frozenset({"time", "level", "namespace", "message", "exception"})
# What twisted.python.log adds to an event for observers of the old kind.
_LEGACY: Final = frozenset(
    {"format", "isError", "message", "printed", "system", "time", "failure", "why"}
)
_SECRET_FIELD: Final = re.compile(
    r"authorization|cookie|passphrase|password|private_key|secret|token", re.IGNORECASE
)
# How secrets are written: in a header, as a network's, as a webhook's, as a token of a door.
_SHAPES: Final = re.compile(
    r"\b(?P<scheme>bearer|basic)(?P<space>[ :=]+)[A-Za-z0-9._~+/-]{6,}=*"
    r"|\b(?P<prefix>mknet1-|mkt_(?:[0-9a-f]+_)?|whsec_)[A-Za-z0-9+/_-]{8,}=*",
    re.IGNORECASE,
)
# Controls but for tab and line feed, and what turns the direction of text around.
_CONTROLS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_noted: ContextVar[Mapping[str, str]] = ContextVar("meshkit.runtime.logs", default=_NOTHING)


class noting:
    """
    Have these fields stand in every event that is logged meanwhile, also in what coroutines
    log that are begun meanwhile::

        with noting(request_id="17"):
            ...
    """

    # Each request passes here: a generator made a context manager takes three times as long.
    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: str) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _noted.set({**_noted.get(), **self._fields})

    def __exit__(self, *_: object) -> None:
        try:
            _noted.reset(self._token)
        except ValueError:
            # A coroutine that nobody waited for is closed by the collector, in a context of
            # its own; the one in which the fields were set is gone.
            _noted.set(_NOTHING)


def noted() -> Mapping[str, str]:
    """@return: the fields of L{noting} that hold now."""
    return _noted.get()


class Redactor:
    """Takes secrets out of texts: what has the shape of one, and those it was told."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def hide(self, secret: str) -> None:
        """
        Never show this text.

        @param secret: one of fewer than L{MIN_SECRET} characters is not looked for.
        """
        if len(secret) >= MIN_SECRET and secret not in self._known:
            self._known.append(secret)

    def __call__(self, text: str) -> str:
        """@return: the text without secrets."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return _SHAPES.sub(_hide_shape, text)


def _hide_shape(found: re.Match[str]) -> str:
    if found["prefix"]:
        return found["prefix"] + HIDDEN
    return f"{found['scheme']}{found['space']}{HIDDEN}"


Redact = Callable[[str], str]


def json_line(event: LogEvent, redact: Redact) -> str:
    """
    @return: the event as a line of JSON, complete with its end.  Whatever the event is, this
        does not fail.
    """
    line: dict[str, Any] = {
        "time": _time(event, "microseconds"),
        "level": _level(event),
        "namespace": str(event.get("log_namespace", "-")),
        "message": _message(event, redact),
    }
    line |= noted()
    line |= _fields(event, redact)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        line["exception"] = {
            "type": _type_of(failure),
            "message": _shortened(redact(_said_by(failure))),
            "traceback": _shortened(redact(_sound(failure.getTraceback()))),
        }
    return msgspec.json.encode(line).decode("utf-8") + "\n"


def text_lines(event: LogEvent, redact: Redact) -> str:
    """@return: the event as text, complete with its end; see L{plain_text}."""
    text = plain_text(event, redact).replace("\n", "\n\t")
    return f"{_time(event, 'milliseconds')} [{speaker(event)}] {text}\n"


def speaker(event: LogEvent) -> str:
    """@return: who says something, and how loud: C{namespace#level}."""
    return f"{event.get('log_namespace', '-')}#{_level(event)}"


def plain_text(event: LogEvent, redact: Redact) -> str:
    """
    @return: what the event says, with the traceback of a failure in further lines, and with
        the request it belongs to in front.
    """
    text = _message(event, redact)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        text = f"{text}\n{_shortened(redact(_sound(failure.getTraceback()))).rstrip()}"
    request = noted().get("request_id")
    shown = "" if request is None else f"({request}) "
    return shown + _CONTROLS.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _time(event: LogEvent, precision: str) -> str:
    seconds = event.get("log_time")
    if not isinstance(seconds, int | float):
        return "-"
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision)[:-6] + "Z"


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return str(getattr(level, "name", LogLevel.info.name))


def _message(event: LogEvent, redact: Redact) -> str:
    return _shortened(redact(_sound(formatEvent(event))))


def _fields(event: LogEvent, redact: Redact) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in event.items():
        if len(fields) >= MAX_FIELDS:
            break
        if name.startswith("log_") or name in _OURS or name in _LEGACY:
            continue
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            fields[name] = str(value)
        elif value is None or isinstance(value, bool | int | float):
            fields[name] = value
        elif isinstance(value, str):
            hidden = _SECRET_FIELD.search(name)
            fields[name] = HIDDEN if hidden else _shortened(redact(_sound(value)))
    return fields


def _type_of(failure: Failure) -> str:
    kind = failure.type
    return "?" if kind is None else f"{kind.__module__}.{kind.__qualname__}"


def _said_by(failure: Failure) -> str:
    return _sound(failure.getErrorMessage())


def _sound(text: str) -> str:
    """A text that can be written as UTF-8, whatever somebody put into it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


def _shortened(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters are left out] {text[-half:]}"
