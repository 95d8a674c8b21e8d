"""The vectors in C{docs/protocol/object.md}."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto.merkle import TreeBuilder
from meshkit.crypto.shamir import combine_parts, split_key
from meshkit.crypto.stream import StreamKeys
from meshkit.crypto.wrap import KeyFile
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.passphrase import Cost
from meshkit.storage.capability import ReadCapability, RepairCapability
from meshkit.storage.erasure import PythonCodec
from meshkit.storage.header import Header
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import Placed, PlacementDocument, placement_seed
from meshkit.storage.scheme import Layout, Scheme
from tests.storage.objects import seal_text

PAGE = Path(__file__).parents[2] / "docs" / "protocol" / "object.md"
TEXT = bytes(range(256)) * 40
CHEAP = Cost(1, 8)


def key_vectors(content_id: bytes, key: bytes) -> dict[str, bytes | str]:
    """@return: those of wrapped keys."""
    reader = Identity(bytes([9]) * 32)
    file = KeyFile.wrap(
        content_id, key, _Draws(bytes([8]) * 16, bytes([10]) * 32), "heron", [reader.public], CHEAP
    )
    assert file.passphrase is not None
    parts = split_key(key, 2, 3, _Draws(bytes([11]) * 8, bytes([12]) * 32))
    assert file.open_as(reader) == file.open_with("heron") == combine_parts(parts[1:]).key == key
    return {
        "commit of the passphrase": file.passphrase.commit,
        "sealed under the passphrase": file.passphrase.sealed,
        "Ed25519 key of the recipient": reader.public.raw,
        "sealed for the recipient": file.recipients[0].sealed,
        "part 1": parts[0].text,
        "part 2": parts[1].text,
        "part 3": parts[2].text,
    }


class _Draws(Random):
    """Gives what the page says instead of what is random."""

    def __init__(self, *draws: bytes) -> None:
        super().__init__()
        self._draws = iter(draws)

    def randbytes(self, n: int) -> bytes:
        drawn = next(self._draws)
        assert len(drawn) == n
        return drawn


def vectors() -> dict[str, str]:
    """@return: what the page has, made with meshkit."""
    secret, upload, salt, content_key = (bytes([n]) * 32 for n in (1, 2, 3, 4))
    prefix, scheme = bytes([5]) * 7, Scheme(2, 3, 4096)
    seed = placement_seed(secret, upload)
    placement = Identity(seed)
    keys = StreamKeys.derive(content_key, salt, b"meshkit/object/1")
    header = Header(scheme, upload, placement.public, salt, keys.commitment, prefix)
    layout = Layout(scheme, len(TEXT))
    sealed, root = seal_text(header, content_key, TEXT)
    shares = [b"", b"", b""]
    code = PythonCodec().code(2, 3)
    for number, segment in enumerate(sealed):
        size = layout.block_bytes(number)
        padded = segment.ljust(2 * size, b"\x00")
        blocks = [padded[:size], padded[size:]]
        blocks += code.encode(blocks)
        shares = [share + bytes(block) for share, block in zip(shares, blocks, strict=True)]
    roots = []
    for share in shares:
        tree = TreeBuilder()
        tree.update(share)
        roots.append(tree.finish())
    manifest = Manifest(header, len(TEXT), root, tuple(roots))
    placed = Placed(PublicKey(bytes([7]) * 32), 1_800_000_000)
    document = PlacementDocument(manifest.content_id, 1, (placed, None, None))
    repair = RepairCapability(manifest.content_id, seed)
    found: dict[str, bytes | str] = {
        "storage secret": secret,
        "upload": upload,
        "salt": salt,
        "content key": content_key,
        "prefix": prefix,
        "SHA-256 of the text": sha256(TEXT).digest(),
        "placement seed": seed,
        "placement": placement.public.raw,
        "key": keys.key,
        "commitment": keys.commitment,
        "header": header.raw,
        "SHA-256 of the header": header.digest,
        "SHA-256 of sealed segment 0": sha256(sealed[0]).digest(),
        "SHA-256 of sealed segment 1": sha256(sealed[1]).digest(),
        "root": root,
        "SHA-256 of share 0": sha256(shares[0]).digest(),
        "SHA-256 of share 2": sha256(shares[2]).digest(),
        "root of share 0": roots[0],
        "root of share 1": roots[1],
        "root of share 2": roots[2],
        "manifest": manifest.raw,
        "content id": manifest.content_id,
        "share id of share 0": header.share_id(0),
        "share id of share 2": header.share_id(2),
        "payload of the placement document": document.payload,
        "SHA-256 of the placement document": sha256(document.sign(placement)).digest(),
        "read": ReadCapability(manifest.content_id, content_key).text,
        "verify": repair.verify.text,
        "repair": repair.text,
        **key_vectors(manifest.content_id, content_key),
    }
    return {name: value if isinstance(value, str) else value.hex() for name, value in found.items()}


def show(found: dict[str, str]) -> str:
    """Each in lines of 96 characters at most."""
    lines = []
    for name, value in found.items():
        lines.append(f"{name} =")
        lines += [f"  {value[at : at + 94]}" for at in range(0, len(value), 94)]
    return "\n".join(lines)


class Vectors(SynchronousTestCase):
    def test_the_page_has_what_is_computed(self) -> None:
        """This form, once published, is read for ever."""
        blocks = re.findall(r"```text\n(.*?)\n```", PAGE.read_text("utf-8"), re.DOTALL)
        self.assertEqual(blocks[-1].splitlines(), show(vectors()).splitlines())
