"""Locks: written beside a graph, used and verified by every run, moved on only where asked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffgraph.builder import Graph
from diffgraph.errors import InputError, LockError
from diffgraph.registry import registry
from diffgraph.session import Options

from ..hub import CONFIG, graph, linear, weights
from ..hub_server import HubServer
from .conftest import Command, write


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(path: str = "line.yaml.lock") -> Any:
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def local(folder: str, value: float) -> None:
    """A folder of weights beside the graph."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in linear(value).items():
        if "/" not in name:
            (Path(folder) / name).write_bytes(content)


def test_a_lock_says_what_a_graph_runs_with(server: HubServer, hub: Command) -> None:
    commit = server.repositories["org/linear"].branches["main"]
    write("line.yaml", graph())
    said = hub("lock", "line.yaml")
    assert said.code == 0, said.err
    assert said.out.startswith("line.yaml.lock: 1 address, 2 files of ")
    assert server.count("GET /large") == 0  # weights are known by the Hub's own list
    found = read()
    assert found.pop("diffgraph")
    assert found == {
        "lock": 1,
        "nodes": {"arith.Linear": 1, "arith.Multiply": 1},
        "weights": [
            {
                "address": "hf://org/linear",
                "commit": commit,
                "files": [
                    {"path": "config.json", "size": len(CONFIG), "sha256": digest(CONFIG)},
                    {"path": "model.safetensors", "size": len(weights(3)), "sha256": digest(weights(3))},
                ],
            }
        ],
    }
    text = Path("line.yaml.lock").read_text()
    assert text.startswith("# ")
    assert hub("lock", "line.yaml").out.startswith("nothing changed\n")
    assert Path("line.yaml.lock").read_text() == text


def test_a_run_with_a_lock_stays_where_it_is(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph())
    assert hub("lock", "line.yaml").code == 0
    server.commit("org/linear", linear(100))
    assert hub("run", "line.yaml").out == '{"norm": 6.0}\n'
    assert hub("plan", "line.yaml").code == hub("check", "line.yaml").code == 0
    assert Graph.load("line.yaml")().norm == 6.0
    server.requests.clear()
    assert hub("run", "line.yaml", "--no-cache").out == '{"norm": 6.0}\n'
    assert server.count() == 0  # pinned and cached
    Path("line.yaml.lock").unlink()
    assert hub("run", "line.yaml").out == '{"norm": 200.0}\n'


def test_upgrade_moves_on_and_says_what_changed(server: HubServer, hub: Command) -> None:
    server.commit("org/other", linear(1))
    old = server.repositories["org/linear"].branches["main"]
    other = "  other: {node: arith.Linear, weights: hf://org/other}\n  more: {call: $other.norm}\n"
    two = graph().replace("  norm:", other + "  norm:").replace("outputs: {", "outputs: {more: $more, ")
    write("line.yaml", two)
    assert hub("lock", "line.yaml").code == 0
    new = server.commit("org/linear", {**linear(5), "maker.json": b'{"name": "x"}'})
    server.commit("org/other", linear(2))
    assert hub("lock", "line.yaml").out.startswith("nothing changed\n")
    said = hub("lock", "line.yaml", "--upgrade", "org/linear")
    assert said.lines[:-1] == [
        f"hf://org/linear: commit {old[:12]} -> {new[:12]}",
        "hf://org/linear: added maker.json",
        f"hf://org/linear: model.safetensors {digest(weights(3))[:12]} -> {digest(weights(5))[:12]}",
    ]
    assert hub("run", "line.yaml").out == '{"more": 2.0}\n{"norm": 10.0}\n'
    said = hub("lock", "--upgrade", "line.yaml", "--json")
    assert len(said.data["changes"]) == 2
    assert all(line.startswith("hf://org/other") for line in said.data["changes"])


