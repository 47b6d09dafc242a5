"""`diffgraph run GRAPH`: checks, plans and runs a graph, once or as a sweep, and writes what it gives."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DiffgraphError, PortError, RunError
from .graph_command import GraphCommand, Opened, graph_options, opened, run_options, run_session, talk_options
from .output import JSON, PLAIN, TENSORS, Destination, as_plain, as_tensors, is_plain, suffix_of
from .preview import PreviewFile
from .progress import Listener, shown
from .report import State, put
from .sweeping import axes_of, names_of

if TYPE_CHECKING:
    from ..registry import Writer
    from ..session import Prepared
    from ..sweeps import Axis, Point

PICTURE = ".png"


@click.command("run", cls=GraphCommand)
@graph_options
@click.option("-o", "--output", metavar="PATH", help="A file, or a folder; ./NAME-SEED.png unless given.")
@run_options
@click.option("--no-metadata", is_flag=True, help="Leaves the graph and its inputs out of the files.")
@click.option("--preview", is_flag=True, help="Draws the picture on the terminal as it develops.")
@click.option(
    "--preview-file",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Writes it to this PNG, which is replaced as it develops.",
)
@click.option("--quiet", is_flag=True, help="Shows neither progress nor notes.")
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], output: str | None, show: tuple[str, ...], device: str | None,
    dtype: str | None, memory: str | None, no_cache: bool, locked: bool, no_lock: bool, sweeps: tuple[str, ...],
    no_metadata: bool, preview: bool, preview_file: Path | None, as_json: bool, quiet: bool, debug: bool,
) -> None:  # fmt: skip
    """Runs GRAPH: a document, the name of a shipped graph, or a picture that diffgraph made.

    `diffgraph run GRAPH --help` shows the inputs of that graph, which are options of this command. A sweep, such as
    `--seed 0..7` or `--prompt @prompts.txt`, runs it for each combination; the same command goes on where it stopped.
    """
    from ..sweeps import points

    state: State = ctx.obj
    asked = opened(ctx)
    started = time.monotonic()
    axes = axes_of(asked, sweeps)
    session = run_session(asked, device, dtype, memory, no_cache, nodes, locked, no_lock)
    prepared = asked.prepare(session, pairs, variant=variant, sets=sets, show=show, axes=axes)
    labels: Sequence[str | None] = list(names_of(axes)) if axes else [None]
    runs = [
        Run(one, output, point, label, metadata=not no_metadata)
        for one, point, label in zip(prepared, points(axes), labels, strict=True)
    ]
    runs[0].check()
    file = PreviewFile(preview_file) if preview_file is not None else None
    with shown(state, asked.graph.inputs, quiet=quiet, preview=preview, file=file) as listener:
        _compare(asked, prepared[0], listener)
        _make(runs, state, listener)
    grids = _grids(runs, axes)
    if as_json:
        _put(runs, axes, grids, state, time.monotonic() - started)
        return
    for run in runs:
        for path in run.paths:
            click.echo(path)
    for path in grids.values():
        click.echo(path)
    for run in runs:
        for name, value in run.plain.items():
            click.echo(json.dumps(run.point | {name: value}, ensure_ascii=False))


def _make(runs: Sequence[Run], state: State, listener: Listener) -> None:
    """Makes what the store does not hold, and writes the files of each run as soon as it has all its outputs."""
    from ..running.run import Event
    from ..sweeps import run_all

    for run in runs:
        run.find(listener)

    def take(number: int, name: str, value: Any) -> None:
        state.ran = True
        runs[number].take(name, value, listener)

    try:
        run_all([run.prepared for run in runs], take, [listener], [run.files for run in runs])
    except BaseException:
        done = sum(run.whole for run in runs)
        if done and len(runs) > 1:
            text = f"{done} of {len(runs)} runs are finished; the same command does the rest"
            listener(Event("warning", text=text))
        raise


def _grids(runs: Sequence[Run], axes: Sequence[Axis]) -> dict[str, Path]:
    """Writes a sheet for each output of a sweep that is pictures; by the output's name."""
    from ..sweeps import cell, grid

    if not axes:
        return {}
    found = {}
    for name in runs[0].prepared.outputs:
        if runs[0].suffix(name) == PICTURE:
            pictures = [cell(run.files.get(name, [])) for run in runs]
            found[name] = runs[0].destination.grid(name, grid(axes, pictures))
    return found


def _put(runs: Sequence[Run], axes: Sequence[Axis], grids: Mapping[str, Path], state: State, seconds: float) -> None:
    """What was made, as JSON."""
    told: dict[str, Any] = {"outputs": runs[0].told()}
    if axes:
        told = {"runs": [{"inputs": run.point, "outputs": run.told()} for run in runs]}
        told["grids"] = {name: str(path) for name, path in grids.items()}
    put({**told, "notes": state.notes, "warnings": state.warnings, "seconds": round(seconds, 3)})


