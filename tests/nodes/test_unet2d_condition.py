"""UNet2DCondition against the reference numbers of latent diffusion's network, shrunk and filled by rule (tests/fill.py)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, InputError, PortError, WeightsError
from diffgraph.nodes.kinds import Prediction, TextEmbeds
from diffgraph.nodes.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from diffgraph.nodes.models.text_unet import TextCondition
from diffgraph.nodes.models.unet2d_condition import UNet2DCondition, UNet2DConditionConfig
from diffgraph.nodes.tensors import concat, expand
from diffgraph.weights.config import fields_of, parse_config

from ..fill import fill, noise, randomise, wave

# What is published, but for sizes and metadata.
LDM: dict[str, Any] = {"sample_size": 32}  # CompVis/ldm-text2im-large-256
SD1: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
SD1_INPAINTING: dict[str, Any] = SD1 | {"in_channels": 9}
SD2_BASE: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SD2: dict[str, Any] = SD2_BASE | {"sample_size": 96}
SD2_INPAINTING: dict[str, Any] = SD2_BASE | {"in_channels": 9}

SMALL = UNet2DConditionConfig(
    sample_size=8,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=24,
)
MIXED = replace(
    SMALL,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=(2, 8),
    use_linear_projection=True,
    layers_per_block=2,
)
INPAINTING = replace(SMALL, in_channels=9)
TOLD_TWICE = replace(
    SMALL, addition_embed_type="text", addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift"
)
ALL = [SMALL, MIXED, INPAINTING, TOLD_TWICE]


def random(config: UNet2DConditionConfig) -> UNet2DCondition:
    model = UNet2DCondition(config).eval()
    randomise(model)
    return model


def text_of(hidden: torch.Tensor) -> TextEmbeds:
    return TextEmbeds(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))


def inputs_of(config: UNet2DConditionConfig, rows: int, seed: int = 0) -> dict[str, Any]:
    """What `condition` of a network with this config takes, with different rows."""
    given: dict[str, Any] = {"text": text_of(noise(rows, 5, config.cross_attention_dim, seed=seed))}
    if config.in_channels > config.out_channels:
        given["mask"] = (noise(rows, 1, 8, 8, seed=seed + 1) > 0).float()
        given["masked"] = noise(rows, config.out_channels, 8, 8, seed=seed + 2)
    return given


def original_name(name: str) -> str:
    """What latent diffusion calls a tensor of a two-level network with one block a level."""
    for pattern, replacement in (
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
        (r"^down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
        (r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
        (r"^down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
        (r"^down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
        (r"^mid_block\.resnets\.0", "middle_block.0"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.1", "middle_block.2"),
        (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0"),
        (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1"),
        (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.1.2"),
        (r"\.norm1\.(?=\w+$)(?<!s\.0\.norm1\.)", ".in_layers.0."),
        (r"\.conv1\.", ".in_layers.2."),
        (r"\.time_emb_proj\.", ".emb_layers.1."),
        (r"\.norm2\.(?=\w+$)(?<!s\.0\.norm2\.)", ".out_layers.0."),
        (r"\.conv2\.", ".out_layers.3."),
        (r"\.conv_shortcut\.", ".skip_connection."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@torch.no_grad()
def test_reference_numbers() -> None:
    model = UNet2DCondition(SMALL).eval()
    assert sum(p.numel() for p in model.parameters()) == 1_049_412
    assert len(model.state_dict()) == 286
    fill(model, {name: original_name(name) for name in model.state_dict()})
    condition = model.condition(text_of(wave(1, 5, 24, phase=0.2)))
    flat = model(wave(1, 4, 8, 8), 37, condition).value.flatten()
    found = [*flat[[0, 1, 2, 128, 255]].tolist(), flat.mean().item(), flat.std().item()]
    expected = [0.16951, -0.48419, -0.61377, 0.18169, -0.22258, -0.038503, 0.495882]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LDM, 872_300_484),
        (SD1, 859_520_964),
        (SD1_INPAINTING, 859_535_364),
        (SD2_BASE, 865_910_724),
        (SD2, 865_910_724),
    ],
)
def test_published_sizes(config: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = UNet2DCondition(UNet2DConditionConfig(**config))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == 686
    assert not list(model.buffers())
    assert model.sample_shape == [4, config["sample_size"], config["sample_size"]]


def test_published_keys() -> None:
    """Names and shapes as CompVis/ldm-text2im-large-256 has them, one of each pattern."""
    with torch.device("meta"):
        state = UNet2DCondition(UNet2DConditionConfig(**LDM)).state_dict()
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    shapes = {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "down_blocks.0.resnets.0.time_emb_proj.weight": (320, 1280),
        "down_blocks.0.attentions.0.norm.weight": (320,),
        "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
        f"{block}.norm1.weight": (320,),
        f"{block}.attn1.to_q.weight": (320, 320),
        f"{block}.attn1.to_out.0.bias": (320,),
        f"{block}.attn2.to_k.weight": (320, 1280),
        f"{block}.ff.net.0.proj.weight": (2560, 320),
        f"{block}.ff.net.2.weight": (320, 1280),
        "down_blocks.0.downsamplers.0.conv.weight": (320, 320, 3, 3),
        "down_blocks.3.resnets.1.conv2.weight": (1280, 1280, 3, 3),
        "mid_block.attentions.0.proj_out.bias": (1280,),
        "up_blocks.0.upsamplers.0.conv.weight": (1280, 1280, 3, 3),
        "up_blocks.3.resnets.0.conv1.weight": (320, 960, 3, 3),
        "up_blocks.3.attentions.2.proj_in.weight": (320, 320, 1, 1),
        "conv_norm_out.weight": (320,),
        "conv_out.weight": (4, 320, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    with torch.device("meta"):
        linear = UNet2DCondition(UNet2DConditionConfig(**SD2)).state_dict()
    assert linear["down_blocks.0.attentions.0.proj_in.weight"].shape == (320, 320)


@pytest.mark.parametrize("config", ALL)
def test_every_parameter_matters(config: UNet2DConditionConfig) -> None:
    """Each but a bias that all keys of a pooling share, which softmax takes out.

    Groups have many channels, or norms take out biases too.
    """
    model = random(replace(config, norm_num_groups=8)).double()
    condition = model.condition(**inputs_of(config, 2))
    model(noise(2, 4, 8, 8).double(), 37, condition).value.square().mean().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert idle == ({"add_embedding.pool.k_proj.bias"} if config.pooling_heads else set())


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_four_rows_equal_four_singles(config: UNet2DConditionConfig) -> None:
    model, sample, time = random(config), noise(4, 4, 8, 8), torch.tensor([0, 37, 500, 999])
    singles = [model.condition(**inputs_of(config, 1, seed=10 * row)) for row in range(4)]
    together = model(sample, time, concat(list(singles))).value
    for row in range(4):
        single = model(sample[row : row + 1], int(time[row]), singles[row]).value
        torch.testing.assert_close(single, together[row : row + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_one_text_for_all_rows() -> None:
    model, sample = random(MIXED), noise(3, 4, 8, 8)
    condition = model.condition(**inputs_of(MIXED, 1))
    wide = model.condition(text_of(inputs_of(MIXED, 1)["text"].hidden.expand(3, -1, -1)))
    expected = model(sample, 37, wide).value
    torch.testing.assert_close(model(sample, 37, expand(condition, sample)).value, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_any_size_that_the_levels_halve() -> None:
    model = random(SMALL)
    condition = model.condition(**inputs_of(SMALL, 1))
    assert model(noise(1, 4, 6, 20), 37, condition).value.shape == (1, 4, 6, 20)


@torch.no_grad()
def test_every_choice_and_input_matters() -> None:
    """With the same weights, another value of an option that adds none gives another prediction."""
    state, sample = random(INPAINTING).state_dict(), noise(1, 4, 8, 8)
    given, other = inputs_of(INPAINTING, 1), inputs_of(INPAINTING, 1, seed=7)
    values = []
    for change in (
        {}, {"downsample_padding": 0}, {"flip_sin_to_cos": False}, {"freq_shift": 1.0}, {"norm_eps": 0.1},
        {"attention_head_dim": 8}, {"attention_head_dim": (4, 8)}, {"norm_num_groups": 16},
        *({"input": port} for port in given),
    ):  # fmt: skip
        told = dict(given)
        port = change.pop("input", None)
        if isinstance(port, str):
            told[port] = other[port]
        model = UNet2DCondition(replace(INPAINTING, **change)).eval()
        model.load_state_dict(state)
        values.append(model(sample, 37, model.condition(**told)).value)
    for number, value in enumerate(values):
        assert not any(torch.allclose(value, previous, rtol=1e-3, atol=1e-4) for previous in values[:number])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
@torch.no_grad()
def test_half_precision_is_close(dtype: torch.dtype, tolerance: float) -> None:
    """The tolerance is some ten roundings, against the largest value; the prediction keeps the sample's dtype."""
    model, sample, given = random(INPAINTING), noise(2, 4, 8, 8), inputs_of(INPAINTING, 2)
    exact = model(sample, 37, model.condition(**given)).value
    model.to(dtype)
    condition = model.condition(**given)
    value = model(sample, 37, condition).value
    assert value.dtype == torch.float32
    assert float((value - exact).abs().max() / exact.abs().max()) < tolerance
    assert model(sample.to(dtype), 37, condition).value.dtype == dtype