def test_names_to_upgrade(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph())
    assert hub("lock", "line.yaml").code == 0
    assert "did you mean hf://org/linear?" in hub("lock", "line.yaml", "--upgrade", "hf://org/linea").err
    assert "names are for --upgrade" in hub("lock", "line.yaml", "org/linear").err
    assert hub("lock", "line.yaml", "--upgrade", "arith.Linear").out.startswith("nothing changed")


def test_a_file_that_differs_is_refused(server: HubServer, hub: Command, folder: Path) -> None:
    write("line.yaml", graph("parts/line"))
    local("parts/line", 3)
    assert hub("lock", "line.yaml").code == 0
    assert [entry["address"] for entry in read()["weights"]] == ["."]
    assert str(folder) not in Path("line.yaml.lock").read_text()
    assert hub("run", "line.yaml").out == '{"norm": 6.0}\n'
    Path("parts/line/model.safetensors").write_bytes(weights(4))
    for command in ("run", "plan", "lock"):
        said = hub(command, "line.yaml")
        assert said.code == 2, said.out
        assert "parts/line/model.safetensors differs from line.yaml.lock" in said.err
        assert digest(weights(3)) in said.err
        assert digest(weights(4)) in said.err
        assert "diffgraph lock line.yaml --upgrade" in said.err
    with pytest.raises(LockError):
        Graph.load("line.yaml")()
    assert hub("lock", "line.yaml", "--upgrade").lines[0].startswith(".: parts/line/model.safetensors ")
    assert hub("run", "line.yaml").out == '{"norm": 8.0}\n'


def test_a_file_of_the_cache_that_was_changed_is_refused(server: HubServer, hub: Command, folder: Path) -> None:
    write("line.yaml", graph())
    assert hub("lock", "line.yaml").code == hub("pull", "line.yaml").code == 0
    (place,) = (folder.parent / "hf").rglob("model.safetensors")
    changed = weights(3).replace(b"pt", b"tp")
    place.resolve().write_bytes(changed)
    for command in ("run", "pull"):
        said = hub(command, "line.yaml")
        assert said.code != 0
        assert "hf://org/linear/model.safetensors differs from line.yaml.lock" in said.err
        assert digest(changed) in said.err


def test_a_commit_that_holds_something_else_is_refused(server: HubServer, hub: Command, folder: Path) -> None:
    """A Hub that lies: the same commit, another file."""
    write("line.yaml", graph())
    assert hub("lock", "line.yaml").code == 0
    commit = read()["weights"][0]["commit"]
    server.repositories["org/linear"].commits[commit]["model.safetensors"] = weights(9)
    shutil.rmtree(folder.parent / "hf")
    shutil.rmtree(folder.parent / "cache" / "hub")
    said = hub("run", "line.yaml")
    assert said.code == 2
    assert "hf://org/linear/model.safetensors differs from line.yaml.lock" in said.err
    assert digest(weights(9)) in said.err
    assert server.count("GET /large") == 0


def test_locked_refuses_without_a_lock(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph())
    for command in ("run", "plan"):
        said = hub(command, "line.yaml", "--locked")
        assert said.code == 2
        assert "there is no lock beside line.yaml" in said.err
        assert "diffgraph lock line.yaml" in said.err
    assert hub("lock", "line.yaml").code == 0
    assert hub("run", "line.yaml", "--locked").out == '{"norm": 6.0}\n'
    with pytest.raises(InputError, match="there is no lock"):
        Graph.load(write("other.yaml", graph()))(options=Options(locked=True))


