"""The calls of one connection, against simple models."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame, Overloaded, OverRate, PeerTooSlow
from meshkit.rpc.codec import MAX_MSGID
from meshkit.rpc.table import (
    MAX_CALLS,
    MAX_FORGOTTEN,
    MAX_REFUSED,
    MAX_SERVED,
    CallTable,
    RPCLimits,
    ServedTable,
)

SMALL = RPCLimits(calls=4, forgotten=3, served=3, refused=4)


class CallTableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.table: CallTable[str] = CallTable(RPCLimits())

    def test_each_call_has_its_own_number(self) -> None:
        numbers = [self.table.add(str(n), 1.0) for n in range(MAX_CALLS)]
        self.assertEqual(numbers, list(range(MAX_CALLS)))
        for number in reversed(numbers):
            self.assertEqual(self.table.take(number), str(number))
        self.assertEqual(len(self.table), 0)

    def test_at_the_limit_and_over_it(self) -> None:
        for _ in range(MAX_CALLS):
            self.table.add("", 1.0)
        with self.assertRaises(Overloaded):
            self.table.add("", 1.0)
        self.table.take(7)
        self.table.add("", 1.0)

    def test_an_answer_to_nothing_is_an_error(self) -> None:
        number = self.table.add("", 1.0)
        with self.assertRaises(MalformedFrame):
            self.table.take(number + 1)
        self.table.take(number)
        with self.assertRaises(MalformedFrame):
            self.table.take(number)

    def test_a_late_answer_is_ignored_once(self) -> None:
        number = self.table.add("", 1.0)
        self.assertTrue(self.table.forget(number))
        self.assertEqual((len(self.table), self.table.forgotten), (0, 1))
        self.assertIsNone(self.table.take(number))
        self.assertEqual(self.table.forgotten, 0)
        with self.assertRaises(MalformedFrame):
            self.table.take(number)

    def test_what_is_not_waited_for_cannot_be_forgotten(self) -> None:
        number = self.table.add("", 1.0)
        self.table.take(number)
        self.assertFalse(self.table.forget(number))
        self.assertEqual(self.table.forgotten, 0)

    def test_a_peer_that_owes_too_many_answers_is_given_up(self) -> None:
        for _ in range(MAX_FORGOTTEN):
            self.table.forget(self.table.add("", 1.0))
        with self.assertRaises(PeerTooSlow):
            self.table.forget(self.table.add("", 1.0))
        self.assertEqual(len(self.table), 0)

    def test_numbers_go_round_and_skip_those_in_use(self) -> None:
        table: CallTable[str] = CallTable(RPCLimits(), first=MAX_MSGID - 1)
        self.assertEqual([table.add("", 1.0) for _ in range(3)], [MAX_MSGID - 1, MAX_MSGID, 0])
        table.forget(0)
        table = self.wrapped(table)
        self.assertEqual(table.add("", 1.0), 1)

    def wrapped(self, table: CallTable[str]) -> CallTable[str]:
        """The same table after 2^32 - 3 more calls."""
        table._next = MAX_MSGID - 1
        return table

    def test_deadlines(self) -> None:
        self.assertIsNone(self.table.next_deadline())
        first, second, third = (self.table.add(c, w) for c, w in (("a", 3), ("b", 1), ("c", 2)))
        self.assertEqual(self.table.next_deadline(), 1)
        self.assertEqual(self.table.expired(0.9), [])
        self.assertEqual(self.table.expired(2), [(second, "b"), (third, "c")])
        self.table.take(second)
        self.assertEqual(self.table.next_deadline(), 2)
        self.assertEqual(self.table.clear(), ["a", "c"])
        self.assertIsNone(self.table.next_deadline())
        with self.assertRaises(MalformedFrame):
            self.table.take(first)


class ServedTableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.table: ServedTable[str] = ServedTable(RPCLimits())

    def test_at_the_limits_and_over_them(self) -> None:
        for number in range(MAX_SERVED):
            self.assertFalse(self.table.full)
            self.assertEqual(self.table.admit(number), number)
        self.assertTrue(self.table.full)
        for number in range(MAX_REFUSED):
            self.assertIsNone(self.table.admit(MAX_SERVED + number))
        with self.assertRaises(OverRate):
            self.table.admit(MAX_SERVED)

    def test_refusals_are_forgiven_when_there_is_room(self) -> None:
        for number in range(MAX_SERVED):
            self.table.admit(number)
        for _ in range(3):
            for _ in range(MAX_REFUSED):
                self.assertIsNone(self.table.admit(None))
            self.table.finish(0)
            self.assertEqual(self.table.admit(0), 0)

    def test_a_number_in_use_is_an_error_also_when_full(self) -> None:
        for number in range(MAX_SERVED):
            self.table.admit(number)
            with self.assertRaises(MalformedFrame):
                self.table.admit(number)

    def test_a_number_may_be_used_again(self) -> None:
        for _ in range(3):
            self.assertEqual(self.table.admit(5), 5)
            self.assertTrue(self.table.finish(5))
            self.assertFalse(self.table.finish(5))

    def test_notifications_count_and_have_keys_of_their_own(self) -> None:
        keys = [self.table.admit(None) for _ in range(MAX_SERVED)]
        self.assertEqual(len(set(keys)), MAX_SERVED)
        self.assertTrue(all(key is not None and key < 0 for key in keys))
        self.assertIsNone(self.table.admit(None))

    def test_what_is_being_done_is_given_back(self) -> None:
        for number in range(4):
            self.table.admit(number)
        self.table.attach(2, "two")
        self.table.attach(1, "one")
        self.table.finish(3)
        self.assertEqual(self.table.clear(), ["one", "two"])
        self.assertEqual(len(self.table), 0)
        self.assertFalse(self.table.finish(1))

    def test_limits_leave_room_for_a_call(self) -> None:
        for name in ("calls", "forgotten", "served", "refused", "held_bytes"):
            with self.assertRaises(ValueError):
                RPCLimits(**{name: 0})


class Calls(RuleBasedStateMachine):
    """A caller and an honest peer that answers in any order, or not at all."""

    @initialize(first=st.sampled_from([0, MAX_MSGID - 2]))
    def begin(self, first: int) -> None:
        self.table: CallTable[int] = CallTable(SMALL, first)
        self.now = 0.0
        self.made = 0
        self.waiting: dict[int, tuple[int, float]] = {}
        self.forgotten: set[int] = set()

    @rule(seconds=st.floats(0.0, 5.0))
    def add(self, seconds: float) -> None:
        self.made += 1
        deadline = self.now + seconds
        if len(self.waiting) >= SMALL.calls:
            try:
                self.table.add(self.made, deadline)
            except Overloaded:
                return
            raise AssertionError("no limit")
        msgid = self.table.add(self.made, deadline)
        assert 0 <= msgid <= MAX_MSGID
        assert msgid not in self.waiting and msgid not in self.forgotten
        self.waiting[msgid] = (self.made, deadline)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        msgid = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.table.take(msgid) == self.waiting.pop(msgid)[0]

    @precondition(lambda self: self.forgotten)
    @rule(data=st.data())
    def answer_late(self, data: st.DataObject) -> None:
        msgid = data.draw(st.sampled_from(sorted(self.forgotten)))
        assert self.table.take(msgid) is None
        self.forgotten.remove(msgid)

    @rule(msgid=st.integers(0, 20))
    def answer_nothing(self, msgid: int) -> None:
        if msgid in self.waiting or msgid in self.forgotten:
            return
        try:
            self.table.take(msgid)
        except MalformedFrame:
            return
        raise AssertionError("an answer to nothing was taken")

    def forget(self, msgid: int) -> None:
        del self.waiting[msgid]
        self.forgotten.add(msgid)
        try:
            assert self.table.forget(msgid)
        except PeerTooSlow:
            assert len(self.forgotten) > SMALL.forgotten
            self.table.clear()
            self.waiting.clear()
            self.forgotten.clear()
        else:
            assert len(self.forgotten) <= SMALL.forgotten

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.forget(data.draw(st.sampled_from(sorted(self.waiting))))

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        late = [(i, call) for i, (call, deadline) in self.waiting.items() if deadline <= self.now]
        assert self.table.expired(self.now) == late
        for msgid, _ in late:
            if msgid in self.waiting:
                self.forget(msgid)

    @rule()
    def lose(self) -> None:
        assert self.table.clear() == [call for call, _ in self.waiting.values()]
        self.waiting.clear()
        self.forgotten.clear()

    @invariant()
    def they_agree(self) -> None:
        assert len(self.table) == len(self.waiting)
        assert self.table.forgotten == len(self.forgotten) <= SMALL.forgotten
        soonest = min((deadline for _, deadline in self.waiting.values()), default=None)
        assert self.table.next_deadline() == soonest


class Serving(RuleBasedStateMachine):
    """A peer that calls as it likes, and handlers that finish as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.table: ServedTable[int] = ServedTable(SMALL)
        self.running: dict[int, int | None] = {}
        self.refused = 0

    @rule(msgid=st.none() | st.integers(0, 6))
    def come(self, msgid: int | None) -> None:
        try:
            key = self.table.admit(msgid)
        except MalformedFrame:
            assert msgid in self.running
            return
        except OverRate:
            assert self.refused == SMALL.refused and len(self.running) == SMALL.served
            self.lose()
            self.refused = 0
            self.table = ServedTable(SMALL)
            return
        assert msgid not in self.running
        if key is None:
            assert len(self.running) == SMALL.served
            self.refused += 1
            return
        assert key not in self.running and (key < 0 if msgid is None else key == msgid)
        self.running[key] = None

    @precondition(lambda self: self.running)
    @rule(data=st.data(), work=st.integers())
    def attach(self, data: st.DataObject, work: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.table.attach(key, work)
        self.running[key] = work

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        assert self.table.finish(key)
        del self.running[key]
        self.refused = 0

    @rule()
    def lose(self) -> None:
        assert self.table.clear() == [work for work in self.running.values() if work is not None]
        self.running.clear()

    @invariant()
    def they_agree(self) -> None:
        assert len(self.table) == len(self.running) <= SMALL.served
        assert self.table.full is (len(self.running) == SMALL.served)


@pytest.mark.fuller
class ModelTests(SynchronousTestCase):
    def test_calls(self) -> None:
        run_state_machine_as_test(Calls)

    def test_serving(self) -> None:
        run_state_machine_as_test(Serving)
