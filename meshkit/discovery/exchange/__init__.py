"""
Keeping in touch: nodes give each other the address records that peers have signed, look at
peers of whom nothing was heard, and find again who has moved.

C{wire}, C{known} and C{health} are pure; C{asking} is one conversation with a peer, C{keeper}
what a node does with all of them, and C{part} the part C{exchange}.
"""
