"""
A node of Egregore, as its wire sheet describes generation W2.

It shares no code with meshkit: only PyNaCl's bindings and the standard library.  It does no
I/O of its own, so that the same peer sits in memory under virtual time and on a socket::

    peer = Peer("client", "the network string", seed, ephemeral)
    peer.feed(bytes that came)      peer.take() -> bytes to be sent
    peer.inbox                      the messages that came, decoded
    peer.say({"type": "done"})      send one

C{Replica} is the behaviour of a node on top of it: it replicates what it holds, judges what
it gets as their nodes do, and pushes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from nacl import bindings

ZERO = bytes(12)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def chacha(key: bytes, text: bytes) -> bytes:
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(text, None, ZERO, key)


def unchacha(key: bytes, sealed: bytes) -> bytes:
    return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, None, ZERO, key)


def id_of(seed: bytes) -> str:
    public, _ = bindings.crypto_sign_seed_keypair(seed)
    return f"@{base64.b64encode(public).decode()}.ed25519"


def sign(seed: bytes, data: bytes) -> bytes:
    _, secret = bindings.crypto_sign_seed_keypair(seed)
    return bindings.crypto_sign(data, secret)[:64]


class Cipher:
    """One direction of the stream."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self.key = key
        self.nonce = int.from_bytes(nonce, "big")

    def turn(self) -> bytes:
        nonce = self.nonce.to_bytes(24, "big")
        self.nonce = (self.nonce + 1) % 2**192
        return nonce

    def seal(self, text: bytes) -> bytes:
        return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            text, None, self.turn(), self.key
        )

    def open(self, sealed: bytes) -> bytes:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed, None, self.turn(), self.key
        )


class Peer:
    """
    The handshake and the stream.

    @ivar inbox: what came, decoded, oldest first.
    @ivar remote: the id of the other side, once it is proved.
    @ivar ended: it said goodbye.
    """

    def __init__(self, role: str, network: str, seed: bytes, ephemeral: bytes) -> None:
        self.role = role
        self.seed = seed
        self.cap = sha(network.encode())
        self.ephemeral = ephemeral
        self.public = bindings.crypto_scalarmult_base(ephemeral)
        self.inbox: list[Any] = []
        self.remote: str | None = None
        self.ended = False
        self._out = bytearray()
        self._in = bytearray()
        self._state = "hello"
        self._part = b""
        if role == "client":
            self._out += self._hello()

    def _hello(self) -> bytes:
        return self.public + hmac.new(self.cap, self.public, "sha256").digest()

    def take(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out

    def feed(self, data: bytes) -> None:
        self._in += data
        while self._step():
            pass

    def _cut(self, size: int) -> bytes | None:
        if len(self._in) < size:
            return None
        cut = bytes(self._in[:size])
        del self._in[:size]
        return cut

    def _step(self) -> bool:
        if self._state == "hello":
            hello = self._cut(64)
            if hello is None:
                return False
            self.theirs = hello[:32]
            mac = hmac.new(self.cap, self.theirs, "sha256").digest()
            assert hmac.compare_digest(mac, hello[32:]), "the hello is of another network"
            self.shared = bindings.crypto_scalarmult(self.ephemeral, self.theirs)
            self.sh = sha(self.cap, self.shared)
            if self.role == "server":
                self._out += self._hello()
            else:
                self._out += self._auth()
            self._state = "auth"
            return True
        if self._state == "auth":
            auth = self._cut(116)
            if auth is None:
                return False
            assert auth[:4] == (112).to_bytes(4, "big"), auth[:4]
            other = b"server" if self.role == "client" else b"client"
            opened = unchacha(sha(self.sh, b"handshake-" + other + b"-auth"), auth[4:])
            signature, key = opened[:64], opened[64:]
            bindings.crypto_sign_open(signature + self.cap + self.public + sha(self.shared), key)
            self.remote = f"@{base64.b64encode(key).decode()}.ed25519"
            if self.role == "server":
                self._out += self._auth()
            self._open_stream()
            self._state = "open"
            return True
        if self._state != "open" or len(self._in) < 4:
            return False
        size = int.from_bytes(self._in[:4], "big")
        assert 34 <= size <= 65536, size
        if len(self._in) < 4 + size:
            return False
        self._cut(4)
        frame = self._cut(size)
        assert frame is not None
        header = self.reading.open(frame[:34])
        if header == bytes(18):
            self.ended = True
            self._state = "ended"
            return False
        body = self.reading.open(frame[34:] + header[2:])
        assert len(body) == int.from_bytes(header[:2], "big") <= 4096
        self._part += body[1:]
        assert len(self._part) <= 131072
        if body[0] == 0:
            self.inbox.append(json.loads(self._part))
            self._part = b""
        else:
            assert body[0] == 1, body[0]
        return True

    def _auth(self) -> bytes:
        signature = sign(self.seed, self.cap + self.theirs + sha(self.shared))
        key = base64.b64decode(id_of(self.seed)[1:-8])
        name = b"handshake-" + self.role.encode() + b"-auth"
        return (112).to_bytes(4, "big") + chacha(sha(self.sh, name), signature + key)

    def _open_stream(self) -> None:
        mine, yours = b"client-to-server", b"server-to-client"
        if self.role == "server":
            mine, yours = yours, mine
        self.writing = Cipher(sha(self.cap, self.shared, mine), sha(self.public)[:24])
        self.reading = Cipher(sha(self.cap, self.shared, yours), sha(self.theirs)[:24])

    @property
    def open(self) -> bool:
        return self._state == "open"

    def say(self, message: Any) -> None:
        self.say_bytes(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())

    def say_bytes(self, data: bytes) -> None:
        chunks = [data[at : at + 4095] for at in range(0, len(data), 4095)] or [b""]
        for number, chunk in enumerate(chunks, 1):
            body = (b"\0" if number == len(chunks) else b"\1") + chunk
            # The header is sealed under the earlier nonce and names the body's tag.
            header_nonce = self.writing.turn()
            sealed = self.writing.seal(body)
            header = len(body).to_bytes(2, "big") + sealed[-16:]
            sealed_header = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
                header, None, header_nonce, self.writing.key
            )
            frame = sealed_header + sealed[:-16]
            self._out += len(frame).to_bytes(4, "big") + frame

    def goodbye(self) -> None:
        sealed = self.writing.seal(bytes(18))
        self._out += len(sealed).to_bytes(4, "big") + sealed


