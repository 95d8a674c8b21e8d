"""
The interfaces that parts of a node implement, provide to each other and require.

A third party who adds a protocol needs this module, C{meshkit.operations} and
C{meshkit.parts}, and nothing else of a node's insides.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, Literal

from attrs import field, frozen
from twisted.application.service import IService
from zope.interface import Attribute, Interface

__all__ = [
    "Arrival",
    "Arrivals",
    "BlocksChanged",
    "ForkProof",
    "ForkProven",
    "Frontier",
    "Gap",
    "IAdmission",
    "IAdvisesAgents",
    "IBoundsPeers",
    "IConnections",
    "IDetours",
    "IErasureCode",
    "IErasureCodec",
    "IFeedStore",
    "IFiles",
    "IForeignProtocols",
    "IHashTable",
    "ILocalStoragePeer",
    "IMeshPart",
    "IMeshProtocol",
    "IMetrics",
    "IPeerBook",
    "IPeerFinder",
    "IRecordKind",
    "IRelays",
    "IRegistrations",
    "ISelection",
    "IScatteredReads",
    "IShardStore",
    "IShardWriter",
    "IStoragePeer",
    "IToolAliases",
    "IWantsFiles",
    "IWellKnown",
    "IWhereabouts",
    "Interest",
    "MessagesStored",
    "PathFound",
    "NodeWoke",
    "PeerMoved",
    "PeerReturned",
    "PeerSuspected",
    "Relay",
    "Retention",
    "RegistrationChanged",
    "RoomMade",
    "StoredMessage",
    "IShortcuts",
]


class IMeshProtocol(Interface):
    """
    A protocol that a node can speak: what a module in C{meshkit_plugins} offers.

    L{meshkit.parts.PartMaker} implements it from a dotted module name, so that a
    plugin module imports nothing heavy.
    """

    name: str = Attribute(
        """
        C{[a-z][a-z0-9_]*}, unique in a node: the config section, the status key
        and the label in metrics.
        """
    )
    provides: tuple[Any, ...] = Attribute("Interfaces that the part provides to others.")
    requires: tuple[Any, ...] = Attribute("Interfaces without which it cannot be made.")
    wants: tuple[Any, ...] = Attribute("Interfaces that it uses where some part provides them.")
    compat: bool = Attribute(
        """
        It speaks to programs of others, and is left out unless the setting C{compat} names
        it.  A maker without this attribute is not of that kind.
        """
    )

    def config_type() -> Any:
        """
        @return: the C{msgspec.Struct} type of the part's config section.  Every
            field needs a default.
        """

    def migrations() -> Sequence[str]:
        """
        @return: SQL scripts, oldest first.  Script I{i} takes the part's tables from
            version I{i} to I{i+1}; a script that was released is never changed.
        """

    def create(context: Any) -> Any:
        """
        Make the part.  Called once per node, before anything is started.

        @param context: L{meshkit.parts.PartContext}.
        @return: L{IMeshPart}.  It provides every interface in L{provides}.
        """


class IMeshPart(IService):
    """
    A part of a running node.

    It is an L{IService}.  C{startService} may return a Deferred: parts that require
    this one are started after it has fired.  C{stopService} runs in reverse order,
    each with a deadline.
    """

    def capabilities() -> Any:
        """
        @return: mapping of label (C{[a-z][a-z0-9.-]{0,31}}), or of label and version, to
            the L{twisted.internet.interfaces.IProtocolFactory} that serves it.  The
            factory's C{buildProtocol} gets a L{meshkit.identity.addresses.PeerAddress}.
        """

    def authorize(peer: Any, label: str) -> Any:
        """
        May this peer use this protocol?  Asked after the peer has proved its key and
        before it learns anything from us.

        @param peer: the peer's L{meshkit.identity.keys.PublicKey}.
        @return: C{bool}, or a Deferred of it.
        """

    def operations() -> Any:
        """@return: sequence of L{meshkit.operations.BoundOperation}."""

    def status() -> Any:
        """@return: a C{msgspec.Struct} that C{GET /v1/status} shows under the part's name."""


class IAdvisesAgents(Interface):
    """
    What a part provides beside L{IMeshPart} that has something to say to agents about its
    state, before they ask.
    """

    def advice() -> Any:
        """
        What should be done now, or be known before anything is done.

        It stands in the description of a tool that all agents read, and they are told of
        every change: so it is asked for every few seconds and must cost little, and it has
        no counters, no ids and no word that a peer wrote.

        @return: sequence of sentences; empty if all is well.
        """


class IWantsFiles(Interface):
    """
    What a part provides beside L{IMeshPart} that has more connections or files open than the
    thousand that a node has for all of its parts.
    """

    files: int = Attribute("How many it may have open at its limits.")


class IToolAliases(Interface):
    """
    What a part provides beside L{IMeshPart} whose operations agents know by other names.
    """

    def aliases() -> Any:
        """
        Asked once, when the door is made.

        @return: sequence of L{meshkit.aliases.Alias}.
        """


class IForeignProtocols(Interface):
    """
    What a part provides beside L{IMeshPart} that serves, on the node's port, protocols of
    networks which are not the node's own.
    """

    def foreign() -> Any:
        """
        Asked once, when the part is started.

        @return: sequence of L{meshkit.shs.listener.Foreign}.  Peers are admitted by the
            part's C{authorize}.
        """


