"""What is measured with: messages of about 880 bytes that look like notes, from a seed."""

from __future__ import annotations

import random
from typing import Final

import msgspec

from meshkit.feed.message import sign_message
from meshkit.identity.keys import Identity

SEED: Final = 1
#: Words of a note.  With them a signed message has about 880 bytes.
_WORDS: Final = 58
#: Different words of all notes, before the one that each note has for itself.
_VOCABULARY: Final = 5_000
_FIRST_NS: Final = 1_760_000_000_000_000_000


def own_word(number: int) -> str:
    """The word that occurs in this note and in no other."""
    return f"needle{number}"


def contents(count: int, first: int = 0) -> list[bytes]:
    """Notes as JSON texts: the same ones for the same numbers, whenever and wherever."""
    rng = random.Random(SEED)
    vocabulary = [
        "".join(rng.choices("aeiourstlnmdkgbp", k=rng.randint(2, 11))) for _ in range(_VOCABULARY)
    ]
    # A few words are everywhere and most are rare, as in any language (Zipf's law).
    weights = [1 / rank for rank in range(1, _VOCABULARY + 1)]
    texts = []
    for number in range(first, first + count):
        words = random.Random(number).choices(vocabulary, weights, k=_WORDS)
        texts.append(
            msgspec.json.encode(
                {
                    "type": "insight",
                    "title": " ".join(words[:6]),
                    "observation": f"{' '.join(words[6:])} {own_word(number)}",
                    "confidence": 0.75,
                }
            )
        )
    return texts


def signed(texts: list[bytes]) -> list[bytes]:
    """The same notes as the raw messages of one feed."""
    identity = Identity(random.Random(SEED).randbytes(32))
    raws = []
    previous = None
    for sequence, text in enumerate(texts, 1):
        message = sign_message(
            identity,
            sequence=sequence,
            previous=previous,
            timestamp_ns=_FIRST_NS + sequence * 1_000_000,
            content=msgspec.json.decode(text),
        )
        raws.append(message.raw)
        previous = message.hash
    return raws
