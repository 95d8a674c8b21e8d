"""The HTTP door of a relay, for whoever comes and for its peers."""
