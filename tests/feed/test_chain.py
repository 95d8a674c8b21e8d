"""L{meshkit.feed.chain}: which messages a feed has a place for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    DuplicateMessage,
    FeedError,
    ForkRefused,
    InvalidSequence,
    MalformedMessage,
    MeshkitError,
)
from meshkit.feed.chain import NO_NEIGHBOURS, Link, Neighbours, Verdict, judge
from meshkit.feed.message import Message, sign_message
from meshkit.identity.keys import Identity

AUTHOR = Identity(b"\x03" * 32)


def chain(length: int, word: str = "") -> list[Message]:
    messages: list[Message] = []
    previous = None
    for sequence in range(1, length + 1):
        messages.append(
            sign_message(
                AUTHOR,
                sequence=sequence,
                previous=previous,
                timestamp_ns=sequence,
                content={"type": "note", "text": f"{word}{sequence}"},
            )
        )
        previous = messages[-1].hash
    return messages


FEED = chain(6)
OTHER = chain(6, "other ")


class Feed:
    """The smallest store that obeys L{judge}."""

    def __init__(self) -> None:
        self.stored: dict[int, Message] = {}
        self.valid: dict[int, bool] = {}

    def add(self, message: Message) -> Verdict:
        same = self.stored.get(message.sequence)
        before = self.stored.get(message.sequence - 1)
        after = self.stored.get(message.sequence + 1)
        neighbours = Neighbours(
            same=same.hash if same else None,
            predecessor=before.hash if before else None,
            successor_previous=after.previous if after else None,
        )
        try:
            link = judge(message, neighbours)
        except FeedError as e:
            return Verdict.refused(e, message)
        self.stored[message.sequence] = message
        self.valid[message.sequence] = link.chain_valid
        if link.promotes_successor:
            self.valid[message.sequence + 1] = True
        return Verdict.accepted(message, link)


class JudgeTests(SynchronousTestCase):
    def test_the_first_message_is_always_linked(self) -> None:
        self.assertEqual(judge(FEED[0], NO_NEIGHBOURS), Link(True, False))

    def test_a_message_after_its_predecessor_is_linked(self) -> None:
        self.assertEqual(judge(FEED[1], Neighbours(predecessor=FEED[0].hash)), Link(True, False))

    def test_a_message_without_its_predecessor_is_stored_but_not_linked(self) -> None:
        self.assertEqual(judge(FEED[1], NO_NEIGHBOURS), Link(False, False))

    def test_a_message_that_closes_a_gap_promotes_its_successor(self) -> None:
        closing = Neighbours(predecessor=FEED[0].hash, successor_previous=FEED[1].hash)
        self.assertEqual(judge(FEED[1], closing), Link(True, True))
        open_behind = Neighbours(successor_previous=FEED[1].hash)
        self.assertEqual(judge(FEED[1], open_behind), Link(False, True))
        self.assertEqual(
            judge(FEED[0], Neighbours(successor_previous=FEED[0].hash)), Link(True, True)
        )

    def test_the_same_message_again_is_a_duplicate(self) -> None:
        with self.assertRaises(DuplicateMessage):
            judge(FEED[1], Neighbours(same=FEED[1].hash, predecessor=OTHER[0].hash))

    def test_another_message_in_the_same_place_is_a_fork(self) -> None:
        with self.assertRaisesRegex(ForkRefused, FEED[1].hash):
            judge(FEED[1], Neighbours(same=OTHER[1].hash))

    def test_another_message_in_the_last_sound_place_is_a_fork(self) -> None:
        with self.assertRaisesRegex(ForkRefused, FEED[1].hash):
            judge(FEED[1], Neighbours(same=OTHER[1].hash, forked=3))

    def test_nothing_is_taken_from_the_forked_place_on(self) -> None:
        for neighbours in (
            Neighbours(forked=2),
            Neighbours(predecessor=FEED[0].hash, forked=2),
            Neighbours(forked=1),
        ):
            with self.assertRaisesRegex(ForkRefused, "has signed two messages"):
                judge(FEED[1], neighbours)
        self.assertEqual(
            judge(FEED[1], Neighbours(predecessor=FEED[0].hash, forked=3)), Link(True, False)
        )

    def test_what_is_stored_in_a_forked_place_is_still_a_duplicate(self) -> None:
        with self.assertRaises(DuplicateMessage):
            judge(FEED[1], Neighbours(same=FEED[1].hash, forked=2))

    def test_a_message_that_names_another_predecessor_is_kept_apart(self) -> None:
        self.assertEqual(
            judge(FEED[1], Neighbours(predecessor=OTHER[0].hash)), Link(False, False, disputed=1)
        )

    def test_a_message_that_its_successor_does_not_name_is_kept(self) -> None:
        between = Neighbours(predecessor=FEED[0].hash, successor_previous=OTHER[1].hash)
        self.assertEqual(judge(FEED[1], between), Link(True, False, disputed=2))

    def test_of_two_disputed_places_the_lower_one_is_named(self) -> None:
        between = Neighbours(predecessor=OTHER[0].hash, successor_previous=OTHER[1].hash)
        self.assertEqual(judge(FEED[1], between), Link(False, False, disputed=1))

    def test_a_first_message_with_a_predecessor_is_refused(self) -> None:
        message = sign_message(
            AUTHOR, sequence=1, previous="0" * 64, timestamp_ns=1, content="first"
        )
        with self.assertRaisesRegex(InvalidSequence, "has no predecessor"):
            judge(message, NO_NEIGHBOURS)

    def test_a_later_message_without_a_predecessor_is_refused(self) -> None:
        message = sign_message(AUTHOR, sequence=2, previous=None, timestamp_ns=1, content="second")
        for neighbours in (NO_NEIGHBOURS, Neighbours(predecessor=FEED[0].hash)):
            with self.assertRaisesRegex(InvalidSequence, "has to name its predecessor"):
                judge(message, neighbours)

    def test_what_is_wrong_in_itself_is_no_fork(self) -> None:
        """It is wrong wherever it is stored, so it must not be reported as a fork."""
        message = sign_message(AUTHOR, sequence=2, previous=None, timestamp_ns=1, content="second")
        with self.assertRaises(InvalidSequence):
            judge(message, Neighbours(successor_previous=FEED[1].hash))


class ConvergenceTests(SynchronousTestCase):
    @given(st.permutations(FEED), st.lists(st.sampled_from(FEED), max_size=6))
    def test_every_order_of_arrival_ends_in_the_same_feed(
        self, order: list[Message], again: list[Message]
    ) -> None:
        feed = Feed()
        accepted = [feed.add(m).status for m in [*order, *again]].count("accepted")
        self.assertEqual(accepted, len(FEED))
        self.assertEqual([feed.stored[s + 1] for s in range(len(FEED))], FEED)
        self.assertTrue(all(feed.valid.values()))

    @given(st.lists(st.sampled_from(FEED + OTHER), max_size=20))
    def test_two_branches_are_never_joined(self, arrivals: list[Message]) -> None:
        feed = Feed()
        for message in arrivals:
            feed.add(message)
        for sequence, message in feed.stored.items():
            before = feed.stored.get(sequence - 1)
            joins = sequence == 1 or (before is not None and message.previous == before.hash)
            self.assertEqual(feed.valid[sequence], joins)


class VerdictTests(SynchronousTestCase):
    def test_an_accepted_message_is_named_with_its_link(self) -> None:
        verdict = Verdict.accepted(FEED[1], Link(chain_valid=True, promotes_successor=False))
        self.assertEqual(
            verdict,
            Verdict("accepted", None, AUTHOR.public.raw, 2, FEED[1].hash, chain_valid=True),
        )
        self.assertFalse(Verdict.accepted(FEED[1], Link(False, True)).chain_valid)

    def test_a_refused_message_is_named_with_the_reason(self) -> None:
        reason = ForkRefused("no")
        self.assertEqual(
            Verdict.refused(reason, FEED[2]),
            Verdict("refused", reason, AUTHOR.public.raw, 3, FEED[2].hash, chain_valid=False),
        )

    def test_a_duplicate_has_a_status_of_its_own(self) -> None:
        self.assertEqual(Verdict.refused(DuplicateMessage(), FEED[0]).status, "duplicate")

    def test_a_text_that_is_no_message_is_nobodys(self) -> None:
        reason: MeshkitError = MalformedMessage("no")
        self.assertEqual(
            Verdict.refused(reason), Verdict("refused", reason, None, None, None, False)
        )
