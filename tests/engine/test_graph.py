"""Documents become graphs and graphs documents, with nothing lost; a graph's hash is of what it means."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, DocumentError
from diffgraph.language.document import parse, write
from diffgraph.language.graph import Body, GraphDocument, ListOf, Lit, Node, Ref, node_refs, ordered
from diffgraph.language.reading import read_graph
from diffgraph.language.sources import Loader, Source
from diffgraph.language.writing import document_plain, graph_hash

from .documents import documents
from .lab import document, load

bounded = settings(
    max_examples=50, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def read(text: str) -> GraphDocument:
    graph, problems = read_graph(parse(text.encode(), "test.yaml"), "test.yaml")
    assert problems == []
    return graph


def hash_of(graph: GraphDocument) -> str:
    """The hash, with the address of an included document for its content."""
    return graph_hash(graph, lambda address: address, repr)


# --- there and back


@bounded
@given(documents())
def test_yaml_to_graph_to_yaml_keeps_meaning_and_is_idempotent(plain: dict[str, Any]) -> None:
    graph = read(write(plain))
    written = document_plain(graph)
    assert written == plain
    text = write(written)
    again = read(text)
    assert again == read(text)
    assert write(document_plain(again)) == text
    assert hash_of(again) == hash_of(graph)


def test_a_document_keeps_every_key() -> None:
    text = """\
diffgraph: 1
name: all
summary: Every key that a document may have
requires: {arith: ">=1"}

inputs:
  x: {type: float, default: 1.0, min: 0, max: 10, help: what goes in}
  way: {type: choice, default: up, choices: [up, down]}
  key: {type: text, secret: true}
  data: {type: folder}

variants:
  small: {x: 0.5}
  other:
    set: {value.a: 2}

nodes:
  value: {node: arith.Add, a: $x, b: 1}
  same: {node: arith.Pass, value: [$value, 2, $x.y.z, $$5]}

outputs: {value: $same}

train:
  data: {node: arith.Lexicon, folder: $data, as: batch}
  update: {value: folder}
  save: {same: folder/same}
  loss: $value
  steps: 10
