"""Drawings of graphs: nothing overlaps, nothing is missing, nothing is there twice."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from diffgraph.builder import Graph
from diffgraph.drawing.layout import arrange
from diffgraph.drawing.palette import DARK, LIGHT, THEMES, colours, text_width
from diffgraph.drawing.png import _trace, png
from diffgraph.drawing.scene import COMPONENT, PLAIN, UNKNOWN, Box, Scene, Wire
from diffgraph.drawing.shapes import Curve, Rect, Text, draw
from diffgraph.drawing.show import drawing

from .lab import document, load
from .test_drawing import TEXT, TRAINING

SVG = "{http://www.w3.org/2000/svg}"


INCLUDING = {  # a graph that includes one, whose loop includes another
    "leaf.yaml": document("value: {node: arith.Power, base: $x}", inputs="x: {type: float}"),
    "part.yaml": document(
        """
        sum:
          loop: [1, 2]
          as: turn
          carry: {total: $start}
          nodes:
            square: {graph: leaf.yaml, x: $turn}
            add: {node: arith.Add, a: $total, b: $square}
          next: {total: $add}
        """,
        inputs="start: {type: float, default: 1.5}",
        outputs="{total: $sum.total, start: $start}",
    ),
    "whole.yaml": document("part: {graph: part.yaml}\nvalue: {node: arith.Add, a: $part.total, b: $part.start}"),
}


@pytest.fixture
def including(tmp_path: Path) -> Graph:
    for name, text in INCLUDING.items():
        (tmp_path / name).write_text(text)
    return Graph.load(tmp_path / "whole.yaml")


def scene(graph: Graph, depth: int = 1) -> Box:
    values = {item.name: item.default for item in graph.document.inputs.values() if not item.required}
    return Scene(graph.registry, graph.loader).make(graph.document, graph.source, values, depth)


def frames(box: Box, x: float = 0, y: float = 0) -> Iterator[tuple[Box, list[tuple[Box, float, float]]]]:
    """Every frame with its boxes and their corners."""
    inside = [(child, x + child.x, y + child.y) for child in box.children]
    yield box, inside
    for child, left, top in inside:
        if child.framed:
            yield from frames(child, left, top)


def faults(root: Box) -> list[str]:
    """What overlaps, what leaves its frame, and which wires run through a box that they have nothing to do with."""
    arrange(root)
    found = []
    for frame, boxes in frames(root):
        for box, _, _ in boxes:
            if box.x < 0 or box.y < 20 or box.x + box.w > frame.w + 0.1 or box.y + box.h > frame.h + 0.1:
                found.append(f"{box.path} leaves {frame.path}")
        for (one, x1, y1), (two, x2, y2) in itertools.combinations(boxes, 2):
            if x1 < x2 + two.w and x2 < x1 + one.w and y1 < y2 + two.h and y2 < y1 + one.h:
                found.append(f"{one.path} overlaps {two.path}")
        for ports in (frame.ins, frame.outs):
            heights = sorted(port.y for port in ports.values())
            found += [f"ports of {frame.path} overlap" for a, b in itertools.pairwise(heights) if b - a < 14]
        for wire in frame.wires:
            for px, py in _trace(Curve(tuple(wire.points), "", 1)):
                for box in frame.children:
                    if box in (wire.source, wire.target):
                        continue
                    if box.x < px < box.x + box.w and box.y < py < box.y + box.h:
                        found.append(f"{wire.source.path} -> {wire.target.path} runs through {box.path}")
    return found


@pytest.mark.parametrize("text", [TEXT, TRAINING])
def test_nothing_overlaps_in_a_graph_with_every_form(text: str) -> None:
    root = scene(load(text))
    assert not faults(root)
    assert all(wire.points for box in root.walk() for wire in box.wires)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_nothing_overlaps_in_graphs_within_graphs(including: Graph, depth: int) -> None:
    assert not faults(scene(including, depth))


# --- everything is there, once --------------------------------------------------------------------------------------


def vertex(box: Box, frame: Box, port: str, source: bool) -> tuple[str, ...]:
    """An end of a wire: a box, or a port of a frame on one of its sides."""
    if not box.framed:
        return (box.path,)
    return (box.path, "in" if (box is frame) == source else "out", port)


def passes(end: tuple[str, ...]) -> bool:
    """Whether a wire of the document goes on here: at a border that it only crosses."""
    arm = end[0].endswith((":then", ":else"))
    return len(end) == 3 and (end[2].startswith("$") or (arm and end[1] == "out"))


def drawn_wires(root: Box) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    after: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for frame in root.walk():
        for wire in frame.wires:
            start = vertex(wire.source, frame, wire.output, True)
            after.setdefault(start, []).append(vertex(wire.target, frame, wire.input, False))
    found = set()
    for start in after:
        if passes(start):
            continue
        waiting = list(after[start])
        while waiting:
            end = waiting.pop()
            if passes(end):
                waiting += after[end]
            else:
                found.add((start, end))
    return found


def wires_of(graph: Graph) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The same of `to_networkx`."""
    known: Any = graph.to_networkx()
    forms, found = dict(known.nodes(data="form")), set()
    bodies = ("loop", "map", "when", "grad")
    for source, target, data in known.edges(data=True):
        start: tuple[str, ...] = (source,)
        if forms[source] == "input":
            start = ("", "in", source)
        elif forms[source] in bodies:
            within = target.startswith((f"{source}.", f"{source}:"))
            start = (source, "in" if within else "out", data["output"].split(".")[0])
        end: tuple[str, ...] = (target,)
        word, _, name = data["input"].partition(".")
        if target.startswith("output:"):
            end = ("", "out", data["input"])
        elif forms[target] in bodies:
            own = {"when": ":when", "map": "one", "loop": "item", "grad": "at"}
            end = (target, "in" if word in (*bodies, "carry") else "out", name or own.get(word, "value"))
        found.add((start, end))
    return found


