"""Tests of L{meshkit.web}."""
