"""Tests of L{meshkit.kademlia.wire}."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit import errors
from meshkit.errors import (
    FrameTooLarge,
    InvalidAnswer,
    InvalidRequest,
    RecordChanged,
    RecordError,
    RecordForged,
    RecordStale,
    RemoteError,
)
from meshkit.identity.records import MAX_RECORD as MAX_ADDRESS_RECORD
from meshkit.kademlia.distance import node_id
from meshkit.kademlia.holdings import ANSWER_BYTES, MAX_ANSWERED, Holdings, Seen
from meshkit.kademlia.kinds import MAX_ENTRIES, Kinds
from meshkit.kademlia.records import MAX_RECORD, MAX_VALUE
from meshkit.kademlia.routing import K
from meshkit.kademlia.wire import (
    BURST,
    FIND_NODE,
    FIND_VALUE,
    MAX_CODE,
    MAX_STORED,
    MAX_WHERE,
    METHODS,
    PING,
    RATE,
    STORE,
    STORE_BYTES,
    Expected,
    FindNode,
    FindValue,
    Nodes,
    Outcome,
    Ping,
    Pong,
    Store,
    Stored,
    Values,
    check_store,
    check_stored,
    check_values,
    requests,
    store_cost,
)
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.runtime.limits import PeerBuckets
from meshkit.testing.channels import ChannelPair, connect_channels
from tests.kademlia.recording import ME, NETWORK, NOW, mutable, owner, topic

KEY = bytes(range(32))
#: A contact and a record of the largest size there is.
CONTACT, RECORD = bytes(MAX_ADDRESS_RECORD), bytes(MAX_RECORD)

encode = msgspec.msgpack.encode


class Vectors(SynchronousTestCase):
    """The bytes of the document."""

    def check(self, message: Any, kind: type[Any], raw: bytes) -> None:
        self.assertEqual(encode(message), raw)
        self.assertEqual(msgspec.msgpack.decode(raw, type=kind), message)

    def test_requests_and_answers(self) -> None:
        self.check(Ping(), Ping, b"\x93\xc4\x00\xa0\xc2")
        self.check(Ping(b"me", "11.0.0.1:7", True), Ping, b"\x93\xc4\x02me\xaa11.0.0.1:7\xc3")
        self.check(Pong(b"me"), Pong, b"\x92\xc4\x02me\xa0")
        self.check(Pong(b"me", "11.0.0.1"), Pong, b"\x92\xc4\x02me\xa811.0.0.1")
        self.check(FindNode(KEY), FindNode, b"\x91\xc4\x20" + KEY)
        self.check(Nodes([b"one"]), Nodes, b"\x91\x91\xc4\x03one")
        self.check(FindValue("topic", KEY), FindValue, b"\x92\xa5topic\xc4\x20" + KEY)
        self.check(
            Values([b"a", b"b"], 3, [b"c"]),
            Values,
            b"\x93\x92\xc4\x01a\xc4\x01b\x03\x91\xc4\x01c",
        )
        self.check(Store([b"a"]), Store, b"\x92\x91\xc4\x01a\xc0")
        self.check(
            Store([b"a"], Expected(7, KEY)),
            Store,
            b"\x92\x91\xc4\x01a\x92\x07\xc4\x20" + KEY,
        )
        self.check(
            Stored([Outcome(), Outcome("RECORD_STALE", 5)]),
            Stored,
            b"\x91\x92\x92\xa0\x00\x92\xacRECORD_STALE\x05",
        )

    def test_what_may_be_left_out_may_be_left_out(self) -> None:
        self.assertEqual(PING.read_request(b"\x90"), Ping())
        self.assertEqual(PING.read_request(b"\x91\xc4\x02me"), Ping(b"me"))
        self.assertEqual(PING.read_answer(b"\x91\xc4\x02me"), Pong(b"me"))
        self.assertEqual(STORE.read_request(b"\x91\x91\xc4\x01a"), Store([b"a"]))

    def test_what_later_versions_add_is_left_alone(self) -> None:
        self.assertEqual(PING.read_request(b"\x94\xc4\x00\xa0\xc2\x01"), Ping())
        self.assertEqual(PING.read_answer(b"\x93\xc4\x00\xa0\x01"), Pong())
        self.assertEqual(FIND_NODE.read_answer(b"\x92\x90\xc0"), Nodes([]))


class Limits(SynchronousTestCase):
    def take_request(self, method: Any, request: Any) -> None:
        self.assertEqual(method.read_request(encode(request)), request)

    def take_answer(self, method: Any, answer: Any) -> None:
        self.assertEqual(method.read_answer(encode(answer)), answer)

    def refuse_request(self, method: Any, request: Any) -> None:
        self.assertRaises(InvalidRequest, method.read_request, encode(request))

    def refuse_answer(self, method: Any, answer: Any) -> None:
        self.assertRaises(InvalidAnswer, method.read_answer, encode(answer))

    def test_a_ping_has_one_record(self) -> None:
        self.take_request(PING, Ping(CONTACT))
        self.refuse_request(PING, Ping(CONTACT + b"x"))
        self.take_answer(PING, Pong(CONTACT))
        self.refuse_answer(PING, Pong(CONTACT + b"x"))

    def test_a_place_has_few_characters(self) -> None:
        self.take_request(PING, Ping(b"", "x" * MAX_WHERE))
        self.refuse_request(PING, Ping(b"", "x" * (MAX_WHERE + 1)))
        self.take_answer(PING, Pong(b"", "x" * MAX_WHERE))
        self.refuse_answer(PING, Pong(b"", "x" * (MAX_WHERE + 1)))

    def test_an_id_has_32_bytes(self) -> None:
        for size in (0, 31, 33):
            self.refuse_request(FIND_NODE, FindNode(bytes(size)))
            self.refuse_request(FIND_VALUE, FindValue("topic", bytes(size)))

    def test_a_kind_has_the_form_of_one(self) -> None:
        self.take_request(FIND_VALUE, FindValue("a" * 32, KEY))
        for name in ("", "A", "a" * 33, "a\n", "\na", "ä"):
            self.refuse_request(FIND_VALUE, FindValue(name, KEY))

    def test_an_answer_has_k_contacts_of_the_largest_size(self) -> None:
        self.take_answer(FIND_NODE, Nodes([CONTACT] * K))
        self.refuse_answer(FIND_NODE, Nodes([b"c"] * (K + 1)))
        self.refuse_answer(FIND_NODE, Nodes([CONTACT + b"x"]))
        self.refuse_answer(FIND_NODE, Nodes([b""]))

    def test_an_answer_has_values_and_contacts_of_the_largest_size(self) -> None:
        small = [n.to_bytes(2, "big") + bytes(300) for n in range(MAX_ANSWERED)]
        for records in ([RECORD], small):
            answer = Values(records, MAX_ENTRIES, [CONTACT] * K)
            self.take_answer(FIND_VALUE, answer)
            check_values(answer)
        self.refuse_answer(FIND_VALUE, Values([RECORD + b"x"], 1, []))
        self.refuse_answer(FIND_VALUE, Values([b""], 1, []))
        self.refuse_answer(FIND_VALUE, Values([], MAX_ENTRIES + 1, []))
        self.refuse_answer(FIND_VALUE, Values([], -1, []))
        self.refuse_answer(FIND_VALUE, Values([b"v"] * (MAX_ANSWERED + 1), MAX_ENTRIES, []))
        self.refuse_answer(FIND_VALUE, Values([], 0, [b"c"] * (K + 1)))

    def test_an_answer_has_so_many_bytes_of_records(self) -> None:
        half = ANSWER_BYTES // 2 - 3
        most = [bytes(half - 1) + b"1", bytes(half - 1) + b"2"]
        check_values(Values(most, 2, []))
        self.assertRaises(InvalidAnswer, check_values, Values([*most, b"x"], 3, []))

    def test_an_answer_does_not_contradict_itself(self) -> None:
        self.assertRaises(InvalidAnswer, check_values, Values([b"a", b"b"], 1, []))
        self.assertRaises(InvalidAnswer, check_values, Values([b"a", b"a"], 2, []))

    def test_what_holdings_give_is_an_answer(self) -> None:
        self.assertEqual(Holdings.find.__defaults__, (ANSWER_BYTES, MAX_ANSWERED))

    def test_a_request_stores_so_many_records(self) -> None:
        most = Store([bytes(300)] * MAX_STORED)
        self.take_request(STORE, most)
        check_store(most)
        self.refuse_request(STORE, Store([b"r"] * (MAX_STORED + 1)))
        self.refuse_request(STORE, Store([]))
        self.refuse_request(STORE, Store([b""]))
        self.take_request(STORE, Store([RECORD]))
        self.refuse_request(STORE, Store([RECORD + b"x"]))

    def test_a_request_stores_so_many_bytes(self) -> None:
        half = bytes(STORE_BYTES // 2 - 3)
        self.take_request(STORE, Store([half, half]))
        check_store(Store([half, half]))
        self.assertRaises(FrameTooLarge, check_store, Store([half, half, b"x"]))
        raw = encode(Store([RECORD, RECORD]))
        self.assertRaises(FrameTooLarge, STORE.read_request, raw)

    def test_compare_and_swap_is_for_one_record(self) -> None:
        expected = Expected(1, KEY)
        self.assertEqual(expected.seen, Seen(1, KEY))
        check_store(Store([b"a"], expected))
        self.assertRaises(InvalidRequest, check_store, Store([b"a", b"b"], expected))
        for sequence, digest in ((-1, KEY), (2**63, KEY), (1, KEY[1:])):
            self.refuse_request(STORE, Store([b"a"], Expected(sequence, digest)))

    def test_there_is_an_outcome_for_each_record(self) -> None:
        most = Stored([Outcome("X" * MAX_CODE, 2**63 - 1)] * MAX_STORED)
        self.take_answer(STORE, most)
        check_stored(Store([b"r"] * MAX_STORED), most)
        self.assertRaises(InvalidAnswer, check_stored, Store([b"r"]), most)
        self.refuse_answer(STORE, Stored([]))
        self.refuse_answer(STORE, Stored([Outcome()] * (MAX_STORED + 1)))
        self.refuse_answer(STORE, Stored([Outcome("X" * (MAX_CODE + 1))]))

    def test_every_truncation_is_refused(self) -> None:
        for method, request in (
            (PING, Ping(b"me")),
            (FIND_NODE, FindNode(KEY)),
            (FIND_VALUE, FindValue("topic", KEY)),
            (STORE, Store([b"a", b"b"], Expected(1, KEY))),
        ):
            raw = encode(request)
            for length in range(len(raw)):
                self.assertRaises(InvalidRequest, method.read_request, raw[:length])
            self.assertRaises(InvalidRequest, method.read_request, raw + b"\x00")
        for method, answer in (
            (PING, Pong(b"me")),
            (FIND_NODE, Nodes([b"c"])),
            (FIND_VALUE, Values([b"v"], 1, [b"c"])),
            (STORE, Stored([Outcome("RECORD_STALE", 5)])),
        ):
            raw = encode(answer)
            for length in range(len(raw)):
                self.assertRaises(InvalidAnswer, method.read_answer, raw[:length])

    @given(st.binary(max_size=100))
    def test_garbage_is_refused_or_read(self, raw: bytes) -> None:
        for method in METHODS:
            for read, refusal in (
                (method.read_request, InvalidRequest),
                (method.read_answer, InvalidAnswer),
            ):
                try:
                    message = read(raw)
                except refusal:
                    continue
                self.assertIsInstance(message, msgspec.Struct)


class Outcomes(SynchronousTestCase):
    def test_a_record_that_is_kept_has_no_code(self) -> None:
        self.assertTrue(Outcome().kept)

    def test_a_refusal_tells_what_is_in_the_way(self) -> None:
        outcome = Outcome.refused(RecordChanged("changed", sequence=7))
        self.assertEqual(outcome, Outcome("RECORD_CHANGED", 7))
        self.assertFalse(outcome.kept)
        self.assertEqual(Outcome.refused(RecordStale("stale", sequence=8)).sequence, 8)
        self.assertEqual(Outcome.refused(RecordForged("forged")), Outcome("RECORD_FORGED"))

    def test_all_codes_fit(self) -> None:
        for error in vars(errors).values():
            if isinstance(error, type) and issubclass(error, RecordError):
                self.assertLessEqual(len(error.code), MAX_CODE)


class Batching(SynchronousTestCase):
    @given(st.lists(st.sampled_from((1, 10, 300, 4000, MAX_RECORD)), max_size=300))
    def test_as_few_requests_as_it_takes(self, sizes: list[int]) -> None:
        records = [bytes(size) for size in sizes]
        made = list(requests(records))
        for request in made:
            self.assertEqual(STORE.read_request(encode(request)), request)
            check_store(request)
        self.assertEqual([raw for request in made for raw in request.records], records)
        for one, following in zip(made, made[1:], strict=False):
            more = Store([*one.records, following.records[0]])
            if len(more.records) <= MAX_STORED:
                self.assertRaises(FrameTooLarge, check_store, more)

    def test_requests_are_full(self) -> None:
        counts = [len(request.records) for request in requests([b"r"] * 450)]
        self.assertEqual(counts, [200, 200, 50])
        half = bytes(STORE_BYTES // 2 - 3)
        self.assertEqual([len(request.records) for request in requests([half] * 4)], [2, 2])


class Costs(SynchronousTestCase):
    def test_a_peer_is_granted_a_hundred_calls_a_minute(self) -> None:
        buckets = PeerBuckets(RATE, BURST)
        granted = 0
        for second in range(3600):
            for _ in range(5):
                granted += not buckets.take("peer", FIND_NODE.cost, second)
        self.assertLessEqual(granted, BURST + 3600 * RATE)
        self.assertGreater(granted, BURST + 3599 * RATE - 2)
        self.assertEqual(60 * RATE, 100)

    def test_each_record_costs(self) -> None:
        self.assertEqual(store_cost(Store([b"r"])), 0)
        self.assertEqual(store_cost(Store([b"r"] * 5)), 1)
        # The largest request can be had at once.
        most = STORE.cost + store_cost(Store([b"r"] * MAX_STORED))
        self.assertLess(most, BURST)
        self.assertGreater(most, 50)

    def test_they_are_served_as_they_are_declared(self) -> None:
        dispatcher = Dispatcher()
        for method in METHODS:
            dispatcher.serve(method, lambda peer, request: None)
            self.assertTrue(method.doc)
            self.assertGreater(method.cost, 0)
        self.assertLess(dispatcher.largest_request, STORE_BYTES + 1024)


class OverTheWire(SynchronousTestCase):
    """Two nodes and a secure channel between them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.keeper = Holdings(node_id(owner(1).public), NETWORK, Kinds(), Random(1))
        self.contacts = [bytes([n]) * MAX_ADDRESS_RECORD for n in range(K)]
        self.buckets = PeerBuckets(RATE, BURST)
        self.dispatcher = Dispatcher()
        self.dispatcher.serve(PING, lambda peer, request: Pong(b"me"))
        self.dispatcher.serve(STORE, self.store)
        self.dispatcher.serve(FIND_VALUE, self.find)
        self.pair = self.connect()

    def connect(self) -> ChannelPair:
        serving = RPCFactory(self.clock, self.dispatcher, buckets=self.buckets)
        calling = RPCFactory(self.clock, Dispatcher())
        return connect_channels(calling, serving, clock=self.clock)

    def store(self, peer: RPCProtocol, request: Store) -> Stored:
        check_store(request)
        assert peer.key is not None
        seen = None if request.expected is None else request.expected.seen
        outcomes = []
        for raw in request.records:
            try:
                self.keeper.store(raw, NOW, peer.key, expected=seen)
            except RecordError as e:
                outcomes.append(Outcome.refused(e))
            else:
                outcomes.append(Outcome())
        return Stored(outcomes)

    def find(self, peer: RPCProtocol, request: FindValue) -> Values:
        found = self.keeper.find(request.kind, request.key, NOW)
        return Values(list(found.records), found.held, self.contacts)

    def call(self, method: Any, request: Any) -> Any:
        answer = self.pair.client.call(method, request)
        self.pair.run()
        return self.successResultOf(answer)

    def test_what_was_stored_is_found(self) -> None:
        records = [topic(owner(n), bytes(3000)) for n in range(30)]
        for request in requests(record.raw for record in records):
            answer = self.call(STORE, request)
            check_stored(request, answer)
            self.assertTrue(all(outcome.kept for outcome in answer.outcomes))
        answer = self.call(FIND_VALUE, FindValue("topic", records[0].key))
        check_values(answer)
        self.assertEqual((answer.held, answer.contacts), (30, self.contacts))
        self.assertGreater(len(answer.records), 15)
        self.assertLessEqual(set(answer.records), {record.raw for record in records})

    def test_the_largest_record_crosses(self) -> None:
        record = mutable(ME, bytes(MAX_VALUE), bytes(64))
        self.assertEqual(self.call(STORE, Store([record.raw])), Stored([Outcome()]))
        answer = self.call(FIND_VALUE, FindValue("mutable", record.key))
        self.assertEqual(answer.records, [record.raw])

    def test_each_record_has_its_own_outcome(self) -> None:
        good, old = mutable(ME), mutable(ME, b"old", sequence=NOW - 1)
        forged = good.raw.replace(b"value", b"VALUE")
        answer = self.call(STORE, Store([good.raw, forged, old.raw, b"garbage"]))
        codes = ["", "RECORD_FORGED", "RECORD_STALE", "RECORD_MALFORMED"]
        self.assertEqual([outcome.code for outcome in answer.outcomes], codes)
        self.assertEqual([outcome.sequence for outcome in answer.outcomes], [0, 0, NOW, 0])

    def test_compare_and_swap_tells_what_was_in_the_way(self) -> None:
        first, second = mutable(ME, b"1"), mutable(ME, b"2", sequence=NOW + 1)
        nothing = Expected(0, bytes(32))
        self.assertEqual(self.call(STORE, Store([first.raw], nothing)), Stored([Outcome()]))
        refused = self.call(STORE, Store([second.raw], nothing))
        self.assertEqual(refused, Stored([Outcome("RECORD_CHANGED", NOW)]))
        seen = Expected(first.sequence, first.digest)
        self.assertEqual(self.call(STORE, Store([second.raw], seen)), Stored([Outcome()]))

    def test_coming_again_resets_nothing(self) -> None:
        refusals: list[Failure] = []
        for _ in range(2):
            calls = [self.pair.client.call(PING, Ping()) for _ in range(110)]
            self.pair.run()
            for call in calls:
                call.addErrback(refusals.append)
            self.pair.client.transport.loseConnection()
            self.pair.run()
            self.pair = self.connect()
        # 100 tokens buy 200 pings.
        self.assertEqual(len(refusals), 20)
        for failure in refusals:
            assert isinstance(failure.value, RemoteError)
            self.assertEqual(failure.value.code, "OVER_RATE")