def test_every_node_and_every_wire_is_drawn_once() -> None:
    graph = load(TEXT)
    root = scene(graph)
    forms = dict(graph.to_networkx().nodes(data="form"))
    boxes = [box.path for box in root.walk() if box.path and not box.path.endswith((":then", ":else"))]
    assert sorted(boxes) == sorted(name for name, form in forms.items() if form not in ("input", "output"))
    assert list(root.ins) == ["n", "folder"]
    assert list(root.outs) == ["value", "first"]
    assert drawn_wires(root) == wires_of(graph)
    shapes = draw(root, LIGHT).shapes
    rects = [shape.name for shape in shapes if isinstance(shape, Rect) and shape.name]
    assert sorted(rects) == sorted([*(b.path for b in root.walk() if b.path), ":n", ":folder", ":value", ":first"])
    curves = [shape.name for shape in shapes if isinstance(shape, Curve) and shape.name]
    assert len(curves) == len(set(curves)) == sum(len(box.wires) for box in root.walk())


def test_bodies_are_in_their_frames() -> None:
    root = scene(load(TEXT))
    inside = {box.path: [child.path for child in box.children] for box in root.walk() if box.children}
    assert inside["double"] == ["double.sum", "double.inner"]
    assert inside["double.inner"] == ["double.inner.more"]
    assert inside["choice"] == ["choice:then", "choice:else"]
    assert inside["choice:else"] == ["choice:else.x"]
    looks = {box.path: box.look for box in root.walk()}
    assert (looks["double"], looks["choice"], looks["first"]) == ("loop", "frame", "node")
    assert {box.path: box.subtitle for box in root.walk()}["double"] == "loop over first"


def test_kinds_and_components() -> None:
    nodes = """
        line: {node: arith.Linear, in_features: 2, out_features: 3, init_seed: 0}
        at:   {call: $line, vector: $x}
        size: {node: arith.Add, a: $line.size, b: 1}
    """
    root = scene(load(document(nodes, outputs="{value: $at, size: $size}", inputs="x: {type: Vector}")))
    found = {box.path: box for box in root.walk()}
    assert found["line"].look == "component"
    assert found["line"].notes == ["in_features: 2", "out_features: 3", "init_seed: 0"]
    assert {wire.kind for wire in root.wires if wire.source is found["line"]} == {COMPONENT}
    assert [(wire.input, wire.kind) for wire in root.wires if wire.target is found["at"]] == [
        ("", COMPONENT),
        ("vector", "Vector"),
    ]


def test_an_included_graph_is_a_box_or_a_frame(including: Graph) -> None:
    closed = {box.path: box for box in scene(including, 0).walk()}
    assert closed["part"].look == "include"
    assert not closed["part"].children
    assert set(closed["part"].outs) == {"total", "start"}
    opened = {box.path: box for box in scene(including, 1).walk()}
    assert opened["part.sum"].look == "loop"
    assert opened["part.sum.square"].look == "include"
    assert opened["part"].ins["start"].label == "start: 1.5"
    deeper = {box.path: box for box in scene(including, 2).walk()}
    assert deeper["part.sum.square"].look == "frame"


def test_a_training_graph_shows_its_batch_its_loss_and_what_is_trained() -> None:
    root = scene(load(TRAINING))
    boxes = {box.path: box for box in root.walk()}
    assert boxes["batch"].subtitle == "arith.Series"
    assert list(root.outs) == ["loss"]
    assert [box.path for box in boxes.values() if any(note.startswith("trained") for note in box.notes)] == ["line"]


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_drawing_is_always_the_same(including: Graph) -> None:
    assert including.svg(depth=2) == Graph.load(including.source.path).svg(depth=2)


@pytest.mark.parametrize("theme", THEMES)
def test_svg_is_whole_and_reads_nothing_from_elsewhere(theme: str) -> None:
    text = load(TEXT).svg(theme=theme)
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}rect").get("fill") == THEMES[theme].paper  # type: ignore[union-attr]
    words = {item.text for item in root.iter(f"{SVG}text")}
    assert {"drawn", "double", "loop over first", "arith.Add"} <= words
    assert "href" not in text
    assert "url(" not in text


