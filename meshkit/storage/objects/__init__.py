"""
Objects of a node: what it has given to storage peers to keep, and how it gets that back.
"""
