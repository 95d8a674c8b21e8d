"""The client in memory, where it is more than what the other tests use it for."""

from __future__ import annotations

from meshkit.web.mcp import McpRefused, Tool, connect, text_result
from tests.web.mcp.support import ANYTHING, SUM, Case


class MemoryTests(Case):
    def test_a_result_that_is_not_of_its_schema_is_noticed(self) -> None:
        wrong = text_result("", {"sum": "three"})
        self.bench.server.add_tool(
            Tool("liar", "", ANYTHING, lambda a, c: wrong, output_schema=SUM)
        )
        for client in self.both():
            self.successResultOf(client.call("liar"))
            client.tools()
            self.failureResultOf(client.call("liar"), AssertionError)
            # What failed has no schema to keep to.
            self.assertIs(self.successResultOf(client.call("refuse"))["isError"], True)

    def test_a_request_can_be_cancelled_by_its_deferred(self) -> None:
        for client in self.both():
            d = client.call("wait")
            d.cancel()
            self.failureResultOf(d)
        self.assertEqual(self.bench.cancelled, 2)

    def test_an_error_carries_its_code_and_data(self) -> None:
        client = self.client()
        d = client.request("resources/read", {"uri": "test://nowhere"})
        error = self.failureResultOf(d, McpRefused).value
        self.assertEqual((error.rpc_code, error.data), (-32002, {"uri": "test://nowhere"}))

    def test_a_list_that_is_refused_is_noticed(self) -> None:
        client = connect(self.bench.server)
        self.assertRaises(AssertionError, client.tools)
        self.flushLoggedErrors()
