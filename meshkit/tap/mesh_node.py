"""C{twistd mesh-node}: run a node of a peer-to-peer mesh."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from random import SystemRandom
from typing import Any

from twisted.application.service import Service
from twisted.python import usage

import meshkit_plugins
from meshkit.errors import BrokenPart, MeshkitError, StartError
from meshkit.identity.keys import Identity
from meshkit.runtime.config import Declaration, Settings, config_file, data_folder
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import needs_passphrase
from meshkit.runtime.logs import Redactor
from meshkit.runtime.open_files import allow_files
from meshkit.runtime.registry import Composition, compose, discover_parts
from meshkit.services.config import NodeConfig
from meshkit.services.node import NodeService, usable_sections
from meshkit.tap.failing import Daemon
from meshkit.tap.logs import LogChoice, set_up
from meshkit.tap.passphrase import unlock
from meshkit.tap.process import process_metrics

COMMAND = "mesh-node"


class NodeOptions(usage.Options):
    """Completed by L{Options} with a flag for each setting of the installed parts."""

    synopsis = "[options]"
    longdesc = (
        "Runs a node: signed feeds, replicated with its peers over an encrypted and "
        "authenticated port, and a local HTTP door. Settings come from flags, MESHKIT_* "
        "variables and meshkit.toml in the data folder, in this order."
    )

    optParameters = (
        (
            "passphrase-fd",
            None,
            None,
            "File descriptor to read the passphrase of the key file from [default: asked for "
            "on the terminal, if the file is under one].",
            int,
        ),
    )

    folder: DataFolder
    identity: Identity | None
    settings: Settings[NodeConfig]
    composition: Composition
    declaration: Declaration[NodeConfig]
    makers: list[Any]
    broken: dict[str, BrokenPart]
    given: dict[str, Any]

    def postOptions(self) -> None:
        """Everything that can be known before anything is opened is checked here."""
        with refusals_on_the_shell():
            files = LocalFiles()
            path = data_folder(self["data-dir"], os.environ, os.path.expanduser("~"))
            path = os.path.abspath(path)
            self.folder = DataFolder(path, files)
            self.settings = self.declaration.resolve(
                self.given, os.environ, config_file(self["config"], path, files)
            )
            self.composition = compose(
                self.makers, self.settings.root.disable, self.settings.root.compat
            )
            for maker in self.composition.order:
                if maker.name in self.broken:
                    raise self.broken[maker.name]
            # Now, as twistd forks after this and the daemon has no terminal.
            self.identity = None
            if needs_passphrase(self.folder):
                self.identity = unlock(self.folder, self["passphrase-fd"])


class refusals_on_the_shell:
    """Turns a L{StartError} into one line on the shell and exit code 1."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, StartError):
            raise SystemExit(f"{COMMAND}: {error} [{error.code}]") from None


def Options() -> NodeOptions:
    """The options, with those of every part that is installed."""
    with refusals_on_the_shell():
        makers = discover_parts(meshkit_plugins)
        # A part that is broken may turn out to be disabled.
        sections, broken = usable_sections(makers)
        declaration = Declaration(NodeConfig, sections)
        base = declaration.options_class()

        class CompleteOptions(NodeOptions, base):  # type: ignore[valid-type,misc]
            pass

        options = CompleteOptions()
        options.makers = makers
        options.broken = broken
        options.declaration = declaration
        return options
    raise AssertionError("unreachable")


def makeService(options: NodeOptions) -> Service:
    """@return: the node's service.  Nothing is opened yet: twistd forks after this."""
    from twisted.internet import reactor

    redactor = Redactor()

    def make(on_failure: Callable[[MeshkitError], None]) -> NodeService:
        return NodeService(
            reactor,
            options.folder,
            options.settings,
            options.composition,
            rng=SystemRandom(),
            wall_clock=time.time_ns,
            files=LocalFiles(),
            pid=os.getpid,
            on_failure=on_failure,
            identity=options.identity,
            keep_secret=redactor.hide,
            open_files=partial(allow_files, reactor),
            process_metrics=process_metrics,
        )

    config = options.settings.root
    chosen = options.settings.origin("log_level") != "default"
    choice = LogChoice(config.log_format, config.log_level if chosen else None, redactor)
    with refusals_on_the_shell():
        joining = set_up(getattr(options, "parent", None), choice, reactor)
        return Daemon(COMMAND, reactor, make, joining)
    raise AssertionError("unreachable")
