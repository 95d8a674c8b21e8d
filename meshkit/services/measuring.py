"""
What a node measures of itself, beside what its parts do: its door, its channels, its
database, its threads, its peers, and whether its event loop keeps up.

Nothing is counted here that is counted elsewhere already: most of it is asked for when
somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from meshkit import __version__
from meshkit.runtime.database import Database
from meshkit.runtime.ledger import Totals
from meshkit.runtime.metrics import CODES, Metrics
from meshkit.runtime.peers import PeerBook
from meshkit.shs.channel import Traffic
from meshkit.shs.listener import SecureListener
from meshkit.web.dispatch import Called
from meshkit.web.tally import Tally

#: Seconds between two looks at how late the event loop is.
LAG_INTERVAL: Final = 1.0
#: Through which doors operations are called.
DOORS: Final = ("rest", "mcp")
#: Upper ends for how late the event loop is, in seconds.
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
#: Upper ends for how long a call at the door takes, in seconds.
CALL_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)

_STATUSES: Final = frozenset(str(int(status)) for status in HTTPStatus)


class LoopLag:
    """
    How late the event loop is: something that is due each second says when it was done.

    A loop that is held up by one long call, or by many, is late for everything.
    """

    def __init__(self, clock: IReactorTime, observe: Callable[[float], None]) -> None:
        """@param observe: told of each look, how many seconds it came too late."""
        self._clock = clock
        self._observe = observe
        self._due: IDelayedCall | None = None

    def start(self) -> None:
        """Look, until L{stop} is called."""
        wanted = self._clock.seconds() + LAG_INTERVAL
        self._due = self._clock.callLater(LAG_INTERVAL, self._look, wanted)

    def stop(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            due.cancel()

    def _look(self, wanted: float) -> None:
        self._observe(max(0.0, self._clock.seconds() - wanted))
        self.start()


def measure_node(
    metrics: Metrics,
    *,
    ready: Callable[[], bool],
    database: Database,
    workers: Any,
    peers: PeerBook,
    listener: SecureListener,
    dialled: Traffic,
) -> Callable[[float], None]:
    """
    Have a node's own figures told.

    @param workers: L{meshkit.runtime.workers.Workers}; how much they have to do is told if
        they know.
    @param dialled: what the channels did that this node opened.
    @return: to be told how late the event loop is.
    """
    node = metrics.part("node")
    node.gauge("info", "The version of meshkit.", lambda: {__version__: 1}, version={__version__})
    node.gauge("ready", "1 when all parts are started.", lambda: float(ready()))
    lag = node.histogram("loop_lag_seconds", "How late the event loop is.", LAG_SECONDS)
    _measure_database(metrics, database)
    _measure_channels(metrics, listener, dialled)
    _measure_peers(metrics, peers)
    threads = metrics.part("workers")
    threads.gauge("threads", "Worker threads.", lambda: workers.size)
    threads.gauge(
        "calls",
        "Calls that wait for a worker thread or are made by one.",
        lambda: getattr(workers, "outstanding", 0),
    )
    return lag.observe


def _measure_database(metrics: Metrics, database: Database) -> None:
    part = metrics.part("database")
    part.gauge(
        "waiting",
        "Jobs that wait for the database.",
        lambda: {
            "write": database.status().waiting_writes,
            "read": database.status().waiting_reads,
        },
        kind=("read", "write"),
    )
    jobs = part.counter("writes_total", "Jobs that were written.")
    commit = part.histogram(
        "commit_seconds", "From handing a batch of jobs to the writer until it is on the disk."
    )

    def written(count: int, seconds: float) -> None:
        jobs.add(by=count)
        commit.observe(seconds)

    database.on_batch = written


def _measure_channels(metrics: Metrics, listener: SecureListener, dialled: Traffic) -> None:
    part = metrics.part("channels")
    sides = ("accepted", "dialled")

    def each(read: Callable[[Traffic], int]) -> Callable[[], dict[str, int]]:
        return lambda: {"accepted": read(listener.traffic), "dialled": read(dialled)}

    part.gauge("accepted", "Channels that others have opened.", lambda: len(listener.channels))
    part.gauge(
        "unauthenticated",
        "Connections that have not proved who they are.",
        lambda: listener.unauthenticated,
    )
    part.count("opened_total", "Channels that were opened.", each(lambda t: t.opened), side=sides)
    part.count(
        "received_bytes_total", "Bytes that came over them.", each(lambda t: t.received), side=sides
    )
    part.count("sent_bytes_total", "Bytes that went over them.", each(lambda t: t.sent), side=sides)
    part.count(
        "refused_total",
        "Connections that were refused before they were authenticated.",
        lambda: listener.refusals,
        code=CODES,
    )


def _measure_peers(metrics: Metrics, peers: PeerBook) -> None:
    part = metrics.part("peers")
    part.gauge(
        "addresses",
        "Addresses in the peer book.",
        lambda: len(peers.entries()) + len(peers.unknown()),
    )
    part.gauge(
        "connected",
        "Addresses to which a channel is open.",
        lambda: sum(entry.connected for entry in peers.entries()),
    )
    part.gauge("banned", "Peers with which this node has nothing to do.", peers.ledger.banned)
    for name, doc, read in (
        ("received", "Messages from peers that were new.", lambda totals: totals.received),
        ("sent", "Messages that peers were given.", lambda totals: totals.sent),
        ("duplicate", "Messages from peers that were here.", lambda totals: totals.duplicates),
        ("refused", "Messages from peers that were refused.", lambda totals: totals.refused),
    ):
        part.count(f"{name}_messages_total", doc, partial(_of_totals, peers, read))


def _of_totals(peers: PeerBook, read: Callable[[Totals], int]) -> int:
    return read(peers.ledger.totals())


def measure_calls(metrics: Metrics, operations: Iterable[str]) -> Callable[[Called], None]:
    """
    Have the calls of operations told.

    @param operations: their names.
    @return: to be told of each call.
    """
    names = frozenset(operations)
    part = metrics.part("door")
    calls = part.counter(
        "calls_total", "Calls of operations.", operation=names, door=DOORS, code=CODES
    )
    seconds = part.histogram(
        "call_seconds",
        "From a call until its answer; of a stream, until it began.",
        CALL_SECONDS,
        operation=names,
        door=DOORS,
    )

    def called(call: Called) -> None:
        calls.add(call.operation, call.door, call.code)
        seconds.observe(call.seconds, call.operation, call.door)

    return called


def measure_site(
    metrics: Metrics,
    tally: Tally,
    connections: Callable[[], int],
    streams: Callable[[], int],
) -> None:
    """
    Have told what the site of the door does.

    @param connections: how many are open.
    @param streams: how many streams of events are open.
    """
    part = metrics.part("door")
    part.gauge("connections", "Connections to the door that are open.", connections)
    part.gauge("streams", "Streams of events that are open.", streams)
    part.count("connections_taken_total", "Connections that were taken.", lambda: tally.connections)
    part.count(
        "turned_away_total", "Connections that were one too many.", lambda: tally.turned_away
    )
    part.count("received_bytes_total", "Bytes of the bodies of requests.", lambda: tally.received)
    part.count("sent_bytes_total", "Bytes of the bodies of answers.", lambda: tally.sent)
    part.count(
        "answers_total",
        "Answers by their status, also those that are no operation's.",
        lambda: {str(status): count for status, count in tally.answers.items()},
        status=_STATUSES,
    )
