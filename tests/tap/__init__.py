"""Tests of L{meshkit.tap} that need no process of their own."""
