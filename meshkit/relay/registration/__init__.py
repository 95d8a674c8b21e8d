"""A node's side of its registration at member relays: see L{meshkit.relay.registry}."""
