"""Keys: what a change invalidates, and what it leaves; plans of any size; answers of another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.builder import Graph
from diffgraph.errors import CheckError
from diffgraph.language.graph import GraphDocument, Lit, Node, Ref
from diffgraph.language.sources import Loader, Source
from diffgraph.planning.keys import digest, literal_key
from diffgraph.registry import registry
from diffgraph.session import Options, Session

from .lab import Lab, document, load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def states(lab: Lab, graph: Any, options: Options | None = None, **given: Any) -> dict[str, str]:
    """What would be done with each unit of the plan: run, cached or unused."""
    prepared = lab.prepare(graph, options, **given)
    prepared.program()
    return {unit.path: unit.state for unit in prepared.program().units}


def run_paths(lab: Lab, graph: Any, options: Options | None = None, **given: Any) -> set[str]:
    return {path for path, state in states(lab, graph, options, **given).items() if state == "run"}


# --- what is in a key

PIPELINE = """
    lexicon:   {node: arith.Lexicon, weights: words}
    formatter: {node: arith.Formatter, template: "<{}>"}
    numbers:   {call: $lexicon, text: $text}
    total:     {node: arith.Sum, values: [1, 2, $number]}
    label:     {call: $formatter, text: $text}
    tickets:   {node: arith.Tickets, seed: $seed}
    drawn:     {node: arith.Draw, ticket: $tickets}
    value:     {node: arith.Add, a: $total, b: $drawn.number}
    """
OUTPUTS = "{value: $value, numbers: $numbers, label: $label, total: $total}"
PIPELINE_INPUTS = """
    text: {type: text, default: red}
    number: {type: float, default: 3}
    seed: {type: int, default: 0}
    """


def pipeline(folder: Path, text: str | None = None) -> Path:
    (folder / "words").mkdir(exist_ok=True)
    if not (folder / "words" / "words.txt").exists():
        (folder / "words" / "words.txt").write_text("red blue")
    place = folder / "pipeline.yaml"
    place.write_text(text or document(PIPELINE, inputs=PIPELINE_INPUTS, outputs=OUTPUTS))
    return place


def test_an_unchanged_graph_runs_nothing(tmp_path: Path, lab: Lab) -> None:
    place = pipeline(tmp_path)
    first = lab.run(place)
    assert set(lab.ran) == {"numbers", "total", "label", "tickets", "drawn", "value"}
    assert lab.run(place) == first
    assert lab.ran == [] and lab.loaded == []
    assert set(lab.cached) == {"value", "numbers", "label", "total"}


def test_another_seed_neither_runs_nor_loads_the_encoder(tmp_path: Path, lab: Lab) -> None:
    place = pipeline(tmp_path)
    lab.run(place)
    lab.run(place, seed=1)
    assert set(lab.ran) == {"tickets", "drawn", "value"}
    assert lab.loaded == []


@pytest.mark.parametrize(
    ("given", "reruns"),
    [
        ({"text": "blue"}, {"numbers", "label"}), ({"number": 4}, {"total", "tickets", "drawn", "value"}),
        ({"seed": 5}, {"tickets", "drawn", "value"}), ({"number": 3}, set()),
    ],
)  # fmt: skip
def test_an_input_invalidates_what_depends_on_it(
    given: dict[str, Any], reruns: set[str], tmp_path: Path, lab: Lab
) -> None:
    place = pipeline(tmp_path)
    lab.run(place)
    assert run_paths(lab, place, **given) == reruns


@pytest.mark.parametrize(
    ("old", "new", "reruns"),
    [
        ('template: "<{}>"', 'template: "[{}]"', {"label"}),
        ('template: "<{}>"', 'template: "<{}>", width: 0', set()),
        ("values: [1, 2, $number]", "values: [1, 2.5, $number]", {"total", "tickets", "drawn", "value"}),
        ("values: [1, 2, $number]", "values: [1.0, 2.0, $number]", set()),
        ("weights: words", "weights: words, language: de", {"numbers"}),
    ],
)
def test_a_parameter_invalidates_what_depends_on_it(
    old: str, new: str, reruns: set[str], tmp_path: Path, lab: Lab
) -> None:
    place = pipeline(tmp_path)
    lab.run(place)
    pipeline(tmp_path, place.read_text().replace(old, new))
    assert run_paths(lab, place) == reruns


def test_weights_invalidate_what_depends_on_them(tmp_path: Path, lab: Lab) -> None:
    place = pipeline(tmp_path)
    lab.run(place)
    (tmp_path / "words" / "words.txt").write_text("blue red")
    assert run_paths(lab, place) == {"numbers"}
    (tmp_path / "words" / "README.md").write_text("what the loader does not declare changes nothing")
    (tmp_path / "words" / "words.txt").write_text("red blue")
    assert run_paths(lab, place) == set()


def test_moving_weights_invalidates_nothing(tmp_path: Path, lab: Lab) -> None:
    place = pipeline(tmp_path)
    lab.run(place)
    shutil.copytree(tmp_path / "words", tmp_path / "elsewhere")
    pipeline(tmp_path, place.read_text().replace("weights: words", "weights: elsewhere"))
    assert run_paths(lab, place) == set()


def test_names_and_order_of_nodes_are_in_no_key(tmp_path: Path, lab: Lab) -> None:
    place = pipeline(tmp_path)
    lab.run(place)
    text = place.read_text()
    for name in ("lexicon", "formatter", "tickets", "drawn", "total", "numbers"):
        text = text.replace(f"{name}:", f"other_{name}:").replace(f"${name}", f"$other_{name}")
    head, lines = text.split("nodes:\n")
    body, tail = lines.split("outputs:")
    shuffled = "\n".join(reversed(body.strip("\n").split("\n")))
    pipeline(tmp_path, f"{head}nodes:\n{shuffled}\noutputs:{tail}")
    assert run_paths(lab, place) == set()


def test_dtype_and_device_are_in_the_keys_of_tensor_work_alone(lab: Lab) -> None:
    text = """
        v: {node: arith.Ones, n: 3}
        l: {node: arith.Linear, in_features: 3, out_features: 2}
        w: {call: $l, vector: $v}
        f: {node: arith.Formatter, template: "{}"}
        t: {call: $f, text: a}
        """
    text = document(text, outputs="{v: $v, w: $w, t: $t}")
    lab.run(text)
    assert run_paths(lab, text) == set()
    assert run_paths(lab, text, Options(device="cpu", dtype="bf16")) == {"v", "w"}
    assert run_paths(lab, text, Options(device="cuda")) == {"v", "w"}
    assert run_paths(lab, text, Options(device="cpu", dtype="fp32")) == set()
    prepared = lab.prepare(text, Options(device="cuda"))
    other = lab.prepare(text, Options(device="cuda:1"))
    assert prepared.program().keys == other.program().keys, "which of several cards is no part of a key"


def test_the_dtype_of_one_component_invalidates_its_calls(lab: Lab) -> None:
    text = document(
        """
        v: {node: arith.Ones, n: 3}
        l: {node: arith.Linear, in_features: 3, out_features: 3}
        m: {node: arith.Linear, in_features: 3, out_features: 3, init_seed: 1}
        a: {call: $l, vector: $v}
        b: {call: $m, vector: $v}
        """,
        outputs="{a: $a, b: $b}",
    )
    lab.run(text)
    assert run_paths(lab, text.replace("init_seed: 1", "init_seed: 1, dtype: bf16")) == {"v", "b"}
    assert run_paths(lab, text.replace("init_seed: 1", "init_seed: 2")) == {"v", "b"}


def test_a_version_invalidates_what_depends_on_it(lab: Lab) -> None:
    kinds = dict(registry().nodes)

    def keys(changed: str = "") -> dict[str, str]:
        g = Graph()
        for name in ("arith.Upper", "arith.Words", "arith.Length"):
            g.registry.nodes[name] = replace(kinds[name], version=kinds[name].version + (name == changed))
        upper = g.add("arith.Upper", text="a b")
        g.output("words", g.add("arith.Words", text=upper))
        g.output("length", g.add("arith.Length", text="abc"))
        return dict(g.plan(options=Options(cache=False)).program().keys)

    try:
        before = keys()
        assert keys() == before
        for name, changes in (("arith.Upper", {"words"}), ("arith.Words", {"words"}), ("arith.Length", {"length"})):
            after = keys(name)
            assert {output for output in before if before[output] != after[output]} == changes
    finally:
        for name in ("arith.Upper", "arith.Words", "arith.Length"):
            registry().nodes[name] = kinds[name]


def test_loops_are_keyed_by_their_sequence_start_and_body(lab: Lab) -> None:
    text = document(
        """
        value:
          loop: [1, 2]
          as: i
          carry: {s: 0.0}
          nodes:
            a: {node: arith.Add, a: $s, b: $i}
            b: {node: arith.Multiply, a: $a, b: 2}
          next: {s: $b}
        """
    )
    lab.run(text)
    assert run_paths(lab, text) == set()
    for old, new in (("[1, 2]", "[1, 3]"), ("s: 0.0", "s: 1.0"), ("b: 2}", "b: 3}"), ("arith.Multiply", "arith.Add")):
        assert run_paths(lab, text.replace(old, new)) == {"value"}
    renamed = (
        text.replace("as: i", "as: j")
        .replace("b: $i", "b: $j")
        .replace("  a: {", "  first: {")
        .replace("$a,", "$first,")
    )
    assert run_paths(lab, renamed) == set()


def test_a_map_over_a_planned_list_is_keyed_element_by_element(lab: Lab) -> None:
    text = document(
        """
        f: {node: arith.Formatter, template: "<{}>"}
        value:
          map: $texts
          as: t
          nodes: {a: {call: $f, text: $t}}
          outputs: {a: $a}
        """,
        inputs="texts: {type: 'list[text]'}",
    )
    lab.run(text, texts=["a", "b"])
    assert lab.ran == ["value[0].a", "value[1].a"]
    assert lab.run(text, texts=["b", "c", "a"])["value"] == ["<b>", "<c>", "<a>"]
    assert lab.ran == ["value[1].a"]


def test_a_when_known_while_planning_is_its_branch(lab: Lab) -> None:
    branch = """
        flag: {node: arith.Same, first: $x, second: 1}
        f: {node: arith.Formatter, template: "<{}>"}
        value: {when: $flag, nodes: {a: {call: $f, text: a}}, outputs: {t: $a}, else: {nodes: {b: {call: $f, text: b}}, outputs: {t: $b}}}
        """
    plain = 'f: {node: arith.Formatter, template: "<{}>"}\nvalue: {call: $f, text: a}'
    lab.run(document(plain))
    assert lab.run(document(branch, inputs="x: {type: int}"), x=1)["value"] == "<a>"
    assert lab.ran == []


def test_only_outputs_calls_and_loop_results_are_stored(lab: Lab) -> None:
    text = document(
        """
        f: {node: arith.Formatter, template: "<{}>"}
        a: {node: arith.Upper, text: a}
        b: {call: $f, text: $a}
        l: {loop: [1, 2], as: i, carry: {s: 0.0}, nodes: {c: {node: arith.Add, a: $s, b: $i}, d: {call: $f, text: "x"},
            e: {node: arith.Length, text: $d}, g: {node: arith.Add, a: $c, b: $e}}, next: {s: $g}}
        n: {node: arith.Length, text: $b}
        value: {node: arith.Add, a: $l, b: $n}
        """
    )
    lab.run(text)
    assert lab.results.stats().entries == 3  # b, l and value


# --- keys of values

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, width=16) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def typed(value: Any) -> Any:
    """A value with the types of its parts, so that 1, 1.0 and True differ."""
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), repr(value))


@given(plain, plain)
def test_two_values_have_one_key_only_where_they_are_the_same(left: Any, right: Any) -> None:
    assert (literal_key(left) == literal_key(right)) == (typed(left) == typed(right))


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_two_lists_of_parts_have_one_digest_only_where_they_are_equal(left: list[str], right: list[str]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)


def test_a_tensor_is_keyed_by_its_content() -> None:
    large = torch.zeros(10_000)
    other = large.clone()
    other[5_000] = 1
    assert repr(large) == repr(other), "repr would not do"
    assert literal_key(large) != literal_key(other)
    assert literal_key(large) == literal_key(torch.zeros(10_000))
    assert literal_key(large) != literal_key(large.reshape(100, 100))
    assert literal_key(large) != literal_key(large.to(torch.float16))
    assert literal_key(torch.ones(3, dtype=torch.bfloat16)) != literal_key(torch.zeros(3, dtype=torch.bfloat16))


def test_what_no_wire_carries_has_no_key() -> None:
    with pytest.raises(CheckError, match="a set cannot be given as a value"):
        literal_key({1})


def test_a_live_value_is_given_and_keyed(lab: Lab) -> None:
    text = document("value: {node: arith.Scale, vector: $v}", inputs="v: {type: Vector}")
    assert lab.run(text, v=torch.ones(2))["value"].tolist() == [2.0, 2.0]
    lab.run(text, v=torch.ones(2))
    assert lab.ran == []
    assert lab.run(text, v=torch.zeros(2))["value"].tolist() == [0.0, 0.0]


# --- plans of any size


def long_chain(count: int) -> GraphDocument:
    nodes = {"n0": Node("n0", "node", Lit("arith.Add"), {"a": Lit(0.0)})}
    for number in range(1, count):
        name = f"n{number}"
        nodes[name] = Node(name, "node", Lit("arith.Add"), {"a": Ref(f"n{number - 1}"), "b": Lit(1.0)})
    return GraphDocument(nodes=nodes, outputs={"value": Ref(f"n{count - 1}")})


def time_of(count: int) -> float:
    graph, session, source = long_chain(count), Session(Options(device="cpu", cache=False)), Source("chain", "chain")
    began = time.process_time()
    prepared = session.prepare(graph, source, Loader(), {})
    assert prepared.run()["value"] == count - 1
    return time.process_time() - began


def test_a_chain_of_20_000_nodes_neither_recurses_nor_is_quadratic() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(250)
    try:
        short, long = min(time_of(2_500) for _ in range(2)), time_of(20_000)
    finally:
        sys.setrecursionlimit(limit)
    assert long < 8 * short * 2.5, f"{short:.2f} s for 2,500 nodes, {long:.2f} s for 20,000"


def test_a_long_chain_reads_from_a_document(lab: Lab) -> None:
    count = 3_000
    lines = [
        "n0: {node: arith.Add, a: 0}",
        *(f"n{i}: {{node: arith.Add, a: $n{i - 1}, b: 1}}" for i in range(1, count)),
    ]
    graph = load(document("\n".join(lines), outputs=f"{{value: $n{count - 1}}}"))
    graph.check()
    assert len(graph.hash()) == 64
    assert lab.run(graph)["value"] == count - 1


# --- other processes, other sources

SCRIPT = """
import json, sys
from pathlib import Path
from diffgraph.components import GivenAddress
from diffgraph.registry import registry
from diffgraph.session import Options, Session
from diffgraph.language.sources import Loader, open_source
from diffgraph.running.store import Store
store = Store(Path(sys.argv[2]), records=lambda place: registry().record_types(place))
source, loader = open_source(sys.argv[1]), Loader()
prepared = Session(Options(device="cpu"), store).prepare(loader.load(source), source, loader, {})
ran = []
outputs = prepared.run([lambda event: ran.append(event.path) if event.kind == "started" else None])
print(json.dumps({"ran": sorted(ran), "torch": "torch" in sys.modules, "outputs": outputs}))
"""


class Elsewhere:
    """Runs a document in processes of their own, with a copy of the arith package that may be edited."""

    def __init__(self, folder: Path) -> None:
        self.packages, self.folder = folder / "packages", folder
        shutil.copytree(ROOT / "tests" / "packages", self.packages, ignore=shutil.ignore_patterns("__pycache__"))
        self.document = pipeline(folder)

    def run(self) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.packages)])}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(self.document), str(self.folder / "store")],
            capture_output=True, text=True, env=environment, check=False, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def edit(self, module: str, old: str, new: str) -> None:
        place = self.packages / "arith" / f"{module}.py"
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new))


def test_other_processes_and_changed_sources(tmp_path: Path) -> None:
    elsewhere = Elsewhere(tmp_path)
    everything = ["drawn", "label", "numbers", "tickets", "total", "value"]
    first = elsewhere.run()
    assert first["ran"] == everything

    again = elsewhere.run()
    assert again["ran"] == [] and again["outputs"] == first["outputs"]
    assert not again["torch"], "an unchanged graph answers without importing torch"

    elsewhere.edit("helper", "return float(sum(values))", "return float(sum(values)) + 0.5")
    helped = elsewhere.run()
    assert helped["ran"] == ["drawn", "tickets", "total", "value"], "the helper is imported by sums.py alone"
    assert helped["outputs"]["total"] == first["outputs"]["total"] + 0.5

    elsewhere.edit("numbers", "return a + b", "return a + b + 1")
    assert elsewhere.run()["ran"] == ["drawn", "tickets", "value"]

    elsewhere.edit("texts", "Puts a text into a template.", "Puts it in.")
    assert elsewhere.run()["ran"] == ["label", "numbers"], "both components are in texts.py"

    elsewhere.edit("linear", "y = W x + b.", "y = W x + b, as ever.")
    assert elsewhere.run()["ran"] == [], "a module that the graph does not use changes nothing"
