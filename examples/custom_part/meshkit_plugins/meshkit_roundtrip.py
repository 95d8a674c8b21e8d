"""The part C{roundtrip}: how long does it take to a peer and back?"""

from meshkit.parts import PartMaker

roundtrip = PartMaker("roundtrip", "meshkit_roundtrip.part")
