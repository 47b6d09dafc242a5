"""Documents of this machine that include graphs of the Hub by address: checked, run, locked, pulled, offline."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffgraph.builder import Graph

from ..hub import graph, linear, weights
from ..hub_server import HubServer
from .conftest import Command, write
from .test_hub_commands import double

FILES = {"graphs/line.yaml": graph("parts/two").encode(), "graphs/double.yaml": double("line.yaml")}
FILES |= {f"graphs/parts/two/{name}": content for name, content in linear(2).items()}


@pytest.fixture
def commit(server: HubServer) -> str:
    """A repository whose graph includes another of it, with weights of its own."""
    return server.commit("org/lines", FILES)


def outer(address: str = "hf://org/lines/graphs/double.yaml") -> Path:
    return write("outer.yaml", double(address).decode().replace(", scale: 2.0", ""))


def lock() -> Any:
    return yaml.safe_load(Path("outer.yaml.lock").read_text(encoding="utf-8"))


def moved(server: HubServer) -> str:
    """Moves the branch: another factor, other weights."""
    changed = FILES["graphs/double.yaml"].replace(b"2.0", b"7.0")
    return server.commit(
        "org/lines", {**FILES, "graphs/double.yaml": changed, "graphs/parts/two/model.safetensors": weights(1)}
    )


@pytest.mark.parametrize("revision", ["", "@main", "@COMMIT"])
def test_checked_and_run(server: HubServer, hub: Command, commit: str, revision: str) -> None:
    outer(f"hf://org/lines{revision.replace('COMMIT', commit)}/graphs/double.yaml")
    assert hub("check", "outer.yaml").out == "outer.yaml: no mistakes in 3 documents\n"
    said = hub("run", "outer.yaml")
    assert said.out == '{"norm": 8.0}\n', said.err
    assert "line.line.linear" in hub("plan", "outer.yaml").out
    assert Graph.load("outer.yaml")().norm == 8.0
    server.requests.clear()
    assert hub("run", "outer.yaml").code == 0
    assert server.count() == (0 if "COMMIT" in revision else 1)


def test_an_address_is_handed_to_it(server: HubServer, hub: Command, commit: str, folder: Path) -> None:
    """A relative address of this document means a folder beside this document, not one of the repository."""
    text = graph("$weights").replace("inputs:\n", "inputs:\n  weights: {type: weights}\n")
    server.commit("org/lines", {"line.yaml": text.encode(), **{f"mine/{n}": c for n, c in linear(50).items()}})
    Path("mine").mkdir()
    for name in ("config.json", "model.safetensors"):
        Path("mine", name).write_bytes(linear(4)[name])
    write("outer.yaml", double("hf://org/lines/line.yaml").decode().replace("scale: 2.0", "weights: mine"))
    assert hub("run", "outer.yaml").out == '{"norm": 8.0}\n'


def test_locked_it_stays(server: HubServer, hub: Command, commit: str) -> None:
    outer()
    said = hub("lock", "outer.yaml")
    assert said.code == 0, said.err
    documents, parts = lock()["weights"]
    assert (documents["address"], documents["commit"]) == ("hf://org/lines", commit)
    assert [file["path"] for file in documents["files"]] == ["graphs/double.yaml", "graphs/line.yaml"]
    assert documents["files"][0]["sha256"] == hashlib.sha256(FILES["graphs/double.yaml"]).hexdigest()
    assert parts["address"] == f"hf://org/lines@{commit}"
    new = moved(server)
    assert hub("run", "outer.yaml", "--locked").out == '{"norm": 8.0}\n'
    assert Graph.load("outer.yaml")().norm == 8.0
    assert hub("lock", "outer.yaml").out.startswith("nothing changed\n")
    assert hub("run", "outer.yaml", "--no-lock").out == '{"norm": 14.0}\n'
    for name in ((), ("org/lines",), ("hf://org/lines",)):
        saved = Path("outer.yaml.lock").read_bytes()
        lines = hub("lock", "outer.yaml", "--upgrade", *name).lines
        assert f"hf://org/lines: commit {commit[:12]} -> {new[:12]}" in lines
        assert any(line.startswith("hf://org/lines: graphs/double.yaml ") for line in lines)
        assert hub("run", "outer.yaml").out == '{"norm": 14.0}\n'
        Path("outer.yaml.lock").write_bytes(saved)


def test_a_document_that_differs_is_refused(server: HubServer, hub: Command, commit: str, folder: Path) -> None:
    """A Hub that lies: the same commit, another document."""
    outer()
    assert hub("lock", "outer.yaml").code == 0
    server.repositories["org/lines"].commits[commit]["graphs/double.yaml"] += b"# more\n"
    for place in (folder.parent / "hf", folder.parent / "cache" / "hub"):
        shutil.rmtree(place)
    for command in ("run", "plan", "pull", "lock"):
        said = hub(command, "outer.yaml")
        assert said.code == 2, said.out
        assert "hf://org/lines/graphs/double.yaml differs from outer.yaml.lock" in said.err


def test_pulled_it_runs_offline_without_a_request(server: HubServer, hub: Command, commit: str) -> None:
    outer()
    assert hub("pull", "outer.yaml").code == 0
    server.requests.clear()
    assert hub("run", "outer.yaml", "--offline").out == '{"norm": 8.0}\n'
    assert hub("check", "outer.yaml", "--offline").code == 0
    assert hub("lock", "outer.yaml", "--offline").code == 0
    assert hub("run", "outer.yaml", "--no-cache").out == '{"norm": 8.0}\n'  # a lock, and all is here
    assert server.count() == 0
    server.stop()
    assert hub("run", "outer.yaml", "--offline", "--no-cache").out == '{"norm": 8.0}\n'


def test_offline_it_is_told_what_is_missing(server: HubServer, hub: Command, commit: str) -> None:
    outer()
    for name in ("run", "check", "plan", "pull", "lock"):
        said = hub(name, "outer.yaml", "--offline")
        assert said.code == 2
        assert said.err == (
            "diffgraph: offline, and not on this machine:\n"
            "  hf://org/lines@main\n"
            "  fetch it once: diffgraph pull outer.yaml\n"
        )
    assert server.count() == 0
    assert hub("pull", "outer.yaml").code == 0
    assert hub("run", "outer.yaml", "--offline").code == 0


def test_offline_what_is_missing_is_told_together(server: HubServer, hub: Command, commit: str, folder: Path) -> None:
    """A document that one here includes, one that a document of the Hub includes, and weights of a graph in a graph."""
    write("near.yaml", graph())
    nodes = "near: {graph: near.yaml}, far: {graph: hf://org/lines/graphs/double.yaml}"
    outputs = "near: $near.norm, far: $far.norm"
    write("outer.yaml", f"diffgraph: 1\nnodes: {{{nodes}}}\noutputs: {{{outputs}}}\n")
    assert hub("check", "outer.yaml").code == 0
    (folder.parent / "hf" / "models--org--lines" / "snapshots" / commit / "graphs" / "line.yaml").unlink()
    nodes += ", other: {graph: hf://org/others/line.yaml}"
    write("outer.yaml", f"diffgraph: 1\nnodes: {{{nodes}}}\noutputs: {{{outputs}, other: $other.norm}}\n")
    assert hub("run", "outer.yaml", "--offline").err == (
        "diffgraph: offline, and not on this machine:\n"
        f"  hf://org/lines/graphs/line.yaml ({len(FILES['graphs/line.yaml'])} bytes)\n"
        "  hf://org/others@main\n"
        f"  hf://org/linear/model.safetensors ({len(weights(3))} bytes)\n"
        "  fetch it once: diffgraph pull outer.yaml\n"
    )


def test_a_graph_by_address_that_is_missing_offline(server: HubServer, hub: Command, commit: str) -> None:
    said = hub("run", "hf://org/lines/graphs/double.yaml", "--offline", "--scale", "2")
    assert said.code == 2
    assert said.err == (
        "diffgraph: offline, and not on this machine:\n"
        "  hf://org/lines@main\n"
        "  fetch it once: diffgraph pull hf://org/lines/graphs/double.yaml\n"
    )
    assert server.count() == 0


def test_a_picture_carries_them(server: HubServer, hub: Command, folder: Path) -> None:
    from .test_pictures import bundle
    from .test_provenance import TINTED

    text = TINTED.replace("WEIGHTS", "parts/two").replace("\n    ", "\n").lstrip()
    server.commit("org/lines", {**FILES, "graphs/tinted.yaml": text.encode()})
    write(
        "outer.yaml",
        """
        diffgraph: 1
        name: outer
        nodes: {made: {graph: hf://org/lines/graphs/tinted.yaml, seed: 4, weights: hf://org/linear}}
        outputs: {image: $made.image}
        """,
    )
    assert hub("run", "outer.yaml", "-o", "a.png").code == 0
    assert list(bundle("a.png")["documents"]) == [
        "hf://org/lines/graphs/tinted.yaml", "outer.yaml", "outer.yaml.lock",
    ]  # fmt: skip
    server.commit("org/lines", {"gone": b""})
    server.commit("org/linear", linear(1))
    Path("outer.yaml").unlink()
    for name in ("hf", "cache/hub", "cache/results"):
        shutil.rmtree(folder.parent / name)
    said = hub("run", "a.png", "-o", "b.png")
    assert said.code == 0, said.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://org/lines", "names no document"),
        ("hf://org/lines/graphs", "names no document"),
        ("hf://org/lines/../x.yaml", "cannot be part of a path"),
        ("hf://org/none/x.yaml", "there is no such repository"),
        ("hf://org/lines/graphs/lime.yaml", "did you mean line.yaml?"),
        ("https://huggingface.co/org/lines/x.yaml", "only files beside the document, pkg:// and hf:// can be included"),
    ],
)
def test_what_cannot_be_included(server: HubServer, hub: Command, commit: str, address: str, message: str) -> None:
    outer(address)
    said = hub("check", "outer.yaml")
    assert said.code == 2
    assert "outer.yaml:4:" in said.err or "hf://org/lines" in said.err
    assert message in said.err


def test_what_it_includes_stays_in_its_repository(server: HubServer, hub: Command) -> None:
    for address in ("hf://org/other/line.yaml", "../../outer.yaml", "/etc/x.yaml"):
        server.commit("org/lines", {"graphs/double.yaml": double(address)})
        outer()
        assert hub("check", "outer.yaml").code == 2
    server.commit("org/lines", {"graphs/double.yaml": graph("/etc").encode()})
    assert "a document names no absolute path" in hub("check", "outer.yaml").err


def test_pushed_it_could_not_be_run(server: HubServer, hub: Command, commit: str) -> None:
    outer()
    said = hub("push", "outer.yaml", "me/outer", "--no-sample")
    assert said.code == 2
    assert "outer.yaml includes hf://org/lines/graphs/double.yaml" in said.err
    assert "put a copy of that document below the folder of this one" in said.err
