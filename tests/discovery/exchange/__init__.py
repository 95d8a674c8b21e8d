"""Tests of L{meshkit.discovery.exchange}."""
