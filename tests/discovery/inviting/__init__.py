"""Tests of L{meshkit.discovery.inviting}."""