@torch.no_grad()
def test_inputs_are_left_alone() -> None:
    model, sample, given = random(INPAINTING), noise(2, 4, 8, 8), inputs_of(INPAINTING, 2)
    kept = [sample.clone(), given["mask"].clone(), given["masked"].clone(), given["text"].hidden.clone()]
    condition = model.condition(**given)
    assert isinstance(condition, TextCondition)
    prediction = model(sample, torch.tensor([1, 2]), condition)
    assert isinstance(prediction, Prediction)
    assert prediction.variance is None
    for tensor, before in zip([sample, given["mask"], given["masked"], given["text"].hidden], kept, strict=True):
        assert torch.equal(tensor, before)


@torch.no_grad()
def test_padding_is_attended_to() -> None:
    """As in training: the mask of a text changes nothing."""
    model, text = random(SMALL), inputs_of(SMALL, 1)["text"]
    half = text._replace(mask=torch.arange(5)[None] < 2)
    assert torch.equal(model.condition(text).keys_values[0], model.condition(half).keys_values[0])


def test_a_fresh_network_predicts_zero_and_learns() -> None:
    """The last convolution begins at zero; a few steps of training lower the loss."""
    torch.manual_seed(0)
    model, sample, target = UNet2DCondition(SMALL), noise(4, 4, 8, 8), noise(4, 4, 8, 8, seed=5)
    text = inputs_of(SMALL, 4)["text"]
    assert not model(sample, 3, model.condition(text)).value.any()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = (model(sample, 3, model.condition(text)).value - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_dropout_only_while_training() -> None:
    model, sample = random(replace(SMALL, dropout=0.5)), noise(1, 4, 8, 8)
    condition = model.condition(**inputs_of(SMALL, 1))
    assert torch.equal(model(sample, 3, condition).value, model(sample, 3, condition).value)
    model.train()
    assert not torch.equal(model(sample, 3, condition).value, model(sample, 3, condition).value)


@torch.no_grad()
def test_convolutions_and_linear_layers_load_each_other(tmp_path: Path) -> None:
    """Weights of 1x1 convolutions serve linear projections, and back: they compute the same."""
    model, sample, given = random(SMALL), noise(1, 4, 8, 8), inputs_of(SMALL, 1)
    expected = model(sample, 37, model.condition(**given)).value
    model.save_pretrained(tmp_path / "conv")
    linear = UNet2DCondition.from_pretrained(tmp_path / "conv", use_linear_projection=True)
    assert linear.down_blocks[0].attentions[0].proj_in.weight.ndim == 2
    torch.testing.assert_close(linear(sample, 37, linear.condition(**given)).value, expected)
    linear.save_pretrained(tmp_path / "linear")
    back = UNet2DCondition.from_pretrained(tmp_path / "linear", use_linear_projection=False)
    torch.testing.assert_close(back(sample, 37, back.condition(**given)).value, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 7}, "in_channels: 7; expected 4, those of the sample, or for inpainting 9"),
        ({"block_out_channels": (32,)}, "down_block_types: 2 entries; block_out_channels has 1 levels"),
        ({"block_out_channels": ()}, "at least one level"),
        ({"attention_head_dim": (4,)}, "attention_head_dim: 1 entries"),
        ({"block_out_channels": (32, 48)}, "block_out_channels: 48 is not a multiple of 32"),
        ({"attention_head_dim": 5}, "block_out_channels: 32 is not a multiple of 5"),
        ({"freq_shift": 16.0}, "freq_shift: 16 is not below"),
        ({"sample_size": 9}, "sample_size: 9 is not a multiple of 2"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"addition_embed_type": "text_time"},
            'addition_embed_type: "text_time" is not permitted',
        ),  # Stable Diffusion XL
        ({"transformer_layers_per_block": [1, 2, 10]}, "transformer_layers_per_block: .* is not permitted"),
        ({"num_class_embeds": 1000}, "num_class_embeds: 1000 is not permitted"),  # the 4x upscaler
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim: 256 is not permitted"),  # latent consistency models
        ({"act_fn": "gelu"}, 'act_fn: "gelu" is not permitted; allowed'),  # DeepFloyd IF
        ({"encoder_hid_dim": 4096}, "encoder_hid_dim: 4096 is not permitted"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type: .* is not permitted"),
        ({"down_block_types": ["SimpleCrossAttnDownBlock2D"]}, "down_block_types: .* is not permitted"),
        ({"channel_mult": 2}, "unknown key"),
    ],
)
def test_published_values_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        parse_config(
            fields_of(UNet2DConditionConfig), SD1 | changes, ignored=UNet2DCondition.ignored, where="config.json"
        )


