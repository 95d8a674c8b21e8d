"""
A machine on which somebody lies as a relay.

What runs on it beside honest gossip in small is what the members of a network ask of a relay:
to be registered, and to have a mailbox.  It speaks the real protocols, and has all it knows in
memory, where it stays when its process ends.  Each kind of liar replaces what it shows of
feeds, as everywhere, and of letters: L{FalseMailboxes}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from meshkit.errors import MailboxFull, MailboxUnknown, PermissionDenied
from meshkit.identity.keys import PublicKey
from meshkit.relay.mailbox import wire as letters
from meshkit.relay.mailbox.prekeys import MAX_TTL, Prekey
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.sealing import digest_of
from meshkit.relay.registry import wire as registry
from meshkit.relay.registry.registration import Entered, Registration
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.shs import Capability, SecureListener
from meshkit.sim.liars.liar import EVERY, Liar

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["FalseMailboxes", "Left", "RelayLiar"]

#: Recipients, letters of each, and registrations that it remembers.
MAX_BOXES: Final = 1_000
MAX_LEFT: Final = 10_000


@frozen
class Left:
    """
    A letter that somebody has left.

    @ivar sender: 32-byte key of who has left it.
    @ivar recipient: 32-byte key.
    @ivar digest: of the sealed letter.
    @ivar taken: when, in seconds of Unix time.
    """

    sender: bytes
    recipient: bytes
    digest: bytes
    taken: int
    sealed: bytes


class FalseMailboxes:
    """
    The mailboxes of a liar.  These are honest.

    @ivar liar: whose they are.
    @ivar prekeys: what each recipient has published, oldest first.
    @ivar boxes: recipient -> what waits there, by digest, in the order in which it came.
    @ivar signed: every letter for which a receipt was given that its sender can use.
    @ivar given: (recipient, digest) -> how often the recipient was given it.
    """

    def __init__(self, liar: RelayLiar) -> None:
        self.liar = liar
        self.prekeys: dict[bytes, list[bytes]] = {}
        self.boxes: dict[bytes, dict[bytes, Left]] = {}
        self.signed: dict[tuple[bytes, bytes], Left] = {}
        self.given: dict[tuple[bytes, bytes], int] = {}
        # What is given in the pages that are asked for now, and the calls that are held.
        self._pages: dict[bytes, list[letters.Waiting]] = {}
        self._held: dict[bytes, tuple[Deferred[bool], IDelayedCall]] = {}

    def serve(self, dispatcher: Dispatcher) -> None:
        """Offer the methods."""
        handlers: tuple[tuple[Any, Any], ...] = (
            (letters.PUBLISH, self._publish),
            (letters.PREKEY, self._prekey),
            (letters.DEPOSIT, self._deposit),
            (letters.FETCH, self._fetch),
            (letters.ACKNOWLEDGE, self._acknowledge),
            (letters.WAIT, self._wait),
        )
        for method, handler in handlers:
            dispatcher.serve(method, handler)

    @property
    def now(self) -> int:
        """Seconds of Unix time."""
        return self.liar.host.wall_clock() // 10**9

    # --- what kinds replace

    def show_prekey(self, asker: bytes, recipient: bytes) -> bytes | None:
        """@return: which prekey of somebody is shown to who asks."""
        return self.prekeys[recipient][-1]

    def receipt(self, left: Left, ttl: int) -> MailboxReceipt:
        """@return: what is signed for a letter."""
        return MailboxReceipt(
            self.liar.identity.public,
            PublicKey(left.recipient),
            left.digest,
            len(left.sealed),
            left.taken,
            left.taken + min(ttl, MAX_TTL),
        )

    def give(self, recipient: bytes) -> Sequence[Left]:
        """@return: what somebody finds in his mailbox."""
        return list(self.boxes[recipient].values())

    def acknowledged(self, recipient: bytes, digest: bytes) -> bool:
        """Somebody has taken a letter.  @return: was it there?"""
        return self.boxes[recipient].pop(digest, None) is not None

    # --- what is asked

    def _box(self, key: bytes) -> dict[bytes, Left]:
        if key not in self.boxes:
            raise MailboxUnknown("there is no such mailbox here")
        return self.boxes[key]

    def _publish(self, caller: RPCProtocol, request: letters.PublishRequest) -> int:
        key = key_of(caller)
        prekey = Prekey.open(request.prekey, key)
        if key.raw not in self.boxes and len(self.boxes) >= MAX_BOXES:
            raise MailboxFull("there is no room for another mailbox")
        self.boxes.setdefault(key.raw, {})
        known = self.prekeys.setdefault(key.raw, [])
        if request.prekey not in known:
            known.append(request.prekey)
            del known[1:-15]
        return prekey.expires + MAX_TTL

    def _prekey(
        self, caller: RPCProtocol, request: letters.PrekeyRequest
    ) -> letters.PublishedPrekey:
        self._box(request.recipient)
        return letters.PublishedPrekey(self.show_prekey(key_of(caller).raw, request.recipient))

    def _deposit(self, caller: RPCProtocol, request: letters.DepositRequest) -> bytes:
        box = self._box(request.recipient)
        digest = digest_of(request.sealed)
        known = self.signed.get((request.recipient, digest))
        sender = key_of(caller).raw
        left = known or Left(sender, request.recipient, digest, self.now, request.sealed)
        if known is None:
            if len(self.signed) >= MAX_LEFT:
                raise MailboxFull("there is no room for another letter")
            box[digest] = left
        receipt = self.receipt(left, request.ttl)
        if receipt.digest == digest:
            self.signed[request.recipient, digest] = left
        self.tell(request.recipient)
        return receipt.sign(self.liar.identity)

    def _fetch(self, caller: RPCProtocol, request: letters.FetchRequest) -> letters.Page:
        key = key_of(caller).raw
        self._box(key)
        if request.after == 0:
            self._pages[key] = [
                letters.Waiting(number, left.taken, left.sealed)
                for number, left in enumerate(self.give(key), 1)
            ]
        waiting = [each for each in self._pages.get(key, ()) if each.number > request.after]
        page: list[letters.Waiting] = []
        size = 0
        for each in waiting[: letters.MAX_PAGE]:
            size += len(each.sealed)
            if page and size > letters.PAGE_BYTES:
                break
            page.append(each)
            place = key, digest_of(each.sealed)
            self.given[place] = self.given.get(place, 0) + 1
        return letters.Page(page, len(page) < len(waiting))

    def _acknowledge(self, caller: RPCProtocol, request: letters.AcknowledgeRequest) -> int:
        key = key_of(caller).raw
        self._box(key)
        return sum(self.acknowledged(key, digest) for digest in request.digests)

    def _wait(self, caller: RPCProtocol, request: letters.WaitRequest) -> Deferred[bool]:
        key = key_of(caller).raw
        self._box(key)
        self._answer(key, False)
        answer: Deferred[bool] = Deferred()
        timer = self.liar.process.callLater(request.seconds, self._answer, key, False)
        self._held[key] = answer, timer
        if self.give(key):
            self._answer(key, True)
        return answer

    def tell(self, recipient: bytes) -> None:
        """There may be something to be found in a mailbox."""
        if recipient in self._held and self.give(recipient):
            self._answer(recipient, True)

    def tell_all(self) -> None:
        """There may be in any."""
        for recipient in list(self._held):
            self.tell(recipient)

    def _answer(self, recipient: bytes, there: bool) -> None:
        held = self._held.pop(recipient, None)
        if held is None:
            return
        answer, timer = held
        if timer.active():
            timer.cancel()
        if not answer.called:
            answer.callback(there)

    def forget_calls(self) -> None:
        """The process has ended, and with it all who waited."""
        self._held.clear()
        self._pages.clear()


class RelayLiar(Liar):
    """
    See the module.  This one tells no lies.

    @cvar false: the mailboxes that it has.
    @ivar mailboxes: themselves.
    @ivar registered: who is registered, with what they have said.
    """

    kind: ClassVar[str] = "honest-relaying"
    false: ClassVar[type[FalseMailboxes]] = FalseMailboxes

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        self.mailboxes = self.false(self)
        self.registered: dict[bytes, tuple[Registration, int]] = {}

    def serve(self, listener: SecureListener) -> None:
        network, process = self._world.network_secret.key(), self.process
        self.mailboxes.forget_calls()
        known, mail = Dispatcher(), Dispatcher()
        handlers: tuple[tuple[Any, Any], ...] = (
            (registry.REGISTER, self._register),
            (registry.STANDING, self._standing),
            (registry.DIRECTORY, self._directory),
        )
        for method, handler in handlers:
            known.serve(method, handler)
        self.mailboxes.serve(mail)
        for (label, version), dispatcher in (
            ((registry.LABEL, registry.VERSION), known),
            ((letters.LABEL, letters.VERSION), mail),
        ):
            capability = Capability.of(network, label, version)
            listener.register(capability, RPCFactory(process, dispatcher))

    def _register(self, caller: RPCProtocol, request: registry.RegisterRequest) -> bytes:
        network = self._world.network_secret.key()
        said = Registration.open(request.statement, self.identity.public, (network.net_id,))
        now = self.host.wall_clock() // 10**6
        if len(self.registered) < MAX_BOXES:
            self.registered[said.peer.raw] = said, now // 1000
        return Entered.seal(self.identity, said, now).raw

    def _standing(
        self, caller: RPCProtocol, request: registry.StandingRequest
    ) -> registry.Standing:
        found = self.registered.get(key_of(caller).raw)
        raw, since = (None, 0) if found is None else (found[0].raw, found[1])
        return registry.Standing(raw, since, len(self.registered), MAX_BOXES)

    def _directory(
        self, caller: RPCProtocol, request: registry.DirectoryRequest
    ) -> registry.Listed:
        return registry.Listed([], 0, False)


def key_of(caller: RPCProtocol) -> PublicKey:
    """@raise PermissionDenied: he has proved no key."""
    if caller.key is None:
        raise PermissionDenied("connect by a secure channel")
    return caller.key
