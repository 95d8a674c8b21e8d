"""
Messages for somebody who is not there, kept at a relay (protocol/mailbox.md).

C{prekeys}, C{sealing}, C{receipts}, C{wire} and C{schema} are pure.  C{store} and C{serving}
are the relay's side, C{delivering} is the sender's, C{inbox} and C{collecting} are the
recipient's; none of them needs a node.
"""