WRONG_INPUTS: list[tuple[dict[str, Any], str, str]] = [
    ({"sample": noise(2, 9, 8, 8)}, "sample", r"\[2, 9, 8, 8\]; this model takes \[B, 4, any, any\]"),
    ({"sample": noise(2, 4, 9, 8)}, "sample", "9 high and 8 wide; this network takes multiples of 2"),
    ({"sample": noise(4, 8, 8)}, "sample", "this model takes"),
    ({"sample": noise(2, 4, 8, 8).long()}, "sample", "torch.int64"),
    ({"sample": noise(2, 4, 8, 8).to("meta")}, "sample", "is on meta, the model on cpu"),
    ({"sample": None}, "sample", "not NoneType"),
    ({"timestep": -1}, "timestep", "0 or more, not -1"),
    ({"timestep": torch.tensor([1, 2, 3])}, "timestep", r"shape \[3\]"),
    ({"sample": noise(3, 4, 8, 8)}, "condition", "has 2 rows, the sample 3"),
    ({"condition": noise(2, 4)}, "condition", "is a Tensor, not what this network's `condition` gives"),
    ({"condition": None}, "condition", "is a NoneType"),
]


@pytest.mark.parametrize(("changes", "port", "message"), WRONG_INPUTS)
def test_wrong_inputs_are_refused(changes: dict[str, Any], port: str, message: str) -> None:
    model = UNet2DCondition(SMALL)
    condition = model.condition(**inputs_of(SMALL, 2))
    with pytest.raises(PortError, match=message) as error:
        model(**{"sample": noise(2, 4, 8, 8), "timestep": 37, "condition": condition, **changes})
    assert error.value.port == port


