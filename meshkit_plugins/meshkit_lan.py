"""The part C{lan}: finds the network's other nodes near by; off unless asked for."""

from meshkit.parts import PartMaker

lan = PartMaker("lan", "meshkit.discovery.part")
