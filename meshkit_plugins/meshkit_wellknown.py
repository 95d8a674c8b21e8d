"""The part C{wellknown}: finds nodes by the names of domains, and has this one found so."""

from meshkit.interfaces import IWellKnown
from meshkit.parts import PartMaker

wellknown = PartMaker("wellknown", "meshkit.discovery.domains", provides=(IWellKnown,))
