"""`diffgraph schema`: the JSON Schema of documents."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("schema")
@click.option(
    "--nodes", "files", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
    help="A Python file with nodes, to be known too; it is executed.",
)  # fmt: skip
def command(files: tuple[Path, ...]) -> None:
    """Prints the JSON Schema (draft 2020-12) of documents, with the parameters of every installed node type.

    Save it, and name it in a document's first line: an editor with a YAML language server then completes and checks it.

    \b
    diffgraph schema > diffgraph.language.schema.json
    # yaml-language-server: $schema=diffgraph.language.schema.json
    """
    from ..language.schema import document_schema
    from ..registry import registry

    click.echo(json.dumps(document_schema(registry(files)), indent=1))
