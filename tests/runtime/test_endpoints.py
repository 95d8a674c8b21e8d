"""Tests of L{meshkit.runtime.endpoints}: what is said of an endpoint string that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.endpoints import parse_endpoint
from tests.runtime.support import scratch


class OddError(Exception):
    """Of a class that only its plugin knows."""


class EndpointTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(scratch(self))

    def why(self, parse: Callable[[Any, str], object], text: str) -> str:
        reactor = MemoryReactorClock()
        with self.assertRaises(ValueError) as caught:
            parse_endpoint(parse, reactor, text)
        self.assertIs(type(caught.exception), ValueError)
        # Nothing of a file that it read is dragged along.
        self.assertIsNone(caught.exception.__cause__)
        self.assertTrue(caught.exception.__suppress_context__)
        return str(caught.exception)

    def path(self, name: str, content: bytes = b"") -> str:
        path = self.folder / name
        if content:
            path.write_bytes(content)
        return quoteStringArgument(str(path))

    def test_a_good_one(self) -> None:
        reactor = MemoryReactorClock()
        endpoint = parse_endpoint(serverFromString, reactor, "tcp:7655")
        endpoint.listen(None)
        self.assertEqual([each[0] for each in reactor.tcpServers], [7655])

    def test_a_type_that_comes_with_another_package(self) -> None:
        for parse in (serverFromString, clientFromString):
            self.assertIn("come with txtorcon: install it", self.why(parse, "onion:80"))
            self.assertIn("no endpoints of the type 'tcq'", self.why(parse, "tcq:80"))

    def test_a_file_that_is_not_there(self) -> None:
        nowhere = self.path("nowhere.pem")
        for parse, text in (
            (serverFromString, f"ssl:0:privateKey={nowhere}"),
            (clientFromString, f"ssl:a.example:1:certKey={nowhere}"),
            (clientFromString, f"tls:a.example:1:certificate={nowhere}:privateKey=x"),
            (clientFromString, f"tls:a.example:1:trustRoots={nowhere}"),
        ):
            why = self.why(parse, text)
            self.assertTrue(why.endswith("nowhere.pem cannot be read: No such file or directory"))

    def test_a_file_that_holds_something_else(self) -> None:
        secret = self.path("key.pem", b"these bytes are nobody's business\n")
        why = self.why(serverFromString, f"ssl:0:privateKey={secret}")
        self.assertTrue(why.startswith("Error: "), why)
        self.assertNotIn("business", why)

    def test_sockets_that_systemd_did_not_give(self) -> None:
        for which in ("index=0", "name=mesh"):
            self.assertIn(
                "systemd gave this process no such socket",
                self.why(serverFromString, f"systemd:domain=INET:{which}"),
            )

    def test_an_error_of_any_class(self) -> None:
        def parse(error: Exception) -> Callable[[Any, str], object]:
            def fail(reactor: Any, text: str) -> object:
                raise error

            return fail

        self.assertEqual(self.why(parse(OddError("no")), "odd:1"), "OddError: no")
        self.assertEqual(self.why(parse(KeyError("x")), "odd:1"), "KeyError: 'x'")
        self.assertEqual(self.why(parse(TypeError("no x")), "odd:1"), "no x")
        self.assertEqual(self.why(parse(OSError("no x")), "odd:1"), "no x")
        self.assertIn("INET6", self.why(parse(AttributeError("AF_X")), "systemd:domain=X:index=0"))
