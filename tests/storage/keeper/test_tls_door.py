"""What is said of the door for TLS before it is opened; tests/process opens it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError, UnsafePermissions
from meshkit.storage.keeper.tls_door import MAX_PEM, TLSSettings
from meshkit.testing.nodes import MemoryMesh

BOTH = 'tls_certificate = "/tls.pem"\ntls_key = "/tls.key"\n'


class SettingsTests(SynchronousTestCase):
    def test_without_an_endpoint_there_is_none(self) -> None:
        self.assertIsNone(TLSSettings.of(None, None, None))
        # They may lie there already.
        self.assertIsNone(TLSSettings.of(None, "/tls.pem", "/tls.key"))

    def test_it_needs_a_certificate_and_its_key(self) -> None:
        for certificate, key in ((None, None), ("/tls.pem", None), (None, "/tls.key")):
            with self.assertRaisesRegex(ConfigError, "two files in PEM"):
                TLSSettings.of("tcp:7672", certificate, key)

    def start(self, config: str, **files: bytes) -> None:
        mesh = MemoryMesh()
        self.addCleanup(mesh.stop)
        ada = mesh.node("ada", f"[keeper]\n{config}{BOTH}")
        for name, content in files.items():
            ada.files.create(f"/tls.{name}", content)
        if "key" in files and not files["key"]:
            ada.files.modes["/tls.key"] = 0o644
        ada.start()

    def test_a_node_whose_files_cannot_be_used_does_not_start_and_says_why(self) -> None:
        listen = 'tls_listen = "tcp:7672"\n'
        with self.assertRaisesRegex(ConfigError, "keeper: /tls.pem cannot be read: No such file"):
            self.start(listen)
        with self.assertRaisesRegex(ConfigError, "keeper: /tls.key cannot be read: No such file"):
            self.start(listen, pem=b"x")
        with self.assertRaisesRegex(ConfigError, "/tls.pem cannot be read: larger than"):
            self.start(listen, pem=bytes(MAX_PEM + 1), key=b"x")
        with self.assertRaisesRegex(UnsafePermissions, "chmod 600 /tls.key"):
            self.start(listen, pem=b"x", key=b"")
        with self.assertRaisesRegex(ConfigError, "/tls.pem and /tls.key: the certificate"):
            self.start(listen, pem=b"x", key=b"x")
