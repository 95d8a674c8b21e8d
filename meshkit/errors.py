"""
The one tree of errors.

Every error meshkit raises on purpose is a L{MeshkitError}.  Its class says what
happened, its C{code} is the stable name that the HTTP door, the command line and
C{docs/troubleshooting.md} use, its C{status} is the HTTP status the door answers
with, and its message is one sentence that names the thing and says what to do.

The classes are grouped by the layer that raises them; catch a group by its base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class MeshkitError(Exception):
    """Something meshkit refuses or could not do.  The message says what to do."""

    code = "INTERNAL_ERROR"
    status = 500
    # Further facts for programs, of JSON types.  The doors show them beside the message.
    details: Mapping[str, object] | None = None

    def __str__(self) -> str:
        if self.args:
            return str(self.args[0])
        # The docstring's first paragraph is written for the user.
        return " ".join((self.__doc__ or type(self).__name__).split("\n\n")[0].split())


# --- starting a daemon -----------------------------------------------------------


class StartError(MeshkitError):
    """The daemon cannot start.  Printed as one line on the shell, exit code 1."""

    code = "START_FAILED"


class ConfigError(StartError):
    """A setting is unknown or has a value that cannot be used."""

    code = "CONFIG_INVALID"
    status = 400


class DataFolderLocked(StartError):
    """Another daemon is already running on this data folder."""

    code = "DATA_FOLDER_LOCKED"


class UnsafePermissions(StartError):
    """A secret file or its folder can be read by other users."""

    code = "UNSAFE_PERMISSIONS"


class CannotListen(StartError):
    """A listening port could not be opened."""

    code = "CANNOT_LISTEN"


class NewerSchema(StartError):
    """The database was written by a newer version of meshkit."""

    code = "NEWER_SCHEMA"


class MigrationFailed(StartError):
    """The tables of a part could not be brought to this version.  They are as they were."""

    code = "MIGRATION_FAILED"


class NotADatabase(StartError):
    """The database file is damaged or is not one of ours.  It was left untouched."""

    code = "NOT_A_DATABASE"


# --- identity, keys, addresses, signed statements --------------------------------


class IdentityError(MeshkitError):
    """A key, an id, an address or a signed statement cannot be used."""

    code = "INVALID_IDENTITY"
    status = 400


class InvalidPublicKey(IdentityError):
    """This is not the text form of an Ed25519 public key (@<base64>.ed25519)."""

    code = "INVALID_PUBLIC_KEY"


class InvalidKeyFile(IdentityError, StartError):
    """The key file cannot be read as a meshkit identity."""

    code = "INVALID_KEY_FILE"


class PassphraseRequired(IdentityError, StartError):
    """The key file is encrypted, and no passphrase was given."""

    code = "PASSPHRASE_REQUIRED"


class WrongPassphrase(IdentityError, StartError):
    """The passphrase does not open the key file."""

    code = "WRONG_PASSPHRASE"


class InvalidNetworkSecret(IdentityError, ConfigError):
    """The network secret is misspelt or cut off."""

    code = "INVALID_NETWORK_SECRET"


class InvalidAddress(IdentityError, ConfigError):
    """This is not a peer address (net:HOST:PORT~shs:KEY)."""

    code = "INVALID_ADDRESS"


class EnvelopeError(IdentityError):
    """A signed statement is malformed, of another kind, or its signature is wrong."""

    code = "INVALID_STATEMENT"


class StatementForged(EnvelopeError):
    """A signed statement was not signed by the key it names: it was forged or changed."""

    code = "STATEMENT_FORGED"


class AddressRecordInvalid(IdentityError):
    """What a peer says of its own addresses is malformed, expired or not signed by it."""

    code = "INVALID_ADDRESS_RECORD"


# --- the secure channel ------------------------------------------------------------


class ChannelError(MeshkitError):
    """A secure channel could not be made, or was broken."""

    code = "CHANNEL_FAILED"
    status = 502


class PeerUnreachable(ChannelError):
    """No connection to the peer's address could be made: check it, and that the node runs."""

    code = "PEER_UNREACHABLE"


class HostUnknown(PeerUnreachable):
    """The name in the peer's address does not resolve: check its spelling, and the DNS here."""

    code = "HOST_UNKNOWN"


class HandshakeError(ChannelError):
    """The secret handshake failed: the peer was not authenticated."""

    code = "HANDSHAKE_FAILED"


class NetworkKeyRefused(HandshakeError):
    """
    The first message proves another network key, or a protocol not offered here.

    Seen by the dialler as: the peer hung up after our hello.  Seen by the listener
    as: a hello that no capability explains.
    """

    code = "NETWORK_KEY_REFUSED"


class HelloReplayed(NetworkKeyRefused):
    """This very hello was received before: somebody plays back a recording."""

    code = "HELLO_REPLAYED"


