"""What the engine's tests share: documents of the arith package, run with a store of their own and every event noted."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, DiffgraphError
from diffgraph.language.sources import Loader, open_source
from diffgraph.registry import registry
from diffgraph.running.run import Event
from diffgraph.running.store import Layers, Memory, Store
from diffgraph.session import Options, Prepared, Session


def document(nodes: str, *, outputs: str = "{value: $value}", inputs: str = "") -> str:
    """A document with these inputs, nodes and outputs."""

    def block(key: str, text: str) -> str:
        lines = textwrap.indent(textwrap.dedent(text).strip("\n"), "  ")
        return f"{key}:\n{lines}\n" if text else ""

    return f"diffgraph: 1\n{block('inputs', inputs)}{block('nodes', nodes)}outputs: {outputs}\n"


def line_of(text: str, part: str) -> int:
    """The line of a document, from 1, in which something stands."""
    return next(number for number, line in enumerate(text.split("\n"), 1) if part in line)


def load(text: str, **options: Any) -> Graph:
    """The graph of a text."""
    return Graph.from_text(textwrap.dedent(text), file="test.yaml", **options)


def problems(text: str) -> list[str]:
    """Every mistake that the check finds, in words; empty where it finds none."""
    try:
        load(text).check()
    except CheckFailed as failed:
        return [str(problem) for problem in failed.problems]
    except DiffgraphError as error:
        return [str(error)]
    return []


class Lab:
    """Runs graphs against one store, and knows what ran, what was loaded and what came from the store.

    memory: with the memory layer, as Python has it; else every result comes from the disk.
    """

    def __init__(self, folder: Path, *, memory: bool = False) -> None:
        self.damaged: list[str] = []
        store = Store(
            folder / "results",
            records=lambda place: registry().record_types(place),
            on_damage=lambda key, reason: self.damaged.append(reason),
        )
        self.results: Any = Layers(Memory(), store) if memory else store
        self.events: list[Event] = []

    def prepare(
        self, graph: Graph | Path | str, options: Options | None = None, *, variant: str | None = None,
        sets: Mapping[str, Any] | None = None, show: tuple[str, ...] = (), **inputs: Any,
    ) -> Prepared:  # fmt: skip
        """A graph, a document's text or file, checked and planned."""
        session = Session(options or Options(device="cpu"), self.results)
        if isinstance(graph, Path):
            source, loader = open_source(graph), Loader()
            return session.prepare(loader.load(source), source, loader, inputs, variant=variant, sets=sets, show=show)
        graph = load(graph) if isinstance(graph, str) else graph
        return session.prepare(
            graph.document, graph.source, graph.loader, inputs, variant=variant, sets=sets, show=show
        )

    def run(self, graph: Graph | Path | str, options: Options | None = None, **given: Any) -> dict[str, Any]:
        """The outputs; `ran`, `cached`, `loaded` and `said` then tell of this run."""
        prepared = self.prepare(graph, options, **given)
        self.events = []
        return prepared.run([self.events.append])

    def _paths(self, kind: str) -> list[str]:
        return [event.path for event in self.events if event.kind == kind]

    @property
    def ran(self) -> list[str]:
        """The paths of the nodes that ran, in order."""
        return self._paths("started")

    @property
    def cached(self) -> list[str]:
        """The paths of the nodes whose results came from the store."""
        return self._paths("cached")

    @property
    def loaded(self) -> list[str]:
        """The paths of the components that were loaded."""
        return self._paths("loaded")

    @property
    def said(self) -> list[str]:
        """Notes and warnings."""
        return [event.text for event in self.events if event.kind in ("note", "warning")]
