"""What a picture says of the run that made it: its lock, versions, place; made again against them, from the Hub too."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffgraph import __version__
from diffgraph.builder import Graph
from diffgraph.errors import LockError
from diffgraph.nodes.images import read_metadata, read_points
from diffgraph.session import Options

from ..hub import linear, weights
from ..hub_server import HubServer
from ..parts import save_ddpm
from .conftest import Command, write
from .test_pictures import bundle, picture

# Noise whose size is the norm of some weights: a picture that shows which weights made it.
TINTED = """
    diffgraph: 1
    name: tinted
    inputs:
      seed: {type: int, default: 0}
      weights: {type: weights, default: WEIGHTS}
    variants:
      plain: {}
      other: {seed: 5}
    nodes:
      line: {node: arith.Linear, weights: $weights}
      norm: {call: $line.norm}
      rng: {node: Rng, seed: $seed, batch: 1}
      small: {node: arith.Multiply, a: $norm, b: 0.05}
      noise: {node: GaussianNoise, shape: [3, 8, 8], rng: $rng, scale: $small}
      scheduler: {node: DDPMScheduler}
      schedule: {call: $scheduler.schedule, steps: 2}
      start: {call: $scheduler.start, noise: $noise.sample, schedule: $schedule}
    outputs: {image: $start.sample, norm: $norm}
"""


def tinted(address: str = "hf://org/linear", path: str = "tinted.yaml") -> Path:
    return write(path, TINTED.replace("WEIGHTS", address))


def lock(path: str | Path) -> Any:
    """The lock that a picture carries."""
    found = bundle(path)
    return yaml.safe_load(found["documents"][f"{found['main']}.lock"])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def forget(folder: Path) -> None:
    """Nothing stored, nothing downloaded, nothing known of the Hub."""
    for place in (folder.parent / "hf", folder.parent / "cache" / "hub", folder.parent / "cache" / "results"):
        shutil.rmtree(place, ignore_errors=True)


def local(folder: str | Path, value: float) -> Path:
    """A folder with the weights of an arith.Linear."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (place / name).write_bytes(linear(value)[name])
    return place


# --- what is in a picture -------------------------------------------------------------------------------------------


def test_a_picture_says_with_what_it_was_made(server: HubServer, hub: Command) -> None:
    commit = server.repositories["org/linear"].branches["main"]
    said = hub("run", tinted(), "--variant", "other", "--dtype", "bf16", "--device", "cpu")
    assert said.lines[0] == "tinted-5.png", said.err
    found = lock("tinted-5.png")
    (entry,) = found["weights"]
    assert (entry["address"], entry["commit"]) == ("hf://org/linear", commit)
    assert {"path": "model.safetensors", "size": len(weights(3)), "sha256": digest(weights(3))} in entry["files"]
    assert found["nodes"]["arith.Linear"] == 1
    assert found["diffgraph"] == __version__
    assert bundle("tinted-5.png")["made"] == {
        "variant": "other", "device": "cpu", "dtype": "bfloat16",
        "versions": {"arith": "1.2", "diffgraph": __version__, "torch": torch.__version__},
    }  # fmt: skip


def test_the_weights_of_an_installed_graph_are_identified(dg: Command, folder: Path) -> None:
    assert dg("run", "ddpm", "--steps", "1", "-o", "a.png").code == 0
    (entry,) = lock("a.png")["weights"]
    assert entry["address"] == "pkg://diffgraph"
    shipped = Path(__file__).parents[2] / "graphs"
    for file in entry["files"]:
        assert file["sha256"] == digest((shipped / file["path"]).read_bytes())
    assert any(file["path"].endswith(".safetensors") for file in entry["files"])
    before = Path("a.png").read_bytes()
    assert dg("run", "a.png", "--no-cache", "-o", "a.png").code == 0
    assert Path("a.png").read_bytes() == before


def test_without_metadata_there_is_nothing(server: HubServer, hub: Command) -> None:
    hub("run", tinted(), "--no-metadata", "-o", "bare.png")
    assert read_metadata(Path("bare.png").read_bytes()) == {}
    assert "carries no graph" in hub("run", "bare.png").err


