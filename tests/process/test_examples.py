"""
The examples do what is written at their top, each as programs of their own.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import (
    PATIENCE,
    TWISTD,
    Done,
    Mesh,
    Node,
    Shared,
    environment,
    run,
    wait_for,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _three(mesh: Mesh) -> dict[str, Node]:
    """Three members of one network; their nodes do not run."""
    ada = mesh.node("ada")
    return {
        "ada": ada,
        "bob": mesh.node("bob", network=ada),
        "eve": mesh.node("eve", network=ada),
        "mallory": mesh.node("mallory"),
    }


MEMBERS = Shared(_three)


def tearDownModule() -> None:
    MEMBERS.close()


@define(eq=False)
class Child:
    """An example that runs, and what it has printed."""

    process: subprocess.Popen[bytes]
    out: Path

    @property
    def lines(self) -> list[str]:
        return self.out.read_text("utf-8", "surrogateescape").splitlines()

    def wait_line(self, pattern: str) -> str:
        """Wait for a line that matches the whole pattern."""

        def look() -> str | None:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}: {self.lines}")
            return next((line for line in self.lines if re.fullmatch(pattern, line)), None)

        return wait_for(f"line {pattern!r} of {self.out.name}", look)

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode("utf-8"))
        self.process.stdin.flush()

    def stop(self) -> int:
        """Control-C.  @return: its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


ADDRESS = r"net:127\.0\.0\.1:\d+~shs:\S{44}"
FREE_PORT = "tcp:0:interface=127.0.0.1"


class ExampleCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.members: dict[str, Node] = MEMBERS.get()
        self.count = 0

    def member(self, name: str) -> Node:
        return self.members[name]

    def short(self, name: str) -> str:
        return re.escape(str(self.member(name).good("id").lines[0])[:9])

    def spawn(self, who: str, example: str, *arguments: str, **more: str) -> Child:
        """Start an example in a member's folder, in which C{data} is the data folder."""
        home = self.member(who).home
        self.count += 1
        out = home / f"{Path(example).stem}-{self.id().rpartition('.')[2]}-{self.count}.out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(EXAMPLES / example), *arguments],
                cwd=home,
                env=environment(home, **more),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.addCleanup(self._end, process)
        return Child(process, out)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run_example(self, who: str, example: str, *arguments: str) -> Done:
        home = self.member(who).home
        return run(sys.executable, EXAMPLES / example, *arguments, home=home)


class StreamCase(ExampleCase):
    """A server and its clients, as C{shs:} endpoint strings."""

    def serve(self, example: str) -> Child:
        return self.spawn(
            "ada",
            example,
            "serve",
            r"shs:endpoint=tcp\:0\:interface=127.0.0.1:identity=data:network=data"
            ":label=org.example.test",
        )

    def ask(
        self, server: Child, who: str, example: str, *arguments: str, peer: str = "ada"
    ) -> Done:
        port = server.wait_line(r"listening on port \d+").split()[-1]
        public_id = self.member(peer).good("id").lines[0]
        verb, *rest = arguments
        return self.run_example(
            who,
            example,
            verb,
            f"shs:host=127.0.0.1:port={port}:identity=data:network=data"
            f":label=org.example.test:peer={public_id}",
            *rest,
        )


class EchoTests(StreamCase):
    def test_what_is_said_comes_back(self) -> None:
        server = self.serve("echo.py")
        asked = self.ask(server, "bob", "echo.py", "ask", "grüß dich")
        self.assertEqual((asked.code, asked.out), (0, "grüß dich\n"), asked.err)
        server.wait_line(f"connected with .*{self.short('bob')}.*")
        self.assertEqual(server.stop(), 0)

    def test_who_is_of_another_network_is_not_heard(self) -> None:
        server = self.serve("echo.py")
        asked = self.ask(server, "mallory", "echo.py", "ask", "hello")
        self.assertNotEqual(asked.code, 0)
        self.assertIn("NetworkKeyRefused", asked.err)
        self.assertEqual(len(server.lines), 1)

    def test_another_server_than_the_one_meant_is_not_asked(self) -> None:
        server = self.serve("echo.py")
        asked = self.ask(server, "bob", "echo.py", "ask", "hello", peer="eve")
        self.assertNotEqual(asked.code, 0)
        self.assertIn("PeerKeyRefused", asked.err)
        self.assertEqual(len(server.lines), 1)


