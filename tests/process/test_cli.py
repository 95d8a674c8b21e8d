"""The C{meshkit} command: every verb, as people and scripts type it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from contextlib import closing
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit import __version__
from meshkit.cli.feed.publishing import BATCH_MESSAGES
from meshkit.identity.keys import Identity
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.testing.identities import Author
from tests.process.mesh import (
    MESHKIT,
    Done,
    Mesh,
    Node,
    Shared,
    environment,
    run,
    wait_for,
)

STRANGER = Identity(bytes(range(32))).public
#: A port on which nobody answers (RFC 863: discard).
ADDRESS = f"net:127.0.0.1:9~shs:{STRANGER.base64}"


def make(mesh: Mesh) -> tuple[Node, Node]:
    a = mesh.node("a").start()
    b = mesh.node("b", "--peer", a.address, network=a).start()
    wait_for("link", lambda: a.links() == 1)
    return a, b


_shared = Shared(make)


def tearDownModule() -> None:
    _shared.close()


class _Tests(SynchronousTestCase):
    def check_refused(self, done: Done, code: str, *parts: str) -> None:
        """One line on standard error with the code, exit code 1, nothing else."""
        self.assertEqual((done.code, done.out), (1, ""), done)
        (line,) = done.err.splitlines()
        self.assertTrue(line.startswith("meshkit: "), line)
        self.assertTrue(line.endswith(f" [{code}]"), line)
        for part in parts:
            self.assertIn(part, line)

    def check_misused(self, done: Done, *parts: str) -> None:
        """As click has it: usage on standard error, exit code 2."""
        self.assertEqual((done.code, done.out), (2, ""), done)
        self.assertNotIn("Traceback", done.err)
        for part in ("Usage: meshkit", *parts):
            self.assertIn(part, done.err)


class VerbTests(_Tests):
    """With a running node that has a peer."""

    def setUp(self) -> None:
        self.a, self.b = _shared.get()

    def arrived(self, digest: str) -> Any:
        """The message on the other node, once it is there."""

        def look() -> Any:
            answer = self.b.ask("GET", f"/v1/message/{digest}")
            return answer.data if answer.status == 200 else None

        return wait_for(digest, look)

    def test_publish_a_text(self) -> None:
        done = self.a.good("publish", "hello, world")
        self.assertRegex(done.out, r"\APublished as number \d+ of your feed: [0-9a-f]{64}\n\Z")
        message = self.a.good(
            *("publish", "good morning", "--title", "Greeting", "--tag", "x", "--tag", "y"),
            *("--relates", done.out.split()[-1], "--json"),
        ).json
        self.assertEqual(
            message["content"], {"type": "message", "text": "good morning", "title": "Greeting"}
        )
        self.assertEqual((message["tags"], message["relates"]), (["x", "y"], done.out.split()[-1]))
        self.assertEqual(self.arrived(message["hash"])["signature"], message["signature"])

    def test_schemas(self) -> None:
        self.assertIn("not checked", self.b.good("feed", "schema").out)
        text = b'{"required": ["text"]}'
        added = self.b.good("feed", "schema", "add", "memo/v1", "-", stdin=text)
        self.assertIn("memo/v1", added.out)
        (listed,) = self.b.good("feed", "schema", "list", "--json").json
        self.assertEqual((listed["name"], listed["bytes"]), ("memo/v1", len(text)))
        self.assertEqual(
            json.loads(self.b.good("feed", "schema", "show", "memo/v1").out), {"required": ["text"]}
        )
        done = self.b.cli("publish", "--content", '{"type":"memo"}', "--json")
        self.assertEqual(done.code, 0)
        self.assertIn("memo/v1", done.err)
        self.assertIs(json.loads(done.out)["schema_valid"], False)
        self.b.good("feed", "schema", "rm", "memo/v1")
        self.check_refused(self.b.cli("feed", "schema", "rm", "memo/v1"), "NOT_FOUND")
        self.check_refused(
            self.b.cli("feed", "schema", "add", "memo/v1", "-", stdin=b'{"$id":"x"}'),
            "SCHEMA_INVALID",
        )

    def answers(self, path: str) -> bool:
        return bool(self.a.ask("GET", path).status == 200)

    def test_seal_a_message(self) -> None:
        (here,) = self.a.good("id").out.splitlines()[:1]
        (there,) = self.b.good("id").out.splitlines()[:1]
        for form in ((), ("--private-box",)):
            sent = self.a.good("publish", "between us", "--to", there, *form, "--json").json
            self.assertNotIn("between us", json.dumps(sent["content"]))
            got = self.arrived(sent["hash"])
            self.assertEqual(got["opened"], {"type": "message", "text": "between us"})
            self.assertIn("(sealed) [message] between us", self.b.good("feed", "show").out)
            to_stranger = ("publish", "not for us", "--to", STRANGER.text, *form, "--json")
            path = f"/v1/message/{self.b.good(*to_stranger).json['hash']}"
            wait_for(path, partial(self.answers, path))
            self.assertIn("(sealed for others)", self.a.good("feed", "show").out)
        self.assertEqual(got["author"], here)
        self.check_misused(self.a.cli("publish", "x", "--private-box"), "--to")
        self.check_refused(self.a.cli("publish", "x", "--to", "bob"), "INVALID_PUBLIC_KEY")

    def test_read_a_thread(self) -> None:
        root = self.a.good("publish", "a grey heron?", "--json").json["hash"]
        self.arrived(root)
        reply = self.b.good("publish", "a white one", "--relates", root, "--json").json["hash"]
        done = self.b.good("feed", "thread", reply)
        above, said, below, answered = done.out.splitlines()
        self.assertTrue(said.endswith("a grey heron?"), said)
        self.assertRegex(above, r"\A\d")
        self.assertRegex(below, r"\A  \d")
        self.assertTrue(answered.startswith("    ") and "a white one" in answered, answered)
        shown = self.b.good("feed", "thread", reply, "--json").json
        self.assertEqual([m["hash"] for m in shown["messages"]], [root, reply])
        self.assertEqual((shown["root"], shown["total"]), (root, 2))
        lost = self.b.good("publish", "what?", "--relates", "ab" * 32, "--json").json["hash"]
        self.assertIn(f"{'ab' * 32}  (not stored here)", self.b.good("feed", "thread", lost).out)
        self.check_refused(self.b.cli("feed", "thread", "cd" * 32), "NOT_FOUND")
        self.check_refused(self.b.cli("publish", "x", "--relates", "me"), "INVALID_REQUEST")

    def test_publish_json(self) -> None:
        content = '{"type": "insight", "n": 1.50, "deep": [[null]]}'
        by_flag = self.a.good("publish", "--content", content, "--json").json
        self.assertEqual(by_flag["content"], json.loads(content))
        by_pipe = self.a.good("publish", "--content", "-", "--json", stdin=content.encode()).json
        self.assertEqual(by_pipe["content"], by_flag["content"])
        self.assertEqual(by_pipe["previous"], by_flag["hash"])

    def test_publish_what_cannot_be(self) -> None:
        self.check_misused(self.a.cli("publish"), "--content or --lines")
        self.check_misused(self.a.cli("publish", "x", "--content", "1"), "--content or --lines")
        self.check_misused(self.a.cli("publish", "x", "--lines", "-"), "--content or --lines")
        self.check_misused(self.a.cli("publish", "--lines", "-", "--tag", "x"), "--tag")
        self.check_misused(self.a.cli("publish", "--content", "1", "--title", "x"), "--title")
        self.check_refused(self.a.cli("publish", "--content", "{nope"), "INVALID_REQUEST", "JSON")
        self.check_refused(
            self.a.cli("publish", "--content", "-", stdin=b"\xff\xfe"), "INVALID_REQUEST", "JSON"
        )
        self.check_refused(
            self.a.cli("publish", "--content", "-", stdin=b'"' + b"x" * 65_535 + b'"'),
            "CONTENT_TOO_LARGE",
        )
        # More than is read of it: said as it is, not as JSON that ends too early.
        self.check_refused(
            self.a.cli("publish", "--content", "-", stdin=b'"' + b"x" * 300_000 + b'"'),
            "CONTENT_TOO_LARGE",
        )

    def test_an_argument_that_is_not_utf_8(self) -> None:
        for verb in ("publish", "search", "follow"):
            done = subprocess.run(
                [*map(os.fsencode, (*MESHKIT, "-d", str(self.a.data), verb)), b"caf\xe9"],
                cwd=self.a.home,
                env=environment(self.a.home),
                capture_output=True,
                timeout=60,
            )
            self.check_refused(
                Done(done.returncode, done.stdout.decode(), done.stderr.decode()),
                "INVALID_REQUEST",
                "UTF-8",
            )

    def test_feed(self) -> None:
        message = self.a.good("publish", "for the feed", "--json").json
        self.arrived(message["hash"])
        lines = self.b.good("feed").lines
        self.assertEqual(
            lines[:2],
            [
                f"{message['timestamp']}  {message['author']}  #{message['sequence']}",
                "  [message] for the feed",
            ],
        )
        self.assertEqual(self.b.good("feed", "show", message["author"]).lines[:2], lines[:2])
        # Oneself is left out, unless one asks.
        shown = self.a.good("feed", "show", "--json").json
        self.assertNotIn(message["author"], [each["author"] for each in shown["messages"]])
        shown = self.a.good("feed", "show", "--all", "--limit", "1", "--json").json
        self.assertEqual(shown["messages"], [message])
        self.assertEqual((shown["limit"], shown["offset"]), (1, 0))
        self.assertGreaterEqual(shown["total"], 1)

    def test_feed_page_by_page(self) -> None:
        for number in range(3):
            self.a.publish({"type": "paged", "text": f"page {number}"})
        found = self.a.good("feed", "show", "--all", "--type", "paged", "--limit", "2")
        self.assertEqual((found.lines[1], found.lines[3]), ("  [paged] page 2", "  [paged] page 1"))
        (more,) = found.lines[4:]
        self.assertTrue(more.startswith("2 of 3; go on with --cursor "), more)
        # What arrives in between shifts the one, and not the other.
        self.a.publish({"type": "paged", "text": "page 3"})
        for option, value, expected in (
            ("--offset", "2", ["  [paged] page 1", "  [paged] page 0"]),
            ("--cursor", more.split()[-1], ["  [paged] page 0"]),
        ):
            rest = self.a.good("feed", "show", "--all", "--type", "paged", option, value)
            self.assertEqual(rest.lines[1::2], expected)
        self.check_refused(
            self.a.cli("feed", "show", "--cursor", more.split()[-1]), "INVALID_REQUEST", "cursor"
        )

    def test_feed_of_nobody(self) -> None:
        self.check_refused(self.a.cli("feed", "show", "nobody"), "INVALID_PUBLIC_KEY", "nobody")
        self.assertEqual(self.a.good("feed", "show", STRANGER.text).lines, ["Nothing here yet."])
        shown = self.a.good("feed", "show", STRANGER.text, "--json").json
        self.assertEqual((shown["messages"], shown["total"]), ([], 0))
        self.check_misused(self.a.cli("feed", "show", "--limit", "0"), "--limit")

    def test_search(self) -> None:
        message = self.a.publish({"type": "insight", "text": "zeppelins are lighter than air"})
        done = self.a.good("search", "zeppelins air")
        self.assertEqual(done.lines[1], "  [zeppelins] are lighter than [air] \u00b7 insight")
        marked = self.a.good("search", "zepp* -submarines", "--newest", "--marks", "<b>", "</b>")
        self.assertIn("  <b>zeppelins</b> are lighter", marked.lines[1])
        me = self.a.good("id", "--json").json["public_id"]
        found = self.a.good("search", "zeppelins", "--not-author", me, "--type", "insight")
        self.assertEqual(found.lines, ["Nothing found."])
        shown = self.a.good("search", '"lighter than"', "--json").json
        self.assertEqual([each["hash"] for each in shown["messages"]], [message["hash"]])
        self.assertEqual(self.a.good("search", "zeppelins submarines").lines, ["Nothing found."])
        self.assertEqual(self.a.good("feed", "search", "zeppelins", "air").lines, done.lines)
        self.check_refused(self.a.cli("search", "!?"), "INVALID_REQUEST", "no word")

    def test_peers(self) -> None:
        self.assertEqual(self.a.good("peer", "list", "--json").json, [])
        self.assertIn("meshkit peer add", self.a.good("peer", "list").out)
        added = self.a.good("peer", "add", ADDRESS)
        self.assertIn(ADDRESS, added.out)
        again = self.a.good("peer", "add", ADDRESS, "--json").json
        self.assertEqual((again["address"], again["source"]), (ADDRESS, "manual"))
        self.assertEqual(again["public_id"], STRANGER.text)

        def failure() -> Any:
            (peer,) = self.a.good("peer", "list", "--json").json
            # It is counted as missed, and has a score, a moment after it is seen to be down.
            return peer["behaviour"] and peer["last_error"]

        # Nobody is there: it is dialled, and what came of it is shown.
        error = wait_for("failure to dial", failure)
        (heading, row) = self.a.good("peer", "list").lines
        columns = ["state", "way", "source", "key", "score", "round", "trip", "address"]
        columns += ["last", "error"]
        self.assertEqual(heading.split(), columns)
        self.assertEqual(row.split()[:5], ["down", "manual", "given", "100", ADDRESS])
        self.assertIn(error[:20], row)
        self.assertEqual(self.a.good("peer", "rm", ADDRESS).lines, [f"Forgotten: {ADDRESS}"])
        self.assertEqual(self.a.good("peer", "list", "--json").json, [])
        self.check_refused(self.a.cli("peer", "rm", ADDRESS), "NOT_FOUND", ADDRESS)
        self.check_refused(
            self.a.cli("peer", "add", "127.0.0.1:9"), "PEER_UNREACHABLE", "127.0.0.1:9"
        )
        self.check_refused(
            self.a.cli("peer", "add", self.a.address), "CONFIG_INVALID", "own address"
        )
        (peer,) = self.b.good("peer", "list", "--json").json
        self.assertEqual((peer["source"], peer["connected"]), ("config", True))
        self.assertIn("connected  direct  config", self.b.good("peer", "list").out)

    def test_topics_and_blocks(self) -> None:
        self.assertEqual(self.a.good("feed", "topic").lines, ["You subscribe to no topic."])
        self.assertEqual(
            self.a.good("feed", "topic", "rain/snow").lines, ["Subscribed to rain/snow"]
        )
        self.assertEqual(
            self.a.good("feed", "topic", "--json").json,
            [{"topic": "rain/snow", "origin": "added"}],
        )
        self.a.good("feed", "topic", "rain/snow", "--remove")
        self.assertEqual(self.a.good("feed", "topic", "--json").json, [])
        author = Author("blocked by the command line").identity.public.text
        self.assertEqual(self.a.good("feed", "block").lines, ["Nobody is blocked."])
        self.assertEqual(self.a.good("feed", "block", author).lines, [f"Blocking {author}"])
        self.assertEqual(self.a.good("feed", "block").lines, [author])
        forgotten = self.a.good("feed", "forget", author, "--yes").lines
        self.assertEqual(forgotten, ["Emptied 0 messages, 0 bytes of text."])
        self.a.good("feed", "block", author, "--remove")
        self.assertEqual(self.a.good("feed", "block", "--json").json, [])

    def test_retention(self) -> None:
        self.assertEqual(
            self.a.good("feed", "retention").lines, ["0 messages would go, 0 bytes of text."]
        )
        done = self.a.good("feed", "retention", "--run", "--json").json
        self.assertEqual(done, {"messages": 0, "bytes": 0})

    def test_follow(self) -> None:
        self.assertEqual(self.a.good("follow", "--json").json, [])
        self.assertIn("You follow nobody", self.a.good("follow").out)
        author = self.b.good("id", "--json").json["public_id"]
        followed = {"author": author, "origin": "added"}
        self.assertEqual(self.a.good("follow", author).lines, [f"Following {author}"])
        self.assertEqual(self.a.good("feed", "follow", author, "--json").json, followed)
        self.assertEqual(self.a.good("follow").lines, [author])
        self.assertEqual(self.a.good("follow", "--json").json, [followed])
        self.assertEqual(
            self.a.good("follow", author, "--remove").lines, [f"No longer following {author}"]
        )
        done = self.a.good("follow", author, "--remove", "--json").json
        self.assertEqual(done, {"removed": author})
        self.assertEqual(self.a.good("follow", "--json").json, [])
        self.check_misused(self.a.cli("follow", "--remove"), "--remove needs an AUTHOR")
        self.check_refused(self.a.cli("follow", "nobody"), "INVALID_PUBLIC_KEY", "nobody")

    def test_status(self) -> None:
        shown = self.a.good("status", "--json").json
        self.assertEqual((shown["running"], shown["ready"]), (True, True))
        self.assertEqual(shown["version"], __version__)
        self.assertEqual(shown["mesh"], self.a.endpoints["mesh"])
        self.assertFalse(shown["network_weak"])
        (link,) = shown["parts"]["gossip"]["links"]
        lines = self.a.good("status").lines
        self.assertIn(["identity", shown["identity"]], [each.split() for each in lines])
        self.assertTrue(any(each.startswith(link["peer"]) and "accepted" in each for each in lines))

    def test_id_of_a_running_node(self) -> None:
        lines = self.a.good("id").lines
        self.assertEqual(lines[1], self.a.address)
        self.assertIn("in place of the loopback address", lines[2])
        shown = self.a.good("id", "--json").json
        self.assertEqual(shown, {"public_id": lines[0], "addresses": [self.a.address]})

    def test_init_beside_a_running_node(self) -> None:
        shown = self.a.good("init", "--json").json
        self.assertEqual(shown["public_id"], self.a.status["identity"])
        self.assertFalse(shown["created"])

    def test_a_door_that_is_asked_without_its_token(self) -> None:
        token = self.a.data / "door.token"
        kept = token.read_bytes()
        self.addCleanup(token.write_bytes, kept)
        token.write_bytes(b"0" * 64 + b"\n")
        self.check_refused(self.a.cli("status"), "UNAUTHORIZED")
        token.unlink()
        self.check_refused(self.a.cli("publish", "x"), "DOOR_UNREACHABLE", "token")
        token.touch(0o600)

    # --- what is printed

    def test_a_reader_that_has_seen_enough(self) -> None:
        for number in range(200):
            self.a.publish({"type": "much", "text": f"{number} " + "long " * 100})
        for arguments in (["feed", "show", "--all", "--limit", "200"], ["status"]):
            process = subprocess.Popen(
                [*MESHKIT, "-d", str(self.a.data), *arguments],
                cwd=self.a.home,
                env={**environment(self.a.home), "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None and process.stderr is not None
            with process, process.stderr:
                process.stdout.readline()
                process.stdout.close()
                self.assertEqual(process.stderr.read(), b"")

    def test_a_terminal_that_knows_ascii_only(self) -> None:
        text = "na\u00efve caf\u00e9 \u2603 \U0001f40b"
        message = self.a.good("publish", text, "--json", LC_ALL="C").json
        self.assertEqual(message["content"]["text"], text)
        for more in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}):
            done = self.a.good("feed", "show", "--all", "--limit", "1", **more)
            self.assertIn("caf", done.lines[1])
            shown = self.a.good("feed", "show", "--all", "--limit", "1", "--json", **more).json
            self.assertEqual(shown["messages"][0]["content"]["text"], text)
        self.assertEqual(
            self.a.good("feed", "show", "--all", "--limit", "1", PYTHONIOENCODING="ascii").lines[1],
            "  [message] na\\xefve caf\\xe9 \\u2603 \\U0001f40b",
        )

    def test_nothing_that_others_wrote_drives_the_terminal(self) -> None:
        evil = "\x1b[2J\x1b]0;owned\x07 \x9b31m \x7f \u202e\u2066 \r\n\x00 end"
        message = self.b.publish({"type": evil, "title": evil, "text": evil})
        wait_for(
            "message", lambda: self.a.ask("GET", f"/v1/message/{message['hash']}").status == 200
        )
        for arguments in (
            ["feed"],
            ["feed", "show", message["author"]],
            ["search", "owned"],
            ["feed", "--json"],
            ["feed", "show", "--json"],
            ["search", "owned", "--json"],
        ):
            done = self.a.cli(*arguments)
            if arguments == ["feed", "--json"]:
                self.check_misused(done)
                continue
            self.assertIn("owned", done.out)
            for character in done.out:
                self.assertTrue(
                    character == "\n" or ord(character) >= 32 and not 127 <= ord(character) < 160,
                    f"{character!r} is printed by {arguments}",
                )
            if "--json" in arguments:
                self.assertEqual(done.json["messages"][0]["content"]["text"], evil)
            else:
                self.assertNotIn("\u202e", done.out)

    def test_an_error_is_one_line_whatever_is_in_it(self) -> None:
        self.check_refused(
            self.a.cli("peer", "add", "\x1b[31m\nsecond line"), "INVALID_ADDRESS", "\\x1b"
        )


class TransferTests(_Tests):
    """C{meshkit feed export} and C{meshkit feed import}."""

    def setUp(self) -> None:
        self.a, self.b = _shared.get()
        self.file = self.a.home / "export.jsonl"
        self.addCleanup(lambda: self.file.unlink(missing_ok=True))
        self.ada, self.fork = Author(f"ada {self.id()}"), Author(f"ada {self.id()}")
        self.ada.write({"odd": 1.5, "text": "\u2028 \u00e4 \\n"})
        self.ada.write_many(4)
        self.fork.messages = self.ada.messages[:3]
        self.fork.write("another four")

    def put(self, *raws: bytes) -> Done:
        self.file.write_bytes(b"".join(raw + b"\n" for raw in raws))
        return self.a.cli("feed", "import", self.file, "--json")

    def test_there_and_back_nothing_changes(self) -> None:
        author = self.ada.identity.public.text
        shown = self.put(*self.ada.raws).json
        self.assertEqual(
            {name: shown[name] for name in ("accepted", "duplicate", "refused", "errors")},
            {"accepted": 5, "duplicate": 0, "refused": {}, "errors": []},
        )
        said = self.a.good("feed", "import", self.file).out
        self.assertIn("0 stored, 5 were here already.", said)
        done = self.a.good("feed", "export", "--author", author)
        self.assertEqual(done.out.encode(), b"".join(raw + b"\n" for raw in self.ada.raws))
        copy = self.a.home / "copy.jsonl"
        self.addCleanup(lambda: copy.unlink(missing_ok=True))
        shown = self.a.good("feed", "export", "-o", copy, "--json").json
        lines = copy.read_bytes().splitlines()
        self.assertEqual(shown["messages"], len(lines))
        self.assertLessEqual(set(self.ada.raws), set(lines))
        # What is there is never written over.
        done = self.a.cli("feed", "export", "-o", copy)
        self.assertEqual(done.code, 1)
        self.assertIn("File exists", done.err)
        self.check_misused(self.a.cli("feed", "export", "--json"), "--output")
        # What could not be finished is not left.
        done = self.a.cli("feed", "export", "--author", "nobody", "-o", self.a.home / "not")
        self.assertEqual(done.code, 1)
        self.assertEqual(list(self.a.home.glob("not*")), [])

    def test_what_is_refused_is_counted_and_told_by_its_line(self) -> None:
        altered = self.ada.raws[1].replace(b"number 2", b"number 3")
        long = b'"' + b"x" * 300_000 + b'"'
        done = self.put(self.ada.raws[0], b"", altered, b"no json", long, self.ada.raws[1])
        self.assertEqual(done.code, 1)
        shown = json.loads(done.out)
        self.assertEqual((shown["accepted"], shown["duplicate"]), (2, 0))
        self.assertEqual(
            shown["refused"], {"CONTENT_TOO_LARGE": 1, "HASH_MISMATCH": 1, "MALFORMED_MESSAGE": 1}
        )
        self.assertEqual(
            sorted((error["line"], error["code"]) for error in shown["errors"]),
            [(3, "HASH_MISMATCH"), (4, "MALFORMED_MESSAGE"), (5, "CONTENT_TOO_LARGE")],
        )

    def test_a_fork_goes_with_its_proof(self) -> None:
        done = self.put(*self.ada.raws, self.fork.raws[3])
        self.assertEqual((done.code, done.json["refused"]), (0, {"FORK_REFUSED": 1}))
        exported = self.a.good("feed", "export", "--author", self.ada.identity.public.text)
        lines = exported.out.encode().splitlines()
        self.assertEqual(lines[:3], self.ada.raws[:3])
        self.assertEqual(sorted(lines[3:]), sorted([self.ada.raws[3], self.fork.raws[3]]))


class LinesTests(_Tests):
    """C{meshkit publish --lines}, each with a node of its own feed."""

    def setUp(self) -> None:
        self.a, _ = _shared.get()
        self.file = self.a.home / "import.jsonl"
        self.before = self.a.status["parts"]["feed"]["messages"]

    def published(self) -> int:
        count: int = self.a.status["parts"]["feed"]["messages"] - self.before
        return count

    def test_a_good_file(self) -> None:
        self.file.write_text('{"text": "one"}\n\n  "two"  \n[3]')
        shown = self.a.good("publish", "--lines", self.file, "--json").json
        self.assertEqual((shown["count"], len(shown["batches"])), (3, 1))
        self.assertEqual(self.published(), 3)
        last = self.a.good("feed", "show", "--all", "--limit", "3", "--json").json["messages"]
        self.assertEqual([each["content"] for each in last], [[3], "two", {"text": "one"}])
        done = self.a.good("feed", "publish", "--lines", "-", stdin=b'"four"\n')
        self.assertRegex(done.out, r"\APublished 1 messages, up to number \d+ of your feed.\n\Z")

    def test_a_file_with_nothing_in_it(self) -> None:
        for text in ("", "\n \n"):
            self.file.write_text(text)
            done = self.a.good("publish", "--lines", self.file)
            self.assertIn("nothing was published", done.out)
            shown = self.a.good("publish", "--lines", self.file, "--json").json
            self.assertEqual(shown, {"count": 0, "batches": []})
        self.assertEqual(self.published(), 0)

    def test_a_line_that_is_no_json(self) -> None:
        self.file.write_text('"one"\n\n{"two"\n"three"\n')
        self.check_refused(self.a.cli("publish", "--lines", self.file), "INVALID_REQUEST", "line 3")
        self.file.write_bytes(b'"one"\n"\xff"\n')
        self.check_refused(self.a.cli("publish", "--lines", self.file), "INVALID_REQUEST", "line 2")
        self.file.write_text('"one"\n"' + "x" * 300_000 + '"\n')
        self.check_refused(self.a.cli("publish", "--lines", self.file), "INVALID_REQUEST", "line 2")
        self.assertEqual(self.published(), 0)

    def test_a_line_that_the_node_refuses(self) -> None:
        self.file.write_text('"one"\n"' + "x" * 70_000 + '"\n')
        self.check_refused(
            self.a.cli("publish", "--lines", self.file),
            "CONTENT_TOO_LARGE",
            "lines 1 to 2",
            "message 2 of the batch",
        )
        self.assertEqual(self.published(), 0)

    def test_several_batches(self) -> None:
        self.file.write_text("".join(f"{n}\n" for n in range(BATCH_MESSAGES + 1)))
        shown = self.a.good("publish", "--lines", self.file, "--json").json
        self.assertEqual([each["count"] for each in shown["batches"]], [BATCH_MESSAGES, 1])
        first, second = shown["batches"]
        self.assertEqual(second["first"], first["last"] + 1)
        self.assertEqual(self.published(), BATCH_MESSAGES + 1)

    def test_batches_by_size(self) -> None:
        text = json.dumps("x" * 60_000)
        self.file.write_text("".join(f"{text}\n" for _ in range(300)))
        shown = self.a.good("publish", "--lines", self.file, "--json").json
        self.assertEqual((shown["count"], len(shown["batches"])), (300, 2))

    def test_what_was_published_before_an_error_is_said(self) -> None:
        lines = [f"{n}\n" for n in range(BATCH_MESSAGES)]
        self.file.write_text("".join([*lines, "1\n", "oops\n"]))
        self.check_refused(
            self.a.cli("publish", "--lines", self.file),
            "INVALID_REQUEST",
            f"line {BATCH_MESSAGES + 2}",
            f"the {BATCH_MESSAGES} messages of the batches before it are published",
        )
        self.assertEqual(self.published(), BATCH_MESSAGES)

    def test_a_file_that_is_not_there(self) -> None:
        self.check_misused(self.a.cli("publish", "--lines", self.a.home / "nowhere"), "nowhere")


class OfflineTests(_Tests):
    """Without a running node."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.home = self.mesh.folder

    def meshkit(self, *arguments: str, **more: str) -> Done:
        return run(*MESHKIT, *arguments, home=self.home, **more)

    def test_init_twice(self) -> None:
        first = self.meshkit("-d", "x", "init", "--json").json
        self.assertTrue(first["created"])
        self.assertEqual(first["data_dir"], str(self.home / "x"))
        again = self.meshkit("-d", "x", "init", "--json").json
        self.assertEqual(again, {**first, "created": False})
        lines = self.meshkit("-d", "x", "init").lines
        self.assertEqual(lines[0], f"Identity  {first['public_id']}")
        self.assertEqual(lines[-1], f"  meshkit init --network-key {first['network_secret']}")
        self.assertEqual(self.meshkit("-d", "x", "id").lines, [first["public_id"]])
        shown = self.meshkit("-d", "x", "id", "--json").json
        self.assertEqual(shown, {"public_id": first["public_id"], "addresses": []})

    def test_init_joins_a_network(self) -> None:
        first = self.meshkit("-d", "x", "init", "--json").json
        joined = self.meshkit(
            *("-d", "y", "init", "--network-key", first["network_secret"], "--json")
        ).json
        self.assertEqual(joined["network_secret"], first["network_secret"])
        self.assertNotEqual(joined["public_id"], first["public_id"])
        self.assertFalse(joined["network_weak"])
        other = self.meshkit("-d", "z", "init", "--json").json
        self.check_refused(
            self.meshkit("-d", "y", "init", "--network-key", other["network_secret"]),
            "CONFIG_INVALID",
            str(self.home / "y"),
            "another network",
        )
        text = first["network_secret"]
        wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
        self.check_refused(
            self.meshkit("-d", "new", "init", "--network-key", wrong), "INVALID_NETWORK_SECRET"
        )

    def test_a_passphrase_is_called_weak(self) -> None:
        done = self.meshkit("-d", "x", "init", "--network-key", "correct horse")
        self.assertEqual((done.code, done.err), (0, ""))
        self.assertIn("guess", done.out)
        self.assertNotIn("correct horse", done.out)
        self.assertTrue(self.meshkit("-d", "x", "init", "--json").json["network_weak"])

    def test_the_folder_is_found(self) -> None:
        self.meshkit("init", MESHKIT_HOME=str(self.home / "by variable"))
        self.assertTrue((self.home / "by variable" / "secret.key").exists())
        self.meshkit("init", XDG_DATA_HOME=str(self.home / "share"))
        self.assertTrue((self.home / "share" / "meshkit" / "secret.key").exists())
        self.meshkit("init")
        self.assertTrue((self.home / ".local" / "share" / "meshkit" / "secret.key").exists())

    def test_there_is_no_identity(self) -> None:
        self.check_refused(
            self.meshkit("-d", "x", "id"), "NOT_FOUND", f"meshkit --data-dir {self.home / 'x'} init"
        )
        self.assertFalse((self.home / "x").exists())

    def test_a_folder_that_is_none(self) -> None:
        (self.home / "file").write_text("hello")
        for arguments in (["id"], ["init"], ["publish", "x"]):
            done = self.meshkit("-d", "file", *arguments)
            self.assertEqual((done.code, done.out, len(done.err.splitlines())), (1, "", 1), done)
            self.assertIn(str(self.home / "file"), done.err)

    def test_a_folder_that_others_can_enter(self) -> None:
        self.meshkit("-d", "x", "init")
        (self.home / "x").chmod(0o755)
        self.check_refused(self.meshkit("-d", "x", "init"), "UNSAFE_PERMISSIONS", "chmod 700")
        (self.home / "x").chmod(0o700)
        (self.home / "x" / "secret.key").chmod(0o640)
        self.check_refused(self.meshkit("-d", "x", "id"), "UNSAFE_PERMISSIONS", "chmod 600")

    def test_no_node_runs(self) -> None:
        self.meshkit("-d", "my data", "init")
        for arguments in (
            ["publish", "x"],
            ["feed"],
            ["feed", "show", STRANGER.text],
            ["search", "x"],
            ["peer", "list"],
            ["peer", "add", ADDRESS],
            ["peer", "rm", ADDRESS],
            ["follow"],
            ["publish", "--lines", "-"],
        ):
            self.check_refused(
                self.meshkit("-d", "my data", *arguments),
                "DOOR_UNREACHABLE",
                # As it can be typed, though there is a space in it.
                f"twistd -n mesh-node --data-dir '{self.home / 'my data'}'",
            )
        done = self.meshkit("-d", "my data", "status", "--json")
        self.assertEqual((done.code, done.json), (1, {"running": False}))

    def test_the_node_was_killed(self) -> None:
        node = self.mesh.node("a").start()
        node.kill()
        self.assertTrue((node.data / "endpoints.json").exists())
        self.check_refused(
            node.cli("publish", "x"),
            "DOOR_UNREACHABLE",
            f"twistd -n mesh-node --data-dir {node.data}",
        )

    def test_the_token_is_not_for_a_stranger_on_the_port_of_a_node_that_was_killed(self) -> None:
        node = self.mesh.node("a").start()
        node.kill()
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            written = json.dumps({"api": [url], "mesh": []})
            for note in ("", "1\n", (node.data / "lock").read_text()):
                (node.data / "lock").write_text(note)
                (node.data / "endpoints.json").write_text(written)
                self.check_refused(
                    node.cli("status"), "DOOR_UNREACHABLE", f"mesh-node --data-dir {node.data}"
                )
            # Not so much as a connection was made.
            server.setblocking(False)
            self.assertRaises(BlockingIOError, server.accept)

    def pretend_to_be_its_node(self, node: Node, url: str) -> None:
        """Hold its folder and say that the door is elsewhere."""
        folder = DataFolder(str(node.data), LocalFiles())
        folder.lock(os.getpid())
        self.addCleanup(folder.unlock)
        folder.write_endpoints({"api": [url], "mesh": []})

    def test_what_answers_does_not_speak_as_a_node_does(self) -> None:
        node = self.mesh.node("a").start()
        node.stop()
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            self.pretend_to_be_its_node(node, url)

            def serve(answer: bytes) -> None:
                sock, _ = server.accept()
                with sock:
                    while b"\r\n\r\n" not in sock.recv(65_536):
                        pass
                    sock.sendall(answer)

            for answer in (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhe",
                b"SSH-2.0-OpenSSH_9.6\r\n",
                b"",
            ):
                thread = threading.Thread(target=serve, args=(answer,))
                thread.start()
                try:
                    self.check_refused(node.cli("status"), "DOOR_UNREACHABLE", url)
                finally:
                    thread.join(10)

    def test_interrupted_while_the_node_thinks(self) -> None:
        node = self.mesh.node("a").start()
        node.stop()
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            self.pretend_to_be_its_node(node, f"http://127.0.0.1:{server.getsockname()[1]}")
            process = subprocess.Popen(
                [*MESHKIT, "-d", str(node.data), "status"],
                cwd=node.home,
                env=environment(node.home),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            with process:
                sock, _ = server.accept()
                with sock:
                    sock.recv(65_536)
                    process.send_signal(signal.SIGINT)
                    out, err = process.communicate(timeout=30)
        self.assertNotEqual(process.returncode, 0)
        self.assertEqual(out, b"")
        self.assertNotIn(b"Traceback", err)

    def test_config_show(self) -> None:
        self.meshkit("-d", "x", "init")
        (self.home / "x" / "meshkit.toml").write_text(
            'network_key = "hush"\n[gossip]\ninterval = 60\n'
        )
        rows = self.meshkit("-d", "x", "config", "show", "--json", MESHKIT_WORKERS="3").json
        by_key = {row["key"]: row for row in rows}
        self.assertEqual(
            (by_key["workers"]["value"], by_key["workers"]["origin"]),
            (3, "environment MESHKIT_WORKERS"),
        )
        self.assertEqual(by_key["gossip.interval"]["value"], 60)
        self.assertIn("meshkit.toml", by_key["gossip.interval"]["origin"])
        self.assertEqual(by_key["listen"]["value"], "tcp:7655")
        self.assertNotIn("hush", json.dumps(rows))
        done = self.meshkit("-d", "x", "config", "show", "--origin", MESHKIT_WORKERS="3")
        self.assertEqual(done.lines[0].split(), ["setting", "value", "origin"])
        self.assertTrue(
            any(
                line.split() == ["workers", "3", "environment", "MESHKIT_WORKERS"]
                for line in done.lines
            )
        )
        self.assertNotIn("hush", done.out)
        plain = self.meshkit("-d", "x", "config", "show")
        self.assertEqual(plain.lines[0].split(), ["setting", "value"])
        self.assertNotIn("origin", plain.out)
        self.check_refused(
            self.meshkit("-d", "x", "config", "show", MESHKIT_WORKER="3"),
            "CONFIG_INVALID",
            "MESHKIT_WORKERS",
        )
        self.check_refused(
            self.meshkit("-d", "x", "config", "show", "--config", "nowhere.toml"),
            "CONFIG_INVALID",
            "nowhere.toml",
        )

    def test_help(self) -> None:
        done = self.meshkit("--help")
        self.assertEqual((done.code, done.err), (0, ""))
        verbs = ("config", "demo", "feed", "follow", "id", "init", "peer", "publish")
        for verb in (*verbs, "search", "status"):
            self.assertRegex(done.out, rf"\n  {verb} +[A-Z]")
            shown = self.meshkit(verb, "--help")
            self.assertEqual((shown.code, shown.err), (0, ""))
            self.assertTrue(shown.out.startswith(f"Usage: meshkit {verb}"), shown.out)
        self.assertEqual(self.meshkit("--version").lines, [f"meshkit, version {__version__}"])

    def test_misused(self) -> None:
        self.check_misused(self.meshkit("publsh", "x"), "Did you mean 'publish'?")
        self.check_misused(self.meshkit("status", "--jsn"), "--jsn")
        self.check_misused(self.meshkit("search"), "QUERY")
        self.check_misused(self.meshkit("peer", "ad", ADDRESS), "ad")

    def test_help_imports_nothing_heavy(self) -> None:
        command = (MESHKIT[0], "-X", "importtime", *MESHKIT[1:], "--help")
        done = run(*command, home=self.home)
        imported = {
            line.rpartition("|")[2].strip()
            for line in done.err.splitlines()
            if line.startswith("import time:")
        }
        self.assertIn("click", imported)
        for name in imported:
            self.assertNotIn(
                name.partition(".")[0],
                ("twisted", "treq", "klein", "msgspec", "nacl", "zope", "rich", "cryptography"),
            )