class PeerKeyRefused(HandshakeError):
    """
    The proof of identity failed: the peer does not own the key it was dialled by,
    or it refuses ours.
    """

    code = "PEER_KEY_REFUSED"


class OlderWireRefused(PeerKeyRefused):
    """The peer speaks an older generation of Egregore's wire, whose encryption is broken."""

    code = "OLDER_WIRE_REFUSED"


class PeerNotAllowed(PeerKeyRefused):
    """The peer proved its key, but this protocol does not serve it."""

    code = "PEER_NOT_ALLOWED"


class HandshakeTimeout(HandshakeError):
    """The handshake did not finish within its deadline."""

    code = "HANDSHAKE_TIMEOUT"


class HandshakeTruncated(HandshakeError):
    """The connection was lost in the middle of a handshake message."""

    code = "HANDSHAKE_TRUNCATED"


class TooManyHandshakes(HandshakeError):
    """More handshakes are under way than this port serves, in all or for one address."""

    code = "TOO_MANY_HANDSHAKES"


class TooManyConnections(HandshakeError):
    """As many peers are connected as this node takes."""

    code = "TOO_MANY_CONNECTIONS"


class KeyProbeFailed(HandshakeError):
    """The node at an address did not tell its public key."""

    code = "KEY_PROBE_FAILED"


class KeyProbeRefused(HandshakeError):
    """Somebody asked for this node's public key who may not, or too often."""

    code = "KEY_PROBE_REFUSED"


class PeerKeyChanged(PeerKeyRefused):
    """At this address another key answers than the one that was pinned there."""

    code = "PEER_KEY_CHANGED"
    status = 409


class ProtocolRefused(HandshakeError):
    """The handshake succeeded, but the local factory declined to build a protocol."""

    code = "PROTOCOL_REFUSED"


class StreamError(ChannelError):
    """The encrypted stream was broken after the handshake."""

    code = "STREAM_BROKEN"


class TruncatedStream(StreamError):
    """The connection ended without the goodbye: the end of the stream is missing."""

    code = "STREAM_TRUNCATED"


class TamperedStream(StreamError):
    """A box does not open: a byte was changed on the way, or boxes were reordered."""

    code = "STREAM_TAMPERED"


class FrameTooLarge(StreamError):
    """A frame announces more bytes than its protocol allows."""

    code = "FRAME_TOO_LARGE"


class MalformedFrame(StreamError):
    """A frame does not have the form its protocol prescribes."""

    code = "FRAME_MALFORMED"


class NotAskedFor(MalformedFrame):
    """The peer sent messages that nobody had asked it for.  They were not stored."""

    code = "NOT_ASKED_FOR"


class PromiseBroken(StreamError):
    """The peer said that it has messages, and did not bring them when it was asked."""

    code = "PROMISE_BROKEN"


class PeerFloods(StreamError):
    """The peer sends more that says nothing new than anybody needs.  It is held back."""

    code = "PEER_FLOODS"


class PeerTooSlow(StreamError):
    """The peer stopped in the middle of an exchange and its deadline passed."""

    code = "PEER_TOO_SLOW"


# --- feeds -------------------------------------------------------------------------


class FeedError(MeshkitError):
    """A message cannot be part of a feed."""

    code = "FEED_INTEGRITY"
    status = 400


class MalformedMessage(FeedError):
    """The message is not JSON of the message form."""

    code = "MALFORMED_MESSAGE"


class NestedTooDeep(MalformedMessage):
    """The JSON is nested deeper than every node of the mesh can read."""

    code = "NESTED_TOO_DEEP"


class NumberNotPortable(MalformedMessage):
    """A number in the content would be read differently by other nodes."""

    code = "NUMBER_NOT_PORTABLE"


class ContentTooLarge(FeedError):
    """The content is larger than a message may carry."""

    code = "CONTENT_TOO_LARGE"
    status = 413


class InvalidSequence(FeedError):
    """Sequence numbers start at 1 and a first message has no predecessor."""

    code = "INVALID_SEQUENCE"


class HashMismatch(FeedError):
    """The message's hash is not the hash of its content: it was altered."""

    code = "HASH_MISMATCH"


class SignatureInvalid(FeedError):
    """The signature was not made by the author's key: the message is forged."""

    code = "SIGNATURE_INVALID"


class SchemaInvalid(FeedError):
    """A JSON Schema cannot be used here."""

    code = "SCHEMA_INVALID"


class SchemaMismatch(FeedError):
    """The content does not fit the schema of its type, and this node is strict."""

    code = "SCHEMA_MISMATCH"

    def __init__(self, *args: object, **details: object) -> None:
        """@param details: C{schema}, and C{pointer} and C{rule} of what does not fit."""
        super().__init__(*args)
        if details:
            self.details = details


class SealedInvalid(FeedError):
    """A sealed message is malformed, was changed, or cannot be made for these recipients."""

    code = "SEALED_INVALID"


