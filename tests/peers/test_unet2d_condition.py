"""UNet2DCondition beside the library's UNet2DConditionModel: the same published files, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffgraph.nodes.kinds import TextEmbeds
from diffgraph.nodes.models.unet2d_condition import UNet2DCondition, UNet2DConditionConfig

from ..fill import noise, randomise
from ..nodes.test_unet2d_condition import LDM, SD1, SD1_INPAINTING, SD2, SD2_BASE, SD2_INPAINTING
from ..parity import agree

# Published configs, a tenth as wide, on small samples.
NARROW: dict[str, Any] = {"block_out_channels": (32, 64, 128, 128), "sample_size": 16, "cross_attention_dim": 40}
HEADS: dict[str, Any] = {"attention_head_dim": (1, 2, 4, 4)}
CONFIGS: dict[str, dict[str, Any]] = {
    "ldm-text2im-large-256": LDM | NARROW,
    "stable-diffusion-1.4": SD1 | NARROW,
    "stable-diffusion-1-inpainting": SD1_INPAINTING | NARROW,
    "stable-diffusion-2.1-base": SD2_BASE | NARROW | HEADS,
    "stable-diffusion-2.1": SD2 | NARROW | HEADS | {"upcast_attention": True},
    "stable-diffusion-2-inpainting": SD2_INPAINTING | NARROW | HEADS,
    "other": NARROW
    | {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 16,
        "time_embedding_dim": 48,
        "act_fn": "swish",
    },
}

CONFIGS["text added to time"] = CONFIGS["other"] | {
    "cross_attention_dim": 64,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
}

LibraryModel: Any = UNet2DConditionModel


def published(config: dict[str, Any], folder: Path) -> Any:
    """A library's model with random weights, none zero, and what it publishes."""
    peer = LibraryModel(**config).eval()
    randomise(peer)
    peer.save_pretrained(folder)
    return peer


def inputs_of(config: dict[str, Any], rows: int) -> tuple[torch.Tensor, TextEmbeds, list[torch.Tensor]]:
    """A sample, a text, and for inpainting a mask and masked latents."""
    text = noise(rows, 7, config["cross_attention_dim"], seed=1)
    beside = [(noise(rows, 1, 16, 16, seed=2) > 0).float(), noise(rows, 4, 16, 16, seed=3)]
    embeds = TextEmbeds(text, torch.arange(7)[None].expand(rows, -1) < 4)
    return noise(rows, 4, 16, 16), embeds, beside if config.get("in_channels") == 9 else []


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_same_numbers_as_the_library_and_back(name: str, tmp_path: Path) -> None:
    """fp32 sums in another order. The library loads what we save, with nothing missing or left over."""
    config = CONFIGS[name]
    peer = published(config, tmp_path / "theirs")
    model = UNet2DCondition.from_pretrained(tmp_path / "theirs")
    sample, text, beside = inputs_of(config, 2)
    condition = model.condition(text, *beside)
    for time in (0, torch.tensor([500, 999])):
        expected = peer(torch.cat([sample, *beside], dim=1), time, text.hidden).sample
        agree(
            "UNet2DCondition",
            "diffusers UNet2DConditionModel",
            model(sample, time, condition).value,
            expected,
            what=name,
        )

    model.save_pretrained(tmp_path / "ours")
    back, report = LibraryModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    again = back(torch.cat([sample, *beside], dim=1), time, text.hidden).sample
    assert torch.equal(again, expected)
    theirs, ours = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("theirs", "ours"))
    assert ours == theirs


@pytest.mark.parametrize("config", [LDM, SD1, SD1_INPAINTING, SD2_BASE, SD2, SD2_INPAINTING])
def test_the_same_tensors_at_full_size(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        ours = UNet2DCondition(UNet2DConditionConfig(**config)).state_dict()
        theirs = LibraryModel(**config).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


def test_gradients_are_the_librarys(tmp_path: Path) -> None:
    """One backward pass: the gradient of every tensor, to 1e-5 of the largest of any."""
    config = CONFIGS["stable-diffusion-2.1-base"]
    peer = published(config, tmp_path)
    model = UNet2DCondition.from_pretrained(tmp_path)
    sample, text, _ = inputs_of(config, 1)
    peer(sample, 37, text.hidden).sample.square().mean().backward()
    model(sample, 37, model.condition(text)).value.square().mean().backward()
    expected = {name: p.grad for name, p in peer.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert (p.grad - expected[name]).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_as_near_as_the_librarys(dtype: torch.dtype, tmp_path: Path) -> None:
    """Our fp16 and bf16 are no further from fp32 than twice the library's."""
    config = CONFIGS["stable-diffusion-2.1"]
    peer = published(config, tmp_path)
    model = UNet2DCondition.from_pretrained(tmp_path)
    sample, text, _ = inputs_of(config, 1)
    exact = model(sample, 37, model.condition(text)).value
    model.to(dtype)
    ours = (model(sample, 37, model.condition(text)).value - exact).abs().mean()
    halved = peer.to(dtype)(sample.to(dtype), 37, text.hidden.to(dtype)).sample
    assert ours <= 2 * (halved.float() - exact).abs().mean()
