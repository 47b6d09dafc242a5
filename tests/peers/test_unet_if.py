"""UNetIF beside the library's UNet2DConditionModel: the same published files, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffgraph.nodes.kinds import TextEmbeds
from diffgraph.nodes.models.unet_if import UNetIF, UNetIFConfig

from ..fill import noise, randomise
from ..nodes.test_unet_if import first_stage, second_stage
from ..parity import agree

# Published configs, an eighth as wide or narrower, on small samples.
NARROW: dict[str, Any] = {"encoder_hid_dim": 40, "addition_embed_type_num_heads": 4, "attention_head_dim": 16}
TWO_LEVELS: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 16,
}
FIRST = {"sample_size": 16} | NARROW
SECOND = {"sample_size": 32} | NARROW
CONFIGS: dict[str, dict[str, Any]] = {
    "IF-I-M": first_stage(32) | FIRST,
    "IF-I-L": first_stage(48) | FIRST | {"layers_per_block": 1, "norm_num_groups": 16},
    "IF-I-XL": first_stage(64) | FIRST | {"layers_per_block": 1, "attention_head_dim": 64},
    "IF-II-M": second_stage(16) | SECOND | {"norm_num_groups": 16, "time_embedding_dim": None},
    "IF-II-L": second_stage(32) | SECOND | {"layers_per_block": (1, 1, 2, 2, 2)},
    "a level of text alone": first_stage(32) | FIRST | TWO_LEVELS | {"only_cross_attention": (False, True)},
    "a middle of text alone": first_stage(32) | FIRST | TWO_LEVELS | {"mid_block_only_cross_attention": True},
    "text alone, not in the middle": first_stage(32)
    | FIRST
    | TWO_LEVELS
    | {"only_cross_attention": True, "mid_block_only_cross_attention": False, "encoder_hid_dim_type": "text_proj"},
}

LibraryModel: Any = UNet2DConditionModel


def published(config: dict[str, Any], folder: Path) -> Any:
    """A library's model with random weights, none zero, and what it publishes."""
    peer = LibraryModel(**config).eval()
    randomise(peer)
    peer.save_pretrained(folder)
    return peer


def inputs_of(config: dict[str, Any], rows: int) -> tuple[torch.Tensor, TextEmbeds, dict[str, Any]]:
    """A sample, a text, and for the second stage an image beside it and its level of noise."""
    size = config["sample_size"]
    text = noise(rows, 7, config["encoder_hid_dim"], seed=1)
    embeds = TextEmbeds(text, torch.arange(7)[None].expand(rows, -1) < 4)
    told: dict[str, Any] = {}
    if config["in_channels"] == 6:
        told = {"low_res": noise(rows, 3, size, size, seed=2), "aug_level": torch.arange(rows) * 100 + 250}
    return noise(rows, 3, size, size), embeds, told


def of_the_library(peer: Any, sample: torch.Tensor, time: Any, text: TextEmbeds, told: dict[str, Any]) -> torch.Tensor:
    """What its pipelines do: the image beside the sample, its level as the class, both outputs in one."""
    beside = torch.cat([sample, told["low_res"].to(sample.dtype)], dim=1) if told else sample
    hidden = text.hidden.to(sample.dtype)
    out: torch.Tensor = peer(beside, time, hidden, class_labels=told.get("aug_level")).sample
    return out


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_same_numbers_as_the_library_and_back(name: str, tmp_path: Path) -> None:
    """fp32 sums in another order. The library loads what we save, with nothing missing or left over."""
    config = CONFIGS[name]
    peer = published(config, tmp_path / "theirs")
    model = UNetIF.from_pretrained(tmp_path / "theirs")
    sample, text, told = inputs_of(config, 2)
    condition = model.condition(text, **told)
    for time in (0, torch.tensor([500, 999])):
        expected = of_the_library(peer, sample, time, text, told)
        ours = torch.cat(model(sample, time, condition), dim=1)
        agree("UNetIF", "diffusers UNet2DConditionModel", ours, expected, what=name)

    model.save_pretrained(tmp_path / "ours")
    back, report = LibraryModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(of_the_library(back, sample, time, text, told), expected)
    theirs, ours_saved = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("theirs", "ours"))
    assert ours_saved == theirs


@pytest.mark.parametrize("config", [first_stage(192), first_stage(320), first_stage(704), second_stage(160)])
def test_the_same_tensors_at_full_size(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        ours = UNetIF(UNetIFConfig(**config)).state_dict()
        theirs = LibraryModel(**config).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


@pytest.mark.parametrize("name", ["a level of text alone", "IF-II-M"])
def test_gradients_are_the_librarys(name: str, tmp_path: Path) -> None:
    """One backward pass: the gradient of every tensor, to 1e-5 of the largest of any."""
    config = CONFIGS[name]
    peer = published(config, tmp_path)
    model = UNetIF.from_pretrained(tmp_path)
    sample, text, told = inputs_of(config, 1)
    of_the_library(peer, sample, 37, text, told).square().mean().backward()
    torch.cat(model(sample, 37, model.condition(text, **told)), dim=1).square().mean().backward()
    expected = {name: p.grad for name, p in peer.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for key, p in model.named_parameters():
        assert p.grad is not None
        assert (p.grad - expected[key]).abs().max() <= 1e-5 * largest, key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["IF-I-M", "IF-II-M"])
@torch.no_grad()
def test_half_precision_as_near_as_the_librarys(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Our fp16 and bf16 are no further from fp32 than twice the library's."""
    config = CONFIGS[name]
    peer = published(config, tmp_path)
    model = UNetIF.from_pretrained(tmp_path)
    sample, text, told = inputs_of(config, 1)
    exact = model(sample, 37, model.condition(text, **told)).value
    model.to(dtype)
    ours = (model(sample, 37, model.condition(text, **told)).value - exact).abs().mean()
    halved = of_the_library(peer.to(dtype), sample.to(dtype), 37, text, told)[:, :3]
    assert ours <= 2 * (halved.float() - exact).abs().mean()
