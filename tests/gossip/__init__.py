"""Tests of L{meshkit.gossip}."""
