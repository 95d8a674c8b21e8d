"""
The second way to a node's storage peer, as its settings have it: HTTP over TLS, for those who sign
their requests (L{meshkit.storage.http.door}).  What was let in is remembered over a restart, up to
a moment: in C{signed-until}, in the folder of the part.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.ssl import CertificateOptions

from meshkit.errors import CannotListen, ConfigError
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.parts import PartContext
from meshkit.runtime.endpoints import parse_endpoint
from meshkit.runtime.signed.tls import load_certificate
from meshkit.storage.http.door import SignedDoor

#: File with the time up to which signed requests may have been let in.
MARK: Final = "signed-until"
#: Bytes of a certificate with those that lead to it, and of a key.
MAX_PEM: Final = 256 * 1024


@frozen
class TLSSettings:
    """
    @ivar listen: an endpoint string of Twisted, of a plain port.
    @ivar certificate: path of a file in PEM.
    @ivar key: path of a file in PEM, which others may not read.
    """

    listen: str
    certificate: str
    key: str

    @classmethod
    def of(cls, listen: str | None, certificate: str | None, key: str | None) -> TLSSettings | None:
        """
        @return: L{None} if there is to be no TLS.
        @raise ConfigError: if something is missing.
        """
        if listen is None:
            return None
        if certificate is None or key is None:
            raise ConfigError(
                "keeper.tls_listen needs keeper.tls_certificate and keeper.tls_key, two files in "
                "PEM"
            )
        return cls(listen, certificate, key)


def make_tls_door(
    context: PartContext,
    settings: TLSSettings,
    for_caller: Callable[[PublicKey], Any],
    record: Callable[[], bytes],
) -> SignedDoor:
    """
    @param for_caller: see L{SignedDoor}.
    @param record: likewise.
    @raise ConfigError: if the endpoint is none, or the certificate cannot be used.
    """
    options = _load(context.files, settings)
    try:
        endpoint = parse_endpoint(serverFromString, context.reactor, settings.listen)
    except ValueError as e:
        raise ConfigError(
            f"the setting keeper.tls_listen is {settings.listen!r}, which is no Twisted "
            f"endpoint ({e}): write for example tcp:7672"
        ) from None
    return SignedDoor(
        context.reactor,
        endpoint,
        options,
        identity=context.identity,
        network_id=context.network.net_id,
        workers=context.workers,
        files=context.files,
        mark_path=os.path.join(context.data_folder, MARK),
        wall_clock=context.wall_clock,
        for_caller=for_caller,
        record=record,
    )


def _load(files: Any, settings: TLSSettings) -> CertificateOptions:
    try:
        certificate = files.read(settings.certificate, MAX_PEM)
        key = files.read_secret(settings.key, MAX_PEM)
    except OSError as e:
        raise ConfigError(f"keeper: {e.filename} cannot be read: {e.strerror}") from None
    try:
        return load_certificate(certificate, key)
    except ConfigError as e:
        raise ConfigError(f"{settings.certificate} and {settings.key}: {e}") from None


async def open_tls_door(door: SignedDoor, context: PartContext, settings: TLSSettings) -> None:
    """
    @raise CannotListen: if the port cannot be opened.
    @raise OSError: if the disk does not say which requests were let in before, or does not
        take it.
    """
    context.files.make_folder(context.data_folder)
    try:
        await door.start()
    except CannotListenError as e:
        why = e.socketError
        raise CannotListen(
            f"cannot listen on {settings.listen!r} ({getattr(why, 'strerror', None) or why}): "
            "stop what uses it, or set keeper.tls_listen to another endpoint"
        ) from None


def place_of(door: SignedDoor) -> HostPort | None:
    """@return: where it listens; the host may be a wildcard."""
    host = door.address
    if not isinstance(host, (IPv4Address, IPv6Address)):
        return None
    return HostPort(host.host, host.port)
