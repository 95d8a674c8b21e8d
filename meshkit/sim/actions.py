"""
What can be done in a world, by name: see L{meshkit.sim.schedule.Action}.

Each takes the run and its own action.  It is called at a moment of the world's time, so it
begins something and does not wait.  What cannot be done at that moment, as to stop a node
that does not run, is not done: of a plan, any actions may be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from meshkit.errors import MeshkitError
from meshkit.sim.disk import PowerLost
from meshkit.sim.schedule import Action

if TYPE_CHECKING:
    from meshkit.sim.node import NodeCall, SimNode
    from meshkit.sim.running import Run

__all__ = ["ACTIONS", "Do", "perform"]

Do = Callable[["Run", Action], object]


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
#: of the node's own.
ACTIONS: Final[dict[str, Do]] = {
    # What people and programs do.
    "call": _call,
    "start": _start,
    "stop": _stop,
    # What goes wrong, and ends again.
    "crash": _crash,
    "kill": _kill,
    "power": _power,
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
    """
    Do it, now.

    @raise ValueError: if there is no such kind of action.
    """
    do = ACTIONS.get(action.kind)
    if do is None:
        known = ", ".join(sorted(ACTIONS))
        raise ValueError(f"there is no action {action.kind!r}: it is one of {known}")
    run.world.trace.event("action", action.where, kind=action.kind, args=action.args)
    do(run, action)
