"""
Keeping feeds in step with Egregore's own nodes, over generation W2 of their wire.

C{wire}, C{memory} and C{session} are pure; C{link} is the Twisted protocol; C{part} dials
and listens.  The handshake and the stream are in C{meshkit.shs.egregore}.  What is spoken
and what is not: C{docs/protocol/egregore.md}.
"""
