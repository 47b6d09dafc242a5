"""`diffgraph run GRAPH`: checks, plans and runs a graph, and writes what it gives."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DiffgraphError, PortError, RunError
from .graph_command import GraphCommand, Opened, graph_options, opened, run_options, run_session, talk_options
from .output import JSON, PLAIN, TENSORS, Destination, as_plain, as_tensors, is_plain, suffix_of
from .progress import Listener, shown
from .report import State, put

if TYPE_CHECKING:
    from ..registry import Writer
    from ..session import Prepared


@click.command("run", cls=GraphCommand)
@graph_options
@click.option("-o", "--output", metavar="PATH", help="A file, or a folder; ./NAME-SEED.png unless given.")
@run_options
@click.option("--no-metadata", is_flag=True, help="Leaves the graph and its inputs out of the files.")
@click.option("--quiet", is_flag=True, help="Shows neither progress nor notes.")
@talk_options
@click.pass_context
def command(
    ctx: click.Context, graph: str, variant: str | None, sets: tuple[str, ...], pairs: tuple[str, ...],
    nodes: tuple[Path, ...], output: str | None, show: tuple[str, ...], device: str | None, dtype: str,
    memory: str | None, no_cache: bool, no_metadata: bool, as_json: bool, quiet: bool, debug: bool,
) -> None:  # fmt: skip
    """Runs GRAPH: a document, the name of a shipped graph, or a picture that diffgraph made.

    `diffgraph run GRAPH --help` shows the inputs of that graph, which are options of this command.
    """
    state: State = ctx.obj
    asked = opened(ctx)
    started = time.monotonic()
    prepared = asked.prepare(
        run_session(device, dtype, memory, no_cache, nodes), pairs, variant=variant, sets=sets, show=show
    )
    run = Run(prepared, output, metadata=not no_metadata)
    with shown(state, asked.graph.inputs, quiet=quiet) as listener:
        _compare_files(asked, prepared, listener)
        written, values = run.outputs(state, listener)
    told: dict[str, Any] = {name: {"files": [str(path) for path in paths]} for name, paths in written.items()}
    told |= {name: {"value": value} for name, value in values.items()}
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        put({"outputs": told, "notes": state.notes, "warnings": state.warnings, "seconds": seconds})
        return
    for paths in written.values():
        for path in paths:
            click.echo(path)
    for name, value in values.items():
        click.echo(json.dumps({name: value}, ensure_ascii=False))


def _compare_files(asked: Opened, prepared: Prepared, listener: Listener) -> None:
    """Says where an input file is not the one that the picture was made from."""
    from ..running.run import Event

    for name in asked.bundle.differing(prepared.values) if asked.bundle is not None else ():
        listener(Event("warning", text=f"{name}: this is not the file that {asked.address} was made from"))


class Run:
    """One run of the command: outputs from the store or computed, and their files."""

    def __init__(self, prepared: Prepared, output: str | None, *, metadata: bool) -> None:
        from ..results import provenance, writer_of

        self.prepared = prepared
        self.writers: dict[str, Writer | None] = {name: writer_of(prepared, name) for name in prepared.outputs}
        suffixes = {}
        for name, writer in self.writers.items():
            suffix = writer.suffix if writer is not None else suffix_of(prepared.kinds.get(name))
            if suffix is not None:
                suffixes[name] = suffix
        self.destination = Destination.of(prepared, suffixes, output)
        self.to_file = output is not None and not suffixes
        if suffixes or self.to_file:
            self.destination.check()
        self.metadata: Mapping[str, str] = provenance(prepared) if metadata else {}

    def outputs(self, state: State, listener: Listener) -> tuple[dict[str, list[Path]], dict[str, Any]]:
        """The files written by output, and the values that are plain. Raises RunError, StoreError, Interrupted."""
        files = self._stored(listener)
        wanted = self.prepared.outputs
        self.prepared.outputs = {name: bound for name, bound in wanted.items() if name not in files}
        results = self.prepared.run([listener])
        state.ran = True
        plain = {}
        for name, value in results.items():
            writer = self.writers[name]
            if writer is not None:
                files[name] = self._made(name, writer, value, listener)
            elif is_plain(value):
                plain[name] = as_plain(value)
            else:
                files[name] = [as_tensors(value, name)]
        if self.to_file and plain:
            text = json.dumps(plain, ensure_ascii=False, indent=2) + "\n"
            files, plain = {**files, PLAIN: [text.encode()]}, {}
        written = {}
        for name in sorted(files, key=[*wanted, PLAIN].index):
            writer = self.writers.get(name)
            suffix = writer.suffix if writer is not None else JSON if name == PLAIN else TENSORS
            written[name or "values"] = self.destination.write(name, suffix, files[name])
        return written, plain

    def _stored(self, listener: Listener) -> dict[str, list[bytes]]:
        """The files that an earlier run made, so that neither the value nor torch is needed."""
        from ..results import files_key, stored_files
        from ..running.run import Event

        results, found = self.prepared.results, {}
        for name, writer in self.writers.items() if results is not None else ():
            if writer is None:
                continue
            assert results is not None
            key = files_key(writer, self.prepared.planner.key(self.prepared.outputs[name]), self.metadata)
            known = results.has(key)
            files = stored_files(results, key) if known else None
            if files is not None:
                found[name] = files
                listener(Event("cached", name))
            elif known:
                listener(Event("warning", text="a stored result was damaged; it is computed again"))
        return found

    def _made(self, name: str, writer: Writer, value: Any, listener: Listener) -> list[bytes]:
        """The files of a value, kept for the same run another time."""
        from ..results import files_key, keep_files, make_files
        from ..running.run import Event

        try:
            files = make_files(writer, value, self.metadata)
        except PortError as error:
            raise RunError(f"output {name}: {error.message}", node=name, hint=error.hint) from error
        if self.prepared.results is not None:
            key = files_key(writer, self.prepared.planner.key(self.prepared.outputs[name]), self.metadata)
            try:
                keep_files(self.prepared.results, key, files)
            except DiffgraphError as error:
                listener(Event("warning", text=f"the files are not kept in the store: {error.message}"))
        return files
