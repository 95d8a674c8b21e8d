"""C{shs:} endpoint strings, for clients and servers."""

from meshkit.dropins import EndpointStrings

shsEndpoint = EndpointStrings("shs", "meshkit.shs.strings")
