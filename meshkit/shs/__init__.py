"""
The secure channel: Secret Handshake 1 and box stream, as Twisted transports.

Use L{wrap_client} and L{wrap_server} around any endpoint, L{SecureListener} for many
protocols on one port.  The pure parts are in C{handshake}, C{boxstream}, C{hellos}.
"""

from meshkit.shs.channel import ISecureTransport, SecureChannel
from meshkit.shs.endpoints import wrap_client, wrap_server, wrap_session
from meshkit.shs.handshake import ClientHandshake, Outcome, ServerHandshake
from meshkit.shs.hellos import Capability, HelloTable, ReplayCache
from meshkit.shs.listener import SecureListener

__all__ = [
    "Capability",
    "ClientHandshake",
    "HelloTable",
    "ISecureTransport",
    "Outcome",
    "ReplayCache",
    "SecureChannel",
    "SecureListener",
    "ServerHandshake",
    "wrap_client",
    "wrap_server",
    "wrap_session",
]
