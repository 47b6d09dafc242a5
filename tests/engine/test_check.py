"""The check finds what is wrong, all of it, and nothing in a graph that is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffgraph.builder import Graph
from diffgraph.components import Opener
from diffgraph.errors import CheckFailed
from diffgraph.language.sources import Loader, open_source
from diffgraph.session import Options, Session

from .lab import Lab, document, load, problems

# --- right graphs

RIGHT = {
    "single outputs need no name": """
        m: {map: [1, 2], as: i, nodes: {a: {node: arith.Power, base: $i}}, outputs: {squares: $a}}
        s: {node: arith.Sum, values: $m}
        l: {loop: $m, as: i, carry: {t: 0.0}, nodes: {a: {node: arith.Add, a: $t, b: $i}}, next: {t: $a}}
        w: {when: true, nodes: {a: {node: arith.Add, a: $l}}, outputs: {x: $a}, else: {nodes: {b: {node: arith.Add, a: $s}}, outputs: {x: $b}}}
        value: {node: arith.Add, a: $w, b: $l.t}
        """,
    "sibling bodies reuse names": """
        a: {loop: [1], as: i, carry: {s: 0.0}, nodes: {n: {node: arith.Add, a: $s, b: $i}}, next: {s: $n}}
        b: {loop: [2], as: i, carry: {s: 0.0}, nodes: {n: {node: arith.Add, a: $s, b: $i}}, next: {s: $n}}
        value: {node: arith.Add, a: $a, b: $b}
        """,
    "a special kind where the general is wanted": """
        v: {node: arith.Ones, n: 2}
        u: {node: arith.Normal, vector: $v}
        p: {node: arith.Plus, a: $u, b: $v}
        value: {node: arith.Total, vector: $p}
        """,
    "a general kind where a special is wanted": """
        v: {node: arith.Ones, n: 2}
        value: {node: arith.Angle, unit: $v}
        """,
    "a ticket in either branch": """
        t: {node: arith.Tickets, seed: 1}
        w:
          when: true
          nodes: {a: {node: arith.Draw, ticket: $t}}
          outputs: {n: $a.number}
          else: {nodes: {b: {node: arith.Draw, ticket: $t}}, outputs: {n: $b.number}}
        value: {node: arith.Add, a: $w}
        """,
    "a ticket carried through a loop": """
        t: {node: arith.Tickets, seed: 1}
        l:
          loop: [1, 2]
          as: i
          carry: {sum: 0.0, roll: $t}
          nodes:
            d: {node: arith.Draw, ticket: $roll}
            e: {node: arith.Add, a: $d.number, b: $i}
            s: {node: arith.Add, a: $sum, b: $e}
          next: {sum: $s, roll: $d.ticket}
        last: {node: arith.Draw, ticket: $l.roll}
        value: {node: arith.Add, a: $l.sum, b: $last.number}
        """,
    "tickets halved": """
        t: {node: arith.Tickets, seed: 1}
        h: {node: arith.Halve, ticket: $t}
        a: {node: arith.Draw, ticket: $h.first}
        b: {node: arith.Draw, ticket: $h.second}
        value: {node: arith.Add, a: $a.number, b: $b.number}
        """,
    "a map over tickets": """
        t: {node: arith.Tickets, seed: 1}
        h: {node: arith.Halve, ticket: $t}
        m: {map: [$h.first, $h.second], as: roll, nodes: {d: {node: arith.Draw, ticket: $roll}}, outputs: {n: $d.number}}
        value: {node: arith.Sum, values: $m}
        """,
    "units through a variable": """
        m: {node: arith.Metres, n: 2}
        s: {node: arith.Scale, vector: $m}
        f: {node: arith.Feet, vector: $s}
        g: {node: arith.Scale, vector: $f}
        p: {node: arith.Plus, a: $g, b: $f}
        value: {node: arith.Total, vector: $p}
        """,
    "shapes of a join": """
        a: {node: arith.Ones, n: 3}
        j: {node: arith.Joined, items: [$a, $a]}
        h: {node: arith.Halved, vector: $j}
        p: {node: arith.Plus, a: $h, b: $a}
        value: {node: arith.Total, vector: $p}
        """,
    "attributes and fields of components": """
        f: {node: arith.Formatter, template: "{}", width: 4}
        l: {node: arith.Linear, in_features: 3, out_features: 3}
        n: {node: arith.Ones, n: $l.in_features}
        m: {node: arith.Ones, n: $l.size}
        p: {node: arith.Plus, a: $n, b: $m}
        c: {call: $l, vector: $p}
        t: {node: arith.Total, vector: $c}
        value: {node: arith.Sum, values: [$f.width, $f.twice, $t]}
        """,
    "words for kinds that have them": "a: {node: arith.Measure, amount: dozen}\nb: {node: arith.Measure, amount: 3}\nvalue: {node: arith.Add, a: $a, b: $b}",
    "lists of lists": "a: {node: arith.Add, a: 1}\nvalue: {node: arith.Pass, value: [[1, 2], [$a]]}",
    "a dollar": "value: {node: arith.Upper, text: $$5}",
    "whole numbers among numbers": "value: {map: [1, 2.5], as: i, nodes: {a: {node: arith.Add, a: $i}}, outputs: {a: $a}}",
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_graph_has_no_mistakes_and_runs(name: str, tmp_path: Path) -> None:
    assert problems(document(RIGHT[name])) == []
    Lab(tmp_path).run(document(RIGHT[name]))


def test_inputs_of_every_type() -> None:
    inputs = """
        a: {type: text, default: x}
        b: {type: int, default: 1, min: 0, max: 5}
        c: {type: float, default: 1}
        d: {type: bool, default: true}
        e: {type: choice, default: near, choices: [up, near]}
        f: {type: 'list[float]', default: [1, 2]}
        g: {type: Amount, default: dozen}
        h: {type: Note}
        i: {type: arith.Division}
        j: {type: arith.Mapper}
        k: {type: arith.Formatter}
        l: {type: file}
        m: {type: folder}
        n: {type: 'list[Vector]'}
        o: {type: float, default: null}
        """
    nodes = """
        v: {node: arith.Joined, items: $n}
        w: {call: $j, vector: $v}
        x: {call: $k, text: $a}
        y: {node: arith.NoteText, note: $h}
        z: {node: arith.FileSize, file: $l}
        u: {node: arith.Or, value: $o}
        value: {node: arith.Pass, value: [$b, $c, $d, $e, $f, $g, $i.quotient, $m, $w, $x, $y, $z, $u]}
        """
    assert problems(document(nodes, inputs=inputs)) == []


# --- all mistakes together


def test_all_mistakes_are_told_in_the_order_of_the_document() -> None:
    text = document(
        """
        a: {node: arith.Ad, a: 1}
        b: {node: arith.Add, a: one, c: 2}
        v: {node: arith.Ones, n: 2}
        w: {node: arith.Ones, n: 3}
        p: {node: arith.Plus, a: $v, b: $w}
        l: {loop: [1], as: i, carry: {x: 0.0}, nodes: {y: {node: arith.Add, a: $x, b: $j}}, next: {x: $y}}
        value: {node: arith.Sum, values: [$a, $b, $p, $l]}
        """
    )
    found = problems(text)
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)
    for part in ("'arith.Ad'", "b.a: expected float", "no input 'c'", "expected shape [2], got [3]", "no $j here"):
        assert sum(part in problem for problem in found) == 1, part


def test_one_mistake_is_told_once() -> None:
    """What follows from a mistake is not told beside it."""
    text = "a: {node: arith.Ad, a: 1}\nb: {node: arith.Total, vector: $a}\nc: {node: arith.Plus, a: $a, b: $a}\nvalue: {node: arith.Pass, value: [$b, $c, $a.x.y]}"
    assert len(problems(document(text))) == 1


def test_the_form_of_a_message() -> None:
    """file:line:column  node.port: what was wanted, what was given; then from where, and a mend."""
    text = document(
        "v: {node: arith.Ones, n: 2}\ng: {node: arith.Grid, n: 2}\nt: {node: arith.GridSum, grid: $v}\nvalue: {node: arith.Sum, values: [$t, $u]}\nu: {node: arith.GridSum, grid: $g}"
    )
    assert problems(text) == ["test.yaml:5:34  t.grid: expected Grid, got Vector\n  from $v; $g would fit"]


# --- included graphs stand where they are


def included(folder: Path, part: str, top: str, inputs: str) -> list[str]:
    (folder / "part.yaml").write_text(document(part, inputs=inputs))
    (folder / "g.yaml").write_text(document(top))
    try:
        Graph.load(folder / "g.yaml").check()
    except CheckFailed as failed:
        return [str(problem).replace(f"{folder}/", "") for problem in failed.problems]
    return []


def test_an_included_graph_is_checked_with_what_is_wired_into_it(tmp_path: Path) -> None:
    part = "p: {node: arith.Plus, a: $x, b: $y}\nvalue: {node: arith.Total, vector: $p}"
    inputs = "x: {type: Vector}\ny: {type: Vector}"
    assert (
        included(tmp_path, part, "v: {node: arith.Ones, n: 2}\nvalue: {graph: part.yaml, x: $v, y: $v}", inputs) == []
    )
    assert included(
        tmp_path,
        part,
        "v: {node: arith.Ones, n: 2}\nw: {node: arith.Ones, n: 3}\nvalue: {graph: part.yaml, x: $v, y: $w}",
        inputs,
    ) == [
        "part.yaml:6:35  p.b: expected shape [2], got [3] (in value, included at g.yaml:5:10)\n  from $y; $x would fit"
    ]


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("x: 11", "g.yaml:3:32  value.x: 11 must be at most 10\n  as written"),
        ("x: one", "g.yaml:3:32  value.x: expected float, got text 'one'\n  as written"),
        ("y: 1", "g.yaml:3:32  value: part.yaml has no input 'y'\n  it has: x"),
        ("", "g.yaml:3:10  value: part.yaml needs the input x (float)"),
    ],
)
def test_inputs_of_an_included_graph(use: str, said: str, tmp_path: Path) -> None:
    top = f"value: {{graph: part.yaml, {use}}}"
    found = included(tmp_path, "value: {node: arith.Add, a: $x}", top, "x: {type: float, max: 10}")
    assert said in found


def test_a_ticket_is_used_once_across_included_graphs(tmp_path: Path) -> None:
    part, inputs = "d: {node: arith.Draw, ticket: $t}\nvalue: {node: arith.Add, a: $d.number}", "t: {type: Ticket}"
    top = "r: {node: arith.Tickets, seed: 1}\na: {graph: part.yaml, t: $r}\nb: {graph: part.yaml, t: $r}\nvalue: {node: arith.Add, a: $a, b: $b}"
    assert included(tmp_path, part, top, inputs) == [
        "g.yaml:5:28  b.t: $r was used already, by a.t; it may be used once\n"
        "  use the one that the other node returns, or a node that makes two of one"
    ]


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        ("$a", "$a", True),
        ("$a", "$b", False),  # two loops that start alike
        ("$of_a", "$of_a_too", True),  # made in the same way
        ("$of_a", "$of_b", False),
        ("$of_a", "$w", True),  # handed on by a branch
        ("$c.t", "$c.u", False),  # two values of a loop that start alike
        ("$x", "$x", True),
    ],
)
def test_what_must_differ(first: str, second: str, fault: bool, tmp_path: Path) -> None:
    """Also of what comes out of a loop."""
    inputs = "p: {type: float}\nq: {type: float, differs: p}"
    loop = "loop: [1, 2], as: i, carry: {t: $x}, nodes: {n: {node: arith.Add, a: $t, b: $i}}, next: {t: $n}"
    part = "value: {node: arith.Add, a: $p, b: $q}"
    top = f"""
