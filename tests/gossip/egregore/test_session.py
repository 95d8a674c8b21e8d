"""Tests of L{meshkit.gossip.egregore.session}: what may come when, and how much of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame
from meshkit.gossip.egregore import session as core
from meshkit.gossip.egregore import wire
from meshkit.gossip.egregore.memory import PeerMemory
from meshkit.gossip.egregore.session import (
    FIRST_CREDITS,
    LOT,
    LOW,
    MAX_BEHIND,
    MAX_ODD,
    Action,
    CatchUp,
    Close,
    Compare,
    GoLive,
    Phase,
    Read,
    Send,
    Session,
    Store,
    Survey,
)
from meshkit.gossip.egregore.wire import MAX_GIVEN, MAX_TAKEN, MAX_TOGETHER, MAX_WANT
from meshkit.identity.keys import PublicKey
from meshkit.testing.identities import make_identity

OWN, A, B, C = (make_identity(name).public.raw for name in ("own", "a", "b", "c"))


def text(author: bytes, sequence: int, **fields: Any) -> bytes:
    """What a session looks at of a message; nothing here is verified."""
    message = {"author": PublicKey(author).text, "sequence": sequence, "content": {}, **fields}
    return json.dumps(message, separators=(",", ":")).encode()


class Side:
    """A session with what a link gives it: a store of sequences, and a list of what it said."""

    def __init__(self, client: bool, held: dict[bytes, int] | None = None, **options: Any) -> None:
        self.held = dict(held or {})
        # Author and sequence -> up to where what follows is not kept.
        self.gaps: dict[tuple[bytes, int], int] = {}
        self.tags: dict[tuple[bytes, int], list[str]] = {}
        self.said: list[Any] = []
        self.out: list[bytes] = []
        self.queue: list[Action] = []
        self.live = self.closed = False
        self.catch_ups = 0
        self.stored: list[tuple[bytes, int]] = []
        self.now = options.pop("now", 0.0)
        self.session = Session(
            client=client,
            memory=options.pop("memory", None) or PeerMemory(),
            own=OWN,
            wants=options.pop("wants", lambda author: True),
            refused=options.pop("refused", lambda raw: None),
            may_go_live=options.pop("may_go_live", lambda: True),
            **options,
        )

    def start(self) -> Side:
        self.act(self.session.start())
        return self

    def hear(self, message: Any) -> Side:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.act(self.session.received(data, self.now))
        return self

    def act(self, actions: list[Action]) -> None:
        self.queue += actions
        if len(self.queue) > len(actions):
            return
        while self.queue:
            self.do(self.queue[0])
            del self.queue[0]

    def do(self, action: Action) -> None:
        match action:
            case Send():
                self.out.append(action.data)
                self.said.append(json.loads(action.data))
            case Survey():
                self.act(self.session.surveyed(sorted(self.held.items())))
            case Compare():
                ours = {a: self.held[a] for a in action.authors if a in self.held}
                self.act(self.session.compared(ours, self.now))
            case Read():
                until = self.gaps.get((action.author, action.after))
                if until is None:
                    self.act(self.session.page(action.author, self.read(action)))
                else:
                    self.act(self.session.gone(action.author, until))
            case Store():
                self.store(action.texts)
            case GoLive():
                self.live = True
            case CatchUp():
                self.catch_ups += 1
            case Close():
                self.closed = True

    def read(self, wanted: Read) -> list[bytes]:
        last = min(self.held.get(wanted.author, 0), wanted.after + min(wanted.messages, 50))
        return [
            text(wanted.author, n, tags=self.tags.get((wanted.author, n), []))
            for n in range(wanted.after + 1, last + 1)
        ]

    def store(self, texts: tuple[bytes, ...]) -> None:
        for raw in texts:
            place = wire.place_of(raw)
            assert place is not None
            self.stored.append(place[:2])
            if place[1] == self.held.get(place[0], 0) + 1:
                self.held[place[0]] = place[1]
        self.act(self.session.stored(len(texts)))

    def gain(self, author: bytes, sequence: int) -> None:
        """Something came from elsewhere."""
        self.held[author] = sequence
        self.act(self.session.news(author, sequence))

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.said]

    def pushed(self) -> list[tuple[bytes, int]]:
        return [place_in(m["message"]) for m in self.said if m["type"] == "push"]

    def given(self) -> list[tuple[bytes, int]]:
        pages = [m["messages"] for m in self.said if m["type"] == "messages"]
        return [place_in(message) for page in pages for message in page]


def place_in(message: Any) -> tuple[bytes, int]:
    return PublicKey.parse(message["author"]).raw, message["sequence"]


def have(**feeds: int) -> dict[str, Any]:
    keys = {"own": OWN, "a": A, "b": B, "c": C}
    states = [{"author": PublicKey(keys[n]).text, "latest_sequence": s} for n, s in feeds.items()]
    return {"type": "have", "feeds": states}


def want(**feeds: int) -> dict[str, Any]:
    keys = {"own": OWN, "a": A, "b": B, "c": C}
    requests = [{"author": PublicKey(keys[n]).text, "after_sequence": s} for n, s in feeds.items()]
    return {"type": "want", "requests": requests}


def messages(*texts: bytes) -> bytes:
    return b'{"type":"messages","messages":[' + b",".join(texts) + b"]}"


def push(author: bytes, sequence: int) -> bytes:
    return b'{"type":"push","message":' + text(author, sequence) + b"}"


DONE = {"type": "done"}
SUBSCRIBE = {"type": "subscribe", "mode": "persistent"}
ACCEPTED = {"type": "subscribeack", "accepted": True, "mode": "persistent"}
REFUSED = {"type": "subscribeack", "accepted": False, "mode": "pull_only"}


def live(side: Side, theirs: dict[str, Any] | None = None, wanted: Any = None) -> Side:
    """Bring a session to its live part.  The peer has C{theirs} and wants C{wanted}."""
    side.start().hear(theirs or have())
    if side.session.client:
        side.hear(DONE).hear(wanted or want()).hear(ACCEPTED)
    else:
        side.hear(wanted or want()).hear(DONE).hear(SUBSCRIBE)
    assert side.live
    side.said.clear()
    return side


def run(client: Side, server: Side) -> None:
    """Let two sides of ours talk until both are silent."""
    client.start()
    server.start()
    while client.out or server.out:
        for one, other in ((client, server), (server, client)):
            sent, one.out = one.out, []
            for data in sent:
                other.act(other.session.received(data, other.now))


class ExchangeTests(SynchronousTestCase):
    def test_a_client_step_by_step(self) -> None:
        side = Side(True, {A: 3}).start()
        self.assertEqual(side.said, [have(a=3)])
        side.hear(have(a=5, b=2))
        self.assertEqual(side.said[1:], [want(a=3, b=0)])
        side.hear(messages(text(A, 4), text(A, 5))).hear(messages(text(B, 1), text(B, 2)))
        side.hear(DONE)
        self.assertEqual((side.held, len(side.said)), ({A: 5, B: 2}, 2))
        side.hear(want(a=2))
        self.assertEqual(side.given(), [(A, 3), (A, 4), (A, 5)])
        self.assertEqual(side.kinds()[-2:], ["done", "subscribe"])
        side.hear(ACCEPTED)
        self.assertEqual((side.live, side.closed), (True, False))

    def test_a_server_step_by_step(self) -> None:
        side = Side(False, {A: 3}).start()
        self.assertEqual(side.said, [])
        side.hear(have(a=5))
        self.assertEqual(side.said, [have(a=3)])
        side.hear(want())
        self.assertEqual(side.kinds(), ["have", "done", "want"])
        self.assertEqual(side.said[-1], want(a=3))
        side.hear(messages(text(A, 4))).hear(DONE)
        self.assertEqual(side.session.phase, Phase.OFFER)
        side.hear(SUBSCRIBE)
        self.assertEqual(side.said[-1], ACCEPTED)
        self.assertTrue(side.live)

    def test_who_does_not_push_closes_in_good_order(self) -> None:
        for answer, may in ((REFUSED, True), (None, False)):
            side = Side(True, may_go_live=lambda: may)  # noqa: B023
            side.start().hear(have()).hear(DONE).hear(want())
            if answer:
                side.hear(answer)
            self.assertEqual((side.live, side.closed), (False, True))
        side = Side(False, may_go_live=lambda: False).start()
        side.hear(have()).hear(want()).hear(DONE).hear(SUBSCRIBE)
        self.assertEqual((side.said[-1], side.live, side.closed), (REFUSED, False, True))
        side = Side(False).start().hear(have()).hear(want()).hear(DONE)
        side.hear({"type": "subscribe", "mode": "pull_only"})
        self.assertEqual((side.said[-1], side.closed), (REFUSED, True))

    def test_what_is_said_where_it_has_no_place(self) -> None:
        said: dict[str, Any] = {
            "have": have(),
            "want": want(),
            "messages": messages(text(A, 1)),
            "done": DONE,
            "push": push(A, 1),
            "subscribe": SUBSCRIBE,
            "subscribeack": ACCEPTED,
            "credit_grant": {"type": "credit_grant", "amount": 1},
            "credit_request": {"type": "credit_request", "suggested": 1},
            "flow_control_ack": {
                "type": "flow_control_ack",
                "supported": True,
                "initial_credits": 1,
            },
        }
        stages: list[tuple[bool, list[Any], set[str]]] = [
            (True, [], {"have"}),
            (True, [have(a=1)], {"messages", "done"}),
            (True, [have(), DONE], {"want"}),
            (True, [have(), DONE, want()], {"subscribeack"}),
            (False, [], {"have"}),
            (False, [have(a=1)], {"want"}),
            (False, [have(a=1), want()], {"messages", "done"}),
            (False, [have(), want(), DONE], {"subscribe"}),
        ]
        for client, before, fits in stages:
            for kind, message in said.items():
                side = Side(client).start()
                for each in before:
                    side.hear(each)
                if kind in fits:
                    side.hear(message)
                else:
                    with self.assertRaises(MalformedFrame, msg=f"{client} {before} {kind}"):
                        side.hear(message)

    def test_after_the_end_nothing_is_heard(self) -> None:
        side = Side(True, may_go_live=lambda: False).start()
        side.hear(have()).hear(DONE).hear(want())
        count = len(side.said)
        side.hear(have(a=9)).hear(push(A, 1))
        self.assertEqual((len(side.said), side.stored), (count, []))

    @given(
        st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 130)),
        st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 130)),
    )
    def test_two_of_ours_end_with_the_same(
        self, one: dict[bytes, int], other: dict[bytes, int]
    ) -> None:
        client, server = Side(True, one), Side(False, other)
        run(client, server)
        longest = {a: max(one.get(a, 0), other.get(a, 0)) for a in {*one, *other}}
        self.assertEqual((client.held, server.held), (longest, longest))
        self.assertTrue(client.live and server.live)
        # Nothing came twice.
        self.assertEqual(
            len(set(client.stored + server.stored)), len(client.stored + server.stored)
        )
        # What is new is pushed, and not sent back.
        client.gain(A, longest.get(A, 0) + 1)
        for data in client.out:
            server.act(server.session.received(data, 0.0))
        if A in longest:
            self.assertEqual(server.held[A], longest[A] + 1)
            server.act(server.session.news(A, server.held[A]))
            self.assertEqual(server.pushed(), [])


class LimitTests(SynchronousTestCase):
    def test_a_want_names_a_bounded_number(self) -> None:
        feeds = [
            {"author": PublicKey(n.to_bytes(32, "big")).text, "latest_sequence": 1}
            for n in range(MAX_WANT + 3)
        ]
        side = Side(True).start().hear({"type": "have", "feeds": feeds})
        self.assertEqual(len(side.said[-1]["requests"]), MAX_WANT)
        self.assertTrue(side.session.more)

    def test_of_a_want_a_bounded_number_is_answered(self) -> None:
        keys = [n.to_bytes(32, "big") for n in range(MAX_WANT + 3)]
        side = Side(True, dict.fromkeys(keys, 1)).start().hear(have()).hear(DONE)
        requests = [{"author": PublicKey(key).text, "after_sequence": 0} for key in keys]
        side.hear({"type": "want", "requests": requests})
        self.assertEqual(len(side.given()), MAX_WANT)

    def test_a_page_with_too_many_messages(self) -> None:
        side = Side(True).start().hear(have(a=9))
        many = [text(A, 1)] * (MAX_TOGETHER + 1)
        self.assertRaises(MalformedFrame, side.hear, messages(*many))

    def test_a_session_with_too_many_messages(self) -> None:
        side = Side(True).start().hear(have(a=20_000))
        for page in range(MAX_TAKEN // MAX_TOGETHER):
            at = page * MAX_TOGETHER
            side.hear(messages(*(text(A, at + n) for n in range(1, MAX_TOGETHER + 1))))
        self.assertRaises(MalformedFrame, side.hear, messages(text(A, 10_001)))

    def test_at_the_limit_both_sides_stay_in_step(self) -> None:
        # Their nodes stop reading at the last message, before the done behind it (C6).
        side = Side(True, {A: 12_000}).start().hear(have()).hear(DONE).hear(want(a=0))
        self.assertEqual(len(side.given()), MAX_GIVEN)
        self.assertLess(MAX_GIVEN, 10_000)
        self.assertEqual(side.kinds()[-2:], ["done", "subscribe"])
        self.assertTrue(side.session.more)
        taking = Side(True).start().hear(have(a=20_000))
        for page in range(MAX_TAKEN // MAX_TOGETHER):
            at = page * MAX_TOGETHER
            taking.hear(messages(*(text(A, at + n) for n in range(1, MAX_TOGETHER + 1))))
        taking.hear(DONE)
        self.assertEqual(taking.session.phase, Phase.WANTED)
        self.assertTrue(taking.session.more)

    def test_what_was_not_asked_for(self) -> None:
        for wrong in (text(B, 1), text(A, 3), text(A, 2)):
            side = Side(True, {A: 3}).start().hear(have(a=9))
            self.assertRaises(MalformedFrame, side.hear, messages(wrong))

    def test_what_is_no_message_is_left_to_the_store(self) -> None:
        side = Side(True).start().hear(have(a=9))
        actions = side.session.received(messages(b"{}", b"7"), 0.0)
        self.assertEqual(actions, [Store((b"{}", b"7"))])

    def test_feeds_take_turns(self) -> None:
        side = Side(True, {A: 120, B: 120}).start().hear(have()).hear(DONE).hear(want(a=0, b=0))
        order = [author for author, _ in side.given()]
        self.assertEqual(order[:100], [A] * 50 + [B] * 50)
        self.assertEqual(len(order), 240)

    def test_authors_that_are_none_are_passed_over(self) -> None:
        feeds = [{"author": "@nobody", "latest_sequence": 3}, *have(a=1)["feeds"]]
        side = Side(True).start().hear({"type": "have", "feeds": feeds})
        self.assertEqual(side.said[-1], want(a=0))
        side.hear(DONE)
        side.hear({"type": "want", "requests": [{"author": "x", "after_sequence": 0}]})
        self.assertEqual(side.kinds()[-2:], ["done", "subscribe"])


class SelectionTests(SynchronousTestCase):
    def test_only_what_is_wanted_is_asked_for(self) -> None:
        side = Side(True, wants=lambda author: author == B).start().hear(have(a=3, b=4))
        self.assertEqual(side.said[-1], want(b=0))

    def test_a_push_of_what_is_not_wanted_is_dropped_and_paid_for(self) -> None:
        side = live(Side(True, wants=lambda author: author == B))
        for n in range(1, LOT + 1):
            side.hear(push(A, n))
        self.assertEqual((side.stored, side.kinds()), ([], ["credit_grant"]))
        side.hear(push(B, 1))
        self.assertEqual(side.stored, [(B, 1)])

    def test_what_the_peer_would_refuse_is_left_out_and_what_follows_is_not(self) -> None:
        bad = {text(A, n, tags=[]) for n in (2, 5)}
        side = Side(True, {A: 6}, refused=lambda raw: "no" if raw in bad else None)
        side.start().hear(have()).hear(DONE).hear(want(a=0))
        self.assertEqual([n for _, n in side.given()], [1, 3, 4, 6])
        self.assertEqual(side.session.withheld, 2)
        pushing = live(
            Side(True, {A: 1}, refused=lambda raw: "no" if raw in bad else None), have(a=1)
        )
        pushing.gain(A, 3)
        self.assertEqual(pushing.pushed(), [(A, 3)])

    def test_behind_what_is_not_kept_any_more_they_are_served_and_pushed(self) -> None:
        side = Side(True, {A: 9})
        side.gaps = {(A, 0): 6, (A, 9): 11}
        side.start().hear(have()).hear(DONE).hear(want(a=0)).hear(ACCEPTED)
        self.assertEqual([n for _, n in side.given()], [7, 8, 9])
        side.gain(A, 12)
        self.assertEqual(side.pushed(), [(A, 12)])

    def test_their_topics(self) -> None:
        side = Side(True, {A: 4})
        side.tags = {(A, 2): ["x"], (A, 3): ["y", "z"], (A, 6): ["x"]}
        side.start().hear(have() | {"subscribed_topics": ["x", "z"]}).hear(DONE).hear(want(a=0))
        self.assertEqual([n for _, n in side.given()], [2, 3])
        side.hear(ACCEPTED)
        side.gain(A, 6)
        self.assertEqual(side.pushed(), [(A, 6)])

    def test_our_topics_are_told(self) -> None:
        side = Side(True, topics=["x"]).start()
        self.assertEqual(side.said[0]["subscribed_topics"], ["x"])


class PushTests(SynchronousTestCase):
    def test_until_the_credits_are_used_and_on_when_there_are_more(self) -> None:
        side = live(Side(True, {A: 1}), have(a=1))
        for n in range(2, 302):
            side.gain(A, n)
        self.assertEqual(side.pushed(), [(A, n) for n in range(2, 2 + FIRST_CREDITS)])
        # More are asked for early, and once.
        self.assertEqual(side.kinds().count("credit_request"), 1)
        self.assertEqual(side.kinds().index("credit_request"), FIRST_CREDITS - LOW + 1)
        side.hear({"type": "credit_grant", "amount": 50})
        self.assertEqual(len(side.pushed()), FIRST_CREDITS + 50)
        side.hear({"type": "flow_control_ack", "supported": True, "initial_credits": 30})
        side.hear({"type": "flow_control_ack", "supported": False, "initial_credits": 30})
        self.assertEqual(len(side.pushed()), FIRST_CREDITS + 80)
        self.assertEqual(side.pushed()[-1], (A, 181))

    def test_a_feed_that_is_far_behind_is_left_to_the_next_exchange(self) -> None:
        side = live(Side(True, {A: 1}), have(a=1))
        side.gain(A, 2 + MAX_BEHIND)
        self.assertEqual(side.pushed(), [])
        side = live(Side(True, {A: 1}), have(a=1))
        side.gain(A, 1 + MAX_BEHIND)
        self.assertEqual(len(side.pushed()), FIRST_CREDITS)

    def test_feeds_take_turns(self) -> None:
        side = live(Side(True, {A: 1, B: 1}), have(a=1, b=1))
        side.session.credits = 0
        side.gain(A, 81)
        side.gain(B, 81)
        side.hear({"type": "credit_grant", "amount": 120})
        authors = [author for author, _ in side.pushed()]
        self.assertEqual((authors[:50], authors[50:100]), ([A] * 50, [B] * 50))

    def test_nothing_goes_back_where_it_came_from(self) -> None:
        side = live(Side(True, {A: 1}), have(a=1))
        side.hear(push(A, 2))
        side.gain(A, 2)
        self.assertEqual(side.pushed(), [])
        side.gain(A, 3)
        side.gain(A, 3)
        self.assertEqual(side.pushed(), [(A, 3)])

    def test_what_the_peer_left_out_is_not_pushed(self) -> None:
        side = live(Side(True, {A: 1, OWN: 1}), have(), want(own=0))
        side.gain(A, 2)
        side.gain(OWN, 2)
        self.assertEqual((side.pushed(), side.catch_ups), ([(OWN, 2)], 0))

    def test_what_it_was_never_offered_is_offered_first(self) -> None:
        side = live(Side(True))
        side.gain(B, 1)
        self.assertEqual((side.pushed(), side.catch_ups), ([], 1))
        # Our own first message goes at once, to who chooses nobody.
        side.gain(OWN, 1)
        self.assertEqual(side.pushed(), [(OWN, 1)])
        chooser = live(Side(True, {A: 1}), have())
        chooser.gain(OWN, 1)
        self.assertEqual((chooser.pushed(), chooser.catch_ups), ([], 1))

    def test_no_news_before_it_is_live(self) -> None:
        side = Side(True, {A: 1}).start()
        self.assertEqual(side.session.news(A, 2), [])
        self.assertEqual(side.session.keep_alive(), [])


class CreditTests(SynchronousTestCase):
    def test_pushes_are_paid_for_in_lots(self) -> None:
        side = live(Side(False))
        for n in range(1, 10 * LOT + 1):
            side.hear(push(A, n))
        self.assertEqual(side.said, [{"type": "credit_grant", "amount": LOT}] * 10)
        self.assertEqual(len(side.stored), 10 * LOT)

    def test_more_than_was_granted_ends_the_connection(self) -> None:
        side = live(Side(False))
        # The store is slow: nothing is given back.
        for n in range(1, FIRST_CREDITS + 1):
            side.session.received(push(A, n), 0.0)
        self.assertRaises(MalformedFrame, side.session.received, push(A, 101), 0.0)

    def test_a_sign_of_life_asks_for_credits_and_gives_back_the_rest(self) -> None:
        side = live(Side(False))
        side.hear(push(A, 1))
        side.act(side.session.keep_alive())
        self.assertEqual(
            side.said,
            [{"type": "credit_grant", "amount": 1}, {"type": "credit_request", "suggested": 50}],
        )

    def test_who_asks_is_granted_up_to_a_limit(self) -> None:
        side = live(Side(False))
        for _ in range(100):
            side.hear({"type": "credit_request", "suggested": 4_000_000_000})
        amounts = [message["amount"] for message in side.said]
        self.assertEqual((max(amounts), sum(amounts)), (50, core.MAX_ALLOWED - FIRST_CREDITS))

    def test_what_is_granted_to_us_has_a_limit(self) -> None:
        side = live(Side(False))
        for _ in range(5):
            side.hear({"type": "credit_grant", "amount": 4_000_000_000})
        self.assertEqual(side.session.credits, core.MAX_CREDITS)

    def test_a_peer_that_says_what_has_no_place_is_borne_for_a_while(self) -> None:
        side = live(Side(False))
        for _ in range(MAX_ODD):
            side.hear(DONE)
        self.assertRaises(MalformedFrame, side.hear, have())


class GapTests(SynchronousTestCase):
    """A tail behind a gap, in both directions (C5)."""

    def sent(self, memory: PeerMemory, now: float, held: int, wanted: Any) -> list[int]:
        side = Side(True, {A: held}, memory=memory, now=now, may_go_live=lambda: False).start()
        side.hear(have()).hear(DONE).hear(wanted)
        side.session.ended(now)
        return [n for _, n in side.given()]

    def test_a_peer_that_asks_from_the_same_place_again_is_sent_what_is_new(self) -> None:
        memory = PeerMemory()
        self.assertEqual(self.sent(memory, 0.0, 5, want(a=2)), [3, 4, 5])
        self.assertEqual(self.sent(memory, 10.0, 5, want(a=2)), [])
        self.assertEqual(self.sent(memory, 20.0, 7, want(a=2)), [6, 7])
        # And all of it once more, in case it was lost.
        self.assertEqual(self.sent(memory, 700.0, 7, want(a=2)), [3, 4, 5, 6, 7])
        self.assertEqual(self.sent(memory, 710.0, 7, want(a=0)), [1, 2, 3, 4, 5, 6, 7])

    def test_what_never_arrived_is_not_taken_for_given(self) -> None:
        memory = PeerMemory()
        side = Side(True, {A: 5}, memory=memory).start()
        side.hear(have()).hear(DONE).hear(want(a=2))
        # The connection breaks here.
        self.assertEqual(self.sent(memory, 10.0, 5, want(a=2)), [3, 4, 5])

    def asked(self, memory: PeerMemory, now: float, latest: int, *came: int) -> Any:
        side = Side(True, {A: 2}, memory=memory, now=now, may_go_live=lambda: False).start()
        side.hear(have(a=latest))
        asked = [r["after_sequence"] for r in side.said[-1]["requests"]]
        if came:
            side.session.received(messages(*(text(A, n) for n in came)), now)
        side.session.received(b'{"type":"done"}', now)
        return asked

    def test_we_ask_for_what_is_behind_it_once(self) -> None:
        # Message 3 is refused here, so the feed stays complete up to 2.
        memory = PeerMemory()
        self.assertEqual(self.asked(memory, 0.0, 5, 3, 4, 5), [2])
        self.assertEqual(self.asked(memory, 10.0, 5), [])
        self.assertEqual(self.asked(memory, 20.0, 6, 6), [5])
        self.assertEqual(self.asked(memory, 30.0, 6), [])
        self.assertEqual(self.asked(memory, 700.0, 6, 3, 4, 5, 6), [2])

    def test_what_could_not_be_stored_is_asked_for_again(self) -> None:
        memory = PeerMemory()
        side = Side(True, {A: 2}, memory=memory).start().hear(have(a=5))
        side.session.received(messages(text(A, 3)), 0.0)
        side.session.received(b'{"type":"done"}', 0.0)
        side.session.not_stored()
        self.assertEqual(self.asked(memory, 1.0, 5), [2])
