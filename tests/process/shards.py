"""
Processes that keep shards, for the tests beside this.

C{keep} commits one after the other, gives each another note, removes every third one, and
says of each step that it is done.  C{fill} does the same until the disk is full, and then looks
whether all is as it should be.
"""

from __future__ import annotations

import errno
import sys
from hashlib import sha256
from typing import Final

from meshkit.storage.shards.files import FileShardStore
from meshkit.testing.shards import shard_end

#: Of a shard.
BLOCKS: Final = 3
BLOCK: Final = 50_000
KEPT: Final = 1_000


def name_of(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def shard_of(number: int) -> bytes:
    """@return: all bytes of a shard."""
    name = name_of(number)
    blocks = b"".join((name * BLOCK)[:BLOCK] for _ in range(BLOCKS))
    return blocks + name[::-1] * KEPT + shard_end(number % 256)


def keep(folder: str, first: int, count: int) -> None:
    store = FileShardStore(folder)
    store.open()
    for number in range(first, first + count):
        name, whole = name_of(number), shard_of(number)
        writer = store.begin(name)
        for block in range(BLOCKS):
            writer.append(memoryview(whole)[block * BLOCK : (block + 1) * BLOCK])
        end = len(shard_end())
        writer.keep(whole[BLOCKS * BLOCK : -end])
        writer.commit(whole[-end:], b"first %d" % number)
        print(f"committed {number}", flush=True)
        store.set_note(name, b"second %d" % number)
        print(f"noted {number}", flush=True)
        if number % 3 == 0:
            store.remove(name)
            print(f"removed {number}", flush=True)
    store.close()


def fill(folder: str) -> None:
    try:
        keep(folder, 1, 1_000_000)
    except OSError as e:
        print(f"refused with {errno.errorcode[e.errno]}: {e.filename}")
    store = FileShardStore(folder)
    found = {shard.name: shard for shard in store.open()}
    wanted = [number for number in range(1, 2 * len(found)) if number % 3][: len(found)]
    for number in wanted:
        if store.read(name_of(number), 0, found[name_of(number)].size) != shard_of(number):
            raise AssertionError(f"shard {number} is another one")
    # There is room again when something goes.
    store.remove(name_of(1))
    writer = store.begin(name_of(0))
    writer.append(shard_of(0))
    writer.commit(b"", b"note")
    print(f"kept {len(found)}")


if __name__ == "__main__":
    verb, folder, *numbers = sys.argv[1:]
    {"keep": keep, "fill": fill}[verb](folder, *map(int, numbers))
