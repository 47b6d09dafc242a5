"""Commands on graphs and weights of a Hub: the real client against a real server on loopback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffgraph.builder import Graph
from diffgraph.cli.progress import Screen
from diffgraph.cli.report import State
from diffgraph.running.run import Event
from diffgraph.weights import hub as hub_module

from ..hub import graph, linear, weights
from ..hub_server import HubServer
from .conftest import Command, write

DOUBLE = """
    diffgraph: 1
    name: double
    nodes:
      line: {graph: GRAPH, scale: 2.0}
    outputs: {norm: $line.norm}
"""


def double(address: str) -> bytes:
    return DOUBLE.replace("GRAPH", address).replace("\n    ", "\n").lstrip().encode()


def fetched(server: HubServer) -> list[str]:
    """The names of the files that were fetched."""
    paths = (seen.path for seen in server.requests if seen.method == "GET" and "/api/" not in seen.path)
    return sorted({path.rpartition("/")[2] for path in paths})


# --- a graph by address ---------------------------------------------------------------------------------------------


def test_a_graph_runs_by_address(server: HubServer, hub: Command) -> None:
    server.commit("me/graphs", {"graphs/line.yaml": graph().encode(), "README.md": b"# graphs"})
    said = hub("run", "hf://me/graphs/graphs/line.yaml", "--scale", "2")
    assert said.code == 0, said.err
    assert said.out == '{"norm": 12.0}\n'
    assert fetched(server) == ["config.json", "line.yaml", "model.safetensors"]
    assert hub("check", "hf://me/graphs/graphs/line.yaml").out.startswith(
        "hf://me/graphs/graphs/line.yaml: no mistakes"
    )
    assert "a factor" in hub("run", "hf://me/graphs/graphs/line.yaml", "--help").out


def test_a_repository_that_holds_one_graph(server: HubServer, hub: Command) -> None:
    commit = server.commit("me/one", {"line.yaml": graph().encode(), "line.svg": b"<svg/>"})
    for address in ("hf://me/one", f"hf://me/one@{commit}", "hf://me/one@main"):
        assert hub("run", address).out == '{"norm": 6.0}\n'
    assert Graph.load("hf://me/one")(scale=0.5).norm == 3.0


def test_a_graph_of_the_hub_includes_its_own_files(server: HubServer, hub: Command) -> None:
    files = {"double.yaml": double("parts/line.yaml"), "parts/line.yaml": graph("weights/two").encode()}
    files |= {f"parts/weights/two/{name}": content for name, content in linear(2).items()}
    server.commit("me/own", files)
    said = hub("run", "hf://me/own")
    assert said.out == '{"norm": 8.0}\n', said.err
    assert hub("run", "hf://me/own/parts").out == '{"norm": 4.0}\n'
    assert server.count("HEAD .*onnx") == 0


def test_included_by_the_address_of_its_own_repository(server: HubServer, hub: Command) -> None:
    server.commit("me/own", {"double.yaml": double("hf://me/own/line.yaml"), "line.yaml": graph().encode()})
    said = hub("run", "hf://me/own/double.yaml")
    assert said.out == '{"norm": 12.0}\n', said.err


def test_of_several_documents_the_one_that_includes_the_others(server: HubServer, hub: Command) -> None:
    files = {"a.yaml": double("line.yaml"), "line.yaml": graph().encode(), "settings.yaml": b"colour: red\n"}
    server.commit("me/several", files)
    assert hub("run", "hf://me/several").out == '{"norm": 12.0}\n'
    server.commit("me/several", files | {"other.yaml": graph().encode()})
    said = hub("run", "hf://me/several")
    assert said.code == 2
    assert "holds several graphs: a.yaml, other.yaml" in said.err
    assert "name one: hf://me/several/a.yaml" in said.err


@pytest.mark.parametrize(
    "address",
    [
        "../line.yaml",
        "/etc/line.yaml",
        "hf://me/other/line.yaml",
        "hf://me/own@v1/line.yaml",
        "C:/line.yaml",
        "a/../b.yaml",
    ],
)
def test_a_graph_of_the_hub_includes_nothing_else(server: HubServer, hub: Command, address: str) -> None:
    server.commit("me/other", {"line.yaml": graph().encode()})
    server.commit("me/own", {"graphs/double.yaml": double(address), "line.yaml": graph().encode()})
    server.repositories["me/own"].tags["v1"] = server.commit("me/own", {"line.yaml": b""}, branch="old")
    write("line.yaml", graph())
    said = hub("run", "hf://me/own/graphs/double.yaml")
    assert said.code == 2
    assert "graphs/double.yaml" in said.err
    assert server.count("me/other") == 0


def test_a_graph_of_the_hub_may_include_shipped_graphs(server: HubServer, hub: Command) -> None:
    text = "diffgraph: 1\nnodes: {a: {graph: pkg://diffgraph/nothing.yaml}}\noutputs: {b: $a}\n"
    server.commit("me/own", {"a.yaml": text.encode()})
    assert "pkg://diffgraph/nothing.yaml" in hub("check", "hf://me/own").err


@pytest.mark.parametrize("weights_at", ["/etc", "../linear", "~/linear", "file:///etc"])
def test_weights_of_a_graph_of_the_hub_are_not_on_this_machine(
    server: HubServer, hub: Command, weights_at: str
) -> None:
    server.commit("me/own", {"graphs/a.yaml": graph(weights_at).encode()})
    said = hub("run", "hf://me/own/graphs/a.yaml")
    assert said.code == 2
    assert weights_at in said.err


def test_a_file_that_a_graph_of_the_hub_names(server: HubServer, hub: Command) -> None:
    text = """diffgraph: 1
