"""What each form of the language computes, and what a run does on the way: events, memory, faults, Ctrl-C."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from arith.kinds import Vector
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraph.authoring import node
from diffgraph.builder import Graph
from diffgraph.errors import CheckError, CheckFailed, Interrupted, RunError
from diffgraph.running.run import Event
from diffgraph.session import Options

from .lab import Lab, document, line_of, load


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


NOT_KEPT = Options(device="cpu", cache=False)


def value(text: str, **inputs: Any) -> Any:
    """The output `value` of a document, computed without any store."""
    return Lab(Path("unused")).run(text, NOT_KEPT, **inputs)["value"]


# --- loops

POLYNOMIAL = """
    value:
      loop: $coefficients
      as: c
      carry: {sum: 0.0}
      nodes:
        shifted: {node: arith.Multiply, a: $sum, b: $x}
        added:   {node: arith.Add, a: $shifted, b: $c}
      next: {sum: $added}
    """
INPUTS = "coefficients: {type: 'list[float]'}\nx: {type: float, default: 2}"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-5, 5), max_size=6), st.integers(-3, 3))
def test_a_loop_equals_the_unrolled_graph(coefficients: list[int], x: int) -> None:
    looped = value(document(POLYNOMIAL, inputs=INPUTS), coefficients=coefficients, x=x)
    lines, before = [], "0.0"
    for number, coefficient in enumerate(coefficients):
        lines.append(f"m{number}: {{node: arith.Multiply, a: {before}, b: {x}}}")
        lines.append(f"a{number}: {{node: arith.Add, a: $m{number}, b: {coefficient}}}")
        before = f"$a{number}"
    unrolled = value(document("\n".join([*lines, f"value: {{node: arith.Pass, value: {before}}}"])))
    assert looped == unrolled == np.polyval(coefficients, x)


def test_a_loop_that_runs_zero_times_gives_what_it_started_with(lab: Lab) -> None:
    text = document(POLYNOMIAL, inputs=INPUTS)
    assert lab.run(text, coefficients=[])["value"] == 0.0
    assert lab.ran == []


def test_a_loop_over_a_list_that_the_run_makes() -> None:
    text = """
        list: {node: arith.Roll, n: $n}
        value:
          loop: $list
          as: i
          carry: {sum: 0.0}
          nodes: {added: {node: arith.Add, a: $sum, b: $i}}
          next: {sum: $added}
        """
    for n in range(4):
        assert value(document(text, inputs="n: {type: int}"), n=n) == sum(range(n))


def test_loops_nest_three_deep() -> None:
    text = """
        value:
          loop: [1, 2]
          as: i
          carry: {a: 0.0}
          nodes:
            inner:
              loop: [10, 20, 30]
              as: j
              carry: {b: $a}
              nodes:
                innermost:
                  loop: [100]
                  as: k
                  carry: {c: $b}
                  nodes:
                    ij: {node: arith.Multiply, a: $i, b: $j}
                    ijk: {node: arith.Add, a: $ij, b: $k}
                    s: {node: arith.Add, a: $c, b: $ijk}
                  next: {c: $s}
              next: {b: $innermost.c}
          next: {a: $inner}
        """
    assert value(document(text)) == sum(i * j + 100 for i in (1, 2) for j in (10, 20, 30))


def test_carried_values_change_together() -> None:
    text = """
        pair:
          loop: [1, 2, 3, 4, 5]
          as: i
          carry: {a: 0.0, b: 1.0}
          nodes:
            sum: {node: arith.Add, a: $a, b: $b}
            seen: {node: arith.Add, a: $i, b: $sum}
          next: {a: $b, b: $sum}
          collect: {before: $a, seen: $seen}
        value: {node: arith.Pass, value: [$pair.a, $pair.b]}
        """
    found = Lab(Path("unused")).run(
        document(text, outputs="{value: $value, before: $pair.before, seen: $pair.seen}"), NOT_KEPT
    )
    assert found["value"] == [5.0, 8.0]
    assert found["before"] == [0.0, 1.0, 1.0, 2.0, 3.0], "what is collected is of its own turn"
    assert found["seen"] == [2.0, 4.0, 6.0, 9.0, 13.0]


def test_an_inner_list_is_made_anew_at_every_turn() -> None:
    text = """
        outer:
          loop: [1, 2]
          as: i
          carry: {n: 0.0}
          nodes:
            inner:
              loop: [10, 20]
              as: j
              carry: {m: $n}
              nodes: {s: {node: arith.Add, a: $m, b: $j}, t: {node: arith.Add, a: $s, b: $i}}
              next: {m: $t}
              collect: {all: $t}
          next: {n: $inner.m}
          collect: {lists: $inner.all}
        value: {node: arith.Pass, value: $outer.lists}
        """
    assert value(document(text)) == [[11.0, 32.0], [44.0, 66.0]]


# --- maps


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-9, 9), max_size=6))
def test_a_map_over_n_equals_n_single_runs(items: list[int]) -> None:
    body = """
        squares:
          map: {0}
          as: i
          nodes:
            square: {{node: arith.Power, base: $i}}
            more: {{node: arith.Add, a: $square, b: 1}}
          outputs: {{square: $square, more: $more}}
        {1}
        """
    singles = [(value(document("value: {node: arith.Power, base: $x}", inputs="x: {type: float}"), x=i)) for i in items]
    planned = document(
        body.format("$items", ""), inputs="items: {type: 'list[int]'}", outputs="{value: $squares.square}"
    )
    assert value(planned, items=items) == singles
    made = document(
        body.format("$all", "all: {node: arith.Pass, value: $items}"), inputs="items: {type: 'list[int]'}",
        outputs="{value: $squares.more}",
    )  # fmt: skip
    assert value(made, items=items) == [single + 1 for single in singles]


def test_a_map_inside_a_loop_and_a_loop_inside_a_map() -> None:
    text = """
        value:
          map: [1, 2]
          as: i
          nodes:
            l:
              loop: [1, 2, 3]
              as: j
              carry: {s: 0.0}
              nodes:
                m:
                  map: [10, 20]
                  as: k
                  nodes: {p: {node: arith.Multiply, a: $k, b: $i}, q: {node: arith.Add, a: $p, b: $j}}
                  outputs: {q: $q}
                t: {node: arith.Sum, values: $m}
                u: {node: arith.Add, a: $s, b: $t}
              next: {s: $u}
          outputs: {l: $l}
        """
    expected = [sum(k * i + j for j in (1, 2, 3) for k in (10, 20)) for i in (1, 2)]
    assert value(document(text)) == expected


def test_a_map_over_records() -> None:
    text = """
        rows: {node: arith.Entries, values: [3, 4]}
        value:
          map: $rows
          as: row
          nodes: {p: {node: arith.Multiply, a: $row.index, b: $row.value}}
          outputs: {p: $p}
        """
    assert value(document(text)) == [0.0, 4.0]


# --- branches

BRANCH = """
    flag: {node: arith.%s}
    en: {node: arith.Lexicon, weights: en}
    de: {node: arith.Lexicon, weights: de}
    value:
      when: $flag
      nodes: {a: {call: $en, text: $text}}
      outputs: {numbers: $a}
      else:
        nodes: {b: {call: $de, text: $text}}
        outputs: {numbers: $b}
    """


def lexicons(folder: Path) -> None:
    for name in ("en", "de"):
        (folder / name).mkdir()
        (folder / name / "words.txt").write_text("red blue" if name == "en" else "blau red")


@pytest.mark.parametrize("flag", ["Same, first: $x, second: 1", "Less, a: 0, b: $x"])
def test_the_branch_not_taken_neither_runs_nor_loads(flag: str, tmp_path: Path, lab: Lab) -> None:
    lexicons(tmp_path)
    document_ = tmp_path / "branch.yaml"
    document_.write_text(document(BRANCH % flag, inputs="x: {type: int}\ntext: {type: text, default: red}"))
    assert lab.run(document_, x=1)["value"] == [0]
    assert "value.a" in lab.ran and "value.b" not in lab.ran
    assert lab.loaded == ["en"]
    assert lab.run(document_, x=0)["value"] == [1]
    assert "value.b" in lab.ran and "value.a" not in lab.ran
    assert lab.loaded == ["de"]


def test_without_else_an_optional_input_gets_nothing() -> None:
    text = """
        flag: {node: arith.Less, a: 0, b: $x}
        some: {when: $flag, nodes: {one: {node: arith.Add, a: $x}}, outputs: {one: $one}}
        value: {node: arith.Or, value: $some, other: 7}
        """
    for kind in ("", "planned"):
        body = text.replace("arith.Less, a: 0, b: $x", "arith.Same, first: 1, second: $x") if kind else text
        assert value(document(body, inputs="x: {type: int}"), x=1) == 1.0
        assert value(document(body, inputs="x: {type: int}"), x=-1) == 7.0


def test_a_branch_inside_a_loop_is_chosen_at_each_turn() -> None:
    text = """
        value:
          loop: [1, 2, 3, 4]
          as: i
          carry: {s: 0.0}
          nodes:
            low: {node: arith.Less, a: $i, b: 3}
            step:
              when: $low
              nodes: {a: {node: arith.Add, a: $s, b: $i}}
              outputs: {t: $a}
              else: {nodes: {b: {node: arith.Multiply, a: $s, b: $i}}, outputs: {t: $b}}
          next: {s: $step}
        """
    assert value(document(text)) == ((0 + 1 + 2) * 3) * 4


# --- gradients

GRAD = """
    g:
      grad: $x
      as: v
      nodes: {scaled: {node: arith.Scale, vector: $v, factor: 2}, score: {node: arith.Energy, vector: $scaled}}
      of: $score
    """


@node("Given", version=1)
def given_vector() -> Annotated[Vector, "3"]:
    """Three numbers."""
    return torch.tensor([1.0, -2.0, 0.5])


def with_given(text: str, outputs: str) -> Graph:
    return load(document(text, outputs=outputs, inputs="x: {type: Vector}"))


def test_grad_is_the_gradient_of_torch() -> None:
    x = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    score = ((2 * x) ** 3).sum()
    (expected,) = torch.autograd.grad(score, x)
    found = Lab(Path("unused")).run(
        with_given(GRAD, "{value: $g.value, grad: $g.grad}"), NOT_KEPT, x=torch.tensor([1.0, -2.0, 0.5])
    )
    assert torch.equal(found["grad"], expected)
    assert torch.equal(found["value"], score.detach())
    assert not found["value"].requires_grad and not found["grad"].requires_grad


def test_gradients_are_on_inside_only(lab: Lab) -> None:
    modes: list[bool] = []

    @node("Look", version=1)
    def look(vector: Annotated[Vector, "N"]) -> Annotated[Vector, "N"]:
        """Notes whether gradients are on."""
        modes.append(torch.is_grad_enabled())
        return vector * 1

    g = Graph()
    first = g.add(look, vector=g.add("arith.Ones", n=2))
    with g.grad(first, as_name="x") as body:
        body.of(g.add("arith.Energy", vector=g.add(look, vector=body.x)))
    g.output("out", g.add(look, vector=body.grad))
    lab.run(g)
    assert modes == [False, True, False]
    assert torch.is_grad_enabled()


def test_grad_in_a_loop_descends() -> None:
    text = """
        value:
          loop: [1, 2, 3]
          as: i
          carry: {v: $x}
          nodes:
            g: {grad: $v, as: w, nodes: {s: {node: arith.Energy, vector: $w}}, of: $s}
            step: {node: arith.Scale, vector: $g.grad, factor: -0.01}
            more: {node: arith.Multiply, a: $i, b: 1}
            scaled: {node: arith.Scale, vector: $step, factor: $more}
            moved: {node: arith.Plus, a: $v, b: $scaled}
          next: {v: $moved}
        """
    x = torch.tensor([1.0, 2.0])
    found = Lab(Path("unused")).run(with_given(text, "{value: $value}"), NOT_KEPT, x=x)["value"]
    for i in (1, 2, 3):
        x = x - 0.01 * 3 * x**2 * i
    assert torch.allclose(found, x)


def test_gradients_nest() -> None:
    text = """
        outer:
          grad: $x
          as: v
          nodes:
            inner: {grad: $v, as: w, nodes: {s: {node: arith.Energy, vector: $w}}, of: $s}
            t: {node: arith.Energy, vector: $inner.grad}
          of: $t
        """
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (expected,) = torch.autograd.grad(((3 * x**2) ** 3).sum(), x)
    found = Lab(Path("unused")).run(with_given(text, "{value: $outer.grad}"), NOT_KEPT, x=x.detach())["value"]
    assert torch.allclose(found, expected)


def test_a_score_that_does_not_depend_is_named() -> None:
    @node("Constant", version=1)
    def constant(vector: Annotated[Vector, "N"]) -> Annotated[Vector, "N"]:
        """Ones, whatever comes."""
        return torch.ones_like(vector)

    g = Graph()
    with g.grad(g.add("arith.Ones", n=2), as_name="x", name="g") as body:
        body.of(g.add("arith.Energy", vector=g.add(constant, vector=body.x)))
    g.output("out", body.grad)
    with pytest.raises(RunError, match="g.of: the score does not depend on what the gradient is by"):
        g(options=NOT_KEPT)


# --- included graphs


def test_includes_nest(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    leaf = document("value: {node: arith.Power, base: $x}", inputs="x: {type: float}")
    for number, name in enumerate(["parts/deep/c", "parts/deep/b", "parts/a", "top"]):
        below = ["", "c.yaml", "deep/b.yaml", "parts/a.yaml"][number]
        body = f"part: {{graph: {below}, x: $x}}\nvalue: {{node: arith.Add, a: $part, b: 1}}"
        text = document(body, inputs="x: {type: float}") if below else leaf
        (tmp_path / f"{name}.yaml").write_text(text)
    assert lab.run(tmp_path / "top.yaml", x=3)["value"] == 12.0
    assert lab.ran == ["part.part.part.value", "part.part.value", "part.value", "value"]


def test_defaults_of_an_included_graph(tmp_path: Path, lab: Lab) -> None:
    inputs = "x: {type: float, default: 3}\ny: {type: float, default: 4}"
    (tmp_path / "part.yaml").write_text(document("value: {node: arith.Add, a: $x, b: $y}", inputs=inputs))
    (tmp_path / "top.yaml").write_text(document("value: {graph: part.yaml, y: 10}"))
    assert lab.run(tmp_path / "top.yaml")["value"] == 13.0


# --- equal work is done once


def test_equal_nodes_run_once(lab: Lab) -> None:
    text = """
        a: {node: arith.Power, base: 3}
        b: {node: arith.Power, base: 3.0, exponent: 2}
        value: {node: arith.Add, a: $a, b: $b}
        """
    assert lab.run(document(text))["value"] == 18.0
    assert lab.ran == ["a", "value"]


def test_equal_loops_run_once(lab: Lab) -> None:
    loop = """
        {0}:
          loop: [1, 2]
          as: i
          carry: {{s: 0.0}}
          nodes: {{n: {{node: arith.Add, a: $s, b: $i}}}}
          next: {{s: $n}}
        """
    text = loop.format("a") + loop.format("b") + "\n        value: {node: arith.Add, a: $a, b: $b}"
    assert lab.run(document(text))["value"] == 6.0
    assert lab.ran == ["a.n", "a.n", "value"]


def test_a_map_shares_what_does_not_depend_on_its_element(lab: Lab) -> None:
    text = """
        values:
          map: [1, 2, 3]
          as: i
          nodes:
            same: {node: arith.Power, base: 5}
            each: {node: arith.Add, a: $same, b: $i}
          outputs: {each: $each}
        value: {node: arith.Sum, values: $values}
        """
    assert lab.run(document(text))["value"] == 81.0
    assert len([path for path in lab.ran if path.endswith("same")]) == 1


def test_a_sweep_shares_what_its_runs_have_in_common(tmp_path: Path, lab: Lab) -> None:
    """8 seeds and 3 texts: 3 readings of a text."""
    lexicons(tmp_path)
    text = document(
        """
        lexicon: {node: arith.Lexicon, weights: en}
        value:
          map: $texts
          as: text
          nodes:
            each:
              map: $seeds
              as: seed
              nodes:
                words: {call: $lexicon, text: $text}
                tickets: {node: arith.Tickets, seed: $seed}
                drawn: {node: arith.Draw, ticket: $tickets}
                both: {node: arith.Pass, value: [$words, $drawn.number]}
              outputs: {both: $both}
          outputs: {each: $each}
        """,
        inputs="texts: {type: 'list[text]'}\nseeds: {type: 'list[int]'}",
    )
    (tmp_path / "g.yaml").write_text(text)
    found = lab.run(tmp_path / "g.yaml", texts=["red", "blue", "red blue"], seeds=list(range(8)))["value"]
    assert [len(row) for row in found] == [8, 8, 8]
    assert len([path for path in lab.ran if path.endswith("words")]) == 3
    assert len([path for path in lab.ran if path.endswith("drawn")]) == 8
    assert lab.loaded == ["lexicon"]


# --- what is known while planning


def test_static_nodes_are_folded_while_planning(lab: Lab) -> None:
    text = """
        count: {node: arith.Count, n: $n}
        f:     {node: arith.Formatter, template: "<{}>", width: 3}
        label: {call: $f.label}
        same:  {node: arith.Same, first: $label, second: "<>"}
        rows:  {node: arith.Entries, values: [5, 6]}
        l:
          loop: $count
          as: i
          carry: {s: 0.0}
          nodes: {t: {node: arith.Add, a: $s, b: $i}}
          next: {s: $t}
        m: {map: $rows, as: r, nodes: {p: {node: arith.Add, a: $r.index, b: $r.value}}, outputs: {p: $p}}
        w: {when: $same, nodes: {a: {node: arith.Add, a: $l}}, outputs: {x: $a}, else: {nodes: {b: {node: arith.Fail, value: 0}}, outputs: {x: $b}}}
        value: {node: arith.Pass, value: [$w, $m, $f.width]}
        """
    assert lab.run(document(text, inputs="n: {type: int}"), n=3)["value"] == [3.0, [5.0, 7.0], 3]
    assert not {"count", "label", "same", "rows"} & set(lab.ran)
    assert [event.total for event in lab.events if event.kind == "step"] == [3, 3, 3]


def test_what_fails_while_planning_is_placed() -> None:
    text = document(
        "inv: {node: arith.Inverse, value: $x}\nvalue: {node: arith.Add, a: $inv}", inputs="x: {type: float}"
    )
    with pytest.raises(CheckError) as raised:
        Lab(Path("unused")).run(text, NOT_KEPT, x=0)
    assert raised.value.message == "inv: failed while planning: ZeroDivisionError: float division by zero"
    assert raised.value.place is not None and raised.value.place.line == line_of(text, "arith.Inverse")


def test_a_number_worked_out_while_planning_must_be_in_range() -> None:
    text = document(
        "rows: {node: arith.Entries, values: [1, 99]}\nvalue: {map: $rows, as: r, nodes: {a: {node: arith.Round, value: $r.value},"
        " b: {node: arith.Power, base: 2, exponent: $r.index}, c: {node: arith.Power, base: 2, exponent: $i}}, outputs: {a: $a, b: $b, c: $c}}",
        inputs="i: {type: int}", outputs="{value: $value.b, a: $value.a, c: $value.c}",
    )  # fmt: skip
    with pytest.raises((CheckError, CheckFailed), match="65 must be at most 64"):
        Lab(Path("unused")).run(text, NOT_KEPT, i=65)


# --- memory


class Alive:
    """Counts the vectors that its nodes made and that are still alive."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[torch.Tensor]] = []
        self.peak = 0

        @node("Make", version=1)
        def make(vector: Annotated[Vector, "N"], number: float) -> Annotated[Vector, "N"]:
            """A new vector; notes how many are alive."""
            made = vector + number
            self.refs.append(weakref.ref(made))
            self.peak = max(self.peak, self.count)
            return made

        self.make = make

    @property
    def count(self) -> int:
        return sum(ref() is not None for ref in self.refs)