def test_a_picture_from_python_carries_the_same(server: HubServer, hub: Command) -> None:
    hub("run", tinted())
    Graph.load("tinted.yaml")(options=Options(cache=False)).image.save("python.png")
    assert Path("python.png").read_bytes() == Path("tinted-0.png").read_bytes()


# --- made again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_made_again_from_the_commit_though_the_branch_moved(
    server: HubServer, hub: Command, folder: Path, cached: bool
) -> None:
    commit = server.repositories["org/linear"].branches["main"]
    assert hub("run", tinted()).lines == ["tinted-0.png", '{"norm": 6.0}']
    before = Path("tinted-0.png").read_bytes()
    server.commit("org/linear", linear(9))
    if not cached:
        forget(folder)
    Path("tinted.yaml").unlink()
    Path("tinted-0.png").rename("mine.png")
    server.requests.clear()
    said = hub("run", "mine.png", *(["--no-cache"] if cached else []))
    assert said.lines == ["tinted-0.png", '{"norm": 6.0}'], said.err
    assert Path("tinted-0.png").read_bytes() == before
    assert server.count("revision/main") == 0
    assert server.count() == 0 if cached else server.count(commit) > 0
    said = hub("run", "mine.png", "--no-lock", "-o", "now.png")
    assert said.lines == ["now.png", '{"norm": 18.0}']
    assert (read_points(Path("now.png").read_bytes()) != read_points(before)).any()
    assert lock("now.png")["weights"][0]["commit"] != commit


def test_made_again_in_its_precision(server: HubServer, hub: Command) -> None:
    hub("run", tinted(), "--dtype", "bf16", "-o", "a.png")
    assert hub("run", "a.png", "--no-cache", "-o", "b.png").code == 0
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    assert hub("run", "a.png", "--dtype", "fp32", "-o", "c.png").code == 0
    assert bundle("c.png")["made"]["dtype"] == "float32"
    assert "on cpu in bfloat16" in hub("plan", "a.png").out


def test_another_torch_or_device_is_told(server: HubServer, hub: Command) -> None:
    hub("run", tinted(), "-o", "a.png")
    found = bundle("a.png")
    found["made"] |= {"device": "cuda:1", "versions": {"torch": "1.0"}}
    said = hub("run", picture("b.png", json.dumps(found)), "-o", "c.png")
    assert (
        f"note: b.png was made with torch 1.0, here it is {torch.__version__} and on cuda, here it is cpu" in said.err
    )
    assert said.code == 0
    assert "note" not in hub("run", "a.png").err