class IFeedStore(Interface):
    """The signed feeds that this node keeps: provided by the part C{feed}."""

    def publish(
        content: Any,
        *,
        schema_id: str | None = None,
        relates: str | None = None,
        tags: Sequence[str] = (),
        trace_id: str | None = None,
        span_id: str | None = None,
        expires_at: str | None = None,
        recipients: Sequence[str] = (),
        form: Literal["own", "egregore"] = "own",
    ) -> Any:
        """
        Sign a message with this node's identity and append it to its own feed.

        @param content: a JSON value.
        @param relates: hash of the message it is about, 64 lower-case hex digits; whether
            there is one is not asked.
        @param recipients: ids of those who can read the content, and with whom this node
            can; what the other arguments say stays readable to all, but for C{schema_id}.
            Without any, everybody can.
        @param form: how the content is sealed for them: C{own}, or C{egregore} for
            Egregore's private box.
        @return: Deferred of the stored L{meshkit.feed.message.Message}, fired when
            the message is on the disk; fails with L{meshkit.errors.FeedError} or
            L{meshkit.errors.StorageFailed}.  Among the former are
            L{meshkit.errors.FeedReadOnly}, as long as the feed may have gone on
            elsewhere, and L{meshkit.errors.FeedForked}, for ever.
        """

    def ingest(
        raw_messages: Sequence[bytes], *, author: bytes | None = None, first: int | None = None
    ) -> Any:
        """
        Check and store messages that others wrote.  Cancelling only forgets the wish to
        be told.

        @param raw_messages: the JSON texts, as received.
        @param author: 32-byte key: refuse what others than this one wrote, with
            L{meshkit.errors.UnexpectedMessage}.
        @param first: refuse, likewise, what is not this sequence number and those that
            follow it, one by one.
        @return: Deferred of one L{meshkit.feed.chain.Verdict} per text, in order,
            fired when what was accepted is on the disk.  A second message for a place is
            refused with L{meshkit.errors.ForkRefused} and proves a fork: L{ForkProven}.
            One that does not join its stored neighbour is accepted and says so in
            C{disputed}: if the sender has another message for that place, that is the
            proof.
        """

    def heads(authors: Sequence[bytes] | None = None, after: bytes = b"", limit: int = 1000) -> Any:
        """
        How far each feed is complete here.

        @param authors: 32-byte keys to ask for, or L{None} for every author above
            C{after} in byte order, at most C{limit}.
        @return: Deferred of a list of (author key, highest sequence up to which
            nothing is missing from 1 on), sorted by author.
        """

    def frontier(
        authors: Sequence[bytes] | None = None, after: bytes = b"", limit: int = 1000
    ) -> Any:
        """
        What L{heads} tells, with what it takes to find out whether another node has the
        same.

        Two nodes have the same of a feed if C{sequence}, C{head} and C{forked} are the
        same.  Where both have the same C{sequence} and another C{head}, or both know it
        to be forked at the same place and have another C{head} before it, the two
        messages at C{sequence} prove a fork: whoever is given the other's one (L{read},
        L{ingest}) finds it, and going on so finds the lowest place where they differ.

        @param authors: 32-byte keys to ask for, or L{None} for every author above
            C{after} in byte order, at most C{limit}.
        @return: Deferred of a list of L{Frontier}, sorted by author.  Authors of whom
            neither a message 1 nor a fork is known are left out.
        """

    def fork_proof(author: bytes) -> Any:
        """@return: Deferred of the L{ForkProof} of a feed, or of L{None}."""

    def ingest_proof(one: bytes, other: bytes) -> Any:
        """
        Check and keep a proof that an author has forked a feed.  Of one author the proof
        for the lowest sequence is kept; of two proofs for one sequence, the first.

        @param one: a message, as received.
        @param other: another one.
        @return: Deferred of whether this was news, fired when it is on the disk; then
            L{ForkProven} was published.  Fails with the L{meshkit.errors.FeedError} that
            makes one of them no message, or with L{meshkit.errors.ForkUnproven}.
        """

    def rotations(successor: bytes | None = None, after: bytes = b"", limit: int = 1000) -> Any:
        """
        Feeds that have ended because their authors go on with other keys.

        @param successor: only those that this 32-byte key follows.
        @param after: only authors above this key.
        @return: Deferred of a list of L{FeedRotated}, at most C{limit}, sorted by author.
        """

    def note_own_seen(peer: bytes, sequence: int) -> Any:
        """
        A peer has shown how far it has this node's own feed.

        To be called whenever a peer tells it, also if that is no more than is here, which
        is what a node waits for that was restored from a backup; and with 0 when the
        feeds were compared and the peer has nothing of it.  If it is more than is here,
        nothing is published until the peer has brought it, or has had a minute to: fetch
        it as any other feed.  If the peer turns out not to have it, call this again with
        what it has.

        @param peer: 32-byte key.
        @param sequence: highest sequence that it says it has.
        @return: Deferred that fires with L{None} when that is noted.
        """

    def read(author: bytes, after: int, max_bytes: int, max_messages: int) -> Any:
        """
        The contiguous messages of one author that follow a sequence number.

        @param max_bytes: stop before the answer is larger than this; the first
            message is given even if it is.
        @return: Deferred of a list of raw texts, ascending from C{after + 1}.
        """

    def arrivals(after: int, max_messages: int, max_bytes: int) -> Any:
        """
        The messages of all authors that follow a position, in the order in which they were
        stored here.  What is no part of a feed, because its author has forked it, is left
        out, and so is what is not kept any more, or is of an author who is blocked.

        @param after: a L{StoredMessage.position}; 0 for the beginning.
        @param max_messages: stop after so many.
        @param max_bytes: stop before their texts are larger than this in all.  The first
            is given in any case.
        @return: Deferred of L{Arrivals}.
        """

    def parting(heads: Sequence[tuple[bytes, int, bytes]]) -> Any:
        """
        Which feeds have another message here than somebody else has at one place?

        @param heads: (author, sequence, 32-byte hash of the message there).
        @return: Deferred of those (author, sequence), in their order, of which another
            message is here and complete from the first on.
        """

    def gone_until(author: bytes, after: int) -> Any:
        """
        Why L{read} gives nothing, where the feed goes on: the texts are not kept any more.

        @return: Deferred of the L{Gap} in which message C{after + 1} is, or of L{None} if
            it is in none.
        """

    def skip(author: bytes, until: int, head: bytes) -> Any:
        """
        Do without the messages of a feed up to one, as nobody keeps them any more.

        What others say is not believed: the next message, C{until + 1}, has to be stored
        here, and to name C{head} as its predecessor.

        @param until: sequence of the last message that is done without.
        @param head: its hash, 32 bytes.
        @return: Deferred of whether that changed anything, fired when it is on the disk.
            L{MessagesStored}, without messages, then tells how far the feed is complete.
        """

    def authors_with_tags(tags: Sequence[str], after: bytes = b"", limit: int = 1000) -> Any:
        """
        Who has used one of some tags, in messages that are kept here.

        @param after: only authors above this one, in byte order.
        @return: Deferred of a sorted list of at most C{limit} 32-byte keys.
        """

    def tagged_message(author: bytes, tags: Sequence[str]) -> Any:
        """
        @return: Deferred of the text of a message with which an author has used one of
            some tags, or of L{None}.
        """

    def is_blocked(author: bytes) -> bool:
        """
        Has the operator blocked a 32-byte key?  Then nothing of its feed is taken, told or
        served here, whoever asks, and a peer with it is not to be let in.
        """

    def retain(retention: Retention) -> None:
        """
        Keep no more of the feeds of others than this, whatever the settings allow besides.
        What is to go is emptied soon after; a feed's newest message stays.  Who asks for what
        is gone is told so (L{gone_until}).
        """

    def forget(author: bytes) -> Any:
        """
        Empty all that is stored of a feed which is not replicated here any more.  If it is
        again, it is fetched again, from its first message on.

        @param author: 32-byte key, not this node's.
        @return: Deferred of how many messages were emptied, fired when that is on the disk.
            Fails with L{meshkit.errors.NotReady} if the node stops before all of it is done.
        """

    def refused_by_egregore(raw: bytes) -> Any:
        """
        Would a node of Egregore refuse a message?  It may be called from any thread.

        @param raw: the text of a stored message.
        @return: what its author should change, a sentence; L{None} if it would not.
        """

    def advise(judge: Any, told: Any) -> Any:
        """
        Have publishers at the doors of this node told what is odd about their messages.

        @param judge: C{judge(raw)} gives a sentence, or L{None}, for the text of a message
            that was just published.  It is called from any thread.
        @param told: C{told(count)} is called on the reactor's thread when that many
            sentences were given.
        @return: what ends it, to be called once.
        """


