"""Commands on graphs and weights of a Hub: the real client against a real server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffgraph.builder import Graph
from diffgraph.weights import hub as hub_module

from ..hub import graph, linear, users_hub, weights
from ..hub_server import HubServer
from .conftest import Command, Said, write

DOUBLE = """
    diffgraph: 1
    name: double
    nodes:
      line: {graph: GRAPH, scale: 2.0}
    outputs: {norm: $line.norm}
"""


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with users_hub(folder.parent, monkeypatch) as running:
        running.commit("org/linear", linear(3))
        yield running


@pytest.fixture
def hub(server: HubServer, dg: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `diffgraph ARGUMENTS...` as a new process would: with nothing resolved yet."""

    def run(*arguments: str | Path) -> Said:
        hub_module.default_hub.cache_clear()
        with monkeypatch.context() as patch:
            patch.delenv("HF_HUB_OFFLINE", raising=False)
            return dg(*arguments)

    return run


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
