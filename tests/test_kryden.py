"""
C{docs/howto/kryden.md} maps everything of Kryden's to something of ours that exists.

What stands in the second column is tried: commands and their options, settings, operations and
routes.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.cli.main import cli
from meshkit.runtime.config import Declaration
from meshkit.runtime.registry import discover_parts
from meshkit.services.config import NodeConfig
from meshkit.services.node import all_sections

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = DOCS / "howto" / "kryden.md"

#: Commands of Kryden's, and what its peers and its cluster's configuration have: none may be
#: left out of the table.
COMMANDS: Final = [
    "encode",
    "decode",
    "simulate",
    "simulate-scheduler",
    "inspect",
    "identity",
    "cluster-put",
    "cluster-scheduler",
    "peer-runtime",
]
OPTIONS: Final = [
    "--out",
    "--data-shards",
    "--parity-shards",
    "--size",
    "--peers",
    "--fail-peers",
    "--failure-domains",
    "--reserved-bytes",
    "--repair-headroom-bytes",
    "--skip-repair",
    "--sample-count",
    "--max-repairs-per-run",
    "--object-cooldown-ms",
    "--run-once",
    "--state",
    "--sample-count",
    "--max-repairs-per-run",
    "--object-cooldown-ms",
    "--degraded-backoff-base-ms",
    "--degraded-backoff-max-ms",
    "--id",
    "--config",
    "--authority",
    "--peer",
    "--tls-insecure",
    "--capacity-bytes",
    "--host",
    "--port",
    "--heartbeat-ttl-ms",
    "--failure-bucket",
    "--failure-host",
    "--storage-dir",
    "--tls-cert",
    "--tls-key",
    "--trusted-authority-id",
    "--trusted-authority-public-key-base64",
]
ROUTES: Final = [
    "GET /health",
    "GET /record",
    "GET /heartbeat",
    "POST /store",
    "POST /retrieve",
    "POST /audit",
    "POST /online",
    "POST /corrupt",
]
SETTINGS: Final = [
    "statePath",
    "authorityPath",
    "peerEndpoints",
    "tlsInsecure",
    "dataShards",
    "parityShards",
    "scheduler",
    "intervalMs",
    "sampleCount",
    "maxRepairsPerRun",
    "objectCooldownMs",
    "degradedBackoffBaseMs",
    "degradedBackoffMaxMs",
]

#: In the second column, where nothing is.
NOTHING: Final = ("declined",)


@frozen
class Row:
    """
    @ivar theirs: what it is about.
    @ivar ours: what stands in code in the second column.
    @ivar says: the second column.
    @ivar why: the third.
    """

    theirs: str
    ours: tuple[str, ...]
    says: str
    why: str


@cache
def rows() -> tuple[Row, ...]:
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| Kryden"):
            theirs, says, why = (cell.strip() for cell in line.split("|")[1:-1])
            found.append(Row(theirs, tuple(re.findall("`([^`]+)`", says)), says, why))
    return tuple(found)


@cache
def declaration() -> Declaration[Any]:
    return Declaration(NodeConfig, all_sections(discover_parts(meshkit_plugins)))


def problem_of(text: str) -> str | None:
    """@return: what is wrong with something that is said to be ours; L{None} if it is there."""
    settings = {setting.key for setting in declaration().settings}
    if text.startswith("meshkit "):
        return _problem_of_command(text.split()[1:])
    if re.fullmatch("(GET|POST) /v1/.*", text):
        known = (DOCS / "protocol" / "storage.md").read_text("utf-8")
        return None if text.partition(" ")[2] in known else "no route of a storage peer"
    if text == "twistd mesh-storage":
        plugin = DOCS.parent / "twisted" / "plugins" / "meshkit_storage.py"
        return None if plugin.exists() else "no daemon"
    if text in ("MESHKIT_*", "meshkit.toml"):
        return None
    return None if text in settings else "no setting"


def _problem_of_command(words: list[str]) -> str | None:
    command: click.Command = cli
    context = click.Context(cli)
    for number, word in enumerate(words):
        if word.startswith("-"):
            names = {name for each in command.params for name in each.opts}
            if word not in names:
                return f"{command.name} has no option {word}"
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return f"{command.name} has no command {word}"
            command = found
        elif command.name == "call" and number == 1:
            from tests.services.calls import CALLS

            return None if word in CALLS else f"there is no operation {word}"
        else:
            return f"{command.name} is given {word}"
    return None


class KrydenTests(SynchronousTestCase):
    def test_everything_of_theirs_has_a_row(self) -> None:
        whole = " ".join(row.theirs for row in rows())
        words = set(re.findall(r"[A-Za-z][A-Za-z0-9-]*|--[a-z0-9-]+", whole.replace("`", " ")))
        for each in (*COMMANDS, *OPTIONS, *SETTINGS):
            self.assertIn(each, words)
        for route in ROUTES:
            self.assertIn(f"`{route}`", whole)

    def test_everything_of_ours_is_there(self) -> None:
        problems = {
            each: problem
            for row in rows()
            for each in row.ours
            if (problem := problem_of(each)) is not None
        }
        self.assertEqual(problems, {})

    def test_what_has_no_counterpart_says_why(self) -> None:
        for row in rows():
            with self.subTest(row.theirs):
                if row.ours:
                    self.assertNotIn(row.says, NOTHING)
                else:
                    self.assertIn(row.says, NOTHING)
                    self.assertGreater(len(row.why), 5)

    def test_nothing_is_put_off(self) -> None:
        self.assertEqual([row.theirs for row in rows() if row.says == "later"], [])

    def test_what_is_not_there_would_be_found(self) -> None:
        for text in (
            "meshkit object fetch",
            "meshkit object put --plan",
            "meshkit object put file",
            "meshkit call no_such_operation",
            "storage.scream",
            "GET /v1/hearsay",
        ):
            self.assertIsNotNone(problem_of(text), text)
