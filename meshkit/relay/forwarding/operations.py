"""What the part C{forwarding} shows at the doors."""

from __future__ import annotations

import msgspec


class ForwardingStatus(msgspec.Struct):
    """
    @ivar authors: peers whose feeds are kept for others.
    @ivar ttl_secs: seconds for which a message is kept since it came; 0 for ever.
    @ivar author_bytes: bytes of text that are kept of each author; 0 is any number.
    @ivar total_bytes: bytes of text that are kept in all; 0 is any number.
    @ivar feeds_dropped: feeds of peers that are registered no more, which were dropped since
        the start.
    """

    authors: int
    ttl_secs: int
    author_bytes: int
    total_bytes: int
    feeds_dropped: int
