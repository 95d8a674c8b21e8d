"""
C{meshkit dht}: finding and publishing in the hash table.

What nodes publish there is written by anybody in the network; what is printed of it goes
through L{meshkit.cli.output}.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO, Final

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json, table, visible
from meshkit.cli.spans import span
from meshkit.errors import InvalidRequest, NotFound, RecordNotPlaced, RecordTooLarge
from meshkit.kademlia.operations import MAX_VALUE

#: Kinds that are found by what they are, or whose they are, and not by a name one chooses.
_NAMED_BY_THEMSELVES: Final = ("mutable", "immutable")
_STDIN: Final = "-"
#: What C{--if-unchanged} takes for: there must not be any.
_NOTHING: Final = "none"


@click.group()
def dht() -> None:
    """
    Find peers and records in the hash table, and publish there.

    \b
    KIND        NAME                           what it is
    topic       any text                       an entry of each author under a topic
    mutable     the id of its owner            what its owner says now, replaced at will
    immutable   SHA-256 of the value, in hex   a value that never changes
    provider    id of some content, in hex     who has that content
    address     the id of a peer               where it can be reached

    Example: meshkit dht put topic birds "a grey heron at the weir"
    """


def _salted(command: Any) -> Any:
    return click.option(
        "--salt",
        default="",
        metavar="TEXT",
        help="Which of the mutable items of one owner [default: the one without].",
    )(command)


# --- records ---------------------------------------------------------------------------


@dht.command()
@click.argument("kind")
@click.argument("name", required=False)
@_salted
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write the value of the one record there is to FILE, or - for standard output.",
)
@json_option
@click.pass_obj
def get(
    flag: str | None, kind: str, name: str | None, salt: str, output: str | None, as_json: bool
) -> None:
    """
    Find the records of KIND with NAME.

    Without NAME it is your own mutable item. Whatever is shown was signed by the owner that
    stands above it; it is what others wrote all the same.

    Example: meshkit dht get topic birds
    """

    async def job(door: Door) -> Any:
        return (await door.get(await _path(door, kind, name), salt=salt)).data

    found = ask(flag, job)
    records: list[Any] = found["records"]
    if output is not None:
        _write(records, output)
    elif as_json:
        print_json(found)
    else:
        for record in records:
            _print_record(record)
        if not records:
            line(_nothing("Nothing found", found["lookup"]))
    if not as_json:
        _warn_if_crowded(found["lookup"])


async def _path(door: Door, kind: str, name: str | None) -> str:
    """Where the records of a name are, at the door."""
    return f"/v1/dht/records/{segment(kind)}/{segment(await _name(door, kind, name))}"


async def _name(door: Door, kind: str, name: str | None) -> str:
    if name is not None:
        return name
    if kind != "mutable":
        raise click.UsageError(f"Give the NAME of the {kind} records.")
    own: str = (await door.get("/v1/identity")).data["public_id"]
    return own


def _write(records: Sequence[Any], output: str) -> None:
    """The value of the only record, byte for byte."""
    if not records:
        raise NotFound("nothing was found")
    if len(records) > 1:
        raise InvalidRequest(
            f"there are {len(records)} records, and a file has room for the value of one: "
            "use --json"
        )
    value = base64.b64decode(records[0]["value"])
    if output == _STDIN:
        sys.stdout.buffer.write(value)
        sys.stdout.flush()
    else:
        Path(output).write_bytes(value)
        line(f"{_bytes(len(value))} are in {output}")


def _print_record(record: Any) -> None:
    about = [record["owner"], f"until {record['expires']}"]
    if record["salt"]:
        about.insert(1, f"salt {record['salt']}")
    if record["kind"] == "mutable":
        about.append(f"version {_version(record)}")
    line("  ".join(about))
    text, size = record["text"], len(base64.b64decode(record["value"]))
    if not size:
        line("  (empty)")
    elif record["kind"] == "address":
        line("  (where it can be reached: see find-peer)")
    elif text is None:
        line(f"  ({_bytes(size)} that are no text: see --output)")
    else:
        for each in text.splitlines():
            line(f"  {each}")


def _version(record: Any) -> str:
    """What C{--if-unchanged} takes."""
    return f"{record['sequence']}:{record['digest']}"


@dht.command()
@click.argument("kind")
@click.argument("words", metavar="[NAME] [VALUE|-]", nargs=-1)
@click.option(
    "--file", type=click.File("rb"), metavar="FILE", help="Publish what is in FILE, text or not."
)
@_salted
@click.option(
    "--expires",
    type=span,
    metavar="TIME",
    help="Publish it for so long, such as 12h or 30d [default: until it is withdrawn].",
)
@click.option(
    "--if-unchanged",
    "unchanged",
    metavar="VERSION",
    help="Only where VERSION, as get prints it, is still there; none: only where nothing is.",
)
@json_option
@click.pass_obj
def put(
    flag: str | None,
    kind: str,
    words: tuple[str, ...],
    file: BinaryIO | None,
    salt: str,
    expires: int | None,
    unchanged: str | None,
    as_json: bool,
) -> None:
    """
    Publish a record of KIND under NAME, and go on doing so.

    VALUE is a text of at most 32 KiB, - for standard input. A mutable item is found by your own
    id and an immutable one by its SHA-256, so that these have no NAME to give.

    \b
    Examples:
    meshkit dht put topic birds "a grey heron at the weir"
    meshkit dht put mutable "at home" --salt status
    meshkit dht put immutable --file photo.jpg
    """
    name, given = _words(kind, words, file)
    body: dict[str, Any] = {"kind": kind, "salt": salt}
    if name is not None:
        body["name"] = name
    if file is not None:
        body |= _content(file.read(MAX_VALUE + 1))
    elif given == _STDIN:
        body |= _content(sys.stdin.buffer.read(MAX_VALUE + 1))
    elif given is not None:
        body |= _content(given.encode("utf-8"))
    if expires is not None:
        body["expires_secs"] = expires
    if unchanged is not None:
        body |= _expected(unchanged)

    async def job(door: Door) -> Any:
        return (await door.post("/v1/dht/records", body)).data

    _print_placed(ask(flag, job), salt, as_json)


def _words(
    kind: str, words: tuple[str, ...], file: BinaryIO | None
) -> tuple[str | None, str | None]:
    """@return: name and value, as far as they are given."""
    room = 2 if file is None else 1
    if len(words) > room:
        raise click.UsageError("Give a NAME and a VALUE, or a NAME and --file.")
    if kind in _NAMED_BY_THEMSELVES:
        if len(words) < room - 1:
            raise click.UsageError("Give a VALUE, or - for standard input, or --file.")
        if file is not None:
            return (words[0] if words else None), None
        return (words[0] if len(words) == 2 else None), words[-1]
    if not words:
        raise click.UsageError(f"Give the NAME by which the {kind} record is to be found.")
    if len(words) == 1 and file is None and kind != "provider":
        raise click.UsageError("Give a VALUE as well, '' for none, or - or --file.")
    return words[0], words[1] if len(words) == 2 else None


def _content(value: bytes) -> dict[str, str]:
    """
    @raise RecordTooLarge: it is larger than any record may be.
    """
    if len(value) > MAX_VALUE:
        raise RecordTooLarge(
            f"the value is larger than the {MAX_VALUE} bytes of a record: put it elsewhere, and "
            "publish where it is"
        )
    return {"value": base64.b64encode(value).decode("ascii")}


def _expected(version: str) -> dict[str, Any]:
    if version == _NOTHING:
        return {"swap_sequence": 0}
    sequence, _, digest = version.partition(":")
    if not sequence.isascii() or not sequence.isdigit() or not digest:
        raise click.BadParameter(
            f"{version!r} is no version: copy it from 'meshkit dht get mutable', or write "
            f"{_NOTHING}",
            param_hint="--if-unchanged",
        )
    return {"swap_sequence": int(sequence), "swap_digest": digest}


def _print_placed(placed: Any, salt: str, as_json: bool) -> None:
    """
    @raise RecordNotPlaced: nobody keeps it; it is published all the same.
    """
    if as_json:
        print_json(placed)
    kept, asked = placed["accepted"], placed["asked"]
    if not kept:
        raise RecordNotPlaced(
            f"it is published, but {_nobody(placed)}; this node tries again as soon as it knows "
            "others, and every hour for as long as it runs"
        )
    if as_json:
        return
    words = ["get", placed["kind"]] if placed["kind"] != "provider" else ["providers"]
    words.append(quote(placed["name"]))
    words += ["--salt", quote(salt)] if salt else []
    line(f"Published; kept by {kept} of {_count(asked, 'node')}.")
    problems = _problems(placed["refused"])
    if problems:
        line(f"Not kept: {problems}.")
    line(f"Found with: meshkit dht {' '.join(words)}")
    _warn_if_crowded(placed["lookup"])


def _nobody(placed: Any) -> str:
    if not placed["asked"]:
        return "no other node is known that could keep it"
    problems = _problems(placed["refused"])
    return f"none of the {_count(placed['asked'], 'node')} asked keeps it ({problems})"


def _problems(refused: Mapping[str, int]) -> str:
    """Why records are not kept, such as "2 x no answer, 1 x RECORD_QUOTA"."""
    return ", ".join(f"{count} x {code or 'no answer'}" for code, count in sorted(refused.items()))


@dht.command()
@click.argument("kind")
@click.argument("name", required=False)
@_salted
@json_option
@click.pass_obj
def withdraw(flag: str | None, kind: str, name: str | None, salt: str, as_json: bool) -> None:
    """
    Take back a record that this node has published.

    Without NAME it is your own mutable item. Nodes that do not hear of it keep what they have
    until it expires, within a day.

    Example: meshkit dht withdraw topic birds
    """

    async def job(door: Door) -> Any:
        return (await door.delete(await _path(door, kind, name), salt=salt)).data

    placed = ask(flag, job)
    if as_json:
        print_json(placed)
        return
    told = f"{placed['accepted']} of {_count(placed['asked'], 'node')}"
    line(f"Withdrawn: {told} heard of it, and let it go within a minute.")
    problems = _problems(placed["refused"])
    if problems:
        line(f"Not told: {problems}. What they keep goes within a day.")


# --- who has what ------------------------------------------------------------------------


@dht.command()
@click.argument("content")
@json_option
@click.pass_obj
def providers(flag: str | None, content: str, as_json: bool) -> None:
    """
    Find out who has CONTENT, an id in hex.

    Where one of them can be reached: meshkit dht find-peer ID

    Example: meshkit dht providers $(sha256sum photo.jpg | cut -c1-64)
    """

    async def job(door: Door) -> Any:
        return (await door.get(f"/v1/dht/providers/{segment(content)}")).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
        return
    for each in found["providers"]:
        line("  ".join((each["public_id"], f"until {each['expires']}", *each["addresses"])))
    if not found["providers"]:
        line(_nothing("Nobody says that he has it", found["lookup"]))
    _warn_if_crowded(found["lookup"])


@dht.command()
@click.argument("content")
@json_option
@click.pass_obj
def provide(flag: str | None, content: str, as_json: bool) -> None:
    """
    Say that this node has CONTENT, an id in hex.

    Taken back with: meshkit dht withdraw provider CONTENT

    Example: meshkit dht provide $(sha256sum photo.jpg | cut -c1-64)
    """

    async def job(door: Door) -> Any:
        return (await door.post(f"/v1/dht/providers/{segment(content)}")).data

    _print_placed(ask(flag, job), "", as_json)


# --- nodes ---------------------------------------------------------------------------------


@dht.command("find-node")
@click.argument("target")
@json_option
@click.pass_obj
def find_node(flag: str | None, target: str, as_json: bool) -> None:
    """
    Find the nodes that are nearest to TARGET, the nearest first.

    TARGET is the id of a node, @...ed25519, or a place of 64 hex digits.

    Example: meshkit dht find-node 00000000000000000000000000000000000000000000000000000000000000ff
    """

    async def job(door: Door) -> Any:
        return (await door.get(f"/v1/dht/nodes/{segment(target)}")).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
        return
    if found["contacts"]:
        table(
            ("place", "peer", "addresses"),
            [
                (each["id"][:16], each["public_id"], " ".join(map(_place, each["addresses"])))
                for each in found["contacts"]
            ],
        )
        line(_took(found["lookup"]))
    else:
        line(_nothing("Nobody found", found["lookup"]))
    _warn_if_crowded(found["lookup"])


@dht.command("find-peer")
@click.argument("key")
@json_option
@click.pass_obj
def find_peer(flag: str | None, key: str, as_json: bool) -> None:
    """
    Find out where the peer with the id KEY can be reached.

    What is printed can be given to 'meshkit peer add'; 'meshkit peer dial KEY' finds and tries
    it at once.

    Example: meshkit dht find-peer @3Wz...=.ed25519
    """

    async def job(door: Door) -> Any:
        return (await door.get(f"/v1/dht/peers/{segment(key)}")).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
        return
    for address in found["addresses"]:
        line(address)


@dht.command("table")
@json_option
@click.pass_obj
def show_table(flag: str | None, as_json: bool) -> None:
    """
    The nodes that this node knows, the nearest first.

    Example: meshkit dht table
    """

    async def job(door: Door) -> Any:
        return (await door.get("/v1/dht/table")).data

    entries = ask(flag, job)
    if as_json:
        print_json(entries)
        return
    if not entries:
        line(_ALONE)
        return
    table(
        ("bits shared", "known since", "heard", "peer", "addresses"),
        [
            (
                str(each["shared_bits"]),
                _second(each["since"]),
                _second(each["heard"]),
                each["public_id"],
                " ".join(map(_place, each["addresses"])),
            )
            for each in entries
        ],
    )


@dht.command()
@json_option
@click.pass_obj
def stats(flag: str | None, as_json: bool) -> None:
    """
    How it is doing, and whether others can reach this node.

    Example: meshkit dht stats
    """

    async def job(door: Door) -> Any:
        return (await door.get("/v1/dht/stats")).data

    shown = ask(flag, job)
    if as_json:
        print_json(shown)
        return
    line(f"place         {shown['id']}")
    if shown["reachable"]:
        line(f"others dial   {' '.join(map(_place, shown['addresses']))}")
    else:
        line("others dial   nothing: this node asks, keeps nothing and is in nobody's table")
    size = "not known yet" if shown["size"] is None else f"about {shown['size']:.0f} nodes"
    line(f"table         {_count(shown['contacts'], 'node')}; the whole network: {size}")
    line(f"kept          {_count(shown['records'], 'record')}, {_bytes(shown['record_bytes'])}")
    line(f"published     {_count(shown['publications'], 'record')} of this node")
    line(
        f"connections   {shown['connections']} to others, {shown['accepted']} of others, "
        f"{_count(shown['dialled'], 'dial')}"
    )
    line(
        f"asked         {_methods(shown['asked'])}; {_count(shown['lookups'], 'lookup')} under way"
    )
    line(f"answered      {_methods(shown['served'])}")


# --- in words ---------------------------------------------------------------------------------

_ALONE: Final = "No other node is known. Give this one a peer: meshkit peer add ADDRESS"


def _nothing(what: str, lookup: Any) -> str:
    if not lookup["questions"]:
        return f"{what}. {_ALONE}"
    return f"{what} ({_took(lookup)})."


def _took(lookup: Any) -> str:
    return f"{_count(lookup['questions'], 'question')}, {_count(lookup['hops'], 'hop')}"


def _warn_if_crowded(lookup: Any) -> None:
    if lookup["crowded"]:
        click.echo(
            "Warning: more nodes are near to that place than chance would have it. All of the "
            "region were asked; somebody may want to hide what is there.",
            err=True,
        )


def _place(address: str) -> str:
    """HOST:PORT of a whole address; whose it is stands beside it."""
    return visible(address.partition("~")[0].removeprefix("net:"))


def _second(moment: str) -> str:
    """A time without its milliseconds."""
    return f"{moment[:19]}Z"


def _methods(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _bytes(number: int) -> str:
    return _count(number, "byte")
