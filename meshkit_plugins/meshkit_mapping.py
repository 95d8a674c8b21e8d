"""The part C{mapping}: has the router pass connections from outside on to this node."""

from meshkit.parts import PartMaker

mapping = PartMaker("mapping", "meshkit.mapping.part")
