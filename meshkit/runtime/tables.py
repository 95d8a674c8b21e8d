"""
The tables of the node itself.

Released scripts are never changed, and keep their places: a new one goes to the end of
L{MIGRATIONS}, whatever module it comes from.
"""

from __future__ import annotations

from typing import Final

from meshkit.runtime import peers, tokens

#: For the part C{node} of the database.
MIGRATIONS: Final = (*peers.MIGRATIONS, *tokens.MIGRATIONS)
