"""
STUN (RFC 8489), as much of it as peers behind routers need: who asks is told from where it comes
(docs/protocol/webrtc.md).

C{message} are the requests and answers, and is pure.  C{server} answers at a UDP port of a relay.
"""
