"""
What a run that fails in a test says: how it is made again, and what of it is needed.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.running import Outcome, Scenario, reduce, run
from meshkit.sim.schedule import encode_plan

#: How often a run that failed is played again, to make it smaller.
PLAYS = 60


def check(case: SynchronousTestCase, scenario: Scenario, seed: int, nodes: int) -> Outcome:
    """
    Run a scenario.

    @raise AssertionError: if something was not as it must be: with the command that plays it
        again, and the smallest part of its plan that fails in the same way.
    """
    outcome = run(scenario, seed, nodes=nodes)
    if outcome.violations:
        logged = case.flushLoggedErrors()
        found = "\n".join(
            f"  {each.invariant}, at {each.at_ns / 10**9:.3f} s, {each.node}: {each.text}"
            for each in outcome.violations[:10]
        )
        smaller = reduce(outcome, scenario, budget=PLAYS)
        case.flushLoggedErrors()
        case.fail(
            f"{scenario.name} has failed with seed {seed}; {len(logged)} errors were logged:\n"
            f"{found}\n"
            f"Play it again:  meshkit simulate {scenario.name} --nodes {nodes} --seed {seed}\n"
            f"After {smaller.plays} plays this is left of it:\n"
            f"{encode_plan(smaller.plan).decode()}"
        )
    # The run has heard all that was logged.  What it does not count, as coroutines of a process
    # that was killed had met while they were collected, is not held against the test either.
    case.flushLoggedErrors(RuntimeError)
    return outcome
