"""
C{meshkit mcp}: several clients on one node, each in a process of its own, that come, go and
are killed, and a node that is.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from contextlib import closing
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.process.agents import (
    HELLO,
    Agent,
    HttpAgent,
    StdioAgent,
    daemons,
    end_daemon,
    holder,
    resident,
)
from tests.process.mesh import MESHKIT, Mesh, Node, alive, run, wait_for

CHANGED: Final = "notifications/tools/list_changed"
#: Makes a noise as soon as the proxy is imported.
NOISY: Final = """
import builtins, os, sys
real = builtins.__import__
def noisy(name, *more, **named):
    module = real(name, *more, **named)
    if name == "meshkit.cli.proxy" and not os.environ.get("NOISY"):
        os.environ["NOISY"] = "yes"
        print("printed", flush=True)
        os.system("echo by a child; cat")
    return module
builtins.__import__ = noisy
"""
MIB: Final = 1024 * 1024


class _Agents(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.agents: list[Any] = []
        self.addCleanup(self.close_agents)

    def node(self, name: str = "a", settings: str = "", **more: Any) -> Node:
        """A node that can be started in the background."""
        node = self.mesh.node(name, **more)
        text = 'listen = "tcp:0:interface=127.0.0.1"\n'
        if "api" not in settings:
            text += 'api = "auto"\n'
        (node.data / "meshkit.toml").write_text(text + settings)
        self.addCleanup(end_daemon, node)
        return node

    def agent(self, node: Node, *arguments: str, **more: Any) -> StdioAgent:
        agent = StdioAgent(node, *arguments, **more)
        self.agents.append(agent)
        return agent

    def friend(self, node: Node, *arguments: str, **more: Any) -> StdioAgent:
        """One that has shaken hands."""
        agent = self.agent(node, *arguments, **more)
        agent.shake_hands()
        return agent

    def visitor(self, node: Node) -> HttpAgent:
        """The same over HTTP."""
        agent = HttpAgent(node)
        agent.shake_hands()
        agent.listen()
        self.addCleanup(agent.close)
        return agent

    def close_agents(self) -> None:
        for agent in self.agents:
            agent.kill()

    def check_pure(self, agent: StdioAgent) -> None:
        """Nothing but messages is on its wire."""
        self.assertNotEqual(agent.lines, [])
        for line in agent.lines:
            self.assertEqual(json.loads(line)["jsonrpc"], "2.0", line)


class StartTests(_Agents):
    """The node is started by whoever needs it."""

    def test_five_at_the_same_moment_start_one_node(self) -> None:
        node = self.node()
        agents = [self.agent(node) for _ in range(5)]
        for agent in agents:
            agent.shake_hands()
        (pid,) = daemons(node)
        self.assertEqual(holder(node), pid)
        answers = [agent.call("node_identity")["data"] for agent in agents]
        self.assertEqual(answers, [answers[0]] * 5)

        # It is nobody's child: not in the session of any, nor in its process group.
        self.assertNotIn(os.getsid(pid), [os.getsid(agent.process.pid) for agent in agents])
        for agent in agents[:4]:
            agent.kill()
        self.assertEqual(agents[4].call("node_identity")["data"], answers[0])
        self.assertEqual(agents[4].hang_up(), 0)
        self.check_pure(agents[4])
        self.assertEqual(agents[4].said, "")
        time.sleep(0.2)
        self.assertEqual(daemons(node), [pid])
        # And the next one finds it.
        self.friend(node)
        self.assertEqual(daemons(node), [pid])

    def test_what_one_that_was_killed_has_left_is_no_node(self) -> None:
        node = self.node()
        self.friend(node).hang_up()
        (first,) = daemons(node)
        end_daemon(node)
        self.assertTrue((node.data / "endpoints.json").exists())
        with closing(socket.create_server(("127.0.0.1", 0))) as stranger:
            url = f"http://127.0.0.1:{stranger.getsockname()[1]}"
            (node.data / "endpoints.json").write_text(json.dumps({"api": [url], "mesh": []}))
            self.friend(node)
            (second,) = daemons(node)
            self.assertNotEqual(first, second)
            stranger.setblocking(False)
            self.assertRaises(BlockingIOError, stranger.accept)

    def test_it_outlives_who_is_killed_while_it_starts(self) -> None:
        node = self.node()
        agent = self.agent(node)
        # twistd runs, and has not daemonised yet.
        wait_for("twistd", lambda: daemons(node), step=0.001)
        self.assertEqual(holder(node), 0)
        agent.kill()
        wait_for("the node", lambda: holder(node))
        self.friend(node).call("node_status")
        self.assertEqual(len(daemons(node)), 1)

    def test_two_nodes_of_one_user_get_along_without_settings(self) -> None:
        one, other = self.node("a"), self.node("b")
        for node in (one, other):
            (node.data / "meshkit.toml").unlink()
        ids = {
            self.friend(node).call("node_identity")["data"]["public_id"] for node in (one, other)
        }
        self.assertEqual(len(ids), 2)
        self.assertNotEqual(one.door, other.door)

    def test_a_node_that_does_not_start(self) -> None:
        node = self.node(settings="workers = 1000\n")
        agent = self.agent(node)
        refused = agent.answer(agent.begin("initialize", **HELLO))
        self.assertIn("workers is 1000", refused["error"]["message"])
        self.assertEqual(agent.wait(), 1)
        *log, last = agent.said.splitlines()
        self.assertTrue(last.startswith("meshkit: the node on "), last)
        self.assertTrue(last.endswith(" [NODE_NOT_STARTED]"), last)
        self.assertIn("workers is 1000", "\n".join(log))
        self.assertNotIn("Traceback", agent.said)
        self.assertEqual(daemons(node), [])

    def test_a_folder_that_was_not_made(self) -> None:
        done = run(*MESHKIT, "-d", "nowhere", "mcp", home=self.mesh.folder)
        self.assertEqual((done.code, done.out), (1, ""))
        self.assertIn(f"meshkit --data-dir {self.mesh.folder / 'nowhere'} init", done.err)
        self.assertTrue(done.err.endswith("[NOT_FOUND]\n"), done.err)
        self.assertFalse((self.mesh.folder / "nowhere").exists())

    def test_it_is_not_to_be_started(self) -> None:
        node = self.node()
        agent = self.agent(node, "--no-start")
        refused = agent.answer(agent.begin("initialize", **HELLO))
        self.assertEqual(refused["error"]["data"]["code"], "DOOR_UNREACHABLE")
        self.assertEqual(agent.wait(), 1)
        self.assertIn("[DOOR_UNREACHABLE]", agent.said)
        self.assertEqual(daemons(node), [])


class SharingTests(_Agents):
    """Three clients over standard input and output and one over HTTP, on one node."""

    def test_all_see_the_same_and_none_needs_the_others(self) -> None:
        node = self.node()
        agents: list[Agent] = [self.friend(node) for _ in range(3)]
        agents.append(self.visitor(node))
        self.assertEqual(len(daemons(node)), 1)
        lists = [agent.tools for agent in agents]
        self.assertIn("feed_publish", lists[0])
        self.assertEqual(lists, [lists[0]] * 4)

        # What one publishes, all have.
        for number, agent in enumerate(agents):
            agent.call("feed_publish", content={"text": f"heron {number}"})
        for agent in agents:
            found = agent.call("feed_search", q="heron")["data"]
            texts = sorted(each["content"]["text"] for each in found)
            self.assertEqual(texts, [f"heron {number}" for number in range(4)])

        # A peer comes, and all are told that there is something to read.
        other = self.mesh.node("b", "--peer", node.address, network=node).start()
        for agent in agents:
            agent.wait_told(CHANGED)
            (status,) = [
                tool for tool in agent.ask("tools/list")["tools"] if tool["name"] == "node_status"
            ]
            self.assertNotIn("No peer is connected", status["description"])

        # Any may be killed.
        first, second, third, fourth = agents
        assert isinstance(first, StdioAgent) and isinstance(third, StdioAgent)
        first.kill()
        second.call("node_status")
        third.kill()
        second.call("feed_publish", content={"text": "heron 4"})
        self.assertEqual(len(fourth.call("feed_search", q="heron")["data"]), 5)
        other.stop()
        second.wait_told(CHANGED)
        fourth.wait_told(CHANGED)

    def test_a_client_that_never_reads_is_its_own_problem(self) -> None:
        node = self.node()
        silent = self.agent(node, read=False)
        silent.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
        silent.notify("notifications/initialized")
        friend = self.friend(node)
        (pid,) = daemons(node)
        friend.tools  # noqa: B018 the node makes what it keeps
        before = resident(pid), resident(silent.process.pid)

        # It asks and asks, until nobody takes its questions any more.
        assert silent.process.stdin is not None
        wire = silent.process.stdin.fileno()
        os.set_blocking(wire, False)
        question = b'{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n'
        asked = 0
        while asked < 50_000:
            _, ready, _ = select.select([], [wire], [], 2)
            if not ready:
                break
            asked += 1
            os.write(wire, question % asked)
        self.assertLess(asked, 50_000)
        self.assertLess(resident(pid) - before[0], 48 * MIB)
        self.assertLess(resident(silent.process.pid) - before[1], 48 * MIB)
        friend.call("node_status")

        # When it reads at last, nothing is missing.
        silent._reader.start()
        wait_for("all answers", lambda: len(silent.lines) >= asked)
        self.check_pure(silent)

    def test_a_line_without_measure(self) -> None:
        agent = self.friend(self.node())
        text = "x" * (20 * MIB)
        agent._number += 1
        agent.write(
            json.dumps(
                {
                    "method": "tools/call",
                    "params": {"name": "feed_publish", "arguments": {"content": text}},
                    "jsonrpc": "2.0",
                    "id": agent._number,
                }
            ).encode()
            + b"\n"
        )
        refused = agent.answer(agent._number)
        self.assertEqual(refused["error"]["data"]["code"], "BODY_TOO_LARGE")
        agent.call("node_status")
        self.assertLess(resident(agent.process.pid), 160 * MIB)
        self.assertEqual(agent.hang_up(), 0)

    def test_what_is_not_json_does_not_end_it(self) -> None:
        agent = self.friend(self.node())
        agent.write(b"hello\n")
        refused = agent._answers.get(timeout=30)
        self.assertEqual(refused["error"]["code"], -32700)
        agent.call("node_status")

    def test_nothing_else_gets_onto_the_wire(self) -> None:
        """Somebody's module prints when it is imported, and a child of it reads."""
        node = self.node(settings='log_level = "debug"\n')
        (node.home / "sitecustomize.py").write_text(NOISY)
        agent = self.friend(node, PYTHONPATH=str(node.home))
        for _ in range(3):
            agent.call("feed_publish", content="noise")
        self.assertEqual(agent.hang_up(), 0)
        self.check_pure(agent)
        self.assertEqual(len(agent.lines), 4)
        self.assertIn("printed\n", agent.said)