def test_a_local_weight_that_changed_is_refused(server: HubServer, hub: Command) -> None:
    local("parts/line", 3)
    hub("run", tinted("parts/line"), "-o", "a.png")
    assert [entry["address"] for entry in lock("a.png")["weights"]] == ["."]
    assert hub("run", "a.png", "--no-cache", "-o", "b.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    local("parts/line", 4)
    for command in ("run", "plan"):
        said = hub(command, "a.png")
        assert said.code == 2, said.out
        assert "parts/line/model.safetensors differs from a.png:tinted.yaml.lock" in said.err
        assert digest(weights(3)) in said.err
        assert digest(weights(4)) in said.err
        assert "put the file back, or take what is there now: diffgraph run a.png --no-lock" in said.err
    assert hub("run", "a.png", "--no-lock", "-o", "c.png").lines[1] == '{"norm": 8.0}'
    Path("parts/line/maker.json").write_text('{"name": "x"}')
    local("parts/line", 3)
    assert "parts/line/maker.json is not in a.png:tinted.yaml.lock" in hub("run", "a.png").err


@pytest.mark.parametrize("where", ["mine", "../mine", "absolute"])
def test_a_folder_that_the_user_gave(server: HubServer, hub: Command, folder: Path, where: str) -> None:
    place = local(str(folder.parent / "mine") if where == "absolute" else where, 3)
    given = str(place)
    tinted(path="graphs/tinted.yaml")
    assert hub("run", "graphs/tinted.yaml", "--weights", given, "-o", "a.png").code == 0
    (entry,) = lock("a.png")["weights"]
    assert entry["address"] == ("." if where == "mine" else given)
    assert where == "absolute" or str(folder.parent) not in json.dumps(bundle("a.png"))
    again = [] if where == "mine" else ["--weights", given]
    assert hub("run", "a.png", *again, "--no-cache", "-o", "b.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    local(place, 4)
    said = hub("run", "a.png", *again)
    assert said.code == 2
    assert "model.safetensors differs from a.png:tinted.yaml.lock" in said.err
    local("elsewhere", 5)
    assert hub("run", "a.png", "--weights", "elsewhere", "-o", "c.png").lines[1] == '{"norm": 10.0}'


def test_set_and_inputs_vary_it(server: HubServer, hub: Command) -> None:
    server.commit("org/other", linear(1))
    hub("run", tinted())
    server.commit("org/linear", linear(9))
    assert hub("run", "tinted-0.png", "--seed", "4").lines == ["tinted-4.png", '{"norm": 6.0}']
    said = hub("run", "tinted-0.png", "--set", "small.b=0.1", "-o", "set.png")
    assert said.lines == ["set.png", '{"norm": 6.0}']
    assert hub("run", "set.png", "--no-cache", "-o", "again.png").code == 0
    assert Path("set.png").read_bytes() == Path("again.png").read_bytes()
    assert hub("run", "tinted-0.png", "--weights", "hf://org/other", "-o", "o.png").lines[1] == '{"norm": 2.0}'
    assert [entry["address"] for entry in lock("o.png")["weights"]] == ["hf://org/other"]
    assert "is not in tinted-0.png" in hub("run", "tinted-0.png", "--weights", "hf://org/other", "--locked").err
    assert hub("run", "tinted-0.png", "--locked").code == 0
    assert "give one of them" in hub("run", "tinted-0.png", "--locked", "--no-lock").err


def test_a_branch_that_its_run_did_not_take(server: HubServer, hub: Command) -> None:
    """Weights that the picture's lock does not know are opened as they are now, where an input asks for them."""
    server.commit("org/other", linear(1))
    text = TINTED.replace("WEIGHTS", "hf://org/linear").replace(
        "      norm: {call: $line.norm}\n",
        """      second: {node: arith.Linear, weights: hf://org/other}
      which:
        when: $large
        nodes: {a: {call: $line.norm}}
        outputs: {x: $a}
        else: {nodes: {b: {call: $second.norm}}, outputs: {x: $b}}
      norm: {node: arith.Add, a: $which.x}
""",
    )
    write("tinted.yaml", text.replace("    variants:", "      large: {type: bool, default: true}\n    variants:"))
    assert hub("run", "tinted.yaml", "-o", "a.png").lines[1] == '{"norm": 6.0}'
    assert hub("run", "a.png", "--no-large", "-o", "b.png").lines[1] == '{"norm": 2.0}'


def test_a_node_of_another_version(server: HubServer, hub: Command) -> None:
    hub("run", tinted(), "-o", "a.png")
    text = json.dumps(bundle("a.png")).replace("arith.Linear: 1", "arith.Linear: 7")
    said = hub("run", picture("b.png", text))
    assert said.code == 2
    assert "arith.Linear is version 1 here, and 7 in b.png:tinted.yaml.lock" in said.err
    assert "diffgraph run b.png --no-lock" in said.err
    assert hub("run", "b.png", "--no-lock").code == 0


def test_a_picture_is_pulled_and_made_again_offline(server: HubServer, hub: Command, folder: Path) -> None:
    hub("run", tinted())
    server.commit("org/linear", linear(9))
    forget(folder)
    assert hub("run", "tinted-0.png", "--offline").code == 2
    assert hub("pull", "tinted-0.png").code == 0
    server.requests.clear()
    assert hub("run", "tinted-0.png", "--offline").lines[1] == '{"norm": 6.0}'
    assert server.count() == 0


def test_no_lock_is_for_documents_too(server: HubServer, hub: Command) -> None:
    tinted()
    assert hub("lock", "tinted.yaml").code == 0
    server.commit("org/linear", linear(9))
    assert hub("run", "tinted.yaml").lines[1] == '{"norm": 6.0}'
    assert hub("run", "tinted.yaml", "--no-lock", "-o", "now.png").lines[1] == '{"norm": 18.0}'
    assert Graph.load("tinted.yaml")(options=Options(lock=False)).norm == 18.0


# --- from the Hub ---------------------------------------------------------------------------------------------------


def test_from_a_graph_of_the_hub(server: HubServer, hub: Command, folder: Path) -> None:
    text = TINTED.replace("WEIGHTS", "parts/line").replace("\n    ", "\n").lstrip().encode()
    files = {"tinted.yaml": text} | {f"parts/line/{name}": data for name, data in linear(2).items()}
    server.commit("me/tinted", files)
    assert hub("run", "hf://me/tinted").lines == ["tinted-0.png", '{"norm": 4.0}']
    before = Path("tinted-0.png").read_bytes()
    server.commit("me/tinted", {**files, "parts/line/model.safetensors": weights(8), "tinted.yaml": b"gone: 1"})
    forget(folder)
    assert hub("run", "tinted-0.png").lines == ["tinted-0.png", '{"norm": 4.0}']
    assert Path("tinted-0.png").read_bytes() == before
    server.requests.clear()
    assert hub("run", "tinted-0.png", "--no-cache", "--offline").code == 0
    assert server.count() == 0


def church(folder: Path) -> dict[str, bytes]:
    """The files of a repository in the layout of diffusers."""
    folder.mkdir(parents=True)
    save_ddpm(folder)
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", **parts}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_from_a_repository_in_the_layout_of_diffusers(server: HubServer, hub: Command, folder: Path) -> None:
    files = church(folder.parent / "church")
    commit = server.commit("org/church", files)
    said = hub("run", "hf://org/church", "--steps", "2", "-o", "a.png")
    assert said.code == 0, said.err
    config = json.loads(files["scheduler_config.json"])
    server.commit("org/church", {**files, "scheduler_config.json": json.dumps({**config, "beta_end": 0.5}).encode()})
    forget(folder)
    said = hub("run", "a.png", "-o", "b.png")
    assert said.code == 0, said.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert commit in bundle("a.png")["main"]
    server.requests.clear()
    assert hub("run", "a.png", "--offline", "--no-cache", "-o", "c.png").code == 0
    assert server.count() == 0
    assert Path("a.png").read_bytes() == Path("c.png").read_bytes()


def test_from_a_folder_in_the_layout_of_diffusers(dg: Command, folder: Path) -> None:
    church(folder / "church")
    assert dg("run", "church", "--steps", "2", "-o", "a.png").code == 0
    assert str(folder) not in json.dumps(bundle("a.png"))
    said = dg("run", "a.png", "--no-cache", "-o", "b.png")
    assert said.code == 0, said.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    place = Path("church/scheduler_config.json")
    place.write_text(place.read_text().replace("DDPMScheduler", "DDIMScheduler"))
    said = dg("run", "a.png")
    assert said.code == 2
    assert "church/scheduler_config.json differs from a.png:church.yaml.lock" in said.err


# --- strangers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lock: 1", "it has lock, diffgraph, nodes and weights"),
        ("{", "tinted.yaml.lock"),
        ("lock: 1\ndiffgraph: '1'\nnodes: {}\nweights: [{address: hf://a/b, commit: main, files: []}]", "a commit of 40"),
        ("lock: 1\ndiffgraph: !!python/object:os.system '1'\nnodes: {}\nweights: []", "tinted.yaml.lock"),
        ("#" * (5 << 20), "too large"),
    ],
)  # fmt: skip
def test_a_bad_lock_in_a_picture(server: HubServer, hub: Command, text: str, message: str) -> None:
    hub("run", tinted(), "-o", "a.png")
    found = bundle("a.png")
    found["documents"]["tinted.yaml.lock"] = text
    server.requests.clear()
    said = hub("run", picture("bad.png", json.dumps(found)))
    assert (said.code, said.out) == (2, "")
    assert "bad.png:tinted.yaml.lock" in said.err
    assert message in said.err
    assert "fault of diffgraph" not in said.err
    assert server.count() == 0


