"""
A notice board that hangs nowhere: whoever comes finds what others have written.

Make three members of one network; the first command prints its secret::

    meshkit -d ada init
    meshkit -d bob init --network-key mknet1-...
    meshkit -d eve init --network-key mknet1-...

Then, each in a terminal of its own.  The first one's address is enough for all others::

    python examples/notice_board.py ada birds "a grey heron at the weir"
    python examples/notice_board.py bob birds "two egrets" net:127.0.0.1:...~shs:...
    python examples/notice_board.py eve birds "" net:127.0.0.1:...~shs:...

Bob sees both notes.  Stop him before eve comes: his note is kept by ada's program, and eve sees
it all the same.  There is no node beside these programs, and no server: it is the hash table of
meshkit alone, in a Twisted program.
"""

import sys
import time
from random import SystemRandom

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react

from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.kademlia.alone import node_on
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import stored_identity, stored_networks
from meshkit.shs import SecureListener


# [board]
async def main(reactor, path, board, note, *others):
    folder, rng = DataFolder(path, LocalFiles()), SystemRandom()
    identity, network = stored_identity(folder), stored_networks(folder)[0].key()

    listener = SecureListener(reactor, identity, rng)
    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(listener)
    here = HostPort(port.getHost().host, port.getHost().port)

    node = node_on(
        *(reactor, listener, identity, network),
        rng=rng,
        wall_clock=time.time_ns,
        addresses=lambda: [here],
    )
    reactor.addSystemEventTrigger("before", "shutdown", node.stop)
    await node.start()
    await node.bootstrap(map(MeshAddress.parse, others))
    print(MeshAddress(here.host, here.port, identity.public).text, flush=True)

    if note:
        placed = await node.put("topic", board.encode(), note.encode())
        print(f"kept by {placed.accepted} of {placed.asked}", flush=True)
    for record in await node.get("topic", board.encode()):
        # It is verified who wrote it, and nothing else: ascii() keeps it from the terminal.
        print(record.owner.short, ascii(record.value.decode("utf-8", "replace")), flush=True)
    await Deferred()  # until control-C
    # [board-end]


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(f"usage: {sys.argv[0]} DATA_FOLDER BOARD NOTE [ADDRESS ...]")
    react(main, sys.argv[1:])
