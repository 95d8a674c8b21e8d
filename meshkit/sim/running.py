"""
One run: a plan is played, invariants watch, and what came of it is an L{Outcome}.

::

    outcome = run(SCENARIOS["churn"], seed=7)
    for violation in outcome.violations:
        print(violation.text)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import frozen
from msgspec.structs import replace
from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from meshkit.identity.keys import PublicKey
from meshkit.services.programs import MESH_NODE, PROGRAMS
from meshkit.sim.actions import check_plan, perform, start_node
from meshkit.sim.clock import nanoseconds
from meshkit.sim.disk import PowerLost
from meshkit.sim.garbage import collecting_by_hand, sparing_what_was_there
from meshkit.sim.invariants import USUAL, Invariant, Violation
from meshkit.sim.liars import Liar
from meshkit.sim.measures import Measures
from meshkit.sim.minimise import BUDGET, Minimised, minimise
from meshkit.sim.network import SimNetwork
from meshkit.sim.node import Said, SimNode
from meshkit.sim.objects import Objects
from meshkit.sim.schedule import ADDRESS, KEY, Action, Member, Plan
from meshkit.sim.seeds import Seeds
from meshkit.sim.world import World

__all__ = ["MAX_VIOLATIONS", "SAMPLE", "Outcome", "Run", "Scenario", "play", "reduce", "run"]

#: Seconds of the world between two looks at it.
SAMPLE: Final = 1.0
#: Violations that a run keeps; one that has more is over.
MAX_VIOLATIONS: Final = 100
#: Seconds in which everybody has to be ready, at the beginning.
READY: Final = 300.0


@frozen
class Scenario:
    """
    A kind of run.

    @ivar name: in a word or two.
    @ivar summary: what happens, in a sentence.
    @ivar nodes: how many take part, if nobody says otherwise.
    @ivar faults: names of the faults that are drawn, if nobody says otherwise; see
        L{meshkit.sim.nemesis.FAULTS}.
    @ivar draw: given randomness, the number of nodes and the names of faults, makes the plan
        of one run.  It is a function of these alone.
    @ivar invariants: that watch its runs.
    @ivar makers: of the parts of the nodes; those that are installed, if L{None}.
    @ivar parts: those of L{meshkit.sim.world.ON_REQUEST} that the nodes have.
    """

    name: str
    summary: str
    nodes: int
    draw: Callable[[Random, int, Sequence[str]], Plan]
    faults: tuple[str, ...] = ()
    invariants: Sequence[type[Invariant]] = USUAL
    makers: Sequence[Any] | None = None
    parts: tuple[str, ...] = ()

    def plan(
        self, seed: int, *, nodes: int | None = None, faults: Sequence[str] | None = None
    ) -> Plan:
        """@return: what is to happen with that seed."""
        count = self.nodes if nodes is None else nodes
        rng = Seeds(seed).stream("plan", self.name, str(count))
        drawn = self.draw(rng, count, self.faults if faults is None else faults)
        return replace(drawn, scenario=self.name, seed=seed)


@frozen
class Outcome:
    """
    What came of a run.

    @ivar plan: that was played.
    @ivar digest: of everything that happened.
    @ivar violations: what was not as it must be, in the order in which it was found.
    @ivar figures: what was measured, by name: C{nodes}, C{virtual_s}, C{events}, C{segments},
        C{bytes}, C{acknowledged}, and those of L{Objects.figures} and L{Measures.figures}.
    """

    plan: Plan
    digest: str
    violations: tuple[Violation, ...]
    figures: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of the world."""
        return self.plan.seed


