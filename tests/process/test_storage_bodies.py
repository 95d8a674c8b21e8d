"""
Hundreds of megabytes for a storage peer that has not asked for them, and the memory of its
process.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.storage.http.certificates import make_certificate

ROOT: Final = Path(__file__).resolve().parents[2]
UPLOAD: Final = "ab" * 32
PATH: Final = f"/v1/uploads/{UPLOAD}/0/0"
MIB: Final = 1024 * 1024
#: What the process may grow by, in all: some buffers of TLS and of the socket.
ALLOWED: Final = 16 * MIB

#: Serves a peer that takes everything; prints the port, and then its calls when it is asked to.
_PROGRAM: Final = """
import sys, time
from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.workers import WorkerPool
from meshkit.storage.http.door import SignedDoor
from meshkit.runtime.signed.tls import load_certificate
from meshkit.testing.identities import make_identity

class Peer:
    written = 0
    def write(self, upload, number, segment, block):
        Peer.written += len(block)
        return succeed(None)

workers = WorkerPool(reactor, 1, name="test")
workers.startService()
folder = sys.argv[1]
door = SignedDoor(
    reactor, TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
    load_certificate(open(folder + "/cert", "rb").read(), open(folder + "/key", "rb").read()),
    identity=make_identity("server"), network_id=bytes(16), workers=workers, files=LocalFiles(),
    mark_path=folder + "/mark", wall_clock=time.time_ns, for_caller=lambda key: Peer(),
    record=lambda: b"a record")
door.start().addCallbacks(lambda _: print(door.address.port, flush=True), lambda f: (
    print(f), reactor.stop()))

class Input(Protocol):
    def dataReceived(self, data):
        print(Peer.written, door.connections, flush=True)
    def connectionLost(self, reason):
        door.stop().addBoth(lambda _: workers.stopService()).addBoth(lambda _: reactor.stop())

StandardIO(Input())
reactor.run()
"""


class Bodies(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="meshkit-bodies-"))
        self.addCleanup(shutil.rmtree, folder)
        certificate, key = make_certificate("storage.example")
        (folder / "cert").write_bytes(certificate)
        (folder / "key").write_bytes(key)
        self.child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.addCleanup(self._end)
        self.port = int(self._line())
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        # What it takes to serve at all is not what is measured.
        self._health()
        self.before = self._memory()

    def _end(self) -> None:
        self.child.communicate(timeout=30)
        self.assertEqual(self.child.returncode, 0)

    def _line(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    def _figures(self) -> list[int]:
        """@return: bytes of blocks that the peer was given, and open connections."""
        assert self.child.stdin is not None
        self.child.stdin.write("?\n")
        self.child.stdin.flush()
        return [int(each) for each in self._line().split()]

    def _memory(self) -> int:
        """@return: the most that the process has had."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def _dial(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.context)

    def _health(self) -> None:
        connection = self._dial()
        connection.request("GET", "/v1/health")
        self.assertEqual(connection.getresponse().status, 200)
        connection.close()

    def _push(self, headers: dict[str, str], size: int) -> tuple[int, str, int]:
        """@return: status and code of the answer, if it came, and how much could be sent."""
        connection = self._dial()
        connection.putrequest("PUT", PATH)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        sent = 0
        block = bytes(MIB)
        try:
            while sent < size:
                connection.send(block)
                sent += len(block)
        except OSError:
            pass  # it has closed
        try:
            answer = connection.getresponse()
            code = json.loads(answer.read())["error"]["code"]
            return answer.status, code, sent
        except (OSError, http.client.HTTPException):
            return 0, "", sent
        finally:
            connection.close()

    def _held(self) -> None:
        self.assertLess(self._memory() - self.before, ALLOWED)
        written, _ = self._figures()
        self.assertEqual(written, 0)
        # And others are served as before.
        self._health()

    def test_three_hundred_megabytes_that_nobody_signed(self) -> None:
        size = 300 * MIB
        status, code, sent = self._push({"Content-Length": str(size)}, size)
        self.assertIn((status, code), [(413, "BODY_TOO_LARGE"), (0, "")])
        self.assertLess(sent, 20 * MIB)
        self._held()

    def test_three_hundred_megabytes_in_chunks(self) -> None:
        status, code, sent = self._push({"Transfer-Encoding": "chunked"}, 300 * MIB)
        self.assertIn((status, code), [(400, "INVALID_REQUEST"), (0, "")])
        self.assertLess(sent, 20 * MIB)
        self._held()

    def test_three_hundred_blocks_that_nobody_signed(self) -> None:
        seen = set()
        for _ in range(300):
            status, code, _ = self._push({"Content-Length": str(MIB)}, MIB)
            seen.add((status, code))
        self.assertLessEqual(seen, {(401, "SIGNATURE_REFUSED"), (0, "")})
        self.assertIn((401, "SIGNATURE_REFUSED"), seen)
        self._held()

    def test_blocks_that_somebody_else_has_signed(self) -> None:
        digest = base64.b64encode(bytes(32)).decode()
        headers: dict[str, Any] = {
            "Content-Length": str(MIB),
            "Content-Type": "application/octet-stream",
            "Content-Digest": f"sha-256=:{digest}:",
            "Signature-Input": 'mk=("@method");created=1',
            "Signature": f"mk=:{base64.b64encode(os.urandom(64)).decode()}:",
        }
        for _ in range(50):
            status, _, _ = self._push(headers, MIB)
            self.assertIn(status, (401, 0))
        self._held()
