"""
The HTTP door of a real relay, over TLS: registered by the command line, read by the example, and
by a program that everybody has.
"""

from __future__ import annotations

import json
import shutil
import ssl
import sys
from pathlib import Path
from unittest import SkipTest
from urllib.error import HTTPError
from urllib.request import urlopen

from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.addresses import MeshAddress
from tests.process.mesh import Mesh, Node, run, wait_for

READ_A_RELAY = Path(__file__).resolve().parents[2] / "examples" / "read_a_relay.py"


class Relay(Node):
    """A member relay."""

    def command(self, *arguments: str) -> list[str]:
        return ["mesh-relay", *super().command(*arguments)[1:]]

    @property
    def url(self) -> str:
        """Of its door for whoever comes."""
        (url,) = self.status["parts"]["relay_door"]["urls"]
        return str(url)


def make_certificate(home: Path) -> tuple[Path, Path]:
    """@return: a certificate that openssl made for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        raise SkipTest("there is no openssl on this machine, and only root can install it")
    certificate, key = home / "tls.pem", home / "tls.key"
    done = run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "1", "-subj", "/CN=relay", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(certificate)),
        home=home,
    )
    assert done.code == 0, done.err
    return certificate, key


class RelayDoorTests(SynchronousTestCase):
    def test_a_peer_registers_is_listed_and_reads_what_the_relay_has(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        relay = mesh.node("relay", kind=Relay)
        assert isinstance(relay, Relay)
        certificate, key = make_certificate(relay.home)
        tls = ("--relay-door-certificate", str(certificate), "--relay-door-key", str(key))
        relay.start(*tls)
        trusting = ssl.create_default_context(cafile=str(certificate))
        ada = mesh.node("ada", "--gossip-retry-max=1", network=relay)
        ada.start()
        me = MeshAddress.parse(ada.address).key.text

        # What anybody is told.
        with urlopen(f"{relay.url}/v1/status", context=trusting, timeout=30) as answer:
            self.assertEqual(json.loads(answer.read())["data"]["role"], "member")
        with self.assertRaises(HTTPError) as refused:
            urlopen(f"{relay.url}/v1/feed", context=trusting, timeout=30)
        with refused.exception as answer:
            self.assertEqual(answer.code, 401)

        # What the owner of a node types.
        done = ada.good("relay", "register", relay.address, "--listed", "--nickname", "ada")
        self.assertEqual(done.lines, [f"Registered at {relay.address} as ada, listed"])
        ada.ask("POST", "/v1/peers", json.dumps({"address": relay.address}).encode())
        ada.publish({"type": "note", "text": "a grey heron"})
        (entry,) = ada.good("relay", "directory", "--json").json
        self.assertEqual((entry["public_id"], entry["nickname"]), (me, "ada"))

        # What a program reads.
        wait_for("the message at the relay", lambda: relay.status["parts"]["feed"]["messages"])
        done = run(
            *(sys.executable, str(READ_A_RELAY), relay.url),
            *(MeshAddress.parse(relay.address).key.text, str(ada.data)),
            home=ada.home,
        )
        self.assertEqual((done.code, done.err), (0, ""))
        self.assertEqual(done.lines, [f'{me} 1 {{"text": "a grey heron", "type": "note"}}'])

        # All of that is there after it was killed.
        relay.kill()
        relay.start(*tls)
        (peer,) = relay.ask("GET", "/v1/registry").data
        self.assertEqual((peer["public_id"], peer["listed"], peer["nickname"]), (me, True, "ada"))
