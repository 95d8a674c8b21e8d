"""Tests of L{meshkit.services}."""
