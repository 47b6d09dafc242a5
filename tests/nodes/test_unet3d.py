"""UNet3D against the reference numbers of the library's network, shrunk and filled by rule (tests/fill.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph import Graph
from diffgraph.errors import CheckFailed, InputError, PortError, WeightsError
from diffgraph.nodes.kinds import Prediction, TextEmbeds
from diffgraph.nodes.models.text_unet import TextCondition
from diffgraph.nodes.models.unet3d import UNet3D, UNet3DConfig
from diffgraph.weights.config import fields_of, parse_config

from ..fill import fill, noise, randomise, wave
from ..parity import agree

PUBLISHED: dict[str, Any] = {  # as ali-vilab/text-to-video-ms-1.7b has it
    "_class_name": "UNet3DConditionModel",
    "_diffusers_version": "0.15.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
    "downsample_padding": 1,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 32,
    "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
}
SMALL = UNet3DConfig(
    sample_size=8,
    num_frames=3,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    attention_head_dim=16,
    cross_attention_dim=24,
)


def read(published: dict[str, Any]) -> UNet3DConfig:
    values = parse_config(fields_of(UNet3DConfig), published, ignored=UNet3D.ignored, where="config.json")
    return UNet3DConfig(**values)


def random(config: UNet3DConfig) -> UNet3D:
    model = UNet3D(config).eval()
    randomise(model)
    return model


def text_of(hidden: torch.Tensor) -> TextEmbeds:
    return TextEmbeds(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))


def told(model: UNet3D, rows: int, seed: int = 9) -> Any:
    return model.condition(text_of(noise(rows, 5, model.config.cross_attention_dim, seed=seed)))


@torch.no_grad()
def test_reference_numbers() -> None:
    model = UNet3D(SMALL).eval()
    assert sum(p.numel() for p in model.parameters()) == 1_577_348
    assert len(model.state_dict()) == 466
    fill(model)
    flat = model(wave(1, 4, 3, 8, 8), 37, model.condition(text_of(wave(1, 5, 24, phase=0.2)))).value.flatten()
    found = torch.stack([*flat[[0, 1, 2, 384, 767]], flat.mean(), flat.std()])
    expected = torch.tensor([-0.25881, -0.2564, -0.01018, -0.06086, 0.02238, 0.093425, 0.447128])
    agree("UNet3D", "published numbers of a small network", found, expected, tolerance=2e-5)


def test_published_size_and_names() -> None:
    """ali-vilab/text-to-video-ms-1.7b: what is said of the file, and one name of each pattern."""
    with torch.device("meta"):
        model = UNet3D(read(PUBLISHED))
    state = model.state_dict()
    assert len(state) == 1480
    assert sum(tensor.numel() for tensor in state.values()) == 1_411_233_860
    assert not list(model.buffers())
    assert model.sample_shape == [4, 16, 32, 32]
    first, block = "down_blocks.0", "transformer_blocks.0"
    shapes = {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "time_embedding.linear_2.weight": (1280, 1280),
        "transformer_in.norm.weight": (320,),
        "transformer_in.proj_in.weight": (512, 320),
        f"transformer_in.{block}.attn1.to_q.weight": (512, 512),
        "transformer_in.proj_out.weight": (320, 512),
        f"{first}.resnets.1.time_emb_proj.weight": (320, 1280),
        f"{first}.temp_convs.0.conv1.0.weight": (320,),
        f"{first}.temp_convs.0.conv1.2.weight": (320, 320, 3, 1, 1),
        f"{first}.temp_convs.0.conv2.3.weight": (320, 320, 3, 1, 1),
        f"{first}.temp_convs.1.conv4.3.bias": (320,),
        f"{first}.attentions.1.proj_in.weight": (320, 320),
        f"{first}.attentions.1.{block}.attn2.to_k.weight": (320, 1024),
        f"{first}.attentions.1.{block}.ff.net.0.proj.weight": (2560, 320),
        f"{first}.temp_attentions.0.norm.weight": (320,),
        f"{first}.temp_attentions.0.{block}.attn2.to_k.weight": (320, 320),
        f"{first}.downsamplers.0.conv.weight": (320, 320, 3, 3),
        "mid_block.resnets.1.conv2.weight": (1280, 1280, 3, 3),
        "mid_block.temp_convs.1.conv3.3.weight": (1280, 1280, 3, 1, 1),
        f"mid_block.attentions.0.{block}.norm3.weight": (1280,),
        f"mid_block.temp_attentions.0.{block}.ff.net.2.weight": (1280, 5120),
        "up_blocks.0.temp_convs.2.conv1.2.weight": (1280, 1280, 3, 1, 1),
        "up_blocks.0.upsamplers.0.conv.weight": (1280, 1280, 3, 3),
        "up_blocks.3.resnets.0.conv_shortcut.weight": (320, 960, 1, 1),
        "conv_norm_out.weight": (320,),
        "conv_out.weight": (4, 320, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_every_parameter_matters() -> None:
    """Groups have several channels, or norms take out biases."""
    model = random(replace(SMALL, norm_num_groups=8)).double()
    sample, text = noise(2, 4, 3, 8, 8).double(), text_of(noise(2, 5, 24).double())
    model(sample, 37, model.condition(text)).value.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]


@torch.no_grad()
def test_every_choice_matters() -> None:
    """With the same weights, another value of an option that adds none gives another prediction."""
    state, sample = random(SMALL).state_dict(), noise(1, 4, 3, 8, 8)
    values = []
    for change in ({}, {"downsample_padding": 0}, {"norm_eps": 0.1}, {"norm_num_groups": 16}):
        model = UNet3D(replace(SMALL, **change)).eval()  # type: ignore[arg-type]
        model.load_state_dict(state)
        values.append(model(sample, 37, told(model, 1)).value)
    for number, value in enumerate(values):
        assert not any(torch.allclose(value, other, rtol=1e-3, atol=1e-4) for other in values[:number])


@torch.no_grad()
def test_three_rows_equal_three_singles() -> None:
    """Each film with its own text and time; so no film sees another's frames."""
    model, sample, time = random(SMALL), noise(3, 4, 3, 8, 8), torch.tensor([0, 37, 999])
    texts = noise(3, 5, 24)
    together = model(sample, time, model.condition(text_of(texts))).value
    for row in range(3):
        condition = model.condition(text_of(texts[row : row + 1]))
        single = model(sample[row : row + 1], int(time[row]), condition).value
        torch.testing.assert_close(single, together[row : row + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_frames_see_each_other_and_their_order() -> None:
    model, sample = random(SMALL), noise(1, 4, 3, 8, 8)
    value = model(sample, 37, told(model, 1)).value
    changed = sample.clone()
    changed[:, :, 2] += 1
    assert not torch.allclose(model(changed, 37, told(model, 1)).value[:, :, 0], value[:, :, 0], atol=1e-3)
    swapped = model(sample[:, :, [1, 0, 2]], 37, told(model, 1)).value
    assert not torch.allclose(swapped[:, :, [1, 0, 2]], value, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 8, 8), (5, 8, 8), (3, 4, 12)])