def test_texts_of_any_kind() -> None:
    text = document(
        'value: {node: arith.Add, a: 1, b: 2, note: "<&\\"> \\u0007 \\u65e5\\u672c"}', outputs="{value: $value}"
    )
    graph = load("name: '<b>&'\nsummary: \"]]>\"\n" + text)
    root = ET.fromstring(graph.svg())
    assert any("<&" in (item.text or "") for item in root.iter(f"{SVG}text"))
    found, problems = drawing(graph.document, graph.source, graph.loader, graph.registry)
    assert problems  # there is no such input
    assert png(found).startswith(b"\x89PNG")


def test_png_has_the_size_of_the_drawing_and_its_colours() -> None:
    from PIL import Image

    graph = load(TEXT)
    found, _ = drawing(graph.document, graph.source, graph.loader, graph.registry, theme="dark")
    image = Image.open(BytesIO(png(found)))
    assert image.size == (round(found.width * 2), round(found.height * 2))
    assert "#%02x%02x%02x" % image.getpixel((0, 0)) == DARK.paper  # type: ignore[str-format]


def clipped(graph: Graph, depth: int = 1) -> list[str]:
    """The texts that are wider than they are taken to be, and those that leave the sheet."""
    from PIL import ImageFont

    font = ImageFont.load_default(1000)
    texts = [
        text
        for box in scene(graph, depth).walk()
        for text in (box.title, box.subtitle, *box.notes, *box.ins, *box.outs)
    ]
    found = [text for text in texts if font.getlength(text) > text_width(text, 1000)]
    sheet, _ = drawing(graph.document, graph.source, graph.loader, graph.registry, depth=depth)
    for text in (shape for shape in sheet.shapes if isinstance(shape, Text)):
        wide = text_width(text.text, text.size, text.bold)
        left = text.x - {"start": 0, "middle": wide / 2, "end": wide}[text.anchor]
        if left < 0 or left + wide > sheet.width or text.y >= sheet.height:
            found.append(text.text)
    return found


def test_every_text_fits_and_is_on_the_sheet(including: Graph) -> None:
    assert clipped(including, 2) == clipped(load(TEXT)) == clipped(load(TRAINING)) == []


def test_colours_are_apart_and_stay_with_their_kinds() -> None:
    names = {f"Kind{number}": 1 for number in range(14)}
    found = colours(names, LIGHT)
    assert len({found[name] for name in names}) == 14
    assert len(colours({f"Kind{n}": 1 for n in range(30)}, LIGHT)) == 33
    assert colours({"Kind3": 5, "Kind4": 1}, LIGHT)["Kind3"] == colours({"Kind3": 1}, LIGHT)["Kind3"]
    assert found[PLAIN] == found[UNKNOWN] == LIGHT.plain


# --- what is not as it should be ------------------------------------------------------------------------------------


def test_a_graph_with_mistakes_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(
        document("""
            a: {node: arith.Add, a: $b, b: 1}
            b: {node: arith.Add, a: $a, b: $nothing}
            c: {graph: missing.yaml, x: $a}
            d: {graph: wrong.yaml}
            value: {node: arith.Sum, a: $c.x, b: $d}
        """)
    )
    graph = Graph.load(tmp_path / "wrong.yaml")
    found, problems = drawing(graph.document, graph.source, graph.loader, graph.registry, depth=3)
    assert len(problems) >= 4
    names = {shape.name for shape in found.shapes if isinstance(shape, Rect)}
    assert {"a", "b", "c", "d", "value", ":value"} <= names


def test_an_empty_graph() -> None:
    graph = Graph("nothing")
    assert "nothing" in graph.svg()


def test_a_graph_of_python_and_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffgraph.errors import InputError

    graph = Graph("built")
    n = graph.input("n", "int", default=2)
    graph.output("value", graph.add("arith.Add", a=n, b=1, name="sum"))
    text = graph._repr_svg_()
    assert text is not None and 'data-box="sum"' in text
    root = scene(graph)
    assert {(wire.source.path, wire.target.path, wire.kind) for wire in root.wires} == {
        ("", "sum", PLAIN),
        ("sum", "", root.wires[1].kind),
    }

    def fails(self: Graph) -> str:
        raise InputError("no")

    monkeypatch.setattr(Graph, "svg", fails)
    assert graph._repr_svg_() is None


def test_ends_of_wires_are_at_their_ports() -> None:
    root = scene(load(TEXT))
    arrange(root)

    def at(wire: Wire, frame: Box) -> tuple[float, float]:
        port = wire.target.ins[wire.input]
        return wire.target.x + port.x, wire.target.y + port.y

    for frame in root.walk():
        for wire in frame.wires:
            if wire.target is not frame:
                assert wire.points[-1] == pytest.approx(at(wire, frame))
