"""Tests of L{meshkit.discovery}."""
