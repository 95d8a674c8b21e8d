"""
What of a plan is needed for it to fail: delta debugging.

First the actions are made fewer, by Zeller's and Hildebrandt's algorithm (I{Simplifying and
Isolating Failure-Inducing Input}, 2002): halves of them are left out, then quarters, and so on
down to each single one.  Then the members, each with all that names it; and what has become
superfluous by that.

Pure: whether a plan fails is asked of a function, and how often is limited, as each answer may
take a second or a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, field, frozen
from msgspec.structs import replace

from meshkit.sim.schedule import KEY, Action, Plan

__all__ = ["BUDGET", "Minimised", "minimise", "without"]

#: How often a plan is played to make it smaller, unless told otherwise.
BUDGET: Final = 150


@frozen
class Minimised:
    """
    A plan that was made smaller.

    @ivar plan: it fails as well.
    @ivar plays: how often it took to play one.
    @ivar complete: nothing can be left out of it, one by one; otherwise the budget was used up.
    """

    plan: Plan
    plays: int
    complete: bool


class _Over(Exception):
    """The budget is used up."""


@define
class _Search:
    """
    @ivar actions: places of those that are needed as far as is known.
    @ivar members: names of those.
    """

    plan: Plan
    fails: Callable[[Plan], bool]
    budget: int
    actions: tuple[int, ...]
    members: tuple[str, ...]
    plays: int = 0
    _known: dict[tuple[tuple[int, ...], tuple[str, ...]], bool] = field(factory=dict)

    def build(self, actions: Sequence[int], members: Sequence[str]) -> Plan:
        """@return: the plan with no more than these."""
        some = self.plan.with_actions(self.plan.actions[at] for at in actions)
        for member in self.plan.members:
            if member.name not in members:
                some = without(some, member.name)
        return some

    def tries(self, actions: Sequence[int], members: Sequence[str]) -> bool:
        """
        @return: is that enough?  If so, no more is needed from now on.
        @raise _Over: if nothing may be played any more.
        """
        key = (tuple(actions), tuple(members))
        known = self._known.get(key)
        if known is None:
            if self.plays >= self.budget:
                raise _Over
            self.plays += 1
            known = self._known[key] = self.fails(self.build(*key))
        if known:
            self.actions, self.members = key
        return known

    def fewer_actions(self) -> None:
        if self.tries((), self.members):
            return
        parts = 2
        while self.actions:
            count = len(self.actions)
            parts = min(parts, count)
            for number in range(parts):
                first, last = count * number // parts, count * (number + 1) // parts
                if self.tries(self.actions[:first] + self.actions[last:], self.members):
                    parts = max(2, parts - 1)
                    break
            else:
                if parts == count:
                    return
                parts *= 2

    def fewer_members(self) -> None:
        for name in reversed(self.members):
            left = tuple(each for each in self.members if each != name)
            if left:
                needed = [at for at in self.actions if not _names(self.plan.actions[at], name)]
                self.tries(needed, left)


def minimise(plan: Plan, fails: Callable[[Plan], bool], *, budget: int = BUDGET) -> Minimised:
    """
    Make a plan that fails smaller.

    @param plan: it is not asked whether it fails.
    @param fails: does a plan fail, in the way that matters?
    @param budget: how often that is asked at most.
    @return: a plan of some of its actions and members, in the same order, that fails.
    """
    members = tuple(member.name for member in plan.members)
    search = _Search(plan, fails, budget, tuple(range(len(plan.actions))), members)
    complete = False
    try:
        while not complete:
            before = (search.actions, search.members)
            search.fewer_actions()
            search.fewer_members()
            complete = (search.actions, search.members) == before
    except _Over:
        pass
    return Minimised(search.build(search.actions, search.members), search.plays, complete)


def without(plan: Plan, name: str) -> Plan:
    """
    @return: the plan without one of its members, and without all that is done to it or with
        it, and the lines of configuration in which its key is; where it is one of several
        peers, addresses or of a group, the others stay.
    """
    members = tuple(
        replace(
            each,
            peers=tuple(peer for peer in each.peers if peer != name),
            config="".join(
                _less(line, f'"{{address:{name}}}"')
                for line in each.config.splitlines(keepends=True)
                if name not in KEY.findall(line)
            ),
        )
        for each in plan.members
        if each.name != name
    )
    actions = [_unnamed(each, name) for each in plan.actions if not _names(each, name)]
    return replace(plan, members=members, actions=tuple(actions))


def _less(line: str, item: str) -> str:
    """@return: a line without one item of its list."""
    return line.replace(f"{item}, ", "").replace(f", {item}", "").replace(item, "")


def _names(action: Action, name: str) -> bool:
    """Is it done to a member, or with it?"""
    return name in (action.where, action.args.get("to"), action.args.get("about"))


def _unnamed(action: Action, name: str) -> Action:
    groups = action.args.get("groups")
    if groups is None or not any(name in group for group in groups):
        return action
    left = [[each for each in group if each != name] for group in groups]
    return replace(action, args={**action.args, "groups": [group for group in left if group]})
