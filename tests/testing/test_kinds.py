"""Tests of L{meshkit.testing.kinds}."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RecordInvalid
from meshkit.kademlia.kinds import TOPIC, Kind
from meshkit.kademlia.records import Record
from meshkit.testing.kinds import kind_problems
from tests.kademlia.recording import HOUR, ME, NOW, owner, topic

RECORDS = [
    topic(ME, b"%d" % n, sequence=NOW + n % 2, expires=NOW + HOUR * (1 + n % 3)) for n in range(6)
]


def later(held: Record, new: Record) -> Record:
    return new


def by_value(held: Record, new: Record) -> Record:
    """Paper, scissors, stone."""
    gap = (int(new.value) - int(held.value)) % 3
    return new if gap == 1 else held if gap == 2 else max(held, new, key=lambda each: each.raw)


def neither(held: Record, new: Record) -> Record:
    return evolve(held, value=b"both")


class Kinds(SynchronousTestCase):
    def problems(self, kind: Kind, records: list[Record] = RECORDS) -> str:
        return "\n".join(kind_problems(kind, records, NOW))

    def test_a_good_one_has_none(self) -> None:
        self.assertEqual(kind_problems(TOPIC, RECORDS, NOW), [])

    def test_merge_rules_that_do_not_agree_with_themselves(self) -> None:
        for merge, problem in (
            (later, "which of two comes first"),
            (by_value, "order in which three"),
            (neither, "neither of the two"),
        ):
            self.assertIn(problem, self.problems(evolve(TOPIC, merge=merge)))

    def test_one_that_changes_its_mind(self) -> None:
        turns = iter(range(10**6))

        def fickle(held: Record, new: Record) -> Record:
            return (held, new)[next(turns) % 2]

        self.assertIn("changes its mind", self.problems(evolve(TOPIC, merge=fickle)))

    def test_what_is_valid_has_to_stay_so(self) -> None:
        def validate(record: Record, now: int) -> None:
            if now > NOW + 1:
                raise RecordInvalid("it is too late")

        found = self.problems(evolve(TOPIC, validate=validate))
        self.assertIn("just before it expires: it is too late", found)
        self.assertNotIn("a record now", found)

    def test_what_it_does_not_take(self) -> None:
        self.assertIn("of the kind 'topic'", self.problems(evolve(TOPIC, name="theirs")))
        self.assertIn("over max_value", self.problems(evolve(TOPIC, max_value=0)))
        few = [topic(ME), topic(owner(1))]
        self.assertIn("nothing is known", self.problems(TOPIC, few))
        places = iter(range(100))
        moving = evolve(TOPIC, slot=lambda record: b"%d" % next(places))
        self.assertIn("another place", self.problems(moving))
