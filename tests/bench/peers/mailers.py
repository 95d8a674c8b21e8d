"""
Those who use the mailboxes of a relay (see L{tests.bench.peers}): recipients who are there and
wait, and senders.  What they leave are random bytes, which to a relay are messages like others.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from random import Random
from time import perf_counter, time
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint

from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.relay.mailbox.collecting import open_at
from meshkit.relay.mailbox.prekeys import PrekeyRing
from meshkit.relay.mailbox.sealing import digest_of
from meshkit.relay.mailbox.wire import (
    ACKNOWLEDGE,
    DEPOSIT,
    FETCH,
    LABEL,
    MAX_HELD,
    VERSION,
    WAIT,
    AcknowledgeRequest,
    DepositRequest,
    FetchRequest,
    WaitRequest,
)
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.shs.endpoints import wrap_client
from meshkit.shs.hellos import Capability
from tests.bench.peers.jobs import Job, run

#: How many are dialled at the same time.
_DIALS: Final = 16
_DAY: Final = 86_400


def jobs(reactor: Any) -> Mapping[str, Job]:
    """@return: what this child can do."""
    rng = Random(1)
    numbers = count()
    factory = RPCFactory(reactor)
    people: list[tuple[Identity, RPCProtocol]] = []
    senders: list[RPCProtocol] = []

    async def connect(address: str, network: str, who: Identity) -> RPCProtocol:
        relay = MeshAddress.parse(address)
        endpoint = wrap_client(
            reactor,
            HostnameEndpoint(reactor, relay.host, relay.port),
            identity=who,
            capability=Capability.of(NetworkSecret.parse(network).key(), LABEL, VERSION),
            peer=relay.key,
            rng=rng,
        )
        connection: Any = await endpoint.connect(factory)
        return connection  # type: ignore[no-any-return]

    async def in_turns(work: Any, times: int, at_once: int) -> None:
        turns = iter(range(times))

        async def some() -> None:
            for _ in turns:
                await work()

        await gatherResults([Deferred.fromCoroutine(some()) for _ in range(at_once)])

    async def recipients(address: str, network: str, number: int) -> int:
        """Job: so many more open a mailbox and wait; @return: how many there are."""

        async def come() -> None:
            who = Identity(rng.randbytes(32))
            connection = await connect(address, network, who)
            await open_at(connection, PrekeyRing().turned(int(time()), rng).sign(who))
            waiting = connection.call(WAIT, WaitRequest(MAX_HELD), timeout=MAX_HELD + 60)
            waiting.addErrback(lambda _: None)  # the relay ends first
            people.append((who, connection))

        await in_turns(come, number, _DIALS)
        return len(people)

    async def sender(address: str, network: str) -> None:
        """Job: one more sender comes."""
        senders.append(await connect(address, network, Identity(rng.randbytes(32))))

    async def deposit(number: int, in_flight: int, size: int, to: int) -> float:
        """Job: leave so many messages, to the first few in turns; @return: how many a second."""

        async def leave() -> None:
            turn = next(numbers)
            recipient, _ = people[turn % to]
            request = DepositRequest(recipient.public.raw, rng.randbytes(size), _DAY)
            await senders[turn % len(senders)].call(DEPOSIT, request)

        begun = perf_counter()
        await in_turns(leave, number, in_flight)
        return number / (perf_counter() - begun)

    async def collect(to: int) -> list[float]:
        """Job: the first few take everything out; @return: how many, and how many a second."""
        taken = 0

        async def one(connection: RPCProtocol) -> None:
            nonlocal taken
            more = True
            while more:
                page = await connection.call(FETCH, FetchRequest(0))
                digests = [digest_of(each.sealed) for each in page.messages]
                more = page.more
                if digests:
                    gone = await connection.call(ACKNOWLEDGE, AcknowledgeRequest(digests))
                    taken += gone

        begun = perf_counter()
        await gatherResults([Deferred.fromCoroutine(one(c)) for _, c in people[:to]])
        return [taken, taken / (perf_counter() - begun)]

    async def notice(size: int) -> float:
        """Job: one message is left for the last one; @return: seconds until he is told."""
        recipient, connection = people[-1]
        told = connection.call(WAIT, WaitRequest(MAX_HELD), timeout=MAX_HELD + 60)
        # Behind it: then it is held.
        await connection.call(FETCH, FetchRequest(0))
        begun = perf_counter()
        request = DepositRequest(recipient.public.raw, rng.randbytes(size), _DAY)
        left = senders[0].call(DEPOSIT, request)
        await told
        seconds = perf_counter() - begun
        await left
        page = await connection.call(FETCH, FetchRequest(0))
        await connection.call(
            ACKNOWLEDGE, AcknowledgeRequest([digest_of(each.sealed) for each in page.messages])
        )
        return seconds

    return {
        "recipients": recipients,
        "sender": sender,
        "deposit": deposit,
        "collect": collect,
        "notice": notice,
    }


if __name__ == "__main__":
    run(jobs)