def _compare(asked: Opened, prepared: Prepared, listener: Listener) -> None:
    """Says where an input file is not the one that the picture was made from, and what else may change a value."""
    from ..running.run import Event

    if asked.bundle is None:
        return
    for name in asked.bundle.differing(prepared.values):
        listener(Event("warning", text=f"{name}: this is not the file that {asked.address} was made from"))
    if told := asked.bundle.made.elsewhere(prepared.settings):
        listener(Event("note", text=f"{asked.address} was made {told}; its last digits may come out differently"))


class Run:
    """One run of the command: its outputs, from the store or computed, and their files.

    point: what a sweep varies, as it was typed; label: how that stands in names of files, None for a run alone.
    """

    def __init__(
        self, prepared: Prepared, output: str | None, point: Point, label: str | None, *, metadata: bool
    ) -> None:
        from ..results import provenance, writer_of

        self.prepared, self.point, self.label = prepared, dict(point), label
        self.writers: dict[str, Writer | None] = {name: writer_of(prepared, name) for name in prepared.outputs}
        suffixes = {name: suffix for name in prepared.outputs if (suffix := self.suffix(name)) is not None}
        self.destination = Destination.of(prepared, suffixes, output, label)
        self.to_file = output is not None and not suffixes
        self.writes = bool(suffixes) or self.to_file
        self.metadata: Mapping[str, str] = provenance(prepared) if metadata else {}
        self.files: dict[str, list[bytes]] = {}
        self.plain: dict[str, Any] = {}
        self.written: dict[str, list[Path]] = {}
        self.sheets: dict[str, Path] = {}
        self.whole = False

    def suffix(self, name: str) -> str | None:
        """Of the files of an output; None where it is plain."""
        writer = self.writers[name]
        return writer.suffix if writer is not None else suffix_of(self.prepared.kinds.get(name))

    def check(self) -> None:
        """Looks whether files can be written. Raises InputError."""
        if self.writes:
            self.destination.check()

    @property
    def paths(self) -> list[Path]:
        """Every file that was written."""
        sheets = {name: [path] for name, path in self.sheets.items()}
        return [path for name, paths in self.written.items() for path in [*paths, *sheets.get(name, [])]]

    def told(self) -> dict[str, Any]:
        """What was made, for JSON."""
        told: dict[str, Any] = {name: {"files": [str(path) for path in paths]} for name, paths in self.written.items()}
        for name, path in self.sheets.items():
            told[name]["sheet"] = str(path)
        return told | {name: {"value": value} for name, value in self.plain.items()}

    def find(self, listener: Listener) -> None:
        """Takes the files that an earlier run made, so that neither the value nor torch is needed."""
        from ..results import files_key, stored_files
        from ..running.run import Event

        results = self.prepared.results
        for name, writer in self.writers.items() if results is not None else ():
            if writer is None:
                continue
            assert results is not None
            key = files_key(writer, self.prepared.planner.key(self.prepared.outputs[name]), self.metadata)
            known = results.has(key) and self.prepared.storable(name)
            files = stored_files(results, key) if known else None
            if files is not None:
                self.files[name] = files
                listener(Event("cached", " of ".join(filter(None, (name, self.label)))))
            elif known:
                listener(Event("warning", text="a stored result was damaged; it is computed again"))
        self._write()

    def take(self, name: str, value: Any, listener: Listener) -> None:
        """Takes an output; with the last one, writes all files. Raises RunError, StoreError."""
        writer = self.writers[name]
        if writer is not None:
            self.files[name] = self._made(name, writer, value, listener)
        elif is_plain(value):
            self.plain[name] = as_plain(value)
        else:
            self.files[name] = [as_tensors(value, name)]
        self._write()

    def _write(self) -> None:
        """Writes the files of all outputs once these are there."""
        if self.whole or len(self.files) + len(self.plain) < len(self.prepared.outputs):
            return
        self.whole = True
        self.plain = {name: self.plain[name] for name in self.prepared.outputs if name in self.plain}
        if self.to_file and self.plain:
            text = json.dumps(self.plain, ensure_ascii=False, indent=2) + "\n"
            self.files, self.plain = {**self.files, PLAIN: [text.encode()]}, {}
        for name in sorted(self.files, key=[*self.prepared.outputs, PLAIN].index):
            writer, files = self.writers.get(name), self.files[name]
            suffix = writer.suffix if writer is not None else JSON if name == PLAIN else TENSORS
            self.written[name or "values"] = self.destination.write(name, suffix, files)
            if suffix == PICTURE and len(files) > 1:
                from ..sheet import rows_of, sheet

                self.sheets[name] = self.destination.sheet(name, sheet(rows_of(files)))

    def _made(self, name: str, writer: Writer, value: Any, listener: Listener) -> list[bytes]:
        """The files of a value, kept for the same run another time."""
        from ..results import files_key, keep_files, make_files
        from ..running.run import Event

        try:
            files = make_files(writer, value, self.metadata)
        except PortError as error:
            raise RunError(f"output {name}: {error.message}", node=name, hint=error.hint) from error
        if self.prepared.results is not None and self.prepared.storable(name):
            key = files_key(writer, self.prepared.planner.key(self.prepared.outputs[name]), self.metadata)
            try:
                keep_files(self.prepared.results, key, files)
            except DiffgraphError as error:
                listener(Event("warning", text=f"the files are not kept in the store: {error.message}"))
        return files
