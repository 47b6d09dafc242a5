"""The corpus in tests/hostile: every document is refused, nothing in it runs, and a check opens nothing outside.

The same of pictures that carry these documents, and of others made for pictures, which are checked, planned, run and
told about. One process does it all under an audit hook, which sees every process, socket, import and file that Python
opens.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgraph.builder import Graph
from diffgraph.errors import DiffgraphError

from ..parts import save_ddpm

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "hostile"
DOCUMENTS = sorted(path.name for path in CORPUS.glob("*.yaml"))

AUDIT = """
import json, os, sys
from pathlib import Path
from diffgraph.cli import main
from diffgraph.registry import registry

def diffgraph(*words):
    try:
        main([*words, "--offline"])
    except SystemExit as stop:
        return stop.code

# What the commands import and open of their own, and the index of nodes.
codes = {" ".join(words): diffgraph(*words) for words in json.loads(sys.argv[1])}
registry()
inside = [os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, os.environ["DIFFGRAPH_CACHE_DIR"], "ROOT", ".")]
seen, current = {}, [""]

def hook(event, args):
    bad = None
    if event.partition(".")[0] in ("subprocess", "socket", "ctypes", "pty") or event in (
        "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn"
    ):
        bad = event
    elif event == "import" and str(args[0]).startswith("hostile"):
        bad = f"import {args[0]}"
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink"):
        path = os.path.realpath(os.fsdecode(args[0]))
        bad = None if path.startswith(inside[2] + os.sep) else f"{event} {path}"
    elif event == "open" and isinstance(args[0], (str, bytes)):
        path, writes = os.path.realpath(os.fsdecode(args[0])), bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        cached = path.startswith(inside[2] + os.sep)
        known = any(path.startswith(one + os.sep) for one in inside) and not os.path.basename(path).startswith("bait")
        if path != os.devnull and not cached and (writes or not known):
            bad = f"open {path}"
    if bad and current[0]:
        seen.setdefault(current[0], []).append(bad)

sys.addaudithook(hook)
for words in json.loads(sys.argv[2]):
    current[0] = " ".join(words)
    codes[current[0]] = diffgraph(*words)
current[0] = "caught"
Path("bait.txt").read_text()
current[0] = ""
print(json.dumps({"codes": codes, "seen": seen, "canary": Path("canary").exists()}))
"""


HONEST = """diffgraph: 1
nodes:
  rng: {node: Rng, seed: 0, batch: 1}
  noise: {node: GaussianNoise, shape: [3, 8, 8], rng: $rng}
