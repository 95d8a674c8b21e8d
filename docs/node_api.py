"""
Write C{docs/api/node-api.yaml}, the OpenAPI document of a node with every part of ours, and
C{docs/api/relay-api.yaml}, that of the HTTP door of a relay.

C{make api} runs this; a test compares what it would write with the files.  It asks a node and a
relay in memory, at their doors, so that the documents are of what runs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from twisted.internet.protocol import Factory

from meshkit.services.programs import MESH_RELAY
from meshkit.testing.doors import DoorCall
from meshkit.testing.nodes import MemoryMesh

FILE: Final = Path(__file__).parent / "api" / "node-api.yaml"
RELAY_FILE: Final = Path(__file__).parent / "api" / "relay-api.yaml"

#: Of the door for whoever comes to a relay.
RELAY_PORT: Final = 7660

#: So that every part is there, also those that are left out unless asked for.
SETTINGS: Final = """
compat = ["egregore"]

[egregore]
network = "egregore"
"""

_HEADER: Final = "# Made by 'make api' from the operations of a {}: do not edit.\n"
_PLAIN: Final = re.compile(r"[A-Za-z/$][A-Za-z0-9_./$-]*( [A-Za-z0-9_./()-]+)*")
_UNSEEN: Final = re.compile(r"[^ -~]")
# Plain text that YAML would not read as text.
_WORDS: Final = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])
_MOST_IN_LINE: Final = 90


def fetch_document() -> Any:
    """@return: the document, as a node gives it out at its door."""
    mesh = MemoryMesh()
    node = mesh.node("ada", SETTINGS)
    node.start()
    answer = node.ask("GET", "/v1/openapi.json")
    mesh.stop()
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def fetch_relay_document() -> Any:
    """@return: the document, as a member relay gives it out at its door for whoever comes."""
    mesh = MemoryMesh()
    relay = mesh.node("relay", program=MESH_RELAY)
    relay.start()
    call = DoorCall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
    mesh.network.client_endpoint(RELAY_PORT, relay.host.address).connect(
        Factory.forProtocol(lambda: call)
    )
    mesh.until(lambda: call.ended, "the document of a relay")
    mesh.stop()
    answer = call.answer()
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def write_yaml(document: Any, of: str = "node") -> str:
    """
    @param of: what it is the document of.
    @return: a document of JSON types as YAML 1.2, its keys in the order that they have.
    """
    return _HEADER.format(of) + "".join(f"{line}\n" for line in _block(document))


def _block(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        lines = []
        for key, member in value.items():
            lines += _hung(f"{_scalar(key)}:", member)
        return lines
    if isinstance(value, list) and value:
        lines = []
        for member in value:
            first, *rest = _block(member)
            lines += [f"- {first}", *(f"  {line}" if line else line for line in rest)]
        return lines
    return [_scalar(value)]


def _hung(key: str, value: Any) -> list[str]:
    """A value under its key, on its line if it fits."""
    if isinstance(value, str) and "\n" in value[:-1]:
        lines = value.removesuffix("\n").split("\n")
        # What begins or ends otherwise would need more than that one sign.
        if lines[0][:1] not in ("", " ") and lines[-1] and all(map(str.isprintable, lines)):
            sign = "|" if value.endswith("\n") else "|-"
            return [f"{key} {sign}", *(f"  {line}" if line else "" for line in lines)]
    if isinstance(value, list) and not any(isinstance(each, dict | list) for each in value):
        line = f"{key} [{', '.join(map(_scalar, value))}]"
        if len(line) <= _MOST_IN_LINE:
            return [line]
    if isinstance(value, dict | list) and value:
        return [key, *(f"  {line}" if line else line for line in _block(value))]
    return [f"{key} {_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    # What JSON writes, YAML reads, but for characters that cannot be seen.
    return _UNSEEN.sub(_escaped, json.dumps(value, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() else f"\\U{ord(char):08x}"


if __name__ == "__main__":
    FILE.write_text(write_yaml(fetch_document()), "utf-8")
    print(FILE)
    RELAY_FILE.write_text(write_yaml(fetch_relay_document(), "relay"), "utf-8")
    print(RELAY_FILE)