class ISelection(Interface):
    """Which feeds this node replicates: provided by the part C{gossip}."""

    def wants(author: bytes) -> Any:
        """@return: is the feed of this 32-byte key replicated here?  A C{bool}."""

    def interest() -> Any:
        """@return: the L{Interest} as a whole."""

    def watch(callback: Any) -> None:
        """Call C{callback()} whenever the selection may have changed."""

    def add_kept(authors: Any) -> Any:
        """
        Replicate the feeds of these beside what the operator has selected.  From now on
        nothing selected is nobody, and not everybody.

        @param authors: a container of 32-byte keys that can be iterated over, and may change.
        @return: a callable without arguments, to be called when it has changed.
        """


class IWellKnown(Interface):
    """
    What others are to find at the domain of this node: provided by the part C{wellknown}, for
    parts that serve the public over HTTP.
    """

    def document() -> Any:
        """
        @return: the body of C{/.well-known/meshkit.json}, C{application/json}, now; L{None} for
            C{404}.
        """


class IPeerBook(Interface):
    """The addresses this node may dial, and what it knows of them."""

    ledger: Any = Attribute("How the peers behave, by key: L{meshkit.runtime.ledger.Ledger}.")

    def dialable() -> Any:
        """@return: list of L{meshkit.identity.addresses.MeshAddress}, in a stable order."""

    def named() -> Any:
        """@return: those of them that the operator has named, and nobody else."""

    def hear(source: str, addresses: Any) -> None:
        """
        Dial what nodes say of themselves, for as long as they say it.

        It is no more than a hint: whoever answers proves the key, nothing is kept over a
        restart, and what the operator has named stays as it is.

        @param source: who passes it on, for people: a part's name.
        @param addresses: all that it has now, iterable of
            L{meshkit.identity.addresses.MeshAddress}, in place of what it told before.  Of
            more than L{meshkit.runtime.peers.MAX_HEARD} some are left out.
        """

    def watch(callback: Any) -> None:
        """Call C{callback()} whenever the set of addresses may have changed."""

    def entries() -> Any:
        """@return: list of L{meshkit.runtime.peers.PeerEntry}: all that is known of each."""

    def watch_links(callback: Any) -> None:
        """
        Call C{callback(entry)} whenever an address was connected or disconnected, or could not
        be reached.
        """

    def note_connected(address: Any) -> None:
        """Record that a channel to the address was opened."""

    def note_disconnected(address: Any) -> None:
        """Record that the channel to the address is gone."""

    def note_failed(address: Any, error: Any) -> None:
        """Record why the address could not be reached, or why its channel was dropped."""


class IConnections(Interface):
    """How a part reaches other nodes."""

    def endpoint(
        address: Any,
        label: str,
        version: int = 1,
        *,
        network: Any = None,
        identity: Any = None,
        direct: bool = False,
    ) -> Any:
        """
        Where a peer serves one protocol, as an endpoint.

        It leads to the address first, and through relays where that does not answer or the
        address says so (L{IDetours}).  Which way it was is in C{getPeer().inner} of the
        transport.

        @param address: L{meshkit.identity.addresses.MeshAddress}.
        @param label: the capability label to use.
        @param version: of the protocol that it names.
        @param network: L{meshkit.identity.network.NetworkKey} of the network in which the peer
            serves it; L{None}: this node's.
        @param identity: L{meshkit.identity.keys.Identity} as which to come; L{None}: this node's.
        @param direct: to the address and nowhere else, for who wants to know whether the
            peer is there; so it is in another network in any case.
        @return: L{twisted.internet.interfaces.IStreamClientEndpoint}.  Its C{connect}
            fires when the peer is authenticated and fails with
            L{meshkit.errors.HandshakeError} or what the inner endpoint fails with;
            cancelling it aborts the connection.
        """

    def beneath(place: Any) -> Any:
        """
        The bare way to a place, for a part that brings a handshake of its own.

        @param place: L{meshkit.identity.addresses.HostPort}.
        @return: L{twisted.internet.interfaces.IStreamClientEndpoint}.
        """


class IWhereabouts(Interface):
    """
    Where others reach this node: what its operator says, and what its parts have found out.

    A place is a L{meshkit.identity.addresses.HostPort}.
    """

    advertised: Any = Attribute(
        "Tuple of places: the setting C{advertise}, which counts for more than all else."
    )

    def listening() -> Any:
        """
        @return: list of places where connections to this node arrive: where it listens, whose
            host may be a wildcard, and then what was mapped to that.
        """

    def places() -> Any:
        """
        @return: tuple of places to tell others, as far as they are known by now; never a
            wildcard.  If the operator names none, the nearest are first, as who may dial those at
            all is near.
        """

    def mapped(source: str, places: Any) -> None:
        """
        Say where a router passes connections on to this node.

        @param source: name of the part that says so.
        @param places: in place of those it has said before.
        """

    def ask(source: str, callback: Any) -> Any:
        """
        Say what others tell of where they see this node.

        @param callback: gives a sequence of places, for L{places}; those of L{listening} that are
            no wildcards are known without it.
        @return: what ends it, to be called once.
        """

    def watch(callback: Any) -> Any:
        """
        Call C{callback()} whenever something was mapped, or is no more.

        @return: what ends it, to be called once.
        """


class IBoundsPeers(Interface):
    """
    What a factory of L{IMeshPart.capabilities} provides that sees to it itself that no peer has
    too many connections of its protocol, where a peer may need more than the node lets it have of
    all others together: a relay's circuits.
    """


class IDetours(Interface):
    """
    Ways to peers that cannot be dialled where they are: provided by the part C{tunnel}.

    Whoever dials a peer does not ask for them: L{IConnections.endpoint} does, and goes where
    it is not told otherwise, to the address first.
    """

    head_start: float = Attribute(
        "Seconds for which the address alone is dialled, before other ways are, too."
    )

    def direct(key: Any) -> Any:
        """
        @param key: L{meshkit.identity.keys.PublicKey}.
        @return: L{meshkit.identity.addresses.HostPort} at which a peer answers that was reached
            through a relay before, as it told there itself; L{None} if there is none.
        """

    def ways(address: Any) -> Any:
        """
        @param address: L{meshkit.identity.addresses.MeshAddress} that was dialled in vain, or
            leads through a relay.
        @return: Deferred of a list of L{meshkit.identity.addresses.MeshAddress} that lead to
            its key, through relays or not, the best first, perhaps none.
        """

    def to_us() -> Any:
        """
        @return: list of L{meshkit.identity.addresses.MeshAddress} by which others are led through
            relays to this node now, in the order of the settings.
        """

    def through(address: Any) -> Any:
        """
        @param address: one that leads through a relay.
        @return: L{twisted.internet.interfaces.IStreamClientEndpoint} of the bare stream to the
            peer, with no handshake inside; its C{connect} fails with
            L{meshkit.errors.RelayError} or as that of L{IConnections.endpoint} does.
        """


