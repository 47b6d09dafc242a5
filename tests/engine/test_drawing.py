"""A document as a networkx graph."""

from __future__ import annotations

import textwrap
from typing import Any

import networkx
import pytest

from diffgraph.builder import Graph

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

TRAINING = textwrap.dedent("""
    diffgraph: 1
    inputs:
      data: {type: folder}
    nodes:
      line: {node: arith.Linear, in_features: 2, out_features: 2}
      out: {call: $line, vector: $batch.given}
      less: {node: arith.Scale, vector: $batch.wanted, factor: -1}
      off: {node: arith.Plus, a: $out, b: $less}
      loss: {node: arith.Energy, vector: $off}
    train:
      data: {node: arith.Series, folder: $data, as: batch}
      update: {line: weights}
      loss: $loss
      steps: 5
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


def test_what_an_output_depends_on(drawn: Any) -> None:
    """One needs the number alone, the other the weights, too; both through the loop."""
    inputs = {name for name, form in drawn.nodes(data="form") if form == "input"}
    assert networkx.ancestors(drawn, "output:first") & inputs == {"n"}
    assert networkx.ancestors(drawn, "output:value") & inputs == inputs == {"n", "folder"}
    assert networkx.has_path(drawn, "double.inner.more", "output:value")


def test_a_training_graph_has_its_batch_and_its_loss() -> None:
    graph = Graph.from_text(TRAINING).to_networkx()
    assert graph.nodes["batch"] == graph.nodes["batch"] | {"form": "batch", "type": "arith.Series"}
    assert ("data", "", "batch", "folder") in edges(graph)
    assert networkx.has_path(graph, "batch", "output:loss")
