"""Repositories of parts as graphs: the mechanism, with a package that knows nothing of diffusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffgraph.builder import Graph
from diffgraph.errors import WeightsError
from diffgraph.importing import imported, refuse_code
from diffgraph.weights.folders import open_folder

from ..hub import linear


def write(folder: Path, **index: Any) -> Path:
    """A repository of one part."""
    (folder / "linear").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / "linear" / name).write_bytes(linear(3)[name])
    told: dict[str, Any] = {"_class_name": "LinePipeline", "linear": ["lines", "Line"], "chart": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(told | index))
    return folder


def test_a_package_says_how_its_pipelines_are_imported(tmp_path: Path) -> None:
    folder = write(tmp_path / "repository", scale=0.5, chart=["lines", "Chart"])
    found = imported(open_folder(str(folder)), name="mine", weights="hf://org/lines")
    assert found.left_out == ("chart (Chart)",)
    assert found.text == (
        "# LinePipeline, imported by diffgraph from " + str(folder) + "\n"
        "# left out: chart (Chart)\n"
        "diffgraph: 1\n"
        "name: mine\n"
        "summary: The norm of a line, scaled\n"
        "\n"
        "inputs:\n"
        "  scale: {type: float, default: 0.5, help: a factor}\n"
        "  address: {type: weights, default: hf://org/lines, help: a repository with a line}\n"
        "\n"
        "nodes:\n"
        "  linear: {node: arith.Linear, weights: $address/linear, unit: foot}\n"
        "  norm: {call: $linear.norm}\n"
        "  scaled: {node: arith.Multiply, a: $norm, b: $scale}\n"
        "\n"
        "outputs: {norm: $scaled}\n"
    )
    assert Graph.from_text(found.text).document.inputs["scale"].default == 0.5


def test_a_folder_is_a_graph_in_memory(tmp_path: Path) -> None:
    graph = Graph.load(write(tmp_path / "repository"))
    assert graph.name == "repository"
    assert graph().norm == 6.0
    assert graph(scale=2.0).norm == 12.0
    graph.check()


def test_other_weights_may_be_given(tmp_path: Path) -> None:
    other = write(tmp_path / "other")
    (other / "linear/model.safetensors").write_bytes(linear(5)["model.safetensors"])
    assert Graph.load(write(tmp_path / "repository"))(address=str(other)).norm == 10.0


def test_what_an_index_names_stays_data(tmp_path: Path) -> None:
    """Names of parts reach a comment of the document, so they hold nothing that could end it."""
    for number, part in enumerate(("a\nnodes", "a b", "../a", "a'b")):
        folder = write(tmp_path / str(number), **{part: ["lines", "X"]})
        with pytest.raises(WeightsError, match="names code"):
            Graph.load(folder)
    for number, entry in enumerate((["lines", "X\ny"], ["lines\n", "X"], ["numpy", "X"], ["os.path", "join"]), 4):
        with pytest.raises(WeightsError, match="chart names code"):
            Graph.load(write(tmp_path / str(number), chart=entry))


def test_settings_that_look_like_parts_are_passed_over(tmp_path: Path) -> None:
    settings = {
        "range": [0.5, 1.0],
        "names": {"0": "zero"},
        "three": ["a", "b", "c"],
        "_note": ["x.y", "z"],
        "on": True,
    }
    assert Graph.load(write(tmp_path / "repository", **settings))().norm == 6.0


def test_code_is_found_at_any_depth() -> None:
    with pytest.raises(WeightsError, match=r"x.json: a\[1\].b.auto_map names code of the repository, .{'M': 'm.M'}"):
        refuse_code({"a": [1, {"b": {"auto_map": {"M": "m.M"}}}]}, "x.json")
    deep: Any = {"auto_map": "m.M"}
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(WeightsError, match="names code"):
        refuse_code({"a": deep}, "x.json")
    refuse_code({"trust_remote_code": False, "auto_map": None, "_class_name": "X", "maps": ["auto_map"]}, "x.json")
