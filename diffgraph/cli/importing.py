"""`diffgraph import REPOSITORY`: a published repository of parts as a graph, to run and to edit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CheckFailed, InputError
from .graph_command import offline_option, talk_options
from .report import put, say

if TYPE_CHECKING:
    from ..importing import Imported
    from ..weights.addresses import Address


@click.command("import")
@click.argument("repository", metavar="REPOSITORY")
@click.option("-o", "--output", "output", metavar="FILE", type=click.Path(path_type=Path), help="Printed unless given.")
@click.option(
    "--pipeline", metavar="CLASS", help="Another pipeline for the same parts, such as one from image to image."
)
@offline_option
@talk_options
def command(repository: str, output: Path | None, pipeline: str | None, as_json: bool, debug: bool) -> None:
    """Writes the graph that does what the pipeline of REPOSITORY does, with parts of ours and its own scheduler.

    REPOSITORY is org/repo, hf://org/repo@revision, or a local folder with a model_index.json. Only that file and the
    small configs of the parts are read, and nothing is executed.

    \b
    diffgraph import google/ddpm-church-256 -o church.yaml
    diffgraph run church.yaml --steps 100
    """
    from ..importing import imported
    from ..weights.folders import open_folder
    from .output import write_over

    place = repository_address(repository)
    folder = open_folder(place)
    weights = place.canonical if place.scheme != "file" else _below(place.folder, output)
    found = imported(folder, name=_name(place), weights=weights, pipeline=pipeline)
    file = str(output) if output is not None else f"{_name(place)}.yaml"
    _check(found, place, file)
    if output is not None:
        if output.exists() and (not output.is_file() or output.read_text(encoding="utf-8") != found.text):
            raise InputError(f"{output} is there already, with other content", hint="move it, or name another file")
        write_over(output, found.text.encode())
    if as_json:
        about = {"pipeline": found.pipeline, "left_out": list(found.left_out), "weights": weights}
        put(about | ({"file": str(output)} if output is not None else {"text": found.text}))
        return
    if found.left_out:
        say(f"note: left out, since the graph does without: {', '.join(found.left_out)}")
    if weights is None:
        option = "--" + found.address.replace("_", "-")
        say(f"note: a document names no folder outside of its own; run it with {option} {place}")
    click.echo(str(output) if output is not None else found.text, nl=output is not None)


def repository_address(text: str) -> Address:
    """The address of a repository as it is typed: `org/repo` too, where there is no such folder."""
    from ..weights.addresses import parse_address

    is_name = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?", text) is not None and not Path(text).exists()
    return parse_address(f"hf://{text}" if is_name else text)


def _name(place: Address) -> str:
    """What the graph is called: as the folder or the repository is."""
    return place.folder.resolve().name if place.scheme == "file" else (place.path or place.root).rpartition("/")[2]


def _below(folder: Path, output: Path | None) -> str | None:
    """A folder as a document at `output` may name it, or None where it lies elsewhere."""
    home = (output.parent if output is not None else Path()).resolve()
    place = folder.resolve()
    return place.relative_to(home).as_posix() if place.is_relative_to(home) else None


def _check(found: Imported, place: Address, file: str) -> None:
    """Raises CheckFailed with every mistake of the graph, which the configs of the parts show."""
    from ..components import Opener
    from ..inputs import resolve_inputs
    from ..language.sources import Loader, Source
    from ..session import Session

    given: dict[str, Any] = {found.address: str(place.folder) if place.scheme == "file" else place.canonical}
    source, loader, session = Source(file, file, bundle={file: found.text}, given=given), Loader(), Session()
    graph = loader.load(source)
    values, _ = resolve_inputs(graph, {}, session.registry, source=source, partial=True)
    problems, _ = session.check(graph, source, loader, values, Opener())
    if problems:
        raise CheckFailed(problems)
