"""UNetGLIDE against the reference numbers of OpenAI's networks, shrunk and filled by rule (tests/fill.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgraph.errors import InputError, PortError
from diffgraph.nodes.kinds import Prediction, Tokens
from diffgraph.nodes.models.unet_glide import GLIDECondition, UNetGLIDE, UNetGLIDEConfig
from diffgraph.values import tree_map

from ..fill import fill, noise, randomise, wave
from ..parity import agree

BASE = UNetGLIDEConfig(
    image_size=8,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_sizes=(4,),
    num_head_channels=16,
    text_context=8,
    text_width=32,
    text_layers=2,
    text_heads=2,
    vocab_size=50,
)
UPSAMPLER = replace(BASE, image_size=16, low_res_size=8, attention_sizes=(8,))
INPAINT = replace(BASE, inpaint=True)
UPSAMPLER_INPAINT = replace(UPSAMPLER, inpaint=True)
PUBLISHED_UPSAMPLER: dict[str, Any] = {
    "image_size": 256,
    "low_res_size": 64,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "num_res_blocks": 2,
}


def tokens_of(*texts: list[int], length: int = 8, pad: int = 49) -> Tokens:
    ids = torch.tensor([text + [pad] * (length - len(text)) for text in texts])
    return Tokens(ids, torch.arange(length)[None] < torch.tensor([[len(text)] for text in texts]))


TOKENS = tokens_of([3, 7, 11])


def filled(config: UNetGLIDEConfig) -> UNetGLIDE:
    model = UNetGLIDE(config).eval()
    fill(model)
    return model


def random(config: UNetGLIDEConfig) -> UNetGLIDE:
    model = UNetGLIDE(config).eval()
    randomise(model)
    return model


def inputs_of(config: UNetGLIDEConfig, rows: int, seed: int = 0) -> dict[str, Any]:
    """What `condition` of a network with this config takes, with different rows."""
    texts = [[3, 7, 11], [], [5, 1, 2, 8, 9, 40, 41, 6], [12]]
    given: dict[str, Any] = {"tokens": tokens_of(*[texts[row % 4] for row in range(rows)])}
    size, low = config.image_size, config.low_res_size
    if low is not None:
        given["low_res"] = noise(rows, config.in_channels, low, low, seed=seed + 1).clamp(-1, 1)
    if config.aug_level:
        given["aug_level"] = torch.arange(rows) * 100
    if config.inpaint:
        given["image"] = noise(rows, config.in_channels, size, size, seed=seed + 2).clamp(-1, 1)
        given["mask"] = (noise(rows, 1, size, size, seed=seed + 3) > 0).float()
    return given


def rows_of(given: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {name: tree_map(lambda tensor: tensor[rows], value) for name, value in given.items()}


def agrees(what: str, output: Tensor, elements: list[float], mean: float, std: float) -> None:
    """Elements, mean and deviation are those of the original code, which are given to five digits."""
    flat = output.flatten()
    found = torch.cat([flat[[0, 1, 2, flat.numel() // 2, -1]], flat.mean()[None], flat.std()[None]])
    wanted = torch.tensor([*elements, mean, std])
    agree("UNetGLIDE", "the original's published numbers", found, wanted, tolerance=1e-4, what=what)


@torch.no_grad()
def test_base_gives_the_reference_numbers() -> None:
    model = filled(BASE)
    assert sum(p.numel() for p in model.parameters()) == 877_062
    assert len(model.state_dict()) == 183
    prediction = model(wave(1, 3, 8, 8), 37, model.condition(TOKENS))
    assert prediction.variance.shape == (1, 3, 8, 8)
    output = torch.cat(prediction, dim=1)
    agrees("base", output, [-0.1192, -0.37456, -0.38244, 0.02838, -0.05068], 0.040259, 0.46985)


@torch.no_grad()
def test_text_gives_the_reference_numbers() -> None:
    model = filled(BASE)
    states: list[Tensor] = []
    model.final_ln.register_forward_hook(lambda module, args, output: states.append(output))
    condition = model.condition(TOKENS)
    projected = condition.embedding
    assert projected.shape == (1, 128)
    agrees("text, pooled", projected, [0.25731, -1.14344, -0.83284, -0.5155, 1.36365], -0.078488, 0.910397)
    sequence = states[0].transpose(1, 2)  # N D L, as OpenAI's code has it
    assert sequence.shape == (1, 32, 8)
    agrees("text", sequence, [0.56164, 0.36837, 0.02682, 1.10496, -0.09956], 0.006826, 1.02574)


@torch.no_grad()
def test_upsampler_gives_the_reference_numbers() -> None:
    model = filled(UPSAMPLER)
    assert sum(p.numel() for p in model.parameters()) == 877_926
    condition = model.condition(TOKENS, low_res=wave(1, 3, 8, 8, phase=1.0))
    output = torch.cat(model(wave(1, 3, 16, 16), 37, condition), dim=1)
    agrees("upsampler", output, [-0.13084, -0.11778, 0.04577, 0.09489, 0.07894], 0.029338, 0.49461)


@torch.no_grad()
def test_inpainting_gives_the_reference_numbers() -> None:
    model = filled(INPAINT)
    assert sum(p.numel() for p in model.parameters()) == 878_214
    repaint = torch.ones(1, 1, 8, 8)
    repaint[:, :, :4] = 0  # OpenAI's mask is 1 in the rows 0-3: kept
    condition = model.condition(TOKENS, image=wave(1, 3, 8, 8, phase=1.0), mask=repaint)
    output = torch.cat(model(wave(1, 3, 8, 8), 37, condition), dim=1)
    agrees("inpainting", output, [-0.00482, 0.11893, 0.11754, 0.08173, -0.24709], 0.036826, 0.5216)


@pytest.mark.parametrize(
    ("changes", "parameters", "entries"),
    [
        ({}, 385_030_726, 783),
        (PUBLISHED_UPSAMPLER, 398_361_286, 797),
        ({"inpaint": True}, 385_037_638, 783),
        ({"inpaint": True, **PUBLISHED_UPSAMPLER}, 398_368_198, 797),
    ],
)
def test_published_sizes(changes: dict[str, Any], parameters: int, entries: int) -> None:
    with torch.device("meta"):
        model = UNetGLIDE(UNetGLIDEConfig(**changes))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == entries
    assert not list(model.buffers())


def test_published_keys() -> None:
    """Names and shapes as OpenAI's base checkpoint has them, one of each pattern."""
    with torch.device("meta"):
        state = UNetGLIDE(UNetGLIDEConfig()).state_dict()
    shapes = {
        "time_embed.0.weight": (768, 192),
        "time_embed.2.weight": (768, 768),
        "input_blocks.0.0.weight": (192, 3, 3, 3),
        "input_blocks.1.0.in_layers.0.weight": (192,),
        "input_blocks.1.0.in_layers.2.weight": (192, 192, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (384, 768),
        "input_blocks.1.0.out_layers.0.bias": (192,),
        "input_blocks.1.0.out_layers.3.weight": (192, 192, 3, 3),
        "input_blocks.4.0.in_layers.2.weight": (192, 192, 3, 3),
        "input_blocks.5.0.skip_connection.weight": (384, 192, 1, 1),
        "input_blocks.5.1.norm.weight": (384,),
        "input_blocks.5.1.qkv.weight": (1152, 384, 1),
        "input_blocks.5.1.encoder_kv.weight": (768, 512, 1),
        "input_blocks.5.1.proj_out.weight": (384, 384, 1),
        "middle_block.1.encoder_kv.bias": (1536,),
        "output_blocks.0.0.in_layers.2.weight": (768, 1536, 3, 3),
        "output_blocks.3.2.out_layers.3.weight": (768, 768, 3, 3),
        "out.0.weight": (192,),
        "out.2.weight": (6, 192, 3, 3),
        "token_embedding.weight": (50257, 512),
        "positional_embedding": (128, 512),
        "padding_embedding": (128, 512),
        "transformer.resblocks.15.attn.c_qkv.weight": (1536, 512),
        "transformer.resblocks.15.attn.c_proj.weight": (512, 512),
        "transformer.resblocks.15.ln_1.weight": (512,),
        "transformer.resblocks.15.mlp.c_fc.weight": (2048, 512),
        "transformer.resblocks.15.mlp.c_proj.weight": (512, 2048),
        "final_ln.weight": (512,),
        "transformer_proj.weight": (768, 512),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


SMALL = replace(
    BASE, image_size=16, patch_size=2, learn_variance=False, prediction_type="sample", attention_sizes=(8, 4)
)
SMALL_UPSAMPLER = replace(SMALL, image_size=32, low_res_size=8, patch_size=4, aug_level=True)
ALL = [BASE, UPSAMPLER, INPAINT, UPSAMPLER_INPAINT, SMALL, SMALL_UPSAMPLER]


@pytest.mark.parametrize("config", ALL)
def test_every_parameter_matters(config: UNetGLIDEConfig) -> None:
    """At a width that gives a norm's groups several channels: of a group of one, the norm takes out the bias."""
    model = random(replace(config, model_channels=64)).double()
    given = inputs_of(config, 2)
    prediction = model(noise(2, *model.sample_shape).double(), 37, model.condition(**given))
    sum(part.square().mean() for part in prediction if part is not None).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9] == []


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_four_rows_equal_four_singles(config: UNetGLIDEConfig) -> None:
    model = random(config)
    sample, time, given = noise(4, *model.sample_shape), torch.tensor([0, 37, 500, 999]), inputs_of(config, 4)
    together = model(sample, time, model.condition(**given))
    for row in range(4):
        one = model.condition(**rows_of(given, slice(row, row + 1)))
        single = model(sample[row : row + 1], int(time[row]), one)
        torch.testing.assert_close(single.value, together.value[row : row + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_a_condition_is_rows_of_tensors(config: UNetGLIDEConfig) -> None:
    """Conditions of two calls, set one upon the other, serve a batch of both: what guidance does."""
    model = random(config)
    given = inputs_of(config, 4)
    first, second = (model.condition(**rows_of(given, rows)) for rows in (slice(2), slice(2, 4)))
    joined = tree_map(lambda *parts: torch.cat(parts), first, second)
    sample = noise(4, *model.sample_shape)
    expected = model(sample, 37, model.condition(**given))
    torch.testing.assert_close(model(sample, 37, joined), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_is_conditioned_on_matters() -> None:
    """Another text, low-resolution image, noise level, picture or mask gives another prediction."""
    for config in (UPSAMPLER_INPAINT, SMALL_UPSAMPLER):
        model, given, other = random(config), inputs_of(config, 2), inputs_of(config, 2, seed=9)
        other |= {"tokens": tokens_of([9], [8])}
        if config.aug_level:
            other["aug_level"] = torch.tensor([7, 8])
        sample = noise(2, *model.sample_shape)
        value = model(sample, 37, model.condition(**given)).value
        assert not torch.allclose(value, model(sample, 38, model.condition(**given)).value, atol=1e-4)
        for name, change in other.items():
            assert not torch.allclose(
                value, model(sample, 37, model.condition(**given | {name: change})).value, atol=1e-4
            )


@torch.no_grad()
def test_what_is_repainted_is_not_seen() -> None:
    model, given = random(INPAINT), inputs_of(INPAINT, 1)
    hidden = given | {"image": torch.where(given["mask"] == 1, torch.tensor(0.3), given["image"])}
    torch.testing.assert_close(model.condition(**given), model.condition(**hidden), rtol=0, atol=0)


@torch.no_grad()
def test_ids_of_padding_are_not_seen() -> None:
    model = random(BASE)
    torch.testing.assert_close(
        model.condition(tokens_of([3, 7], pad=49)), model.condition(tokens_of([3, 7], pad=12)), rtol=0, atol=0
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
@torch.no_grad()
def test_half_precision_is_close(dtype: torch.dtype, tolerance: float) -> None:
    """The tolerance is some ten roundings, against the largest value; the prediction keeps the sample's dtype."""
    model, sample, given = random(UPSAMPLER), noise(2, 3, 16, 16), inputs_of(UPSAMPLER, 2)
    exact = model(sample, 37, model.condition(**given)).value
    model.to(dtype)
    value = model(sample, 37, model.condition(**given)).value
    assert value.dtype == torch.float32
    assert float((value - exact).abs().max() / exact.abs().max()) < tolerance
    assert model(sample.to(dtype), 37, model.condition(**given)).value.dtype == dtype


@torch.no_grad()
def test_norms_do_not_overflow_in_half_precision() -> None:
    """The sum of squares of these is beyond fp16: a norm that is not computed in fp32 gives nothing finite."""
    model = random(BASE)
    x = noise(1, 32, 8, 8).half() * 4000
    norm: Any = model.half().out[0]
    reference = torch.nn.functional.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double())
    torch.testing.assert_close(norm(x).double(), reference, rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_inputs_are_left_alone() -> None:
    model, sample, given = random(UPSAMPLER_INPAINT), noise(2, 3, 16, 16), inputs_of(UPSAMPLER_INPAINT, 2)
    condition = model.condition(**given)
    kept = tree_map(torch.clone, [sample, list(given.values()), condition])
    model(sample, torch.tensor([1, 2]), condition)
    torch.testing.assert_close([sample, list(given.values()), condition], kept, rtol=0, atol=0)


def test_dropout_only_while_training() -> None:
    model, sample = random(replace(BASE, dropout=0.5)), noise(2, 3, 8, 8)
    condition = model.condition(**inputs_of(BASE, 2))
    assert torch.equal(model(sample, 3, condition).value, model(sample, 3, condition).value)
    model.train()
    assert not torch.equal(model(sample, 3, condition).value, model(sample, 3, condition).value)


def test_a_fresh_network_predicts_zero_and_learns() -> None:
    """Output convolutions begin at zero; a few steps of training lower the loss."""
    torch.manual_seed(0)
    model, target = UNetGLIDE(SMALL), noise(4, 3, 16, 16, seed=5)
    given, sample = inputs_of(SMALL, 4), noise(4, 3, 16, 16)
    assert not model(sample, 3, model.condition(**given)).value.any()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = (model(sample, 3, model.condition(**given)).value - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@torch.no_grad()
def test_one_variance_where_it_is_learned() -> None:
    learned, fixed = random(BASE), random(replace(BASE, learn_variance=False))
    sample, given = noise(1, 3, 8, 8), inputs_of(BASE, 1)
    prediction = learned(sample, 37, learned.condition(**given))
    assert isinstance(prediction, Prediction)
    assert prediction.variance is not None
    assert prediction.value.shape == prediction.variance.shape == sample.shape
    assert fixed(sample, 37, fixed.condition(**given)).variance is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_channels": 48}, "model_channels: 48 is not a multiple of 32"),
        ({"num_head_channels": 24}, "model_channels: 32 is not a multiple of 24"),
        ({"text_heads": 5}, "text_width: 32 is not a multiple of 5"),
        ({"image_size": 9}, "image_size: 9 is not a multiple of 2"),
        ({"image_size": 12, "patch_size": 4}, "image_size: 12 is not a multiple of 8"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"aug_level": True}, "aug_level: only an upsampler has it"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(BASE, **changes)


def _wrong(config: UNetGLIDEConfig, change: str, value: Any, port: str, message: str) -> Any:
    return pytest.param(config, change, value, port, message, id=f"{change}-{message[:30]}")


@pytest.mark.parametrize(
    ("config", "change", "value", "port", "message"),
    [
        _wrong(BASE, "sample", noise(2, 3, 16, 16), "sample", r"\[2, 3, 16, 16\]; this model takes \[B, 3, 8, 8\]"),
        _wrong(BASE, "sample", noise(2, 6, 8, 8), "sample", "this model takes"),
        _wrong(BASE, "sample", noise(3, 8, 8), "sample", "this model takes"),
        _wrong(BASE, "sample", noise(3, 3, 8, 8), "condition", "has 2 rows, the sample 3"),
        _wrong(BASE, "sample", noise(2, 3, 8, 8).long(), "sample", "torch.int64"),
        _wrong(BASE, "sample", noise(2, 3, 8, 8).to("meta"), "sample", "is on meta, the model on cpu"),
        _wrong(BASE, "sample", [1.0], "sample", "not list"),
        _wrong(BASE, "timestep", -1, "timestep", "0 or more, not -1"),
        _wrong(BASE, "timestep", float("nan"), "timestep", "not nan"),
        _wrong(BASE, "timestep", float("inf"), "timestep", "not inf"),
        _wrong(BASE, "timestep", "37", "timestep", "not str"),
        _wrong(BASE, "timestep", True, "timestep", "not bool"),
        _wrong(BASE, "timestep", torch.tensor([1, 2, 3]), "timestep", r"shape \[3\]; expected a number"),
        _wrong(BASE, "timestep", torch.tensor([1]), "timestep", r"shape \[1\]; expected a number"),
        _wrong(BASE, "timestep", torch.tensor([1, -2]), "timestep", "0 or more"),
        _wrong(BASE, "condition", None, "condition", "is a NoneType"),
        _wrong(BASE, "condition", noise(2, 3), "condition", "is a Tensor"),
        _wrong(BASE, "tokens", tokens_of([1], [2], length=9), "tokens", r"takes \[N, 8\]"),
        _wrong(BASE, "tokens", tokens_of([1], [50]), "tokens", "this network knows 0 to 49"),
        _wrong(BASE, "tokens", Tokens(TOKENS.ids.int(), TOKENS.mask), "tokens", "torch.int32"),
        _wrong(BASE, "tokens", Tokens(TOKENS.ids, TOKENS.mask.float()), "tokens", "torch.float32"),
        _wrong(BASE, "low_res", noise(2, 3, 8, 8), "low_res", "takes none"),
        _wrong(BASE, "aug_level", 3, "aug_level", "takes none"),
        _wrong(BASE, "image", noise(2, 3, 8, 8), "image", "takes none"),
        _wrong(UPSAMPLER, "low_res", None, "low_res", "needs it"),
        _wrong(UPSAMPLER, "low_res", noise(2, 3, 16, 16), "low_res", r"takes \[2, 3, 8, 8\]"),
        _wrong(UPSAMPLER, "low_res", noise(1, 3, 8, 8), "low_res", "has 1 rows, the tokens 2\n  Expand the tokens"),
        _wrong(UPSAMPLER, "low_res", noise(3, 8, 8), "low_res", r"takes \[2, 3, 8, 8\]"),
        _wrong(SMALL_UPSAMPLER, "aug_level", None, "aug_level", "needs it"),
        _wrong(SMALL_UPSAMPLER, "aug_level", -3, "aug_level", "0 or more"),
        _wrong(INPAINT, "mask", None, "mask", "needs it"),
        _wrong(INPAINT, "image", None, "image", "needs it"),
        _wrong(INPAINT, "mask", torch.ones(2, 3, 8, 8), "mask", r"takes \[2, 1, 8, 8\]"),
        _wrong(INPAINT, "mask", torch.ones(2, 1, 8, 8) * 255, "mask", r"outside \[0, 1\]"),
        _wrong(INPAINT, "mask", torch.ones(2, 1, 8, 8).bool(), "mask", "torch.bool"),
    ],
)
@torch.no_grad()
def test_wrong_inputs_are_refused(config: UNetGLIDEConfig, change: str, value: Any, port: str, message: str) -> None:
    model = UNetGLIDE(config).eval()
    given = inputs_of(config, 2) | {"sample": noise(2, *model.sample_shape), "timestep": 37} | {change: value}
    call = {name: given.pop(name) for name in ("sample", "timestep", "condition") if name in given}
    with pytest.raises(PortError, match=message) as error:
        model(**{"condition": model.condition(**given), **call})
    assert error.value.port == port


@torch.no_grad()
def test_another_networks_condition_is_refused() -> None:
    conditions = {config: UNetGLIDE(config).eval().condition(**inputs_of(config, 2)) for config in (BASE, UPSAMPLER)}
    conditions[SMALL] = UNetGLIDE(SMALL).condition(**inputs_of(SMALL, 2))
    for config in conditions:
        model = UNetGLIDE(config).eval()
        for other, condition in conditions.items():
            assert isinstance(condition, GLIDECondition)
            if other != config:
                with pytest.raises(PortError, match="another network"):
                    model(noise(2, *model.sample_shape), 1, condition)


@torch.no_grad()
def test_pretrained_and_back(tmp_path: Path) -> None:
    """What save_pretrained writes, from_pretrained reads: the same config, the same numbers."""
    model = random(SMALL_UPSAMPLER)
    model.save_pretrained(tmp_path)
    back = UNetGLIDE.from_pretrained(tmp_path)
    assert back.config == SMALL_UPSAMPLER
    assert not back.training
    sample, given = noise(2, *model.sample_shape), inputs_of(SMALL_UPSAMPLER, 2)
    expected = model(sample, 37, model.condition(**given)).value
    torch.testing.assert_close(back(sample, 37, back.condition(**given)).value, expected, rtol=1e-6, atol=1e-6)
