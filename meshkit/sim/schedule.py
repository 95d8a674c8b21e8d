"""
What is to happen in a world, as data.

A L{Plan} says who is there and what happens when: everything that people and programs do to
nodes, and everything that goes wrong.  Played from one seed it is one run.  As it is data, it
can be kept in a file, sent to others, and made smaller until only what matters is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from meshkit.sim.clock import SECOND, nanoseconds

__all__ = [
    "ADDRESS",
    "KEY",
    "MAX_PLAN",
    "MAX_SECONDS",
    "Action",
    "Member",
    "Plan",
    "decode_plan",
    "describe",
    "encode_plan",
]

#: Bytes of a plan that is read from a file.
MAX_PLAN: Final = 64 * 1024 * 1024
#: Seconds of a plan, and likewise of its end: some years.
MAX_SECONDS: Final = 100_000_000
#: What stands for the public key of a member in the configuration of another one.
KEY: Final = re.compile(r"\{key:([^}]*)\}")
#: And of its address.
ADDRESS: Final = re.compile(r"\{address:([^}]*)\}")


class Action(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """
    Something that is done at a moment.

    @ivar at: nanoseconds after the members that are there from the beginning are ready.
    @ivar kind: what; see L{meshkit.sim.actions.ACTIONS}.
    @ivar where: name of the member to which it is done, if to one.
    @ivar args: what else that kind takes.
    """

    at: int
    kind: str
    where: str = ""
    args: dict[str, Any] = {}

    @classmethod
    def after(cls, seconds: float, kind: str, where: str = "", /, **args: Any) -> Action:
        """@return: one that is so many seconds away."""
        return cls(nanoseconds(seconds), kind, where, args)


class Member(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """
    A node of a plan, or somebody who pretends to be one.

    @ivar name: unique in the plan; up to 64 letters, digits, C{.}, C{_} and C{-}, as a folder
        is called like that.
    @ivar peers: names of those whose address it is given.
    @ivar config: more of its C{meshkit.toml}, after the addresses; in it C{{key:NAME}} stands
        for the public key of another member, and C{{address:NAME}} for where others dial it.
    @ivar liar: how it lies, see L{meshkit.sim.liars}; an honest node, if empty.
    @ivar program: the daemon that it is, as an argument of C{twistd}; C{mesh-node}, if empty.
    @ivar late: it is not there from the beginning, but from its first C{start} on.
    @ivar behind: name of a box for address translation that it is behind.
    """

    name: str
    peers: tuple[str, ...] = ()
    config: str = ""
    liar: str = ""
    program: str = ""
    late: bool = False
    behind: str = ""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """
    A run before it is played.

    @ivar scenario: name of what it was drawn by.
    @ivar seed: of the world.
    @ivar seconds: after which all is mended.
    @ivar settle: seconds after that in which honest nodes have to agree.  What an action
        breaks meanwhile is not mended any more.
    @ivar network: arguments of L{meshkit.sim.network.SimNetwork}: C{latency}, C{jitter},
        C{bandwidth}, C{loss}, C{cuts}.
    @ivar disk: where databases are: in memory, modelled by transaction; or in real files,
        which a crash cuts at a byte.
    @ivar boxes: kind of each box for address translation, by name.
    @ivar members: in the order in which they are made and started.
    @ivar actions: in any order; of two at one moment the first is done first.
    """

    scenario: str
    seed: int
    seconds: float
    settle: float
    network: dict[str, float] = {}
    disk: Literal["memory", "files"] = "memory"
    boxes: dict[str, str] = {}
    members: tuple[Member, ...] = ()
    actions: tuple[Action, ...] = ()

    def with_actions(self, actions: Iterable[Action]) -> Plan:
        """@return: the same with other actions, as they come."""
        return msgspec.structs.replace(self, actions=tuple(actions))

    @property
    def honest(self) -> tuple[Member, ...]:
        """Those that do not lie."""
        return tuple(each for each in self.members if not each.liar)


_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder(Plan).decode


def encode_plan(plan: Plan) -> bytes:
    """@return: as JSON that people can read and edit."""
    return msgspec.json.format(_encode(plan), indent=1) + b"\n"


def describe(plan: Plan) -> list[str]:
    """@return: who is there and what happens, a line for each, in words."""
    told = []
    for member in plan.members:
        traits = [f"lies: {member.liar}"] if member.liar else []
        traits += [f"runs {member.program}"] if member.program else []
        traits += ["comes later"] if member.late else []
        traits += [f"behind {member.behind}"] if member.behind else []
        traits += [f"knows {', '.join(member.peers)}"] if member.peers else []
        traits += [f"set to {' '.join(member.config.split())}"] if member.config else []
        told.append(": ".join([member.name, *(["; ".join(traits)] if traits else [])]))
    for action in sorted(plan.actions, key=lambda each: each.at):
        args = dict(action.args)
        words = [action.kind, action.where]
        if action.kind == "call":
            words = [action.where, str(args.pop("method", "")), str(args.pop("target", ""))]
        words += [f"{name}={_encode(value).decode()}" for name, value in args.items()]
        told.append(f"{action.at / SECOND:.3f} s: " + " ".join(word for word in words if word))
    return told


def decode_plan(text: bytes) -> Plan:
    """
    @param text: as L{encode_plan} gave it.
    @raise ValueError: if it is none; says where.
    """
    if len(text) > MAX_PLAN:
        raise ValueError(f"a plan has at most {MAX_PLAN} bytes")
    try:
        plan = _decode(text)
    except (msgspec.DecodeError, RecursionError) as e:
        raise ValueError(f"this is no plan: {e}") from None
    names = [each.name for each in plan.members]
    if len({*names}) != len(names):
        raise ValueError("two members of the plan have one name")
    for member in plan.members:
        for other in member.peers:
            if other not in names:
                raise ValueError(f"{member.name} has a peer {other}, who is no member of the plan")
    for action in plan.actions:
        if action.where and action.where not in names:
            raise ValueError(f"{action.kind} of {action.where}, who is no member of the plan")
    return plan
