"""
Asking for a passphrase: on the terminal, or from a file descriptor.

Never from an argument or a variable, which other processes can read.
"""

from __future__ import annotations

import getpass
import os
import sys
from typing import Final

from meshkit.errors import ConfigError, PassphraseRequired, WrongPassphrase
from meshkit.identity.keys import Identity
from meshkit.identity.passphrase import MAX_PASSPHRASE, normal
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import SECRET_KEY, stored_identity

#: How often a person may mistype.
TRIES: Final = 3


def read_from(descriptor: int) -> str:
    """
    Read a passphrase from a file descriptor, to its end or to the end of the line, and
    close it.

    @raise ConfigError: if it cannot be read, or is no passphrase.
    """
    name = f"file descriptor {descriptor}"
    data = b""
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while len(data) <= MAX_PASSPHRASE and b"\n" not in data:
                piece = file.read(MAX_PASSPHRASE + 2 - len(data))
                if not piece:
                    break
                data += piece
    except (OSError, ValueError, OverflowError) as e:
        raise ConfigError(f"no passphrase can be read from {name}: {e}") from None
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    try:
        passphrase = line.decode("utf-8")
        normal(passphrase)
    except (ValueError, UnicodeDecodeError) as e:
        why = "it is not UTF-8 text" if isinstance(e, UnicodeDecodeError) else str(e)
        raise ConfigError(f"what {name} gives is no passphrase: {why}") from None
    return passphrase


def can_ask() -> bool:
    """Is there somebody to ask?"""
    # Under twistd or a pipe, sys.stdin may be anything; getpass would read it aloud.
    return sys.stdin is not None and sys.stdin.isatty()


def ask(prompt: str) -> str:
    """
    Ask on the terminal, without showing what is typed.

    @raise PassphraseRequired: if there is no terminal, or whoever sits there hung up.
    """
    if not can_ask():
        raise PassphraseRequired(
            f"a passphrase is needed ({prompt}), and there is no terminal to ask on: give it "
            f"with --passphrase-fd"
        )
    try:
        return getpass.getpass(f"{prompt}: ")
    except EOFError:
        raise PassphraseRequired("no passphrase was given") from None


def ask_new(prompt: str) -> str:
    """
    Ask for a new passphrase, twice.

    @raise PassphraseRequired: if there is no terminal.
    @raise ConfigError: if it is empty or too long, or the second is another one.
    """
    first = ask(prompt)
    try:
        normal(first)
    except ValueError as e:
        raise ConfigError(f"this cannot be used: {e}") from None
    if ask("The same again") != first:
        raise ConfigError("the two passphrases differ: nothing was changed")
    return first


def unlock(folder: DataFolder, descriptor: int | None) -> Identity:
    """
    Open the key file of a data folder that is under a passphrase.

    @param descriptor: where to read the passphrase; without it, it is asked for.
    @raise PassphraseRequired: if nobody gives it.
    @raise WrongPassphrase: if it is wrong; on a terminal, for the third time.
    """
    if descriptor is not None:
        return stored_identity(folder, read_from(descriptor))
    for left in reversed(range(TRIES)):
        try:
            return stored_identity(folder, ask(f"Passphrase of {folder.file(SECRET_KEY)}"))
        except WrongPassphrase as e:
            if not left:
                raise
            print(f"{e}: try again", file=sys.stderr)
    raise AssertionError("unreachable")
