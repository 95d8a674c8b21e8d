"""
The section C{[hooks]}: which commands and webhooks there are.  Pure.

Each has a name, under which its place in the store is remembered: whoever renames one makes
a new one.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from meshkit.errors import IdentityError
from meshkit.identity.keys import PublicKey

#: Commands, and webhooks, of one node.
MAX_HOOKS: Final = 32

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DAY: Final = 86_400.0


class Hook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    What commands and webhooks have in common.  A list that is empty does not restrict.

    Raises L{ValueError} if a value cannot be used.
    """

    name: Annotated[
        str,
        Meta(description="what it is called: lower-case letters, digits, - and _"),
    ]
    authors: Annotated[
        tuple[str, ...],
        Meta(max_length=1000, description="only messages of these authors, @<base64>.ed25519"),
    ] = ()
    types: Annotated[
        tuple[str, ...],
        Meta(max_length=1000, description="only messages with one of these content types"),
    ] = ()
    tags: Annotated[
        tuple[str, ...], Meta(max_length=1000, description="only messages with one of these tags")
    ] = ()
    begin: Annotated[
        Literal["now", "beginning"],
        Meta(
            description="where to begin when it is new: with what is stored from then on, or with "
            "the first message of all"
        ),
    ] = "now"
    per_minute: Annotated[
        float, Meta(gt=0, le=600_000, description="most deliveries in a minute; more wait")
    ] = 600.0
    timeout: Annotated[
        float, Meta(gt=0, le=3600, description="seconds that one delivery may take")
    ] = 30.0
    pause: Annotated[
        float,
        Meta(
            ge=0.1, le=3600, description="seconds before the second attempt at most; then doubled"
        ),
    ] = 2.0
    max_pause: Annotated[
        float, Meta(ge=0.1, le=_DAY, description="longest pause between two attempts")
    ] = 3600.0
    max_attempts: Annotated[
        int, Meta(ge=1, le=1000, description="failed attempts after which a message is parked")
    ] = 1
    max_age: Annotated[
        float,
        Meta(
            gt=0,
            le=366 * _DAY,
            description="seconds after its first attempt, after which a failing message is parked",
        ),
    ] = 3 * _DAY

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"the name {self.name!r} is not of the form {_NAME.pattern}")
        self.author_keys()

    def author_keys(self) -> frozenset[bytes]:
        """@return: the keys of C{authors}, 32 bytes each."""
        keys = set()
        for text in self.authors:
            try:
                keys.add(PublicKey.parse(text).raw)
            except IdentityError as e:
                raise ValueError(f"authors of {self.name!r}: {e}") from None
        return frozenset(keys)


class CommandHook(Hook, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A program that is run for each message."""

    run: Annotated[
        tuple[str, ...],
        Meta(max_length=100, description="the program and its arguments; no shell looks at them"),
    ] = ()
    shell: Annotated[str, Meta(description="in place of run: a line for /bin/sh")] = ""
    kill_after: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="seconds from SIGTERM, which is sent at the timeout, to SIGKILL",
        ),
    ] = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.run) == bool(self.shell):
            raise ValueError(f"{self.name!r} needs one of run and shell")
        if any("\0" in text for text in (*self.run, self.shell)) or (self.run and not self.run[0]):
            raise ValueError(f"{self.name!r} names no program that can be run")

    @property
    def arguments(self) -> tuple[str, ...]:
        """The program and its arguments."""
        return ("/bin/sh", "-c", self.shell) if self.shell else self.run


class WebHook(Hook, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An address to which each message is sent."""

    # Its path or query often is what lets one in.
    url: Annotated[
        str,
        Meta(
            max_length=2000,
            description="where to send messages: https://HOST[:PORT]/PATH",
            extra={"secret": True},
        ),
    ]
    secret_file: Annotated[
        str,
        Meta(
            description="file with the secret that signs, mode 0600; left out, NAME.secret in the "
            "folder hooks of the data folder, which is made if it is not there"
        ),
    ] = ""
    allow_addresses: Annotated[
        tuple[str, ...],
        Meta(
            max_length=100,
            description="addresses or networks that may be dialled although they are not public, "
            "such as 127.0.0.1 or 10.0.0.0/8",
        ),
    ] = ()
    plain_http: Annotated[
        bool, Meta(description="allow http://, which everybody on the way can read")
    ] = False
    ca_file: Annotated[
        str,
        Meta(description="PEM file with the authorities to trust in place of the system's"),
    ] = ""
    max_attempts: Annotated[
        int, Meta(ge=1, le=1000, description="failed attempts after which a message is parked")
    ] = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_url(self)
        self.allowed_networks()

    def allowed_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """@return: C{allow_addresses}, parsed."""
        try:
            return tuple(ip_network(text) for text in self.allow_addresses)
        except ValueError as e:
            raise ValueError(f"allow_addresses of {self.name!r}: {e}") from None

    @property
    def origin(self) -> str:
        """Scheme, host and port of C{url}: what may be shown of it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def _check_url(hook: WebHook) -> None:
    # No message below repeats the URL.
    try:
        parts = urlsplit(hook.url)
        port = parts.port
    except ValueError:
        raise ValueError(f"the url of {hook.name!r} is malformed") from None
    if not hook.url.isascii() or not hook.url.isprintable() or " " in hook.url:
        raise ValueError(
            f"the url of {hook.name!r} has characters that have to be written as %XX, or its "
            f"host in punycode"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"the url of {hook.name!r} is not of the form https://HOST[:PORT]/PATH")
    if parts.scheme == "http" and not hook.plain_http:
        raise ValueError(
            f"the url of {hook.name!r} is not encrypted: write https://, or set plain_http"
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError(f"the url of {hook.name!r} may have no user, password and fragment")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[hooks]}."""

    command: Annotated[
        tuple[CommandHook, ...],
        Meta(max_length=MAX_HOOKS, description="Programs to run for messages."),
    ] = ()
    webhook: Annotated[
        tuple[WebHook, ...],
        Meta(max_length=MAX_HOOKS, description="Addresses to send messages to."),
    ] = ()
    max_running: Annotated[
        int, Meta(ge=1, le=256, description="commands of all hooks that run at a time")
    ] = 4
    max_output: Annotated[
        int,
        Meta(
            ge=0,
            le=16 * 2**20,
            description="bytes of the output of a command that are kept for the log",
            extra={"size": True},
        ),
    ] = 8 * 1024
    max_parked: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="messages parked by one hook after which it waits for its operator",
        ),
    ] = 1000

    def __post_init__(self) -> None:
        names: set[str] = set()
        for hook in self.hooks():
            if hook.name in names:
                raise ValueError(f"there are two hooks of the name {hook.name!r}")
            names.add(hook.name)

    def hooks(self) -> tuple[Hook, ...]:
        """All of them, commands first."""
        both: tuple[Any, ...] = (*self.command, *self.webhook)
        return both
