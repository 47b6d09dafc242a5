"""UNet3D beside the library's UNet3DConditionModel: the same published files, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet3DConditionModel

from diffgraph.nodes.models.unet3d import UNet3D

from ..fill import noise, randomise
from ..nodes.test_unet3d import PUBLISHED, text_of
from ..parity import agree

PEER = "diffusers UNet3DConditionModel"
FLAGS = {key: value for key, value in PUBLISHED.items() if not key.startswith("_")}
CONFIGS: dict[str, dict[str, Any]] = {
    "text-to-video-ms-1.7b": FLAGS  # a tenth as wide
    | {
        "block_out_channels": (32, 64, 96, 96),
        "attention_head_dim": 16,
        "cross_attention_dim": 40,
        "sample_size": 16,
    },
    "attention at the bottom": {
        "block_out_channels": (16, 32),
        "attention_head_dim": 8,
        "cross_attention_dim": 24,
        "sample_size": 8,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
        "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
        "downsample_padding": 0,
        "norm_num_groups": 8,
        "norm_eps": 1e-3,
        "in_channels": 3,
        "out_channels": 3,
        "act_fn": "swish",
    },
}

LibraryModel: Any = UNet3DConditionModel


def published(config: dict[str, Any], folder: Path) -> Any:
    """A library's model with random weights, none zero, and what it publishes."""
    peer = LibraryModel(**config).eval()
    with torch.no_grad():
        randomise(peer)
    peer.save_pretrained(folder)
    return peer


def theirs(peer: Any, sample: torch.Tensor, time: Any, text: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = peer(sample, time, encoder_hidden_states=text).sample
    return out


def ours(model: UNet3D, sample: torch.Tensor, time: Any, text: torch.Tensor) -> torch.Tensor:
    return model(sample, time, model.condition(text_of(text))).value


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_same_numbers_as_the_library(name: str, tmp_path: Path) -> None:
    """To 1e-5 of the largest value: fp32 sums in another order."""
    peer = published(CONFIGS[name], tmp_path)
    model = UNet3D.from_pretrained(tmp_path)
    channels, size = model.config.in_channels, model.config.sample_size
    text = noise(2, 7, model.config.cross_attention_dim, seed=1)
    for frames, time in ((3, 0), (4, 37), (1, torch.tensor([500, 999]))):
        sample = noise(2, channels, frames, size, size)
        agree("UNet3D", PEER, ours(model, sample, time, text), theirs(peer, sample, time, text), what=name)


@torch.no_grad()
def test_pretrained_and_back(tmp_path: Path) -> None:
    """The library reads what save_pretrained wrote: no tensor missing, none left over, all equal."""
    peer = published(CONFIGS["text-to-video-ms-1.7b"], tmp_path / "theirs")
    UNet3D.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    back, info = LibraryModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    state = back.state_dict()
    assert state.keys() == peer.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in peer.state_dict().items())
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    assert before | {"num_frames": 16} == after


def test_gradients_are_the_librarys(tmp_path: Path) -> None:
    """One backward pass: the gradient of every tensor, to 1e-5 of the largest of any."""
    peer = published(CONFIGS["attention at the bottom"], tmp_path)
    model, sample, text = UNet3D.from_pretrained(tmp_path), noise(2, 3, 3, 8, 8), noise(2, 5, 24)
    theirs(peer, sample, 37, text).square().mean().backward()
    ours(model, sample, 37, text).square().mean().backward()
    expected = {name: p.grad for name, p in peer.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert (p.grad - expected[name]).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_as_near_as_the_librarys(dtype: torch.dtype, tmp_path: Path) -> None:
    """Our fp16 and bf16 are no further from fp32 than twice the library's."""
    peer = published(CONFIGS["attention at the bottom"], tmp_path)
    model, sample, text = UNet3D.from_pretrained(tmp_path), noise(1, 3, 3, 8, 8), noise(1, 5, 24)
    exact = ours(model, sample, 37, text)
    near = (ours(model.to(dtype), sample, 37, text) - exact).abs().mean()
    library = (theirs(peer.to(dtype), sample.to(dtype), 37, text.to(dtype)).float() - exact).abs().mean()
    assert near <= 2 * library