class PrivateBoxInvalid(FeedError):
    """A private box is malformed, or cannot be made for these recipients."""

    code = "PRIVATE_BOX_INVALID"


class DuplicateMessage(FeedError):
    """This very message is already stored."""

    code = "DUPLICATE_MESSAGE"
    status = 409


class UnexpectedMessage(FeedError):
    """The message is not the one that was asked for: it is another author's, or out of turn."""

    code = "UNEXPECTED_MESSAGE"


class ForkRefused(FeedError):
    """The author's feed already has another message here: one of the two is a fork."""

    code = "FORK_REFUSED"
    status = 409


class ForkUnproven(FeedError):
    """Two messages were given as proof of a fork, and prove none."""

    code = "FORK_UNPROVEN"


class FeedReadOnly(FeedError):
    """This node's own feed may have gone on elsewhere: it is not written until that is known."""

    code = "FEED_READ_ONLY"
    status = 409


class FeedClosed(FeedError):
    """The feed has ended: its author goes on with another key, and nothing follows it."""

    code = "FEED_CLOSED"
    status = 409


class FeedForked(FeedError):
    """
    This node's own feed is forked: two messages of one number were signed with its key.
    Nobody takes what follows them, so nothing is published any more.
    """

    code = "FEED_FORKED"
    status = 409


class NotTaken(FeedError):
    """
    Nothing is wrong with the message, and this node does not want it.  Who sent it is not to
    blame.
    """

    code = "NOT_TAKEN"
    status = 403


class AuthorBlocked(NotTaken):
    """This node has blocked the author: nothing of that feed is taken or served."""

    code = "AUTHOR_BLOCKED"


class LimitReached(NotTaken):
    """The feeds have as much as the settings of this node allow."""

    code = "FEED_LIMIT"
    status = 507


class SelectionConfigured(FeedError):
    """The configuration selects it: no operation can take that back."""

    code = "SELECTION_CONFIGURED"
    status = 409


# --- parts and operations ----------------------------------------------------------


class PartError(StartError):
    """The parts of a node do not fit together."""

    code = "PART_ERROR"


class BrokenPart(PartError):
    """A part failed to import or to be made."""

    code = "PART_BROKEN"


class MissingProvider(PartError):
    """A part requires something that no enabled part provides."""

    code = "PART_MISSING_PROVIDER"


class PartCycle(PartError):
    """Parts require one another in a circle."""

    code = "PART_CYCLE"


class PartConflict(PartError):
    """Two parts claim the same name, interface, operation or capability."""

    code = "PART_CONFLICT"


class OperationError(MeshkitError):
    """A call at one of the doors cannot be answered."""

    code = "BAD_REQUEST"
    status = 400


class InvalidRequest(OperationError):
    """The request lacks a value, or has one of the wrong kind."""

    code = "INVALID_REQUEST"

    def __init__(self, *args: object, field: str | None = None) -> None:
        """@param field: name of the request's field that is to blame, if it is one."""
        super().__init__(*args)
        if field is not None:
            self.details = {"field": field}


class NotFound(OperationError):
    """There is no such thing here."""

    code = "NOT_FOUND"
    status = 404


class CursorExpired(OperationError):
    """What this cursor goes on with is no longer kept: begin anew without it."""

    code = "CURSOR_EXPIRED"
    status = 410


class SearchTooSlow(OperationError):
    """Too much has to be looked through: ask for the newest first, or for less."""

    code = "SEARCH_TOO_SLOW"
    status = 422


class KeyReused(OperationError):
    """An idempotency key names one request, and was used for another one before."""

    code = "IDEMPOTENCY_KEY_REUSED"
    status = 422


class MethodNotAllowed(OperationError):
    """This path exists, but not with this method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class UpgradeRequired(OperationError):
    """This path gives the connection to another protocol, which the request has to ask for."""

    code = "UPGRADE_REQUIRED"
    status = 426


class Unauthorized(OperationError):
    """The bearer token is missing or wrong: send the one in the data folder's door.token."""

    code = "UNAUTHORIZED"
    status = 401

    def __init__(self, *args: object, shown: bool = False) -> None:
        """@param shown: a token was sent, and it is not a good one."""
        super().__init__(*args)
        self.shown = shown


class PermissionDenied(OperationError):
    """The token has no scope for this operation: use another, or one with more scopes."""

    code = "PERMISSION_DENIED"
    status = 403

    def __init__(self, *args: object, scope: str | None = None) -> None:
        """@param scope: the least scope that would be enough."""
        super().__init__(*args)
        if scope is not None:
            self.details = {"scope": scope}


class ForbiddenOrigin(OperationError):
    """The request comes from a web page or host name that is not this door."""

    code = "FORBIDDEN_ORIGIN"
    status = 403


class TokenExists(OperationError):
    """There is a token of this name already: revoke it first, or choose another name."""

    code = "TOKEN_EXISTS"
    status = 409


