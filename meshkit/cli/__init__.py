"""
The C{meshkit} command: what people and scripts type.

C{main} holds the tree of verbs and imports nothing heavy; each verb lives in a module
of its own that is imported when it is used.  Verbs only ask the node and format its
answers.
"""