class HTTPTests(StreamCase):
    def test_the_server_knows_who_asks(self) -> None:
        server = self.serve("http_over_shs.py")
        for name in ("bob", "eve"):
            asked = self.ask(server, name, "http_over_shs.py", "get", "/whoami")
            public_id = self.member(name).good("id").lines[0]
            self.assertEqual((asked.code, asked.out), (0, f"200 you are {public_id}\n"), asked.err)
        missing = self.ask(server, "bob", "http_over_shs.py", "get", "/nothing")
        self.assertTrue(missing.out.startswith("404 "), missing)
        self.assertEqual(server.stop(), 0)

    def test_a_web_server_that_knows_nothing_of_meshkit(self) -> None:
        """As the how-to has it: C{twistd web --listen 'shs:...'}."""
        ada = self.member("ada")
        (ada.home / "public").mkdir()
        (ada.home / "public" / "index.html").write_text("<p>hello</p>")
        log = ada.home / "web.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(*TWISTD, "-n", "--pidfile=", "web", "--path", "public", "--listen"),
                    r"shs:endpoint=tcp\:0\:interface=127.0.0.1:identity=data:network=data"
                    ":label=org.example.test",
                ],
                cwd=ada.home,
                env=environment(ada.home),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        child = Child(process, log)
        try:
            port = child.wait_line(r".* starting on \d+").split()[-1]
            asked = self.run_example(
                *("bob", "http_over_shs.py", "get"),
                f"shs:host=127.0.0.1:port={port}:identity=data:network=data"
                f":label=org.example.test:peer={ada.good('id').lines[0]}",
                "/",
            )
            self.assertEqual((asked.code, asked.out), (0, "200 <p>hello</p>\n"), asked.err)
            child.wait_line(r'.*"GET / HTTP/1\.1" 200 .*')
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        # The goodbye was said before the client was gone.
        self.assertNotIn("broken", log.read_text())
        self.assertNotIn("Traceback", log.read_text())


class ChatTests(ExampleCase):
    def test_three_talk_to_one_another(self) -> None:
        names = ("ada", "bob", "eve")
        chatters: dict[str, Child] = {}
        addresses: list[str] = []
        for name in names:
            chatters[name] = self.spawn(name, "chat.py", "data", *addresses)
            addresses.append(chatters[name].wait_line(ADDRESS))
        for name in names:
            for other in names:
                if other != name:
                    chatters[name].wait_line(rf"\* {self.short(other)} is here")
        for name in names:
            chatters[name].type(f"hello from {name}\n")
        for name in names:
            for other in names:
                if other != name:
                    chatters[name].wait_line(f"{self.short(other)}: hello from {other}")
        # Control-D.
        bob = chatters.pop("bob")
        assert bob.process.stdin is not None
        bob.process.stdin.close()
        self.assertEqual(bob.process.wait(PATIENCE), 0)
        for child in chatters.values():
            child.wait_line(rf"\* {self.short('bob')} is gone")
            code = child.stop()
            self.assertEqual(code, 0, child.lines)
            # Each line was heard once, and nothing went wrong meanwhile.
            self.assertEqual(len([line for line in child.lines if ": hello" in line]), 2)
            self.assertNotIn("Traceback", "\n".join(child.lines))


class NoticeBoardTests(ExampleCase):
    def test_a_note_outlives_who_has_written_it(self) -> None:
        ada = self.spawn("ada", "notice_board.py", "data", "birds", "a grey heron")
        address = ada.wait_line(ADDRESS)
        ada.wait_line("kept by 1 of 1")
        bob = self.spawn("bob", "notice_board.py", "data", "birds", "two \x1b[2J egrets", address)
        bob.wait_line("kept by 2 of 2")
        by_ada = f"{self.short('ada')} 'a grey heron'"
        by_bob = rf"{self.short('bob')} 'two \\x1b\[2J egrets'"
        for line in (by_ada, by_bob):
            bob.wait_line(line)
        self.assertEqual(bob.stop(), 0, bob.lines)
        # She has never met him.
        eve = self.spawn("eve", "notice_board.py", "data", "birds", "", address)
        for line in (by_ada, by_bob):
            eve.wait_line(line)
        for child in (eve, ada):
            self.assertEqual(child.stop(), 0, child.lines)
            self.assertNotIn("Traceback", "\n".join(child.lines))

    def test_who_is_of_another_network_finds_nothing(self) -> None:
        ada = self.spawn("ada", "notice_board.py", "data", "birds", "a grey heron")
        address = ada.wait_line(ADDRESS)
        ada.wait_line("kept by 1 of 1")
        mallory = self.spawn("mallory", "notice_board.py", "data", "birds", "mine", address)
        mallory.wait_line("kept by 1 of 1")
        mallory.wait_line(f"{self.short('mallory')} 'mine'")
        self.assertEqual(mallory.stop(), 0, mallory.lines)
        self.assertEqual(len(mallory.lines), 3, mallory.lines)
        self.assertEqual(ada.stop(), 0, ada.lines)


