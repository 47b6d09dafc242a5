"""AutoencoderKL and VQModel against the reference numbers of latent diffusion's first stages (tests/fill.py), their
published sizes and names, and what they refuse.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, InputError, PortError, WeightsError
from diffgraph.nodes.draw import normal, seeded
from diffgraph.nodes.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from diffgraph.nodes.models.vq_model import VQModel, VQModelConfig

from ..fill import fill, noise, randomise, wave

TWO_LEVELS: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
KL = AutoencoderKLConfig(**TWO_LEVELS)
VQ = VQModelConfig(**TWO_LEVELS, num_vq_embeddings=16)
ATTEND: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
}
ALL: list[Any] = [
    KL,
    replace(KL, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False, shift_factor=0.1),
    replace(KL, **ATTEND, norm_num_groups=8, layers_per_block=2),
    VQ,
    replace(VQ, **ATTEND, scaling_factor=0.5, norm_num_groups=8),
]


def published(widths: tuple[int, ...], attends: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    """A published config: widths of levels, and which of them attend."""
    kinds = ["Attn" if level in attends else "" for level in range(len(widths))]
    return {
        "block_out_channels": widths,
        "down_block_types": tuple(f"{kind}DownEncoderBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)),
        "layers_per_block": 2,
        **more,
    }


# name: config, parameters, tensors where the sheet has their number
F8, F16 = (128, 256, 512, 512), (128, 128, 256, 256, 512)
KL_SIZES: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "kl-f4": (published((128, 256, 512), latent_channels=3), 55_312_063, None),
    "kl-f8, Stable Diffusion": (published(F8), 83_653_863, 248),
    "kl-f16": (published(F16, (4,), latent_channels=16), 69_610_963, None),
    "kl-f32": (published((128, 128, 256, 256, 512, 512), (4, 5), latent_channels=64), 103_880_131, None),
}
VQ_SIZES: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "vq-f4, celebahq": (published((128, 256, 512), num_vq_embeddings=8192), 55_322_782, 205),
    "vq-f4-noattn": (
        published((128, 256, 512), num_vq_embeddings=8192, mid_block_add_attention=False), 53_219_486, None,
    ),
    "vq-f8": (published((128, 256, 256, 512), (3,), latent_channels=4, num_vq_embeddings=16384), 67_717_295, None),
    "vq-f8-n256": (published((128, 256, 256, 512), (3,), latent_channels=4, num_vq_embeddings=256), 67_652_783, None),
    "vq-f16": (published(F16, (4,), latent_channels=8, num_vq_embeddings=16384), 69_593_371, None),
}  # fmt: skip


def make(config: Any) -> Any:
    return (VQModel if isinstance(config, VQModelConfig) else AutoencoderKL)(config).eval()


def random(config: Any) -> Any:
    model = make(config)
    randomise(model)
    return model


def original_name(name: str, levels: int) -> str:
    """What taming and latent-diffusion call a tensor of the published layout; they count levels from the largest."""
    up = re.search(r"\.up_blocks\.(\d+)\.", name)
    if up:
        name = name.replace(up[0], f".up.{levels - 1 - int(up[1])}.", 1)
    for pattern, replacement in (
        (r"conv_norm_out", "norm_out"),
        (r"\.down_blocks\.", ".down."),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"\.resnets\.", ".block."),
        (r"\.attentions\.", ".attn."),
        (r"\.(down|up)samplers\.0", r".\1sample"),
        (r"\.conv_shortcut", ".nin_shortcut"),
        (r"\.group_norm", ".norm"),
        (r"\.to_([qkv])\.", r".\1."),
        (r"\.to_out\.0", ".proj_out"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def numbers(out: Tensor) -> list[float]:
    flat = out.flatten()
    places = [0, 1, 2, flat.numel() // 2, flat.numel() - 1]
    return [*flat[places].tolist(), flat.mean().item(), flat.std().item()]


def reference(config: Any, parameters: int, tensors: int) -> Any:
    """The network of a fixture: values by the original's names."""
    model = make(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors
    fill(model, {name: original_name(name, 2) for name in model.state_dict()})
    return model


@torch.no_grad()
def test_reference_numbers_kl() -> None:
    model: AutoencoderKL = reference(replace(KL, scaling_factor=1.0), 658_375, 124)
    mean, logvar = model.posterior(wave(1, 3, 16, 16))
    moments = torch.cat([mean, logvar], dim=1)
    assert moments.shape == (1, 8, 8, 8)
    expected = [-0.39678, -0.18611, -0.20431, 0.05633, -0.01493, 0.038253, 0.390646]
    assert numbers(moments) == pytest.approx(expected, abs=1e-4)
    image = model.decode(wave(1, 4, 8, 8))
    assert image.shape == (1, 3, 16, 16)
    expected = [-0.05681, 0.04777, -0.17575, -0.20135, -0.828, -0.1039, 0.437029]
    assert numbers(image) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_reference_numbers_vq() -> None:
    model: VQModel = reference(VQ, 654_894, 125)
    latents = wave(1, 3, 8, 8)
    expected = [0.0492, 0.24619, 0.31686, -0.61339, -0.18635, -0.112442, 0.510788]
    assert numbers(model.decode(latents)) == pytest.approx(expected, abs=1e-4)
    assert model.nearest(latents).codes.flatten()[:16].tolist() == [4] * 16


@pytest.mark.parametrize("name", [*KL_SIZES, *VQ_SIZES])
def test_published_sizes(name: str) -> None:
    cls: Any = AutoencoderKL if name in KL_SIZES else VQModel
    config, parameters, tensors = {**KL_SIZES, **VQ_SIZES}[name]
    with torch.device("meta"):
        model = cls(cls.Config(**config))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert tensors in (None, len(model.state_dict()))
    assert not list(model.buffers())


def test_published_keys() -> None:
    """Names and shapes of Stable Diffusion's `vae/` and celebahq's `vqvae/`, one of each pattern."""
    with torch.device("meta"):
        kl = AutoencoderKL(AutoencoderKLConfig(**KL_SIZES["kl-f8, Stable Diffusion"][0])).state_dict()
        vq = VQModel(VQModelConfig(**VQ_SIZES["vq-f4, celebahq"][0])).state_dict()
    shapes = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down_blocks.0.resnets.1.norm1.weight": (128,),
        "encoder.down_blocks.0.downsamplers.0.conv.weight": (128, 128, 3, 3),
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
        "encoder.mid_block.attentions.0.group_norm.weight": (512,),
        "encoder.mid_block.attentions.0.to_q.weight": (512, 512),
        "encoder.mid_block.resnets.1.conv2.bias": (512,),
        "encoder.conv_norm_out.weight": (512,),
        "encoder.conv_out.weight": (8, 512, 3, 3),
        "quant_conv.weight": (8, 8, 1, 1),
        "post_quant_conv.weight": (4, 4, 1, 1),
        "decoder.conv_in.weight": (512, 4, 3, 3),
        "decoder.mid_block.attentions.0.to_out.0.bias": (512,),
        "decoder.up_blocks.0.resnets.2.conv1.weight": (512, 512, 3, 3),
        "decoder.up_blocks.2.upsamplers.0.conv.weight": (256, 256, 3, 3),
        "decoder.up_blocks.3.resnets.0.conv_shortcut.weight": (128, 256, 1, 1),
        "decoder.conv_out.weight": (3, 128, 3, 3),
    }
    assert {key: tuple(kl[key].shape) for key in shapes} == shapes
    assert vq["quantize.embedding.weight"].shape == (8192, 3)
    assert vq["quant_conv.weight"].shape == (3, 3, 1, 1)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize("config", [replace(KL, **ATTEND), VQ])
