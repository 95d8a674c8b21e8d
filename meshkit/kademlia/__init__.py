"""
The distributed hash table: finding peers, and what they keep, in a network of any size.

C{distance}, C{blocks}, C{contacts}, C{routing}, C{estimate} and C{lookup} are pure: they
hold what a node knows of others and decide whom to ask; C{records}, C{kinds}, C{holdings} and
C{publications} likewise what is kept.  C{connections}, C{protocol}, C{search} and C{upkeep} do
what they say, and C{node} is all of it, for any Twisted application.  The protocol, its
numbers and the reasons for them are in C{docs/protocol/kademlia.md}.
"""
