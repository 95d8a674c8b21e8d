"""
Whole nodes in one process, under virtual time, with faults, from a seed.
"""