@torch.no_grad()
def test_names_of_the_originals(config: Any, prefix: str, tmp_path: Path) -> None:
    """A folder that holds the names of latent-diffusion and taming: 1x1 convolutions as attention, the discriminator."""
    model = random(config)
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = {f"{prefix}loss.discriminator.main.0.weight": torch.ones(3), f"{prefix}loss.logvar": torch.zeros(())}
    for name, tensor in load_file(file).items():
        attends = re.search(r"attentions.*weight$", name) and tensor.ndim == 2
        state[prefix + original_name(name, 2)] = tensor[:, :, None, None].contiguous() if attends else tensor
    assert f"{prefix}decoder.up.1.block.1.norm1.weight" in state
    assert state[f"{prefix}encoder.mid.attn_1.q.weight"].shape == (64, 64, 1, 1)
    save_file(state, file)
    again = type(model).from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("config", ALL)
def test_every_parameter_matters(config: Any) -> None:
    """Each but the bias of keys, which softmax takes out. Groups have many channels, or norms take out biases too."""
    model = random(replace(config, norm_num_groups=8)).double()
    image = noise(2, 3, 16, 16).double()
    if isinstance(model, VQModel):
        rounded = model.nearest(model.encode(image))
        total = model.decode(rounded.sample).square().mean() + rounded.loss.mean()
    else:
        encoded = model.encode_sample(image, seeded([0, 1]))
        total = model.decode(encoded.sample).square().mean() + 1e-2 * encoded.kl.mean()
    total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert all(name.endswith(".to_k.bias") for name in idle)


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_two_rows_equal_two_singles(config: Any) -> None:
    model, image, latents = random(config), noise(2, 3, 16, 24), noise(2, config.latent_channels, 8, 12)
    for method, value in ((model.encode, image), (model.decode, latents)):
        together = method(value)
        for row in range(2):
            alone = method(value[row : row + 1])
            torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-5 * together.abs().max().item())