class TooManyTokens(OperationError):
    """There are as many tokens as a node keeps: revoke one that is not needed any more."""

    code = "TOO_MANY_TOKENS"
    status = 409


class RateLimited(OperationError):
    """More was asked for than this token is granted: wait, then ask again."""

    code = "RATE_LIMITED"
    status = 429

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        """@param retry_after: seconds after which the request would be granted."""
        super().__init__(*args)
        if retry_after is not None:
            self.details = {"retry_after": retry_after}


class UnsupportedMediaType(OperationError):
    """The body has to be JSON: send Content-Type: application/json."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class BodyTooLarge(OperationError):
    """The body is larger than this door accepts."""

    code = "BODY_TOO_LARGE"
    status = 413


class HeadersTooLarge(OperationError):
    """The request line and the headers are larger than this door accepts."""

    code = "HEADERS_TOO_LARGE"
    status = 431


class RequestTimeout(OperationError):
    """The request did not arrive in time: send it without pausing."""

    code = "REQUEST_TIMEOUT"
    status = 408


class NotReady(OperationError):
    """The node is still starting or already stopping: try again in a moment."""

    code = "NOT_READY"
    status = 503


class Unhealthy(OperationError):
    """The node does not work as it should: see its log, and start it again if that goes on."""

    code = "UNHEALTHY"
    status = 503


class AnswerTooLarge(OperationError):
    """The answer is more than an agent is given at a time: ask for less."""

    code = "ANSWER_TOO_LARGE"


class Overloaded(OperationError):
    """Too much is waiting already: try again in a moment."""

    code = "OVERLOADED"
    status = 503


class StorageFailed(OperationError):
    """The disk refused a write (full, read-only or failing).  Nothing was stored."""

    code = "STORAGE_FAILED"
    status = 507


class McpRefused(OperationError):
    """An MCP client asked for what is not served, or against the rules of the protocol."""

    code = "MCP_REFUSED"

    def __init__(
        self, rpc_code: int = -32603, message: str | None = None, data: object = None
    ) -> None:
        """
        @param rpc_code: the code of JSON-RPC or MCP, a negative number.
        @param data: of JSON types, for programs.
        """
        super().__init__(*([] if message is None else [message]))
        self.rpc_code = rpc_code
        self.data = data


class DoorUnreachable(MeshkitError):
    """No node answers at its local door."""

    code = "DOOR_UNREACHABLE"
    status = 502


class NodeNotStarted(DoorUnreachable):
    """The node could not be started in the background: the end of its log says why."""

    code = "NODE_NOT_STARTED"


class RemoteError(MeshkitError):
    """The other side refused: its own code and sentence follow."""

    code = "REMOTE_ERROR"
    status = 502

    def __init__(
        self,
        message: str | None = None,
        code: str = "REMOTE_ERROR",
        status: int = 502,
        details: Mapping[str, object] | None = None,
    ) -> None:
        """
        @param message: the other side's sentence.
        @param code: its code; C{REMOTE_ERROR} if it gave none that is one.
        @param status: the HTTP status that it stands for here.
        @param details: further facts, of JSON types.
        """
        super().__init__(*(() if message is None else (message,)))
        self.code = code
        self.status = status
        self.details = details


# --- objects -----------------------------------------------------------------------


class ObjectError(MeshkitError):
    """An object cannot be stored, found or read."""

    code = "OBJECT_FAILED"
    status = 400


class SchemeInvalid(ObjectError, ConfigError):
    """No object can be cut into so many shares, or blocks of that size."""

    code = "SCHEME_INVALID"


class CodecUnavailable(ObjectError, ConfigError):
    """This erasure codec is not known, not installed, or makes wrong shares here."""

    code = "CODEC_UNAVAILABLE"


class SharesInvalid(ObjectError):
    """Shares were given that do not belong together."""

    code = "SHARES_INVALID"


class ObjectTooLarge(ObjectError):
    """The object is larger than one object can be: store it in pieces."""

    code = "OBJECT_TOO_LARGE"
    status = 413


class ObjectMalformed(ObjectError):
    """What should describe an object is damaged, or of another kind."""

    code = "OBJECT_MALFORMED"


class ObjectDamaged(ObjectError):
    """A piece of an object was changed, or is not the one that was asked for."""

    code = "OBJECT_DAMAGED"
    status = 502

    def __init__(self, *args: object, wrong: Sequence[int] = ()) -> None:
        """@param wrong: the shares that are not what they should be, if it is about some."""
        super().__init__(*args)
        self.wrong = tuple(wrong)


class ObjectMismatch(ObjectError):
    """What was given describes another object than the one that was asked for."""

    code = "OBJECT_MISMATCH"
    status = 409


class ObjectKeyWrong(ObjectError):
    """The key is not that of the object."""

    code = "OBJECT_KEY_WRONG"
    status = 403


class CapabilityInvalid(ObjectError):
    """What should give access to an object is misspelt, cut off, or of another kind."""

    code = "CAPABILITY_INVALID"


class ObjectAmbiguous(ObjectError):
    """Several objects of this node have ids that begin like this: give more of it."""

    code = "OBJECT_AMBIGUOUS"
    status = 409


class ObjectRemoved(ObjectError):
    """The owner has given this object up, and nobody keeps it any more."""

    code = "OBJECT_REMOVED"
    status = 410


class TargetExists(ObjectError):
    """A file of this name is there, and was not to be replaced."""

    code = "TARGET_EXISTS"
    status = 409


class PlacementConflict(ObjectError):
    """Where the shares of the object are was changed by somebody else meanwhile."""

    code = "PLACEMENT_CONFLICT"
    status = 409


class KeyFileInvalid(ObjectError):
    """The file with the key of an object is damaged, or of another kind."""

    code = "OBJECT_KEY_FILE_INVALID"


class NoKeyFor(ObjectError):
    """The file with the key of an object cannot be opened in this way."""

    code = "OBJECT_KEY_NOT_FOR_YOU"
    status = 403


class KeyPartsInvalid(ObjectError):
    """The parts of a key are too few, misspelt, or do not belong together."""

    code = "KEY_PARTS_INVALID"


class NotEnoughShares(ObjectError):
    """Too few shares are good: the object cannot be read from them."""

    code = "NOT_ENOUGH_SHARES"
    status = 502

    def __init__(self, *args: object, wrong: Sequence[int] = (), liars: Sequence[str] = ()) -> None:
        """
        @param wrong: the shares that are not what they were.
        @param liars: the keys of the peers that gave them, if it is known who did.
        """
        super().__init__(*args)
        self.wrong = tuple(wrong)
        if wrong:
            self.details = {"wrong": list(wrong)}
        if liars:
            self.details = {"wrong": list(wrong), "liars": list(liars)}


class SourceChanged(ObjectError):
    """The file was changed while it was read: store it again when nobody writes to it."""

    code = "SOURCE_CHANGED"
    status = 409


class TransferSuspended(ObjectError):
    """The transfer was interrupted by a stop, and can be gone on with."""

    code = "TRANSFER_SUSPENDED"
    status = 503


class NotEnoughPeers(ObjectError):
    """There are fewer peers that can take a share than shares."""

    code = "NOT_ENOUGH_PEERS"
    status = 503


class StorageConfigured(MeshkitError):
    """The configuration says how much is lent: no operation can change that."""

    code = "STORAGE_CONFIGURED"
    status = 409


class SharesLeft(MeshkitError):
    """Shares of others are still kept here: leave the node running."""

    code = "STORAGE_SHARES_LEFT"
    status = 409


class StoragePeerError(MeshkitError):
    """A storage peer cannot keep or give a share."""

    code = "STORAGE_PEER_FAILED"
    status = 502


class StoragePeerSilent(StoragePeerError):
    """The storage peer did not answer within its deadline."""

    code = "STORAGE_PEER_SILENT"
    status = 504


class ShareUnknown(StoragePeerError):
    """The storage peer has no such share."""

    code = "SHARE_UNKNOWN"
    status = 404


class ShareDamaged(StoragePeerError):
    """The storage peer has found a share of its own damaged, and put it aside."""

    code = "SHARE_DAMAGED"
    status = 410


class UploadUnknown(StoragePeerError):
    """There is no such upload, or not any more: reserve room again, and begin anew."""

    code = "UPLOAD_UNKNOWN"
    status = 404


class UploadOutOfStep(StoragePeerError):
    """Another block of the share is the next one."""

    code = "UPLOAD_OUT_OF_STEP"
    status = 409

    def __init__(self, *args: object, next_segment: int | None = None) -> None:
        """@param next_segment: the number of the segment whose block comes next."""
        super().__init__(*args)
        self.next_segment = next_segment or 0
        if next_segment is not None:
            self.details = {"next_segment": next_segment}


class ReservationExceeded(StoragePeerError):
    """More was sent than room was reserved for."""

    code = "RESERVATION_EXCEEDED"
    status = 413


class ShareMismatch(StoragePeerError):
    """What the storage peer was sent is not the share that the manifest describes."""

    code = "SHARE_MISMATCH"
    status = 409


class CapacityReached(StoragePeerError):
    """The storage peer has no room left: take another one."""

    code = "STORAGE_FULL"
    status = 507


class QuotaReached(StoragePeerError):
    """This owner has as much kept by the storage peer as one may have."""

    code = "STORAGE_QUOTA"
    status = 507


class StorageRefused(StoragePeerError):
    """The storage peer keeps nothing for this key: ask its operator."""

    code = "STORAGE_REFUSED"
    status = 403


class StorageDraining(StoragePeerError):
    """The storage peer takes nothing new, as it is about to leave."""

    code = "STORAGE_DRAINING"
    status = 503


class StorageBusy(StoragePeerError):
    """The storage peer does as much at the same time as it can: try again in a moment."""

    code = "STORAGE_BUSY"
    status = 503


class StorageDiskFailed(StoragePeerError):
    """The disk of the storage peer does not do what it is asked: its log says more."""

    code = "STORAGE_DISK_FAILED"
    status = 500


class LeaseUnknown(StoragePeerError):
    """There is no lease of this secret on the share."""

    code = "LEASE_UNKNOWN"
    status = 404


class StatementInvalid(StoragePeerError):
    """What a storage peer says about itself, or has signed, cannot be used."""

    code = "STORAGE_STATEMENT_INVALID"


class StatementStale(StatementInvalid):
    """A newer statement of this storage peer is known, or this one has expired."""

    code = "STORAGE_STATEMENT_STALE"
    status = 409


class SignatureRefused(StoragePeerError):
    """The signature of a request to a storage peer is missing, wrong, or used twice."""

    code = "SIGNATURE_REFUSED"
    status = 401


class SignatureRetry(SignatureRefused):
    """The storage peer cannot tell whether this request was made before: sign it anew."""

    code = "SIGNATURE_RETRY"


class ObjectNotPlaced(StoragePeerError):
    """Too few peers have taken their shares; nothing of the object is kept."""

    code = "OBJECT_NOT_PLACED"
    status = 503


# --- audits and repairs --------------------------------------------------------------


class AuditError(MeshkitError):
    """Whether objects are still there could not be looked at."""

    code = "AUDIT_FAILED"


class LeadTaken(AuditError):
    """Another scheduler makes the passes over these objects at present."""

    code = "AUDIT_LEAD_TAKEN"
    status = 409


class LeadLost(AuditError):
    """Another scheduler has taken over; this one has stopped, and wrote nothing after that."""

    code = "AUDIT_LEAD_LOST"
    status = 409


class PassUnderWay(AuditError):
    """A pass is under way already."""

    code = "AUDIT_RUNNING"
    status = 409


class TraceUnusable(AuditError):
    """This is no trace of a pass, or of another version."""

    code = "AUDIT_TRACE_UNUSABLE"
    status = 400


class AuditInvalid(AuditError):
    """What should be part of an audit, or a receipt of one, is damaged, forged or of another."""

    code = "AUDIT_INVALID"
    status = 400


class AuditRefused(AuditError):
    """Who asks has no lease on the share, and shows no grant that holds."""

    code = "AUDIT_REFUSED"
    status = 403

    def __init__(self, *args: object, shares: Sequence[int] = ()) -> None:
        """@param shares: places of these shares in the list of what was asked about."""
        super().__init__(*args)
        if shares:
            self.details = {"shares": list(shares)}


class AuditReplayed(AuditError):
    """The peer has been asked this before: begin another audit."""

    code = "AUDIT_REPLAYED"
    status = 409


class AuditStale(AuditError):
    """The audit was begun too long ago, or is from the future: look at the clocks."""

    code = "AUDIT_STALE"
    status = 409


class AuditUnknown(AuditError):
    """There is no such audit under way, or not any more."""

    code = "AUDIT_UNKNOWN"
    status = 404


class AuditBusy(AuditError):
    """The peer is audited as much at the same time as it can be: try again in a moment."""

    code = "AUDIT_BUSY"
    status = 503


# --- hooks -------------------------------------------------------------------------


class HookError(MeshkitError):
    """A command or a webhook could not be run for a message."""

    code = "HOOK_FAILED"
    status = 502


class WebhookSecretInvalid(HookError, ConfigError):
    """The secret of a webhook is misspelt or cut off: it is whsec_ and base64."""

    code = "WEBHOOK_SECRET_INVALID"


class WebhookSignatureInvalid(HookError):
    """A webhook was not sent by who has the secret, or not just now: do not believe it."""

    code = "WEBHOOK_SIGNATURE_INVALID"
    status = 401


class AddressRefused(HookError):
    """An address would be dialled that is not public: name it in allow_addresses."""

    code = "ADDRESS_REFUSED"
    status = 403


# --- finding nodes by the names of domains ------------------------------------------


class DiscoveryError(MeshkitError):
    """The nodes of a domain could not be found."""

    code = "DISCOVERY_FAILED"
    status = 502


class WellKnownInvalid(DiscoveryError):
    """What a domain says of its node is not of the form of docs/protocol/well-known.md."""

    code = "WELL_KNOWN_INVALID"


# --- calls between peers -----------------------------------------------------------


class RPCError(MeshkitError):
    """A call to a peer could not be made, or has no usable answer."""

    code = "RPC_FAILED"
    status = 502


class CallTimedOut(RPCError):
    """The peer did not answer a call within its deadline."""

    code = "CALL_TIMED_OUT"
    status = 504


class InvalidAnswer(RPCError):
    """The peer answered with something else than what the method declares."""

    code = "INVALID_ANSWER"


class UnknownMethod(RPCError):
    """A method was called that is not served on this connection."""

    code = "UNKNOWN_METHOD"
    status = 404


class OverRate(RPCError):
    """More calls came than one peer is granted: wait, then ask again."""

    code = "OVER_RATE"
    status = 429

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        """@param retry_after: seconds after which the call would be granted, if it would."""
        super().__init__(*args)
        if retry_after is not None:
            self.details = {"retry_after": retry_after}


# --- relays ------------------------------------------------------------------------


class RelayError(MeshkitError):
    """A relay does not do what it was asked for."""

    code = "RELAY_FAILED"
    status = 502


class WebRTCFailed(RelayError):
    """There is no direct path by WebRTC to a peer.  The way through the relay remains."""

    code = "WEBRTC_FAILED"


class WebRTCMissing(WebRTCFailed, StartError):
    """The library for WebRTC is not installed: install meshkit with the extra webrtc."""

    code = "WEBRTC_MISSING"
    status = 501


class VoucherInvalid(RelayError):
    """A relay's word that it leads to a peer is malformed, forged, or no longer good."""

    code = "RELAY_VOUCHER_INVALID"
    status = 400


