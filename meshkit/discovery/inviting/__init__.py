"""
Inviting: how a node gives out its network's secret to those who were invited.

C{issued} knows the invites that were made here and counts their uses, C{redeeming} is the
protocol on both sides, and C{part} puts it into a node.  What an invite is stands in
L{meshkit.discovery.invites}.
"""