def test_values_are_freed_after_their_last_use() -> None:
    alive, g = Alive(), Graph()
    wire = g.add("arith.Ones", n=10)
    for number in range(20):
        wire = g.add(alive.make, vector=wire, number=float(number))
    g.output("total", g.add("arith.Total", vector=wire))
    assert g(options=NOT_KEPT).total == 10 * (1 + sum(range(20)))
    gc.collect()
    assert alive.peak == 2, "one that goes in and one that comes out"
    assert alive.count == 0


def test_values_inside_a_loop_are_freed_at_every_turn() -> None:
    alive, g = Alive(), Graph()
    start = g.add("arith.Ones", n=10)
    with g.loop(list(range(10)), as_name="i", v=start) as loop:
        wire: Any = loop.v
        for number in range(5):
            wire = g.add(alive.make, vector=wire, number=loop.i if number == 0 else float(number))
        loop.next(v=wire)
    g.output("total", g.add("arith.Total", vector=loop.v))
    g(options=NOT_KEPT)
    assert alive.peak <= 3, "the carried one, one that goes in and one that comes out"


def test_a_value_used_in_one_branch_only_is_freed(lab: Lab) -> None:
    alive, g = Alive(), Graph()
    flag = g.input("flag", "float")
    made = g.add(alive.make, vector=g.add("arith.Ones", n=3), number=1.0)
    with g.when(g.add("arith.Less", a=0.0, b=flag), name="w") as when:
        when.output(total=g.add("arith.Total", vector=g.add("arith.Ones", n=2)))
        with when.otherwise() as other:
            other.output(total=g.add("arith.Total", vector=made))
    g.output("total", when.total)
    for flag_value, expected in ((1.0, 2.0), (-1.0, 6.0)):
        prepared = g.plan(options=NOT_KEPT, flag=flag_value)
        assert prepared.run()["total"] == expected
        assert alive.count == 0