class EmbeddingTests(ExampleCase):
    def test_two_applications_show_each_other(self) -> None:
        settings = {
            "MESHKIT_LISTEN": FREE_PORT,
            "MESHKIT_API": FREE_PORT,
            "MESHKIT_LOAD_EVERY": "0.2",
        }
        ada = self.spawn("ada", "embed_a_node.py", "data", **settings)
        ada.wait_line(rf"{self.short('ada')} [\d.]+")
        endpoints = self.member("ada").data / "endpoints.json"
        wait_for("endpoints.json", endpoints.exists)
        settings["MESHKIT_PEERS"] = self.member("ada").address
        bob = self.spawn("bob", "embed_a_node.py", "data", **settings)
        bob.wait_line(rf"{self.short('ada')} [\d.]+")
        ada.wait_line(rf"{self.short('bob')} [\d.]+")
        # The node inside is like any other: its door is open to its owner.
        parts = set(self.member("bob").status["parts"])
        self.assertLessEqual({"audit", "dht", "feed", "gossip", "hooks", "storage"}, parts)
        # What serves at a relay is nothing for a node.
        self.assertFalse(parts & {"forwarding", "mailboxes", "registry", "tunnels"})
        for child in (bob, ada):
            code = child.stop()
            self.assertEqual(code, 0, child.lines)
            self.assertNotIn("Traceback", "\n".join(child.lines))
        self.assertFalse(endpoints.exists())

    def test_a_setting_that_is_wrong_is_one_line(self) -> None:
        child = self.spawn("eve", "embed_a_node.py", "data", MESHKIT_LOAD_EVERY="often")
        self.assertEqual(child.process.wait(PATIENCE), 1)
        (line,) = child.lines
        self.assertIn("MESHKIT_LOAD_EVERY", line)
        self.assertIn("[CONFIG_INVALID]", line)


class AskTests(ExampleCase):
    def test_a_message_is_published_and_found(self) -> None:
        eve = self.member("eve")
        eve.start()
        self.addCleanup(eve.stop)
        asked = self.run_example("eve", "ask_a_node.py", "data", "a rare word: quokka")
        self.assertEqual(asked.code, 0, asked.err)
        published, found = asked.lines
        self.assertEqual(published.split()[1], found.split()[1])
        self.assertEqual(found.split()[-1], eve.good("id").lines[0])


