"""`diffgraph push GRAPH org/repo`: a graph with all that others need to run it, on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from .graph_command import GraphCommand, Opened, graph_options, opened, place_options, talk_options
from .progress import Listener, shown
from .report import State, put, say

if TYPE_CHECKING:
    from ..session import Session


@click.command("push", cls=GraphCommand)
@graph_options
@click.argument("repository", metavar="ORG/REPO")
@click.option("--dry-run", is_flag=True, help="Shows what would be sent, and sends nothing.")
@click.option("--with-weights", is_flag=True, help="Sends weights that are folders on this machine, too.")
@click.option("--sample", "picture", metavar="FILE", type=click.Path(path_type=Path), help="The card's picture.")
@click.option("--no-sample", is_flag=True, help="Leaves the picture out; else the graph is run for one.")
@click.option("--licence", metavar="ID", help="As the Hub names it, such as mit; that of the weights unless given.")
@click.option("--message", metavar="TEXT", help="Of the commit.")
@click.option("--private", is_flag=True, help="Makes the repository private, where it is made.")
@place_options
@click.option("--quiet", is_flag=True, help="Shows neither progress nor notes.")
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], repository: str, dry_run: bool, with_weights: bool, picture: Path | None, no_sample: bool,
    licence: str | None, message: str | None, private: bool, device: str | None, dtype: str | None, quiet: bool,
    as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Puts GRAPH on the Hub as ORG/REPO: the document, what it includes, its lock, a drawing and a card.

    Its inputs are those of the picture on the card, and of the command there. Weights that are folders on this machine
    are refused, or sent along with --with-weights. Paths of this machine, tokens and secret inputs are never sent.
    """
    from ..results import default_results
    from ..session import Options, Session
    from ..sharing import Shared, pack
    from ..weights.hub import default_hub
    from ..weights.transfers import say_bytes
    from ..weights.uploads import repository_name, upload

    state: State = ctx.obj
    asked, name = opened(ctx), repository_name(repository)
    if sets:
        raise InputError("--set: what is pushed is the document as it stands", hint="change the document, or a variant")
    session = Session(Options(device, dtype or "fp32", nodes=nodes), default_results())
    given = asked.given(pairs, session.registry)
    shared = Shared(session, asked.graph, asked.source, asked.loader, name, given, variant, with_weights, licence, None)
    if picture is not None:
        shared.sample = _read(picture)
    elif not no_sample:
        with shown(state, asked.graph.inputs, quiet=quiet) as listener:
            shared.sample = _sample(asked, session, pairs, variant, listener)
    hub = default_hub()
    parcel = pack(shared, hub)
    listed = {path: len(one) if isinstance(one, bytes) else one.stat().st_size for path, one in parcel.files.items()}
    commit = None
    if not dry_run:
        commit = upload(hub, name, parcel.files, message=message or f"Push {asked.graph.name or name}", private=private)
    card = parcel.files["README.md"]
    assert isinstance(card, bytes)
    if as_json:
        put({
            "repository": name, "commit": commit, "files": listed, "notes": list(parcel.notes), "card": card.decode(),
            "url": f"{hub.endpoint}/{name}",
        })  # fmt: skip
        return
    for note in parcel.notes if not quiet else ():
        say(f"note: {note}")
    if dry_run:
        for path, size in sorted(listed.items()):
            click.echo(f"{path}  {say_bytes(size)}")
        click.echo(f"\n{card.decode()}\nnothing was sent: {len(listed)} files, {say_bytes(parcel.size)}, to {name}")
        return
    click.echo(f"{hub.endpoint}/{name}")


def _read(path: Path) -> bytes:
    from ..inputs import read_file

    return read_file(path, "--sample").data


def _sample(
    asked: Opened, session: Session, pairs: tuple[str, ...], variant: str | None, listener: Listener
) -> bytes | None:
    """The first picture that the graph gives with the inputs that were typed; None where it gives none."""
    from ..results import make_files, writer_of

    prepared = asked.prepare(session, pairs, variant=variant, sets=(), show=())[0]
    writers = {name: writer_of(prepared, name) for name in prepared.outputs}
    name = next((name for name, writer in writers.items() if writer is not None and writer.suffix == ".png"), None)
    if name is None:
        return None
    writer = writers[name]
    assert writer is not None
    outputs = prepared.run([listener])
    return make_files(writer, outputs[name], {})[0]
