"""UNetIF against the reference numbers of DeepFloyd IF's networks, shrunk and filled by rule (tests/fill.py)."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffgraph.errors import InputError, PortError, WeightsError
from diffgraph.nodes.kinds import Prediction, TextEmbeds
from diffgraph.nodes.models.text_unet import TextCondition
from diffgraph.nodes.models.unet2d_condition import UNet2DCondition, UNet2DConditionConfig
from diffgraph.nodes.models.unet_if import UNetIF, UNetIFConfig
from diffgraph.nodes.tensors import concat
from diffgraph.weights.config import fields_of, parse_config

from ..fill import fill, noise, randomise, wave
from .test_unet2d_condition import SD1, WRONG_INPUTS

SHARED: dict[str, Any] = {  # what all published IF configs share
    "act_fn": "gelu",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "encoder_hid_dim": 4096,
    "addition_embed_type": "text",
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 64,
    "out_channels": 6,
}


def first_stage(width: int) -> dict[str, Any]:
    """DeepFloyd/IF-I-M (192), -L (320) and -XL (704)."""
    return SHARED | {
        "sample_size": 64,
        "in_channels": 3,
        "block_out_channels": (width, 2 * width, 3 * width, 4 * width),
        "layers_per_block": 3,
        "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        "cross_attention_dim": 4 * width,
    }


SECOND_STAGE: dict[str, Any] = {  # what the second stage adds: the efficient U-Net
    "in_channels": 6,
    "class_embed_type": "timestep",
    "only_cross_attention": True,
    "resnet_skip_time_act": True,
    "time_embedding_act_fn": "gelu",
    "resnet_out_scale_factor": 1.4142271,
    "mid_block_scale_factor": 1.4142271,
}


def second_stage(width: int) -> dict[str, Any]:
    """DeepFloyd/IF-II-L (160), and -M (96, inferred from its size)."""
    return (
        SHARED
        | SECOND_STAGE
        | {
            "sample_size": 256,
            "block_out_channels": (width, 2 * width, 4 * width, 6 * width, 8 * width),
            "layers_per_block": (2, 2, 3, 5, 5),
            "down_block_types": (*["ResnetDownsampleBlock2D"] * 3, *["SimpleCrossAttnDownBlock2D"] * 2),
            "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 2, *["ResnetUpsampleBlock2D"] * 3),
            "cross_attention_dim": 8 * width,
            "time_embedding_dim": 8 * width,
        }
    )


SMALL = UNetIFConfig(
    **SHARED
    | {
        "sample_size": 8,
        "in_channels": 3,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "attention_head_dim": 16,
        "encoder_hid_dim": 48,
        "cross_attention_dim": 64,
        "time_embedding_dim": 64,
        "addition_embed_type_num_heads": 4,
    }
)
ENLARGING = replace(SMALL, **SECOND_STAGE)
MIXED = replace(ENLARGING, layers_per_block=(1, 2), only_cross_attention=(True, False), time_embedding_dim=None)
ALL = [SMALL, ENLARGING, MIXED]


def random(config: UNetIFConfig) -> UNetIF:
    model = UNetIF(config).eval()
    randomise(model)
    return model


def text_of(hidden: Tensor) -> TextEmbeds:
    return TextEmbeds(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))


def inputs_of(config: UNetIFConfig, rows: int, seed: int = 0) -> dict[str, Any]:
    """What `condition` of a network with this config takes, with different rows."""
    given: dict[str, Any] = {"text": text_of(noise(rows, 5, config.encoder_hid_dim, seed=seed))}
    if config.class_embed_type is not None:
        given["low_res"] = noise(rows, 3, 8, 8, seed=seed + 1)
        given["aug_level"] = torch.arange(rows) * 100 + 50 + seed
    return given


def original_name(name: str) -> str:
    """What IF calls a tensor of a two-level network with one block a level; three of its names are one."""
    for pattern, replacement in (
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^class_embedding\.linear_1", "aug_proj.0"),
        (r"^class_embedding\.linear_2", "aug_proj.2"),
        (r"^encoder_hid_proj", "encoder_proj"),
        (r"^add_embedding\.norm1", "encoder_pooling.0"),
        (r"^add_embedding\.pool", "encoder_pooling.1"),
        (r"^add_embedding\.proj", "encoder_pooling.2"),
        (r"^add_embedding\.norm2", "encoder_pooling.3"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
        (r"^down_blocks\.0\.downsamplers\.0", "input_blocks.2.0"),
        (r"^down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
        (r"^down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
        (r"^mid_block\.resnets\.0", "middle_block.0"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.1", "middle_block.2"),
        (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0"),
        (r"^up_blocks\.0\.attentions\.(\d)", r"output_blocks.\1.1"),
        (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.1.2"),
        (r"\.norm1\.", ".in_layers.0."),
        (r"\.conv1\.", ".in_layers.2."),
        (r"\.time_emb_proj\.", ".emb_layers.1."),
        (r"\.norm2\.", ".out_layers.0."),
        (r"\.conv2\.", ".out_layers.3."),
        (r"\.conv_shortcut\.", ".skip_connection."),
        (r"\.group_norm\.", ".norm."),
        (r"\.norm_cross\.", ".norm_encoder."),
        (r"\.to_[qkv]\.", ".qkv."),
        (r"\.add_[kv]_proj\.", ".encoder_kv."),
        (r"\.to_out\.0\.", ".proj_out."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def filled(config: UNetIFConfig) -> tuple[UNetIF, int]:
    """A network with values by the names and shapes of the original, and how many tensors that has.

    Rows of its joined projections are [head 0: q, k, v][head 1: ...].
    """
    model = UNetIF(config).eval()
    joined: dict[str, list[str]] = {}
    for name in model.state_dict():  # q before k before v, as registered
        joined.setdefault(original_name(name), []).append(name)
    state = model.state_dict()
    original = {
        name: torch.zeros(len(parts) * state[parts[0]].shape[0], *state[parts[0]].shape[1:])
        for name, parts in joined.items()
    }
    fill(cast(torch.nn.Module, SimpleNamespace(state_dict=lambda: original)))
    for name, parts in joined.items():
        rows = original[name].shape[0] // len(parts)
        heads = rows // config.attention_head_dim if len(parts) > 1 else 1
        for number, part in enumerate(parts):
            value = original[name].view(heads, len(parts), rows // heads, *original[name].shape[1:])[:, number]
            state[part].copy_(value.reshape(state[part].shape))
    assert sum(tensor.numel() for tensor in original.values()) == sum(p.numel() for p in model.parameters())
    return model, len(original)


def agrees(output: Tensor, elements: list[float], mean: float, std: float) -> bool:
    flat = output.flatten()
    found = [*flat[[0, 1, 2, 192, 383]].tolist(), flat.mean().item(), flat.std().item()]
    return found == pytest.approx([*elements, mean, std], abs=1e-4)


@torch.no_grad()
def test_the_first_stage_gives_the_reference_numbers() -> None:
    model, entries = filled(SMALL)
    assert sum(p.numel() for p in model.parameters()) == 795_750
    assert entries == 175
    prediction = model(wave(1, 3, 8, 8), 37, model.condition(text_of(wave(1, 5, 48, phase=0.2))))
    output = torch.cat([prediction.value, prediction.variance], dim=1)
    assert agrees(output, [0.10098, 0.0377, 0.09876, 0.16677, -0.20941], 0.015637, 0.600185)


@torch.no_grad()
def test_the_second_stage_gives_the_reference_numbers() -> None:
    model, entries = filled(replace(ENLARGING, resnet_out_scale_factor=2**0.5, mid_block_scale_factor=2**0.5))
    assert sum(p.numel() for p in model.parameters()) == 769_606
    assert entries == 179
    low_res = F.interpolate(wave(1, 3, 4, 4, phase=1.0), (8, 8), mode="bilinear", align_corners=True)
    condition = model.condition(text_of(wave(1, 5, 48, phase=0.2)), low_res, 250)
    prediction = model(wave(1, 3, 8, 8), 37, condition)
    output = torch.cat([prediction.value, prediction.variance], dim=1)
    assert agrees(output, [0.13927, -0.41758, -0.09451, -0.44519, -0.34284], 0.004253, 0.477782)


@pytest.mark.parametrize(
    ("config", "parameters", "entries"),
    [
        (first_stage(192), 371_605_830, 775),
        (first_stage(320), 935_365_830, 775),
        (first_stage(704), 4_304_695_110, 775),
        (second_stage(160), 1_183_628_550, 847),
    ],
)
def test_published_sizes(config: dict[str, Any], parameters: int, entries: int) -> None:
    with torch.device("meta"):
        model = UNetIF(UNetIFConfig(**config))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == entries
    assert not list(model.buffers())
    assert model.sample_shape == [3, config["sample_size"], config["sample_size"]]


def test_the_original_has_as_many_tensors() -> None:
    """Its joined projections counted: 643 tensors in IF-I-XL, 801 in IF-II-L."""
    for config, entries in ((first_stage(704), 643), (second_stage(160), 801)):
        with torch.device("meta"):
            state = UNetIF(UNetIFConfig(**config)).state_dict()
        joined = {re.sub(r"\.to_[qkv]\.", ".qkv.", re.sub(r"\.add_[kv]_proj\.", ".kv.", name)) for name in state}
        assert len(joined) == entries


def test_published_keys() -> None:
    """Names and shapes as DeepFloyd/IF-I-XL-v1.0 and IF-II-L-v1.0 have them, one of each pattern."""
    with torch.device("meta"):
        first = UNetIF(UNetIFConfig(**first_stage(704))).state_dict()
        second = UNetIF(UNetIFConfig(**second_stage(160))).state_dict()
    for state, shapes in (
        (
            first,
            {
                "conv_in.weight": (704, 3, 3, 3),
                "time_embedding.linear_2.weight": (2816, 2816),
                "encoder_hid_proj.weight": (2816, 4096),
                "add_embedding.norm1.weight": (4096,),
                "add_embedding.pool.positional_embedding": (1, 4096),
                "add_embedding.pool.k_proj.weight": (4096, 4096),
                "add_embedding.proj.weight": (2816, 4096),
                "add_embedding.norm2.bias": (2816,),
                "down_blocks.0.resnets.2.time_emb_proj.weight": (1408, 2816),
                "down_blocks.0.downsamplers.0.conv1.weight": (704, 704, 3, 3),
                "down_blocks.1.attentions.0.norm_cross.weight": (2816,),
                "down_blocks.1.attentions.0.add_k_proj.weight": (1408, 2816),
                "down_blocks.1.attentions.0.to_k.bias": (1408,),
                "mid_block.attentions.0.to_out.0.weight": (2816, 2816),
                "up_blocks.0.upsamplers.0.time_emb_proj.weight": (5632, 2816),
                "up_blocks.3.resnets.3.conv_shortcut.weight": (704, 1408, 1, 1),
                "conv_out.weight": (6, 704, 3, 3),
            },
        ),
        (
            second,
            {
                "conv_in.weight": (160, 6, 3, 3),
                "time_embedding.linear_1.weight": (1280, 160),
                "class_embedding.linear_2.weight": (1280, 1280),
                "down_blocks.3.attentions.4.group_norm.weight": (960,),
                "mid_block.attentions.0.add_v_proj.weight": (1280, 1280),
                "conv_out.weight": (6, 160, 3, 3),
            },
        ),
    ):
        assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert not [key for key in second if ".to_k." in key]


@pytest.mark.parametrize("config", ALL)
def test_every_parameter_matters(config: UNetIFConfig) -> None:
    """Each but the biases of keys that softmax takes out: those of all keys of a layer, or of the pooling."""
    model = random(replace(config, norm_num_groups=8)).double()
    condition = model.condition(**inputs_of(config, 2))
    torch.cat(model(noise(2, 3, 8, 8).double(), 37, condition), dim=1).square().mean().backward()  # type: ignore[arg-type]
    idle = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    lone = {f"{name}.add_k_proj.bias" for name, module in model.named_modules() if getattr(module, "text_only", False)}
    assert idle == lone | {"add_embedding.pool.k_proj.bias"}


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_four_rows_equal_four_singles(config: UNetIFConfig) -> None:
    model, sample, time = random(config), noise(4, 3, 8, 8), torch.tensor([0, 37, 500, 999])
    singles = [model.condition(**inputs_of(config, 1, seed=10 * row)) for row in range(4)]
    together = model(sample, time, concat(list(singles)))
    for row in range(4):
        single = model(sample[row : row + 1], int(time[row]), singles[row])
        torch.testing.assert_close(single.value, together.value[row : row + 1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(single.variance, together.variance[row : row + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_any_size_that_the_levels_halve() -> None:
    model, given = random(SMALL), inputs_of(SMALL, 1)
    prediction = model(noise(1, 3, 6, 20), 37, model.condition(**given))
    assert prediction.value.shape == prediction.variance.shape == (1, 3, 6, 20)


@torch.no_grad()
def test_every_choice_and_input_matters() -> None:
    """With the same weights, another value of an option that adds none gives another prediction."""
    state, sample = random(ENLARGING).state_dict(), noise(1, 3, 8, 8)
    given, other = inputs_of(ENLARGING, 1), inputs_of(ENLARGING, 1, seed=7)
    values = []
    for change in (
        {}, {"norm_eps": 0.1}, {"attention_head_dim": 32}, {"norm_num_groups": 16}, {"resnet_out_scale_factor": 2.0},
        {"mid_block_scale_factor": 2.0}, {"addition_embed_type_num_heads": 8}, *({"input": port} for port in given),
    ):  # fmt: skip
        told = dict(given)
        port = change.pop("input", None)
        if isinstance(port, str):
            told[port] = other[port]
        model = UNetIF(replace(ENLARGING, **change)).eval()
        model.load_state_dict(state)
        values.append(model(sample, 37, model.condition(**told)).value)
    for number, value in enumerate(values):
        assert not any(torch.allclose(value, previous, rtol=1e-4, atol=1e-5) for previous in values[:number])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("config", [SMALL, ENLARGING])
@torch.no_grad()
def test_half_precision_is_close(config: UNetIFConfig, dtype: torch.dtype, tolerance: float) -> None:
    """The tolerance is some ten roundings, against the largest value; the prediction keeps the sample's dtype."""
    model, sample, given = random(config), noise(2, 3, 8, 8), inputs_of(config, 2)
    exact = model(sample, 37, model.condition(**given)).value
    model.to(dtype)
    condition = model.condition(**given)
    value = model(sample, 37, condition).value
    assert value.dtype == torch.float32
    assert float((value - exact).abs().max() / exact.abs().max()) < tolerance
    assert model(sample.to(dtype), 37, condition).variance.dtype == dtype


