"""
What drop-ins in C{twisted/plugins} declare, without importing what it stands for.

Every C{twistd} of a machine imports every drop-in, whatever it runs.  So a drop-in
names a module, which is imported when somebody uses it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(
    IPlugin, IStreamServerEndpointStringParser, IStreamClientEndpointStringParserWithReactor
)
@frozen
class EndpointStrings:
    """
    Client and server endpoint strings of one prefix.

    @ivar prefix: what the strings begin with.
    @ivar module: dotted name of the module with C{server(reactor, *args, **keywords)} and
        C{client(reactor, *args, **keywords)}, which raise L{ValueError} for what they do
        not take.
    """

    prefix: str
    module: str

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamServerEndpoint:
        endpoint: IStreamServerEndpoint = import_module(self.module).server(
            reactor, *args, **kwargs
        )
        return endpoint

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = import_module(self.module).client(
            reactor, *args, **kwargs
        )
        return endpoint
