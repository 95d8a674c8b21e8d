"""Asking the router to pass connections from outside on to this node."""
