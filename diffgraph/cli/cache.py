"""`diffgraph cache`: what the store of results holds, and less of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .report import put

if TYPE_CHECKING:
    from ..running.store import Store


@click.group("cache", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Prints JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Shows the store of results: where it is, how large it is and may become.

    DIFFGRAPH_CACHE_DIR sets where everything cached is kept, DIFFGRAPH_CACHE_SIZE how large the store may become.
    """
    if ctx.invoked_subcommand is not None:
        return
    from ..planning.sizes import format_size

    store = _store()
    stats = store.stats()
    if as_json:
        put({"folder": store.folder, "entries": stats.entries, "bytes": stats.size, "limit": stats.limit})
        return
    click.echo(f"{store.folder}")
    click.echo(f"{stats.entries} results, {format_size(stats.size)} of at most {format_size(stats.limit)}")


@command.command("prune")
@click.option("--to", "size", metavar="SIZE", required=True, help="What may stay, such as 5GiB.")
@click.option("--json", "as_json", is_flag=True, help="Prints JSON.")
def prune(size: str, as_json: bool) -> None:
    """Drops the results that were not used for longest, until the rest has at most SIZE."""
    from ..planning.sizes import parse_size

    store = _store()
    _dropped(store, store.prune(parse_size(size, "--to")), as_json)


@command.command("clear")
@click.option("--json", "as_json", is_flag=True, help="Prints JSON.")
def clear(as_json: bool) -> None:
    """Drops every result."""
    store = _store()
    _dropped(store, store.clear(), as_json)


def _dropped(store: Store, size: int, as_json: bool) -> None:
    from ..planning.sizes import format_size

    left = store.stats()
    if as_json:
        put({"folder": store.folder, "dropped": size, "entries": left.entries, "bytes": left.size})
    else:
        click.echo(f"dropped {format_size(size)}; {left.entries} results, {format_size(left.size)} stay")


def _store() -> Store:
    from ..results import default_store

    return default_store()
