"""Tests of C{meshkit call}, against a node in memory."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli import call as verb
from meshkit.errors import NotFound
from meshkit.operations import Advised, BoundOperation, Item, Nothing, Operation, Page
from meshkit.services.operations import OPERATIONS
from meshkit.testing.nodes import MemoryMesh
from tests.cli.memory import Done, run_command
from tests.runtime.support import scratch
from tests.services.toys import Toys


class Put(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    data: bytes
    note: str | None = None


class Count(msgspec.Struct, forbid_unknown_fields=True):
    upto: int = 3


class Said(msgspec.Struct, forbid_unknown_fields=True):
    content: msgspec.Raw
    times: int = 1


class Kept(msgspec.Struct):
    name: str
    size: int
    note: str | None


PUT = Operation("toy_put", "POST", "/v1/toy/{name}", Put, Kept, "Keep.", "write", takes="data")
PICTURE = Operation("toy_picture", "GET", "/v1/toy.png", Nothing, bytes, "P.", sends="image/png")
TEXT = Operation("toy_text", "GET", "/v1/toy.txt", Nothing, bytes, "T.", sends="text/plain")
COUNT = Operation(
    "toy_count", "GET", "/v1/count", Count, int, "Count.", stream=True, errors=(NotFound,)
)
SAY = Operation("toy_say", "POST", "/v1/say", Said, msgspec.Raw, "Say.", "write")
PAGE = Operation("toy_page", "GET", "/v1/page", Nothing, int, "Some.", paged=True)
WARN = Operation("toy_warn", "GET", "/v1/warn", Nothing, str, "Warn.")
FORGET = Operation("toy_forget", "DELETE", "/v1/toy", Nothing, None, "Forget.", "write", 204)
REFUSE = Operation(
    "toy_refuse", "GET", "/v1/refuse", Nothing, str, "\x1b[31mRefuse.\x1b[0m", errors=(NotFound,)
)

BYTES = bytes(range(256))


async def _count(request: Count) -> AsyncIterator[Item]:
    for number in range(request.upto):
        yield Item(number, id=str(number))
    yield Item({"behind": 7}, event="lagged")
    if request.upto > 5:
        raise NotFound("six is not to be found")


def _put(request: Put) -> Kept:
    return Kept(request.name, len(request.data), request.note)


def _refuse(request: Nothing) -> str:
    raise NotFound("it is \x1b[31mnot\x1b[0m here")


class CallCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.node = self.mesh.node("ada", makers=[Toys(self).maker("toy", self.prepare)])
        self.node.start()

    def prepare(self, part: Any) -> Any:
        part.operations = lambda: [
            BoundOperation(PUT, _put),
            BoundOperation(PICTURE, lambda request: BYTES),
            BoundOperation(TEXT, lambda request: b"text\n"),
            BoundOperation(COUNT, _count),
            BoundOperation(SAY, lambda request: request.content),
            BoundOperation(PAGE, lambda request: Page([1, 2], 7, 2, 0, "next")),
            BoundOperation(WARN, lambda request: Advised("done", ["mind \x1b the gap"])),
            BoundOperation(FORGET, lambda request: None),
            BoundOperation(REFUSE, _refuse),
        ]
        return part

    def call(self, *arguments: str, stdin: bytes = b"") -> Done:
        return run_command(self.mesh, self.node, "call", *arguments, stdin=stdin)

    def good(self, *arguments: str, stdin: bytes = b"") -> Done:
        done = self.call(*arguments, stdin=stdin)
        self.assertEqual(done.code, 0, done)
        return done

    def refused(self, *arguments: str, code: int = 1) -> str:
        done = self.call(*arguments)
        self.assertEqual((done.code, done.out), (code, b""), done)
        return done.err

    def file(self, content: bytes) -> str:
        path = Path(scratch(self)) / "file"
        path.write_bytes(content)
        path.chmod(0o600)
        return str(path)


class AnswerTests(CallCase):
    def test_data_are_printed_as_they_came(self) -> None:
        done = self.good("toy_say", 'content={"n": 1.00, "big": 12345678901234567890}')
        self.assertEqual(done.out, b'{\n  "n": 1.00,\n  "big": 12345678901234567890\n}\n')
        self.assertEqual(done.err, "")

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        done = self.good("toy_say", 'content="\x9b31m"')
        self.assertEqual(done.out, b'"\\u009b31m"\n')
        self.assertNotIn("\x1b", self.good("toy_refuse", "--help").out.decode())
        self.assertNotIn("\x1b", self.good().out.decode())
        self.assertNotIn("\x1b", self.refused("toy_refuse"))
        self.assertNotIn("\x1b", self.good("toy_warn").err)

    def test_a_page_says_where_the_next_one_begins(self) -> None:
        done = self.good("toy_page")
        self.assertEqual(json.loads(done.out), [1, 2])
        self.assertEqual(
            done.err.splitlines(),
            [
                "meshkit: total: 7, limit: 2, offset: 0",
                "meshkit: there is more: go on with cursor=next",
            ],
        )
        self.assertEqual(
            json.loads(self.good("toy_page", "--json").out),
            {
                "data": [1, 2],
                "metadata": {"total": 7, "limit": 2, "offset": 0, "next_cursor": "next"},
            },
        )

    def test_warnings_are_told(self) -> None:
        done = self.good("toy_warn")
        self.assertEqual(json.loads(done.out), "done")
        self.assertIn("warning: mind", done.err)

    def test_an_answer_of_nothing_is_null(self) -> None:
        self.assertEqual(self.good("toy_forget").out, b"null\n")
        self.assertEqual(json.loads(self.good("toy_forget", "--json").out), {"data": None})

    def test_a_refusal_is_one_line_with_its_code(self) -> None:
        error = self.refused("toy_refuse")
        self.assertEqual(len(error.splitlines()), 1)
        self.assertTrue(error.endswith("here [NOT_FOUND]\n"), error)


class InputTests(CallCase):
    def test_an_object_is_given_as_text_as_a_file_or_as_standard_input(self) -> None:
        text = b'{"content": {"n": 1.00}}'
        for done in (
            self.good("toy_say", "--input", text.decode()),
            self.good("toy_say", "-i", "@" + self.file(text)),
            self.good("toy_say", "--input", "-", stdin=text),
            self.good("toy_say", "content:=@-", stdin=b'{"n": 1.00}'),
        ):
            self.assertEqual(done.out, b'{\n  "n": 1.00\n}\n')

    def test_a_file_that_is_not_there_is_one_line(self) -> None:
        self.assertIn("no/such/file", self.refused("toy_say", "content:=@no/such/file"))
        self.assertIn("no/such/file", self.refused("toy_say", "--input", "@no/such/file"))
        self.assertIn("no/such/file", self.refused("toy_say", "--token-file", "no/such/file"))

    def test_what_is_no_field_is_misuse(self) -> None:
        self.assertIn("'limit' gives no field", self.refused("toy_page", "limit", code=2))

    def test_a_wrong_value_is_refused_by_the_node(self) -> None:
        error = self.refused("toy_say", "content=1", "times=often")
        self.assertIn("times: expected `int`, got `str` [INVALID_REQUEST]", error)

    def test_what_is_missing_is_refused_by_the_node(self) -> None:
        self.assertIn("content is missing", self.refused("toy_say"))


class BytesTests(CallCase):
    def test_bytes_are_taken_as_they_are(self) -> None:
        path = self.file(BYTES)
        for done in (
            self.good("toy_put", "name=a/b", f"data=@{path}", "note=x"),
            self.good("toy_put", "name=a/b", "data=@-", "note=x", stdin=BYTES),
        ):
            self.assertEqual(json.loads(done.out), {"name": "a/b", "size": 256, "note": "x"})
        self.assertEqual(json.loads(self.good("toy_put", "name=a", "data=").out)["size"], 0)

    def test_bytes_go_to_standard_output_or_into_a_file(self) -> None:
        self.assertEqual(self.good("toy_picture").out, BYTES)
        path = os.path.join(scratch(self), "picture.png")
        done = self.good("toy_picture", "--output", path)
        self.assertEqual(Path(path).read_bytes(), BYTES)
        self.assertEqual(done.out.decode(), f"256 bytes of image/png are in {path}\n")

    def test_with_json_they_are_base64(self) -> None:
        encoded = base64.b64encode(BYTES).decode()
        self.assertEqual(
            json.loads(self.good("toy_picture", "--json").out),
            {"type": "image/png", "bytes": 256, "base64": encoded},
        )

    def test_a_file_for_json_is_misuse(self) -> None:
        self.assertIn("--output", self.refused("toy_page", "--output", "x", code=2))
        self.assertFalse(os.path.exists("x"))


class StreamTests(CallCase):
    def test_each_item_is_one_line(self) -> None:
        done = self.good("toy_count")
        self.assertEqual(done.out, b"0\n1\n2\n")
        self.assertEqual(done.err, 'meshkit: lagged: {"behind":7}\n')

    def test_it_ends_after_as_many_as_were_wanted(self) -> None:
        self.assertEqual(self.good("toy_count", "--max-items", "2").out, b"0\n1\n")
        # The node has let go of it.
        self.mesh.run(1)
        self.assertIn("--max-items", self.refused("toy_page", "--max-items", "2", code=2))

    def test_with_json_ids_and_notices_are_shown(self) -> None:
        done = self.good("toy_count", "upto=1", "--json")
        self.assertEqual(
            list(map(json.loads, done.out.splitlines())),
            [
                {"id": "0", "event": "message", "data": 0},
                {"id": "0", "event": "lagged", "data": {"behind": 7}},
            ],
        )

    def test_an_error_in_the_middle_is_an_error(self) -> None:
        done = self.call("toy_count", "upto=6")
        self.assertEqual((done.code, done.out), (1, b"0\n1\n2\n3\n4\n5\n"))
        self.assertIn("six is not to be found [NOT_FOUND]", done.err)


class ListTests(CallCase):
    def test_all_operations_are_listed_by_part(self) -> None:
        out = self.good().out.decode()
        self.assertLess(out.index("\ntoy:\n"), out.index("toy_put"))
        self.assertIn("[write, raw] Keep.", out)
        self.assertIn("[read, stream] Count.", out)
        self.assertIn("operations_list", out)

    def test_the_list_is_there_for_programs(self) -> None:
        listed = json.loads(self.good("--json").out)
        names = [each["name"] for each in listed]
        self.assertEqual(len(names), len(set(names)))
        (put,) = (each for each in listed if each["name"] == "toy_put")
        self.assertEqual(
            put["fields"],
            [
                {"name": "name", "place": "path", "required": True, "header": None},
                {"name": "data", "place": "raw", "required": True, "header": None},
                {"name": "note", "place": "query", "required": False, "header": None},
            ],
        )
        self.assertEqual(json.loads(self.good("toy_put", "--help", "--json").out), put)

    def test_the_fields_of_one_are_told(self) -> None:
        out = self.good("toy_put", "--help").out.decode()
        for text in ("POST /v1/toy/{name}", "permission write", "data=@FILE", "name=TEXT"):
            self.assertIn(text, out)

    def test_what_call_is_is_told_without_a_node(self) -> None:
        self.node.stop()
        self.assertIn("FIELD=VALUE", self.good("--help").out.decode())
        self.assertIn("DOOR_UNREACHABLE", self.refused("toy_put", "--help"))
        self.assertIn("DOOR_UNREACHABLE", self.refused())

    def test_a_name_that_is_nearly_right_is_recognised(self) -> None:
        for arguments in (["toy_pit"], ["toy_pit", "--help"]):
            self.assertIn("did you mean 'toy_put'?", self.refused(*arguments))


class VersionTests(CallCase):
    """A node of another version."""

    def test_an_older_one_has_no_list(self) -> None:
        self.patch(verb, "OPERATIONS", msgspec.structs.replace(OPERATIONS, path="/v1/nowhere"))
        self.assertIn("older version", self.refused("toy_page"))

    def test_a_list_of_another_form_is_refused_in_words(self) -> None:
        self.patch(verb, "OPERATIONS", msgspec.structs.replace(OPERATIONS, path="/v1/page"))
        self.assertIn("[REMOTE_ERROR]", self.refused("toy_page"))


class TokenTests(CallCase):
    def test_another_token_is_shown(self) -> None:
        path = self.file(b"wrong\n")
        error = self.refused("toy_page", "--token-file", path)
        self.assertIn("[UNAUTHORIZED]", error)
        self.assertIn(f"the token in {path}: it may be revoked", error)

    def test_a_file_that_others_can_read_is_refused(self) -> None:
        path = self.file(b"wrong\n")
        os.chmod(path, 0o640)
        error = self.refused("toy_page", "--token-file", path)
        self.assertIn("[UNSAFE_PERMISSIONS]", error)
        self.assertIn(f"chmod 600 {path}", error)

    def test_a_file_without_a_token_is_refused(self) -> None:
        for content in (b"", b"two words", b"\xff", b"a\nb"):
            error = self.refused("toy_page", "--token-file", self.file(content))
            self.assertIn("[CONFIG_INVALID]", error)
