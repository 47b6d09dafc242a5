"""What the tests of the command line share: commands run in this process, in an empty folder, with their own store."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diffgraph.cli import main
from diffgraph.results import default_results
from diffgraph.weights import hub as hub_module

from ..hub import linear, users_hub
from ..hub_server import HubServer


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()

    @property
    def data(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; results are stored beside it, the index of nodes is the one of all tests."""
    place, cache, index = tmp_path / "work", tmp_path / "cache", Path(os.environ["DIFFGRAPH_CACHE_DIR"]) / "index"
    for made in (place, cache, index):
        made.mkdir(exist_ok=True)
    (cache / "index").symlink_to(index)
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("DIFFGRAPH_CACHE_DIR", str(cache))
    default_results.cache_clear()
    return place


@pytest.fixture
def dg(folder: Path) -> Command:
    """Runs `diffgraph ARGUMENTS...`."""

    def run(*arguments: str | Path) -> Said:
        default_results.cache_clear()  # as a new process would, without what is in memory
        done = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="diffgraph")
        return Said(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with users_hub(folder.parent, monkeypatch) as running:
        running.commit("org/linear", linear(3))
        yield running


@pytest.fixture
def hub(server: HubServer, dg: Command) -> Command:
    """Runs `diffgraph ARGUMENTS...` as a new process would: with nothing resolved yet."""

    def run(*arguments: str | Path) -> Said:
        hub_module.default_hub.cache_clear()
        os.environ.pop("HF_HUB_OFFLINE", None)
        try:
            return dg(*arguments)
        finally:
            os.environ.pop("HF_HUB_OFFLINE", None)

    return run


def write(path: str | Path, text: str) -> Path:
    """A file with a text, its common indentation removed."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return place


SUM = """
    diffgraph: 1
    name: sum
    summary: Adds two numbers, and says a text
    inputs:
      a: {type: float, default: 1.0, min: -10, max: 10, help: the first number}
      second_one: {type: float, help: the second number}
      text: {type: text, default: hello}
    variants:
      small: {a: 2.0}
      large: {a: 9.0, set: {total.node: arith.Multiply}}
    nodes:
      total: {node: arith.Add, a: $a, b: $second_one}
      loud: {node: arith.Upper, text: $text}
    outputs: {total: $total, loud: $loud}
"""

NOTE = """
    diffgraph: 1
    name: letter
    inputs:
      text: {type: text, default: hello}
      seed: {type: int, default: 7}
    nodes:
      number: {node: arith.Add, a: $seed}
      upper: {node: arith.Upper, text: $text}
      note: {node: arith.MakeNote, text: $upper}
      said: {node: arith.Remark, value: $number}
    outputs: {note: $note, number: $said}
"""

# A picture without weights: the noise from which a sampler would start.
PICTURE = """
    diffgraph: 1
    name: dots
    summary: Random dots
    inputs:
      seed: {type: int, default: 0}
      num_images: {type: int, default: 1, min: 1, max: 8}
    nodes:
      scheduler: {node: DDPMScheduler}
      schedule: {call: $scheduler.schedule, steps: 2}
      rng: {node: Rng, seed: $seed, batch: $num_images}
      noise: {node: GaussianNoise, shape: [3, 8, 8], rng: $rng}
      start: {call: $scheduler.start, noise: $noise.sample, schedule: $schedule}
    outputs: {image: $start.sample}
"""

# A picture in, a picture out.
COARSE = """
    diffgraph: 1
    name: coarse
    inputs:
      image: {type: Image, help: the picture}
      levels: {type: int, default: 2, min: 2, max: 256}
    nodes:
      fewer: {node: Quantize, image: $image, levels: $levels}
    outputs: {image: $fewer}
"""
