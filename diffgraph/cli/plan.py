"""`diffgraph plan GRAPH`: what a run would do, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .graph_command import GraphCommand, graph_options, opened, run_options, run_session, talk_options
from .report import put
from .sweeping import axes_of
from .tables import table

if TYPE_CHECKING:
    from ..components import Handle
    from ..session import Prepared

STATES = {"run": "run", "cached": "cached", "unused": "not needed"}


@click.command("plan", cls=GraphCommand)
@graph_options
@run_options
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], show: tuple[str, ...], device: str | None, dtype: str | None, memory: str | None,
    no_cache: bool, locked: bool, no_lock: bool, sweeps: tuple[str, ...], as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Shows what `diffgraph run GRAPH` would do: which nodes run, which come from the store, which weights are needed.

    Takes the options of `run`. Opens configs, but no weights.
    """
    from ..fetching import absent_files, needed, total_size
    from ..sweeps import joined

    asked = opened(ctx)
    session = run_session(asked, device, dtype, memory, no_cache, nodes, locked, no_lock)
    axes = axes_of(asked, sweeps)
    prepared = joined(asked.prepare(session, pairs, variant=variant, sets=sets, show=show, axes=axes))
    program = prepared.program()
    units = [{"node": unit.path, "what": unit.what, "state": unit.state} for unit in program.units]
    used = {handle.key for unit in program.units if unit.state == "run" for handle in unit.handles}
    parts = [_part(handle, handle.key in used) for handle in prepared.handles]
    fetched = total_size(absent_files(needed(program)))
    if as_json:
        settings = prepared.settings
        about = {"device": settings.device, "dtype": settings.dtype, "download": fetched}
        put({**about, "nodes": units, "components": parts})
        return
    _print(prepared, units, parts, fetched)


def _print(prepared: Prepared, units: list[dict[str, Any]], parts: list[dict[str, Any]], fetched: int) -> None:
    from ..planning.sizes import format_count, format_size

    table(
        [(unit["node"], unit["what"], STATES[unit["state"]]) for unit in units],
        head=("node", "what", "will be"),
    )
    if parts:
        click.echo()
        rows = []
        for part in parts:
            count = format_count(part["parameters"]) if part["parameters"] is not None else ""
            size = format_size(part["bytes"]) if part["bytes"] else ""
            fetch = f"download {format_size(part['download'])} of " if part["download"] else ""
            state = "" if part["needed"] else "not needed; "
            rows.append((part["node"], part["type"], count, size, part["dtype"] or "", state + fetch + part["source"]))
        table(rows, head=("component", "type", "parameters", "size", "as", "from"))
    states = [unit["state"] for unit in units]
    loaded = sum(part["bytes"] for part in parts if part["needed"])
    told = [f"{states.count('run')} to run", f"{states.count('cached')} from the store"]
    told += [f"{format_size(loaded)} of weights to load"] if loaded else []
    told += [f"{format_size(fetched)} to download"] if fetched else []
    dtype = prepared.settings.dtype
    click.echo(f"\n{', '.join(told)}; on {prepared.settings.device} in {dtype}")


def _part(handle: Handle, needed: bool) -> dict[str, Any]:
    """What is known of a component without opening it."""
    absent = handle.folder.absent(handle.files) if handle.folder is not None else []
    return {
        "node": handle.path,
        "type": handle.kind.name,
        "parameters": _parameters(handle, absent),
        "bytes": handle.bytes,
        "dtype": handle.dtype if handle.kind.trainable else None,
        "device": handle.device,
        "source": _source(handle),
        "download": handle.folder.size(absent) if handle.folder is not None and absent else 0,
        "needed": needed,
    }


def _source(handle: Handle) -> str:
    if handle.live is not None:
        return "a live object"
    if handle.folder is not None:
        return str(handle.folder)
    return f"fresh values, init_seed {handle.init_seed}" if handle.kind.trainable else "its parameters"


def _parameters(handle: Handle, absent: list[str]) -> int | None:
    """How many numbers its weights have, from the headers of its files; None where these are not here."""
    from ..weights.tensors import read_header

    if handle.folder is None or absent or not handle.kind.trainable:
        return None
    paths = handle.folder.paths([name for name in handle.files if name.endswith(".safetensors")])
    counts = [
        spec.count for name, path in paths.items() for spec in read_header(path, f"{handle.folder}/{name}").values()
    ]
    return sum(counts) if counts else None
