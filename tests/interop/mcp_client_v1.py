"""
The official Python client of MCP, version 1, which knows the handshake generation only.

Runs in an environment of its own, without meshkit: C{mcp_client_v1.py URL}, or
C{mcp_client_v1.py stdio PROGRAM ARGUMENT...}.  It prints what it saw, as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import anyio
from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


async def main() -> dict[str, Any]:
    where, *program = sys.argv[1:]
    seen: list[str] = []
    steps: list[tuple[float, float | None, str | None]] = []

    async def on_message(message: Any) -> None:
        seen.append(type(getattr(message, "root", message)).__name__)

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total, message))

    async def on_elicitation(context: Any, params: Any) -> Any:
        return types.ElicitResult(action="accept", content={"name": "Heron"})

    async with AsyncExitStack() as stack:
        if where == "stdio":
            parameters = StdioServerParameters(
                command=program[0], args=program[1:], env={"PYTHONPATH": "."}
            )
            streams = await stack.enter_async_context(stdio_client(parameters))
        else:
            streams = await stack.enter_async_context(streamable_http_client(where))
        client = await stack.enter_async_context(
            ClientSession(
                streams[0],
                streams[1],
                message_handler=on_message,
                elicitation_callback=on_elicitation,
            )
        )
        started = await client.initialize()
        tools = (await client.list_tools()).tools
        simple = await client.call_tool("test_simple_text", {})
        await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
        wrong = await client.call_tool("json_schema_2020_12_tool", {"name": 7})
        try:
            await client.read_resource("test://nowhere")
            unknown = 0
        except McpError as e:
            unknown = e.error.code
        asked = await client.call_tool("test_input_required_result_elicitation", {})
        await client.call_tool("test_trigger_tool_change", {})
        with anyio.fail_after(20):
            while "ToolListChangedNotification" not in seen:
                await anyio.sleep(0.01)
        after = (await client.list_tools()).tools
        # This version sends no cancellation of its own: it has to be said.
        ended = []

        async def wait_for_ever() -> None:
            try:
                await client.call_tool("wait_for_ever", {})
            except McpError as e:
                ended.append(e.error.code)

        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_ever)
            await anyio.sleep(0.3)
            cancel = types.CancelledNotification(
                params=types.CancelledNotificationParams(requestId=client._request_id - 1)
            )
            await client.send_notification(types.ClientNotification(cancel))
            cancelled = "0"
            with anyio.move_on_after(20):
                while cancelled == "0":
                    cancelled = (await client.call_tool("count_cancelled", {})).content[0].text
            # Over HTTP there has to be an answer, and over stdio there must be none.
            with anyio.move_on_after(20):
                while where != "stdio" and not ended:
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        return {
            "version": started.protocolVersion,
            "server": started.serverInfo.name,
            "tools": [tool.name for tool in tools],
            "simple": simple.content[0].text,
            "steps": steps,
            "wrong": wrong.isError,
            "unknown": unknown,
            "asked": asked.content[0].text,
            "more": len(after) - len(tools),
            "cancelled": cancelled,
            "ended": ended,
        }


print(json.dumps(anyio.run(main)))
