"""What C{examples/mcp_server.py} shows, with clients in memory."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.web.mcp import MemoryClient, connect
from tests.examples.support import load

example = load("mcp_server.py")


class TimerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        timers = example.Timers(self.clock)
        self.server = example.make_server(self.clock, timers, Random(3))

    def client(self, stateless: bool = False) -> MemoryClient:
        client = connect(self.server, stateless=stateless)
        if not stateless:
            client.initialize()
        # Their schemas are then compared with what the tools give.
        client.tools()
        return client

    def result(self, d: Any) -> Any:
        return self.successResultOf(d)["structuredContent"]

    def test_a_timer_is_set_and_waited_for(self) -> None:
        for stateless in (False, True):
            client = self.client(stateless)
            d = client.call("timer_set", {"name": "eggs", "seconds": 2.5})
            self.assertEqual(self.result(d), {"name": "eggs", "left": 2.5})
            client.notifications.clear()
            waiting = client.call("timer_wait", {"name": "eggs"}, progressToken="t")
            self.clock.pump([1.0, 1.0, 0.5])
            self.assertEqual(self.result(waiting), {"name": "eggs", "left": 0.0})
            told = [
                each["params"]["progress"]
                for each in client.notifications
                if each["method"] == "notifications/progress"
            ]
            self.assertEqual(told, [0, 1, 2])

    def test_a_timer_that_is_not_there_and_one_that_makes_no_sense(self) -> None:
        client = self.client()
        result = self.successResultOf(client.call("timer_wait", {"name": "eggs"}))
        self.assertEqual(
            result["content"][0]["text"], "there is no timer 'eggs': set it first [NOT_FOUND]"
        )
        for wrong in ({"name": "eggs"}, {"name": "", "seconds": 1}, {"name": "x", "seconds": 0}):
            result = self.successResultOf(client.call("timer_set", wrong))
            self.assertIs(result["isError"], True)

    def test_waiting_can_be_cancelled(self) -> None:
        client = self.client()
        client.call("timer_set", {"name": "eggs", "seconds": 60})
        client.call("timer_wait", {"name": "eggs"})
        client.cancel(client.last_id)
        self.assertEqual(self.server.calls, 0)
        self.clock.advance(2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_others_hear_of_it(self) -> None:
        ada, bob = self.client(), self.client()
        self.successResultOf(bob.request("resources/subscribe", {"uri": "timer://eggs"}))
        ada.call("timer_set", {"name": "eggs", "seconds": 60})
        self.assertEqual(
            [each["method"] for each in bob.notifications],
            ["notifications/tools/list_changed", "notifications/resources/updated"],
        )
        self.assertIn("Running now: eggs", bob.tools()[0]["description"])
        read = self.successResultOf(bob.request("resources/read", {"uri": "timer://eggs"}))
        self.assertEqual(json.loads(read["contents"][0]["text"]), {"name": "eggs", "left": 60.0})
        read = self.successResultOf(bob.request("resources/read", {"uri": "timer://"}))
        self.assertEqual(json.loads(read["contents"][0]["text"]), {"eggs": 60.0})
