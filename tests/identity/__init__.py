"""Tests of L{meshkit.identity}."""
