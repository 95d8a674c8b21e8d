"""Tests of L{meshkit.kademlia}."""
