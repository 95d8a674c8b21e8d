"""
What is measured in a run, without asking its nodes for anything.

When a message is stored is heard from the node itself, which tells its own parts the same
(L{meshkit.interfaces.MessagesStored}); when it is acknowledged, from the client of the door.
Both are known to the nanosecond.  Counters are read from the nodes now and then, and when
one has ended.  Nothing of this is an event of the world: a run that is measured is the run
that is not.

The result, L{Measures.figures}, is of JSON types.  Times are seconds since everybody was
ready, if not said otherwise.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field, frozen

from meshkit.interfaces import MessagesStored
from meshkit.runtime.ledger import Totals
from meshkit.services.node import NodeService
from meshkit.sim.clock import SECOND

if TYPE_CHECKING:
    from meshkit.sim.running import Run

__all__ = ["MAX_LINKS", "MAX_MARKS", "MAX_MESSAGES", "POINTS", "Measures"]

#: Points of a curve, at most.
POINTS: Final = 240
#: Messages that are told of one by one: the slowest.
MAX_MESSAGES: Final = 50
#: Links that are told of one by one: those that carried most.
MAX_LINKS: Final = 20
#: Faults that are told of one by one: the first.
MAX_MARKS: Final = 1_000

#: The quantiles that are told of latencies.
_QUANTILES: Final = {"p50": 50, "p90": 90, "p99": 99}
_MS: Final = 10**6
_PUBLISH: Final = frozenset({("POST", "/v1/publish"), ("POST", "/v1/publish/batch")})


@define(eq=False)
class _Message:
    """
    A message of an honest node.

    @ivar author: number of the node.
    @ivar here: a byte for each node: has it stored the message?
    @ivar born_ns: when its author had, in the world's nanoseconds; 0 if it has not.
    @ivar stored_ns: when each of the others had, in that order.
    """

    author: int
    sequence: int
    here: bytearray
    born_ns: int = 0
    stored_ns: array[int] = field(factory=lambda: array("q"))


@define(eq=False)
class _Watched:
    """
    A node.

    @ivar service: the one that was started last.
    @ivar before: what those before it counted.
    """

    name: str
    service: NodeService | None = None
    before: Totals = field(factory=Totals)

    def totals(self) -> Totals:
        if self.service is None:
            return self.before
        now, before = self.service.peers.ledger.totals(), self.before
        return Totals(
            before.received + now.received,
            before.sent + now.sent,
            before.duplicates + now.duplicates,
            before.refused + now.refused,
        )


@frozen
class _Mark:
    """
    Something that went wrong, or was made to.

    @ivar kind: the row in which it is shown.
    @ivar until_ns: when it was over; L{None} for what takes no time.
    """

    kind: str
    where: str
    at_ns: int
    until_ns: int | None
    text: str


@frozen
class _Sample:
    at_ns: int
    duplicates: int
    bytes: int
    running: int


class Measures:
    """
    Watches one run, which calls L{event} and L{told}.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._clock = run.world.clock
        self._names = list(run.nodes)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._keys = {
            node.identity.public.raw: number for number, node in enumerate(run.nodes.values())
        }
        self._watched = [_Watched(name) for name in self._names]
        self._messages: dict[bytes, _Message] = {}
        self._again = 0
        self._over = False
        self._samples: list[_Sample] = []
        self._asked: dict[tuple[str, int], int] = {}
        self._answers: array[int] = array("q")
        self._connections = 0
        self._phases: dict[str, int] = {}
        self._marks: list[_Mark] = []
        self._marks_left = 0
        # What has begun and is not over: (kind, where) -> (when, what).
        self._open: dict[tuple[str, str], tuple[int, str]] = {}
        self._heard: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "action": self._action,
            "door.answer": self._answered,
            "door.call": self._called,
            "door.silence": self._silent,
            "host.crash": self._down,
            "host.skew": self._skewed,
            "net.accept": self._accepted,
            "net.block": self._blocked,
            "net.heal": self._healed,
            "net.partition": self._partitioned,
            "net.silence": self._silenced,
            "node.start": self._started,
            "process.begin": self._up,
            "process.end": self._down,
        }

    # --- what the run tells

    def event(self, kind: str, host: str, details: dict[str, Any]) -> None:
        """Something happened: see L{meshkit.sim.trace.Trace.event}."""
        heard = self._heard.get(kind)
        if heard is not None:
            heard(host, details)

    def told(self, phase: str) -> None:
        """The run has come so far: see L{meshkit.sim.invariants.Invariant}."""
        if phase == "begun":
            for member in self._run.plan.members:
                if member.liar:
                    self._begin("liar", member.name, member.liar)
        elif phase == "healed":
            for kind, where in list(self._open):
                if kind not in ("down", "liar"):
                    self._end(kind, where)
        elif phase == "settled":
            # That they are stopped now is no fault, and what they get meanwhile no success.
            self._over = True
            for kind, where in list(self._open):
                self._end(kind, where)
            for kind in ("process.begin", "process.end", "host.crash"):
                del self._heard[kind]
        if phase != "sampled":
            self._phases[phase] = self._clock.ns
        if phase != "stopped":
            self._sample()

    def _sample(self) -> None:
        nodes = self._run.nodes.values()
        self._samples.append(
            _Sample(
                self._clock.ns,
                sum(each.totals().duplicates for each in self._watched),
                self._run.world.network.bytes,
                sum(node.running for node in nodes),
            )
        )

    # --- messages

    def _started(self, host: str, details: dict[str, Any]) -> None:
        number = self._numbers.get(host)
        if number is None:
            return
        watched = self._watched[number]
        watched.before = watched.totals()
        service = self._run.nodes[host].service
        watched.service = service
        service.events.subscribe(MessagesStored, partial(self._stored, number))

    def _stored(self, node: int, event: MessagesStored) -> None:
        author = self._keys.get(event.author)
        if author is None or self._over:
            # Of a liar, or of a feed that another one went on with.
            return
        now = self._clock.ns
        for stored in event.messages:
            message = self._messages.get(stored.hash)
            if message is None:
                message = self._messages[stored.hash] = _Message(
                    author, stored.sequence, bytearray(len(self._names))
                )
            if message.here[node]:
                self._again += 1
                continue
            message.here[node] = 1
            if node == author:
                message.born_ns = now
            else:
                message.stored_ns.append(now)

    def _called(self, host: str, details: dict[str, Any]) -> None:
        if (details["method"], details["target"].partition("?")[0]) in _PUBLISH:
            self._asked[host, details["number"]] = self._clock.ns

    def _answered(self, host: str, details: dict[str, Any]) -> None:
        asked = self._asked.pop((host, details["number"]), None)
        if asked is not None and details["status"] < 300:
            self._answers.append(self._clock.ns - asked)

    def _silent(self, host: str, details: dict[str, Any]) -> None:
        self._asked.pop((host, details["number"]), None)

    def _accepted(self, host: str, details: dict[str, Any]) -> None:
        self._connections += 1

    # --- what went wrong

    def _begin(self, kind: str, where: str, text: str = "") -> None:
        self._end(kind, where)
        self._open[kind, where] = (self._clock.ns, text)

    def _end(self, kind: str, where: str) -> None:
        begun = self._open.pop((kind, where), None)
        if begun is not None:
            self._mark(_Mark(kind, where, begun[0], self._clock.ns, begun[1]))

    def _end_all(self, kind: str) -> None:
        for each, where in list(self._open):
            if each == kind:
                self._end(kind, where)

    def _mark(self, mark: _Mark) -> None:
        if len(self._marks) < MAX_MARKS:
            self._marks.append(mark)
        else:
            self._marks_left += 1

    def _up(self, host: str, details: dict[str, Any]) -> None:
        self._end("down", host)

    def _down(self, host: str, details: dict[str, Any]) -> None:
        if ("down", host) not in self._open:
            self._begin("down", host)

    def _skewed(self, host: str, details: dict[str, Any]) -> None:
        if details["ns"]:
            self._begin("wrong clock", host, f"{details['ns'] / SECOND:+g} s")
        else:
            self._end("wrong clock", host)

    def _partitioned(self, host: str, details: dict[str, Any]) -> None:
        sizes = " / ".join(str(len(group)) for group in details["groups"])
        self._begin("partition", "", sizes)

    def _blocked(self, host: str, details: dict[str, Any]) -> None:
        arrow = "<->" if details["both"] else "->"
        self._begin("blocked", f"{host} {arrow} {details['to']}")

    def _silenced(self, host: str, details: dict[str, Any]) -> None:
        self._begin("silenced", host)

    def _healed(self, host: str, details: dict[str, Any]) -> None:
        for kind in ("partition", "blocked", "silenced"):
            self._end_all(kind)

    def _action(self, where: str, details: dict[str, Any]) -> None:
        kind, args = details["kind"], details["args"]
        if kind == "link":
            text = ", ".join(f"{name} {value}" for name, value in args.items() if name != "to")
            self._begin("slow link", f"{where} <-> {args['to']}", text)
        elif kind == "usual":
            self._end("slow link", f"{where} <-> {args['to']}")
        elif kind == "fill":
            self._begin("full disk", where)
        elif kind in ("free", "mend"):
            for each in ("full disk", *_DISK_FAULTS)[: 1 if kind == "free" else None]:
                self._end(each, where)
        elif kind in _DISK_FAULTS:
            self._begin(kind, where, f"{args.get('times', 1)} times")
        elif kind not in _SHOWN_OTHERWISE:
            text = ", ".join(f"{name} {value}" for name, value in args.items())
            self._mark(_Mark(kind, where, self._clock.ns, None, text))

    # --- what came of it

    def figures(self) -> dict[str, Any]:
        """
        @return: what was measured:

              - C{ready_s}: when everybody was ready, after the beginning of the world.
              - C{liars}: members that are no honest nodes.
              - C{published}, C{deliveries}, C{expected}: messages of honest nodes; how often
                one came to be stored at another honest node; how often that would be if all
                nodes took everything.
              - C{converged_s}: when the last message was stored somewhere, if the invariants
                agreed in time that nobody lacks anything.
              - C{again}: how often a node stored what it had stored before, and lost.
              - C{received}, C{sent}, C{duplicates}, C{refused}: messages, over all nodes and
                peers; what was received was new.
              - C{memo}: L{None}, or how many signatures were C{verified}, and how often one of
                these was C{remembered}: see L{meshkit.sim.memo}.
              - C{connections}: that were accepted, C{resets}, C{retransmissions}.
              - C{latency_ms}: from the moment a message is stored where it was written until
                it is stored at another node: C{count}, C{p50}, C{p90}, C{p99}, C{max}.
              - C{answer_ms}: likewise, of doors that were asked to publish.
              - C{latencies}: C{[up to ms, how many]}, one for each class.
              - C{convergence}: C{seconds}, and at each of them the share of C{expected} that
                was C{published} and C{delivered} by then.
              - C{samples}: C{seconds}, and at each C{duplicates}, C{bytes}, C{running} nodes.
              - C{per_node}: C{name}, and for each the messages it C{stored}, C{received},
                C{sent}, as C{duplicates}, C{refused}; C{bytes_in} and C{bytes_out}.
              - C{links}: C{[from, to, bytes]} of the L{MAX_LINKS} that carried most.
              - C{slowest}: the L{MAX_MESSAGES} messages that took longest to all, with
                C{author}, C{sequence}, C{at_s}, C{acknowledged_s}, C{nodes}, C{half_s} (after
                so many seconds half of the others had it) and C{last_s}.
              - C{marks}: what went wrong: C{kind}, C{where}, C{at_s}, C{until_s}, C{text}; and
                C{marks_left}, how many more.
              - C{phases}: when the run came so far.
        """
        messages = {
            digest: each for digest, each in self._messages.items() if each.here[each.author]
        }
        told = messages.values()
        arrivals = sorted(at for each in told for at in each.stored_ns)
        delays = sorted(at - each.born_ns for each in told for at in each.stored_ns)
        expected = len(messages) * (len(self._names) - 1)
        last_ns = max(
            [*arrivals[-1:], *(each.born_ns for each in told)], default=self._run.begun_ns
        )
        totals = [each.totals() for each in self._watched]
        network, memo = self._run.world.network, self._run.world.memo
        return {
            "ready_s": round(self._run.begun_ns / SECOND, 6),
            "liars": len(self._run.liars),
            "published": len(messages),
            "deliveries": len(arrivals),
            "expected": expected,
            "converged_s": self._seconds(last_ns) if self._run.agreed else None,
            "again": self._again,
            "received": sum(each.received for each in totals),
            "sent": sum(each.sent for each in totals),
            "duplicates": sum(each.duplicates for each in totals),
            "refused": sum(each.refused for each in totals),
            "memo": None if memo is None else {"verified": memo.misses, "remembered": memo.hits},
            "connections": self._connections,
            "resets": network.resets,
            "retransmissions": network.retransmissions,
            "latency_ms": _quantiles(delays),
            "answer_ms": _quantiles(sorted(self._answers)),
            "latencies": _classes(delays),
            "convergence": self._convergence(
                sorted(each.born_ns for each in told), arrivals, expected
            ),
            "samples": self._sampled(),
            "per_node": self._per_node(totals),
            "links": self._links(),
            "slowest": self._slowest(messages),
            "marks": self._marked(),
            "marks_left": self._marks_left,
            "phases": {phase: self._seconds(at) for phase, at in self._phases.items()},
        }

    def _seconds(self, at_ns: int) -> float:
        return round((at_ns - self._run.begun_ns) / SECOND, 6)

    def _convergence(
        self, born: Sequence[int], arrivals: Sequence[int], expected: int
    ) -> dict[str, list[float]]:
        begun = self._run.begun_ns
        end = self._phases.get("settled", self._clock.ns)
        grid = [begun + (end - begun) * step // POINTS for step in range(POINTS + 1)]
        return {
            "seconds": [self._seconds(at) for at in grid],
            "published": [round(bisect_right(born, at) / max(1, len(born)), 6) for at in grid],
            "delivered": [round(bisect_right(arrivals, at) / max(1, expected), 6) for at in grid],
        }

    def _sampled(self) -> dict[str, list[Any]]:
        step = -(-len(self._samples) // POINTS) or 1
        kept = self._samples[::step]
        if self._samples and kept[-1] is not self._samples[-1]:
            kept.append(self._samples[-1])
        return {
            "seconds": [self._seconds(each.at_ns) for each in kept],
            "duplicates": [each.duplicates for each in kept],
            "bytes": [each.bytes for each in kept],
            "running": [each.running for each in kept],
        }

    def _per_node(self, totals: Sequence[Totals]) -> dict[str, list[Any]]:
        held = [message.here for message in self._messages.values()]
        stored = [sum(here[node] for here in held) for node in range(len(self._names))]
        came, went = dict.fromkeys(self._names, 0), dict.fromkeys(self._names, 0)
        for source, sink, size in self._run.world.network.carried():
            if source in went:
                went[source] += size
            if sink in came:
                came[sink] += size
        return {
            "name": list(self._names),
            "stored": stored,
            "received": [each.received for each in totals],
            "sent": [each.sent for each in totals],
            "duplicates": [each.duplicates for each in totals],
            "refused": [each.refused for each in totals],
            "bytes_in": list(came.values()),
            "bytes_out": list(went.values()),
        }

    def _links(self) -> list[list[Any]]:
        carried = sorted(
            self._run.world.network.carried(), key=lambda each: (-each[2], each[0], each[1])
        )
        return [list(each) for each in carried[:MAX_LINKS]]

    def _slowest(self, messages: dict[bytes, _Message]) -> list[dict[str, Any]]:
        acknowledged = {
            bytes.fromhex(each.hash): self._seconds(each.at_ns)
            for each in self._run.world.acknowledged
        }
        others = len(self._names) - 1
        lasting = [(_after(each, others), digest, each) for digest, each in messages.items()]
        # First those that never came to all.
        lasting.sort(
            key=lambda each: (0, len(each[2].stored_ns)) if each[0] is None else (1, -each[0])
        )
        return [
            {
                "author": self._names[each.author],
                "sequence": each.sequence,
                "at_s": self._seconds(each.born_ns),
                "acknowledged_s": acknowledged.get(digest),
                "nodes": 1 + len(each.stored_ns),
                "half_s": _after(each, (others + 1) // 2),
                "last_s": last,
            }
            for last, digest, each in lasting[:MAX_MESSAGES]
        ]

    def _marked(self) -> list[dict[str, Any]]:
        return [
            {
                "kind": each.kind,
                "where": each.where,
                "at_s": self._seconds(each.at_ns),
                "until_s": None if each.until_ns is None else self._seconds(each.until_ns),
                "text": each.text,
            }
            for each in sorted(self._marks, key=lambda each: each.at_ns)
        ]


#: Those that last until the disk is mended.
_DISK_FAULTS: Final = ("fail-syncs", "fail-commits")
#: Actions that are no faults, and faults of which the world tells when they begin and end.
_SHOWN_OTHERWISE: Final = frozenset(
    {"block", "call", "crash", "heal", "kill", "partition", "silence", "skew", "start", "stop"}
)


def _after(message: _Message, others: int) -> float | None:
    """@return: seconds until so many others had stored it."""
    if not 0 < others <= len(message.stored_ns):
        return None
    return round((message.stored_ns[others - 1] - message.born_ns) / SECOND, 6)


def _quantiles(ordered: Sequence[int]) -> dict[str, Any]:
    """
    @param ordered: nanoseconds.
    @return: in milliseconds; each is the smallest that so large a share does not exceed.
    """
    count = len(ordered)
    if not count:
        return {"count": 0, **dict.fromkeys((*_QUANTILES, "max"))}
    found = {name: ordered[-(-percent * count // 100) - 1] for name, percent in _QUANTILES.items()}
    return {"count": count} | {
        name: round(value / _MS, 3) for name, value in (found | {"max": ordered[-1]}).items()
    }


def _classes(ordered: Sequence[int]) -> list[list[float]]:
    """
    @return: C{[up to ms, how many]}, the limits being powers of the square root of 2.
    """
    found: list[list[float]] = []
    below, step = 0, 0
    while below < len(ordered):
        limit = 2 ** (step / 2)
        known = bisect_right(ordered, int(limit * _MS))
        if known or found:
            found.append([round(limit, 3), known - below])
        below, step = known, step + 1
    return found
