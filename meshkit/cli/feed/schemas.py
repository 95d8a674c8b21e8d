"""The JSON Schemas of contents: C{schema}."""

from __future__ import annotations

from typing import Any, BinaryIO

import click
import msgspec

from meshkit.cli.door import Door, ask
from meshkit.cli.feed.lines import MAX_LINE, checked_json
from meshkit.cli.output import json_option, line, print_json


@click.group(invoke_without_command=True)
@click.pass_context
def schema(ctx: click.Context) -> None:
    """
    The JSON Schemas by which contents are checked. Alone: list them.

    A content is checked by the schema that its message names, or else by the first version
    for its type: a content of the type "note" by note/v1. What others wrote is never refused
    for it.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_schemas)


@schema.command("list")
@json_option
@click.pass_obj
def list_schemas(flag: str | None, as_json: bool = False) -> None:
    """List the schemas."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/schemas")).data

    schemas = ask(flag, job)
    if as_json:
        print_json(schemas)
        return
    for each in schemas:
        line(f"{each['name']}  {each['bytes']} bytes, added {each['added']}")
    if not schemas:
        line("No schemas: contents are not checked.")


@schema.command("show")
@click.argument("name")
@click.pass_obj
def show_schema(flag: str | None, name: str) -> None:
    """Print the schema NAME, such as note/v1."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/schema", name=name)).data

    print_json(ask(flag, job))


@schema.command("add")
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@json_option
@click.pass_obj
def add_schema(flag: str | None, name: str, file: BinaryIO, as_json: bool) -> None:
    """Check contents by the schema in FILE (- for stdin) from now on, under NAME."""
    body = {"name": name, "schema": msgspec.Raw(checked_json(file.read(MAX_LINE), "the schema"))}

    async def job(door: Door) -> Any:
        return (await door.post("/v1/schema", body)).data

    added = ask(flag, job)
    if as_json:
        print_json(added)
    else:
        line(f"Contents are checked by {added['name']} from now on.")


@schema.command("rm")
@click.argument("name")
@json_option
@click.pass_obj
def remove_schema(flag: str | None, name: str, as_json: bool) -> None:
    """Check contents by the schema NAME no longer."""

    async def job(door: Door) -> Any:
        await door.delete("/v1/schema", name=name)

    ask(flag, job)
    if as_json:
        print_json({"removed": name})
    else:
        line(f"Contents are checked by {name} no longer.")