class RestartTests(_Agents):
    """The node goes and comes back."""

    def test_all_find_the_node_that_was_restarted(self) -> None:
        node = self.node()
        agents = [self.friend(node) for _ in range(3)]
        agents[0].call("feed_publish", content="before")
        waiting = agents[0].begin(
            "tools/call", name="feed_events", arguments={"wait_seconds": 50, "max_items": 1}
        )
        # So that it has reached the node.
        agents[1].call("node_status")
        wait_for("a call under way", lambda: agents[1].call("node_status"))
        end_daemon(node)
        refused = agents[0].answer(waiting)
        self.assertIn("restarted while it worked on this", refused["error"]["message"])
        for agent in agents:
            agent.heard.clear()
        node.start()
        for agent in agents:
            agent.wait_told(CHANGED)
            self.assertEqual(agent.call("feed_search", q="before")["metadata"]["total"], 1)
            self.assertIn("feed_publish", agent.tools)
            self.assertTrue(alive(agent.process.pid))
            self.check_pure(agent)
        node.stop()

    def test_a_request_starts_it_again(self) -> None:
        node = self.node()
        agents = [self.friend(node) for _ in range(3)]
        (first,) = daemons(node)
        end_daemon(node, signal.SIGTERM)
        # Nobody asks for anything: then it stays stopped.
        time.sleep(0.5)
        self.assertEqual(daemons(node), [])
        numbers = [agent.begin("tools/list") for agent in agents]
        for agent, number in zip(agents, numbers, strict=True):
            self.assertIn("result", agent.answer(number))
        (second,) = daemons(node)
        self.assertNotEqual(first, second)

    def test_it_may_come_back_elsewhere(self) -> None:
        node = self.node()
        agent = self.friend(node)
        end_daemon(node, signal.SIGTERM)
        where = node.home / "door"
        node.start("--api", f"unix:{where}")
        agent.wait_told(CHANGED)
        self.assertEqual(agent.call("node_status")["data"]["api"], [f"unix:{where}"])
        node.stop()


