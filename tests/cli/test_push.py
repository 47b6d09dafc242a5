"""Sharing: a graph and parts on the Hub, with a card; and what is never sent."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from diffgraph.errors import HubError
from diffgraph.registry import registry
from diffgraph.weights import hub as hub_module

from ..hub import graph, linear, weights
from ..hub_server import TOKEN, HubServer
from .conftest import PICTURE, Command, write

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # how huggingface_hub calls httpx
CARD = b"---\nlicense: apache-2.0\n---\n# linear\n"


def pushed(server: HubServer, name: str = "me/shared") -> dict[str, bytes]:
    """The files of a repository."""
    repository = server.repositories[name]
    return repository.commits[repository.branches["main"]]


def front(card: bytes) -> dict[str, object]:
    return yaml.safe_load(card.decode().split("---\n")[1])


def local(folder: Path, value: float) -> None:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / name).write_bytes(linear(value)[name])


def test_a_pushed_graph_runs_by_its_address(server: HubServer, hub: Command) -> None:
    server.commit("org/linear", {**linear(3), "README.md": CARD})
    double = "diffgraph: 1\nname: double\nsummary: Twice | a *norm*\ninputs:\n  factor: {type: float, default: 2.0, help: how often}\n"
    double += "nodes: {line: {graph: parts/line.yaml, scale: $factor}}\noutputs: {norm: $line.norm}\n"
    write("double.yaml", double)
    write("parts/line.yaml", graph())
    write("parts/notes.txt", "mine")
    said = hub("push", "double.yaml", "me/shared", "--factor", "3")
    assert said.code == 0, said.err
    assert said.out == f"{server.endpoint}/me/shared\n"
    files = pushed(server)
    assert set(files) == {
        ".gitattributes", "README.md", "double.yaml", "double.yaml.lock", "graph.png", "parts/line.yaml",
    }  # fmt: skip
    assert files["double.yaml"] == Path("double.yaml").read_bytes()
    assert front(files["README.md"]) == {
        "license": "apache-2.0", "library_name": "diffgraph", "tags": ["diffgraph"], "base_model": ["org/linear"],
    }  # fmt: skip
    card = files["README.md"].decode()
    assert "Twice \\| a \\*norm\\*" in card
    assert "diffgraph run hf://me/shared --factor 3" in card
    assert "| `factor` | float | `2.0` | how often |" in card
    assert "![the graph](graph.png)" in card
    assert Image.open(BytesIO(files["graph.png"])).format == "PNG"
    server.commit("org/linear", linear(50))
    assert hub("run", "hf://me/shared", "--locked").out == '{"norm": 12.0}\n'
    assert hub("push", "double.yaml", "me/shared").code == 0  # again, into what is there


def test_dry_run_shows_all_and_sends_nothing(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph())
    said = hub("push", "line.yaml", "me/shared", "--dry-run")
    assert said.code == 0, said.err
    for name in ("README.md", "line.yaml", "line.yaml.lock", "graph.png"):
        assert f"{name}  " in said.out
    assert "library_name: diffgraph" in said.out
    assert "nothing was sent" in said.out
    assert "the card names no licence" in said.err
    assert server.count("POST") == server.count("PUT") == 0
    data = json.loads(hub("push", "line.yaml", "me/shared", "--dry-run", "--json", "--licence", "mit").out)
    assert front(data["card"].encode())["license"] == "mit"
    assert data["commit"] is None
    assert "me/shared" not in server.repositories


def test_weights_in_local_folders(server: HubServer, hub: Command, folder: Path) -> None:
    write("line.yaml", graph("parts/line"))
    local(Path("parts/line"), 4)
    said = hub("push", "line.yaml", "me/shared")
    assert said.code == 2
    assert "weights in folders on this machine" in said.err
    assert "parts/line" in said.err
    assert "--with-weights" in said.err
    assert server.count("POST") == 0
    assert hub("push", "line.yaml", "me/shared", "--with-weights").code == 0
    files = pushed(server)
    assert files["parts/line/model.safetensors"] == weights(4)
    assert "parts/line/README.md" not in files
    assert "in this repository" in files["README.md"].decode()
    assert hub("run", "hf://me/shared", "--locked").out == '{"norm": 8.0}\n'


def test_weights_that_the_user_named_are_rewritten(server: HubServer, hub: Command, folder: Path) -> None:
    text = graph("$weights/line").replace("inputs:\n", "inputs:\n  weights: {type: weights}\n")
    write("line.yaml", text + "variants: {small: {scale: 2.0}, large: {scale: 3.0}}\n")
    local(folder.parent / "mine" / "line", 5)
    given = ("--weights", str(folder.parent / "mine"))
    assert hub("push", "line.yaml", "me/shared", *given).code == 2
    said = hub("push", "line.yaml", "me/shared", "--with-weights", *given)
    assert said.code == 0, said.err
    files = pushed(server)
    assert files["weights/weights/line/model.safetensors"] == weights(5)
    for name, content in files.items():
        assert str(folder.parent).encode() not in content, name
    assert hub("run", "hf://me/shared", "--locked").out == '{"norm": 20.0}\n'
    said = hub("push", "line.yaml", "me/hub", "--weights", "hf://org")
    assert said.code == 2
    server.commit("org/all", {f"line/{name}": content for name, content in linear(1).items()})
    assert hub("push", "line.yaml", "me/hub", "--weights", "hf://org/all").code == 0
    assert hub("run", "hf://me/hub").out == '{"norm": 4.0}\n'


def test_a_picture_on_the_card(server: HubServer, hub: Command, folder: Path) -> None:
    write("dots.yaml", PICTURE)
    assert hub("run", "dots.yaml", "--seed", "3", "-o", "mine.png").code == 0
    for arguments in (("--seed", "3"), ("--sample", "mine.png", "--seed", "3")):
        said = hub("push", "dots.yaml", "me/dots", *arguments)
        assert said.code == 0, said.err
        files = pushed(server, "me/dots")
        assert front(files["README.md"])["pipeline_tag"] == "unconditional-image-generation"
        assert "![dots](sample.png)" in files["README.md"].decode()
        assert "diffgraph run hf://me/dots --seed 3" in files["README.md"].decode()
        picture = Image.open(BytesIO(files["sample.png"]))
        assert not picture.info
        assert picture.tobytes() == Image.open("mine.png").tobytes()
    assert "sample.png" not in hub("push", "dots.yaml", "me/dots", "--no-sample", "--dry-run").out
    write("text.png", "no picture")
    assert "the sample is no picture" in hub("push", "dots.yaml", "me/dots", "--sample", "text.png").err


SECRET = """
    diffgraph: 1
    name: secret
    inputs:
      pin: {type: text, secret: trueDEFAULT}
      word: {type: text, default: WORD}
    nodes:
      a: {node: arith.Length, text: $pin}
      b: {node: arith.Upper, text: $word}
    outputs: {a: $a, b: $b}
