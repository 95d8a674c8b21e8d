"""
The official Python SDK's MCP server with the same tool, under uvicorn as it comes.

For the Python of C{.ci/tools bench}: knows nothing of ours.  It answers with JSON and not
with streams, which is the faster of its two ways.
"""

import asyncio
import json
import signal
import socket
import sys
import threading

import uvicorn
from mcp.server import MCPServer

LIFETIME = 300

server = MCPServer("bench")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def main() -> None:
    signal.alarm(LIFETIME)
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = server.streamable_http_app(json_response=True)
    serving = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))

    def answer() -> None:
        for line in sys.stdin:
            done = url if json.loads(line)["job"] == "listen" else None
            print(json.dumps({"done": done}), flush=True)
        serving.should_exit = True

    threading.Thread(target=answer, daemon=True).start()
    asyncio.run(serving.serve(sockets=[listening]))


if __name__ == "__main__":
    main()