class EndTests(_Agents):
    """Clients go in different ways."""

    def test_what_is_owed_is_delivered_when_the_input_ends(self) -> None:
        node = self.node()
        self.friend(node).hang_up()
        lines = [
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
            {"jsonrpc": "2.0", "id": 3, "method": "ping"},
        ]
        done = node.good("mcp", stdin=b"".join(json.dumps(each).encode() + b"\n" for each in lines))
        self.assertEqual(sorted(json.loads(line)["id"] for line in done.lines), [1, 2, 3])

    def test_nothing_is_said_and_nothing_answered(self) -> None:
        self.assertEqual(self.node().good("mcp").out, "")

    def test_a_signal_ends_it_in_order(self) -> None:
        node = self.node()
        for number in (signal.SIGTERM, signal.SIGINT):
            agent = self.friend(node)
            agent.begin("tools/call", name="feed_events", arguments={"wait_seconds": 50})
            began = time.monotonic()
            agent.process.send_signal(number)
            self.assertEqual(agent.wait(), 0)
            self.assertLess(time.monotonic() - began, 20)
            self.assertNotIn("Traceback", agent.said)
            self.check_pure(agent)
        self.assertEqual(len(daemons(node)), 1)

    def test_a_client_that_closes_its_ears(self) -> None:
        node = self.node()
        agent = self.friend(node, read=True)
        other = self.agent(node, read=False)
        assert other.process.stdout is not None
        other.process.stdout.close()
        other.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
        other.wait()
        self.assertNotIn("Traceback", other.said)
        agent.call("node_status")


