"""
Each check of the secure channel is taken out in turn, and the tests have to notice.

The public test suite of Secret Handshake 1 does not: it passes a program that never looks
at a signature.  A L{Mutant} is a small edit of the source, as the mistake could have been
made; it is applied to a copy of the package in a temporary folder, where a child process

  1. runs an honest connection, which still has to work: a mutant that breaks everything
     says nothing about the tests;
  2. runs the tests of that module, of which at least one has to fail.

The copy without any edit has to pass them all.  An edit whose text is not found exactly
once fails, so that this list cannot fall behind the source.

Left out, because no test can see them:

  - C{==} for C{compare_digest} where what is compared is public or our own configuration:
    in C{register}, in the checks for our own public keys, and against a shared secret of
    zeros.  The comparisons of MACs are among the mutants.
  - C{_Handshake.receive} taking more than the message needs: what is behind a message
    is handed back, and tests of C{Step.rest} would fail for any such edit.
  - C{connect()} that fires with the connection beneath: no honest program could use it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from compileall import compile_dir
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.linked import link_tree

ROOT: Final = Path(__file__).resolve().parents[2]

#: How many children run at a time, and seconds for each.
AT_A_TIME: Final = 2
SECONDS: Final = 120.0

#: Which tests have to notice, by the module that is edited.
SUITES: Final = {
    "handshake": ("test_handshake", "test_hostile"),
    "hellos": ("test_hellos", "test_handshake", "test_hostile"),
    "boxstream": ("test_boxstream", "test_secretbox", "test_hostile", "test_channel"),
    "probe": ("test_probe", "test_prober"),
    "egregore": ("test_egregore",),
    "egregore_stream": ("test_egregore_stream",),
    "suites": ("test_suites", "test_hostile"),
    "listener": ("test_listener", "test_hostile", "test_prober"),
    "channel": ("test_channel", "test_closing", "test_hostile", "test_endpoints"),
    "endpoints": ("test_endpoints",),
}

_COMPILED: Final = shutil.ignore_patterns("__pycache__")

CHILD: Final = """
import os, sys
from random import Random

import meshkit
assert meshkit.__file__.startswith(os.getcwd()), meshkit.__file__

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from meshkit.shs.hellos import Capability
from meshkit.shs.probe import PROBE, Question
from meshkit.testing.channels import connect_channels
from meshkit.testing.identities import make_identity
from tests.shs.common import HalfRecorder, OneFactory, Recorder

def honest():
    pair = connect_channels(OneFactory(HalfRecorder), OneFactory(Recorder), clock=Clock())
    for data in (b"question", bytes(10_000), Random(1).randbytes(200_000)):
        for one, other in ((pair.client, pair.server), (pair.server, pair.client)):
            before = len(other.received)
            one.transport.write(data)
            pair.run()
            assert bytes(other.received[before:]) == data
    pair.client.transport.loseConnection()
    pair.run(60)
    assert pair.client.reason.type is pair.server.reason.type is ConnectionDone
    key = Capability("key-probe", 1, bytes(range(32)))
    alice, bob = make_identity("alice"), make_identity("bob")
    question = Question(key, alice.public, bytes(range(1, 33)))
    step = PROBE.respond(bob, key, bytes(range(2, 34))).receive(question.start())
    assert question.receive(step.send) == bob.public