@torch.no_grad()
def test_inputs_are_left_alone() -> None:
    model, sample, given = random(ENLARGING), noise(2, 3, 8, 8), inputs_of(ENLARGING, 2)
    tensors = [sample, given["low_res"], given["aug_level"], given["text"].hidden]
    kept = [tensor.clone() for tensor in tensors]
    condition = model.condition(**given)
    assert isinstance(condition, TextCondition)
    assert isinstance(model(sample, torch.tensor([1, 2]), condition), Prediction)
    for tensor, before in zip(tensors, kept, strict=True):
        assert torch.equal(tensor, before)


def test_dropout_only_while_training() -> None:
    model, sample = random(replace(SMALL, dropout=0.5)), noise(1, 3, 8, 8)
    condition = model.condition(**inputs_of(SMALL, 1))
    assert torch.equal(model(sample, 3, condition).value, model(sample, 3, condition).value)
    model.train()
    assert not torch.equal(model(sample, 3, condition).value, model(sample, 3, condition).value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 4}, "in_channels: 4 and out_channels: 6; expected 3 and 6, or 6 and 6"),
        ({"out_channels": 3}, "in_channels: 3 and out_channels: 3"),
        ({"in_channels": 6}, "class_embed_type: None; expected 'timestep'"),
        ({"class_embed_type": "timestep"}, "class_embed_type: timestep; expected"),
        ({"resnet_skip_time_act": True}, "resnet_skip_time_act: expected true with"),
        ({"block_out_channels": (32,)}, "down_block_types: 2 entries; block_out_channels has 1 levels"),
        ({"layers_per_block": (1,)}, "layers_per_block: 1 entries"),
        ({"only_cross_attention": (True,)}, "only_cross_attention: 1 entries"),
        ({"block_out_channels": (32, 48)}, "block_out_channels: 48 is not a multiple of 32"),
        ({"attention_head_dim": 24}, "block_out_channels: 64 is not a multiple of 24"),
        ({"addition_embed_type_num_heads": 5}, "encoder_hid_dim: 48 is not a multiple of 5"),
        ({"cross_attention_dim": 48}, "cross_attention_dim: 48 is not a multiple of 32"),
        ({"sample_size": 9}, "sample_size: 9 is not a multiple of 2"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **changes)