class ReservationRefused(RelayError):
    """The relay leads nobody to us: who is reached through a relay cannot be reserved for."""

    code = "RELAY_RESERVATION_REFUSED"
    status = 403


class RelayLimitReached(RelayError):
    """The relay has as many reservations or circuits as it takes, or has carried enough."""

    code = "RELAY_LIMIT_REACHED"
    status = 429


class RelayNoReservation(RelayError):
    """The peer is not at this relay: it has gone, or it never was there."""

    code = "RELAY_NO_RESERVATION"
    status = 404


class RelayTargetSilent(RelayError):
    """The peer was told by its relay that somebody wants to reach it, and did not come."""

    code = "RELAY_TARGET_SILENT"
    status = 504


class CircuitUnknown(RelayError):
    """No circuit waits at the relay for this key."""

    code = "RELAY_CIRCUIT_UNKNOWN"
    status = 404


class CircuitRefused(RelayError):
    """The relay made no circuit, for a reason of its own."""

    code = "RELAY_CIRCUIT_REFUSED"


# --- records of the hash table -------------------------------------------------------


class RecordError(MeshkitError):
    """A record of the hash table is refused."""

    code = "RECORD_REFUSED"
    status = 400


class RecordMalformed(RecordError):
    """A record is none: it cannot be read, or is not in its one form."""

    code = "RECORD_MALFORMED"


