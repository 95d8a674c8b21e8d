"""What the documents say is what the code does."""

import re
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit import errors
from meshkit.cli import main
from meshkit.runtime.config import Declaration
from meshkit.runtime.registry import discover_parts
from meshkit.services.config import NodeConfig
from meshkit.services.node import all_sections

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


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
            for setting in declaration.settings
        }
        self.assertEqual(documented, declared)

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
