"""Server-sent events: what is written, what is read, and when neither is held up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge, StorageFailed
from meshkit.operations import BoundOperation, Item, Nothing, Operation
from meshkit.web.callers import OWNER, Caller
from meshkit.web.limits import RequestHead
from meshkit.web.sse import KEEP_ALIVE, MAX_EVENT, STALL_SECONDS, Event, EventReader, encode_item
from tests.web.stage import Connection, Stage, WireTransport, request, rest_door


class EncodingTests(SynchronousTestCase):
    def test_an_event_is_its_id_its_type_and_a_line_of_json(self) -> None:
        item = Item({"behind": 3}, id="17", event="lagged")
        self.assertEqual(encode_item(item), b'id: 17\nevent: lagged\ndata: {"behind":3}\n\n')
        self.assertEqual(encode_item(Item("x")), b'data: "x"\n\n')

    def test_the_line_breaks_of_a_raw_text_do_not_end_the_event(self) -> None:
        raw = msgspec.Raw(b'{"a":\r\n1}')
        self.assertEqual(encode_item(Item(raw)), b'data: {"a":  1}\n\n')

    @given(st.text(max_size=50), st.integers(0, 10**6))
    def test_what_is_written_is_read_back(self, text: str, number: int) -> None:
        (event,) = EventReader().feed(encode_item(Item(text, id=str(number), event="note")))
        self.assertEqual(event, Event(msgspec.json.encode(text).decode(), "note", str(number)))


class ReaderTests(SynchronousTestCase):
    def test_what_the_standard_shows_is_read_as_it_says(self) -> None:
        wire = (
            "\ufeff: a comment\n\n"
            "data: YHOO\ndata: +2\ndata: 10\n\n"
            "event: add\ndata:73857293\nid: 1\n\n"
            "id\ndata:  second\n\n"
            "data\n\n"
            "data\ndata\n\n"
            "retry: 7\nunknown: x\n\n"
            "data: never finished"
        ).encode()
        self.assertEqual(
            EventReader().feed(wire),
            [
                Event("YHOO\n+2\n10", "message", ""),
                Event("73857293", "add", "1"),
                Event(" second", "message", ""),
                Event("", "message", ""),
                Event("\n", "message", ""),
            ],
        )

    def test_the_last_id_stays_until_another_one_is_said(self) -> None:
        reader = EventReader()
        events = reader.feed(b"id: 4\ndata: a\n\ndata: b\n\nid: 5\n\nid: 6\0\n\ndata: c\n\n")
        self.assertEqual([event.id for event in events], ["4", "4", "5"])
        self.assertEqual(reader.last_id, "5")

    @given(st.sampled_from(["\n", "\r", "\r\n"]), st.lists(st.integers(1, 7)))
    def test_any_line_end_in_any_pieces_gives_the_same_events(
        self, end: str, sizes: list[int]
    ) -> None:
        lines = ["id: 1", "data: ä", "data: b", "", ": c", "event: x", "data: d", "", "data: e", ""]
        wire = "".join(line + end for line in lines).encode()
        reader = EventReader()
        events: list[Event] = []
        at = 0
        for size in [*sizes, *[1] * len(wire)]:
            events += reader.feed(wire[at : at + size])
            at += size
        # A CR at the very end is a line end: it need not wait for an LF.
        self.assertEqual(
            events,
            [Event("ä\nb", "message", "1"), Event("d", "x", "1"), Event("e", "message", "1")],
        )

    def test_an_event_of_any_size_is_not_kept(self) -> None:
        for piece in (b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"):
            reader = EventReader()
            reader.feed(b"data: ")
            with self.assertRaises(FrameTooLarge):
                for _ in range(MAX_EVENT // 1000 + 2):
                    reader.feed(piece)


class Numbered(msgspec.Struct, frozen=True):
    after: int = 0


class Source:
    """A stream that gives what a test puts into it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.closed = 0
        self.given = 0
        self._waiting: Deferred[Any] | None = None

    async def items(self, wanted: Numbered) -> AsyncGenerator[Item, None]:
        self.asked.append(wanted)
        try:
            while True:
                self._waiting = Deferred()
                item = await self._waiting
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                self.given += 1
                yield item
        finally:
            self._waiting = None
            self.closed += 1

    def put(self, item: Any) -> bool:
        """@return: did anybody wait for it?"""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return False
        waiting.callback(item)
        return True

    def bound(self) -> BoundOperation:
        operation = Operation(
            "events",
            "GET",
            "/v1/events",
            Numbered,
            int,
            "Numbers.",
            stream=True,
            resume="after",
        )
        return BoundOperation(operation, self.items)


class WriterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = Stage()
        self.clock = self.stage.clock
        self.source = Source()
        self.door = rest_door([self.source.bound()], clock=self.stage.clock)
        # Behind the guard's back: these tests are about what comes after it.
        self.stage.site.resource = self.door.resource()
        self.stage.site.admit = self.door.admit

    def open(self, **headers: str | list[str] | None) -> Connection:
        connection = self.stage.connect()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.send(request("GET", "/v1/events", headers=named))
        return connection

    def read(self, connection: Connection) -> list[Event]:
        """The events that came since the last time."""
        wire = connection.transport.value()
        connection.transport.clear()
        body = wire.partition(b"\r\n\r\n")[2] if wire.startswith(b"HTTP") else wire
        reader = EventReader()
        events: list[Event] = []
        while body:
            size, _, rest_of_it = body.partition(b"\r\n")
            events += reader.feed(rest_of_it[: int(size, 16)])
            body = rest_of_it[int(size, 16) + 2 :]
        return events

    def test_the_head_comes_at_once_and_says_what_it_is(self) -> None:
        connection = self.open()
        head, _, body = connection.transport.value().partition(b"\r\n\r\n")
        self.assertIn(b"200 OK", head)
        self.assertIn(b"Content-Type: text/event-stream", head)
        self.assertIn(b"Cache-Control: no-store", head)
        self.assertEqual(body, b"3\r\n:\n\n\r\n")
        connection.lose()

    def test_the_source_has_been_asked_by_then(self) -> None:
        asked_when_told: list[bool] = []
        transport = WireTransport()
        write = transport.writeSequence

        def told(data: Any) -> None:
            asked_when_told.append(self.source._waiting is not None)
            write(data)

        transport.writeSequence = told  # type: ignore[method-assign]
        connection = self.stage.connect(transport)
        connection.send(request("GET", "/v1/events"))
        self.assertEqual(asked_when_told, [True, True])
        connection.lose()

    def test_items_are_sent_as_they_come(self) -> None:
        connection = self.open()
        for number in (1, 2):
            self.source.put(Item(number, id=str(number)))
            self.assertEqual(self.read(connection)[-1], Event(str(number), "message", str(number)))
        connection.lose()

    def test_a_stream_that_ends_ends_the_answer_and_not_the_connection(self) -> None:
        connection = self.open()
        self.source.put(None)
        self.assertTrue(connection.transport.value().endswith(b"\r\n0\r\n\r\n"))
        connection.transport.clear()
        connection.send(request("GET", "/v1/nowhere"))
        (answer,) = connection.answers("GET")
        self.assertEqual(answer.status, 404)
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_reader_that_comes_back_says_where_it_was(self) -> None:
        for headers, wanted in [
            ({}, Numbered(0)),
            ({"Last_Event_ID": "17"}, Numbered(17)),
            ({"Last_Event_ID": ""}, Numbered(0)),
        ]:
            connection = self.open(**headers)
            self.assertEqual(self.source.asked.pop(), wanted)
            connection.lose()
        answer = self.stage.ask("GET", "/v1/events", headers={"Last-Event-ID": "x"})
        self.assertEqual((answer.status, answer.code), (400, "INVALID_REQUEST"))
        self.assertIn("after", answer.json["error"]["message"])

    def test_what_the_reader_says_itself_counts_more_than_the_query(self) -> None:
        connection = self.stage.connect()
        connection.send(request("GET", "/v1/events?after=3", headers={"Last-Event-ID": "9"}))
        self.assertEqual(self.source.asked, [Numbered(9)])
        connection.lose()

    def test_when_the_client_goes_the_source_is_closed(self) -> None:
        connection = self.open()
        self.source.put(Item(1))
        connection.lose()
        self.assertEqual(self.source.closed, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_head_says_what_get_would_and_ends(self) -> None:
        connection = self.stage.connect()
        connection.send(request("HEAD", "/v1/events"))
        wire = connection.transport.value()
        self.assertIn(b"text/event-stream", wire)
        self.assertTrue(wire.endswith(b"\r\n\r\n"))
        self.assertEqual(self.source.asked, [])
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence_is_filled_with_comments(self) -> None:
        connection = self.open()
        connection.transport.clear()
        self.clock.advance(KEEP_ALIVE - 0.1)
        self.assertEqual(connection.transport.value(), b"")
        self.clock.advance(0.1)
        self.assertEqual(connection.transport.value(), b"3\r\n:\n\n\r\n")
        self.clock.advance(KEEP_ALIVE / 2)
        self.source.put(Item(1))
        connection.transport.clear()
        self.clock.advance(KEEP_ALIVE - 0.1)
        self.assertEqual(connection.transport.value(), b"")
        connection.lose()

    def test_a_reader_that_does_not_read_is_given_nothing_more(self) -> None:
        connection = self.open()
        connection.transport.producer.pauseProducing()
        self.assertTrue(self.source.put(Item(1)))
        self.assertFalse(self.source.put(Item(2)))
        self.assertEqual(self.source.given, 1)
        self.clock.advance(STALL_SECONDS - 1)
        connection.transport.producer.resumeProducing()
        self.assertTrue(self.source.put(Item(2)))
        self.assertEqual([event.data for event in self.read(connection)], ["1", "2"])
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_reader_that_never_reads_again_is_cut_off(self) -> None:
        connection = self.open()
        connection.transport.producer.pauseProducing()
        self.clock.advance(STALL_SECONDS - 0.1)
        self.assertFalse(connection.transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(connection.transport.aborted)
        connection.lose()
        self.assertEqual(self.source.closed, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_error_of_ours_is_the_last_event(self) -> None:
        connection = self.open()
        self.source.put(StorageFailed("the disk is gone"))
        event = self.read_whole(connection)[-1]
        self.assertEqual(event.event, "error")
        self.assertEqual(
            msgspec.json.decode(event.data),
            {"code": "STORAGE_FAILED", "message": "the disk is gone"},
        )
        connection.lose()

    def test_a_bug_is_logged_and_nothing_of_it_shown(self) -> None:
        connection = self.open()
        self.source.put(ZeroDivisionError("a secret"))
        event = self.read_whole(connection)[-1]
        self.assertIn("INTERNAL_ERROR", event.data)
        self.assertNotIn("secret", event.data)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        connection.lose()

    def read_whole(self, connection: Connection) -> list[Event]:
        wire = connection.transport.value()
        self.assertTrue(wire.endswith(b"0\r\n\r\n"), "the answer has no end")
        return self.read(connection)

    def test_when_the_node_stops_every_stream_ends(self) -> None:
        waiting, stuck = self.open(), self.open()
        self.source.put(Item(1))
        stuck.transport.producer.pauseProducing()
        self.door.end_streams()
        self.assertTrue(waiting.transport.value().endswith(b"0\r\n\r\n"))
        self.assertTrue(stuck.transport.value().endswith(b"0\r\n\r\n"))
        self.assertEqual(self.source.closed, 2)
        for connection in (waiting, stuck):
            connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_there_are_only_so_many_streams_at_a_time_and_so_many_of_one_caller(self) -> None:
        door = rest_door([self.source.bound()], clock=self.clock, max_streams=4)
        self.stage.site.resource = door.resource()

        def admit(head: RequestHead) -> None:
            head.passed.append(self)
            head.caller = Caller(head.values(b"X-Caller")[0], OWNER.scopes)

        self.stage.site.admit = admit

        def refused(who: str) -> bool:
            connection = self.open(X_Caller=who)
            if b"200 OK" in connection.transport.value():
                opened[who].append(connection)
                return False
            (answer,) = connection.answers("GET")
            self.assertEqual((answer.status, answer.code), (503, "OVERLOADED"))
            connection.lose()
            return True

        opened: dict[str, list[Connection]] = {who: [] for who in "abc"}
        self.assertEqual([refused("a") for _ in range(3)], [False, False, True])
        self.assertEqual([refused("b") for _ in range(3)], [False, False, True])
        self.assertTrue(refused("c"))
        opened["a"].pop().lose()
        self.assertTrue(refused("b"))
        self.assertFalse(refused("c"))
        for connection in sum(opened.values(), []):
            connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stream_cannot_be_offered_without_a_clock(self) -> None:
        with self.assertRaisesRegex(ValueError, "clock"):
            rest_door([self.source.bound()])


class DeclarationTests(SynchronousTestCase):
    def test_what_cannot_be_a_stream_is_refused(self) -> None:
        for change in (
            {"method": "POST"},
            {"success": 201},
            {"paged": True},
            {"resume": "nothing"},
            {"stream": False, "resume": "after"},
        ):
            fields: dict[str, Any] = {"method": "GET", "stream": True} | change
            with self.assertRaises(ValueError, msg=str(change)):
                Operation(name="x", path="/x", request=Numbered, answer=int, doc="", **fields)
        with self.assertRaises(ValueError):
            Operation("x", "GET", "/x", Nothing, int, "", stream=True, resume="after")
