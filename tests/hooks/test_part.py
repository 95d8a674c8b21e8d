"""Tests of L{meshkit.hooks.part}: from the configuration to the doors."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import ConfigError, NotFound, UnsafePermissions, WebhookSecretInvalid
from meshkit.hooks import operations as offered
from meshkit.hooks.config import CommandHook, Config, WebHook
from meshkit.hooks.part import HooksPart, load_secrets, make_part
from meshkit.hooks.signing import WebhookSecret, verify
from meshkit.interfaces import IFeedStore, IMeshPart
from meshkit.testing.nodes import MemoryFiles, MemoryHost, make_context, run_clock
from meshkit.testing.transports import MemoryNetwork
from tests import declared
from tests.hooks.support import PartCase
from tests.hooks.test_command import FakeProcess
from tests.hooks.test_webhook import OK, ServerFactory

RECEIVER = "10.0.0.9"


class HooksCase(PartCase):
    """The part, with processes and a network that exist here only."""

    def setUp(self) -> None:
        super().setUp()
        self.processes: list[FakeProcess] = []
        self.network = MemoryNetwork(self.clock, latency=0.01)
        self.files = MemoryFiles()
        self.part: HooksPart | None = None

    def tearDown(self) -> None:
        self.stop()
        super().tearDown()

    def stop(self) -> None:
        if self.part is not None:
            stopping = self.part.stopService()
            for process in self.processes:
                if not process.protocol.ended.called:
                    process.exit(number=15)
            run_clock(self.clock, 5)
            self.successResultOf(stopping)
            self.part = None

    def spawn(self, protocol: Any, executable: str, arguments: list[str], **options: Any) -> Any:
        # No process of this machine can have such an id.
        process = FakeProcess(10**9 + len(self.processes), protocol, arguments, options)
        self.processes.append(process)
        protocol.makeConnection(process)
        return process

    def start(self, config: Config, *, store: Any = True) -> HooksPart:
        host = MemoryHost(self.clock, self.network, "10.0.0.1")
        host.spawnProcess = self.spawn  # type: ignore[attr-defined]
        context = evolve(
            self.context,
            reactor=host,
            config=config,
            files=self.files,
            data_folder="/me/hooks",
            find=({IFeedStore: self.feed} if store else {}).get,
        )
        self.part = make_part(context)
        self.done(self.part.startService())
        return self.part

    def serve(self, answer: Any) -> ServerFactory:
        factory = ServerFactory(answer)
        self.listen(factory)
        return factory

    def listen(self, factory: Factory) -> None:
        self.successResultOf(self.network.server_endpoint(80, RECEIVER).listen(factory))

    def ask(self, operation: str, **fields: Any) -> Any:
        assert self.part is not None
        (bound,) = [b for b in self.part.operations() if b.operation.name == operation]
        answer = declared.handler(bound)(bound.operation.request(**fields))
        return self.done(answer) if hasattr(answer, "send") else answer

    def hook(self, name: str) -> offered.HookStatus:
        hooks: list[offered.HookStatus] = self.ask("hooks_list")
        (found,) = [hook for hook in hooks if hook.name == name]
        return found


COMMAND = CommandHook(name="run", run=("prog", "--token=T0KEN"), types=("note",))
WEBHOOK = WebHook(
    name="web",
    url=f"http://{RECEIVER}/T0KEN",
    plain_http=True,
    allow_addresses=(RECEIVER,),
    max_attempts=2,
    pause=1.0,
)


class Hooks(HooksCase):
    def test_it_is_a_part(self) -> None:
        verifyObject(IMeshPart, self.start(Config()))

    def test_a_message_goes_to_every_hook_that_is_for_it(self) -> None:
        server = self.serve(OK)
        self.start(Config(command=(COMMAND,), webhook=(WEBHOOK,)))
        self.publish({"type": "note"}, {"type": "other"})
        self.run_for(1)
        (process,) = self.processes
        process.exit()
        self.run_for(1)
        requests = [each.request for each in server.connections]
        self.assertEqual(len(requests), 2)
        assert requests[0] is not None
        self.assertEqual(process.written, requests[0][2])
        self.assertEqual(process.arguments[-3:], ["/me/hooks", "prog", "--token=T0KEN"])
        for name in ("run", "web"):
            self.assertEqual((self.hook(name).position, self.hook(name).behind), (2, 0))
        # Signed with a secret that was made for it.
        text = self.files.content["/me/hooks/web.secret"].decode().strip()
        _, headers, body = requests[0]
        verify((WebhookSecret.parse(text),), headers, body, self.context.wall_clock() / 10**9)
        self.assertEqual(self.files.modes["/me/hooks/web.secret"], 0o600)

    def test_how_they_do_is_told_without_secrets(self) -> None:
        server = self.serve(
            lambda server: server.send(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
        )
        part = self.start(Config(command=(COMMAND,), webhook=(WEBHOOK,)))
        self.publish({"type": "note"})
        self.run_for(0.5)
        run, web = part.status().hooks
        self.assertEqual((run.kind, run.target, run.state), ("command", "prog", "delivering"))
        self.assertEqual((web.kind, web.target), ("webhook", f"http://{RECEIVER}"))
        self.assertEqual((web.failures, web.last_error), (1, "it answered 500"))
        self.assertNotIn("T0KEN", str(part.status()))
        self.run_for(60)
        web = self.hook("web")
        self.assertEqual((web.state, web.parked, web.position), ("idle", 1, 1))
        self.assertEqual(len(server.connections), 2)

    def test_what_was_given_up_can_be_listed_tried_again_and_dropped(self) -> None:
        fate = {"answer": b"HTTP/1.1 422 X\r\nContent-Length: 0\r\n\r\n"}
        server = self.serve(lambda server: server.send(fate["answer"]))
        self.start(Config(webhook=(WEBHOOK,)))
        self.publish("a", "b", "c")
        self.run_for(5)
        listed = self.ask("hooks_parked", name="web")
        self.assertEqual([each.position for each in listed], [1, 2, 3])
        self.assertEqual(
            (listed[0].error, listed[0].attempts, listed[0].author, listed[0].sequence),
            ("it answered 422", 1, self.context.identity.public.text, 1),
        )
        self.assertEqual(
            [each.position for each in self.ask("hooks_parked", name="web", after=1, limit=1)], [2]
        )
        self.assertEqual(self.ask("hooks_discard", name="web", position=2).count, 1)
        fate["answer"] = OK
        self.assertEqual(self.ask("hooks_retry", name="web").count, 2)
        self.run_for(5)
        self.assertEqual(self.ask("hooks_parked", name="web"), [])
        self.assertEqual((self.hook("web").parked, self.hook("web").delivered), (0, 2))
        self.assertEqual(len(server.connections), 5)

    def test_what_is_not_there_is_named(self) -> None:
        self.start(Config(webhook=(WEBHOOK,)))
        for operation, fields in (
            ("hooks_parked", {"name": "wbe"}),
            ("hooks_retry", {"name": "wbe"}),
            ("hooks_discard", {"name": "wbe"}),
            ("hooks_retry", {"name": "web", "position": 7}),
            ("hooks_discard", {"name": "web", "position": 7}),
        ):
            assert self.part is not None
            (bound,) = [b for b in self.part.operations() if b.operation.name == operation]
            waiting = Deferred.fromCoroutine(
                declared.handler(bound)(bound.operation.request(**fields))
            )
            self.run_for()
            error = self.failureResultOf(waiting, NotFound).value
            self.assertIn("web", str(error))

    def test_without_feeds_it_rests_and_says_so(self) -> None:
        part = self.start(Config(command=(COMMAND,)), store=False)
        self.assertEqual(part.status(), offered.HooksStatus([], "no part provides IFeedStore"))
        self.assertEqual(self.ask("hooks_list"), [])

    def test_a_stop_ends_what_runs_and_it_comes_again(self) -> None:
        self.start(Config(command=(COMMAND,)))
        self.publish({"type": "note"})
        self.run_for()
        self.stop()
        self.start(Config(command=(COMMAND,)))
        self.assertEqual(len(self.processes), 2)
        self.assertEqual(self.processes[0].written, self.processes[1].written)
        self.assertEqual(self.hook("run").parked, 0)

    def test_commands_of_all_hooks_share_one_limit(self) -> None:
        commands = tuple(CommandHook(name=f"c{number}", run=("x",)) for number in range(5))
        self.start(Config(command=commands, max_running=3))
        self.publish("a")
        self.run_for()
        self.assertEqual(len(self.processes), 3)


class Secrets(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = MemoryFiles()
        self.one, self.two = WebhookSecret(b"1" * 32), WebhookSecret(b"2" * 24)

    def load(self, **fields: Any) -> list[WebhookSecret]:
        hook = WebHook(name="web", url="https://example.com/", **fields)
        return load_secrets(self.files, Random(1), "/data/hooks", hook)

    def test_one_is_made_and_stays(self) -> None:
        (made,) = self.load()
        self.assertEqual(self.load(), [made])
        self.assertEqual(len(made.raw), 32)

    def test_a_file_may_be_named_and_hold_two(self) -> None:
        text = f"{self.one.text}\n{self.two.text}\n".encode()
        self.files.write_atomic("/etc/x", text)
        self.files.write_atomic("/data/hooks/y", text)
        for name in ("/etc/x", "y"):
            self.assertEqual(self.load(secret_file=name), [self.one, self.two])

    def test_one_that_was_named_is_not_made(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            self.load(secret_file="/etc/x")
        self.assertIn("/etc/x", str(caught.exception))

    def test_what_others_can_read_is_refused(self) -> None:
        self.files.write_atomic("/data/hooks/web.secret", self.one.text.encode(), 0o644)
        with self.assertRaises(UnsafePermissions):
            self.load()

    def test_what_is_no_secret_is_named_and_not_repeated(self) -> None:
        three = " ".join([self.one.text] * 3).encode()
        for wrong in (b"", b"\n", b"whsec_T0KEN", b"T0KEN", b"\xff", three, b"x" * 5000):
            self.files.write_atomic("/data/hooks/web.secret", wrong)
            with self.subTest(wrong[:20]), self.assertRaises(ConfigError) as caught:
                self.load()
            self.assertIn("web.secret", str(caught.exception))
            self.assertNotIn("T0KEN", str(caught.exception))
        self.assertTrue(issubclass(WebhookSecretInvalid, ConfigError))


class Authorities(SynchronousTestCase):
    def test_a_file_of_certificates_has_to_hold_some(self) -> None:
        for content in (None, b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
            context = make_context(
                Clock(),
                config=Config(
                    webhook=(WebHook(name="web", url="https://example.com/", ca_file="/etc/ca"),)
                ),
                found={IFeedStore: object()},
            )
            files: Any = context.files
            if content is not None:
                files.write_atomic("/etc/ca", content)
            with self.subTest(content), self.assertRaises(ConfigError) as caught:
                make_part(context)
            self.assertIn("/etc/ca", str(caught.exception))
