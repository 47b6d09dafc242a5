"""A graph called again: planned again where anything changed, and only there."""

from __future__ import annotations

import pytest

from diffgraph import Graph, Options, node
from diffgraph.language.graph import Lit

NO_CACHE = Options(cache=False)


@node("Plus", version=1)
def plus(x: int, by: int) -> int:
    """The sum."""
    return x + by


def sums(count: int = 2) -> Graph:
    """Adds one so many times."""
    graph = Graph()
    wire = graph.input("x", "int")
    for number in range(count):
        wire = graph.add(plus, name=f"n{number}", x=wire, by=1)
    graph.output("y", wire)
    return graph


@pytest.mark.parametrize("count", [1, 300])
def test_the_same_call_is_planned_once(count: int) -> None:
    graph = sums(count)
    first = graph.plan(options=NO_CACHE, x=1)
    assert graph.plan(options=NO_CACHE, x=1) is first
    assert graph(options=NO_CACHE, x=1).y == graph(options=NO_CACHE, x=1).y == 1 + count


def test_other_inputs_and_options_are_planned_anew() -> None:
    graph = sums()
    first = graph.plan(options=NO_CACHE, x=1)
    assert graph.plan(options=Options(cache=False, dtype="fp16"), x=1) is not first
    assert graph(options=NO_CACHE, x=5).y == 7


def test_a_changed_graph_is_planned_anew() -> None:
    graph = sums()
    assert graph(options=NO_CACHE, x=1).y == 3
    graph.document.nodes["n0"].args["by"] = Lit(10)
    assert graph(options=NO_CACHE, x=1).y == 12
    graph.output("z", graph.add(plus, x=1, by=2))
    assert graph(options=NO_CACHE, x=1).z == 3
