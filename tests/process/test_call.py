"""C{meshkit call} as a process of its own: signals, pipes, the environment, the shell."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import MESHKIT, PATIENCE, Mesh, Node, Shared, environment, run


def make(mesh: Mesh) -> Node:
    # What opens the door to a command is no setting of the daemon's.
    node = mesh.node("a").start(more={"MESHKIT_TOKEN": "nobodys"})
    for number in range(3):
        node.publish({"type": "note", "text": "a grey heron", "n": number})
    return node


_shared = Shared(make)


def tearDownModule() -> None:
    _shared.close()


class CallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.node: Node = _shared.get()

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run C{meshkit call} in the background."""
        process = subprocess.Popen(
            [*MESHKIT, "--data-dir", str(self.node.data), "call", *arguments],
            env=environment(self.node.home),
            cwd=self.node.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.addCleanup(process.wait, PATIENCE)
        self.addCleanup(process.kill)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            self.addCleanup(stream.close)
        return process

    def test_a_stream_goes_on_until_it_is_interrupted(self) -> None:
        process = self.begin("feed_events", "after=0")
        assert process.stdout is not None and process.stderr is not None
        numbers = [json.loads(process.stdout.readline())["content"]["n"] for _ in range(3)]
        self.assertEqual(numbers, [0, 1, 2])
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertEqual(process.stderr.read(), b"")

    def test_whoever_has_read_enough_may_hang_up(self) -> None:
        process = self.begin("feed_events", "after=0")
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        # The next item finds nobody.
        self.node.publish({"type": "other"})
        process.wait(PATIENCE)
        self.assertNotIn(b"Traceback", process.stderr.read())

    def test_bytes_pass_through_pipes_and_files(self) -> None:
        shown = self.node.good("call", "node_openapi")
        self.assertEqual(shown.json["openapi"], "3.1.0")
        path = self.node.home / "openapi.json"
        self.node.good("call", "node_openapi", "--output", path)
        self.assertEqual(path.read_text("utf-8"), shown.out)

    def test_standard_input_is_read_to_its_end(self) -> None:
        content = json.dumps({"type": "long", "text": "é" * 20_000}, ensure_ascii=False)
        published = self.node.good("call", "feed_publish", "content:=@-", stdin=content.encode())
        self.assertEqual(published.json["content"], json.loads(content))


class TokenTests(SynchronousTestCase):
    """What a token may not do is not done, whoever shows it."""

    def setUp(self) -> None:
        self.node: Node = _shared.get()
        added = self.node.good(
            "call", "tokens_add", f"name={self.id()[-60:]}", "scopes=read:feed_*", "--json"
        )
        self.token: str = added.json["data"]["token"]

    def test_from_the_environment(self) -> None:
        found = self.node.cli("call", "feed_list", "limit=1", MESHKIT_TOKEN=self.token)
        self.assertEqual(found.code, 0, found.err)
        refused = self.node.cli("call", "feed_publish", "content=1", MESHKIT_TOKEN=self.token)
        self.assertEqual((refused.code, refused.out), (1, ""))
        self.assertIn("[PERMISSION_DENIED]", refused.err)
        # The curated verbs show it as well.
        self.assertIn("PERMISSION_DENIED", self.node.cli("status", MESHKIT_TOKEN=self.token).err)

    def test_one_that_is_not_taken_is_named_by_where_it_is(self) -> None:
        refused = self.node.cli("status", MESHKIT_TOKEN="mkt_gone")
        self.assertEqual((refused.code, refused.out), (1, ""))
        self.assertIn("token in $MESHKIT_TOKEN: it may be revoked", refused.err)
        self.assertIn("[UNAUTHORIZED]", refused.err)

    def test_from_a_file(self) -> None:
        path = self.node.home / "token"
        path.touch(0o600)
        path.write_text(f"{self.token}\n")
        listed: Any = self.node.good("call", "--token-file", path, "--json").json
        usable = {each["name"] for each in listed if each["usable"]}
        self.assertLessEqual({"feed_list", "feed_search", "operations_list"}, usable)
        self.assertFalse({"feed_publish", "peers_list"} & usable)
        text = self.node.good("call", "--token-file", path).out
        self.assertIn("[write, not with this token] Sign a message", text)


class CompletionTests(SynchronousTestCase):
    """What a shell is told that asks for the rest of a word."""

    def complete(self, data: Path, *words: str) -> list[str]:
        given = ["meshkit", "--data-dir", str(data), "call", *words]
        done = run(
            *MESHKIT,
            home=_shared.get().home,
            _MESHKIT_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(given),
            COMP_CWORD=str(len(given) - 1),
        )
        self.assertEqual(done.err, "")
        return [line.partition(",")[2] for line in done.lines if line]

    def test_operations_and_their_fields(self) -> None:
        data = _shared.get().data
        self.assertEqual(
            self.complete(data, "feed_sc"),
            ["feed_schemas", "feed_schema", "feed_schema_add", "feed_schema_remove"],
        )
        self.assertEqual(self.complete(data, "feed_search", "or"), ["order="])

    def test_without_a_node_there_is_nothing_to_complete(self) -> None:
        self.assertEqual(self.complete(_shared.get().home / "nowhere", "feed_sc"), [])