class RecordForged(RecordError):
    """A record was not signed by the owner it names: it was forged or changed."""

    code = "RECORD_FORGED"


class RecordTooLarge(RecordError):
    """A record, or the value in it, is larger than its kind may be."""

    code = "RECORD_TOO_LARGE"
    status = 413


class RecordForeignNetwork(RecordError):
    """A record is meant for another network."""

    code = "RECORD_FOREIGN_NETWORK"


class RecordExpired(RecordError):
    """A record has expired: its owner has to publish it anew."""

    code = "RECORD_EXPIRED"


class RecordFromFuture(RecordError):
    """
    A record was made in the future, or is good for longer than two days: is the clock of its
    owner wrong, or the one here?
    """

    code = "RECORD_FROM_FUTURE"


class RecordWrongKind(RecordError):
    """A record is of a kind that this node does not keep, or of another than was asked for."""

    code = "RECORD_WRONG_KIND"


class RecordWrongKey(RecordError):
    """A record does not belong at its key, or is not of the key that was asked for."""

    code = "RECORD_WRONG_KEY"


class RecordForeignOwner(RecordError):
    """A record is at a key that belongs to the owner of another key, or speaks for another."""

    code = "RECORD_FOREIGN_OWNER"


class RecordInvalid(RecordError):
    """The value of a record is not what its kind asks for."""

    code = "RECORD_INVALID"


