"""UNet2D against the reference numbers of DDPM's network, shrunk and filled by rule (tests/fill.py)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.errors import InputError, PortError
from diffgraph.nodes.kinds import Prediction
from diffgraph.nodes.models.unet2d import UNet2D, UNet2DConfig, UNet2DHint

from ..fill import fill, filled, noise, randomise, wave

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
HINTED = replace(HEADS, in_channels=5)
ALL = [SMALL, HEADS, SCALED, BARE, HINTED]

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
SUPER_RESOLUTION: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 6,
    "out_channels": 3,
    "block_out_channels": (160, 320, 320, 640),
    "down_block_types": (*["DownBlock2D"] * 3, "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", *["UpBlock2D"] * 3),
    "attention_head_dim": 32,
}
PUBLISHED: dict[str, tuple[dict[str, Any], int, int | None]] = {  # config, parameters, tensors where published
    "google/ddpm-cifar10-32": (CIFAR, 35_746_307, None),
    "google/ddpm-{church,bedroom,cat,celebahq}-256 and ema-": (CHURCH, 113_673_219, None),
    "CompVis/ldm-celebahq-256": (LATENT_CELEBAHQ, 274_056_163, 432),
    "CompVis/ldm-super-resolution-4x-openimages": (SUPER_RESOLUTION, 113_600_000, None),  # rounded
}


def test_the_demo_is_read_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert UNet2D.from_pretrained("pkg://diffgraph/weights/ddpm-demo").config.sample_size == 32


def random(config: UNet2DConfig) -> UNet2D:
    model = UNet2D(config).eval()
    randomise(model)
    return model


def told(model: UNet2D, rows: int) -> Any:
    """A condition, where the network takes one."""
    return model.condition(noise(rows, model.hint_channels, 8, 8, seed=2)) if model.hint_channels else None


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


def openai_name(name: str) -> str:
    """What the original of latent diffusion calls a tensor, for two levels of one block."""
    place, rest = next(
        (new, name.removeprefix(old))
        for old, new in (
            ("time_embedding.linear_1", "time_embed.0"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("conv_in", "input_blocks.0.0"),
            ("down_blocks.0.resnets.0", "input_blocks.1.0"),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
            ("down_blocks.1.resnets.0", "input_blocks.3.0"),
            ("down_blocks.1.attentions.0", "input_blocks.3.1"),
            ("mid_block.resnets.0", "middle_block.0"),
            ("mid_block.attentions.0", "middle_block.1"),
            ("mid_block.resnets.1", "middle_block.2"),
            ("up_blocks.0.resnets.0", "output_blocks.0.0"),
            ("up_blocks.0.attentions.0", "output_blocks.0.1"),
            ("up_blocks.0.resnets.1", "output_blocks.1.0"),
            ("up_blocks.0.attentions.1", "output_blocks.1.1"),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv"),
            ("up_blocks.1.resnets.0", "output_blocks.2.0"),
            ("up_blocks.1.resnets.1", "output_blocks.3.0"),
            ("conv_norm_out", "out.0"),
            ("conv_out", "out.2"),
        )
        if name.startswith(old)
    )
    for pattern, replacement in (
        (r"^\.norm1", ".in_layers.0"),
        (r"^\.conv1", ".in_layers.2"),
        (r"^\.time_emb_proj", ".emb_layers.1"),
        (r"^\.norm2", ".out_layers.0"),
        (r"^\.conv2", ".out_layers.3"),
        (r"^\.conv_shortcut", ".skip_connection"),
        (r"^\.group_norm", ".norm"),
        (r"^\.to_[qkv]", ".qkv"),
        (r"^\.to_out\.0", ".proj_out"),
    ):
        rest = re.sub(pattern, replacement, rest)
    return place + rest


@torch.no_grad()
def test_reference_numbers_of_latent_diffusion() -> None:
    """The original holds queries, keys and values in one tensor, whose rows are [head 0: q, k, v][head 1: ...]."""
    model = UNet2D(HEADS).eval()
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 702_499
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in state.items():
        original, shape = openai_name(name), tuple(tensor.shape)
        joined = original.endswith((".qkv.weight", ".qkv.bias"))
        shapes[original] = (3 * shape[0], *shape[1:]) if joined else shape
    assert len(shapes) == 128
    filled_by_name = {name: filled(name, number, shapes[name]) for number, name in enumerate(sorted(shapes))}
    for name, tensor in state.items():
        value = filled_by_name[openai_name(name)]
        if value.shape != tensor.shape:
            part = "qkv".index(re.search(r"to_([qkv])", name)[1])  # type: ignore[index]
            value = value.unflatten(0, (-1, 3, 16))[:, part].flatten(0, 1)
        tensor.copy_(value)
    flat = model(wave(1, 3, 8, 8), 37).value.flatten()
    found = [*flat[[0, 1, 2, 96, 191]].tolist(), flat.mean().item(), flat.std().item()]
    expected = [0.02594, -0.42805, -0.19793, 0.03789, 0.02674, -0.041947, 0.513169]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    config, parameters, entries = PUBLISHED[name]
    with torch.device("meta"):
        model = UNet2D(UNet2DConfig(**config))
    exact = parameters % 100_000 != 0
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0, abs=0 if exact else 50_000)
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
    model(noise(2, *model.sample_shape).double(), 37, told(model, 2)).value.square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert all(name.endswith(".to_k.bias") for name in idle)


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_four_rows_equal_four_singles(config: UNet2DConfig) -> None:
    model, sample, time = random(config), noise(4, 3, 8, 8), torch.tensor([0, 37, 500, 999])
    condition = told(model, 4)
    together = model(sample, time, condition).value
    for row in range(4):
        alone = condition if condition is None else UNet2DHint(condition.low_res[row : row + 1])
        single = model(sample[row : row + 1], int(time[row]), alone).value
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


@torch.no_grad()
def test_a_low_resolution_image_beside_the_sample() -> None:
    """It is what the first convolution sees after the sample, and the sample is what is predicted."""
    model, sample, low_res = random(HINTED), noise(2, 3, 8, 8), noise(2, 2, 8, 8, seed=2)
    assert model.sample_shape == [3, 8, 8]
    found = model(sample, 37, model.condition(low_res)).value
    assert found.shape == sample.shape
    plain = UNet2D(replace(HINTED, in_channels=5, out_channels=5)).eval()
    state = model.state_dict()
    state |= {name: torch.cat([state[name], state[name][:2]]) for name in ("conv_out.weight", "conv_out.bias")}
    plain.load_state_dict(state)
    assert torch.equal(plain(torch.cat([sample, low_res], dim=1), 37).value[:, :3], found)
    assert not torch.allclose(model(sample, 37, model.condition(-low_res)).value, found, atol=1e-3)
    model.half()
    assert model(sample.half(), 37, model.condition(low_res)).value.dtype == torch.float16


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "needs a low-resolution image"),
        (noise(2, 2, 8, 8), "is a Tensor, not what `condition` gives"),
        (UNet2DHint(noise(2, 3, 8, 8)), "is of another network"),
        (UNet2DHint(noise(2, 2, 16, 16)), "is of another network"),
        (UNet2DHint(noise(1, 2, 8, 8)), "has 1 rows, the sample 2"),
    ],
)
def test_wrong_conditions_are_refused(condition: Any, message: str) -> None:
    with pytest.raises(PortError, match=message) as error:
        UNet2D(HINTED)(noise(2, 3, 8, 8), 37, condition)
    assert error.value.port == "condition"


def test_wrong_low_resolution_images_are_refused() -> None:
    for config, low_res, message in (
        (SMALL, noise(2, 3, 8, 8), "this network takes none"),
        (HINTED, noise(2, 3, 8, 8), "this model takes"),
        (HINTED, noise(2, 2, 4, 4), "this model takes"),
    ):
        with pytest.raises(PortError, match=message) as error:
            UNet2D(config).condition(low_res)
        assert error.value.port == "low_res"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 6}, "out_channels: 6, but the network sees 3; expected no more"),
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
        ({"sample": noise(2, 3, 8, 8)[:0]}, "sample", r"\[0, 3, 8, 8\], in which nothing is"),
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