class AccessTests(_Agents):
    """Whose token it is, and which names are shown."""

    def test_a_token_of_its_own(self) -> None:
        node = self.node()
        self.friend(node).hang_up()
        token = node.good("token", "add", "reader", "--scope", "read", "--json").json["token"]
        file = node.home / "reader.token"
        file.touch(0o600)
        file.write_text(token + "\n")
        for arguments, more in (
            (("--token-file", str(file)), {"MESHKIT_TOKEN": "nonsense"}),
            ((), {"MESHKIT_TOKEN": token}),
        ):
            agent = self.friend(node, *arguments, **more)
            names = agent.tools
            self.assertIn("feed_search", names)
            self.assertNotIn("feed_publish", names)
            self.assertEqual(agent.hang_up(), 0)
        last = self.friend(node, "--token-file", str(file))
        node.good("token", "revoke", "reader")
        self.assertEqual(last.wait(), 1)
        self.assertIn("[UNAUTHORIZED]", last.said)
        self.assertNotIn(token, last.said)

    def test_a_token_that_others_can_read(self) -> None:
        node = self.node()
        file = node.home / "token"
        file.write_text("x\n")
        file.chmod(0o644)
        agent = self.agent(node, "--token-file", str(file))
        self.assertEqual(agent.wait(), 1)
        self.assertIn("[UNSAFE_PERMISSIONS]", agent.said)

    def test_what_is_no_token(self) -> None:
        node = self.node()
        file = node.home / "token"
        file.touch(0o600)
        file.write_text("two words\n")
        arguments: tuple[str, ...]
        more: dict[str, str]
        for arguments, more in (
            (("--token-file", str(file)), {}),
            (("--token-file", "nowhere"), {}),
            ((), {"MESHKIT_TOKEN": "wörd"}),
        ):
            # One after the other: it waits for a question for some seconds only.
            agent = self.agent(node, *arguments, **more)
            refused = agent.answer(agent.begin("initialize", **HELLO))
            self.assertIn("token", refused["error"]["message"])
            self.assertEqual(agent.wait(), 1)
            self.assertTrue(agent.said.endswith(" [CONFIG_INVALID]\n"), agent.said)

    def test_a_profile(self) -> None:
        node = self.node()
        names = self.friend(node, "--profile", "egregore").tools
        self.assertIn("egregore_publish", names)
        self.assertNotIn("feed_publish", names)
        for wrong in ("nonsense", "no name"):
            agent = self.agent(node, "--profile", wrong)
            refused = agent.answer(agent.begin("initialize", **HELLO))
            self.assertIn(wrong, refused["error"]["message"])
            self.assertEqual(agent.wait(), 1)
            self.assertTrue(agent.said.endswith(" [INVALID_REQUEST]\n"), agent.said)

    def test_the_door_is_a_unix_socket(self) -> None:
        node = self.node(settings='api = "unix:door"\n')
        self.friend(node).call("node_status")
        self.assertTrue((node.data / "door").is_socket())


