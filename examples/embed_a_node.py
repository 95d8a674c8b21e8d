"""
An application with a node inside: which machines of the mesh are busy?

Each machine runs this program.  It publishes its own load in its feed, and prints that of
all others as their messages arrive, however far away they are::

    meshkit -d ada init
    python examples/embed_a_node.py ada

    meshkit -d bob init --network-key mknet1-...
    MESHKIT_PEERS=net:...~shs:... python examples/embed_a_node.py bob

There is no second process: the node is a service of this one, with its mesh port, its
local door and its database.  The application is a I{part} of it, as gossip and the feeds
are.  It says what it requires, and is started when that is there.
"""

import json
import os
import sys
import time
from random import SystemRandom
from typing import Annotated

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react
from twisted.logger import Logger
from zope.interface import implementer

import meshkit_plugins
from meshkit.errors import MeshkitError, StartError
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore, IMeshProtocol, MessagesStored
from meshkit.parts import Part
from meshkit.runtime.config import Declaration, config_file
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.registry import compose, discover_parts
from meshkit.services.config import NodeConfig
from meshkit.services.node import NodeService, all_sections
from meshkit.services.programs import MESH_NODE

TYPE = "org.example.load"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set by C{[load] every = 5} in the node's meshkit.toml, or C{MESHKIT_LOAD_EVERY}."""

    every: Annotated[
        float, msgspec.Meta(ge=0.1, le=86_400, description="seconds between two messages")
    ] = 60.0


# [part]
class Load(Part):
    """The application."""

    log = Logger()

    def __init__(self, context):
        self.store = context.find(IFeedStore)
        self.events = context.events
        self.every = context.config.every
        self.publishing = LoopingCall(self.publish)
        self.publishing.clock = context.reactor

    def startService(self):
        super().startService()
        self.unsubscribe = self.events.subscribe(MessagesStored, self.stored)
        self.publishing.start(self.every)

    def stopService(self):
        super().stopService()
        self.unsubscribe()
        self.publishing.stop()

    def publish(self):
        published = self.store.publish({"type": TYPE, "load": os.getloadavg()[0]})
        # A disk that is full for a while must not end the loop.
        return published.addErrback(self.failed)

    def stored(self, event):
        showing = Deferred.fromCoroutine(self.show(event.author, event.contiguous))
        showing.addErrback(self.failed)

    async def show(self, author, newest):
        for text in await self.store.read(author, newest - 1, 65_536, 1):
            content = json.loads(text)["content"]
            # Others may write what they like; it is theirs, and signed, and that is all.
            if isinstance(content, dict) and content.get("type") == TYPE:
                print(PublicKey(author).short, ascii(content.get("load")), flush=True)

    def failed(self, failure):
        failure.trap(MeshkitError)
        self.log.warn("{error}", error=failure.value)
        # [part-end]


@implementer(IMeshProtocol)
class LoadMaker:
    """What C{meshkit_plugins} would hold, if the part were for every node."""

    name = "load"
    provides = ()
    requires = (IFeedStore,)
    wants = ()

    def config_type(self):
        return Config

    def migrations(self):
        return ()

    def create(self, context):
        return Load(context)


# [node]
def make_node(reactor, path, on_failure):
    files = LocalFiles()
    makers = [*MESH_NODE.parts_of(discover_parts(meshkit_plugins)), LoadMaker()]
    settings = Declaration(NodeConfig, all_sections(makers)).resolve(
        {}, os.environ, config_file(None, path, files)
    )
    return NodeService(
        reactor,
        DataFolder(path, files),
        settings,
        compose(makers, settings.root.disable, settings.root.compat),
        rng=SystemRandom(),
        wall_clock=time.time_ns,
        files=files,
        pid=os.getpid,
        on_failure=on_failure,
    )


async def main(reactor, path):
    failed = Deferred()
    try:
        node = make_node(reactor, os.path.abspath(path), failed.errback)
        node.startService()
        reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
        await failed  # it runs until control-C, unless a part cannot be started
    except StartError as error:
        sys.exit(f"{error} [{error.code}]")
    # [node-end]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DATA_FOLDER")
    react(main, sys.argv[1:])
