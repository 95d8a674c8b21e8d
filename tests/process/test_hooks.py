"""Commands and webhooks of a real node: real processes, real sockets, real kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from textwrap import dedent
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed.message import parse_message, verify_message
from meshkit.hooks.signing import WebhookSecret, verify
from tests.process.mesh import Mesh, Node, Shared, alive, wait_for

#: What each command does, in the language of /bin/sh; its messages have its name as tag.
COMMANDS: Final = {
    "keep": "cat > kept.new && mv kept.new kept.json && env > kept.env",
    # Far more than a pipe holds, on both, and its input is not even looked at.
    "flood": "head -c 30000000 /dev/zero; head -c 30000000 /dev/zero >&2; exit 3",
    "stubborn": "trap '' TERM; echo $$ > stubborn.pid; while :; do sleep 1; done",
    "forks": "sleep 1000 & echo $! > forks.pid; sleep 1000 & echo $! >> forks.pid",
    "escapes": "setsid sh -c 'echo $$ > escapes.pid; exec sleep 1000' & "
    "until [ -s escapes.pid ]; do sleep 0.01; done",
    "deaf": "exec 0<&-; sleep 0.1",
    "fails": "echo 'no such luck'; exit 7",
    "order": "printf '%s ' $MESHKIT_SEQUENCE >> order.txt; sleep 0.0$((MESHKIT_SEQUENCE % 3))",
    "pipe": "{ yes; echo $? > pipe.code; } | head -n 1",
}


def _config() -> str:
    pieces = [
        f"""
        [[hooks.command]]
        name = "{name}"
        tags = ["{name}"]
        shell = {json.dumps(line)}
        timeout = {1.0 if name == "stubborn" else 30.0}
        kill_after = 0.3
        per_minute = 600000
        """
        for name, line in COMMANDS.items()
    ]
    pieces.append(
        """
        [[hooks.command]]
        name = "missing"
        tags = ["missing"]
        run = ["/no/such/program"]
        """
    )
    return "\n".join(dedent(piece) for piece in pieces)


def _node(mesh: Mesh) -> Node:
    node = mesh.node("hooked")
    (node.data / "meshkit.toml").write_text(_config())
    return node.start()


_shared = Shared(_node)


def tearDownModule() -> None:
    _shared.close()


def publish(node: Node, content: Any, *tags: str) -> Any:
    body = json.dumps({"content": content, "tags": list(tags)}).encode()
    return node.ask("POST", "/v1/publish", body).data


def hook(node: Node, name: str) -> Any:
    (found,) = [each for each in node.get("/v1/hooks") if each["name"] == name]
    return found


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.node: Node = _shared.get()
        self.folder = self.node.data / "hooks"

    def tearDown(self) -> None:
        # Whatever the commands did, the node is well.
        self.assertTrue(self.node.status["ready"])

    def settled(self, name: str, count: int = 1) -> Any:
        def look() -> Any:
            found = hook(self.node, name)
            return found if found["delivered"] + found["parked"] >= count else None

        return wait_for(f"end of the command {name}", look)

    def gone(self, name: str) -> list[int]:
        pids = [int(line) for line in (self.folder / f"{name}.pid").read_text().split()]
        for pid in pids:
            wait_for(f"end of {pid}, which {name} has started", lambda pid=pid: not alive(pid))
        return pids

    def test_it_gets_the_very_text_that_was_signed_and_a_bare_environment(self) -> None:
        content = {"type": "note", "text": "gr\u00fcn", "author": "me", "token": "x" * 5000}
        published = publish(self.node, content, "keep", "two")
        found = self.settled("keep")
        text = (self.folder / "kept.json").read_bytes()
        ending = b',"chain_valid":true}'
        self.assertTrue(text.endswith(ending))
        message = parse_message(text.removesuffix(ending) + b"}")
        verify_message(message)
        self.assertEqual(message.hash, published["hash"])
        variables = dict(
            line.split("=", 1) for line in (self.folder / "kept.env").read_text().splitlines()
        )
        # What the shell adds of its own.
        for name in ("PWD", "OLDPWD", "SHLVL", "_"):
            variables.pop(name, None)
        self.assertEqual(
            variables,
            {
                "LANG": "C.UTF-8",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "MESHKIT_ATTEMPT": "1",
                "MESHKIT_AUTHOR": published["author"],
                "MESHKIT_CHAIN_VALID": "true",
                "MESHKIT_HASH": published["hash"],
                "MESHKIT_HOOK": "keep",
                "MESHKIT_POSITION": str(found["position"]),
                "MESHKIT_SEQUENCE": str(published["sequence"]),
                "MESHKIT_TAGS": "keep,two",
                "MESHKIT_TYPE": "note",
            },
        )

    def test_one_that_floods_is_drained(self) -> None:
        publish(self.node, "x" * 60_000, "flood")
        found = self.settled("flood")
        self.assertIn("exited with code 3", found["last_error"])
        self.assertIn("bytes more than the 8192 that are kept", self.node.log.read_text())

    def test_one_that_ignores_the_signal_is_killed(self) -> None:
        publish(self.node, 1, "stubborn")
        found = self.settled("stubborn")
        self.assertEqual(found["last_error"], "it was not done after 1 s, and was ended")
        self.gone("stubborn")

    def test_what_it_leaves_behind_is_killed(self) -> None:
        publish(self.node, 1, "forks")
        self.assertEqual(self.settled("forks")["delivered"], 1)
        self.assertEqual(len(self.gone("forks")), 2)

    def test_who_leaves_the_session_holds_nothing_up(self) -> None:
        publish(self.node, 1, "escapes")
        self.assertEqual(self.settled("escapes")["delivered"], 1)
        pid = int((self.folder / "escapes.pid").read_text())
        # As documented: it is beyond our reach.
        self.assertTrue(alive(pid))
        os.kill(pid, signal.SIGKILL)

    def test_one_that_does_not_read_is_no_trouble(self) -> None:
        publish(self.node, "x" * 65_000, "deaf")
        self.assertEqual(self.settled("deaf")["delivered"], 1)

    def test_a_failure_is_told_with_what_it_printed(self) -> None:
        publish(self.node, 1, "fails")
        self.settled("fails")
        parked = self.node.good("hook", "parked", "fails", "--json").json
        self.assertEqual(
            [each["error"] for each in parked], ["it exited with code 7, saying: no such luck"]
        )
        self.assertIn("no such luck", self.node.good("hook", "list").out)
        self.assertEqual(self.node.good("hook", "discard", "fails", "--json").json, {"count": 1})
        self.assertEqual(hook(self.node, "fails")["parked"], 0)
        wrong = self.node.cli("hook", "retry", "failz")
        self.assertEqual(wrong.code, 1)
        self.assertIn("NOT_FOUND", wrong.err)

    def test_a_program_that_is_not_there_is_named(self) -> None:
        publish(self.node, 1, "missing")
        found = self.settled("missing")
        self.assertIn("code 127", found["last_error"])
        self.assertIn("cannot run /no/such/program: No such file", found["last_error"])

    def test_messages_come_one_after_the_other(self) -> None:
        sequences = [publish(self.node, n, "order")["sequence"] for n in range(20)]
        self.settled("order", 20)
        text = (self.folder / "order.txt").read_text()
        self.assertEqual([int(each) for each in text.split()], sequences)

    def test_a_broken_pipe_ends_a_program_as_everywhere(self) -> None:
        """Python ignores SIGPIPE; what it starts must not."""
        publish(self.node, 1, "pipe")
        self.assertEqual(self.settled("pipe")["delivered"], 1)
        self.assertEqual((self.folder / "pipe.code").read_text().strip(), "141")


class Receiver:
    """
    A web server, which can be away.

    @ivar taken: bodies that were answered with 200, by their id, in the order of arrival.
    @ivar received: ids of all requests.
    """

    def __init__(self) -> None:
        self.status = 200
        self.location: str | None = None
        self.taken: dict[str, bytes] = {}
        self.received: list[str] = []
        self.headers: list[dict[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.headers.append({name.lower(): text for name, text in self.headers.items()})
                receiver.received.append(self.headers["webhook-id"])
                if receiver.status == 200:
                    receiver.taken.setdefault(self.headers["webhook-id"], body)
                self.send_response(receiver.status)
                if receiver.location is not None:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *args: object) -> None:
                """Not now."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class WebhookTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.node = self.mesh.node("hooked")

    def configure(self, *, allowed: bool = True, max_attempts: int = 1000) -> None:
        text = dedent(
            f"""
            [[hooks.webhook]]
            name = "desk"
            url = "http://127.0.0.1:{self.receiver.port}/T0KEN"
            plain_http = true
            pause = 0.1
            max_pause = 0.2
            max_attempts = {max_attempts}
            per_minute = 600000
            """
        )
        if allowed:
            text += 'allow_addresses = ["127.0.0.1"]\n'
        (self.node.data / "meshkit.toml").write_text(text)

    def test_what_waits_survives_kills_and_comes_in_order(self) -> None:
        self.configure()
        self.receiver.status = 503
        self.node.start()
        hashes = []
        for number in range(30):
            hashes.append(self.node.publish({"n": number})["hash"])
            if number % 10 == 9:
                wait_for("an attempt", lambda: self.receiver.received)
                self.node.kill()
                self.node.start()
        self.assertEqual(self.receiver.taken, {})
        self.assertEqual(hook(self.node, "desk")["behind"], 30)
        self.receiver.status = 200
        wait_for("half of it", lambda: len(self.receiver.taken) >= 15)
        self.node.kill()
        self.node.start()
        wait_for("all of it", lambda: len(self.receiver.taken) == 30)
        self.assertEqual(list(self.receiver.taken), [f"msg_{each}" for each in hashes])
        wait_for("the node to note it", lambda: hook(self.node, "desk")["behind"] == 0)
        # What was taken comes again only if the node was killed before it could note it.
        counts = [self.receiver.received.count(each) for each in self.receiver.taken]
        self.assertLessEqual(sum(count > 1 for count in counts), 2)
        self.check_signatures()

    def check_signatures(self) -> None:
        path = self.node.data / "hooks" / "desk.secret"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        secret = WebhookSecret.parse(path.read_text().strip())
        for headers in self.receiver.headers:
            body = self.receiver.taken[headers["webhook-id"]]
            verify((secret,), headers, body, int(headers["webhook-timestamp"]))
            message = parse_message(body.removesuffix(b',"chain_valid":true}') + b"}")
            verify_message(message)
            self.assertEqual(headers["webhook-id"], f"msg_{message.hash}")
        self.assertNotIn("T0KEN", self.node.log.read_text() + json.dumps(self.node.status))
        self.assertNotIn(secret.text, self.node.log.read_text())
        self.assertNotIn("T0KEN", self.node.good("config", "show").out)

    def test_an_inner_address_is_refused_and_named(self) -> None:
        self.configure(allowed=False)
        self.node.start()
        self.node.publish("a")
        found = wait_for("an attempt", lambda: hook(self.node, "desk")["last_error"])
        self.assertEqual(
            found, "127.0.0.1 is no public address and is not named in allow_addresses"
        )
        self.assertEqual(self.receiver.received, [])

    def test_a_redirect_is_not_followed_and_what_was_parked_can_be_sent_again(self) -> None:
        other = Receiver()
        self.addCleanup(other.close)
        self.configure(max_attempts=2)
        self.receiver.status = 307
        self.receiver.location = f"http://127.0.0.1:{other.port}/"
        self.node.start()
        self.node.publish("a")
        wait_for("it to be given up", lambda: hook(self.node, "desk")["parked"] == 1)
        self.assertEqual((other.received, len(self.receiver.received)), ([], 2))
        (parked,) = self.node.good("hook", "parked", "desk", "--json").json
        self.assertIn("307, a redirect, which is not followed", parked["error"])
        self.receiver.status, self.receiver.location = 200, None
        self.assertIn("once more: 1", self.node.good("hook", "retry", "desk").out)
        wait_for("it to be taken", lambda: hook(self.node, "desk")["parked"] == 0)
        self.assertEqual(len(self.receiver.taken), 1)


