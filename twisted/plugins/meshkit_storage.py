"""C{twistd mesh-storage}."""

from twisted.application.service import ServiceMaker

meshStorage = ServiceMaker(
    "meshkit storage peer",
    "meshkit.tap.mesh_storage",
    "Keep encrypted shares for the members of a network.",
    "mesh-storage",
)
