"""
Objects that are kept by strangers: sealed, cut into shares of which some suffice, and
placed.
"""