inputs: {file: {type: file, default: parts/text.txt}}
nodes: {size: {node: arith.FileSize, file: $file}}
outputs: {size: $size}
"""
    server.commit("me/file", {"size.yaml": text.encode(), "parts/text.txt": b"hello"})
    assert hub("run", "hf://me/file").out == '{"size": 5}\n'
    server.commit("me/file", {"size.yaml": text.replace("parts/", "/etc/").encode()})
    assert "a document names no absolute path" in hub("run", "hf://me/file").err


def test_no_such_graph(server: HubServer, hub: Command) -> None:
    server.commit("me/graphs", {"graphs/line.yaml": graph().encode()})
    assert "did you mean line.yaml?" in hub("run", "hf://me/graphs/graphs/lime.yaml").err
    assert "name one in hf://me/graphs/graphs/" in hub("run", "hf://me/graphs").err
    assert "did you mean hf://me/graphs?" in hub("run", "hf://me/graph").err
    server.commit("me/empty", {"README.md": b"# nothing"})
    assert "holds no graph" in hub("run", "hf://me/empty").err
    assert "there is no such folder" in hub("run", "hf://me/empty/sub").err
    server.commit("me/large", {"a.yaml": b"#" * (5 << 20)})
    said = hub("run", "hf://me/large")
    assert "larger than 4 MiB" in said.err
    assert server.count("resolve/.*a.yaml") == 0


def test_a_branch_that_moves_between_document_and_weights(server: HubServer, hub: Command, monkeypatch: Any) -> None:
    files = {"line.yaml": graph("linear").encode()} | {f"linear/{n}": content for n, content in linear(1).items()}
    server.commit("me/moves", files)
    loaded = Graph.load("hf://me/moves")
    server.commit("me/moves", {**files, "linear/model.safetensors": weights(100)})
    assert loaded().norm == 2.0
    assert hub("run", "hf://me/moves").out == '{"norm": 200.0}\n'


# --- only what is needed --------------------------------------------------------------------------------------------

TWO = """
    diffgraph: 1
    name: two
    variants:
      small: {}
      large: {set: {second.weights: hf://org/large}}
    nodes:
      first: {node: arith.Linear, weights: hf://org/linear}
      second: {node: arith.Linear, weights: hf://org/second}
      one: {call: $first.norm}
      other: {call: $second.norm}
      sum: {node: arith.Add, a: $one, b: $other}
    outputs: {sum: $sum}
"""


def test_the_plan_shows_what_will_be_downloaded(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph())
    size = len(weights(3))
    said = hub("plan", "line.yaml")
    assert f"download {size} B of hf://org/linear" in said.out
    assert f"{size} B to download" in said.out
    planned = hub("plan", "line.yaml", "--json")
    assert planned.data["download"] == size, planned.out
    assert fetched(server) == ["config.json"]
    assert hub("run", "line.yaml").code == 0
    assert fetched(server) == ["config.json", "model.safetensors"]
    assert "to download" not in hub("plan", "line.yaml", "--no-cache").out


def test_weights_whose_uses_are_cached_are_not_downloaded(server: HubServer, hub: Command, folder: Path) -> None:
    write("line.yaml", graph())
    assert hub("run", "line.yaml").out == '{"norm": 6.0}\n'
    shutil.rmtree(folder.parent / "hf")
    server.requests.clear()
    assert "to download" not in hub("plan", "line.yaml").out
    assert hub("run", "line.yaml").out == '{"norm": 6.0}\n'
    assert fetched(server) == ["config.json"]


def test_all_weights_are_fetched_together_and_told_before(server: HubServer, hub: Command) -> None:
    server.commit("org/second", linear(4))
    write("two.yaml", TWO)
    said = hub("run", "two.yaml")
    assert said.out == '{"sum": 14.0}\n'
    assert said.err == f"downloading {2 * len(weights(3))} bytes from 2 repositories\n"
    events: list[Event] = []
    server.commit("org/linear", linear(5))
    hub_module.default_hub.cache_clear()
    Graph.load("two.yaml")(listeners=[events.append])
    told = [(event.path, event.number, event.total) for event in events if event.kind == "download"]
    assert told[0] == ("org/linear", 0, len(weights(3)))
    assert told[-1] == ("org/linear", len(weights(3)), len(weights(3)))


def test_a_download_on_the_screen() -> None:
    from rich.console import Console

    console = Console(width=90, record=True, force_terminal=True)
    screen = Screen(State(), {}, console)
    screen(Event("download", "2 repositories", 0, 2_000_000))
    screen(Event("download", "2 repositories", 500_000, 2_000_000))
    console.print(screen.render())
    screen(Event("download", "2 repositories", 2_000_000, 2_000_000))
    console.print(screen.render())
    drawn = console.export_text()
    assert "downloading 2 MB from 2 repositories" in drawn
    assert "500 kB/2 MB" in drawn
    assert "2 MB/2 MB" in drawn


def test_a_branch_not_taken_is_not_downloaded(server: HubServer, hub: Command) -> None:
    server.commit("org/second", linear(4))
    write(
        "branch.yaml",
        """
        diffgraph: 1
        nodes:
          first: {node: arith.Linear, weights: hf://org/linear}
          second: {node: arith.Linear, weights: hf://org/second}
          one: {call: $first.norm}
          flag: {node: arith.Less, a: $one, b: 10.0}
          either:
            when: $flag
            nodes: {a: {node: arith.Add, a: $one, b: 1.0}}
            outputs: {x: $a}
            else: {nodes: {b: {call: $second.norm}}, outputs: {x: $b}}
        outputs: {x: $either.x}
        """,
    )
    said = hub("run", "branch.yaml")
    assert said.code == 0, said.err
    assert said.out == '{"x": 7.0}\n'
    assert server.count("org/second.*safetensors") == 0


# --- offline --------------------------------------------------------------------------------------------------------


def test_pulled_it_runs_offline_without_a_request(server: HubServer, hub: Command, folder: Path) -> None:
    commit = server.repositories["org/linear"].branches["main"]
    write("line.yaml", graph())
    said = hub("pull", "line.yaml")
    assert said.code == 0, said.err
    assert f"hf://org/linear at {commit[:12]}" in said.out
    assert fetched(server) == ["config.json", "model.safetensors"]
    server.requests.clear()
    assert hub("run", "line.yaml", "--offline").out == '{"norm": 6.0}\n'
    assert hub("pull", "line.yaml", "--offline").out.endswith(
        "nothing to fetch: all is here; diffgraph run line.yaml --offline\n"
    )
    assert server.count() == 0
    server.stop()
    assert hub("run", "line.yaml", "--offline", "--no-cache").out == '{"norm": 6.0}\n'


def test_the_environment_says_offline(server: HubServer, dg: Command, hub: Command, monkeypatch: Any) -> None:
    write("line.yaml", graph())
    assert hub("pull", "line.yaml").code == 0
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert dg("run", "line.yaml").out == '{"norm": 6.0}\n'
    assert server.count() == 0


def test_a_graph_by_address_offline(server: HubServer, hub: Command) -> None:
    server.commit("me/own", {"a.yaml": double("parts/line.yaml"), "parts/line.yaml": graph().encode()})
    assert hub("pull", "hf://me/own").code == 0
    server.requests.clear()
    assert hub("run", "hf://me/own", "--offline").out == '{"norm": 12.0}\n'
    assert server.count() == 0


def test_a_chosen_variant_is_pulled_alone(server: HubServer, hub: Command) -> None:
    server.commit("org/second", linear(4))
    server.commit("org/large", linear(40))
    write("two.yaml", TWO)
    assert hub("pull", "two.yaml", "--variant", "small").code == 0
    assert server.count("org/large") == 0
    assert hub("run", "two.yaml", "--offline").out == '{"sum": 14.0}\n'
    assert hub("pull", "two.yaml").code == 0
    server.requests.clear()
    assert hub("run", "two.yaml", "--offline", "--variant", "large").out == '{"sum": 86.0}\n'
    assert server.count() == 0
    assert "there is no variant 'tiny'" in hub("pull", "two.yaml", "--variant", "tiny").err


def test_what_is_missing_offline_is_listed_whole(server: HubServer, hub: Command, folder: Path) -> None:
    server.commit("org/second", linear(4))
    write("two.yaml", TWO)
    server.requests.clear()
    said = hub("run", "two.yaml", "--offline")
    assert said.code == 2
    assert "hf://org/linear@main" in said.err
    assert "hf://org/second@main" in said.err
    assert "fetch it once: diffgraph pull two.yaml" in said.err
    assert server.count() == 0
    assert hub("check", "two.yaml").code == 0
    server.requests.clear()
    said = hub("run", "two.yaml", "--offline", "--json")
    size = len(weights(3))
    for name in ("linear", "second"):
        assert f"hf://org/{name}/model.safetensors ({size} bytes)" in said.data["errors"][0]["message"]
    assert server.count() == 0
    write("line.yaml", graph())
    assert hub("pull", "line.yaml").code == 0
    said = hub("run", "two.yaml", "--offline")
    assert "org/linear" not in said.err
    assert f"hf://org/second/model.safetensors ({size} bytes)" in said.err


def test_what_a_cached_and_what_a_branch_costs(server: HubServer, hub: Command) -> None:
    commit = server.repositories["org/linear"].branches["main"]
    write("pinned.yaml", graph(f"hf://org/linear@{commit}"))
    write("branch.yaml", graph())
    assert hub("run", "pinned.yaml").code == hub("run", "branch.yaml").code == 0
    server.requests.clear()
    assert hub("run", "pinned.yaml", "--no-cache").code == 0
    assert server.count() == 0
    assert hub("run", "branch.yaml", "--no-cache").code == 0
    assert server.count() == 1
    assert json.loads(hub("pull", "branch.yaml", "--json").out) == {
        "addresses": {"hf://org/linear": commit},
        "bytes": 0,
    }
