"""Cryptography that more than one feature uses.  Everything here is pure."""
