"""
Keeping feeds in step: every node tells what it has, asks for what it lacks, and
serves what it is asked for.

C{codec} and C{session} are pure; C{link} is the Twisted protocol; C{part} keeps the
links.  The wire is described in C{docs/protocol/gossip.md}.
"""
