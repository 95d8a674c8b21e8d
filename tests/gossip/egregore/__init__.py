"""Tests of L{meshkit.gossip.egregore}."""
