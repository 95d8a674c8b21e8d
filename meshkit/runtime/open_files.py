"""
How many files and connections the process may have open.

Systems start processes with a soft limit of 1,024 so that programs that use select(2) are
not harmed, and expect those that can do with more to raise it up to the hard limit
(getrlimit(2), systemd's C{LimitNOFILE}).
"""

from __future__ import annotations

import resource
from typing import Any, Final

from twisted.internet.selectreactor import SelectReactor

#: What select(2) can wait for.
SELECTABLE: Final = 1_024


def allow_files(reactor: Any, wanted: int) -> int:
    """
    Raise the soft limit of this process, if it is lower than wanted, as far as it goes.

    It is a setting of the process: for the daemon to call, not for a library.

    @param reactor: which waits for these files.
    @return: how many can be open and waited for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    selects = isinstance(reactor, SelectReactor)
    if selects:
        wanted = min(wanted, SELECTABLE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (ValueError, OSError):
            # Some systems have a lower limit of their own and do not tell it.
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if soft == resource.RLIM_INFINITY else soft
    return min(limit, SELECTABLE) if selects else limit
