"""
Mistakes of the kind that a maintainer makes, as patches to the code that is shipped,
and what finds each of them: the runs of L{meshkit.sim.scenarios}.
"""
