"""C{meshkit join}: from an invite to a data folder with which a node can be started."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from random import Random, SystemRandom
from typing import Any, Final

import click
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from meshkit.cli.backup import all_migrations, held
from meshkit.cli.door import converse, open_folder
from meshkit.cli.locate import start_command
from meshkit.cli.output import json_option, line, print_json
from meshkit.discovery.invites import MAX_TEXT, CountedInvite, Invite, parse_invite
from meshkit.discovery.inviting.redeeming import CONNECT_TIMEOUT, Redeemer
from meshkit.errors import ConfigError, InvalidInvite, MeshkitError
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import SEED_BYTES, Identity
from meshkit.identity.network import NetworkSecret
from meshkit.relay.tunnel.alone import as_guest, as_member, through_relay
from meshkit.runtime.config import CONFIG_FILE, MAX_CONFIG_FILE
from meshkit.runtime.container import DiskFile, migrate
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import (
    NETWORK_SECRET,
    create_identity,
    load_token,
    needs_passphrase,
    stored_identity,
    stored_networks,
    write_networks,
)
from meshkit.runtime.peers import named_error, remember
from meshkit.runtime.transactions import BEGIN, COMMIT, write_failed
from meshkit.services.node import DATABASE
from meshkit.services.ping import LABEL as PING
from meshkit.services.ping import Pinging
from meshkit.shs import Capability, wrap_client
from meshkit.tap.passphrase import ask_new, read_from, unlock

_HEADING: Final = "# Written by 'meshkit join'; 'meshkit config show' tells what else can be set.\n"


@click.command()
@click.argument("code")
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase to put the key file under.")
@click.option(
    "--passphrase-fd",
    type=int,
    metavar="N",
    help="The passphrase of the key file is what file descriptor N gives.",
)
@json_option
@click.pass_obj
def join(
    flag: str | None, code: str, passphrase: bool, passphrase_fd: int | None, as_json: bool
) -> None:
    """
    Join a network with the invite CODE, or with the one on standard input, if CODE is '-'.

    Makes the data folder, its identity and its settings, as far as they are not there, gets the
    secret of the network from the node that has made the invite, and meets that node. After it
    the node can be started. If it is cut off half-way, run it again: that counts as one use.

    \b
    Examples:
    meshkit join mkinvite1-...
    meshkit join - < invite.txt
    """
    invite = parse_invite(_read_standard_input() if code == "-" else code)
    folder = open_folder(flag)
    with held(folder):
        joining = _Joining(folder, invite)
        joining.check()
        identity = _identity(folder, passphrase, passphrase_fd)
        done = joining.run(identity)
    if as_json:
        print_json(
            {
                "public_id": identity.public.text,
                "data_dir": folder.path,
                "network": done.secret.key().net_id.hex(),
                "network_weak": done.secret.weak,
                "inviter": invite.key.text,
                "peers": [address.text for address in done.peers],
                "answered": None if done.met is None else done.met.text,
            }
        )
        return
    line(f"Identity      {identity.public.text}")
    line(f"Data folder   {folder.path}")
    line(f"Network       {done.secret.key().net_id.hex()}")
    if done.secret.weak:
        line(
            "This network was made from a passphrase: whoever records one connection can guess it."
        )
    if done.met is not None:
        line(f"First peer    {done.met.text}, it answers as a member")
    else:
        for address in done.peers:
            line(f"First peer    {address.text}, it does not answer now: {done.problem}")
    line("")
    line("Start the node:")
    line(f"  {start_command(folder)}")


def _read_standard_input() -> str:
    data = sys.stdin.buffer.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise InvalidInvite("what is on standard input is longer than any invite")
    return data.decode("ascii", "replace")


def _identity(folder: DataFolder, passphrase: bool, descriptor: int | None) -> Identity:
    """
    The identity of the folder, durably, before anybody is told of it: a use of an invite belongs
    to a key.
    """
    try:
        if needs_passphrase(folder):
            return unlock(folder, descriptor)
        identity = stored_identity(folder)
    except FileNotFoundError:
        rng = SystemRandom()
        identity = Identity(rng.randbytes(SEED_BYTES))
        words = None
        if passphrase or descriptor is not None:
            words = ask_new("New passphrase") if descriptor is None else read_from(descriptor)
        create_identity(folder, identity, rng, words)
        return identity
    if passphrase or descriptor is not None:
        raise ConfigError(
            f"{folder.path} has an identity already: put it under a passphrase with "
            f"'meshkit passphrase'"
        )
    return identity


@frozen
class _Joined:
    """
    @ivar peers: the addresses that the node will dial.
    @ivar met: the one at which the inviter has answered as a member; L{None} if at none.
    @ivar problem: why not.
    """

    secret: NetworkSecret
    peers: tuple[MeshAddress, ...]
    met: MeshAddress | None
    problem: str


class _Joining:
    """What has to be done, each step durable before the next one begins."""

    def __init__(self, folder: DataFolder, invite: Invite) -> None:
        self._folder = folder
        self._invite = invite
        self._stored = stored_networks(folder)
        # An invite that was made before the network got a new secret looks like one of another
        # network to whoever has joined with it and begins again.
        self._doubtful = bool(self._stored) and not any(
            invite.is_for(each.key()) for each in self._stored
        )

    def check(self) -> None:
        """
        @raise ConfigError: if the folder belongs to another network.  Of a counted invite that is
            known when its node has been asked.
        """
        if self._doubtful and not isinstance(self._invite, CountedInvite):
            raise self._other_network()

    def _other_network(self, why: str = "") -> ConfigError:
        return ConfigError(
            f"{self._folder.path} belongs to another network already{why}: use another --data-dir, "
            f"or remove {self._folder.file(NETWORK_SECRET)} to leave that network"
        )

    def run(self, identity: Identity) -> _Joined:
        if identity.public == self._invite.key:
            raise ConfigError("this is an invite of this very node: give it to somebody else")
        joined = converse(lambda reactor: self._join(reactor, identity))
        self._remember(joined.peers)
        return joined

    async def _join(self, reactor: Any, identity: Identity) -> _Joined:
        secret, reached = await self._secret(reactor, identity)
        if not self._stored:
            write_networks(self._folder, (secret,))
        load_token(self._folder, SystemRandom())
        # Where it was reached just now comes first.
        addresses = [*([] if reached is None else [reached]), *self._invite.addresses]
        problem = ""
        for address in dict.fromkeys(addresses):
            try:
                await _meet(reactor, address, identity, secret)
            except MeshkitError as e:
                problem = str(e)
            else:
                return _Joined(secret, (address,), address, "")
        if self._doubtful:
            # A member would have answered.
            raise self._other_network(
                f", unless the node that has made the invite is away ({problem}), and then run "
                f"this again when it is there; or"
            )
        return _Joined(secret, self._invite.addresses, None, problem)

    async def _secret(
        self, reactor: Any, identity: Identity
    ) -> tuple[NetworkSecret, MeshAddress | None]:
        """@return: of the network, and where the inviter was reached for it, if it was."""
        if self._stored:
            return self._stored[0], None
        if not isinstance(self._invite, CountedInvite):
            return self._invite.secret, None
        rng = SystemRandom()

        def beneath(invite: CountedInvite, address: MeshAddress) -> IStreamClientEndpoint:
            guest = None if address.via is None else as_guest(address.via, invite.guest)
            return _bare(reactor, address, identity, guest, rng)

        return await Redeemer(reactor, identity, rng, beneath).redeem(self._invite)

    def _remember(self, peers: tuple[MeshAddress, ...]) -> None:
        """Have them dialled by the node, durably."""
        path = self._folder.file(CONFIG_FILE)
        written = ", ".join(f'"{address.text}"' for address in peers)
        files = LocalFiles()
        try:
            files.create(path, f"{_HEADING}peers = [{written}]\n".encode())
        except FileExistsError:
            # What a person has written is not changed: they go where 'meshkit peer add' puts them.
            there = files.read(path, MAX_CONFIG_FILE)
            self._add([each for each in peers if each.text.encode() not in there])

    def _add(self, peers: Sequence[MeshAddress]) -> None:
        if not peers:
            return
        backing = DiskFile(self._folder.file(DATABASE))
        migrate(backing, all_migrations())
        try:
            with closing(backing.open_writer()) as connection:
                connection.execute(BEGIN)
                for address in peers:
                    remember(connection, address, time.time_ns())
                connection.execute(COMMIT)
        except sqlite3.Error as e:
            raise write_failed(e) from e


def _bare(
    reactor: Any,
    address: MeshAddress,
    identity: Identity,
    capability: Capability | None,
    rng: Random,
) -> IStreamClientEndpoint:
    """
    @param capability: by which the relay is asked, if one leads there.
    @return: the stream to the inviter, with no handshake inside.
    """
    if capability is None:
        return HostnameEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIMEOUT)
    return through_relay(reactor, address, identity, capability, rng, timeout=CONNECT_TIMEOUT)


async def _meet(
    reactor: Any, address: MeshAddress, identity: Identity, secret: NetworkSecret
) -> None:
    """
    Have the inviter answer as a member of the network.

    @raise MeshkitError: why it does not.
    """
    rng = SystemRandom()
    member = None if address.via is None else as_member(address.via, secret.key())
    endpoint = wrap_client(
        reactor,
        _bare(reactor, address, identity, member, rng),
        identity=identity,
        capability=Capability.of(secret.key(), PING),
        peer=address.key,
        rng=rng,
    )
    factory = Factory.forProtocol(lambda: Pinging(reactor, rng))
    factory.noisy = False
    connecting: Deferred[Any] = endpoint.connect(factory)
    pinging: Pinging
    try:
        pinging = await connecting
        try:
            await pinging.ping()
        finally:
            if pinging.transport is not None:
                pinging.transport.loseConnection()
    except (ConnectError, ConnectionClosed, OSError) as e:
        raise named_error(address.place, e) from None