class ConfigTests(_Agents):
    """What is pasted into clients."""

    def test_what_is_printed_works(self) -> None:
        node = self.node()
        document = node.good("mcp", "config", "--client", "claude", "--json").json
        server = document["mcpServers"]["meshkit"]
        self.assertTrue(os.path.isabs(server["command"]))
        self.assertIn(str(node.data), server["args"])
        at = server["args"].index("--data-dir")
        agent = self.agent(node, command=[server["command"], *server["args"][:at]])
        agent.shake_hands()
        self.assertIn("feed_publish", agent.tools)
        everything = node.good("mcp", "config").out
        self.assertNotIn(node.token, everything)
        for name in ("mcpServers", '"servers"', ".vscode/mcp.json", ".cursor/mcp.json"):
            self.assertIn(name, everything)

    def test_options_go_into_it(self) -> None:
        node = self.node()
        (node.home / "t").touch(0o600)
        (node.home / "t").write_text("token\n")
        document = node.good(
            *("mcp", "config", "--client", "generic", "--json", "--profile", "egregore"),
            *("--no-start", "--token-file", "t"),
        ).json
        at = document["args"].index("mcp")
        self.assertEqual(
            document["args"][at:],
            ["mcp", "--profile", "egregore", "--no-start", "--token-file", str(node.home / "t")],
        )

    def test_what_would_not_work_is_printed_with_a_warning(self) -> None:
        node = self.node()
        (node.home / "open").write_text("token\n")
        (node.home / "open").chmod(0o644)
        for arguments, warnings in (
            (("--profile", "nocturne"), ["the profile 'nocturne' holds no tools"]),
            (("--profile", "cor"), ["there is no profile 'cor'"]),
            (("--token-file", "none"), [f"there is no file {node.home / 'none'}"]),
            (("--token-file", "open"), ["chmod 600"]),
            (("--data-dir", "empty"), [f"no identity in {node.home / 'empty'}"]),
        ):
            before = arguments if arguments[0] == "--data-dir" else ()
            after = () if before else arguments
            with self.subTest(arguments):
                done = node.cli(*before, "mcp", "config", "--client", "claude", "--json", *after)
                self.assertEqual(done.code, 0, done.err)
                self.assertIn(arguments[1], json.dumps(done.json))
                said = done.err.splitlines()
                self.assertEqual(len(said), len(warnings), said)
                for line, warning in zip(said, warnings, strict=True):
                    self.assertTrue(line.startswith("meshkit: warning: "), line)
                    self.assertIn(warning, line)

    def test_over_http(self) -> None:
        node = self.node()
        self.assertEqual(node.cli("mcp", "config", "--http").code, 1)
        self.friend(node)
        told = node.good("mcp", "config", "--http", "--client", "vscode").out
        self.assertIn(f"http://{node.host}/mcp", told)
        self.assertIn("It changes", told)
        self.assertIn(str(node.data / "door.token"), told)
        self.assertNotIn(node.token, told)

    def test_instructions(self) -> None:
        node = self.node()
        for arguments in (("mcp", "--instructions"), ("mcp", "instructions")):
            told = node.good(*arguments).out
            self.assertIn("never instructions", told)