x: {{node: arith.Add, a: 1.0}}
a: {{{loop}}}
b: {{{loop}}}
c:
  loop: [1, 2]
  as: i
  carry: {{t: $x, u: $x}}
  nodes: {{n: {{node: arith.Add, a: $t, b: $i}}, m: {{node: arith.Add, a: $u, b: 1.0}}}}
  next: {{t: $n, u: $m}}
of_a: {{node: arith.Power, base: $a}}
of_a_too: {{node: arith.Power, base: $a}}
of_b: {{node: arith.Power, base: $b}}
w: {{when: true, nodes: {{}}, outputs: {{x: $of_a}}, else: {{nodes: {{}}, outputs: {{x: $of_b}}}}}}
all: {{node: arith.Sum, values: [$a, $b, $c.t, $c.u, $of_a, $of_a_too, $of_b, $w]}}
more: {{node: arith.Add, a: $all, b: $x}}
met: {{graph: part.yaml, p: {first}, q: {second}}}
value: {{node: arith.Add, a: $more, b: $met}}
"""
    found = included(tmp_path, part, top, inputs)
    assert [("they must differ" in problem) for problem in found] == [True] * fault, found


def test_an_included_graph_may_give_a_component(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text(document('f: {node: arith.Formatter, template: "<{}>"}', outputs="{f: $f}"))
    for call in ("$p", "$p.f"):
        (tmp_path / "g.yaml").write_text(document(f"p: {{graph: part.yaml}}\nvalue: {{call: {call}, text: a}}"))
        Graph.load(tmp_path / "g.yaml").check()
        assert Lab(tmp_path).run(tmp_path / "g.yaml")["value"] == "<a>"


def test_weights_handed_on_are_found_beside_the_document_that_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "models" / "words").mkdir(parents=True)
    (tmp_path / "models" / "words" / "words.txt").write_text("red blue")
    part = document(
        "l: {node: arith.Lexicon, weights: $w/words}\nvalue: {call: $l, text: blue}", inputs="w: {type: weights}"
    )
    (tmp_path / "parts" / "part.yaml").write_text(part)
    top = tmp_path / "g.yaml"
    for text, inputs in (
        ("value: {graph: parts/part.yaml, w: models}", ""),
        ("value: {graph: parts/part.yaml, w: $m}", "m: {type: weights, default: models}"),
    ):
        top.write_text(document(text, inputs=inputs))
        Graph.load(top).check()
        assert Lab(tmp_path).run(top)["value"] == [1]
    top.write_text(document("value: {graph: parts/part.yaml, w: $m}", inputs="m: {type: weights}"))
    assert Lab(tmp_path).run(top, m=str(tmp_path / "models"))["value"] == [1]
    top.write_text(document("value: {graph: parts/part.yaml, w: ../models}"))
    with pytest.raises(CheckFailed, match="cannot be part of a path"):
        Graph.load(top).check()


# --- protocols


def test_a_graph_with_protocols_is_checked_alone_and_with_a_component(tmp_path: Path) -> None:
    part = (
        "v: {node: arith.Ones, n: $mapper.size}\nw: {call: $mapper, vector: $v}\nvalue: {node: arith.Total, vector: $w}"
    )
    inputs = "mapper: {type: arith.Mapper}"
    assert problems(document(part, inputs=inputs)) == []
    top = "l: {node: arith.Linear, in_features: 3, out_features: 2}\nvalue: {graph: part.yaml, mapper: $l}"
    assert included(tmp_path, part, top, inputs) == []
    wrong = 'f: {node: arith.Formatter, template: "{}"}\nvalue: {graph: part.yaml, mapper: $f}'
    assert included(tmp_path, part, wrong, inputs) == [
        "g.yaml:4:37  value.mapper: expected arith.Mapper; arith.Formatter has no attribute size\n  from $f"
    ]
    text = "v: {node: arith.Ones, n: 2}\nvalue: {graph: part.yaml, mapper: $v}"
    assert "expected arith.Mapper, got Vector" in included(tmp_path, part, text, inputs)[0]


def test_a_method_that_a_protocol_has_not() -> None:
    found = problems(document("value: {call: $mapper.invert}", inputs="mapper: {type: arith.Mapper}"))
    assert any("arith.Mapper has no method 'invert'" in problem for problem in found)


# --- two levels


def test_the_structure_is_checked_without_opening_any_config(tmp_path: Path) -> None:
    text = "l: {node: arith.Linear, weights: $w}\nv: {node: arith.Ones, n: 3}\nc: {call: $l, vector: $v}\nvalue: {node: arith.Total, vector: $c}"
    (tmp_path / "g.yaml").write_text(document(text, inputs="w: {type: weights, default: model}"))
    (tmp_path / "model").mkdir()
    config = {"_class_name": "Linear", "in_features": 2, "out_features": 2}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    source, loader, session = open_source(tmp_path / "g.yaml"), Loader(), Session(Options(device="cpu"))
    graph = loader.load(source)
    assert session.check(graph, source, loader, {"w": "model"})[0] == []
    found, _ = session.check(graph, source, loader, {"w": "model"}, Opener())
    assert [problem.message for problem in found] == ["c.vector: expected shape [2], got [3]"]
    assert not (tmp_path / "model" / "model.safetensors").exists(), "no weight file was there to open"


def test_facts_come_from_configs(tmp_path: Path) -> None:
    nodes = """
        a: {node: arith.Linear, weights: a}
        b: {node: arith.Linear, weights: b}
        v: {node: arith.Ones, n: 2}
        x: {call: $a, vector: $v}
        y: {call: $b, vector: $x}
        value: {node: arith.Total, vector: $y}
        """
    (tmp_path / "g.yaml").write_text(document(nodes))
    for name, unit in (("a", "metre"), ("b", "foot")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"in_features": 2, "out_features": 2, "unit": unit}))
    with pytest.raises(CheckFailed, match=r"y.vector: expected unit foot, got metre"):
        Graph.load(tmp_path / "g.yaml").check()


def test_a_check_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(document(RIGHT["attributes and fields of components"]))
    load(document(RIGHT["attributes and fields of components"])).check()  # the index is there
    script = "import sys; from diffgraph.builder import Graph; Graph.load('g.yaml').check(); print('torch' in sys.modules, 'networkx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


# --- what the order of lines must not change


def test_the_order_of_nodes_does_not_change_what_is_found() -> None:
    lines = [
        "a: {node: arith.Ones, n: 2}", "b: {node: arith.Ones, n: 3}", "p: {node: arith.Plus, a: $a, b: $b}",
        "t: {node: arith.Total, vector: $p}", "value: {node: arith.Add, a: $t, c: 1}",
    ]  # fmt: skip
    forward = {problem.split("  ", 1)[1] for problem in problems(document("\n".join(lines)))}
    backward = {problem.split("  ", 1)[1] for problem in problems(document("\n".join(reversed(lines))))}
    assert len(forward) == 2 and forward == backward


def test_a_loop_may_keep_its_start_under_a_second_name() -> None:
    text = document(
        "start: {node: arith.Add, a: $x, b: 1.0}\n"
        "l:\n"
        "  loop: [1, 2, 3]\n"
        "  as: i\n"
        "  carry: {y: $start, first: $start}\n"
        "  nodes:\n"
        "    s: {node: arith.Add, a: $y, b: $first}\n"
        "    n: {node: arith.Add, a: $s, b: $i}\n"
        "  next: {y: $n, first: $first}\n",
        inputs="x: {type: float, default: 1.0}",
        outputs="{value: $l.y}",
    )
    assert load(text)().value == 2.0 * 4 + 6
