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
    "IAdvisesAgents",
    "IConnections",
    "IFeedStore",
    "IFiles",
    "IForeignProtocols",
    "IHashTable",
    "IMeshPart",
    "IMeshProtocol",
    "IMetrics",
    "IPeerBook",
    "IPeerFinder",
    "IRecordKind",
    "ISelection",
    "IToolAliases",
    "Interest",
    "MessagesStored",
    "RoomMade",
    "StoredMessage",
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


class IPeerBook(Interface):
    """The addresses this node may dial, and what it knows of them."""

    ledger: Any = Attribute("How the peers behave, by key: L{meshkit.runtime.ledger.Ledger}.")

    def dialable() -> Any:
        """@return: list of L{meshkit.identity.addresses.MeshAddress}, in a stable order."""

    def watch(callback: Any) -> None:
        """Call C{callback()} whenever the set of addresses may have changed."""

    def note_connected(address: Any) -> None:
        """Record that a channel to the address was opened."""

    def note_disconnected(address: Any) -> None:
        """Record that the channel to the address is gone."""

    def note_failed(address: Any, error: Any) -> None:
        """Record why the address could not be reached, or why its channel was dropped."""


class IConnections(Interface):
    """How a part reaches other nodes."""

    def endpoint(address: Any, label: str, version: int = 1) -> Any:
        """
        Where a peer serves one protocol, as an endpoint.

        @param address: L{meshkit.identity.addresses.MeshAddress}.
        @param label: the capability label to use.
        @param version: of the protocol that it names.
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

        @param kind: L{IRecordKind}.
        @raise ValueError: there is one of this name.
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
            first, never empty; they may be dialled.  It fails with
            L{meshkit.errors.NotFound} if nobody knows it, and as those of L{IHashTable} do.
        """


class IFiles(Interface):
    """
    The file system, as meshkit uses it.  Handed in, so that it can be simulated.

    Every error is an L{OSError} that names the path, unless stated otherwise.  All
    methods block for as long as the disk takes.
    """

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
