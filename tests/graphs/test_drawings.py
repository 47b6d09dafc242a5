"""Drawings of the shipped graphs, and those of them that the documents show."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import networkx
import pytest

from diffgraph.builder import Graph
from diffgraph.drawing.palette import THEMES, colours
from diffgraph.drawing.scene import COMPONENT, PLAIN, UNKNOWN

from ..engine.test_show import clipped, faults, scene
from .conftest import GRAPHS

SHIPPED = sorted(str(path.relative_to(GRAPHS)) for path in GRAPHS.rglob("*.yaml") if "weights" not in path.parts)


@pytest.mark.parametrize(("name", "depth"), [*((name, 1) for name in SHIPPED), ("glide.yaml", 0), ("glide.yaml", 2)])
def test_nothing_overlaps(name: str, depth: int) -> None:
    root = scene(Graph.load(GRAPHS / name), depth)
    assert not faults(root)
    assert all(wire.points for box in root.walk() for wire in box.wires)


@pytest.mark.parametrize(("name", "depth"), [("glide", 2), ("ddpm", 1)])
def test_every_text_fits_and_is_on_the_sheet(name: str, depth: int) -> None:
    assert clipped(Graph.load(name), depth) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_no_two_kinds_have_one_colour(name: str) -> None:
    root = scene(Graph.load(GRAPHS / name), 9)
    kinds = {wire.kind for frame in root.walk() for wire in frame.wires} - {COMPONENT, PLAIN, UNKNOWN}
    for theme in THEMES.values():
        found = colours(dict.fromkeys(kinds, 1), theme)
        assert len({found[kind] for kind in kinds}) == len(kinds), sorted(kinds)


def test_what_the_picture_depends_on() -> None:
    """The picture needs everything; the text alone needs the prompt and the weights, not the seed."""
    graph = Graph.load("glide").to_networkx()
    inputs = {name for name, form in graph.nodes(data="form") if form == "input"}
    assert networkx.ancestors(graph, "output:image") >= inputs
    assert networkx.ancestors(graph, "text") & inputs == {"prompt", "weights"}
    assert networkx.is_directed_acyclic_graph(graph)  # its loops are in the graphs that it includes
    loops = Graph.load(GRAPHS / "samplers/guided.yaml").to_networkx()
    assert networkx.has_path(loops, "denoise.stepped", "denoise.scaled")  # through the loop


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