class IShortcuts(Interface):
    """Direct paths beside those through relays: provided by the part C{webrtc}."""

    def hear_stun(places: Sequence[Any]) -> None:
        """
        Relays that lead others here say where they answer by STUN (RFC 8489).

        @param places: L{meshkit.identity.addresses.HostPort} of all that do so now.
        """

    def beside(address: Any, around: Any) -> Any:
        """
        @param address: L{meshkit.identity.addresses.MeshAddress} of a peer, that leads through a
            relay.
        @param around: L{twisted.internet.interfaces.IStreamClientEndpoint} of the way through it.
        @return: likewise, by a direct path where there is one, and as C{around} where not; a path
            may be looked for meanwhile.
        """


class IMetrics(Interface):
    """
    Where a part counts and measures for C{GET /metrics}.

    C{name} is what follows C{meshkit_<part>_}: words of lower-case letters and digits, with
    C{_} between them; base units (C{_seconds}, C{_bytes}); C{_total} at the end of what only
    grows, and of nothing else.  C{doc} is one sentence.

    A keyword declares a label, with the values that it may have.  Any other value is counted
    as C{other}: never make a label of a key, or of text that a peer can choose.

    Each method raises L{ValueError} for a name that is of another form, or that is taken.
    """

    def counter(name: str, doc: str, /, **labels: Container[str]) -> Any:
        """
        @return: what has C{add(*values, by=1)}; C{values} are those of the labels, in the
            order in which they were declared.
        """

    def histogram(
        name: str, doc: str, bounds: Sequence[float] = (), /, **labels: Container[str]
    ) -> Any:
        """
        @param bounds: upper ends of the buckets, ascending; left out, those that suit
            seconds.
        @return: what has C{observe(value, *values)}.
        """

    def count(name: str, doc: str, read: Callable[[], Any], /, **labels: Container[str]) -> None:
        """
        Have a part's own count told.

        @param read: asked when somebody looks: gives a number, or a mapping from the value
            of the label, or from the tuple of the labels' values, to a number.
        """

    def gauge(name: str, doc: str, read: Callable[[], Any], /, **labels: Container[str]) -> None:
        """Like L{count}, for what also falls."""


class IRecordKind(Interface):
    """
    A kind of records that nodes keep for one another in the hash table.

    L{meshkit.kademlia.kinds.Kind} makes one of functions, and
    L{meshkit.testing.kinds.kind_problems} tries it.  All nodes that keep a kind have
    to agree on it: who changes what it asks for gives it another name.  Its functions are
    called with what strangers have sent, hundreds of times a second: they take no time, keep
    nothing, and depend on nothing but what they are given.
    """

    name: str = Attribute(
        """
        C{[a-z][a-z0-9.-]{0,31}}; third parties take a dotted name that they own.  It is part
        of every key, so kinds never meet.
        """
    )
    written: str = Attribute(
        """
        How its names are written at the doors: C{id}, that of a peer; C{hex}; or C{text},
        which is taken as UTF-8.
        """
    )
    max_value: int = Attribute("Bytes of a value, at most 32 KiB.")
    max_entries: int = Attribute("Records that are kept of one key, 1 to 1,000.")
    counts_on_storer: bool = Attribute(
        """
        Whose quota a record counts on: that of the peer who brings it, if anybody may publish
        the same; else that of its owner.
        """
    )

    def validate(record: Any, now: int) -> None:
        """
        Is this a record of the kind?  Its form, signature, network, times and size were
        checked; whether it belongs at its key is asked here, if that can be seen.

        What was valid has to stay so until the record expires, or it could not be handed on.

        @param record: L{meshkit.kademlia.records.Record}.
        @param now: milliseconds since 1970.
        @raise meshkit.errors.RecordError: it is not.
        """

    def slot(record: Any) -> bytes:
        """
        Which place of those at its key a record takes.  Of two for one place, one is kept.

        @param record: L{meshkit.kademlia.records.Record}, a valid one.
        @return: the same for all, such as C{b""}, if there is but one; the owner's key, if
            each has his own.
        """

    def merge(held: Any, new: Any) -> Any:
        """
        Which of two valid records for one place counts.

        In whatever order nodes hear of the records, all have to come to the same: it must not
        matter which is given first, nor in which order three are merged.

        @return: one of the two.
        """


class IHashTable(Interface):
    """
    The hash table of the network: provided by the part C{dht}.

    Each Deferred fails with L{meshkit.errors.NotReady} before the node is started, and when it
    stops; with L{meshkit.errors.Overloaded} where too many lookups are under way.  It can be
    cancelled.
    """

    def register_kind(kind: Any) -> None:
        """
        Have records of a kind kept, here as everywhere a node has the same part.  To be called
        while parts are made, as all records of a node are judged when it starts.

        @param kind: L{IRecordKind}.  Several parts may need the same one.
        @raise ValueError: there is another one of this name.
        """

    def get(kind: str, name: bytes) -> Any:
        """
        @param kind: name of an L{IRecordKind}.
        @param name: what its records are found by.
        @return: Deferred of a list of L{meshkit.kademlia.records.Record}, those that count;
            empty if there are none.
        """

    def put(kind: str, name: bytes, value: bytes, *, salt: bytes = b"", until: Any = None) -> Any:
        """
        Publish something of this node's, and go on publishing it until it is withdrawn.

        @param until: milliseconds since 1970 at which it ends.
        @return: Deferred of L{meshkit.kademlia.node.Placed}: how many nodes keep it.  It fails
            with L{meshkit.errors.RecordError} if it is nothing that the kind takes.
        """

    def withdraw(kind: str, name: bytes, salt: bytes = b"") -> Any:
        """
        Take back what was published.

        @return: Deferred of L{meshkit.kademlia.node.Placed}; it fails with
            L{meshkit.errors.NotFound} if nothing was.
        """

    def provide(content: bytes) -> Any:
        """
        Say that this node has some content, until C{withdraw("provider", content)}.

        @param content: its id, which those who keep the record are not told.
        @return: as L{put}.
        """

    def providers(content: bytes) -> Any:
        """@return: Deferred of a list of L{meshkit.kademlia.node.Provider}."""

    def find_node(target: Any) -> Any:
        """
        @param target: 32 bytes, or a L{meshkit.identity.keys.PublicKey}.
        @return: Deferred of the nearest nodes, L{meshkit.kademlia.contacts.Contact}, the
            nearest first, at most 20.
        """


