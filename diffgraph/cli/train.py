"""`diffgraph train GRAPH`: trains what a training graph names."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InputError
from .graph_command import GraphCommand, graph_options, opened, parse_sets, place_options, talk_options
from .progress import shown
from .report import State, put


@click.command("train", cls=GraphCommand)
@graph_options
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="For weights, log and samples.")
@click.option("--resume/--no-resume", default=True, help="Goes on from the checkpoint in FOLDER, if there is one.")
@place_options
@click.option("--quiet", is_flag=True, help="Shows neither progress nor notes.")
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], out: Path | None, resume: bool, device: str | None, dtype: str | None, quiet: bool,
    as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Trains what GRAPH says in its `train` section: a document, or the name of a shipped one such as train/glide.

    `diffgraph train GRAPH --help` shows the inputs of that graph, such as --data and --steps. Writes weights that
    `diffgraph run` loads, a log and a plot of the loss, and samples, to FOLDER, or to ./runs/NAME. The same command
    goes on where it was stopped.
    """
    state: State = ctx.obj
    asked = opened(ctx)
    if asked.graph.train is None:
        raise InputError(f"{asked.address} has no `train` section", hint="`diffgraph graphs` lists those that train")
    from ..builder import Graph
    from ..registry import registry
    from ..session import Options
    from ..training.train import train

    given = asked.given(pairs, registry(nodes))
    folder = out if out is not None else Path("runs") / (asked.graph.name or Path(asked.address).stem)
    with shown(state, asked.graph.inputs, quiet=quiet, counts_done=True) as listener:
        path = train(
            Graph.from_source(asked.source, asked.loader, nodes=nodes), given, out=folder,
            options=Options(device, dtype or "fp32", None, False, nodes), variant=variant, sets=parse_sets(sets), resume=resume,
            listeners=[listener],
        )  # fmt: skip
    if as_json:
        put({"folder": str(path), "notes": state.notes, "warnings": state.warnings})
    else:
        click.echo(path)
