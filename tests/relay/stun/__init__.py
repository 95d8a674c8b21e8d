"""Tests of L{meshkit.relay.stun}."""
