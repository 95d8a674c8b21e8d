"""Measures what the daemons do, and what this machine could do at most: C{make bench}."""