def chain(count: int, rounds: int = 1) -> Graph:
    """Calls of `count` components, one after the other, `rounds` times."""
    g = Graph()
    parts = [g.add("arith.Linear", name=f"part{i}", in_features=8, out_features=8, init_seed=i) for i in range(count)]
    wire = g.add("arith.Ones", n=8)
    for _ in range(rounds):
        for part in parts:
            wire = part(vector=wire)
    g.output("out", wire)
    return g


SIZE = (8 * 8 + 8) * 4  # bytes of one component


def run_within(graph: Graph, memory: int | None) -> tuple[torch.Tensor, list[str], int]:
    """What comes out, which components were loaded, and the most bytes of weights that were alive."""
    prepared = graph.plan(options=Options(device="cpu", cache=False, memory=memory))
    loads: list[str] = []
    peak = 0

    def listen(event: Event) -> None:
        nonlocal peak
        if event.kind == "loaded":
            loads.append(event.path)
        alive = sum(p.numel() * 4 for h in prepared.handles if h.loaded for p in h.get().parameters())
        peak = max(peak, alive)

    return prepared.run([listen])["out"], loads, peak


def test_weights_go_after_their_last_use() -> None:
    _out, loads, peak = run_within(chain(6), None)
    assert loads == [f"part{i}" for i in range(6)]
    assert peak <= 2 * SIZE, "one is dropped after its call, before the next is loaded"