class StoppingTests(SynchronousTestCase):
    def test_a_node_that_stops_ends_its_commands_and_runs_them_again(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        node = mesh.node("hooked")
        program = node.home / "program.py"
        program.write_text(
            dedent(
                """
                import os, sys, time
                with open("runs.txt", "a") as file:
                    print(os.environ["MESHKIT_HASH"], os.getpid(), file=file)
                if "wait" in sys.argv:
                    time.sleep(1000)
                """
            )
        )

        def configure(*arguments: str) -> None:
            run = json.dumps([sys.executable, str(program), *arguments])
            (node.data / "meshkit.toml").write_text(
                f'[[hooks.command]]\nname = "slow"\nrun = {run}\nmax_attempts = 1\n'
            )

        runs = node.data / "hooks" / "runs.txt"

        def lines() -> list[str]:
            return runs.read_text().splitlines() if runs.exists() else []

        configure("wait")
        node.start()
        digest = node.publish("a")["hash"]
        (line,) = wait_for("the command", lines)
        node.stop()
        self.assertNotIn("did not stop in good order", node.log.read_text())
        self.assertFalse(alive(int(line.split()[1])))
        configure()
        node.start()
        wait_for("it to be run again", lambda: hook(node, "slow")["delivered"] == 1)
        self.assertEqual([each.split()[0] for each in lines()], [digest, digest])
        # A killed node cannot end anything; its command is run again all the same.
        configure("wait")
        node.stop()
        node.start()
        node.publish("b")
        wait_for("the command", lambda: len(lines()) == 3)
        node.kill()
        left = int(lines()[-1].split()[1])
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
        configure()
        node.start()
        wait_for("it to be run again", lambda: hook(node, "slow")["delivered"] == 1)
        self.assertEqual(len(lines()), 4)
