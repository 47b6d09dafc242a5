"""UNet2D against the reference numbers of DDPM's network, shrunk and filled by rule (tests/fill.py)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffgraph.errors import InputError, PortError
from diffgraph.nodes.kinds import Prediction
from diffgraph.nodes.models.unet2d import UNet2D, UNet2DConfig

from ..fill import fill, noise, randomise, wave

DDPM: dict[str, Any] = {  # what all published DDPM configs share
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
SMALL = UNet2DConfig(
    sample_size=8,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    **DDPM,
)
HEADS = replace(SMALL, attention_head_dim=16, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, norm_eps=1e-5)
SCALED = replace(SMALL, resnet_time_scale_shift="scale_shift", center_input_sample=True, time_embedding_dim=48)
BARE = replace(SMALL, add_attention=False, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
ALL = [SMALL, HEADS, SCALED, BARE]

CIFAR: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    **DDPM,
}
CHURCH: dict[str, Any] = {
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
    **DDPM,
}
LATENT_CELEBAHQ: dict[str, Any] = {"sample_size": 64, "attention_head_dim": 32}


def random(config: UNet2DConfig) -> UNet2D:
    model = UNet2D(config).eval()
    randomise(model)
    return model


def original_name(name: str, levels: int) -> str:
    """What the original torch port calls a tensor of the published layout; it counts levels from the largest."""
    up = re.match(r"up_blocks\.(\d+)\.", name)
    if up:
        name = name.replace(up[0], f"up.{levels - 1 - int(up[1])}.", 1)
    for pattern, replacement in (
        (r"^time_embedding\.linear_(\d)", lambda m: f"temb.dense.{int(m[1]) - 1}"),
        (r"^conv_norm_out", "norm_out"),
        (r"^down_blocks", "down"),
        (r"^mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"^mid_block\.attentions\.0", "mid.attn_1"),
        (r"\.resnets\.", ".block."),
        (r"\.attentions\.", ".attn."),
        (r"\.downsamplers\.0", ".downsample"),
        (r"\.upsamplers\.0", ".upsample"),
        (r"\.time_emb_proj", ".temb_proj"),
        (r"\.conv_shortcut", ".nin_shortcut"),
        (r"\.group_norm", ".norm"),
        (r"\.to_([qkv])\.", r".\1."),
        (r"\.to_out\.0", ".proj_out"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@torch.no_grad()
def test_reference_numbers() -> None:
    model = UNet2D(SMALL).eval()
    assert sum(p.numel() for p in model.parameters()) == 702_499
    assert len(model.state_dict()) == 144
    fill(model, {name: original_name(name, 2) for name in model.state_dict()})
    flat = model(wave(1, 3, 8, 8), 37).value.flatten()
    found = [*flat[[0, 1, 2, 96, 191]].tolist(), flat.mean().item(), flat.std().item()]
    expected = [-0.15412, 0.10512, 0.22483, -0.35594, -0.01341, -0.058126, 0.427298]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "parameters", "entries"),
    [(CIFAR, 35_746_307, None), (CHURCH, 113_673_219, None), (LATENT_CELEBAHQ, 274_056_163, 432)],
)
def test_published_sizes(config: dict[str, Any], parameters: int, entries: int | None) -> None:
    with torch.device("meta"):
        model = UNet2D(UNet2DConfig(**config))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert entries in (None, len(model.state_dict()))
    assert not list(model.buffers())


def test_published_keys() -> None:
    """Names and shapes as google/ddpm-church-256 has them, one of each pattern."""
    with torch.device("meta"):
        state = UNet2D(UNet2DConfig(**CHURCH)).state_dict()
    shapes = {
        "conv_in.weight": (128, 3, 3, 3),
        "time_embedding.linear_1.weight": (512, 128),
        "time_embedding.linear_2.weight": (512, 512),
        "down_blocks.0.resnets.0.norm1.weight": (128,),
        "down_blocks.0.resnets.0.conv1.weight": (128, 128, 3, 3),
        "down_blocks.0.resnets.0.time_emb_proj.weight": (128, 512),
        "down_blocks.0.downsamplers.0.conv.weight": (128, 128, 3, 3),
        "down_blocks.4.resnets.0.conv_shortcut.weight": (512, 256, 1, 1),
        "down_blocks.4.attentions.1.group_norm.weight": (512,),
        "down_blocks.4.attentions.1.to_q.weight": (512, 512),
        "down_blocks.4.attentions.1.to_out.0.bias": (512,),
        "mid_block.attentions.0.to_v.weight": (512, 512),
        "mid_block.resnets.1.conv2.weight": (512, 512, 3, 3),
        "up_blocks.0.resnets.0.conv1.weight": (512, 1024, 3, 3),
        "up_blocks.1.attentions.2.to_k.bias": (512,),
        "up_blocks.4.upsamplers.0.conv.weight": (128, 128, 3, 3),
        "conv_norm_out.weight": (128,),
        "conv_out.weight": (3, 128, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_old_names_of_attention_are_known() -> None:
    names = {
        "query.weight": "to_q.weight",
        "key.bias": "to_k.bias",
        "value.bias": "to_v.bias",
        "proj_attn.weight": "to_out.0.weight",
    }
    for old, new in names.items():
        name = f"mid_block.attentions.0.{old}"
        for pattern, replacement in UNet2D.keys:
            name = re.sub(pattern, replacement, name)
        assert name == f"mid_block.attentions.0.{new}"


@pytest.mark.parametrize("config", ALL)
def test_every_parameter_matters(config: UNet2DConfig) -> None:
    """Each but the bias of keys, which softmax takes out. Groups have many channels, or norms take out biases too."""
    model = random(replace(config, norm_num_groups=8)).double()
    model(noise(2, *model.sample_shape).double(), 37).value.square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert all(name.endswith(".to_k.bias") for name in idle)


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_four_rows_equal_four_singles(config: UNet2DConfig) -> None:
    model, sample, time = random(config), noise(4, 3, 8, 8), torch.tensor([0, 37, 500, 999])
    together = model(sample, time).value
    for row in range(4):
        single = model(sample[row : row + 1], int(time[row])).value
        torch.testing.assert_close(single, together[row : row + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_every_choice_matters() -> None:
    """With the same weights, another value of an option that adds none gives another prediction."""
    state, sample = random(SMALL).state_dict(), noise(1, 3, 8, 8)
    values = []
    for change in (
        {}, {"downsample_padding": 1}, {"flip_sin_to_cos": True}, {"freq_shift": 0.0}, {"norm_eps": 0.1},
        {"attention_head_dim": 16}, {"norm_num_groups": 16}, {"attn_norm_num_groups": 16},
        {"center_input_sample": True},
    ):  # fmt: skip
        model = UNet2D(replace(SMALL, **change)).eval()
        model.load_state_dict(state)
        values.append(model(sample, 37).value)
    for number, value in enumerate(values):
        assert not any(torch.allclose(value, other, rtol=1e-3, atol=1e-4) for other in values[:number])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
@torch.no_grad()
def test_half_precision_is_close(dtype: torch.dtype, tolerance: float) -> None:
    """The tolerance is some ten roundings, against the largest value; the prediction keeps the sample's dtype."""
    model, sample = random(SMALL), noise(2, 3, 8, 8)
    exact = model(sample, 37).value
    model.to(dtype)
    value = model(sample, 37).value
    assert value.dtype == torch.float32
    assert float((value - exact).abs().max() / exact.abs().max()) < tolerance
    assert model(sample.to(dtype), 37).value.dtype == dtype


