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
from .test_drawing import GRAPHS, TEXT

SHIPPED = sorted(str(path.relative_to(GRAPHS)) for path in GRAPHS.rglob("*.yaml") if "weights" not in path.parts)
SVG = "{http://www.w3.org/2000/svg}"


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


@pytest.mark.parametrize(("name", "depth"), [*((name, 1) for name in SHIPPED), ("glide.yaml", 0), ("glide.yaml", 2)])
def test_nothing_overlaps_in_a_shipped_graph(name: str, depth: int) -> None:
    root = scene(Graph.load(GRAPHS / name), depth)
    assert not faults(root)
    assert all(wire.points for box in root.walk() for wire in box.wires)


def test_nothing_overlaps_in_a_graph_with_every_form() -> None:
    assert not faults(scene(load(TEXT)))


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


def test_an_included_graph_is_a_box_or_a_frame() -> None:
    graph = Graph.load("glide")
    closed = {box.path: box for box in scene(graph, 0).walk()}
    assert closed["small"].look == "include"
    assert not closed["small"].children
    assert set(closed["small"].outs) == {"sample", "rng"}
    opened = {box.path: box for box in scene(graph, 1).walk()}
    assert opened["small.denoise"].look == "loop"
    assert opened["small.denoise.prediction"].look == "include"
    assert opened["small"].ins["noise_scale"].label == "noise_scale: 1.0"
    deeper = {box.path: box for box in scene(graph, 2).walk()}
    assert deeper["small.denoise.prediction"].look == "frame"


def test_a_training_graph_shows_its_batch_its_loss_and_what_is_trained() -> None:
    root = scene(Graph.load("train/ddpm"))
    boxes = {box.path: box for box in root.walk()}
    assert boxes["batch_of"].subtitle == "ImageFolder"
    assert list(root.outs) == ["loss"]
    assert any(note.startswith("trained") for box in boxes.values() for note in box.notes)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_drawing_is_always_the_same() -> None:
    first, second = Graph.load("glide").svg(depth=2), Graph.load("glide").svg(depth=2)
    assert first == second


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


def test_texts_fit_where_they_are_written() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(1000)
    for box in scene(Graph.load("glide"), 2).walk():
        for text in (box.title, box.subtitle, *box.notes, *box.ins, *box.outs):
            assert font.getlength(text) <= text_width(text, 1000), text


def test_every_text_is_on_the_sheet() -> None:
    for name in ("glide", "ddpm"):
        graph = Graph.load(name)
        found, _ = drawing(graph.document, graph.source, graph.loader, graph.registry)
        for text in (shape for shape in found.shapes if isinstance(shape, Text)):
            wide = text_width(text.text, text.size, text.bold)
            left = text.x - {"start": 0, "middle": wide / 2, "end": wide}[text.anchor]
            assert left >= 0 and left + wide <= found.width and text.y < found.height, text


def test_colours_are_apart_and_stay_with_their_kinds() -> None:
    names = {f"Kind{number}": 1 for number in range(14)}
    found = colours(names, LIGHT)
    assert len({found[name] for name in names}) == 14
    assert len(colours({f"Kind{n}": 1 for n in range(30)}, LIGHT)) == 33
    assert colours({"Kind3": 5, "Kind4": 1}, LIGHT)["Kind3"] == colours({"Kind3": 1}, LIGHT)["Kind3"]
    assert found[PLAIN] == found[UNKNOWN] == LIGHT.plain


@pytest.mark.parametrize("name", SHIPPED)
def test_no_two_kinds_of_a_shipped_graph_have_one_colour(name: str) -> None:
    root = scene(Graph.load(GRAPHS / name), 9)
    kinds = {wire.kind for frame in root.walk() for wire in frame.wires} - {COMPONENT, PLAIN, UNKNOWN}
    for theme in THEMES.values():
        found = colours(dict.fromkeys(kinds, 1), theme)
        assert len({found[kind] for kind in kinds}) == len(kinds), sorted(kinds)


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


DRAWN = {  # in docs/images: the graph, and how deep it is drawn
    "ddpm": ("ddpm.yaml", 1), "dit": ("dit.yaml", 0), "glide": ("glide.yaml", 0),
    "glide_inpaint": ("glide_inpaint.yaml", 0), "imagen": ("imagen.yaml", 0), "ldm": ("ldm.yaml", 0), "plain": ("samplers/plain.yaml", 1),
    "stable_diffusion": ("stable_diffusion.yaml", 0),
}  # fmt: skip


def test_every_drawing_in_the_documents_is_looked_at() -> None:
    assert {path.stem for path in (GRAPHS.parent / "docs/images").glob("*.svg")} == DRAWN.keys()


@pytest.mark.parametrize(("image", "name", "depth"), [(image, *how) for image, how in DRAWN.items()])
def test_the_drawings_in_the_documents_are_of_the_graphs_as_they_are(image: str, name: str, depth: int) -> None:
    def names(text: str) -> set[str]:
        tags = ET.fromstring(text).iter()
        return {word for tag in tags for key in ("data-box", "data-wire") if (word := tag.get(key)) is not None}

    kept = (GRAPHS.parent / "docs" / "images" / f"{image}.svg").read_text()
    assert names(kept) == names(Graph.load(GRAPHS / name).svg(depth=depth)), (
        f"the page that shows {image}.svg says how it is made"
    )