class RecordConflict(RecordError):
    """Another record has the place of a record that is to be kept."""

    code = "RECORD_CONFLICT"
    status = 409

    def __init__(self, *args: object, sequence: int = 0) -> None:
        """@param sequence: of the record that is or was there."""
        super().__init__(*args)
        self.sequence = sequence
        if sequence:
            self.details = {"sequence": sequence}


class RecordStale(RecordConflict):
    """A newer record of the same owner is kept already."""

    code = "RECORD_STALE"


class RecordReplayed(RecordConflict):
    """A record was replaced by a newer one, which has expired since: somebody brings it back."""

    code = "RECORD_REPLAYED"


class RecordChanged(RecordConflict):
    """Compare and swap: there is another record than was expected.  Look it up and try again."""

    code = "RECORD_CHANGED"


class RecordNotKept(RecordError):
    """There is no room for a record, though nothing is wrong with it."""

    code = "RECORD_NOT_KEPT"
    status = 507


class RecordQuotaReached(RecordNotKept):
    """One owner, or one peer with items that are nobody's, has as much kept here as one may."""

    code = "RECORD_QUOTA"


class RecordNotPlaced(MeshkitError):
    """A record of this node is published, and nobody keeps it yet: it is tried again hourly."""

    code = "RECORD_NOT_PLACED"
    status = 503