def test_a_lock_can_only_refuse(server: HubServer, hub: Command, folder: Path) -> None:
    """It opens nothing that it names: not a folder, not a file above, not a repository."""
    secret = server.commit("org/secret", linear(50))
    hub("run", tinted(), "-o", "a.png")
    found = bundle("a.png")
    lies = [
        {"address": "hf://org/secret", "commit": secret, "files": [{"path": "../../x", "size": 1, "sha256": "a"}]},
        {"address": "/etc", "files": [{"path": "passwd", "size": 1, "sha256": "a"}]},
        {"address": "~/x", "files": [{"path": "/etc/passwd", "size": 1, "sha256": "a"}]},
        {"address": "../..", "files": [{"path": "../x", "size": 1, "sha256": "a"}]},
    ]
    lock_ = lock("a.png")
    found["documents"]["tinted.yaml.lock"] = json.dumps({**lock_, "weights": [*lock_["weights"], *lies]})
    said = hub("run", picture("liar.png", json.dumps(found)), "--no-cache", "-o", "b.png")
    assert said.lines[1] == '{"norm": 6.0}', said.err
    assert server.count("secret") == 0
    assert [entry["address"] for entry in lock("b.png")["weights"]] == ["hf://org/linear"]
    entry = lock_["weights"][0] | {"commit": "0" * 40}
    found["documents"]["tinted.yaml.lock"] = json.dumps({**lock_, "weights": [entry]})
    said = hub("run", picture("liar.png", json.dumps(found)), "--no-cache")
    assert said.code == 2
    assert "there is no revision" in said.err


