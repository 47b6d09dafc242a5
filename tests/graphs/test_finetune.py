"""Training further: graphs whose weights come from a folder or from the Hub start from these, and end as these are laid
out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, DiffgraphError
from diffgraph.session import Options
from diffgraph.training.train import train
from diffgraph.training.trainer import Trainer

from ..hub import users_hub
from .conftest import GRAPHS, Cli

CPU = Options(device="cpu")
# Of each graph: the fixture with weights to start from, its file with what is trained, and the system that runs them.
GRAPHS_OF = {
    "ddpm_finetune": ("ddpm_parts", "diffusion_pytorch_model.safetensors", "ddpm", 8),
    "glide_finetune": ("glide_parts", "base/diffusion_pytorch_model.safetensors", "glide_base", 8),
    "imagen_if_finetune": ("if_base_parts", "unet/diffusion_pytorch_model.safetensors", "imagen_if_base", 8),
    "stable_diffusion": ("clip_parts", "unet/diffusion_pytorch_model.safetensors", "stable_diffusion", 16),
}


@pytest.mark.parametrize("name", GRAPHS_OF)
def test_it_starts_from_the_weights_and_its_own_run(
    name: str, data: Path, cli: Cli, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    parts, file, system, size = GRAPHS_OF[name]
    weights = request.getfixturevalue(parts)
    given: dict[str, Any] = {"data": data, "weights": weights, "size": size, "steps": 12, "batch": 4, "rate": 0.003}
    graph, out = Graph.load(GRAPHS / f"train/{name}.yaml"), tmp_path / "out"
    trainer = Trainer(graph, given, out=out, options=CPU, sets={"batch_of.caption_dropout": 0.0})
    before = load_file(weights / file)
    part = next(iter(trainer.train.update))
    for key, tensor in before.items():
        assert torch.equal(trainer.parameters[f"{part}.{key}"], tensor)
    trainer.run()
    with torch.no_grad():
        module = trainer.parts[part].get().eval()
        after = [float(trainer._loss(trainer.data(number))) for number in range(4)]
        module.load_state_dict(before)
        first = [float(trainer._loss(trainer.data(number))) for number in range(4)]
    assert sum(after) < 0.98 * sum(first)

    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.suffix in (".safetensors", ".json")}
    trained = Path(file).parent
    kept = ("config.json", "scheduler_config.json", "tokenizer_config.json")  # a vocabulary may have another form
    same = {p for p in weights.rglob("*") if p.suffix == ".safetensors" or p.name in kept}
    same = {p for p in same if p.parent == weights / trained or "glide" not in name}
    assert {str(path.relative_to(weights)) for path in same} <= written
    for path in same:  # what is not trained is written as it was
        if path.suffix == ".safetensors" and str(path.relative_to(weights)) != file:
            ours, theirs = load_file(out / path.relative_to(weights)), load_file(path)
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    words = ["--prompt", "red disc"] if system != "ddpm" else []
    done = cli("run", system, "--weights", out, "--steps", "2", *words, "--device", "cpu", "-o", tmp_path / "p.png")
    assert done.exit_code == 0, done.stderr
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (size, size)


@pytest.mark.parametrize("name", ["glide_finetune", "imagen_if_finetune"])
def test_the_hybrid_loss_trains_the_variance_too(
    name: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The bound reaches the second half of the network's output alone, and L_simple the first."""
    weights = request.getfixturevalue(GRAPHS_OF[name][0])
    graph = Graph.load(GRAPHS / f"train/{name}.yaml")
    given = {"data": data, "weights": weights, "size": 8, "steps": 1, "batch": 4}
    grads = {}
    for kind, keys in (("both", {}), ("simple", {"loss.scale": 0.0})):
        trainer = Trainer(graph, given, out=tmp_path / kind, options=CPU, sets=keys)
        last = next(key for key in reversed(list(trainer.parameters)) if key.endswith("weight") and "out" in key)
        with torch.random.fork_rng(devices=[]):
            trainer._gradients()
        grad = trainer.parameters[last].grad
        assert grad is not None
        grads[kind] = grad.chunk(2)
    assert torch.equal(grads["both"][0], grads["simple"][0])
    assert float(grads["simple"][1].abs().max()) == 0
    assert float(grads["both"][1].abs().max()) > 0


def test_weights_that_learn_no_variance_are_named(data: Path, tmp_path: Path) -> None:
    given = {"data": data, "weights": GRAPHS / "weights/glide-demo", "size": 16, "steps": 1, "batch": 2}
    with pytest.raises(DiffgraphError, match="has no variance"):
        train(Graph.load(GRAPHS / "train/glide_finetune.yaml"), given, out=tmp_path / "out", options=CPU)


@pytest.fixture
def published(ddpm_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a repository of the Hub with a tiny DDPM."""
    files = {path.name: path.read_bytes() for path in ddpm_parts.iterdir()}
    with users_hub(tmp_path, monkeypatch) as server:
        server.commit("org/ddpm", files)
        yield "hf://org/ddpm"


def test_from_a_repository_of_the_hub(published: str, ddpm_parts: Path, data: Path, cli: Cli, tmp_path: Path) -> None:
    arguments = ["--weights", published, "--size", "8", "--batch", "2", "--device", "cpu", "--quiet", "--data", data]
    done = cli(
        "train", "train/ddpm_finetune", *arguments, "--steps", "1", "--rate", "0.00001", "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.stderr
    before = load_file(ddpm_parts / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "out/diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(after[key], before[key], atol=2e-5) for key in before)
    assert any(not torch.equal(after[key], before[key]) for key in before)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["block_out_channels"] == [32, 32]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("$unet, sample: $noisy", "$unet, sample: $batch_of.image"),
        ("prediction: $prediction, sample: $batch_of.image", "prediction: $prediction, sample: $noisy"),
        ("noisy: $noisy", "noisy: $batch_of.image"),
    ],
)
def test_the_check_tells_a_clean_picture_from_a_noisy_one(right: str, wrong: str) -> None:
    """Where either is used elsewhere too, so that no wire is left over."""
    text = (GRAPHS / "train/glide_finetune.yaml").read_text()
    assert text.count(right) == 1
    Graph.from_text(text).check()
    with pytest.raises(CheckFailed, match="clean"):
        Graph.from_text(text.replace(right, wrong)).check()