class IPeerFinder(Interface):
    """What knows where peers can be reached, by their keys: provided by the part C{dht}."""

    def find_peer(key: Any) -> Any:
        """
        @param key: L{meshkit.identity.keys.PublicKey}.
        @return: Deferred of a list of L{meshkit.identity.addresses.MeshAddress}, the best
            first and those that lead through relays last, never empty; they may be dialled.  It
            fails with
            L{meshkit.errors.NotFound} if nobody knows it, and as those of L{IHashTable} do.
        """

    def tell(name: str, value: bytes | None) -> None:
        """
        Have this node's address record say something besides its addresses, from now on; with
        that, there is one though nobody can dial this node.

        @param name: what it is found by in the C{more} of the record.
        @param value: all such values have to fit the record together; L{None}: say it no longer.
        """

    def own_places() -> Any:
        """
        @return: sequence of L{meshkit.identity.addresses.HostPort}: where others are told that
            this node can be reached, as far as that is known by now; never a wildcard.
        """

    def own_record() -> bytes:
        """
        @return: the address record with which others are told so, as it travels
            (L{meshkit.identity.records}); empty if nobody is told.
        """


class IRelays(Interface):
    """
    The relays that this node uses: provided by the part C{relays}.

    A relay serves its protocols in one network: a member relay in that of its members, a blind
    one in L{meshkit.identity.network.PUBLIC_RELAYS}, whose members are everybody.
    """

    def relays() -> Any:
        """
        @return: sequence of L{Relay}, those of the settings in their order, the member relays
            first.  It is the same as long as the node runs.
        """

    def network_of(relay: Relay) -> Any:
        """
        @param relay: any, be it among L{relays} or not.
        @return: L{meshkit.identity.network.NetworkKey} of the network in which it serves; its
            C{net_id} stands in what the relay signs.
        """

    def endpoint(relay: Relay, label: str, version: int = 1, identity: Any = None) -> Any:
        """
        Where a relay serves one protocol, in its network.

        @param relay: any, be it among L{relays} or not.
        @param label: the capability label to use.
        @param version: of the protocol that it names.
        @param identity: L{meshkit.identity.keys.Identity} as which to come; L{None}: this
            node's.
        @return: as L{IConnections.endpoint}.
        """


class IFiles(Interface):
    """
    The file system, as meshkit uses it.  Handed in, so that it can be simulated.

    Every error is an L{OSError} that names the path, unless stated otherwise.  All
    methods block for as long as the disk takes.
    """

    system: Any = Attribute(
        """
        L{meshkit.runtime.files.SystemCalls}, of which it is made, for who has files that do not
        fit into memory; L{None} where all is in memory.
        """
    )

    def read(path: str, limit: int) -> bytes:
        """
        Symbolic links are followed.

        @param limit: refuse a larger file with C{EFBIG}.
        @return: the whole content.
        """

    def read_secret(path: str, limit: int) -> bytes:
        """
        Read a file that only its owner may read.  A symbolic link is refused.

        @raise UnsafePermissions: if group or others have any right to it.
        """

    def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
        """
        Replace a file so that a crash leaves either the old or the new content, and a
        return means that the new one is on the disk.  A symbolic link is replaced,
        not written through.
        """

    def create(path: str, data: bytes, mode: int = 0o600) -> None:
        """Like L{write_atomic}, but fail with L{FileExistsError} if the file is there."""

    def make_folder(path: str, mode: int = 0o700) -> None:
        """
        Make a folder and its missing parents, all with this mode, durably.  Nothing
        happens if it is there.
        """

    def mode(path: str) -> int | None:
        """
        @return: permission bits of what the path leads to, or L{None} if there is no
            such file.
        """

    def remove(path: str) -> None:
        """Remove a file, durably; nothing happens if it is not there."""

    def lock(path: str, note: str) -> Callable[[], None]:
        """
        Take a lock that lasts until it is released or the process ends, however it
        ends.  The file stays.

        @param note: written to the file, for people.
        @return: what releases the lock; calling it again does nothing.
        @raise BlockingIOError: if somebody else holds it.
        """


class IErasureCodec(Interface):
    """
    What makes further shares of a segment, and what is missing out of others.

    All codecs make the same bytes, those of zfec: which one an object was written with is
    not written anywhere.
    """

    name: str = Attribute("C{[a-z][a-z0-9-]*}: what a setting calls it.")

    def code(required: int, total: int) -> Any:
        """
        @param required: how many shares suffice, 1 or more.
        @param total: how many there are, at most 256.
        @return: L{IErasureCode}.
        @raise SchemeInvalid: if there is no such code.
        """


class IErasureCode(Interface):
    """
    One shape of an erasure code.

    Its methods block, release the GIL where they can, and may be called in several threads
    at once.  Blocks are C{bytes}, C{bytearray} or C{memoryview} of bytes, and are neither
    changed nor kept.
    """

    required: int = Attribute("How many shares suffice.")
    total: int = Attribute("How many there are.")

    def encode(blocks: Sequence[Any]) -> Any:
        """
        @param blocks: as many as are required, of one length: the shares 0 and following.
        @return: list of the further shares, in order, each as a block.
        @raise SharesInvalid: if there are more or fewer, or they differ in length.
        """

    def recover(blocks: Sequence[Any], numbers: Sequence[int], wanted: Sequence[int]) -> Any:
        """
        Make shares out of others.  Whether those are what was once encoded, the code cannot
        tell: check what goes in, or what comes out.

        @param blocks: as many as are required, of one length.
        @param numbers: which shares they are, in any order, none of them twice.
        @param wanted: numbers of shares, any of them.
        @return: list of these shares, each as a block; one that was given may be that block.
        @raise SharesInvalid: if this cannot be done with them.
        """


