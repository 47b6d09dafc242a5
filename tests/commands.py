"""Commands that a document shows and no test runs, since they want published weights or hours: read, and no more.

Of `diffgraph` the options are parsed, the graph is opened, the inputs are given their values, `--set` is applied, and the
whole is checked as far as that goes without weights. Of a script the options are parsed. Raises what the command would.
"""

from __future__ import annotations

import argparse
import contextlib
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from diffgraph.cli import main
from diffgraph.cli.graph_command import Opened, opened, parse_sets
from diffgraph.cli.report import State
from diffgraph.errors import CheckFailed
from diffgraph.inputs import apply_sets, resolve_inputs
from diffgraph.planning.sizes import parse_size
from diffgraph.registry import registry
from diffgraph.session import Session

ROOT = Path(__file__).parents[1]


class Parsed(Exception):
    """A script has read its options."""


def read_commands(text: str, place: Path, repository: Callable[[Path], None]) -> None:
    """Reads each line.

    place: a folder for what stands for the user's files. repository: writes what stands for a converted checkpoint,
    where a command names that as its graph.
    """
    with contextlib.chdir(place):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if words[:1] == ["python"]:
                _read_script(ROOT / words[1], words[2:])
            elif words:
                assert words[0] == "diffgraph", f"{words[0]} is neither diffgraph nor python"
                if Path(words[2]).is_dir():
                    repository(Path(words[2]))
                _read(words[1], words[2:])


def _read_script(script: Path, words: list[str]) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser) -> Any:
        parse(parser, words)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        patch.syspath_prepend(str(script.parent))
        runpy.run_path(str(script), run_name="__main__")


def _read(name: str, words: list[str]) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"there is no command {name}"
    context = command.make_context(f"diffgraph {name}", words, obj=State(f"diffgraph {name}", json=False, debug=False))
    if name == "convert":
        _read_convert(**context.params)
    else:
        assert name in ("run", "train"), f"{name}: show it as it runs, as a `console`"
        _read_graph(name, opened(context), **context.params)


def _read_convert(output: Path, settings: tuple[str, ...], parts: tuple[str, ...], **_: Any) -> None:
    known = {name for original in registry().originals.values() for name in original.settings}
    for text in settings:
        assert text.partition("=")[0] in known, f"--set {text}: no checkpoint has such a setting"
    assert not parts
    output.mkdir()


def _read_graph(
    name: str, asked: Opened, pairs: tuple[str, ...], variant: str | None, sets: tuple[str, ...], memory: str | None = None,
    **_: Any,
) -> None:  # fmt: skip
    from PIL import Image

    session = Session()
    for key, value in asked.typed.items():
        if asked.graph.inputs[key].type in session.registry.readers:
            Image.new("RGB", (8, 8)).save(value)
    if name == "train":
        assert asked.graph.train is not None, f"{asked.address} does not train"
    else:
        asked.runnable(session.registry)
    if memory is not None:
        parse_size(memory, "--memory")
    given = asked.given(pairs, session.registry)
    values, changed = resolve_inputs(asked.graph, given, session.registry, variant, source=asked.source)
    document = apply_sets(apply_sets(asked.graph, changed), parse_sets(sets), user=True)
    problems, _ = session.check(document, asked.source, asked.loader, values)
    if problems:
        raise CheckFailed(problems)
