"""`diffgraph graphs`: the shipped graphs, and a copy of one to edit."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InputError, StoreError
from .report import put
from .tables import table


@click.command("graphs")
@click.option("--copy", "copied", metavar="NAME", help="Writes this graph and what it includes into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Prints JSON.")
def command(copied: str | None, as_json: bool) -> None:
    """Lists the shipped graphs, which `diffgraph run NAME` runs, or copies one here.

    A copy still works: it includes the copies of what it included, and its weights stay where they are.
    """
    if copied is not None:
        paths = copy(copied, Path())
        if as_json:
            put({"files": [str(path) for path in paths]})
        for path in paths if not as_json else ():
            click.echo(path)
        return
    from ..language.sources import Loader, package_source, shipped_address, shipped_graphs

    found = []
    for name in shipped_graphs():
        graph = Loader().load(package_source(shipped_address(name)))
        about = {"summary": graph.summary, "variants": list(graph.variants), "trains": graph.train is not None}
        found.append({"name": name, **about})
    if as_json:
        put({"graphs": found})
        return
    table([(str(one["name"]), str(one["summary"])) for one in found], head=("graph", "what it is"))


def copy(name: str, folder: Path) -> list[Path]:
    """Writes a shipped graph and what it includes below a folder; returns the files. Writes nothing over another file.

    Raises InputError where a file of that name, with other content, is there; StoreError where one cannot be written.
    """
    from ..language.sources import Loader, included, package_source, shipped_address
    from .output import write_over

    source = package_source(shipped_address(name))
    loader = Loader()
    texts = {f"{source.address.rpartition('/')[2]}": source}
    waiting = [("", source)]
    while waiting:
        below, current = waiting.pop()
        for address in included(loader.load(current)):
            place = below + address
            if "://" not in address and place not in texts:
                texts[place] = current.include(address)
                waiting.append((place.rpartition("/")[0] + "/" if "/" in place else "", texts[place]))
    contents = {folder / place: found.read() for place, found in texts.items()}
    for path, data in contents.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise InputError(f"{path} is there already, with other content", hint="move it, or use an empty folder")
    for path, data in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent} cannot be made: {error.strerror}") from None
        write_over(path, data)
    return list(contents)
