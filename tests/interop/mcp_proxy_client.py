"""
The official Python client of MCP, version 2, as a program that launches C{meshkit mcp} and does
what it is told.

Runs in an environment of its own, without meshkit: C{mcp_proxy_client.py MODE PROGRAM
ARGUMENT...}.  For each line of JSON on its standard input it prints one::

    ["hello"]                  -> [version, [tool, ...]]
    ["call", name, arguments]  -> what the tool answers with
    ["told"]                   -> once the list of tools has changed: how often that was told
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import anyio
import anyio.to_thread
from mcp import Client, StdioServerParameters


async def main() -> None:
    mode, program, *arguments = sys.argv[1:]
    told = 0
    heard = anyio.Event()

    def tell() -> None:
        nonlocal told
        told += 1
        heard.set()

    async def on_message(message: Any) -> None:
        if type(message).__name__ == "ToolListChangedNotification":
            tell()

    server = StdioServerParameters(command=program, args=arguments, env=dict(os.environ))
    async with (
        Client(server, mode=mode, message_handler=on_message) as client,
        anyio.create_task_group() as tasks,
    ):

        async def listen(task_status: Any) -> None:
            async with client.listen(tools_list_changed=True) as subscription:
                task_status.started()
                async for event in subscription:
                    assert type(event).__name__ == "ToolsListChanged", event
                    tell()

        if client.protocol_version == "2026-07-28":
            await tasks.start(lambda task_status: listen(task_status))
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            what, *more = json.loads(line)
            if what == "hello":
                names, page = [], await client.list_tools()
                names += [tool.name for tool in page.tools]
                while page.next_cursor is not None:
                    page = await client.list_tools(cursor=page.next_cursor)
                    names += [tool.name for tool in page.tools]
                answer: Any = [client.protocol_version, names]
            elif what == "call":
                result = await client.call_tool(more[0], more[1])
                assert not result.is_error, result
                answer = result.structured_content
            else:
                await heard.wait()
                heard = anyio.Event()
                answer = told
            print(json.dumps(answer), flush=True)
        tasks.cancel_scope.cancel()


anyio.run(main)
