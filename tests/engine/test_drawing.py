"""A document as a networkx graph."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import networkx
import pytest

from diffgraph.builder import Graph

GRAPHS = Path(__file__).parents[2] / "graphs"

TEXT = textwrap.dedent("""
    diffgraph: 1
    name: drawn
    inputs:
      n: {type: int, default: 3}
      folder: {type: weights}
    nodes:
      first: {node: arith.Add, a: $n, b: 1}
      model: {node: arith.Line, weights: $folder/part}
      double:
        loop: $first
        as: item
        carry: {total: $n}
        nodes:
          sum: {node: arith.Add, a: $total, b: $item.value}
          inner:
            map: [1, $sum]
            as: one
            nodes: {more: {node: arith.Add, a: $one, b: $first}}
            outputs: {list: $more}
        next: {total: $sum}
        collect: {all: $inner.list}
      choice:
        when: $n
        nodes: {x: {call: $model.apply, x: $double.total}}
        outputs: {value: $x}
        else:
          nodes: {x: {node: arith.Add, a: 1, b: $n}}
          outputs: {value: $x}
      slope:
        grad: $first
        as: at
        nodes: {score: {node: arith.Add, a: $at, b: $at}}
        of: $score
    outputs: {value: $choice.value, first: $first}
""")


def edges(graph: Any) -> set[tuple[str, str, str, str]]:
    return {(source, data["output"], target, data["input"]) for source, target, data in graph.edges(data=True)}


@pytest.fixture(scope="module")
def drawn() -> Any:
    return Graph.from_text(TEXT, file="drawn.yaml").to_networkx()


def test_nodes_with_their_forms(drawn: Any) -> None:
    forms = dict(drawn.nodes(data="form"))
    assert forms == {
        "n": "input", "folder": "input", "first": "node", "model": "node", "double": "loop", "double.sum": "node",
        "double.inner": "map", "double.inner.more": "node", "choice": "when", "choice.x": "call",
        "choice:else.x": "node", "slope": "grad", "slope.score": "node", "output:value": "output",
        "output:first": "output",
    }  # fmt: skip
    assert drawn.nodes["first"]["type"] == "arith.Add"
    assert drawn.nodes["choice.x"]["type"] == "$model.apply"
    assert drawn.nodes["folder"]["type"] == "weights"
    assert str(drawn.nodes["double.sum"]["place"]).startswith("drawn.yaml:15:")
    assert drawn.name == "drawn"


def test_wires_with_their_ports(drawn: Any) -> None:
    assert edges(drawn) == {
        ("n", "", "first", "a"), ("folder", "/part", "model", "weights"),
        ("first", "", "double", "loop"), ("n", "", "double", "carry.total"),
        ("double", "total", "double.sum", "a"), ("double", "item.value", "double.sum", "b"),
        ("double.sum", "", "double.inner", "map"), ("double.inner", "one", "double.inner.more", "a"),
        ("first", "", "double.inner.more", "b"), ("double.inner.more", "", "double.inner", "outputs.list"),
        ("double.sum", "", "double", "next.total"), ("double.inner", "list", "double", "collect.all"),
        ("n", "", "choice", "when"), ("model", "apply", "choice.x", "call"), ("double", "total", "choice.x", "x"),
        ("choice.x", "", "choice", "outputs.value"), ("n", "", "choice:else.x", "b"),
        ("choice:else.x", "", "choice", "outputs.value"),
        ("first", "", "slope", "grad"), ("slope", "at", "slope.score", "a"), ("slope", "at", "slope.score", "b"),
        ("slope.score", "", "slope", "of"),
        ("choice", "value", "output:value", "value"), ("first", "", "output:first", "first"),
    }  # fmt: skip


def test_what_a_shipped_graph_depends_on() -> None:
    """The picture needs everything; the text alone needs the prompt and the weights, not the seed."""
    graph = Graph.load("glide").to_networkx()
    inputs = {name for name, form in graph.nodes(data="form") if form == "input"}
    assert networkx.ancestors(graph, "output:image") >= inputs
    assert networkx.ancestors(graph, "text") & inputs == {"prompt", "weights"}
    assert networkx.is_directed_acyclic_graph(graph)  # its loops are in the graphs that it includes
    loops = Graph.load(GRAPHS / "samplers/guided.yaml").to_networkx()
    assert networkx.has_path(loops, "denoise.stepped", "denoise.scaled")  # through the loop


def test_a_training_graph_has_its_batch_and_its_loss() -> None:
    graph = Graph.load(GRAPHS / "train/ddpm.yaml").to_networkx()
    assert graph.nodes["batch_of"] == graph.nodes["batch_of"] | {"form": "batch", "type": "ImageFolder"}
    assert ("data", "", "batch_of", "folder") in edges(graph)
    assert networkx.has_path(graph, "batch_of", "output:loss")
