"""
Where the node's door is, and what opens it.

Both stand in the data folder: the addresses really listened on in C{endpoints.json}, the
token in C{door.token}.  No verb knows a port of its own, so a door that moves is found
again.

A node that was killed leaves its endpoint file behind, and its port may by then belong to
a stranger.  So the file counts only while somebody holds the folder's lock, which is looked
at before connecting and once more after it, and before that nothing is said
(L{DoorEndpoint}).  The token never reaches whoever is at that port by chance.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from meshkit.errors import DoorUnreachable
from meshkit.runtime.config import data_folder
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder

if TYPE_CHECKING:
    # Not to be imported here: a proxy for agents is started often, and needs none of it.
    from meshkit.services.programs import Program

__all__ = [
    "TOKEN_VARIABLE",
    "DoorEndpoint",
    "find_door",
    "open_folder",
    "start_command",
    "the_door",
]

#: The variable with a token to use in place of the owner's.
TOKEN_VARIABLE: Final = "MESHKIT_TOKEN"

_UNIX: Final = "unix:"


def open_folder(flag: str | None) -> DataFolder:
    """The data folder that the command line means."""
    path = data_folder(flag, os.environ, os.path.expanduser("~"))
    return DataFolder(os.path.abspath(path), LocalFiles())


def usual_folder(program: Program) -> str:
    """The data folder of a daemon, if none is named on the command line."""
    return data_folder(None, os.environ, os.path.expanduser("~"), program.folder)


def find_door(folder: DataFolder) -> str | None:
    """
    @return: where the door of the folder's node is, C{http://HOST:PORT} or C{unix:PATH};
        L{None} if no node is running, or it is not ready yet.
    @raise DoorUnreachable: if it runs and has no door.
    """
    endpoints = folder.live_endpoints()
    if endpoints is None:
        return None
    doors = endpoints.get("api", [])
    if not doors:
        raise DoorUnreachable(
            f"the node on {folder.path} runs without a door: restart it without "
            f"'--api none', and without api = \"none\" in its settings"
        )
    return doors[0]


def the_door(folder: DataFolder) -> str:
    """
    Like L{find_door}, for those who need one now.

    @raise DoorUnreachable: if there is none.
    """
    url = find_door(folder)
    if url is None:
        raise DoorUnreachable(
            f"no node is running on {folder.path}: start it with '{start_command(folder)}'"
        )
    return url


def start_command(folder: DataFolder) -> str:
    """What to type to start the folder's node."""
    return f"twistd -n {folder.program()} --data-dir {shlex.quote(folder.path)}"


def init_command(folder: DataFolder) -> str:
    """What to type to make the folder's identity."""
    return f"meshkit --data-dir {shlex.quote(folder.path)} init"


@implementer(IStreamClientEndpoint)
@frozen
class DoorEndpoint:
    """
    Connects to the door of a folder's node, and to nobody else.

    @ivar url: from L{find_door}.
    """

    reactor: Any
    folder: DataFolder
    url: str

    @property
    def host(self) -> str:
        """What the C{Host} header says."""
        return "localhost" if self.url.startswith(_UNIX) else urlsplit(self.url).netloc

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        @return: Deferred of the connected protocol.  Fails with L{DoorUnreachable} if the
            node has gone meanwhile; the protocol must have sent nothing before it fires.
        """
        if self.url.startswith(_UNIX):
            inner: Any = UNIXClientEndpoint(self.reactor, self.url.removeprefix(_UNIX))
        else:
            # An address, not a name: what a port is listened on has nothing to be looked up.
            parts = urlsplit(self.url)
            host, port = str(parts.hostname), int(parts.port or 80)
            kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
            inner = kind(self.reactor, host, port)
        connecting: Deferred[IProtocol] = inner.connect(protocolFactory)
        return connecting.addCallback(self._prove)

    def _prove(self, protocol: Any) -> IProtocol:
        if find_door(self.folder) != self.url:
            protocol.transport.abortConnection()
            raise DoorUnreachable(
                f"the node on {self.folder.path} ended just now: start it with "
                f"'{start_command(self.folder)}'"
            )
        connected: IProtocol = protocol
        return connected