def test_names_in_a_picture_lead_nowhere(dg: Command, folder: Path) -> None:
    text = "diffgraph: 1\nnodes: {n: {node: arith.Add, a: 1}}\noutputs: {n: $n}\n"
    for name in ("../../evil.yaml", "/etc/evil.yaml", "a/../b.yaml"):
        found = {"diffgraph": 1, "main": name, "documents": {name: text}, "inputs": {}}
        assert dg("run", picture("a.png", json.dumps(found)), "-o", "n.json").code == 0
        assert sorted(path.name for path in folder.iterdir()) == ["a.png", "n.json"]
    for name in ("\x1b[31mred.yaml", "", "a\nb", "x" * 5000):
        found = {"diffgraph": 1, "main": name, "documents": {name: text}, "inputs": {}}
        said = dg("run", picture("a.png", json.dumps(found)))
        assert said.code == 2
        assert "a document's name is no address" in said.err


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_a_compressed_bomb_is_not_unpacked(dg: Command, folder: Path, kind: str) -> None:
    """128 MiB in little space: told at 16 MiB."""
    import resource

    bomb = zlib.compress(bytes(128 << 20), 1)
    head = b"diffgraph\0\0" if kind == "zTXt" else b"diffgraph\0\1\0\0\0"
    plain = picture("plain.png", "x").read_bytes()
    Path("bomb.png").write_bytes(plain[:33] + chunk(kind.encode(), head + bomb) + plain[33:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = dg("run", "bomb.png")
    assert said.code == 2
    assert "more than 16 MiB of text" in said.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 90 << 10  # KiB


def test_many_texts_are_too_much_together(dg: Command, folder: Path) -> None:
    plain = picture("plain.png", "x").read_bytes()
    packed = zlib.compress(bytes(1 << 20))
    chunks = b"".join(chunk(b"zTXt", b"k%d\0\0" % number + packed) for number in range(40))
    Path("many.png").write_bytes(plain[:33] + chunks + plain[33:])
    assert "more than 16 MiB of text" in dg("run", "many.png").err


def test_in_python_a_lock_is_refused_alike(server: HubServer, hub: Command) -> None:
    local("line", 3)
    tinted("line")
    assert hub("lock", "tinted.yaml").code == 0
    local("line", 4)
    with pytest.raises(LockError, match=r"line/model.safetensors differs from tinted.yaml.lock"):
        Graph.load("tinted.yaml")()
