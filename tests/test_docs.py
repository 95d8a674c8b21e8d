"""What the documents say is what the code does."""

import re
from functools import cache
from itertools import zip_longest
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit import errors
from meshkit.cli import main
from meshkit.parts import PartMaker
from meshkit.runtime.config import Declaration, Setting
from meshkit.runtime.registry import discover_parts
from meshkit.services.config import NodeConfig, RelayConfig, StorageConfig
from meshkit.services.node import all_sections
from meshkit.services.programs import MESH_NODE, MESH_RELAY

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
node_api = SimpleNamespace(**run_path(str(DOCS / "node_api.py")))


class TroubleshootingTests(SynchronousTestCase):
    """C{docs/troubleshooting.md} is keyed by the codes of the errors."""

    def setUp(self) -> None:
        text = (DOCS / "troubleshooting.md").read_text("utf-8")
        rows = [line for line in text.splitlines() if line.startswith("| `")]
        self.documented = [
            code for row in rows for code in re.findall(r"`([A-Z_]+)`", row.split("|")[1])
        ]

    def test_every_code_has_a_row(self) -> None:
        codes = {
            error.code
            for error in vars(errors).values()
            if isinstance(error, type) and issubclass(error, errors.MeshkitError)
        }
        self.assertEqual(sorted(codes - set(self.documented)), [])

    def test_every_row_is_of_a_code_that_exists_and_stands_once(self) -> None:
        codes = {getattr(error, "code", None) for error in vars(errors).values()}
        self.assertEqual(sorted(set(self.documented) - codes), [])
        self.assertEqual(len(self.documented), len(set(self.documented)))


class ErrorTests(SynchronousTestCase):
    """Every error can be shown to a person."""

    def test_each_class_says_what_happened_without_being_told(self) -> None:
        for error in vars(errors).values():
            if isinstance(error, type) and issubclass(error, errors.MeshkitError):
                with self.subTest(error.__name__):
                    self.assertGreater(len(str(error())), 20)
                    self.assertNotIn("\n", str(error()))

    def test_codes_name_one_class_each(self) -> None:
        seen: dict[str, type] = {}
        for error in vars(errors).values():
            if isinstance(error, type) and issubclass(error, errors.MeshkitError):
                self.assertIs(seen.setdefault(error.code, error), error)


def _of_relays(declaration: Declaration[NodeConfig]) -> list[Setting]:
    """The settings that a relay has, and nobody else."""
    known = {setting.key for setting in declaration.settings}
    of_relays = Declaration(RelayConfig, {}).settings
    return [setting for setting in of_relays if setting.key not in known]