def test_a_budget_bounds_the_bytes_of_weights() -> None:
    free, _, most = run_within(chain(4, rounds=3), None)
    assert most == 4 * SIZE
    for count in (1, 2, 3):
        out, _loads, peak = run_within(chain(4, rounds=3), count * SIZE)
        assert peak <= count * SIZE
        assert torch.equal(out, free)
    assert run_within(chain(4, rounds=3), 4 * SIZE)[1] == [f"part{i}" for i in range(4)]


def test_what_is_used_furthest_in_the_future_goes_first() -> None:
    _, loads, _ = run_within(chain(3, rounds=3), 2 * SIZE)
    numbers = [int(path.removeprefix("part")) for path in loads]
    assert numbers == [0, 1, 2, 1, 0, 2], "uses 0 1 2 0 1 2 0 1 2, two at a time, as Belady's rule has it"


# --- faults


def failure(text: str | Graph, **inputs: Any) -> RunError:
    with pytest.raises(RunError) as raised:
        Lab(Path("unused")).run(text, NOT_KEPT, **inputs)
    return raised.value


def test_a_failing_node_is_named_with_its_place_and_cause() -> None:
    text = document(
        """
        a: {node: arith.Add, a: 1}
        value: {node: arith.Fail, value: $a, at: 1}
        """
    )
    error = failure(text)
    assert (
        str(error)
        == f"test.yaml:{line_of(text, 'arith.Fail')}:10  value failed: ValueError: no 1\n  --debug shows the traceback"
    )
    assert error.node == "value"
    assert isinstance(error.__cause__, ValueError)