# --- messages ----------------------------------------------------------------------


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [sorted_keys(item) for item in value]
    return value


OPTIONAL = ("schema_id", "relates", "tags", "trace_id", "span_id", "expires_at")


def unsigned(message: dict[str, Any]) -> dict[str, Any]:
    """What the hash is made of, in its order."""
    signed = {
        "author": message["author"],
        "sequence": message["sequence"],
        "previous": message["previous"],
        "timestamp": message["timestamp"],
        "content": sorted_keys(message["content"]),
    }
    return signed | {name: message[name] for name in OPTIONAL if message.get(name)}


def write(
    seed: bytes,
    sequence: int,
    previous: str | None,
    content: Any,
    timestamp: str = "2026-01-01T00:00:00Z",
    **optional: Any,
) -> dict[str, Any]:
    """A signed message."""
    message = unsigned(
        {
            "author": id_of(seed),
            "sequence": sequence,
            "previous": previous,
            "timestamp": timestamp,
            "content": content,
            **optional,
        }
    )
    digest = hashlib.sha256(compact(message).encode()).hexdigest()
    signature = base64.b64encode(sign(seed, digest.encode())).decode()
    return message | {"hash": digest, "signature": signature}


def chain(seed: bytes, contents: list[Any], **optional: Any) -> list[dict[str, Any]]:
    """A feed from its beginning."""
    feed: list[dict[str, Any]] = []
    for content in contents:
        previous = feed[-1]["hash"] if feed else None
        feed.append(write(seed, len(feed) + 1, previous, content, **optional))
    return feed


def is_good(message: dict[str, Any]) -> bool:
    """Hash and signature."""
    signed = unsigned(message)
    digest = hashlib.sha256(compact(signed).encode()).hexdigest()
    key = base64.b64decode(message["author"][1:-8])
    signature = base64.b64decode(message["signature"])
    try:
        bindings.crypto_sign_open(signature + digest.encode(), key)
    except Exception:
        return False
    return bool(digest == message["hash"])


# --- a node -----------------------------------------------------------------------