class IShardStore(Interface):
    """
    Where a storage peer has the shares that it keeps: a set of shards, which are byte strings
    with names, each with a note that can be replaced.

    All methods block for as long as the disk takes, and are called in worker threads: for
    several names at once, and for each name one at a time.  But C{read} may be called several
    times at once for a name, and several shards may be begun under it.  What a method has
    returned from is durable: a crash of the machine does not undo it.  What was not committed
    is gone after a crash, and may never come back as half a shard.

    A name is 32 bytes.  Errors of the disk are L{OSError}s that name the file.
    L{meshkit.testing.shards.shard_store_problems} tries a store.
    """

    def open() -> Sequence[Any]:
        """
        Before everything else, once.  Takes away what a crash has left half done.

        @return: L{meshkit.storage.terms.Shard} for each that is there, and for each that cannot
            be used and was put aside just now.  One whose note was lost has an empty one.
        """

    def close() -> None:
        """After everything else."""

    def begin(name: bytes) -> Any:
        """
        Begin a shard.  As long as it is not committed, the one that has the name is there.

        @return: L{IShardWriter}.
        """

    def read(name: bytes, offset: int, length: int) -> bytes:
        """
        @return: these bytes of a shard, all of them.
        @raise ShareUnknown: if there is no shard of the name.
        @raise ShareDamaged: if it ends before them.
        """

    def set_note(name: bytes, note: bytes) -> None:
        """
        Replace the note of a shard: afterwards it is the old or the new one, whatever happens.

        @param note: at most 64 KiB.
        @raise ShareUnknown: if there is no shard of the name.
        """

    def remove(name: bytes) -> None:
        """Take a shard away, with its note.  Nothing happens if it is not there."""

    def set_aside(name: bytes, reason: str) -> str:
        """
        Take a shard away that was found damaged, and keep it for people to look at.

        @param reason: one line, kept with it.
        @return: where it is now, for the log.
        @raise ShareUnknown: if there is no shard of the name.
        """

    def free() -> int | None:
        """@return: bytes that the disk has left, or L{None} if that cannot be said."""


