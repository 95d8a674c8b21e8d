"""
Publish a message on your node and search it, from a program of your own.

Run it with the data folder of a node that is running::

    python examples/ask_a_node.py ~/.local/share/meshkit "what I learned today"
"""

import json
import sys
from pathlib import Path

import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import react


async def main(folder: Path, text: str) -> None:
    # The node writes down where it listens, and keeps the token that opens its door.
    door = json.loads((folder / "endpoints.json").read_text())["api"][0]
    token = (folder / "door.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}

    content = {"type": "message", "text": text}
    response = await treq.post(f"{door}/v1/publish", json={"content": content}, headers=headers)
    published = await response.json()
    if not published["success"]:
        sys.exit(published["error"]["message"])
    # Answered means: signed, numbered and synced to the disk.
    print("published", published["data"]["hash"])

    response = await treq.get(f"{door}/v1/insights/search", params={"q": text}, headers=headers)
    found = await response.json()
    for message in found["data"]:
        print("found    ", message["hash"], "by", message["author"])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} DATA_FOLDER TEXT")
    job = main(Path(sys.argv[1]), sys.argv[2])
    react(lambda reactor: Deferred.fromCoroutine(job))
