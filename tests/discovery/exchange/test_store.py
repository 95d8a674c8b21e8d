"""Tests of L{meshkit.discovery.exchange.store}."""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.exchange import store
from meshkit.discovery.exchange.store import MIGRATIONS, Row, load, write

OWN, PEER = b"own", b"peer"


def row(key: bytes, changed: int) -> Row:
    return Row(key, b"record", 3, "", changed, spoke=False)


class Making(SynchronousTestCase):
    """Who makes room."""

    def setUp(self) -> None:
        self.patch(store, "MAX_KNOWN", 3)
        self.connection = sqlite3.connect(":memory:")
        self.addCleanup(self.connection.close)
        for script in MIGRATIONS:
            self.connection.executescript(script)

    def keys(self) -> list[bytes]:
        return [each.key for each in load(self.connection)]

    def test_a_flood_of_new_records_leaves_our_own_and_those_of_peers(self) -> None:
        write(self.connection, [row(OWN, 1), row(PEER, 2)], OWN, {PEER})
        for number in range(10):
            write(self.connection, [row(b"%d" % number, 3 + number)], OWN, {PEER})
        self.assertEqual(self.keys(), [OWN, PEER, b"8", b"9"])
        # Who is not a peer any more makes room as all others do.
        write(self.connection, [row(b"10", 20)], OWN, ())
        self.assertEqual(self.keys(), [OWN, b"8", b"9", b"10"])

    def test_what_is_written_is_read_again(self) -> None:
        rows = [Row(b"a", b"raw", 1, "where", 1, spoke=True), row(b"b", 2)]
        write(self.connection, rows, OWN, ())
        self.assertEqual(load(self.connection), rows)

    def test_of_peers_alone_the_newest_stay_and_our_own(self) -> None:
        peers = [b"%d" % number for number in range(10)]
        rows = [row(OWN, 0), *(row(key, 1 + number) for number, key in enumerate(peers))]
        write(self.connection, rows, OWN, peers)
        self.assertEqual(self.keys(), [OWN, b"7", b"8", b"9"])
