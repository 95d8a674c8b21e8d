"""
The official Python client of MCP, version 2, put through what a client does.

Runs in an environment of its own, without meshkit: C{mcp_client.py MODE URL}, or
C{mcp_client.py MODE stdio PROGRAM ARGUMENT...}.  It prints what it saw, as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError


async def wait_until_told(client: Any, seen: list[str]) -> str:
    """Have the list of tools changed, and hear of it in the way of the generation."""
    if client.protocol_version == "2026-07-28":
        async with client.listen(tools_list_changed=True) as subscription:
            await client.call_tool("test_trigger_tool_change", {})
            async for event in subscription:
                return type(event).__name__
        return "the subscription ended"
    # The stream for what belongs to no call is opened by the client in its own time; what
    # happened before is told when it is there.
    await client.call_tool("test_trigger_tool_change", {})
    with anyio.fail_after(20):
        while "ToolListChangedNotification" not in seen:
            await anyio.sleep(0.01)
    return "ToolListChangedNotification"


async def main() -> dict[str, Any]:
    mode, where, *program = sys.argv[1:]
    seen: list[str] = []
    steps: list[tuple[float, float | None, str | None]] = []

    async def on_message(message: Any) -> None:
        seen.append(type(message).__name__)

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total, message))

    async def on_elicitation(context: Any, params: Any) -> Any:
        return types.ElicitResult(action="accept", content={"name": "Heron"})

    server: Any = where
    if where == "stdio":
        server = StdioServerParameters(
            command=program[0], args=program[1:], env={"PYTHONPATH": "."}
        )
    async with Client(
        server, mode=mode, message_handler=on_message, elicitation_callback=on_elicitation
    ) as client:
        tools = (await client.list_tools()).tools
        simple = await client.call_tool("test_simple_text", {})
        await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
        wrong = await client.call_tool("json_schema_2020_12_tool", {"name": 7})
        try:
            await client.call_tool("no_such_tool", {})
            unknown = 0
        except MCPError as e:
            unknown = e.error.code
        asked = await client.call_tool("test_input_required_result_elicitation", {})
        told = await wait_until_told(client, seen)
        after = (await client.list_tools()).tools
        resource = await client.read_resource("test://template/7/data")
        prompt = await client.get_prompt("test_simple_prompt")
        with anyio.move_on_after(0.3):
            await client.call_tool("wait_for_ever", {})
        cancelled = "0"
        with anyio.move_on_after(20):
            while cancelled == "0":
                cancelled = (await client.call_tool("count_cancelled", {})).content[0].text
        return {
            "version": client.protocol_version,
            "server": client.server_info.name if client.server_info else None,
            "tools": [tool.name for tool in tools],
            "simple": simple.content[0].text,
            "steps": steps,
            "wrong": wrong.is_error,
            "unknown": unknown,
            "asked": asked.content[0].text,
            "told": told,
            "more": len(after) - len(tools),
            "resource": resource.contents[0].text,
            "prompt": prompt.messages[0].content.text,
            "cancelled": cancelled,
        }


print(json.dumps(anyio.run(main)))
