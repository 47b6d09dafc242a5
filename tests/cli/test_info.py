"""`diffgraph info`: what made a picture, what a graph needs, and what an address holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffgraph import __version__

from ..hub import graph, linear, weights
from ..hub_server import HubServer
from .conftest import Command, write
from .test_hub_commands import double, fetched
from .test_pictures import bundle, picture
from .test_provenance import church, local, tinted


def plain(text: str) -> str:
    """A screen without its alignment."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


# --- pictures -------------------------------------------------------------------------------------------------------


def test_what_made_a_picture(server: HubServer, hub: Command) -> None:
    commit = server.repositories["org/linear"].branches["main"]
    hub("run", tinted(), "--variant", "other", "-o", "a.png")
    server.requests.clear()
    said = hub("info", "a.png")
    assert said.code == 0, said.err
    told = plain(said.out)
    assert told.startswith("a.png: tinted\n")
    for line in (
        "graph tinted.yaml", "variant other", "on cpu in float32", "again diffgraph run a.png", "seed 5",
        f"hf://org/linear 2 files {sum(map(len, (linear(3)['config.json'], weights(3))))} bytes at {commit[:12]}",
    ):  # fmt: skip
        assert line in told
    assert f"with arith 1.2, diffgraph {__version__}, torch" in told
    assert "arith.Linear 1" in told
    found = hub("info", "a.png", "--json").data
    assert (found["kind"], found["variant"], found["inputs"]["seed"]) == ("picture", "other", 5)
    assert found["weights"][0]["commit"] == commit
    assert {file["path"] for file in found["weights"][0]["files"]} == {"config.json", "model.safetensors"}
    assert found["differs"] == {}
    assert server.count() == 0


def test_what_a_picture_leaves_out_and_what_differs_here(server: HubServer, hub: Command) -> None:
    local("parts/line", 3)
    text = tinted("parts/line").read_text().replace("inputs:\n", "inputs:\n  pin: {type: text, secret: true}\n")
    text = text.replace("nodes:\n", "nodes:\n  size: {node: arith.Length, text: $pin}\n", 1)
    write("pinned.yaml", text.replace("outputs: {", "outputs: {size: $size, "))
    assert hub("run", "pinned.yaml", "--pin", "swordfish", "-o", "a.png").code == 0
    old = json.dumps(bundle("a.png")).replace("arith.Linear: 1", "arith.Linear: 7")
    said = hub("info", picture("b.png", old.replace("Rng: 1", "Gone: 1")))
    assert "pin to be given again: it is not in the picture" in plain(said.out)
    assert "swordfish" not in said.out
    assert "this folder 2 files" in plain(said.out)
    assert "arith.Linear is version 1 here, and 7 in the picture" in said.out
    assert "Gone is not installed here" in said.out


def test_a_picture_without_a_lock(dg: Command, folder: Path) -> None:
    text = "diffgraph: 1\nname: n\nnodes: {n: {node: arith.Add, a: 1}}\noutputs: {n: $n}\n"
    picture("a.png", json.dumps({"diffgraph": 1, "main": "m.yaml", "documents": {"m.yaml": text}, "inputs": {}}))
    assert "no lock: which weights made it is not known" in dg("info", "a.png").out
    picture("plain.png", "{}")
    assert dg("info", "plain.png").code == 2


def test_a_picture_does_not_command_the_terminal(dg: Command, folder: Path) -> None:
    text = 'diffgraph: 1\nname: "a\\e[31mb"\nsummary: "\\e]0;x\\a"\ninputs: {t: {type: text, default: ""}}\n'
    text += "nodes: {n: {node: arith.Length, text: $t}}\noutputs: {n: $n}\n"
    found = {"diffgraph": 1, "main": "m.yaml", "documents": {"m.yaml": text}, "inputs": {"t": "\x1b[2J" + "x" * 9999}}
    found["made"] = {"variant": "\x1b[1m", "versions": {"torch": "\x1b", "a": ["b"]}, "device": 1, "dtype": "y" * 99}
    said = dg("info", picture("a.png", json.dumps(found)))
    assert said.code == 0, said.err
    assert "\x1b" not in said.out
    assert "\a" not in said.out
    assert len(said.out) < 2000
    found = dg("info", "a.png", "--json").data
    assert (found["variant"], found["versions"], found["device"], found["dtype"]) == (None, {}, "", "")


# --- graphs ---------------------------------------------------------------------------------------------------------