class Run:
    """
    A plan while it is played.

    @ivar plan: itself.
    @ivar world: in which.
    @ivar nodes: the honest ones, by name.
    @ivar liars: the others, by name.
    @ivar violations: that were found so far.
    @ivar measures: what is measured.
    @ivar objects: files that were stored.
    @ivar begun_ns: when all were ready.
    @ivar agreed: nobody had anything more to wait for, within the time.
    @ivar active: C{plan.seconds} are not over.
    """

    _log = Logger()

    def __init__(
        self,
        plan: Plan,
        invariants: Iterable[type[Invariant]] = USUAL,
        makers: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        """
        @param options: more for L{World}.
        @raise ValueError: if the plan says what cannot be done.
        """
        check_plan(plan)
        self.plan = plan
        self.violations: list[Violation] = []
        self.begun_ns = 0
        self.agreed = False
        self.active = True
        self.nodes: dict[str, SimNode] = {}
        # What is done when a call is answered.
        self._then: dict[tuple[str, int], Action] = {}
        self.liars: dict[str, Liar] = {}
        self._invariants = [each() for each in invariants]
        self._over = False
        self._folder = TemporaryDirectory() if plan.disk == "files" else None
        if self._folder is not None:
            options["folder"] = self._folder.name
        network: dict[str, Any] = dict(plan.network)
        self.world = World(plan.seed, make_network=partial(SimNetwork, **network), **options)
        self.world.watch(self._event)
        self.world.listen(self._said)
        boxes = {
            name: self.world.network.nat(name, kind=kind)
            for name, kind in sorted(plan.boxes.items())
        }
        for member in plan.members:
            self._make(member, makers, boxes)
        self.measures = Measures(self)
        self.objects = Objects(self)
        everybody: list[SimNode | Liar] = [*self.nodes.values(), *self.liars.values()]
        self._names = {each.identity.public.raw: each.name for each in everybody}
        for member in plan.members:
            addresses = [self.address_of(name) for name in member.peers]
            if member.liar:
                self.liars[member.name].dials = tuple(addresses)
            else:
                known = ", ".join(f'"{address}"' for address in addresses)
                config = KEY.sub(lambda found: self.key_of(found[1]).text, member.config)
                config = ADDRESS.sub(lambda found: self.address_of(found[1]), config)
                self.nodes[member.name].configure(f"peers = [{known}]\n{config}")

    def _make(self, member: Member, makers: Any, boxes: dict[str, Any]) -> None:
        behind = boxes.get(member.behind)
        if member.liar:
            self.liars[member.name] = self.world.liar(member.name, member.liar, behind=behind)
        else:
            program = PROGRAMS.get(member.program, MESH_NODE)
            self.nodes[member.name] = self.world.node(
                member.name, makers=makers, behind=behind, program=program
            )

    # --- what invariants and actions call

    def key_of(self, name: str) -> PublicKey:
        """@return: the public key of a member."""
        return self._member(name).identity.public

    def address_of(self, name: str) -> str:
        """@return: where others dial a member."""
        return self._member(name).address

    def _member(self, name: str) -> SimNode | Liar:
        return self.liars.get(name) or self.nodes[name]

    def name_of(self, key: bytes) -> str:
        """@return: whose public key it is, of the plan's members; its text, if nobody's."""
        return self._names.get(key) or PublicKey(key).text

    def when_answered(self, node: str, number: int, action: Action) -> None:
        """Do something at the moment when a call of a door is answered."""
        self._then[node, number] = action

    def violated(self, invariant: str, node: str, text: str) -> None:
        """Something is not as it must be."""
        self.world.trace.event("violation", node, invariant=invariant, text=text)
        self.violations.append(Violation(invariant, self.world.clock.ns, node, text))
        if len(self.violations) >= MAX_VIOLATIONS:
            self._over = True

    def failed(self, failure: Failure, what: str) -> None:
        """Something that was begun has failed, and nobody else is there to hear it."""
        if failure.check(PowerLost):
            return
        self.violated("errors", "", f"{what}: {failure.getErrorMessage()}")

    @property
    def seconds(self) -> float:
        """Since the beginning, in the world."""
        return (self.world.clock.ns - self.begun_ns) / 10**9

    # --- playing

    def play(self) -> Outcome:
        """Do all of it."""
        observer: Any = self._logged
        globalLogPublisher.addObserver(observer)
        try:
            with sparing_what_was_there(), collecting_by_hand():
                self._play()
        except Exception:
            # Somebody was not ready in time, or an invariant is wrong; the observer hears it.
            self._log.failure("the run ended before its time (seed {seed})", seed=self.plan.seed)
        finally:
            globalLogPublisher.removeObserver(observer)
            self.world.close()
            if self._folder is not None:
                self._folder.cleanup()
        return Outcome(self.plan, self.world.trace.digest, tuple(self.violations), self._figures())

    def _play(self) -> None:
        self._begin()
        clock = self.world.clock
        for action in sorted(self.plan.actions, key=lambda each: each.at):
            clock.call_at(self.begun_ns + action.at, perform, self, action)
        end = self.begun_ns + nanoseconds(self.plan.seconds)
        while clock.ns < end and not self._over:
            self.world.run(min(SAMPLE, (end - clock.ns) / 10**9))
            self._tell("sampled")
        self._heal()
        self._settle()
        self._stop()

    def _begin(self) -> None:
        there = [each for each in self.plan.members if not each.late]
        for member in there:
            if member.liar:
                self.liars[member.name].start()
            else:
                self.nodes[member.name].launch()
        nodes = [self.nodes[each.name] for each in there if not each.liar]
        self.world.until(lambda: all(each.ready for each in nodes), "all nodes", READY)
        self.begun_ns = self.world.clock.ns
        self._tell("begun")

    def _heal(self) -> None:
        self.active = False
        network = self.world.network
        network.mend()
        for node in self.nodes.values():
            node.host.storage.mend()
            node.host.skew(0)
            start_node(node)
        self._tell("healed")

    def _settle(self) -> None:
        clock = self.world.clock
        end = clock.ns + nanoseconds(self.plan.settle)
        self.agreed = self._agree()
        while clock.ns < end and not self._over and not self.agreed:
            self.world.run(SAMPLE)
            self._tell("sampled")
            self.agreed = self._agree()
        self._tell("settled")

    def _agree(self) -> bool:
        nodes = all(node.ready for node in self.nodes.values())
        return nodes and all(each.agrees(self) for each in self._invariants)

    def _stop(self) -> None:
        for liar in self.liars.values():
            liar.stop()
        for node in self.nodes.values():
            if node.running:
                node.stop()
        # A Deferred that failed, and whose failure nobody has taken, says so when it goes.
        self.world.collect()
        self._tell("stopped")

    def _tell(self, what: str) -> None:
        self.measures.told(what)
        for invariant in self._invariants:
            getattr(invariant, what)(self)

    def _event(self, kind: str, host: str, details: dict[str, Any]) -> None:
        self.measures.event(kind, host, details)
        if kind != "violation":
            for invariant in self._invariants:
                invariant.event(self, kind, host, details)

    def _said(self, said: Said) -> None:
        then = self._then.pop((said.node, said.number), None)
        if then is not None:
            self.world.clock.callLater(0, perform, self, then)
        for invariant in self._invariants:
            invariant.said(self, said)

    def _logged(self, event: Any) -> None:
        if self.objects.expected(event):
            return
        failure = event.get("log_failure")
        level = event.get("log_level")
        if failure is not None and failure.check(PowerLost):
            # Code of a machine without power is heard to its end.
            return
        if self.world.garbage.has_made(failure):
            return
        if failure is not None or level in (LogLevel.error, LogLevel.critical):
            text = event.get("log_format") if failure is None else failure.getErrorMessage()
            self.violated("errors", "", f"logged: {text}")

    def _figures(self) -> dict[str, Any]:
        network = self.world.network
        return {
            "nodes": len(self.nodes),
            "virtual_s": self.world.clock.seconds(),
            "events": self.world.clock.steps,
            "segments": network.segments,
            "bytes": network.bytes,
            "acknowledged": len(self.world.acknowledged),
            **self.objects.figures(),
            **self.measures.figures(),
        }


def play(plan: Plan, scenario: Scenario, **options: Any) -> Outcome:
    """
    Play a plan, which may be another than the scenario would draw.

    @param options: more for L{World}.
    """
    options.setdefault("parts", scenario.parts)
    return Run(plan, scenario.invariants, scenario.makers, **options).play()


def run(
    scenario: Scenario,
    seed: int,
    *,
    nodes: int | None = None,
    faults: Sequence[str] | None = None,
    **options: Any,
) -> Outcome:
    """
    Draw a plan and play it.

    @param nodes: how many; as the scenario has it, if not given.
    @param faults: names; likewise.
    @param options: more for L{World}.
    """
    return play(scenario.plan(seed, nodes=nodes, faults=faults), scenario, **options)


def reduce(
    outcome: Outcome, scenario: Scenario, *, budget: int = BUDGET, **options: Any
) -> Minimised:
    """
    Make the plan of a run that failed smaller, by playing parts of it.

    @param budget: how many are played at most.
    @param options: more for L{World}.
    @return: a plan in which the first of the invariants that failed fails as well.
    @raise ValueError: if the run did not fail.
    """
    if not outcome.violations:
        raise ValueError("nothing failed in this run")
    which = outcome.violations[0].invariant

    def fails(plan: Plan) -> bool:
        return any(each.invariant == which for each in play(plan, scenario, **options).violations)

    return minimise(outcome.plan, fails, budget=budget)
