"""`diffgraph show GRAPH -o graph.svg`: a drawing of a graph."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InputError
from .graph_command import open_graph, parse_sets, talk_options
from .report import put, say

SUFFIXES = (".svg", ".png")


@click.command("show")
@click.argument("graph", metavar="GRAPH")
@click.option("-o", "--output", metavar="FILE", help="A .svg or a .png; unless given, SVG goes to standard output.")
@click.option(
    "--depth", type=click.IntRange(0), default=1, show_default=True,
    help="How many levels of graphs in graphs are opened; 0 shows each as a box.",
)  # fmt: skip
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True, help="Its colours.")
@click.option("--variant", metavar="NAME", help="A variant whose nodes are drawn; the first unless given.")
@click.option("--set", "sets", metavar="NODE.KEY=VALUE", multiple=True, help="Replaces a key of a node.")
@click.option(
    "--nodes", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
    help="A Python file with nodes that the graph uses; it is executed.",
)  # fmt: skip
@talk_options
def command(
    graph: str, output: str | None, depth: int, theme: str, variant: str | None, sets: tuple[str, ...],
    nodes: tuple[Path, ...], as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Draws a graph: a document, a shipped graph, or a picture that diffgraph made.

    Inputs are on the left, outputs on the right; components stand above what calls them. Loops, maps, branches,
    gradients and opened graphs are frames. Nothing is run, and no weights are opened.
    """
    from ..drawing.show import drawing
    from ..drawing.svg import svg
    from ..inputs import apply_sets, resolve_inputs
    from ..registry import registry
    from .output import Destination, write_over

    path = Path(output).expanduser() if output is not None else None
    if path is not None:
        if path.suffix.lower() not in SUFFIXES or path.is_dir():
            hint = f"name it {path / 'graph.svg' if path.is_dir() else path.with_suffix('.svg')}"
            raise InputError(f"--output {output}: a drawing is written as .svg or .png", hint=hint)
        Destination(path.parent, path.stem, None, None, "", path).check()
    asked, known = open_graph(graph), registry(nodes)
    kept = asked.bundle.inputs if asked.bundle is not None else None
    if kept is not None and variant:
        raise InputError(f"--variant: {graph} holds one run")
    values, replaced = resolve_inputs(asked.graph, {}, known, variant, source=asked.source, kept=kept, partial=True)
    document = apply_sets(apply_sets(asked.graph, replaced), parse_sets(sets), user=True)
    drawn, problems = drawing(document, asked.source, asked.loader, known, values=values, depth=depth, theme=theme)
    if problems:
        count = "a mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        say(f"note: the graph has {count}, so the drawing may lack something: diffgraph check {graph}")
    if path is None:
        click.echo(svg(drawn), nl=False)
        return
    if path.suffix.lower() == ".svg":
        data = svg(drawn).encode()
    else:
        from ..drawing.png import png

        data = png(drawn)
    written = write_over(path, data)
    if as_json:
        put({"output": str(written)})
    else:
        click.echo(str(written))
