"""C{relay:} endpoint strings, for clients."""

from meshkit.dropins import EndpointStrings

relayEndpoint = EndpointStrings("relay", "meshkit.relay.tunnel.strings")
