"""
Years of storage, without sockets: peers come and go, lie and are audited, objects are repaired
or lost.

Losses are rare, if storage is any good: nobody can wait for them at the rates of real peers.  So
they are counted where they do occur (L{meshkit.sim.durability.simulation}), beside what a model
says of the same setting (L{meshkit.sim.durability.model}); and it is the model alone that says
what is to be expected where they do not.
"""
