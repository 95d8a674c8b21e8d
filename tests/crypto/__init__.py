"""Tests of L{meshkit.crypto}."""
