"""Python is the same language: every form, wires with ports, names as documents have them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated

import pytest
import torch
from arith.linear import Linear, LinearConfig
from arith.numbers import add
from arith.texts import Formatter, FormatterConfig

from diffgraph import Graph
from diffgraph.authoring import Component, node
from diffgraph.errors import CheckError, CheckFailed, InputError
from diffgraph.session import Options

from .lab import document, load

NOT_KEPT = Options(device="cpu", cache=False)


def same(graph: Graph, text: str) -> None:
    """The graph is that of the document, by its hash, and by what it writes."""
    assert graph.hash() == load(text).hash()
    assert Graph.from_text(graph.text()).hash() == graph.hash()


# --- every form


def test_nodes_and_inputs() -> None:
    g = Graph("sum", summary="adds")
    x = g.input("x", "float", default=1, min=0, help="what goes in")
    total = g.add("arith.Add", a=x, b=2)
    g.output("total", g.add("arith.Power", base=total, exponent=3))
    same(
        g,
        document(
            "t: {node: arith.Add, a: $x, b: 2}\np: {node: arith.Power, base: $t, exponent: 3}", outputs="{total: $p}",
            inputs="x: {type: float, default: 1, min: 0}",
        ),
    )  # fmt: skip
    assert g(x=2, options=NOT_KEPT).total == 64.0


def test_calls() -> None:
    g = Graph()
    f = g.add("arith.Formatter", template="<{}>")
    g.output("a", f(text="x"))
    g.output("b", f.label())
    g.output("c", g.call(f, text="y", name="again"))
    same(
        g,
        document(
            'f: {node: arith.Formatter, template: "<{}>"}\na: {call: $f, text: x}\nb: {call: $f.label}\nc: {call: $f, text: y}',
            outputs="{a: $a, b: $b, c: $c}",
        ),
    )
    result = g(options=NOT_KEPT)
    assert (result.a, result.b, result.c) == ("<x>", "<>", "<y>")


def test_loops() -> None:
    g = Graph()
    with g.loop([1, 2, 3], as_name="i", total=0.0) as body:
        total = g.add("arith.Add", a=body.total, b=body.i)
        body.next(total=total)
        body.collect(totals=total)
    g.output("total", body.total)
    g.output("totals", body.totals)
    same(
        g,
        document(
            "l: {loop: [1, 2, 3], as: i, carry: {total: 0.0}, nodes: {a: {node: arith.Add, a: $total, b: $i}},"
            " next: {total: $a}, collect: {totals: $a}}",
            outputs="{total: $l.total, totals: $l.totals}",
        ),
    )
    result = g(options=NOT_KEPT)
    assert (result.total, result.totals) == (6.0, [1.0, 3.0, 6.0])


def test_maps_and_branches() -> None:
    g = Graph()
    with g.map([1, 2], as_name="i") as each:
        each.output(square=g.add("arith.Power", base=each.i))
    with g.when(g.add("arith.Less", a=1.0, b=g.input("x", "float"))) as branch:
        branch.output(y=g.add("arith.Sum", values=each))
        with branch.otherwise() as other:
            other.output(y=g.add("arith.Add", a=1.0))
    g.output("y", branch)
    same(
        g,
        document(
            "m: {map: [1, 2], as: i, nodes: {p: {node: arith.Power, base: $i}}, outputs: {square: $p}}\n"
            "f: {node: arith.Less, a: 1.0, b: $x}\n"
            "w: {when: $f, nodes: {s: {node: arith.Sum, values: $m.square}}, outputs: {y: $s},"
            " else: {nodes: {a: {node: arith.Add, a: 1.0}}, outputs: {y: $a}}}",
            outputs="{y: $w.y}", inputs="x: {type: float}",
        ),
    )  # fmt: skip
    assert [g(x=x, options=NOT_KEPT).y for x in (2, 0)] == [5.0, 1.0]


def test_gradients() -> None:
    g = Graph()
    with g.grad(g.add("arith.Ones", n=2), as_name="v") as body:
        body.of(g.add("arith.Energy", vector=body.v))
    g.output("grad", body.grad)
    g.output("value", body.value)
    result = g(options=NOT_KEPT)
    assert result.grad.tolist() == [3.0, 3.0] and float(result.value) == 2.0
    same(
        g,
        document(
            "o: {node: arith.Ones, n: 2}\ng: {grad: $o, as: v, nodes: {e: {node: arith.Energy, vector: $v}}, of: $e}",
            outputs="{grad: $g.grad, value: $g.value}",
        ),
    )


def test_includes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part.yaml").write_text(document("value: {node: arith.Power, base: $x}", inputs="x: {type: float}"))
    g = Graph()
    part = g.include("part.yaml", x=3)
    g.output("y", g.add("arith.Add", a=part.value, b=1))
    assert g(options=NOT_KEPT).y == 10.0
    place = g.save(tmp_path / "saved.yaml")
    assert Graph.load(place)(options=NOT_KEPT).y == 10.0
    assert Graph.load(place).hash() == g.hash()
    with pytest.raises(CheckError, match="has no input 'y'"):
        g.include("part.yaml", y=1)
    with pytest.raises(CheckError, match="no such file"):
        g.include("missing.yaml")
    with pytest.raises(AttributeError, match="did you mean 'value'"):
        part.valeu


def test_variants_and_sets() -> None:
    text = "variants: {small: {x: 1}, large: {x: 10, set: {value.b: 5}}}\n" + document(
        "value: {node: arith.Add, a: $x, b: 2}", inputs="x: {type: float}"
    )
    g = load(text)
    assert g(options=NOT_KEPT).value == 3.0
    assert g(options=NOT_KEPT, variant="large").value == 15.0
    assert g(options=NOT_KEPT, x=100).value == 102.0
    assert g.plan(options=NOT_KEPT, sets={"value.b": 7}).run()["value"] == 8.0
    assert g.plan(options=NOT_KEPT, variant="large", sets={"value.b": 7}).run()["value"] == 17.0
    assert load(text).document == g.document, "a variant changes nothing in the graph itself"
    for bad, message in (
        ({"valu.b": 1}, "did you mean 'value'"),
        ({"value": 1}, "write NODE.KEY"),
        ({"value.c": 1}, "no input 'c'"),
    ):
        with pytest.raises((InputError, CheckFailed), match=message):
            g.plan(options=NOT_KEPT, sets=bad)
    with pytest.raises(InputError, match="did you mean 'large'"):
        g(variant="larg")


# --- what `add` takes


def test_a_function_a_class_and_a_name_are_the_same() -> None:
    graphs = []
    for adding, formatting in (("arith.Add", "arith.Formatter"), (add, Formatter)):
        g = Graph()
        g.output("sum", g.add(adding, a=1.0, b=2.0))
        g.output("text", g.add(formatting, template="{}!")(text="a"))
        graphs.append(g)
        result = g(options=NOT_KEPT)
        assert (result.sum, result.text) == (3.0, "a!")
    assert graphs[0].hash() == graphs[1].hash()
    assert graphs[1].text() == graphs[0].text()


def test_a_live_component_is_keyed_by_its_content() -> None:
    def graph(value: float) -> Graph:
        module = Linear(LinearConfig(2, 2))
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(value)
        g = Graph()
        g.output("y", g.add(module, name="linear")(vector=g.add("arith.Ones", n=2)))
        return g

    one, same_, two = graph(1.0), graph(1.0), graph(2.0)
    assert one(options=NOT_KEPT).y.tolist() == [3.0, 3.0]
    assert two(options=NOT_KEPT).y.tolist() == [6.0, 6.0]
    assert one.hash() == same_.hash() != two.hash()
    keys = [g.plan(options=NOT_KEPT).program().keys["y"] for g in (one, same_, two)]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(CheckError, match="save it with save_pretrained"):
        one.text()


def test_a_live_component_is_checked_with_its_config() -> None:
    g = Graph()
    linear = g.add(Linear(LinearConfig(3, 2)))
    g.output("y", linear(vector=g.add("arith.Ones", n=2)))
    with pytest.raises(CheckFailed, match=r"expected shape \[3\], got \[2\]"):
        g.check()


def test_a_live_component_has_its_parameters_already() -> None:
    with pytest.raises(CheckError, match="takes no parameters"):
        Graph().add(Linear(LinearConfig(3, 2)), unit="foot")


def test_what_a_live_function_takes_from_around_it_is_in_its_key() -> None:
    def made(step: float) -> Graph:
        def helper(value: float) -> float:
            return value + step

        @node("Helped", version=1)
        def helped(value: float) -> float:
            """A value and a step."""
            return helper(value)

        g = Graph()
        g.output("y", g.add(helped, value=1.0))
        return g

    keys = [made(step).plan(options=NOT_KEPT).program().keys["y"] for step in (1.0, 1.0, 2.0)]
    assert keys[0] == keys[1] != keys[2]


def test_a_live_component_keeps_its_weights_after_a_run() -> None:
    module = Linear(LinearConfig(2, 2))
    g = Graph()
    g.output("y", g.add(module)(vector=g.add("arith.Ones", n=2)))
    first = g(options=Options(device="cpu", cache=False, memory=1)).y
    assert torch.equal(g(options=NOT_KEPT).y, first)
    assert module.weight.device.type == "cpu"


def test_a_function_of_no_package_is_keyed_by_its_source() -> None:
    def made(number: int) -> Graph:
        if number:

            @node("Tripled", version=1)
            def tripled(value: float) -> float:
                """Three times."""
                return 3 * value
        else:

            @node("Tripled", version=1)
            def tripled(value: float) -> float:
                """Three times, by adding."""
                return value + value + value

        g = Graph()
        g.output("y", g.add(tripled, value=2.0))
        return g

    one, other = made(0), made(1)
    assert one(options=NOT_KEPT).y == other(options=NOT_KEPT).y == 6.0
    assert one.hash() != other.hash()
    assert one.plan(options=NOT_KEPT).program().keys != other.plan(options=NOT_KEPT).program().keys


def test_a_component_class_of_no_package() -> None:
    class Prefix(Component, version=1):
        """Puts a text in front."""

        Config = FormatterConfig

        def __init__(self, config: FormatterConfig) -> None:
            self.config = config

        def __call__(self, text: str) -> str:
            """The text after the template."""
            return self.config.template + text

    g = Graph()
    g.output("y", g.add(Prefix, template="a")(text="b"))
    assert g(options=NOT_KEPT).y == "ab"


def test_what_is_no_node() -> None:
    g = Graph()
    for what, message in (
        ("arith.Ad", "did you mean arith.Add"),
        (print, "is no node"),
        (3, "is no node"),
        (FormatterConfig, "is no node"),
    ):
        with pytest.raises(CheckError, match=message):
            g.add(what)


# --- wires


def test_a_misspelt_port_is_an_error_at_once_with_the_nearest_name() -> None:
    g = Graph()
    parts = g.add("arith.DivMod", a=7, b=2)
    with pytest.raises(CheckError, match="has no port 'quotent'\n  did you mean 'quotient'"):
        parts.quotent
    assert not hasattr(parts, "quotent"), "it is an AttributeError too"
    with pytest.raises(CheckError, match="arith.Power has no input 'exponant'\n  did you mean 'exponent'"):
        g.add("arith.Power", base=1, exponant=2)
    f = g.add("arith.Formatter", template="{}")
    with pytest.raises(CheckError, match="has no input 'txt'\n  did you mean 'text'"):
        f(txt="a")
    with pytest.raises(CheckError, match="did you mean 'label'"):
        f.labl
    with pytest.raises(CheckError, match="has no port 'x'"):
        g.add("arith.Add", a=1.0).x
    with pytest.raises(CheckError, match="cannot be called"):
        parts()
    with g.loop([1], as_name="i", total=0.0) as body, pytest.raises(CheckError, match="did you mean 'total'"):
        body.totl
    with pytest.raises(CheckError, match="there is no type 'flaot'"):
        g.input("x", "flaot")


def test_completion_shows_the_ports() -> None:
    g = Graph()
    assert dir(g.add("arith.DivMod", a=7, b=2)) == ["quotient", "remainder"]
    ports = dir(g.add("arith.Formatter", template="{}"))
    assert {"label", "template", "width", "twice"} <= set(ports)


def test_a_wire_is_no_value() -> None:
    g = Graph()
    wire = g.add("arith.Add", a=1.0)
    with pytest.raises(TypeError, match="no truth value"):
        bool(wire)
    with pytest.raises(TypeError, match="cannot be iterated"):
        list(wire)
    assert repr(wire) == "<wire add>"
    assert copy.copy(wire)._name == "add"


def test_wires_stay_in_their_graph_and_in_their_body() -> None:
    g, other = Graph(), Graph()
    with pytest.raises(CheckError, match="belongs to another graph"):
        other.add("arith.Add", a=g.add("arith.Add", a=1.0))
    with g.loop([1, 2], as_name="i", x=0.0) as body:
        inner = g.add("arith.Add", a=body.x, b=body.i)
        body.next(x=inner)
    with pytest.raises(CheckError, match="is inside a body, and is used outside of it"):
        g.add("arith.Add", a=inner)
    with g.when(True) as branch:
        first = g.add("arith.Add", a=1.0)
        branch.output(y=first)
        with branch.otherwise() as other_branch, pytest.raises(CheckError, match="is inside a body"):
            other_branch.output(y=first)


def test_one_output_needs_no_name_and_several_do() -> None:
    g = Graph()
    with g.map([1, 2], as_name="i") as one:
        one.output(a=g.add("arith.Power", base=one.i))
    with g.map([1, 2], as_name="i") as two:
        two.output(a=g.add("arith.Power", base=two.i), b=two.i)
    g.output("one", one)
    with pytest.raises(CheckError, match=r"name one output of map2\n  \.a or \.b"):
        g.output("two", two)


def test_lists_may_hold_wires_at_any_depth() -> None:
    g = Graph()
    wire = g.add("arith.Add", a=1.0)
    g.output("y", g.add("arith.Pass", value=[[wire, 2.0], [3.0]]))
    assert g(options=NOT_KEPT).y == [[1.0, 2.0], [3.0]]
    same(
        g, document("a: {node: arith.Add, a: 1.0}\np: {node: arith.Pass, value: [[$a, 2.0], [3.0]]}", outputs="{y: $p}")
    )


# --- names


def test_names_are_made_and_taken_as_in_a_document() -> None:
    g = Graph()
    names = [g.add("arith.DivMod", a=1, b=1)._name for _ in range(3)]
    assert names == ["div_mod", "div_mod2", "div_mod3"]
    for bad, message in (("div_mod", "taken already"), ("a-b", "is not a name"), ("1a", "is not a name")):
        with pytest.raises(CheckError, match=message):
            g.add("arith.Add", name=bad, a=1.0)
    with pytest.raises(CheckError, match="'my value' is not a name"):
        g.output("my value", g.add("arith.Pass", value=1.0))
    with g.loop([1], as_name="i", x=0.0, name="l") as body:
        body.next(x=g.add("arith.Add", name="inner", a=body.x, b=body.i))
        with pytest.raises(CheckError, match="taken already"):
            g.add("arith.Add", name="div_mod", a=1.0)
        with pytest.raises(CheckError, match="taken already"):
            g.add("arith.Add", name="x", a=1.0)
    with pytest.raises(CheckError, match="taken already"):
        g.add("arith.Add", name="inner", a=1.0)
    with g.loop([1], as_name="i", x=0.0, name="m") as sibling:
        sibling.next(x=g.add("arith.Add", name="inner", a=sibling.x, b=sibling.i))
    g.output("l", body.x)
    g.output("m", sibling.x)
    g.output("n", g.add("arith.Sum", values=[1.0]))
    for name in names:
        g.output(name, g.add("arith.Pass", value=1.0))


def test_a_loaded_graph_is_built_on(tmp_path: Path) -> None:
    g = load(
        document(
            "value: {loop: [1], as: i, carry: {x: 0.0}, nodes: {y: {node: arith.Add, a: $x, b: $i}}, next: {x: $y}}"
        )
    )
    for name in ("value", "y", "x", "i"):
        with pytest.raises(CheckError, match="taken already"):
            g.add("arith.Add", name=name, a=1.0)
    g.output("more", g.add("arith.Add", a=g.add("arith.Add", a=1.0), b=1.0))
    assert g(options=NOT_KEPT).more == 2.0


# --- running


def test_results_are_attributes() -> None:
    result = load(document("value: {node: arith.Add, a: 1}", outputs="{value: $value, other: $value}"))(
        options=NOT_KEPT
    )
    assert result.value == result["value"] == 1.0
    assert set(dir(result)) == {"value", "other"}
    assert repr(result) == "<Result value, other>"
    with pytest.raises(AttributeError, match="it has: value, other"):
        result.vlaue


def test_a_check_in_python_tells_all(tmp_path: Path) -> None:
    g = Graph()
    v, w = g.add("arith.Ones", n=2), g.add("arith.Ones", n=3)
    g.output("y", g.add("arith.Plus", a=v, b=w))
    g.add("arith.Add", a=1.0)
    with pytest.raises(CheckFailed) as raised:
        g.check()
    assert len(raised.value.problems) == 2


def test_node_files_of_the_user(tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text(
        "from diffgraph.authoring import node\n\n\n@node('Mine', version=1)\ndef mine(value: float) -> float:\n"
        '    """Mine."""\n    return value + 0.25\n'
    )
    g = Graph(nodes=[place])
    g.output("y", g.add("Mine", value=1.0))
    assert g(options=NOT_KEPT).y == 1.25
    saved = g.save(tmp_path / "g.yaml")
    assert Graph.load(saved, nodes=[place])(options=NOT_KEPT).y == 1.25
    with pytest.raises(CheckFailed, match="there is no node type 'Mine'"):
        Graph.load(saved).check()


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        load(document("value: {node: arith.Add, a: 1}")).save(tmp_path / "missing" / "g.yaml")


def test_a_live_component_may_be_given_for_an_input() -> None:
    text = "v: {node: arith.Ones, n: $mapper.size}\nvalue: {call: $mapper, vector: $v}"
    g = load(document(text, inputs="mapper: {type: arith.Mapper}"))
    module = Linear(LinearConfig(3, 2))
    expected = module(torch.ones(3))
    assert torch.equal(g(mapper=module, options=NOT_KEPT).value, expected)
    with pytest.raises((CheckFailed, InputError), match="arith.Formatter has no attribute size"):
        g(mapper=Formatter(FormatterConfig("{}")), options=NOT_KEPT)
    with pytest.raises((CheckFailed, InputError), match="mapper"):
        g(mapper="a text", options=NOT_KEPT)


def test_a_networkx_graph() -> None:
    graph = load(document("a: {node: arith.Add, a: 1}\nvalue: {node: arith.Add, a: $a}")).to_networkx()
    assert any("value" in str(name) for name in graph.nodes)
    assert graph.number_of_edges() >= 1


def test_annotations_are_all_the_declaration_there_is() -> None:
    @node("Bare", version=1)
    def bare(value) -> float:  # type: ignore[no-untyped-def]
        """No annotation."""
        return float(value)

    @node("Strange", version=1)
    def strange(value: Annotated[object, "B"]) -> float:
        """No type that a wire carries."""
        return 1.0

    g = Graph()
    for what, message in ((bare, "has no annotation"), (strange, "is not a type that a wire can carry")):
        with pytest.raises(TypeError, match=message):
            g.add(what)