@torch.no_grad()
def test_inputs_are_left_alone() -> None:
    model, sample, time = random(SCALED), noise(2, 3, 8, 8), torch.tensor([1, 2])
    kept, kept_time = sample.clone(), time.clone()
    prediction = model(sample, time)
    assert isinstance(prediction, Prediction)
    assert prediction.variance is None
    assert torch.equal(sample, kept)
    assert torch.equal(time, kept_time)


def test_dropout_only_while_training() -> None:
    model, sample = random(replace(SMALL, dropout=0.5)), noise(2, 3, 8, 8)
    assert torch.equal(model(sample, 3).value, model(sample, 3).value)
    model.train()
    assert not torch.equal(model(sample, 3).value, model(sample, 3).value)


def test_a_fresh_network_predicts_zero_and_learns() -> None:
    """Output convolutions begin at zero; a few steps of training lower the loss."""
    torch.manual_seed(0)
    model, sample, target = UNet2D(SMALL), noise(4, 3, 8, 8), noise(4, 3, 8, 8, seed=5)
    assert not model(sample, 3).value.any()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = (model(sample, 3).value - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@torch.no_grad()
def test_another_size_by_config() -> None:
    """Being convolutional, the same weights serve another size, which the config must say."""
    wide = UNet2D(replace(SMALL, sample_size=16)).eval()
    wide.load_state_dict(random(SMALL).state_dict())
    assert wide(noise(1, 3, 16, 16), 37).value.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 6}, "out_channels: 6, but the sample has 3"),
        ({"block_out_channels": (32,)}, "1, 2 and 2 levels"),
        ({"block_out_channels": ()}, "0, 2 and 2 levels"),
        ({"block_out_channels": (), "down_block_types": (), "up_block_types": ()}, "at least one level"),
        ({"block_out_channels": (32, 48)}, "block_out_channels: 48 is not a multiple of 32"),
        ({"attention_head_dim": 24}, "block_out_channels: 64 is not a multiple of 24"),
        ({"attn_norm_num_groups": 24}, "block_out_channels: 64 is not a multiple of 24"),
        ({"freq_shift": 16.0}, "freq_shift: 16 is not below"),
        ({"sample_size": 9}, "sample_size: 9 cannot be halved 1 times"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("changes", "port", "message"),
    [
        ({"sample": noise(2, 3, 16, 16)}, "sample", r"\[2, 3, 16, 16\]; this model takes \[B, 3, 8, 8\]"),
        ({"sample": noise(2, 4, 8, 8)}, "sample", "this model takes"),
        ({"sample": noise(3, 8, 8)}, "sample", "this model takes"),
        ({"sample": noise(2, 3, 8, 8).long()}, "sample", "torch.int64"),
        ({"sample": noise(2, 3, 8, 8).to("meta")}, "sample", "is on meta, the model on cpu"),
        ({"sample": None}, "sample", "not NoneType"),
        ({"timestep": -1}, "timestep", "0 or more, not -1"),
        ({"timestep": float("nan")}, "timestep", "not nan"),
        ({"timestep": "3"}, "timestep", "not str"),
        ({"timestep": torch.tensor([1, 2, 3])}, "timestep", r"shape \[3\]"),
        ({"timestep": torch.tensor([1.0, float("inf")])}, "timestep", "0 or more"),
        ({"timestep": torch.tensor([True, False])}, "timestep", "torch.bool"),
        ({"condition": noise(2, 4)}, "condition", "unconditional"),
    ],
)
def test_wrong_inputs_are_refused(changes: dict[str, Any], port: str, message: str) -> None:
    with pytest.raises(PortError, match=message) as error:
        UNet2D(SMALL)(**{"sample": noise(2, 3, 8, 8), "timestep": 37, **changes})
    assert error.value.port == port
