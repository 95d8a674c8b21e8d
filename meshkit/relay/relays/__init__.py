"""The relays that a node uses, and how their protocols are reached."""