@pytest.mark.parametrize("other", [INPAINTING, MIXED, TOLD_TWICE, replace(SMALL, attention_head_dim=8)])
def test_a_condition_of_another_network_is_refused(other: UNet2DConditionConfig) -> None:
    condition = UNet2DCondition(other).condition(**inputs_of(other, 2))
    with pytest.raises(PortError, match="is of another network"):
        UNet2DCondition(SMALL)(noise(2, 4, 8, 8), 37, condition)


def test_a_condition_of_another_size_is_refused() -> None:
    model = UNet2DCondition(INPAINTING)
    with pytest.raises(PortError, match=r"was made for samples of \[8, 8\], not of \[8, 16\]"):
        model(noise(1, 4, 8, 16), 37, model.condition(**inputs_of(INPAINTING, 1)))


@pytest.mark.parametrize(
    ("config", "changes", "port", "message"),
    [
        (SMALL, {"text": noise(2, 5, 24)}, "text", "is a Tensor; expected TextEmbeds"),
        (SMALL, {"text": text_of(noise(2, 5, 32))}, "text", r"\[2, 5, 32\]; this model takes \[B, any, 24\]"),
        (SMALL, {"mask": noise(2, 1, 8, 8)}, "mask", "this network takes none"),
        (SMALL, {"masked": noise(2, 4, 8, 8)}, "masked", "this network takes none"),
        (INPAINTING, {"mask": None}, "mask", "inpaints and needs it"),
        (INPAINTING, {"masked": None}, "masked", "inpaints and needs it"),
        (INPAINTING, {"mask": torch.ones(1, 1, 8, 8)}, "mask", "has 1 rows, the text 2"),
        (INPAINTING, {"masked": noise(2, 3, 8, 8)}, "masked", r"this model takes \[B, 4, any, any\]"),
        (INPAINTING, {"mask": torch.ones(2, 1, 64, 64)}, "mask", r"is \[64, 64\], masked \[8, 8\]"),
        (INPAINTING, {"mask": -torch.ones(2, 1, 8, 8)}, "mask", r"values outside \[0, 1\]"),
    ],
)
def test_wrong_conditions_are_refused(
    config: UNet2DConditionConfig, changes: dict[str, Any], port: str, message: str
) -> None:
    with pytest.raises(PortError, match=message) as error:
        UNet2DCondition(config).condition(**{**inputs_of(config, 2), **changes})
    assert error.value.port == port


