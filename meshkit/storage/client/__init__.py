"""
The side of who has something stored: puts, gets, checks, renews and deletes objects at any
L{meshkit.interfaces.IStoragePeer}s.
"""
