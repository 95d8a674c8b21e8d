"""What takes long to try of L{meshkit.rpc}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.rpc.test_protocol import messages_leave_nothing


class LeakTests(SynchronousTestCase):
    def test_a_hundred_thousand_messages_leave_nothing(self) -> None:
        messages_leave_nothing(self, 1_000)