@torch.no_grad()
def test_any_number_of_frames_and_any_size(size: tuple[int, int, int]) -> None:
    model, sample = random(SMALL), noise(2, 4, *size)
    prediction = model(sample, 37, told(model, 2))
    assert isinstance(prediction, Prediction)
    assert prediction.value.shape == sample.shape
    assert prediction.variance is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
@torch.no_grad()
def test_half_precision_is_close(dtype: torch.dtype, tolerance: float) -> None:
    """The tolerance is some ten roundings, against the largest value; the prediction keeps the sample's dtype."""
    model, sample = random(SMALL), noise(2, 4, 3, 8, 8)
    exact = model(sample, 37, told(model, 2)).value
    model.to(dtype)
    value = model(sample, 37, told(model, 2)).value
    assert value.dtype == torch.float32
    assert float((value - exact).abs().max() / exact.abs().max()) < tolerance
    assert model(sample.to(dtype), 37, told(model, 2)).value.dtype == dtype


@torch.no_grad()
def test_inputs_are_left_alone() -> None:
    model, sample, time = random(SMALL), noise(2, 4, 3, 8, 8), torch.tensor([1, 2])
    condition = told(model, 2)
    kept = [tensor.clone() for tensor in (sample, time, *condition.keys_values)]
    model(sample, time, condition)
    assert all(torch.equal(*pair) for pair in zip((sample, time, *condition.keys_values), kept, strict=True))


def test_a_fresh_network_predicts_zero_and_learns() -> None:
    """A few steps of training lower the loss; dropout is on meanwhile, and off afterwards."""
    torch.manual_seed(0)
    model, sample, target = UNet3D(SMALL), noise(1, 4, 2, 8, 8), noise(1, 4, 2, 8, 8, seed=5)
    assert not model(sample, 3, told(model, 1)).value.any()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = (model(sample, 3, told(model, 1)).value - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        assert not torch.equal(model(sample, 3, told(model, 1)).value, model(sample, 3, told(model, 1)).value)
        model.eval()
        assert torch.equal(model(sample, 3, told(model, 1)).value, model(sample, 3, told(model, 1)).value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 8}, "out_channels: 8, but the sample has 4"),
        ({"block_out_channels": (32,)}, "down_block_types: 2 entries; block_out_channels has 1 levels"),
        ({"block_out_channels": ()}, "at least one level"),
        ({"block_out_channels": (32, 48)}, "block_out_channels: 48 is not a multiple of 32"),
        ({"attention_head_dim": 24}, "block_out_channels: 32 is not a multiple of 24"),
        ({"sample_size": 9}, "sample_size: 9 is not a multiple of 2"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "gelu"),
        ("num_attention_heads", 8),
        ("attention_head_dim", [5, 10, 20, 20]),
        ("norm_num_groups", None),
        ("time_cond_proj_dim", 256),
        ("mid_block_scale_factor", 2),
        ("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3),
        ("motion_max_seq_length", 32),
    ],
)
def test_published_values_that_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(WeightsError, match=key):
        read(PUBLISHED | {key: value})


