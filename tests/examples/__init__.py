"""Tests of L{meshkit.feed}."""