class Replica:
    """
    What a node does on a connection, message by message, as their sheet says.

    @ivar feeds: author -> sequence -> message.
    @ivar follows: the authors that it asks for; L{None} for all.
    @ivar topics: what it subscribes to.
    @ivar pushes: it accepts a live connection, or asks for one.
    @ivar credits: how many messages it may still push.
    @ivar got: the messages that came, in order, also those it refused.
    @ivar refused: what it did not store.
    @ivar refuses: judges contents, as their schemas do.
    """

    def __init__(self, peer: Peer, *, pushes: bool = True) -> None:
        self.peer = peer
        self.feeds: dict[str, dict[int, dict[str, Any]]] = {}
        self.follows: set[str] | None = None
        self.topics: list[str] = []
        self.pushes = pushes
        self.credits = 100
        self.live = False
        self.accepted: bool | None = None
        self.got: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []
        self.have: dict[str, Any] | None = None
        self.wanted: list[tuple[str, int]] = []
        self.said: list[str] = []
        self._seen = 0
        self._started = False
        self._step = "have"

    def hold(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            self.feeds.setdefault(message["author"], {})[message["sequence"]] = message

    def contiguous(self, author: str) -> int:
        feed, sequence = self.feeds.get(author, {}), 0
        while sequence + 1 in feed:
            sequence += 1
        return sequence

    def refuses(self, message: dict[str, Any]) -> bool:
        content = message["content"]
        if message.get("schema_id"):
            return False
        return not isinstance(content, dict) or not isinstance(content.get("type"), str)

    def feed(self, data: bytes) -> bytes:
        """@return: what to send."""
        self.peer.feed(data)
        if self.peer.open and not self._started:
            self._started = True
            if self.peer.role == "client":
                self._tell()
        while self._seen < len(self.peer.inbox):
            message = self.peer.inbox[self._seen]
            self._seen += 1
            self.said.append(message["type"])
            self._received(message)
        return self.peer.take()

    def _tell(self) -> None:
        feeds = [
            {"author": author, "latest_sequence": max(feed)} for author, feed in self.feeds.items()
        ]
        have: dict[str, Any] = {"type": "have", "feeds": feeds}
        # What other nodes of theirs add, and what nobody needs to know.
        have["peer_observations"] = []
        if self.topics:
            have["subscribed_topics"] = self.topics
        self.peer.say(have)

    def _received(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self.live:
            self._live(message)
        elif self._step == "have":
            assert kind == "have", kind
            self.have = message
            if self.peer.role == "client":
                self._ask()
            else:
                self._tell()
                self._step = "want"
        elif self._step == "take":
            if kind == "messages":
                for each in message["messages"]:
                    self.store(each)
            else:
                assert kind == "done", kind
                self._step = "want" if self.peer.role == "client" else "offer"
        elif self._step == "want":
            assert kind == "want", kind
            self.wanted = [(r["author"], r["after_sequence"]) for r in message["requests"]]
            self._serve()
            if self.peer.role == "server":
                self._ask()
            elif self.pushes:
                self.peer.say({"type": "subscribe", "mode": "persistent"})
                self._step = "answer"
            else:
                self.peer.goodbye()
        elif self._step == "offer":
            assert kind == "subscribe", kind
            self.accepted = self.pushes
            mode = "persistent" if self.pushes else "pull_only"
            self.peer.say({"type": "subscribeack", "accepted": self.pushes, "mode": mode})
            self.live = self.pushes
            if not self.pushes:
                self.peer.goodbye()
        elif self._step == "answer":
            assert kind == "subscribeack", kind
            self.accepted = self.live = message["accepted"]
            if not self.live:
                self.peer.goodbye()

    def _ask(self) -> None:
        assert self.have is not None
        requests = [
            {"author": state["author"], "after_sequence": self.contiguous(state["author"])}
            for state in self.have["feeds"]
            if (self.follows is None or state["author"] in self.follows)
            and state["latest_sequence"] > self.contiguous(state["author"])
        ]
        self.peer.say({"type": "want", "requests": requests})
        self._step = "take"

    def _serve(self) -> None:
        for author, after in self.wanted[:500]:
            page: list[dict[str, Any]] = []
            size = 40
            for sequence in sorted(self.feeds.get(author, {})):
                if sequence <= after:
                    continue
                text = self.feeds[author][sequence]
                cost = len(compact(text).encode()) + 2
                if page and size + cost > 3800:
                    self.peer.say({"type": "messages", "messages": page})
                    page, size = [], 40
                page.append(text)
                size += cost
            if page:
                self.peer.say({"type": "messages", "messages": page})
        self.peer.say({"type": "done"})

    def store(self, message: dict[str, Any]) -> None:
        self.got.append(message)
        feed = self.feeds.setdefault(message["author"], {})
        sequence = message["sequence"]
        before, behind = feed.get(sequence - 1), feed.get(sequence + 1)
        good = (
            sequence not in feed
            and not self.refuses(message)
            and is_good(message)
            and (sequence == 1) is (message["previous"] is None)
            and (before is None or before["hash"] == message["previous"])
            and (behind is None or behind["previous"] == message["hash"])
        )
        if good:
            feed[sequence] = message
        else:
            self.refused.append(message)

    def _live(self, message: dict[str, Any]) -> None:
        if message["type"] == "push":
            self.store(message["message"])
        elif message["type"] == "credit_request":
            self.peer.say({"type": "credit_grant", "amount": min(message["suggested"], 50)})
        elif message["type"] == "credit_grant":
            self.credits = min(self.credits + message["amount"], 10_000)

    def push(self, message: dict[str, Any]) -> bool:
        """Publish: @return: was there a credit for pushing it?"""
        self.hold([message])
        if not self.live or self.credits < 1:
            return False
        self.credits -= 1
        self.peer.say({"type": "push", "message": message})
        return True