class WebhookTests(ExampleCase):
    def test_messages_of_a_node_are_received_and_those_of_others_are_not_believed(self) -> None:
        node = self.member("mallory")
        secret = node.data / "hooks" / "desk.secret"
        secret.parent.mkdir(mode=0o700)
        secret.write_text("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
        secret.chmod(0o600)
        receiver = self.spawn("mallory", "receive_webhooks.py", "data/hooks/desk.secret", "0")
        port = receiver.wait_line(r"listening on port \d+").split()[-1]
        config = node.data / "meshkit.toml"
        self.addCleanup(config.unlink)
        # As its docstring shows it.
        text = (EXAMPLES / "receive_webhooks.py").read_text("utf-8")
        shown = text.partition("    [[hooks")[2].partition('\n"""')[0]
        config.write_text("[[hooks" + shown.replace(":8080/", f":{port}/"))
        node.start()
        self.addCleanup(node.stop)
        published = node.publish("for the desk")
        receiver.wait_line(rf"{re.escape(published['author'])} \d+ for the desk")
        with socket.create_connection(("127.0.0.1", int(port)), PATIENCE) as forger:
            forger.sendall(b"POST / HTTP/1.0\r\nContent-Length: 2\r\nWebhook-Id: x\r\n\r\n{}")
            self.assertIn(b" 401 ", forger.recv(100))
        self.assertEqual(len(receiver.lines), 2, receiver.lines)


class McpServerTests(ExampleCase):
    INITIALIZE = (
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
        b'"capabilities":{},"clientInfo":{"name":"x","version":"1"}}}\n'
    )
    CALL = (
        b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":'
        b'{"name":"timer_set","arguments":{"name":"eggs","seconds":60}}}\n'
    )

    def test_it_serves_whoever_launched_it_and_ends_with_them(self) -> None:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "mcp_server.py"), "--stdio"],
            input=self.INITIALIZE + self.CALL,
            capture_output=True,
            timeout=PATIENCE,
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        started, *_, called = map(json.loads, done.stdout.splitlines())
        self.assertEqual(started["result"]["serverInfo"]["name"], "timers")
        self.assertEqual(called["result"]["content"][0]["text"], "eggs: 60 s left")

    def test_what_is_no_port_is_told_how_to_use_it(self) -> None:
        for arguments in ([], ["x"], ["70000"], ["1", "2"]):
            with self.subTest(arguments):
                done = subprocess.run(
                    [sys.executable, str(EXAMPLES / "mcp_server.py"), *arguments],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                )
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertRegex(done.stderr, r"\Ausage: \S+ PORT \| --stdio\n\Z")

    def test_it_serves_http(self) -> None:
        child = self.spawn("eve", "mcp_server.py", "0")
        address = child.wait_line(r"http://127\.0\.0\.1:\d+/mcp")
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        request = urllib.request.Request(address, self.INITIALIZE, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            started = json.load(response)
        self.assertEqual(started["result"]["serverInfo"]["name"], "timers")


class ShardStoreTests(ExampleCase):
    def test_it_tries_itself(self) -> None:
        tried = self.run_example("eve", "custom_shard_store.py", "shards.db")
        self.assertEqual((tried.code, tried.err), (0, ""))
        self.assertEqual(tried.lines, ["it keeps what it is given"])
        again = self.run_example("eve", "custom_shard_store.py", "shards.db")
        self.assertEqual(again.code, 1)
        self.assertIn("open() of an empty place finds shards", again.lines)

    def test_it_says_how_it_is_used(self) -> None:
        asked = self.run_example("eve", "custom_shard_store.py")
        self.assertEqual(asked.code, 1)
        self.assertRegex(asked.err, r"\Ausage: \S+ FILE\n\Z")


class StoreFilesTests(ExampleCase):
    def test_a_file_comes_back_without_three_of_nine_folders(self) -> None:
        home = self.member("eve").home
        (home / "notes").write_bytes(bytes(range(256)) * 1_000)
        stored = self.run_example("eve", "store_files.py", "notes", "shelf")
        self.assertEqual((stored.code, stored.err), (0, ""))
        self.assertRegex(stored.lines[0], r"\Akept in 9 folders: mkread1-\S+\Z")
        self.assertEqual((home / "notes.back").read_bytes(), (home / "notes").read_bytes())
        self.assertEqual(len(list((home / "shelf").iterdir())), 6)


class ReadARelayTests(ExampleCase):
    """What it reads from a relay: L{tests.process.test_relay_door}."""

    def test_it_says_how_it_is_used(self) -> None:
        asked = self.run_example("eve", "read_a_relay.py")
        self.assertEqual(asked.code, 1)
        self.assertRegex(asked.err, r"\Ausage: \S+ URL RELAY DATA_FOLDER\n\Z")


class DocstringTests(SynchronousTestCase):
    """Each file says what it is and how to run it."""

    def test_each_shows_its_command(self) -> None:
        for path in sorted(EXAMPLES.glob("*.py")):
            with self.subTest(path.name):
                docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
                self.assertIn(f"python examples/{path.name} ", docstring or "")

    def test_each_is_run_by_a_test_here(self) -> None:
        here = Path(__file__).read_text("utf-8")
        for path in sorted(EXAMPLES.glob("*.py")):
            self.assertIn(f'"{path.name}"', here)