"""
    graph = read(text)
    assert write(document_plain(graph)) == text
    assert graph.inputs["key"].secret and graph.inputs["key"].required
    assert (
        graph.nodes["same"].args["value"]
        == ListOf(
            (
                Ref("value", place=graph.nodes["same"].args["value"].items[0].place),  # type: ignore[union-attr]
                *graph.nodes["same"].args["value"].items[1:],  # type: ignore[union-attr]
            ),
            graph.nodes["same"].args["value"].place,
        )
    )
    last = graph.nodes["same"].args["value"].items[3]  # type: ignore[union-attr]
    assert isinstance(last, Lit) and last.value == "$5"


def test_places_are_those_of_the_text() -> None:
    text = document("first: {node: arith.Add, a: 1}\nvalue: {node: arith.Add, a: $first}")
    graph = read(text)
    place = graph.nodes["value"].args["a"].place
    assert (place.file, place.line, place.column) == ("test.yaml", 4, 31)
    assert str(graph.nodes["value"].place) == "test.yaml:4:10"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("$a", Ref("a")), ("$a.b", Ref("a", ("b",))), ("$a.b.c", Ref("a", ("b", "c"))), ("$a/b", Ref("a", (), "/b")),
        ("$a.b/c/d-e.f", Ref("a", ("b",), "/c/d-e.f")), ("$_1", Ref("_1")),
    ],
)  # fmt: skip
def test_references(text: str, ref: Ref) -> None:
    arg = read(document(f"value: {{node: arith.Pass, value: {text}}}")).nodes["value"].args["value"]
    assert isinstance(arg, Ref)
    assert (arg.name, arg.path, arg.sub) == (ref.name, ref.path, ref.sub)
    assert str(arg) == text


@pytest.mark.parametrize("text", ["$", "$1", "$a.", "$a..b", "$.a", "$a b", "$a/", "$a//b", "$a.1", "${a}", "$a-b"])
def test_what_is_no_reference(text: str) -> None:
    _, problems = read_graph(parse(document(f'value: {{node: arith.Pass, value: "{text}"}}').encode(), "t"), "t")
    assert [problem.message for problem in problems] == [f"{text!r} is not a reference"]


# --- the hash

BASE = document(
    """
    a: {node: arith.Add, a: $x, b: 1}
    b: {node: arith.Power, base: $a}
    l:
      loop: [1, 2]
      as: i
      carry: {s: $b}
      nodes: {c: {node: arith.Add, a: $s, b: $i}, d: {node: arith.Multiply, a: $c, b: $a}}
      next: {s: $d}
    value: {node: arith.Add, a: $l, b: $b}
    """,
    inputs="x: {type: float, default: 1, min: 0, choices: [1, 2]}",
)


def test_the_hash_is_of_neither_names_nor_order() -> None:
    head, body = BASE.split("nodes:\n")
    before, tail = body.split("  l:\n")
    loop, rest = tail.split("  value:")
    renamed = (
        BASE.replace("as: i", "as: turn")
        .replace("b: $i", "b: $turn")
        .replace("{c:", "{inner:")
        .replace("$c,", "$inner,")
    )
    shuffled = f"{head}nodes:\n  value:{rest.split('outputs')[0]}  l:\n{loop}" + "\n".join(
        reversed(before.strip("\n").split("\n"))
    ) + "\noutputs: {value: $value}\n"  # fmt: skip
    assert load(renamed).hash() == load(BASE).hash()
    assert load(shuffled).hash() == load(BASE).hash()
    assert load("name: other\nsummary: another\n" + BASE).hash() == load(BASE).hash()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b: 1}", "b: 2}"), ("b: 1}", "b: 1.0}"), ("b: 1}", 'b: "1"}'), ("b: 1}", "b: true}"), ("arith.Power", "arith.Pass"),
        ("[1, 2]\n", "[1, 3]\n"), ("base: $a", "base: $x"), ("a: $s, b: $i", "a: $i, b: $s"), ("a: $l, b: $b", "a: $b, b: $l"),
        ("default: 1", "default: 2"), ("min: 0", "min: 1"), ("choices: [1, 2]", "choices: [1, 3]"), ("type: float", "type: int"),
        ("outputs: {value", "outputs: {other"), ("{value: $value}", "{value: $b}"), ("{s: $d}", "{s: $c}"), ("  x:", "  x, secret: true:"),
    ],
)  # fmt: skip
def test_the_hash_depends_on_every_value(old: str, new: str) -> None:
    if new.startswith("  x,"):
        changed = BASE.replace("choices: [1, 2]}", "choices: [1, 2], secret: true}")
    else:
        assert old in BASE
        changed = BASE.replace(old, new)
    assert Graph.from_text(changed).hash() != load(BASE).hash()


def test_the_hash_depends_on_variants_by_what_they_mean() -> None:
    variant = "variants: {one: {x: 2, set: {l.d.b: 3}}}\n"
    assert load(variant + BASE).hash() != load(BASE).hash()
    assert load(variant + BASE).hash() != load(variant.replace("b: 3", "b: 4") + BASE).hash()
    assert load(variant + BASE).hash() != load(variant.replace("x: 2", "x: 1") + BASE).hash()
    renamed = (variant + BASE).replace("l.d.b", "l.e.b").replace(" d: {", " e: {").replace("$d", "$e")
    assert load(renamed).hash() == load(variant + BASE).hash()


def test_the_hash_depends_on_included_documents(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    leaf, middle, top = tmp_path / "sub" / "leaf.yaml", tmp_path / "middle.yaml", tmp_path / "top.yaml"
    leaf.write_text(document("value: {node: arith.Add, a: 1}"))
    middle.write_text(document("value: {graph: sub/leaf.yaml}"))
    top.write_text(document("value: {graph: middle.yaml}"))
    before = Graph.load(top).hash()
    assert Graph.load(top).hash() == before
    leaf.write_text(document("value: {node: arith.Add, a: 2}"))
    assert Graph.load(top).hash() != before


@bounded
@given(documents(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_never_changes_the_hash(plain: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any, key: str = "") -> Any:
        if not isinstance(value, dict):
            return value
        items = [(name, shuffled(inner, name)) for name, inner in value.items()]
        if key in ("nodes", "outputs", "inputs", "carry", "next"):
            random.shuffle(items)
        return dict(items)

    assert hash_of(read(write(shuffled(copy.deepcopy(plain))))) == hash_of(read(write(plain)))


# --- order


def test_the_order_of_the_document_is_kept_where_it_will_do() -> None:
    graph = read(
        document(
            "b: {node: arith.Add, a: $c}\na: {node: arith.Add, a: 1}\nc: {node: arith.Add, a: 1}\nvalue: {node: arith.Add, a: $b, b: $a}"
        )
    )
    order, cycle = ordered(graph.nodes)
    assert [node.name for node in order] == ["a", "c", "b", "value"]
    assert cycle == []


def test_a_cycle_is_named_in_a_graph_of_any_size() -> None:
    nodes = {f"n{i}": Node(f"n{i}", "node", Lit("arith.Add"), {"a": Ref(f"n{(i + 1) % 5000}")}) for i in range(5000)}
    order, cycle = ordered(nodes)
    assert order == []
    assert len(cycle) == 5001 and cycle[0] == cycle[-1]


def test_references_of_bodies_reach_out_only() -> None:
    graph = read(BASE)
    assert {ref.name for ref in node_refs(graph.nodes["l"])} == {"b", "a"}
    nested = Node(
        "n",
        "when",
        Ref("flag"),
        body=Body({"x": Node("x", "node", Lit("T"), {"a": Ref("y"), "b": Ref("z")})}, {"o": Ref("x")}),
    )
    assert {ref.name for ref in node_refs(nested)} == {"flag", "y", "z"}


# --- where documents come from


def include_error(folder: Path, text: str, **files: str) -> str:
    (folder / "g.yaml").write_text(document(f"value: {{graph: {text}}}"))
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    with pytest.raises(CheckFailed) as raised:
        Graph.load(folder / "g.yaml").check()
    return str(raised.value)


def test_an_include_cannot_leave_its_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    leaf = document("value: {node: arith.Add, a: 1}")
    (outside / "leaf.yaml").write_text(leaf)
    (root / "leaf.yaml").write_text(leaf)
    for text in (
        "../outside/leaf.yaml",
        "sub/../../outside/leaf.yaml",
        str(outside / "leaf.yaml"),
        "./../outside/leaf.yaml",
    ):
        assert "may not leave the document's folder" in include_error(root, text)
    (root / "link.yaml").symlink_to(outside / "leaf.yaml")
    (root / "linked").symlink_to(outside)
    for text in ("link.yaml", "linked/leaf.yaml"):
        assert "a link leads out of the document's folder" in include_error(root, text)
    (root / "sub" / "up.yaml").write_text(document("value: {graph: ../leaf.yaml}"))
    assert "may not leave" in include_error(root, "sub/up.yaml"), "below the folder of the document that includes"


def test_an_include_may_follow_a_link_inside(tmp_path: Path) -> None:
    (tmp_path / "leaf.yaml").write_text(document("value: {node: arith.Add, a: 1}"))
    (tmp_path / "link.yaml").symlink_to(tmp_path / "leaf.yaml")
    (tmp_path / "g.yaml").write_text(document("value: {graph: ./link.yaml}"))
    Graph.load(tmp_path / "g.yaml").check()


@pytest.mark.parametrize("text", ["g.yaml", "./g.yaml", "././g.yaml", "loop/g.yaml", "a.yaml"])
def test_a_cycle_of_includes_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    names = "g.yaml -> a.yaml -> g.yaml" if text == "a.yaml" else "g.yaml -> g.yaml"
    said = include_error(tmp_path, text, a=document("value: {graph: g.yaml}"))
    assert f"graphs include each other: {names}" in said


def test_includes_without_end_are_refused(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"n{number}.yaml").write_text(document(f"value: {{graph: n{number + 1}.yaml}}"))
    assert "more than 32 levels deep" in include_error(tmp_path, "n0.yaml")


def test_a_mistake_in_an_included_document_is_placed_there_and_told_once(tmp_path: Path) -> None:
    bad = document("value: {node: arith.Add, a: $x, c: 1}\nunread: {nod: 1}", inputs="x: {type: float}")
    (tmp_path / "bad.yaml").write_text(bad)
    (tmp_path / "g.yaml").write_text(
        document("a: {graph: bad.yaml, x: 1}\nb: {graph: bad.yaml, x: 2}\nvalue: {node: arith.Add, a: $a, b: $b}")
    )
    with pytest.raises(CheckFailed) as raised:
        Graph.load(tmp_path / "g.yaml").check()
    said = [
        (
            str(p.place).removeprefix(f"{tmp_path}/"),
            p.message.removesuffix(f" (in a, included at {tmp_path}/g.yaml:3:6)"),
        )
        for p in raised.value.problems
    ]
    assert said == [
        ("bad.yaml:5:38", "value: arith.Add has no input 'c'"),
        ("bad.yaml:6:11", "unread: a node has one of the keys node, call, graph, loop, map, when, grad; this has nod"),
        ("bad.yaml:6:3", "nothing uses unread"),
    ] or said == [
        ("bad.yaml:5:38", "value: arith.Add has no input 'c'"),
        ("bad.yaml:6:11", "unread: a node has one of the keys node, call, graph, loop, map, when, grad; this has nod"),
        ("bad.yaml:6:11", "nothing uses unread"),
    ]


def test_yaml_that_cannot_be_read_in_an_included_document_is_placed_there(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("diffgraph: 1\nnodes: {a: [}\n")
    said = include_error(tmp_path, "bad.yaml")
    assert f"{tmp_path}/bad.yaml:2:13" in said and "included at" in said


def test_a_document_of_a_bundle_includes_from_the_bundle_alone() -> None:
    leaf = document("value: {node: arith.Add, a: 1}")
    bundle = {"g.yaml": document("value: {graph: sub/leaf.yaml}"), "sub/leaf.yaml": leaf}
    graph = Graph.from_source(Source("g.yaml", "g.yaml", bundle=bundle), Loader())
    graph.check()
    with pytest.raises(CheckFailed, match="needs a document with a folder"):
        Graph.from_source(Source("g.yaml", "g.yaml", bundle={"g.yaml": bundle["g.yaml"]}), Loader()).check()


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DocumentError, match="no such file"):
        Graph.load("missing.yaml")


def test_every_mistake_of_structure_and_of_wiring_is_told_at_once() -> None:
    text = "diffgraph: 1\nextra: 1\nnodes:\n  a: {node: arith.Ad, a: 1}\n  b: {nod: x}\n  value: {node: arith.Add, a: $a, b: $c}\noutputs: {value: $value}\n"
    with pytest.raises(CheckFailed) as raised:
        load(text)
    messages = [problem.message for problem in raised.value.problems]
    assert len(messages) >= 4
    for part in ("unknown key 'extra'", "no node type 'arith.Ad'", "this has nod", "there is no $c"):
        assert any(part in message for message in messages)