honest()
print("HONEST", flush=True)
from twisted.scripts.trial import run
sys.argv = ["trial", "--exitfirst", "--temp-directory", "trial", *sys.argv[1:]]
run()
"""


@frozen
class Mutant:
    """
    One mistake.

    @ivar what: what is wrong with the program, in words.
    @ivar module: which module of C{meshkit/shs} is edited.
    @ivar edits: exact text, and what stands there instead.
    """

    what: str
    module: str
    edits: tuple[tuple[str, str], ...]


def _mutant(what: str, module: str, *edits: str) -> Mutant:
    pairs = tuple(zip(edits[::2], edits[1::2], strict=True))
    return Mutant(what, module, pairs)


MUTANTS: Final = (
    # --- the hello ---
    _mutant(
        "the MAC of message 1 is not compared",
        "hellos",
        "return hmac.compare_digest(hello_mac(key, hello[MAC_BYTES:]), hello[:MAC_BYTES])",
        "return len(hello) == HELLO_BYTES",
    ),
    _mutant(
        "half of the MAC of message 1 is compared",
        "hellos",
        "hmac.compare_digest(hello_mac(key, hello[MAC_BYTES:]), hello[:MAC_BYTES])",
        "hmac.compare_digest(hello_mac(key, hello[MAC_BYTES:])[:16], hello[:16])",
    ),
    _mutant(
        "the MAC of message 1 is compared in a time that tells how much was right",
        "hellos",
        "return hmac.compare_digest(hello_mac(key, hello[MAC_BYTES:]), hello[:MAC_BYTES])",
        "return hello_mac(key, hello[MAC_BYTES:]) == hello[:MAC_BYTES]",
    ),
    _mutant(
        "the MAC is made with SHA-512/256, another function of nearly that name",
        "hellos",
        'return hmac.digest(key, ephemeral, "sha512")[:MAC_BYTES]',
        'return hmac.digest(key, ephemeral, "sha512_256")',
    ),
    _mutant(
        "the MAC is the other half of HMAC-SHA-512",
        "hellos",
        'return hmac.digest(key, ephemeral, "sha512")[:MAC_BYTES]',
        'return hmac.digest(key, ephemeral, "sha512")[MAC_BYTES:]',
    ),
    _mutant(
        "the table stops at the first match",
        "hellos",
        "                found = entry.capability\n",
        "                return entry.capability\n",
    ),
    _mutant(
        "a label and version can be taken twice",
        "hellos",
        "if _place(capability) in self._entries:",
        "if False:",
    ),
    _mutant(
        "two protocols can have one key",
        "hellos",
        "if hmac.compare_digest(other.key, capability.key):",
        "if False:",
    ),
    _mutant(
        "the table has no bound",
        "hellos",
        "if len(self._entries) >= MAX_CAPABILITIES:",
        "if False:",
    ),
    _mutant(
        "a key may begin as signed statements do",
        "hellos",
        "if value.startswith(_RESERVED_PREFIX):",
        "if False:",
    ),
    _mutant(
        "a replayed hello is new",
        "hellos",
        "        if fingerprint in self._seen:\n            return False\n",
        "",
    ),
    _mutant(
        "a replayed hello is remembered anew, and so for ever",
        "hellos",
        "        if fingerprint in self._seen:\n            return False\n",
        "        if fingerprint in self._seen:\n"
        "            self._seen[fingerprint] = now\n"
        "            return False\n",
    ),
    _mutant(
        "the replay cache has no bound",
        "hellos",
        "if len(self._seen) >= MAX_REMEMBERED_HELLOS:",
        "if False:",
    ),
    _mutant(
        "the replay cache forgets nothing",
        "hellos",
        "if now - self._seen[oldest] <= REMEMBER_SECONDS:",
        "if True:",
    ),
    # --- the handshake ---
    _mutant(
        "the MAC of message 2 is not compared",
        "handshake",
        "if not hmac.compare_digest(hello_mac(capability.key, self._theirs), mac):",
        "if False:",
    ),
    _mutant(
        "the MAC of message 2 is compared in a time that tells how much was right",
        "handshake",
        "if not hmac.compare_digest(hello_mac(capability.key, self._theirs), mac):",
        "if hello_mac(capability.key, self._theirs) != mac:",
    ),
    _mutant(
        "the client takes its own hello for an answer",
        "handshake",
        "        if hmac.compare_digest(self._theirs, self._public):\n"
        "            raise NetworkKeyRefused(\n"
        '                "our own hello',
        '        if False:\n            raise NetworkKeyRefused(\n                "our own hello',
    ),
    _mutant(
        "the server takes its own ephemeral key from another",
        "handshake",
        "        if hmac.compare_digest(self._theirs, self._public):\n"
        "            raise NetworkKeyRefused("
        '"the peer sent',
        '        if False:\n            raise NetworkKeyRefused("the peer sent',
    ),
    _mutant(
        "a secret that does not depend on ours is as good as any",
        "handshake",
        "if hmac.compare_digest(shared, _ZERO_SECRET):",
        "if False:",
    ),
    _mutant(
        "a zero secret is left to the library to refuse",
        "handshake",
        "        shared = _ZERO_SECRET\n",
        "        raise PeerKeyRefused('small order') from None\n",
        "if hmac.compare_digest(shared, _ZERO_SECRET):",
        "if False:",
    ),
    _mutant(
        "the signature in message 3 is not checked",
        "handshake",
        "if not peer.verifies(key + self._identity.public.raw + self._shared_hash, signature):",
        "if False:",
    ),
    _mutant(
        "the signature in message 4 is not checked",
        "handshake",
        "if signature is None or not self._peer.verifies(signed, signature):",
        "if signature is None:",
    ),
    _mutant(
        "a proof that does not open is not noticed",
        "handshake",
        "        if opened is None:\n",
        "        if False:\n",
    ),
    _mutant(
        "a server admits somebody with its own key",
        "handshake",
        "if hmac.compare_digest(peer.raw, self._identity.public.raw):\n"
        '            raise PeerKeyRefused("the peer claims',
        'if False:\n            raise PeerKeyRefused("the peer claims',
    ),
    _mutant(
        "a client dials itself",
        "handshake",
        "if hmac.compare_digest(peer.raw, identity.public.raw):",
        "if False:",
    ),
    _mutant(
        "a key that is no point of X25519 raises what nobody expects",
        "handshake",
        "        except InvalidPublicKey:\n"
        '            raise PeerKeyRefused(f"the peer\'s key {peer.text} is not a usable key") '
        "from None\n",
        "        except ZeroDivisionError:\n            raise\n",
    ),
    _mutant(
        "the client signs without the capability",
        "handshake",
        "            capability.key + self._peer.raw + self._shared_hash\n",
        "            self._peer.raw + self._shared_hash\n",
        "peer.verifies(key + self._identity.public.raw + self._shared_hash, signature)",
        "peer.verifies(self._identity.public.raw + self._shared_hash, signature)",
    ),
    _mutant(
        "the client signs without naming the server",
        "handshake",
        "            capability.key + self._peer.raw + self._shared_hash\n",
        "            capability.key + self._shared_hash\n",
        "peer.verifies(key + self._identity.public.raw + self._shared_hash, signature)",
        "peer.verifies(key + self._shared_hash, signature)",
    ),
    _mutant(
        "the client signs without the shared secret",
        "handshake",
        "            capability.key + self._peer.raw + self._shared_hash\n",
        "            capability.key + self._peer.raw\n",
        "peer.verifies(key + self._identity.public.raw + self._shared_hash, signature)",
        "peer.verifies(key + self._identity.public.raw, signature)",
    ),
    _mutant(
        "the server signs without the capability",
        "handshake",
        "self._chosen().key + self._signature + self._identity.public.raw + self._shared_hash",
        "self._signature + self._identity.public.raw + self._shared_hash",
        "self._signed = key + signature + peer.raw + self._shared_hash",
        "self._signed = signature + peer.raw + self._shared_hash",
    ),
    _mutant(
        "the server signs without the client's signature",
        "handshake",
        "self._chosen().key + self._signature + self._identity.public.raw + self._shared_hash",
        "self._chosen().key + self._identity.public.raw + self._shared_hash",
        "self._signed = key + signature + peer.raw + self._shared_hash",
        "self._signed = key + peer.raw + self._shared_hash",
    ),
    _mutant(
        "the server signs without naming the client",
        "handshake",
        "self._chosen().key + self._signature + self._identity.public.raw + self._shared_hash",
        "self._chosen().key + self._signature + self._shared_hash",
        "self._signed = key + signature + peer.raw + self._shared_hash",
        "self._signed = key + signature + self._shared_hash",
    ),
    _mutant(
        "the server signs without the shared secret",
        "handshake",
        "self._chosen().key + self._signature + self._identity.public.raw + self._shared_hash",
        "self._chosen().key + self._signature + self._identity.public.raw",
        "self._signed = key + signature + peer.raw + self._shared_hash",
        "self._signed = key + signature + peer.raw",
    ),
    _mutant(
        "the capability is not in the keys of the boxes",
        "handshake",
        "self._proof_key = capability.key + self._shared + ",
        "self._proof_key = self._shared + ",
        "self._proof_key = key + self._shared + ",
        "self._proof_key = self._shared + ",
    ),
    _mutant(
        "the server's long-term key is not in the keys of the boxes",
        "handshake",
        "self._proof_key = capability.key + self._shared + agree(self._secret, self._peer_x25519)",
        "self._proof_key = capability.key + self._shared",
        "self._proof_key = key + self._shared + agree(self._identity._x25519_secret, self._theirs)",
        "self._proof_key = key + self._shared",
    ),
    _mutant(
        "the client's long-term key is not in the key of message 4",
        "handshake",
        "secret = self._proof_key + agree(self._identity._x25519_secret, self._theirs)",
        "secret = self._proof_key",
        "        self._proof_key += own_with_peer\n",
        "",
    ),
    _mutant(
        "the key of the stream is hashed once",
        "handshake",
        "seed = sha256(sha256(secret))",
        "seed = sha256(secret)",
    ),
    _mutant(
        "both directions have one key",
        "handshake",
        "encrypt_key=sha256(seed, peer.raw)",
        "encrypt_key=seed",
        "decrypt_key=sha256(seed, self._identity.public.raw)",
        "decrypt_key=seed",
    ),
    _mutant(
        "the keys of the two directions are exchanged",
        "handshake",
        "encrypt_key=sha256(seed, peer.raw)",
        "encrypt_key=sha256(seed, self._identity.public.raw)",
        "decrypt_key=sha256(seed, self._identity.public.raw)",
        "decrypt_key=sha256(seed, peer.raw)",
    ),
    _mutant(
        "the stream begins with the same nonce each time",
        "handshake",
        "encrypt_nonce=hello_mac(capability.key, self._theirs)[:_NONCE_BYTES]",
        "encrypt_nonce=_ZERO_NONCE",
        "decrypt_nonce=hello_mac(capability.key, self._public)[:_NONCE_BYTES]",
        "decrypt_nonce=_ZERO_NONCE",
    ),
    _mutant(
        "a handshake that failed goes on",
        "handshake",
        "                self._phase = Phase.FAILED\n                raise\n",
        "                raise\n",
    ),
    _mutant(
        "a peer is accepted as often as one likes",
        "handshake",
        "if self._phase is not Phase.VERDICT or self._peer is None:",
        "if self._peer is None:",
    ),
    _mutant(
        "a stranger's hello costs a curve operation",
        "handshake",
        "        self._theirs = hello[MAC_BYTES:]\n        answer",
        "        self._theirs = hello[MAC_BYTES:]\n        self._agree_on_shared()\n        answer",
    ),
    _mutant(
        "secrets are kept after the handshake",
        "handshake",
        '        self._secret = self._shared = self._shared_hash = b""\n',
        "",
    ),
    _mutant(
        "the key of message 3 is kept after the handshake",
        "handshake",
        '        self._proof_key = b""\n        self._done()\n',
        "        self._done()\n",
    ),
    # --- the stream ---
    _mutant(
        "a box may be as long as its header can say",
        "boxstream",
        "                if length > MAX_BODY:\n",
        "                if False:\n",
    ),
    _mutant(
        "a box may be longer by one byte",
        "boxstream",
        "if length > MAX_BODY:",
        "if length > MAX_BODY + 1:",
    ),
    _mutant(
        "a header that does not open is not noticed",
        "boxstream",
        '                    self._error = _tampered("the header of a box")\n'
        "                    break\n",
        "                    pass\n",
    ),
    _mutant(
        "a body that does not open is not noticed",
        "boxstream",
        '                self._error = _tampered("the body of a box")\n                break\n',
        "                pass\n",
    ),
    _mutant(
        "the nonce does not advance",
        "boxstream",
        "self._counter = 0 if self._counter == _LAST_NONCE else self._counter + 1",
        "pass",
    ),
    _mutant(
        "the nonce advances once a box",
        "boxstream",
        "                header_nonce = self._next_nonce()\n",
        "                header_nonce = self._counter.to_bytes(_NONCE_BYTES, 'big')\n",
        "if not open_box(held, taken, _HEADER_BYTES, header, self._next_nonce(), key):",
        "if not open_box(held, taken, _HEADER_BYTES, header, "
        "self._counter.to_bytes(_NONCE_BYTES, 'big'), key):",
    ),
    _mutant(
        "the nonce does not carry over 2 bytes",
        "boxstream",
        "self._counter = 0 if self._counter == _LAST_NONCE else self._counter + 1",
        "self._counter = self._counter & -65536 | self._counter + 1 & 65535",
    ),
    _mutant(
        "the nonce does not carry over 1 byte",
        "boxstream",
        "self._counter = 0 if self._counter == _LAST_NONCE else self._counter + 1",
        "self._counter = self._counter & -256 | self._counter + 1 & 255",
    ),
    _mutant(
        "the nonce does not wrap",
        "boxstream",
        "self._counter = 0 if self._counter == _LAST_NONCE else self._counter + 1",
        "self._counter += 1",
    ),
    _mutant(
        "the nonce counts from its other end",
        "boxstream",
        'self._counter = int.from_bytes(nonce, "big")',
        'self._counter = int.from_bytes(nonce, "little")',
        'nonce = self._counter.to_bytes(_NONCE_BYTES, "big")',
        'nonce = self._counter.to_bytes(_NONCE_BYTES, "little")',
    ),
    _mutant(
        "the length counts from its other end",
        "boxstream",
        'out[header:mac] = length.to_bytes(_LENGTH_BYTES, "big")',
        'out[header:mac] = length.to_bytes(_LENGTH_BYTES, "little")',
        "length = buffer[header] << 8 | buffer[header + 1]",
        "length = buffer[header] | buffer[header + 1] << 8",
    ),
    _mutant(
        "an empty box is taken for the goodbye",
        "boxstream",
        "if length == 0 and buffer[header : header + _HEADER_BYTES] == _GOODBYE:",
        "if length == 0:",
    ),
    _mutant(
        "what follows the goodbye is read",
        "boxstream",
        "        if not self.ended and self._error is None:\n            self._buffer += data\n",
        "        self._buffer += data\n",
    ),
    _mutant(
        "a stream goes on behind a box that did not open",
        "boxstream",
        "        if self._error is not None:\n            raise self._error\n        buffer",
        "        self._error = None\n        buffer",
        "if not self.ended and self._error is None:",
        "if not self.ended:",
    ),
    _mutant(
        "a read takes all that is here",
        "boxstream",
        "while size < READ_SIZE:",
        "while True:",
    ),
    _mutant(
        "something is sent after the goodbye",
        "boxstream",
        "        if self.ended:\n"
        '            raise RuntimeError("nothing can be sent after the goodbye")\n',
        "",
    ),
    # --- the key probe ---
    _mutant(
        "a question from outside the network is answered",
        "probe",
        "if not proves(key, question):",
        "if False:",
    ),
    _mutant(
        "a zero secret seals the answer, if the library lets it",
        "probe",
        "return None if hmac.compare_digest(shared, _ZERO_SECRET) else shared",
        "return shared",
    ),
    _mutant(
        "our own ephemeral key is answered",
        "probe",
        "None if hmac.compare_digest(theirs, public) else _agree(self._secret, theirs)",
        "_agree(self._secret, theirs)",
    ),
    _mutant(
        "the answer does not depend on the question",
        "probe",
        "sealed, self._question + theirs, _ZERO_NONCE",
        "sealed, theirs, _ZERO_NONCE",
        "self._identity.public.raw, question + public, _ZERO_NONCE",
        "self._identity.public.raw, public, _ZERO_NONCE",
    ),
    _mutant(
        "the answer can be read without the network's key",
        "probe",
        "HKDF(shared, 32, key, SHA256, context=_INFO)",
        "HKDF(shared, 32, b'', SHA256, context=_INFO)",
    ),
    _mutant(
        "a key that cannot be dialled is told",
        "probe",
        "            _ = told.x25519\n",
        "            pass\n",
    ),
    _mutant(
        "the asker believes that it asked itself",
        "probe",
        "if hmac.compare_digest(told.raw, self._own.raw):",
        "if False:",
    ),
    _mutant(
        "a question is answered twice",
        "probe",
        "        if self._done:\n"
        '            raise RuntimeError("the question was answered already")\n',
        "",
    ),
    # --- the handshake and the stream of Egregore ---
    _mutant(
        "Egregore's hello proves nothing",
        "egregore",
        'return hmac.compare_digest(hmac.digest(key, ephemeral, "sha256"), mac)',
        "return len(mac) == 32",
    ),
    _mutant(
        "an Egregore client takes its own hello for an answer",
        "egregore",
        "if hmac.compare_digest(self._theirs, self._public):",
        "if False:",
    ),
    _mutant(
        "an Egregore peer may claim our own key",
        "egregore",
        "if hmac.compare_digest(peer.raw, self._identity.public.raw):",
        "if False:",
    ),
    _mutant(
        "Egregore's signatures are not checked",
        "egregore",
        "if not peer.verifies(self._chosen().key + self._public + self._shared_hash, signature):",
        "if False:",
    ),
    _mutant(
        "an Egregore peer signs without the network",
        "egregore",
        "self._identity._sign_raw(self._chosen().key + self._theirs",
        "self._identity._sign_raw(self._theirs",
        "peer.verifies(self._chosen().key + self._public",
        "peer.verifies(self._public",
    ),
    _mutant(
        "an Egregore peer signs without our ephemeral key",
        "egregore",
        "self._identity._sign_raw(self._chosen().key + self._theirs + ",
        "self._identity._sign_raw(self._chosen().key + ",
        "peer.verifies(self._chosen().key + self._public + ",
        "peer.verifies(self._chosen().key + ",
    ),
    _mutant(
        "the two proofs of Egregore are sealed alike",
        "egregore",
        "key = sha256(self._root, self._our_proof)",
        "key = sha256(self._root)",
        "_open(sha256(self._root, self._their_proof), sealed)",
        "_open(sha256(self._root), sealed)",
    ),
    _mutant(
        "the length of Egregore's proof is not looked at",
        "egregore",
        "if proof[:_LENGTH_BYTES] != _PROOF_LENGTH:",
        "if False:",
    ),
    _mutant(
        "an older Egregore is named without its proof",
        "egregore",
        "{self._check(older).text} speaks",
        "{PublicKey(older[SIGNATURE_BYTES:]).text} speaks",
    ),
    _mutant(
        "an Egregore proof that does not open is not noticed",
        "egregore",
        "        if opened is None:\n            raise PeerKeyRefused("
        "\"the peer's proof of identity does not open: do",
        "        if False:\n            raise PeerKeyRefused("
        "\"the peer's proof of identity does not open: do",
    ),
    _mutant(
        "both directions of Egregore's stream have one key",
        "egregore",
        "encrypt_key=sha256(key, self._shared, self._our_stream)",
        "encrypt_key=sha256(key, self._shared)",
        "decrypt_key=sha256(key, self._shared, self._their_stream)",
        "decrypt_key=sha256(key, self._shared)",
    ),
    _mutant(
        "Egregore's frames have no bound",
        "egregore_stream",
        "        if length > MAX_FRAME:\n",
        "        if False:\n",
    ),
    _mutant(
        "Egregore's frames may be too short for their header",
        "egregore_stream",
        "        if length < SEALED_HEADER:\n",
        "        if False:\n",
    ),
    _mutant(
        "Egregore's messages have no bound",
        "egregore_stream",
        "if len(self._message) + len(chunk) > MAX_MESSAGE:",
        "if False:",
    ),
    _mutant(
        "the length in Egregore's header is not looked at",
        "egregore_stream",
        "        if length != len(sealed):\n",
        "        if False:\n",
    ),
    _mutant(
        "Egregore's goodbye may come in the middle of a message",
        "egregore_stream",
        "if sealed or self._in_message:",
        "if sealed:",
    ),
    _mutant(
        "Egregore's goodbye may carry something",
        "egregore_stream",
        "if sealed or self._in_message:",
        "if self._in_message:",
    ),
    _mutant(
        "any first byte of an Egregore frame will do",
        "egregore_stream",
        "if prefix not in (_MORE, _LAST):",
        "if False:",
    ),
    # --- the listener ---
    _mutant(
        "the replay cache is not asked",
        "listener",
        "if not self._replays.is_new(hello, self._reactor.seconds()):",
        "if False:",
    ),
    _mutant(
        "the part is not asked whom it serves",
        "listener",
        "        if offer.authorize is None:\n            return True\n",
        "        return True\n",
    ),
    _mutant(
        "whether the probe may be answered is not asked",
        "listener",
        "            offer.admit(address)\n",
        "            pass\n",
    ),
    _mutant(
        "one address may hold all places",
        "listener",
        "if len(same) >= origin.limit:",
        "if False:",
    ),
    _mutant(
        "there is no limit in all",
        "listener",
        "elif len(self._waiting) >= self._max_waiting:",
        "elif False:",
    ),
    _mutant(
        "as many peers are connected as come",
        "listener",
        "if self._max_live is None:",
        "if True:",
    ),
    _mutant(
        "nobody who has many connections gives way to a newcomer",
        "listener",
        "victim = self._places.gives_way(origin)",
        "victim = None",
    ),
    _mutant(
        "who has gone keeps its place",
        "listener",
        "self._places.leave(channel)",
        "pass",
    ),
    _mutant(
        "what peers leave unread is not counted",
        "listener",
        "unsent=self._unsent,",
        "unsent=None,",
    ),
    _mutant(
        "the oldest is dropped, which a flood can arrange to be an honest one",
        "listener",
        "victim = victims[int(self._rng.random() * len(victims))]",
        "victim = victims[0]",
    ),
    _mutant(
        "each address of one IPv6 block has a limit of its own",
        "listener",
        "block = ipaddress.IPv6Network((int(ip) >> 64 << 64, 64))",
        "block = ipaddress.IPv6Network((int(ip), 128))",
    ),
    _mutant(
        "an IPv4 address has two names",
        "listener",
        "return ip.ipv4_mapped or ip",
        "return ip",
    ),
    _mutant(
        "what is no longer offered is still served",
        "listener",
        "        if offer is None or channel.capability is None:\n            return False\n",
        "        if offer is None or channel.capability is None:\n            return True\n",
    ),
    # --- the channel ---
    _mutant(
        "the part is asked after the server has proved itself",
        "channel",
        "        self._phase = _Phase.ASKING\n        self._early += rest\n",
        "        self._phase = _Phase.ASKING\n        self._early += rest\n"
        "        self._handshake.accepted = self._handshake.accept()\n"
        "        self._raw.write(self._handshake.accepted[0])\n",
        "        answer, outcome = self._handshake.accept()\n        self._hand_down(answer)\n",
        "        _, outcome = self._handshake.accepted\n",
    ),
    _mutant(
        "whatever is truthy admits",
        "channel",
        "if verdict is not True:",
        "if not verdict:",
    ),
    _mutant(
        "each message has a deadline of its own",
        "channel",
        "        if step.send:\n            self._hand_down(step.send)\n",
        "        if step.send:\n            self._hand_down(step.send)\n"
        "            self._deadline.reset(self._timeout)\n",
    ),
    _mutant(
        "a handshake has no deadline",
        "channel",
        "self._deadline = self._reactor.callLater(self._timeout, self._handshake_timed_out)",
        "self._deadline = self._reactor.callLater(1e9, self._handshake_timed_out)",
    ),
    _mutant(
        "a decision has no deadline",
        "channel",
        "            verdict.addTimeout(AUTHORIZE_TIMEOUT, self._reactor)\n",
        "            pass\n",
    ),
    _mutant(
        "a stream that was cut off looks like one that ended",
        "channel",
        "        if not self._read_ended:\n            return Failure(self._truncated(reason))\n",
        "",
    ),
    _mutant(
        "the end of the connection is taken for the peer's goodbye",
        "channel",
        "        elif self._raw_ended:\n            self._die(Failure(self._truncated(None)))\n",
        "        elif self._raw_ended:\n            self._goodbye_received()\n",
    ),
    _mutant(
        "what is here is delivered although the application has paused",
        "channel",
        "                if self._paused and not self._closing:\n                    break\n",
        "",
    ),
    _mutant(
        "a transport that does not heed its pause fills the memory",
        "channel",
        "if size > MAX_UNREAD:",
        "if False:",
    ),
    _mutant(
        "what arrives after the application has closed is delivered",
        "channel",
        "if app is not None and not self._closing:",
        "if app is not None:",
    ),
    _mutant(
        "a close waits for a dead peer for ever",
        "channel",
        "self._deadline = self._reactor.callLater(CLOSE_TIMEOUT, self._close_timed_out)",
        "pass",
    ),
    _mutant(
        "what a producer writes in one go waits for the next",
        "channel",
        "            if not (gathering or self._pumping):\n                self._flush()\n",
        "            pass\n",
    ),
    _mutant(
        "what is written in one go is collected without a bound",
        "channel",
        "if self._corked_bytes >= CORK_BYTES or not (self._pumping or self._gathering):",
        "if not (self._pumping or self._gathering):",
    ),
    _mutant(
        "a producer is told nothing of the end of the connection",
        "channel",
        "            self._outflow.stopProducing()\n",
        "            pass\n",
    ),
    _mutant(
        "a producer is never paused",
        "channel",
        "            self.producer.pauseProducing()\n        self._channel",
        "            pass\n        self._channel",
    ),
    _mutant(
        "an application that pauses does not slow the peer down",
        "channel",
        "                self._raw.pauseProducing()\n",
        "                pass\n",
    ),
    _mutant(
        "keys are kept after the end",
        "channel",
        "        self._boxer = None\n        self._unboxer = None\n        if self._phase",
        "        if self._phase",
    ),
    _mutant(
        "connectionLost comes as often as the transport beneath says it",
        "channel",
        "        if self._phase is _Phase.GONE:\n            return\n        final",
        "        final",
    ),
    _mutant(
        "a close does not wait for the producer",
        "channel",
        "        if self._outflow.producer is not None or self._boxer is None:\n",
        "        if self._boxer is None:\n",
    ),
    _mutant(
        "a peer that is gone has got all that we wrote",
        "channel",
        "if not self._goodbye_sent and reason.check(ConnectionDone):",
        "if False:",
    ),
    _mutant(
        "a dead peer holds for ever what two half-closes ended",
        "channel",
        "            if not self._closing:\n"
        "                self._closing = True\n"
        "                self._outflow_changed()\n",
        "",
    ),
    _mutant(
        "an exception that ends one connection goes on to the reactor",
        "channel",
        "        except Exception:\n            failure = Failure()\n            self._log",
        "        except ZeroDivisionError as e:\n            raise e\n"
        "        except Exception:\n            failure = Failure()\n            self._log",
    ),
    _mutant(
        "a later reason replaces the first",
        "channel",
        "if self._phase in (_Phase.NEW, _Phase.DYING, _Phase.GONE):",
        "if self._phase in (_Phase.NEW, _Phase.GONE):",
    ),
    _mutant(
        "the application is told from within its own call",
        "channel",
        "        if self._turn_call is None:\n"
        "            self._turn_call = self._reactor.callLater(0, self._turn)\n",
        "        self._turn()\n",
    ),
    _mutant(
        "a producer of an end that cannot half-close holds the connection",
        "channel",
        "                self._stop_producer()\n",
        "",
    ),
    # --- dialling ---
    _mutant(
        "a protocol is connected to a channel that was given up",
        "channel",
        "        if self._reason is not None:\n            # Whoever",
        "        if False:\n            # Whoever",
    ),
    _mutant(
        "a cancelled connect() leaves its connection open",
        "endpoints",
        "            self._channel.abortConnection()\n",
        "",
    ),
)


@frozen
class Run:
    """What became of one copy of the package."""

    honest: bool
    passed: bool
    out: str


class MutantTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="meshkit-mutants-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        # Compiled once: the children read what is compiled, and write none.
        self.tests = self.folder / "tests"
        shutil.copytree(ROOT / "tests" / "shs", self.tests / "shs", ignore=_COMPILED)
        shutil.copy2(ROOT / "tests" / "__init__.py", self.tests)
        self.assertTrue(compile_dir(self.tests, quiet=1))

    def copy(self, where: Path, *modules: str) -> None:
        """The package and its tests, mostly links, with what is compiled of them."""
        link_tree(ROOT / "meshkit", where / "meshkit", [f"shs/{name}.py" for name in modules])
        (where / "tests").symlink_to(self.tests)

    def run_copy(self, where: Path, suites: Iterable[str]) -> Run:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *(f"tests.shs.{suite}" for suite in suites)],
            cwd=where,
            env={
                **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                "HYPOTHESIS_PROFILE": "dev",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        return Run("HONEST\n" in done.stdout, done.returncode == 0, done.stdout[-2000:])

    def try_mutant(self, mutant: Mutant) -> str:
        """@return: what is wrong, or nothing."""
        where = Path(tempfile.mkdtemp(dir=self.folder))
        self.copy(where, mutant.module)
        path = where / "meshkit" / "shs" / f"{mutant.module}.py"
        source = path.read_text(encoding="utf-8")
        for old, new in mutant.edits:
            if source.count(old) != 1:
                return f"{mutant.what}: {old!r} is {source.count(old)} times in {path.name}"
            source = source.replace(old, new)
        path.write_text(source, encoding="utf-8")
        run = self.run_copy(where, SUITES[mutant.module])
        shutil.rmtree(where)
        if not run.honest:
            return f"{mutant.what}: honest peers cannot talk any more: {run.out}"
        if run.passed:
            return f"{mutant.what}: no test notices"
        if "FAILED" not in run.out:
            return f"{mutant.what}: the tests did not come to an end: {run.out}"
        return ""

    def test_every_mistake_is_noticed(self) -> None:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            wrong = [what for what in pool.map(self.try_mutant, MUTANTS) if what]
        self.assertEqual(wrong, [], "\n".join(wrong))

    def test_without_a_mistake_all_tests_pass(self) -> None:
        where = self.folder / "whole"
        self.copy(where)
        run = self.run_copy(where, sorted({each for suites in SUITES.values() for each in suites}))
        self.assertEqual((run.honest, run.passed), (True, True), run.out)

    def test_a_mistake_that_is_none_is_told(self) -> None:
        for edits, told in (
            ((("What stands nowhere", ""),), "0 times in hellos.py"),
            ((("def ", "def not_"),), "times in hellos.py"),
            ((("Which protocol is wanted: told", "What is wanted: told"),), "no test notices"),
            ((("class HelloTable:", "class HelloTable"),), "cannot talk any more"),
        ):
            self.assertIn(told, self.try_mutant(Mutant(told, "hellos", edits)))

    def test_each_mistake_has_a_name_of_its_own(self) -> None:
        self.assertEqual(len({mutant.what for mutant in MUTANTS}), len(MUTANTS))