def test_a_node_that_refuses_names_its_port() -> None:
    error = failure(document("value: {node: arith.Divide, a: 1, b: $b}", inputs="b: {type: float}"), b=0)
    assert error.message == "value.b: 0 divides nothing"
    assert error.hint == "give another number"


def test_the_steps_of_loops_around_a_failing_node() -> None:
    text = """
        l:
          loop: [1, 2]
          as: i
          carry: {x: 0.0}
          nodes:
            l2:
              loop: [10, 20, 30]
              as: j
              carry: {y: $x}
              nodes:
                s: {node: arith.Add, a: $i, b: $j}
                t: {node: arith.Fail, value: $s, at: 22}
                u: {node: arith.Add, a: $y, b: $t}
              next: {y: $u}
          next: {x: $l2}
        value: {node: arith.Add, a: $l}
        """
    text = document(text)
    error = failure(text)
    assert error.node == "l[step 2 of 2].l2[step 2 of 3].t"
    assert error.place is not None and error.place.line == line_of(text, "arith.Fail")


def test_a_failure_in_an_included_graph_is_placed_there(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part.yaml").write_text(
        document("value: {node: arith.Fail, value: $x, at: 3}", inputs="x: {type: float}")
    )
    (tmp_path / "top.yaml").write_text(
        document(
            "l: {loop: [1, 2, 3], as: i, carry: {x: 0.0}, nodes: {p: {graph: parts/part.yaml, x: $i},"
            " s: {node: arith.Add, a: $p, b: $x}}, next: {x: $s}}\nvalue: {node: arith.Add, a: $l}"
        )
    )
    with pytest.raises(RunError) as raised:
        lab.run(tmp_path / "top.yaml")
    assert raised.value.node == "l[step 3 of 3].p.value"
    assert str(raised.value.place) == f"{tmp_path}/parts/part.yaml:5:10"