# --- reachability ------------------------------------------------------------------


class MappingFailed(MeshkitError):
    """The router does not pass connections from outside on to this node."""

    code = "MAPPING_FAILED"
    status = 502


# --- mailboxes ---------------------------------------------------------------------


class MailboxError(MeshkitError):
    """Something of mailboxes at relays does not work."""

    code = "MAILBOX_FAILED"
    status = 400


class PrekeyInvalid(MailboxError):
    """What should say which key to seal messages with for somebody is none, or holds no more."""

    code = "MAILBOX_PREKEY_INVALID"


class MailboxMessageInvalid(MailboxError):
    """A message out of a mailbox is damaged, forged, or was meant for somebody else."""

    code = "MAILBOX_MESSAGE_INVALID"


class MailboxMessageUnreadable(MailboxMessageInvalid):
    """A message was sealed with a key whose secret is not, or no longer, here."""

    code = "MAILBOX_MESSAGE_UNREADABLE"


class MailboxMessageExpired(MailboxMessageInvalid):
    """A message came after the time until which its sender wanted it delivered."""

    code = "MAILBOX_MESSAGE_EXPIRED"
    status = 410


class MailboxMessageEarly(MailboxError):
    """A message was made in the future, by the clock here: one of the clocks is wrong."""

    code = "MAILBOX_MESSAGE_EARLY"
    status = 409

    def __init__(self, *args: object, created: int = 0) -> None:
        """@param created: when it was made, as its sender says, in seconds of Unix time."""
        super().__init__(*args)
        self.created = created


class MailboxReceiptInvalid(MailboxError):
    """What a relay gave for a receipt is none for the message that it was given."""

    code = "MAILBOX_RECEIPT_INVALID"
    status = 502


class MailboxUnknown(MailboxError):
    """The relay has no mailbox for this key."""

    code = "MAILBOX_UNKNOWN"
    status = 404


class MailboxFull(MailboxError):
    """The relay has no more room for this message or mailbox."""

    code = "MAILBOX_FULL"
    status = 507


# --- registration at relays --------------------------------------------------------


class RegistrationError(MeshkitError):
    """Something of the registration at a relay does not work."""

    code = "REGISTRATION_FAILED"
    status = 502


class RegistrationInvalid(RegistrationError):
    """What should be a peer's registration is damaged, forged, or for another relay."""

    code = "REGISTRATION_INVALID"
    status = 400


class RegistrationStale(RegistrationError):
    """The registration is not newer than what the relay has, or not of this moment."""

    code = "REGISTRATION_STALE"
    status = 409


class RegistrationRefused(RegistrationError):
    """The relay does not take this peer: it takes those that its operator names."""

    code = "REGISTRATION_REFUSED"
    status = 403


class RegistryFull(RegistrationError):
    """The relay has as many peers as its operator wants."""

    code = "REGISTRY_FULL"
    status = 507


class NotRegistered(RegistrationError):
    """This peer is not registered at the relay: register it first."""

    code = "NOT_REGISTERED"
    status = 403


class TLSNeeded(RegistrationError):
    """The relay gives this over TLS only: ask for https, or its operator for a certificate."""

    code = "TLS_NEEDED"
    status = 403


class RegistryForged(RegistrationError):
    """A relay shows what the peers that it names have not said."""

    code = "REGISTRY_FORGED"


# --- invites -----------------------------------------------------------------------


class InviteError(MeshkitError):
    """An invite cannot be made or used."""

    code = "INVITE_FAILED"
    status = 400


class InvalidInvite(InviteError):
    """This is not an invite (mkinvite1-...), or it is misspelt or cut off."""

    code = "INVALID_INVITE"


class InviteUnknown(InviteError):
    """The node that the invite leads to does not know it: it was taken back there."""

    code = "INVITE_UNKNOWN"
    status = 404


class InviteUsed(InviteError):
    """The invite was used as often as it may be."""

    code = "INVITE_USED"
    status = 410


class InviteExpired(InviteError):
    """The invite has expired."""

    code = "INVITE_EXPIRED"
    status = 410


class InviteNotAnswered(InviteError):
    """Whoever is at the addresses of the invite does not answer to it."""

    code = "INVITE_NOT_ANSWERED"
    status = 502


class OwnAddressUnknown(InviteError):
    """This node does not know at which address others can reach it."""

    code = "OWN_ADDRESS_UNKNOWN"
    status = 409
