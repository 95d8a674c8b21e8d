"""The part C{hooks}: one courier for each command and webhook of the configuration."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.web.iweb import IPolicyForHTTPS

from meshkit.errors import ConfigError, NotFound, WebhookSecretInvalid
from meshkit.hooks import operations as offered
from meshkit.hooks import places
from meshkit.hooks.command import Commands
from meshkit.hooks.config import CommandHook, WebHook
from meshkit.hooks.config import Config as Config
from meshkit.hooks.courier import Courier
from meshkit.hooks.places import MIGRATIONS as MIGRATIONS
from meshkit.hooks.places import Parked
from meshkit.hooks.signing import WebhookSecret
from meshkit.hooks.webhook import Webhook
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore, IFiles, IMetrics, MessagesStored
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext
from meshkit.runtime.moments import rfc3339
from meshkit.runtime.outbound import load_authorities

#: Bytes of a file with secrets.
MAX_SECRET_FILE: Final = 4 * 1024
#: Bytes of a secret that is made here.
SECRET_BYTES: Final = 32


class HooksPart(Part):
    """See the module."""

    def __init__(self, context: PartContext) -> None:
        """
        @raise ConfigError: if a secret or a certificate cannot be used.
        @raise UnsafePermissions: if others can read a secret.
        """
        self._database = context.database
        self._events = context.events
        self._seconds: Callable[[], float] = context.reactor.seconds
        self._unsubscribe: Callable[[], None] | None = None
        self._couriers: dict[str, Courier] = {}
        self._store: IFeedStore | None = context.find(IFeedStore)
        config: Config = context.config
        if self._store is None:
            return
        if config.hooks():
            context.files.make_folder(context.data_folder)
        running = DeferredSemaphore(config.max_running)
        make = partial(
            Courier,
            context.reactor,
            context.rng,
            context.wall_clock,
            context.database,
            self._store,
            max_parked=config.max_parked,
        )
        for command in config.command:
            commands = Commands(
                context.reactor, command, context.data_folder, running, config.max_output
            )
            self._couriers[command.name] = make(hook=command, kind="command", delivery=commands)
        for hook in config.webhook:
            webhook = Webhook(
                context.reactor,
                hook,
                load_secrets(context.files, context.rng, context.data_folder, hook),
                context.wall_clock,
                policy=_policy(context.files, hook),
            )
            self._couriers[hook.name] = make(hook=hook, kind="webhook", delivery=webhook)
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        # Their names are the operator's, in the configuration.
        names = frozenset(self._couriers)

        def each(read: Callable[[Courier], int]) -> Callable[[], dict[str, int]]:
            return lambda: {name: read(courier) for name, courier in self._couriers.items()}

        metrics.count(
            "delivered_total", "Messages that were taken.", each(lambda c: c.delivered), hook=names
        )
        metrics.count(
            "failures_total", "Attempts that failed.", each(lambda c: c.failures), hook=names
        )
        metrics.gauge(
            "parked", "Messages that were given up.", each(lambda c: c.parked), hook=names
        )
        metrics.gauge(
            "behind",
            "Messages of all kinds that were stored after the one it has come to.",
            each(lambda c: max(0, c.newest - c.place.position)),
            hook=names,
        )

    # --- the service -------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        # Before a place is looked up, so that no message is between the two.
        if self._couriers:
            self._unsubscribe = self._events.subscribe(MessagesStored, self._stored)
        for courier in self._couriers.values():
            await courier.load()
        for courier in self._couriers.values():
            courier.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        stopping = [courier.stop() for courier in self._couriers.values()]
        return gatherResults(stopping).addCallback(lambda _: None)

    def _stored(self, event: MessagesStored) -> None:
        for courier in self._couriers.values():
            courier.ring(event.messages[-1].position)

    def status(self) -> offered.HooksStatus:
        return offered.HooksStatus(
            hooks=[self._show(courier) for courier in self._couriers.values()],
            idle="no part provides IFeedStore" if self._store is None else None,
        )

    def _show(self, courier: Courier) -> offered.HookStatus:
        hook = courier.hook
        target = ""
        if isinstance(hook, CommandHook):
            # Arguments may be secrets, and so may a line for the shell.
            target = hook.arguments[0]
        elif isinstance(hook, WebHook):
            target = hook.origin
        next_attempt = courier.next_attempt
        if next_attempt is not None:
            next_attempt = round(max(0.0, next_attempt - self._seconds()), 3)
        last = courier.last_delivered_ns
        return offered.HookStatus(
            name=hook.name,
            kind="command" if courier.kind == "command" else "webhook",
            target=target,
            state=courier.state,
            next_attempt=next_attempt,
            position=courier.place.position,
            behind=max(0, courier.newest - courier.place.position),
            delivered=courier.delivered,
            failures=courier.failures,
            failing=courier.place.failing,
            parked=courier.parked,
            last_error=courier.last_error,
            last_delivered=None if last is None else rfc3339(last),
        )

    # --- the doors -------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.LIST, self._answer_list),
            BoundOperation(offered.PARKED, self._answer_parked),
            BoundOperation(offered.RETRY, self._answer_retry),
            BoundOperation(offered.DISCARD, self._answer_discard),
        )

    def _answer_list(self, request: Nothing) -> list[offered.HookStatus]:
        return self.status().hooks

    async def _answer_parked(self, request: offered.ListParked) -> list[offered.ParkedMessage]:
        name = self._courier(request.name).hook.name
        found = await self._database.read(
            partial(places.list_parked, hook=name, after=request.after, limit=request.limit)
        )
        return [_shown(parked) for parked in found]

    async def _answer_retry(self, request: offered.Some) -> offered.Concerned:
        courier = self._courier(request.name)
        count = await self._database.write(
            partial(places.mark_again, hook=request.name, position=request.position)
        )
        self._check_found(request, count)
        courier.retry()
        return offered.Concerned(count)

    async def _answer_discard(self, request: offered.Some) -> offered.Concerned:
        courier = self._courier(request.name)
        count = await courier.discard(request.position)
        self._check_found(request, count)
        return offered.Concerned(count)

    def _courier(self, name: str) -> Courier:
        courier = self._couriers.get(name)
        if courier is None:
            known = ", ".join(self._couriers) or "there are none"
            raise NotFound(f"there is no hook {name!r} in the configuration: {known}")
        return courier

    def _check_found(self, request: offered.Some, count: int) -> None:
        if request.position is not None and not count:
            raise NotFound(
                f"the hook {request.name} has not parked the message at {request.position}"
            )


def _shown(parked: Parked) -> offered.ParkedMessage:
    return offered.ParkedMessage(
        position=parked.position,
        hash=parked.hash.hex(),
        author=PublicKey(parked.author).text,
        sequence=parked.sequence,
        attempts=parked.attempts,
        parked=rfc3339(parked.parked_ns),
        error=parked.error,
        again=parked.again,
    )


def load_secrets(files: IFiles, rng: Random, folder: str, hook: WebHook) -> list[WebhookSecret]:
    """
    What a webhook signs with: the secrets in its file, one on a line, the one in use first.

    @param folder: where files are that have relative names.
    @raise ConfigError: if there is none that can be used.
    @raise UnsafePermissions: if others can read the file.
    """
    path = os.path.join(folder, hook.secret_file or f"{hook.name}.secret")
    try:
        data = files.read_secret(path, MAX_SECRET_FILE)
    except FileNotFoundError:
        if hook.secret_file:
            raise ConfigError(
                f"the webhook {hook.name}: there is no file {path} with its secret"
            ) from None
        secret = WebhookSecret(rng.randbytes(SECRET_BYTES))
        files.create(path, secret.text.encode("ascii") + b"\n")
        return [secret]
    except OSError as e:
        raise ConfigError(f"the webhook {hook.name}: {path} cannot be read: {e.strerror}") from None
    try:
        secrets = [WebhookSecret.parse(line) for line in data.decode("utf-8").split()]
    except (UnicodeDecodeError, WebhookSecretInvalid) as e:
        raise WebhookSecretInvalid(f"the webhook {hook.name}: {path}: {e}") from None
    if not 1 <= len(secrets) <= 2:
        raise WebhookSecretInvalid(
            f"the webhook {hook.name}: {path} holds {len(secrets)} secrets: it has to be one, or "
            f"two while it is being replaced"
        )
    return secrets


def _policy(files: IFiles, hook: WebHook) -> IPolicyForHTTPS | None:
    if not hook.ca_file:
        return None
    return load_authorities(files, hook.ca_file, f"the webhook {hook.name}")


def make_part(context: PartContext) -> HooksPart:
    return HooksPart(context)
