"""`diffgraph pull GRAPH`: all that a graph needs, so that it runs offline."""

from __future__ import annotations

from pathlib import Path

import click

from .graph_command import GraphCommand, graph_options, opened, parse_sets, talk_options
from .progress import shown
from .report import State, put


@click.command("pull", cls=GraphCommand)
@graph_options
@click.option("--quiet", is_flag=True, help="Shows no progress.")
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], quiet: bool, as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Fetches all that GRAPH needs: with --variant, what that variant needs; else what all of them do.

    After that, `diffgraph run GRAPH --offline` asks nobody anything. Inputs may be left out. A lock beside the graph
    says what is fetched.
    """
    from ..fetching import fetch_files, total_size
    from ..gathering import gather, part_files, variants_of
    from ..locking import Book, find_lock
    from ..session import Options, Session
    from ..weights.transfers import say_bytes

    state: State = ctx.obj
    asked = opened(ctx)
    session = Session(Options(nodes=nodes))
    book = Book(asked.source.base, find_lock(asked.source))
    variants = variants_of(asked.graph, variant)
    given = asked.given(pairs, session.registry)
    opener, _ = gather(
        session, asked.graph, asked.source, asked.loader, given, book, variants=variants, sets=parse_sets(sets),
        kept=asked.bundle.inputs if asked.bundle is not None else None,
    )  # fmt: skip
    files = part_files(opener)
    missing = [(folder, folder.absent(names)) for folder, names in files]
    size = total_size(missing)
    with shown(state, asked.graph.inputs, quiet=quiet) as listener:
        fetch_files([(folder, names) for folder, names in missing if names], asked.address, [listener])
    for folder, names in files:  # which compares each with the lock
        folder.paths(names)
    found = {address: entry.commit for address, entry in sorted(book.entries.items())}
    if as_json:
        put({"addresses": found, "bytes": size})
        return
    for address, commit in found.items():
        if commit is not None:
            click.echo(f"{address} at {commit[:12]}")
    told = f"fetched {say_bytes(size)}" if size else "nothing to fetch: all is here"
    click.echo(f"{told}; diffgraph run {asked.address} --offline")
