"""
What can be done in a world, by name: see L{meshkit.sim.schedule.Action}.

Each takes the run and its own action.  It is called at a moment of the world's time, so it
begins something and does not wait.  What cannot be done at that moment, as to stop a node
that does not run, is not done: of a plan, any actions may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec

from meshkit.errors import MeshkitError
from meshkit.services.programs import PROGRAMS
from meshkit.sim.clock import SECOND, nanoseconds
from meshkit.sim.disk import PowerLost
from meshkit.sim.schedule import ADDRESS, KEY, MAX_SECONDS, Action, Plan

if TYPE_CHECKING:
    from meshkit.sim.node import NodeCall, SimNode
    from meshkit.sim.running import Run

__all__ = ["ACTIONS", "Do", "check_plan", "perform"]

Do = Callable[["Run", Action], object]

#: Bytes of a file that is put.
MAX_PUT: Final = 32 * 1024 * 1024

#: Seconds in which a program looks whether its call was answered.
_PROGRAM: Final = 0.05


def start_node(node: SimNode) -> None:
    """
    Begin to start a node, if it does not run.  If it cannot, L{SimNode.failures} says why.
    """
    if node.running:
        return
    try:
        node.launch()
    except (MeshkitError, OSError):
        # It is in the node's failures, or its machine has no power any more.
        node.kill()
    except PowerLost:
        node.kill()


def _call(run: Run, action: Action) -> None:
    node = run.nodes[action.where]
    call = _ask(run, node, action) if node.ready else None
    again = action.args.get("again")
    if again is not None:
        run.world.clock.callLater(again, _call_again, run, action, call)


def _call_again(run: Run, action: Action, call: NodeCall | None) -> None:
    """Whoever has called makes the same call again, if it was not answered."""
    if not run.active:
        return
    if call is not None:
        if not call.ended:
            run.world.clock.callLater(action.args["again"], _call_again, run, action, call)
            return
        try:
            if call.answer().status < 500:
                return
        except ConnectionError:
            pass
    _call(run, action)


def _ask(run: Run, node: SimNode, action: Action) -> NodeCall:
    args = action.args
    target, body = args["target"], args.get("body")
    about = args.get("about")
    if about is not None:
        # Keys and addresses are not known before there is a world.
        key, address = run.key_of(about).text, run.address_of(about)
        target = target.replace("{key}", quote(key, safe=""))
        target = target.replace("{address}", quote(address, safe=""))
        if body is not None:
            known = {"{key}": key, "{address}": address}
            body = {
                name: known.get(value, value) if isinstance(value, str) else value
                for name, value in body.items()
            }
    call = node.call(args["method"], target, body)
    then = args.get("then")
    if then is not None:
        run.when_answered(node.name, call.number, Action(0, then, node.name))
    return call


def _swap(run: Run, action: Action) -> None:
    """A program reads an item of the node in the hash table, and writes what follows from it."""
    node = run.nodes[action.where]
    if not node.ready:
        return
    salt, own = action.args["salt"], quote(node.identity.public.text, safe="")
    target = f"/v1/dht/records/mutable/{own}?salt={quote(salt, safe='')}"
    _swap_read(run, action, node.call("GET", target))


def _swap_read(run: Run, action: Action, call: NodeCall) -> None:
    node = run.nodes[action.where]
    if not run.active or not node.ready:
        return
    if not call.ended:
        run.world.clock.callLater(_PROGRAM, _swap_read, run, action, call)
        return
    try:
        answer = call.answer()
    except ConnectionError:
        return
    if answer.status != 200:
        return
    body = {"kind": "mutable", "salt": action.args["salt"], "text": action.args["text"]}
    records = answer.json["data"]["records"]
    sequence = records[0]["sequence"] if records else 0
    digest = records[0]["digest"] if records else ""
    node.call("POST", "/v1/dht/records", {**body, "swap_sequence": sequence, "swap_digest": digest})


def _put(run: Run, action: Action) -> None:
    args = action.args
    run.objects.put(action.where, args["file"], args["size"], args["scheme"])


def _fetch(run: Run, action: Action) -> None:
    run.objects.fetch(action.where, action.args["file"])


def _drop(run: Run, action: Action) -> None:
    run.objects.drop(action.args["file"])


def _rot(run: Run, action: Action) -> None:
    run.objects.rot(action.where, action.args["at"])


def _lose(run: Run, action: Action) -> None:
    run.objects.lose(action.where)


def _watch(run: Run, action: Action) -> None:
    run.objects.watch(action.where, action.args["file"])


def _start(run: Run, action: Action) -> None:
    liar = run.liars.get(action.where)
    if liar is not None:
        if not liar.running:
            liar.start()
    else:
        start_node(run.nodes[action.where])


def _stop(run: Run, action: Action) -> None:
    liar = run.liars.get(action.where)
    if liar is not None:
        liar.stop()
        return
    node = run.nodes[action.where]
    if node.ready:
        node.leave().addErrback(run.failed, f"stop of {node.name}")


def _crash(run: Run, action: Action) -> None:
    node = run.nodes[action.where]
    if node.running:
        node.crash()


def _kill(run: Run, action: Action) -> None:
    run.nodes[action.where].kill()


def _power(run: Run, action: Action) -> None:
    # In the middle of a later write, not now.
    node = run.nodes[action.where]
    if not node.running:
        return
    if action.args.get("of") == "files":
        node.host.storage.files.system.stop_before(action.args["after"])
    else:
        for database in node.host.storage.databases.values():
            database.stop_before(action.args["after"])


def _fill(run: Run, action: Action) -> None:
    run.nodes[action.where].host.storage.fill()


def _free(run: Run, action: Action) -> None:
    run.nodes[action.where].host.storage.free()


def _mend(run: Run, action: Action) -> None:
    run.nodes[action.where].host.storage.mend()


def _fail_syncs(run: Run, action: Action) -> None:
    run.nodes[action.where].host.storage.fail_syncs(action.args.get("times", 1))


def _fail_commits(run: Run, action: Action) -> None:
    run.nodes[action.where].host.storage.fail_commits(action.args.get("times", 1))


def _skew(run: Run, action: Action) -> None:
    run.nodes[action.where].host.skew(action.args["seconds"])


def _link(run: Run, action: Action) -> None:
    args = dict(action.args)
    run.world.network.link(action.where, args.pop("to"), **args)


def _usual(run: Run, action: Action) -> None:
    run.world.network.usual(action.where, action.args["to"])


def _block(run: Run, action: Action) -> None:
    args = action.args
    run.world.network.block(action.where, args["to"], both=args.get("both", True))


def _partition(run: Run, action: Action) -> None:
    run.world.network.partition([{*group} for group in action.args["groups"]])


def _silence(run: Run, action: Action) -> None:
    run.world.network.silence(action.where)


def _reset(run: Run, action: Action) -> None:
    run.world.network.reset(action.where, action.args["to"])


def _heal(run: Run, action: Action) -> None:
    run.world.network.heal()


#: Everything that an action can be.  C{call} takes C{method}, C{target}, C{body}; C{about}: the
#: member whose key and address stand for C{{key}} and C{{address}} in the others; C{then}: what
#: is done to the node at the moment when the answer is heard, such as C{crash}; and C{again}:
#: seconds after which the call is made again, as long as it is not answered, or with an error
#: of the node's own.  C{swap} takes the C{salt} of an item of the node in the hash table, and
#: the C{text} with which it is to be replaced as it is found.  C{put} stores a C{file} of a
#: C{size} in a C{scheme} at storage peers, C{fetch} gets it back, and C{drop} has it removed, at
#: the door of whoever put it; C{watch} gives a node the right to repair a C{file} of somebody
#: else's; C{rot} changes a bit in all shares that a node keeps, C{at} so much of each, from 0 to
#: 1, and C{lose} takes the power from it, and all of them.
ACTIONS: Final[dict[str, Do]] = {
    # What people and programs do.
    "call": _call,
    "swap": _swap,
    "put": _put,
    "fetch": _fetch,
    "drop": _drop,
    "watch": _watch,
    "start": _start,
    "stop": _stop,
    # What goes wrong, and ends again.
    "crash": _crash,
    "kill": _kill,
    "power": _power,
    "rot": _rot,
    "lose": _lose,
    "fill": _fill,
    "free": _free,
    "fail-syncs": _fail_syncs,
    "fail-commits": _fail_commits,
    "mend": _mend,
    "skew": _skew,
    "link": _link,
    "usual": _usual,
    "block": _block,
    "partition": _partition,
    "silence": _silence,
    "reset": _reset,
    "heal": _heal,
}


def perform(run: Run, action: Action) -> None:
    """Do it, now.  It is one of a plan that L{check_plan} has nothing against."""
    run.world.trace.event("action", action.where, kind=action.kind, args=action.args)
    ACTIONS[action.kind](run, action)


# --- what a plan may say

_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """What most kinds take besides a member."""


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    method: str
    target: str
    body: dict[str, Any] | None = None
    about: str | None = None
    then: str | None = None
    again: _Positive | None = None


class _Swap(msgspec.Struct, forbid_unknown_fields=True):
    salt: Annotated[str, msgspec.Meta(max_length=64)]
    text: str


class _PutFile(msgspec.Struct, forbid_unknown_fields=True):
    file: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]{1,64}$")]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_PUT)]
    scheme: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}\+[0-9]{1,3}$")]


class _NamesFile(msgspec.Struct, forbid_unknown_fields=True):
    file: str


class _Rot(msgspec.Struct, forbid_unknown_fields=True):
    at: Annotated[float, msgspec.Meta(ge=0, lt=1)]


class _Power(msgspec.Struct, forbid_unknown_fields=True):
    after: Annotated[int, msgspec.Meta(ge=0)]
    of: Literal["databases", "files"] = "databases"


class _Times(msgspec.Struct, forbid_unknown_fields=True):
    times: _Count = 1


class _Skew(msgspec.Struct, forbid_unknown_fields=True):
    seconds: float


class _To(msgspec.Struct, forbid_unknown_fields=True):
    to: str


class _Block(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    both: bool = True


class _Link(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    latency: _NotNegative | None = None
    jitter: _NotNegative | None = None
    bandwidth: _Positive | None = None
    loss: _Chance | None = None
    duplicates: _Chance | None = None
    both: bool = True


class _Groups(msgspec.Struct, forbid_unknown_fields=True):
    groups: list[list[str]]


#: What kinds take that take something.
_ARGS: Final[dict[str, type[msgspec.Struct]]] = {
    "call": _Call,
    "swap": _Swap,
    "put": _PutFile,
    "fetch": _NamesFile,
    "drop": _NamesFile,
    "watch": _NamesFile,
    "rot": _Rot,
    "power": _Power,
    "fail-syncs": _Times,
    "fail-commits": _Times,
    "skew": _Skew,
    "link": _Link,
    "usual": _To,
    "block": _Block,
    "reset": _To,
    "partition": _Groups,
}
#: Kinds that are done to nobody in particular.
_TO_NOBODY: Final = frozenset({"partition", "heal"})
#: Kinds that can be done to those who lie as well: they have no door and no disk.
_TO_ANYBODY: Final = frozenset({"start", "stop", "link", "usual", "block", "silence", "reset"})


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_plan(plan: Plan) -> None:
    """
    See that a plan names nobody who is not there, and that each of its actions can be done.
    What is wrong with a plan must not look as if it were wrong with the nodes.

    @raise ValueError: if not; says where, and why.
    """
    liars = {each.name: bool(each.liar) for each in plan.members}
    for member in plan.members:
        if not _NAME.fullmatch(member.name):
            raise ValueError(f"{member.name!r} is no name for a member: take letters and digits")
        if member.program and member.program not in PROGRAMS:
            known = ", ".join(sorted(PROGRAMS))
            raise ValueError(
                f"{member.name} runs {member.program!r}, and there is no such program: it is one "
                f"of {known}"
            )
        for name in KEY.findall(member.config):
            if name not in liars:
                raise ValueError(f"{member.name} is set to the key of {name!r}, who is no member")
        for name in ADDRESS.findall(member.config):
            if name not in liars:
                raise ValueError(
                    f"{member.name} is set to the address of {name!r}, who is no member"
                )
        if member.behind and member.behind not in plan.boxes:
            raise ValueError(f"{member.name} is behind {member.behind!r}, which is no box")
    end = plan.seconds + plan.settle
    if not (0 <= plan.seconds <= MAX_SECONDS and 0 <= plan.settle <= MAX_SECONDS):
        raise ValueError(f"seconds, and those to settle, are from 0 to {MAX_SECONDS:,}")
    for action in plan.actions:
        try:
            _check(action, liars)
            if not 0 <= action.at <= nanoseconds(end):
                raise ValueError(f"the plan goes from 0 to {end:g} s")
        except (ValueError, msgspec.ValidationError) as e:
            raise ValueError(f"{action.kind!r} at {action.at / SECOND:g} s: {e}") from None


def _check(action: Action, liars: dict[str, bool]) -> None:
    """
    @param liars: members of the plan; do they lie?
    @raise msgspec.ValidationError: if it has not the arguments that it takes.
    """
    kind, where, args = action.kind, action.where, action.args
    if kind not in ACTIONS:
        known = ", ".join(sorted(ACTIONS))
        raise ValueError(f"there is no action {kind!r}: it is one of {known}")
    if kind not in _TO_NOBODY:
        if where not in liars:
            raise ValueError(f"it is done to a member of the plan, and not to {where!r}")
        if liars[where] and kind not in _TO_ANYBODY:
            raise ValueError(f"it is done to honest nodes, and {where} lies")
    msgspec.convert(args, _ARGS.get(kind, _Nothing))
    named = [args.get("to"), args.get("about"), *sum(map(list, args.get("groups", ())), [])]
    for name in named:
        if name is not None and name not in liars:
            raise ValueError(f"{name!r} is no member of the plan")
    if args.get("then") is not None:
        _check(Action(0, args["then"], where), liars)
