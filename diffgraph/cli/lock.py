"""`diffgraph lock GRAPH`: which commits and files a graph runs with, written beside it."""

from __future__ import annotations

from pathlib import Path

import click

from .graph_command import GraphCommand, graph_options, opened, parse_sets, talk_options
from .report import put


@click.command("lock", cls=GraphCommand)
@graph_options
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--upgrade", is_flag=True, help="Moves on to what is there now; with NAMEs, these alone.")
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], names: tuple[str, ...], upgrade: bool, as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Writes GRAPH.lock: the commit of every repository, the hash of every file, the version of every node.

    A run with a lock beside its graph uses it, and refuses what differs. What is locked stays as it is; --upgrade moves
    on, and says what changed. A NAME is an address, org/repo, or a type of node. All variants of the graph are locked;
    with --variant, --set or inputs, what these need is added. No weights are downloaded.
    """
    from ..locking import find_lock, lock_place
    from ..relocking import renewed
    from ..session import Options, Session
    from ..weights.transfers import say_bytes
    from .output import write_over

    asked = opened(ctx)
    place = lock_place(asked.source)
    session = Session(Options(nodes=nodes))
    given = asked.given(pairs, session.registry)
    old = find_lock(asked.source)
    new, changes = renewed(
        session, asked.graph, asked.source, asked.loader, given, old, variant=variant, sets=parse_sets(sets),
        upgrade=upgrade, names=names,
    )  # fmt: skip
    text = new.text()
    if old is None or text.encode() != place.read_bytes():
        write_over(place, text.encode())
    entries = new.entries.values()
    count, size = sum(len(entry.files) for entry in entries), sum(f.size for e in entries for f in e.files.values())
    if as_json:
        put({"file": str(place), "changes": changes, "addresses": sorted(new.entries), "files": count, "bytes": size})
        return
    for line in changes:
        click.echo(line)
    if old is not None and not changes:
        click.echo("nothing changed")
    addresses = "1 address" if len(entries) == 1 else f"{len(entries)} addresses"
    click.echo(f"{place}: {addresses}, {count} files of {say_bytes(size)}")
