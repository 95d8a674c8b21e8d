"""What tests of HTTP to other people's servers have in common: names, and certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    trustRootFromCertificates,
)
from twisted.web.client import BrowserLikePolicyForHTTPS

from meshkit.discovery.wellknown import Document, write
from meshkit.identity.addresses import MeshAddress


def document_of(address: str, network: str) -> bytes:
    """@return: what a domain says of a node at an address."""
    parsed = MeshAddress.parse(address)
    return write(Document(parsed.key, network, (parsed,)))


class Names:
    """
    A resolver that answers from a list, another time with the next entry.

    @ivar asked: the names that were asked for.
    """

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): each for name, each in answers.items()}
        self.asked: list[str] = []

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        receiver, name, port = resolutionReceiver, hostName, portNumber
        self.asked.append(name)
        receiver.resolutionBegan(self)
        answers = self.answers.get(name, [[]])
        for host in answers.pop(0) if len(answers) > 1 else answers[0]:
            kind = IPv6Address if ":" in host else IPv4Address
            receiver.addressResolved(kind("TCP", host, port))
        receiver.resolutionComplete()
        return self


@cache
def authority(name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate_for(name, key, name, key, ca=True), key


def certificate_for(
    name: str, key: Any, issuer: str, issuer_key: Any, *, ca: bool = False
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        alternative: x509.GeneralName = (
            x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        )
        builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(name: str, issuer: str = "ours") -> bytes:
    """@return: a certificate for a name and its key, one behind the other."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = certificate_for(name, key, issuer, authority(issuer)[1])
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem(certificate) + private


def options_for(name: str, issuer: str = "ours") -> CertificateOptions:
    """@return: what a server with that name shows."""
    return PrivateCertificate.loadPEM(private_pem(name, issuer)).options()


def policy_of(issuer: str = "ours") -> BrowserLikePolicyForHTTPS:
    """@return: that of who trusts that authority and no other."""
    root = Certificate.loadPEM(pem(authority(issuer)[0]))
    return BrowserLikePolicyForHTTPS(trustRootFromCertificates([root]))