class IScatteredReads(Interface):
    """
    An L{IShardStore} that reads several pieces of a shard with less effort than one by one.
    Audits ask for that where there is it.
    """

    def read_scattered(name: bytes, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """
        @param ranges: offset and length of each piece.
        @return: the pieces, in order, each with all its bytes.
        @raise ShareUnknown: if there is no shard of the name.
        @raise ShareDamaged: if it ends before the end of one of them.
        """


class IShardWriter(Interface):
    """
    One shard as it is written: what was appended, then what was kept for its end, then a tail.
    Its methods block, and are called one at a time.
    """

    def append(data: Any) -> None:
        """@param data: any bytes; they may change afterwards."""

    def keep(data: bytes) -> None:
        """@param data: comes behind all that is appended, and behind what was kept before."""

    def commit(tail: bytes, note: bytes) -> None:
        """The shard is complete.  It takes the place of one with the same name."""

    def discard() -> None:
        """Give the shard up.  Does nothing after C{commit}, or a second time."""


class IAdmission(Interface):
    """For whom a storage peer keeps shares."""

    def admits(key: Any) -> Any:
        """
        May somebody have shares kept here?  Asked before each reservation.  What is kept
        already stays, and can be read, renewed and released.

        @param key: L{meshkit.identity.keys.PublicKey}.
        @return: bool, or a Deferred of it, which may be cancelled.
        """


class IStoragePeer(Interface):
    """
    A storage peer, as somebody sees it who wants to have shares kept.

    The keeper gives one to each caller
    (L{meshkit.storage.keeper.keeper.Keeper.for_caller}), and the client's transports give one that
    reaches it over the network (L{meshkit.storage.http.client}).  Every Deferred fails with a
    L{meshkit.errors.StoragePeerError}, or with what the network says, and can be cancelled.

    Who the caller is, is known beneath: by the key of the channel, or of a signature.  Shares
    are named by C{upload} and number while they are written, as the peer finds their names
    itself (L{meshkit.storage.header.share_id}), and by their names afterwards.
    """

    key: Any = Attribute("L{meshkit.identity.keys.PublicKey} of the peer.")

    def statement() -> Any:
        """@return: Deferred of bytes: a fresh L{meshkit.storage.statements.StorageRecord}."""

    def reserve(upload: bytes, number: int, size: int, lease: bytes, repair: bool = False) -> Any:
        """
        Reserve room for one share for an hour, or more room for one that was begun.

        @param upload: 32 bytes, of the object's header.
        @param number: of the share.
        @param size: bytes that the share may have in all, its tree and manifest not counted.
        @param lease: L{meshkit.storage.terms.lease_hash} of the secret of its lease.
        @param repair: it replaces a share that was lost, so it may use the room that is kept
            for that.
        @return: Deferred of L{meshkit.storage.terms.Reservation}.  If the caller has begun
            the share before, it says how far that came.
        """

    def write(upload: bytes, number: int, segment: int, block: Any) -> Any:
        """
        Send the next block of a share.

        @param segment: which one; the last one may be repeated.
        @param block: at most 1 MiB.
        @return: Deferred of L{None}.  It does not mean that anything is durable.
        """

    def close(upload: bytes, number: int, manifest: bytes) -> Any:
        """
        The share is complete.

        @param manifest: of the object.  What was sent must be this share of it.
        @return: Deferred of bytes, an L{meshkit.storage.statements.Receipt}: all is synced.
        """

    def abort(upload: bytes, number: int) -> Any:
        """
        Give a share up that is not complete.

        @return: Deferred of L{None}, also if there is none.
        """

    def stat(share: bytes) -> Any:
        """
        @param share: its name, 32 bytes.
        @return: Deferred of L{meshkit.storage.terms.ShareStat}.
        """

    def manifest(share: bytes) -> Any:
        """@return: Deferred of bytes, the manifest that was given with a share."""

    def read(share: bytes, segment: int) -> Any:
        """
        @return: Deferred of L{meshkit.storage.encoding.Piece}: the block that a segment has in
            the share, and what proves it.  Whoever asks checks it.
        """

    def renew(share: bytes, secret: bytes) -> Any:
        """
        Have a lease last its full time from now on, or give the share a further one.

        @param secret: of the lease.
        @return: Deferred of bytes, a new L{meshkit.storage.statements.Receipt}.
        """

    def release(share: bytes, secret: bytes) -> Any:
        """
        Give up a lease.  A share with no lease is taken away.

        @return: Deferred of L{None}.
        """


class ILocalStoragePeer(IStoragePeer):
    """
    A storage peer of this process, which knows before a block is here whether it wants it.

    The keeper's are such.  A server asks when it has read no more than the headers of a
    request, so that who has reserved nothing cannot have a megabyte held for him.
    """

    def expect(upload: bytes, number: int, segment: int, size: int) -> None:
        """
        May this block come?  Looks at what is in memory, and changes nothing.

        @param size: bytes of the block.
        @raise StoragePeerError: what C{write} would fail with.
        """


class IShareKeeper(Interface):
    """What this process keeps for others, for who is in this process too and dials nobody."""

    def for_caller(key: Any) -> Any:
        """
        @param key: L{meshkit.identity.keys.PublicKey} of who calls.
        @return: L{ILocalStoragePeer}.
        @raise StorageRefused: if nothing is kept here, or nothing for this key.
        """


class IShareSampler(Interface):
    """
    Shares that this process keeps for others, as an audit looks at them: leaves are read from
    the disk, and nothing is rebuilt.  The part C{keeper} provides it while something is kept.
    """

    def kept(names: Sequence[bytes]) -> Any:
        """
        @param names: of shares, 32 bytes each.
        @return: Deferred of a list with, for each, L{meshkit.storage.terms.ShareStat} (root and
            size as they were computed here when the share came), or L{None} if it is not here.
        """

    def may_audit(account: bytes, name: bytes) -> bool:
        """
        Has this key a lease on the share?

        @param account: 32 bytes.
        """

    def placements_of(names: Sequence[bytes]) -> Any:
        """
        @return: Deferred of a list with, for each, L{meshkit.identity.keys.PublicKey}, of whoever
            says where the shares of the object are, and C{bytes}, the id of the object; or
            L{None} if the share is not here, or its end cannot be read.
        """

    def leaves(wanted: Sequence[tuple[bytes, Sequence[int]]]) -> Any:
        """
        Read leaves of several shares at once, as many as the caller has memory for.  Nothing of
        it is checked here.

        @param wanted: names of shares, each with numbers of some of its leaves, of
            L{meshkit.crypto.merkle.LEAF_BYTES} bytes, ascending.
        @return: Deferred of a list with, for each share, L{meshkit.crypto.samples.Samples}.  For a
            share that cannot be read it has what it would have raised:
            L{meshkit.errors.ShareUnknown} or L{meshkit.errors.ShareDamaged}.  Fails with
            L{meshkit.errors.StorageBusy} or L{meshkit.errors.StorageDiskFailed}, which say
            nothing of a share.
        """


class IStoragePeers(Interface):
    """The storage peers of the network, as far as this node knows them."""

    def find(key: Any) -> Any:
        """
        @return: L{IStoragePeer}, whoever it is.  Where it is, is found out when it is asked for
            something.
        """

    def address_of(key: Any) -> Any:
        """
        @return: Deferred of L{meshkit.identity.addresses.MeshAddress}, where the peer is dialled.
            Fails with L{meshkit.errors.NotFound} if nobody knows.
        """

    def record_of(key: Any) -> Any:
        """
        @return: the L{meshkit.storage.statements.StorageRecord} of the peer that holds now, or
            L{None}.
        """

    def candidates(size: int, repair: bool = False) -> Any:
        """
        Who may be offered a share.

        @param size: bytes of it.
        @param repair: it replaces one that was lost, so that the room kept for that counts.
        @return: list of L{meshkit.storage.rendezvous.Candidate}, in the order of their keys.
        """

    def describe(key: Any) -> Any:
        """@return: L{meshkit.storage.rendezvous.Candidate} of a peer, whoever it is."""

    def refresh(*, again: bool = False) -> Any:
        """
        Ask those whose records do not hold any more for new ones, and the hash table for
        others.

        @param again: ask all of them, even if they were asked a short time ago.
        @return: Deferred of L{None}; it does not fail.
        """

    def judged_by(judge: Callable[[Any], Any]) -> None:
        """
        From now on, give peers new shares as somebody thinks of them.

        @param judge: given a key, returns L{meshkit.storage.custody.Judgement}.
        """


class ITrackedObjects(Interface):
    """
    The objects that this node looks after: its own, and those for which it was given a repair
    capability.
    """

    def tracked(after: bytes = b"", limit: int = 500) -> Any:
        """
        @param after: the content id of the last one that was seen.
        @return: Deferred of a list of L{meshkit.storage.custody.TrackedObject}, live ones, in the
            order of their content ids.
        """

    def find(content_id: bytes) -> Any:
        """
        @return: Deferred of L{meshkit.storage.custody.TrackedObject}.  Fails with
            L{meshkit.errors.NotFound} if it is not looked after, or not live.
        """

    def newest(tracked: Any) -> Any:
        """
        Look in the hash table whether somebody else has moved shares of an object, and take
        over what is newer.

        @return: Deferred of L{meshkit.storage.custody.TrackedObject}; the one that was given, if
            nothing newer is found or there is no hash table.  Fails with
            L{meshkit.errors.ObjectRemoved} if the newest says so.
        """

    def swap(tracked: Any, document: Any) -> Any:
        """
        Write down, durably, that shares are elsewhere now, and have that published.  The leases
        of shares at peers where they are no more are given up, then or later.

        @param tracked: the object as it was read.
        @param document: L{meshkit.storage.placement_document.PlacementDocument}, its next
            version.
        @return: Deferred of L{meshkit.storage.custody.TrackedObject}.  Fails with
            L{meshkit.errors.PlacementConflict} if it was changed meanwhile.
        """

    def watch(capability: Any) -> Any:
        """
        Look after somebody else's object from now on.

        @param capability: L{meshkit.storage.capability.RepairCapability}.
        @return: Deferred of L{meshkit.storage.custody.TrackedObject}.  Fails as whatever looks for
            objects in the hash table does.
        """

    def unwatch(content_id: bytes) -> Any:
        """
        Look after it no more.  Its shares stay where they are.

        @return: Deferred of L{None}.  Fails with L{meshkit.errors.NotFound} if it was not handed
            over by a capability.
        """

    def handed_over(limit: int, offset: int) -> Any:
        """
        Those for which this node was given a repair capability.

        @param limit: how many at most.
        @param offset: how many to skip.
        @return: Deferred of a list of L{meshkit.storage.custody.TrackedObject}, in the order of
            their content ids, and how many there are in all.
        """


class IRegistrations(Interface):
    """
    Who is registered at this relay: provided by the part C{registry}.  Who comes and goes is
    told by L{RegistrationChanged}.
    """

    def is_registered(key: Any) -> bool:
        """
        @param key: L{meshkit.identity.keys.PublicKey}.
        @return: is it?  To ask costs next to nothing.
        """

    def registered() -> Any:
        """@return: sequence of the keys of all, in their order, which is that of their bytes."""

    def saw(key: Any) -> None:
        """A peer has proved its key to another part: it is not away."""

    def find(key: Any) -> Any:
        """@return: L{meshkit.relay.registry.store.Peer}, or L{None} if it is not registered."""

    def directory(after: bytes, limit: int) -> Any:
        """
        @param after: key of the last peer that is not wanted again; empty at first.
        @return: Deferred of L{meshkit.relay.registry.store.Listing}: those that want to be
            listed.
        """

    def enter_proved(raw: bytes, proof: bytes) -> Any:
        """
        Have a registration count that came from anywhere.

        @param raw: a statement: L{meshkit.relay.registry.registration}.
        @param proof: shows that its peer belongs to the network.
        @return: Deferred of L{meshkit.relay.registry.registration.Entered}, fired when it is on
            the disk.  Fails with L{meshkit.errors.RegistrationError} or
            L{meshkit.errors.StorageFailed}.
        """

    def enter_known(raw: bytes) -> Any:
        """As L{enter_proved}, of who is registered, and so needs no proof."""

    def figures() -> Any:
        """@return: L{meshkit.relay.registry.registry.RegistryFigures}."""


@frozen
class RegistrationChanged:
    """
    Event: a peer has come to this relay, or is not registered here any more.

    @ivar key: its L{meshkit.identity.keys.PublicKey}.
    @ivar registered: is it registered now?
    """

    key: Any
    registered: bool


@frozen
class Retention:
    """
    How long, and how much, is kept of the feeds of others.  0 is no limit.

    @ivar seconds: since a message came here, by this node's clock: nothing that its author
        says of time counts.
    @ivar author_messages: of each author, the newest so many.
    @ivar author_bytes: of each author, the newest so many bytes of text.
    @ivar messages: of all together.  Beyond that, those authors give who have most, each of its
        oldest.
    @ivar bytes: likewise, bytes of text.
    """

    seconds: float = 0.0
    author_messages: int = 0
    author_bytes: int = 0
    messages: int = 0
    bytes: int = 0


@frozen
class Relay:
    """
    A relay, as it is used.

    @ivar address: L{meshkit.identity.addresses.MeshAddress}: where it is, and its key.
    @ivar role: C{member}: it relays for the members of its network, which is ours; C{blind}: for
        whoever comes.
    """

    address: Any
    role: Literal["member", "blind"]


@frozen
class Interest:
    """
    What a node replicates.

    @ivar all: everything; then the rest is empty.
    @ivar authors: 32-byte keys, sorted.
    @ivar topics: tags.
    """

    all: bool
    authors: tuple[bytes, ...] = ()
    topics: tuple[str, ...] = ()


@frozen
class StoredMessage:
    """
    A message as it was stored just now.

    @ivar position: its place in the order in which this node stored messages.  It grows,
        is never given twice, and says nothing to other nodes.
    @ivar author: the author's 32-byte key.
    @ivar sequence: its place in the author's feed.
    @ivar hash: its hash, 32 bytes.
    @ivar content_type: the C{type} of its content, if that is a string.
    @ivar tags: its topics.
    @ivar raw: its text, as its author signed it.
    """

    position: int
    author: bytes
    sequence: int
    hash: bytes
    content_type: str | None
    tags: tuple[str, ...]
    raw: bytes = field(repr=False)


@frozen
class Arrival:
    """
    A stored message, as the doors show it.

    @ivar message: it.
    @ivar chain_valid: the link to the message before it was seen and holds.
    @ivar text: its JSON as the doors give it: the text that its author signed, untouched,
        with C{chain_valid} as one more member at its end.  A sealed message stays sealed.
    """

    message: StoredMessage
    chain_valid: bool
    text: bytes = field(repr=False)


@frozen
class Arrivals:
    """
    A stretch of what is stored.

    @ivar messages: in the order of their positions.
    @ivar reached: position up to which there are no others.
    @ivar newest: position of what was stored last of all; 0 if nothing is.
    """

    messages: tuple[Arrival, ...]
    reached: int
    newest: int


@frozen
class NodeWoke:
    """
    Event: this node goes on after a time in which nothing ran: the machine was asleep, or the
    process was stopped.  What is connected may be so no more; what waits to be tried again may
    work now.

    @ivar seconds: how long that was.
    """

    seconds: float


@frozen
class PeerSuspected:
    """
    Event: a peer has not answered several times in a row.

    @ivar peer: its 32-byte key.
    @ivar missed: how often.
    """

    peer: bytes
    missed: int


@frozen
class PeerReturned:
    """
    Event: a peer that did not answer is there again.

    @ivar peer: its 32-byte key.
    @ivar seconds: for how long it did not answer.
    """

    peer: bytes
    seconds: float


@frozen
class PeerMoved:
    """
    Event: a peer has proved its key somewhere else than where the peer book had it.

    @ivar peer: its 32-byte key.
    @ivar address: where, C{net:HOST:PORT~shs:KEY}.
    """

    peer: bytes
    address: str


@frozen
class MessagesStored:
    """
    Event: messages of one author were stored, durably.  Every message is in exactly one
    such event.

    @ivar author: the author's 32-byte key.
    @ivar contiguous: highest sequence up to which nothing is missing now.
    @ivar local: written by this node rather than received.
    @ivar messages: what was stored, in the order of their positions.
    """

    author: bytes
    contiguous: int
    local: bool
    messages: tuple[StoredMessage, ...]


@frozen
class Frontier:
    """
    How far a feed is complete here.

    @ivar author: the author's 32-byte key.
    @ivar sequence: highest sequence up to which nothing is missing and nothing is forked;
        0 for none.
    @ivar head: 32-byte hash of the message there; L{None} at 0.
    @ivar forked: the lowest sequence for which two messages are known.
    @ivar disputed: equal to C{sequence} where the message that is stored after it names
        another one in its place, and L{None} else.  A node that has the other one can
        prove the fork.
    """

    author: bytes
    sequence: int
    head: bytes | None
    forked: int | None = None
    disputed: int | None = None


@frozen
class Gap:
    """
    Consecutive messages of a feed whose texts are not kept.

    @ivar until: the last of them.
    @ivar head: its 32-byte hash; L{None} if no message is kept that names it.
    @ivar next: the text of the message after it, which names it; L{None} likewise.
    """

    until: int
    head: bytes | None
    next: bytes | None = field(repr=False)


@frozen
class PathFound:
    """
    Event: a peer that was reached through a relay can be dialled directly, from now on.  Who has
    a connection with it that goes through the relay makes another one in its place.

    @ivar peer: the peer's 32-byte key.
    """

    peer: bytes


@frozen
class BlocksChanged:
    """
    Event: an author was blocked, or is blocked no more.

    @ivar author: the author's 32-byte key.
    @ivar blocked: is it blocked now?
    """

    author: bytes
    blocked: bool


@frozen
class RoomMade:
    """
    Event: messages were emptied, and there is room again for authors of whom some were not
    taken, as a limit was reached.

    @ivar authors: their 32-byte keys; each was refused since it was named last.
    """

    authors: tuple[bytes, ...]


@frozen
class ForkProof:
    """
    Two messages that one author has signed for one place.

    @ivar author: the author's 32-byte key.
    @ivar sequence: the place.
    @ivar one: the text of the one.
    @ivar other: the text of the other; in byte order it comes after C{one}.
    """

    author: bytes
    sequence: int
    one: bytes = field(repr=False)
    other: bytes = field(repr=False)


@frozen
class ForkProven:
    """
    Event: an author is known, durably, to have signed two messages for one place, or for
    a lower one than was known before.  The feed ends before it; L{IFeedStore.fork_proof}
    has the two.

    @ivar author: the author's 32-byte key.
    @ivar sequence: the place.
    """

    author: bytes
    sequence: int


@frozen
class FeedRotated:
    """
    Event, and what there is to know: a feed has ended, durably, and its author goes on with
    another key, as both keys have signed.

    @ivar author: the 32-byte key of the feed.
    @ivar successor: the key that goes on.
    @ivar sequence: the last message of the feed; what follows it is refused.
    """

    author: bytes
    successor: bytes
    sequence: int
