"""Signed feeds: the message format, the chain rules, the store, and the part of a node."""
