"""
Shares that were lost, made anew and sent while they are made.

::

    good shares --Sources--> pieces --Rebuilder, in a worker--> blocks --Delivery--> new peers

A bounded number of segments is under way: asked for, or made and not sent by the slowest
peer.  Blocks leave as soon as they are made, as nothing comes of them before the share is
closed; and that is asked for only when the whole of it was made and has the root that the
manifest says.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshkit.audit.delivery import Delivery
from meshkit.audit.repairing import RepairTools
from meshkit.audit.sources import Sources
from meshkit.errors import ObjectDamaged
from meshkit.runtime.waiting import Signal
from meshkit.storage.encoding import Rebuilder
from meshkit.storage.manifest import Manifest

__all__ = ["close_all", "rebuild"]


async def rebuild(
    tools: RepairTools,
    manifest: Manifest,
    sources: Sources,
    deliveries: Sequence[Delivery],
    changed: Signal,
) -> None:
    """
    Make these shares and have them kept.  Afterwards each delivery is C{kept} or C{out}.

    @param deliveries: are C{open}.
    @param changed: is set by them.
    @raise NotEnoughShares: if they cannot be made.
    """
    sources.check()
    segments = manifest.layout.segments
    window = tools.config.segments(manifest.header.scheme, len(deliveries))
    rebuilder = Rebuilder(manifest, tools.codec, [each.number for each in deliveries])
    try:
        for number in range(segments):
            while True:
                behind = [each.left for each in deliveries if each.state == "open"]
                if not behind:
                    sources.leave()
                    return
                ahead = window - max(behind)
                for coming in range(number, min(number + ahead, segments)):
                    sources.begin(coming)
                if ahead > 0:
                    break
                await changed.wait()
            found = await sources.make(number, rebuilder.rebuild)
            for delivery, block in zip(deliveries, found.blocks, strict=True):
                delivery.send(number, block)
            del found, delivery, block
    except GeneratorExit:
        # All of it is thrown away together, and in what order nobody knows.
        raise
    except BaseException:
        sources.leave()
        raise
    try:
        await tools.workers.run(rebuilder.finish)
    except ObjectDamaged as e:
        for delivery in deliveries:
            if delivery.number in e.wrong:
                delivery.drop(str(e))
    await close_all(deliveries, changed)


async def close_all(deliveries: Sequence[Delivery], changed: Signal) -> None:
    """
    Have shares kept that were sent wholly, and are right.

    @param deliveries: those that are C{open} are C{kept} or C{out} afterwards.
    """
    for each in deliveries:
        if each.state == "open":
            each.finish()
    while any(each.state == "open" for each in deliveries):
        await changed.wait()
