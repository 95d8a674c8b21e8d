"""C{twistd mesh-relay}."""

from twisted.application.service import ServiceMaker

meshRelay = ServiceMaker(
    "meshkit relay",
    "meshkit.tap.mesh_relay",
    "Relay for peers that sleep or that nobody can dial.",
    "mesh-relay",
)
