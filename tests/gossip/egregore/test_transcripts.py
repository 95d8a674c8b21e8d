"""
Sessions with Egregore's own program, byte for byte: C{transcripts/}.

What it sent is taken as it came, and what was said to it is made again from what it says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.gossip.egregore import wire
from meshkit.identity.keys import Identity
from meshkit.shs.egregore import EgregoreClient, EgregoreServer, network_capability
from meshkit.shs.egregore_stream import MessageOpener, MessageSealer, record, split
from meshkit.shs.handshake import Outcome
from tests.interop.egregore_peer import Peer, is_good

FOLDER = Path(__file__).parent / "transcripts"

#: What was said, in order, by us (>) and by their program (<).
SAID = {
    "client": "> have, < have, > want, < messages, < done, < want, > messages, > done, "
    "> subscribe, < subscribeack, > push, > credit_request, < credit_grant",
    "server": "< have, > have, < want, > messages, > done, > want, < messages, < done, "
    "< subscribe, > subscribeack, > push, > credit_request, < credit_grant",
}


class Transcript:
    """One file."""

    def __init__(self, role: str) -> None:
        self.told = json.loads((FOLDER / f"{role}.json").read_text("utf-8"))
        self.role = role
        self.pieces = [(who, bytes.fromhex(text)) for who, text in self.told["bytes"]]

    @property
    def ours(self) -> bytes:
        return b"".join(data for who, data in self.pieces if who == "ours")

    @property
    def theirs(self) -> bytes:
        return b"".join(data for who, data in self.pieces if who == "theirs")

    def handshake(self) -> Any:
        kind = EgregoreClient if self.role == "client" else EgregoreServer
        return kind(
            Identity(bytes.fromhex(self.told["seed"])),
            network_capability(self.told["network"]),
            bytes.fromhex(self.told["ephemeral"]),
        )

    def shake(self, size: int = 10_000) -> tuple[bytes, Outcome, bytes]:
        """@return: what we send until the stream begins, its keys, and what came of it."""
        handshake = self.handshake()
        sent, outcome, rest = handshake.start(), None, b""
        data = self.theirs
        for at in range(0, len(data), size):
            if outcome is not None:
                rest += data[at : at + size]
                continue
            step = handshake.receive(data[at : at + size])
            sent += step.send
            outcome, rest = step.outcome, step.rest
            if step.peer is not None:
                answer, outcome = handshake.accept()
                sent += answer
        assert outcome is not None
        return sent, outcome, rest


class TranscriptTests(SynchronousTestCase):
    def test_our_side_is_what_we_say_today(self) -> None:
        for role in SAID:
            transcript = Transcript(role)
            for size in (1, 10_000):
                sent, outcome, _ = transcript.shake(size)
                self.assertEqual(outcome.peer.text, transcript.told["peer"])
                self.assertEqual(transcript.ours[: len(sent)], sent)
            # Their program opened these frames: they are made again from what they say.
            stream = transcript.ours[len(sent) :]
            opener = MessageOpener(outcome.encrypt_key, outcome.encrypt_nonce)
            opener.feed(stream)
            messages = split(opener.read())
            self.assertTrue(opener.ended)
            sealer = MessageSealer(outcome.encrypt_key, outcome.encrypt_nonce)
            again = b"".join(sealer.box(record(message)) for message in messages)
            self.assertEqual(again + sealer.goodbye(), stream)

    def test_their_side_is_understood(self) -> None:
        for role, said in SAID.items():
            transcript = Transcript(role)
            sent, outcome, rest = transcript.shake()
            opener = MessageOpener(outcome.decrypt_key, outcome.decrypt_nonce)
            opener.feed(rest)
            theirs = split(opener.read())
            kinds = [json.loads(message)["type"] for message in theirs]
            self.assertEqual(kinds, [k[2:] for k in said.split(", ") if k[0] == "<"])
            for message in theirs:
                decoded = wire.decode(message)
                if isinstance(decoded, wire.Messages):
                    for raw in decoded.messages:
                        self.assertIsNotNone(wire.place_of(bytes(raw)))
                        self.assertTrue(is_good(json.loads(bytes(raw))))

    def test_the_independent_peer_reads_and_says_the_same(self) -> None:
        # So the tests that use it in the place of a node of theirs mean something.
        for role, said in SAID.items():
            transcript = Transcript(role)
            peer = Peer(
                role,
                transcript.told["network"],
                bytes.fromhex(transcript.told["seed"]),
                bytes.fromhex(transcript.told["ephemeral"]),
            )
            peer.feed(transcript.theirs)
            self.assertEqual(peer.remote, transcript.told["peer"])
            kinds = [message["type"] for message in peer.inbox]
            self.assertEqual(kinds, [k[2:] for k in said.split(", ") if k[0] == "<"])
            sent = peer.take()
            self.assertEqual(transcript.ours[: len(sent)], sent)
            _, outcome, _ = transcript.shake()
            opener = MessageOpener(outcome.encrypt_key, outcome.encrypt_nonce)
            opener.feed(transcript.ours[len(sent) :])
            for message in split(opener.read()):
                peer.say_bytes(message)
            peer.goodbye()
            self.assertEqual(sent + peer.take(), transcript.ours)
