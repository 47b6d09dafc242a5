"""`diffgraph show`."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from .conftest import PICTURE, SUM, Command, write


def test_svg_and_png_are_written(dg: Command) -> None:
    write("sum.yaml", SUM)
    done = dg("show", "sum.yaml", "-o", "sum.svg")
    assert (done.code, done.lines, done.err) == (0, ["sum.svg"], "")
    assert ET.parse("sum.svg").getroot().tag.endswith("svg")
    done = dg("show", "sum.yaml", "-o", "sum.PNG", "--json")
    assert (done.code, done.data) == (0, {"output": "sum.PNG"})
    assert Path("sum.PNG").read_bytes().startswith(b"\x89PNG")
    first = Path("sum.svg").read_bytes()
    assert dg("show", "sum.yaml", "-o", "sum.svg").code == 0
    assert Path("sum.svg").read_bytes() == first


def test_svg_goes_to_standard_output(dg: Command) -> None:
    write("sum.yaml", SUM)
    light, dark = dg("show", "sum.yaml"), dg("show", "sum.yaml", "--theme", "dark")
    assert light.code == dark.code == 0
    assert light.out.startswith("<svg") and light.out.endswith("</svg>\n")
    assert light.out != dark.out
    assert 'data-box="total"' in light.out


def test_variants_and_set_change_the_nodes(dg: Command) -> None:
    write("sum.yaml", SUM)
    assert "arith.Add" in dg("show", "sum.yaml").out
    assert "arith.Multiply" in dg("show", "sum.yaml", "--variant", "large").out
    assert "arith.Multiply" in dg("show", "sum.yaml", "--set", "total.node=arith.Multiply").out


def test_depth_opens_graphs(dg: Command) -> None:
    counts = [dg("show", "glide", "--depth", str(depth)).out.count("data-box=") for depth in (0, 1, 2)]
    assert counts == sorted(set(counts))


def test_a_picture_shows_the_graph_that_it_carries(dg: Command) -> None:
    write("dots.yaml", PICTURE)
    assert dg("run", "dots.yaml", "-o", "dots.png").code == 0
    drawn = dg("show", "dots.yaml").out
    Path("dots.yaml").unlink()
    done = dg("show", "dots.png", "-o", "graph.svg")
    assert (done.code, done.lines) == (0, ["graph.svg"])
    assert Path("graph.svg").read_text() == drawn
    assert "--variant" in dg("show", "dots.png", "--variant", "demo").err


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["glid"], "there is no file and no shipped graph 'glid'", "did you mean glide?"),
        (["ddpm", "-o", "graph.jpg"], "--output graph.jpg: a drawing is written as .svg or .png", "graph.svg"),
        (["ddpm", "-o", "graph"], "--output graph: a drawing is written as .svg or .png", "graph.svg"),
        (["ddpm", "-o", "."], "--output .: a drawing is written as .svg or .png", "graph.svg"),
        (["ddpm", "-o", "no/graph.svg"], "--output no: there is no such folder", "mkdir -p no"),
        (["ddpm", "--theme", "pink"], "'pink' is not one of 'light', 'dark'", "--help"),
        (["ddpm", "--depth", "-1"], "-1 is not in the range x>=0", "--help"),
        (["ddpm", "--variant", "nothing"], "nothing", ""),
        (["ddpm", "--set", "x"], "--set x: write NODE.KEY=VALUE", ""),
        ([], "the argument GRAPH is missing", "--help"),
    ],
)
def test_bad_input_is_one_clear_error(dg: Command, words: list[str], message: str, hint: str) -> None:
    done = dg("show", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert hint in done.err
    assert len(done.err.splitlines()) <= 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may write")
def test_a_folder_that_cannot_be_written(dg: Command) -> None:
    done = dg("show", "ddpm", "-o", "/proc/graph.svg")
    assert (done.code, done.out) == (2, "")
    assert "the folder /proc cannot be written" in done.err
    assert len(done.err.splitlines()) <= 2


def test_a_picture_without_a_graph(dg: Command) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4)).save("plain.png")
    done = dg("show", "plain.png")
    assert done.code == 2
    assert "plain.png carries no graph" in done.err


def test_mistakes_are_noted(dg: Command) -> None:
    write("wrong.yaml", SUM.replace("a: $a", "a: $b"))
    done = dg("show", "wrong.yaml", "-o", "wrong.svg")
    assert (done.code, done.lines) == (0, ["wrong.svg"])
    assert "mistake" in done.err and "diffgraph check wrong.yaml" in done.err
    write("broken.yaml", "diffgraph: 1\nnodes: [\n")
    done = dg("show", "broken.yaml", "--json")
    assert done.code == 2
    assert len(json.loads(done.out)["errors"]) == 1


def test_neither_torch_nor_networkx_is_needed(dg: Command) -> None:
    dg("show", "ddpm")  # the index of nodes is made
    script = (
        "import sys; from diffgraph.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(sorted({'torch', 'networkx', 'PIL'} & sys.modules.keys()), file=sys.stderr)"
    )
    for words in (["show", "--help"], ["show", "ddpm", "-o", "graph.svg"]):
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "[]"