outputs: {image: $noise.sample}
"""
QUANTIZES = """diffgraph: 1
inputs: {x: {type: Image}}
nodes: {out: {node: Quantize, image: $x, levels: 2}}
outputs: {image: $out}
"""
SCHEDULES = """diffgraph: 1
inputs: {x: {type: weights}}
nodes: {s: {node: DDPMScheduler, weights: $x}, out: {call: $s.schedule, steps: 2}}
outputs: {schedule: $out}
"""


def carried(documents: dict[str, str], inputs: dict[str, Any] | None = None, **more: Any) -> str:
    """What a picture says of a run, whose main document is the first."""
    said = {"diffgraph": 1, "main": next(iter(documents)), "documents": documents, "inputs": inputs or {}, "made": {}}
    return json.dumps(said | more)


def including(address: str) -> str:
    """A document that includes another."""
    return f"diffgraph: 1\nnodes:\n  a: {{graph: {json.dumps(address)}}}\noutputs: {{image: $a.image}}\n"


CODE = "!!python/object/apply:os.system [touch canary]"
PICTURES = {
    "include_beside.png": carried({"main.yaml": including("bait.yaml")}),
    "include_above.png": carried({"main.yaml": including("../bait.yaml")}),
    "include_absolute.png": carried({"main.yaml": including("/etc/hostname")}),
    "include_hub.png": carried({"main.yaml": including("hf://org/repo/line.yaml")}),
    "include_package.png": carried({"main.yaml": including("pkg://hostile_package/line.yaml")}),
    "include_out_of_a_package.png": carried({"main.yaml": including("pkg://diffgraph/../../bait.yaml")}),
    "include_own_code.png": carried(
        {"main.yaml": including("../x.yaml"), "../x.yaml": f"diffgraph: 1\nnodes: {CODE}\n"}
    ),
    "include_itself.png": carried({"main.yaml": including("main.yaml")}),
    "main_above.png": carried({"../bait.yaml": including("bait.yaml")}),
    "main_absolute.png": carried({"/etc/main.yaml": including("hostname")}),
    "main_hub.png": carried({"hf://org/repo/main.yaml": including("line.yaml")}),
    "main_not_there.png": carried({"main.yaml": HONEST}, main="bait.yaml"),
    "picture_beside.png": carried({"main.yaml": QUANTIZES}, {"x": "bait.png"}),
    "picture_absolute.png": carried({"main.yaml": QUANTIZES}, {"x": "/etc/hostname"}),
    "picture_again.png": carried({"main.yaml": QUANTIZES}, {"x": {"file": "bait.png", "sha256": "0" * 64}}),
    "weights_absolute.png": carried({"main.yaml": SCHEDULES}, {"x": "/etc"}),
    "lock_with_code.png": carried({"main.yaml": HONEST, "main.yaml.lock": f"lock: 1\ndiffgraph: {CODE}\n"}),
    "many_documents.png": carried({f"{number}.yaml": HONEST for number in range(1000)}),
    "large_document.png": carried({"main.yaml": HONEST + "#" * (9 << 20)}),
    "much_text.png": " " * (32 << 20),
    "deep.png": "[" * 100_000,
    "deep_document.png": carried({"main.yaml": "diffgraph: 1\nnodes: " + "[" * 5000}),
}
PICTURES |= {
    f"{Path(name).stem}_carried.png": carried(
        {
            path.name: path.read_text(encoding="utf-8", errors="surrogateescape")
            for path in sorted(CORPUS.glob(f"{name}*"))
        }
    )
    for name in DOCUMENTS
}
COMMANDS = ("check", "plan", "run", "info")


def paint(path: Path, said: str) -> None:
    """A picture that carries a text as if it were a run, compressed."""
    info = PngInfo()
    info.add_itxt("diffgraph", said, zip=True)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What happened when the corpus was read, where it lies in a folder of its own; and what was said."""
    place = tmp_path_factory.mktemp("hostile") / "corpus"
    shutil.copytree(CORPUS, place, symlinks=True)
    (place / "link").unlink()
    (place / "link").symlink_to(ROOT / "nodes")
    for name in ("bait.yaml", "bait.txt", "../bait.yaml"):
        (place / name).write_text(HONEST)
    Image.new("RGB", (2, 2)).save(place / "bait.png")
    for name, said in {"honest.png": carried({"honest.yaml": HONEST}), **PICTURES}.items():
        paint(place / name, said)
    honest = [["check", "ddpm"], ["check", "glide"], *([command, "honest.png"] for command in COMMANDS)]
    asked = [["check", name] for name in DOCUMENTS] + [[command, name] for name in PICTURES for command in COMMANDS]
    script = AUDIT.replace('"ROOT"', repr(str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(honest), json.dumps(asked)], cwd=place, capture_output=True, text=True,
        check=True, env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_hostile_document_is_refused(audited: tuple[dict[str, Any], str], name: str) -> None:
    found, said = audited
    assert found["codes"][f"check {name}"] == 2
    assert found["seen"].get(f"check {name}", []) == []
    assert not found["canary"]
    assert "fault of diffgraph" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture_is_refused(audited: tuple[dict[str, Any], str], name: str) -> None:
    """What a picture says of itself may be told; it is not run, and opens nothing."""
    found, _ = audited
    assert [found["seen"].get(f"{command} {name}", []) for command in COMMANDS] == [[], [], [], []]
    assert found["codes"][f"run {name}"] == 2
    assert all(found["codes"][f"{command} {name}"] in (0, 2) for command in COMMANDS)


def test_the_audit_tells_honest_from_hostile(audited: tuple[dict[str, Any], str]) -> None:
    found, _ = audited
    assert [found["codes"][f"{command} honest.png"] for command in COMMANDS] == [0, 0, 0, 0]
    assert len(found["seen"]["caught"]) == 1


class Evil:
    """What a pickle can do to whoever opens it carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


GRAPH = """diffgraph: 1
nodes:
  unet: {node: UNet2D, weights: weights}
  scheduler: {node: DDPMScheduler}
  rng: {node: Rng, seed: 0, batch: 1}
  sampled: {graph: pkg://diffgraph/samplers/plain.yaml, model: $unet, scheduler: $scheduler, steps: 2, rng: $rng}
outputs: {image: $sampled.sample}
"""


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_hostile_weights_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    (save_ddpm(tmp_path / "weights") / "diffusion_pytorch_model.safetensors").unlink()
    if form == "torch":
        torch.save({"conv_in.weight": Evil()}, tmp_path / "weights" / name)
    else:
        (tmp_path / "weights" / name).write_bytes(pickle.dumps(Evil()))
    Path("graph.yaml").write_text(GRAPH)
    with pytest.raises(DiffgraphError, match="diffusion_pytorch_model"):
        Graph.load("graph.yaml")()
    assert not Path("canary").exists()
