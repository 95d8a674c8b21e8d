"""Tests of what is shipped, and of the tools of this repository."""
