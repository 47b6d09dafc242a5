"""`diffgraph check GRAPH`: every mistake of a graph, before any weight is opened."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import DiffgraphError
from .graph_command import GraphCommand, graph_options, opened, parse_sets, talk_options
from .report import put


@click.command("check", cls=GraphCommand)
@graph_options
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Finds every mistake in a graph: names, wires, shapes, facts, values.

    The structure needs the document alone; the components' configs, where weights are named, are fetched and checked
    too, the weights are not. Inputs may be left out.
    """
    from ..fetching import raise_problems
    from ..inputs import apply_sets, resolve_inputs
    from ..session import Options, Session

    asked = opened(ctx)
    session = Session(Options(nodes=nodes))
    found: list[DiffgraphError] = []
    values, document = asked.defaults, asked.graph
    try:
        given = asked.given(pairs, session.registry)
        kept = asked.bundle.inputs if asked.bundle is not None else None
        values, replaced = resolve_inputs(
            document, given, session.registry, variant, source=asked.source, kept=kept, partial=True
        )
        document = apply_sets(apply_sets(document, replaced), parse_sets(sets), user=True)
    except DiffgraphError as error:
        found.append(error)
    opener = session.opener(asked.source)
    found += session.check(document, asked.source, asked.loader, values, opener)[0]
    raise_problems(found, opener, asked.source)
    documents = len(asked.loader.documents)
    if as_json:
        put({"errors": [], "documents": sorted(asked.loader.documents)})
    else:
        click.echo(f"{asked.address}: no mistakes" + (f" in {documents} documents" if documents > 1 else ""))