def test_each_node_refuses_the_others_config() -> None:
    """Both are published as UNet2DConditionModel; what is wrong is told key by key."""
    with pytest.raises(WeightsError) as error:
        parse_config(fields_of(UNetIFConfig), SD1 | {"act_fn": "silu"}, ignored=UNetIF.ignored, where="config.json")
    assert 'act_fn: "silu" is not permitted; allowed: "gelu"' in str(error.value)
    assert "encoder_hid_dim is missing" in str(error.value)
    with pytest.raises(WeightsError) as error:
        parse_config(
            fields_of(UNet2DConditionConfig), first_stage(192), ignored=UNet2DCondition.ignored, where="config.json"
        )
    for key in ("act_fn", "down_block_types", "mid_block_type", "encoder_hid_dim", "cross_attention_norm"):
        assert f"{key}: " in str(error.value)
    assert 'cross_attention_norm: "group_norm" is not permitted; allowed: null' in str(error.value)


WRONG_SAMPLES: list[tuple[dict[str, Any], str, str]] = [
    ({"sample": noise(2, 6, 8, 8)}, "sample", r"\[2, 6, 8, 8\]; this model takes \[B, 3, any, any\]"),
    ({"sample": noise(2, 3, 9, 8)}, "sample", "9 high and 8 wide; this network takes multiples of 2"),
    ({"sample": noise(2, 3, 8, 8).long()}, "sample", "torch.int64"),
    ({"sample": noise(3, 3, 8, 8)}, "condition", "has 2 rows, the sample 3"),
]


