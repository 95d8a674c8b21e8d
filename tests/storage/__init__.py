"""Tests of C{meshkit.storage}."""
