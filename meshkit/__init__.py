"""
meshkit: peer-to-peer meshes without a central server, as a Twisted library and
the daemons made of it.

Import the room you need: C{meshkit.shs} for the secure channel, C{meshkit.feed}
for signed feeds, C{meshkit.services} to embed a whole node.  The map of the rooms
is C{docs/architecture.md}.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
