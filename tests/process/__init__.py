"""Tests that start other processes."""
