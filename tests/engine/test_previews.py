"""Previews: only for who asks, not too often, without a change of what is computed, and never a reason to fail."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from diffgraph.builder import Graph
from diffgraph.running import previews
from diffgraph.running.run import Event
from diffgraph.session import Options

NODES = '''
"""A sum with previews."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffgraph import node, previewer


class Turn(NamedTuple):
    """How far a loop has come."""

    total: float


@node("Work", version=1)
def work(total: float, by: float) -> Turn:
    """One turn."""
    return Turn(total + by)


@previewer("Turn")
def preview_turn(turn: Turn, call: Mapping[str, Any]) -> Any:
    """A grey picture, as bright as the total."""
    with Path("called").open("a") as file:
        file.write("x")
    if turn.total < 0:
        raise ValueError("nothing to see")
    assert call["total"] + call["by"] == turn.total
    return np.full((1, 2, 3, 3), int(turn.total), np.uint8) if turn.total < 200 else None
'''
GRAPH = """
diffgraph: 1
inputs:
  start: {type: float, default: 0.0}
  by:    {type: "list[float]", default: [1, 2, 3, 4]}
nodes:
  before: {node: Work, total: $start, by: 0}
  sum:
    loop: $by
    as: one
    carry: {total: $before.total}
    nodes:
      turn: {node: Work, total: $total, by: $one}
    next: {total: $turn.total}
outputs: {value: $sum.total}
"""
NOT_KEPT = Options(device="cpu", cache=False)


class Asks:
    """A listener that asks for previews."""

    previews = True

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(event)

    @property
    def seen(self) -> list[tuple[int, int, int]]:
        """Of each preview the turn, of how many, and the brightness."""
        return [(e.number, e.total, int(e.value[0, 0, 0, 0])) for e in self.heard if e.kind == "preview"]


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.chdir(tmp_path)
    Path("work.py").write_text(textwrap.dedent(NODES))
    Path("sum.yaml").write_text(GRAPH)
    return Graph.load("sum.yaml", nodes=["work.py"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day as previews see it: each look takes the first, until one is left."""
    times = [0.0]
    monkeypatch.setattr(previews.time, "monotonic", lambda: times.pop(0) if len(times) > 1 else times[0])
    return times


def test_each_turn_is_shown_where_there_is_time(graph: Graph, clock: list[float]) -> None:
    clock[:] = [10.0, 10.0, 11.0, 11.0, 12.0, 12.0, 13.0]
    asks = Asks()
    assert graph(options=NOT_KEPT, listeners=[asks]).value == 10
    assert asks.seen == [(1, 4, 1), (2, 4, 3), (3, 4, 6), (4, 4, 10)]
    event = next(event for event in asks.heard if event.kind == "preview")
    assert (event.path, event.value.shape) == ("sum.turn", (1, 2, 3, 3))
    kinds = [event.kind for event in asks.heard if event.path == "sum.turn"]
    assert kinds[:3] == ["started", "finished", "preview"]


def test_at_most_four_a_second_and_the_last_one(graph: Graph, clock: list[float]) -> None:
    clock[:] = [10.0, 10.0, 10.1, 10.2, 10.2, 10.2]
    asks = Asks()
    graph(options=NOT_KEPT, listeners=[asks])
    assert [number for number, *_ in asks.seen] == [1, 4]


def test_a_slow_preview_takes_a_tenth_of_the_time(graph: Graph, clock: list[float]) -> None:
    clock[:] = [10.0, 11.0, 19.0, 22.0, 22.5, 23.0]  # the first takes a second: the next is due at 21
    asks = Asks()
    graph(options=NOT_KEPT, listeners=[asks])
    assert [number for number, *_ in asks.seen] == [1, 3, 4]


def test_who_does_not_ask_costs_nothing_and_hears_nothing(graph: Graph) -> None:
    heard: list[Event] = []
    assert graph(options=NOT_KEPT, listeners=[heard.append]).value == 10
    assert "preview" not in {event.kind for event in heard}
    assert not Path("called").exists()
    graph(options=NOT_KEPT, listeners=[heard.append, Asks()])
    assert "preview" not in {event.kind for event in heard}
    assert Path("called").exists()


def test_what_is_outside_a_loop_is_not_shown(graph: Graph) -> None:
    asks = Asks()
    assert graph(options=NOT_KEPT, listeners=[asks], by=[]).value == 0
    assert asks.seen == []
    assert not Path("called").exists()


def test_a_value_that_cannot_be_shown_is_passed_over(graph: Graph) -> None:
    asks = Asks()
    assert graph(options=NOT_KEPT, listeners=[asks], start=300.0).value == 310
    assert asks.seen == []
    assert "warning" not in {event.kind for event in asks.heard}


def test_a_preview_that_fails_is_the_last_and_no_error(graph: Graph) -> None:
    asks = Asks()
    assert graph(options=NOT_KEPT, listeners=[asks], start=-100.0).value == -90
    assert [event.text for event in asks.heard if event.kind == "warning"] == ["no previews: nothing to see"]
    assert Path("called").read_text() == "x"


def test_what_comes_from_the_store_is_not_shown(graph: Graph) -> None:
    first, again = Asks(), Asks()
    kept: Any = graph(options=Options(device="cpu"), listeners=[first], start=2.0)
    assert graph(options=Options(device="cpu"), listeners=[again], start=2.0).value == kept.value
    assert first.seen
    assert again.seen == []
