"""
The distributed hash table: finding peers, and what they keep, in a network of any size.

C{distance}, C{blocks}, C{contacts}, C{routing}, C{estimate} and C{lookup} are pure: they
hold what a node knows of others and decide whom to ask.  The protocol, its numbers and
the reasons for them are in C{docs/protocol/kademlia.md}.
"""
