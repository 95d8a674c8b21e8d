"""Tests of L{meshkit.storage.shards}."""
