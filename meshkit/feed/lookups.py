"""What the part C{feed} answers when it is asked for lists and searches."""

from __future__ import annotations

from typing import Any

from meshkit.errors import InvalidRequest
from meshkit.feed import operations as offered
from meshkit.feed import search
from meshkit.identity.keys import PublicKey
from meshkit.operations import Page


class Lookups:
    """The operations that read many messages."""

    def __init__(self, database: Any, own: PublicKey) -> None:
        """
        @param database: L{meshkit.runtime.database.Database}.
        @param own: whose messages are "one's own".
        """
        self._database = database
        self._own = own

    async def answer_list(self, request: offered.ListFeed) -> Page:
        not_author = None if request.include_self else self._own.raw
        wanted = search.Filter(not_author=not_author, content_type=request.content_type)
        return await self._page(wanted, request.limit, request.offset)

    async def answer_author(self, request: offered.ListAuthor) -> Page:
        author = PublicKey.parse(request.author)
        wanted = search.Filter(author=author.raw, content_type=request.content_type)
        return await self._page(wanted, request.limit, request.offset)

    async def answer_insights(self, request: offered.ListInsights) -> Page:
        wanted = search.Filter(content_type="insight")
        return await self._page(wanted, request.limit, request.offset)

    async def _page(self, wanted: search.Filter, limit: int, offset: int) -> Page:
        rows, total = await self._database.read(
            lambda connection: search.list_messages(connection, wanted, limit, offset)
        )
        return Page([search.shown(row) for row in rows], total=total, limit=limit, offset=offset)

    async def answer_search(self, request: offered.Search) -> Page:
        expression = search.search_expression(request.q)
        if expression is None:
            raise InvalidRequest(
                f"q={request.q[:80]!r} has no word to search for, or more than "
                f"{search.MAX_SEARCH_WORDS}"
            )
        rows, total = await self._database.read(
            lambda connection: search.search_messages(
                connection, expression, request.limit, request.offset
            )
        )
        return Page(
            [search.shown(row) for row in rows],
            total=total,
            limit=request.limit,
            offset=request.offset,
        )
