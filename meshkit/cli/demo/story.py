"""
The play, act by act.  Everything that is shown was asked of the nodes' doors.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory

from meshkit.cli.demo.checks import Acknowledged, Check, digest, fingerprint, read_store
from meshkit.cli.demo.cluster import Cluster, DemoFailed, Node
from meshkit.cli.demo.corpus import Docstring, library, modules, read_all, real_file
from meshkit.cli.demo.hostile import CHANGED, FlippingProxy, Forger
from meshkit.cli.demo.screens import Counter, Screen
from meshkit.cli.door import segment
from meshkit.cli.passes import begin
from meshkit.errors import (
    DoorUnreachable,
    HashMismatch,
    NetworkKeyRefused,
    SignatureInvalid,
    TamperedStream,
)
from meshkit.feed.message import parse_message, sign_message, verify_message
from meshkit.gossip.part import LABEL, VERSION
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.workers import Workers
from meshkit.shs import Capability, wrap_client

_SEED: Final = 32
#: Of each author's text, the share that is published before anybody meets.
FIRST_SHARE: Final = 0.45
#: Of what is left, what the two others publish while Cleo catches up and is killed;
#: should that be too quick to be caught in the middle, there are two more chances.
WAVES: Final = (0.6, 0.8, 1.0)
#: Source files read in one piece.
_MODULES_AT_ONCE: Final = 8
#: What may be searched for.  Of these, the one with most answers is taken that a node
#: answers with nothing but other people's messages.
SEARCHES: Final = (
    '"priority queue"',
    '"byte order"',
    '"circular import"',
    '"daemon thread"',
    '"garbage collector"',
    '"leap year"',
    '"monotonic clock"',
    '"regular expression"',
    '"tar archive"',
    "semaphore",
    "insertion",
    "prime",
)
_SEARCHES_TIMED: Final = 5
_PHRASES: Final = 5
_HITS_SHOWN: Final = 3
#: Seconds for reading a screen, for people.
READING: Final = 2.5
#: Who lends space.
KEEPERS: Final = ("Emma", "Finn", "Greta", "Hugo", "Ida", "Jan")
#: Any four of six shares suffice, ...
SCHEME: Final = "4+2"
#: ... so that so many of these may be lost.
_KILLED: Final = 2
#: Who comes in their place.
NEWCOMERS: Final = ("Kim", "Leo")
_LENT: Final = "1GB"
_FORGED: Final = "antigravitational"


def spread(
    docstrings: Sequence[Docstring], share: float
) -> tuple[list[Docstring], list[Docstring]]:
    """Cut a list at a share of its length."""
    at = round(len(docstrings) * share)
    return list(docstrings[:at]), list(docstrings[at:])


@define
class Story:
    """
    See the module.

    @ivar waiting: all was shown; the mesh stays up until somebody ends it.
    """

    cluster: Cluster
    screen: Screen
    workers: Workers
    check: bool
    messages: int
    waiting: bool = False
    _checks: list[Check] = field(factory=list)
    _acknowledged: Acknowledged = field(factory=Acknowledged)
    # In case that none of the searches has an answer in what was published.
    _phrases: list[str] = field(factory=list)
    _left: dict[Node, list[Docstring]] = field(factory=dict)
    _background: list[Deferred[Any]] = field(factory=list)
    _mesh: list[Node] = field(factory=list)
    _done: bool = False
    _act: int = 0

    @property
    def exit_code(self) -> int:
        """0 if the story was told to its end and every check passed."""
        return 0 if self._done and all(check.passed for check in self._checks) else 1

    async def play(self) -> None:
        """
        The whole demo.

        @raise DemoFailed: if it cannot go on.
        """
        network = NetworkSecret.generate(self.cluster.rng)
        try:
            await self._strangers(network)
            await self._replication()
            await self._search()
            await self._killed()
            await self._refusals(network)
            await self._storage(network)
            await self._commands()
        finally:
            self._give_up_background()

    # --- tools ---------------------------------------------------------------------------

    def _title(self, name: str, sentence: str) -> None:
        self._act += 1
        self.screen.title(self._act, name, sentence)

    def _judge(self, name: str, figure: str, passed: bool) -> None:
        self._checks.append(Check(name, figure, passed))

    def _now(self) -> float:
        return float(self.cluster.reactor.seconds())

    async def _read(self) -> None:
        """Time for people to read; scripts need none."""
        if not self.check and sys.stdout.isatty():
            await self.cluster.pause(READING)

    async def _together(self, *jobs: Awaitable[Any]) -> list[Any]:
        """Do several things at once; the first that fails, fails all."""
        started = [Deferred.fromCoroutine(_awaiting(job)) for job in jobs]
        gathering = gatherResults(started, consumeErrors=True)
        try:
            return list(await gathering)
        except BaseException as e:
            self.cluster.check_alive()
            first: Any = getattr(e, "subFailure", None)
            if first is not None:
                raise first.value from None
            raise

    def _in_background(self, job: Awaitable[Any]) -> Deferred[Any]:
        """Begin something that is awaited later."""
        started = Deferred.fromCoroutine(_awaiting(job))
        self._background.append(started)
        return started

    def _give_up_background(self) -> None:
        """
        The story ends.  If something is still under way, it ends before its time, and
        what the rest of it fails with is a consequence of that and no news.
        """
        for started in self._background:
            started.addErrback(lambda _: None)
            started.cancel()

    async def _publish(self, node: Node, docstrings: Sequence[Docstring]) -> None:
        """Publish as any client does: at the door, with the token."""
        if docstrings:
            contents = b",".join(docstring.content() for docstring in docstrings)
            answer = await self.cluster.door(node).post(
                "/v1/publish/batch", b'{"contents":[' + contents + b"]}"
            )
            done = answer.data
            self._acknowledged.note(node.id, done["first"], done["last"], done["last_hash"])

    async def _introduce(self, node: Node, *others: Node) -> None:
        for other in others:
            await self.cluster.door(node).post("/v1/peers", {"address": other.address})

    async def _counted(self, total: int) -> float:
        """
        Show live how the stores fill.

        @return: seconds until all had everything.
        """
        began = self._now()

        async def look() -> bool:
            counts = await self._together(*map(self.cluster.messages, self._mesh))
            counters = [
                Counter(node.name, count, total)
                for node, count in zip(self._mesh, counts, strict=True)
            ]
            done = bool(min(counts) >= total)
            self.screen.count(counters, self._now() - began, last=done)
            return done

        await self.cluster.until(look, f"all nodes to have {total} messages")
        return self._now() - began

    async def _stores(self) -> list[dict[tuple[str, int], str]]:
        authors = [node.id for node in self._mesh]
        return await self._together(
            *(read_store(self.cluster.door(node), authors) for node in self._mesh)
        )

    # --- the acts ------------------------------------------------------------------------

    async def _strangers(self, network: NetworkSecret) -> None:
        self._title(
            "Three strangers, no server",
            "Three nodes start, each a process with a key and a database of its own. They share "
            "a network key and nothing else: no server, no account, no one to ask for permission.",
        )
        if self.cluster.run.ended:
            self.screen.say(
                f"(An earlier run was interrupted: {self.cluster.run.ended} of its processes "
                f"were still there and have been ended.)"
            )
        began = self._now()
        self._mesh = [self.cluster.add(name, network) for name in ("Ada", "Ben", "Cleo")]
        for node in self._mesh:
            self.cluster.start(node)
        texts, _ = await self._together(self._corpus(), self._up(began))
        self._left = dict(zip(self._mesh, texts, strict=True))
        self.screen.say(
            f"Each has something to say: {sum(map(len, texts)):,} docstrings of the standard "
            f"library of Python {sys.version_info.major}.{sys.version_info.minor}, dealt out "
            f"module by module."
        )
        began = self._now()
        first: list[Awaitable[Any]] = []
        for node in self._mesh:
            share, self._left[node] = spread(self._left[node], FIRST_SHARE)
            self._phrases += [_phrase(docstring) for docstring in share[:_PHRASES]]
            first.append(self._publish(node, share))
        await self._together(*first)
        count = self._acknowledged.count()
        self.screen.say(
            f"{count:,} of them are published: numbered, signed, chained, synced to the disk and "
            f"acknowledged in {self._now() - began:.1f} s. Each node still knows only its own."
        )
        await self._read()

    async def _up(self, began: float) -> None:
        await self.cluster.ready(*self._mesh)
        took = self._now() - began
        statuses = await self._together(*map(self.cluster.status, self._mesh))
        self.screen.rows(
            [
                (
                    node.name,
                    node.id,
                    f"pid {node.pid}",
                    f"port {MeshAddress.parse(status['mesh'][0]).port}",
                )
                for node, status in zip(self._mesh, statuses, strict=True)
            ]
        )
        alone = sum(status["peer_count"] + status["channels"] for status in statuses)
        self._judge("Three nodes, no server", f"ready in {took:.1f} s", alone == 0)

    async def _corpus(self) -> list[list[Docstring]]:
        """
        @return: per author, the docstrings of every third module, until there are
            enough.
        """
        root = library()
        paths = modules(root) if os.path.isdir(root) else []
        texts: list[list[Docstring]] = [[], [], []]
        quota = self.messages // len(texts)
        began = self._now()

        def show(last: bool = False) -> None:
            count = sum(map(len, texts))
            total = count if last else quota * len(texts)
            counter = Counter("docstrings", count, total)
            self.screen.count([counter], self._now() - began, last=last)

        for author, found in enumerate(texts):
            mine = paths[author :: len(texts)]
            for at in range(0, len(mine), _MODULES_AT_ONCE):
                if len(found) >= quota:
                    break
                found += await self.workers.run(read_all, root, mine[at : at + _MODULES_AT_ONCE])
                show()
            del found[quota:]
            if len(found) < quota // 10:
                raise DemoFailed(
                    f"the sources of Python's standard library are not in {root}: install them "
                    f"(some systems pack them apart), or use another Python"
                )
        show(last=True)
        return texts

    async def _replication(self) -> None:
        total = self._acknowledged.count()
        self._title(
            "They meet",
            "Ben is told Ada's address, Cleo both. Every message crosses an encrypted, "
            "authenticated channel, and every signature is verified again where it arrives.",
        )
        ada, ben, cleo = self._mesh
        before = await self._together(*map(self.cluster.messages, self._mesh))
        await self._together(self._introduce(ben, ada), self._introduce(cleo, ada, ben))
        seconds = await self._counted(total)
        received = len(self._mesh) * total - sum(before)
        rate = received / seconds
        self.screen.say(
            f"{received:,} messages arrived, were verified and stored in {seconds:.1f} s: "
            f"{rate:,.0f} a second, all nodes together, on this machine."
        )
        self._judge("Replicated to all three", f"{total:,} messages in {seconds:.1f} s", True)
        self._judge("Received and verified", f"{rate:,.0f} messages a second", rate > 0)
        await self._read()

    async def _search(self) -> None:
        query, node, hits, seconds = await self._find()
        self._title(
            "A search, answered by somebody else",
            f"{node.name} is asked for {query} and wrote none of the answers. The answer is on "
            f"{node.name}'s own disk, and the signature proves who wrote it, whoever passed it on.",
        )
        names = {each.id: each.name for each in self._mesh}
        for hit in hits[:_HITS_SHOWN]:
            content = hit["content"]
            self.screen.rows(
                [
                    (
                        content["title"],
                        content["context"],
                        f"by {names[hit['author']]}, number {hit['sequence']}, signature verified",
                    )
                ]
            )
            self.screen.quote(_matching_line(content["observation"], query))
        self.screen.say(
            f"{_several(len(hits), 'answer')}, every signature verified here once more; one "
            f"search took {seconds * 1000:.0f} ms (median of {_SEARCHES_TIMED})."
        )
        self._judge(
            "Search answered by a node that wrote none",
            f"{_several(len(hits), 'answer')} in {seconds * 1000:.0f} ms",
            bool(hits),
        )
        await self._read()

    async def _find(self) -> tuple[str, Node, list[dict[str, Any]], float]:
        """
        @return: what was searched for, who was asked, the answers, how long one took.
        """
        best: list[dict[str, Any]] = []
        for at, query in enumerate(chain(SEARCHES, self._phrases)):
            if best and at >= len(SEARCHES):
                break
            for node in reversed(self._mesh):
                hits = await self._ask(node, query)
                if len(hits) > len(best) and all(hit["author"] != node.id for hit in hits):
                    best, asked, chosen = hits, node, query
        if not best:
            raise DemoFailed("no search is answered by others alone: their words are the same")
        times = []
        for _ in range(_SEARCHES_TIMED):
            began = self._now()
            best = await self._ask(asked, chosen)
            times.append(self._now() - began)
        for hit in best:
            verify_message(parse_message(msgspec.json.encode(hit)))
        return chosen, asked, best, median(times)

    async def _ask(self, node: Node, query: str) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = (
            await self.cluster.door(node).get("/v1/insights/search", q=query, limit=200)
        ).data
        return hits

    async def _killed(self) -> None:
        ada, ben, cleo = self._mesh
        self._title(
            "Killed in mid-sync",
            "Ada and Ben publish more. While Cleo fetches it, and publishes as well, her process "
            "is killed with SIGKILL: no goodbye, no clean-up. What a door has acknowledged must "
            "not be lost.",
        )
        waves: list[tuple[list[Docstring], list[Docstring]]] = []
        at = 0.0
        for end in WAVES:
            waves.append((_slice(self._left[ada], at, end), _slice(self._left[ben], at, end)))
            at = end
        singles = iter(self._left[cleo])
        publishing = self._in_background(self._one_by_one(cleo, singles))
        own_before = self._acknowledged.count(cleo.id)
        caught: tuple[int, int] | None = None
        while waves and caught is None:
            mine, yours = waves.pop(0)
            received = _received(await self.cluster.status(cleo))
            wave = [
                self._in_background(self._publish(node, share))
                for node, share in ((ada, mine), (ben, yours))
            ]
            caught = await self._kill_between(cleo, received, len(mine) + len(yours))
            for published in wave:
                await published
        await self.cluster.kill(cleo)
        unanswered = await publishing
        got, of = caught or (0, 0)
        own = self._acknowledged.count(cleo.id) - own_before
        self._judge(
            "Killed in mid-sync",
            f"with {got:,} of {of:,} fetched" if caught else "it was too quick to be caught",
            caught is not None,
        )
        self.screen.say(
            f"Killed after {got:,} of {of:,} messages. Cleo's door had acknowledged {own:,} more "
            f"of her own{' and was about to answer for one' if unanswered else ''}."
        )
        for mine, yours in waves:
            await self._together(self._publish(ada, mine), self._publish(ben, yours))
        began = self._now()
        self.cluster.start(cleo)
        await self.cluster.ready(cleo)
        ready = self._now() - began
        newest = (await self.cluster.door(cleo).get(f"/v1/feed/{segment(cleo.id)}", limit=1)).data
        kept = newest[0]["sequence"] if newest else 0
        total = sum(self._acknowledged.count(node.id) for node in (ada, ben)) + kept
        self.screen.say(
            f"Back on the same folder, ready after {ready:.1f} s. Nobody has to tell her whom to "
            f"ask: the addresses are in her peer book."
        )
        seconds = await self._counted(total) + ready
        self.screen.say("She goes on where her feed ended, and publishes what she had left:")
        await self._publish(cleo, list(singles))
        # The message that was under way at the kill may be there: stored, not acknowledged.
        stored = kept - own_before - own
        await self._counted(self._acknowledged.count() + stored)
        stores = await self._stores()
        lost = max(map(self._acknowledged.lost, stores))
        count = self._acknowledged.count()
        self.screen.say(
            f"Caught up {seconds:.1f} s after the restart. Of {count:,} acknowledged messages "
            f"{lost} are lost. Fingerprints of the three stores:"
        )
        digests = [digest(store) for store in stores]
        self.screen.rows(
            [
                (node.name, f"{len(store):,} messages", value[:32])
                for node, store, value in zip(self._mesh, stores, digests, strict=True)
            ]
        )
        self._judge("Caught up after the kill", f"in {seconds:.1f} s, start included", True)
        self._judge("Messages published and acknowledged", f"{count:,} by three authors", count > 0)
        self._judge("Acknowledged messages lost", str(lost), lost == 0)
        self._judge("The three stores are equal", digests[0][:16], len(set(digests)) == 1)
        await self._read()

    async def _one_by_one(self, node: Node, docstrings: Any) -> bool:
        """
        Publish one message after another until the node is gone or has no more to say.

        @return: was one under way, not acknowledged, at the end?
        """
        for docstring in docstrings:
            try:
                answer = await self.cluster.door(node).post(
                    "/v1/publish", b'{"content":' + docstring.content() + b"}"
                )
            except DoorUnreachable:
                return True
            done = answer.data
            self._acknowledged.note(node.id, done["sequence"], done["sequence"], done["hash"])
        return False

    async def _kill_between(self, node: Node, before: int, wave: int) -> tuple[int, int] | None:
        """
        Kill a node as soon as it has some of a wave and not yet all.

        @return: how many it had, of how many, or L{None} if it had all at once.
        """
        got = 0

        async def look() -> bool:
            nonlocal got
            got = _received(await self.cluster.status(node)) - before
            return got >= max(1, wave // 8)

        # As fast as the door answers: a wave may take but tenths of a second.
        await self.cluster.until(look, f"{node.name} to fetch", every=0)
        # Near the end, it could have had the rest before the signal reached it.
        if got >= wave * 9 // 10:
            return None
        await self.cluster.kill(node)
        return got, wave

    async def _refusals(self, network: NetworkSecret) -> None:
        self._title(
            "Refused, by name",
            "Now the mesh is attacked: by a stranger, by a member, and on the wire. Each attempt "
            "is refused, and each node says by name what it refused.",
        )
        before = await self._stores()
        await self._wrong_network()
        await self._forgery(network)
        await self._flipped_byte()
        after = await self._stores()
        self._judge(
            "Nothing of it was stored",
            digest(after[0])[:16],
            {digest(store) for store in after} == {digest(before[0])},
        )
        await self._read()

    async def _wrong_network(self) -> None:
        ada = self._mesh[0]
        code = NetworkKeyRefused.code
        before = (await self.cluster.status(ada))["refused"].get(code, 0)
        stranger = self.cluster.add("Dana", NetworkSecret.generate(self.cluster.rng))
        self.cluster.start(stranger, "--peer", ada.address)
        await self.cluster.ready(stranger)
        seen: dict[str, Any] = {}

        async def refused() -> bool:
            peers = (await self.cluster.door(stranger).get("/v1/peers")).data
            seen["dialler"] = peers[0]["last_error"] or ""
            seen["listener"] = (await self.cluster.status(ada))["refused"].get(code, 0) - before
            return bool(seen["dialler"]) and seen["listener"] > 0

        await self.cluster.until(refused, "a refusal")
        await self.cluster.stop(stranger)
        self.screen.say("A node with another network key dials Ada. What its peer list says:")
        self.screen.quote(seen["dialler"])
        passed = seen["dialler"].startswith(f"{code}:") and seen["listener"] > 0
        self._judge("Another network key", code if passed else "not refused", passed)

    async def _forgery(self, network: NetworkSecret) -> None:
        ada, ben, _ = self._mesh
        own = (await self.cluster.door(ada).get(f"/v1/feed/{segment(ada.id)}", limit=1)).data[0]
        own.pop("chain_valid")
        claimed = own["sequence"] + 1
        mallory = Identity(self.cluster.rng.randbytes(_SEED))
        # In Ada's name, next in her feed, signed with Mallory's key.
        forged = sign_message(
            mallory,
            sequence=claimed,
            previous=own["hash"],
            timestamp_ns=int(self._now() * 1e9),
            content={"type": "insight", "title": _FORGED, "observation": "import it"},
        ).raw.replace(mallory.public.text.encode("ascii"), ada.id.encode("ascii"))
        # Ada's own message with her signature, and another number and other words.
        content = {**own["content"], "observation": f"{_FORGED}: {own['content']['observation']}"}
        altered = msgspec.json.encode({**own, "sequence": claimed + 1, "content": content})
        before = await self._refused_messages(ben)
        address = MeshAddress.parse(ben.address)
        endpoint = wrap_client(
            self.cluster.reactor,
            HostnameEndpoint(self.cluster.reactor, address.host, address.port),
            identity=mallory,
            capability=Capability.of(network.key(), LABEL, VERSION),
            peer=address.key,
            rng=self.cluster.rng,
        )
        forger = Forger(ada.public.raw, claimed + 1, [forged, altered])
        await endpoint.connect(Factory.forProtocol(lambda: forger))
        wanted = (SignatureInvalid.code, HashMismatch.code)

        async def refused() -> bool:
            counts = await self._refused_messages(ben)
            return all(counts.get(code, 0) > before.get(code, 0) for code in wanted)

        try:
            await self.cluster.until(refused, "the refusal of the forgeries")
        finally:
            transport: Any = forger.transport
            transport.abortConnection()
        door = self.cluster.door(ben)
        found = (await door.get("/v1/insights/search", q=_FORGED)).metadata["total"]
        self.screen.say(
            "A member, on an authenticated channel, serves Ben two messages in Ada's name: one "
            "signed with another key, one of Ada's own with its words changed. Ben counts:"
        )
        counts = await self._refused_messages(ben)
        self.screen.quote(", ".join(f"{counts[code]} {code}" for code in wanted))
        for name, code in zip(("A forged message", "An altered message"), wanted, strict=True):
            self._judge(name, code if not found else "was stored", not found)

    async def _refused_messages(self, node: Node) -> dict[str, int]:
        refused: dict[str, int] = (await self.cluster.status(node))["parts"]["gossip"]["refused"]
        return refused

    async def _flipped_byte(self) -> None:
        ada, ben, _ = self._mesh
        code = TamperedStream.code
        before = await self._broken(ben)
        target = MeshAddress.parse(ada.address)
        proxy = FlippingProxy(self.cluster.reactor, target.host, target.port)
        port = self.cluster.reactor.listenTCP(0, proxy, interface="127.0.0.1")
        address = MeshAddress("127.0.0.1", port.getHost().port, ada.public).text
        door = self.cluster.door(ben)
        said: list[str] = []

        async def through() -> bool:
            """The connection was cut, named, and is back."""
            (peer,) = [
                each for each in (await door.get("/v1/peers")).data if each["address"] == address
            ]
            if peer["last_error"] and peer["last_error"] not in said:
                said.append(peer["last_error"])
            return bool(proxy.flipped and said and peer["connected"])

        try:
            await door.post("/v1/peers", {"address": address})
            await self.cluster.until(through, "the changed byte to be noticed")
        finally:
            port.stopListening()
        await door.delete(f"/v1/peers/{segment(address)}")
        self.screen.say(
            f"On the way from Ada to Ben one bit of byte {CHANGED} is changed. Ben cuts the "
            f"connection, says why in his peer list, and dials again:"
        )
        self.screen.quote(said[0])
        passed = said[0].startswith(f"{code}:") and await self._broken(ben) == before + 1
        self._judge("One flipped byte on the wire", code if passed else "not noticed", passed)

    async def _broken(self, node: Node) -> int:
        broken = (await self.cluster.status(node))["parts"]["gossip"]["broken"]
        return int(broken.get(TamperedStream.code, 0))

    async def _storage(self, network: NetworkSecret) -> None:
        ada = self._mesh[0]
        self._title(
            "Kept by six, read without two",
            "Six more processes join that lend space. Ada gives them a file: sealed, and cut into "
            "six shares of which any four suffice. Nobody tells her where they are, and none of "
            "them can read what it keeps.",
        )
        began = self._now()
        keepers = self._keepers(network, ada, KEEPERS)
        await self._keeping(keepers)
        self.screen.say(
            f"They are up after {self._now() - began:.1f} s, and say in the hash table that they "
            f"keep shares."
        )
        source = await self.workers.run(real_file)
        size, expected = await self.workers.run(fingerprint, source)
        began = self._now()
        put = await self._transfer(ada, "/v1/objects", {"path": source, "scheme": SCHEME})
        took = self._now() - began
        places = (
            await self.cluster.door(ada).post("/v1/objects/stat", {"object": put["object"]})
        ).data["shares"]
        names = {keeper.id: keeper.name for keeper in keepers}
        self.screen.rows(
            [
                (
                    os.path.basename(source),
                    f"{size / 1e6:.1f} MB",
                    f"object {put['object'][:16]}",
                    "shares at " + ", ".join(names[each["peer"]] for each in places),
                )
            ]
        )
        lost = keepers[:_KILLED]
        for keeper in lost:
            await self.cluster.kill(keeper)
        newcomers = self._keepers(network, ada, NEWCOMERS)
        back = str(self.cluster.run.path / "back")
        began = self._now()
        await self._transfer(ada, "/v1/objects/get", {"object": put["object"], "path": back})
        read = self._now() - began
        _, found = await self.workers.run(fingerprint, back)
        self.screen.say(
            f"It is with all of them, synced and signed for, after {took:.1f} s. Now "
            f"{' and '.join(each.name for each in lost)} are killed. The file is back after "
            f"{read:.1f} s. SHA-256 of what went in, and of what came out:"
        )
        self.screen.rows([("in", expected), ("out", found)])
        self._judge(
            "A file from four of six peers",
            f"{size / 1e6:.1f} MB in {took:.1f} s, out {read:.1f} s",
            found == expected and len(put["shares"]) == len(keepers),
        )
        await self._read()
        await self._healed(put["object"], lost, keepers, newcomers)

    def _keepers(self, network: NetworkSecret, ada: Node, names: Sequence[str]) -> list[Node]:
        """Begin to start storage peers."""
        keepers = [self.cluster.add(name, network) for name in names]
        for keeper in keepers:
            lend = ("--keeper-max-storage", _LENT, "--peer", ada.address)
            self.cluster.start(keeper, *lend, daemon="mesh-storage")
        return keepers

    async def _keeping(self, keepers: Sequence[Node]) -> None:
        """Wait until they are there, and can be found."""
        await self.cluster.ready(*keepers)
        await self.cluster.until(
            lambda: self._announced(keepers), "the storage peers to be in the hash table"
        )

    async def _healed(
        self,
        object_id: str,
        lost: Sequence[Node],
        keepers: Sequence[Node],
        newcomers: Sequence[Node],
    ) -> None:
        ada = self._mesh[0]
        self._title(
            "It heals",
            f"Ada asks each of the six to prove that it has its share: a few leaves of it, which "
            f"neither side can choose, and the answers are signed. {' and '.join(NEWCOMERS)} have "
            f"joined meanwhile. What is missing is made anew out of what is left, without opening "
            f"the file.",
        )
        await self._keeping(newcomers)
        names = {node.id: node.name for node in (*keepers, *newcomers)}
        began = self._now()
        seen = await self._pass(ada, "/v1/audit/runs", {"objects": [object_id], "repair": False})
        audited = self._now() - began
        (found,) = seen["seen"]
        self.screen.rows(
            [
                (f"share {each['share']}", names[each["peer"]], each["outcome"])
                for each in found["shares"]
            ]
        )
        silent = {each["peer"] for each in found["shares"] if each["outcome"] != "success"}
        self._judge(
            "An audit names the two killed peers",
            f"{seen['shares']} shares in {audited:.1f} s",
            silent == {node.id for node in lost},
        )
        began = self._now()
        healed = await self._pass(ada, "/v1/objects/repair", {"object": object_id})
        took = self._now() - began
        (found,) = healed["seen"]
        self.screen.rows(
            [
                (f"share {each['share']}", "made anew", f"at {names[each['peer']]}")
                for each in found["placed"]
            ]
        )
        checked = (
            await self.cluster.door(ada).post("/v1/objects/check", {"object": object_id})
        ).data
        self.screen.say(
            f"{healed['placed']} shares made anew in {took:.1f} s: {healed['read'] / 1e6:.1f} MB "
            f"read, {healed['written'] / 1e6:.1f} MB sent. Now {checked['good']} of "
            f"{len(checked['shares'])} are good, and two others may be lost."
        )
        self._judge(
            "Healed without being opened",
            f"{healed['placed']} shares in {took:.1f} s",
            checked["health"] == "healthy" and healed["placed"] == len(lost),
        )
        await self._read()

    async def _pass(self, node: Node, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """
        Have a node audit, or repair.

        @return: what was found and done.
        @raise DemoFailed: if it was not done.
        """
        door = self.cluster.door(node)
        # One may be under way, as the node makes them by itself.
        run = (await begin(door, path, body))["run"]
        shown: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal shown
            shown = (await door.get(f"/v1/audit/runs/{run}")).data
            return shown["ended"] is not None

        await self.cluster.until(look, "an audit")
        if shown["state"] != "done" or not shown["seen"]:
            raise DemoFailed(f"the audit failed: {shown['error']}{self.cluster.logs()}")
        return shown

    async def _announced(self, keepers: Sequence[Node]) -> bool:
        """Are they in the hash table, each of them?"""
        lent = await self._together(
            *(self.cluster.door(keeper).get("/v1/storage") for keeper in keepers)
        )
        return all(answer.data["announced"] for answer in lent)

    async def _transfer(self, node: Node, path: str, body: dict[str, str]) -> dict[str, Any]:
        """
        Have a node put or get an object, and show how far it is.

        @return: what came of it.
        @raise DemoFailed: if it failed.
        """
        door = self.cluster.door(node)
        shown: dict[str, Any] = (await door.post(path, body)).data
        began = self._now()

        async def look() -> bool:
            nonlocal shown
            shown = (await door.get(f"/v1/transfers/{shown['id']}")).data
            ended = shown["state"] not in ("waiting", "running")
            if shown["total"] and not ended:
                counter = Counter("bytes", shown["done"], shown["total"])
                self.screen.count([counter], self._now() - began)
            return ended

        await self.cluster.until(look, f"the {shown['kind']} of a file")
        if shown["state"] != "done":
            raise DemoFailed(
                f"the {shown['kind']} of a file failed: {shown['error']}{self.cluster.logs()}"
            )
        result: dict[str, Any] = shown["result"]
        counter = Counter("bytes", result["bytes"], result["bytes"])
        self.screen.count([counter], self._now() - began, last=True)
        return result

    async def _commands(self) -> None:
        ada, ben, cleo = self._mesh
        meshkit = _own_command()

        def command(node: Node, *words: str) -> str:
            return shlex.join([*meshkit, "--data-dir", node.folder.path, *words])

        commands = (
            command(cleo, "search", "context manager"),
            command(ben, "status"),
            command(ada, "publish", "Hello, mesh."),
        )
        if self.check:
            await self._try(commands)
        self._title("What was checked", "Every figure was measured in this run.")
        self.screen.checks(self._checks)
        self._done = True
        failed = sum(not check.passed for check in self._checks)
        if failed:
            self.screen.say(f"{failed} of {len(self._checks)} checks failed.")
        if self.check:
            return
        self._title("Yours", "The mesh stays up until you press Ctrl-C. Try in another terminal:")
        for each in commands:
            self.screen.command(each)
        self.waiting = True
        while True:
            await self.cluster.pause(0.5)
            self.cluster.check_alive()

    async def _try(self, commands: Sequence[str]) -> None:
        """Do the commands work as they are printed?"""
        results = await self._together(
            *(
                self.workers.run(
                    subprocess.run,
                    ["sh", "-c", each],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=60,
                )
                for each in commands
            )
        )
        failed = [each for each, done in zip(commands, results, strict=True) if done.returncode]
        self._judge("Three commands to try", failed[0] if failed else "work as printed", not failed)


async def _awaiting(job: Awaitable[Any]) -> Any:
    return await job


def _phrase(docstring: Docstring) -> str:
    """What a docstring begins with, as a search."""
    words = docstring.text.replace('"', " ").split()
    return f'"{" ".join(words[:6])}"'


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _slice(docstrings: Sequence[Docstring], start: float, end: float) -> list[Docstring]:
    count = len(docstrings)
    return list(docstrings[round(count * start) : round(count * end)])


def _received(status: dict[str, Any]) -> int:
    """How many messages came over the connections that are open."""
    return sum(link["received"] for link in status["parts"]["gossip"]["links"])


def _matching_line(text: str, query: str) -> str:
    """The line of a text that says most of what was searched for."""
    words = query.strip('"').lower().split()
    return max(text.splitlines(), key=lambda line: sum(word in line.lower() for word in words))


def _own_command() -> list[str]:
    """How to type C{meshkit} here: as short as it still is this one."""
    ours = Path(sys.executable).with_name("meshkit")
    found = shutil.which("meshkit")
    if found is not None and os.path.exists(ours) and os.path.samefile(found, ours):
        return ["meshkit"]
    if os.access(ours, os.X_OK):
        relative = os.path.relpath(ours)
        return [relative if not relative.startswith(os.pardir) else str(ours)]
    return [sys.executable, "-m", "meshkit.cli.main"]
