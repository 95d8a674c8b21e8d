"""Tests of L{meshkit.cli}."""
