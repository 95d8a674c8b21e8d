"""
What to paste into a client of MCP, so that it finds this node.

Each client has its own file and its own form of the same few facts.  No token is printed:
C{meshkit mcp} reads it where it is, and for HTTP it is named by a variable, in the
client's own way of naming one.

Sources (November 2026): the clients' manuals on C{.mcp.json}, C{mcp.json} and
C{.vscode/mcp.json}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen

__all__ = ["CLIENTS", "Client"]

_VARIABLE: Final = "MESHKIT_TOKEN"


@frozen
class Client:
    """
    @ivar title: for people.
    @ivar place: where it goes.
    @ivar bearer: how the C{Authorization} header names the token.
    """

    title: str
    place: str
    bearer: str
    _stdio: Callable[[str, dict[str, Any]], dict[str, Any]]
    _http: Callable[[str, dict[str, Any]], dict[str, Any]]

    def stdio(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """
        @param name: what the client calls the node.
        @param command: the program and its arguments.
        @return: the JSON document.
        """
        return self._stdio(name, {"command": command[0], "args": list(command[1:])})

    def http(self, name: str, url: str) -> dict[str, Any]:
        """Like L{stdio}, for a client that speaks HTTP itself."""
        headers = {"Authorization": f"Bearer {self.bearer}"}
        return self._http(name, {"url": url, "headers": headers})


def _servers(name: str, server: dict[str, Any]) -> dict[str, Any]:
    return {"mcpServers": {name: server}}


def _servers_with_type(name: str, server: dict[str, Any]) -> dict[str, Any]:
    return _servers(name, {"type": "http", **server})


def _vscode(name: str, server: dict[str, Any]) -> dict[str, Any]:
    return {"servers": {name: {"type": "stdio", **server}}}


def _vscode_http(name: str, server: dict[str, Any]) -> dict[str, Any]:
    asked = {
        "type": "promptString",
        "id": "meshkit-token",
        "description": "Token of the meshkit node",
        "password": True,
    }
    return {"inputs": [asked], "servers": {name: {"type": "http", **server}}}


def _alone(name: str, server: dict[str, Any]) -> dict[str, Any]:
    return server


#: By the name on the command line.
CLIENTS: Final[dict[str, Client]] = {
    "claude": Client(
        "Claude Code, Claude Desktop",
        ".mcp.json of a project, or claude_desktop_config.json",
        f"${{{_VARIABLE}}}",
        _servers,
        _servers_with_type,
    ),
    "cursor": Client(
        "Cursor",
        "~/.cursor/mcp.json, or .cursor/mcp.json of a project",
        f"${{env:{_VARIABLE}}}",
        _servers,
        _servers,
    ),
    "vscode": Client(
        "VS Code",
        ".vscode/mcp.json of a project",
        "${input:meshkit-token}",
        _vscode,
        _vscode_http,
    ),
    "generic": Client(
        "any other client",
        "where it keeps its servers",
        f"${{{_VARIABLE}}}",
        _alone,
        _alone,
    ),
}
