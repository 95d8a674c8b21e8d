"""Tests of C{meshkit.storage.http}."""
