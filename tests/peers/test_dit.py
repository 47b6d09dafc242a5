"""DiT beside the library's DiTTransformer2DModel: the same published files, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel

from diffgraph.nodes.models.dit import DiT

from ..fill import noise, randomise
from ..nodes.test_dit import PUBLISHED
from ..parity import agree

PEER = "diffusers DiTTransformer2DModel"
XL: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 24, "num_layers": 3, "out_channels": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "DiT-XL-2-256": XL | {"sample_size": 16, "num_embeds_ada_norm": 20},  # narrower, shallower, smaller
    "DiT-XL-2-512": XL | {"sample_size": 32, "num_embeds_ada_norm": 20},
    "the original's norm": XL | {"sample_size": 8, "norm_eps": 1e-6},
    "no variance": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 3,
        "num_layers": 2,
        "sample_size": 12,
        "patch_size": 4,
        "num_embeds_ada_norm": 5,
        "attention_bias": False,
    },
}

LibraryModel: Any = DiTTransformer2DModel


def published(config: dict[str, Any], folder: Path) -> Any:
    """A library's model with random weights, none zero, and what it publishes."""
    peer = LibraryModel(**config).eval()
    with torch.no_grad():
        randomise(peer)
    peer.save_pretrained(folder)
    return peer


def theirs(peer: Any, sample: torch.Tensor, time: Any, label: list[int]) -> torch.Tensor:
    rows = torch.as_tensor(time).expand(len(label))
    out: torch.Tensor = peer(sample, rows, class_labels=torch.tensor(label)).sample
    return out


def ours(model: DiT, sample: torch.Tensor, time: Any, label: list[int]) -> torch.Tensor:
    prediction = model(sample, time, model.condition(label))
    return torch.cat([part for part in prediction if part is not None], dim=1)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_same_numbers_as_the_library(name: str, tmp_path: Path) -> None:
    """To 1e-5 of the largest value: fp32 sums in another order."""
    peer = published(CONFIGS[name], tmp_path)
    model = DiT.from_pretrained(tmp_path)
    sample = noise(2, *model.sample_shape)
    for time in (0, 37, torch.tensor([500, 999])):
        for label in ([3, 3], [4, model.config.num_embeds_ada_norm]):
            expected = theirs(peer, sample, time, label)
            agree("DiT", PEER, ours(model, sample, time, label), expected, what=name)


@torch.no_grad()
def test_the_older_class(tmp_path: Path) -> None:
    """As facebook/DiT-XL-2-256 is published: of class Transformer2DModel, with that one's keys."""
    peer = published(CONFIGS["DiT-XL-2-256"], tmp_path / "older")
    small = json.loads((tmp_path / "older" / "config.json").read_text())
    older = PUBLISHED | {key: small[key] for key in PUBLISHED.keys() & small.keys() if not key.startswith("_")}
    (tmp_path / "older" / "config.json").write_text(json.dumps(older))
    model = DiT.from_pretrained(tmp_path / "older")
    sample = noise(2, *model.sample_shape)
    expected = theirs(peer, sample, 37, [1, 2])
    agree("DiT", PEER, ours(model, sample, 37, [1, 2]), expected, what="the older class")
    model.save_pretrained(tmp_path / "newer")
    assert json.loads((tmp_path / "newer" / "config.json").read_text())["_class_name"] == "DiTTransformer2DModel"
    assert torch.equal(theirs(LibraryModel.from_pretrained(tmp_path / "newer"), sample, 37, [1, 2]), expected)


@torch.no_grad()
def test_pretrained_and_back(tmp_path: Path) -> None:
    """The library reads what save_pretrained wrote: no tensor missing, none left over, all equal."""
    peer = published(CONFIGS["DiT-XL-2-256"], tmp_path / "theirs")
    DiT.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    back, info = LibraryModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    state = back.state_dict()
    assert state.keys() == peer.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in peer.state_dict().items())
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    assert before.items() <= after.items()


def test_gradients_are_the_librarys(tmp_path: Path) -> None:
    """One backward pass: the gradient of every tensor, to 1e-5 of the largest of any."""
    peer = published(CONFIGS["no variance"], tmp_path)
    model, sample = DiT.from_pretrained(tmp_path), noise(2, 3, 12, 12)
    theirs(peer, sample, 37, [1, 5]).square().mean().backward()
    ours(model, sample, 37, [1, 5]).square().mean().backward()
    expected = {name: p.grad for name, p in peer.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert (p.grad - expected[name]).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_as_near_as_the_librarys(dtype: torch.dtype, tmp_path: Path) -> None:
    """Our fp16 and bf16 are no further from fp32 than twice the library's."""
    peer = published(CONFIGS["DiT-XL-2-256"], tmp_path)
    model, sample = DiT.from_pretrained(tmp_path), noise(1, 4, 16, 16)
    exact = ours(model, sample, 37, [3])
    near = (ours(model.to(dtype), sample, 37, [3]) - exact).abs().mean()
    library = (theirs(peer.to(dtype), sample.to(dtype), 37, [3]).float() - exact).abs().mean()
    assert near <= 2 * library
