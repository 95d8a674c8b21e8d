"""Tests that need only Python and take longer than two seconds."""