class ConfigurationTests(SynchronousTestCase):
    """C{docs/configuration.md} lists the settings that exist."""

    def test_the_table_is_that_of_the_declaration(self) -> None:
        text = (DOCS / "configuration.md").read_text("utf-8")
        documented = {}
        for line in text.splitlines():
            cells = [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
            if len(cells) == 5 and cells[2].startswith("MESHKIT_"):
                documented[cells[0]] = cells[1:4]
        declaration = Declaration(NodeConfig, all_sections(discover_parts(meshkit_plugins)))
        declared = {
            setting.key: [
                f"--{setting.flag}" if setting.flag else "",
                setting.environment,
                setting.show(setting.default) if setting.default not in ((), "") else "",
            ]
            for setting in (*declaration.settings, *_of_relays(declaration))
        }
        self.assertEqual(documented, declared)

    def test_what_differs_for_a_storage_peer_is_said(self) -> None:
        text = (DOCS / "configuration.md").read_text("utf-8")
        storage = StorageConfig()
        self.assertIn(f"`listen` is `{storage.listen}`, and `api` is `{storage.api}`", text)

    def test_what_differs_for_a_relay_is_said(self) -> None:
        text = (DOCS / "configuration.md").read_text("utf-8")
        relay = RelayConfig()
        self.assertIn(f"`listen` is `{relay.listen}`, and `api` is `{relay.api}`", text)
        (of_relay,) = MESH_RELAY.parts_of([PartMaker("gossip", "meshkit.gossip.part")])
        most = msgspec.convert({}, of_relay.config_type()).max_links
        self.assertIn(f"`gossip.max_links` is {most}", text)
        mine = ", ".join(f"`{name}`" for name in sorted(MESH_NODE.without)[:-1])
        self.assertIn(f"{mine} and `{max(MESH_NODE.without)}`", " ".join(text.split()))

    def test_the_lists_of_tables_are_those_of_the_declaration(self) -> None:
        text = (DOCS / "configuration.md").read_text("utf-8")
        documented = set()
        for line in text.splitlines():
            cells = [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
            if len(cells) == 4 and cells[1] in ("both", "command", "webhook"):
                of = ("command", "webhook") if cells[1] == "both" else (cells[1],)
                documented |= {(f"hooks.{each}", cells[0], cells[2]) for each in of}
        declaration = Declaration(NodeConfig, all_sections(discover_parts(meshkit_plugins)))
        declared = {
            (
                table.key,
                column.field,
                "(has to be given)"
                if column.field in table.required
                else column.show(column.default),
            )
            for table in declaration.tables
            for column in table.columns
        }
        self.assertEqual(sorted(documented), sorted(declared))


@cache
def _node_document() -> Any:
    return node_api.fetch_document()


class _ApiTests:
    """What a door says of itself stands in a file."""

    document: Any
    of: str
    file: Path

    def test_the_file_is_what_make_api_writes(self: Any) -> None:
        written = self.file.read_text("utf-8")
        made = node_api.write_yaml(self.document, self.of)
        # Not assertEqual: the difference of two long texts takes it minutes to find.
        for number, (line, wanted) in enumerate(
            zip_longest(written.splitlines(), made.splitlines()), 1
        ):
            if line != wanted:
                self.fail(f"line {number} is {line!r}, not {wanted!r}: run 'make api'")
        self.assertTrue(written == made)

    def test_it_is_yaml_of_the_same_content(self: Any) -> None:
        text = self.file.read_text("utf-8")
        self.assertTrue(yaml.load(text, yaml.CSafeLoader) == self.document)

    def test_every_field_is_described(self: Any) -> None:
        silent = []
        for item in self.document["paths"].values():
            for method in item.values():
                name = method["operationId"]
                for parameter in method.get("parameters", ()):
                    if not parameter.get("description"):
                        silent.append(f"{name}: {parameter['name']}")
                content = method.get("requestBody", {}).get("content", {})
                body = content.get("application/json", {}).get("schema", {})
                for field, schema in body.get("properties", {}).items():
                    if not schema.get("description"):
                        silent.append(f"{name}: {field}")
        for name, struct in self.document["components"]["schemas"].items():
            for field, schema in struct.get("properties", {}).items():
                if name != "error-answer" and not schema.get("description"):
                    silent.append(f"{name}: {field}")
        self.assertEqual(silent, [])


class RelayApiTests(_ApiTests, SynchronousTestCase):
    """C{docs/api/relay-api.yaml} is what a relay says of its door for whoever comes."""

    of = "relay"
    file = node_api.RELAY_FILE

    def setUp(self) -> None:
        self.document = node_api.fetch_relay_document()


class NodeApiTests(_ApiTests, SynchronousTestCase):
    """C{docs/api/node-api.yaml} is what a node says of itself."""

    of = "node"
    file = node_api.FILE

    def setUp(self) -> None:
        self.document = _node_document()

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=8,
        )
    )
    @example({"a": ["on", "No", "1", "0x1", "~", "- a", "a: b", "a #b", "", " a", "a "]})
    @example({"a": "one\ntwo\n", "b": "\none", "c": "one\n\n", "d": ["x" * 99], "e": " a\nb"})
    @example({"a": [], "b": {}, "c": [[], [1, [2]], {"a": {"b": [{"c": 1, "d": 2}]}}]})
    def test_any_json_comes_back_from_it(self, value: Any) -> None:
        self.assertEqual(yaml.safe_load(node_api.write_yaml(value)), value)


class CommandTests(SynchronousTestCase):
    """The verbs that C{meshkit --help} lists."""

    def test_each_can_be_imported_and_has_help_of_its_own(self) -> None:
        context = click.Context(main.cli)
        for name in main.cli.list_commands(context):
            with self.subTest(name):
                command = main.cli.get_command(context, name)
                assert command is not None
                self.assertGreater(len(command.help or ""), 20)


class ReadmeTests(SynchronousTestCase):
    """The first screen of the README."""

    def test_the_two_commands_are_shown_at_its_top(self) -> None:
        top = (ROOT / "README.md").read_text("utf-8").splitlines()[:12]
        for command in ("make demo", "make test"):
            self.assertTrue(any(command in line for line in top), command)

    def test_its_links_lead_somewhere(self) -> None:
        for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
                self.assertTrue((page.parent / target).exists(), f"{page}: {target}")
