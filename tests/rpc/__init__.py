"""Calls between peers."""