def test_what_a_graph_needs(server: HubServer, hub: Command) -> None:
    commit = server.repositories["org/linear"].branches["main"]
    write("parts/line.yaml", graph())
    write("outer.yaml", double("parts/line.yaml").decode())
    said = hub("info", "outer.yaml")
    assert said.code == 0, said.err
    told = plain(said.out)
    assert "includes parts/line.yaml" in told
    assert f"hf://org/linear arith.Linear 2 files {len(linear(3)['config.json']) + len(weights(3))} bytes" in told
    assert f"to download: {len(weights(3))} bytes" in told
    assert "not locked; diffgraph lock outer.yaml" in told
    assert fetched(server) == ["config.json"]
    assert hub("lock", "outer.yaml").code == 0
    assert "locked by outer.yaml.lock: 2 files of" in hub("info", "outer.yaml").out
    found = hub("info", "outer.yaml", "--json").data
    assert (found["kind"], found["lock"]["addresses"]) == ("graph", ["hf://org/linear"])
    assert found["weights"][0]["commit"] == commit


def test_a_shipped_graph(dg: Command, folder: Path) -> None:
    told = plain(dg("info", "glide").out)
    for line in (
        "run diffgraph run glide", "prompt text what the picture shows [required]", "diffgraph graphs --copy glide",
        "demo weights: pkg://diffgraph/weights/glide-demo",
    ):  # fmt: skip
        assert line in told
    assert 'negative_prompt text what it does not show [default: ""]' in told
    assert "train diffgraph train train/ddpm" in plain(dg("info", "train/ddpm").out)


def test_weights_that_cannot_be_told(server: HubServer, hub: Command) -> None:
    write("line.yaml", graph("hf://org/none"))
    said = hub("info", "line.yaml")
    assert said.code == 0
    assert "its weights cannot be told:" in said.out
    assert "hf://org/none" in said.out
    assert "scale" in said.out
    assert hub("info", "nothing.yaml").code == 2
    server.requests.clear()
    assert "its weights cannot be told" in hub("info", "line.yaml", "--offline").out
    assert server.count() == 0


# --- addresses ------------------------------------------------------------------------------------------------------


def test_a_graph_of_the_hub(server: HubServer, hub: Command) -> None:
    commit = server.commit("me/one", {"line.yaml": graph().encode()})
    told = plain(hub("info", "hf://me/one").out)
    for line in ("holds a graph", f"commit {commit}", "run diffgraph run hf://me/one", "hf://org/linear arith.Linear"):
        assert line in told
    assert fetched(server) == ["config.json", "line.yaml"]


def test_parts_in_the_layout_of_diffusers(server: HubServer, hub: Command, folder: Path) -> None:
    files = church(folder.parent / "church")
    commit = server.commit("org/church", files)
    for address in ("hf://org/church", str(folder.parent / "church")):
        said = hub("info", address)
        assert said.code == 0, said.err
        told = plain(said.out)
        assert "holds parts of DDPMPipeline, in the layout of diffusers" in told
        assert "UNet2D 2 files" in told
        assert "DDPMScheduler 1 file" in told
        assert (f"commit {commit}" in told) == address.startswith("hf")
    assert server.count("large") == 0
    found = hub("info", "hf://org/church", "--json").data
    (network,) = (part for part in found["weights"] if part["type"] == "UNet2D")
    sizes = {file["path"]: file["size"] for file in network["files"]}
    assert sizes["diffusion_pytorch_model.safetensors"] == len(files["diffusion_pytorch_model.safetensors"])
    assert network["download"] == sizes["diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("where", ["hf://org/part", "part"])
def test_a_part_alone(server: HubServer, hub: Command, folder: Path, where: str) -> None:
    files = church(folder / "part")
    Path("part/model_index.json").unlink()
    commit = server.commit("org/part", {name: data for name, data in files.items() if name != "model_index.json"})
    said = hub("info", where)
    assert said.code == 0, said.err
    told = plain(said.out)
    assert "holds a part for" in told
    assert "UNet2D 2 files" in told
    assert (commit in told) == where.startswith("hf")
    assert hub("info", where, "--json").data["kind"] == "part"


def test_an_address_of_nothing(server: HubServer, hub: Command) -> None:
    server.commit("me/empty", {"README.md": b"# nothing"})
    assert "holds no graph" in hub("info", "hf://me/empty").err
    assert hub("info", "hf://me/nothing").code == 2
    assert hub("info", "hf://me/empty", "--json").data["errors"]