@pytest.mark.parametrize(
    ("changes", "port", "message"), [*WRONG_SAMPLES, *(case for case in WRONG_INPUTS if "sample" not in case[0])]
)
def test_wrong_inputs_are_refused(changes: dict[str, Any], port: str, message: str) -> None:
    model = UNetIF(SMALL)
    condition = model.condition(**inputs_of(SMALL, 2))
    with pytest.raises(PortError, match=message) as error:
        model(**{"sample": noise(2, 3, 8, 8), "timestep": 37, "condition": condition, **changes})
    assert error.value.port == port


def test_a_condition_of_another_network_is_refused() -> None:
    condition = UNetIF(ENLARGING).condition(**inputs_of(ENLARGING, 2))
    with pytest.raises(PortError, match="is of another network"):
        UNetIF(SMALL)(noise(2, 3, 8, 8), 37, condition)
    with pytest.raises(PortError, match=r"was made for samples of \[8, 8\], not of \[16, 16\]"):
        UNetIF(ENLARGING)(noise(2, 3, 16, 16), 37, condition)


@pytest.mark.parametrize(
    ("config", "changes", "port", "message"),
    [
        (SMALL, {"text": noise(2, 5, 48)}, "text", "is a Tensor; expected TextEmbeds"),
        (SMALL, {"text": text_of(noise(2, 5, 64))}, "text", r"\[2, 5, 64\]; this model takes \[B, any, 48\]"),
        (SMALL, {"low_res": noise(2, 3, 8, 8)}, "low_res", "this network takes none"),
        (SMALL, {"aug_level": 250}, "aug_level", "this network takes none"),
        (ENLARGING, {"low_res": None}, "low_res", "enlarges an image and needs it"),
        (ENLARGING, {"aug_level": None}, "aug_level", "enlarges an image and needs it"),
        (ENLARGING, {"aug_level": -1}, "aug_level", "0 or more, not -1"),
        (ENLARGING, {"low_res": noise(1, 3, 8, 8)}, "low_res", "has 1 rows, the text 2"),
        (ENLARGING, {"low_res": noise(2, 4, 8, 8)}, "low_res", r"this model takes \[B, 3, any, any\]"),
    ],
)
def test_wrong_conditions_are_refused(config: UNetIFConfig, changes: dict[str, Any], port: str, message: str) -> None:
    with pytest.raises(PortError, match=message) as error:
        UNetIF(config).condition(**{**inputs_of(config, 2), **changes})
    assert error.value.port == port