@pytest.mark.parametrize(
    ("changes", "port", "message"),
    [
        ({"sample": noise(2, 4, 8, 8)}, "sample", r"\[2, 4, 8, 8\]; this model takes"),
        ({"sample": noise(2, 3, 4, 8, 8)}, "sample", r"\[2, 3, 4, 8, 8\]; this model takes"),
        ({"sample": noise(2, 4, 3, 9, 8)}, "sample", "is 9 high and 8 wide; this network takes multiples of 2"),
        ({"sample": noise(2, 4, 0, 8, 8)}, "sample", "in which nothing is"),
        ({"sample": noise(2, 4, 3, 8, 8).long()}, "sample", "torch.int64"),
        ({"sample": noise(2, 4, 3, 8, 8).to("meta")}, "sample", "is on meta, the model on cpu"),
        ({"timestep": -1}, "timestep", "0 or more, not -1"),
        ({"timestep": torch.tensor([1, 2, 3])}, "timestep", r"shape \[3\]"),
        ({"condition": None}, "condition", "is a NoneType"),
        ({"condition": TextCondition([], None, None)}, "condition", "is of another network"),
        ({"condition": told(UNet3D(SMALL), 1)}, "condition", "has 1 rows, the sample 2"),
    ],
)
def test_wrong_inputs_are_refused(changes: dict[str, Any], port: str, message: str) -> None:
    model = UNet3D(SMALL)
    given = {"sample": noise(2, 4, 3, 8, 8), "timestep": 37, "condition": told(model, 2), **changes}
    with pytest.raises(PortError, match=message) as error:
        model(**given)
    assert error.value.port == port


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (text_of(noise(2, 5, 32)), r"\[2, 5, 32\]"),
        (noise(2, 5, 24), "is a Tensor; expected TextEmbeds"),
        (text_of(noise(2, 5, 24).to("meta")), "is on meta"),
    ],
)
def test_texts_that_are_refused(text: Any, message: str) -> None:
    with pytest.raises(PortError, match=message) as error:
        UNet3D(SMALL).condition(text)
    assert error.value.port == "text"


DOCUMENT = """
diffgraph: 1
nodes:
  tokenizer: {node: pixels.WordTokenizer, vocabulary: clip-bpe, length: 7}
  encoder:
    node: CLIPText
    vocab_size: 50
    hidden_size: 24
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    max_position_embeddings: 7
    eos_token_id: 5
  unet:
    node: UNet3D
    sample_size: 8
    num_frames: 3
    block_out_channels: [32, 64]
    layers_per_block: 1
    down_block_types: [CrossAttnDownBlock3D, DownBlock3D]
    up_block_types: [UpBlock3D, CrossAttnUpBlock3D]
    attention_head_dim: 16
    cross_attention_dim: 24
  scheduler: {node: DDIMScheduler, clip_sample: false}
  tokens:    {call: $tokenizer, text: a red apple}
  embeds:    {call: $encoder, tokens: $tokens}
  text:      {call: $unet.condition, text: $embeds}
  rng:       {node: Rng, seed: 0, batch: 2}
  sampled:
    graph: pkg://diffgraph/samplers/plain.yaml
    model: $unet
    scheduler: $scheduler
    condition: $text
    steps: 2
    rng: $rng
outputs: {film: $sampled.sample}
"""


def graph(tmp_path: Path, text: str) -> Graph:
    place = tmp_path / "film.yaml"
    place.write_text(text)
    return Graph.load(place)


def test_in_a_graph(tmp_path: Path) -> None:
    """The samplers of pictures make films too; `num_frames` says how long."""
    assert graph(tmp_path, DOCUMENT)().film.shape == (2, 4, 3, 8, 8)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hidden_size: 24", "hidden_size: 32", "expected shape [N, L, 24], got [1, 7, 32]"),
        ("text: $embeds", "text: $tokens", "expected TextEmbeds, got Tokens"),
    ],
)
def test_what_the_check_refuses(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in DOCUMENT
    with pytest.raises((CheckFailed, InputError)) as raised:
        graph(tmp_path, DOCUMENT.replace(old, new)).check()
    assert said in str(raised.value)