def test_what_the_lock_does_not_know(server: HubServer, hub: Command) -> None:
    server.commit("org/other", linear(1))
    text = graph("$weights").replace("inputs:\n", "inputs:\n  weights: {type: weights, default: hf://org/linear}\n")
    write("line.yaml", text + "variants: {plain: {}, other: {weights: hf://org/other}}\n")
    assert hub("lock", "line.yaml", "--variant", "plain").code == 0
    assert hub("run", "line.yaml").code == 0
    said = hub("run", "line.yaml", "--variant", "other")
    assert "hf://org/other is not in line.yaml.lock" in said.err
    assert "add it: diffgraph lock line.yaml" in said.err
    assert hub("run", "line.yaml", "--weights", "hf://org/other").out == '{"norm": 2.0}\n'  # the user's own choice
    assert "is not in line.yaml.lock" in hub("run", "line.yaml", "--weights", "hf://org/other", "--locked").err
    assert hub("lock", "line.yaml", "--variant", "other").lines[0] == "added hf://org/other"
    assert [entry["address"] for entry in read()["weights"]] == ["hf://org/linear", "hf://org/other"]
    assert hub("run", "line.yaml", "--variant", "other").out == '{"norm": 2.0}\n'
    assert hub("run", "line.yaml").code == 0
    Path("line.yaml.lock").unlink()
    assert hub("lock", "line.yaml").code == 0  # all variants
    assert len(read()["weights"]) == 2


def test_a_file_that_is_not_in_the_lock(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph("parts/line"))
    local("parts/line", 3)
    assert hub("lock", "line.yaml").code == 0
    Path("parts/line/maker.json").write_text('{"name": "x"}')
    assert "parts/line/maker.json is not in line.yaml.lock" in hub("run", "line.yaml").err


def test_a_node_of_another_version(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph())
    assert hub("lock", "line.yaml").code == 0
    lock = Path("line.yaml.lock")
    lock.write_text(lock.read_text().replace("arith.Linear: 1", "arith.Linear: 7"))
    for command in ("run", "lock"):
        said = hub(command, "line.yaml")
        assert said.code == 2
        assert "arith.Linear is version 1 here, and 7 in line.yaml.lock" in said.err
        assert "diffgraph lock line.yaml --upgrade arith.Linear" in said.err
    assert hub("lock", "line.yaml", "--upgrade", "arith.Linear").lines[0] == "arith.Linear: version 7 -> 1"
    assert hub("run", "line.yaml").code == 0


def test_packages_and_folders_of_the_user(server: HubServer, hub: Command, folder: Path) -> None:
    text = graph("$weights").replace("inputs:\n", "inputs:\n  weights: {type: weights}\n")
    write("docs/line.yaml", text)
    local(str(folder.parent / "mine"), 2)
    assert hub("lock", "docs/line.yaml", "--weights", str(folder.parent / "mine")).code == 0
    (entry,) = read("docs/line.yaml.lock")["weights"]
    assert entry["address"] == str(folder.parent / "mine")
    assert "commit" not in entry
    assert hub("run", "docs/line.yaml", "--weights", "../mine").out == '{"norm": 4.0}\n'
    (folder.parent / "mine" / "model.safetensors").write_bytes(weights(5))
    assert "differs from docs/line.yaml.lock" in hub("run", "docs/line.yaml", "--weights", "../mine").err
    assert hub("graphs", "--copy", "ddpm").code == 0
    assert hub("lock", "ddpm.yaml", "--variant", "demo").code == 0
    assert [one["address"] for one in read("ddpm.yaml.lock")["weights"]] == ["pkg://diffgraph"]


def test_where_no_lock_can_lie(server: HubServer, hub: Command) -> None:
    server.commit("me/one", {"line.yaml": graph().encode()})
    assert "diffgraph graphs --copy ddpm" in hub("lock", "ddpm").err
    assert "hf://org/repo@COMMIT" in hub("lock", "hf://me/one").err


