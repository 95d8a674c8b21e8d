"""
A share that is good where it is, and is moved to another peer as its own one leaves.

It is read and sent as it is: one share for one, where to make it anew takes as many as are
required.  Each block is checked against the root of the share before it is sent, so that what
was sent at the end is the share.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from meshkit.audit.delivery import Delivery
from meshkit.audit.rebuilding import close_all
from meshkit.audit.repairing import Account, RepairTools
from meshkit.errors import ObjectDamaged, StoragePeerSilent
from meshkit.runtime.waiting import Signal, ask, problem_of
from meshkit.storage.encoding import Piece, SegmentReader
from meshkit.storage.erasure import measure
from meshkit.storage.manifest import Manifest

__all__ = ["MAX_AHEAD", "copy"]

#: Blocks of one share that are under way at a time: asked for, or not sent.
MAX_AHEAD: Final = 8


async def copy(
    tools: RepairTools,
    account: Account,
    manifest: Manifest,
    source: Any,
    delivery: Delivery,
    changed: Signal,
) -> bool:
    """
    Copy a share and have it kept.

    @param source: L{meshkit.interfaces.IStoragePeer} that has the share.
    @param delivery: is C{open}; afterwards it is C{kept} or C{out}, unless it cannot be read.
    @param changed: is set by it.
    @return: whether it could be read.  If not, the delivery is still C{open}, and what it was
        sent is right.
    """
    number, segments = delivery.number, manifest.layout.segments
    name = manifest.header.share_id(number)
    reader = SegmentReader(manifest, tools.codec)
    asked: deque[Deferred[Piece]] = deque()
    begun = delivery.next_segment
    now, waited, came_bytes = tools.reactor.seconds, 0.0, 0

    def came(piece: Piece) -> Piece:
        account.came(piece)
        return piece

    def begin(segment: int) -> Deferred[Piece]:
        seconds = tools.config.copy_seconds
        call = ask(tools.reactor, seconds, source.read, name, segment)
        return call.addCallback(came)

    try:
        for segment in range(begun, segments):
            while delivery.left >= MAX_AHEAD:
                await changed.wait()
            if delivery.state != "open":
                return True
            while begun < min(segment + MAX_AHEAD - delivery.left, segments):
                asked.append(begin(begun))
                begun += 1
            waiting = now()
            piece = await asked[0]
            asked.popleft()
            waited, came_bytes = waited + now() - waiting, came_bytes + measure(piece.block)
            if tools.config.too_slow(waited, came_bytes):
                raise StoragePeerSilent(
                    f"the storage peer is too slow: it gave {came_bytes} bytes in {waited:.0f} "
                    f"seconds"
                )
            await tools.workers.run(reader.check, segment, number, piece)
            delivery.send(segment, piece.block)
            del piece
    except GeneratorExit:
        # All of it is thrown away together, and in what order nobody knows.
        asked.clear()
        raise
    except CancelledError:
        raise
    except ObjectDamaged as e:
        account.blame(source.key, number, str(e), lied=True)
        return False
    except Exception as e:
        account.blame(source.key, number, problem_of(Failure(e)))
        return False
    finally:
        for call in asked:
            tools.background.add(call)
            call.cancel()
    await close_all([delivery], changed)
    return True
