"""
A STUN server (RFC 8489) for the tests: it tells whoever asks from where that came.

    python stun_server.py PORT

The codec is aioice's, and so another one than our own.
"""

from __future__ import annotations

import socket
import sys

from aioice import stun


def main(port: str) -> None:
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("", int(port)))
    print("ready", flush=True)
    while True:
        data, source = listening.recvfrom(2_048)
        asked = stun.parse_message(data)
        answer = stun.Message(
            asked.message_method,
            stun.Class.RESPONSE,
            asked.transaction_id,
            {"XOR-MAPPED-ADDRESS": source},
        )
        listening.sendto(bytes(answer), source)


main(*sys.argv[1:])