def test_the_lock_of_a_graph_on_the_hub(server: HubServer, hub: Command) -> None:
    write("graphs/line.yaml", graph())
    write("graphs/own.yaml", graph("parts/line"))
    local("graphs/parts/line", 2)
    assert hub("lock", "graphs/line.yaml").code == hub("lock", "graphs/own.yaml").code == 0
    names = ("line.yaml", "line.yaml.lock", "own.yaml", "own.yaml.lock", "parts/line/config.json")
    files = {f"graphs/{name}": Path("graphs", name).read_bytes() for name in names}
    files["graphs/parts/line/model.safetensors"] = weights(2)
    server.commit("me/graphs", files)
    server.commit("org/linear", linear(50))
    assert hub("run", "hf://me/graphs/graphs/line.yaml", "--locked").out == '{"norm": 6.0}\n'
    assert hub("run", "hf://me/graphs/graphs/own.yaml", "--locked").out == '{"norm": 4.0}\n'
    server.commit("me/graphs", {**files, "graphs/parts/line/model.safetensors": weights(8)})
    said = hub("run", "hf://me/graphs/graphs/own.yaml")
    assert "parts/line/model.safetensors differs from hf://me/graphs/graphs/own.yaml.lock" in said.err


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "lock: 2\ndiffgraph: '1'\nnodes: {}\nweights: []", "lock: 1", "{",
        "lock: 1\ndiffgraph: '1'\nnodes: []\nweights: []",
        "lock: 1\ndiffgraph: '1'\nnodes: {}\nweights: [1]",
        "lock: 1\ndiffgraph: '1'\nnodes: {}\nweights: [{address: hf://a/b, files: []}]",
        "lock: 1\ndiffgraph: '1'\nnodes: {}\nweights: [{address: hf://a/b, commit: main, files: []}]",
        "lock: 1\ndiffgraph: '1'\nnodes: {}\nweights: [{address: ., files: [{path: a}]}]",
        "lock: 1\ndiffgraph: '1'\nnodes: {}\nweights: [{address: ., files: [{path: a, size: b, sha256: c}]}]",
        "lock: 1\ndiffgraph: '1'\nnodes: {}\nweights: []\nmore: 1",
        "lock: 1\ndiffgraph: !!python/object:os.system '1'\nnodes: {}\nweights: []",
    ],
)  # fmt: skip
def test_a_damaged_lock(server: HubServer, hub: Command, text: str) -> None:
    write("line.yaml", graph())
    Path("line.yaml.lock").write_text(text)
    said = hub("run", "line.yaml")
    assert said.code == 2
    assert "line.yaml.lock" in said.err
    assert "fault of diffgraph" not in said.err
    assert server.count() == 0


def test_verified_once_and_then_remembered(server: HubServer, hub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    write("line.yaml", graph("parts/line"))
    local("parts/line", 3)
    old = time.time() - 60
    for path in Path("parts/line").iterdir():
        os.utime(path, (old, old))
    time.sleep(0.06)
    assert hub("lock", "line.yaml").code == 0
    hashed: list[str] = []
    real = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(file.name)
        return real(file, name)

    monkeypatch.setattr("hashlib.file_digest", counted)
    for _ in range(2):
        assert hub("run", "line.yaml", "--no-cache").code == 0
    assert hashed == []
    Path("parts/line/model.safetensors").touch()
    assert hub("run", "line.yaml", "--no-cache").code == 0
    assert [Path(name).name for name in set(hashed)] == ["model.safetensors"]


def test_a_lock_holds_no_secret_and_is_json_clean(server: HubServer, hub: Command) -> None:
    secret = "inputs:\n  pin: {type: text, default: swordfish, secret: true}\n"
    text = graph().replace("inputs:\n", secret).replace("  norm:", "  size: {node: arith.Length, text: $pin}\n  norm:")
    write("line.yaml", text.replace("outputs: {", "outputs: {size: $size, "))
    said = hub("lock", "line.yaml", "--json")
    assert json.loads(said.out)["addresses"] == ["hf://org/linear"]
    text = Path("line.yaml.lock").read_text()
    assert "swordfish" not in text
    assert "hf_nobody" not in text
    assert re.fullmatch(r"[\x20-\x7e\n]+", text)
    assert registry().nodes["arith.Linear"].version == 1
