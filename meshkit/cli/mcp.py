"""
C{meshkit mcp}: the node as a server of the Model Context Protocol, for clients that launch
one and talk to its standard input and output.

Clients wait for it, so what is not needed is not imported: the functions below import what
they use.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from meshkit.cli.output import json_option, line, print_json, visible
from meshkit.errors import ConfigError, MeshkitError

if TYPE_CHECKING:
    from meshkit.runtime.folder import DataFolder

_profile = click.option(
    "--profile",
    metavar="NAME",
    help="Which names of tools to show: core, egregore, nocturne, darkmatter or all "
    "[default: the node's setting mcp_profile].",
)
_no_start = click.option(
    "--no-start", is_flag=True, help="Use a node that runs, and never start one."
)
_token_file = click.option(
    "--token-file",
    metavar="FILE",
    help="File with the token to use [default: $MESHKIT_TOKEN, else the owner's].",
)


@click.group(invoke_without_command=True)
@_profile
@_no_start
@_token_file
@click.option(
    "--instructions", "tell", is_flag=True, help="Print what an agent should know, and end."
)
@click.pass_context
def mcp(
    ctx: click.Context, profile: str | None, no_start: bool, token_file: str | None, tell: bool
) -> None:
    """
    Serve MCP on standard input and output, for the client that launched this.

    The node does the work, for all its clients together; it is started in the background if
    it is not running, and goes on running when the client ends. 'meshkit mcp config' prints
    what to paste into a client.
    """
    if tell:
        _print_instructions()
        ctx.exit()
    if ctx.invoked_subcommand is not None:
        if profile is not None or no_start or token_file is not None:
            raise click.UsageError(f"write the options after '{ctx.invoked_subcommand}'")
        return
    serve(ctx.obj, profile, no_start, token_file)


@mcp.command()
@click.option(
    "--client",
    "names",
    multiple=True,
    type=click.Choice(["claude", "cursor", "vscode", "generic"]),
    help="For this client; may be repeated [default: all].",
)
@click.option("--name", default="meshkit", show_default=True, help="What the client calls it.")
@click.option("--http", is_flag=True, help="For clients that speak HTTP to the running node.")
@_profile
@_no_start
@_token_file
@json_option
@click.pass_obj
def config(
    flag: str | None,
    names: tuple[str, ...],
    name: str,
    http: bool,
    profile: str | None,
    no_start: bool,
    token_file: str | None,
    as_json: bool,
) -> None:
    """
    Print what to paste into a client.

    With --json and one --client, it is the document alone. What would keep it from working as
    things are now is said on standard error.
    """
    from meshkit.cli.clients import CLIENTS
    from meshkit.cli.locate import open_folder

    folder = open_folder(flag)
    if http:
        if no_start or token_file is not None:
            raise ConfigError("--no-start and --token-file are for clients that launch meshkit")
        url = _url(folder, profile)
        documents = {each: CLIENTS[each].http(name, url) for each in names or CLIENTS}
    else:
        command = [*own_command(), "--data-dir", folder.path, "mcp"]
        command += [] if profile is None else ["--profile", profile]
        command += ["--no-start"] if no_start else []
        command += [] if token_file is None else ["--token-file", os.path.abspath(token_file)]
        documents = {each: CLIENTS[each].stdio(name, command) for each in names or CLIENTS}
    for warning in _warnings(folder, profile, token_file):
        click.echo(f"meshkit: warning: {visible(warning)}", err=True)
    if as_json:
        print_json(documents[names[0]] if len(names) == 1 else documents)
        return
    for each, document in documents.items():
        line(f"{CLIENTS[each].title}: {CLIENTS[each].place}")
        print_json(document)
        line("")
    if http:
        line(f"The token is in {folder.file('door.token')}; for an agent, make one that can do")
        line(
            f"less: meshkit --data-dir {shlex.quote(folder.path)} token add NAME --scope read "
            "--scope write:feed_publish"
        )
        line("The address is the present one. It changes with the setting api, and with")
        line('api = "auto" it can change at any start; clients that launch meshkit find it anyway.')


@mcp.command()
def instructions() -> None:
    """Print what an agent should know to be a good citizen of the mesh."""
    _print_instructions()


def _print_instructions() -> None:
    from meshkit.web.instructions import GOOD_CITIZEN

    click.echo(GOOD_CITIZEN.rstrip("\n"))


def _warnings(folder: DataFolder, profile: str | None, token_file: str | None) -> list[str]:
    """What the client would stumble over, if nothing is done about it meanwhile."""
    from meshkit.cli.bearer import TokenSource
    from meshkit.cli.locate import init_command
    from meshkit.runtime.keyring import stored_public
    from meshkit.web.profiles import ALIASES, ALL, ANNOUNCED, CORE

    found = []
    try:
        stored_public(folder)
    except FileNotFoundError:
        found.append(
            f"there is no identity in {folder.path}: make one with '{init_command(folder)}'"
        )
    except (MeshkitError, OSError) as e:
        found.append(str(e))
    if profile is not None and profile not in {CORE, ALL, *(each.profile for each in ALIASES)}:
        found.append(
            f"the profile {profile!r} holds no tools yet: a node refuses it"
            if profile in ANNOUNCED
            else f"there is no profile {profile!r}, unless a part of the node brings it"
        )
    if token_file is not None:
        path = os.path.abspath(token_file)
        if os.path.isfile(path):
            try:
                TokenSource(folder, path, {}).read()
            except MeshkitError as e:
                found.append(str(e))
        else:
            found.append(f"there is no file {path}: put the token there, with mode 600")
    return found


def own_command() -> list[str]:
    """
    How to run this command from anywhere: the program of this installation, with its
    absolute path, as clients are not started where people have their C{$PATH}.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "meshkit")
    for path in (os.path.abspath(sys.argv[0]), beside):
        if os.path.basename(path) == "meshkit" and os.access(path, os.X_OK):
            return [path]
    return [sys.executable, "-P", "-m", "meshkit.cli.main"]


