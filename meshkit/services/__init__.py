"""
The daemons as services, for applications that embed one and for C{twistd}.

Nothing here knows a feature by name: a node is what its parts make of it.
"""
