"""UNet2D beside the library's UNet2DModel: the same published files, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from diffgraph.nodes.models.unet2d import UNet2D, UNet2DConfig
from diffgraph.weights.config import fields_of, parse_config

from ..fill import noise, randomise
from ..nodes.test_unet2d import CHURCH, CIFAR, DDPM, LATENT_CELEBAHQ, PUBLISHED, SUPER_RESOLUTION
from ..parity import agree

# Published configs, a quarter as wide or narrower, on small samples.
CONFIGS: dict[str, dict[str, Any]] = {
    "cifar10": CIFAR | {"block_out_channels": (32, 64, 64, 64)},
    "church": CHURCH | {"block_out_channels": (32, 32, 64, 64, 96, 96), "sample_size": 64},
    "latent-celebahq": LATENT_CELEBAHQ | {"block_out_channels": (32, 64, 96, 128), "sample_size": 16},
    "super-resolution": SUPER_RESOLUTION | {"block_out_channels": (32, 64, 64, 96), "sample_size": 16},
    "scale-shift": DDPM
    | {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "center_input_sample": True,
        "time_embedding_dim": 48,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 16,
    },
    "middle": {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "attn_norm_num_groups": 8,
        "layers_per_block": 3,
        "act_fn": "swish",
    },
    "no-attention": {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
    },
}


LibraryModel: Any = UNet2DModel


def published(config: dict[str, Any], folder: Path) -> Any:
    """A library's model with random weights, none zero, and what it publishes."""
    peer = LibraryModel(**config).eval()
    randomise(peer)
    peer.save_pretrained(folder)
    return peer


def read(folder: Path) -> UNet2D:
    """Our model from those files: every key of the config and every tensor must be known."""
    config = json.loads((folder / "config.json").read_text())
    values = parse_config(fields_of(UNet2DConfig), config, ignored=UNet2D.ignored, where="config.json")
    model = UNet2D(UNet2DConfig(**values)).eval()
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return model


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_same_numbers_as_the_library(name: str, tmp_path: Path) -> None:
    """To 1e-5 of the largest value: fp32 sums in another order."""
    peer = published(CONFIGS[name], tmp_path)
    model = read(tmp_path)
    sample = noise(2, *model.sample_shape)
    low_res = noise(2, model.hint_channels, *model.sample_shape[1:], seed=1)
    condition = model.condition(low_res) if model.hint_channels else None
    for time in (0, 37, torch.tensor([500, 999])):
        expected = peer(torch.cat([sample, low_res], dim=1), time).sample
        agree("UNet2D", "diffusers UNet2DModel", model(sample, time, condition).value, expected, what=name)


@torch.no_grad()
def test_pretrained_and_back(tmp_path: Path) -> None:
    """from_pretrained reads what the library saved, the library reads what save_pretrained wrote."""
    peer = published(CONFIGS["church"], tmp_path / "theirs")
    model = UNet2D.from_pretrained(tmp_path / "theirs")
    sample = noise(1, *model.sample_shape)
    expected = peer(sample, 37).sample
    agree("UNet2D", "diffusers UNet2DModel", model(sample, 37).value, expected, what="from_pretrained")
    model.save_pretrained(tmp_path / "ours")
    back = LibraryModel.from_pretrained(tmp_path / "ours")
    state = back.state_dict()
    assert state.keys() == peer.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in peer.state_dict().items())
    theirs, ours = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    assert ours == theirs


@torch.no_grad()
def test_old_attention_names_and_shapes(tmp_path: Path) -> None:
    """Files of 2022 call the projections query, key, value, proj_attn; some hold them as 1x1 convolutions."""
    peer = published(CONFIGS["cifar10"], tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in load_file(file).items():
        for new, ancient in old.items():
            name = name.replace(f".{new}.", f".{ancient}.")
        attends = ".attentions." in name and tensor.ndim == 2
        state[name] = tensor[:, :, None, None].contiguous() if attends else tensor
    save_file(state, file)
    model = UNet2D.from_pretrained(tmp_path)
    sample = noise(1, *model.sample_shape)
    expected = peer(sample, 37).sample
    agree("UNet2D", "diffusers UNet2DModel", model(sample, 37).value, expected, what="old names of attention")


@pytest.mark.parametrize("name", ["cifar10", "scale-shift"])
def test_gradients_are_the_librarys(name: str, tmp_path: Path) -> None:
    """One backward pass: the gradient of every tensor, to 1e-5 of the largest of any."""
    peer = published(CONFIGS[name], tmp_path)
    model = read(tmp_path)
    sample = noise(2, *model.sample_shape)
    peer(sample, 37).sample.square().mean().backward()
    model(sample, 37).value.square().mean().backward()
    expected = {name: p.grad for name, p in peer.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert (p.grad - expected[name]).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_as_near_as_the_librarys(dtype: torch.dtype, tmp_path: Path) -> None:
    """Our fp16 and bf16 are no further from fp32 than twice the library's."""
    peer = published(CONFIGS["scale-shift"], tmp_path)
    model, sample = read(tmp_path), noise(1, 4, 16, 16)
    exact = model(sample, 37).value
    ours = (model.to(dtype)(sample, 37).value - exact).abs().mean()
    theirs = (peer.to(dtype)(sample.to(dtype), 37).sample.float() - exact).abs().mean()
    assert ours <= 2 * theirs


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_are_the_librarys(name: str) -> None:
    """Full published configs: the same names and shapes of all tensors."""
    config = PUBLISHED[name][0]
    with torch.device("meta"):
        ours, theirs = UNet2D(UNet2DConfig(**config)).state_dict(), LibraryModel(**config).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
