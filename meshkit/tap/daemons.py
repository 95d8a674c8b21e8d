"""
What the daemons have in common: from a L{Program} and a command line to a service.

C{twistd} asks a module for C{Options} and C{makeService}; those of the daemons are made here.
"""

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
from meshkit.runtime.memory import keep_freed_memory
from meshkit.runtime.open_files import allow_files
from meshkit.runtime.registry import Composition, compose, discover_parts
from meshkit.services.config import NodeConfig
from meshkit.services.node import NodeService, usable_sections
from meshkit.services.programs import Program
from meshkit.tap.failing import Daemon
from meshkit.tap.logs import LogChoice, set_up
from meshkit.tap.passphrase import unlock
from meshkit.tap.process import process_metrics


class DaemonOptions(usage.Options):
    """Completed by L{options_of} with a flag for each setting of the program's parts."""

    synopsis = "[options]"

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

    program: Program
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
        with refusals_on_the_shell(self.program):
            files = LocalFiles()
            path = data_folder(
                self["data-dir"], os.environ, os.path.expanduser("~"), self.program.folder
            )
            path = os.path.abspath(path)
            self.folder = DataFolder(path, files)
            self.settings = self.declaration.resolve(
                self.given, os.environ, config_file(self["config"], path, files)
            )
            config = self.settings.root
            makers = self.program.parts_for(config, self.makers)
            self.composition = compose(makers, config.disable, config.compat)
            for maker in self.composition.order:
                if maker.name in self.broken:
                    raise self.broken[maker.name]
            # Now, as twistd forks after this and the daemon has no terminal.
            self.identity = None
            if needs_passphrase(self.folder):
                self.identity = unlock(self.folder, self["passphrase-fd"])


class refusals_on_the_shell:
    """Turns a L{StartError} into one line on the shell and exit code 1."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, StartError):
            raise SystemExit(f"{self._program.command}: {error} [{error.code}]") from None


def options_of(program: Program, description: str) -> DaemonOptions:
    """
    @param description: of the program, for C{--help}.
    @return: its options, with those of every part of it that is installed.
    """
    with refusals_on_the_shell(program):
        makers = program.parts_of(discover_parts(meshkit_plugins))
        # A part that is broken may turn out to be disabled.
        sections, broken = usable_sections(makers)
        declaration = Declaration(program.config, sections)
        base = declaration.options_class()

        class CompleteOptions(DaemonOptions, base):  # type: ignore[valid-type,misc]
            longdesc = description

        options = CompleteOptions()
        options.program = program
        options.makers = makers
        options.broken = broken
        options.declaration = declaration
        return options
    raise AssertionError("unreachable")


def make_service(options: DaemonOptions) -> Service:
    """@return: the daemon's service.  Nothing is opened yet: twistd forks after this."""
    from twisted.internet import reactor

    keep_freed_memory()
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
    with refusals_on_the_shell(options.program):
        joining = set_up(getattr(options, "parent", None), choice, reactor)
        return Daemon(options.program.command, reactor, make, joining)
    raise AssertionError("unreachable")
