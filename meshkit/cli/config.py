"""C{meshkit config}: the settings a node would run with."""

from __future__ import annotations

import os

import click

import meshkit_plugins
from meshkit.cli.door import open_folder
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.runtime.config import Declaration, config_file
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.registry import discover_parts
from meshkit.services.node import all_sections
from meshkit.services.programs import program_of


@click.group()
def config() -> None:
    """Show the settings and where they come from."""


@config.command()
@click.option("--origin", is_flag=True, help="Where each value comes from.")
@click.option("--config", "path", metavar="FILE", help="The configuration file to read.")
@json_option
@click.pass_obj
def show(flag: str | None, origin: bool, path: str | None, as_json: bool) -> None:
    """Every setting of the installed parts, with its value."""
    folder = open_folder(flag)
    program = program_of(folder)
    parts = program.parts_of(discover_parts(meshkit_plugins))
    declaration = Declaration(program.config, all_sections(parts))
    file = config_file(path, folder.path, LocalFiles())
    rows = declaration.resolve({}, os.environ, file).show()
    if as_json:
        print_json(
            [
                {"key": row.key, "value": row.value, "origin": row.origin, "doc": row.description}
                for row in rows
            ]
        )
        return
    headings = ("setting", "value") + (("origin",) if origin else ())
    table(
        headings,
        [(row.key, row.text) + ((row.origin,) if origin else ()) for row in rows],
    )
    line("")
    line(f"File: {file[0] if file else 'none'}. Flags of twistd are not seen here.")
