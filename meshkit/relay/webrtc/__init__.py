"""
WebRTC: a direct path between two peers of which none can be dialled.

Each connection is a data channel of its own, with the secret handshake inside, as over TCP
(protocol/webrtc.md).  What two peers have to tell each other first goes by a way that they have
already, such as a circuit through a relay.

C{stream} makes a byte stream with flow control of the messages of a channel, and is pure.
C{channel} is the Twisted transport, C{sessions} what two peers have with one another, C{aio} the
thread in which the library aiortc runs.  The last one alone needs it: the extra C{webrtc}.
"""
