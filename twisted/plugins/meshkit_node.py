"""C{twistd mesh-node}."""

from twisted.application.service import ServiceMaker

meshNode = ServiceMaker(
    "meshkit node",
    "meshkit.tap.mesh_node",
    "Run a node of a peer-to-peer mesh.",
    "mesh-node",
)