def test_a_failure_keeps_every_finished_result(lab: Lab) -> None:
    text = """
        f: {node: arith.Formatter, template: "<{}>"}
        a: {call: $f, text: kept}
        n: {node: arith.Length, text: $a}
        value: {node: arith.Fail, value: $n, at: $stop}
        """
    text = document(text, inputs="stop: {type: float, default: 6}")
    with pytest.raises(RunError):
        lab.run(text)
    assert [event.path for event in lab.events if event.kind == "failed"] == ["value"]
    assert lab.run(text, stop=0)["value"] == 6
    assert lab.cached == ["a"]


def test_out_of_memory_says_what_to_try() -> None:
    error = failure(document("value: {node: arith.Exhaust, value: 1}"))
    assert error.message == "value ran out of memory on cpu"
    assert error.hint is not None and "--dtype bf16" in error.hint and "--memory" in error.hint


@pytest.mark.parametrize(
    "words",
    ["CUDA out of memory. Tried to allocate 20.00 MiB", "DefaultCPUAllocator: can't allocate memory: you tried"],
)
def test_torch_out_of_memory(words: str) -> None:
    @node("Greedy", version=1)
    def greedy(value: float) -> float:
        """Fails as torch does."""
        raise RuntimeError(words)

    g = Graph()
    g.output("x", g.add(greedy, value=1.0, name="greedy"))
    assert "greedy ran out of memory" in failure(g).message


