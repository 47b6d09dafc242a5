"""`diffgraph check`, `plan`, `nodes`, `graphs`, `cache`, and the command itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diffgraph.language.sources import graphs_folder, shipped_graphs
from diffgraph.registry import registry

from .conftest import NOTE, PICTURE, SUM, Command, write

# --- the group ------------------------------------------------------------------------------------------------------


def test_help_lists_every_command(dg: Command) -> None:
    from diffgraph.cli import COMMANDS, MODULES

    files = {path.stem for path in (Path(__file__).parents[2] / "diffgraph" / "cli").glob("*.py")}
    assert {MODULES.get(name, name) for name in COMMANDS} <= files
    for words in ((), ("--help",), ("-h",)):
        done = dg(*words)
        assert done.code == 0
        assert all(name in done.out for name in COMMANDS)
    for name in COMMANDS:
        assert dg(name, "--help").code == 0


def test_version(dg: Command) -> None:
    from diffgraph import __version__

    assert __version__ in dg("--version").out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["chek"], "diffgraph: there is no command 'chek'", "did you mean check?"),
        (["run"], "diffgraph run: the argument GRAPH is missing", "diffgraph run --help"),
        (["check", "glide", "--quick"], "diffgraph check: there is no option --quick", ""),
        (["nodes", "A", "B"], "diffgraph nodes: got unexpected extra argument (B)", ""),
        (["cache", "prune"], "diffgraph cache prune: the option --to is missing", ""),
        (["--nothing"], "diffgraph: there is no option --nothing", ""),
    ],
)
def test_what_no_command_takes(dg: Command, words: list[str], message: str, hint: str) -> None:
    done = dg(*words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert hint in done.err
    told = dg(*words, "--json")
    assert told.code == 2
    assert told.data["errors"][0]["code"] == "usage"


# --- check ----------------------------------------------------------------------------------------------------------

WRONG = """
    diffgraph: 1
    inputs:
      n: {type: int, default: 1}
    nodes:
      a: {node: arith.Ad, a: 1}
      b: {node: arith.Add, a: one, c: $n}
      c: {node: arith.Add, a: $nothing}
    outputs: {a: $a, b: $b, c: $c}
