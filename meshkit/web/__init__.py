"""
The doors through which people and programs reach a node: HTTP, and what is derived
from the operations that its parts declare.

A request passes, in this order::

    limits.LimitedSite      sizes, deadlines, number of connections; admit()
    security.DoorGuard      Host, Origin, bearer token, content type
    rest.RestDoor           route, readiness, fields, the operation's handler
    answers                 {success, data, error, metadata}

What one of them refuses, the next never sees.  C{requests} reads an operation's
request out of text or JSON and knows nothing of HTTP.  What all this looks like from
outside is told by C{schemas} and C{openapi}, from the same declarations.
"""