@pytest.mark.parametrize(
    "text",
    [
        "a: {node: arith.Ones, n: 2}\nb: {node: arith.Scribble, vector: $a}\nvalue: {node: arith.Total, vector: $b}",
        "a: {node: arith.Grid, n: 2}\nb: {node: arith.ScribbleGrid, grid: $a}\nvalue: {node: arith.GridSum, grid: $b}",
        "a: {node: arith.Roll, n: 2}\nc: {node: arith.Pass, value: [1.0, 2.0]}\nb: {node: arith.ScribbleList, values: $c}\n"
        "d: {node: arith.Sum, values: $b}\ne: {node: arith.Sum, values: $a}\nvalue: {node: arith.Add, a: $d, b: $e}",
    ],
    ids=["tensor", "array", "list"],
)  # fmt: skip
def test_a_change_in_place_is_caught_and_named(text: str) -> None:
    text = text.replace("e: {node: arith.Sum, values: $a}", "e: {node: arith.Pass, value: 1.0}").replace(
        "a: {node: arith.Roll, n: 2}\n", ""
    )
    error = failure(document(text))
    assert error.message == "b changed one of its inputs in place"
    assert error.hint is not None and "clone" in error.hint


def test_a_change_in_place_of_what_came_from_the_store_is_caught(lab: Lab) -> None:
    body = "a: {node: arith.Grid, n: 2}"
    lab.run(document(body, outputs="{value: $a}"))
    text = document(
        body + "\nb: {node: arith.ScribbleGrid, grid: $a}\nvalue: {node: arith.GridSum, grid: $b}",
        outputs="{value: $value, grid: $a}",
    )
    with pytest.raises(RunError, match="b changed one of its inputs in place"):
        lab.run(text)
    assert lab.cached == ["a"]


# --- NaN

BLURRED = """
    v: {node: arith.Ones, n: 3}
    w: {node: arith.Scale, vector: $v, factor: 3}
    blurred: {node: arith.Blur, vector: $w}
    again: {node: arith.Scale, vector: $blurred}
    value: {node: arith.Total, vector: $again}
    """


@pytest.mark.parametrize("cache", [True, False])
def test_the_node_that_first_made_a_nan_is_named(lab: Lab, cache: bool) -> None:
    text = document(BLURRED, outputs="{value: $value, w: $w}")
    with pytest.raises(RunError) as raised:
        lab.run(text, Options(device="cpu", cache=cache))
    assert raised.value.message == "blurred made a result with NaN in it; nothing was stored"
    assert raised.value.place is not None and raised.value.place.line == line_of(text, "arith.Blur")


def test_a_nan_in_a_loop_is_named_with_its_step() -> None:
    text = """
        l:
          loop: [1, 2, 3]
          as: i
          carry: {x: 1.0}
          nodes:
            low: {node: arith.Less, a: $i, b: 2}
            step:
              when: $low
              nodes: {a: {node: arith.Add, a: $x, b: 1}}
              outputs: {y: $a}
              else: {nodes: {b: {node: arith.NotANumber, value: $x}}, outputs: {y: $b}}
          next: {x: $step}
        value: {node: arith.Add, a: $l}
        """
    error = failure(document(text))
    assert error.node == "l[step 2 of 3].step.b"


def test_nothing_with_a_nan_in_it_is_stored(lab: Lab) -> None:
    for _ in range(2):
        with pytest.raises(RunError):
            lab.run(document(BLURRED))
        assert lab.cached == []
    with pytest.raises(RunError, match="blurred made"):
        lab.run(document(BLURRED, outputs="{value: $value, w: $w}"))
    with pytest.raises(RunError, match="blurred made"):
        lab.run(document(BLURRED, outputs="{value: $value, w: $w}"))
    assert lab.cached == ["w"], "what was sound is kept, and the search for the NaN begins there"


def test_half_precision_gets_a_hint(lab: Lab) -> None:
    with pytest.raises(RunError) as raised:
        lab.run(document(BLURRED), Options(device="cpu", dtype="fp16"))
    assert raised.value.hint == "half precision may overflow: try --dtype fp32 or bf16"


# --- Ctrl-C


