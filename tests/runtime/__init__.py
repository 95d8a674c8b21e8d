"""Tests of L{meshkit.runtime}."""
