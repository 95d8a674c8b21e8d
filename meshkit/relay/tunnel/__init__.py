"""
Tunnels: how a peer that nobody can dial is reached through a relay (docs/protocol/tunnel.md).
"""
