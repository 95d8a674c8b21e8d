"""
Discovery: how nodes find each other without having been told.

C{beacon} is what a node calls out on its own network, and C{lan} the sockets for it.
"""
