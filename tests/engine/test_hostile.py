"""The corpus in tests/hostile: every document is refused, nothing in it runs, and a check opens nothing outside.

One process checks all of them under an audit hook, which sees every process, socket, import and file that Python opens.
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

for name in ("ddpm", "glide"):  # what a check imports and opens of its own, and the index of nodes
    try:
        main(["check", name, "--offline"])
    except SystemExit:
        pass
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
        if path != os.devnull and not cached and (writes or not any(path.startswith(one + os.sep) for one in inside)):
            bad = f"open {path}"
    if bad and current[0]:
        seen.setdefault(current[0], []).append(bad)

sys.addaudithook(hook)
codes = {}
for name in json.loads(sys.argv[1]):
    current[0] = name
    try:
        main(["check", name, "--offline"])
    except SystemExit as stop:
        codes[name] = stop.code
    current[0] = ""
print(json.dumps({"codes": codes, "seen": seen, "canary": Path("canary").exists()}))
"""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What happened when the corpus was checked, where it lies in a folder of its own; and what was said."""
    place = tmp_path_factory.mktemp("hostile") / "corpus"
    shutil.copytree(CORPUS, place, symlinks=True)
    (place / "link").unlink()
    (place / "link").symlink_to(ROOT / "nodes")
    script = AUDIT.replace('"ROOT"', repr(str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(DOCUMENTS)], cwd=place, capture_output=True, text=True, check=True,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_hostile_document_is_refused(audited: tuple[dict[str, Any], str], name: str) -> None:
    found, said = audited
    assert found["codes"][name] == 2
    assert found["seen"].get(name, []) == []
    assert not found["canary"]
    assert "fault of diffgraph" not in said
    assert "Traceback" not in said


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
