"""The limit of everything that a client can make grow."""

from __future__ import annotations

from attrs import frozen


@frozen
class Limits:
    """
    @ivar message: bytes of one message.
    @ivar nesting: how deep its JSON may be nested.
    @ivar introduction: bytes of what a client tells of itself in C{initialize}: it is
        kept with the session.
    @ivar sessions: sessions over HTTP.  For one more, the one that has rested longest ends.
    @ivar idle_seconds: how long a session over HTTP is kept that does nothing, and has no
        stream open.
    @ivar calls: calls under way, in all.
    @ivar session_calls: calls under way of one session.
    @ivar listens: subscriptions of the stateless generation, in all.
    @ivar session_listens: those of one connection.
    @ivar subscriptions: resources that one client is told of when they change.
    @ivar uri: characters of the URI of one of them.
    @ivar asks: questions of ours that one session has not answered.
    @ivar ask_seconds: how long it has for an answer.
    @ivar rounds: how often one call can ask for more input.
    @ivar page: entries of one page of a list.  All the tools of a node fit into one: agents
        that read no further page are many.
    @ivar backlog: messages that wait for a client which does not read.  One more, and its
        stream or connection is closed.
    @ivar backlog_bytes: the same in bytes; one message is let through whatever its size.
    @ivar quiet_seconds: a list, or a resource, is not said to have changed more often.
    """

    message: int = 4 * 1024 * 1024
    nesting: int = 64
    introduction: int = 16 * 1024
    sessions: int = 128
    idle_seconds: float = 30 * 60.0
    calls: int = 256
    session_calls: int = 32
    listens: int = 128
    session_listens: int = 8
    subscriptions: int = 64
    uri: int = 2048
    asks: int = 8
    ask_seconds: float = 300.0
    rounds: int = 8
    page: int = 256
    backlog: int = 256
    backlog_bytes: int = 4 * 1024 * 1024
    quiet_seconds: float = 1.0
