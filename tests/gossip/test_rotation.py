"""Feeds that have ended, and those who follow them."""

from __future__ import annotations

from typing import Any

from meshkit.feed.rotating import rotate
from meshkit.feed.rotation import rotation_content
from meshkit.identity.keys import Identity
from meshkit.runtime.container import MemoryFile
from meshkit.testing.identities import DAY_NS, Author, make_identity
from tests.gossip.support import GossipCase, Place

NEW, STRANGER, BEFORE = map(make_identity, ("new", "stranger", "before"))


class FollowingOn(GossipCase):
    def end(self, author: Author, new: Identity = NEW) -> None:
        last = author.messages[-1]
        author.write(rotation_content(author.identity.public, new, last.sequence, last.hash))

    def followed(self, place: Place) -> list[bytes]:
        return place.gossip.selection.authors()

    def test_who_follows_a_feed_follows_the_one_after_it(self) -> None:
        ada, new = Author("ada"), Author("new")
        ada.write_many(2)
        one, two = self.place("one"), self.place("two")
        two.follow(ada.identity.public)
        self.connect(one, two)
        one.ingest(ada.raws)
        self.run_for(2)
        self.assertEqual(self.followed(two), [ada.key])
        self.end(ada)
        one.ingest([ada.raws[-1], new.write("here").raw])
        self.run_for(5)
        self.assertEqual(self.followed(two), sorted([ada.key, new.key]))
        self.assertEqual(two.heads(), {ada.key: 3, new.key: 1})

    def test_who_follows_others_or_nobody_does_not(self) -> None:
        ada = Author("ada")
        ada.write_many(1)
        self.end(ada)
        one, two = self.place("one"), self.place("two")
        one.follow(STRANGER.public)
        for place in (one, two):
            place.ingest(ada.raws)
        self.run_for(2)
        self.assertEqual(self.followed(one), [STRANGER.public.raw])
        self.assertEqual(self.followed(two), [])
        self.assertTrue(two.gossip.wants(NEW.public.raw))

    def test_what_was_missed_is_made_good_at_the_next_start(self) -> None:
        """And the feed before one's own is kept among those that spread."""
        ada = Author("ada")
        ada.write_many(1)
        self.end(ada)
        backing = MemoryFile(self.id())
        self.addCleanup(backing.close)
        place = self.place("one", backing=backing)
        place.ingest(ada.raws)
        place.follow(STRANGER.public)

        def job(connection: Any) -> Any:
            # As it is when the node ends before anything was made of it.
            connection.execute("INSERT INTO gossip_follows VALUES (?, 1)", (ada.key,))
            return rotate(connection, BEFORE, place.context.identity, DAY_NS)

        place.result(place.context.database.write(job))
        place.stop()
        again = self.place("one", backing=backing)
        expected = {ada.key, NEW.public.raw, STRANGER.public.raw, BEFORE.public.raw}
        self.assertEqual(self.followed(again), sorted(expected))
