"""Tests of L{meshkit.storage.terms}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.storage.terms import lease_hash, lease_secret, peer_lease_secret
from meshkit.testing.identities import make_identity

#: Of secret and upload of 32 equal bytes.
KNOWN = "d60ea70d0d48b3bde73221676f58ae48be2a5c9f8ad583b7ce354a15de2c0648"
#: Made of that, for the peer C{one}.
KNOWN_OF_ONE = "13b5745e49b05b1a57d05189a2d7fbdee2ebbd668ac99ecdfabbd43e1320147a"


class Leases(SynchronousTestCase):
    def test_the_secret_follows_from_the_owner_and_the_upload(self) -> None:
        secret = lease_secret(b"s" * 32, b"u" * 32)
        self.assertEqual(secret.hex(), KNOWN)
        self.assertNotEqual(lease_secret(b"t" * 32, b"u" * 32), secret)
        self.assertNotEqual(lease_secret(b"s" * 32, b"v" * 32), secret)

    def test_each_peer_has_a_secret_of_its_own(self) -> None:
        secret = lease_secret(b"s" * 32, b"u" * 32)
        one, two = (make_identity(name).public for name in ("one", "two"))
        self.assertEqual(peer_lease_secret(secret, one).hex(), KNOWN_OF_ONE)
        self.assertNotIn(peer_lease_secret(secret, two), (secret, peer_lease_secret(secret, one)))

    def test_a_secret_is_not_its_hash(self) -> None:
        secret = lease_secret(b"s" * 32, b"u" * 32)
        self.assertNotIn(lease_hash(secret), (secret, lease_hash(b"s" * 32)))

    def test_secrets_of_other_lengths_are_refused(self) -> None:
        self.assertRaises(ValueError, lease_secret, b"s" * 31, b"u" * 32)
        self.assertRaises(ValueError, lease_secret, b"s" * 32, b"u" * 33)
        self.assertRaises(ValueError, lease_hash, b"s")
        self.assertRaises(ValueError, peer_lease_secret, b"s", make_identity("one").public)