def _url(folder: DataFolder, profile: str | None) -> str:
    from meshkit.cli.locate import the_door
    from meshkit.web.lines import target

    url = the_door(folder)
    if url.startswith("unix:"):
        raise ConfigError(
            f"the door is the unix socket {url.removeprefix('unix:')}, which clients cannot reach "
            f"over HTTP: leave out --http, or set api to a port"
        )
    return url + target(profile)


# --- serving ---------------------------------------------------------------------------


def serve(flag: str | None, profile: str | None, no_start: bool, token_file: str | None) -> None:
    """
    Be the proxy, until the client closes our input or we are told to end.

    @raise MeshkitError: because of which it could not go on; the client was told as well.
    """
    # First of all: what is imported may print.
    from meshkit.runtime.descriptors import claim_wire

    wire = claim_wire()
    # What is not blocking for us would not be for those who go on using the terminal.
    terminals = [os.dup(descriptor) for descriptor in wire if os.isatty(descriptor)]
    if terminals:
        print("This is for programs that speak MCP: see 'meshkit mcp config'.", file=sys.stderr)
    try:
        error = _run(flag, profile, no_start, token_file, *wire)
    finally:
        for descriptor in terminals:
            os.set_blocking(descriptor, True)
            os.close(descriptor)
    if error is not None:
        for each in _log_end(error):
            print(f"  {each}", file=sys.stderr)
        raise error


def _run(
    flag: str | None,
    profile: str | None,
    no_start: bool,
    token_file: str | None,
    source: int,
    target: int,
) -> MeshkitError | None:
    from twisted.internet import reactor as installed
    from twisted.internet.stdio import StandardIO

    from meshkit.cli.bearer import TokenSource
    from meshkit.cli.locate import open_folder
    from meshkit.cli.proxy import STOP_SECONDS, NodePlace, Proxy
    from meshkit.cli.starting import Starter

    reactor: Any = installed
    _log_to_stderr()
    folder = open_folder(flag)
    starter = Starter(reactor, folder, pid=os.getpid(), environ=os.environ, may_start=not no_start)
    tokens = TokenSource(folder, token_file, os.environ)
    place = NodePlace(reactor, folder, starter, tokens.read)
    proxy = Proxy(reactor, place, profile)
    results: list[MeshkitError | None] = []
    told_to_end: list[bool] = []

    def over(result: MeshkitError | None) -> None:
        results.append(result)
        if not told_to_end:
            reactor.stop()

    def end() -> Any:
        # SIGTERM or SIGINT, or over() itself: the reactor waits for what is returned.
        told_to_end.append(True)
        proxy.finish(STOP_SECONDS)
        return proxy.done

    proxy.done.addCallback(over)
    # What type checkers take for it depends on the machine they run on.
    connect: Any = StandardIO
    connect(proxy.client, stdin=source, stdout=target, reactor=reactor)
    reactor.addSystemEventTrigger("before", "shutdown", end)
    reactor.callWhenRunning(proxy.start)
    reactor.run()
    return results[0] if results else None


def _log_to_stderr() -> None:
    """Warnings, in text: clients keep what a server says there."""
    from twisted.logger import (
        FilteringLogObserver,
        LogLevel,
        LogLevelFilterPredicate,
        globalLogBeginner,
        textFileLogObserver,
    )

    observer = FilteringLogObserver(
        textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)]
    )
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def _log_end(error: MeshkitError) -> list[str]:
    details = error.details or {}
    lines = details.get("log_end")
    return [str(each) for each in lines] if isinstance(lines, list) else []
