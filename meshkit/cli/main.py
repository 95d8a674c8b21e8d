"""The tree of verbs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from meshkit import __version__
from meshkit.errors import MeshkitError

# verb -> (module, attribute, first sentence of its help).  The sentence stands here so
# that "meshkit --help" imports no verb.
_VERBS: Final = {
    "audit": (
        "meshkit.cli.audit",
        "audit_group",
        "Ask storage peers for proof that they have what they keep.",
    ),
    "backup": ("meshkit.cli.backup", "backup", "Copy the node's database into a file."),
    "call": ("meshkit.cli.call", "call", "Call any operation of the running node."),
    "config": ("meshkit.cli.config", "config", "Show the settings and where they come from."),
    "doctor": ("meshkit.cli.doctor", "doctor", "Examine everything that is stored."),
    "dht": ("meshkit.cli.dht", "dht", "Find peers and records in the hash table, and publish."),
    "demo": ("meshkit.cli.demo", "demo", "Three strangers build a mesh, before your eyes."),
    "feed": ("meshkit.cli.feed", "feed", "Publish, read, search, export, import and follow."),
    "follow": ("meshkit.cli.feed", "follow", "Follow an author, or list whom you follow."),
    "get": ("meshkit.cli.object", "get", "Get an object from its storage peers."),
    "hook": ("meshkit.cli.hook", "hook", "See what the hooks do, and try again what failed."),
    "id": ("meshkit.cli.node", "show_id", "Print this node's id and addresses."),
    "init": ("meshkit.cli.node", "init", "Make the identity and the network of a data folder."),
    "inspect": (
        "meshkit.cli.inspect",
        "inspect_group",
        "See what passes over objects have found, decided and done.",
    ),
    "invite": (
        "meshkit.cli.invite",
        "invite",
        "Make a text, or a QR code, to join the network with.",
    ),
    "join": ("meshkit.cli.join", "join", "Join a network with an invite."),
    "mailbox": (
        "meshkit.cli.mailbox",
        "mailbox",
        "Write to those who are away, and read what they wrote.",
    ),
    "mcp": ("meshkit.cli.mcp", "mcp", "Serve MCP to the client that launches this."),
    "network": ("meshkit.cli.network", "network", "Show the network's secret, and replace it."),
    "object": (
        "meshkit.cli.object",
        "object_group",
        "Have files kept by storage peers, sealed and in shares.",
    ),
    "passphrase": (
        "meshkit.cli.passphrase",
        "passphrase",
        "Set, change or remove the key file's passphrase.",
    ),
    "peer": ("meshkit.cli.peer", "peer", "List, add, remove and try the peers to dial."),
    "publish": ("meshkit.cli.feed", "publish", "Sign a message and publish it."),
    "put": ("meshkit.cli.object", "put", "Seal a file and give its shares to storage peers."),
    "relay": ("meshkit.cli.relay", "relay", "Be known at relays, and see who else is."),
    "restore": ("meshkit.cli.backup", "restore", "Put a backup into the data folder."),
    "search": ("meshkit.cli.feed", "search", "Search the text of all messages."),
    "simulate": (
        "meshkit.cli.simulate",
        "simulate",
        "Run a mesh in a simulated world, from a seed.",
    ),
    "status": ("meshkit.cli.node", "status", "Show how the node is doing."),
    "storage": (
        "meshkit.cli.storage",
        "storage",
        "Lend space to the network, and see what is kept for others.",
    ),
    "token": ("meshkit.cli.token", "token", "Give others a token for the door, and take it back."),
}


class _LazyGroup(click.Group):
    """Imports a verb when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, attribute, _ = _VERBS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _VERBS[name][2]) for name in sorted(_VERBS)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _VERBS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, _VERBS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"There is no command '{name}'.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The node itself is started with: twistd -n mesh-node; a storage peer with: "
    "twistd -n mesh-storage; a relay with: twistd -n mesh-relay",
)
@click.version_option(__version__, prog_name="meshkit")
@click.option(
    "--data-dir",
    "-d",
    metavar="FOLDER",
    help="The node's data folder [default: $MESHKIT_HOME, else ~/.local/share/meshkit].",
)
@click.option(
    "--storage",
    "-s",
    is_flag=True,
    help="The storage peer's data folder [default: $MESHKIT_HOME, else "
    "~/.local/share/meshkit-storage].",
)
@click.option(
    "--relay",
    "-r",
    is_flag=True,
    help="The relay's data folder [default: $MESHKIT_HOME, else ~/.local/share/meshkit-relay].",
)
@click.pass_context
def cli(ctx: click.Context, data_dir: str | None, storage: bool, relay: bool) -> None:
    """Talk to your node of a peer-to-peer mesh."""
    ctx.obj = data_dir
    if storage and relay:
        raise click.UsageError("--storage and --relay are two daemons: give one of them.")
    if (storage or relay) and data_dir is None:
        # All verbs take a folder, and none has to know of which daemon.
        from meshkit.cli.locate import usual_folder
        from meshkit.services.programs import MESH_RELAY, MESH_STORAGE

        ctx.obj = usual_folder(MESH_STORAGE if storage else MESH_RELAY)


def main(argv: list[str] | None = None) -> Any:
    """
    Run the command.  Whatever meshkit refuses is one line on standard error and exit
    code 1; a misused command line is exit code 2, as click has it.
    """
    try:
        return cli.main(args=argv, prog_name="meshkit")
    except MeshkitError as e:
        _refuse(f"{e} [{e.code}]")
    except UnicodeEncodeError:
        # Python keeps bytes of the command line that are not UTF-8 as lone surrogates.
        _refuse("an argument is not UTF-8 text [INVALID_REQUEST]")
    except OSError as e:
        _refuse(f"cannot use {e.filename or 'a file'}: {e.strerror or e} [CONFIG_INVALID]")


def _refuse(text: str) -> NoReturn:
    from meshkit.cli.output import visible

    print(f"meshkit: {visible(text)}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
