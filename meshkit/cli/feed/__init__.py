"""C{meshkit feed}: everything about feeds.  Some of its verbs have shortcuts of their own."""

from __future__ import annotations

import click

from meshkit.cli.feed.publishing import publish, rotate, unlock
from meshkit.cli.feed.reading import search, show, thread, watch
from meshkit.cli.feed.schemas import schema
from meshkit.cli.feed.selection import block, follow, forget, retention, topic
from meshkit.cli.feed.transfer import export_feeds, import_feeds

__all__ = ["feed", "follow", "publish", "search"]


@click.group(invoke_without_command=True)
@click.pass_context
def feed(ctx: click.Context) -> None:
    """Publish, read, search, export, import, follow. Alone: show the newest messages."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


for _verb in (
    block,
    export_feeds,
    follow,
    forget,
    import_feeds,
    publish,
    retention,
    rotate,
    schema,
    search,
    show,
    thread,
    topic,
    unlock,
    watch,
):
    feed.add_command(_verb)
