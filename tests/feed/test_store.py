"""Tests of L{meshkit.feed.store}."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    DuplicateMessage,
    FeedError,
    FeedForked,
    ForkRefused,
    ForkUnproven,
    HashMismatch,
    InvalidSequence,
    MalformedMessage,
    SignatureInvalid,
)
from meshkit.feed import search, store
from meshkit.feed.chain import Neighbours, Verdict, judge
from meshkit.feed.limits import Amount
from meshkit.feed.message import MAX_SEQUENCE, Message
from meshkit.feed.part import check_texts
from meshkit.interfaces import ForkProof, Frontier
from meshkit.testing.identities import DAY_NS, Author
from meshkit.testing.strategies import chunkings

NOW_NS = DAY_NS + 10**15
ADA, BOB = Author("ada"), Author("bob")
ADA.write_many(12)
BOB.write_many(12)


def fresh() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for script in store.MIGRATIONS:
        connection.executescript(script)
    return connection


def ingest(connection: sqlite3.Connection, *raws: bytes, now_ns: int = NOW_NS) -> list[Verdict]:
    """What a node does with texts it receives."""
    return store.store_batch(connection, check_texts(raws), now_ns).verdicts


def feed(connection: sqlite3.Connection, key: bytes) -> list[tuple[int, bool]]:
    """(sequence, chain_valid) of everything that is stored of an author."""
    rows = connection.execute(
        "SELECT m.sequence, m.chain_valid FROM feed_messages m JOIN feed_authors a "
        "ON a.id = m.author WHERE a.key = ? ORDER BY m.sequence",
        (key,),
    )
    return [(sequence, bool(valid)) for sequence, valid in rows]


def state(connection: sqlite3.Connection) -> dict[bytes, tuple[int, str | None, int]]:
    """author -> (contiguous, hash at contiguous, latest)."""
    return {
        key: (contiguous, head and head.hex(), latest)
        for key, contiguous, head, latest in connection.execute(
            "SELECT key, contiguous, head, latest FROM feed_authors ORDER BY key"
        )
    }


def found(connection: sqlite3.Connection, word: str) -> int:
    """How many messages the search index has with a word."""
    (count,) = connection.execute(
        "SELECT count(*) FROM feed_text WHERE feed_text MATCH ?", (word,)
    ).fetchone()
    return int(count)


class Rules(SynchronousTestCase):
    """Each rule of ingest, by the name of its error."""

    def setUp(self) -> None:
        self.connection = fresh()

    def refuse(self, raw: bytes, error: type[FeedError], status: str = "refused") -> None:
        before = list(self.connection.iterdump())
        (verdict,) = ingest(self.connection, raw)
        self.assertEqual((verdict.status, type(verdict.error)), (status, error))
        self.assertFalse(verdict.chain_valid)
        self.assertEqual(list(self.connection.iterdump()), before)

    def test_a_message_is_stored_as_it_was_sent(self) -> None:
        (verdict,) = ingest(self.connection, ADA.raws[0])
        first = ADA.messages[0]
        self.assertEqual(
            verdict,
            Verdict("accepted", None, ADA.key, 1, first.hash, True),
        )
        row = store.message_by_hash(self.connection, bytes.fromhex(first.hash))
        self.assertEqual(row, store.Row(first.raw, True))

    def test_a_forged_signature_is_refused(self) -> None:
        first, second = ADA.messages[0], ADA.messages[1]
        forged = first.raw.replace(_signature(first), _signature(second))
        self.refuse(forged, SignatureInvalid)

    def test_an_author_who_did_not_sign_is_refused(self) -> None:
        text = ADA.raws[0]
        forged = text.replace(ADA.identity.public.text.encode(), BOB.identity.public.text.encode())
        self.refuse(forged, SignatureInvalid)

    def test_altered_content_is_refused(self) -> None:
        altered = ADA.raws[0].replace(b"number 1", b"number 2")
        self.assertNotEqual(altered, ADA.raws[0])
        self.refuse(altered, HashMismatch)

    def test_a_wrong_hash_is_refused(self) -> None:
        first = ADA.messages[0]
        altered = first.raw.replace(first.hash.encode(), b"0" * 64)
        self.refuse(altered, SignatureInvalid)

    def test_a_duplicate_is_told_from_a_refusal(self) -> None:
        ingest(self.connection, ADA.raws[0])
        self.refuse(ADA.raws[0], DuplicateMessage, "duplicate")

    def test_what_is_no_message_is_refused(self) -> None:
        self.refuse(b"{", MalformedMessage)

    def test_sequence_zero_is_refused(self) -> None:
        zero = ADA.raws[0].replace(b'"sequence":1', b'"sequence":0')
        self.refuse(zero, InvalidSequence)

    def test_a_first_message_with_a_predecessor_is_refused(self) -> None:
        odd = ADA.write(sequence=1, previous="ab" * 32)
        self.refuse(odd.raw, InvalidSequence)

    def test_a_later_message_without_predecessor_is_refused(self) -> None:
        odd = ADA.write(sequence=5, previous=None)
        self.refuse(odd.raw, InvalidSequence)

    def test_the_last_sequence_of_all_is_stored_like_any_other(self) -> None:
        last = ADA.write(sequence=MAX_SEQUENCE, previous="ab" * 32)
        ingest(self.connection, ADA.raws[0])
        (verdict,) = ingest(self.connection, last.raw)
        self.assertEqual((verdict.status, verdict.chain_valid), ("accepted", False))
        self.refuse(last.raw, DuplicateMessage, "duplicate")
        self.assertEqual(state(self.connection)[ADA.key][::2], (1, MAX_SEQUENCE))

    def test_each_message_of_a_batch_is_judged_alone(self) -> None:
        altered = ADA.raws[1].replace(b"number 2", b"number 3")
        verdicts = ingest(self.connection, ADA.raws[0], altered, b"", ADA.raws[1], ADA.raws[0])
        self.assertEqual(
            [verdict.status for verdict in verdicts],
            ["accepted", "refused", "refused", "accepted", "duplicate"],
        )

    def test_a_batch_tells_what_it_changed(self) -> None:
        ingest(self.connection, ADA.raws[0])
        checked = check_texts([ADA.raws[0], ADA.raws[1], BOB.raws[2], b"?"])
        stored = store.store_batch(self.connection, checked, NOW_NS)
        self.assertEqual(
            [(author, contiguous) for author, contiguous, _ in stored.added],
            [(ADA.key, 2), (BOB.key, 0)],
        )
        self.assertEqual((stored.amount.stored, stored.feeds), (2, 1))
        amount, feeds, _ = store.count_all(self.connection)
        self.assertEqual((amount.stored, amount.texts, feeds), (3, 3, 2))

    def test_a_batch_that_adds_nothing_changes_nothing(self) -> None:
        ingest(self.connection, *ADA.raws[:2])
        stored = store.store_batch(self.connection, check_texts(ADA.raws[:2]), NOW_NS)
        self.assertEqual((stored.added, stored.amount, stored.feeds), ([], Amount(), 0))


def _signature(message: Message) -> bytes:
    text = message.raw.rpartition(b'"signature":"')[2]
    return text.removesuffix(b'"}')


class Gaps(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()

    def put(self, *sequences: int) -> list[bool]:
        raws = [ADA.raws[sequence - 1] for sequence in sequences]
        return [verdict.chain_valid for verdict in ingest(self.connection, *raws)]

    def contiguous(self) -> int:
        return state(self.connection)[ADA.key][0]

    def test_a_message_beyond_a_gap_is_kept_and_flagged(self) -> None:
        self.assertEqual(self.put(1, 4, 5), [True, False, True])
        self.assertEqual(feed(self.connection, ADA.key), [(1, True), (4, False), (5, True)])
        self.assertEqual(state(self.connection)[ADA.key], (1, ADA.messages[0].hash, 5))

    def test_a_message_beyond_a_gap_is_not_served(self) -> None:
        self.put(1, 3)
        self.assertEqual(store.read_chain(self.connection, ADA.key, 0, 10**6, 9), [ADA.raws[0]])
        self.assertEqual(store.list_heads(self.connection, None, b"", 9), [(ADA.key, 1)])

    def test_an_author_without_a_beginning_has_no_head(self) -> None:
        self.put(2)
        self.assertEqual(store.list_heads(self.connection, None, b"", 9), [])
        self.assertEqual(store.list_heads(self.connection, [ADA.key], b"", 9), [])
        self.assertEqual(state(self.connection)[ADA.key], (0, None, 2))

    def test_what_closes_a_gap_promotes_the_next(self) -> None:
        self.put(1, 3)
        self.put(2)
        self.assertEqual(feed(self.connection, ADA.key), [(1, True), (2, True), (3, True)])
        self.assertEqual(state(self.connection)[ADA.key], (3, ADA.messages[2].hash, 3))

    def test_several_gaps_close_one_by_one(self) -> None:
        self.put(1, 3, 4, 6, 7, 9)
        self.assertEqual(self.contiguous(), 1)
        self.put(5)
        self.assertEqual(self.contiguous(), 1)
        self.put(2)
        self.assertEqual(self.contiguous(), 7)
        self.put(8)
        self.assertEqual(self.contiguous(), 9)
        self.assertEqual(state(self.connection)[ADA.key], (9, ADA.messages[8].hash, 9))

    def test_a_chain_that_arrives_backwards_in_one_batch_is_whole(self) -> None:
        self.put(*range(12, 0, -1))
        self.assertEqual(feed(self.connection, ADA.key), [(n, True) for n in range(1, 13)])
        self.assertEqual(self.contiguous(), 12)


class Model:
    """A store as simple as it can be: dictionaries, and every rule asked of L{judge}."""

    def __init__(self) -> None:
        self.feeds: dict[bytes, dict[int, Message]] = {}
        self.forked: dict[bytes, int] = {}

    def add(self, message: Message) -> Verdict:
        key, sequence = message.author.raw, message.sequence
        here = self.feeds.get(key, {})
        same, before, after = (here.get(sequence + step) for step in (0, -1, 1))
        forked = self.forked.get(key)
        around = Neighbours(
            same and same.hash, before and before.hash, after and after.previous, forked
        )
        try:
            link = judge(message, around)
        except FeedError as e:
            if same is not None and same.hash != message.hash:
                self.forked[key] = min(sequence, self.forked.get(key, sequence))
            return Verdict.refused(e, message)
        self.feeds.setdefault(key, {})[sequence] = message
        return Verdict.accepted(message, link)

    def rows(self, key: bytes) -> list[tuple[int, bool]]:
        here = self.feeds[key]
        return [
            (n, n == 1 or (n - 1 in here and here[n - 1].hash == message.previous))
            for n, message in sorted(here.items())
        ]

    def state(self) -> dict[bytes, tuple[int, str | None, int]]:
        found = {}
        for key, messages in sorted(self.feeds.items()):
            valid = {n for n, joins in self.rows(key) if joins}
            contiguous = 0
            while contiguous + 1 in valid - {self.forked.get(key)}:
                contiguous += 1
            head = messages[contiguous].hash if contiguous else None
            found[key] = (contiguous, head, max(messages))
        return found


def _with_forks(author: Author, count: int) -> list[Message]:
    """A chain, and beside it a second one that leaves it in the middle."""
    fork = Author("fork")
    fork.identity = author.identity
    fork.messages = author.messages[: count // 2]
    for number in range(count // 2):
        fork.write(f"forked {number}")
    return [*author.messages[:count], *fork.messages[count // 2 :]]


POOL = [*_with_forks(ADA, 8), *_with_forks(BOB, 6)]


def batches(pool: Sequence[Message]) -> Any:
    """Messages of a pool, some twice, some never, in any order, in batches of any size."""
    return st.lists(st.lists(st.sampled_from(pool), max_size=12), max_size=8)


@st.composite
def deliveries(draw: Any) -> list[list[Message]]:
    """All messages of two chains, each at least once, in any order and in any batches."""
    lengths = [draw(st.integers(0, 12)), draw(st.integers(0, 12))]
    chains = [ADA.messages[: lengths[0]], BOB.messages[: lengths[1]]]
    wanted = [message for chain in chains for message in chain]
    again = draw(st.lists(st.sampled_from(wanted), max_size=6)) if wanted else []
    order = draw(st.permutations([*wanted, *again]))
    return draw(chunkings(order, max_cuts=5, empty=True))


def _canonical(connection: sqlite3.Connection) -> list[Any]:
    """What is stored, but for the order of its arrival."""
    return connection.execute(
        "SELECT a.key, a.contiguous, a.head, a.latest, m.sequence, m.hash, m.previous, "
        "m.shown_ns, m.received_ns, m.content_type, m.chain_valid, m.raw "
        "FROM feed_messages m JOIN feed_authors a ON a.id = m.author "
        "ORDER BY a.key, m.sequence"
    ).fetchall()


class Convergence(SynchronousTestCase):
    @given(deliveries())
    def test_any_order_in_any_batches_ends_in_the_same_store(
        self, delivery: list[list[Message]]
    ) -> None:
        connection, expected = fresh(), fresh()
        accepted: list[str | None] = []
        counted = 0
        for batch in delivery:
            stored = store.store_batch(connection, batch, NOW_NS)
            accepted += [v.hash for v in stored.verdicts if v.status == "accepted"]
            self.assertEqual(
                [v.status for v in stored.verdicts if v.status not in ("accepted", "duplicate")],
                [],
            )
            counted += stored.amount.stored
        everything = {m.hash: m for batch in delivery for m in batch}
        in_order = sorted(everything.values(), key=lambda m: (m.author.raw, m.sequence))
        store.store_batch(expected, in_order, NOW_NS)
        self.assertEqual(_canonical(connection), _canonical(expected))
        self.assertEqual(sorted(accepted, key=str), sorted(everything))
        self.assertEqual(counted, len(everything))
        self.assertEqual(store.count_all(connection)[0].stored, counted)

    @given(batches(POOL))
    def test_with_forks_it_does_what_a_simple_model_does(
        self, delivery: list[list[Message]]
    ) -> None:
        connection, model = fresh(), Model()
        for batch in delivery:
            verdicts = store.store_batch(connection, batch, NOW_NS).verdicts
            expected = [model.add(message) for message in batch]
            self.assertEqual(
                [evolve(v, error=None) for v in verdicts],
                [evolve(v, error=None) for v in expected],
            )
            self.assertEqual([type(v.error) for v in verdicts], [type(v.error) for v in expected])
            self.assertEqual(state(connection), model.state())
            for key, messages in model.feeds.items():
                self.assertEqual(feed(connection, key), model.rows(key))
                (contiguous, _, _) = model.state()[key]
                self.assertEqual(
                    store.read_chain(connection, key, 0, 10**9, 10**9),
                    [messages[n + 1].raw for n in range(contiguous)],
                )

    def test_more_messages_than_go_into_one_statement(self) -> None:
        """Rows are gathered; whatever their number, each is stored and can be found."""
        author = Author("prolific")
        author.write_many(2 * store._ROWS + 7)
        connection = fresh()
        store.store_batch(connection, [*author.messages[1:], author.messages[0]], NOW_NS)
        self.assertEqual(store.read_chain(connection, author.key, 0, 10**9, 10**9), author.raws)
        self.assertEqual(found(connection, "number"), len(author.raws))

    def test_a_feed_in_order_goes_in_with_few_statements(self) -> None:
        """... and none of them has more values than old versions of SQLite take."""
        author = Author("orderly")
        author.write_many(600)
        connection = fresh()
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        store.store_batch(connection, author.messages, NOW_NS)
        connection.set_trace_callback(None)
        self.assertEqual(store.read_chain(connection, author.key, 0, 10**9, 10**9), author.raws)
        self.assertEqual(found(connection, "number"), 600)
        inserts = [text for text in statements if text.startswith("INSERT INTO feed_")]
        self.assertLess(len(inserts), 30)


def branch(author: Author, after: int, count: int, word: str) -> list[Message]:
    """Messages that leave a feed: they follow its message C{after}."""
    fork = Author("fork")
    fork.identity = author.identity
    fork.messages = author.messages[:after]
    for number in range(count):
        fork.write(f"{word} {number}")
    return fork.messages[after:]


class Forks(SynchronousTestCase):
    """The rows of the table in docs/protocol/feed.md, one by one."""

    def setUp(self) -> None:
        self.connection = fresh()
        self.other = branch(ADA, 2, 8, "other")

    def put(self, *messages: Message) -> list[Verdict]:
        return ingest(self.connection, *(message.raw for message in messages))

    def frontier(self) -> Frontier:
        (found,) = store.list_frontier(self.connection, [ADA.key], b"", 1)
        return found

    def proof(self) -> ForkProof | None:
        return store.fork_proof(self.connection, ADA.key)

    def served(self) -> list[bytes]:
        return store.read_chain(self.connection, ADA.key, 0, 10**9, 10**9)

    def test_a_second_message_for_a_place_proves_the_fork(self) -> None:
        self.put(*ADA.messages[:5])
        stored = store.store_batch(self.connection, [self.other[1]], NOW_NS)
        (verdict,) = stored.verdicts
        self.assertEqual((verdict.status, type(verdict.error)), ("refused", ForkRefused))
        self.assertEqual((stored.forks, stored.added), ([(ADA.key, 4)], []))
        pair = sorted([ADA.messages[3].raw, self.other[1].raw])
        self.assertEqual(self.proof(), ForkProof(ADA.key, 4, *pair))
        head = bytes.fromhex(ADA.messages[2].hash)
        self.assertEqual(self.frontier(), Frontier(ADA.key, 3, head, 4))
        self.assertEqual(self.served(), ADA.raws[:3])
        self.assertEqual(store.list_heads(self.connection, None, b"", 9), [(ADA.key, 3)])

    def test_a_fork_of_the_first_message_leaves_nothing(self) -> None:
        self.put(*ADA.messages[:3])
        self.put(*branch(ADA, 0, 1, "other"))
        self.assertEqual(self.frontier(), Frontier(ADA.key, 0, None, 1))
        self.assertEqual(self.served(), [])
        self.assertEqual(store.list_heads(self.connection, None, b"", 9), [])

    def test_what_is_stored_from_the_fork_on_is_kept_and_flagged(self) -> None:
        self.put(*ADA.messages[:5])
        self.put(self.other[1])
        listed = search.list_messages(self.connection, search.Filter(), 9)
        self.assertEqual(listed.total, 5)
        found = {row.raw: (row.chain_valid, row.forked) for row in listed.rows}
        for number, raw in enumerate(ADA.raws[:5], 1):
            expected = (True, False) if number < 4 else (False, True)
            self.assertEqual(found[raw], expected, number)
            by_hash = store.message_by_hash(
                self.connection, bytes.fromhex(ADA.messages[number - 1].hash)
            )
            self.assertEqual(by_hash, store.Row(raw, *expected))
        hits = search.rank(self.connection, '"number 5"', search.Filter()).positions
        self.assertEqual(
            search.messages_at(self.connection, hits), [store.Row(ADA.raws[4], False, True)]
        )

    def test_nothing_more_is_taken_from_the_fork_on(self) -> None:
        self.put(*ADA.messages[:5])
        self.put(self.other[1])
        before = list(self.connection.iterdump())
        for message in (ADA.messages[5], self.other[1], self.other[2], *branch(ADA, 4, 1, "x")):
            (verdict,) = self.put(message)
            self.assertIsInstance(verdict.error, ForkRefused)
        (verdict,) = self.put(ADA.messages[4])
        self.assertIsInstance(verdict.error, DuplicateMessage)
        self.assertEqual(list(self.connection.iterdump()), before)

    def test_a_gap_before_the_fork_is_still_filled(self) -> None:
        self.put(ADA.messages[0], *ADA.messages[4:7])
        self.put(*branch(ADA, 5, 1, "other"))
        self.assertEqual(self.frontier(), Frontier(ADA.key, 1, self.hash_of(1), 6))
        self.put(*ADA.messages[1:4])
        self.assertEqual(self.frontier(), Frontier(ADA.key, 5, self.hash_of(5), 6))
        self.assertEqual(self.served(), ADA.raws[:5])

    def hash_of(self, sequence: int) -> bytes:
        return bytes.fromhex(ADA.messages[sequence - 1].hash)

    def test_the_lowest_proof_wins(self) -> None:
        self.put(*ADA.messages[:9])
        for index, lowest in ((4, 7), (6, 7), (2, 5), (3, 5), (0, 3)):
            stored = store.store_batch(self.connection, [self.other[index]], NOW_NS)
            changed = [(ADA.key, lowest)] if index + 3 == lowest else []
            self.assertEqual((index, stored.forks), (index, changed))
            self.assertEqual(
                self.frontier(), Frontier(ADA.key, lowest - 1, self.hash_of(lowest - 1), lowest)
            )
            proof = self.proof()
            assert proof is not None
            self.assertEqual(proof.sequence, lowest)

    def test_a_message_that_names_another_predecessor_is_kept_and_never_counted(self) -> None:
        self.put(*ADA.messages[:4])
        (verdict,) = self.put(self.other[2])
        self.assertEqual(
            (verdict.status, verdict.chain_valid, verdict.disputed), ("accepted", False, 4)
        )
        self.assertEqual(self.frontier(), Frontier(ADA.key, 4, self.hash_of(4), None, disputed=4))
        self.assertEqual(self.served(), ADA.raws[:4])
        self.assertIsNone(self.proof())

    def test_the_message_that_it_names_is_the_proof(self) -> None:
        self.put(*ADA.messages[:4])
        self.put(self.other[2], self.other[1])
        self.assertEqual(self.frontier(), Frontier(ADA.key, 3, self.hash_of(3), 4))

    def test_so_is_another_message_in_its_own_place(self) -> None:
        self.put(*ADA.messages[:4])
        self.put(self.other[2], ADA.messages[4])
        self.assertEqual(self.frontier(), Frontier(ADA.key, 4, self.hash_of(4), 5))

    def test_a_message_that_its_stored_successor_does_not_name_is_kept(self) -> None:
        self.put(*ADA.messages[:3], self.other[2])
        (verdict,) = self.put(ADA.messages[3])
        self.assertEqual(
            (verdict.status, verdict.chain_valid, verdict.disputed), ("accepted", True, 4)
        )
        self.assertEqual(self.frontier(), Frontier(ADA.key, 4, self.hash_of(4), None, disputed=4))

    def test_a_gap_that_closes_joins_no_further_than_the_links_hold(self) -> None:
        self.put(ADA.messages[0], ADA.messages[2], self.other[1], self.other[2])
        self.put(ADA.messages[1])
        self.assertEqual(self.frontier(), Frontier(ADA.key, 3, self.hash_of(3), None, disputed=3))

    def test_an_author_with_a_proof_and_nothing_else_is_known(self) -> None:
        stored = store.prove_fork(self.connection, ADA.messages[2], self.other[0], NOW_NS)
        self.assertEqual((stored.forks, stored.feeds, stored.amount), ([(ADA.key, 3)], 1, Amount()))
        self.assertEqual(self.frontier(), Frontier(ADA.key, 0, None, 3))
        self.assertEqual(store.list_frontier(self.connection, None, b"", 9), [self.frontier()])
        self.put(*ADA.messages[:5])
        self.assertEqual(self.served(), ADA.raws[:2])

    def test_a_proof_that_is_known_changes_nothing(self) -> None:
        self.put(*ADA.messages[:5])
        self.put(self.other[1])
        before = list(self.connection.iterdump())
        for one, other in (
            (ADA.messages[3], self.other[1]),
            (self.other[1], ADA.messages[3]),
            (ADA.messages[4], self.other[2]),
        ):
            stored = store.prove_fork(self.connection, one, other, NOW_NS + 1)
            self.assertEqual(stored.forks, [])
        self.assertEqual(list(self.connection.iterdump()), before)

    def test_what_is_no_proof_is_refused(self) -> None:
        odd = ADA.write("odd", sequence=3, previous=None)
        for one, other in (
            (ADA.messages[2], ADA.messages[2]),
            (ADA.messages[2], ADA.messages[3]),
            (ADA.messages[2], BOB.messages[2]),
            (ADA.messages[2], odd),
            (odd, ADA.messages[2]),
        ):
            with self.assertRaises(ForkUnproven):
                store.prove_fork(self.connection, one, other, NOW_NS)
        self.assertEqual(store.count_all(self.connection), (Amount(), 0, []))

    def test_what_no_feed_could_hold_forks_none(self) -> None:
        self.put(*ADA.messages[:3])
        (verdict,) = self.put(ADA.write("odd", sequence=3, previous=None))
        self.assertIsInstance(verdict.error, InvalidSequence)
        self.assertIsNone(self.proof())

    def test_the_frontier_goes_by_pages(self) -> None:
        self.put(*ADA.messages[:2], *BOB.messages[:3])
        both = sorted([(ADA.key, 2), (BOB.key, 3)])
        found = store.list_frontier(self.connection, None, b"", 9)
        self.assertEqual([(each.author, each.sequence) for each in found], both)
        self.assertEqual(store.list_frontier(self.connection, None, b"", 1), found[:1])
        self.assertEqual(store.list_frontier(self.connection, None, both[0][0], 9), found[1:])
        some = [BOB.key, ADA.key, bytes(32), ADA.key]
        self.assertEqual(store.list_frontier(self.connection, some, b"", 9), found)


class ForksConverge(SynchronousTestCase):
    """
    What is left of a forked feed depends on what was received, and not on the order.
    """

    def end(self, connection: sqlite3.Connection) -> tuple[Any, ...]:
        return (
            store.list_frontier(connection, None, b"", 9),
            store.read_chain(connection, ADA.key, 0, 10**9, 10**9),
            store.fork_proof(connection, ADA.key),
        )

    @given(st.data())
    def test_any_order_of_two_branches_ends_in_the_same_prefix_and_proof(self, data: Any) -> None:
        ours = data.draw(st.sets(st.sampled_from(range(10))), "of ours")
        after = data.draw(st.integers(0, 9), "fork after")
        theirs = data.draw(st.sets(st.sampled_from(range(10 - after))), "of theirs")
        other = branch(ADA, after, 10 - after, "other")
        pool = [ADA.messages[n] for n in sorted(ours)] + [other[n] for n in sorted(theirs)]
        ends = []
        for label in ("one", "other"):
            again = data.draw(st.lists(st.sampled_from(pool), max_size=5)) if pool else []
            order = data.draw(st.permutations([*pool, *again]), label)
            connection = fresh()
            for batch in data.draw(chunkings(order, max_cuts=5, empty=True)):
                store.store_batch(connection, batch, NOW_NS)
            ends.append(self.end(connection))
        self.assertEqual(ends[0], ends[1])
        places = {n + 1 for n in ours} & {after + n + 1 for n in theirs}
        (_, served, proof) = ends[0]
        self.assertEqual(proof and proof.sequence, min(places, default=None))
        self.assertFalse(places and len(served) >= min(places))

    @given(st.integers(0, 8), st.integers(1, 9), st.integers(1, 9), st.data())
    def test_stores_with_a_branch_each_that_exchange_converge(
        self, after: int, ours: int, theirs: int, data: Any
    ) -> None:
        """
        Each tells the other its frontier, its proof and messages of its prefix, as often
        and in whatever order, until neither has news: then both have the same.
        """
        other = branch(ADA, after, theirs, "other")
        # That they are verified before is tested elsewhere.
        known = {message.raw: message for message in (*ADA.messages, *other)}
        stores = [fresh(), fresh()]
        store.store_batch(stores[0], ADA.messages[: min(after + ours, 12)], NOW_NS)
        store.store_batch(stores[1], [*ADA.messages[:after], *other], NOW_NS)

        def tell_proof(a: sqlite3.Connection, b: sqlite3.Connection) -> None:
            proof = store.fork_proof(a, ADA.key)
            if proof is not None:
                store.prove_fork(b, known[proof.one], known[proof.other], NOW_NS)

        def tell(a: sqlite3.Connection, b: sqlite3.Connection, start: int, count: int) -> None:
            raws = store.read_chain(a, ADA.key, max(0, start), 10**9, count)
            store.store_batch(b, [known[raw] for raw in raws], NOW_NS)

        for _ in range(data.draw(st.integers(0, 20), "steps")):
            a, b = stores[:: data.draw(st.sampled_from((1, -1)), "direction")]
            if data.draw(st.booleans(), "proof"):
                tell_proof(a, b)
            else:
                tell(a, b, data.draw(st.integers(0, 12)), data.draw(st.integers(1, 5)))
        # Whatever was drawn: the exchange that a peer makes to the end.
        rounds = 0
        while self.end(stores[0]) != self.end(stores[1]):
            rounds += 1
            self.assertLess(rounds, 40)
            for a, b in (stores, stores[::-1]):
                tell_proof(a, b)
                have, has = _position(b), _position(a)
                tell(a, b, have, 100)
                tell(a, b, min(have, has) - 1, 1)
        (frontier,) = store.list_frontier(stores[0], None, b"", 9)
        self.assertEqual((frontier.sequence, frontier.forked), (after, after + 1))


def _position(connection: sqlite3.Connection) -> int:
    found = store.list_frontier(connection, [ADA.key], b"", 1)
    return found[0].sequence if found else 0


class Own(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()

    def test_an_empty_feed_begins_at_one(self) -> None:
        self.assertEqual(store.own_tail(self.connection, ADA.key), (0, None))

    def test_the_tail_is_the_last_message(self) -> None:
        store.append_own(self.connection, ADA.messages[:3], NOW_NS)
        ingest(self.connection, *BOB.raws[:5])
        self.assertEqual(store.own_tail(self.connection, ADA.key), (3, ADA.messages[2].hash))

    def test_a_sequence_number_beyond_a_gap_is_not_used_again(self) -> None:
        """
        After a restored backup, others may give back the end of our feed before the
        middle: writing on from the middle would make a fork.
        """
        ingest(self.connection, *ADA.raws[:2], ADA.raws[6])
        self.assertEqual(store.own_tail(self.connection, ADA.key), (7, ADA.messages[6].hash))

    def test_a_feed_that_is_forked_has_no_next_message(self) -> None:
        ingest(self.connection, *ADA.raws[:3])
        ingest(self.connection, *(m.raw for m in branch(ADA, 1, 1, "other")))
        with self.assertRaisesRegex(FeedForked, "two messages 2 of this node's feed"):
            store.own_tail(self.connection, ADA.key)

    def test_a_message_that_does_not_fit_raises(self) -> None:
        store.append_own(self.connection, ADA.messages[:2], NOW_NS)
        fork = ADA.write("fork", sequence=2, previous=ADA.messages[0].hash)
        self.assertRaises(
            ForkRefused, store.append_own, self.connection, [ADA.messages[2], fork], NOW_NS
        )


class ByHash(SynchronousTestCase):
    def test_a_message_that_is_not_there(self) -> None:
        self.assertIsNone(store.message_by_hash(fresh(), bytes(32)))


class Pages(SynchronousTestCase):
    """What other nodes are served."""

    def setUp(self) -> None:
        self.connection = fresh()
        ingest(self.connection, *ADA.raws, *BOB.raws[:4])

    def read(self, after: int, max_bytes: int = 10**9, max_messages: int = 10**9) -> list[bytes]:
        return store.read_chain(self.connection, ADA.key, after, max_bytes, max_messages)

    def test_a_page_follows_a_sequence(self) -> None:
        self.assertEqual(self.read(0), ADA.raws)
        self.assertEqual(self.read(9), ADA.raws[9:])
        self.assertEqual(self.read(12), [])
        self.assertEqual(self.read(MAX_SEQUENCE), [])

    def test_a_page_has_at_most_so_many_messages(self) -> None:
        self.assertEqual(self.read(3, max_messages=4), ADA.raws[3:7])

    def test_a_page_has_at_most_so_many_bytes(self) -> None:
        two = len(ADA.raws[0]) + len(ADA.raws[1])
        self.assertEqual(self.read(0, max_bytes=two), ADA.raws[:2])
        self.assertEqual(self.read(0, max_bytes=two - 1), ADA.raws[:1])

    def test_a_page_has_at_least_one_message(self) -> None:
        self.assertEqual(self.read(0, max_bytes=1), ADA.raws[:1])

    def test_an_unknown_author_has_no_messages(self) -> None:
        self.assertEqual(store.read_chain(self.connection, bytes(32), 0, 10**6, 9), [])

    def test_heads_come_page_by_page_in_the_order_of_keys(self) -> None:
        heads = sorted([(ADA.key, 12), (BOB.key, 4)])
        self.assertEqual(store.list_heads(self.connection, None, b"", 10), heads)
        self.assertEqual(store.list_heads(self.connection, None, b"", 1), heads[:1])
        self.assertEqual(store.list_heads(self.connection, None, heads[0][0], 1), heads[1:])
        self.assertEqual(store.list_heads(self.connection, None, heads[1][0], 1), [])

    def test_heads_of_named_authors_are_sorted_too(self) -> None:
        heads = sorted([(ADA.key, 12), (BOB.key, 4)])
        asked = [BOB.key, bytes(32), ADA.key]
        self.assertEqual(store.list_heads(self.connection, asked, b"", 1), heads)
        self.assertEqual(store.list_heads(self.connection, [], b"", 1), [])