REPOSITORY = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
}
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
  unet:      {node: UNet2DCondition, weights: repository/unet}
  vae:       {node: AutoencoderKL, weights: repository/vae}
  scheduler: {node: DDIMScheduler, weights: repository/scheduler}
  tokens:    {call: $tokenizer, text: a red apple}
  embeds:    {call: $encoder, tokens: $tokens}
  text:      {call: $unet.condition, text: $embeds}
  rng:       {node: Rng, seed: 0}
  noise:     {node: GaussianNoise, shape: [4, 8, 6], rng: $rng}
  plan:      {call: $scheduler.schedule, steps: 4}
  start:     {call: $scheduler.start, noise: $noise.sample, schedule: $plan}
  first:     {node: Item, items: $plan, index: 0}
  scaled:    {call: $scheduler.scale_input, sample: $start.sample, step: $first}
  predicted: {call: $unet, sample: $scaled, timestep: 999, condition: $text}
  clean:     {call: $scheduler.original, prediction: $predicted, sample: $start.sample, step: $first}
  image:     {call: $vae.decode, latents: $clean}
outputs: {image: $image}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder as Stable Diffusion 2.1 is published, beside which a document stands."""
    folder = tmp_path / "repository"
    random(SMALL).save_pretrained(folder / "unet")
    vae = AutoencoderKLConfig(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    AutoencoderKL(vae).save_pretrained(folder / "vae")
    for name, content in REPOSITORY.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return tmp_path / "graph.yaml"


def test_in_a_graph(repository: Path) -> None:
    repository.write_text(DOCUMENT)
    assert Graph.load(repository)().image.shape == (1, 3, 16, 12)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "DDIMScheduler, weights: repository/scheduler",
            "DDIMScheduler",
            "expected prediction epsilon, got v_prediction",
        ),
        (
            "weights: repository/vae",
            "weights: repository/vae, scaling_factor: 1.0",
            "expected space latent of 4 channels, scale 1, got latent of 4 channels, scale 0.18215",
        ),
        ("hidden_size: 24", "hidden_size: 32", "expected shape [N, L, 24], got [1, 7, 32]"),
        ("shape: [4, 8, 6]", "shape: [4, 8, 7]", "expected shape [B, 4, 2*H, 2*W], got [1, 4, 8, 7]"),
        ("shape: [4, 8, 6]", "shape: [9, 8, 6]", "expected shape [B, 4, 2*H, 2*W], got [1, 9, 8, 6]"),
        ("text: $embeds", "text: $tokens", "expected TextEmbeds, got Tokens"),
    ],
)
def test_what_the_check_refuses(old: str, new: str, said: str, repository: Path) -> None:
    assert old in DOCUMENT
    repository.write_text(DOCUMENT.replace(old, new))
    with pytest.raises((CheckFailed, InputError)) as raised:
        Graph.load(repository).check()
    assert said in str(raised.value)
