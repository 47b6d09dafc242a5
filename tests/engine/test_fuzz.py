"""Mutated documents get a clear error or run: nothing but a DiffgraphError ever comes out."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, DiffgraphError
from diffgraph.language.document import parse, plain, write
from diffgraph.session import Options

from .documents import documents
from .lab import document
from .test_check import RIGHT
from .test_faulty import cases

NOT_KEPT = Options(device="cpu", cache=False)
WITH_INPUTS = """\
diffgraph: 1
name: all
requires: {arith: ">=1"}
inputs:
  x: {type: float, default: 2, min: 0, max: 10}
  way: {type: choice, default: up, choices: [up, down]}
  xs: {type: "list[float]", default: [1, 2]}
  n: {type: int, default: 2}
variants:
  small: {x: 0.5}
  other: {set: {value.b: 2, l.y.b: 3}}
nodes:
  count: {node: arith.Count, n: $n}
  round: {node: arith.Round, value: $x, mode: $way}
  l:
    loop: $count
    as: i
    carry: {s: $x}
    nodes: {y: {node: arith.Add, a: $s, b: $i}, f: {node: arith.Formatter, template: "{}"}, t: {call: $f, text: a}}
    next: {s: $y}
    collect: {ts: $t, ys: $y}
  sum: {node: arith.Sum, values: [$round, $l.s, 3]}
  all: {node: arith.Sum, values: $xs}
  joined: {node: arith.Join, texts: $l.ts}
  value: {node: arith.Add, a: $sum, b: $all}
outputs: {value: $value, ys: $l.ys, joined: $joined}
"""
CORPUS = [WITH_INPUTS, *(document(text) for text in RIGHT.values()), *(text for _, text, _ in cases())]
TREES = []
for source in CORPUS:
    try:
        TREES.append(plain(parse(source.encode(), "corpus")))
    except DiffgraphError:
        continue

bounded = settings(
    deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip


def survives(text: str) -> None:
    """The document is refused with what a user can read, or it runs."""
    try:
        graph = Graph.from_text(text)
        graph.check()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a node may warn of its own numbers
            graph(options=NOT_KEPT)
        graph.hash()
        assert Graph.from_text(graph.text()).hash() == graph.hash()
    except CheckFailed as failed:
        assert failed.problems
        for problem in failed.problems:
            said(problem)
    except DiffgraphError as error:
        said(error)


def said(error: DiffgraphError) -> None:
    """A message for people: words, no object's address, no name of an exception of Python's own."""
    text = str(error)
    assert error.message.strip()
    for sign in (
        "object at 0x",
        "Traceback",
        "KeyError",
        "AttributeError",
        "AssertionError",
        "IndexError",
        "RecursionError",
        "UnboundLocal",
    ):
        assert sign not in text, text


# --- text

PIECES = ["$", "$$", "{", "}", "[", "]", ":", ",", "\n", "  ", "null", "true", "-1", "1.5", ".nan", "x", "$value", "$value.x", "nodes:", "loop:", "as:", "'", '"', "#", "&a", "*a", "!t", "\t", "\0", "é", "\ud7ff", "arith.Pass"]  # fmt: skip


@st.composite
def edited(draw: st.DrawFn) -> str:
    """A document of the corpus with a few edits of its text."""
    text = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.sampled_from([0, 0, 1, 2, 5, 20, 80])))
        text = text[:at] + draw(st.sampled_from(["", *PIECES])) + text[end:]
    return text


@settings(bounded, max_examples=400)
@given(edited())
def test_edited_text(text: str) -> None:
    survives(text)


@settings(bounded, max_examples=150)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: ("diffgraph: 1\n" + text).encode("utf-8", "replace"))
)
def test_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    place = tmp_path_factory.getbasetemp() / "bytes.yaml"
    place.write_bytes(data)
    try:
        Graph.load(place).check()
    except DiffgraphError as error:
        said(error)


# --- trees

VALUES = st.sampled_from(
    [None, True, False, 0, 1, -1, 2, 3.5, 1e300, "", "a", "$value", "$x", "$i", "$$", "value", "arith.Add", "arith.Pass", "arith.Linear",
     "arith.Draw", "arith.Formatter", [], [1], ["$value", 2], [[]], {}, {"node": "arith.Add", "a": 1}, {"value": "$value"}]
)  # fmt: skip
KEYS = st.sampled_from(
    ["node", "call", "graph", "loop", "map", "when", "grad", "as", "carry", "nodes", "next", "collect", "outputs", "else", "of", "inputs",
     "variants", "set", "train", "requires", "a", "b", "x", "value", "type", "default", "weights", "dtype", "device", "init_seed", ""]
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that is inside a tree."""
    found = [path]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A document of the corpus in which values were replaced, moved, renamed, doubled or removed."""
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    for _ in range(draw(st.integers(1, 3))):
        inner = [path for path in places(tree) if path]
        if not isinstance(tree, dict) or not inner:
            break
        path = draw(st.sampled_from(inner))
        parent, key = at(tree, path[:-1]), path[-1]
        how = draw(st.sampled_from(["replace", "copy", "remove", "rename", "add"]))
        if how == "replace":
            parent[key] = copy.deepcopy(draw(VALUES))
        elif how == "copy":
            parent[key] = copy.deepcopy(at(tree, draw(st.sampled_from(inner))))
        elif how == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            name = draw(KEYS | st.sampled_from([str(path[-1]) for path in inner]))
            parent[name] = parent.pop(key) if how == "rename" else copy.deepcopy(draw(VALUES))
    return tree if isinstance(tree, dict) else {}


@settings(bounded, max_examples=900)
@given(mutated())
def test_mutated_trees(tree: dict[str, Any]) -> None:
    try:
        text = write(tree)
    except DiffgraphError:
        return  # nested too deep for a document
    survives(text)


@settings(bounded, max_examples=150)
@given(documents())
def test_generated_documents(tree: dict[str, Any]) -> None:
    survives(write(tree))


# --- what is no document at all


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n\n", b"# only a comment\n", b"\x00", b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", "diffgraph: 1\nname: ä".encode("utf-16"),
        b"[" * 5000, b"a: " * 200, b"diffgraph: 1\nnodes: " + b"{a: " * 100 + b"}" * 100, b"diffgraph: 1\n" + b"#" * 5_000_000,
        b"diffgraph: 1\nnodes: [" + b"1," * 300_000 + b"]", b"a: &a [x]\nb: [*a, *a]\n", b"diffgraph: 1\n---\ndiffgraph: 1\n", b"%YAML 1.1\n---\na: 1",
        b"diffgraph: 1\ndiffgraph: 1\n", b"diffgraph: !!int 1\n", b"diffgraph: 1\nnodes:\n\ta: 1\n", b"diffgraph: 1\nname: 'cut off",
        b"diffgraph: 99999999999999999999999", b"diffgraph: 1e999", b"? [a]\n: 1\n",
    ],
    ids=range(23),
)  # fmt: skip
def test_what_is_no_document(data: bytes, tmp_path: Path) -> None:
    place = tmp_path / "g.yaml"
    place.write_bytes(data)
    with pytest.raises(DiffgraphError) as raised:
        Graph.load(place)
    said(raised.value)
    assert raised.value.place is not None or isinstance(raised.value, CheckFailed)


def test_a_folder_a_missing_file_and_one_that_may_not_be_read(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing.yaml", tmp_path / "no" / "folder.yaml"):
        with pytest.raises(DiffgraphError) as raised:
            Graph.load(place)
        said(raised.value)
