"""
TLS beneath signed requests, for those who are in no mesh together.

The certificate proves nothing here: who answers is known by the signature of the answer.  TLS hides
what is said from who listens.  Who is between the two and answers with a certificate of his own
sees sealed blocks, and the secrets of leases; where the peer has a certificate that the machine
trusts, ask for its name.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import CertificateOptions, TLSVersion, optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from meshkit.errors import ConfigError


@implementer(IOpenSSLClientConnectionCreator, IPolicyForHTTPS)
class AnyCertificate:
    """
    Takes whatever certificate is shown: for L{wrap_tls_client}, and for an
    L{Agent <twisted.web.client.Agent>} whose answers are verified by their signatures.
    """

    def __init__(self) -> None:
        self._context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2).getContext()

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def creatorForNetloc(self, hostname: bytes, port: int) -> AnyCertificate:
        return self


def wrap_tls_client(
    endpoint: IStreamClientEndpoint, name: str | None = None
) -> IStreamClientEndpoint:
    """
    @param endpoint: leads to the peer, or to what is before it.
    @param name: what the certificate has to be for, by who the machine trusts; L{None} takes any.
    @return: an endpoint, such as for a L{meshkit.storage.http.client.HTTPStoragePeer} with a
        C{signer}.
    """
    creator = AnyCertificate() if name is None else optionsForClientTLS(name)
    wrapped: IStreamClientEndpoint = wrapClientTLS(creator, endpoint)
    return wrapped


def load_certificate(certificate: bytes, key: bytes) -> CertificateOptions:
    """
    @param certificate: in PEM; others, that lead from it to one that is trusted, may follow.
    @param key: in PEM, under no passphrase.
    @return: what a server shows.
    @raise ConfigError: if they cannot be used, or do not belong together.
    """
    try:
        # Twisted's types speak of classes that pyOpenSSL does not want any more.
        chain: Any = x509.load_pem_x509_certificates(certificate)
        private: Any = load_pem_private_key(key, None)
        options = CertificateOptions(
            private, chain[0], extraCertChain=chain[1:], raiseMinimumTo=TLSVersion.TLSv1_2
        )
        options.getContext().check_privatekey()
    except (SSL.Error, UnsupportedAlgorithm, ValueError, TypeError) as e:
        raise ConfigError(f"the certificate and its key cannot be used for TLS: {e}") from None
    return options


def wrap_tls_factory(
    reactor: IReactorTime, options: CertificateOptions, factory: IProtocolFactory
) -> IProtocolFactory:
    """
    @param factory: L{meshkit.storage.http.server.StorageSite} with C{signatures}.
    @return: what listens on a TCP port.
    """
    return TLSMemoryBIOFactory(options, False, factory, reactor)
