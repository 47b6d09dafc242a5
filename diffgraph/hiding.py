"""Secrets: values of inputs that a graph marks `secret: true`, which stand in nothing that is written or told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .authoring import File
from .inputs import FileInput, apply_sets
from .language.graph import GraphDocument, Lit, Node
from .language.sources import Loader, Source


def secret_texts(graph: GraphDocument, given: Mapping[str, Any]) -> list[str]:
    """Every secret value of a graph as text: those given, and those that the document itself holds."""
    found: dict[str, None] = {}
    for item in graph.inputs.values():
        values = [given.get(item.name), item.default, *(values.get(item.name) for values in graph.variants.values())]
        for value in values if item.secret else ():
            found.update(dict.fromkeys(_texts(value)))
    return list(found)


def _texts(value: Any) -> Iterator[str]:
    """A value in words, item by item; a file by its name."""
    value = value.file if isinstance(value, FileInput) else value
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, File):
        yield value.name
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
        yield str(value)


def without_secrets(graph: GraphDocument, source: Source, loader: Loader) -> GraphDocument:
    """The graph without the secret values that it holds: defaults, variants, and what it gives to graphs that it includes.

    The same object where there are none.
    """
    secret = {item.name for item in graph.inputs.values() if item.secret}
    kept = {
        name: replace(item, default=None, required=True) if item.secret and item.default not in (None, "") else item
        for name, item in graph.inputs.items()
    }
    variants = {
        variant: {name: value for name, value in values.items() if name not in secret}
        for variant, values in graph.variants.items()
    }
    given = dict.fromkeys(_given(graph.nodes, source, loader, ""))
    if kept == graph.inputs and variants == graph.variants and not given:
        return graph
    return replace(apply_sets(graph, given), inputs=kept, variants=variants)


def _given(nodes: Mapping[str, Node], source: Source, loader: Loader, path: str) -> Iterator[str]:
    """The keys of nodes that hold a secret of an included graph, as `--set` names them."""
    for node in nodes.values():
        yield from _given(node.inner, source, loader, f"{path}{node.name}.")
        inputs = loader.load(source.include(node.target_text)).inputs if node.form == "graph" else {}
        for name, arg in node.args.items():
            if name in inputs and inputs[name].secret and isinstance(arg, Lit) and arg.value not in (None, ""):
                yield f"{path}{node.name}.{name}"
