"""Tests of L{meshkit.hooks}."""