def test_an_interrupt_stops_within_one_step_and_keeps_what_is_finished(lab: Lab) -> None:
    text = """
        f: {node: arith.Formatter, template: "{}!"}
        a: {call: $f, text: kept}
        n: {node: arith.Length, text: $a}
        l:
          loop: [1, 2, 3, 4]
          as: i
          carry: {x: 0.0}
          nodes:
            s: {node: arith.Interrupt, value: $i, at: $stop}
            t: {node: arith.Add, a: $x, b: $s}
          next: {x: $t}
        value: {node: arith.Add, a: $l, b: $n}
        """
    text = document(text, inputs="stop: {type: float, default: 2}")
    with pytest.raises(Interrupted):
        lab.run(text)
    assert lab.ran == ["a", "n", "l.s", "l.t", "l.s"]
    assert lab.run(text, stop=9)["value"] == 15.0
    assert lab.cached == ["a"]


def test_a_listener_may_stop_a_run(lab: Lab) -> None:
    prepared = lab.prepare(document(POLYNOMIAL, inputs=INPUTS), coefficients=[1, 2, 3, 4])
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind == "step" and event.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prepared.run([listen])
    assert [event.number for event in heard if event.kind == "step"] == [1, 2, 3]


# --- events


def test_events(lab: Lab) -> None:
    text = document(POLYNOMIAL, inputs=INPUTS)
    lab.run(text, coefficients=[1, 2])
    told = [(event.kind, event.path) for event in lab.events]
    turn = [(kind, f"value.{name}") for name in ("shifted", "added") for kind in ("started", "finished")]
    assert told == [("step", "value"), *turn, ("step", "value"), *turn]
    assert [(e.number, e.total) for e in lab.events if e.kind == "step"] == [(1, 2), (2, 2)]
    assert [e.value for e in lab.events if e.kind == "finished"] == [0.0, 1.0, 2.0, 4.0]
    lab.run(text, coefficients=[1, 2])
    assert [(event.kind, event.path, event.value) for event in lab.events] == [("cached", "value", 4.0)]


def test_a_note_is_heard_again_when_the_result_is_cached(lab: Lab) -> None:
    text = document("value: {node: arith.Remark, value: 3}")
    for _ in range(2):
        lab.run(text)
        assert lab.said == ["this is 3"]
    assert lab.ran == []


def test_a_result_that_cannot_be_stored_is_given_with_a_warning(lab: Lab) -> None:
    text = document("value: {node: arith.Opaque, value: 3}")
    assert lab.run(text)["value"] == {3.0}
    assert len(lab.said) == 1 and lab.said[0].startswith("a result is not kept: a set cannot be stored")


# --- precision


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_the_dtype_of_a_run(dtype: str, expected: torch.dtype, lab: Lab) -> None:
    text = """
        l: {node: arith.Linear, in_features: 3, out_features: 3}
        v: {node: arith.Ones, n: 3}
        value: {call: $l, vector: $v}
        """
    assert lab.run(document(text), Options(device="cpu", dtype=dtype))["value"].dtype == expected


@pytest.mark.parametrize(("run", "own"), [("fp32", "bf16"), ("bf16", "fp32"), ("fp16", "fp32")])
def test_a_component_may_have_a_dtype_of_its_own(run: str, own: str, lab: Lab) -> None:
    text = """
        l: {node: arith.Linear, in_features: 3, out_features: 3, dtype: %s}
        v: {node: arith.Ones, n: 3}
        w: {call: $l, vector: $v}
        value: {node: arith.Plus, a: $v, b: $w}
        """
    prepared = lab.prepare(document(text % own), Options(device="cpu", dtype=run))
    seen: list[Any] = []
    outputs = prepared.run([lambda event: seen.append(event)])
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    assert outputs["value"].dtype == dtypes[run], "what it gives is in the dtype of the run again"
    assert [event.value.dtype for event in seen if event.kind == "finished" and event.path == "w"] == [dtypes[run]]


def test_an_unknown_device_is_refused() -> None:
    from diffgraph.errors import InputError

    with pytest.raises(InputError, match="no such device"):
        Lab(Path("unused")).run(document("value: {node: arith.Add, a: 1}"), Options(device="gpu", cache=False))
    with pytest.raises(InputError, match="--dtype fp8"):
        Lab(Path("unused")).run(document("value: {node: arith.Add, a: 1}"), Options(dtype="fp8", cache=False))


def test_what_a_check_refuses_does_not_run(lab: Lab) -> None:
    with pytest.raises(CheckFailed):
        lab.run(document("a: {node: arith.Remark, value: 1}\nvalue: {node: arith.Add, a: $a, c: 1}"))
    assert lab.events == []
