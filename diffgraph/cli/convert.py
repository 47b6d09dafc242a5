"""`diffgraph convert FILE... -o FOLDER`: checkpoints as their authors published them, as a folder that graphs take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from .graph_command import offline_option, talk_options
from .report import put, say


@click.command("convert")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FOLDER", required=True, type=click.Path(path_type=Path), help="New, or empty.")
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Of the weights; unless given, the files'.")
@click.option("--no-ema", is_flag=True, help="The weights as trained, where a file has moving averages of them too.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="What no tensor tells; errors say which.")
@click.option(
    "--part",
    "parts",
    metavar="NAME=ADDRESS",
    multiple=True,
    help="Where a part comes from that no file holds, such as tokenizer=FOLDER; unless given, from the Hub.",
)
@click.option("--without", metavar="NAME", multiple=True, help="Leaves such a part out.")
@offline_option
@talk_options
def command(
    files: tuple[Path, ...], output: Path, dtype: str | None, no_ema: bool, settings: tuple[str, ...],
    parts: tuple[str, ...], without: tuple[str, ...], as_json: bool, debug: bool,
) -> None:  # fmt: skip
    """Makes a folder of parts from original checkpoints: .pt, .pth, .ckpt or .safetensors, as their authors publish them.

    Which system a file is of is told by the names of its tensors. Each is held against the model's names and shapes;
    pickles are read by a weights-only loader in a process of its own, and nothing in them is executed.

    \b
    diffgraph convert v1-5-pruned.safetensors -o sd15
    diffgraph run sd15 --prompt "a cat"
    """
    from ..converting import Options, convert
    from .importing import repository_address

    options = Options(
        dtype=dtype,
        averaged=not no_ema,
        settings={name: _value(text) for name, text in _pairs("--set", settings)},
        sources={name: repository_address(text) for name, text in _pairs("--part", parts)},
        without=frozenset(without),
    )
    made = convert(files, output, options)
    if as_json:
        written = [
            {"folder": part.folder, "node": part.node, "parameters": part.parameters, "source": part.source}
            for part in made.parts
        ]
        put({"folder": str(output), "title": made.title, "parts": written, "run": made.run, "note": made.note})
        return
    say(f"{made.title}{f': {made.note}' if made.note else ''}")
    for part in made.parts:
        count = f", {part.parameters:,} parameters" if part.parameters else ""
        say(f"  {part.node}{count}{f', from {part.source}' if part.source else ''}")
    say(f"diffgraph run {made.run}")
    click.echo(str(output))


def _pairs(option: str, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """NAME and VALUE of each. Raises InputError."""
    found = []
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise InputError(f"{option} {text}: write NAME=VALUE")
        found.append((name, value))
    return found


def _value(text: str) -> Any:
    """A number where the text is one, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
