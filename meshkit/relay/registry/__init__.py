"""
Who is known at a member relay.

A peer registers with a statement that it signs (L{meshkit.relay.registry.registration}), and is
known until it says otherwise or has not come for long.  What it gains: its feed is kept for
others while it is away, and it may read at the relay's own HTTP door.
"""
