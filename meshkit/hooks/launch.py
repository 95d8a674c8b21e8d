"""
What a command is run by: C{python -I -S launch.py FOLDER PROGRAM [ARGUMENT ...]}.

It makes a session of its own before the program is there, so that all that the program
starts can be ended together.  Twisted's C{spawnProcess} does that only with a terminal, and
doing it from outside would come too late for a program that is quick.
"""

from __future__ import annotations

import os
import signal
import sys

#: What a shell exits with if there is no such program, or it cannot be run.
NOT_FOUND = 127
CANNOT_RUN = 126


def main(folder: str, *arguments: str) -> int:
    """Become the program.  @return: the exit code, if that was not possible."""
    os.setsid()
    # Python ignores these, and what is ignored stays so in the program.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(folder)
        os.execvp(arguments[0], arguments)
    except OSError as error:
        what = error.filename or arguments[0]
        print(f"cannot run {what}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
