"""What a node lends follows from its settings and what was said at its door, also later."""

from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest, StorageConfigured
from meshkit.storage.keeper.lending import MIGRATIONS, Lending, read, write

GB = 10**9

_steps = st.lists(
    st.sampled_from(["draining", "left", "again"])
    | st.integers(1, 5).map(lambda count: count * GB),
    max_size=8,
)


def _said(lending: Lending) -> Lending:
    """What is found by the next run of the node."""
    connection = sqlite3.connect(":memory:")
    for script in MIGRATIONS:
        connection.executescript(script)
    write(connection, lending)
    return Lending.of(lending.configured, read(connection))


class LendingTests(SynchronousTestCase):
    def test_a_new_node_lends_nothing(self) -> None:
        new = Lending.of(0, None)
        self.assertEqual((new.state, new.capacity, new.source), ("none", 0, None))
        self.assertFalse(new.keeps)
        with self.assertRaisesRegex(InvalidRequest, "how many bytes"):
            new.connected(None)

    def test_what_was_said_at_the_door_holds(self) -> None:
        lending = _said(Lending.of(0, None).connected(10 * GB))
        self.assertEqual(
            (lending.state, lending.capacity, lending.source), ("lending", 10 * GB, "connect")
        )
        self.assertEqual(_said(lending.connected(5 * GB)).capacity, 5 * GB)
        self.assertEqual(lending.connected(None), lending)

    def test_who_drains_keeps_what_is_there_and_who_has_left_keeps_nothing(self) -> None:
        lending = Lending.of(0, None).connected(GB)
        draining = _said(lending.draining())
        self.assertEqual((draining.state, draining.capacity), ("draining", GB))
        self.assertTrue(draining.keeps)
        gone = _said(draining.left())
        self.assertEqual((gone.state, gone.capacity, gone.source), ("left", 0, None))
        self.assertFalse(gone.keeps)
        self.assertEqual(gone.draining(), gone)

    def test_who_comes_back_lends_as_much_as_before(self) -> None:
        gone = _said(Lending.of(0, None).connected(GB).left())
        self.assertEqual(gone.connected(None).capacity, GB)

    def test_the_configuration_goes_first_and_the_door_says_whether(self) -> None:
        lending = Lending.of(3 * GB, None)
        self.assertEqual((lending.state, lending.source), ("lending", "config"))
        with self.assertRaisesRegex(StorageConfigured, "change it there"):
            lending.connected(GB)
        drained = _said(lending.draining())
        self.assertEqual(drained.state, "draining")
        self.assertEqual(drained.connected(3 * GB), lending)
        self.assertEqual(drained.connected(None), lending)

    def test_what_is_taken_out_of_the_configuration_is_not_lent(self) -> None:
        drained = Lending.of(3 * GB, None).draining()
        later = Lending.of(0, (drained.state, drained.said))
        self.assertEqual((later.state, later.capacity), ("none", 0))

    def test_a_number_said_before_holds_again_when_the_configuration_has_none(self) -> None:
        said = Lending.of(0, None).connected(GB)
        with_setting = Lending.of(3 * GB, (said.state, said.said))
        self.assertEqual((with_setting.capacity, with_setting.source), (3 * GB, "config"))
        self.assertEqual(Lending.of(0, (said.state, said.said)), said)

    @given(st.sampled_from([0, 3 * GB]), _steps)
    def test_whatever_is_said_a_restart_changes_nothing(
        self, configured: int, steps: list[object]
    ) -> None:
        lending = Lending.of(configured, None)
        for step in steps:
            try:
                if isinstance(step, int):
                    lending = lending.connected(step)
                elif step == "again":
                    lending = lending.connected(None)
                else:
                    lending = lending.draining() if step == "draining" else lending.left()
            except (StorageConfigured, InvalidRequest):
                continue
            self.assertEqual(_said(lending), lending)
            self.assertEqual(bool(lending.capacity), lending.keeps)
