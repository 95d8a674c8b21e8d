"""C{meshkit peer}: whom the node dials."""

from __future__ import annotations

from typing import Any

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json, table


@click.group()
def peer() -> None:
    """List, add, remove and try the peers to dial."""


@peer.command("list")
@json_option
@click.pass_obj
def list_peers(flag: str | None, as_json: bool) -> None:
    """The addresses this node dials, and what happened when it did."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/peers")).data, (await door.get("/v1/peers/ledger")).data

    peers, ledger = ask(flag, job)
    if as_json:
        print_json(peers)
        return
    if not peers:
        line("No peers yet. Add one: meshkit peer add net:HOST:PORT~shs:KEY")
    else:
        table(
            ("state", "source", "key", "score", "round trip", "address", "last error"),
            [
                (
                    "connected" if each["connected"] else "down",
                    each["source"],
                    _trust(each),
                    *_manners(each["behaviour"]),
                    each["address"],
                    each["last_error"] or "",
                )
                for each in peers
            ],
        )

    blamed = [each for each in ledger if each["reasons"]]
    if blamed:
        line("")
        line("What peers were held back for, whoever dialled whom, the last of each:")
        table(
            ("peer", "score", "banned until", "at", "reason"),
            [
                (
                    each["public_id"],
                    f"{each['score']:g}",
                    each["banned_until"] or "",
                    each["reasons"][-1]["at"],
                    f"{each['reasons'][-1]['code']}: {each['reasons'][-1]['reason']}",
                )
                for each in blamed
            ],
        )


def _manners(behaviour: Any) -> tuple[str, str]:
    """Score and round trip of a peer, as far as they are known."""
    if behaviour is None:
        return "", ""
    trip = behaviour["round_trip_ms"]
    return f"{behaviour['score']:g}", "" if trip is None else f"{trip:.1f} ms"


def _trust(each: Any) -> str:
    """How the key came to be expected there."""
    if each["public_id"] is None:
        return "unknown"
    return {None: "given", "first use": "first seen, pinned"}.get(each["pinned"], "pinned by hand")


@peer.command("add")
@click.argument("address")
@json_option
@click.pass_obj
def add_peer(flag: str | None, address: str, as_json: bool) -> None:
    """
    Dial ADDRESS, now and after every start.

    ADDRESS is net:HOST:PORT~shs:KEY. A bare HOST:PORT is asked for its key, which is
    pinned once it has been proved: whoever answers then is trusted from then on.
    """

    async def job(door: Door) -> Any:
        return (await door.post("/v1/peers", {"address": address})).data

    added = ask(flag, job)
    if as_json:
        print_json(added)
    else:
        if added["pinned"] is not None:
            line(f"{_trust(added)}: {added['public_id']}")
        line(f"Dialling {added['address']}. How it goes: meshkit peer list")


@peer.command("rm")
@click.argument("address")
@json_option
@click.pass_obj
def remove_peer(flag: str | None, address: str, as_json: bool) -> None:
    """Stop dialling ADDRESS and forget it."""

    async def job(door: Door) -> Any:
        return (await door.delete(f"/v1/peers/{segment(address)}")).data

    ask(flag, job)
    if as_json:
        print_json({"removed": address})
    else:
        line(f"Forgotten: {address}")


@peer.command("dial")
@click.argument("address")
@json_option
@click.pass_obj
def dial_peer(flag: str | None, address: str, as_json: bool) -> None:
    """
    Dial ADDRESS once: can it be reached, and who is there?

    A peer's id, @...ed25519, is enough in its place: the node tries the addresses of that peer
    that it has, and then those that the hash table tells.

    \b
    Examples:
    meshkit peer dial 192.0.2.7:7655
    meshkit peer dial @3Wz...=.ed25519
    """
    _try(flag, address, 0, as_json)


@peer.command("ping")
@click.argument("address")
@click.option("--count", "-c", type=click.IntRange(1, 32), default=4, show_default=True)
@json_option
@click.pass_obj
def ping_peer(flag: str | None, address: str, count: int, as_json: bool) -> None:
    """
    Dial ADDRESS and measure how long a round trip takes.

    A peer's id is enough in place of the address, as it is for dial.

    Example: meshkit peer ping @3Wz...=.ed25519 --count 8
    """
    _try(flag, address, count, as_json)


def _try(flag: str | None, address: str, pings: int, as_json: bool) -> None:
    async def job(door: Door) -> Any:
        return (await door.post("/v1/peers/dial", {"address": address, "pings": pings})).data

    done = ask(flag, job)
    if as_json:
        print_json(done)
        return
    line(f"{done['public_id']} answers at {done['address']}")
    if done["found_by"] == "peers":
        line("found       among the peers to dial")
    elif done["found_by"] is not None:
        line(f"found       by the part {done['found_by']}")
    line(f"handshake   {done['handshake_ms']:.1f} ms")
    for number, taken in enumerate(done["round_trips_ms"], 1):
        line(f"round trip  {taken:.1f} ms ({number} of {pings})")


@peer.command("repin")
@click.argument("address")
@json_option
@click.pass_obj
def repin_peer(flag: str | None, address: str, as_json: bool) -> None:
    """
    Trust another key at ADDRESS from now on.

    For HOST:PORT that is the key that answers there now: have it confirmed by its owner.
    Safer is net:HOST:PORT~shs:KEY with the new key.
    """

    async def job(door: Door) -> Any:
        return (await door.post("/v1/peers/repin", {"address": address})).data

    done = ask(flag, job)
    if as_json:
        print_json(done)
        return
    line(f"before  {done['before'] or 'nothing was pinned'}")
    line(f"now     {done['public_id']}")