"""


def test_check_reports_all_mistakes_in_order(dg: Command, folder: Path) -> None:
    write("wrong.yaml", WRONG)
    done = dg("check", "wrong.yaml")
    assert (done.code, done.out) == (2, "")
    heads = [line.split("  ")[0] for line in done.err.splitlines() if line.startswith("wrong.yaml")]
    assert heads == ["wrong.yaml:5:13", "wrong.yaml:6:27", "wrong.yaml:6:35", "wrong.yaml:7:27"]
    assert "did you mean arith.Add?" in done.err
    errors = dg("check", "wrong.yaml", "--json").data["errors"]
    assert [error["place"]["line"] for error in errors] == [5, 6, 6, 7]
    assert {"code", "message", "hint", "place"} <= set(errors[0])
    assert [error["message"] for error in dg("run", "wrong.yaml", "--json").data["errors"]] == [
        error["message"] for error in errors
    ]


def test_check_needs_no_values_and_takes_some(dg: Command, folder: Path) -> None:
    write("sum.yaml", SUM)
    done = dg("check", "sum.yaml")
    assert (done.code, done.out, done.err) == (0, "sum.yaml: no mistakes\n", "")
    assert dg("check", "sum.yaml", "--json").data == {"errors": [], "documents": ["sum.yaml"]}
    done = dg("check", "sum.yaml", "--a", "11", "--set", "total.c=1", "--variant", "larg")
    assert done.code == 2
    done = dg("check", "sum.yaml", "--a", "11")
    assert "a: 11 must be at most 10" in done.err
    assert "has no input 'c'" in dg("check", "sum.yaml", "--set", "total.c=1").err


def test_check_of_every_shipped_graph_that_has_its_weights(dg: Command) -> None:
    assert dg("check", "glide").out == "glide: no mistakes in 4 documents\n"


# --- plan -----------------------------------------------------------------------------------------------------------


def test_plan_says_what_runs_and_what_is_cached(dg: Command, folder: Path) -> None:
    write("letter.yaml", NOTE)
    rows = [line.split() for line in dg("plan", "letter.yaml").lines]
    assert ["note", "arith.MakeNote", "run"] in rows
    assert dg("plan", "letter.yaml").lines[-1].startswith("4 to run, 0 from the store; on cpu in float32")
    dg("run", "letter.yaml")
    states = {unit["node"]: unit["state"] for unit in dg("plan", "letter.yaml", "--json").data["nodes"]}
    assert states == {"number": "unused", "upper": "unused", "note": "cached", "said": "cached"}
    assert dg("plan", "letter.yaml").lines[-1].startswith("0 to run, 2 from the store")
    assert dg("plan", "letter.yaml", "--no-cache").lines[-1].startswith("4 to run")
    assert not Path("letter-7-1.txt").exists()


def test_plan_of_components(dg: Command, folder: Path) -> None:
    done = dg("plan", "glide", "--prompt", "red apple")
    assert done.code == 0
    (row,) = [line for line in done.lines if line.startswith("base ")]
    assert "UNetGLIDE" in row
    assert "MiB" in row
    assert "pkg://diffgraph/weights/glide-demo/base" in row
    assert any("loop of 25" in line for line in done.lines)
    parts = {part["node"]: part for part in dg("plan", "glide", "--prompt", "x", "--json").data["components"]}
    assert parts["base"]["parameters"] > 1_000_000
    assert parts["base"]["download"] == 0
    assert parts["base"]["needed"]
    write("dots.yaml", PICTURE)
    assert "its parameters" in dg("plan", "dots.yaml").out


def test_plan_finds_what_a_run_finds(dg: Command, folder: Path) -> None:
    write("sum.yaml", SUM)
    done = dg("plan", "sum.yaml")
    assert done.code == 2
    assert "the input second_one (float) is missing" in done.err


# --- nodes ----------------------------------------------------------------------------------------------------------


def test_nodes_are_listed_by_package(dg: Command, folder: Path) -> None:
    write(
        "mine.py", 'from diffgraph import node\n\n@node("Mine", version=3)\ndef mine(a: int) -> int:\n    """Mine."""\n'
    )
    done = dg("nodes", "--nodes", "mine.py")
    heads = [line for line in done.lines if line and not line.startswith(" ")]
    assert heads == ["diffgraph", "arith", "pixels", "mine.py, named by --nodes"]
    assert "  Mine  function  Mine." in done.lines
    listed = {line.split()[0] for line in done.lines if line.startswith("  ")}
    assert listed >= {name for name, node in registry().nodes.items() if node.role != "protocol"}
    assert any(node["name"] == "UNetGLIDE" for node in dg("nodes", "--json").data["nodes"])


def test_a_node_is_explained(dg: Command) -> None:
    text = " ".join(dg("nodes", "DDIMScheduler").out.split())
    assert "component, version" in text
    assert "arXiv:2010.02502" in text
    assert 'beta_schedule "linear" | "scaled_linear" | "squaredcos_cap_v2" | "sigmoid" default "linear"' in text
    assert "eta float from 0 to 1, default 0.0" in text
    assert "call: $name.step" in text
    assert "-> .sample Sample [B, ...]" in text
    assert "rng Rng [B] used once" in text
    text = " ".join(dg("nodes", "GaussianNoise").out.split())
    assert "Inputs shape list of int rng Rng [B] used once scale float from 0, quantity: factor, default 1.0" in text
    data = dg("nodes", "arith.Power", "--json").data
    assert data["methods"]["__call__"]["inputs"]["exponent"]["bound"] == [0, None, 64, None]


@pytest.mark.parametrize("name", list(registry().nodes))
def test_every_node_can_be_explained(dg: Command, name: str) -> None:
    assert dg("nodes", name).code == 0


def test_unknown_nodes_and_broken_files(dg: Command, folder: Path) -> None:
    done = dg("nodes", "DDIMSchedular")
    assert done.code == 2
    assert "did you mean DDIMScheduler?" in done.err
    write("bad.py", "import nothing_of_this_name\n")
    done = dg("nodes", "--nodes", "bad.py")
    assert done.code == 2
    assert "bad.py" in done.err
    assert "nothing_of_this_name" in done.err


# --- graphs ---------------------------------------------------------------------------------------------------------


def test_graphs_are_listed_with_their_summaries(dg: Command) -> None:
    done = dg("graphs")
    assert [line.split()[0] for line in done.lines[1:]] == shipped_graphs()
    data = {graph["name"]: graph for graph in dg("graphs", "--json").data["graphs"]}
    assert data["glide"]["variants"][0] == "demo"
    assert data["train/glide"]["trains"]


@pytest.mark.parametrize("name", shipped_graphs())
def test_a_copy_is_whole(dg: Command, folder: Path, name: str) -> None:
    done = dg("graphs", "--copy", name)
    assert done.code == 0, done.err
    assert done.lines[0] == f"{name.rpartition('/')[2]}.yaml"
    for path in done.lines:
        assert any(Path(path).read_bytes() == found.read_bytes() for found in graphs_folder().rglob(Path(path).name))
    before = dg("check", name)
    after = dg("check", done.lines[0])
    assert after.code == before.code
    assert dg("graphs", "--copy", name).code == 0  # the same files again


def test_a_copy_still_works_and_can_be_changed(dg: Command, folder: Path) -> None:
    assert dg("graphs", "--copy", "glide").lines == [
        "glide.yaml", "samplers/guided.yaml", "samplers/plain.yaml", "samplers/prediction.yaml",
    ]  # fmt: skip
    text = Path("glide.yaml").read_text()
    Path("glide.yaml").write_text(text.replace("levels: 256", "levels: 8"))
    assert dg("check", "glide.yaml").code == 0
    done = dg("graphs", "--copy", "glide")
    assert (done.code, done.out) == (2, "")
    assert "glide.yaml is there already, with other content" in done.err
    shutil.rmtree("samplers")
    Path("glide.yaml").unlink()
    Path("samplers").write_text("a file")
    done = dg("graphs", "--copy", "glide")
    assert done.code != 0
    assert "Traceback" not in done.err


def test_there_is_no_such_graph(dg: Command) -> None:
    done = dg("graphs", "--copy", "glid")
    assert done.code == 2
    assert "did you mean glide?" in done.err
    assert dg("graphs", "--copy", "../graphs/glide").code == 2


# --- cache ----------------------------------------------------------------------------------------------------------


def test_the_store_is_shown_pruned_and_cleared(dg: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("letter.yaml", NOTE)
    for seed in range(4):
        dg("run", "letter.yaml", "--seed", str(seed))
    shown = dg("cache", "--json").data
    assert shown["entries"] >= 8
    assert shown["limit"] == 20 * 2**30
    lines = dg("cache").lines
    assert lines[0] == shown["folder"]
    assert lines[1].endswith("of at most 20 GiB")
    assert dg("cache", "prune", "--to", "1kB").code == 0
    left = dg("cache", "--json").data
    assert 0 < left["bytes"] <= 1000
    done = dg("cache", "clear")
    assert done.lines[0].endswith("; 0 results, 0 B stay")
    assert dg("cache", "clear", "--json").data["dropped"] == 0
    monkeypatch.setenv("DIFFGRAPH_CACHE_SIZE", "1GiB")
    assert dg("cache", "--json").data["limit"] == 2**30
    monkeypatch.setenv("DIFFGRAPH_CACHE_SIZE", "much")
    assert "DIFFGRAPH_CACHE_SIZE much: this is no size" in dg("run", "letter.yaml").err
    monkeypatch.setenv("DIFFGRAPH_CACHE_SIZE", "20")
    assert "DIFFGRAPH_CACHE_SIZE 20: a size needs a unit" in dg("run", "letter.yaml").err
    assert dg("cache", "prune", "--to", "-1").code == 2


# --- schema ---------------------------------------------------------------------------------------------------------


def test_schema_is_json(dg: Command, folder: Path) -> None:
    write(
        "mine.py", 'from diffgraph import node\n\n@node("Mine", version=3)\ndef mine(a: int) -> int:\n    """Mine."""\n'
    )
    schema = json.loads(dg("schema", "--nodes", "mine.py").out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "diffgraph document"
    assert "node Mine" in schema["$defs"]


def test_who_reads_a_published_class(dg: Command) -> None:
    done = dg("nodes", "UNet2DConditionModel")
    assert done.out == "UNet2DConditionModel is a published class, which UNet2DCondition and UNetIF read\n"
    assert dg("nodes", "AutoencoderTiny").code == 2
