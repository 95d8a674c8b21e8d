"""How long does it take to a peer and back?  A part for a meshkit node."""
