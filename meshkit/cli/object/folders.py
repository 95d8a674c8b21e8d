"""C{meshkit object encode} and C{decode}: shares in folders, with no node, peer or network."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from random import SystemRandom
from typing import Any, BinaryIO, Final

import click
from attrs import frozen

from meshkit.cli.locate import open_folder
from meshkit.cli.object.keys import key_path, read_key, write_key
from meshkit.cli.object.whole_files import STANDARD, Behind, Together, write_whole
from meshkit.cli.output import json_option, line, print_json
from meshkit.errors import (
    ConfigError,
    NotEnoughShares,
    NotFound,
    ObjectMalformed,
    SharesInvalid,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.runtime.keyring import load_storage_secret
from meshkit.storage import share_files, zfec_files
from meshkit.storage.capability import ReadCapability
from meshkit.storage.codecs import AUTOMATIC, CODECS, choose_codec
from meshkit.storage.encoding import Cutter, Decoder, EncodedSegment, Encoder, WholeDecoder
from meshkit.storage.header import Header, new_content_key, new_upload
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import placement_seed
from meshkit.storage.scheme import MAX_SHARES, Scheme
from meshkit.storage.share_files import ShareFile, Shares, ShareWriter, share_file_name
from meshkit.storage.zfec_files import (
    HEADER_BYTES,
    PIECE_BYTES,
    ZfecHeader,
    decode_shares,
    encode_shares,
    share_name,
)
from meshkit.tap.passphrase import ask_new, read_from

DEFAULT_SCHEME: Final = "6+3"
#: Read from the input at a time.
_CHUNK: Final = 1024 * 1024
#: Pieces of each zfec file that are read at a time.
_PIECES: Final = 64


def _codec_option(command: Any) -> Any:
    return click.option(
        "--codec",
        type=click.Choice((AUTOMATIC, *CODECS)),
        default=AUTOMATIC,
        help="What computes the shares; all make the same ones [default: the fastest].",
    )(command)


def _key_option(command: Any) -> Any:
    return click.option(
        "--key-file",
        type=click.Path(dir_okay=False),
        help="Where the key is [default: in the data folder, by the object's id].",
    )(command)


# --- encode ------------------------------------------------------------------------


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "--scheme",
    default=DEFAULT_SCHEME,
    metavar="K+M",
    help=f"Shares that suffice, and how many more [default: {DEFAULT_SCHEME}].",
)
@_key_option
@click.option("--passphrase", is_flag=True, help="Put the key under a passphrase; asks for it.")
@click.option(
    "--passphrase-fd",
    type=int,
    metavar="N",
    help="The same, with the passphrase from a file descriptor.",
)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="ID",
    help="Seal the key for this identity; may be given again.",
)
@click.option(
    "--zfec", "plain", is_flag=True, help="Make files for the program zfec: NOT encrypted."
)
@_codec_option
@json_option
@click.pass_obj
def encode(
    flag: str | None,
    file: str,
    folder: str,
    scheme: str,
    key_file: str | None,
    passphrase: bool,
    passphrase_fd: int | None,
    recipients: Sequence[str],
    plain: bool,
    codec: str,
    as_json: bool,
) -> None:
    """
    Seal FILE (- for stdin) and cut it into shares in FOLDER.

    Each share is a file that stands for itself: keep them in different places, under any
    names. Any 6 of 9, if nothing else is said, and the key give FILE again; fewer, or
    without the key, give nothing. The key is not in FOLDER: it goes into the data folder,
    or where --key-file says. Keep a copy of it; nobody can make it anew.
    """
    shape = Scheme.parse(scheme)
    if plain:
        if key_file or passphrase or passphrase_fd is not None or recipients:
            raise click.UsageError("files for zfec are not encrypted: there is no key.")
        _tell_zfec(_encode_zfec(file, folder, shape, codec), as_json)
        return
    people = [PublicKey.parse(each) for each in recipients]
    if key_file is not None and os.path.lexists(key_file):
        raise ConfigError(f"{key_file} exists: a key is never put in the place of another")
    under = None
    if passphrase_fd is not None:
        under = read_from(passphrase_fd)
    elif passphrase:
        under = ask_new("Passphrase for the key")
    rng = SystemRandom()

    def keep_key(capability: ReadCapability) -> str:
        path = key_file or key_path(flag, capability.content_id)
        write_key(path, capability, rng, under, people)
        return path

    secret = load_storage_secret(open_folder(flag), rng)
    done = _encode(file, folder, shape, choose_codec(codec), rng, secret, keep_key)
    content_id = done.manifest.content_id.hex()
    if as_json:
        print_json(
            {
                "object": content_id,
                "bytes": done.manifest.length,
                "scheme": shape.text,
                "shares": done.paths,
                "key_file": os.path.abspath(done.key_file),
            }
        )
        return
    line(f"Object {content_id}, {done.manifest.length} bytes.")
    line(f"Wrote {len(done.paths)} shares into {folder}; any {shape.required} suffice.")
    line(f"The key is in {done.key_file}. Keep a copy of it apart from the shares.")


@frozen
class _Encoded:
    manifest: Manifest
    paths: list[str]
    key_file: str


def _encode(
    file: str,
    folder: str,
    scheme: Scheme,
    codec: Any,
    rng: SystemRandom,
    secret: bytes,
    keep_key: Callable[[ReadCapability], str],
) -> _Encoded:
    """
    @param secret: of the owner of objects.
    @param keep_key: makes the key durable, and says where.
    """
    upload, key = new_upload(rng), new_content_key(rng)
    placement = Identity(placement_seed(secret, upload)).public
    header = Header.new(scheme, upload, placement, key, rng)
    names = [share_file_name(number, scheme.total) for number in range(scheme.total)]
    with _input(file) as source, Together.open(folder, names, share_files.SUFFIX) as output:
        with ExitStack() as stack:
            writers = [
                ShareWriter(number, share, stack.enter_context(output.waiting(number)))
                for number, share in enumerate(output.files)
            ]

            behind = stack.enter_context(Behind())

            def write(segment: EncodedSegment) -> None:
                behind.do(partial(_write_blocks, writers, segment))

            encoder = Encoder(header, key, codec, lambda number, nodes: writers[number].keep(nodes))
            cutter = Cutter(scheme)
            for chunk in _chunks(source):
                for text in cutter.feed(chunk):
                    write(encoder.encode(text, False))
            write(encoder.encode(cutter.finish(), True))
            manifest = encoder.finish()
            behind.wait()
            for writer in writers:
                writer.finish(manifest)
        output.sync()
        # Shares without a key are of no use: they have no names before it is there.
        path = keep_key(ReadCapability(manifest.content_id, key))
        return _Encoded(manifest, output.commit(), path)


def _write_blocks(writers: Sequence[ShareWriter], segment: EncodedSegment) -> None:
    for writer, block in zip(writers, segment.blocks, strict=True):
        writer.write(block)


def _encode_zfec(file: str, folder: str, scheme: Scheme, codec: str) -> list[str]:
    if file == STANDARD:
        raise click.UsageError("zfec has to know the length first: give it a file.")
    prefix = os.path.basename(file)
    names = [share_name(prefix, number, scheme.total) for number in range(scheme.total)]
    with _input(file) as source, Together.open(folder, names, zfec_files.SUFFIX) as output:
        size = os.fstat(source.fileno()).st_size
        pieces = encode_shares(
            choose_codec(codec), scheme.required, scheme.total, size, _chunks(source)
        )
        for more in pieces:
            for share, piece in zip(output.files, more, strict=True):
                share.write(piece)
        output.sync()
        return output.commit()


def _tell_zfec(paths: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json({"shares": paths})
    else:
        line(f"Wrote {len(paths)} files for zunfec. They are not encrypted.")


@contextmanager
def _input(file: str) -> Iterator[BinaryIO]:
    if file == STANDARD:
        yield sys.stdin.buffer
    else:
        with open(file, "rb") as opened:
            yield opened


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


# --- decode ------------------------------------------------------------------------


@click.command()
@click.argument("shares", nargs=-1, required=True, type=click.Path(exists=True))
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write into this file, which must not exist; - for the standard output.",
)
@_key_option
@click.option(
    "--passphrase-fd",
    type=int,
    metavar="N",
    help="File descriptor with the passphrase of the key [default: asked for].",
)
@_codec_option
@json_option
@click.pass_obj
def decode(
    flag: str | None,
    shares: Sequence[str],
    output: str,
    key_file: str | None,
    passphrase_fd: int | None,
    codec: str,
    as_json: bool,
) -> None:
    """
    Put a file together again from SHARES: files, or folders of them.

    Folders are looked through with all that is in them, so they may be those of storage
    peers, copied from their disks. Shares that were changed or are of another object are
    named and done without, as long as enough are good. Files of the program zfec are read
    too; in those a change is noticed only if there are more than are needed, and none is
    put up with.
    """
    if as_json and output == STANDARD:
        raise click.UsageError("--json goes to the standard output: write the file elsewhere.")
    paths, suffix = _found(shares)
    capability = None
    if suffix == share_files.SUFFIX and key_file is not None:
        capability = read_key(flag, key_file, passphrase_fd)
    if suffix == share_files.SUFFIX and len(paths) > MAX_SHARES:
        paths = _of_one_object(paths, None if capability is None else capability.content_id)
    with ExitStack() as stack:
        files = [(path, stack.enter_context(open(path, "rb"))) for path in paths]
        if suffix == zfec_files.SUFFIX:
            if key_file is not None:
                raise click.UsageError("files of zfec are not encrypted: there is no key.")
            found = _decode_zfec(files, output, codec)
        else:
            found = _decode(flag, files, output, capability, passphrase_fd, codec)
    if as_json:
        print_json(found)
        return
    for fault in found.get("faults", []):
        click.echo(f"Done without: {fault['problem']}", err=True)
    if output != STANDARD:
        line(f"Wrote {output}, {found['bytes']} bytes.")


def _found(shares: Sequence[str]) -> tuple[list[str], str]:
    """@return: files of shares, all of one kind, and the kind, by its suffix."""
    given = [path for path in shares if not os.path.isdir(path)]
    listed = [
        os.path.join(folder, name)
        for top in shares
        if os.path.isdir(top)
        for folder, _, names in sorted(os.walk(top, onerror=_raise))
        for name in sorted(names)
    ]
    for suffix in (share_files.SUFFIX, zfec_files.SUFFIX):
        of_kind = [path for path in listed if path.endswith(suffix)]
        if of_kind or any(path.endswith(suffix) for path in given):
            return given + of_kind, suffix
    if not given:
        raise NotFound(f"there are no shares in {', '.join(shares)}")
    # Shares may be called anything.
    return given, share_files.SUFFIX


def _raise(error: OSError) -> None:
    raise error


def _of_one_object(paths: Sequence[str], content_id: bytes | None) -> list[str]:
    """
    An object does not have so many shares, and not all files can be open at once.

    @param content_id: the object that is wanted; without it, what most files are of.
    @return: those that say that they are of this object.
    """
    said: dict[str, bytes] = {}
    for path in paths:
        with open(path, "rb") as file, suppress(ObjectMalformed):
            said[path] = ShareFile(path, file).manifest.content_id
    if content_id is None and said:
        ((content_id, _),) = Counter(said.values()).most_common(1)
    chosen = [path for path, of in said.items() if of == content_id]
    if not chosen:
        raise NotEnoughShares(f"none of {len(paths)} files is a share of the object")
    return chosen


def _decode(
    flag: str | None,
    files: Sequence[tuple[str, BinaryIO]],
    output: str,
    capability: ReadCapability | None,
    passphrase_fd: int | None,
    codec: str,
) -> dict[str, Any]:
    found = Shares.gather(files, None if capability is None else capability.content_id)
    manifest = found.manifest
    if capability is None:
        capability = read_key(flag, key_path(flag, manifest.content_id), passphrase_fd)
    whole = WholeDecoder(manifest, Decoder(manifest, capability.key, choose_codec(codec)))

    def texts() -> Iterator[bytes]:
        for segment in range(manifest.layout.segments):
            yield found.read(segment, whole.decode).text
        whole.finish()

    written = write_whole(output, texts())
    return {
        "object": manifest.content_id.hex(),
        "bytes": written,
        "faults": [{"file": fault.name, "problem": fault.problem} for fault in found.faults],
    }


def _decode_zfec(files: Sequence[tuple[str, BinaryIO]], output: str, codec: str) -> dict[str, Any]:
    headers = []
    for path, file in files:
        try:
            header, length = ZfecHeader.parse(file.read(HEADER_BYTES))
        except SharesInvalid as e:
            raise SharesInvalid(f"{path}: {e}") from None
        headers.append(header)
        file.seek(length)

    def batches() -> Iterator[list[bytes]]:
        while True:
            batch = [file.read(_PIECES * PIECE_BYTES) for _, file in files]
            if not any(batch):
                return
            yield batch

    return {"bytes": write_whole(output, decode_shares(choose_codec(codec), headers, batches()))}
