"""C{meshkit peer}: whom the node dials."""

from __future__ import annotations

from typing import Any, Final

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.errors import NotFound


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
            ("state", "way", "source", "key", "score", "round trip", "address", "last error"),
            [
                (
                    _state(each),
                    ", ".join(each["transports"]),
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


def _state(each: Any) -> str:
    if each["connected"]:
        return "connected"
    return "suspect" if (each["behaviour"] or {}).get("suspect") else "down"


def _manners(behaviour: Any) -> tuple[str, str]:
    """Score and round trip of a peer, as far as they are known."""
    if behaviour is None:
        return "", ""
    return f"{behaviour['score']:g}", _trip(behaviour["round_trip_ms"])


def _trust(each: Any) -> str:
    """How the key came to be expected there."""
    if each["public_id"] is None:
        return "unknown"
    return {None: "given", "first use": "first seen, pinned"}.get(each["pinned"], "pinned by hand")


@peer.command("connections")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1_000, show_default=True)
@json_option
@click.pass_obj
def list_connections(flag: str | None, limit: int, as_json: bool) -> None:
    """
    The secure channels that are open, and whether each is direct or through a relay.

    Example: meshkit peer connections --limit 20
    """

    async def job(door: Door) -> Any:
        return (await door.get(f"/v1/peers/connections?limit={limit}")).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
    elif not found:
        line("No channels are open.")
    else:
        table(
            ("peer", "protocol", "opened", "way", "for"),
            [
                (
                    each["public_id"],
                    each["label"],
                    "here" if each["dialled"] else "there",
                    each["relay"]
                    and f"relay {each['relay']}"
                    or f"{each['transport']} {each['from_address'] or ''}".rstrip(),
                    f"{each['open_secs']:.0f} s",
                )
                for each in found
            ],
        )


@peer.command("add")
@click.argument("address")
@json_option
@click.pass_obj
def add_peer(flag: str | None, address: str, as_json: bool) -> None:
    """
    Dial ADDRESS, now and after every start.

    ADDRESS is net:HOST:PORT~shs:KEY. A bare HOST:PORT is asked for its key, which is
    pinned once it has been proved: whoever answers then is trusted from then on. A peer
    that nobody can dial has an address that leads through its relay: 'meshkit status'
    prints it there, at the part tunnel.
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
    if done["relay"] is not None:
        line(f"reached     through the relay {done['relay']}")
    elif done["transport"] != "direct":
        line(f"reached     by {done['transport']}")
    line(f"handshake   {done['handshake_ms']:.1f} ms")
    for number, taken in enumerate(done["round_trips_ms"], 1):
        line(f"round trip  {taken:.1f} ms ({number} of {pings})")


@peer.command("discover")
@click.argument("domain")
@click.option("--add", is_flag=True, help="Dial what was found, now and after every start.")
@json_option
@click.pass_obj
def discover_peer(flag: str | None, domain: str, add: bool, as_json: bool) -> None:
    """
    Ask DOMAIN, over HTTPS, which node is its own and where it can be dialled.

    The answer is believed as far as the domain is: whoever is dialled then has to prove the key
    that it names. A redirect is not followed.

    \b
    Examples:
    meshkit peer discover example.org
    meshkit peer discover example.org:8443 --add
    """

    async def job(door: Door) -> Any:
        found = (await door.post("/v1/peers/discover", {"domain": domain})).data
        if add and found["member_of"] == "ours":
            for address in found["addresses"]:
                await door.post("/v1/peers", {"address": address})
        return found

    found = ask(flag, job)
    if as_json:
        print_json({**found, "added": found["addresses"] if _is_added(found, add) else []})
    else:
        _show_found(found, add)
    if add and not _is_added(found, add):
        raise NotFound(
            f"nothing was added: {domain} leads to no node of this network that can be dialled "
            "from here"
        )


def _is_added(found: Any, add: bool) -> bool:
    return bool(add and found["member_of"] == "ours" and found["addresses"])


_NETWORKS: Final = {
    "ours": "this node's own",
    "relays": "a relay for whoever comes: name it in the setting relays.blind",
    "other": "another one than this node's, which cannot talk to it",
}


def _show_found(found: Any, add: bool) -> None:
    line(f"{found['public_id']} is the node of {found['domain']}")
    line(f"said at   {found['url']}")
    line(f"network   {found['network']} ({_NETWORKS[found['member_of']]})")
    for address in found["addresses"]:
        line(f"address   {address}")
    for address in found["left_out"]:
        line(
            f"left out  {address} (no public address: see the setting wellknown.allow_addresses; "
            "or the port of another service)"
        )
    if _is_added(found, add):
        line("Dialling it. How it goes: meshkit peer list")
    elif found["member_of"] == "ours" and found["addresses"]:
        line(f"To dial it: meshkit peer discover {found['domain']} --add")


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


@peer.command("links")
@json_option
@click.pass_obj
def show_links(flag: str | None, as_json: bool) -> None:
    """
    How the peers are that this node looks after.

    \b
    well      something was heard of it lately
    silent    nothing was, and it is about to be looked at
    lost      it did not answer; it is looked for elsewhere
    suspect   it did not several times in a row
    """

    async def job(door: Door) -> Any:
        return (await door.get("/v1/exchange/links")).data

    links = ask(flag, job)
    if as_json:
        print_json(links)
        return
    if not links:
        line("No peers to look after. Add one: meshkit peer add net:HOST:PORT~shs:KEY")
        return
    table(
        ("state", "peer", "last heard", "missed", "next look", "round trip", "moved to"),
        [
            (
                each["state"],
                each["public_id"],
                each["last_heard"] or "",
                str(each["missed"]),
                f"{each['next_look_secs']:.0f} s",
                _trip(each["round_trip_ms"]),
                each["moved_to"] or "",
            )
            for each in links
        ],
    )


@peer.command("records")
@json_option
@click.pass_obj
def show_records(flag: str | None, as_json: bool) -> None:
    """The address records that this node has, as the peers have signed them."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/exchange/records")).data

    records = ask(flag, job)
    if as_json:
        print_json(records)
    elif not records:
        line("No records yet: they are swapped with peers that answer.")
    else:
        table(
            ("peer", "good until", "addresses"),
            [
                (each["public_id"], each["expires"], " ".join(each["addresses"]) or "none")
                for each in records
            ],
        )


@peer.command("find")
@click.argument("public_id")
@json_option
@click.pass_obj
def find_peer(flag: str | None, public_id: str, as_json: bool) -> None:
    """
    Ask other peers where the one with PUBLIC_ID can be reached.

    They hand on what that peer has signed itself; the newest of all that is known is shown.

    Example: meshkit peer find @3Wz...=.ed25519
    """

    async def job(door: Door) -> Any:
        return (await door.get(f"/v1/exchange/records/{segment(public_id)}")).data

    record = ask(flag, job)
    if as_json:
        print_json(record)
        return
    for address in record["addresses"]:
        line(address)
    if not record["addresses"]:
        line(f"{record['public_id']} says that it cannot be reached from outside.")
    line(f"signed by {record['public_id']}, good until {record['expires']}")


def _trip(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.1f} ms"