@torch.no_grad()
def test_scale_and_shift() -> None:
    """Latents come and go as the denoiser sees them: (z - shift) * scale."""
    plain, other = random(replace(KL, scaling_factor=1.0)), make(replace(KL, scaling_factor=0.3, shift_factor=0.2))
    other.load_state_dict(plain.state_dict())
    image = noise(1, 3, 16, 16)
    z = plain.encode(image)
    torch.testing.assert_close(other.encode(image), (z - 0.2) * 0.3)
    torch.testing.assert_close(other.decode((z - 0.2) * 0.3), plain.decode(z), rtol=0, atol=2e-5)
    assert make(replace(KL, shift_factor=None)).decode(z).shape == image.shape


@torch.no_grad()
def test_a_draw_from_the_posterior() -> None:
    """mean + std * noise of each image's own stream, the same whether alone or in a batch."""
    model, image = random(KL), noise(2, 3, 16, 16)
    mean, logvar = model.posterior(image)
    drawn, rng = normal(seeded([7, 8]), (4, 8, 8))
    encoded = model.encode_sample(image, seeded([7, 8]))
    torch.testing.assert_close(encoded.sample, (mean + (0.5 * logvar).exp() * drawn) * KL.scaling_factor)
    assert torch.equal(encoded.rng.states, rng.states)
    alone = model.encode_sample(image[1:], seeded([8])).sample
    torch.testing.assert_close(alone, encoded.sample[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode(image), mean * KL.scaling_factor)
    ours = torch.distributions.Normal(mean, (logvar / 2).exp())
    unit = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    expected = torch.distributions.kl_divergence(ours, unit).sum(dim=(1, 2, 3))
    torch.testing.assert_close(encoded.kl, expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_one_image_is_drawn_for_each_stream() -> None:
    model, image = random(KL), noise(1, 3, 16, 16)
    together = model.encode_sample(image, seeded([7, 8]))
    assert together.kl.shape == (2,)
    for row, seed in enumerate([7, 8]):
        alone = model.encode_sample(image, seeded([seed])).sample
        torch.testing.assert_close(together.sample[row : row + 1], alone, rtol=0, atol=0)


@torch.no_grad()
def test_the_variance_is_clamped() -> None:
    model = random(KL)
    model.quant_conv.bias[4:6] = 1e4
    model.quant_conv.bias[6:] = -1e4
    logvar = model.posterior(noise(1, 3, 16, 16)).logvar
    assert (logvar[:, :2] == 20).all()
    assert (logvar[:, 2:] == -30).all()


def test_the_codebook() -> None:
    """Nearest by brute force, gradients straight through, and the loss that trains both sides."""
    model = random(replace(VQ, scaling_factor=0.5))
    latents = noise(2, 3, 4, 6).requires_grad_()
    z, book = latents / 0.5, model.quantize.embedding.weight
    rounded = model.nearest(latents)
    distances = (z[:, None] - book[None, :, :, None, None]).square().sum(2)  # B entries H W
    assert torch.equal(rounded.codes, distances.argmin(1))
    entries = book[rounded.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(rounded.sample, entries * 0.5)
    torch.testing.assert_close(model.lookup(rounded.codes), entries * 0.5)
    distance = (z - entries).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(rounded.loss, 1.25 * distance)
    weights = noise(2, 3, 4, 6, seed=3)
    (gradient,) = torch.autograd.grad((rounded.sample * weights).sum(), latents)
    torch.testing.assert_close(gradient, weights)
    for legacy, factor in ((False, 0.25), (True, 1.0)):
        loss = model.nearest(latents, legacy=legacy).loss.sum()
        side, other = torch.autograd.grad(loss, [latents, book])
        torch.testing.assert_close(side, factor * 4 * (z - entries) / 72)  # 2 (z - e) / numel, z = 2 latents
        entries = book[rounded.codes].permute(0, 3, 1, 2)
        (expected,) = torch.autograd.grad((z.detach() - entries).square().sum() / 72, book)
        torch.testing.assert_close(other, (1 - 0.75 * legacy) * expected)


@torch.no_grad()
def test_the_codebook_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared at a time changes nothing; decoding what was rounded is decoding."""
    model, latents = random(VQ), noise(2, 3, 8, 8)
    whole = model.nearest(latents).codes
    monkeypatch.setattr("diffgraph.nodes.models.vq_model.ROWS", 7)
    assert torch.equal(model.nearest(latents).codes, whole)
    image = model.decode(latents)
    torch.testing.assert_close(model.decode(model.lookup(whole)), image, rtol=0, atol=1e-5 * image.abs().max().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
@pytest.mark.parametrize("upcast", [False, True])
@pytest.mark.parametrize("config", [KL, VQ])
@torch.no_grad()
def test_half_precision_is_close(config: Any, upcast: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Some ten roundings, against the largest value; results have the dtype of what went in."""
    config = replace(config, force_upcast=upcast)
    model, image = random(config), noise(1, 3, 16, 16)
    latents = model.encode(image)
    if isinstance(model, VQModel):
        latents = model.nearest(latents).sample  # far from where rounding to another entry is near
    exact = {"encode": model.encode(image), "decode": model.decode(latents)}
    model.to(dtype)
    for name, value in (("encode", image), ("decode", latents)):
        method: Callable[[Tensor], Tensor] = getattr(model, name)
        wide, narrow = method(value), method(value.to(dtype))
        assert wide.dtype == torch.float32
        assert narrow.dtype == dtype
        for found in (wide, narrow.float()):
            assert float((found - exact[name]).abs().max() / exact[name].abs().max()) < tolerance


@torch.no_grad()
def test_force_upcast_keeps_fp16_from_overflowing() -> None:
    """Activations beyond 65504 are finite where the config says that they occur, as in SDXL's autoencoder."""
    model, latents = random(KL), noise(1, 4, 8, 8)
    model.decoder.conv_in.weight *= 3e4
    exact = model.decode(latents)
    model.half()
    found = model.decode(latents)
    assert float((found - exact).abs().max() / exact.abs().max()) < 0.01
    model.config = replace(KL, force_upcast=False)
    assert not model.decode(latents).isfinite().all()


def test_half_precision_has_gradients() -> None:
    model = random(KL).half()
    model.decode(noise(1, 4, 8, 8)).square().mean().backward()
    gradient = model.decoder.conv_in.weight.grad
    assert gradient.dtype == torch.float16
    assert gradient.isfinite().all()
    assert gradient.any()


@torch.no_grad()
def test_inputs_are_left_alone() -> None:
    for model in (random(KL), random(VQ)):
        image, latents = noise(1, 3, 16, 16), noise(1, model.config.latent_channels, 8, 8)
        kept = image.clone(), latents.clone()
        model.encode(image), model.decode(latents)
        assert torch.equal(image, kept[0])
        assert torch.equal(latents, kept[1])


@pytest.mark.parametrize("config", [KL, VQ])
def test_a_fresh_one_learns(config: Any) -> None:
    torch.manual_seed(0)
    model, image = make(config), wave(2, 3, 16, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for number in range(15):
        if isinstance(model, VQModel):
            rounded = model.nearest(model.encode(image))
            latents, beside = rounded.sample, rounded.loss
        else:
            encoded = model.encode_sample(image, seeded([number, number + 1]))
            latents, beside = encoded.sample, 1e-6 * encoded.kl
        loss = (model.decode(latents) - image).abs().mean() + beside.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_config_without_a_scale(tmp_path: Path) -> None:
    """What a published config leaves out: the autoencoder with a codebook was trained with a scale of one."""
    for model, scale in ((random(VQ), 1.0), (random(KL), 0.18215)):
        model.save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        del config["scaling_factor"]
        file.write_text(json.dumps(config | {"sample_size": 256}))
        again = type(model).from_pretrained(tmp_path)
        assert again.config.scaling_factor == scale
        again.save_pretrained(tmp_path)
        assert json.loads(file.read_text())["sample_size"] == 256


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (KL, {"block_out_channels": (32,)}, "1, 2 and 2 levels"),
        (KL, {"block_out_channels": (), "down_block_types": (), "up_block_types": ()}, "at least one level"),
        (KL, {"block_out_channels": (32, 48)}, "block_out_channels: 48 is not a multiple of norm_num_groups, 32"),
        (VQ, {"vq_embed_dim": 4}, "vq_embed_dim: 4, but latents have 3 channels"),
    ],
)
def test_configs_that_are_refused(base: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(base, **changes)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (VQ, {"norm_type": "spatial"}, 'norm_type: "spatial" is not permitted'),
        (KL, {"latents_mean": [0.0] * 4}, "latents_mean"),
        (KL, {"down_block_types": ["CrossAttnDownBlock2D"] * 2}, "down_block_types"),
        (KL, {"act_fn": "relu"}, "act_fn"),
        (KL, {"scaling_factor": 0}, "scaling_factor"),
        (KL, {"num_vq_embeddings": 3}, "unknown key"),
        (VQ, {"_class_name": "AutoencoderKL"}, "this is an AutoencoderKL; VQModel wants"),
    ],
)
def test_published_configs_that_are_refused(model: Any, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = random(model)
    made.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(WeightsError, match=message):
        type(made).from_pretrained(tmp_path)


def test_weights_of_another_model(tmp_path: Path) -> None:
    random(KL).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="missing: .*quantize"):
        VQModel.from_pretrained(_as(tmp_path, "VQModel", num_vq_embeddings=16))


def _as(folder: Path, name: str, **more: Any) -> Path:
    file = folder / "config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k in VQModelConfig.__dataclass_fields__}
    file.write_text(json.dumps(config | {"_class_name": name} | more))
    return folder


@pytest.mark.parametrize(
    ("config", "method", "given", "port", "message"),
    [
        (KL, "encode", (noise(1, 4, 16, 16),), "image", "this model takes"),
        (KL, "encode", (noise(3, 16, 16),), "image", "this model takes"),
        (KL, "encode", (noise(1, 3, 16, 17),), "image", "is 16 by 17; height and width must be multiples of 2"),
        (KL, "encode", (noise(1, 3, 0, 16),), "image", "in which nothing is"),
        (KL, "encode", (noise(1, 3, 16, 16).long(),), "image", "torch.int64"),
        (KL, "encode", (noise(1, 3, 16, 16).to("meta"),), "image", "is on meta, the model on cpu"),
        (KL, "encode", (None,), "image", "not NoneType"),
        (KL, "encode_sample", (noise(2, 3, 16, 16), seeded([0])), "rng", "1 streams for 2 images"),
        (KL, "decode", (noise(1, 3, 8, 8),), "latents", "this model takes"),
        (KL, "decode", (noise(1, 4, 8, 8).long(),), "latents", "torch.int64"),
        (VQ, "encode", (noise(1, 3, 15, 16),), "image", "multiples of 2"),
        (VQ, "decode", (noise(1, 4, 8, 8),), "latents", "this model takes"),
        (VQ, "nearest", (noise(1, 4, 8, 8),), "latents", "this model takes"),
        (VQ, "lookup", (torch.zeros(1, 8, dtype=torch.int64),), "codes", r"expected int64 \[B, H, W\]"),
        (VQ, "lookup", (noise(1, 8, 8),), "codes", "torch.float32"),
        (VQ, "lookup", (torch.full((1, 8, 8), 16),), "codes", "run from 16 to 16; there are 0 to 15"),
    ],
)
def test_wrong_inputs_are_refused(config: Any, method: str, given: tuple[Any, ...], port: str, message: str) -> None:
    with pytest.raises(PortError, match=message) as error:
        getattr(make(config), method)(*given)
    assert error.value.port == port


LEVELS = "block_out_channels: [8, 8], norm_num_groups: 4, down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D], up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D]"  # fmt: skip
DOCUMENT = f"""
diffgraph: 1
nodes:
  photo:   {{node: pixels.Photo, height: 16, width: 32}}
  vae:     {{node: AutoencoderKL, {LEVELS}}}
  latents: {{call: $vae.encode, image: $photo}}
  rng:     {{node: Rng, seed: 0}}
  drawn:   {{call: $vae.encode_sample, image: $photo, rng: $rng}}
  noise:   {{node: GaussianNoise, shape: [4, 8, $vae.factor], rng: $drawn.rng}}
  vq:      {{node: VQModel, {LEVELS}, latent_channels: 4}}
  codes:   {{call: $vq.encode, image: $photo}}
  rounded: {{call: $vq.nearest, latents: $codes}}
  again:   {{call: $vq.lookup, codes: $rounded.codes}}
  image:   {{call: $vae.decode, latents: $drawn.sample}}
  image2:  {{call: $vq.decode, latents: $again}}
outputs: {{latents: $latents, noise: $noise.sample, image: $image, image2: $image2}}
"""


def test_in_a_graph(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(DOCUMENT)
    result = Graph.load(tmp_path / "g.yaml")()
    assert result.latents.shape == (1, 4, 8, 16)
    assert result.noise.shape == (1, 4, 8, 2)
    assert result.image.shape == result.image2.shape == (1, 3, 16, 32)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width: 32", "width: 31", "latents.image: expected shape [B, 3, 2*H, 2*W], got [1, 3, 16, 31]"),
        ("latents: $drawn.sample", "latents: $codes", "expected space latent of 4 channels, scale 0.18215, got latent"),
        ("latents: $drawn.sample", "latents: $photo", "image.latents: expected shape"),
        ("codes: $rounded.codes", "codes: $codes", "expected Codes, got Sample"),
    ],
)
def test_what_the_check_refuses(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in DOCUMENT
    (tmp_path / "g.yaml").write_text(DOCUMENT.replace(old, new))
    with pytest.raises((CheckFailed, InputError)) as raised:
        Graph.load(tmp_path / "g.yaml").check()
    assert said in str(raised.value)


def test_the_factor_comes_from_the_weights(tmp_path: Path) -> None:
    """Sizes are checked where the config beside the weights is known, and not before."""
    random(KL).save_pretrained(tmp_path / "vae")
    text = """
    diffgraph: 1
    inputs: {weights: {type: weights}}
    nodes:
      photo:   {node: pixels.Photo, height: 16, width: 31}
      vae:     {node: AutoencoderKL, weights: $weights}
      latents: {call: $vae.encode, image: $photo}
    outputs: {latents: $latents}
    """
    (tmp_path / "g.yaml").write_text(textwrap.dedent(text))
    graph = Graph.load(tmp_path / "g.yaml")
    graph.check()
    with pytest.raises(CheckFailed, match=re.escape("expected shape [B, 3, 2*H, 2*W], got [1, 3, 16, 31]")):
        graph(weights=str(tmp_path / "vae"))


def test_large_pictures_keep_their_precision() -> None:
    """Norms over many pixels: fp32 stays as close to fp64 as the library does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoencoderKL(replace(KL, block_out_channels=(16, 32), norm_num_groups=2, layers_per_block=1))
        for parameter in model.parameters():
            bound = (0.75 * parameter.shape[0] / parameter.numel()) ** 0.5
            parameter.data.uniform_(-bound, bound) if parameter.ndim > 1 else parameter.data.uniform_(0.9, 1.1)
        latents = 3 * torch.randn(1, 4, 112, 112)
    with torch.no_grad():
        single = model.decode(latents)
        double = model.double().decode(latents.double())
    assert (single - double).abs().max() / double.abs().max() < 1.5e-6