"""


def test_what_is_never_sent(server: HubServer, hub: Command, folder: Path) -> None:
    def said(default: str, word: str, *arguments: str) -> str:
        write("secret.yaml", SECRET.replace("DEFAULT", default).replace("WORD", word))
        done = hub("push", "secret.yaml", "me/secret", *arguments)
        assert done.code == 2, done.out
        assert "swordfish" not in done.err
        assert TOKEN not in done.err
        return done.err

    assert "the input pin is secret, and the document holds a value of it" in said(", default: swordfish", "x")
    assert "secret.yaml:5 holds a token or a secret value" in said("", "swordfish", "--pin", "swordfish")
    assert "holds a token or a secret value" in said("", TOKEN, "--pin", "zebra99")
    assert "holds a token or a secret value" in said("", "hf_" + "a" * 30, "--pin", "zebra99")
    assert "secret.yaml:5 holds a folder of this machine" in said("", str(folder), "--pin", "zebra99")
    assert server.count("POST") == 0
    write("secret.yaml", SECRET.replace("DEFAULT", "").replace("WORD", "fine"))
    assert hub("push", "secret.yaml", "me/secret", "--pin", "swordfish", "--word", "a b").code == 0
    files = pushed(server, "me/secret")
    assert not any(b"swordfish" in content or TOKEN.encode() in content for content in files.values())
    assert "| `pin` | text | secret |" in files["README.md"].decode()
    assert "diffgraph run hf://me/secret --word 'a b'" in files["README.md"].decode()


def test_a_config_that_names_a_folder(server: HubServer, hub: Command, folder: Path) -> None:
    write("line.yaml", graph("parts/line"))
    local(Path("parts/line"), 4)
    config = {"in_features": 2, "out_features": 2, "dtype": f"{folder}/x"}
    Path("parts/line/config.json").write_text(json.dumps(config))
    said = hub("push", "line.yaml", "me/shared", "--with-weights")
    assert said.code == 2
    assert "parts/line/config.json:1 holds a folder of this machine" in said.err


def test_what_cannot_be_pushed(server: HubServer, hub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    write("line.yaml", graph())
    assert "names more than a repository" in hub("push", "line.yaml", "me/shared/sub").err
    assert "no repository is named" in hub("push", "line.yaml", "shared").err
    assert hub("pull", "line.yaml").code == 0
    assert "offline, nothing is sent" in hub("push", "line.yaml", "me/shared", "--offline").err
    assert "what is pushed is the document" in hub("push", "line.yaml", "me/x", "--set", "norm.a=1").err
    server.commit("me/one", {"line.yaml": graph().encode()})
    assert "only a document on this machine is pushed" in hub("push", "hf://me/one", "me/two").err
    made = hub_module.Hub(endpoint=server.endpoint, cache_dir=Path("hf"), token="hf_nobody")
    monkeypatch.setattr(hub_module, "default_hub", lambda: made)
    monkeypatch.setattr(made, "snapshot", made.snapshot)
    cleared = hub_module.default_hub
    cleared.cache_clear = lambda: None  # type: ignore[attr-defined]
    said = hub("push", "line.yaml", "me/shared")
    assert said.code == 2
    assert "log in: hf auth login" in said.err


def test_push_of_a_part(server: HubServer, hub: Command) -> None:
    kind = registry().nodes["arith.Linear"].load()
    part = kind.from_pretrained("org/linear")
    commit = part.push_to_hub("me/part", licence="mit", private=True)
    files = pushed(server, "me/part")
    assert server.repositories["me/part"].branches["main"] == commit
    assert server.repositories["me/part"].private
    assert front(files["README.md"]) == {"license": "mit", "library_name": "diffgraph", "tags": ["diffgraph"]}
    again = kind.from_pretrained("me/part", revision=commit)
    assert torch.equal(again.weight, part.weight)
    server.fault("status", match="POST .*commit", status=500, times=9)
    with pytest.raises(HubError, match="status 500"):
        part.push_to_hub("me/part")
